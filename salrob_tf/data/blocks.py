"""Images of which it is known where the object is: each beside a block that says nothing."""

from __future__ import annotations

import numpy as np

from salrob_tf.checks import check_whole
from salrob_tf.data.arrays import check_images


def beside_null_blocks(images: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Put each image above or below a null block, as chance has it (after BlockMNIST, Shah et al. 2021, section 5).

    Example:
        >>> from salrob_tf.data.blocks import beside_null_blocks
        >>> tall, objects = beside_null_blocks(images, seed=0)
        >>> tall.shape, objects.dtype, float(objects.mean())
        ((64, 16, 8, 1), dtype('bool'), 0.5)

    Args:
        images: `(N, height, width, channels)` in [0, 1].
        seed: Of the places.

    Returns:
        Images `(N, 2 height, width, channels)`, float32, and where the object's half is, boolean
        `(N, 2 height, width)`. The null block is a cross on black, the same in all images.

    Raises:
        ValueError: If an argument is not valid.
    """
    images = check_images(images)
    count, height, width, channels = images.shape
    above = np.asarray(np.random.default_rng(check_whole("seed", seed)).random(count) < 0.5)
    rows, columns = np.arange(height)[:, np.newaxis], np.arange(width)
    thick = max(1, min(height, width) // 14)
    cross = (np.abs(rows - height // 2) < thick) | (np.abs(columns - width // 2) < thick)
    null = np.broadcast_to(cross[..., np.newaxis], (count, height, width, channels)).astype(np.float32)
    first = above[:, np.newaxis, np.newaxis, np.newaxis]
    tall = np.concatenate([np.where(first, images, null), np.where(first, null, images)], axis=1)
    top = np.asarray(np.arange(2 * height) < height)
    objects = np.broadcast_to((top == above[:, np.newaxis])[..., np.newaxis], (count, 2 * height, width))
    return tall.astype(np.float32), objects.copy()
