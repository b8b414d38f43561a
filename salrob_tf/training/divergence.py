"""The divergence that guided training minimises (Karkehabadi 2023, Eq. 1)."""

from __future__ import annotations

import keras
import tensorflow as tf


class Divergence(keras.losses.Loss):
    """Divergence between the predictions on clean and on masked images (Karkehabadi 2023, Eq. 1), a Keras loss.

    Args:
        direction: The `divergence` of a `Recipe`.
    """

    def __init__(self, direction: str) -> None:
        super().__init__(name="kl", dtype="float32")
        self.direction = direction

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Divergence per image `(N,)`, in nats, of logits for clean images and logits for masked ones."""
        clean, masked = tf.nn.log_softmax(y_true), tf.nn.log_softmax(y_pred)
        if self.direction == "stop_gradient":
            clean = tf.stop_gradient(clean)
        if self.direction == "reversed":
            return _kl(masked, clean)
        if self.direction == "symmetric":
            return (_kl(clean, masked) + _kl(masked, clean)) / 2
        return _kl(clean, masked)


def _kl(log_p: tf.Tensor, log_q: tf.Tensor) -> tf.Tensor:
    # Not keras.losses.kl_divergence: that clips probabilities at 1e-7, where the gradient dies.
    return tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=-1)
