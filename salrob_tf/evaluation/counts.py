"""How often a model is asked, and what that comes to."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

from salrob_tf.results.costs import Costs


class Draws(NamedTuple):
    """How often a model is asked.

    Attributes:
        gradient: Passes that a gradient is averaged over.
        judging: Passes that judge an image: it counts as classified correctly if more than half of them say so.
    """

    gradient: int = 1
    judging: int = 1


ONE_DRAW = Draws()
# Of models that draw random numbers. Judging costs little beside an attack, and an odd number knows no tie.
SEVERAL_DRAWS = Draws(10, 51)


@dataclass
class Counts(Costs):
    """Costs as they add up, and how many images had no usable gradient.

    Attributes:
        attacked: Images that a gradient was taken of.
        zeros: Those whose very first gradient was zero everywhere.
        verified: Misclassifications that were looked at again.
        flips: Those that were none then.
    """

    attacked: int = 0
    zeros: int = 0
    verified: int = 0
    flips: int = 0

    def add(self, other: Counts) -> None:
        """Add what another part of the work took."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    def costs(self, traces: int) -> Costs:
        """What it comes to in the end."""
        kept = {each.name: getattr(self, each.name) for each in fields(Costs)}
        shares = {
            "zero_gradients": self.zeros / max(1, self.attacked),
            "flipped": self.flips / max(1, self.verified),
        }
        return Costs(**kept | shares | {"traces": traces})
