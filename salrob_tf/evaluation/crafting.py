"""Adversarials of some images of a shard, at an epsilon and a try each, and what making them takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from salrob_tf.attacks.balls import Batch
from salrob_tf.attacks.base import Attack, State
from salrob_tf.evaluation.counts import Counts, Draws
from salrob_tf.evaluation.judge import Judge
from salrob_tf.models.classifier import Classifier


@dataclass
class Crafting:
    """What one attack makes of the images of one shard.

    Attributes:
        attack: The attack.
        classifier: The model.
        images: `(N, height, width, channels)`, float32 in [0, 1].
        labels: True labels, int32 `(N,)`.
        radii: Of the balls, float32 `(K,)`.
        indices: Index of each image in its dataset, `(N,)`.
        seed: Seed of random starts.
        batch_size: Images per gradient.
        dtype: What gradients are computed in.
        draws: How many passes a gradient is averaged over.
        judge: Who fills batches up.
        counts: Where what it takes is added.
    """

    attack: Attack
    classifier: Classifier
    images: np.ndarray
    labels: np.ndarray
    radii: np.ndarray
    indices: np.ndarray
    seed: int
    batch_size: int
    dtype: str
    draws: Draws
    judge: Judge
    counts: Counts

    def __post_init__(self) -> None:
        self.loss_classes = self.attack.loss_classes(
            self.classifier, self.images, self.labels, batch_size=self.batch_size
        )
        self._begun = np.zeros(len(self.images), bool)
        self._directions: dict[int, np.ndarray] = {}

    def batch(self, rows: np.ndarray, k: np.ndarray, tries: np.ndarray) -> Batch:
        """Some images, each at the epsilon of index k, and at one of its tries."""
        loss_classes = self.loss_classes[rows, tries // self.attack.restarts]
        return Batch(self.images[rows], self.labels[rows], loss_classes, self.radii[k], self.indices[rows], tries)

    def begin(self, rows: np.ndarray, k: np.ndarray, tries: np.ndarray) -> State:
        """What an attack that goes step by step begins with, of such a batch."""
        return self.attack.init(self.classifier, self.batch(rows, k, tries), self.seed)

    def craft(self, rows: np.ndarray, k: np.ndarray, tries: np.ndarray, among: np.ndarray) -> np.ndarray:
        """Attack some images whole; `among` are all that the same gradients, if one serves all epsilons, may serve."""
        if self.attack.one_gradient:
            directions, targets = np.empty_like(self.images[rows]), tries // self.attack.restarts
            for target in np.unique(targets):
                these = targets == target
                directions[these] = self._direction(int(target), among)[rows[these]]
            return self.attack.along(self.images[rows], directions, self.radii[k])
        self.count(rows, self.attack.steps)
        adversarial, sizes = self.attack.craft(
            self.classifier, self.batch(rows, k, tries), self.seed, self.dtype, self.draws.gradient
        )
        self.count_zero_gradients(rows, sizes)
        return adversarial

    def _direction(self, target: int, rows: np.ndarray) -> np.ndarray:
        """Gradients at the images as they are, `(N, height, width, channels)`, those of `rows` for a target class."""
        if target not in self._directions:
            gradients = self._directions[target] = np.zeros_like(self.images)
            for start in range(0, len(rows), self.batch_size):
                part = rows[start : start + self.batch_size]
                images, loss_classes = map(self.judge.padded, (self.images[part], self.loss_classes[part, target]))
                draws = self.draws.gradient
                found, sizes = self.attack.gradients(self.classifier, images, loss_classes, self.dtype, draws)
                gradients[part] = found[: len(part)]
                self.count(part, 1)
                self.counts.padding += self.judge.missing(len(part)) * draws
                self.count_zero_gradients(part, sizes[: len(part)])
        return self._directions[target]

    def count(self, rows: np.ndarray, steps: int) -> None:
        """Note so many steps on some images."""
        passes = len(rows) * steps
        self.counts.gradient_evaluations += (
            passes * self.attack.gradients_per_step(self.classifier.num_classes) * self.draws.gradient
        )
        self.counts.forward_evaluations += passes * self.attack.forwards_per_step(self.draws.gradient)

    def count_zero_gradients(self, rows: np.ndarray, sizes: np.ndarray) -> None:
        """Note the largest magnitudes in first gradients, those of each image's first attempt."""
        if len(sizes):
            first = ~self._begun[rows]
            self.counts.attacked += int(np.sum(first))
            self.counts.zeros += int(np.sum(sizes[first] == 0))
            self._begun[rows] = True
