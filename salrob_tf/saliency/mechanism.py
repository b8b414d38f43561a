"""Why a network is robust or not: what is measured at each image."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from salrob_tf.checks import check_number, check_whole, shown
from salrob_tf.data.arrays import check_labels
from salrob_tf.models.classifier import as_classifier
from salrob_tf.saliency.gradients import input_gradients

SMALL = 1e-3  # of the largest magnitude of an image's gradient, below which it counts as zero
STEP = 0.01  # along the gradient, in units of the images: for the curvature


@dataclass(frozen=True)
class Mechanism:
    """What is measured at each image, `(N,)` each.

    Attributes:
        correct: Whether it is classified correctly.
        margin: Logit of the label minus the largest other.
        scale: Standard deviation of its logits over classes.
        l1: L1 norm of the margin's input gradient.
        l2: L2 norm of the margin's input gradient.
        zeros: Share of the gradient's elements that are below a thousandth of its largest.
        alignment: |<x, g>| / |g|, g being that gradient (Etmann et al. 2019, Def. 2).
        cosine: |<x, g>| / (|g| |x|).
        curvature: Length of the change of the gradient per unit along it, within [0, 1], over its length
            (Moosavi-Dezfooli et al. 2019): 0 where the network is linear.
        first_order: Margin over L1 norm: the smallest epsilon, in L-infinity, of a linear network; of L2, margin over
            L2 norm. 0 where the image is misclassified, infinite where there is no gradient.
    """

    correct: np.ndarray
    margin: np.ndarray
    scale: np.ndarray
    l1: np.ndarray
    l2: np.ndarray
    zeros: np.ndarray
    alignment: np.ndarray
    cosine: np.ndarray
    curvature: np.ndarray
    first_order: np.ndarray

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """All of it by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def mechanism_of(
    model: Any, images: np.ndarray, labels: np.ndarray, batch_size: int = 256, norm: float = np.inf
) -> Mechanism:
    """Measure what may make a network robust at each image.

    Args:
        model: A `Classifier`, or anything that it takes.
        images: `(N, height, width, channels)` in [0, 1].
        labels: Integers `(N,)`.
        batch_size: Images per pass.
        norm: Of the smallest epsilon that is predicted, `np.inf` or 2.

    Raises:
        ValueError: If an argument is not valid.
    """
    if norm not in (np.inf, 2):
        raise ValueError(f"`norm` must be np.inf or 2. Received: norm={shown(norm)}")
    classifier = as_classifier(model)
    images = classifier.check(images)
    labels = check_labels(labels, len(images), classifier.num_classes)
    classifier.refresh()
    gradients, logits = input_gradients(classifier, images, labels, "margin", check_whole("batch_size", batch_size, 1))
    flat, x = (each.reshape(len(images), -1).astype(float) for each in (gradients, images))
    rows, logits = np.arange(len(images)), logits.astype(float)
    others = logits.copy()
    others[rows, labels] = -np.inf
    margin = logits[rows, labels] - others.max(axis=1)
    l1, l2, largest = np.abs(flat).sum(axis=1), np.linalg.norm(flat, axis=1), np.abs(flat).max(axis=1)
    there = np.maximum(l2, 1e-30)
    along = np.abs((flat * x).sum(axis=1)) / there
    direction = (flat / there[:, np.newaxis]).reshape(images.shape).astype(np.float32)
    # A classifier takes no images outside [0, 1]: there it is what is left of the direction.
    moved = np.clip(images + STEP * direction, 0, 1)
    length = np.linalg.norm((moved - images).reshape(len(images), -1), axis=1)
    bent = input_gradients(classifier, moved, labels, "margin", batch_size)[0].reshape(len(images), -1)
    curvature = np.linalg.norm(bent - flat, axis=1) / there / np.maximum(length, 1e-12)
    with np.errstate(divide="ignore", invalid="ignore"):
        first_order = np.where(margin > 0, margin / (l2 if norm == 2 else l1), 0.0)
    return Mechanism(
        correct=margin > 0,
        margin=margin,
        scale=logits.std(axis=1),
        l1=l1,
        l2=l2,
        zeros=(np.abs(flat) <= SMALL * largest[:, np.newaxis]).mean(axis=1),
        alignment=along,
        cosine=along / np.maximum(np.linalg.norm(x, axis=1), 1e-30),
        curvature=np.where(length > 0, curvature, 0.0),
        first_order=first_order,
    )


def smallest_epsilons(correct: np.ndarray, clean: np.ndarray, epsilons: np.ndarray) -> np.ndarray:
    """Each image's smallest epsilon of a grid at which it is misclassified: 0 if it is so clean, infinite if none is.

    Args:
        correct: Boolean `(K, N)`, whether each image stands at each epsilon.
        clean: Boolean `(N,)`, whether it is classified correctly without attack.
        epsilons: `(K,)`, in any order.

    Raises:
        ValueError: If the shapes do not fit.
    """
    correct, epsilons = np.asarray(correct), np.asarray(epsilons, float)
    if correct.ndim != 2 or correct.shape != (len(epsilons), len(clean)):
        raise ValueError(f"`correct` must be ({len(epsilons)}, {len(clean)}). Received: {shown(correct)}")
    broken = np.where(correct, np.inf, epsilons[:, np.newaxis])
    return np.where(clean, broken.min(axis=0), 0.0)


def share_on_salient(
    images: np.ndarray, adversarial: np.ndarray, maps: np.ndarray, fraction: float = 0.1
) -> np.ndarray:
    """Share of a perturbation's squared length that is on the most salient pixels, per image.

    Karkehabadi 2023 explains its result by adversarial examples whose perturbation is on the main object. One that
    knows nothing has the share `fraction`.

    Args:
        images: `(N, height, width, channels)`.
        adversarial: Of that shape.
        maps: Saliency maps of that shape, or `(N, height, width)`; or where the object is, boolean of the latter.
        fraction: Of the pixels that count as most salient, above 0 and below 1. Of a boolean map, all its pixels do.

    Returns:
        `(N,)`; NaN where nothing was changed.

    Raises:
        ValueError: If `fraction` is out of its range, or shapes do not fit.
    """
    check_number("fraction", fraction, above=0, below=1)
    shapes = [images.shape[:-1], *[images.shape] * (maps.dtype != bool)]
    if np.shape(adversarial) != images.shape or maps.shape not in shapes:
        raise ValueError(
            f"`adversarial` must be {images.shape}, and `maps` {' or '.join(map(str, shapes))}. "
            f"Received: adversarial={shown(adversarial)}, maps={shown(maps)}"
        )
    squared = ((np.asarray(adversarial, float) - images) ** 2).sum(axis=-1)
    if maps.dtype == bool:
        salient = maps
    else:
        magnitudes = np.abs(maps).sum(axis=-1) if maps.ndim == 4 else np.abs(maps)
        flat = magnitudes.reshape(len(maps), -1)
        count = max(1, round(fraction * flat.shape[1]))
        ranks = np.argsort(np.argsort(-flat, axis=1, kind="stable"), axis=1)
        salient = (ranks < count).reshape(magnitudes.shape)
    total = squared.sum(axis=(1, 2))
    return np.divide((squared * salient).sum(axis=(1, 2)), total, out=np.full(len(images), np.nan), where=total > 0)
