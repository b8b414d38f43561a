"""Whether two ways of training differ in robustness: what networks of several seeds say, attacked alike.

One endpoint is fixed beforehand: robust accuracy under the worst case, averaged over epsilon from 0 to the largest.
Times that largest epsilon it is the area under the robustness curve, which is the mean smallest epsilon that breaks an
image, one above the largest counting as that. Epsilons by themselves are a family beside it, and attacks by themselves
are not tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import stats

from salrob_tf.checks import epsilon_text, shown
from salrob_tf.results.alike import check_comparable, check_groups
from salrob_tf.results.crossed import CONFIDENCE, Mean, mean_of
from salrob_tf.results.families import EpsilonDifference, family_of
from salrob_tf.results.flags import Flag, gravest
from salrob_tf.results.planner import Plan, plan_of
from salrob_tf.results.robustness import WORST, Robustness

MARGIN = 0.01  # within which two ways of training count as equivalent
FEWEST_FLIPPED = 6  # seeds from which on a sign-flip test can reject at 5 %
MORE, LESS, EQUIVALENT, UNDECIDED = "more robust", "less robust", "equivalent within one point", "not decided"


@dataclass(frozen=True, eq=False)
class MethodComparison:
    """Two ways of training, from networks of several seeds of each.

    Example:
        >>> one, two = (sr.evaluate(network, images, labels, "fgsm", 0.1, name=name) for name in ("one", "two"))
        >>> found = sr.compare_methods({"regular": [one, two], "guided": [two, one]})
        >>> found.seeds, found.images, found.endpoint.estimate, found.sign_flip
        (2, 64, 0.0, None)

    Attributes:
        first: Name of the first way.
        second: Name of the second, whose gain or loss the differences are.
        attack: Label of the curve that is compared.
        epsilons: Radii above 0, ascending, `(K,)`.
        areas: Robust accuracy of each image averaged over epsilon, for the first and the second, `(2, S, N)`.
        differences: At each epsilon, of each image in each seed, -1, 0 or 1, `(K, S, N)`.
        doubts: What speaks against the accuracies so gravely that no verdict rests on them, with names of networks.
        doubt: How doubtful the most doubtful network is under `attack`, a severity, or nothing: what no attack broke is
            as doubtful as the least doubtful of the attacks, however grave what speaks against the others.
    """

    first: str
    second: str
    attack: str
    epsilons: np.ndarray
    areas: np.ndarray
    differences: np.ndarray
    doubts: tuple[tuple[str, Flag], ...] = ()
    doubt: str = ""

    @property
    def seeds(self) -> int:
        """Pairs of networks."""
        return int(self.areas.shape[1])

    @property
    def images(self) -> int:
        """Images that all of them were attacked on."""
        return int(self.areas.shape[2])

    @cached_property
    def endpoint(self) -> Mean:
        """The difference of robust accuracy averaged over epsilon, from crossed seeds and images."""
        return mean_of(self.areas[1] - self.areas[0])

    @property
    def by_seed(self) -> np.ndarray:
        """The difference of the endpoint in each seed's pair, `(S,)`."""
        return (self.areas[1] - self.areas[0]).mean(axis=1)

    @property
    def paired_t(self) -> tuple[tuple[float, float], float] | None:
        """95 % interval and p of the paired t over seeds, which takes the images as given; `None` of like seeds."""
        if np.ptp(self.by_seed) < 1e-12:  # sums in another order round otherwise
            return None
        test = stats.ttest_1samp(self.by_seed, 0)
        interval = test.confidence_interval(CONFIDENCE)
        return (float(interval.low), float(interval.high)), float(test.pvalue)

    @property
    def sign_flip(self) -> float | None:
        """Flip the signs of the seeds' differences: p, exact up to 14 seeds, `None` of fewer than can reject."""
        if self.seeds < FEWEST_FLIPPED:
            return None
        test = stats.permutation_test(
            (self.by_seed,), np.mean, permutation_type="samples", n_resamples=2**14, vectorized=True, rng=0
        )
        return float(test.pvalue)

    @property
    def detectable(self) -> float:
        """The smallest true difference that so many seeds and images find in 80 of 100 studies."""
        return self.endpoint.components.detectable(self.seeds, self.images)

    @cached_property
    def family(self) -> tuple[EpsilonDifference, ...]:
        """Each epsilon by itself, corrected for all of them by the largest t."""
        return family_of(self.epsilons, self.differences)

    @property
    def varies(self) -> bool:
        """Whether the seeds differ at all: if not, networks were given twice, or all or none of the images break.

        Nothing then tells how far the difference may be off: there is no interval, and no p.
        """
        each = self.areas[1] - self.areas[0]
        return bool(np.any(each != each[0])) and self.endpoint.error > 0

    @property
    def outcome(self) -> str:
        """The second way is `"more robust"`, `"less robust"`, `"equivalent within one point"`, or `"not decided"`."""
        if self.doubts or not self.varies:
            return UNDECIDED
        if self.endpoint.p_value <= 1 - CONFIDENCE:
            return MORE if self.endpoint.estimate > 0 else LESS
        return EQUIVALENT if self.endpoint.within(MARGIN) else UNDECIDED

    @property
    def verdict(self) -> str:
        """Which way of training gives more robust networks, by how much, how sure that is, and what it rests on."""
        says = {
            MORE: f"{self.second} gives more robust networks than {self.first}",
            LESS: f"{self.second} gives less robust networks than {self.first}",
            EQUIVALENT: f"{self.second} and {self.first} are equivalent within one point",
            UNDECIDED: f"between {self.second} and {self.first} nothing is decided",
        }[self.outcome]
        small = self.outcome in (MORE, LESS) and self.endpoint.within(MARGIN)
        which = "what no attack broke" if self.attack == WORST else self.attack
        why = ""
        if self.doubts:
            why = f" No verdict rests on accuracies that are doubtful: {self._reasons()}."
        elif self.varies and self.outcome == UNDECIDED:
            why = f" A difference of {100 * self.detectable:.1f} points would be found in 80 of 100 such studies."
        return (
            f"Ways of training: {says}{', by less than one point' if small else ''}. Difference in robust accuracy, "
            f"averaged over epsilon from 0 to {epsilon_text(self.epsilons[-1])}: {100 * self.endpoint.estimate:+.1f} "
            f"points ({self._interval}; {which}; {self.seeds} seeds, {self.images} images).{why}"
        )

    @property
    def _interval(self) -> str:
        if not self.varies:
            return "no interval: the difference is the same in all seeds, and nothing tells how far it may be off"
        low, high = self.endpoint.interval()
        return f"95 % interval {100 * low:+.1f} to {100 * high:+.1f}"

    def plan(self, half_width: float, minutes_per_network: float = 0.0, minutes_per_image: float = 0.0) -> Plan:
        """How many seeds or images bring the interval to a width, taking this comparison as the pilot; see `Plan`.

        Args:
            half_width: Wished half width of the 95 % interval, as a share: 0.01 is a point.
            minutes_per_network: What training one network takes.
            minutes_per_image: What attacking one image takes.

        Raises:
            ValueError: If a number is out of its range, or nothing varies between the seeds.
        """
        if not self.varies:
            raise ValueError("The difference is the same in all seeds: nothing can be planned from it")
        minutes = minutes_per_network, minutes_per_image
        return plan_of(self.endpoint.components, self.seeds, self.images, half_width, *minutes)

    def _reasons(self) -> str:
        names: dict[str, list[str]] = {}
        for name, flag in self.doubts:
            names.setdefault(str(flag), []).append(name)
        return "; ".join(f"{', '.join(dict.fromkeys(who))}: {text}" for text, who in names.items())

    def record(self) -> dict[str, Any]:
        """The comparison as `results.json` holds it."""
        mean, paired = self.endpoint, self.paired_t
        components = mean.components
        told = {
            "interval": list(mean.interval()),
            "p_value": mean.p_value,
            "detectable": self.detectable,
            "within_one_point": mean.within(MARGIN),
        }
        return {
            "first": self.first,
            "second": self.second,
            "attack": self.attack,
            "seeds": self.seeds,
            "images": self.images,
            "outcome": self.outcome,
            "verdict": self.verdict,
            "endpoint": {
                "what": "robust accuracy averaged over epsilon",
                "largest_epsilon": float(self.epsilons[-1]),
                "first": float(self.areas[0].mean()),
                "second": float(self.areas[1].mean()),
                "difference": mean.estimate,
                **(told if self.varies else dict.fromkeys(told)),
                "standard_error": mean.error,
                "degrees_of_freedom": mean.freedom,
                "variances": {"seed": components.seed, "image": components.image, "residual": components.residual},
                "by_seed": self.by_seed.tolist(),
                "paired_t": paired and {"interval": list(paired[0]), "p_value": paired[1]},
                "sign_flip": self.sign_flip,
            },
            "epsilons": [item.record() for item in self.family],
            "doubts": [{"model": name, **flag.record()} for name, flag in self.doubts],
        }

    def __str__(self) -> str:
        paired, components = "none, as the seeds' means are alike", self.endpoint.components
        if found := self.paired_t:
            (low, high), p_value = found
            paired = f"{low:+.1%} to {high:+.1%}, p = {p_value:.2g}"
        lines = [f"{'epsilon':>8} {'difference':>11}  95 % interval, all epsilons together", *map(str, self.family)]
        flipped = "" if self.sign_flip is None else f"; sign-flip test p = {self.sign_flip:.2g}"
        variances = components.seed, components.image, components.residual
        sizes = " / ".join(f"{100 * np.sqrt(variance):.1f}" for variance in variances)
        return "\n".join(
            [
                *lines,
                f"paired t over seeds: {paired}{flipped}",
                f"differences vary by {sizes} points (seed / image / rest, standard deviations)",
                self.verdict,
            ]
        )


def compare_methods(groups: Mapping[str, Sequence[Robustness]]) -> MethodComparison:
    """Compare two ways of training by networks of several seeds, attacked alike on the same images.

    Example:
        >>> one, two = (sr.evaluate(network, images, labels, "fgsm", 0.1, name=name) for name in ("one", "two"))
        >>> sr.compare_methods({"regular": [one, two], "guided": [two, one]}).outcome
        'not decided'

    Args:
        groups: Per way of training, usually the regular one first, its results: one per seed, two or more, the same
            seeds in the same order in both, as the pairs that share a seed are compared.

    Returns:
        A `MethodComparison`; print it for all of it, or read its `verdict`.

    Raises:
        ValueError: If there are not two ways, the numbers of seeds differ or are below 2, images, attacks, settings,
            epsilons or seeds of random starts differ, there are fewer than two images, or nothing above epsilon 0 was
            attacked.
    """
    check_groups(groups)
    counts = {name: len(group) for name, group in groups.items()}
    if len(counts) != 2:
        raise ValueError(f"Two ways of training are compared. Received: {len(counts)}: {shown(list(groups))}")
    if len(set(counts.values())) > 1:
        raise ValueError(f"Both ways must be trained from the same seeds. Received: numbers of networks={counts}")
    if min(counts.values()) < 2:
        raise ValueError(
            "One network of each kind says nothing of two ways of training: give two or more seeds, four to have a "
            f"chance; compare is for two networks. Received: numbers of networks={counts}"
        )
    (first, ours), (second, theirs) = groups.items()
    every = [*ours, *theirs]
    for result in every[1:]:
        check_comparable(every[0], result)
    epsilons, order = np.unique(every[0].epsilons, return_index=True)
    order, epsilons = order[epsilons > 0], epsilons[epsilons > 0]
    if not len(epsilons) or len(every[0].clean) < 2:
        raise ValueError(
            "There must be two images or more, and an epsilon above 0. Received: "
            f"images={len(every[0].clean)}, epsilons={every[0].epsilons.tolist()}"
        )
    attack = WORST if WORST in every[0].curves else next(iter(every[0].correct))
    left = np.array([[result.curves[attack][order] for result in group] for group in (ours, theirs)], np.int8)
    clean = np.array([[result.clean for result in group] for group in (ours, theirs)], np.int8)
    steps = np.concatenate([clean[:, :, None], left], axis=2)
    areas = np.trapezoid(steps, [0, *epsilons], axis=2) / epsilons[-1]
    doubts = tuple(
        (result.model, flag)
        for result in every
        if result.doubt(attack)
        for flag in result.flags
        if flag.withholds and (attack == WORST or flag.attack in (None, attack))
    )
    doubt = gravest(result.doubt(attack) for result in every) or ""
    return MethodComparison(first, second, attack, epsilons, areas, np.moveaxis(left[1] - left[0], 1, 0), doubts, doubt)
