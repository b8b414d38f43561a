"""Other ways of training: each step against the same written out by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_images, make_network, write_arrays
from test_scripts import run

import salrob_tf as sr
from salrob_tf.studies.runs import Run

EPSILONS = [0.1, 0.15, 0.2, 0.25]
STRENGTHS = {
    "adversarial": 0.1,
    "gradient_penalty": 0.5,
    "gradient_alignment": 0.5,
    "label_smoothing": 0.2,
    "masked": 1e4,
}


def make_control(name, **settings):
    model = sr.CONTROLS[name](make_network(), strength=STRENGTHS[name], seed=3, **settings)
    model.compile(keras.optimizers.SGD(1.0), metrics=["accuracy"])
    return model


def probabilities(network, image, scale=1.0):
    return tf.nn.softmax(network(image[None], training=False)[0] / scale)


def slow_adversarial(network, images, labels, epsilon, steps, seed):
    """PGD image by image."""
    starts = keras.random.uniform(images.shape, -epsilon, epsilon, seed=keras.random.SeedGenerator(seed)).numpy()
    found = []
    for image, label, start in zip(images, labels, starts, strict=True):
        moved = np.clip(image + start, 0, 1)
        for _ in range(steps):
            x = tf.constant(moved[None])
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = -tf.nn.log_softmax(network(x, training=False))[0, label]
            moved = moved + np.float32(2.5 * epsilon / steps) * np.sign(tape.gradient(loss, x)[0].numpy())
            moved = np.clip(np.clip(moved, image - np.float32(epsilon), image + np.float32(epsilon)), 0, 1)
        found.append(moved)
    return np.stack(found)


def slow_loss(name, network, images, labels):
    """The objective, image by image."""
    strength, terms = STRENGTHS[name], []
    if name == "adversarial":
        images = slow_adversarial(network, images, labels, strength, 10, 3)
    for image, label in zip(images, labels, strict=True):
        x = tf.constant(image)
        target = tf.one_hot(label, 3)
        if name == "label_smoothing":
            target = target * (1 - strength) + strength / 3
        with tf.GradientTape() as tape:
            tape.watch(x)
            likely = probabilities(network, x, strength if name == "masked" else 1)
            cross_entropy = -tf.reduce_sum(target * tf.math.log(likely))
        gradient = tape.gradient(cross_entropy, x)
        if name == "gradient_penalty":
            cross_entropy += strength * tf.norm(gradient) ** 2
        if name == "gradient_alignment":
            cosine = tf.reduce_sum(gradient * x) / tf.norm(gradient) / tf.norm(x)
            cross_entropy += strength * (1 - cosine)
        terms.append(cross_entropy)
    return tf.add_n(terms) / len(terms)


@pytest.mark.parametrize("name", sr.CONTROLS)
def test_a_step_equals_the_slow_version(name):
    images, labels = make_images(3)
    model = make_control(name)
    before = model.model.get_weights()
    with tf.GradientTape() as tape:
        loss = slow_loss(name, model.model, images, labels)
    gradients = tape.gradient(loss, model.model.trainable_weights)
    logs = model.fit(images, labels, batch_size=3, shuffle=False, verbose=0).history
    assert logs["loss"][0] == pytest.approx(float(loss), abs=1e-5)
    for old, new, gradient in zip(before, model.model.get_weights(), gradients, strict=True):
        np.testing.assert_allclose(old - new, gradient, rtol=0, atol=1e-5)


def test_adversarial_examples_stay_in_ball_and_range():
    images, labels = make_images(8)
    moved = make_control("adversarial").attacked(tf.constant(images), labels).numpy()
    assert np.abs(moved - images).max() <= 0.1 + 1e-6 and moved.min() >= 0 and moved.max() <= 1


def test_adversarial_training_is_a_positive_control():
    found = {}
    for name, steps in {"regular": None, "adversarial": 5}.items():
        network = make_network()
        model = sr.SaliencyGuided(network, saliency=False)
        if steps:
            model = sr.CONTROLS["adversarial"](network, 0.15, seed=0, steps=steps)
        model.compile(keras.optimizers.Adam(0.01))
        model.fit(*make_images(256), epochs=8, verbose=0)
        found[name] = sr.evaluate(network, *make_images(64, seed=1), "pgd", [0.15], steps=10).correct["pgd"].mean()
    assert found["adversarial"] > found["regular"] + 0.1, found


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.inside = make_network()

    def call(self, x, training=None):
        return self.inside(x, training=training)


def exported_and_attacked(model, folder):
    """The logits of what a trained model exports, and what its attacks find."""
    images, labels = make_images(512, seed=1)  # of fewer, checks look at too few
    model.compile(keras.optimizers.Adam(0.01))
    model.fit(*make_images(256), epochs=6, verbose=0)
    model.export(folder, verbose=False)
    saved = tf.saved_model.load(folder)
    found = sr.evaluate(model, images, labels, ["fgsm", "bim", "pgd", "mim"], EPSILONS, steps=10)
    return saved.serve(images).numpy(), found


@pytest.fixture(scope="module")
def regular(tmp_path_factory):
    """Of the network itself: subclassed, it has the same weights, and test_forms.py attacks it to the same matrix."""
    return exported_and_attacked(sr.SaliencyGuided(make_network(), saliency=False), tmp_path_factory.mktemp("regular"))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("subclassed", [False, True])
def test_a_masked_network_is_a_negative_control_that_checks_see(subclassed, regular, tmp_path):
    network = make_network()
    if subclassed:
        network = Subclassed()
        network(np.zeros((1, 8, 8, 1), np.float32))
    model = sr.CONTROLS["masked"](network, 1e4)
    logits, found = exported_and_attacked(model, tmp_path / "masked")
    np.testing.assert_allclose(logits, 1e4 * regular[0], rtol=1e-2, atol=100)
    with pytest.raises(ValueError, match="multiplied already, by 10000. Received: strength=10"):
        sr.CONTROLS["masked"](model.model, 10.0)
    assert len({flag.id for flag in found.flags}) >= 2 and not regular[1].flags, (found, regular[1])
    assert {found.trust(label) for label in found.curves} <= {"doubtful", "not to be believed"}


@pytest.mark.parametrize("name", sr.CONTROLS)
def test_a_saved_model_goes_on_to_the_same_weights(name, tmp_path):
    images, labels = make_images(12)
    model = make_control(name)
    model.fit(images, labels, verbose=0, shuffle=False)
    model.save(tmp_path / "half.keras")
    again = keras.saving.load_model(tmp_path / "half.keras")
    assert type(again) is sr.CONTROLS[name] and again.strength == STRENGTHS[name]
    np.testing.assert_array_equal(model(images), again(images))
    for each in (model, again):
        each.fit(images, labels, verbose=0, shuffle=False)
    for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_script_trains_one_and_another_attacks_it(tmp_path):
    data, out = write_arrays(tmp_path / "rows.npz"), tmp_path / "run"
    control = ["--control", "gradient_penalty", "--strength", 0.1]
    run("train.py", "--data", data, *control, "--epochs", 2, "--batch-size", 48, "--out", out)
    run("train.py", "--data", data, *control, "--epochs", 2, "--batch-size", 48, "--out", out, "--resume")
    attack = ["--attacks", "fgsm", "--epsilons", 0.1, "--samples", 10]
    run("evaluate.py", out, "--data", data, *attack, "--out", tmp_path / "results")
    assert len(sr.load_results(tmp_path / "results")) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"control": "madry", "strength": 1.0}, "Unknown control. Valid: adversarial, .*Received: control=madry"),
        ({"control": "adversarial"}, "A control has a strength"),
        ({"strength": 1.0}, "A control has a strength"),
        ({"control": "adversarial", "strength": 1.0, "saliency": True}, "no saliency guidance"),
        ({"control": "adversarial", "strength": -1}, "`strength` must be"),
        ({"control": "label_smoothing", "strength": 1.2}, "`strength` must be .* below 1"),
        ({"mask_fraction": 1.5}, "`mask_fraction` must be"),
        ({"kl_weight": -1}, "`kl_weight` must be"),
        ({"saliency": "no"}, "`saliency` must be"),
        ({"augment": 1}, "`augment` must be"),
    ],
)
def test_runs_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Run(**settings)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("adversarial", {"strength": 0}),
        ("adversarial", {"strength": 0.1, "steps": 0}),
        ("label_smoothing", {"strength": 1}),
        ("gradient_penalty", {"strength": float("nan")}),
        ("gradient_alignment", {"strength": "much"}),
    ],
)
def test_strengths_out_of_range_are_refused(name, settings):
    with pytest.raises(ValueError, match="`st.*Received: st"):
        sr.CONTROLS[name](make_network(), **settings)


@pytest.mark.parametrize("options", [{}, {"jit_compile": True}, {"run_eagerly": True}])
def test_images_outside_the_range_are_refused_by_adversarial_training(options):
    images, labels = make_images(8)
    model = make_control("adversarial")
    model.compile("sgd", **options)
    for given in (255 * images, 2 * images - 1):
        with pytest.raises(ValueError, match=r"takes images in \[0, 1\]. Received: values as far as"):
            model.fit(given, labels, verbose=0)
    model.fit(images, labels, verbose=0)


def test_weights_count_in_penalties_and_half_precision_keeps_them():
    images, labels = make_images(6)
    weights = np.arange(6, dtype=np.float32)
    model = make_control("gradient_penalty")
    found = model.evaluate(images, labels, sample_weight=weights, batch_size=6, verbose=0, return_dict=True)
    penalties = []
    for image, label in zip(images, labels, strict=True):
        with tf.GradientTape() as tape:
            tape.watch(x := tf.constant(image))
            loss = -tf.math.log(probabilities(model.model, x)[label])
        penalties.append(float(tf.norm(tape.gradient(loss, x)) ** 2))
    assert found["loss"] - found["cross_entropy"] == pytest.approx(0.5 * np.mean(weights * penalties), rel=1e-4)
    keras.utils.set_random_seed(0)
    flat = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3, dtype="mixed_float16")]
    )
    flat.set_weights([1e-5 * np.random.default_rng(0).normal(size=(64, 3)), np.zeros(3)])
    half = sr.CONTROLS["gradient_penalty"](flat, 1e8)
    half.compile(keras.optimizers.SGD(0.0))
    found = half.evaluate(images, labels, verbose=0, return_dict=True)
    assert found["loss"] - found["cross_entropy"] == pytest.approx(1e8 * 64 * 1e-10 * 2 / 3, rel=0.5)


def test_controls_are_of_one_device():
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope(), pytest.raises(ValueError, match="on one device"):
        make_control("adversarial")
