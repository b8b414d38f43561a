"""Epsilons by themselves, as a family of tests: each difference of two ways of training, corrected for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from salrob_tf.checks import epsilon_text
from salrob_tf.results.crossed import CONFIDENCE, largest_t, mean_of


@dataclass(frozen=True)
class EpsilonDifference:
    """How far two ways of training differ at one epsilon of the worst case.

    Attributes:
        epsilon: Radius of the ball.
        difference: Mean robust accuracy of the second less that of the first.
        interval: 95 % interval that holds for all epsilons of the family together.
        p_value: Of the two-sided test, corrected for the family.
    """

    epsilon: float
    difference: float
    interval: tuple[float, float]
    p_value: float

    @property
    def told(self) -> bool:
        """Whether anything varies here: where all images of all seeds differ alike, interval and p say nothing."""
        return self.interval[0] < self.interval[1]

    def record(self) -> dict[str, Any]:
        """The difference as `results.json` holds it."""
        told = {"interval": list(self.interval), "p_value": self.p_value}
        found = told if self.told else dict.fromkeys(told)
        return {"epsilon": self.epsilon, "difference": self.difference, **found}

    def __str__(self) -> str:
        low, high = self.interval
        ends = f"[{low:+.1%}, {high:+.1%}]" if self.told else "none: all seeds differ alike"
        return f"{epsilon_text(self.epsilon):>8} {self.difference:+11.1%}  {ends}"


def holm(p_values: Sequence[float]) -> np.ndarray:
    """P values corrected for how many there are (Holm 1979)."""
    order = np.argsort(p_values)
    raised = np.sort(p_values) * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(raised), 1)
    return corrected


def family_of(epsilons: Iterable[float], differences: np.ndarray) -> tuple[EpsilonDifference, ...]:
    """Each epsilon by itself, corrected for all of them by the largest t.

    Args:
        epsilons: Radii, `(K,)`.
        differences: At each, of each image in each seed, `(K, S, N)`.
    """
    largest, found = largest_t(differences), []
    for epsilon, each in zip(epsilons, differences, strict=True):
        mean = mean_of(each)
        half = float(np.quantile(largest, CONFIDENCE) * mean.error)
        p_value = float((1 + np.sum(largest >= abs(mean.t))) / (1 + len(largest)))
        interval = max(-1.0, mean.estimate - half), min(1.0, mean.estimate + half)
        found.append(EpsilonDifference(float(epsilon), mean.estimate, interval, p_value))
    return tuple(found)
