"""Callbacks for `fit`: robust accuracy while a network trains."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from salrob_tf.attacks.registry import Entry
from salrob_tf.checks import check_whole, shown
from salrob_tf.data.arrays import check_labels
from salrob_tf.evaluation.plans import check_epsilons, check_options, choose_attacks
from salrob_tf.evaluation.sweep import evaluate
from salrob_tf.models.bounds import check_bounds, check_images_in
from salrob_tf.models.classifier import Classifier

OF_ATTACKS = ("norm", "steps", "restarts")
OF_SWEEPS = ("seed", "batch_size", "survivors_only", "search", "craft_dtype")


class RobustAccuracy(keras.callbacks.Callback):
    """Log robust accuracy on a fixed small sample, beside loss and accuracy.

    The metric stands in the logs of the first epoch, of every `every`-th, and of the last that `fit` is asked for.
    `History` and the callbacks listed after this one (CSVLogger, TensorBoard) find it there; ModelCheckpoint and
    EarlyStopping want it in each epoch, and `mode="max"`. Take the sample from validation images: what chooses an
    epoch by test images measures nothing on them. What speaks against the result, its flags, is said once.

    Example:
        >>> robust = sr.RobustAccuracy(images[:16], labels[:16], attack="fgsm", epsilon=[0.1, 0.2], every=5)
        >>> network.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> history = network.fit(images, labels, epochs=1, callbacks=[robust], verbose=0)
        >>> sorted(history.history)
        ['loss', 'robust_accuracy_0.1', 'robust_accuracy_0.2']

    Args:
        images: `(N, height, width, channels)`, floats in [0, 1], or 8-bit integers where `bounds` are 0 and 255.
        labels: True labels, integers `(N,)`.
        attack: A name that `evaluate` knows, or an `Attack`, `AutoAttack` or `WorstCase`.
        epsilon: Radius of the ball, 0 or more, in the units of [0, 1]; of several, the radius ends each metric's name,
            as in `robust_accuracy_0.1`.
        every: Epochs between two measurements, 1 or more.
        name: What the metric is called.
        bounds: The range of images that the model takes, as `Classifier` has it.
        classifier: A `Classifier` of the model that is trained, in place of `bounds`.
        **settings: Passed on to `evaluate`: `norm`, `steps` (10 by default), `restarts`, `seed`, `batch_size`,
            `survivors_only`, `search`, `craft_dtype`.

    Raises:
        ValueError: If an argument is not valid; when the training begins, if the model cannot be attacked or is not
            that of `classifier`; in the first batch, if another metric has this name, or, of another callback, at the
            end of the first epoch.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        attack: str | Entry = "pgd",
        epsilon: float | Sequence[float] = 0.1,
        *,
        every: int = 1,
        name: str = "robust_accuracy",
        bounds: tuple[float, float] = (0, 1),
        classifier: Classifier | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.every = check_whole("every", every, 1)
        if classifier is not None and not isinstance(classifier, Classifier):
            raise ValueError(f"`classifier` must be a Classifier. Received: classifier={shown(classifier)}")
        self.bounds = check_bounds(bounds) if classifier is None else classifier.bounds
        self.classifier, self._given = classifier, classifier
        self.images = check_images_in(images, self.bounds)
        self.labels = check_labels(labels, len(self.images))
        self.epsilons = check_epsilons(epsilon)
        if unknown := [key for key in settings if key not in OF_ATTACKS + OF_SWEEPS]:
            raise ValueError(
                f"Unknown settings. Valid: {', '.join(OF_ATTACKS + OF_SWEEPS)}. Received: {', '.join(unknown)}"
            )
        self.settings = {"steps": 10, **settings}
        attacks = {key: self.settings[key] for key in OF_ATTACKS if key in self.settings}
        check_options(**{key: value for key, value in settings.items() if key in OF_SWEEPS})
        self.attacks = list(choose_attacks([attack], **attacks).values())
        if not isinstance(name, str) or not name:
            raise ValueError(f"`name` must be text. Received: name={shown(name)}")
        one = len(self.epsilons) == 1
        self.names = [name if one else f"{name}_{radius:g}" for radius in self.epsilons]
        if len(set(self.names)) != len(self.names):
            raise ValueError(
                f"`epsilon` must be one radius or several that differ in six digits. Received: {shown(epsilon)}"
            )
        self._refuse({"loss"})

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Take the model, so that the attack is compiled once for the whole training."""
        if self._given is None:
            self.classifier = Classifier(self.model, bounds=self.bounds)
        elif not self._given.is_of(self.model):
            raise ValueError(
                "`classifier` must be of the model that is trained. Received: a Classifier of "
                f"{self._given.name}, and fit of {self.model.name}"
            )
        self.measured, self.looked = False, False
        self.said: set[str] = set()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """See whether another metric has this name, before it is written over."""
        if not self.looked:
            self._refuse({f"{prefix}{key}" for key in logs or {} for prefix in ("", "val_")})
            self.looked = True

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Attack the model as it is now."""
        due = not self.measured or (epoch + 1) % self.every == 0 or epoch + 1 == self.params.get("epochs")
        if due and logs is not None:
            self._refuse(logs)
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                found = evaluate(
                    self.classifier, self.images, self.labels, self.attacks, self.epsilons, **self.settings
                )
            self._say(said, {str(flag): flag.id for flag in found.flags})
            (correct,) = found.correct.values()
            logs.update(zip(self.names, correct.mean(axis=1).tolist(), strict=True))
            self.measured = True

    def _say(self, said: Sequence[warnings.WarningMessage], flags: dict[str, str]) -> None:
        for warning in said:
            key = flags.get(str(warning.message), str(warning.message))
            if key not in self.said:
                warnings.warn(warning.message, warning.category, stacklevel=3)
            self.said.add(key)

    def _refuse(self, taken: Any) -> None:
        if both := [name for name in self.names if name in taken]:
            raise ValueError(f"Another metric has this name: choose another. Received: name={both[0]!r}")
