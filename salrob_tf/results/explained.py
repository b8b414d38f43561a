"""How much of a difference in robustness margin and gradient norm explain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from salrob_tf.results.measures import FIRST_ORDER, MARGIN, SMALLEST


@dataclass(frozen=True)
class Explained:
    """How much of a difference in robustness the first order explains, over images.

    Attributes:
        images: How many images are in it: those that both networks classify correctly and break within the grid.
        r_squared: Share of the variance of the differences of log smallest epsilons that the difference of log first
            orders explains in a straight line.
        slope: Of that line: 1 where the networks are linear.
        margin_share: What the difference of log margins alone explains.
        gradient_share: What the difference of log gradient norms alone explains.
        found: Mean difference of log2 smallest epsilons, second minus first: 1 is twice as large.
        predicted: The same by the first order.
    """

    images: int
    r_squared: float
    slope: float
    margin_share: float
    gradient_share: float
    found: float
    predicted: float

    @property
    def named(self) -> dict[str, float]:
        """What tables say of it, by name."""
        return {
            "log2 of the smallest epsilon over the first way's, found": self.found,
            "the same, predicted by margin over gradient norm": self.predicted,
            "its variance over images explained by margin and gradient norm": self.r_squared,
            "the same, by the margin alone": self.margin_share,
            "the same, by the gradient norm alone": self.gradient_share,
        }


def explained(margins: np.ndarray, norms: np.ndarray, smallest: np.ndarray) -> Explained:
    """Hold the difference of two networks' smallest epsilons against that of margin and gradient norm.

    Args:
        margins: Of two networks at the same images, `(2, N)`, as `Mechanism` has them: above 0 where they are right.
        norms: Of the margins' input gradients `(2, N)`: L1 where epsilons are of L-infinity, L2 where they are of L2.
        smallest: Smallest epsilons `(2, N)` from `smallest_epsilons`.

    Raises:
        ValueError: If shapes differ, or fewer than three images can be compared.
    """
    parts = [np.asarray(each, float) for each in (margins, norms, smallest)]
    if any(each.ndim != 2 or len(each) != 2 or each.shape != parts[0].shape for each in parts):
        raise ValueError(
            "Both networks must be measured at the same images, (2, N). "
            f"Received: {', '.join(str(each.shape) for each in parts)}"
        )
    usable = np.all([np.isfinite(each) & (each > 0) for each in parts], axis=(0, 1))
    if usable.sum() < 3:
        raise ValueError(f"Fewer than three images can be compared. Received: {usable.sum()}")
    by_margin, by_gradient, found = (np.diff(np.log2(each[:, usable]), axis=0)[0] for each in parts)
    by_gradient = -by_gradient
    predicted = by_margin + by_gradient
    slope = np.cov(predicted, found)[0, 1] / predicted.var(ddof=1) if np.ptp(predicted) else 0.0
    return Explained(
        images=int(usable.sum()),
        r_squared=_share(predicted, found),
        slope=float(slope),
        margin_share=_share(by_margin, found),
        gradient_share=_share(by_gradient, found),
        found=float(found.mean()),
        predicted=float(predicted.mean()),
    )


def explained_by(
    one: Mapping[str, np.ndarray], two: Mapping[str, np.ndarray], largest_epsilon: float
) -> Explained | None:
    """`explained` of what was measured of two networks, by name; `None` where too few images can be compared."""
    margins, first_order, smallest = (np.stack([one[name], two[name]]) for name in (MARGIN, FIRST_ORDER, SMALLEST))
    norms = np.divide(margins, first_order, out=np.zeros(margins.shape), where=first_order > 0)
    try:
        return explained(margins, norms, np.where(smallest > 1.5 * largest_epsilon, np.inf, smallest))
    except ValueError:
        return None


def _share(one: np.ndarray, two: np.ndarray) -> float:
    return float(np.corrcoef(one, two)[0, 1] ** 2) if np.ptp(one) and np.ptp(two) else 0.0
