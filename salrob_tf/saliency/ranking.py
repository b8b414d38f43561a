"""Which pixels matter little: an image's pixels ranked by the gradient (Karkehabadi 2023, Algorithm 1, line 3)."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

from salrob_tf.models.gradients import scaled_gradient
from salrob_tf.saliency.recipes import Recipe, Seed

TIES = 1e-3  # of an image's range, less than a step of 8 bits: within it random numbers say which unit is darker
FIXED = 0  # seed of the ranking that is the same for all images, steps and runs


def saliency_scores(
    model: Callable[..., tf.Tensor], images: tf.Tensor, labels: tf.Tensor, recipe: Recipe, seed: Seed
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Rank the units of each image: those with the lowest scores are masked first.

    Args:
        model: Classifier called as `model(images, training=...)`, giving logits `(N, num_classes)`.
        images: Float images `(N, height, width, channels)`.
        labels: Integer labels `(N,)`.
        recipe: Says what is differentiated and how the gradient becomes a score.
        seed: Seed of a random ranking, and of ties in that by value; a fixed one has its own.

    Returns:
        Scores `(N, height, width)`, or `(N, height, width, channels)` where the unit is the feature, in the
        dtype of the images and up to a factor per image, which changes no ranking; and the outputs of the model,
        `None` where a ranking needs none.

    Raises:
        ValueError: If a gradient is needed and the model has none.
    """
    if recipe.ranking in ("random", "fixed", "every", "darkest"):
        shape = tf.shape(images) if recipe.unit == "feature" else tf.shape(images)[:-1]
        if recipe.ranking in ("random", "darkest"):
            random = keras.random.uniform(shape, dtype=images.dtype, seed=seed)
            return (random if recipe.ranking == "random" else _darkness(images, recipe, random)), None
        if recipe.ranking == "every":
            return tf.zeros(shape, images.dtype), None
        one = keras.random.uniform(shape[1:], dtype=images.dtype, seed=FIXED)
        return tf.broadcast_to(one, shape), None
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


def _darkness(images: tf.Tensor, recipe: Recipe, random: tf.Tensor) -> tf.Tensor:
    """The values of units; of those that are alike, as most of MNIST's are, random ones come first."""
    values = images if recipe.unit == "feature" else tf.reduce_mean(images, axis=-1)
    units = tf.range(1, tf.rank(values))
    spread = tf.reduce_max(values, axis=units, keepdims=True) - tf.reduce_min(values, axis=units, keepdims=True)
    return values + tf.cast(TIES, images.dtype) * spread * random


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
    gradient, scale, _, outputs = scaled_gradient(forward, images, target)
    if gradient is None:
        raise ValueError(
            "A network without a gradient with respect to its images gives no ranking of pixels: rank them at random "
            "(recipe='random'), or train without saliency guidance. Received: gradient=None"
        )
    return (-gradient if recipe.gradient_of == "loss" else gradient), scale, outputs
