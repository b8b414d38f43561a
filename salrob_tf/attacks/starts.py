"""Where attacks start: at random in the ball, by the seed, the image and the try alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from salrob_tf.attacks.balls import Batch
from salrob_tf.checks import as_array, shown

TRY_BITS = 20  # of 64 in a key; the others are the index of the image
MOST_TRIES = 2**TRY_BITS


def random_starts(batch: Batch, norm: float, seed: int, *, on_edge: bool = False) -> np.ndarray:
    """Draw uniformly in the unit ball, scale by the radius, and clip to [0, 1].

    Args:
        batch: What is attacked.
        norm: Norm of the balls, `np.inf` or 2.
        seed: Seed of the sweep.
        on_edge: Whether what is drawn is lengthened to norm 1.

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
        if on_edge:
            row /= max(float(np.linalg.norm(row.reshape(-1), ord=norm)), 1e-12)
    return np.clip(batch.images + batch.radii[:, None, None, None] * noise, 0, 1)


def keys(batch: Batch, seed: int) -> np.ndarray:
    """A key for each image, by the seed, its index and its try alone, uint64 `(N,)`."""
    tries = (batch.indices.astype(np.uint64) << np.uint64(TRY_BITS)) + batch.tries.astype(np.uint64)
    return hashed(hashed(np.full(1, seed, np.uint64)) ^ hashed(tries))


def uniform(key: np.ndarray, number: np.ndarray, count: int) -> np.ndarray:
    """Numbers in [0, 1) by a key and a whole number per image alone, `(N, count)`.

    A generator for each image and step would take longer than the step.
    """
    mixed = hashed(key + number.astype(np.uint64))[:, None] + np.arange(count, dtype=np.uint64)
    return (hashed(mixed) >> np.uint64(11)) * 2.0**-53


def hashed(numbers: np.ndarray) -> np.ndarray:
    """Mix the bits of uint64 numbers: the output function of SplitMix64 (Steele et al. 2014)."""
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def check_indices(indices: Any, samples: int) -> np.ndarray:
    """One index per image, int64 `(N,)`, 0 to N - 1 where none are given.

    Raises:
        ValueError: If they are of another number, or not whole numbers from 0 to 2^43 - 1.
    """
    if indices is None:
        return np.arange(samples)
    found = as_array(indices, "indices")
    valid = found.shape == (samples,) and found.dtype.kind in "iu"
    if not valid or (found.size and (found.min() < 0 or found.max() >= 2 ** (63 - TRY_BITS))):
        raise ValueError(
            f"`indices` must be one whole number per image, {samples} in all, from 0 to 2^{63 - TRY_BITS} - 1. "
            f"Received: indices={shown(found)}{f', from {found.min()} to {found.max()}' if valid else ''}"
        )
    return found.astype(np.int64)
