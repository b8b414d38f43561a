"""Whether an attack finds more than random noise of the same size does, on a few images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace

import numpy as np
from scipy import stats

from salrob_tf.attacks.base import Attack
from salrob_tf.evaluation.attempts import attempt
from salrob_tf.evaluation.counts import Counts, Draws
from salrob_tf.evaluation.search import Sweep
from salrob_tf.models.classifier import Classifier
from salrob_tf.results.flags import DOUBTFUL, NOT_BELIEVED, NOTE, Flag

FEWEST = 25  # images, of fewer of which nothing is said
FEWEST_NOISES, MOST_NOISES = 20, 200  # draws of noise per image, in L-infinity half in the corners of the ball
RANKING_NOISE = 5  # passes at most that tell which draw of noise is worst
FEW, POWER = 3, 10  # images that noise must break, and leave, for a comparison to mean anything
LEVEL = 0.005  # many radii may be tried
FLAT_STEP = 1e-4  # change of logits, as a share of their norm, below which they do not follow a step


class Noise:
    """Compares attacks with random noise of the same size, on a few images.

    Args:
        classifier: The model.
        images: `(N, height, width, channels)`, all classified correctly as they are.
        labels: `(N,)`.
        seed: Seed of the noise.
        draws: How often the model is asked.
        batch_size: Images per forward pass or gradient, at most.
    """

    def __init__(
        self, classifier: Classifier, images: np.ndarray, labels: np.ndarray, seed: int, draws: Draws, batch_size: int
    ) -> None:
        self.classifier, self.images, self.labels = classifier, images, labels
        self.seed, self.draws, self.batch_size = seed, draws, batch_size
        self.counts = Counts()
        self._found: dict[tuple[float, float, int], np.ndarray | None] = {}

    def broken(self, attack: Attack, epsilon: float) -> np.ndarray | None:
        """Which images the worst draw of noise in the ball breaks, judged as adversarials are, boolean `(N,)`.

        There are as many draws as an attack looks whether an image is broken, 20 to 200. It is `None` where a logit is
        not finite.
        """
        looks = attack.tries(self.classifier.num_classes) * (1 if self.draws.judging > 1 else attack.steps)
        key = attack.norm, float(epsilon), int(np.clip(looks, FEWEST_NOISES, MOST_NOISES))
        if key not in self._found:
            self._found[key] = self._broken(*key)
        return self._found[key]

    def _broken(self, norm: float, epsilon: float, looks: int) -> np.ndarray | None:
        with suppress(ValueError):
            rng = np.random.default_rng(self.seed)
            draws = min(self.draws.judging, RANKING_NOISE)
            worst, fewest = self.images.copy(), np.full(len(self.images), draws + 1)
            together = max(1, self.batch_size // len(self.images))  # a pass over few images takes as long as over more
            for begin in range(0, looks, together):
                still = np.flatnonzero(fewest > 0)
                if not len(still):
                    break
                numbers = range(begin, min(begin + together, looks))
                noise = np.stack([_noise(rng, self.images.shape, norm, corner=n % 2 == 0)[still] for n in numbers])
                moved = np.clip(self.images[still] + np.float32(epsilon) * noise, 0, 1)
                flat, labels = moved.reshape(-1, *self.images.shape[1:]), np.tile(self.labels[still], len(numbers))
                votes = self.classifier.votes(flat, labels, self.batch_size, draws).reshape(len(numbers), -1)
                first, images = votes.argmin(axis=0), np.arange(len(still))
                worse = votes[first, images] < fewest[still]
                worst[still[worse]] = moved[first, images][worse]
                fewest[still[worse]] = votes[first, images][worse]
            return ~self.classifier.classifies(worst, self.labels, self.batch_size, self.draws.judging)
        return None

    def flag(
        self, label: str, attack: Attack, dtype: str, correct: np.ndarray, epsilons: np.ndarray, without: str
    ) -> list[Flag]:
        """A flag if an attack finds nothing that noise would not find, at the epsilons tried or at any other.

        Args:
            label: The attack's label.
            attack: The attack.
            dtype: What its gradients were computed in.
            correct: What it left of these images at each epsilon, boolean `(K, N)`.
            epsilons: Radii, ascending, `(K,)`.
            without: What to do where gradients lead nowhere.
        """
        if len(self.images) < FEWEST or not epsilons[-1]:
            return []
        tried = [(float(epsilon), ~row) for epsilon, row in zip(epsilons, correct, strict=True) if epsilon]
        p_value, whole = self._compared(attack, reversed(tried))
        severity, remedy = NOT_BELIEVED, f"Its gradients lead nowhere. {without}"
        if p_value > LEVEL and attack.uses_gradients:
            elsewhere, all_there = self._compared(attack, self._elsewhere(attack, dtype))
            p_value, whole = min(p_value, elsewhere), whole and all_there
            if p_value > LEVEL and attack.relative_step is not None:
                longer = replace(attack, relative_step=None)
                if self._compared(longer, self._elsewhere(longer, dtype))[0] <= LEVEL:
                    remedy = f"Its steps, {attack.relative_step:g} of epsilon, are too short: leave relative_step out"
        elif p_value > LEVEL:
            if self._flat(attack) > 0.5:
                remedy = (
                    "Its logits do not follow small changes of the images: attack a version that does not round or vote"
                )
            elif (radius := self._telling(attack, epsilons[-1])) is not None:
                there, all_there = self._compared(attack, [(radius, self._breaks(attack, dtype, radius))])
                p_value, whole = min(p_value, there), whole and all_there
                remedy = "Give it more steps or a higher learning rate"
            elif (reach := attack.reach) < epsilons[-1]:
                severity, remedy = DOUBTFUL, f"Its steps reach {reach:g} only: give it more, or a higher learning rate"
            else:
                severity, remedy = NOTE, "Nor could more be seen of it at any epsilon that it reaches"
        if p_value <= LEVEL:
            return []
        if not whole and severity == NOT_BELIEVED:
            severity, remedy = DOUBTFUL, "More could be seen of it at other epsilons, but not all is finite there"
        meaning = f"the attack finds no more adversarials than random noise of the same size does (p = {p_value:.2g})"
        return [Flag("no better than noise", severity, p_value, LEVEL, meaning, remedy, label)]

    def _compared(self, attack: Attack, outcomes: Iterable[tuple[float, np.ndarray | None]]) -> tuple[float, bool]:
        """How likely no difference to noise is: the smallest p of sign tests, until one is at most `LEVEL`.

        Args:
            attack: The attack.
            outcomes: Radii, and which of the first images the attack breaks there, or `None`.

        Returns:
            p, and whether all could be compared: not where something is not finite.
        """
        smallest, whole = 1.0, True
        for epsilon, broken in outcomes:
            noise = self.broken(attack, epsilon)
            if broken is None or noise is None:
                whole = False
                continue
            noise = noise[: len(broken)]
            more, less = int(np.sum(broken & ~noise)), int(np.sum(noise & ~broken))
            if more + less:
                smallest = min(smallest, float(stats.binomtest(more, more + less, alternative="greater").pvalue))
            if smallest <= LEVEL:
                break
        return smallest, whole

    def _elsewhere(self, attack: Attack, dtype: str) -> Iterator[tuple[float, np.ndarray | None]]:
        """Radii of all sizes, and which images a few steps of the attack break there."""
        whole = 1.0 if attack.norm == np.inf else float(np.sqrt(self.images[0].size))
        if attack.nearest:
            cheap = _in_fewer_steps(attack, 100, "learning_rate", np.inf)
            sweep = self._attacked(cheap, dtype, self.images, whole)
            sizes = np.zeros(len(self.images))
            if sweep is not None:
                sizes = np.linalg.norm((sweep.found - self.images).reshape(len(sizes), -1), attack.norm, axis=1)
            radius = float(np.median(sizes[sizes > 0])) if sizes.any() else whole
            yield radius, None if sweep is None else (sizes > 0) & (sizes <= radius)
            return
        cheap = _in_fewer_steps(attack, 10, "relative_step", 1.0)
        for halvings in (3, 2, 4, 1, 5, 6, 7, 8, 9, 10):
            radius = whole / 2**halvings
            yield radius, self._breaks(cheap, dtype, radius)

    def _telling(self, attack: Attack, epsilon: float) -> float | None:
        """A radius that the attack reaches, at which noise breaks about a third of some images and leaves enough."""
        reach, counts = max(float(epsilon), attack.reach), {}
        for radius in 0.85 ** np.arange(40):
            broken = self.broken(attack, radius) if radius <= reach else None
            if broken is not None and (count := int(np.sum(broken[:FEWEST]))) <= FEWEST - POWER:
                counts[radius] = count
                if count <= FEWEST / 3:
                    break
        telling = [radius for radius, count in counts.items() if count >= FEW]
        return min(telling, key=lambda radius: abs(counts[radius] - FEWEST / 3), default=None)

    def _breaks(self, attack: Attack, dtype: str, radius: float) -> np.ndarray | None:
        """Which images the attack breaks at a radius, or of the first `FEWEST` where it takes them one by one."""
        some = slice(None if attack.uses_gradients else FEWEST)
        sweep = self._attacked(attack, dtype, self.images[some], radius)
        return None if sweep is None else sweep.brackets.broken == 0

    def _attacked(self, attack: Attack, dtype: str, images: np.ndarray, radius: float) -> Sweep | None:
        """A sweep of one radius, or nothing where a gradient or a logit is not finite."""
        return attempt(
            attack, self.classifier, images, self.labels[: len(images)], [radius], seed=self.seed,
            batch_size=self.batch_size, dtype=dtype, draws=self.draws, counts=self.counts,
        )  # fmt: skip

    def _flat(self, attack: Attack) -> float:
        """Share of the images whose logits stay the same where noise of the attack's resolution is added."""
        noise = _noise(np.random.default_rng(self.seed), self.images.shape, np.inf, corner=True)
        moved = np.clip(self.images + np.float32(attack.resolution) * noise, 0, 1)
        before, after = (self.classifier.predict_logits(images, self.batch_size) for images in (self.images, moved))
        return float(np.mean(np.linalg.norm(after - before, axis=-1) <= FLAT_STEP * np.linalg.norm(before, axis=-1)))


def _in_fewer_steps(attack: Attack, steps: int, size: str, largest: float) -> Attack:
    """The attack in at most so many steps, which lead as far."""
    if attack.steps <= steps:
        return attack
    given = getattr(attack, size, None)
    longer = {} if given is None else {size: min(largest, given * attack.steps / steps)}
    return replace(attack, steps=steps, **longer)


def _noise(rng: np.random.Generator, shape: tuple[int, ...], norm: float, corner: bool) -> np.ndarray:
    if norm == np.inf:
        noise = rng.uniform(-1, 1, shape)
        return (np.sign(noise) if corner else noise).astype(np.float32)
    noise = rng.standard_normal(shape)
    return (noise / np.linalg.norm(noise.reshape(len(noise), -1), axis=1)[:, None, None, None]).astype(np.float32)
