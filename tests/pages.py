"""Results and evidence that no network made, for pages, and what can be taken from those."""

import base64
import re

import numpy as np

from salrob_tf.reports.page import report
from salrob_tf.results.comparison import compare
from salrob_tf.results.costs import Costs
from salrob_tf.results.evidence import Evidence
from salrob_tf.results.flags import DOUBTFUL, Flag
from salrob_tf.results.measures import DELETION, over_seeds
from salrob_tf.results.methods import compare_methods
from salrob_tf.results.robustness import Robustness

EPSILONS = np.array([0.1, 0.2, 0.3])
RECORD = {
    "data": {"name": "rows", "split": "test", "samples": 40, "sha256": "ab" * 32},
    "created": "2026-01-01T00:00:00+00:00",
    "seed": 0,
    "environment": {"tensorflow": "2.21.0"},
    "arguments": {"data": "my rows.npz", "steps": 5, "attacks": ["fgsm", "pgd"], "survivors_only": False, "out": None},
    "run": {"script": "reproduce.py"},
}


def make_result(name, seed=0, attacks=("fgsm", "pgd"), samples=40, epsilons=EPSILONS, flags=()):
    rng = np.random.default_rng(seed)
    limits = rng.uniform(0, 0.4, samples)
    correct = {label: limits > epsilons[:, None] * (1 + 0.1 * place) for place, label in enumerate(attacks)}
    clean = limits > 0.01
    return Robustness(
        model=name,
        epsilons=epsilons,
        indices=np.arange(samples),
        clean=clean,
        correct={label: matrix & clean for label, matrix in correct.items()},
        attacks={label: {"norm": "inf", "steps": 5} for label in attacks},
        costs={label: Costs(1.5, 1000, 20) for label in attacks},
        sha256="ab" * 32,
        flags=tuple(flags),
    )


def make_evidence(
    networks=("regular-0", "guided-0"), classes=("zero", "one", "two"), images=6, shape=(8, 8, 1), epsilons=EPSILONS
):
    rng = np.random.default_rng(1)
    lead = (len(networks), 2, 1 + len(epsilons), images)
    shown, labels = rng.integers(0, 256, (images, *shape), np.uint8), np.arange(images) % len(classes)
    predicted = np.broadcast_to(labels, lead).copy()
    predicted[0, :, 2:, 0] = (labels[0] + 1) % len(classes)  # the first network loses the first image at 0.2
    predicted[0, 1, 2:, 2] = (labels[2] + 1) % len(classes)  # and under PGD the third
    predicted[1:, :, 3:, 1] = (labels[1] + 1) % len(classes)  # the others the second at 0.3
    return Evidence(
        networks=networks,
        attacks=("fgsm", "pgd"),
        class_names=classes,
        epsilons=np.array([0.0, *epsilons]),
        images=shown,
        labels=labels,
        rows=5 * np.arange(images),
        adversarial=rng.integers(0, 256, (*lead, *shape), np.uint8),
        maps=rng.integers(-127, 128, (*lead, *shape[:2])).astype(np.int8),
        predicted=predicted,
        confidence=rng.uniform(0.4, 1, lead).astype(np.float32),
        measures={
            name: {
                "margin": rng.normal(place, 1, 20),
                f"{DELETION}, blur": rng.normal(place, 0.1, 20),
                f"{DELETION}, linear": rng.normal(place, 0.1, 20),
            }
            for place, name in enumerate(networks)
        },
        quality=(f"{DELETION}, blur", f"{DELETION}, linear"),
        agreement=np.array([[1, 0.25], [0.25, 1]]),
        shares=np.array([0, 0.5, 0.9]),
        removed={name: {fill: rng.random((2, 3, 20)) < 0.5 for fill in ("blur", "linear")} for name in networks},
    )


def make_page(names=("regular-0", "guided-0"), classes=("zero", "one", "two"), record=RECORD, **settings):
    flag = Flag("more steps", DOUBTFUL, 0.1, 0.02, "more steps break more", "Give it more steps", "pgd")
    results = [make_result(name, seed, flags=[flag] * seed) for seed, name in enumerate(names)]
    evidence = make_evidence(tuple(names), tuple(classes), **settings)
    files = {"results.json": b"{}", "correct.npz": b"PK"}
    return report({each.model: [each] for each in results}, [compare(*results)], record, evidence, files)


WAYS = ("regular", "guided fill=mean", "random fill=linear")


def make_study(ways=WAYS, flagged=2, attacks=("fgsm", "pgd")):
    """By way of training, results of three seeds; those of the way with a number are doubtful."""
    flag = Flag("black box", DOUBTFUL, 0.25, 0.03, "an attack without gradients breaks more", "Look for masking")
    return {
        way: [
            make_result(f"{way}-{seed}", 10 * place + seed, attacks, flags=[flag] * (place == flagged))
            for seed in range(3)
        ]
        for place, way in enumerate(ways)
    }


def make_study_page(ways=WAYS, record=RECORD, missing=("No images here.", "Left out: random-3.")):
    groups, rng = make_study(ways), np.random.default_rng(2)
    first, *others = ways
    comparisons = [compare_methods({first: groups[first], other: groups[other]}) for other in others]
    means = {way: {seed: {"margin": rng.normal(), "zeros": rng.normal()} for seed in range(3)} for way in ways}
    return report(groups, comparisons, record, missing=missing, seeds=over_seeds(means))


def taken(page, name):
    """What a download of a page holds, as text."""
    return base64.b64decode(re.search(rf'base64,([^"]*)" download="{name}"', page)[1]).decode()
