"""One attack over all epsilons on one shard of images, with no gradient spent on an image whose fate is known.

Inside an attack an image that is broken leaves at once and another takes its place in the batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from salrob_tf.attacks.base import Attack, Seen
from salrob_tf.evaluation.brackets import Brackets
from salrob_tf.evaluation.counts import ONE_DRAW, Counts, Draws
from salrob_tf.evaluation.crafting import Crafting
from salrob_tf.evaluation.judge import Judge
from salrob_tf.evaluation.leads import Leads, Left, leads_of
from salrob_tf.evaluation.slots import Slots
from salrob_tf.models.classifier import Classifier


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
        before: What other attacks left: only what still stands is attacked, from the largest such epsilon down.
        near: How near to falling an image must be; see `Link`.
        hope: How near to falling a try must bring it; see `Link`.
        guess: For each image a guess of the first epsilon that breaks it, as an index, `(N,)`, from another attack;
            only where a search begins depends on it. Without one, the attack's scout is asked.
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
    before: Left | None = None
    near: float = np.inf
    hope: float = np.inf
    guess: np.ndarray | None = None
    keep_all: bool = False
    draws: Draws = ONE_DRAW
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        self.batch_size = min(self.batch_size, len(self.images))
        self.tries = self.attack.tries(self.classifier.num_classes)
        self.found = (self.before.found if self.before else self.images).copy()
        self.brackets = self._bracket(None)
        self.leads = Leads(self.before, self.brackets.broken)
        self.judge = Judge(self.attack, self.classifier, self.labels, self.batch_size, self.draws, self.counts)
        self._crafting = Crafting(
            self.attack, self.classifier, self.images, self.labels, self.epsilons.astype(np.float32), self.indices,
            self.seed, self.batch_size, self.dtype, self.draws, self.judge, self.counts,
        )  # fmt: skip
        self._nearest = np.full(len(self.images), np.inf)
        if self.before:
            for row in np.flatnonzero((self.found != self.images).any(axis=(1, 2, 3))).tolist():  # the others stand
                self._nearest[row] = self._size(row, self.found[row])

    @property
    def _broken_before(self) -> np.ndarray | None:
        return self.before.correct.sum(axis=0) if self.before else None

    def _bracket(self, guess: np.ndarray | None) -> Brackets:
        brackets = Brackets(self.clean, self.epsilons, guess, self._broken_before)
        if self.before and self.near < np.inf:
            brackets.leave(np.flatnonzero(self.before.leads > self.near * self._lead_of_clean))
        return brackets

    @cached_property
    def _lead_of_clean(self) -> np.ndarray:
        return leads_of(self.classifier, self.images, self.labels, self.batch_size)

    @property
    def left(self) -> Left:
        """What `survivors` has left."""
        return Left(self.brackets.correct, self.found, self.leads.at(self.brackets.broken))

    def survivors(self, search: str) -> np.ndarray:
        """Attack only what still stands.

        Args:
            search: `"full"` or `"bisect"`, as in `Brackets`. Attacks that do not bisect go up the epsilons one by one
                in any case.

        Returns:
            `correct`, boolean `(K, N)`, which never rises with epsilon. `found` then holds an adversarial of the
            smallest epsilon for each image that was broken, and the image itself for the others.
        """
        if search == "bisect" and self.attack.bisects:
            known = self._broken_before if self.before else self.guess
            guess = self._ask_scout() if known is None else known
            self.brackets = self._bracket(guess)
        self.report(int(self.brackets.known.sum()), self.brackets.standing)
        self._in_slots() if self.attack.stepwise else self._in_rounds()
        return self.brackets.correct

    def everything(self) -> np.ndarray:
        """Attack every image at every epsilon by itself, all steps, and judge the last one (as in the paper).

        Returns:
            `correct`, boolean `(K, N)`. With `keep_all`, `found` then holds the adversarials `(K, N, height, width,
            channels)`: of the first try that broke the image, or of the last one. An attack that looks for the
            nearest adversarial has one for all epsilons, and the image itself where that is not within.
        """
        if self.attack.nearest:
            correct = self.survivors("full")
            if self.keep_all:
                self.found = np.where(correct[..., None, None, None], self.images, self.found)
            return correct
        every = np.arange(len(self.images))
        correct = np.ones((len(self.epsilons), len(every)), bool)
        if self.keep_all:
            self.found = np.stack([self.images] * len(self.epsilons))
        pairs, reported = 0, 0
        for k in range(len(self.epsilons)):
            for rows in self._batches(every):
                for number in range(self.tries):
                    adversarial = self._crafting.craft(rows, np.full(len(rows), k), np.full(len(rows), number), every)
                    standing = correct[k, rows]
                    if self.keep_all:
                        self.found[k, rows[standing]] = adversarial[standing]
                    correct[k, rows] &= ~self.judge.broken(adversarial, rows)
                pairs += len(rows)
                self.report(pairs // len(self.epsilons) - reported, int(correct[k].sum()))
                reported = pairs // len(self.epsilons)
        return correct

    def _in_slots(self) -> None:
        """Attacks that go step by step: a full batch at a time of unlike images, epsilons, tries and step counts."""
        slots, queue, steps = Slots(), deque(self.brackets.open), self.attack.steps
        while queue or len(slots):
            free = self.batch_size - len(slots)
            fresh = np.array([queue.popleft() for _ in range(min(len(queue), free))], np.int64)
            if len(fresh):
                k = self.brackets.next(fresh)
                slots.enter(fresh, k, self._crafting.begin(fresh, k, 0 * k))
            found = slots.state["images"]
            hit = self._step(slots)
            if hit.any():
                seen = len(slots) + self.judge.missing(len(slots)) if self.dtype == "float32" else None
                hit[hit] = self.judge.broken(found[hit], slots.row[hit], seen)
            ended = np.flatnonzero((slots.steps == steps) & ~hit)
            if len(ended):
                state = {key: part[ended] for key, part in slots.state.items()}
                found[ended] = self.attack.outcome(state, self.draws.gradient)
                hit[ended] = self.judge.broken(found[ended], slots.row[ended])
            done = np.flatnonzero(hit | (slots.steps == steps) | self._hopeless(slots))
            for slot in done:
                adversarial = found[slot] if hit[slot] else None
                slots.tries[slot] = self._settle(
                    slots.row[slot], slots.k[slot], slots.tries[slot], adversarial, slots.leads[slot]
                )
            known = self.brackets.known[slots.row]
            again = done[~known[done]]
            if len(again):
                rows, tries = slots.row[again], slots.tries[again]
                k = slots.k[again]  # at which all tries are made
                k[tries == 0] = self.brackets.next(rows[tries == 0])
                slots.begin(again, k, self._crafting.begin(rows, k, tries))
            if known.any():
                slots.keep(~known)

    def _hopeless(self, slots: Slots) -> np.ndarray:
        if self.hope == np.inf:
            return np.zeros(len(slots), bool)
        return slots.hopeless(self.attack.steps, self.hope, self._lead_of_clean)

    def _step(self, slots: Slots) -> np.ndarray:
        """Take one step in all slots; returns whether the images before it were seen to be broken, `(B,)`."""
        filled = self.judge.padded(np.arange(len(slots)))
        batch = self._crafting.batch(slots.row[filled], slots.k[filled], slots.tries[filled])
        state = {key: part[filled] for key, part in slots.state.items()}
        results, seen = self.attack.step(self.classifier, batch, state, self.dtype, self.draws.gradient)
        slots.state = {key: np.array(part)[: len(slots)] for key, part in results.items()}
        seen = Seen(*(np.array(part)[: len(slots)] for part in seen))
        self.attack.check_gradients(self.classifier, seen.sizes)
        self.attack.check_adversarials(slots.state["images"])
        self._crafting.count(slots.row, 1)
        self.counts.padding += self.judge.missing(len(slots)) * self.draws.gradient
        if len(seen.sizes):
            self._crafting.count_zero_gradients(slots.row[slots.steps == 0], seen.sizes[slots.steps == 0])
        if len(seen.leads):
            slots.see(seen.leads)
        slots.steps += 1
        return seen.broken

    def _in_rounds(self) -> None:
        """Other attacks: each image that is open is attacked whole, once a round."""
        k, tries = (np.zeros(len(self.images), np.int64) for _ in range(2))
        while len(still := self.brackets.open):
            for rows in self._batches(still):
                fresh = rows[tries[rows] == 0]
                k[fresh] = self.brackets.next(fresh)
                adversarial = self._crafting.craft(rows, k[rows], tries[rows], still)
                for slot, hit in enumerate(self.judge.broken(adversarial, rows)):
                    row = rows[slot]
                    tries[row] = self._settle(row, k[row], tries[row], adversarial[slot] if hit else None)

    def _settle(self, row: int, k: int, number: int, adversarial: np.ndarray | None, lead: float = np.inf) -> int:
        """Note what a try at epsilon k did to an image; the number of its next try, 0 where it is at its last.

        `lead` is what the image had left at least in all tries at k, infinity if that was not seen.
        """
        size, last = np.inf, number + 1 == self.tries
        if adversarial is not None:
            size = self._size(row, adversarial)
            if size < self._nearest[row] or not self.attack.nearest:
                self._nearest[row], self.found[row] = size, adversarial
        if self.attack.nearest and (last or self._nearest[row] <= self.epsilons[0]):
            self.brackets.settles(row, self._nearest[row])
        elif self.attack.nearest or (adversarial is None and not last):
            return number + 1
        elif adversarial is None:
            self.brackets.survives(row, k)
            self.leads.survives(row, k, lead)
        else:
            self.brackets.falls(row, k, size)
        self.report(int(self.brackets.known[row]), self.brackets.standing)
        return 0

    def _size(self, row: int, adversarial: np.ndarray) -> float:
        """How far an image was changed, in the norm of the balls."""
        change = (adversarial.astype(np.float64) - self.images[row]).reshape(-1)
        return float(np.linalg.norm(change, ord=self.attack.norm))

    def _ask_scout(self) -> np.ndarray:
        """Where a search is to begin: where the attack's scout breaks each image, or in the middle."""
        scout = self.attack.scout
        if scout is None:
            return np.full(len(self.images), len(self.epsilons) // 2)
        quiet = replace(self, attack=scout, dtype="float32", report=lambda *_: None, counts=Counts())
        guess = quiet.survivors("full").sum(axis=0)
        self.counts.add(replace(quiet.counts, attacked=0, zeros=0))
        return guess

    def _batches(self, rows: np.ndarray) -> list[np.ndarray]:
        return [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]
