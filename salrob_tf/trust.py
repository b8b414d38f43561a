"""Whether an attack did what an attack can: what its gradients and its success say against its result.

An attack whose gradients lead nowhere leaves accuracy where it was, and looks like robustness (Athalye et al. 2018).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np
from scipy import stats

from salrob_tf.attack import Attack
from salrob_tf.classifier import Classifier
from salrob_tf.cleverhans_attacks import SPSA
from salrob_tf.counts import Draws
from salrob_tf.flags import DOUBTFUL, NOT_BELIEVED, NOTE, Flag
from salrob_tf.sweep import Sweep

FLAT = 0.01  # share of images with zero gradients from which on a result is doubtful
ALL_FLAT = 0.99
SAMPLED = 50  # images that random noise is tried on
FEWEST = 25  # of fewer, nothing is said
NOISES = 20  # draws of noise per image, half of them in the corners of the ball
JUDGING_NOISE = 5  # passes at most that judge a draw of noise
POWER = 10  # images that noise must break, and the attack leave, for a comparison to mean anything
LEVEL = 0.005  # many radii may be tried


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
    flat: Mapping[str, float],
    epsilons: np.ndarray,
    *,
    at_chance: bool,
    seed: int,
    draws: Draws,
) -> list[Flag]:
    """What speaks against the results of attacks.

    Args:
        sample: Some of the images.
        classifier: The model.
        attacks: All attacks that were run, by label.
        flat: For each, the share of the attacked images whose first gradient was zero.
        epsilons: Radii, ascending, `(K,)`.
        at_chance: Whether clean accuracy is that of guessing, where nothing can be seen of attacks.
        seed: Seed of random noise and starts.
        draws: How often the model is asked.
    """
    noise, found = Noise(classifier, sample.images, sample.labels, seed, draws), []
    without = _without_gradients(attacks)
    for label, attack in attacks.items():
        zero = zero_gradients(classifier, label, attacks, flat[label], sample.images, sample.labels)
        blind = any(flag.severity == NOT_BELIEVED for flag in zero)  # more need not be said
        found += zero if blind or at_chance else zero + noise.flag(label, attack, sample.left(label), epsilons, without)
    return found


def zero_gradients(
    classifier: Classifier,
    label: str,
    attacks: Mapping[str, Attack],
    share: float,
    images: np.ndarray,
    labels: np.ndarray,
) -> list[Flag]:
    """A flag if gradients were zero everywhere.

    Args:
        classifier: The model.
        label: The attack.
        attacks: All attacks that were run, by label.
        share: Share of the attacked images whose first gradient was zero.
        images: Some of those images, `(N, height, width, channels)`.
        labels: Their labels, `(N,)`.
    """
    if not share:
        return []
    without = _without_gradients(attacks)
    remedy = f"{without}, or give the step that has no gradient, such as rounding, a straight-through one"
    attack = attacks[label]
    if attack.climbs_cross_entropy and len(images):
        # Where the model is sure of itself, the gradient of cross-entropy rounds to 0, and that of a margin does not.
        other = replace(attack, loss="margin")
        sizes = other.gradients(classifier, images, other.aims(classifier, images, labels))[1]
        if np.mean(sizes == 0) < FLAT:
            believed = f"Believe {other.label} instead" if other.label in attacks else f"Try {other.label}"
            remedy = f"{believed}: the gradient of cross-entropy vanishes where the model is sure of itself. {without}"
    severity = NOT_BELIEVED if share >= ALL_FLAT else DOUBTFUL if share >= FLAT else NOTE
    meaning = f"the gradient was zero for {share:.1%} of the images attacked, where the attack learns nothing"
    return [Flag("zero gradients", severity, share, FLAT, meaning, remedy, label)]


class Noise:
    """Compares attacks with random noise of the same size, on a few images.

    Args:
        classifier: The model.
        images: `(N, height, width, channels)`, all classified correctly as they are.
        labels: `(N,)`.
        seed: Seed of the noise.
        draws: How often the model is asked.
    """

    def __init__(self, classifier: Classifier, images: np.ndarray, labels: np.ndarray, seed: int, draws: Draws) -> None:
        self.classifier, self.images, self.labels = classifier, images, labels
        self.seed, self.draws = seed, draws
        self._found: dict[tuple[float, float], np.ndarray] = {}

    def broken(self, norm: float, epsilon: float) -> np.ndarray:
        """Which images some draw of noise in the ball breaks, boolean `(N,)`."""
        key = norm, float(epsilon)
        if key not in self._found:
            rng = np.random.default_rng(self.seed)
            broken = np.zeros(len(self.images), bool)
            for number in range(NOISES):
                still = np.flatnonzero(~broken)
                noise = _noise(rng, self.images.shape, norm, corner=number % 2 == 0)[still]
                moved = np.clip(self.images[still] + np.float32(epsilon) * noise, 0, 1)
                if len(still):
                    draws = min(self.draws.judging, JUDGING_NOISE)
                    right = self.classifier.classifies(moved, self.labels[still], draws=draws)
                    broken[still] = ~right
            self._found[key] = broken
        return self._found[key]

    def flag(self, label: str, attack: Attack, correct: np.ndarray, epsilons: np.ndarray, without: str) -> list[Flag]:
        """A flag if an attack finds nothing that noise would not find, at the epsilons tried or at any other.

        Args:
            label: The attack's label.
            attack: The attack.
            correct: What it left of these images at each epsilon, boolean `(K, N)`.
            epsilons: Radii, ascending, `(K,)`.
            without: What to do where gradients lead nowhere.
        """
        if len(self.images) < FEWEST or not epsilons[-1]:
            return []
        tried = [(float(epsilon), ~row) for epsilon, row in zip(epsilons, correct, strict=True) if epsilon]
        p_value = self._compared(attack, reversed(tried))
        remedy = f"Its gradients lead nowhere. {without}"
        if p_value > LEVEL and attack.gradients_per_image:
            p_value = min(p_value, self._compared(attack, self._elsewhere(attack)))
        elif p_value > LEVEL:
            if self._flat(attack) > 0.5:
                remedy = (
                    "Its logits do not follow small changes of the images: attack a version that does not round or vote"
                )
            elif not any(
                min(np.sum(self.broken(attack.norm, epsilon)), np.sum(~broken)) >= POWER for epsilon, broken in tried
            ):
                return []  # the epsilons may just be small or large, and to look elsewhere is dear
            else:
                remedy = "Give it more steps or a higher learning rate"
        if p_value <= LEVEL:
            return []
        meaning = f"the attack finds no more adversarials than random noise of the same size does (p = {p_value:.2g})"
        return [Flag("no better than noise", NOT_BELIEVED, p_value, LEVEL, meaning, remedy, label)]

    def _compared(self, attack: Attack, outcomes: Iterable[tuple[float, np.ndarray]]) -> float:
        """How likely no difference to noise is: the smallest p of sign tests, until one is at most `LEVEL`.

        Args:
            attack: The attack.
            outcomes: Radii, and which of the first images the attack breaks there.
        """
        smallest = 1.0
        for epsilon, broken in outcomes:
            noise = self.broken(attack.norm, epsilon)[: len(broken)]
            more, less = int(np.sum(broken & ~noise)), int(np.sum(noise & ~broken))
            if more + less:
                smallest = min(smallest, stats.binomtest(more, more + less, alternative="greater").pvalue)
            if smallest <= LEVEL:
                break
        return float(smallest)

    def _elsewhere(self, attack: Attack) -> Iterator[tuple[float, np.ndarray]]:
        """Radii of all sizes, and which images a few steps of the attack break there."""
        whole = 1.0 if attack.norm == np.inf else float(np.sqrt(self.images[0].size))
        if attack.minimal:
            found = self._attacked(replace(attack, steps=min(attack.steps, 100)), whole).found
            sizes = np.linalg.norm((found - self.images).reshape(len(found), -1), axis=1)
            if sizes.any():
                radius = float(np.median(sizes[sizes > 0]))
                yield radius, (sizes > 0) & (sizes <= radius)
            return
        cheap = replace(attack, steps=min(attack.steps, 10)) if attack.steps > 1 else attack  # FGSM knows no number
        for halvings in (3, 2, 4, 1, 5, 6, 7, 8, 9, 10):
            radius = whole / 2**halvings
            yield radius, self._attacked(cheap, radius).broken == 0

    def _attacked(self, attack: Attack, radius: float) -> Sweep:
        count = len(self.images)
        sweep = Sweep(
            attack, self.classifier, self.images, self.labels, np.ones(count, bool), np.array([radius]),
            np.arange(count), self.seed, count, "float32", lambda known, standing: None, draws=self.draws,
        )  # fmt: skip
        sweep.survivors("full")
        return sweep

    def _flat(self, attack: Attack) -> float:
        """Share of the images whose logits stay the same to the last bit where noise of the attack's delta is added."""
        noise = _noise(np.random.default_rng(self.seed), self.images.shape, np.inf, corner=True)
        moved = np.clip(self.images + np.float32(getattr(attack, "delta", 0.01)) * noise, 0, 1)
        before, after = (self.classifier.predict_logits(images) for images in (self.images, moved))
        return float(np.mean((before == after).all(axis=-1)))


def _without_gradients(attacks: Mapping[str, Attack]) -> str:
    believed = [label for label, attack in attacks.items() if isinstance(attack, SPSA)]
    return f"{'Believe' if believed else 'Attack it with'} {(believed or ['spsa'])[0]}, which takes no gradient"


def _noise(rng: np.random.Generator, shape: tuple[int, ...], norm: float, corner: bool) -> np.ndarray:
    if norm == np.inf:
        noise = rng.uniform(-1, 1, shape)
        return (np.sign(noise) if corner else noise).astype(np.float32)
    noise = rng.standard_normal(shape)
    return (noise / np.linalg.norm(noise.reshape(len(noise), -1), axis=1)[:, None, None, None]).astype(np.float32)
