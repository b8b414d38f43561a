"""Losses of classifiers that give logits: the default of `compile`, and which others it takes."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import losses

from salrob_tf.checks import shown

# Keras' losses of probabilities, as classes and as functions: those that take logits if told to, and those that do not.
# What else it has takes any number.
TOLD = {
    losses.BinaryCrossentropy: losses.binary_crossentropy,
    losses.BinaryFocalCrossentropy: losses.binary_focal_crossentropy,
    losses.CategoricalCrossentropy: losses.categorical_crossentropy,
    losses.CategoricalFocalCrossentropy: losses.categorical_focal_crossentropy,
    losses.SparseCategoricalCrossentropy: losses.sparse_categorical_crossentropy,
}
NEVER = {
    losses.CategoricalGeneralizedCrossEntropy: losses.categorical_generalized_cross_entropy,
    losses.Dice: losses.dice,
    losses.KLDivergence: losses.kl_divergence,
    losses.MeanSquaredLogarithmicError: losses.mean_squared_logarithmic_error,
    losses.Poisson: losses.poisson,
    losses.Tversky: losses.tversky,
}


@keras.saving.register_keras_serializable(package="salrob_tf")
class CrossEntropy(losses.Loss):
    """Cross-entropy of logits `(N, num_classes)` with classes, `(N,)` or `(N, 1)`, or with rows like the logits.

    Args:
        label_smoothing: Share of each label that is spread over all classes, in [0, 1).
        **kwargs: Of `keras.losses.Loss`.
    """

    def __init__(self, label_smoothing: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.label_smoothing = label_smoothing

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Cross-entropy per image `(N,)`, in nats."""
        if not is_one_hot(y_true):
            if not self.label_smoothing:
                return losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
            y_true = tf.one_hot(tf.cast(tf.reshape(y_true, [-1]), tf.int32), y_pred.shape[-1], dtype=y_pred.dtype)
        return losses.categorical_crossentropy(y_true, y_pred, from_logits=True, label_smoothing=self.label_smoothing)

    def get_config(self) -> dict[str, Any]:
        """What rebuilds this loss, for `.keras` files."""
        return {**super().get_config(), "label_smoothing": self.label_smoothing}


def is_one_hot(labels: tf.Tensor) -> bool:
    """Whether labels are rows `(N, num_classes)` rather than classes `(N,)` or `(N, 1)`."""
    return labels.shape.rank == 2 and labels.shape[-1] != 1


def check_takes_logits(loss: Any) -> None:
    """Refuse losses that take probabilities, because classifiers give logits.

    Args:
        loss: What `compile` is given: a loss, its name, a function, or a list or dictionary of one.

    Raises:
        ValueError: If there are several, Keras does not know it, or it takes probabilities.
    """
    parts = list(loss.values()) if isinstance(loss, dict) else loss if isinstance(loss, list | tuple) else [loss]
    if len(parts) != 1:
        raise ValueError(f"A classifier has one output and one loss. Received: loss={shown(loss)}")
    try:
        found = losses.get(parts[0])
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`loss` must be a loss of Keras, its name, or a function of labels and logits. Received: {shown(loss)}"
        ) from error
    told = found.get_config().get("from_logits") if isinstance(found, losses.Loss) else None
    kind = next((kind for kind, function in (TOLD | NEVER).items() if found is function or type(found) is kind), None)
    if told is False or (kind is not None and told is None):
        remedy = (
            "pass a function of labels and logits that applies keras.ops.softmax"
            if kind in NEVER
            else f"pass keras.losses.{(kind or losses.SparseCategoricalCrossentropy).__name__}(from_logits=True)"
        )
        raise ValueError(
            f"The classifier gives logits, but this loss takes probabilities: {remedy}. Received: loss={shown(loss)}"
        )
