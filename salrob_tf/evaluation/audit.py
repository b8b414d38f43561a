"""Which images are attacked once more at which epsilons, to see what an attack has missed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from salrob_tf.attacks.autoattack import AutoAttack
from salrob_tf.attacks.starts import hashed
from salrob_tf.evaluation.counts import Counts
from salrob_tf.results.audits import Audit

SHARE = 0.1  # of the images
LEAST = 50  # images, or all
LEVELS = (0.75, 0.5, 0.25)  # of clean accuracy, where most can be missed


def audited_images(indices: np.ndarray, seed: int) -> np.ndarray:
    """Rows of the images that are audited, ascending."""
    return drawn(indices, seed, max(LEAST, round(SHARE * len(indices))))


def drawn(indices: np.ndarray, seed: int, count: int) -> np.ndarray:
    """Rows of so many images, or of all, ascending: a random choice by the seed and their indices alone."""
    order = np.argsort(hashed(hashed(np.full(1, seed, np.uint64)) ^ indices.astype(np.uint64)), kind="stable")
    return np.sort(order[:count])


def audited_epsilons(correct: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Places of up to three epsilons, ascending, at which a curve `(K, N)` is nearest to shares of clean accuracy.

    Of several that are as near, the largest: more can be missed there.
    """
    accuracy, levels = correct.mean(axis=1), np.array(LEVELS) * clean.mean()
    from_above = np.abs(accuracy[::-1, None] - levels).argmin(axis=0)
    return np.unique(len(accuracy) - 1 - from_above)


@dataclass
class Tally:
    """An audit as it adds up, shard by shard.

    Attributes:
        places: Of the epsilons that are audited among all, ascending, `(A,)`.
        images: How many images met the auditors.
        standing: How many of them stood at each epsilon before, `(A,)`.
        broken: How many of those fell, `(A,)`.
        counts: What it cost.
    """

    places: np.ndarray
    images: int = 0
    standing: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    broken: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    counts: Counts = field(default_factory=Counts)

    def add(self, images: int, standing: np.ndarray, broken: np.ndarray, counts: Counts) -> None:
        """Add what was found in a shard."""
        self.images += images
        self.standing, self.broken = self.standing + standing, self.broken + broken
        self.counts.add(counts)

    def audit(self, epsilons: np.ndarray) -> Audit:
        """What it comes to in the end, of all epsilons, ascending."""
        return Audit(
            by=AutoAttack.label,
            images=self.images,
            epsilons=tuple(epsilons[self.places].tolist()),
            standing=tuple(self.standing.tolist()),
            broken=tuple(self.broken.tolist()),
            costs=self.counts.costs(0),
        )
