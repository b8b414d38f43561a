"""How often a model is asked, and what that comes to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


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
class Counts:
    """What an attack cost, and how many images had no usable gradient.

    Attributes:
        gradients: Gradients of single images.
        forwards: Forward passes of single images beside them, the clean ones not included.
        padding: Rows of gradients and forward passes that only filled up a batch, not counted above.
        attacked: Images that a gradient was taken of.
        flat: Those whose very first gradient was zero everywhere.
    """

    gradients: int = 0
    forwards: int = 0
    padding: int = 0
    attacked: int = 0
    flat: int = 0
