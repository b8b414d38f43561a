"""Attacks that are run one after the other under one name, each on what those before left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tensorflow as tf

from salrob_tf.attacks.balls import check_norm
from salrob_tf.attacks.base import Link
from salrob_tf.models.classifier import Classifier


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


def has_gradient(classifier: Classifier) -> bool:
    """Whether any gradient leads from a model's logits to its images, be it zero."""
    images = tf.fill((1, *classifier.input_shape), 0.5)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        logits = classifier.logits(images)
    return tape.gradient(logits, images) is not None
