"""What takes the place of pixels that a metric removes: choose another fill than training used, or it is circular."""

from __future__ import annotations

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse import linalg

from salrob_tf.checks import check_choice

FILLS = ("blur", "mean", "linear")
BLUR = 1 / 4  # standard deviation of the blur, as a share of the shorter side
JITTER = 0.01  # standard deviation of ROAD's noise, for images in [0, 1]
# ROAD's weights of direct and diagonal neighbours (Rong et al. 2022, section 4).
NEIGHBOURS = [(-1, 0, 1 / 6), (1, 0, 1 / 6), (0, -1, 1 / 6), (0, 1, 1 / 6)]
NEIGHBOURS += [(down, across, 1 / 12) for down in (-1, 1) for across in (-1, 1)]


def filled(images: np.ndarray, removed: np.ndarray, fill: str, seed: int = 0) -> np.ndarray:
    """Images in which some pixels are replaced, with all their channels.

    Args:
        images: `(N, height, width, channels)` in [0, 1].
        removed: Boolean `(N, height, width)`.
        fill: By the image `"blur"`red, by the image's `"mean"` of each channel, or by `"linear"` imputation with noise
            from the pixels that are left, which gives the shape of what was removed away least (ROAD, Rong et al.
            2022).
        seed: Of the noise.

    Returns:
        Float32 images in [0, 1] of that shape; pixels that are left are the same bit for bit.

    Raises:
        ValueError: If there is no such fill.
    """
    check_choice("fill", fill, FILLS)
    images = np.asarray(images, np.float32)
    where = removed[..., np.newaxis]
    if fill == "mean":
        return np.where(where, images.mean(axis=(1, 2), keepdims=True), images)
    if fill == "blur":
        size = BLUR * min(images.shape[1:3])
        return np.where(where, ndimage.gaussian_filter(images, (0, size, size, 0), mode="nearest"), images)
    noise = JITTER * np.random.default_rng(seed).standard_normal(images.shape, np.float32)
    guessed = np.stack([_imputed(image, holes) for image, holes in zip(images, removed, strict=True)])
    return np.where(where, np.clip(guessed + noise, 0, 1), images).astype(np.float32)


def _imputed(image: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """Each removed pixel as the weighted mean of its neighbours, all at once; weights are those of what is inside."""
    height, width = removed.shape
    if not removed.any():
        return image
    if removed.all():
        return np.broadcast_to(image.mean(axis=(0, 1)), image.shape)
    rows = np.cumsum(removed.ravel()).reshape(removed.shape) - 1  # the number of each removed pixel
    down, across = np.nonzero(removed)
    count = len(down)
    total, right = np.zeros(count), np.zeros((count, image.shape[-1]))
    entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for step, aside, weight in NEIGHBOURS:
        at, beside = down + step, across + aside
        inside = (at >= 0) & (at < height) & (beside >= 0) & (beside < width)
        own, at, beside = np.flatnonzero(inside), at[inside], beside[inside]
        total[own] += weight
        holes = removed[at, beside]
        entries.append((own[holes], rows[at[holes], beside[holes]], np.full(holes.sum(), -weight)))
        np.add.at(right, own[~holes], weight * image[at[~holes], beside[~holes]])
    one, other, values = (np.concatenate([entry[place] for entry in entries]) for place in range(3))
    diagonal = np.arange(count)
    system = sparse.csc_matrix(
        (np.concatenate([values, total]), (np.concatenate([one, diagonal]), np.concatenate([other, diagonal]))),
        shape=(count, count),
    )
    found = image.copy()
    found[removed] = linalg.spsolve(system, right).reshape(count, -1)
    return found
