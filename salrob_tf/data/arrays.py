"""Arrays of images and labels: looked at, chosen from, and told apart."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from salrob_tf.checks import as_array, check_whole, is_whole, shown
from salrob_tf.data.folders import ImageFiles, Images


def check_images(images: Any, name: str = "images") -> np.ndarray:
    """Return `images` as a float32 array `(N, height, width, channels)`, or say what is wrong with them.

    Args:
        images: Floats in [0, 1], `(N, height, width)` or `(N, height, width, channels)`.
        name: How an error calls them.

    Raises:
        ValueError: If the shape or the type is wrong, there are no images, or a value is NaN or outside [0, 1].
    """
    images = as_array(images, name)
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(
            f"`{name}` must hold at least one image, as (N, height, width[, channels]). Received: shape={images.shape}"
        )
    if images.dtype.kind != "f":
        raise ValueError(
            f"`{name}` must be floats in [0, 1]; divide 8-bit images by 255, and turn other numbers and booleans into "
            f"floats. Received: dtype={images.dtype}"
        )
    low, high = float(images.min()), float(images.max())
    if np.isnan(low):
        share = np.isnan(images).any(axis=(1, 2, 3)).mean()
        raise ValueError(f"`{name}` must be numbers. Received: NaN in {share:.1%} of the images")
    if low < 0 or high > 1:
        off = low if low < 0 else high
        near = low > -1e-3 and high < 1.001
        remedy = "clip what rounding carried out of it" if near else "divide 8-bit images by 255"
        received = f"a value of {off!r}" if near else f"values in [{low:g}, {high:g}]"
        raise ValueError(f"`{name}` must lie in [0, 1]; {remedy}. Received: {received}")
    return images.astype(np.float32, copy=False)


def check_labels(labels: Any, samples: int, num_classes: int | None = None, name: str = "labels") -> np.ndarray:
    """Return `labels` as an int32 array `(samples,)`, or say what is wrong with them.

    Args:
        labels: Integers in `range(num_classes)`, `(N,)` or `(N, 1)`.
        samples: How many there must be.
        num_classes: Number of classes; `None` allows any label from 0 up.
        name: How an error calls them.

    Raises:
        ValueError: If the labels are one-hot, not integers, out of range, or of another number.
    """
    labels = as_array(labels, name)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2:
        raise ValueError(
            f"`{name}` must be integer classes, not one-hot: pass labels.argmax(-1). Received: shape={labels.shape}"
        )
    if labels.ndim != 1 or len(labels) != samples:
        raise ValueError(f"`{name}` must be one label per image, {samples} in all. Received: shape={labels.shape}")
    if labels.dtype.kind not in "iu":
        raise ValueError(f"`{name}` must be integers. Received: dtype={labels.dtype}")
    low, high = int(labels.min()), int(labels.max())
    highest = np.iinfo(np.int32).max if num_classes is None else num_classes - 1
    if low < 0 or high > highest:
        raise ValueError(f"`{name}` must be 0 to {highest}. Received: labels from {low} to {high}")
    return labels.astype(np.int32, copy=False)


def choose_indices(available: int, samples: int, seed: int, what: str = "samples") -> np.ndarray:
    """Choose `samples` of `available` rows without replacement, in ascending order.

    Args:
        available: How many rows there are.
        samples: How many to choose, from 1 to `available`.
        seed: Seed of the choice.
        what: How an error calls them.

    Raises:
        ValueError: If `samples` or `seed` is out of range.
    """
    check_whole("seed", seed)
    if not is_whole(samples) or not 1 <= samples <= available:
        raise ValueError(f"The number of {what} must be 1 to {available}. Received: {shown(samples)}")
    return np.sort(np.random.default_rng(seed).permutation(available)[:samples])


def fingerprint(*arrays: Images) -> str:
    """SHA-256 over the shapes, types and values of arrays, as a hexadecimal digest."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape}{array.dtype}".encode())
        in_files = isinstance(array, ImageFiles)
        parts = (array[start : start + 256] for start in range(0, len(array), 256)) if in_files else (array,)
        for part in parts:
            digest.update(
                np.ascontiguousarray(part).reshape(-1).view(np.uint8).data
            )  # bfloat16 is no buffer of its own
    return digest.hexdigest()
