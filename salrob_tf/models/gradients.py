"""Gradients with respect to images that do not underflow on their way back through a network of half precision."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

# What a gradient starts from on its way back, per image: float16 holds magnitudes of 6e-8 to 65504, and gradients
# shrink on their way more often than they grow.
SCALE = 16.0


def scaled_gradient(
    forward: Callable[[tf.Tensor], tf.Tensor], images: tf.Tensor, target: Callable[[tf.Tensor], tf.Tensor]
) -> tuple[tf.Tensor | None, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Gradient of one number per image with respect to that image, times a power of two per image.

    A power of two changes no direction, and none of a gradient's bits where nothing underflows.

    Args:
        forward: A network, from images to outputs `(N, num_classes)` of any float type.
        images: Float images `(N, height, width, channels)`.
        target: What is differentiated, `(N,)`, a function of float32 outputs.

    Returns:
        The gradient in the shape and dtype of the images, `None` if there is none; the powers of two `(N,)`; what is
        differentiated; and the outputs of the network. An outer tape sees the outputs, but nothing of the gradient.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        outputs = forward(images)
        logits = tf.cast(outputs, tf.float32)
    with tf.GradientTape(watch_accessed_variables=False) as head:
        head.watch(logits)
        numbers = target(logits)
    upstream = head.gradient(numbers, logits)
    scale = tf.minimum(SCALE / _power_of_two(tf.reduce_max(tf.abs(upstream), axis=-1)), 2.0**100)
    gradient = tape.gradient(logits, images, output_gradients=upstream * scale[:, tf.newaxis])
    return None if gradient is None else tf.stop_gradient(gradient), scale, numbers, outputs


def _power_of_two(numbers: tf.Tensor) -> tf.Tensor:
    """The power of two at or below each number, by its exponent bits, so that dividing by it is exact; 1 for 0."""
    exponents = tf.bitwise.bitwise_and(tf.bitcast(numbers, tf.int32), 0x7F800000)
    return tf.where(exponents > 0, tf.bitcast(exponents, tf.float32), 1.0)
