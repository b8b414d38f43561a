import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from cleverhans.tf2.attacks import projected_gradient_descent as cleverhans_pgd
from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method
from cleverhans.tf2.attacks.momentum_iterative_method import momentum_iterative_method
from conftest import make_images, make_network
from hypothesis import given, settings
from hypothesis import strategies as st

import salrob_tf as sr
from salrob_tf.attacks.registry import make_attack

ALL = [sr.FGSM(), sr.BIM(steps=7), sr.PGD(steps=7), sr.MIM(steps=7), sr.MIM(steps=7, normalization="l2")]
ALL += [sr.FGSM(2.0), sr.BIM(2.0, steps=7), sr.PGD(2.0, steps=7), sr.MIM(2.0, steps=7)]


def unit_starts(attack, indices, seed, restart):
    """The perturbations that `start` draws, in the unit ball: nothing is clipped around 0.5 in a ball this small."""
    grey = np.full((len(indices), 8, 8, 1), 0.5, np.float32)
    starts = attack.start(grey, np.full(len(indices), 2.0**-6, np.float32), indices, seed, restart)
    return (starts - grey) * 2.0**6


def attack_id(attack):
    return f"{attack.label}-{attack.norm}"


def reference(attack, model, images, labels, epsilon, monkeypatch):
    """CleverHans' own whole function, started where our attack starts."""
    logits = lambda x: model(x, training=False)  # noqa: E731
    shared = {"norm": attack.norm, "clip_min": 0.0, "clip_max": 1.0, "y": tf.constant(labels)}
    step = attack.step_size(epsilon)
    if isinstance(attack, sr.FGSM):
        return fast_gradient_method(logits, images, epsilon, **shared)
    if isinstance(attack, sr.MIM):
        return momentum_iterative_method(
            logits, tf.constant(images), epsilon, step, attack.steps, sanity_checks=False, **shared
        )
    starts = unit_starts(attack, np.arange(len(images)), 3, 0)
    monkeypatch.setattr(cleverhans_pgd, "random_lp_vector", lambda *_, **__: tf.constant(starts * np.float32(epsilon)))
    return cleverhans_pgd.projected_gradient_descent(
        logits, tf.constant(images), epsilon, step, attack.steps, rand_init=attack.random_start, **shared
    )


@pytest.mark.parametrize("epsilon", [0.03, 0.2])
@pytest.mark.parametrize("attack", [a for a in ALL if a.label != "mim-l2"], ids=attack_id)
def test_same_images_as_cleverhans(trained, attack, epsilon, monkeypatch):
    model, images, labels = trained
    ours = attack(model, images, labels, epsilon, seed=3)
    theirs = reference(attack, model, images, labels, epsilon, monkeypatch)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    assert not np.array_equal(ours, images)


def test_mim_with_the_normalisation_of_eq_4(trained):
    """Eq. 4 written out: momentum of gradients over their L2 norms, steps along its sign."""
    model, images, labels = trained
    attack, epsilon = sr.MIM(steps=5, decay=0.8, normalization="l2"), 0.1
    x, momentum = tf.constant(images), 0.0
    for _ in range(5):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, model(x, training=False))
        gradient = tape.gradient(loss, x).numpy()
        norms = np.sqrt((gradient**2).sum(axis=(1, 2, 3), keepdims=True))
        momentum = 0.8 * momentum + gradient / norms
        stepped = x.numpy() + np.float32(epsilon / 5) * np.sign(momentum)
        x = tf.constant(np.clip(np.clip(stepped, images - epsilon, images + epsilon), 0, 1).astype(np.float32))
    np.testing.assert_allclose(attack(model, images, labels, epsilon), x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("attack", ALL, ids=attack_id)
def test_adversarials_stay_in_the_ball_and_in_range_and_epsilon_0_changes_nothing(trained, attack):
    model, images, labels = trained
    classifier = sr.Classifier(model)
    for epsilon in (0.0, 1e-4, 0.1, 0.5, 2.0):
        change = attack(classifier, images, labels, epsilon, seed=1).astype(np.float64) - images
        flat = change.reshape(len(images), -1)
        size = np.abs(flat).max(-1) if attack.norm == np.inf else np.linalg.norm(flat, axis=-1)
        assert size.max() <= epsilon + 1e-6
        assert (images + change).min() >= 0 and (images + change).max() <= 1
        if epsilon == 0:
            assert not change.any()


@settings(max_examples=15, deadline=None)
@given(epsilon=st.floats(0, 1), relative_step=st.floats(0.01, 1), norm=st.sampled_from([np.inf, 2.0]))
def test_any_radius_and_step_stays_in_the_ball(trained, epsilon, relative_step, norm):
    model, images, labels = trained
    attack = sr.PGD(norm, steps=2, relative_step=relative_step)
    change = (attack(model, images[:4], labels[:4], epsilon) - images[:4]).reshape(4, -1).astype(np.float64)
    assert np.linalg.norm(change, ord=norm, axis=-1).max() <= epsilon + 1e-6


def test_attacks_are_compiled_once_for_all_epsilons_and_batches(trained):
    model, images, labels = trained
    classifier = sr.Classifier(model)
    attack = sr.PGD(steps=3)
    for epsilon in (0.01, 0.1, 0.3):
        attack(classifier, images, labels, epsilon, batch_size=24)
    assert classifier.traces((attack, "float32")) == 1


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
    with pytest.raises(ValueError, match="Valid: fgsm, bim, pgd, mim, spsa, cw, .*Received: attack='deepfool'"):
        make_attack("deepfool")
    for wrong in ({"steps": 0}, {"norm": 1}, {"restarts": 0}, {"relative_step": 0.0}, {"relative_step": 1.5}):
        with pytest.raises(ValueError, match=f"Received: {next(iter(wrong))}="):
            sr.PGD(**wrong)
    with pytest.raises(ValueError, match="normalization='max'"):
        sr.MIM(normalization="max")
    model, images, labels = trained
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
    message = r"^mim must lead to images of numbers: .* overflow. Received: NaN in 100.0% of them, with MIM\(norm=2.0"
    with pytest.raises(ValueError, match=message):
        attack(model, images[:4], labels[:4], 0.01)
    for survivors_only in (True, False):
        with pytest.raises(ValueError, match=message):
            sr.evaluate(model, images[:4], labels[:4], [attack], [0.01], survivors_only=survivors_only)
