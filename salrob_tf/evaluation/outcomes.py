"""What the outcomes of a sweep say against its attacks by themselves, without one more gradient."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from scipy import stats

from salrob_tf.checks import epsilon_text
from salrob_tf.evaluation.counts import Draws
from salrob_tf.evaluation.noise import LEVEL
from salrob_tf.evaluation.plans import Plan
from salrob_tf.evaluation.probes import Probe
from salrob_tf.results.flags import DOUBTFUL, Flag


def one_step(plan: Plan, correct: Mapping[str, np.ndarray]) -> list[Probe]:
    """Attacks in many steps should break no less than one untargeted step in the same ball (Athalye et al. 2018).

    Args:
        plan: What was done.
        correct: What each attack left, boolean `(K, N)`, epsilon ascending.

    Returns:
        A probe of each attack in many steps, where there is one in one step of the same norm.
    """
    single = [label for label, attack in plan.attacks.items() if attack.one_gradient and not attack.targeted]
    found = []
    for label in (label for label, attack in plan.attacks.items() if attack.stepwise and attack.uses_gradients):
        for one in (one for one in single if plan.attacks[one].norm == plan.attacks[label].norm):
            less = np.sum(correct[label] & ~correct[one], axis=1)
            more = np.sum(correct[one] & ~correct[label], axis=1)
            tests = [stats.binom.sf(a - 1, a + b, 0.5) if a + b else 1.0 for a, b in zip(less, more, strict=True)]
            k, level = int(np.argmin(tests)), LEVEL / len(tests)
            flag = None
            if tests[k] <= level:
                meaning = (
                    f"{label} leaves {less[k]} images at epsilon {epsilon_text(plan.ascending[k])} that {one} breaks, "
                    f"and {one} only {more[k]} that it breaks: more steps lead to less"
                )
                remedy = "Give it smaller steps, or run worst-case or autoattack"
                flag = Flag("one step", DOUBTFUL, float(tests[k]), level, meaning, remedy, label)
            found.append(Probe("one step", correct[label].shape[1], float(tests[k]), level, flag))
    return found


def epsilon_0(plan: Plan, clean: np.ndarray, correct: Mapping[str, np.ndarray], draws: Draws) -> list[Probe]:
    """Where nothing may be changed, what an attack leaves should be what is classified correctly, image for image.

    Args:
        plan: What was done.
        clean: Whether each image is classified correctly as it is, boolean `(N,)`.
        correct: What each attack left, boolean `(K, N)`, epsilon ascending.
        draws: How often the model is asked: judged by other random numbers, an image may come out otherwise.

    Returns:
        A probe of each attack that was run at epsilon 0 and not taken to leave it as it is.
    """
    found = []
    for label in _independent(plan) if plan.ascending[0] == 0 else ():
        if draws.judging > 1:
            found.append(Probe("epsilon 0", 0))
            continue
        changed, flag = int(np.sum(correct[label][0] != clean)), None
        share = changed / len(clean)
        if changed:
            meaning = f"at epsilon 0, where nothing may be changed, {changed} of {len(clean)} images come out otherwise"
            remedy = "See whether it moves images there, or the model gives them other logits in other batches"
            flag = Flag("epsilon 0", DOUBTFUL, share, 0.0, meaning, remedy, label)
        found.append(Probe("epsilon 0", len(clean), share, 0.0, flag))
    return found


def monotone(plan: Plan, clean: np.ndarray, correct: Mapping[str, np.ndarray]) -> list[Probe]:
    """Where more may be changed, no fewer images should break (Carlini et al. 2019; Athalye et al. 2018).

    An image that breaks at one epsilon can be broken at all larger ones, so that accuracy which rises is too high. Each
    pair of epsilons, the images as they are among them, is tested by the images that broke at one of the two only, by
    an exact sign test that is one-sided and corrected for all pairs (Bonferroni).

    Args:
        plan: What was done.
        clean: Whether each image is classified correctly as it is, boolean `(N,)`.
        correct: What each attack left, boolean `(K, N)`, epsilon ascending.

    Returns:
        A probe of each attack of which one epsilon says nothing of the next.
    """
    found = []
    radii = np.concatenate([[0.0], plan.ascending[plan.ascending > 0]])
    pairs = list(combinations(range(len(radii)), 2))
    for label in _independent(plan) if pairs else ():
        left = np.vstack([clean, correct[label][plan.ascending > 0]])
        rose = np.array([np.sum(left[high] & ~left[low]) for low, high in pairs])
        fell = np.array([np.sum(left[low] & ~left[high]) for low, high in pairs])
        tests = np.where(rose + fell, stats.binom.sf(rose - 1, rose + fell, 0.5), 1.0)
        worst, level, flag = int(np.argmin(tests)), LEVEL / len(pairs), None
        if tests[worst] <= level:
            low, high = (epsilon_text(radii[place]) for place in pairs[worst])
            meaning = (
                f"{label} leaves {rose[worst]} images at epsilon {high} that are broken at {low}, and breaks only "
                f"{fell[worst]} that stand there: accuracy that rises is too high"
            )
            remedy = "Attack only what stands (`survivors_only`), or give it smaller steps"
            flag = Flag("monotone", DOUBTFUL, float(tests[worst]), level, meaning, remedy, label)
        found.append(Probe("monotone", len(clean), float(tests[worst]), level, flag))
    return found


def _independent(plan: Plan) -> list[str]:
    """The attacks of which outcomes at one epsilon were not taken to hold at others, so that they can contradict."""
    return [label for label, settings in plan.settings.items() if settings.get("search") == "independent"]
