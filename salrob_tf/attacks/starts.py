"""Where attacks start: at random in the ball, by the seed, the image and the try alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from salrob_tf.attacks.balls import Batch
from salrob_tf.checks import as_array, shown

TRY_BITS = 20  # of 64 in a key; the others are the index of the image
MOST_TRIES = 2**TRY_BITS


def random_starts(batch: Batch, norm: float, seed: int) -> np.ndarray:
    """Draw uniformly in the unit ball, scale by the radius, and clip to [0, 1].

    Args:
        batch: What is attacked.
        norm: Norm of the balls, `np.inf` or 2.
        seed: Seed of the sweep.

    Returns:
        Starting images, float32 `(N, height, width, channels)`.
    """
    noise = np.empty_like(batch.images)
    shape = batch.images.shape[1:]
    for row, index, number in zip(noise, batch.indices, batch.tries, strict=True):
        generator = np.random.Generator(np.random.Philox(key=[seed, (int(index) << TRY_BITS) + int(number)]))
        if norm == np.inf:
            row[...] = generator.uniform(-1, 1, shape)
        else:
            direction = generator.standard_normal(shape)
            row[...] = generator.random() ** (1 / direction.size) * direction / np.linalg.norm(direction)
    return np.clip(batch.images + batch.radii[:, None, None, None] * noise, 0, 1)


def check_indices(indices: Any, samples: int) -> np.ndarray:
    """One index per image, int64 `(N,)`, 0 to N - 1 where none are given.

    Raises:
        ValueError: If they are of another number, or not whole numbers from 0 to 2^43 - 1.
    """
    if indices is None:
        return np.arange(samples)
    found = as_array(indices, "indices")
    valid = found.shape == (samples,) and found.dtype.kind in "iu"
    if not valid or found.min() < 0 or found.max() >= 2 ** (63 - TRY_BITS):
        raise ValueError(
            f"`indices` must be one whole number per image, {samples} in all, 0 or more. Received: "
            f"indices={shown(found)}{f', from {found.min()} to {found.max()}' if valid else ''}"
        )
    return found.astype(np.int64)
