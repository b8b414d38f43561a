"""Auto-PGD (Croce and Hein 2020, arXiv 2003.01690, section 4 and algorithm 1): PGD that finds its own step size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from salrob_tf.attacks.ascent import GradientAttack
from salrob_tf.attacks.balls import Ball, Batch, steepest
from salrob_tf.attacks.base import State
from salrob_tf.attacks.gradient import FGSM
from salrob_tf.attacks.starts import random_starts
from salrob_tf.checks import check_number
from salrob_tf.models.classifier import Classifier


@dataclass(frozen=True)
class APGD(GradientAttack):
    """Auto-PGD: steps with momentum, halved and begun again from the best point where they lead no further.

    The first step is of 2 epsilon. Where this text leaves a choice, it is that of the authors' own program.

    Example:
        >>> attack = sr.APGD(steps=20, loss="dlr")
        >>> adversarial = attack(network, images, labels, epsilon=0.1)

    Attributes:
        momentum: Share of a step that is new; the rest goes where the step before it went, in (0, 1].
        rising_share: Steps are halved where the loss rose in no more than this share of those since the last
            checkpoint (rho in the paper's condition 1), in [0, 1].
    """

    name: ClassVar[str] = "apgd"
    random_start: ClassVar[bool] = True
    default_step: ClassVar[float] = 2.0
    by_name: ClassVar[tuple[str, ...]] = ("norm", "restarts")  # 100 steps are what the name stands for
    steps: int = 100
    restarts: int = 1
    target_classes: int | None = field(default=None, kw_only=True)
    momentum: float = 0.75
    rising_share: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        self._settle(
            momentum=check_number("momentum", self.momentum, above=0, high=1),
            rising_share=check_number("rising_share", self.rising_share, low=0, high=1),
        )

    @property
    def scout(self) -> FGSM:
        """What is asked where a search is best begun: one gradient for all epsilons."""
        return FGSM(self.norm, loss=self.loss, targeted=self.targeted)

    def step_size(self, epsilon: Any) -> Any:
        """Size of the first step."""
        return self.default_step * epsilon

    @property
    def windows(self) -> np.ndarray:
        """How many steps were taken since the last checkpoint at each that is one, else 0; int32 `(steps,)`.

        The first is after 22 % of the steps, each further one 3 % sooner, but at least 6 %.
        """
        found = np.zeros(self.steps, np.int32)
        window, least, less = (max(1, int(share * self.steps)) for share in (0.22, 0.06, 0.03))
        last = 0
        while (last := last + window) < self.steps:
            found[last] = window
            window = max(window - less, least)
        return found

    def start(self, batch: Batch, seed: int) -> np.ndarray:
        """At random on the edge of the ball, clipped to [0, 1]."""
        return random_starts(batch, self.norm, seed, on_edge=True)

    def init(self, classifier: Classifier, batch: Batch, seed: int) -> State:
        """A state that has seen nothing yet."""
        start = self.start(batch, seed)
        zeros = np.zeros(len(start), np.float32)
        return {
            "images": start,
            "before": start,  # where the last step began
            "best": start,
            "best_gradient": np.zeros_like(start),
            "best_loss": zeros,
            "loss": zeros,
            "best_at_checkpoint": zeros,
            "halved_at_checkpoint": np.ones(len(start), bool),
            "rises": np.zeros(len(start), np.int32),
            "size": np.ones(len(start), np.float32),  # of a step, over that of the first
            "step": np.zeros(len(start), np.int32),
        }

    def craft(
        self, classifier: Classifier, batch: Batch, seed: int, dtype: str = "float32", draws: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """All steps on one batch; an image that was misclassified on the way is handed out as it last was."""
        state, sizes, found = self.init(classifier, batch, seed), [], batch.images.copy()
        fell, batch = np.zeros(len(found), bool), batch.as_tensors()
        for _ in range(self.steps):
            before = np.asarray(state["images"])
            state, seen = self.step(classifier, batch, state, dtype, draws)
            broken = np.asarray(seen.broken)
            found[broken], fell = before[broken], fell | broken
            sizes.append(seen.sizes)
        self.check_gradients(classifier, np.stack(sizes))
        found[~fell] = self.outcome(state, draws)[~fell]
        return found, np.asarray(sizes[0])

    def outcome(self, state: State, draws: int = 1) -> np.ndarray:
        """Where the last step led; of gradients over several draws, where the mean loss was highest."""
        return np.asarray(state["images" if draws == 1 else "best"])

    def move(self, state: State, gradient: tf.Tensor, loss: tf.Tensor, ball: Ball) -> State:
        """Judge the step that led here, and take the next one."""
        first, window = tf.equal(state["step"], 0), tf.gather(self.windows, state["step"])
        rises = state["rises"] + tf.cast(~first & (loss > state["loss"]), tf.int32)
        better = first | (loss > state["best_loss"])
        best_loss = tf.where(better, loss, state["best_loss"])
        best = _chosen(better, state["images"], state["best"])
        best_gradient = _chosen(better, gradient, state["best_gradient"])

        due = window > 0
        few_rises = tf.cast(rises, tf.float32) <= self.rising_share * tf.cast(window, tf.float32)
        no_better = ~state["halved_at_checkpoint"] & (best_loss <= state["best_at_checkpoint"])
        halve = due & (few_rises | no_better)
        size = tf.where(halve, state["size"] / 2, state["size"])
        images = _chosen(halve, best, state["images"])

        step = self.step_size(ball.epsilon) * size[:, None, None, None]
        moved = ball.project(images + steepest(_chosen(halve, best_gradient, gradient), step, self.norm))
        new = tf.where(first, 1.0, self.momentum)[:, None, None, None]
        return {
            "images": images + new * (moved - images) + (1 - new) * (images - state["before"]),
            "before": images,
            "best": best,
            "best_gradient": best_gradient,
            "best_loss": best_loss,
            "loss": loss,
            "best_at_checkpoint": tf.where(first | due, best_loss, state["best_at_checkpoint"]),
            "halved_at_checkpoint": tf.where(due, halve, state["halved_at_checkpoint"]),
            "rises": tf.where(due, 0, rises),
            "size": size,
            "step": state["step"] + 1,
        }


def _chosen(which: tf.Tensor, images: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    return tf.where(which[:, None, None, None], images, others)
