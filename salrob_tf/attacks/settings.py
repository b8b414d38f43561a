"""What an attack is asked for: its settings, checked, and what follows from them alone."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np

from salrob_tf.attacks.balls import check_norm
from salrob_tf.attacks.losses import LOSSES
from salrob_tf.attacks.starts import MOST_TRIES
from salrob_tf.checks import check_choice, check_flag, check_number, check_whole

SUFFIXES = "suffixes"  # metadata of a field: what values of it add to the names of attacks
MOST_TARGETS = 9  # that AutoAttack tries (Croce and Hein 2020, section 5)


@dataclass(frozen=True)
class AttackSettings:
    """Settings that all attacks have.

    Attributes:
        norm: Norm of the ball, `np.inf` or 2, or as text `"inf"` or `"2"`.
        steps: Number of steps; 1 for one-step attacks.
        relative_step: Step size over epsilon, in (0, 1]; `None` is `default_step / steps`, at most 1 (APGD finds its
            own).
        restarts: How many starts are tried; 1 for attacks that start at the image. An image counts as broken if
            any of them breaks it.
        loss: The loss that is maximised, or at a target class minimised, a key of `LOSSES`.
        targeted: Whether images are driven to a target class, instead of away from their label. What counts as
            broken stays the same: not classified as the label.
        target_classes: How many target classes a targeted attack tries, from the likeliest wrong one on; `None` is 9,
            or all wrong ones where there are fewer.

    Raises:
        ValueError: If a setting is out of its range.
    """

    # What an attack declares; nothing that runs attacks asks which one it is.
    name: ClassVar[str]
    random_start: ClassVar[bool] = False
    default_step: ClassVar[float] = 1.0
    takes_loss: ClassVar[bool] = False  # whether `loss` is what it maximises; if not, it has one of its own
    uses_gradients: ClassVar[bool] = True  # whether gradients of the model drive it
    stepwise: ClassVar[bool] = False  # whether it has `init` and `step`, so that unlike images share a batch
    one_gradient: ClassVar[bool] = False  # whether one gradient of each image serves all epsilons
    nearest: ClassVar[bool] = False  # whether it looks for the nearest adversarial, whatever epsilon is
    by_name: ClassVar[tuple[str, ...]] = ("norm", "steps", "restarts")  # what `make_attack` hands on to it

    norm: float = np.inf
    steps: int = field(default=1, init=False)
    relative_step: float | None = field(default=None, init=False)
    restarts: int = field(default=1, init=False)
    loss: str = field(
        default="cross_entropy",
        kw_only=True,
        metadata={SUFFIXES: {loss: loss for loss in LOSSES if loss != "cross_entropy"}},
    )
    targeted: bool = field(default=False, kw_only=True, metadata={SUFFIXES: {True: "targeted"}})
    target_classes: int | None = field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        self._settle(
            norm=check_norm(self.norm),
            loss=check_choice("loss", self.loss, LOSSES),
            targeted=check_flag("targeted", self.targeted),
            steps=check_whole("steps", self.steps, 1),
            restarts=check_whole("restarts", self.restarts, 1, MOST_TRIES),
        )
        if self.target_classes is not None:
            self._settle(target_classes=check_whole("target_classes", self.target_classes, 1))
        if self.loss != "cross_entropy" and not self.takes_loss:
            raise ValueError(
                f"{self.name} climbs a margin of its own: leave the loss out. Received: loss={self.loss!r}"
            )
        if not self.targeted and (self.target_classes or 1) > 1:
            raise ValueError(
                f"Only a targeted attack has target classes. Received: target_classes={self.target_classes}"
            )
        targets = (self.target_classes or MOST_TARGETS) if self.targeted else 1
        if self.restarts * targets > MOST_TRIES:
            raise ValueError(
                f"`restarts` times `target_classes` must be {MOST_TRIES} or less. "
                f"Received: {self.restarts} times {targets}"
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
        named = (each for each in fields(self) if SUFFIXES in each.metadata)
        suffixes = (each.metadata[SUFFIXES].get(getattr(self, each.name)) for each in named)
        return "-".join([self.name, *filter(None, suffixes)])

    def targets_of(self, num_classes: int) -> int:
        """How many classes an image is driven to, of so many that there are; 1 where it is driven from its label."""
        return min(self.target_classes or MOST_TARGETS, num_classes - 1) if self.targeted else 1

    def tries(self, num_classes: int) -> int:
        """How often an image is attacked at an epsilon before it counts as standing: each target class, each restart.

        Try t is restart `t % restarts` towards target class `t // restarts`.
        """
        return self.restarts * self.targets_of(num_classes)

    @property
    def maximises_cross_entropy(self) -> bool:
        """Whether it follows gradients of the cross-entropy."""
        return self.takes_loss and self.loss == "cross_entropy"

    @property
    def bisects(self) -> bool:
        """Whether a sweep may look for the smallest epsilon by bisection.

        Not along one gradient, where a larger step may fail where a smaller won, nor where one attack serves all.
        """
        return not (self.one_gradient or self.nearest)

    def gradients_per_step(self, num_classes: int) -> int:
        """Gradients that a step takes of each image, of a model with so many classes."""
        return int(self.uses_gradients)

    def forwards_per_step(self, draws: int = 1) -> int:
        """Forward passes that a step of so many draws makes of each image beside its gradients."""
        return 0

    @property
    def reach(self) -> float:
        """How far steps lead at most, in the units of the images."""
        return np.inf

    @property
    def resolution(self) -> float:
        """How large the changes are that it learns from where it takes no gradients, in the units of the images."""
        return 0.01

    def step_size(self, epsilon: Any) -> Any:
        """Size of a step at `epsilon`, a number or a tensor, in the units of the images."""
        relative = min(1.0, self.default_step / self.steps) if self.relative_step is None else self.relative_step
        return relative * epsilon

    def check_classes(self, num_classes: int) -> None:
        """Check that there are enough classes.

        Raises:
            ValueError: If the loss or the target classes need more.
        """
        if self.loss == "dlr" and num_classes < 3 + self.targeted:
            least = "at a target class needs four" if self.targeted else "needs three"
            raise ValueError(f"The DLR loss {least} classes or more: use margin. Received: {num_classes}")
        if self.targeted and (self.target_classes or 1) >= num_classes:
            raise ValueError(
                f"`target_classes` must be fewer than the classes, {num_classes}. Received: "
                f"target_classes={self.target_classes}"
            )
