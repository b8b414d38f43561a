"""What is kept of a model beside it, compiled or in bfloat16, still is that model, or it is said."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_images

import salrob_tf as sr
from salrob_tf.models import classifier as classifier_module
from salrob_tf.models.compiled import Compiled
from salrob_tf.models.copies import differ

pytestmark = pytest.mark.usefixtures("unprobed")

EPSILONS = [0.1, 0.15]


def cloned(network):
    copy = keras.models.clone_model(network)
    copy.set_weights(network.get_weights())
    return copy


def test_the_layers_of_models_inside_models_are_copied_too(trained):
    inner = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Rescaling(1.0), trained[0]])
    model = keras.Sequential([keras.Input((8, 8, 1)), inner])
    classifier = sr.Classifier(model)
    crafted, exact = classifier.crafting("bfloat16")(trained[1]), classifier.logits(trained[1])
    assert 0 < np.abs(crafted - exact).max() < 0.05 * np.abs(exact).max()


def test_a_normalisation_that_adapted_is_the_same_in_a_copy(trained):
    network, images, _ = trained
    normalise = keras.layers.Normalization(axis=None)
    normalise.adapt(images)
    classifier = sr.Classifier(keras.Sequential([keras.Input((8, 8, 1)), normalise, network]))
    for shift in (0.0, 0.3):
        normalise.adapt(images + shift)
        classifier.refresh()
        exact = classifier.logits(images).numpy()
        np.testing.assert_allclose(classifier.crafting("bfloat16")(images), exact, atol=0.05 * np.abs(exact).max())


class Projected(keras.layers.Layer):
    """Keeps numbers that neither its configuration nor its weights hold."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.mixing = np.random.default_rng().normal(0, 0.125, (64, 64)).astype(np.float32)

    def call(self, inputs):
        return inputs @ tf.cast(self.mixing, inputs.dtype)


class Nested(keras.Model):
    """A model of its own kind, whose layers nothing copies."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(3)

    def call(self, inputs):
        return self.dense(keras.ops.reshape(inputs, (-1, 64)))


@pytest.mark.parametrize("attacked", [lambda model, x, y: sr.evaluate(model, x, y, "bim", 0.1, craft_dtype="bfloat16")])
def test_what_cannot_be_copied_is_refused(trained, attacked):
    constants = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), Projected(), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="cannot be attacked in bfloat16: a copy of it gives other logits, because"):
        attacked(constants, *trained[1:])
    nested = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Rescaling(1.0), Nested()])
    with pytest.raises(ValueError, match="Only a Functional or Sequential .* Received: sequential.*nested in float32"):
        attacked(nested, *trained[1:])


def test_an_attack_by_itself_follows_a_model_that_changes(trained):
    model, attack = cloned(trained[0]), sr.PGD(steps=4)
    kept = sr.Classifier(model)
    before = attack(kept, *trained[1:], 0.1)
    model.layers[0].activation = keras.activations.tanh
    after, fresh = attack(kept, *trained[1:], 0.1), attack(sr.Classifier(model), *trained[1:], 0.1)
    np.testing.assert_array_equal(after, fresh)
    assert not np.array_equal(after, before)


def test_networks_that_draw_random_numbers_are_followed_too(trained):
    scale = {"factor": 1.0}
    noisy = lambda x: trained[0](scale["factor"] * x + tf.random.normal(tf.shape(x), 0.0, 0.05))  # noqa: E731
    kept = sr.Classifier(noisy, "noisy", input_shape=(8, 8, 1))
    assert sr.evaluate(kept, *trained[1:], "fgsm", 0.1).clean_accuracy > 0.9
    scale["factor"] = -1.0
    assert sr.evaluate(kept, *trained[1:], "fgsm", 0.1).clean_accuracy < 0.6


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_nothing_is_compiled_anew_without_need(dtype, monkeypatch):
    compiled = []
    monkeypatch.setattr(classifier_module, "Compiled", lambda *given: compiled.append(given) or Compiled(*given))
    keras.utils.set_random_seed(0)
    network = sr.cnn((8, 8, 1), 3, dtype=dtype)
    model = sr.SaliencyGuided(network, saliency=False)
    model.compile(keras.optimizers.Adam(0.003))
    images, labels = make_images(24)  # of which no probe is run
    kept = sr.Classifier(network)
    for _ in range(3):
        model.fit(images, labels, epochs=2, verbose=0)
        sr.evaluate(kept, images, labels, "fgsm", EPSILONS, batch_size=4)
    assert kept.traces((sr.FGSM(), "float32")) == 1 and len(compiled) == 2, "prediction and the attack"


def test_means_of_many_random_columns_differ_only_where_they_do():
    rng = np.random.default_rng(0)
    draw = lambda shift=0.0: rng.normal(shift, 0.1, (8, 1000)).astype(np.float32)  # noqa: E731
    assert not any(differ(draw, draw, 1e-3) for _ in range(60))
    assert differ(draw, lambda: draw(0.5), 1e-3)
    fixed = rng.normal(size=(8, 10))
    assert not differ(lambda: fixed, lambda: fixed * (1 + 1e-4), 1e-3) and differ(
        lambda: fixed, lambda: 1.1 * fixed, 1e-3
    )


def test_identity_is_of_layers_operations_and_connections(trained, tmp_path):
    network = trained[0]
    inputs = keras.Input((8, 8, 1))
    half = keras.models.clone_model(network, clone_function=lambda layer: type(layer).from_config(
        {**layer.get_config(), "dtype": "mixed_float16"}))  # fmt: skip
    half.set_weights(network.get_weights())
    first, second = keras.layers.Rescaling(2.0), keras.layers.Rescaling(0.5, offset=0.1)
    models = [
        network,
        half,
        keras.Model(inputs, network(inputs) * 1e-3),
        keras.Model(inputs, network(inputs) * 2.0),
        keras.Model(inputs, network((inputs - 0.5) / 0.25)),
        keras.Model(inputs, network(first(second(inputs)))),
        keras.Model(inputs, network(second(first(inputs)))),
    ]
    assert len({sr.Classifier(model).fingerprint for model in models}) == len(models)
    again = keras.models.clone_model(network)  # whose layers may be named otherwise
    again.set_weights(network.get_weights())
    models[2].save(tmp_path / "scaled.keras")
    assert sr.Classifier(again).fingerprint == sr.Classifier(network).fingerprint
    assert sr.Classifier(tmp_path / "scaled.keras").fingerprint == sr.Classifier(models[2]).fingerprint
