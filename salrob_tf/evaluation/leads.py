"""What attacks left of images, and how near to falling they are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from salrob_tf.models.classifier import Classifier


class Left(NamedTuple):
    """What attacks left of images.

    Attributes:
        correct: Whether each image is classified correctly under each epsilon, `(K, N)`; it never rises with epsilon.
        found: Its adversarial, of the smallest epsilon that breaks it, and the image itself where none does.
        leads: How far the logit of its label stayed above all others at the largest epsilon that it survived, `(N,)`;
            minus infinity where that is not known.
    """

    correct: np.ndarray
    found: np.ndarray
    leads: np.ndarray


class Leads:
    """How far the logit of each image's label stayed above all others, and at which epsilon that was.

    Args:
        before: What other attacks left, of so many images.
        broken: The first epsilon that breaks each image after them, as an index, `(N,)`.
    """

    def __init__(self, before: Left | None, broken: np.ndarray) -> None:
        self._at = broken - 1 if before else np.full(len(broken), -1)
        self._leads = before.leads.copy() if before else np.full(len(broken), -np.inf)

    def survives(self, row: int, k: int, lead: float) -> None:
        """Note what an image had left at least at epsilon k, which it survived; infinity if that was not seen."""
        lead = min(lead, self._leads[row]) if self._at[row] == k else lead
        self._at[row], self._leads[row] = k, lead if lead < np.inf else -np.inf

    def at(self, broken: np.ndarray) -> np.ndarray:
        """What each image had left just below the first epsilon that breaks it, `(N,)`."""
        return np.where(self._at == broken - 1, self._leads, -np.inf)


def leads_of(classifier: Classifier, images: np.ndarray, labels: np.ndarray, batch_size: int) -> np.ndarray:
    """How far the logit of each image's label is above all others, `(N,)`."""
    logits, rows = classifier.predict_logits(images, batch_size), np.arange(len(labels))
    own = logits[rows, labels].copy()
    logits[rows, labels] = -np.inf
    return own - logits.max(axis=-1)
