"""Where attacks start: at random in the ball, by the seed, the image and the restart alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from salrob_tf.checks import as_array, shown

RESTART_BITS = 20  # of 64 in a key; the others are the index of the image
MOST_RESTARTS = 2**RESTART_BITS


def random_starts(
    images: np.ndarray, radii: np.ndarray, indices: np.ndarray, norm: float, seed: int, restarts: np.ndarray
) -> np.ndarray:
    """Draw uniformly in the unit ball, scale by the radius, and clip to [0, 1].

    Args:
        images: `(N, height, width, channels)`.
        radii: Radius of each ball, float32 `(N,)`.
        indices: Index of each image in its dataset, `(N,)`.
        norm: Norm of the balls, `np.inf` or 2.
        seed: Seed of the sweep.
        restarts: Which restart each is, counted from 0, `(N,)`.

    Returns:
        Starting images, float32.
    """
    noise = np.empty_like(images)
    shape = images.shape[1:]
    for row, index, number in zip(noise, indices, restarts, strict=True):
        generator = np.random.Generator(np.random.Philox(key=[seed, (int(index) << RESTART_BITS) + int(number)]))
        if norm == np.inf:
            row[...] = generator.uniform(-1, 1, shape)
        else:
            direction = generator.standard_normal(shape)
            row[...] = generator.random() ** (1 / direction.size) * direction / np.linalg.norm(direction)
    return np.clip(images + radii[:, None, None, None] * noise, 0, 1)


def check_indices(indices: Any, samples: int) -> np.ndarray:
    """One index per image, int64 `(N,)`, 0 to N - 1 where none are given.

    Raises:
        ValueError: If they are of another number, or not whole numbers from 0 to 2^43 - 1.
    """
    if indices is None:
        return np.arange(samples)
    found = as_array(indices, "indices")
    valid = found.shape == (samples,) and found.dtype.kind in "iu"
    if not valid or found.min() < 0 or found.max() >= 2 ** (63 - RESTART_BITS):
        raise ValueError(
            f"`indices` must be one whole number per image, {samples} in all, 0 or more. Received: "
            f"indices={shown(found)}{f', from {found.min()} to {found.max()}' if valid else ''}"
        )
    return found.astype(np.int64)
