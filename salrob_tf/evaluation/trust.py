"""Whether an attack did what an attack can: what its gradients and its success say against its result.

An attack whose gradients lead nowhere leaves accuracy where it was, and looks like robustness (Athalye et al. 2018).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from salrob_tf.attacks.autoattack import AutoAttack
from salrob_tf.attacks.base import Attack
from salrob_tf.evaluation.counts import Draws
from salrob_tf.evaluation.noise import Noise
from salrob_tf.evaluation.outcomes import epsilon_0, monotone, one_step
from salrob_tf.evaluation.plans import Plan
from salrob_tf.evaluation.probes import Probes
from salrob_tf.results.costs import Costs
from salrob_tf.results.flags import DOUBTFUL, NOT_BELIEVED, NOTE, Flag

ZERO = 0.01  # share of images with zero gradients from which on a result is doubtful
ALL_ZERO = 0.99
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
    plan: Plan,
    costs: Mapping[str, Costs],
    clean: np.ndarray,
    correct: Mapping[str, np.ndarray],
    *,
    draws: Draws,
    at_chance: bool,
) -> tuple[list[Flag], dict[str, Any]]:
    """What speaks against the results of attacks.

    Args:
        sample: Some of the images.
        plan: What was done to all of them.
        costs: What each attack cost, by label.
        clean: Whether each image is classified correctly as it is, boolean `(N,)`.
        correct: What each attack left of all images, boolean `(K, N)`, epsilon ascending.
        draws: How often the model is asked.
        at_chance: Whether clean accuracy is that of guessing, where nothing can be seen of attacks.

    Returns:
        Flags, and what was looked at, as the description of a model holds it: each probe and its outcome, and what
        they cost in all and as a share of the sweep's gradients.
    """
    noise = Noise(plan.classifier, sample.images, sample.labels, plan.seed, draws, plan.batch_size)
    found: dict[str, list[Flag]] = {}
    believed: dict[float, str] = {}
    for label in sorted(plan.attacks, key=lambda label: plan.attacks[label].uses_gradients):
        attack, dtype = plan.links[label].attack, plan.links[label].dtype
        without = _without_gradients(plan.attacks, believed, attack.norm)
        found[label] = zero_gradients(sample, plan, label, costs[label].zero_gradients, without)
        if not at_chance and not any(flag.severity == NOT_BELIEVED for flag in found[label]):  # or no more need be said
            found[label] += noise.flag(label, attack, dtype, sample.left(label), plan.ascending, without)
        if not attack.uses_gradients and not any(flag.withholds for flag in found[label]):
            believed[attack.norm] = label
        found[label] += _members(plan, label, draws) + _at_boundary(plan, label, draws)
    gradients = sum(cost.gradient_evaluations for cost in costs.values())
    left = {label: sample.left(label) for label in plan.attacks}
    probes = Probes(plan, sample.images, sample.labels, left, gradients, draws)
    read = [*one_step(plan, correct), *epsilon_0(plan, clean, correct, draws), *monotone(plan, clean, correct)]
    looked = [] if at_chance else [*read, *probes.run()]
    flags = [flag for label in plan.attacks for flag in found[label]]
    probes.counts.add(noise.counts)
    spent = probes.counts.gradient_evaluations
    return flags + [flag for probe in looked for flag in probe.flags], {
        "probes": [probe.record() for probe in looked],
        "gradient_evaluations": spent,
        "forward_evaluations": probes.counts.forward_evaluations,
        "share": spent / max(1, gradients),
    }


def zero_gradients(sample: Sample, plan: Plan, label: str, share: float, without: str) -> list[Flag]:
    """A flag if gradients were zero everywhere.

    Args:
        sample: Some of the images that were attacked.
        plan: What was done to them.
        label: The attack.
        share: Share of the attacked images whose first gradient was zero.
        without: What to do where gradients lead nowhere.
    """
    if not share:
        return []
    remedy = f"{without}, or give the step that has no gradient, such as rounding, a straight-through one"
    attack, images = plan.attacks[label], sample.images[: plan.batch_size]
    if attack.maximises_cross_entropy and len(images):
        # Where the model is sure of itself, the gradient of cross-entropy rounds to 0, and that of a margin does not.
        other = replace(attack, loss="margin")
        with suppress(ValueError, NotImplementedError):  # gradients of that loss may not be finite
            loss_classes = other.loss_classes(plan.classifier, images, sample.labels[: plan.batch_size])[:, 0]
            sizes = other.gradients(plan.classifier, images, loss_classes, plan.links[label].dtype)[1]
            if np.mean(sizes == 0) < ZERO:
                there = other.label in plan.attacks and plan.attacks[other.label].norm == attack.norm
                believed = f"Believe {other.label} instead" if there else f"Try {other.label}"
                remedy = (
                    f"{believed}: the gradient of cross-entropy vanishes where the model is sure of itself. {without}"
                )
    severity = NOT_BELIEVED if share >= ALL_ZERO else DOUBTFUL if share >= ZERO else NOTE
    meaning = f"the gradient was zero for {share:.1%} of the images attacked, where the attack learns nothing"
    return [Flag("zero gradients", severity, share, ZERO, meaning, remedy, label)]


def _members(plan: Plan, label: str, draws: Draws) -> list[Flag]:
    """What is said of an ensemble that is smaller because of the model: of random numbers, or of no gradients."""
    chain, name = plan.chains[label], plan.classifier.name
    if label in [link.attack.label for link in chain]:
        return []
    run = " and ".join(link.label for link in chain)
    if not any(link.attack.uses_gradients for link in chain):
        meaning = f"{name} has no gradient with respect to its images: only {run} was run, which is weaker"
        remedy = "Give the step that has no gradient, such as rounding, a straight-through one"
        return [Flag("no gradient", DOUBTFUL, 0, 1, meaning, remedy, label)]
    random, fewer = draws.gradient > 1, label == AutoAttack.label and all(link.attack.uses_gradients for link in chain)
    if random:
        run = f"of the version for such networks {run}" if fewer else run
        meaning = f"{name} draws random numbers: {run} were run, on averaged gradients"
        return [Flag("members", NOTE, draws.gradient, 1, meaning, "Attack the model without its noise too", label)]
    if fewer:
        meaning = f"of the version for networks that draw random numbers {run} were run, but {name} draws none"
        return [Flag("members", NOTE, draws.gradient, 1, meaning, "Run the standard version, which finds more", label)]
    return []


def _at_boundary(plan: Plan, label: str, draws: Draws) -> list[Flag]:
    """What is said of an attack that looks for the boundary itself, where a model's random numbers decide."""
    if draws.judging == 1 or not all(link.attack.nearest for link in plan.chains[label]):
        return []
    meaning = (
        f"{plan.classifier.name} draws random numbers, and {label} ends where the mean of {draws.gradient} draws just "
        f"changes its class: most of {draws.judging} fresh ones may say otherwise"
    )
    return [Flag("boundary", DOUBTFUL, draws.gradient, 1, meaning, "Try apgd or pgd, which do not", label)]


def poor_gradients(label: str, name: str, fell: int, tried: int) -> Flag:
    """What is said of an attack, or a member of one, whose gradients in bfloat16 left what those in float32 break."""
    of = "" if name == label else f" of {name}"
    meaning = (
        f"gradients{of} in bfloat16 are poor here: {fell} of {tried} images that they left far from falling fell to "
        "those in float32, which therefore went on with all such images"
    )
    return Flag("poor gradients", NOTE, fell / tried, 0, meaning, "Leave craft_dtype at float32", label)


def _without_gradients(attacks: Mapping[str, Attack], believed: Mapping[float, str], norm: float) -> str:
    if norm in believed:
        return f"Believe {believed[norm]}, which takes no gradient"
    runs = (label for label, attack in attacks.items() if not attack.uses_gradients and attack.norm == norm)
    run, other = next(runs, None), "spsa" if norm == np.inf else "square"
    return f"See what is said of {run}" if run else f"Attack it with {other}, which takes no gradient"
