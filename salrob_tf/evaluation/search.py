"""One attack over all epsilons on one shard of images, with no gradient spent on an image whose fate is known.

An image misclassified as it is counts as broken everywhere. An image broken at one epsilon is broken at every larger
one, because its adversarial lies in their balls too, and at every smaller one whose ball that adversarial lies in.
So there is one thing to find per image: the smallest epsilon that breaks it. Inside an attack an image that is broken
leaves at once and another takes its place in the batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from salrob_tf.attacks.balls import Batch
from salrob_tf.attacks.base import Attack
from salrob_tf.attacks.gradient import FGSM
from salrob_tf.evaluation.counts import ONE_DRAW, Counts, Draws
from salrob_tf.models.classifier import Classifier

SEARCHES = ("bisect", "full")
BALL_TOLERANCE = 1e-6  # by how much rounding may carry an adversarial out of its ball


@dataclass
class Sweep:
    """One attack on one shard.

    Attributes:
        attack: The attack.
        classifier: The model.
        images: `(N, height, width, channels)`, float32 in [0, 1].
        labels: True labels, int32 `(N,)`.
        clean: Whether each image is classified correctly as it is, `(N,)`.
        epsilons: Radii, ascending and distinct, `(K,)`.
        indices: Index of each image in its dataset, `(N,)`.
        seed: Seed of random starts.
        batch_size: Images per gradient.
        dtype: What gradients are computed in. Successes are judged in float32 in any case.
        report: Called with the number of images whose fate became known, and that of those still standing.
        guess: For each image a guess of the first epsilon that breaks it, as an index, `(N,)`, from another attack;
            only where a search begins depends on it. Without one, a gradient attack asks FGSM.
        keep_all: Whether `everything` keeps its adversarials, which take K times the memory of the images.
        draws: How many passes a gradient is averaged over, and how many judge an image.
    """

    attack: Attack
    classifier: Classifier
    images: np.ndarray
    labels: np.ndarray
    clean: np.ndarray
    epsilons: np.ndarray
    indices: np.ndarray
    seed: int
    batch_size: int
    dtype: str
    report: Callable[[int, int], None]
    guess: np.ndarray | None = None
    keep_all: bool = False
    draws: Draws = ONE_DRAW
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        self.batch_size = min(self.batch_size, len(self.images))
        self.aims = self.attack.aims(self.classifier, self.images, self.labels, batch_size=self.batch_size)
        self.radii = self.epsilons.astype(np.float32)
        self.found = self.images.copy()
        self.begun = np.zeros(len(self.images), bool)
        self.pivot = np.zeros(len(self.images), np.int64)
        # By how much each guess was too low so far, on average of so many answers.
        self.shift, self.answers = (np.zeros(len(self.epsilons) + 1) for _ in range(2))
        # Known to survive everything up to `survived`, and to be broken from `broken` on: neighbours when all is known.
        self.floor = int(np.sum(self.epsilons == 0)) - 1
        self.survived = np.full(len(self.images), self.floor)
        self.broken = np.where(self.clean, len(self.epsilons), 0)
        self.survived[~self.clean] = -1

    def survivors(self, search: str) -> np.ndarray:
        """Attack only what still stands.

        Args:
            search: `"full"` goes up the epsilons one by one; `"bisect"` starts at the guess, moves away from it in
                doubling steps until the answer lies between, and halves that, on the assumption that an image
                which survives one epsilon survives all smaller ones. Attacks that do not bisect, such as FGSM, go one
                by one in any case.

        Returns:
            `correct`, boolean `(K, N)`, which never rises with epsilon. `found` then holds an adversarial of the
            smallest epsilon for each image that was broken, and the image itself for the others.
        """
        self.bisect = search == "bisect" and self.attack.bisects
        if self.bisect and self.guess is None:
            middle = np.full(len(self.images), len(self.epsilons) // 2)
            self.guess = self._ask_fgsm() if self.attack.packs else middle
        self.report(int(np.sum(self.survived + 1 >= self.broken)), self._standing())
        self._packed() if self.attack.packs else self._in_rounds()
        return np.arange(len(self.epsilons))[:, None] < self.broken

    def everything(self) -> np.ndarray:
        """Attack every image at every epsilon by itself, all steps, and judge the last one (as in K's figures).

        Returns:
            `correct`, boolean `(K, N)`. With `keep_all`, `found` then holds the adversarials `(K, N, height, width,
            channels)`: of the first restart that broke the image, or of the last one. An attack that looks for the
            nearest adversarial has one for all epsilons, and the image itself where that is not within.
        """
        if self.attack.minimal:
            correct = self.survivors("full")
            if self.keep_all:
                self.found = np.where(correct[..., None, None, None], self.images, self.found)
            return correct
        every = np.arange(len(self.images))
        correct = np.ones((len(self.epsilons), len(every)), bool)
        if self.keep_all:
            self.found = np.stack([self.images] * len(self.epsilons))
        gradients, pairs, reported = self._gradients(every), 0, 0
        for k in range(len(self.epsilons)):
            for rows in self._batches(every):
                for restart in range(self.attack.restarts):
                    adversarial = self._craft(rows, np.full(len(rows), k), restart, gradients)
                    standing = correct[k, rows]
                    if self.keep_all:
                        self.found[k, rows[standing]] = adversarial[standing]
                    correct[k, rows] &= ~self._broken(adversarial, rows)
                pairs += len(rows)
                self.report(pairs // len(self.epsilons) - reported, int(correct[k].sum()))
                reported = pairs // len(self.epsilons)
        return correct

    def _packed(self) -> None:
        """Gradient attacks: a step at a time for a full batch of unlike images, epsilons, restarts and step counts."""
        attack, draws = self.attack, self.draws.gradient
        advance = attack.compiled(self.classifier, self.dtype, draws)
        queue = deque(np.flatnonzero(self.survived + 1 < self.broken))
        row, k, restart, step = (np.zeros(0, np.int64) for _ in range(4))
        adversarial = momentum = self.images[:0]
        while queue or len(row):
            fresh = np.array([queue.popleft() for _ in range(min(len(queue), self.batch_size - len(row)))], np.int64)
            if len(fresh):
                zeros = np.zeros_like(fresh)
                row, restart, step = (np.concatenate(pair) for pair in ((row, fresh), (restart, zeros), (step, zeros)))
                k = np.concatenate([k, self._next(fresh)])
                adversarial = np.concatenate([adversarial, self._start(fresh, k[-len(fresh) :], zeros)])
                momentum = np.concatenate([momentum, np.zeros_like(self.images[fresh])])
            state = (self.images[row], self.labels[row], self.aims[row], self.radii[k], adversarial, momentum)
            found, results = adversarial, advance(*(self._padded(part) for part in state))
            adversarial, momentum, hit, size = (np.array(result)[: len(row)] for result in results)
            attack.check_gradients(self.classifier, size)
            attack.check_adversarials(adversarial)
            self.counts.gradients += len(row) * draws
            self.counts.padding += self._missing(len(row)) * draws
            self._count_flat(row[step == 0], size[step == 0])
            step += 1
            if self.dtype != "float32" and hit.any():
                hit[hit] = self._broken(found[hit], row[hit])
            ended = np.flatnonzero((step == attack.steps) & ~hit)
            if len(ended):
                hit[ended] = self._broken(adversarial[ended], row[ended])
                found[ended] = adversarial[ended]
            leave, again = np.zeros(len(row), bool), np.zeros(len(row), bool)
            for slot in np.flatnonzero(hit | (step == attack.steps)):
                if not hit[slot] and restart[slot] + 1 < attack.restarts:
                    restart[slot] += 1
                else:
                    self._record(row[slot], k[slot], found[slot] if hit[slot] else None)
                    restart[slot] = 0
                leave[slot] = self.survived[row[slot]] + 1 >= self.broken[row[slot]]
                again[slot] = not leave[slot]
            if again.any():
                k[again] = self._next(row[again])
                adversarial[again] = self._start(row[again], k[again], restart[again])
                momentum[again], step[again] = 0, 0
            if leave.any():
                row, k, restart, step, adversarial, momentum = (
                    part[~leave] for part in (row, k, restart, step, adversarial, momentum)
                )

    def _in_rounds(self) -> None:
        """Other attacks: each image that is open is attacked whole, once a round."""
        gradients = self._gradients(np.flatnonzero(self.survived + 1 < self.broken))
        while len(still := np.flatnonzero(self.survived + 1 < self.broken)):
            for rows in self._batches(still):
                k = self._next(rows)
                adversarial = self._craft(rows, k, 0, gradients)
                for slot, hit in enumerate(self._broken(adversarial, rows)):
                    self._record(rows[slot], k[slot], adversarial[slot] if hit else None)

    def _next(self, rows: np.ndarray) -> np.ndarray:
        """Which epsilon each image is attacked at next."""
        low, high = self.survived[rows], self.broken[rows]
        if self.guess is None or not self.bisect:
            return low + 1
        untouched = (low == self.floor) & (high == len(self.epsilons))
        fresh = rows[untouched]
        self.pivot[fresh] = self.guess[fresh] + np.rint(self.shift[self.guess[fresh]]).astype(np.int64)
        pivot = self.pivot[rows]
        below, above = 2 * high - pivot - 1, 2 * low - pivot + 1  # away from the pivot in doubling steps
        choice = np.where(low == self.floor, below, np.where(high == len(self.epsilons), above, (low + high) // 2))
        return np.clip(np.where(untouched, pivot, choice), low + 1, high - 1)

    def _ask_fgsm(self) -> np.ndarray:
        fgsm = FGSM(self.attack.norm, loss=self.attack.loss, targeted=self.attack.targeted)
        counts = Counts()
        sweep = replace(self, attack=fgsm, guess=None, dtype="float32", report=lambda *_: None, counts=counts)
        guess = sweep.survivors("full").sum(axis=0)
        self.counts.gradients += counts.gradients
        self.counts.forwards += counts.forwards
        self.counts.padding += counts.padding
        return guess

    def _record(self, row: int, k: int, adversarial: np.ndarray | None) -> None:
        """Note what the attack at epsilon k did to an image."""
        last = len(self.epsilons)
        if adversarial is None:
            self.survived[row] = last - 1 if self.attack.minimal else k
        else:
            change = (adversarial.astype(np.float64) - self.images[row]).reshape(-1)
            smallest = np.searchsorted(self.epsilons, np.linalg.norm(change, ord=self.attack.norm) - BALL_TOLERANCE)
            self.broken[row] = max(self.floor + 1, smallest if self.attack.minimal else min(smallest, k))
            if self.attack.minimal:
                self.survived[row] = self.broken[row] - 1
            self.found[row] = adversarial
        known = bool(self.survived[row] + 1 >= self.broken[row])
        if known and self.guess is not None:
            guess = self.guess[row]
            self.answers[guess] += 1
            self.shift[guess] += (self.broken[row] - guess - self.shift[guess]) / self.answers[guess]
        self.report(int(known), self._standing())

    def _standing(self) -> int:
        return int(np.sum(self.broken == len(self.epsilons)))

    def _batches(self, rows: np.ndarray) -> list[np.ndarray]:
        return [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]

    def _start(self, rows: np.ndarray, k: np.ndarray, restart: np.ndarray) -> np.ndarray:
        return self.attack.start(self.images[rows], self.radii[k], self.indices[rows], self.seed, restart)

    def _gradients(self, rows: np.ndarray) -> np.ndarray | None:
        """FGSM's gradients at the clean images of `rows`; nothing for other attacks."""
        if not isinstance(self.attack, FGSM):
            return None
        gradients = np.zeros_like(self.images)
        for part in self._batches(rows):
            images, aims = self._padded(self.images[part]), self._padded(self.aims[part])
            draws = self.draws.gradient
            found, sizes = self.attack.gradients(self.classifier, images, aims, self.dtype, draws)
            gradients[part] = found[: len(part)]
            self.counts.gradients += len(part) * draws
            self.counts.padding += self._missing(len(part)) * draws
            self._count_flat(part, sizes[: len(part)])
        return gradients

    def _craft(self, rows: np.ndarray, k: np.ndarray, restart: int, gradients: np.ndarray | None) -> np.ndarray:
        if isinstance(self.attack, FGSM) and gradients is not None:
            return self.attack.along(self.images[rows], gradients[rows], self.radii[k])
        self.counts.gradients += len(rows) * self.attack.gradients_per_image * self.draws.gradient
        self.counts.forwards += len(rows) * self.attack.forwards_per_image
        batch = Batch(self.images[rows], self.labels[rows], self.aims[rows], self.radii[k], self.indices[rows])
        adversarial, sizes = self.attack.craft(
            self.classifier, batch, self.seed, restart, self.dtype, self.draws.gradient
        )
        self._count_flat(rows, sizes)
        return adversarial

    def _broken(self, adversarial: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Judge adversarials by the untouched model, in float32."""
        self.attack.check_adversarials(adversarial)
        draws = self.draws.judging
        self.counts.forwards += len(rows) * draws
        self.counts.padding += self._missing(len(rows)) * draws
        images, labels = self._padded(adversarial), self._padded(self.labels[rows])
        return ~self.classifier.classifies(images, labels, self.batch_size, draws)[: len(rows)]

    def _count_flat(self, rows: np.ndarray, sizes: np.ndarray) -> None:
        """Note the largest magnitudes in first gradients, those of each image's first attempt."""
        if len(sizes):
            first = ~self.begun[rows]
            self.counts.attacked += int(np.sum(first))
            self.counts.flat += int(np.sum(sizes[first] == 0))
            self.begun[rows] = True

    def _padded(self, batch: np.ndarray) -> np.ndarray:
        """Repeat the last row up to a full batch or some eighths of it: few shapes, each of which costs a set-up."""
        missing = self._missing(len(batch))
        return batch if not missing else np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])

    def _missing(self, rows: int) -> int:
        return -rows % max(1, self.batch_size // 8)
