"""What attacking a model cost."""

from __future__ import annotations

from dataclasses import dataclass


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
    """

    seconds: float = 0.0
    gradient_evaluations: int = 0
    forward_evaluations: int = 0
    padding: int = 0
    traces: int = 0
    zero_gradients: float = 0.0
