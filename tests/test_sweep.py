"""The survivors' sweep against attacking everything, and what it saves, keeps and refuses."""

import json
import os
import signal
import time
import warnings
from dataclasses import replace
from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_images, make_network

import salrob_tf as sr
from salrob_tf.attacks.balls import Batch
from salrob_tf.attacks.losses import cross_entropy, dlr, margin
from salrob_tf.evaluation.search import Sweep
from salrob_tf.files import locked

pytestmark = pytest.mark.usefixtures("unprobed")

EPSILONS = [0.02, 0.05, 0.08, 0.11, 0.14, 0.17, 0.2, 0.25]


def radii(attack):
    return EPSILONS if attack.norm == np.inf else [0.3, 0.6, 0.9, 1.2, 1.5]


def sweep(trained, attack, **options):
    model, images, labels = trained
    return sr.evaluate(model, images, labels, [attack], radii(attack), seed=3, batch_size=16, **options)


def attack_id(attack):
    return f"{attack.label}-{attack.norm}-{attack.restarts}"


@pytest.mark.parametrize("attack", [sr.MIM(2.0, steps=4), sr.PGD(steps=3, restarts=2)], ids=attack_id)
def test_full_search_takes_the_first_success_of_each_trajectory(ready, attack):
    """Each epsilon's whole trajectories, from shorter attacks with the same step size, searched by hand."""
    model, images, labels = ready
    rows, radius = np.arange(64), np.array(radii(attack))
    expected = np.where(model.predict(images) == labels, len(radius), 0)
    for k, epsilon in enumerate(radius):
        for restart in range(attack.restarts):
            batch = Batch(images, labels, labels, np.full(64, epsilon, np.float32), rows, np.full(64, restart))
            start = attack.start(batch, 3)
            shorter = [
                replace(attack, steps=steps, relative_step=attack.step_size(1.0))
                for steps in range(1, attack.steps + 1)
            ]
            later = [each(model, images, labels, epsilon, seed=3, restart=restart) for each in shorter]
            for iterate in (start, *later):
                wrong = (model.predict(iterate) != labels) & (expected > k)
                change = (iterate.astype(np.float64) - images).reshape(64, -1)
                size = np.linalg.norm(change, ord=attack.norm, axis=1)
                expected[wrong] = np.minimum(k, np.searchsorted(radius, size - 1e-6))[wrong]
    found = sweep(ready, attack, search="full")
    np.testing.assert_array_equal(found.correct[attack.label].sum(axis=0), expected)


def test_every_attack_starts_without_momentum(ready, monkeypatch):
    step, starts = sr.MIM.step, []

    def watching(self, classifier, batch, state, *options):
        starts.append(state["momentum"][(state["images"] == batch.images).all(axis=(1, 2, 3))])
        return step(self, classifier, batch, state, *options)

    monkeypatch.setattr(sr.MIM, "step", watching)
    sweep(ready, sr.MIM(steps=5), search="full")
    assert not np.concatenate(starts).any() and len(np.concatenate(starts)) > 2 * 64


def test_all_tries_of_an_image_are_made_at_one_epsilon(ready, monkeypatch):
    """Also where a bisection learns meanwhile that its guesses are off."""
    model, images, labels = ready
    init, begun = sr.PGD.init, []

    def watching(self, classifier, batch, seed):
        begun.extend(zip(batch.indices.tolist(), batch.tries.tolist(), batch.radii.tolist(), strict=True))
        return init(self, classifier, batch, seed)

    monkeypatch.setattr(sr.PGD, "init", watching)
    monkeypatch.setattr(sr.PGD, "scout", None)  # so that it begins in the middle
    sr.evaluate(model, images, labels, sr.PGD(steps=2, restarts=3), np.linspace(0.01, 0.3, 30), batch_size=4)
    last = {}
    for index, number, radius in begun:
        assert number == 0 or last[index] == (number - 1, radius)
        last[index] = number, radius
    assert max(number for _, number, _ in begun) == 2


def test_a_success_that_only_the_crafting_copy_sees_does_not_count(trained, ready, monkeypatch):
    honest = sweep(ready, sr.PGD(steps=9))
    tilt = tf.constant([3.0, 0.0, 0.0])
    monkeypatch.setattr(sr.Classifier, "crafting", lambda self, dtype: lambda x: self.logits(x) + tilt)
    found = sweep(trained, sr.PGD(steps=9), craft_dtype="bfloat16")
    assert np.abs(found.accuracy("pgd") - honest.accuracy("pgd")).max() < 0.2
    assert found.accuracy("pgd")[0] == found.clean_accuracy


def test_every_success_is_a_real_adversarial_in_its_ball(ready, tmp_path):
    model, images, labels = ready
    for attack in (sr.PGD(steps=9), sr.PGD(2.0, steps=9)):
        folder = tmp_path / str(attack.norm)
        found = sr.evaluate(model, images, labels, [attack], radii(attack), adversarials=folder, batch_size=16)
        kept = np.load(folder / "pgd-00000.npz")
        np.testing.assert_array_equal(kept["indices"], np.arange(64))
        change = (kept["images"].astype(np.float64) - images).reshape(64, -1)
        size = np.linalg.norm(change, ord=attack.norm, axis=1)
        predicted = model.predict(kept["images"])
        for correct, epsilon in zip(found.correct["pgd"], radii(attack), strict=True):
            broken = ~correct & found.clean
            assert np.all(predicted[broken] != labels[broken]) and np.all(size[broken] <= epsilon + 1e-6)
        survived = found.correct["pgd"][-1]
        np.testing.assert_array_equal(kept["images"][survived], images[survived])


def test_all_adversarials_are_kept_where_everything_is_attacked(ready, tmp_path):
    model, images, labels = ready
    options = {"survivors_only": False, "adversarials": tmp_path, "batch_size": 4}
    found = sr.evaluate(model, images, labels, [sr.PGD(steps=2)], [0.2, 0.1], **options)
    assert len(list(tmp_path.iterdir())) == 2, "a file for each shard of eight batches"
    kept = np.concatenate([np.load(path)["images"] for path in sorted(tmp_path.iterdir())], axis=1)
    for row, epsilon in ((1, 0.1), (0, 0.2)):
        expected = sr.PGD(steps=2)(model, images, labels, epsilon)
        np.testing.assert_allclose(kept[1 - row], expected, atol=1e-6)
        predicted = model.predict(kept[1 - row])
        np.testing.assert_array_equal(found.correct["pgd"][row], predicted == labels)


@pytest.mark.parametrize("survivors_only", [True, False])
def test_the_nearest_adversarial_is_kept_for_each_epsilon_that_it_is_within(ready, tmp_path, survivors_only):
    model, images, labels = ready
    images, labels, radii = images[:16], labels[:16], [0.2, 0.5, 1.0, 2.0]
    attack = sr.CWL2(steps=60, constants=3, learning_rate=0.05)
    options = {"survivors_only": survivors_only, "adversarials": tmp_path}
    found = sr.evaluate(model, images, labels, [attack], radii, **options)
    kept = np.load(tmp_path / "cw-00000.npz")["images"]
    assert 0 < found.correct["cw"].mean() < 1 and kept.shape == (() if survivors_only else (4,)) + images.shape
    if not survivors_only:
        for images_there, correct, radius in zip(kept, found.correct["cw"], radii, strict=True):
            np.testing.assert_array_equal(model.predict(images_there) == labels, correct)
            assert np.linalg.norm((images_there - images).reshape(16, -1), axis=1).max() <= radius + 1e-6


def test_the_order_of_attacks_is_part_of_a_bisected_result(ready, tmp_path):
    model, images, labels = ready
    attacks = [sr.FGSM(), sr.BIM(steps=3), sr.MIM(steps=3)]
    first = sr.evaluate(model, images, labels, attacks, EPSILONS, checkpoint=tmp_path / "first")
    how = {label: (settings["search"], settings.get("begins_at")) for label, settings in first.attacks.items()}
    assert how == {"fgsm": ("full", None), "bim": ("bisect", "fgsm"), "mim": ("bisect", "bim")}
    with pytest.raises(ValueError, match="another one and cannot be resumed: attacks="):
        sr.evaluate(model, images, labels, attacks[::-1], EPSILONS, checkpoint=tmp_path / "first")
    with pytest.raises(ValueError, match="begins_at of bim 'fgsm' and 'mim'; begins_at of mim 'bim' and 'fgsm'"):
        sr.compare(first, sr.evaluate(model, images, labels, attacks[::-1], EPSILONS))
    alone = sr.evaluate(model, images, labels, sr.BIM(steps=3), EPSILONS)
    assert alone.attacks["bim"]["begins_at"] == "fgsm"
    alike = [sr.evaluate(model, images, labels, order, EPSILONS, search="full") for order in (attacks, attacks[::-1])]
    assert sr.compare(*alike).differences, "where nothing is bisected the order decides nothing"


@pytest.mark.parametrize("batch_size", [100_000, 10**9])
def test_a_batch_is_never_larger_than_the_images(ready, batch_size):
    model, images, labels = ready
    expected = sr.evaluate(model, images, labels, [sr.PGD(steps=3)], EPSILONS, batch_size=64)
    found = sr.evaluate(model, images, labels, [sr.PGD(steps=3)], EPSILONS, batch_size=batch_size)
    np.testing.assert_array_equal(found.correct["pgd"], expected.correct["pgd"])
    cost = found.costs["pgd"]
    assert cost.padding == expected.costs["pgd"].padding < cost.gradient_evaluations
    stream = tf.data.Dataset.from_tensor_slices((images, labels)).batch(10)
    streamed = sr.evaluate(model, stream, None, [sr.PGD(steps=3)], EPSILONS, batch_size=batch_size)
    np.testing.assert_array_equal(streamed.correct["pgd"], expected.correct["pgd"])


def test_epsilons_are_reported_in_the_users_order_repeats_and_zero_included(ready):
    model, images, labels = ready
    found = sr.evaluate(model, images, labels, [sr.BIM(steps=5), "fgsm"], [0.2, 0.0, 0.1, 0.2])
    ascending = sr.evaluate(model, images, labels, [sr.BIM(steps=5), "fgsm"], [0.0, 0.1, 0.2])
    assert found.epsilons.tolist() == [0.2, 0.0, 0.1, 0.2]
    for label in ("bim", "fgsm"):
        np.testing.assert_array_equal(found.correct[label], ascending.correct[label][[2, 0, 1, 2]])
        np.testing.assert_array_equal(found.correct[label][1], found.clean)


def test_one_trace_per_attack_whatever_the_epsilons_batches_and_restarts(trained):
    model, images, labels = trained
    attacks = [sr.FGSM(), sr.BIM(steps=4), sr.PGD(steps=4, restarts=2), sr.MIM(steps=4)]
    classifier = sr.Classifier(model)
    for epsilons in (EPSILONS, [0.03, 0.3]):
        for survivors_only in (True, False):
            found = sr.evaluate(
                classifier, images, labels, attacks, epsilons, batch_size=24, survivors_only=survivors_only
            )
    assert {label: cost.traces for label, cost in found.costs.items()} == dict.fromkeys(found.correct, 1)


def test_counters_count_what_the_compiled_functions_were_given(ready, probed, monkeypatch):
    model, images, labels = ready
    rows = []
    step = sr.BIM.step

    def counting(self, classifier, batch, *state_and_options):
        rows.append(len(batch.images))
        return step(self, classifier, batch, *state_and_options)

    monkeypatch.setattr(sr.BIM, "step", counting)
    found = sr.evaluate(model, images, labels, [sr.FGSM(), sr.BIM(steps=6)], EPSILONS, batch_size=1)
    looked = found.description["checks"]["gradient_evaluations"]
    assert looked > 0 and found.costs["bim"].gradient_evaluations + looked == sum(rows)
    assert found.costs["fgsm"].gradient_evaluations == found.clean.sum()
    rows.clear()
    plain = sr.evaluate(model, images, labels, [sr.BIM(steps=6)], [0.1, 0.2], survivors_only=False)
    looked = plain.description["checks"]["gradient_evaluations"]
    assert plain.costs["bim"].gradient_evaluations == sum(rows) - looked == 64 * 6 * 2
    assert plain.costs["bim"].forward_evaluations == 64 * 2 + (~plain.correct["bim"]).sum(), "what fell is seen twice"


def test_margin_losses_equal_their_formulas_and_climb():
    rng = np.random.default_rng(0)
    logits, labels = tf.constant(rng.normal(size=(20, 5)), tf.float32), tf.constant(rng.integers(0, 5, 20), tf.int32)
    for n, (z, y) in enumerate(zip(logits.numpy(), labels.numpy(), strict=True)):
        other = max(z[j] for j in range(5) if j != y)
        first, _, third = sorted(z, reverse=True)[:3]
        assert float(margin(labels, logits)[n]) == pytest.approx(other - z[y], abs=1e-6)
        assert float(dlr(labels, logits)[n]) == pytest.approx((other - z[y]) / (first - third), rel=1e-4)
        assert float(cross_entropy(labels, logits)[n]) == pytest.approx(np.log(np.exp(z).sum()) - z[y], abs=1e-5)
    with pytest.raises(ValueError, match="three classes or more: use margin. Received: 2"):
        sr.PGD(loss="dlr")(make_network(classes=2), np.zeros((2, 8, 8, 1)), np.zeros(2, int), 0.1)


def test_a_margin_loss_attacks_where_cross_entropy_has_no_gradient(trained, ready):
    model, images, labels = trained
    scaled = sr.Classifier(keras.Sequential([model, keras.layers.Rescaling(1e4)]))
    with pytest.warns(UserWarning, match=r"^pgd: the gradient was zero for .*Try pgd-margin: .*Attack it with spsa"):
        blind = sr.evaluate(scaled, images, labels, [sr.PGD(steps=9)], [0.2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seeing = sr.evaluate(scaled, images, labels, [sr.PGD(steps=9, loss="margin")], [0.2])
    plain = sr.evaluate(*ready, [sr.PGD(steps=9, loss="margin")], [0.2])
    assert seeing.accuracy("pgd-margin") == plain.accuracy("pgd-margin") < blind.accuracy("pgd") - 0.2


def test_targeted_attacks_drive_to_their_targets(ready):
    model, images, labels = ready
    targets = (labels + 1) % 3
    found = sr.BIM(steps=20, targeted=True)(model, images, labels, 0.5, targets=targets)
    assert (model.predict(found) == targets).mean() > 0.9
    default = sr.BIM(steps=20, targeted=True)(model, images, labels, 0.5)
    logits = model.predict_logits(images)
    logits[np.arange(64), labels] = -np.inf
    chosen = sr.BIM(steps=20, targeted=True)(model, images, labels, 0.5, targets=logits.argmax(-1))
    np.testing.assert_array_equal(default, chosen)
    with pytest.raises(ValueError, match="must differ from the labels. Received: 64"):
        sr.BIM(targeted=True)(model, images, labels, 0.5, targets=labels)
    with pytest.raises(ValueError, match="Only a targeted attack"):
        sr.BIM()(model, images, labels, 0.5, targets=targets)


def test_bfloat16_gradients_are_judged_in_float32(trained, ready, tmp_path):
    model, images, labels = ready
    options = {"craft_dtype": "bfloat16", "adversarials": tmp_path, "batch_size": 16}
    found = sr.evaluate(model, images, labels, [sr.PGD(steps=9)], EPSILONS, seed=3, **options)
    predicted = model.predict(np.load(tmp_path / "pgd-00000.npz")["images"])
    broken = ~found.correct["pgd"][-1]
    assert np.all(predicted[broken] != labels[broken])
    exact = sweep(ready, sr.PGD(steps=9))
    assert np.abs(found.accuracy("pgd") - exact.accuracy("pgd")).max() <= 2 / 64
    with pytest.raises(ValueError, match="Only a Functional or Sequential"):
        trained[0].export(tmp_path / "saved", verbose=False)
        sr.evaluate(tmp_path / "saved", images, labels, ["pgd"], [0.1], craft_dtype="bfloat16")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_attack_follows_a_network_that_trains_on(dtype):
    images, labels = make_images(96)
    some = images[:24], labels[:24]  # of which no probe is run
    model = make_network()
    model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    kept = sr.Classifier(model)
    for _ in range(2):
        model.fit(images, labels, epochs=3, verbose=0)
        options = {"steps": 5, "craft_dtype": dtype}
        first = sr.evaluate(kept, *some, ["pgd"], EPSILONS, **options)
        fresh = sr.evaluate(sr.Classifier(model), *some, ["pgd"], EPSILONS, **options)
        np.testing.assert_array_equal(first.correct["pgd"], fresh.correct["pgd"])
        assert 0 < fresh.correct["pgd"].mean() < 1
    assert kept.traces((sr.PGD(steps=5), dtype)) == 1


@pytest.mark.parametrize("change", ["normalisation", "activation", "callable"])
def test_an_attack_follows_a_model_that_changes_otherwise(trained, change):
    network, images, labels = trained[0], trained[1][:24], trained[2][:24]  # of which no probe is run
    normalise, scale = keras.layers.Normalization(mean=0.0, variance=1.0), {"factor": 1.0}
    copy = keras.models.clone_model(network)
    copy.set_weights(network.get_weights())
    model = keras.Sequential([keras.Input((8, 8, 1)), normalise, copy])
    attacked = model if change != "callable" else lambda x: network(x * scale["factor"], training=False)
    kept = sr.Classifier(attacked, input_shape=(8, 8, 1))
    before = sr.evaluate(kept, images, labels, ["bim"], EPSILONS, steps=5)
    scale["factor"] = 0.5
    if change == "normalisation":
        normalise.mean, normalise.variance = tf.constant([[[[0.1]]]]), tf.constant([[[[2.0]]]])
    elif change == "activation":
        copy.layers[0].activation = keras.activations.tanh
    after = sr.evaluate(kept, images, labels, ["bim"], EPSILONS, steps=5)
    fresh = sr.evaluate(sr.Classifier(attacked, input_shape=(8, 8, 1)), images, labels, ["bim"], EPSILONS, steps=5)
    np.testing.assert_array_equal(after.correct["bim"], fresh.correct["bim"])
    assert not np.array_equal(after.correct["bim"], before.correct["bim"])


def test_gradients_do_not_underflow_in_half_precision(trained):
    network, images, labels = trained
    sure = keras.Sequential([network, keras.layers.Rescaling(3.0)])
    half = keras.models.clone_model(network, clone_function=lambda layer: type(layer).from_config(
        {**layer.get_config(), "dtype": "mixed_float16"}))  # fmt: skip
    half.set_weights(network.get_weights())
    half = keras.Sequential([half, keras.layers.Rescaling(3.0, dtype="mixed_float16")])
    expected, found = (sr.evaluate(model, images, labels, ["fgsm"], EPSILONS) for model in (sure, half))
    assert found.costs["fgsm"].zero_gradients == expected.costs["fgsm"].zero_gradients == 0
    assert np.abs(found.accuracy("fgsm") - expected.accuracy("fgsm")).max() <= 2 / 64


def test_large_logits_overflow_in_half_precision_no_sooner_than_need_be(trained, ready):
    network, images, labels = trained
    half = keras.models.clone_model(network, clone_function=lambda layer: type(layer).from_config(
        {**layer.get_config(), "dtype": "mixed_float16"}))  # fmt: skip
    *weights, last, bias = network.get_weights()
    half.set_weights([*weights, last * 300, bias * 300])
    models = ready[0], half
    expected, found = (sr.evaluate(model, images, labels, "pgd-margin", EPSILONS, steps=5) for model in models)
    assert np.abs(found.accuracy("pgd-margin") - expected.accuracy("pgd-margin")).max() <= 2 / 64


def test_several_devices_share_each_batch_and_change_nothing(trained, ready, monkeypatch):
    expected = sweep(ready, sr.PGD(steps=5))
    monkeypatch.setattr("salrob_tf.models.devices.gpus", lambda: ["CPU:0", "CPU:1"])
    found = sweep(trained, sr.PGD(steps=5))
    np.testing.assert_array_equal(found.correct["pgd"], expected.correct["pgd"])
    assert len(tf.config.list_logical_devices("CPU")) == 2


def test_datasets_stream_and_give_what_arrays_give(ready):
    model, images, labels = ready
    attacks = ["fgsm", sr.PGD(steps=3)]
    expected = sr.evaluate(model, images, labels, attacks, EPSILONS, batch_size=4)
    stream = tf.data.Dataset.from_tensor_slices((images, labels)).batch(10)
    calls = []
    found = sr.evaluate(model, stream, None, attacks, EPSILONS, batch_size=4, progress=lambda *call: calls.append(call))
    for label in ("fgsm", "pgd"):
        np.testing.assert_array_equal(found.correct[label], expected.correct[label])
    np.testing.assert_array_equal(found.indices, np.arange(64))
    larger = sr.evaluate(model, images, labels, attacks, EPSILONS, batch_size=64)
    assert not sum(abs(item.difference) for item in sr.compare(found, larger).differences)
    assert found.sha256 == expected.sha256 and calls[-1][2] is None
    with pytest.raises(ValueError, match="empty dataset"):
        sr.evaluate(model, stream.take(0), None, ["fgsm"], [0.1])
    with pytest.raises(ValueError, match="brings its own labels"):
        sr.evaluate(model, stream, labels, ["fgsm"], [0.1])


def test_progress_only_rises_and_ends_at_all(ready):
    model, images, labels = ready
    calls = []
    sr.evaluate(
        model, images, labels, ["fgsm", "bim"], [0.1, 0.3], steps=4, batch_size=4,
        progress=lambda *call: calls.append(call),
    )  # fmt: skip
    done = [call[1] for call in calls]
    assert done == sorted(done) and calls[-1][1:3] == (128, 128) and {call[0] for call in calls} == {"fgsm", "bim"}
    assert all(0 <= call[3] <= 32 for call in calls)


def test_spsa_and_cw_find_adversarials_without_and_with_gradients(ready):
    model, images, labels = ready
    some = slice(0, 12)
    spsa = sr.SPSA(steps=30, samples=64, learning_rate=0.05)
    found = sr.evaluate(model, images[some], labels[some], [spsa], [0.02, 0.1, 0.25])
    again = sr.evaluate(model, images[some], labels[some], [spsa], [0.02, 0.1, 0.25], batch_size=5)
    np.testing.assert_array_equal(found.correct["spsa"], again.correct["spsa"])
    strong = sr.evaluate(model, images[some], labels[some], [sr.PGD(steps=40, restarts=3)], [0.02, 0.1, 0.25])
    assert found.accuracy("spsa")[2] < found.accuracy("spsa")[0]
    assert np.all(found.accuracy("spsa") >= strong.accuracy("pgd") - 1 / 12)
    adversarial = spsa(model, images[some], labels[some], 0.1)
    assert np.abs(adversarial - images[some]).max() <= 0.1 + 1e-6 and adversarial.min() >= 0 and adversarial.max() <= 1
    assert found.costs["spsa"].gradient_evaluations == 0 and found.costs["spsa"].traces == 1


def test_cw_comes_about_as_near_as_pgd_in_l2(ready, tmp_path):
    model, images, labels = ready[0], ready[1][:32], ready[2][:32]
    epsilons = [0.2, 0.5, 0.8, 1.1, 1.5]
    cw = sr.evaluate(
        model, images, labels, [sr.CWL2(steps=100, constants=6, learning_rate=0.05)], epsilons, adversarials=tmp_path
    )
    pgd = sr.evaluate(model, images, labels, [sr.PGD(2.0, steps=40)], epsilons)
    np.testing.assert_allclose(cw.accuracy("cw"), pgd.accuracy("pgd"), atol=0.1)
    assert cw.accuracy("cw")[0] > 0.9 and cw.accuracy("cw")[-1] < 0.3
    kept = np.load(tmp_path / "cw-00000.npz")["images"]
    size = np.linalg.norm((kept - images).reshape(32, -1), axis=1)
    expected = (size[None] > np.array(epsilons)[:, None] + 1e-6) | (kept == images).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(cw.correct["cw"], expected & cw.clean)
    with pytest.raises(ValueError, match="for the L2 norm"):
        sr.CWL2(np.inf)
    with pytest.raises(ValueError, match="L-infinity norm"):
        sr.SPSA(2.0)


@tf.custom_gradient
def poisoned(inputs):
    return tf.identity(inputs), lambda upstream: upstream * np.nan


class Opaque(keras.layers.Layer):
    def __init__(self, kind, **kwargs):
        super().__init__(**kwargs)
        self.kind = kind

    def call(self, inputs):
        if self.kind == "none":
            return tf.cast(tf.cast(inputs, tf.int32), tf.float32)
        if self.kind == "nan":
            return poisoned(inputs)
        return tf.round(inputs) + 0 * inputs


@pytest.mark.parametrize("survivors_only", [True, False])
@pytest.mark.parametrize("attack", ["fgsm", "bim"])
def test_models_without_a_usable_gradient_are_named(trained, attack, survivors_only):
    model, images, _ = trained

    def attacked(kind):
        inputs = keras.Input((8, 8, 1))
        whole = keras.Model(inputs, model(Opaque(kind)(inputs)))
        labels = sr.Classifier(whole).predict(images)
        return sr.evaluate(whole, images, labels, [attack], [0.1], survivors_only=survivors_only)

    with pytest.raises(
        ValueError, match="^functional.* has no gradient .*: attack it with spsa, .*a straight-through gradient$"
    ):
        attacked("none")
    with pytest.raises(ValueError, match=r"gradients must be finite .*. Received: NaN or infinity for 100.0%"):
        attacked("nan")
    with pytest.warns(UserWarning, match=f"^{attack}: the gradient was zero for 100.0% .*Attack it with spsa"):
        attacked("round")


def test_epsilons_beyond_the_range_are_allowed_and_said_once(ready):
    model, images, labels = ready
    with pytest.warns(UserWarning, match="epsilon 3 is larger than the range") as said:
        found = sr.evaluate(model, images, labels, ["fgsm", "bim"], [3.0, 2.0, 0.1], steps=3)
    assert len(said) == 1 and found.accuracy("bim")[0] <= found.accuracy("bim")[2]


def test_a_checkpoint_is_of_one_model_settings_and_images(trained, tmp_path):
    model, images, labels = trained
    folder = tmp_path / "sweep"
    activated = keras.models.clone_model(model)  # of the same weights
    activated.set_weights(model.get_weights())
    activated.layers[0].activation = keras.activations.tanh

    def run(model=model, images=images, attacks=("fgsm", "bim"), epsilons=(0.1, 0.2), **options):
        return sr.evaluate(model, images, labels, attacks, epsilons, checkpoint=folder, **{"steps": 3} | options)

    first = run()
    files = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert set(files) == {"settings.json", "fgsm-00000.npz", "bim-00000.npz"}
    again = run()
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == files
    assert again.costs["bim"].seconds == first.costs["bim"].seconds
    for changes, what in (
        ({"model": make_network(seed=1)}, "model="),
        ({"model": activated}, "model="),
        ({"steps": 4}, "attacks="),
        ({"epsilons": (0.1, 0.3)}, r"epsilons=\[0.1, 0.2\] there, \[0.1, 0.3\] asked"),
        ({"seed": 1}, "seed=0 there, 1 asked"),
        ({"search": "full"}, "attacks="),
        ({"adversarials": tmp_path}, "adversarials=False there, True asked"),
        ({"images": images[::-1].copy()}, "other images or labels"),
    ):
        with pytest.raises(ValueError, match=f"cannot be resumed.*{what}|{what}.*cannot be resumed"):
            run(**changes)


def test_a_checkpoint_of_another_version_is_named_with_its_remedy(ready, tmp_path):
    model, images, labels = ready
    sr.evaluate(model, images, labels, "fgsm", [0.1], checkpoint=tmp_path)
    settings = json.loads((tmp_path / "settings.json").read_text())
    del settings["parts"]
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"^This is a sweep of another version .*: remove its folder. Received: "):
        sr.evaluate(model, images, labels, "fgsm", [0.1], checkpoint=tmp_path)


def test_adversarials_that_are_gone_or_of_another_run_are_made_again_and_said(ready, tmp_path):
    model, images, labels = ready
    folders = {"checkpoint": tmp_path / "kept", "adversarials": tmp_path / "images"}
    first = sr.evaluate(model, images, labels, "bim", EPSILONS, steps=3, **folders)
    (made,) = (tmp_path / "images").iterdir()
    content, images_there = made.read_bytes(), np.load(made)["images"]
    sr.evaluate(model, images[:9], labels[:9], "bim", EPSILONS, steps=3, adversarials=tmp_path / "of others")
    changes = {
        "gone": made.unlink,
        "cut": lambda: made.write_bytes(content[:-40]),
        "of others": lambda: made.write_bytes((tmp_path / "of others" / made.name).read_bytes()),
    }
    for change in changes.values():
        change()
        with pytest.warns(UserWarning, match=f"not the adversarials of the sweep, and are made again: .*{made.name}"):
            again = sr.evaluate(model, images, labels, "bim", EPSILONS, steps=3, **folders)
        np.testing.assert_array_equal(again.correct["bim"], first.correct["bim"])
        np.testing.assert_array_equal(np.load(made)["images"], images_there)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed = sr.evaluate(model, images, labels, "bim", EPSILONS, steps=3, **folders)
    assert resumed.costs["bim"].seconds == again.costs["bim"].seconds, "nothing was done again"
    with pytest.raises(ValueError, match="must be different folders"):
        sr.evaluate(model, images, labels, "bim", EPSILONS, checkpoint=tmp_path / "a", adversarials=tmp_path / "a")


def test_a_sweep_is_one_processs_at_a_time(ready, tmp_path):
    model, images, labels = ready
    with locked(tmp_path / "kept"), pytest.raises(ValueError, match="Another process is at work in this folder"):
        sr.evaluate(model, images, labels, "fgsm", [0.1], checkpoint=tmp_path / "kept")
    sr.evaluate(model, images, labels, "fgsm", [0.1], checkpoint=tmp_path / "kept")
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["fgsm-00000.npz", "settings.json"]


def test_a_full_disk_loses_only_the_part_at_hand(ready, tmp_path, monkeypatch):
    model, images, labels = ready
    save = np.savez_compressed

    def full(path, **arrays):
        if "bim" in str(path):
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(path, **arrays)

    arguments = (model, images, labels, ["fgsm", sr.BIM(steps=3)], [0.1, 0.2])
    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="No space left on device"):
        sr.evaluate(*arguments, checkpoint=tmp_path / "sweep")
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir()) == ["fgsm-00000.npz", "settings.json"]
    monkeypatch.undo()
    resumed = sr.evaluate(*arguments, checkpoint=tmp_path / "sweep")
    np.testing.assert_array_equal(resumed.correct["bim"], sr.evaluate(*arguments).correct["bim"])


@pytest.mark.parametrize("name", ["kept/fgsm-00000.npz", "images/fgsm-00000.npz", "kept/settings.json"])
def test_a_folder_in_the_place_of_a_file_is_said_before_the_attack(ready, tmp_path, monkeypatch, name):
    model, images, labels = ready
    run = partial(
        sr.evaluate,
        model,
        images,
        labels,
        "fgsm",
        [0.1],
        checkpoint=tmp_path / "kept",
        adversarials=tmp_path / "images",
    )
    run()
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    monkeypatch.setattr(Sweep, "survivors", lambda *_: pytest.fail("attacked in vain"))
    with pytest.raises(
        ValueError, match=rf"^This is (a folder where a file belongs|not the settings.json)[^\n]*/{name}$"
    ):
        run()
    assert (tmp_path / name).is_dir()


KILLED = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np, salrob_tf as sr
from conftest import make_images
images, labels = make_images(448, seed=1)
found = sr.evaluate(sys.argv[2], images, labels, ["fgsm", "pgd"], np.linspace(0.02, 0.3, 8), steps=8, batch_size=8,
                    checkpoint=sys.argv[3])
np.savez(sys.argv[3] + ".npz", **found.correct)
"""


def test_a_sweep_killed_at_five_moments_gives_the_same_matrix(trained, forks, tmp_path):
    model, _, _ = trained
    model.save(tmp_path / "model.keras")
    (tmp_path / "sweep.py").write_text(KILLED)

    def start(folder):
        return forks.start([tmp_path / "sweep.py", os.path.dirname(__file__), tmp_path / "model.keras", folder])

    def parts(folder):
        return len(list(folder.glob("*.npz")))

    start(tmp_path / "whole")
    assert forks.ended() == 0
    rng, kills = np.random.default_rng(), 0
    while kills < 5:
        before = parts(tmp_path / "broken")
        process = start(tmp_path / "broken")
        # Wait until this attempt has finished some part of its own, then kill it a random moment later.
        while parts(tmp_path / "broken") == before and not (tmp_path / "broken.npz").exists():
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.05))
        os.kill(process, signal.SIGKILL)
        if forks.ended() != -signal.SIGKILL:
            break
        kills += 1
    assert kills == 5 and parts(tmp_path / "broken") < parts(tmp_path / "whole")
    start(tmp_path / "broken")
    assert forks.ended() == 0
    whole, broken = np.load(tmp_path / "whole.npz"), np.load(tmp_path / "broken.npz")
    for label in ("fgsm", "pgd"):
        np.testing.assert_array_equal(broken[label], whole[label])
