"""Whether adversarials break a model, in float32, and seen twice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from salrob_tf.attacks.base import Attack
from salrob_tf.evaluation.counts import Counts, Draws
from salrob_tf.models.classifier import Classifier


@dataclass
class Judge:
    """Judges what an attack made of images.

    Attributes:
        attack: The attack.
        classifier: The model, untouched.
        labels: True labels of all images, int32 `(N,)`.
        batch_size: Images per forward pass.
        draws: How many passes judge an image.
        counts: Where forward passes are noted.
    """

    attack: Attack
    classifier: Classifier
    labels: np.ndarray
    batch_size: int
    draws: Draws
    counts: Counts

    def broken(self, adversarial: np.ndarray, rows: np.ndarray, seen: int | None = None) -> np.ndarray:
        """Which adversarials, of the images in some rows, are misclassified, boolean `(n,)`.

        `seen` is the size of a batch in which all were seen to be, if so: then only the second look is taken.
        """
        if seen:
            return self._confirmed(adversarial, rows, seen)
        self.attack.check_adversarials(adversarial)
        draws = self.draws.judging
        self.counts.forward_evaluations += len(rows) * draws
        self.counts.padding += self.missing(len(rows)) * draws
        images, labels = self.padded(adversarial), self.padded(self.labels[rows])
        broken = ~self.classifier.classifies(images, labels, self.batch_size, draws)[: len(rows)]
        if broken.any() and draws == 1:
            broken[broken] = self._confirmed(adversarial[broken], rows[broken], len(images))
        return broken

    def _confirmed(self, adversarial: np.ndarray, rows: np.ndarray, first: int) -> np.ndarray:
        """Judge adversarials once more, in a batch of another size than the first, by which kernels round."""
        size = len(rows) + self.missing(len(rows)) + 1
        size += size == first
        images, labels = (np.resize(part, (size, *part.shape[1:])) for part in (adversarial, self.labels[rows]))
        broken = ~self.classifier.classifies(images, labels, size)[: len(rows)]
        self.counts.forward_evaluations += len(rows)
        self.counts.padding += size - len(rows)
        self.counts.verified += len(rows)
        self.counts.flips += int(np.sum(~broken))
        return broken

    def padded(self, batch: np.ndarray) -> np.ndarray:
        """Repeat the last row up to a full batch or some eighths of it, of fewer rows up to a power of two.

        Each shape costs a set-up, so they are to be few.
        """
        missing = self.missing(len(batch))
        return batch if not missing else np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])

    def missing(self, rows: int) -> int:
        """How many rows that takes."""
        eighth = max(1, self.batch_size // 8)
        if 0 < rows < eighth:
            return min(eighth, 1 << (rows - 1).bit_length()) - rows
        return -rows % eighth
