"""Attacks that cannot do what they should, and what is said of them."""

import logging
import warnings
from itertools import product

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_network

import salrob_tf as sr
from salrob_tf.results.flags import Flag

EPSILONS = [0.02, 0.05, 0.1, 0.15, 0.2]


def around(network, before, name):
    return sr.Classifier(lambda images: network(before(images), training=False), name, input_shape=(8, 8, 1))


@tf.custom_gradient
def lost(images):
    return tf.identity(images), lambda upstream: tf.random.normal(tf.shape(upstream))


def rounded(images):
    return tf.round(images * 20) / 20 + 0 * images


def through(images):
    return images + tf.stop_gradient(rounded(images) - images)


def found(model, trained, attacks, epsilons=EPSILONS, **settings):
    """Results, and the warnings that came with them."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        result = sr.evaluate(model, *trained[1:], attacks, epsilons, **{"steps": 8} | settings)
    return result, [str(warning.message) for warning in said if issubclass(warning.category, UserWarning)]


def test_nothing_is_said_of_plain_networks(ready):
    attacks = [
        "fgsm",
        "bim",
        "pgd",
        "mim",
        "pgd-margin",
        "pgd-targeted",
        sr.SPSA(steps=20, samples=32, learning_rate=0.05),
    ]
    radii = [[0.001], [0.02, 0.1], EPSILONS, [0.2, 0.9], [0.05, 2.0]]
    for norm, epsilons in product(("inf", "2"), radii):
        chosen = attacks if norm == "inf" else attacks[:-1]
        tested = epsilons if norm == "inf" else [epsilon * 5 for epsilon in epsilons]
        result, said = found(ready[0], ready, chosen, tested, norm=norm)
        assert not result.flags and [text for text in said if "larger than the range" not in text] == []
        assert {result.doubt(label) for label in result.correct} == {None}


@pytest.mark.parametrize("norm", ["inf", "2"])
def test_the_nearest_adversarials_are_held_against_noise_of_their_own_norm(ready, norm):
    result, _ = found(ready[0], ready, "fab", [0.001], norm=norm)
    assert result.accuracy("fab")[0] == result.clean_accuracy and not result.flags


def test_one_step_says_nothing_of_attacks_in_another_norm(ready):
    attacks = [sr.FGSM(), sr.PGD(norm=2, steps=8)]
    result, _ = found(ready[0], ready, attacks, [0.1, 0.2, 0.3])
    assert result.accuracy("fgsm")[-1] < result.accuracy("pgd")[-1] - 0.2 and not result.flags
    assert "one step" not in [probe["id"] for probe in result.description["checks"]["probes"]]


@pytest.fixture(scope="module")
def nowhere(trained):
    """The network with gradients that lead nowhere."""
    return around(trained[0], lost, "lost")


@pytest.mark.parametrize(
    ("attack", "norm"),
    [("fgsm", "inf"), ("fgsm", "2"), ("bim", "inf"), ("pgd", "2"), ("mim", "inf"), ("mim", "2"), ("pgd-margin", "inf")],
)
def test_gradients_that_lead_nowhere_are_not_believed(ready, nowhere, attack, norm):
    radii = EPSILONS if norm == "inf" else [0.2, 0.6, 1.0]
    enough = {"norm": norm, "steps": 40}  # in 8, a margin loss may find 10 % more, which is a doubt of its own
    result, said = found(nowhere, ready, attack, radii, **enough)
    (flag,) = result.flags
    assert (flag.id, flag.severity, flag.attack) == ("no better than noise", "not to be believed", attack)
    assert (
        f"lead nowhere. Attack it with {'spsa' if norm == 'inf' else 'square'}" in said[0]
        and result.doubt(attack) == "not to be believed"
    )
    assert "not to be believed" in str(result)
    honest = sr.evaluate(*ready, attack, radii, **enough)
    assert honest.accuracy(attack)[-1] < result.accuracy(attack)[-1] - 0.3
    comparison = sr.compare(honest, result)
    assert comparison.verdict.startswith("These two networks, lost and tiny: no verdict. lost under ")
    assert comparison.record()["doubts"] == [{"model": "lost", **flag.record()}]


@pytest.mark.parametrize("batch_size", [1, 256])
def test_small_batches_hide_nothing(trained, nowhere, batch_size):
    few = (None, trained[1][:30], trained[2][:30])
    result, _ = found(nowhere, few, "fgsm", batch_size=batch_size)
    assert result.doubt("fgsm") == "not to be believed"


def test_where_nothing_is_right_nothing_fails(trained):
    network, images, _ = trained
    model = around(network, rounded, "rounded")
    wrong = (model.predict(images) + 1) % 3
    result, _ = found(model, (network, images, wrong), "bim", survivors_only=False)
    assert {flag.id for flag in result.flags} == {"chance", "zero gradients"}


def test_a_step_without_gradient_is_not_believed_and_margin_is_not_advised(trained, tmp_path):
    model = around(trained[0], rounded, "rounded")
    result, said = found(
        model, trained, ["fgsm", "pgd", "pgd-margin", sr.SPSA(steps=20, samples=64, learning_rate=0.05)]
    )
    assert [(flag.attack, flag.severity) for flag in result.flags] == [
        (label, "not to be believed") for label in ("fgsm", "pgd", "pgd-margin")
    ]
    assert all("zero for 100.0%" in text and "Believe spsa" in text and "straight-through" in text for text in said)
    assert not any("margin" in text.split("believed")[1] for text in said)
    seeing = sr.evaluate(around(trained[0], through, "through"), *trained[1:], "pgd", EPSILONS, steps=8)
    assert not seeing.flags and seeing.accuracy("pgd")[-1] < result.accuracy("pgd")[-1] - 0.3
    assert result.accuracy("spsa")[-1] < result.accuracy("pgd")[-1] - 0.3
    sr.save_results(tmp_path, [result])
    assert sr.load_results(tmp_path)[0].flags == result.flags


@pytest.mark.parametrize("also", [[], ["pgd-margin"]])
def test_where_a_margin_helps_it_is_named_or_believed(trained, also):
    scaled = keras.Sequential([trained[0], keras.layers.Rescaling(1e4)])
    result, said = found(scaled, trained, ["pgd", *also])
    (flag,) = result.flags
    assert flag.id == "zero gradients" and flag.severity == "not to be believed" and len(said) == 1
    assert flag.remedy.startswith("Believe pgd-margin instead" if also else "Try pgd-margin:")


def test_logits_too_small_for_cross_entropy_are_said(trained, ready):
    small = keras.Sequential([trained[0], keras.layers.Rescaling(1e-3)])
    result, _ = found(small, trained, ["pgd", "pgd-margin", "bim-dlr"])
    (flag,) = result.flags
    assert (flag.id, flag.attack, flag.severity) == ("small logits", "pgd", "doubtful")
    assert flag.remedy == "Believe pgd-margin instead" and flag.figure < 0.1
    exact = sr.evaluate(*ready, ["pgd", "pgd-margin"], EPSILONS, steps=8)
    np.testing.assert_array_equal(result.correct["pgd-margin"], exact.correct["pgd-margin"])
    assert result.accuracy("pgd").sum() > exact.accuracy("pgd").sum() + 0.1
    for also, word in ([], "Try"), (["mim-margin-l2"], "Believe"):
        result, _ = found(small, trained, ["mim-l2", *also])
        (own,) = [flag for flag in result.flags if flag.id == "small logits"]
        assert own.remedy.startswith(f"{word} mim-margin-l2"), "which is a name that attacks have"


def test_logits_that_float32_hardly_tells_apart_are_said(trained):
    shifted = sr.Classifier(lambda x: trained[0](x) * 1e-5 + 1000, "shifted", input_shape=(8, 8, 1))
    result, said = found(shifted, trained, ["pgd-margin"])
    assert [flag.id for flag in result.flags] == ["unresolved logits"] and result.doubt("pgd-margin") == "doubtful"
    assert "Take away what all logits have in common" in said[0]


def test_hard_votes_are_not_believed_even_under_spsa(trained):
    voting = sr.Classifier(
        lambda images: tf.one_hot(tf.argmax(trained[0](images), -1), 3), "voting", input_shape=(8, 8, 1)
    )
    result, said = found(voting, trained, sr.SPSA(steps=10, samples=32))
    flag = result.flags[-1]
    assert (flag.id, flag.attack, flag.severity) == ("no better than noise", "spsa", "not to be believed")
    assert "attack a version that does not round or vote" in said[-1]


def test_outcomes_that_depend_on_the_batch_are_not_believed(trained):
    layers = [*trained[0].layers[:-1], keras.layers.BatchNormalization(), trained[0].layers[-1]]
    normalised = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    model = sr.Classifier(lambda images: normalised(images, training=True), "batches", input_shape=(8, 8, 1))
    result, said = found(model, trained, "bim", [0.1])
    assert result.flags[0].id == "batch" and result.doubt("bim") == "not to be believed"
    assert "depends on the other images of the batch" in said[0]
    calm = sr.evaluate(normalised, *trained[1:], "bim", [0.1], steps=8)
    assert not [flag for flag in calm.flags if flag.id == "batch"]


class Noisy(keras.layers.Layer):
    """Adds noise in inference too."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def call(self, images):
        return images + tf.random.normal(tf.shape(images), 0.0, self.size)


class Seeded(keras.layers.Layer):
    """Adds noise that a seed generator draws."""

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size, self.generator = size, keras.random.SeedGenerator(0)

    def call(self, images):
        return images + keras.random.normal(tf.shape(images), 0.0, self.size, seed=self.generator, dtype=images.dtype)

    def get_config(self):
        return {**super().get_config(), "size": self.size}


def test_networks_that_draw_random_numbers_are_judged_by_a_majority_and_attacked_on_average(trained):
    network, images, labels = trained
    noisy = keras.Sequential([keras.Input((8, 8, 1)), Noisy(0.15), network])
    result, said = found(noisy, trained, ["fgsm", "pgd"], [1e-6, 0.11, 0.14], steps=20)
    assert result.description["draws"] == {"gradient": 10, "judging": 51} and not result.description["deterministic"]
    assert result.flags[0].id == "random" and "more than half of 51 draws" in said[0]
    assert "means over 10 draws" in said[0] and "NOT deterministic, judged by a majority of 51 draws" in str(result)
    for label in result.correct:
        assert abs(result.accuracy(label)[0] - result.clean_accuracy) <= 2 / 64

    @tf.function
    def gradient_of_one_draw(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, noisy(inputs))
        return tape.gradient(loss, inputs)

    # A slow and obvious version: averaged gradients, the last step judged over fresh draws.
    rng = np.random.default_rng(0)
    for k, epsilon in ((1, 0.11), (2, 0.14)):
        moved = np.clip(images + epsilon * rng.uniform(-1, 1, images.shape), 0, 1).astype(np.float32)
        for _ in range(20):
            step = 2.5 / 20 * epsilon * np.sign(sum(gradient_of_one_draw(tf.constant(moved)) for _ in range(10)))
            moved = np.clip(np.clip(moved + step, images - epsilon, images + epsilon), 0, 1).astype(np.float32)
        right = np.mean([noisy(moved).numpy().argmax(-1) == labels for _ in range(51)], axis=0) > 0.5
        assert abs(result.accuracy("pgd")[k] - right.mean()) <= 6 / 64
        assert 0.05 < right.mean() < 0.98
    costs = result.costs["pgd"]
    assert costs.gradient_evaluations % (20 * 10) == 0


def test_a_sweep_of_a_network_that_draws_random_numbers_goes_on(trained, tmp_path):
    network, images, labels = trained
    layers = [keras.Input((8, 8, 1)), keras.layers.Rescaling(1.0), network]
    dropping = keras.Sequential(layers)
    drop = keras.layers.Dropout(0.1)
    models = {
        "layer": keras.Model(dropping.inputs, network(drop(dropping.inputs[0], training=True))),
        "callable": sr.Classifier(lambda x: network(x + tf.random.normal([], 0, 0.05)), "noisy", input_shape=(8, 8, 1)),
    }
    for kind, model in models.items():
        for _ in range(2):
            found(model, (network, images[:8], labels[:8]), "fgsm", [0.1], checkpoint=tmp_path / kind)
        assert len(list((tmp_path / kind).glob("fgsm-*.npz"))) == 1


def test_gradients_in_bfloat16_draw_anew_each_time(trained):
    network, images, _ = trained
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, network(Seeded(0.15)(inputs)))
    crafted = sr.Classifier(model).crafting("bfloat16")
    run = tf.function(crafted, input_signature=[tf.TensorSpec([None, 8, 8, 1])])
    assert not np.allclose(run(images), run(images)) and not np.allclose(crafted(images), crafted(images))


def test_other_attacks_stop_at_no_lucky_draw(trained):
    network, images, labels = trained
    noisy = keras.Sequential([keras.Input((8, 8, 1)), Noisy(0.1), network])
    few = (network, images[:8], labels[:8])
    cw = sr.CWL2(steps=30, constants=3, learning_rate=0.1)
    spsa = sr.SPSA(steps=10, samples=64, learning_rate=0.1, delta=0.2)  # differences must stand out of the noise
    assert found(noisy, few, cw, [3.0])[0].accuracy("cw")[0] <= 1 / 8
    result, _ = found(noisy, few, spsa, [1e-6, 0.5], survivors_only=False)
    assert result.accuracy("spsa")[0] == result.clean_accuracy > result.accuracy("spsa")[1] + 0.5


def test_attacks_average_gradients_where_asked(ready):
    network, images, labels = ready
    once, twice = (sr.BIM(steps=3)(network, images, labels, 0.1, draws=draws) for draws in (1, 4))
    np.testing.assert_allclose(once, twice, atol=1e-6)
    with pytest.raises(ValueError, match="draws=0"):
        sr.BIM(steps=3)(network, images, labels, 0.1, draws=0)


def test_random_numbers_from_outside_tensorflow_are_refused(trained):
    rng = np.random.default_rng(0)
    drawn = around(trained[0], lambda images: images + rng.normal(0, 0.01), "drawn")
    with pytest.raises(ValueError, match=r"^drawn draws random numbers outside TensorFlow, .*with tf.random or keras"):
        sr.evaluate(drawn, *trained[1:], ["fgsm"], [0.1])


def test_carlini_wagner_without_a_gradient_is_not_believed(trained, ready):
    few = (trained[0], trained[1][:30], trained[2][:30])
    attack = sr.CWL2(steps=20, constants=3, learning_rate=0.05)
    result, _ = found(around(trained[0], rounded, "rounded"), few, attack, [1.0])
    assert [(flag.id, flag.attack) for flag in result.flags] == [("no better than noise", "cw")]
    assert not sr.evaluate(ready[0], *few[1:], attack, [0.05]).flags


def test_too_few_steps_are_told_from_hard_votes(ready):
    result, said = found(ready[0], ready, sr.SPSA(steps=2, samples=4, learning_rate=0.001), [0.4])
    assert [flag.attack for flag in result.flags] == ["spsa"] and said[0].endswith("or a higher learning rate")


def test_nothing_is_logged_however_many_networks_are_attacked(trained):
    logged = []
    handler = logging.Handler()
    handler.emit = logged.append
    tf.get_logger().addHandler(handler)
    try:
        for seed in range(7):
            network = make_network(seed=seed)
            found(network, trained, ["fgsm", sr.SPSA(steps=1, samples=2)], [0.1])
    finally:
        tf.get_logger().removeHandler(handler)
    assert not [record.getMessage()[:200] for record in logged]


def test_a_flag_has_one_of_three_severities():
    with pytest.raises(ValueError, match="one of note, doubtful, not to be believed. Received: severity='bad'"):
        Flag("name", "bad", 0, 0, "", "")


def test_a_diagnosis_that_fails_ends_no_sweep(trained):
    images = np.clip(trained[1], 0.1, 0.9)
    steep = around(trained[0], tf.sqrt, "steep")  # no finite gradient where a pixel is 0
    labels = steep.predict(images)
    result, said = found(steep, (None, images, labels), ["pgd", "pgd-margin"], [1e-4])
    assert [(flag.id, flag.severity) for flag in result.flags] == [("no better than noise", "doubtful")] * 2
    assert "not all is finite there" in said[0]
    sure = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Lambda(lambda x: tf.sqrt(x)), trained[0]])
    model = sr.SaliencyGuided(sure, saliency=False)
    model.compile("sgd")
    model.fit(images, labels, verbose=0, callbacks=[sr.RobustAccuracy(images, labels, epsilon=1e-4, steps=2)])


class LostInHalf(keras.layers.Layer):
    """Its gradient is noise where it computes in bfloat16."""

    def call(self, images):
        return lost(images) if self.compute_dtype == "bfloat16" else images


def test_gradients_are_compared_with_noise_in_the_type_that_the_attack_takes(trained):
    model = sr.Classifier(keras.Sequential([keras.Input((8, 8, 1)), LostInHalf(), trained[0]]))
    result, _ = found(model, trained, "bim", craft_dtype="bfloat16", survivors_only=False)
    found_by = {flag.id: flag.severity for flag in result.flags}
    assert found_by == dict.fromkeys(["no better than noise", "unbounded"], "not to be believed")
    exact, rescued = found(model, trained, "bim")[0], found(model, trained, "bim", craft_dtype="bfloat16")[0]
    assert not exact.flags and [flag.id for flag in rescued.flags] == ["poor gradients"]
    np.testing.assert_allclose(rescued.accuracy("bim"), exact.accuracy("bim"), atol=1 / 64 + 1e-9)


def test_noise_is_judged_as_adversarials_are(trained):
    noisy = around(trained[0], lambda x: x + tf.random.normal(tf.shape(x), 0.0, 1.2), "noisy")
    for attack in ("fgsm", "pgd"):
        result, _ = found(noisy, trained, attack, [0.02, 0.1, 0.15])
        assert [flag.id for flag in result.flags] == ["random"]


def test_draws_of_steep_and_flat_losses_are_averaged_as_they_are(trained):
    network, images, labels = trained

    def mixed(x):
        # Sure of itself, and flat, or unsure, and steep: the mean of their gradients is the latter's.
        chosen = tf.random.uniform([tf.shape(x)[0], 1]) < 0.4
        return tf.where(chosen, 3 * network(tf.reverse(x, [2])), network(x))

    classifier, attack = sr.Classifier(mixed, "mixed", input_shape=(8, 8, 1)), sr.BIM(steps=1)
    gradients = attack.gradients(classifier, images, labels, draws=200)[0]

    @tf.function
    def gradient_of_one_draw(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, mixed(inputs))
        return tape.gradient(loss, inputs)

    total = sum(gradient_of_one_draw(tf.constant(images)).numpy() for _ in range(200))
    agree = [np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] for ours, theirs in zip(gradients, total, strict=True)]
    assert np.median(agree) > 0.97


def test_a_resumed_sweep_of_a_random_network_keeps_what_was_clean(trained, tmp_path):
    noisy = around(trained[0], lambda x: x + tf.random.normal(tf.shape(x), 0.0, 1.5), "noisy")
    first, again = (found(noisy, trained, "fgsm", [1e-6, 0.1], checkpoint=tmp_path)[0] for _ in range(2))
    np.testing.assert_array_equal(first.clean, again.clean)
    np.testing.assert_array_equal(first.correct["fgsm"], again.correct["fgsm"])
    assert not np.any(again.correct["fgsm"] & ~again.clean) and 0 < first.clean.mean() < 1


def test_rare_draws_are_not_taken_for_numbers_from_outside(trained):
    def rare(x):
        return trained[0](x) + tf.cast(tf.random.uniform([]) < 0.2, tf.float32) * 3 * tf.random.normal([3])

    for _ in range(6):
        found(sr.Classifier(rare, "rare", input_shape=(8, 8, 1)), trained, "fgsm", [0.1])


def test_chance_is_asked_of_all_images_not_of_the_first(trained):
    network, images, labels = trained
    order = np.argsort(labels, kind="stable")
    blind = sr.Classifier(lambda x: network(x) - 30 * tf.one_hot(0, 3), "blind to class 0", input_shape=(8, 8, 1))
    fixed = sr.Classifier(lambda x: 0 * network(x) + tf.one_hot(0, 3), "class 0 for all", input_shape=(8, 8, 1))
    for model, expected in ((blind, []), (fixed, ["chance"])):
        result, _ = found(model, (network, images[order], labels[order]), "fgsm", [0.1], batch_size=1)
        assert [flag.id for flag in result.flags if flag.id == "chance"] == expected


def test_spsa_is_recommended_only_where_it_is_believed(trained):
    @tf.custom_gradient
    def voted(logits):
        return tf.one_hot(tf.argmax(logits, -1), 3), lambda upstream: 0 * upstream

    voting = sr.Classifier(lambda images: voted(trained[0](images)), "voting", input_shape=(8, 8, 1))
    result, _ = found(voting, trained, ["pgd", sr.SPSA(steps=5, samples=16)])
    remedies = {flag.attack: flag.remedy for flag in result.flags if flag.attack}
    assert remedies["pgd"].startswith("See what is said of spsa") and "round or vote" in remedies["spsa"]


def test_votes_that_leak_a_little_are_still_votes(trained):
    leak = np.random.default_rng(0).normal(0, 1e-4, (64, 3)).astype(np.float32)
    voting = sr.Classifier(
        lambda x: 10 * tf.one_hot(tf.argmax(trained[0](x), -1), 3) + tf.reshape(x, (-1, 64)) @ leak,
        "leaking", input_shape=(8, 8, 1),
    )  # fmt: skip
    result, _ = found(voting, trained, sr.SPSA(steps=5, samples=16), [0.1])
    assert result.doubt("spsa") == "not to be believed" and "round or vote" in result.flags[-1].remedy


def test_spsa_that_does_not_reach_far_enough_is_doubtful(ready):
    result, said = found(ready[0], ready, sr.SPSA(steps=2, samples=4), [0.15])
    assert result.doubt("spsa") == "doubtful" and "Its steps reach 0.02 only" in said[0]
    result, said = found(ready[0], ready, sr.SPSA(steps=10, samples=16), [0.01])
    assert result.doubt("spsa") is None and [flag.severity for flag in result.flags] == ["note"]


def test_steps_that_are_too_short_are_told_from_gradients_that_lead_nowhere(ready):
    result, said = found(ready[0], ready, sr.PGD(steps=2, relative_step=0.01))
    assert result.doubt("pgd") == "not to be believed"
    assert said[0].endswith("Its steps, 0.01 of epsilon, are too short: leave relative_step out")


@pytest.mark.parametrize("search", ["bisect", "full"])
def test_an_image_without_gradient_counts_once(trained, search):
    network, images, labels = trained
    images = images.copy()
    images[:, 0, 0, 0] = 0
    images[:8, 0, 0, 0] = 0.9
    inputs = keras.Input((8, 8, 1))
    sure = keras.layers.Lambda(lambda pair: pair[1] * tf.where(pair[0][:, 0, 0] > 0.45, 1e5, 1.0))
    model = keras.Model(inputs, sure([inputs, network(inputs)]))
    result, _ = found(model, (model, images, labels), "bim", search=search)
    alive = result.clean[:8].sum()
    assert result.costs["bim"].zero_gradients == alive / result.clean.sum()


@pytest.mark.parametrize(
    "attack",
    [
        sr.PGD(steps=100, relative_step=2.5 / 100),
        sr.BIM(steps=100, relative_step=0.01),
        sr.CWL2(learning_rate=4e-3, steps=150, constants=3),
    ],
    ids=["pgd", "bim", "cw"],
)
def test_many_small_steps_are_no_weakness(ready, attack):
    few = (ready[0], ready[1][:30], ready[2][:30])
    assert not found(ready[0], few, attack, [1e-4])[0].flags


@pytest.mark.parametrize(
    "attack", [sr.BIM(steps=100, relative_step=1.0), sr.PGD(steps=20, restarts=5, relative_step=1.0)]
)
def test_noise_that_is_looked_at_as_often_as_an_attack_looks_is_as_good(trained, nowhere, attack):
    result, _ = found(nowhere, trained, attack, [0.35])
    assert [flag.id for flag in result.flags] == ["no better than noise"]


@pytest.mark.parametrize("attacks", [["pgd"], ["fgsm", "pgd"]])
def test_what_another_attack_met_when_a_search_begins_is_not_an_attacks_own(trained, attacks):
    images = np.round(trained[1] * 50) / 50

    def flat_there(x):
        near = tf.reduce_max(tf.abs(x - tf.round(x * 50) / 50), axis=(1, 2, 3), keepdims=True) < 1e-6
        return tf.where(near, tf.stop_gradient(x), x)

    model = around(trained[0], flat_there, "flat at the images")
    result, _ = found(model, (None, images, model.predict(images)), attacks)
    assert result.costs["pgd"].zero_gradients == 0


def test_what_is_looked_at_afterwards_takes_batches_of_the_size_asked(trained, monkeypatch):
    sizes = []
    predict, gradients = sr.Classifier.predict_logits, sr.PGD.gradients

    def predicting(self, images, batch_size=256):
        sizes.append(min(batch_size, len(images)))
        return predict(self, images, batch_size)

    def differentiating(self, classifier, images, *arguments):
        sizes.append(len(images))
        return gradients(self, classifier, images, *arguments)

    monkeypatch.setattr(sr.Classifier, "predict_logits", predicting)
    monkeypatch.setattr(sr.PGD, "gradients", differentiating)
    result, _ = found(around(trained[0], rounded, "rounded"), trained, ["pgd", "bim-targeted"], [0.1], batch_size=10)
    assert result.flags and max(sizes) == 10
