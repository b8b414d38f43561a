"""The smallest epsilon that breaks each image, for a tenth of the gradients that AutoAttack takes at every epsilon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from salrob_tf.attacks.apgd import APGD
from salrob_tf.attacks.autoattack import AutoAttack
from salrob_tf.attacks.base import Link
from salrob_tf.attacks.ensemble import Ensemble, largest_gradient
from salrob_tf.attacks.square import Square
from salrob_tf.checks import check_flag
from salrob_tf.models.classifier import Classifier


@dataclass(frozen=True)
class WorstCase(Ensemble):
    """The whole curve of the worst case, with gradients spent where an image is near to falling.

    A short Auto-PGD brackets the smallest epsilon that breaks each image. Below it, Auto-PGD on the targeted DLR loss
    (Croce and Hein 2020, Eq. 7; of three classes or two the margin) drives it to all classes that AutoAttack would, and
    Auto-PGD on the cross-entropy goes on with what that has left near to falling; tries that do not come near soon are
    given up. The bracket does not choose: where cross-entropy has no gradient, it sees nothing. What all that misses is
    estimated on a random part of the images, which the AutoAttack that suits the model goes on with from other random
    starts.

    Example:
        >>> [member.label for member in sr.WorstCase().members(sr.Classifier(network))]
        ['bracket', 'targets', 'longer']

    Attributes:
        audit: Whether AutoAttack looks for what was missed.

    Raises:
        ValueError: If a setting is not valid.
    """

    label: ClassVar[str] = "worst-case"

    audit: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag("audit", self.audit)

    def members(self, classifier: Classifier) -> tuple[Link, ...]:
        """The attacks that are run on a model, in order; with Square where gradients are zero, alone without any."""
        queries = Link(Square.name, Square(self.norm))
        gradient = largest_gradient(classifier)
        if gradient is None:
            return (queries,)
        loss = "dlr" if classifier.num_classes > 3 else "margin"
        chain = (
            Link("bracket", APGD(self.norm, steps=12)),
            Link("targets", APGD(self.norm, loss=loss, targeted=True), hope=0.13),
            Link("longer", APGD(self.norm), near=0.1, hope=0.075),
        )
        return (*chain, queries) if gradient == 0 else chain

    def auditors(self, classifier: Classifier) -> tuple[Link, ...]:
        """The members of AutoAttack."""
        return AutoAttack(self.norm).members(classifier) if self.audit else ()
