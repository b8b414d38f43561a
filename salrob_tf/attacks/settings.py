"""What an attack is asked for: its settings, checked, and what follows from them alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from salrob_tf.attacks.balls import check_norm
from salrob_tf.attacks.losses import LOSSES
from salrob_tf.attacks.starts import MOST_RESTARTS
from salrob_tf.checks import check_choice, check_flag, check_number, check_whole


@dataclass(frozen=True)
class AttackSettings:
    """Settings that all attacks have.

    Attributes:
        norm: Norm of the ball, `np.inf` or 2, or as text `"inf"` or `"2"`.
        steps: Number of gradient steps; 1 for one-step attacks.
        relative_step: Step size over epsilon, in (0, 1]; `None` is `default_step / steps`, at most 1.
        restarts: How many starts are tried; 1 for attacks that start at the image. An image counts as broken if
            any of them breaks it.
        loss: The loss that is climbed, a key of `LOSSES`.
        targeted: Whether images are driven to a target class, instead of away from their label. What counts as
            broken stays the same: not classified as the label.

    Raises:
        ValueError: If a setting is out of its range.
    """

    name: ClassVar[str]
    random_start: ClassVar[bool] = False
    default_step: ClassVar[float] = 1.0
    packs: ClassVar[bool] = True  # whether a sweep may run it step by step in mixed batches
    minimal: ClassVar[bool] = False  # whether it looks for the nearest adversarial, whatever epsilon is
    takes_loss: ClassVar[bool] = True  # whether `loss` is what it climbs; if not, it has one of its own
    bisects: ClassVar[bool] = True  # whether a sweep may look for the smallest epsilon by bisection

    norm: float = np.inf
    steps: int = field(default=1, init=False)
    relative_step: float | None = field(default=None, init=False)
    restarts: int = field(default=1, init=False)
    loss: str = field(default="cross_entropy", kw_only=True)
    targeted: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        self._settle(
            norm=check_norm(self.norm),
            loss=check_choice("loss", self.loss, LOSSES),
            targeted=check_flag("targeted", self.targeted),
            steps=check_whole("steps", self.steps, 1),
            restarts=check_whole("restarts", self.restarts, 1, MOST_RESTARTS),
        )
        if self.loss != "cross_entropy" and not self.takes_loss:
            raise ValueError(
                f"{self.name} climbs a margin of its own: leave the loss out. Received: loss={self.loss!r}"
            )
        if self.relative_step is not None:
            self._settle(relative_step=check_number("relative_step", self.relative_step, above=0, high=1))

    def _settle(self, **settings: Any) -> None:
        """Keep settings as plain Python has them, because they are compared and saved."""
        for setting, value in settings.items():
            object.__setattr__(self, setting, value)

    @property
    def label(self) -> str:
        """What results and figures call the attack, and `make_attack` knows it by; one sweep needs different ones."""
        parts = [self.name, *([] if self.loss == "cross_entropy" else [self.loss])]
        return "-".join([*parts, *(["targeted"] if self.targeted else [])])

    @property
    def climbs_cross_entropy(self) -> bool:
        """Whether it follows gradients of the cross-entropy."""
        return self.takes_loss and self.loss == "cross_entropy"

    @property
    def gradients_per_image(self) -> int:
        """Gradients that `craft` takes of each image."""
        return self.steps

    @property
    def forwards_per_image(self) -> int:
        """Forward passes that `craft` makes of each image beside its gradients."""
        return 0

    def step_size(self, epsilon: Any) -> Any:
        """Size of a step at `epsilon`, a number or a tensor, in the units of the images."""
        relative = min(1.0, self.default_step / self.steps) if self.relative_step is None else self.relative_step
        return relative * epsilon

    def check_classes(self, num_classes: int) -> None:
        """Check that there are enough classes.

        Raises:
            ValueError: If the loss needs more.
        """
        if self.loss == "dlr" and num_classes < 3:
            raise ValueError(f"The DLR loss needs three classes or more: use margin. Received: {num_classes}")
