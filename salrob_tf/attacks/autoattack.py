"""AutoAttack (Croce and Hein 2020, arXiv 2003.01690): an ensemble of attacks without settings to choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from salrob_tf.attacks.apgd import APGD
from salrob_tf.attacks.base import Attack, Link
from salrob_tf.attacks.ensemble import Ensemble, largest_gradient
from salrob_tf.attacks.fab import FAB
from salrob_tf.attacks.square import Square
from salrob_tf.checks import check_choice
from salrob_tf.models.classifier import Classifier

VERSIONS = ("standard", "rand")


@dataclass(frozen=True)
class AutoAttack(Ensemble):
    """AutoAttack: each of its members attacks what those before left, with budgets that are part of the name.

    The standard version is Auto-PGD on the cross-entropy, Auto-PGD on the targeted DLR loss, targeted FAB, and Square,
    with 100 steps, 9 target classes and 5,000 queries; the version for networks that draw random numbers is Auto-PGD on
    the cross-entropy and on the DLR loss, on gradients averaged as in all sweeps (10 draws; the original's 20). Three
    classes have no targeted DLR loss, and the plain one stands in; two have none.

    Example:
        >>> [member.label for member in sr.AutoAttack().members(sr.Classifier(network))]
        ['apgd', 'apgd-dlr', 'fab-targeted', 'square']

    Attributes:
        version: `"standard"` or `"rand"`; `None` is what suits the model: `"rand"` if it gives other logits, and not by
            rounding alone, when it is asked again. Of a model without gradients Square alone is left.

    Raises:
        ValueError: If a setting is not valid.
    """

    label: ClassVar[str] = "autoattack"

    version: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.version is not None:
            check_choice("version", self.version, VERSIONS)

    def members(self, classifier: Classifier) -> tuple[Link, ...]:
        """The attacks that are run on a model, in their order."""
        return tuple(Link(attack.label, attack) for attack in self._attacks(classifier))

    def _attacks(self, classifier: Classifier) -> tuple[Attack, ...]:
        classes = classifier.num_classes
        untargeted = (APGD(self.norm, loss="dlr"),) if classes > 2 else ()
        if largest_gradient(classifier) is None:
            return (Square(self.norm),)
        if self.version == "rand" or (self.version is None and not classifier.deterministic):
            return APGD(self.norm), *untargeted
        targeted = (APGD(self.norm, loss="dlr", targeted=True),) if classes > 3 else untargeted
        return APGD(self.norm), *targeted, FAB(self.norm, targeted=True), Square(self.norm)
