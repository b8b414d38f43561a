"""Whether an attack did what an attack can: what its gradients and its success say against its result.

An attack whose gradients lead nowhere leaves accuracy where it was, and looks like robustness (Athalye et al. 2018).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import numpy as np

from salrob_tf.attacks.base import Attack
from salrob_tf.attacks.spsa import SPSA
from salrob_tf.evaluation.counts import Draws
from salrob_tf.evaluation.noise import Noise
from salrob_tf.models.classifier import Classifier
from salrob_tf.results.flags import DOUBTFUL, NOT_BELIEVED, NOTE, Flag

FLAT = 0.01  # share of images with zero gradients from which on a result is doubtful
ALL_FLAT = 0.99
SAMPLED = 50  # images that random noise is tried on


class Sample:
    """The first images that are classified correctly as they are, and what attacks left of them."""

    def __init__(self) -> None:
        self._images: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []
        self._left: dict[str, list[np.ndarray]] = {}

    def take(self, images: np.ndarray, labels: np.ndarray, correct: np.ndarray) -> np.ndarray:
        """Choose among some more images, until there are enough; returns the rows chosen."""
        rows = np.flatnonzero(correct)[: SAMPLED - sum(map(len, self._labels))]
        self._images.append(images[rows])
        self._labels.append(labels[rows])
        return rows

    def keep(self, label: str, left: np.ndarray) -> None:
        """Note what an attack left of the images chosen last, boolean `(K, n)`."""
        self._left.setdefault(label, []).append(left)

    @property
    def images(self) -> np.ndarray:
        """The images, `(N, height, width, channels)`."""
        return np.concatenate(self._images)

    @property
    def labels(self) -> np.ndarray:
        """Their labels, `(N,)`."""
        return np.concatenate(self._labels)

    def left(self, label: str) -> np.ndarray:
        """What an attack left of them, `(K, N)`."""
        return np.concatenate(self._left[label], axis=1)


def flags_of(
    sample: Sample,
    classifier: Classifier,
    attacks: Mapping[str, Attack],
    dtypes: Mapping[str, str],
    flat: Mapping[str, float],
    epsilons: np.ndarray,
    *,
    at_chance: bool,
    seed: int,
    draws: Draws,
    batch_size: int,
) -> list[Flag]:
    """What speaks against the results of attacks.

    Args:
        sample: Some of the images.
        classifier: The model.
        attacks: All attacks that were run, by label.
        dtypes: For each, what its gradients were computed in.
        flat: For each, the share of the attacked images whose first gradient was zero.
        epsilons: Radii, ascending, `(K,)`.
        at_chance: Whether clean accuracy is that of guessing, where nothing can be seen of attacks.
        seed: Seed of random noise and starts.
        draws: How often the model is asked.
        batch_size: Images per forward pass or gradient, at most.
    """
    noise = Noise(classifier, sample.images, sample.labels, seed, draws, batch_size)
    found: dict[str, list[Flag]] = {}
    believed = None
    for label in sorted(attacks, key=lambda label: not isinstance(attacks[label], SPSA)):
        attack = attacks[label]
        without = _without_gradients(attacks, believed)
        found[label] = zero_gradients(
            classifier, label, attacks, dtypes[label], flat[label], sample.images[:batch_size],
            sample.labels[:batch_size], without,
        )  # fmt: skip
        if not at_chance and not any(flag.severity == NOT_BELIEVED for flag in found[label]):  # or no more need be said
            found[label] += noise.flag(label, attack, dtypes[label], sample.left(label), epsilons, without)
        if isinstance(attack, SPSA) and not any(flag.withholds for flag in found[label]):
            believed = label
    return [flag for label in attacks for flag in found[label]]


def zero_gradients(
    classifier: Classifier,
    label: str,
    attacks: Mapping[str, Attack],
    dtype: str,
    share: float,
    images: np.ndarray,
    labels: np.ndarray,
    without: str,
) -> list[Flag]:
    """A flag if gradients were zero everywhere.

    Args:
        classifier: The model.
        label: The attack.
        attacks: All attacks that were run, by label.
        dtype: What its gradients were computed in.
        share: Share of the attacked images whose first gradient was zero.
        images: Some of those images, `(N, height, width, channels)`.
        labels: Their labels, `(N,)`.
        without: What to do where gradients lead nowhere.
    """
    if not share:
        return []
    remedy = f"{without}, or give the step that has no gradient, such as rounding, a straight-through one"
    attack = attacks[label]
    if attack.climbs_cross_entropy and len(images):
        # Where the model is sure of itself, the gradient of cross-entropy rounds to 0, and that of a margin does not.
        other = replace(attack, loss="margin")
        with suppress(ValueError):  # gradients of that loss may not be finite
            sizes = other.gradients(classifier, images, other.aims(classifier, images, labels), dtype)[1]
            if np.mean(sizes == 0) < FLAT:
                believed = f"Believe {other.label} instead" if other.label in attacks else f"Try {other.label}"
                remedy = (
                    f"{believed}: the gradient of cross-entropy vanishes where the model is sure of itself. {without}"
                )
    severity = NOT_BELIEVED if share >= ALL_FLAT else DOUBTFUL if share >= FLAT else NOTE
    meaning = f"the gradient was zero for {share:.1%} of the images attacked, where the attack learns nothing"
    return [Flag("zero gradients", severity, share, FLAT, meaning, remedy, label)]


def _without_gradients(attacks: Mapping[str, Attack], believed: str | None) -> str:
    if believed:
        return f"Believe {believed}, which takes no gradient"
    run = next((label for label, attack in attacks.items() if isinstance(attack, SPSA)), None)
    return f"See what is said of {run}" if run else "Attack it with spsa, which takes no gradient"
