import re
from dataclasses import dataclass, replace
from typing import ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_images, make_network
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

import salrob_tf as sr
from salrob_tf.attacks.balls import Batch
from salrob_tf.attacks.base import Seen
from salrob_tf.attacks.fab import smallest_change
from salrob_tf.attacks.losses import ascended
from salrob_tf.attacks.registry import make_attack
from salrob_tf.attacks.square import two_lobes


def unit_starts(attack, indices, seed, restart):
    """The perturbations that `start` draws, in the unit ball: nothing is clipped around 0.5 in a ball this small."""
    grey, count = np.full((len(indices), 8, 8, 1), 0.5, np.float32), len(indices)
    batch = Batch(grey, indices, indices, np.full(count, 2.0**-6, np.float32), indices, np.full(count, restart))
    return (attack.start(batch, seed) - grey) * 2.0**6


@settings(max_examples=15, deadline=None)
@given(epsilon=st.floats(0, 1), relative_step=st.floats(0.01, 1), norm=st.sampled_from([np.inf, 2.0]))
def test_any_radius_and_step_stays_in_the_ball(trained, epsilon, relative_step, norm):
    model, images, labels = trained
    attack = sr.PGD(norm, steps=2, relative_step=relative_step)
    change = (attack(model, images[:4], labels[:4], epsilon) - images[:4]).reshape(4, -1).astype(np.float64)
    assert np.linalg.norm(change, ord=norm, axis=-1).max() <= epsilon + 1e-6


@pytest.mark.parametrize("norm", [np.inf, 2.0])
def test_random_starts_depend_on_seed_image_and_restart_alone(trained, norm):
    model, images, labels = trained
    attack = sr.PGD(norm, steps=2)
    whole = attack(model, images, labels, 0.2, seed=1)
    some = np.array([40, 3, 17])
    part = attack(model, images[some], labels[some], 0.2, seed=1, indices=some, batch_size=2)
    np.testing.assert_allclose(part, whole[some], atol=1e-6)
    starts = unit_starts(attack, np.arange(50), 1, 0)
    assert not np.array_equal(starts, unit_starts(attack, np.arange(50), 2, 0))
    again = unit_starts(attack, np.arange(50), 1, 1)
    seen = {start.tobytes() for start in np.concatenate([starts, again])}
    assert len(seen) == 100, "every image and restart starts elsewhere"
    sizes = np.linalg.norm(starts.reshape(50, -1), ord=norm, axis=-1)
    assert sizes.max() <= 1 + 1e-6 and sizes.min() > 0.85
    if norm == np.inf:
        np.testing.assert_allclose(np.sort(starts.reshape(-1)), np.linspace(-1, 1, starts.size), atol=0.06)


def test_bim_starts_at_the_image_and_pgd_does_not():
    assert not unit_starts(sr.BIM(), np.arange(3), 0, 0).any()
    assert unit_starts(sr.PGD(), np.arange(3), 0, 0).all()


def test_names_settings_and_their_errors(trained):
    assert make_attack("pgd", steps=20, restarts=3) == sr.PGD(np.inf, 20, restarts=3)
    assert make_attack("mim-l2", steps=20) == sr.MIM(np.inf, 20, normalization="l2")
    assert sr.PGD(steps=50).step_size(0.3) == pytest.approx(0.015) and sr.BIM(steps=2).step_size(1.0) == 1
    assert sr.MIM(steps=10).step_size(0.5) == pytest.approx(0.05) and sr.FGSM().step_size(0.3) == 0.3
    with pytest.raises(
        ValueError,
        match="Valid: fgsm, bim, pgd, mim, apgd, fab, square, spsa, cw.*, with .*Received: attack='deepfool'",
    ):
        make_attack("deepfool")
    for wrong in ({"steps": 0}, {"norm": 1}, {"restarts": 0}, {"relative_step": 0.0}, {"relative_step": 1.5}):
        with pytest.raises(ValueError, match=f"Received: {next(iter(wrong))}="):
            sr.PGD(**wrong)
    with pytest.raises(ValueError, match="Only a targeted attack has target classes. Received: target_classes=2"):
        sr.PGD(target_classes=2)
    with pytest.raises(ValueError, match="must be 1048576 or less. Received: 1048576 times 2"):
        sr.PGD(targeted=True, target_classes=2, restarts=2**20)
    with pytest.raises(ValueError, match="normalization='max'"):
        sr.MIM(normalization="max")
    model, images, labels = trained
    with pytest.raises(ValueError, match="must be fewer than the classes, 3. Received: target_classes=3"):
        sr.BIM(targeted=True, target_classes=3)(model, images, labels, 0.1)
    for epsilon in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"epsilon={epsilon}"):
            sr.FGSM()(model, images, labels, epsilon)


def test_attacks_run_in_inference_mode():
    images, labels = make_images(8)
    model = make_network(dropout=0.9)
    first, second = (sr.BIM(steps=3)(model, images, labels, 0.1) for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize(
    "attack", [sr.FGSM(2.0), sr.PGD(2.0, steps=3), sr.MIM(2.0, steps=3)], ids=lambda attack: attack.name
)
def test_l2_steps_have_their_full_length_however_small_the_gradient(trained, attack):
    """Logits sharpened until gradients are of order 1e-20: CleverHans' step would all but vanish."""
    model, images, labels = trained
    sure = model(images).numpy().argmax(-1) == labels
    images, labels = images[sure], labels[sure]
    sharp = keras.Sequential([*model.layers, keras.layers.Rescaling(8.0)])
    inputs = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, sharp(inputs))
    norms = np.linalg.norm(tape.gradient(loss, inputs).numpy().reshape(len(images), -1), axis=1)
    small = (norms > 0) & (norms < 1e-8)
    assert small.sum() >= 5
    change = attack(sharp, images[small], labels[small], 0.01) - images[small]
    lengths = np.linalg.norm(change.reshape(len(change), -1), axis=1)
    np.testing.assert_allclose(lengths, 0.01, rtol=0.1)  # some is lost where pixels meet 0 or 1


@pytest.mark.parametrize(
    ("attack", "settings"),
    [
        (sr.PGD, {"restarts": 2**20 + 1}),
        (sr.PGD, {"relative_step": 1e-46}),
        (sr.SPSA, {"delta": 1e-46}),
        (sr.SPSA, {"delta": 1.5}),
        (sr.SPSA, {"learning_rate": 1e39}),
        (sr.SPSA, {"samples": 2**20 + 2}),
        (sr.CWL2, {"learning_rate": 1e39}),
        (sr.CWL2, {"initial_constant": 1e39}),
        (sr.CWL2, {"initial_constant": 1e-46}),
        (sr.CWL2, {"confidence": 1e39}),
    ],
)
def test_settings_that_float32_or_memory_does_not_hold_are_refused(attack, settings):
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=rf"^`{name}` must be [^\n]*Received: {name}={value}$".replace("+", r"\+")):
        attack(**settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": 1e39}, "`epsilon` must be a finite number, 0 or more, in float32. Received: epsilon=1e+39"),
        ({"restart": 2**20}, "`restart` must be a whole number, from 0 to 1048575. Received: restart=1048576"),
        ({"images": [np.zeros((8, 8)), np.zeros((9, 9))]}, "`images` must be an array, all its parts of one shape."),
        ({"labels": [[1], [1, 2]]}, "`labels` must be an array, all its parts of one shape."),
    ],
)
def test_what_an_attack_is_called_with_is_looked_at(trained, arguments, message):
    model, images, labels = trained
    with pytest.raises(ValueError, match=re.escape(message)):
        sr.PGD(steps=1)(**{"model": model, "images": images[:2], "labels": labels[:2], "epsilon": 0.1} | arguments)


def test_an_attack_whose_settings_overflow_is_named_and_not_counted(trained):
    model, images, labels = trained
    attack = sr.MIM(2.0, steps=3, decay=1e30)
    message = r"^mim must lead to images of numbers: .* overflow, .* finite. Received: NaN in 100.0% .*MIM\(norm=2.0"
    with pytest.raises(ValueError, match=message):
        attack(model, images[:4], labels[:4], 0.01)
    for survivors_only in (True, False):
        with pytest.raises(ValueError, match=message):
            sr.evaluate(model, images[:4], labels[:4], [attack], [0.01], survivors_only=survivors_only)


def test_carlini_wagner_attacks_each_colour_image_by_a_constant_of_its_own():
    """CleverHans' constants have the shape of the images, which does not fit losses per image."""
    images, _ = make_images(7, shape=(8, 8, 3))
    model = make_network(shape=(8, 8, 3))
    predicted = sr.Classifier(model).predict(images)
    attack = sr.CWL2(steps=30, constants=3, learning_rate=0.1, initial_constant=1.0)
    found = attack(model, images, predicted, 0.1)
    assert np.all(sr.Classifier(model).predict(found) != predicted)
    alone = np.concatenate([attack(model, images[row, None], predicted[row, None], 0.1) for row in range(2)])
    sizes, expected = (np.linalg.norm((x - images[:2]).reshape(2, -1), axis=1) for x in (found[:2], alone))
    np.testing.assert_allclose(sizes, expected, rtol=0.1)  # only when a batch aborts depends on its other images


@dataclass(frozen=True)
class Restarted(sr.FGSM):
    """One gradient, and restarts that change nothing."""

    restarts: int = 2


@dataclass(frozen=True)
class Idle(sr.Attack):
    """Goes step by step and finds no gradient."""

    name: ClassVar[str] = "idle"
    stepwise: ClassVar[bool] = True
    takes_loss: ClassVar[bool] = True
    steps: int = 2

    def step(self, classifier, batch, state, dtype="float32", draws=1):
        return state, Seen(np.zeros(len(batch.images), bool), np.zeros(len(batch.images), np.float32), np.zeros(0))


def test_attacks_of_the_users_run_on_what_they_declare(trained):
    model, images, labels = trained
    for targeted in ({}, {"targeted": True, "target_classes": 2}):
        ours = sr.evaluate(model, images, labels, Restarted(**targeted), [0.1, 0.2])
        plain = sr.evaluate(model, images, labels, sr.FGSM(**targeted), [0.1, 0.2])
        (found,), (expected,) = ours.correct.values(), plain.correct.values()
        np.testing.assert_array_equal(found, expected)
    with pytest.warns(UserWarning, match="^idle: the gradient was zero for 100.0%"):
        idle = sr.evaluate(model, images, labels, Idle(), [0.1, 0.2])
    assert (idle.correct["idle"] == idle.clean).all() and idle.doubt("idle") == "not to be believed"


def test_results_of_other_target_classes_are_not_compared(trained):
    model, images, labels = trained
    attack = sr.BIM(steps=1, targeted=True)
    one, two = (
        sr.evaluate(model, images[:8], labels[:8], replace(attack, target_classes=count), [0.1]) for count in (1, 2)
    )
    del one.attacks["bim-targeted"]["target_classes"]  # as results of an older version
    with pytest.raises(ValueError, match="target_classes of bim-targeted not there and 2"):
        sr.compare(one, two)
    two.attacks["bim-targeted"]["target_classes"] = 1
    sr.compare(one, two)


def test_a_targeted_dlr_does_not_vanish_where_the_target_is_third():
    """Croce and Hein 2020, Eq. 7; over the gap of Eq. 6 it is -1 whatever the first three logits are."""
    logits = tf.constant([[5.0, 3.0, 1.5, 1.0, -2.0], [4.0, 3.5, 3.0, -1.0, -1.0]])
    targets = tf.constant([2, 2])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = ascended("dlr", targeted=True)(targets, logits)
    expected = [-(5.0 - 1.5) / (5.0 - (1.5 + 1.0) / 2), -(4.0 - 3.0) / (4.0 - (3.0 - 1.0) / 2)]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    gradient = tape.gradient(loss, logits).numpy()
    assert np.all(gradient[:, 0] < 0) and np.all(gradient[:, 2] > 0)
    assert np.all(ascended("dlr", targeted=False)(tf.constant([0, 0]), logits).numpy() < 0)


def test_a_targeted_dlr_needs_four_classes(trained):
    model, images, labels = trained
    with pytest.raises(ValueError, match="at a target class needs four classes or more: use margin. Received: 3"):
        sr.APGD(loss="dlr", targeted=True)(model, images, labels, 0.1)


def test_apgd_and_fab_try_nine_classes_or_as_many_as_there_are():
    assert [sr.APGD(targeted=True).tries(classes) for classes in (2, 5, 10, 1000)] == [1, 4, 9, 9]
    assert sr.FAB(targeted=True, target_classes=3).tries(1000) == 3 and sr.FAB().tries(1000) == 1


def test_fab_takes_the_smallest_change_that_reaches_a_hyperplane():
    """Against quadratic and linear programs of SciPy's."""
    rng = np.random.default_rng(0)
    x, w = rng.random((6, 2, 3, 1)).astype(np.float32), rng.standard_normal((6, 2, 3, 1)).astype(np.float32)
    w[:, 0, 0] = 0
    for norm in (np.inf, 2.0):
        for gap in (0.3, -0.4, 100.0):
            gaps = np.full(6, gap, np.float32)
            found = smallest_change(tf.constant(x), tf.constant(w), tf.constant(gaps), norm).numpy().reshape(6, -1)
            for change, pixels, weights in zip(found, x.reshape(6, -1), w.reshape(6, -1), strict=True):
                room = np.where(np.sign(weights) * np.sign(gap) > 0, 1 - pixels, pixels)
                if (np.abs(weights) * room).sum() < abs(gap):
                    np.testing.assert_allclose(change, np.sign(weights) * np.sign(gap) * room, atol=1e-6)
                    continue
                np.testing.assert_allclose(change @ weights, gap, atol=1e-5)
                assert change[0] == 0 and np.all((pixels + change >= -1e-6) & (pixels + change <= 1 + 1e-6))
                box = [(-p, 1 - p) for p in pixels]
                if norm == 2:
                    best = optimize.minimize(
                        lambda z: z @ z, 0 * pixels, bounds=box, method="SLSQP", tol=1e-12,
                        constraints={"type": "eq", "fun": lambda z, w=weights, gap=gap: z @ w - gap},
                    )  # fmt: skip
                    assert np.linalg.norm(change) <= np.sqrt(best.fun) + 1e-4
                else:
                    # Variables: the change, and a bound on its magnitudes, which is what is made smallest.
                    eye, one = np.eye(6), np.ones((6, 1))
                    best = optimize.linprog(
                        [0] * 6 + [1], np.block([[eye, -one], [-eye, -one]]), np.zeros(12),
                        [[*weights, 0]], [gap], [*box, (0, None)],
                    )  # fmt: skip
                    assert np.abs(change).max() <= best.fun + 1e-5


@pytest.mark.parametrize("norm", [np.inf, 2.0])
def test_square_starts_with_stripes_or_tiles_at_the_edge_of_the_ball(trained, norm):
    classifier = sr.Classifier(trained[0])
    grey, rows = np.full((5, 16, 20, 3), 0.5, np.float32), np.arange(5)
    batch = Batch(grey, rows, rows, np.full(5, 0.25, np.float32), rows, 0 * rows)
    attack = sr.Square(norm, steps=3)
    change = attack.init(classifier, batch, 0)["images"] - grey
    np.testing.assert_allclose(np.linalg.norm(change.reshape(5, -1), norm, axis=1), 0.25, rtol=1e-5)
    if norm == np.inf:
        assert np.all(np.abs(change) == 0.25) and np.array_equal(change, np.broadcast_to(change[:, :1], change.shape))
    else:
        assert (
            change[:, :15, 2:17].any(axis=3).mean() > 0.8 and not change[:, 15:].any() and not change[:, :, 17:].any()
        )
    assert not np.array_equal(change[0], change[1])
    again = attack.init(classifier, batch._replace(tries=rows + 1), 0)["images"] - grey
    assert not np.array_equal(change, again)
    np.testing.assert_allclose([np.linalg.norm(two_lobes(side)) for side in (2, 3, 7, 12)], 1, rtol=1e-9)


def test_settings_of_apgd_fab_and_square_are_checked():
    for wrong in ({"momentum": 0.0}, {"rising_share": 1.5}, {"steps": 0}, {"restarts": 0}):
        with pytest.raises(ValueError, match=f"Received: {next(iter(wrong))}="):
            sr.APGD(**wrong)
    for wrong in ({"most_bias": -1.0}, {"overshoot": 0.5}, {"backward": 0.0}):
        with pytest.raises(ValueError, match=f"Received: {next(iter(wrong))}="):
            sr.FAB(**wrong)
    with pytest.raises(ValueError, match="Received: share=0"):
        sr.Square(share=0)
    with pytest.raises(ValueError, match="Square is an untargeted attack. Received: targeted=True"):
        sr.Square(targeted=True)
    for kind in (sr.FAB, sr.Square):
        with pytest.raises(ValueError, match="climbs a margin of its own"):
            kind(loss="dlr")
