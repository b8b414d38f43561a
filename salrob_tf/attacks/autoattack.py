"""AutoAttack (Croce and Hein 2020, arXiv 2003.01690): an ensemble of attacks without settings to choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tensorflow as tf

from salrob_tf.attacks.apgd import APGD
from salrob_tf.attacks.balls import check_norm
from salrob_tf.attacks.base import Attack
from salrob_tf.attacks.fab import FAB
from salrob_tf.attacks.square import Square
from salrob_tf.checks import check_choice
from salrob_tf.models.classifier import Classifier

VERSIONS = ("standard", "rand")


@dataclass(frozen=True)
class AutoAttack:
    """AutoAttack: each of its members attacks what those before left, with budgets that are part of the name.

    The standard version is Auto-PGD on the cross-entropy, Auto-PGD on the targeted DLR loss, targeted FAB, and Square,
    with 100 steps, 9 target classes and 5,000 queries; the version for networks that draw random numbers is Auto-PGD on
    the cross-entropy and on the DLR loss. Three classes have no targeted DLR loss, and the plain one stands in; two
    have none.

    Example:
        >>> [member.label for member in sr.AutoAttack().members(sr.Classifier(network))]
        ['apgd', 'apgd-dlr', 'fab-targeted', 'square']

    Attributes:
        norm: Norm of the ball, `np.inf` or 2.
        version: `"standard"` or `"rand"`; `None` is what suits the model: `"rand"` if it gives other logits when it is
            asked again. Of a model without gradients Square alone is left.

    Raises:
        ValueError: If a setting is not valid.
    """

    label: ClassVar[str] = "autoattack"

    norm: float = np.inf
    version: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", check_norm(self.norm))
        if self.version is not None:
            check_choice("version", self.version, VERSIONS)

    def check_classes(self, num_classes: int) -> None:
        """Any number of classes will do: members that need more are left out."""

    def members(self, classifier: Classifier) -> tuple[Attack, ...]:
        """The attacks that are run on a model, in their order."""
        classes = classifier.num_classes
        untargeted = (APGD(self.norm, loss="dlr"),) if classes > 2 else ()
        if not has_gradient(classifier):
            return (Square(self.norm),)
        if self.version == "rand" or (self.version is None and not classifier.repeats):
            return APGD(self.norm), *untargeted
        targeted = (APGD(self.norm, loss="dlr", targeted=True),) if classes > 3 else untargeted
        return APGD(self.norm), *targeted, FAB(self.norm, targeted=True), Square(self.norm)


def has_gradient(classifier: Classifier) -> bool:
    """Whether any gradient leads from a model's logits to its images, be it zero."""
    images = tf.fill((1, *classifier.input_shape), 0.5)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        logits = classifier.logits(images)
    return tape.gradient(logits, images) is not None
