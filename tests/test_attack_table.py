"""All attacks, a row each: what holds of any attack is tested of every one."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from cleverhans.tf2.attacks import projected_gradient_descent as cleverhans_pgd
from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method
from cleverhans.tf2.attacks.momentum_iterative_method import momentum_iterative_method

import salrob_tf as sr
from salrob_tf.attacks.balls import Batch
from salrob_tf.attacks.base import Attack
from salrob_tf.attacks.registry import ATTACKS, attack_names, make_attack
from salrob_tf.attacks.square import two_lobes
from salrob_tf.attacks.starts import keys, uniform
from salrob_tf.evaluation import sweep as sweep_module

pytestmark = pytest.mark.usefixtures("unprobed")

LINF = [0.02, 0.05, 0.08, 0.11, 0.14, 0.17, 0.2, 0.25]
L2 = [0.3, 0.6, 0.9, 1.2, 1.5]
SEED = 3


def of_cleverhans(function, **more):
    """One of CleverHans' own whole functions."""

    def run(attack, classifier, images, labels, epsilon):
        steps = () if attack.steps == 1 else (attack.step_size(epsilon), attack.steps)
        settings = {"norm": attack.norm, "clip_min": 0.0, "clip_max": 1.0, "y": tf.constant(labels)}
        return function(classifier.logits, tf.constant(images), epsilon, *steps, **settings, **more)

    return run


def pgd(attack, classifier, images, labels, epsilon):
    """CleverHans' PGD, started where ours starts."""
    rows = np.arange(len(images))
    grey, radii = np.full(images.shape, 0.5, np.float32), np.full(len(images), 2.0**-6, np.float32)
    batch = Batch(grey, labels, labels, radii, rows, np.zeros_like(rows))  # in which nothing is clipped
    unit = (attack.start(batch, SEED) - grey) * 2.0**6
    drawn = cleverhans_pgd.random_lp_vector
    cleverhans_pgd.random_lp_vector = lambda *_, **__: tf.constant(unit * np.float32(epsilon))
    try:
        run = of_cleverhans(cleverhans_pgd.projected_gradient_descent, rand_init=attack.random_start)
        return run(attack, classifier, images, labels, epsilon)
    finally:
        cleverhans_pgd.random_lp_vector = drawn


@cache
def pulled_back(classifier):
    """The gradient at images of weighted sums of their logits, compiled: a reference takes hundreds."""
    signature = [tf.TensorSpec([None, *classifier.input_shape]), tf.TensorSpec([None, classifier.num_classes])]

    @tf.function(input_signature=signature)
    def gradient(x, weights):
        with tf.GradientTape() as tape:
            tape.watch(x)
            logits = classifier.logits(x)
        return tape.gradient(logits, x, weights)

    return lambda x, weights: gradient(tf.constant(x, tf.float32), tf.constant(weights, tf.float32)).numpy()


def climbed(attack, classifier, x, aims):
    """What is ascended at images, and its gradient."""
    with tf.GradientTape() as tape:
        tape.watch(logits := tf.constant(classifier.predict_logits(np.float32(x))))
        others = tf.reduce_max(logits - 1e9 * tf.one_hot(aims, logits.shape[1]), axis=1)
        loss = others - tf.gather(logits, aims, batch_dims=1)
        if attack.loss == "dlr":
            ordered = tf.sort(logits, direction="DESCENDING")
            loss = loss / (ordered[:, 0] - ordered[:, 2])
        if attack.loss == "cross_entropy":
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(aims, logits)
        loss = -loss if attack.targeted else loss
    return loss.numpy(), pulled_back(classifier)(x, tape.gradient(loss, logits))


def written_out(attack, classifier, images, labels, epsilon):
    """Steps along gradients of any loss, of MIM with the normalisation of Eq. 4, by NumPy's hand."""
    aims = attack.loss_classes(classifier, images, labels)[:, 0]
    rows = np.arange(len(images))
    batch = Batch(images, labels, aims, np.full(len(images), epsilon, np.float32), rows, 0 * rows)
    x, momentum = attack.start(batch, SEED), 0.0
    for _ in range(attack.steps):
        _, gradient = climbed(attack, classifier, x, aims)
        norms = np.sqrt((gradient**2).sum(axis=(1, 2, 3), keepdims=True))
        if isinstance(attack, sr.MIM):
            gradient = momentum = attack.decay * momentum + gradient / norms
            norms = np.sqrt((gradient**2).sum(axis=(1, 2, 3), keepdims=True))
        direction = np.sign(gradient) if attack.norm == np.inf else gradient / norms
        change = np.clip(x + attack.step_size(epsilon) * direction, 0, 1) - images
        if isinstance(attack, sr.MIM):  # which CleverHans clips only after the projection
            change = x + attack.step_size(epsilon) * direction - images
        if attack.norm == np.inf:
            change = np.clip(change, -epsilon, epsilon)
        else:
            size = np.sqrt((change**2).sum(axis=(1, 2, 3), keepdims=True))
            change = change * np.minimum(1, epsilon / np.maximum(size, 1e-12))
        x = np.clip(images + change, 0, 1).astype(np.float32)
    return x


def spsa(attack, classifier, images, labels, epsilon):
    """Uesato et al. 2018 image by image: Adam on differences of margins along random signs."""
    found, rows = [], np.arange(len(images))
    batch = Batch(images, labels, labels, np.full(len(images), epsilon, np.float32), rows, 0 * rows)
    for index, (x, y, start) in enumerate(zip(images, labels, attack.start(batch, SEED), strict=True)):
        change, first, second = start - x, 0.0, 0.0
        for step in range(attack.steps):
            if classifier.classify(np.float32(x + change)[None])[0] != y:
                break
            key = tf.random.experimental.stateless_fold_in([SEED, index], step)
            signs = np.sign(tf.random.stateless_uniform([attack.samples // 2, *x.shape], key, -1.0, 1.0).numpy())
            signs = np.concatenate([signs, -signs])
            logits = classifier.predict_logits(np.float32(x + change + attack.delta * signs))
            margin = logits[:, y] - np.delete(logits, y, axis=1).max(axis=1)
            gradient = (margin[:, None, None, None] * signs).mean(axis=0)
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            moved = first / (1 - 0.9 ** (step + 1)) / (np.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-7)
            change = np.clip(np.clip(change - attack.learning_rate * moved, -epsilon, epsilon) + x, 0, 1) - x
        found.append(x + change)
    return np.stack(found)


def carlini_wagner(attack, classifier, images, labels, epsilon):
    """Carlini and Wagner 2017, section VI, with a binary search for each image's constant."""
    count = len(images)
    lower, upper, constant = np.zeros(count), np.full(count, 1e10), np.full(count, attack.initial_constant)
    nearest, best = np.full(count, 1e10), images.copy()
    hidden = np.arctanh((2 * images.astype(np.float64) - 1) * 0.999999)
    own = np.eye(classifier.num_classes)[classifier.predict(images)]
    for _ in range(attack.constants):
        change, first, second, previous = np.zeros(images.shape), 0.0, 0.0, None
        for step in range(attack.steps):
            with tf.GradientTape() as tape:
                tape.watch(moved := tf.constant(change + hidden, tf.float32))
                x = (tf.tanh(moved) + 1) / 2
                logits = classifier.logits(x)
                distance = tf.reduce_sum((x - (tf.tanh(tf.cast(hidden, tf.float32)) + 1) / 2) ** 2, axis=[1, 2, 3])
                lead = tf.reduce_sum(own * logits, 1) - tf.reduce_max(logits - 1e4 * own, 1)
                loss = tf.reduce_sum(constant * tf.maximum(0.0, lead + attack.confidence)) + tf.reduce_sum(distance)
            gradient = tape.gradient(loss, moved).numpy()
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            moved = first / (1 - 0.9 ** (step + 1)) / (np.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-7)
            change = change - attack.learning_rate * moved
            if step % (attack.steps // 10) == 0:
                if previous is not None and loss > previous * 0.9999:
                    break
                previous = loss
            closer = (distance.numpy() < nearest) & (logits.numpy().argmax(1) != own.argmax(1))
            nearest[closer], best[closer] = distance.numpy()[closer], x.numpy()[closer]
        hit = nearest < 1e10
        upper, lower = (
            np.where(hit, np.minimum(upper, constant), upper),
            np.where(hit, lower, np.maximum(lower, constant)),
        )
        middle = (lower + upper) / 2
        # CleverHans multiplies by ten where an adversarial was found, too.
        constant = np.where(hit, middle * 10, np.where(upper < 1e9, middle, constant * 10))
    return np.where((own.argmax(1) != labels)[:, None, None, None], images, best)


def ball(attack, image, epsilon):
    """A function that projects to the ball of an image, clipped to [0, 1]."""
    largest = (lambda change: np.abs(change).max()) if attack.norm == np.inf else np.linalg.norm

    def project(x):
        change = np.clip(x - image, -epsilon, epsilon) if attack.norm == np.inf else (
            (x - image) * min(1, epsilon / max(largest(x - image), 1e-12))
        )  # fmt: skip
        return np.clip(image + change, 0, 1).astype(np.float32)

    return project


@dataclass
class Path:
    """Where Auto-PGD has taken an image."""

    project: Callable
    points: list
    eta: float
    begun: list = field(default_factory=list)
    losses: list = field(default_factory=list)
    gradients: list = field(default_factory=list)
    halved: list = field(default_factory=list)
    best_losses: list = field(default_factory=list)
    best: int = 0
    fell: np.ndarray | None = None
    sure: bool = True  # whether nothing hung on the last bits of a loss


def auto_pgd(attack, classifier, images, labels, epsilon):
    """Croce and Hein 2020, algorithm 1, image by image; where they leave it open, as their program does it."""
    aims = attack.loss_classes(classifier, images, labels)[:, 0]
    radii, rows = np.full(len(images), epsilon, np.float32), np.arange(len(images))
    starts = attack.start(Batch(images, labels, aims, radii, rows, 0 * rows), SEED)
    window = int(0.22 * attack.steps)
    checkpoints = [0, window]
    while checkpoints[-1] < attack.steps:
        window = max(window - max(1, int(0.03 * attack.steps)), int(0.06 * attack.steps), 1)
        checkpoints.append(checkpoints[-1] + window)
    paths = [
        Path(ball(attack, image, epsilon), [start], 2 * epsilon) for image, start in zip(images, starts, strict=True)
    ]
    for k in range(attack.steps):
        now = np.stack([path.points[k] for path in paths])
        wrong = classifier.classify(now) != labels
        for path, loss, gradient, fell in zip(paths, *climbed(attack, classifier, now, aims), wrong, strict=True):
            others = (path.losses[path.best], path.losses[-1]) if k else ()
            path.sure &= not any(0 < abs(loss - other) < 3e-7 * (1 + abs(loss)) for other in others)
            # Where a loss or, of signs, a part of a gradient is as near as this, rounding decides.
            sizes = np.abs(gradient)
            path.sure &= attack.norm == 2 or not np.any((sizes > 0) & (sizes < 3e-6 * sizes.max()))
            path.losses.append(loss)
            path.gradients.append(gradient)
            path.fell = path.points[k] if fell else path.fell
            path.best = k if loss > path.losses[path.best] else path.best
            origin = k
            if k in checkpoints:
                last = checkpoints[checkpoints.index(k) - 1]
                rises = sum(path.losses[i + 1] > path.losses[i] for i in range(last, k))
                stuck = len(path.halved) > 1 and not path.halved[-1] and path.losses[path.best] == path.best_losses[-1]
                path.halved.append(k > 0 and (rises <= 0.75 * (k - last) or stuck))
                path.best_losses.append(path.losses[path.best])
                if path.halved[-1]:
                    path.eta, origin = path.eta / 2, path.best
            x, gradient = path.points[origin], path.gradients[origin]
            direction = np.sign(gradient) if attack.norm == np.inf else gradient / np.linalg.norm(gradient)
            z = path.project(x + path.eta * direction)
            if path.begun:
                z = path.project(x + 0.75 * (z - x) + 0.25 * (x - path.begun[-1]))
            path.points.append(z)
            path.begun.append(x)
    found = [path.points[-1] if path.fell is None else path.fell for path in paths]
    return np.stack([x if path.sure else np.nan * x for x, path in zip(found, paths, strict=True)])


def fab(attack, classifier, images, labels, epsilon):
    """Croce and Hein 2020 (FAB), algorithm 1, image by image, its projections by halving an interval."""
    targets, found = attack.loss_classes(classifier, images, labels)[:, 0], []

    def towards(x, weights, gap):
        upward = np.sign(weights) * np.sign(gap)
        room = np.where(weights == 0, 0, np.where(upward > 0, 1 - x, x))
        speed = np.ones_like(weights) if attack.norm == np.inf else np.abs(weights)
        moved = lambda time: np.minimum(time * speed, room)  # noqa: E731
        low, high = 0.0, 1.0
        while (np.abs(weights) * moved(high)).sum() < min(abs(gap), (np.abs(weights) * room).sum() * (1 - 1e-9)):
            high *= 2
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (low, middle) if (np.abs(weights) * moved(middle)).sum() >= abs(gap) else (middle, high)
        return upward * moved(high)

    size = lambda change: float(np.linalg.norm(change.reshape(-1), ord=attack.norm))  # noqa: E731
    for image, label, target in zip(images.astype(np.float64), labels, targets, strict=True):
        x, nearest, distance, sure = image, None, np.inf, True
        for _ in range(attack.steps):
            others = [target] if attack.targeted else [c for c in range(classifier.num_classes) if c != label]
            logits, each = classifier.predict_logits(np.float32(x)[None])[0], np.eye(classifier.num_classes)
            planes = []
            for other in others:
                gradient = pulled_back(classifier)(x[None], (each[other] - each[label])[None])[0]
                planes.append((-float(logits[other] - logits[label]), gradient.astype(np.float64)))
            dual = lambda w: np.abs(w).sum() if attack.norm == np.inf else np.sqrt((w**2).sum())  # noqa: E731
            gap, weights = min(planes, key=lambda plane: abs(plane[0]) / dual(plane[1]))
            if np.argmax(logits) != label and size(x - image) < distance:
                nearest, distance = x, size(x - image)
            here, there = towards(x, weights, gap), towards(image, weights, gap + (weights * (x - image)).sum())
            share = min(size(here) / max(size(here) + size(there), 1e-8), attack.most_bias)
            x = np.clip((1 - share) * (x + 1.05 * here) + share * (image + 1.05 * there), 0, 1)
            moved = classifier.predict_logits(x[None].astype(np.float32))[0]
            *_, second, first = np.sort(moved)
            sure &= first - second > 1e-4
            if np.argmax(moved) != label:
                if size(x - image) < distance:
                    nearest, distance = x, size(x - image)
                x = image + 0.9 * (x - image)
        found.append((x if nearest is None else nearest) * (1 if sure else np.nan))
    return np.stack(found)


def square(attack, classifier, images, labels, epsilon):
    """Andriushchenko et al. 2020, algorithms 1 to 3, image by image, window by window."""
    rows, (height, width, channels), found = np.arange(len(images)), images.shape[1:], []
    batch = Batch(images, labels, labels, np.full(len(images), epsilon, np.float32), rows, 0 * rows)
    key = keys(batch, SEED)
    halvings = [10, 50, 200, 500, 1000, 2000, 4000]

    def margin_of(x, label):
        logits = classifier.predict_logits(x[None].astype(np.float32))[0]
        return logits[label] - np.delete(logits, label).max()

    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        x = attack.init(classifier, batch.part(slice(row, row + 1)), SEED)["images"][0]
        lowest = margin_of(x, label)
        for query in range(1, attack.steps):
            if lowest < 0:
                break
            area = attack.share / 2.0 ** sum(query > after for after in halvings) * height * width
            side = round(np.sqrt(area))
            if attack.norm == 2:
                side = max(side, 3) + (max(side, 3) % 2 == 0)
            side = min(max(side, 1), height, width)
            drawn = uniform(key[row : row + 1], np.array([query]), 5 + channels)[0]
            top, left, top2, left2 = (int(u * (n - side + 1)) for u, n in zip(drawn, [height, width] * 2, strict=False))
            signs = np.where(drawn[5:] < 0.5, -1, 1)
            here = slice(top, top + side), slice(left, left + side)
            there = slice(top2, top2 + side), slice(left2, left2 + side)
            change = (x - image).astype(np.float64)
            if attack.norm == np.inf:
                change[here] = np.clip(change[here] + 2 * epsilon * signs, -epsilon, epsilon)
            else:
                lobes = two_lobes(side) if drawn[4] >= 0.5 else two_lobes(side).T
                either = np.zeros((height, width, 1))
                either[here] = either[there] = 1
                spare = max(epsilon**2 - (change**2).sum(), 0) / channels
                total = np.sqrt(((change * either) ** 2).sum(axis=(0, 1)) + spare)
                old = change[here] / (1e-12 + np.sqrt((change[here] ** 2).sum(axis=(0, 1))))
                new = old + lobes[..., None] * signs
                change[there] = 0
                change[here] = new / (1e-12 + np.sqrt((new**2).sum(axis=(0, 1)))) * total
                change *= epsilon / np.sqrt((change**2).sum())
            candidate = np.clip(image + change, 0, 1).astype(np.float32)
            lead = margin_of(candidate, label)
            if lead < lowest or lead <= 0:
                x, lowest = candidate, lead
        found.append(x)
    return np.stack(found)


class Row(NamedTuple):
    """An attack and what is known of it.

    Attributes:
        attack: The attack.
        epsilons: Radii over which its curve falls.
        reference: The same by another library or written out, a function of attack, classifier, images, labels and
            epsilon; NaN for images where what it does hangs on the last bits of a number.
        images: How many it is tried on.
        traces: How often it is compiled for a model.
        within: How far its images may be from those of the reference.
        radii: At which they are held to it.
    """

    attack: Attack
    epsilons: list[float] = LINF
    reference: Callable = written_out
    images: int = 64
    traces: int = 1
    within: float = 1e-6
    radii: tuple[float, ...] = (0.03, 0.2)


TABLE = [
    Row(sr.FGSM(), reference=of_cleverhans(fast_gradient_method)),
    Row(sr.BIM(steps=9), reference=pgd),
    Row(sr.PGD(steps=9), reference=pgd),
    Row(sr.MIM(steps=9), reference=of_cleverhans(momentum_iterative_method, sanity_checks=False)),
    Row(sr.PGD(steps=5, restarts=3), LINF[::2]),
    Row(sr.MIM(steps=5, decay=0.8, normalization="l2")),
    Row(sr.PGD(steps=9, loss="margin")),
    Row(sr.PGD(steps=9, loss="dlr"), within=1e-5),
    Row(sr.BIM(steps=9, targeted=True)),
    Row(sr.PGD(steps=5, targeted=True, target_classes=2, restarts=2), LINF[::2]),
    Row(sr.FGSM(targeted=True, target_classes=2)),
    Row(sr.FGSM(2.0), L2, of_cleverhans(fast_gradient_method)),
    Row(sr.PGD(2.0, steps=9), L2, pgd),
    Row(sr.BIM(2.0, steps=9), L2, pgd),
    Row(sr.MIM(2.0, steps=9), L2, of_cleverhans(momentum_iterative_method, sanity_checks=False)),
    Row(sr.MIM(2.0, steps=9, normalization="l2"), L2, within=1e-5),
    Row(sr.APGD(steps=40), LINF[::2], auto_pgd, images=32, within=1e-5),
    Row(sr.APGD(steps=25, loss="margin", restarts=2), LINF[::2], auto_pgd, images=32, within=1e-5),
    Row(sr.APGD(steps=25, targeted=True), LINF[::2], auto_pgd, images=32, within=1e-5),
    Row(sr.APGD(2.0, steps=6), L2, auto_pgd, images=32, within=1e-4, radii=(0.3, 1.2)),
    Row(sr.FAB(steps=7, targeted=True), reference=fab, images=16, within=1e-4),
    Row(sr.FAB(steps=4), reference=fab, images=16, within=1e-4),
    Row(sr.FAB(2.0, steps=7, targeted=True, target_classes=1), L2, fab, images=16, within=1e-4),
    Row(sr.Square(steps=30, restarts=2), [0.1, 0.2, 0.3, 0.4], square, images=16),
    Row(sr.Square(2.0, steps=30), L2, square, images=16, within=1e-4),
    Row(sr.SPSA(steps=3, samples=32, learning_rate=0.1, restarts=2), [0.05, 0.1, 0.3], spsa, images=12, within=1e-4),
    Row(
        sr.CWL2(steps=30, constants=2, learning_rate=0.1, initial_constant=1.0),
        [0.2, 0.5, 1.0, 1.5],
        carlini_wagner,
        images=16,
        traces=0,
        within=1e-3,
    ),
]
IDS = [f"{row.attack.label}-{row.attack.norm}-{row.attack.tries(3)}" for row in TABLE]
rows = pytest.mark.parametrize("row", TABLE, ids=IDS)


@pytest.fixture(scope="module")
def classifier(ready):
    """One for all rows, so that each attack is compiled once."""
    return ready[0]


def data(row, trained):
    return trained[1][: row.images], trained[2][: row.images]


def sweep(row, classifier, trained, **options):
    settings = {"seed": SEED, "batch_size": 16} | options
    return sr.evaluate(classifier, *data(row, trained), [row.attack], row.epsilons, **settings)


def test_every_attack_has_a_row():
    assert {row.attack.name for row in TABLE} == set(ATTACKS)


@rows
def test_the_same_images_as_the_reference(row, classifier, trained):
    images, labels = data(row, trained)
    for epsilon in row.radii[:1] if row.attack.nearest else row.radii:
        ours = row.attack(classifier, images, labels, epsilon, seed=SEED)
        theirs = row.reference(row.attack, classifier, images, labels, epsilon)
        sure = ~np.isnan(theirs).any(axis=(1, 2, 3))
        assert sure.all() or (row.reference in (auto_pgd, fab) and sure.mean() > 0.5)
        np.testing.assert_allclose(ours[sure], theirs[sure], rtol=0, atol=row.within)
        assert not np.array_equal(ours, images)


@rows
def test_adversarials_stay_in_the_ball_and_in_range_and_epsilon_0_changes_nothing(row, classifier, trained):
    images, labels = data(row, trained)
    for epsilon in (0.1,) if row.attack.nearest else (0.0, 1e-4, 0.1, 0.5, 2.0):
        change = row.attack(classifier, images, labels, epsilon, seed=1).astype(np.float64) - images
        assert (images + change).min() >= 0 and (images + change).max() <= 1
        if not row.attack.nearest:
            size = np.linalg.norm(change.reshape(len(images), -1), ord=row.attack.norm, axis=1)
            assert size.max() <= epsilon + 1e-6


@rows
def test_no_image_survives_that_the_plain_attack_breaks(row, classifier, trained):
    label, row = row.attack.label, row._replace(images=min(row.images, 32))  # two batches: what ends makes room
    plain = sweep(row, classifier, trained, survivors_only=False)
    assert 0.1 < plain.correct[label].mean() < 0.9, "the curve must fall for this to mean anything"
    for search in ("bisect", "full"):
        found = sweep(row, classifier, trained, search=search)
        matrix = found.correct[label]
        assert np.all(matrix[:-1] >= matrix[1:]), "never rises with epsilon"
        assert not matrix[:, ~found.clean].any()
        assert not (matrix & ~plain.correct[label]).any()
        ours, theirs = (each.costs[label].gradient_evaluations for each in (found, plain))
        assert ours < theirs or row.attack.one_gradient or row.attack.nearest or not row.attack.uses_gradients
        assert found.costs[label].traces == row.traces


@rows
def test_what_is_left_of_a_sweep_is_gone_on_with(row, classifier, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_module, "SHARD_BATCHES", 1)
    options = {"checkpoint": tmp_path, "batch_size": row.images // 2}
    row = row._replace(epsilons=row.epsilons[1::2])
    whole = sweep(row, classifier, trained, **options)
    first, second = sorted(tmp_path.glob("*-?????.npz"))
    before = first.stat().st_mtime_ns
    second.unlink()
    resumed = sweep(row, classifier, trained, **options)
    np.testing.assert_array_equal(resumed.correct[row.attack.label], whole.correct[row.attack.label])
    assert first.stat().st_mtime_ns == before and second.exists()


@rows
def test_an_image_falls_to_any_of_its_tries(row, classifier, trained):
    """Every try by itself, judged at its end, against the sweep that makes them all."""
    attack, (images, labels), radius = row.attack, data(row, trained), row.epsilons[len(row.epsilons) // 2]
    if attack.tries(3) > 1:
        found = sr.evaluate(
            classifier, images, labels, [attack], [radius], seed=SEED, survivors_only=False, batch_size=16
        )
        alone = [
            attack(classifier, images, labels, radius, seed=SEED, restart=number) for number in range(attack.tries(3))
        ]
        assert not any(np.array_equal(alone[0], other) for other in alone[1:]), "no try repeats another"
        size = lambda found: np.linalg.norm((found - images).reshape(len(images), -1), attack.norm, axis=1)  # noqa: E731
        standing = np.all([(classifier.predict(x) == labels) | (size(x) > radius + 1e-6) for x in alone], axis=0)
        np.testing.assert_array_equal(found.correct[attack.label][0], standing)


@rows
def test_an_attack_is_what_its_label_says(row):
    named = make_attack(row.attack.label, norm=row.attack.norm, steps=row.attack.steps, restarts=row.attack.restarts)
    assert type(named) is type(row.attack) and named.label == row.attack.label
    same = {"loss": named.loss, "targeted": named.targeted}
    assert replace(row.attack, **same) == row.attack


def test_names_are_told_from_the_registry():
    assert (
        attack_names() == f"{', '.join(ATTACKS)}, autoattack, worst-case, with -margin or -dlr, -targeted, and mim-l2"
    )
