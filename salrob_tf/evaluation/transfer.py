"""Whether what one network's adversarials do to another tells more than the attacks on that other network did."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy import stats

from salrob_tf.attacks.registry import Entry
from salrob_tf.checks import epsilon_text
from salrob_tf.data.folders import Images, select
from salrob_tf.evaluation.plans import plan_of
from salrob_tf.evaluation.probes import FEWEST, LEVEL, MISSED, Probe, strongest, telling
from salrob_tf.models.classifier import Classifier
from salrob_tf.results.flags import DOUBTFUL, NOT_BELIEVED
from salrob_tf.results.robustness import Robustness

NAME = "transfer"
BUDGET = 0.03  # gradients at most, as a share of the sweep's
MOST = 25  # images


def look_at_transfer(
    results: Sequence[Robustness],
    classifiers: Sequence[Classifier],
    images: Images,
    labels: np.ndarray,
    attacks: Mapping[str, Entry],
) -> list[Robustness]:
    """Let adversarials of another network meet each one (Carlini et al. 2019, section 4; Pintor et al. 2022).

    They are made of images that no attack of the run broke, at the epsilon where about half of them stand: what breaks
    there shows that the attacks on the network itself are too weak. Two networks in a row are each other's
    other, so that more pairs at the end change nothing for those before; a single last one's is the one before it.

    Args:
        results: What attacks did to each network.
        classifiers: The networks, in the same order.
        images: What they were attacked on.
        labels: Their labels, `(N,)`.
        attacks: What they were attacked by, by label.

    Returns:
        The results, with a probe more in what was looked at, and a flag where it found something; as they are where
        they have the probe.
    """
    found = []
    for number, result in enumerate(results):
        checks, probes = result.description.get("checks", {}), result.description.get("checks", {}).get("probes", [])
        other = number - 1 if number % 2 or number + 1 == len(results) else number + 1
        looked_at = any(probe["id"] == NAME for probe in probes)
        # None where attacks were too cheap, or accuracy is at chance.
        if len(results) > 1 and probes and not looked_at:
            pair = classifiers[number], classifiers[other]
            probe, spent = _probe(result, results[other].model, *pair, images, labels, attacks)
            whole = sum(cost.gradient_evaluations for cost in result.costs.values())
            spent += checks["gradient_evaluations"]
            looked = {"probes": [*probes, probe.record()], "gradient_evaluations": spent}
            description = {**result.description, "checks": {**checks, **looked, "share": spent / max(1, whole)}}
            flags = [probe.flag] if probe.flag else []
            for flag in flags:
                warnings.warn(str(flag), stacklevel=3)
            result = replace(result, description=description, flags=(*result.flags, *flags))
        found.append(result)
    return found


def _probe(
    result: Robustness,
    name: str,
    classifier: Classifier,
    other: Classifier,
    images: Images,
    labels: np.ndarray,
    attacks: Mapping[str, Entry],
) -> tuple[Probe, int]:
    """The probe, and how many gradients it took."""
    not_run = Probe(NAME, 0), 0
    standing = np.all(list(result.correct.values()), axis=0)
    place = telling(result.epsilons, standing)
    if place is None or not result.description["deterministic"]:
        return not_run
    label, attack = strongest(plan_of(other, attacks, result.epsilons), result.correct)
    if attack is None:
        return not_run
    each = attack.steps * attack.gradients_per_step(other.num_classes)
    budget = BUDGET * sum(cost.gradient_evaluations for cost in result.costs.values())
    rows = np.flatnonzero(standing[place])[: min(MOST, int(budget / each))]
    if len(rows) < FEWEST:
        return not_run
    epsilon = float(result.epsilons[place])
    some, expected = other.check(select(images, rows)), labels[rows]
    try:
        adversarial = attack(other, some, expected, epsilon, indices=rows)
    except ValueError:  # no gradient, or none that is finite
        return not_run
    broken, spent = int(np.sum(~classifier.classifies(adversarial, expected))), len(rows) * each
    share = broken / len(rows)
    if stats.binom.sf(broken - 1, len(rows), MISSED) > LEVEL:
        return Probe(NAME, len(rows), share, MISSED), spent
    severity = NOT_BELIEVED if broken >= len(rows) / 2 else DOUBTFUL
    meaning = (
        f"adversarials that {label} makes on {name} break {broken} of {len(rows)} images that no attack on "
        f"{result.model} itself broke at epsilon {epsilon_text(epsilon)}"
    )
    remedy = "Its own gradients lead astray: run square, worst-case or autoattack"
    return Probe.found(NAME, len(rows), share, MISSED, severity, meaning, remedy), spent
