"""Which pixels matter little, and a copy of the images without them (K, Algorithm 1, lines 3 and 4).

K is Karkehabadi 2023, "Does saliency-based training bring robustness for deep neural networks in image
classification?"; I is Ismail, Corrada Bravo and Feizi 2021, "Improving deep learning interpretability by saliency
guided training" (NeurIPS), whose method K follows. Where they differ or say nothing, a `Recipe` says what is done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeAlias, get_args, get_type_hints

import keras
import tensorflow as tf

from salrob_tf.checks import check_choice, check_number, check_whole
from salrob_tf.gradients import scaled_gradient

Seed: TypeAlias = "int | keras.random.SeedGenerator"


@dataclass(frozen=True)
class Recipe:
    """Every choice of saliency-guided training that the papers make differently or leave open.

    Attributes:
        ranking: Which units are masked: those whose gradient has the lowest `"magnitude"` (K), the lowest value,
            `"signed"`, so the most negative ones (I), or as controls `"random"` ones or those of the `"highest"`
            magnitude.
        gradient_of: What is differentiated: the `"logit"` of the class (K), its `"log_softmax"` (I on MNIST), or
            the cross-entropy `"loss"` against it.
        target_class: The class: the `"true"` label or the `"predicted"` one.
        saliency_mode: How the network runs in the saliency pass: `"inference"`, or `"training"`, which is the very
            pass over the clean images that the loss takes, with its dropout masks.
        unit: What is masked: a `"pixel"` with all its channels, ranked by the mean gradient over them (the mean
            is taken before the magnitude), or each `"feature"` (one channel of one pixel) by itself.
        mask_count: Exactly how many units to mask; `None` takes int(mask fraction x units).
        fill: What masked units become: uniform noise in the image's own minimum..maximum (`"image_range"`), in
            that of each channel (`"channel_range"`), or in that of the pixels kept (`"kept_range"`); a
            `"constant"`; or the `"channel_mean"`.
        fill_value: The constant of `fill="constant"`, in the units of the images.
        divergence: How the two outputs p = f(x) and q = f(x~) are compared: `"forward"` KL(p || q), `"reversed"`
            KL(q || p), `"symmetric"`, the mean of both, or `"stop_gradient"`, KL(p || q) with p held constant.
        moving_statistics: Which passes of the loss update moving statistics, such as BatchNormalization's: that over
            the `"clean"` images alone, or `"both"` (I's code). Both normalise by their own batch in any case.
        dropout: Whether the masked images meet `"independent"` dropout masks (I's code) or, `"shared"`, those that
            the clean images met. So for all layers that draw random numbers by a `keras.random.SeedGenerator`.

    Raises:
        ValueError: If a field has a value that is not listed, `mask_count` is no whole number, 0 or more, or
            `fill_value` is not finite.
    """

    ranking: Literal["magnitude", "signed", "random", "highest"] = "magnitude"
    gradient_of: Literal["logit", "log_softmax", "loss"] = "logit"
    target_class: Literal["true", "predicted"] = "true"
    saliency_mode: Literal["inference", "training"] = "inference"
    unit: Literal["pixel", "feature"] = "pixel"
    mask_count: int | None = None
    fill: Literal["image_range", "channel_range", "kept_range", "constant", "channel_mean"] = "image_range"
    fill_value: float = 0.0
    divergence: Literal["forward", "reversed", "symmetric", "stop_gradient"] = "forward"
    moving_statistics: Literal["clean", "both"] = "clean"
    dropout: Literal["independent", "shared"] = "independent"

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            valid, value = get_args(hints[field.name]), getattr(self, field.name)
            if valid and all(isinstance(option, str) for option in valid):
                check_choice(field.name, value, valid)
        numbers = {"fill_value": check_number("fill_value", self.fill_value)}
        if self.mask_count is not None:
            numbers["mask_count"] = check_whole("mask_count", self.mask_count)
        for name, number in numbers.items():
            object.__setattr__(self, name, number)  # as Python's own, which JSON can hold

    def get_config(self) -> dict[str, Any]:
        """The fields as a dictionary that JSON can hold."""
        return asdict(self)


RECIPES: dict[str, Recipe] = {
    "karkehabadi2023": Recipe(),
    "ismail2021": Recipe(ranking="signed", gradient_of="log_softmax", fill="channel_range", moving_statistics="both"),
    "ismail2021_cifar": Recipe(ranking="signed", gradient_of="logit", fill="channel_range", moving_statistics="both"),
    "random": Recipe(ranking="random"),
    "highest": Recipe(ranking="highest"),
}


def get_recipe(recipe: str | Recipe) -> Recipe:
    """The `Recipe` of a name in `RECIPES`; a `Recipe` is returned as it is.

    Raises:
        ValueError: If there is no recipe of that name.
    """
    if isinstance(recipe, Recipe):
        return recipe
    return RECIPES[check_choice("recipe", recipe, RECIPES, ", or a Recipe")]


def mask_size(recipe: Recipe, mask_fraction: float, image_shape: tuple[int, ...], some: bool = False) -> int:
    """How many units of one image are masked.

    Args:
        recipe: The recipe.
        mask_fraction: Share of the units, in [0, 1). `recipe.mask_count`, where given, takes its place.
        image_shape: `(height, width, channels)`.
        some: Whether a fraction above 0 must mask one unit at least.

    Returns:
        `recipe.mask_count`, or int(`mask_fraction` x units).

    Raises:
        ValueError: If not one unit would be kept, or none would be masked that must.
    """
    height, width, channels = image_shape
    units = height * width * (channels if recipe.unit == "feature" else 1)
    count = int(mask_fraction * units) if recipe.mask_count is None else recipe.mask_count
    if count >= units:
        raise ValueError(f"A mask must leave some of the {units} units. Received: mask_count={count}")
    if some and recipe.mask_count is None and mask_fraction and not count:
        raise ValueError(
            f"`mask_fraction` must be 0 or at least one of the {units} units, {1 / units:.2g}. "
            f"Received: mask_fraction={mask_fraction}, which masks nothing"
        )
    return count


def saliency_scores(
    model: Callable[..., tf.Tensor], images: tf.Tensor, labels: tf.Tensor, recipe: Recipe, seed: Seed
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Rank the units of each image: those with the lowest scores are masked first.

    Args:
        model: Classifier called as `model(images, training=...)`, giving logits `(N, num_classes)`.
        images: Float images `(N, height, width, channels)`.
        labels: Integer labels `(N,)`.
        recipe: Says what is differentiated and how the gradient becomes a score.
        seed: Seed of a random ranking.

    Returns:
        Scores `(N, height, width)`, or `(N, height, width, channels)` where the unit is the feature, in the
        dtype of the images and up to a factor per image, which changes no ranking; and the outputs of the model,
        `None` where a random ranking needs none.

    Raises:
        ValueError: If a gradient is needed and the model has none.
    """
    if recipe.ranking == "random":
        shape = tf.shape(images) if recipe.unit == "feature" else tf.shape(images)[:-1]
        return keras.random.uniform(shape, dtype=images.dtype, seed=seed), None
    gradient, _, outputs = _scaled_gradient(model, images, labels, recipe)
    if recipe.unit == "pixel":
        gradient = tf.reduce_mean(gradient, axis=-1)
    if recipe.ranking == "signed":
        return gradient, outputs
    return (tf.abs(gradient) if recipe.ranking == "magnitude" else -tf.abs(gradient)), outputs


def input_gradient(
    model: Callable[..., tf.Tensor], images: tf.Tensor, labels: tf.Tensor, recipe: Recipe
) -> tuple[tf.Tensor, tf.Tensor]:
    """Gradient of the class output that `recipe` names, with respect to the images.

    Args:
        model: Classifier called as `model(images, training=...)`, giving logits `(N, num_classes)`.
        images: Float images `(N, height, width, channels)`.
        labels: Integer labels `(N,)`; not looked at where the recipe takes the predicted class.
        recipe: The recipe.

    Returns:
        The gradient, in the shape and dtype of the images, and the outputs of the model. An outer tape sees the
        outputs, but nothing of the gradient.

    Raises:
        ValueError: If the model has no gradient with respect to the images.
    """
    gradient, scale, outputs = _scaled_gradient(model, images, labels, recipe)
    unscaled = tf.cast(gradient, tf.float32) / tf.reshape(scale, [-1, 1, 1, 1])
    return tf.cast(unscaled, images.dtype), outputs


def _scaled_gradient(
    model: Callable[..., tf.Tensor], images: tf.Tensor, labels: tf.Tensor, recipe: Recipe
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The gradient times a power of two per image `(N,)`, so that it does not underflow; that; and the outputs."""

    def target(logits: tf.Tensor) -> tf.Tensor:
        chosen = labels if recipe.target_class == "true" else tf.argmax(logits, axis=-1, output_type=labels.dtype)
        if recipe.gradient_of == "logit":
            return tf.gather(logits, chosen, axis=-1, batch_dims=1)
        return -tf.nn.sparse_softmax_cross_entropy_with_logits(chosen, logits)

    forward = lambda batch: model(batch, training=recipe.saliency_mode == "training")  # noqa: E731
    gradient, scale, outputs = scaled_gradient(forward, images, target)
    if gradient is None:
        raise ValueError(
            "A network without a gradient with respect to its images gives no ranking of pixels: rank them at random "
            "(recipe='random'), or train without saliency guidance. Received: gradient=None"
        )
    return (-gradient if recipe.gradient_of == "loss" else gradient), scale, outputs


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
    mask = lowest(scores, count)
    if recipe.unit == "pixel":
        mask = mask[..., tf.newaxis]
    return tf.where(mask, _fill(images, mask, recipe, seed), images)


def _fill(images: tf.Tensor, mask: tf.Tensor, recipe: Recipe, seed: Seed) -> tf.Tensor:
    if recipe.fill == "constant":
        return tf.cast(recipe.fill_value, images.dtype)
    if recipe.fill == "channel_mean":
        return tf.reduce_mean(images, axis=(1, 2), keepdims=True)
    axes = (1, 2) if recipe.fill == "channel_range" else (1, 2, 3)
    low_of, high_of = images, images
    if recipe.fill == "kept_range":
        low_of = tf.where(mask, images.dtype.max, images)
        high_of = tf.where(mask, images.dtype.min, images)
    low = tf.reduce_min(low_of, axis=axes, keepdims=True)
    high = tf.reduce_max(high_of, axis=axes, keepdims=True)
    noise = keras.random.uniform(tf.shape(images), dtype=images.dtype, seed=seed)
    return tf.clip_by_value(low + noise * (high - low), low, high)  # rounding may step over the range by one ulp
