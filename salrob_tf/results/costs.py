"""What attacking a model cost, attack by attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple


@dataclass
class Costs:
    """What one attack on one model cost, over all epsilons.

    Attributes:
        seconds: Wall-clock time.
        gradient_evaluations: Gradients of single images.
        forward_evaluations: Forward passes of single images beside them, the clean ones not included.
        padding: Rows of gradients and forward passes that only filled up a batch, not counted above.
        traces: How often the attack was compiled for the model.
        zero_gradients: Share of the attacked images whose very first gradient was zero everywhere, in [0, 1].
        flipped: Share of the misclassifications that a forward pass of another batch size did not see again, in [0, 1].
            They do not count.
    """

    seconds: float = 0.0
    gradient_evaluations: int = 0
    forward_evaluations: int = 0
    padding: int = 0
    traces: int = 0
    zero_gradients: float = 0.0
    flipped: float = 0.0


class Member(NamedTuple):
    """An attack of an ensemble, which attacks what those before it left.

    Attributes:
        attack: Its label.
        accuracy: Robust accuracy after it for each epsilon, in the order of the result, in [0, 1].
        costs: What it cost.
    """

    attack: str
    accuracy: tuple[float, ...]
    costs: Costs


def sum_of(costs: Sequence[Costs], **shares: float) -> Costs:
    """What several attacks cost together; shares do not add up, and are given."""
    added = {each.name: sum(getattr(cost, each.name) for cost in costs) for each in fields(Costs)}
    return Costs(**added | shares)
