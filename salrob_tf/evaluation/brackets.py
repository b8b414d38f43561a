"""What is known of each image of a shard: which epsilons it survives, and which break it.

An image misclassified as it is counts as broken everywhere. An image broken at one epsilon is broken at every larger
one, because its adversarial lies in their balls too, and at every smaller one whose ball that adversarial lies in.
So there is one thing to find per image: the smallest epsilon that breaks it.
"""

from __future__ import annotations

import numpy as np

SEARCHES = ("bisect", "full")
BALL_TOLERANCE = 1e-6  # by how much rounding may carry an adversarial out of its ball


class Brackets:
    """For each image two neighbouring epsilons, in the end: the last that it survives and the first that breaks it.

    Args:
        clean: Whether each image is classified correctly as it is, boolean `(N,)`.
        epsilons: Radii, ascending and distinct, `(K,)`.
        guess: For each image a guess of the first epsilon that breaks it, as an index from 0 to K, `(N,)`, where the
            search is to start there, move away from it in doubling steps until the answer lies between, and halve
            that, on the assumption that an image which survives one epsilon survives all smaller ones. Without one
            it goes up the epsilons one by one, which assumes nothing.
        broken: For each image the first epsilon that is known to break it, as an index from 0 to K, `(N,)`, if any is.
    """

    def __init__(
        self,
        clean: np.ndarray,
        epsilons: np.ndarray,
        guess: np.ndarray | None = None,
        broken: np.ndarray | None = None,
    ) -> None:
        self.epsilons, self.guess = epsilons, guess
        broken = np.full(len(clean), len(epsilons)) if broken is None else broken
        self._pivot = broken.astype(np.int64) - 1
        # By how much each guess was too low so far, on average of so many answers.
        self._shift, self._answers = (np.zeros(len(epsilons) + 1) for _ in range(2))
        self._floor = int(np.sum(epsilons == 0)) - 1
        # Known to survive everything up to `survived`, and to be broken from `broken` on: neighbours when all is known.
        self.survived = np.where(clean, self._floor, -1)
        self.broken = np.where(clean, np.maximum(broken, self._floor + 1), 0)

    @property
    def known(self) -> np.ndarray:
        """Whether the fate of each image is known, `(N,)`."""
        return self.survived + 1 >= self.broken

    @property
    def open(self) -> np.ndarray:
        """Rows of the images whose fate is not known."""
        return np.flatnonzero(~self.known)

    @property
    def standing(self) -> int:
        """How many images nothing has broken."""
        return int(np.sum(self.broken == len(self.epsilons)))

    @property
    def correct(self) -> np.ndarray:
        """Whether each image is classified correctly under each epsilon, `(K, N)`; it never rises with epsilon."""
        return np.arange(len(self.epsilons))[:, None] < self.broken

    def next(self, rows: np.ndarray) -> np.ndarray:
        """At which epsilon, as an index, each of some open images is to be attacked."""
        low, high = self.survived[rows], self.broken[rows]
        if self.guess is None:
            return low + 1
        untouched = (low == self._floor) & (high == len(self.epsilons))
        fresh = rows[untouched]
        self._pivot[fresh] = self.guess[fresh] + np.rint(self._shift[self.guess[fresh]]).astype(np.int64)
        pivot = self._pivot[rows]
        below, above = 2 * high - pivot - 1, 2 * low - pivot + 1  # away from the pivot in doubling steps
        choice = np.where(low == self._floor, below, np.where(high == len(self.epsilons), above, (low + high) // 2))
        return np.clip(np.where(untouched, pivot, choice), low + 1, high - 1)

    def survives(self, row: int, k: int) -> None:
        """Note that an image survived an attack at epsilon k."""
        self.survived[row] = k
        self._learn(row)

    def falls(self, row: int, k: int, size: float) -> None:
        """Note that an image fell at epsilon k, to a change of this size in the norm of the ball."""
        smallest = min(int(np.searchsorted(self.epsilons, size - BALL_TOLERANCE)), k)
        self.broken[row] = max(self._floor + 1, smallest)
        self._learn(row)

    def leave(self, rows: np.ndarray) -> None:
        """Look no further into some images."""
        self.survived[rows] = self.broken[rows] - 1

    def settles(self, row: int, size: float) -> None:
        """Note how far the nearest adversarial of an image is, after which no epsilon is open; infinity for none."""
        if size < np.inf:
            within = max(self._floor + 1, int(np.searchsorted(self.epsilons, size - BALL_TOLERANCE)))
            self.broken[row] = min(self.broken[row], within)
        self.survived[row] = self.broken[row] - 1

    def _learn(self, row: int) -> None:
        if self.guess is not None and self.known[row]:
            guess = self.guess[row]
            self._answers[guess] += 1
            self._shift[guess] += (self.broken[row] - guess - self._shift[guess]) / self._answers[guess]
