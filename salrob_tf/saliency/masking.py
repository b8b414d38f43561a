"""A copy of the images without the pixels that matter little (Karkehabadi 2023, Algorithm 1, line 4)."""

from __future__ import annotations

import math

import keras
import tensorflow as tf

from salrob_tf.saliency.recipes import Recipe, Seed


def mask_size(recipe: Recipe, mask_fraction: float, image_shape: tuple[int, ...], some: bool = False) -> int:
    """How many units of one image are masked.

    Args:
        recipe: The recipe.
        mask_fraction: Share of the units, in [0, 1). `recipe.mask_count`, where given, takes its place.
        image_shape: `(height, width, channels)`.
        some: Whether a fraction above 0 must mask one unit at least.

    Returns:
        All units where the recipe ranks none, `recipe.mask_count`, or int(`mask_fraction` x units).

    Raises:
        ValueError: If not one unit would be kept, or none would be masked that must.
    """
    height, width, channels = image_shape
    units = height * width * (channels if recipe.unit == "feature" else 1)
    if recipe.ranking == "every":
        return units
    count = int(mask_fraction * units) if recipe.mask_count is None else recipe.mask_count
    if count >= units:
        raise ValueError(f"A mask must leave some of the {units} units. Received: mask_count={count}")
    if some and recipe.mask_count is None and mask_fraction and not count:
        scale = 10 ** (1 + math.ceil(math.log10(units)))
        raise ValueError(
            f"`mask_fraction` must be 0 or at least one of the {units} units, {math.ceil(scale / units) / scale:g}. "
            f"Received: mask_fraction={mask_fraction}, which masks nothing"
        )
    return count


def lowest(scores: tf.Tensor, count: int | tf.Tensor) -> tf.Tensor:
    """Mark exactly `count` units per image, those with the lowest scores; of equal ones, the first.

    Args:
        scores: Finite, `(N, ...)`.
        count: How many to mark, below the number of units: a Python int, or an int32 scalar, which costs a full sort.

    Returns:
        Boolean mask in the shape of `scores`, `True` where a unit is marked.
    """
    flat = tf.reshape(scores, [tf.shape(scores)[0], -1])
    fixed = isinstance(count, int)
    # XLA wants the number that top_k selects when it compiles.
    smallest = -tf.math.top_k(-flat, max(count, 1) if fixed else tf.shape(flat)[1], sorted=not fixed).values
    threshold = tf.reduce_max(smallest[:, : tf.maximum(count, 1)], axis=-1, keepdims=True)
    below, equal = flat < threshold, tf.cast(flat == threshold, tf.int32)
    room = count - tf.reduce_sum(tf.cast(below, tf.int32), axis=-1, keepdims=True)
    mask = below | ((equal > 0) & (tf.cumsum(equal, axis=-1) <= room))
    return tf.reshape(mask, tf.shape(scores))


def masked_copy(images: tf.Tensor, scores: tf.Tensor, recipe: Recipe, count: int | tf.Tensor, seed: Seed) -> tf.Tensor:
    """Copy the images with the `count` lowest-scored units of each replaced (x~ of Algorithm 1, line 4).

    Args:
        images: Float images `(N, height, width, channels)`.
        scores: What `saliency_scores` gives for them.
        recipe: Says what the units are filled with.
        count: How many units of each image are replaced, as `lowest` takes it.
        seed: Seed of a random fill.

    Returns:
        The copy, in the shape and dtype of the images. Units kept are the same bit for bit.
    """
    mask = tf.ones_like(scores, tf.bool) if recipe.ranking == "every" else lowest(scores, count)
    if recipe.unit == "pixel":
        mask = mask[..., tf.newaxis]
    return tf.where(mask, _fill(images, mask, recipe, seed), images)


def _fill(images: tf.Tensor, mask: tf.Tensor, recipe: Recipe, seed: Seed) -> tf.Tensor:
    if recipe.fill == "constant":
        return tf.cast(recipe.fill_value, images.dtype)
    if recipe.fill == "channel_mean":
        return tf.reduce_mean(images, axis=(1, 2), keepdims=True)
    if recipe.fill == "added":
        return images + keras.random.normal(tf.shape(images), 0.0, recipe.fill_value, images.dtype, seed)
    axes = (1, 2) if recipe.fill == "channel_range" else (1, 2, 3)
    low_of, high_of = images, images
    if recipe.fill == "kept_range":
        low_of = tf.where(mask, images.dtype.max, images)
        high_of = tf.where(mask, images.dtype.min, images)
    low = tf.reduce_min(low_of, axis=axes, keepdims=True)
    high = tf.reduce_max(high_of, axis=axes, keepdims=True)
    noise = keras.random.uniform(tf.shape(images), dtype=images.dtype, seed=seed)
    return tf.clip_by_value(low + noise * (high - low), low, high)  # rounding may step over the range by one ulp
