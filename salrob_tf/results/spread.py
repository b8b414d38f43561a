"""How far an accuracy may be off, over images or over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

FEW_SEEDS = 4  # of fewer, each is shown and no interval over seeds


def accuracy_interval(correct: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of an accuracy (Wilson 1927).

    Args:
        correct: Outcome of each image, boolean `(N,)`.
        confidence: Coverage, in (0, 1).

    Returns:
        Lower and upper bound, in [0, 1].
    """
    interval = stats.binomtest(int(correct.sum()), len(correct)).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class Spread:
    """An accuracy over images or over seeds, with how far it may be off.

    Attributes:
        mean: Accuracy, or mean over seeds, in [0, 1].
        low: Lower end, in [0, 1].
        high: Upper end, in [0, 1].
        kind: What the ends are, in words.
    """

    mean: float
    low: float
    high: float
    kind: str


def spread(outcomes: Sequence[np.ndarray]) -> Spread:
    """What is shown of an accuracy, in tables and figures alike.

    Args:
        outcomes: For each seed, the outcome of each image, boolean `(N,)`.

    Returns:
        Of one seed Wilson's 95 % interval over images; of two or three the lowest and the highest, because an
        interval over so few is as wide as everything; of more Student's 95 % interval over seeds.
    """
    accuracies = np.array([correct.mean() for correct in outcomes])
    mean, seeds = float(accuracies.mean()), len(accuracies)
    if seeds == 1:
        return Spread(mean, *accuracy_interval(outcomes[0]), f"95 % over {len(outcomes[0])} images (Wilson)")
    if seeds < FEW_SEEDS:
        return Spread(mean, float(accuracies.min()), float(accuracies.max()), f"lowest and highest of {seeds} seeds")
    half = float(stats.t.ppf(0.975, seeds - 1) * stats.sem(accuracies))
    return Spread(mean, max(0.0, mean - half), min(1.0, mean + half), f"95 % over {seeds} seeds (Student)")
