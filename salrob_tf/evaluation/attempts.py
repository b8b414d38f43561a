"""An attack on a few images beside a sweep, to see what can be seen of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from salrob_tf.attacks.base import Attack
from salrob_tf.evaluation.counts import Counts, Draws
from salrob_tf.evaluation.search import Sweep
from salrob_tf.models.classifier import Classifier


def attempt(
    attack: Attack,
    classifier: Classifier,
    images: np.ndarray,
    labels: np.ndarray,
    radii: Sequence[float],
    *,
    seed: int,
    batch_size: int,
    dtype: str,
    draws: Draws,
    counts: Counts,
) -> Sweep | None:
    """Attack images that are classified correctly as they are, one radius after the other.

    Args:
        attack: The attack.
        classifier: The model.
        images: `(N, height, width, channels)`.
        labels: `(N,)`.
        radii: Radii, ascending.
        seed: Seed of random starts.
        batch_size: Images per gradient, at most.
        dtype: What gradients are computed in.
        draws: How often the model is asked.
        counts: Where costs are noted.

    Returns:
        The sweep that was made, or nothing where a gradient or a logit is not finite.
    """
    rows = np.arange(len(images))
    sweep = Sweep(
        attack, classifier, images, labels, np.ones(len(images), bool), np.array(radii), rows, seed, batch_size, dtype,
        lambda known, standing: None, draws=draws, counts=counts,
    )  # fmt: skip
    try:
        sweep.survivors("full")
    except ValueError:
        return None
    return sweep
