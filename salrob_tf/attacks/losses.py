"""The losses that attacks maximise: one value per image, of labels `(N,)` and logits `(N, num_classes)`.

They are named functions, because CleverHans takes `labels` and `logits` by name. Targeted attacks minimise them at the
target.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy, as in Karkehabadi 2023, Eq. 2; its gradient vanishes where the network is sure of itself."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def margin(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """How far the best other class is above the label's (Carlini and Wagner 2017, f6)."""
    return _best_other(labels, logits) - tf.gather(logits, labels, batch_dims=1)


def dlr(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """The margin over the gap between the first and third of three or more logits (Croce and Hein 2020, Eq. 6)."""
    ordered = tf.math.top_k(logits, 3).values
    return margin(labels, logits) / (ordered[:, 0] - ordered[:, 2] + 1e-12)


def dlr_targeted(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """The margin of the target over a gap that does not vanish with it, of four or more logits (ibid., Eq. 7).

    The best other class is in the place of the label, which it is for an image that stands.
    Over the gap of `dlr` it is the same number for all images whose target is third, and its gradient is zero.
    """
    ordered = tf.math.top_k(logits, 4).values
    return margin(targets, logits) / (ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2 + 1e-12)


Loss = Callable[..., tf.Tensor]
LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "margin": margin, "dlr": dlr}
AT_A_TARGET: dict[str, Loss] = {**LOSSES, "dlr": dlr_targeted}


def ascended(loss: str, targeted: bool) -> Loss:
    """What steps go up on: a loss of the label, or the negative of one at the target class."""
    return (lambda targets, logits: -AT_A_TARGET[loss](targets, logits)) if targeted else LOSSES[loss]


def _best_other(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    mask = tf.one_hot(labels, logits.shape[-1], on_value=True, off_value=False, dtype=tf.bool)
    return tf.reduce_max(tf.where(mask, logits.dtype.min, logits), axis=-1)
