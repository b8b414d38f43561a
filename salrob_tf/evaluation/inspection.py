"""What can be seen of a classifier before it is attacked, and what then speaks against the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from salrob_tf.attacks.base import Attack
from salrob_tf.evaluation.counts import SEVERAL_DRAWS
from salrob_tf.models.classifier import PASSES, Classifier
from salrob_tf.models.logits import LOG_PROBABILITIES, LOGITS, SAME, furthest, saturated
from salrob_tf.results.comparison import chance_flags
from salrob_tf.results.flags import DOUBTFUL, NOT_BELIEVED, Flag

MORE_PASSES = 50  # compiled ones, before it is said that compiling froze what a model draws
PASSED = 256  # images in each
TOGETHER = 8  # images, of fewer of which a batch shows little
SAME_ALONE = 0.01  # the same for an image in two batches: kernels of half precision round by the batch's size
SATURATED = 0.01  # share of images from which on it is said
SMALLEST_GAP = 0.1  # between the two highest logits: below, softmax is nearly uniform
RESOLVED = 1e-5  # the same over the size of logits: float32 keeps but a few dozen steps in between


def inspect(
    classifier: Classifier, images: np.ndarray, labels: np.ndarray, attacks: Mapping[str, Attack], batch_size: int
) -> tuple[dict[str, Any], list[Flag]]:
    """Look at what a classifier does to images as they are.

    Args:
        classifier: The model.
        images: Images that are to be attacked, float32 `(N, height, width, channels)`.
        labels: Their labels, `(N,)`.
        attacks: What they are to be attacked by, by label.
        batch_size: Images per forward pass; a few at least.

    Returns:
        What `Classifier.describe` gives with `deterministic`, whether repeated passes agree, and for
        log-probabilities `saturated`, the share of these images that have no gradient because all probabilities but
        one round to 0; and a flag for each thing that makes attacks on this model doubtful.

    Raises:
        ValueError: If the model draws random numbers outside TensorFlow.
    """
    # Not compiled: tracing would freeze what a callable draws outside TensorFlow.
    some, labels, size = images[:PASSED], labels[:PASSED], max(batch_size, TOGETHER)
    parts = [tf.constant(some[start : start + size]) for start in range(0, len(some), size)]
    passes = np.stack([np.concatenate([classifier.logits(part) for part in parts]) for _ in range(PASSES)])
    found = classifier.describe() | {"deterministic": passes_agree(passes, labels)}
    flags = []
    if not found["deterministic"]:
        compiled = np.stack([classifier.predict_logits(some, size) for _ in range(MORE_PASSES)])
        if passes_agree(compiled, labels):
            raise ValueError(
                f"{classifier.name} draws random numbers outside TensorFlow, which compiling it would freeze: draw "
                "them with tf.random or keras.random"
            )
        flags.append(
            Flag(
                "random",
                DOUBTFUL,
                furthest(passes),
                SAME,
                f"{classifier.name} gives other logits for the same images when it is asked again: gradients are means "
                f"over {SEVERAL_DRAWS.gradient} draws, and an image counts as correct where more than half of "
                f"{SEVERAL_DRAWS.judging} draws say so",
                "What is left may still be owed to the noise: attack the model without it too",
            )
        )
    elif (distance := _distance_alone(classifier, some, passes[0])) > SAME_ALONE:
        flags.append(
            Flag(
                "batch",
                NOT_BELIEVED,
                distance,
                SAME_ALONE,
                f"What {classifier.name} gives for an image depends on the other images of the batch, and attacks put "
                "together batches of their own",
                "Pass a model in inference mode, such as one whose BatchNormalization uses its moving statistics",
            )
        )
    if classifier.outputs == LOG_PROBABILITIES:
        found["saturated"] = float(saturated(passes[0]).mean())
    return found, flags + _outputs(classifier, passes, found.get("saturated", 0.0)) + _small_logits(
        classifier, passes[0], attacks
    )


def chance(classifier: Classifier, correct: np.ndarray) -> list[Flag]:
    """A flag if an accuracy is not above that of guessing.

    Args:
        classifier: The model.
        correct: Whether each image is classified correctly as it is, boolean `(N,)`.
    """
    return chance_flags(classifier.name, correct, classifier.num_classes, classifier.bounds)


def passes_agree(passes: np.ndarray, labels: np.ndarray) -> bool:
    """Whether repeated passes give the same correct count and the same logits but for rounding.

    Args:
        passes: Logits `(P, N, num_classes)`.
        labels: `(N,)`.
    """
    counts = (passes.argmax(-1) == labels).sum(axis=1)
    return bool(np.all(counts == counts[0]) and furthest(passes) <= SAME)


def _distance_alone(classifier: Classifier, images: np.ndarray, logits: np.ndarray) -> float:
    """How far the logits of two images move where they stand alone and in another order."""
    alone = classifier.logits(tf.constant(images[1::-1])).numpy()
    return furthest(np.stack([logits[1::-1], alone]))


def _outputs(classifier: Classifier, passes: np.ndarray, share: float) -> list[Flag]:
    if share >= SATURATED:
        meaning = (
            f"{classifier.name} gives probabilities, and for {share:.1%} of the images all but one round to 0, where "
            "gradient attacks learn nothing"
        )
        return [Flag("saturated", DOUBTFUL, share, SATURATED, meaning, "Pass a model that gives logits")]
    if classifier.outputs == LOGITS and passes.min() >= 0 and passes.max() <= 1:
        meaning = (
            f"All outputs of {classifier.name} lie in [0, 1], and they are taken for logits: if a sigmoid gives them, "
            "attacks are too weak"
        )
        return [Flag("sigmoid", DOUBTFUL, float(passes.max()), 1.0, meaning, "Pass a model that gives logits")]
    return []


def _small_logits(classifier: Classifier, logits: np.ndarray, attacks: Mapping[str, Attack]) -> list[Flag]:
    ordered = np.sort(logits, axis=-1)
    gap = float(np.median(ordered[:, -1] - ordered[:, -2]))
    size = float(np.median(np.abs(logits).max(axis=-1)))
    if gap < RESOLVED * size:
        return [
            Flag(
                "unresolved logits",
                DOUBTFUL,
                gap / size,
                RESOLVED,
                f"The two highest logits of {classifier.name} differ by {gap:.1g} only beside values of {size:.2g} "
                "(median), which float32 hardly tells apart: no attack can tell which class is nearest",
                "Take away what all logits have in common, inside the model",
            )
        ]
    small = gap < SMALLEST_GAP and logits.shape[-1] > 2  # of two classes, both losses have one direction
    concerned = [label for label, attack in attacks.items() if attack.maximises_cross_entropy and small]
    return [
        Flag(
            "small logits",
            DOUBTFUL,
            gap,
            SMALLEST_GAP,
            f"The two highest logits of {classifier.name} differ by {gap:.1g} only (median): cross-entropy then climbs "
            "towards all other classes at once instead of the nearest",
            _instead(label, attacks, "whose direction does not depend on the scale of logits"),
            label,
        )
        for label in concerned
    ]


def _instead(label: str, attacks: Mapping[str, Attack], why: str) -> str:
    attack = attacks[label]
    plain = replace(attack, targeted=False, target_classes=1) if attack.targeted else attack
    margin = replace(plain, loss="margin").label
    there = margin in attacks and attacks[margin].norm == attack.norm
    return f"Believe {margin} instead" if there else f"Try {margin}, {why}"
