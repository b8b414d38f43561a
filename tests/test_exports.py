"""Exported classifiers: plain TensorFlow gives what the live network gives in inference mode."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_images
from keras import layers

import salrob_tf as sr

pytestmark = pytest.mark.usefixtures("unprobed")

IMAGES = make_images(6)[0]


def random_layers():
    yield from (layers.RandomFlip(), layers.RandomRotation(0.2), layers.RandomZoom(0.2), layers.GaussianNoise(0.3))


def others():
    yield from (layers.Conv2D(4, 3), layers.BatchNormalization(), layers.Dropout(0.5), layers.Flatten())
    yield layers.Dense(3)


def functional(*parts, single=lambda images: images):
    images = x = keras.Input((8, 8, 1), name="images")
    for layer in parts:
        x = layer(x)
    return keras.Model(single(images), x)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.parts = [*random_layers(), *others()]
        self(IMAGES)

    def call(self, inputs):
        for layer in self.parts:
            inputs = layer(inputs)
        return inputs


def nested():
    parts = [keras.Sequential(list(random_layers())), keras.Sequential(list(others()))]
    return keras.Sequential([keras.Input((8, 8, 1)), *parts])


NETWORKS = {
    "Functional": lambda: functional(*random_layers(), *others()),
    "Functional of a list": lambda: functional(*random_layers(), *others(), single=lambda images: [images]),
    "Sequential": lambda: keras.Sequential([keras.Input((8, 8, 1)), *random_layers(), *others()]),
    "subclassed": Subclassed,
    "subclassed inside": lambda: keras.Sequential([keras.Input((8, 8, 1)), Subclassed()]),
    "nested": nested,
}


def output_and_gradient(function):
    x = tf.constant(IMAGES)
    with tf.GradientTape() as tape:
        tape.watch(x)
        logits = function(x)
    return logits.numpy(), tape.gradient(logits, x).numpy()


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_an_export_runs_every_network_in_inference_mode(name, policy, tmp_path):
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(policy)
    try:
        network = NETWORKS[name]()
    finally:
        keras.config.set_dtype_policy("float32")
    sr.SaliencyGuided(network, saliency=False).export(tmp_path, verbose=False)
    loaded = tf.saved_model.load(tmp_path)
    (argument,) = (serving := loaded.signatures["serving_default"]).structured_input_signature[1].values()
    assert argument.shape == [None, 8, 8, 1] and len(loaded.variables) == len(network.variables)
    assert argument.name == (network.inputs[0].name if hasattr(network, "inputs") else "args_0")
    ways = [loaded.serve, lambda x: serving(**{argument.name: x})["output_0"]]
    ways.append(keras.layers.TFSMLayer(tmp_path, call_endpoint="serve"))
    expected = output_and_gradient(lambda x: network(x, training=False))
    for way in ways:
        for found, wanted in zip(output_and_gradient(way), expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6 if policy == "float32" else 1e-2)


def test_options_of_keras_export_are_passed_on(tmp_path):
    model = sr.SaliencyGuided(NETWORKS["Functional"]())
    model.export(tmp_path / "four", "tf_saved_model", False, [tf.TensorSpec((4, 8, 8, 1), tf.float32)])
    serving = tf.saved_model.load(tmp_path / "four").signatures["serving_default"]
    assert [spec.shape for spec in serving.structured_input_signature[1].values()] == [[4, 8, 8, 1]]
    model.export(tmp_path / "lite.tflite", format="litert", verbose=False)
    assert (tmp_path / "lite.tflite").stat().st_size > 1000
    with pytest.raises(ValueError, match="format=nonsense"):
        model.export(tmp_path / "none", format="nonsense")


def test_an_export_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match=r"^This cannot be written \([^\n]*\). Received: [^\n]*file[^\n]*$"):
            sr.SaliencyGuided(NETWORKS["Functional"]()).export(path, verbose=False)
    for path in (None, 5, ""):
        with pytest.raises(ValueError, match=f"^`filepath` must be a path. Received: filepath={path!r}$"):
            sr.SaliencyGuided(NETWORKS["Functional"]()).export(path, verbose=False)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_global_dtype_policy_does_not_reach_a_float32_network():
    network = functional(*others())
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = sr.SaliencyGuided(network)
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_array_equal(model(IMAGES), network(IMAGES))
