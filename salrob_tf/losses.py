"""The divergence that guided training minimises, and the losses that attacks climb.

The latter give one value per image, of labels `(N,)` and logits `(N, num_classes)`; they are named functions, because
CleverHans takes `labels` and `logits` by name. Targeted attacks descend them at the target.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy, as in K, Eq. 2; its gradient vanishes where the network is sure of itself."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def margin(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """How far the best other class is above the label's (Carlini and Wagner 2017, f6)."""
    return _best_other(labels, logits) - tf.gather(logits, labels, batch_dims=1)


def dlr(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """The margin over the gap between the first and third of three or more logits (Croce and Hein 2020, Eq. 6)."""
    ordered = tf.math.top_k(logits, 3).values
    return margin(labels, logits) / (ordered[:, 0] - ordered[:, 2] + 1e-12)


LOSSES: dict[str, Callable[..., tf.Tensor]] = {"cross_entropy": cross_entropy, "margin": margin, "dlr": dlr}


def _best_other(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    mask = tf.one_hot(labels, logits.shape[-1], on_value=True, off_value=False, dtype=tf.bool)
    return tf.reduce_max(tf.where(mask, logits.dtype.min, logits), axis=-1)


class Divergence(keras.losses.Loss):
    """Divergence between the predictions on clean and on masked images (K, Eq. 1), a Keras loss of two logits.

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
