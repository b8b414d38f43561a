"""What the outcomes of single images say about accuracies and about two models (Karkehabadi 2023, section 4).

All of it describes two given networks on images drawn like these. Whether two ways of training differ is a question
about networks drawn by other seeds: where the ways do not differ at all, two networks still do in most cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from salrob_tf.results.alike import check_comparable
from salrob_tf.results.families import holm
from salrob_tf.results.flags import DOUBTFUL, Flag
from salrob_tf.results.robustness import WORST, Robustness

CHANCE_LEVEL = 0.01
CHANCE_POWER = 0.95


@dataclass(frozen=True)
class Difference:
    """How far two models differ under one attack at one epsilon, on the same images.

    Attributes:
        attack: Label of the attack.
        epsilon: Radius of the ball.
        difference: Accuracy of the second model less that of the first.
        interval: 95 % interval of the difference for paired proportions (Agresti and Min 2005).
        p_value: Exact two-sided McNemar test on the images that only one model gets right.
    """

    attack: str
    epsilon: float
    difference: float
    interval: tuple[float, float]
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """Two models, attacked alike on the same images.

    Example:
        >>> first, second = (sr.evaluate(network, images, labels, "fgsm", 0.1, name=name) for name in ("one", "two"))
        >>> sr.compare(first, second).differences[0].p_value
        1.0

    Attributes:
        first: Name of the first model.
        second: Name of the second model, whose gain or loss the differences are.
        samples: Number of images.
        differences: One `Difference` per attack and epsilon, and of several attacks those of what none of them broke.
        doubts: What speaks against their accuracies so gravely that no verdict rests on them, each with the name of
            the model that it concerns.
    """

    first: str
    second: str
    samples: int
    differences: tuple[Difference, ...]
    doubts: tuple[tuple[str, Flag], ...] = ()

    @property
    def verdict(self) -> str:
        """Where the second network is more or less robust, after Holm's correction at 5 %, or why that is not said.

        Attacks that are doubtful are left out; where the doubts concern all attacks, there is no verdict. What none of
        several attacks broke follows from them, and is no test of its own.
        """
        doubtful = {flag.attack for _, flag in self.doubts}
        left_out = {*doubtful, WORST}
        attacked = [item for item in self.differences if item.epsilon > 0 and item.attack not in left_out]
        if None in doubtful or (doubtful and not attacked):
            return f"These two networks, {self.second} and {self.first}: no verdict. {self._reasons()}"
        if not attacked:
            return (
                f"These two networks, {self.second} and {self.first}: no verdict, nothing above epsilon 0 was attacked."
            )
        found = [item for item, p in zip(attacked, holm([d.p_value for d in attacked]), strict=True) if p <= 0.05]
        more = sum(item.difference > 0 for item in found)
        less = len(found) - more
        if not found:
            kind = f"no difference in robustness found between {self.second} and {self.first}"
        elif more and less:
            kind = f"{self.second} is more robust than {self.first} at {more} points and less at {less}"
        else:
            kind = f"{self.second} is {'more' if more else 'less'} robust than {self.first}"
        without = f" Left out: {self._reasons()}" if doubtful else ""
        return (
            f"These two networks: {kind}; {len(found)} of {len(attacked)} attack and epsilon pairs differ "
            f"significantly (paired exact McNemar tests, Holm-corrected, 5 %, {self.samples} images). Networks of one "
            f"kind differ by their seeds as well: this says nothing of two ways of training.{without}"
        )

    def _reasons(self) -> str:
        attacks: dict[tuple[str, str], list[str]] = {}
        meanings: dict[tuple[str, str], str] = {}
        for model, flag in self.doubts:
            key = model, flag.id
            meanings.setdefault(key, f"{flag.meaning} ({flag.severity})")
            attacks.setdefault(key, []).extend([flag.attack] if flag.attack else [])
        under = {key: f" under {', '.join(labels)}" if labels else "" for key, labels in attacks.items()}
        return " ".join(f"{model}{under[model, id]}: {text}." for (model, id), text in meanings.items())

    def record(self) -> dict[str, object]:
        """The comparison as `results.json` holds it."""
        return {
            "first": self.first,
            "second": self.second,
            "samples": self.samples,
            "verdict": self.verdict,
            "doubts": [{"model": model, **flag.record()} for model, flag in self.doubts],
            "differences": [
                {
                    "attack": item.attack,
                    "epsilon": item.epsilon,
                    "difference": item.difference,
                    "interval": list(item.interval),
                    "p_value": item.p_value,
                }
                for item in self.differences
            ],
        }

    def __str__(self) -> str:
        lines = [f"{'attack':12} {'epsilon':>8} {'difference':>11}  95 % interval"]
        for item in self.differences:
            low, high = item.interval
            lines.append(f"{item.attack:12} {item.epsilon:8.4g} {item.difference:+11.1%}  [{low:+.1%}, {high:+.1%}]")
        return "\n".join([*lines, self.verdict])


def compare(first: Robustness, second: Robustness) -> Comparison:
    """Compare two models image by image, usually the regular network first and the guided one second.

    Example:
        >>> first, second = (sr.evaluate(network, images, labels, "fgsm", 0.1, name=name) for name in ("one", "two"))
        >>> print(sr.compare(first, second).verdict)  # doctest: +ELLIPSIS
        These two networks: no difference in robustness found between two and one; 0 of 1 ...

    Args:
        first: Outcome of one model.
        second: Outcome of the other, for the same images, attacks and epsilons.

    Returns:
        A `Comparison`; print it for a table and the verdict.

    Raises:
        ValueError: If one is no result, or images, attacks, settings, epsilons or seeds of random starts differ.
    """
    check_comparable(first, second)
    names = first.model, second.model
    if names[0] == names[1]:
        names = f"{first.model} (first)", f"{second.model} (second)"
    differences = [
        _difference(label, float(epsilon), a, b)
        for label in first.curves
        for epsilon, a, b in zip(first.epsilons, first.curves[label], second.curves[label], strict=True)
    ]
    named = zip(names, (first, second), strict=True)
    doubts = tuple((name, flag) for name, result in named for flag in result.flags if flag.withholds)
    return Comparison(*names, len(first.clean), tuple(differences), doubts)


def chance_flags(model: str, correct: np.ndarray, num_classes: int, bounds: Sequence[float]) -> list[Flag]:
    """A flag if an accuracy is not above that of guessing.

    Args:
        model: Name of the model.
        correct: Whether each image is classified correctly as it is, boolean `(N,)`.
        num_classes: Guesses are right one time in so many.
        bounds: What range of images the model is said to take.
    """
    if not at_chance(correct, num_classes):
        return []
    low, high = bounds
    return [
        Flag(
            "chance",
            DOUBTFUL,
            float(correct.mean()),
            1 / num_classes,
            f"The clean accuracy of {model}, {correct.mean():.1%} of {len(correct)}, is not significantly above "
            "chance: its images are probably not prepared as in its training",
            f"The usual causes are wrong bounds (here {low:g} to {high:g}) and another order of the channels",
        )
    ]


def at_chance(correct: np.ndarray, num_classes: int) -> bool:
    """Whether an accuracy is not above that of guessing, by an exact binomial test at 1 %.

    Args:
        correct: Outcome of each image, boolean `(N,)`. Of so few that an accuracy halfway between guessing and 1 would
            not be told from guessing 19 times in 20, nothing is said.
        num_classes: Guesses are right one time in so many.
    """
    samples, guessing = len(correct), 1 / num_classes
    needed = stats.binom.isf(CHANCE_LEVEL, samples, guessing) + 1  # right images from which on the test rejects
    enough = stats.binom.sf(needed - 1, samples, (1 + guessing) / 2) >= CHANCE_POWER
    test = stats.binomtest(int(correct.sum()), samples, guessing, alternative="greater")
    return bool(enough and test.pvalue > CHANCE_LEVEL)


def _difference(attack: str, epsilon: float, first: np.ndarray, second: np.ndarray) -> Difference:
    gained, lost = int((second & ~first).sum()), int((first & ~second).sum())
    samples, discordant = len(first), gained + lost
    p_value = stats.binomtest(gained, discordant).pvalue if discordant else 1.0
    # Half an observation is added to each of the four cells, so that no discordant image still leaves a width.
    centre = (gained - lost) / (samples + 2)
    spread = np.sqrt((discordant + 1) - (gained - lost) ** 2 / (samples + 2)) / (samples + 2)
    width = float(stats.norm.ppf(0.975) * spread)
    interval = (max(-1.0, centre - width), min(1.0, centre + width))
    return Difference(attack, epsilon, (gained - lost) / samples, interval, float(p_value))
