"""How good saliency maps are, image by image, so that two networks compare on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from salrob_tf.checks import check_choice, check_number, check_whole, shown
from salrob_tf.data.arrays import check_labels
from salrob_tf.models.classifier import Classifier, as_classifier
from salrob_tf.saliency.fills import FILLS, filled
from salrob_tf.saliency.gradients import MapFunction

FRACTIONS = tuple(round(0.1 * step, 1) for step in range(1, 10))
RANDOM_MAPS = 3  # that a curve is held against


@dataclass(frozen=True)
class Removal:
    """What a network still sees when pixels are removed by a saliency map.

    Attributes:
        fill: What they are replaced with.
        fractions: Shares of the pixels removed `(F,)`.
        most: Whether each image is classified correctly without its most salient pixels, boolean `(F, N)` (masked
            accuracy, Ismail et al. 2021, section 4).
        least: The same without its least salient ones.
        deletion: Area under the label's probability as the most salient pixels go, `(N,)`: lower is better (Petsiuk et
            al. 2018).
        insertion: Area as the most salient pixels come into an image that has none, `(N,)`: higher is better.
        deletion_gain: By how much `deletion` is below the mean of random maps, `(N,)`: above 0 is better than chance.
        insertion_gain: By how much `insertion` is above it. Not to be used with linear imputation, which guesses the
            whole image from the scattered pixels that random maps bring in.
    """

    fill: str
    fractions: np.ndarray
    most: np.ndarray
    least: np.ndarray
    deletion: np.ndarray
    insertion: np.ndarray
    deletion_gain: np.ndarray
    insertion_gain: np.ndarray


def removal(
    model: Any,
    images: np.ndarray,
    labels: np.ndarray,
    maps: np.ndarray,
    fill: str = "linear",
    fractions: Sequence[float] = FRACTIONS,
    seed: int = 0,
) -> Removal:
    """Remove pixels by their saliency, and see what the network makes of the rest.

    Pixels are ranked by the magnitude of the map, summed over channels; of equal ones the first counts as more salient.

    Args:
        model: A `Classifier`, or anything that it takes.
        images: `(N, height, width, channels)` in [0, 1].
        labels: Integers `(N,)`.
        maps: Saliency maps in the shape of the images, or `(N, height, width)`; finite.
        fill: A fill of `filled`, another one than training used.
        fractions: Shares of the pixels, ascending, above 0 and below 1.
        seed: Of random maps and the fill's noise.

    Raises:
        ValueError: If an argument is not valid.
    """
    classifier, images, labels, maps = _checked(model, images, labels, maps)
    check_choice("fill", fill, FILLS)
    shares = np.asarray(fractions, float)
    if shares.ndim != 1 or not len(shares) or not np.all((shares > 0) & (shares < 1)) or np.any(np.diff(shares) <= 0):
        raise ValueError(f"`fractions` must be ascending, above 0 and below 1. Received: fractions={shown(fractions)}")
    rng = np.random.default_rng(check_whole("seed", seed))
    curves = _Curves(classifier, images, labels, fill, shares, seed)
    most, gone, come = curves.of(maps)
    chance = [curves.of(rng.random(maps.shape))[1:] for _ in range(RANDOM_MAPS)]
    deleted, inserted = (np.mean([each[place] for each in chance], axis=0) for place in (0, 1))
    return Removal(fill, shares, most, curves.without_lowest(maps), gone, come, deleted - gone, come - inserted)


class _Curves:
    def __init__(
        self, classifier: Classifier, images: np.ndarray, labels: np.ndarray, fill: str, shares: np.ndarray, seed: int
    ) -> None:
        self.classifier, self.images, self.labels = classifier, images, labels
        self.fill, self.shares, self.seed = fill, shares, seed
        everything = np.ones(images.shape[:3], bool)
        self.whole, self.empty = self.seen(~everything)[1], self.seen(everything)[1]

    def seen(self, removed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whether images without some pixels are classified correctly, and the label's probability."""
        logits = self.classifier.predict_logits(filled(self.images, removed, self.fill, self.seed)).astype(float)
        logits -= logits.max(axis=1, keepdims=True)
        each = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return logits.argmax(axis=1) == self.labels, each[np.arange(len(each)), self.labels]

    def ranked(self, maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The place of each pixel, the highest first and of equal ones the first, and how many pixels go."""
        order = np.argsort(-maps.reshape(len(maps), -1), axis=1, kind="stable")
        return np.argsort(order, axis=1).reshape(maps.shape), np.round(self.shares * maps[0].size)

    def without_lowest(self, maps: np.ndarray) -> np.ndarray:
        """Correct without the lowest `(F, N)`."""
        ranks, counts = self.ranked(maps)
        return np.stack([self.seen(ranks >= maps[0].size - count)[0] for count in counts])

    def of(self, maps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Correct without the highest `(F, N)`, and the areas as the highest go and come `(N,)`."""
        ranks, counts = self.ranked(maps)
        gone = [self.seen(ranks < count) for count in counts]
        come = [self.seen(ranks >= count)[1] for count in counts]
        at = np.concatenate([[0], counts / maps[0].size, [1]])
        areas = [
            np.trapezoid([first, *between, last], at, axis=0)
            for first, between, last in (
                (self.whole, [probability for _, probability in gone], self.empty),
                (self.empty, come, self.whole),
            )
        ]
        return np.stack([correct for correct, _ in gone]), areas[0], areas[1]


def gini(maps: np.ndarray) -> np.ndarray:
    """How few pixels hold a map's magnitude, per image `(N,)`: 0 if all are alike, near 1 if one has all.

    The Gini index of magnitudes (Hurley and Rickard 2009, Eq. 22; of saliency maps, Chalasani et al. 2020). A map of
    zeros has 0.

    Args:
        maps: `(N, ...)`, finite.
    """
    ordered = np.sort(np.abs(np.asarray(maps, float)).reshape(len(maps), -1), axis=1)
    count, total = ordered.shape[1], ordered.sum(axis=1)
    weights = (2 * np.arange(1, count + 1) - count - 1) / count
    return np.divide(ordered @ weights, total, out=np.zeros(len(maps)), where=total > 0)


def agreement_with_object(maps: np.ndarray, objects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much of a map is on the object, per image.

    Args:
        maps: Saliency maps `(N, height, width, channels)` or `(N, height, width)`, finite.
        objects: Boolean `(N, height, width)`: where the object is, of one pixel at least.

    Returns:
        The share of the magnitude that is on it (relevance mass accuracy), and the share of as many most salient
        pixels as it has that are (relevance rank accuracy; both Arras et al. 2022, section 3), each `(N,)`. A map of
        zeros has the share of its pixels that the object has.

    Raises:
        ValueError: If the shapes do not fit, or an object has no pixel.
    """
    magnitudes, objects = _magnitudes(maps), np.asarray(objects)
    if objects.dtype != bool or objects.shape != magnitudes.shape or not objects.any(axis=(1, 2)).all():
        raise ValueError(
            f"`objects` must be boolean {magnitudes.shape}, with a pixel each at least. Received: {shown(objects)}"
        )
    total, size = magnitudes.sum(axis=(1, 2)), objects.sum(axis=(1, 2))
    share = size / objects[0].size
    mass = np.divide((magnitudes * objects).sum(axis=(1, 2)), total, out=share.copy(), where=total > 0)
    order = np.argsort(-magnitudes.reshape(len(maps), -1), axis=1, kind="stable")
    ordered = np.take_along_axis(objects.reshape(len(maps), -1), order, axis=1)
    first = np.arange(ordered.shape[1]) < size[:, np.newaxis]
    rank = (ordered & first).sum(axis=1) / size
    return mass, np.where(total > 0, rank, share)


@dataclass(frozen=True)
class Stability:
    """How much maps change where images change little, per image; lower is more stable, but of `correlation`.

    Attributes:
        maps: Largest relative change of the map for a relative change of the image (relative input stability).
        outputs: The same for a change of the logits (relative output stability; Agarwal et al. 2022, Eqs. 2 and 5). Of
            both, changes are lengths over lengths: quotients of elements, as there, explode at black pixels.
        correlation: Mean rank correlation of the map's magnitudes with those of changed images: 1 is no change.
    """

    maps: np.ndarray
    outputs: np.ndarray
    correlation: np.ndarray


def stability(
    model: Any,
    images: np.ndarray,
    labels: np.ndarray,
    map_of: MapFunction,
    changed: np.ndarray | None = None,
    noise: float = 0.05,
    copies: int = 5,
    seed: int = 0,
) -> Stability:
    """See how stable maps are under noise, or between images and others, such as their adversarial examples.

    Args:
        model: A `Classifier`, or anything that it takes.
        images: `(N, height, width, channels)` in [0, 1].
        labels: The class of each map, integers `(N,)`.
        map_of: What makes maps, from `map_function`.
        changed: Other images of that shape, or `None` for copies with noise.
        noise: Standard deviation of the noise, above 0.
        copies: How many copies with noise, 1 or more.
        seed: Of the noise.

    Raises:
        ValueError: If an argument is not valid.
    """
    classifier = as_classifier(model)
    images = classifier.check(images)
    check_number("noise", noise, above=0)
    rng = np.random.default_rng(check_whole("seed", seed))
    if changed is None:
        count = check_whole("copies", copies, 1)
        draws = (rng.standard_normal(images.shape, np.float32) for _ in range(count))
        others = [np.clip(images + np.float32(noise) * draw, 0, 1) for draw in draws]
    else:
        others = [classifier.check(changed)]
        if others[0].shape != images.shape:
            raise ValueError(f"`changed` must be of shape {images.shape}. Received: {shown(changed)}")
    own, logits = map_of(images, labels), classifier.predict_logits(images)
    by_input, by_output, correlations = [], [], []
    for other in others:
        its = map_of(other, labels)
        change = _relative(own, its)
        by_input.append(change / np.maximum(_relative(images, other), 1e-6))
        moved = np.linalg.norm(logits - classifier.predict_logits(other), axis=1)
        by_output.append(change / np.maximum(moved, 1e-6))
        pairs = zip(_magnitudes(own), _magnitudes(its), strict=True)
        correlations.append([_rank_correlation(one, two) for one, two in pairs])
    return Stability(np.max(by_input, axis=0), np.max(by_output, axis=0), np.mean(correlations, axis=0))


def rank_agreement(metrics: dict[str, np.ndarray]) -> np.ndarray:
    """Spearman's correlation of each two metrics over images, `(M, M)`.

    It is 0 where one of them is the same for all images, 1 where both are one number for all, and NaN where one is.

    Args:
        metrics: Of each name one number per image `(N,)`, higher being better in all.
    """
    values = list(metrics.values())
    return np.array([[1.0 if one is two else _rank_correlation(one, two) for two in values] for one in values])


def _rank_correlation(one: np.ndarray, two: np.ndarray) -> float:
    one, two = np.ravel(one), np.ravel(two)
    if np.ptp(one) == 0 or np.ptp(two) == 0:
        return float(np.array_equal(one, two))
    return float(stats.spearmanr(one, two).statistic)


def _relative(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Length of the change over that of the first, per image."""
    first, second = (np.asarray(each, float).reshape(len(one), -1) for each in (one, two))
    return np.linalg.norm(first - second, axis=1) / np.maximum(np.linalg.norm(first, axis=1), 1e-12)


def _magnitudes(maps: np.ndarray) -> np.ndarray:
    maps = np.abs(np.asarray(maps, float))
    return maps.sum(axis=-1) if maps.ndim == 4 else maps


def _checked(
    model: Any, images: np.ndarray, labels: np.ndarray, maps: np.ndarray
) -> tuple[Classifier, np.ndarray, np.ndarray, np.ndarray]:
    classifier = as_classifier(model)
    images = classifier.check(images)
    labels = check_labels(labels, len(images), classifier.num_classes)
    classifier.refresh()
    magnitudes = _magnitudes(maps)
    if magnitudes.shape != images.shape[:3] or not np.isfinite(magnitudes).all():
        raise ValueError(
            f"`maps` must be finite numbers of shape {images.shape}, or {images.shape[:3]}. Received: {shown(maps)}"
        )
    return classifier, images, labels, magnitudes
