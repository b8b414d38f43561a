"""The smallest epsilon that breaks each image, for a tenth of the gradients that AutoAttack takes at every epsilon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from salrob_tf.attacks.apgd import APGD
from salrob_tf.attacks.autoattack import AutoAttack
from salrob_tf.attacks.base import Link
from salrob_tf.attacks.ensemble import Ensemble, has_gradient
from salrob_tf.attacks.square import Square
from salrob_tf.checks import check_flag
from salrob_tf.models.classifier import Classifier


@dataclass(frozen=True)
class WorstCase(Ensemble):
    """The whole curve of the worst case, with gradients spent where an image is near to falling.

    A short Auto-PGD brackets the smallest epsilon that breaks each image; below it, Auto-PGD on the targeted DLR loss
    (Croce and Hein 2020, Eq. 7) drives it to the likeliest classes; and images that have little of their lead left
    there are driven to more classes in more steps. What that misses is estimated on a random part of the images, which
    the standard AutoAttack goes on with.

    Example:
        >>> [member.label for member in sr.WorstCase().members(sr.Classifier(network))]
        ['bracket', 'targets', 'hardest']

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
        """The attacks that are run on a model, in their order; Square alone where it has no gradients."""
        if not has_gradient(classifier):
            return (Link(Square.name, Square(self.norm)),)
        wrong = classifier.num_classes - 1
        loss = "dlr" if wrong > 2 else "margin"

        def targeted(most: int, steps: int) -> APGD:
            return APGD(self.norm, steps=steps, loss=loss, targeted=True, target_classes=min(most, wrong))

        return (
            Link("bracket", APGD(self.norm, steps=15)),
            Link("targets", targeted(3, 20)),
            Link("hardest", targeted(9, 30), near=0.3),
        )

    def auditors(self, classifier: Classifier) -> tuple[Link, ...]:
        """The members of AutoAttack."""
        return AutoAttack(self.norm).members(classifier) if self.audit else ()
