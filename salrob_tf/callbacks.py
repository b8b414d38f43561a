"""Callbacks for `fit`: robust accuracy while a network trains."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from salrob_tf.attack import Attack
from salrob_tf.classifier import Classifier
from salrob_tf.datasets import check_images, check_labels
from salrob_tf.evaluation import check_epsilons, choose_attacks, evaluate


class RobustAccuracy(keras.callbacks.Callback):
    """Log robust accuracy on a fixed small sample, beside loss and accuracy.

    The metric stands in the logs of the first epoch, of every `every`-th, and of the last that `fit` is asked for.
    `History` and the callbacks listed after this one (CSVLogger, TensorBoard) find it there; ModelCheckpoint and
    EarlyStopping want it in each epoch, and `mode="max"`. Take the sample from validation images: what chooses an
    epoch by test images measures nothing on them.

    Example:
    ```python
    robust = RobustAccuracy(x_val[:200], y_val[:200], attack="pgd", epsilon=0.1, every=5)
    model.fit(x_train, y_train, epochs=100, callbacks=[robust, keras.callbacks.CSVLogger("log.csv")])
    ```

    Args:
        images: `(N, height, width, channels)`, floats in [0, 1].
        labels: True labels, integers `(N,)`.
        attack: A name that `evaluate` knows, or an `Attack`.
        epsilon: Radius of the ball, 0 or more.
        every: Epochs between two measurements, 1 or more.
        name: What the metric is called.
        **settings: Passed on to `evaluate`: `norm`, `steps` (10 by default), `restarts`, `seed`, `batch_size`.

    Raises:
        ValueError: If an argument is not valid; on the first epoch, if the model cannot be attacked.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        attack: str | Attack = "pgd",
        epsilon: float = 0.1,
        *,
        every: int = 1,
        name: str = "robust_accuracy",
        **settings: Any,
    ) -> None:
        super().__init__()
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"`every` must be a whole number, 1 or more. Received: every={every}")
        self.images = check_images(images)
        self.labels = check_labels(labels, len(self.images))
        self.epsilons = check_epsilons([epsilon])
        self.settings = {"steps": 10, **settings}
        attacks = {key: self.settings[key] for key in ("norm", "steps", "restarts") if key in self.settings}
        self.attacks = list(choose_attacks([attack], **attacks).values())
        self.every, self.name = every, name

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Take the model, so that the attack is compiled once for the whole training."""
        self.classifier, self.measured = Classifier(self.model), False

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Attack the model as it is now."""
        due = not self.measured or (epoch + 1) % self.every == 0 or epoch + 1 == self.params.get("epochs")
        if due and logs is not None:
            found = evaluate(self.classifier, self.images, self.labels, self.attacks, self.epsilons, **self.settings)
            logs[self.name] = float(next(iter(found.correct.values())).mean())
            self.measured = True
