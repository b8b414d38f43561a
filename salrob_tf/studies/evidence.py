"""Evidence gathered from networks: images under attack with maps and predictions, saliency quality, and mechanism."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from salrob_tf.attacks.ascent import GradientAttack
from salrob_tf.attacks.base import Attack
from salrob_tf.attacks.gradient import FGSM
from salrob_tf.attacks.registry import Entry
from salrob_tf.checks import epsilon_text
from salrob_tf.data.datasets import Dataset
from salrob_tf.models.classifier import Classifier
from salrob_tf.results.evidence import Evidence
from salrob_tf.results.measures import DELETION, FIRST_ORDER, INSERTION, MARGIN, SMALLEST, Measured
from salrob_tf.results.robustness import WORST, Robustness
from salrob_tf.saliency.gradients import input_gradients, map_function
from salrob_tf.saliency.mechanism import Mechanism, mechanism_of, share_on_salient, smallest_epsilons
from salrob_tf.saliency.metrics import (
    FRACTIONS,
    Stability,
    agreement_with_object,
    gini,
    rank_agreement,
    removal,
    stability,
)

SHOWN = 12  # images in the explorer, fewer of those in colour
MOST_BYTES = 1_500_000  # of adversarial images in it
MEASURED = 200  # images whose mechanism is measured
REMOVED = 40  # images that pixels are removed from, which takes longest
FILLS = ("blur", "linear", "mean")  # none is what training fills with
GUESSING = "linear"  # under which insertion means nothing, see `Removal`
METHODS = ("smoothgrad", "integrated_gradients")  # whose maps are looked at beside the gradient's
SHARES = np.array([0.0, *FRACTIONS])


def attacks_to_show(attacks: Iterable[Entry]) -> list[Attack]:
    """Those of a run that are called at one epsilon and follow gradients, or FGSM in the norm of that run."""
    every = list(attacks)
    return [each for each in every if isinstance(each, GradientAttack)] or [FGSM(every[0].norm)]


def gather(
    data: Dataset,
    classifiers: Sequence[Classifier],
    results: Sequence[Robustness],
    attacks: Sequence[Attack],
    measured: Mapping[str, Measured] | None = None,
) -> Evidence:
    """Attack a few images again, keeping all that is to be seen, and measure saliency and mechanism at more.

    Args:
        data: Whose test images were attacked.
        classifiers: Networks, two of which are compared first.
        results: What was found of each, in the same order.
        attacks: Those to show, each of which is called at each epsilon.
        measured: By name what `measure` gave of the networks, or `None` to measure now.
    """
    epsilons = np.unique([0.0, *results[0].epsilons])
    each = len(classifiers) * len(attacks) * len(epsilons) * int(np.prod(data.input_shape))
    places = telling(results, min(SHOWN, max(2, MOST_BYTES // each)))
    rows = results[0].indices[places]
    x, y = np.asarray(data.x_test[rows], np.float32), data.y_test[rows]
    seen = [[_under(classifier, attack, x, y, epsilons) for attack in attacks] for classifier in classifiers]
    adversarial, maps, predicted, confidence = (
        np.array([[found[part] for found in row] for row in seen]) for part in range(4)
    )
    measured = measured or {
        classifier.name: measure(data, classifier, result, attacks[0])
        for classifier, result in zip(classifiers, results, strict=True)
    }
    return Evidence(
        networks=tuple(classifier.name for classifier in classifiers),
        attacks=tuple(attack.label for attack in attacks),
        class_names=names_of_classes(data, classifiers),
        epsilons=epsilons,
        images=_bytes(x),
        labels=y,
        rows=rows,
        adversarial=adversarial,
        maps=maps,
        predicted=predicted,
        confidence=confidence,
        measures={name: each.values for name, each in measured.items()},
        quality=tuple(next(iter(measured.values())).quality),
        agreement=np.mean([agreement_of(each) for each in measured.values()], axis=0),
        shares=SHARES,
        removed={name: each.removed for name, each in measured.items()},
        sha256=results[0].sha256,
    )


def names_of_classes(data: Dataset, classifiers: Sequence[Classifier]) -> tuple[str, ...]:
    """Names of all classes that networks know, which may be more than the data has."""
    known = tuple(map(str, data.class_names))
    return known + tuple(str(number) for number in range(len(known), max(each.num_classes for each in classifiers)))


def telling(results: Sequence[Robustness], count: int) -> np.ndarray:
    """Places of images worth a look: where two networks differ most, either way, and others from the first on."""
    first, second = (smallest(result) for result in (results[0], results[min(1, len(results) - 1)]))
    top = 2 * results[0].epsilons.max()
    gain = np.minimum(second, top) - np.minimum(first, top)
    order = np.argsort(gain, kind="stable")
    third = count // 3
    chosen = [*order[:third], *order[len(order) - third :], *range(len(gain))]
    return np.array(sorted(list(dict.fromkeys(map(int, chosen)))[:count]))


def smallest(result: Robustness) -> np.ndarray:
    """Smallest epsilons of a result's images, under the worst of its attacks."""
    curves = result.curves
    return smallest_epsilons(curves.get(WORST, next(iter(curves.values()))), result.clean, result.epsilons)


def _under(
    classifier: Classifier, attack: Attack, x: np.ndarray, y: np.ndarray, epsilons: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    images = [x if epsilon == 0 else np.asarray(attack(classifier, x, y, epsilon)) for epsilon in epsilons]
    maps, predicted, confidence = [], [], []
    for batch in images:
        gradients, logits = input_gradients(classifier, batch, y)
        flat = gradients.mean(axis=-1)
        largest = np.maximum(np.abs(flat).max(axis=(1, 2), keepdims=True), 1e-30)
        maps.append(np.round(127 * flat / largest).astype(np.int8))
        logits = logits - logits.max(axis=1, keepdims=True)
        predicted.append(logits.argmax(axis=1))
        confidence.append(1 / np.exp(logits).sum(axis=1))
    return (
        np.stack([_bytes(batch) for batch in images]),
        np.stack(maps),
        np.stack(predicted).astype(np.int32),
        np.stack(confidence).astype(np.float32),
    )


def measure(data: Dataset, classifier: Classifier, result: Robustness, attack: Attack) -> Measured:
    """Measure saliency maps and mechanism at the first images that were attacked.

    Args:
        data: Whose test images were attacked.
        classifier: The network.
        result: What was found of it.
        attack: What perturbs images, at the epsilon in the middle of those of `result`.
    """
    rows = result.indices[:MEASURED]
    x, y = np.asarray(data.x_test[rows], np.float32), data.y_test[rows]
    maps_of = map_function(classifier)
    maps = maps_of(x, y)
    middle = float(np.sort(result.epsilons)[len(result.epsilons) // 2])
    adversarial = np.asarray(attack(classifier, x, y, middle))
    under = f"{attack.label}, {epsilon_text(middle)}"
    mechanism = _mechanism(mechanism_of(classifier, x, y, norm=attack.norm))
    mechanism[SMALLEST] = np.minimum(smallest(result)[: len(rows)], 2 * result.epsilons.max())
    mechanism[f"perturbation on the tenth most salient ({under})"] = share_on_salient(x, adversarial, maps)
    quality = {"sparsity of maps (Gini)": gini(maps)}
    for how, changed in (("noise", None), (under, adversarial)):
        quality |= _stability(how, stability(classifier, x, y, maps_of, changed))
    bright = x[..., 0] > 0.5  # the object, where it is bright on black
    known = x.shape[-1] == 1 and bright.any(axis=(1, 2)).all()
    if known:
        mechanism[f"perturbation on the bright object, share ({under})"] = share_on_salient(x, adversarial, bright)
        quality["map on the bright object, share"] = agreement_with_object(maps, bright)[0]
    few, removed = slice(0, REMOVED), {}
    for fill in FILLS:
        gone = removal(classifier, x[few], y[few], maps[few], fill)
        quality[f"{DELETION}, {fill}"] = gone.deletion_gain
        if fill != GUESSING:
            quality[f"{INSERTION}, {fill}"] = gone.insertion_gain
        whole = result.clean[: len(rows)][few]
        removed[fill] = np.stack([np.vstack([whole, curve]) for curve in (gone.most, gone.least)])
    for method in METHODS:
        its = map_function(classifier, method)(x[few], y[few])
        name = method.replace("_", " ")
        if known:
            quality[f"{name}: map on the bright object, share"] = agreement_with_object(its, bright[few])[0]
        quality[f"{name}: {DELETION}, {FILLS[0]}"] = removal(classifier, x[few], y[few], its, FILLS[0]).deletion_gain
    every = {name: np.append(each, np.full(len(rows) - len(each), np.nan)) for name, each in quality.items()}
    return Measured(_float32(mechanism), _float32(every), removed)


def _mechanism(cause: Mechanism) -> dict[str, np.ndarray]:
    return {
        MARGIN: cause.margin,
        "scale of the logits": cause.scale,
        "gradient norm, L1": cause.l1,
        "gradient norm, L2": cause.l2,
        "zeros in the gradient": cause.zeros,
        "alignment of gradient and image": cause.alignment,
        "curvature along the gradient": cause.curvature,
        FIRST_ORDER: cause.first_order,
    }


def _stability(how: str, found: Stability) -> dict[str, np.ndarray]:
    """Higher is better in all of it: of relative changes, which stretch over decades, minus the logarithm."""
    return {
        f"maps' rank correlation ({how})": found.correlation,
        f"stability of maps by that of images, -log10 ({how})": -np.log10(np.maximum(found.maps, 1e-12)),
        f"stability of maps by that of logits, -log10 ({how})": -np.log10(np.maximum(found.outputs, 1e-12)),
    }


def agreement_of(measured: Measured) -> np.ndarray:
    """How far the metrics of a network's maps rank images alike, `(Q, Q)`, over images that have all of them."""
    values = np.array(list(measured.quality.values()))
    there = values[:, np.isfinite(values).all(axis=0)]
    return rank_agreement(dict(zip(measured.quality, there, strict=True)))


def _float32(table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.asarray(each, np.float32) for name, each in table.items()}


def _bytes(images: np.ndarray) -> np.ndarray:
    return np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)
