"""What a sweep will take, before it begins: gradients, forward passes and time, from its plan and a few batches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from salrob_tf.attacks.base import Link
from salrob_tf.attacks.gradient import FGSM
from salrob_tf.evaluation.audit import LEVELS, audited_images
from salrob_tf.evaluation.counts import ONE_DRAW, SEVERAL_DRAWS, Draws
from salrob_tf.evaluation.plans import Plan

# How many whole attacks an image meets on average, seen on MNIST networks: of the first attack of a search by halves,
# from a scout's guess, and of one that begins where another ended; and which share of images is near to falling, or of
# steps is taken in hope.
FROM_A_SCOUT, FROM_ANOTHER, NEAR = 2.2, 1.3, 0.2
OVERHEAD = 1.15  # of an attack over its gradients and forward passes alone
TIMED = 3  # batches


@dataclass(frozen=True)
class Estimate:
    """About what a sweep takes.

    Attributes:
        gradients: Gradients of single images.
        forward_evaluations: Forward passes of single images beside them.
        seconds: On this machine, as it is at the moment.
    """

    gradients: int = 0
    forward_evaluations: int = 0
    seconds: float = 0.0

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(
            self.gradients + other.gradients,
            self.forward_evaluations + other.forward_evaluations,
            self.seconds + other.seconds,
        )

    def __str__(self) -> str:
        minutes = self.seconds / 60
        how_long = f"{minutes:.0f} minutes" if minutes >= 1.5 else f"{self.seconds:.0f} seconds"
        return (
            f"about {_brief(self.gradients)} gradients and {_brief(self.forward_evaluations)} forward passes, "
            f"{how_long} on this machine"
        )


def estimate(plan: Plan, images: np.ndarray, count: int) -> Estimate:
    """What a plan takes, as if most images fell somewhere in the middle of the epsilons.

    Args:
        plan: What is to be done.
        images: Some of the images, a batch or so, `(N, height, width, channels)`; what a gradient takes is measured
            on them.
        count: How many images there will be.
    """
    found = Estimate()
    draws = ONE_DRAW if plan.classifier.deterministic else SEVERAL_DRAWS
    for label, chain in plan.chains.items():
        first = label == next(iter(plan.chains))
        for place, link in enumerate(chain):
            share = NEAR if min(link.near, link.hope) < np.inf else 1.0
            found += _taken(plan, draws, link, _attempts(plan, link, place, first) * share * count)
        for link in plan.audits.get(label, ()):
            met = len(audited_images(np.arange(count), plan.seed)) * float(np.mean(LEVELS))
            found += _taken(plan, draws, link, met)
    some = np.resize(images, (min(plan.batch_size, count), *images.shape[1:]))
    zeros = np.zeros(len(some), np.int32)
    seconds = found.forward_evaluations * _seconds(lambda: plan.classifier.predict_logits(some, len(some))) / len(some)
    if found.gradients:
        seconds += found.gradients * _seconds(lambda: FGSM().gradients(plan.classifier, some, zeros)) / len(some)
    return replace(found, seconds=OVERHEAD * seconds)


def _attempts(plan: Plan, link: Link, place: int, first: bool) -> float:
    """How often an image is attacked whole, each time with all tries."""
    attack, epsilons = link.attack, len(plan.ascending)
    if attack.one_gradient or attack.nearest or place:
        return 1.0
    if not plan.survivors_only:
        return float(epsilons)
    if plan.search == "full" or not attack.bisects:
        return (epsilons + 1) / 2
    return min(epsilons, FROM_A_SCOUT if first else FROM_ANOTHER)


def _taken(plan: Plan, draws: Draws, link: Link, attempts: float) -> Estimate:
    """What so many whole attacks on an image take, without the time."""
    attack, classes = link.attack, plan.classifier.num_classes
    tries = attack.tries(classes)
    judged = len(plan.ascending) if attack.one_gradient else tries
    steps = attempts * tries * attack.steps
    gradients = steps * attack.gradients_per_step(classes) * draws.gradient
    forwards = steps * attack.forwards_per_step(draws.gradient) + attempts * judged * draws.judging
    return Estimate(round(gradients), round(forwards))


def _seconds(call: Callable[[], object]) -> float:
    """The time that a call takes, its first one left out."""
    call()
    times = []
    for _ in range(TIMED):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _brief(number: int) -> str:
    return f"{number / 1e6:.1f} million" if number >= 1e6 else f"{float(f'{number:.2g}'):,.0f}"
