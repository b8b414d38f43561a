"""What leans on internals of other libraries: with each of them gone, results stay what they are, or are refused."""

import builtins
import sys
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_images, make_network
from tensorflow.python import framework
from tensorflow.python.framework import config
from tensorflow.python.util import deprecation

import salrob_tf as sr
from salrob_tf import _compat
from salrob_tf.training.passes import can_be_given_weights

IMAGES, LABELS = make_images(20)


@pytest.fixture
def gone(monkeypatch):
    """Hides names from `_compat` alone: Keras itself would not run without them."""

    def hide(*names):
        def hidden_hasattr(thing, name):
            return name not in names and builtins.hasattr(thing, name)

        def hidden_getattr(thing, name, *default):
            return builtins.getattr(thing, "" if name in names else name, *default)

        monkeypatch.setattr(_compat, "hasattr", hidden_hasattr, raising=False)
        monkeypatch.setattr(_compat, "getattr", hidden_getattr, raising=False)

    return hide


class Holder(keras.layers.Layer):
    """Holds layers, and what draws random numbers, in whatever way Python has."""

    def __init__(self):
        super().__init__()
        self.rows = [keras.layers.Dense(2), (keras.layers.ReLU(), {"noise": keras.layers.GaussianNoise(0.1)})]
        self.seeds = {"own": keras.random.SeedGenerator(1), "more": [keras.random.SeedGenerator(2, name="named")]}
        self.apart = keras.layers.TimeDistributed(keras.layers.Dense(3, dtype="float16"))

    def call(self, inputs):
        return inputs


def network_of(*layers):
    return keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Flatten(), keras.layers.Dense(3)])


def several():
    return network_of(keras.layers.Dropout(0.5), make_network(dropout=0.2), keras.layers.Reshape((3, 1, 1)), Holder())


def test_layers_are_found_without_the_walk_of_keras(gone):
    model = several()
    keras_own = _compat.layers_of(model)
    assert len({layer.name for layer in keras_own}) == len(keras_own) > 12
    gone("_flatten_layers")
    found = _compat.layers_of(model)
    assert found[0] is model and len({map(id, found)} | {id(layer) for layer in found}) == len(found) + 1
    assert {id(layer) for layer in keras_own} <= {id(layer) for layer in found}


def test_random_states_are_found_whatever_keras_calls_them():
    model = several()
    named = [variable for variable in model.variables if variable.path.endswith("seed_generator_state")]
    assert [id(state) for state in _compat.random_states(model)] == [id(state) for state in named] and len(named) == 5
    first, second = keras.random.SeedGenerator(0), keras.random.SeedGenerator(1)
    no_layer = SimpleNamespace(variables=[first.state, second.state], held={"a": first, "b": [(second,)]})
    assert len(_compat.random_states(no_layer)) == 2
    assert _compat.random_states(None) == _compat.random_states(len) == []


def fitted():
    """A guided model after three steps, its losses, and its weights."""
    model = sr.SaliencyGuided(make_network(dropout=0.3), seed=0)
    model.compile(keras.optimizers.SGD(0.1))
    batches = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS, np.ones(20, np.float32))).batch(8)
    history = model.fit(batches, validation_data=(IMAGES, LABELS), verbose=0).history
    return model, history, model.get_weights()


@pytest.fixture(scope="module")
def as_ever():
    return fitted()


def check_alike(found, expected):
    assert found[1] == {key: pytest.approx(value, abs=1e-5) for key, value in expected[1].items()}
    for ours, theirs in zip(found[2], expected[2], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["_flatten_layers", "_remat_mode", "quantization_mode"])
def test_no_short_cut_is_taken_where_nothing_is_known(gone, name):
    assert can_be_given_weights(make_network(dropout=0.3))
    gone(name)
    assert not can_be_given_weights(make_network(dropout=0.3))


def test_training_is_the_same_without_short_cuts_and_the_loss_tracker(as_ever, gone):
    gone("_flatten_layers", "_remat_mode", "_loss_tracker")
    found = fitted()
    assert as_ever[0].reads_once and not found[0].reads_once
    check_alike(found, as_ever)


def test_float16_is_found_without_the_walk_of_keras(gone):
    gone("_flatten_layers")
    model = sr.SaliencyGuided(network_of(make_network(), keras.layers.Reshape((3, 1, 1)), Holder()), saliency=False)
    model.compile("sgd")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)


def test_what_is_not_of_keras_is_given_no_weights():
    class Dense(keras.layers.Dense):
        pass

    assert can_be_given_weights(network_of(make_network(), keras.layers.Reshape((3, 1, 1))))
    assert can_be_given_weights(network_of(keras.layers.Activation(keras.ops.relu)))
    assert not can_be_given_weights(network_of(keras.layers.Activation(tf.nn.relu)))
    assert not can_be_given_weights(network_of(Dense(2)))
    with keras.RematScope(mode="full"):
        assert not can_be_given_weights(network_of(keras.layers.Dense(2)))


@pytest.fixture
def nothing_around_steps(monkeypatch):
    monkeypatch.delattr(_compat.AroundSteps, "_autoconvert_optionals")


@pytest.mark.parametrize("options", [{}, {"jit_compile": True}, {"run_eagerly": True}])
def test_labels_are_looked_at_inside_of_steps_where_nothing_goes_around(nothing_around_steps, options):
    """As `test_wrong_labels_end_a_step_before_it_touches_the_weights`, with the internal."""
    model = sr.SaliencyGuided(make_network())
    model.compile("sgd", **options)
    before = model.get_weights()
    for run in (model.fit, model.evaluate):
        wrong = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS + (np.arange(20) == 3) * (7 - LABELS))).batch(8)
        with pytest.raises(ValueError, match=r"^`y` must be .*Received: .*7$"):
            run(wrong, verbose=0)
    for found, wanted in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert not model.jit_compile


def test_images_are_looked_at_inside_of_steps_where_nothing_goes_around(nothing_around_steps):
    model = sr.CONTROLS["adversarial"](make_network(), 0.1)
    model.compile("sgd")
    with pytest.raises(ValueError, match=r"takes images in \[0, 1\]"):
        model.fit(2 * IMAGES - 1, LABELS, verbose=0)


def test_steps_that_nothing_goes_around_train_alike(as_ever, nothing_around_steps, monkeypatch):
    monkeypatch.setattr("salrob_tf.training.fitting.is_asked_by_fit", lambda options: False)
    check_alike(fitted(), as_ever)


def test_a_copy_normalises_without_finalize_state(trained, gone):
    network, images, _ = trained
    normalise = keras.layers.Normalization(axis=None)
    normalise.adapt(images)
    classifier = sr.Classifier(keras.Sequential([keras.Input((8, 8, 1)), normalise, network]))
    gone("finalize_state")
    for shift in (0.0, 0.3):
        normalise.adapt(images + shift)
        classifier.refresh()
        exact = classifier.logits(images).numpy()
        np.testing.assert_allclose(classifier.crafting("bfloat16")(images), exact, atol=0.05 * np.abs(exact).max())


def test_a_softmax_that_cannot_be_left_out_stays(trained, monkeypatch):
    network, images, _ = trained
    model = keras.Sequential([network, keras.layers.Softmax()])
    assert sr.Classifier(model).outputs == "softmax removed"

    @contextmanager
    def without_effect(operation, step):
        yield

    monkeypatch.setattr("salrob_tf.models.logits.left_out", without_effect)
    assert sr.Classifier(model).outputs == "softmax removed", "it is the last operation too"
    monkeypatch.delattr(framework, "op_callbacks")
    monkeypatch.setitem(sys.modules, "tensorflow.python.framework.op_callbacks", None)
    classifier = sr.Classifier(model)
    assert classifier.outputs == "log-probabilities"
    np.testing.assert_allclose(tf.nn.softmax(classifier.logits(images)), model(images), atol=1e-5)


def test_gradients_of_biases_are_left_to_tensorflow_where_it_may_have_to_be_deterministic(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [])
    with tf.Graph().as_default():
        assert not isinstance(_compat.apart_from_kernels(), nullcontext)
        monkeypatch.delattr(config, "is_op_determinism_enabled")
        assert isinstance(_compat.apart_from_kernels(), nullcontext)


def test_a_saved_model_that_hides_its_traces_is_refused_in_one_line(tmp_path, gone):
    module = tf.Module()
    module.__call__ = tf.function(lambda images: tf.reduce_mean(images, (2, 3))[:, :3])
    module.__call__.get_concrete_function(tf.TensorSpec([None, 8, 8, 1]))
    tf.saved_model.save(module, str(tmp_path), signatures={})
    assert sr.Classifier(tmp_path).num_classes == 3
    gone("concrete_functions")
    with pytest.raises(ValueError, match=r"^A SavedModel must have a serving_default signature, or be callable\."):
        sr.Classifier(tmp_path)


def test_spsa_needs_neither_keras_adam_nor_silence(trained, monkeypatch):
    model, images, labels = trained
    attack = sr.SPSA(steps=3, samples=8, learning_rate=0.05)
    expected = attack(model, images[:2], labels[:2], 0.1)
    assert np.any(expected != images[:2]) and not issubclass(_compat.SeededSPSAAdam, keras.optimizers.Optimizer)
    monkeypatch.delattr(deprecation, "silence")
    np.testing.assert_array_equal(attack(model, images[:2], labels[:2], 0.1), expected)


def test_adam_starts_anew_once_its_variables_are_set_to_zero():
    """As CleverHans does it between its searches; the attack itself is tested in `test_sweep.py`."""
    adam, place = _compat.ResettableAdam(0.1), tf.Variable([1.0])
    for expected in (0.9, 0.8):  # the first step of Adam is as long as its learning rate
        adam.apply_gradients([(tf.constant([2.0]), place)])
        np.testing.assert_allclose(place, [expected], atol=1e-5)
        for variable in adam.variables():
            variable.assign(tf.zeros_like(variable))
    assert float(adam.learning_rate) == pytest.approx(0.1)


def test_another_stem_than_kerashubs_is_refused():
    with pytest.raises(ValueError, match=r"^The small stem is made .* Received: Flatten, Dropout, Dense$"):
        _compat.stem_of_resnet(make_network())
