"""Attacks that are run one after the other under one name, each on what those before left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tensorflow as tf

from salrob_tf.attacks.balls import check_norm
from salrob_tf.attacks.base import Link
from salrob_tf.models.classifier import Classifier
from salrob_tf.models.contract import images_of


@dataclass(frozen=True)
class Ensemble:
    """What is said of several attacks together. It holds no model: its members may depend on the one at hand.

    Attributes:
        norm: Norm of the ball, `np.inf` or 2.

    Raises:
        ValueError: If a setting is not valid.
    """

    label: ClassVar[str]

    norm: float = np.inf

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", check_norm(self.norm))

    def check_classes(self, num_classes: int) -> None:
        """Any number of classes will do: members that need more are left out."""

    def members(self, classifier: Classifier) -> tuple[Link, ...]:
        """The attacks that are run on a model, in their order."""
        raise NotImplementedError

    def auditors(self, classifier: Classifier) -> tuple[Link, ...]:
        """The attacks that a random part of the images meets once more, if any, to see what the members missed."""
        return ()


def largest_gradient(classifier: Classifier) -> float | None:
    """The largest magnitude in gradients of a model's logits at a few random images; `None` if none leads there."""
    images = images_of(classifier.input_shape)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        logits = classifier.logits(images)
        mixed = logits * tf.random.stateless_normal(logits.shape[1:], [0, 0])  # no two classes cancel each other
    gradient = tape.gradient(mixed, images)
    return None if gradient is None else float(tf.reduce_max(tf.abs(gradient)))
