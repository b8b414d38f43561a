"""What can be seen of a classifier before it is attacked, and what then speaks against the result."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from scipy import stats

from salrob_tf.classifier import Classifier
from salrob_tf.outputs import LOG_PROBABILITIES, LOGITS, saturated

PASSES = 5
PASSED = 256  # images in each
SAME = 1e-4  # distance in L2 between normalised logits up to which passes agree (AutoAttack's flag)
SATURATED = 0.01  # share of images from which on it is said
CHANCE_LEVEL = 0.01


def inspect(
    classifier: Classifier, images: np.ndarray, labels: np.ndarray, correct: np.ndarray
) -> tuple[dict[str, Any], list[str]]:
    """Look at what a classifier does to images as they are.

    Args:
        classifier: The model.
        images: Images that are to be attacked, float32 `(N, height, width, channels)`.
        labels: Their labels, `(N,)`.
        correct: Whether each is classified correctly, boolean `(N,)`.

    Returns:
        What `Classifier.describe` gives with `deterministic`, whether repeated passes agree, and for
        log-probabilities `saturated`, the share of these images that have no gradient because all probabilities but
        one round to 0; and a line for each thing that makes attacks on this model doubtful.
    """
    # Not compiled: tracing would freeze what a callable draws outside TensorFlow.
    some = tf.constant(images[:PASSED])
    passes = np.stack([classifier.logits(some).numpy() for _ in range(PASSES)])
    found = classifier.describe() | {"deterministic": passes_agree(passes, labels[:PASSED])}
    doubts = []
    if not found["deterministic"]:
        doubts.append(
            f"{classifier.name} gives other logits for the same images when it is asked again: attacks follow the "
            "gradient of one draw, and robust accuracy is overestimated"
        )
    if classifier.outputs == LOG_PROBABILITIES:
        found["saturated"] = float(saturated(passes[0]).mean())
        if found["saturated"] >= SATURATED:
            doubts.append(
                f"{classifier.name} gives probabilities, and for {found['saturated']:.1%} of the images all but one "
                "round to 0: gradient attacks learn nothing there. Pass a model that gives logits"
            )
    if classifier.outputs == LOGITS and passes.min() >= 0 and passes.max() <= 1:
        doubts.append(
            f"All outputs of {classifier.name} lie in [0, 1], and they are taken for logits: if a sigmoid gives them, "
            "attacks are too weak. Pass a model that gives logits"
        )
    if at_chance(correct, classifier.num_classes):
        doubts.append(
            f"The clean accuracy of {classifier.name}, {correct.mean():.1%} of {len(correct)}, is not above chance: "
            "its images are probably not prepared as in its training. The usual causes are wrong bounds (here "
            f"{classifier.bounds[0]:g} to {classifier.bounds[1]:g}) and another order of the channels"
        )
    return found, doubts


def passes_agree(passes: np.ndarray, labels: np.ndarray) -> bool:
    """Whether repeated passes give the same correct count and the same logits but for rounding.

    Args:
        passes: Logits `(P, N, num_classes)`.
        labels: `(N,)`.
    """
    counts = (passes.argmax(-1) == labels).sum(axis=1)
    normalised = passes / np.maximum(np.linalg.norm(passes, axis=-1, keepdims=True), 1e-12)
    distances = np.linalg.norm(normalised[:, None] - normalised[None], axis=-1)
    return bool(np.all(counts == counts[0]) and distances.max() <= SAME)


def at_chance(correct: np.ndarray, num_classes: int) -> bool:
    """Whether an accuracy is not above that of guessing, by an exact binomial test at 1 %.

    Args:
        correct: Outcome of each image, boolean `(N,)`. Of too few for any accuracy to be above it, nothing is said.
        num_classes: Guesses are right one time in so many.
    """
    possible = num_classes ** -float(len(correct)) <= CHANCE_LEVEL
    test = stats.binomtest(int(correct.sum()), len(correct), 1 / num_classes, alternative="greater")
    return bool(possible and test.pvalue > CHANCE_LEVEL)
