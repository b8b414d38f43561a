"""What a stronger attack broke of a random part of the images, and how much may have been missed of all."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from salrob_tf.checks import epsilon_text
from salrob_tf.results.costs import Costs


@dataclass(frozen=True)
class Audit:
    """Some images, chosen at random, that were attacked once more at some epsilons, from where a curve ended.

    Attributes:
        by: What they were attacked by.
        images: How many they are.
        epsilons: Radii of the balls, A of them.
        standing: How many the curve has standing at each, A numbers.
        broken: How many of those fell, A numbers.
        costs: What it cost.
    """

    by: str
    images: int
    epsilons: tuple[float, ...]
    standing: tuple[int, ...]
    broken: tuple[int, ...]
    costs: Costs = field(default_factory=Costs)

    @property
    def missed(self) -> np.ndarray:
        """By how much the curve is too high at each epsilon: 95 % intervals `(A, 2)`, in [0, 1] (Clopper-Pearson)."""
        tests = (stats.binomtest(broken, self.images) for broken in self.broken)
        intervals = (test.proportion_ci(0.95, method="exact") for test in tests)
        return np.array([(interval.low, interval.high) for interval in intervals])

    def __str__(self) -> str:
        at = "; ".join(
            f"{broken} of {standing} at {epsilon_text(epsilon)}, {100 * low:.1f} to {100 * high:.1f} points"
            for epsilon, standing, broken, (low, high) in zip(
                self.epsilons, self.standing, self.broken, self.missed, strict=True
            )
        )
        gradients, forwards = self.costs.gradient_evaluations, self.costs.forward_evaluations
        return (
            f"audit of {self.images} images by {self.by}, which broke, so that the curve is too high by: {at} "
            f"({gradients:,} gradients, {forwards:,} forward passes)"
        )
