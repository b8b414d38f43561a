"""Guided steps with what `fit` may bring, against a hand-written step; and what review found untested."""

from functools import cache

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_images, make_network
from test_fit_options import dataset

import salrob_tf as sr
from salrob_tf.results.families import holm

CONSTANT = sr.Recipe(fill="constant", fill_value=0.5)


def hand_written(model, images, labels, weights=None, layer_seeds=None):
    """Cross-entropy plus KL on a fill of 0.5, both passes in training mode, and the gradients of their sum."""
    x, y = tf.constant(images), tf.constant(labels)
    weights = np.ones(len(images), np.float32) if weights is None else weights
    with tf.GradientTape() as tape:
        tape.watch(x)
        logit = tf.gather(model(x, training=False), y, axis=1, batch_dims=1)
    score = np.abs(tape.gradient(logit, x).numpy().mean(-1)).reshape(len(images), -1)
    masked = images.copy().reshape(len(images), -1, images.shape[-1])
    for row, order in enumerate(np.argsort(score, axis=1, kind="stable")):
        masked[row, order[: score.shape[1] // 2]] = 0.5
    with tf.GradientTape() as tape:
        clean = tf.nn.log_softmax(tf.cast(model(x, training=True), tf.float32))
        other = tf.nn.log_softmax(tf.cast(model(masked.reshape(images.shape), training=True), tf.float32))
        cross_entropy = tf.reduce_mean(-tf.gather(clean, y, axis=1, batch_dims=1) * weights)
        kl = tf.reduce_mean(tf.reduce_sum(tf.exp(clean) * (clean - other), axis=1) * weights)
        loss = cross_entropy + kl
    return float(cross_entropy), float(kl), [g.numpy() for g in tape.gradient(loss, model.trainable_weights)]


def one_step(network, images, targets, loss=None, optimizer=None, **options):
    model = sr.SaliencyGuided(network, recipe=CONSTANT)
    before = network.get_weights()
    model.compile(optimizer or keras.optimizers.SGD(1.0), loss)
    history = model.fit(images, targets, batch_size=len(images), verbose=0, shuffle=False, **options).history
    return history, [old - new for old, new in zip(before, network.get_weights(), strict=True)]


@cache
def two_replicas():
    """One for all tests: TensorFlow mixes up the collectives of two strategies in one process."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def close(found, expected, tolerance=1e-5):
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


def test_the_loss_is_scaled_for_the_optimizer():
    images, labels = make_images(8)
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0), initial_scale=64.0)
    _, step = one_step(make_network(), images, labels, optimizer=optimizer)
    close(step, hand_written(make_network(), images, labels)[2])


@pytest.mark.parametrize("loss", ["sum_over_batch_size", "sum"])
def test_two_replicas_equal_one_device(loss):
    images, labels = make_images(7)
    weights = np.linspace(0.5, 1.5, 7).astype(np.float32)

    def make():
        keras.utils.set_random_seed(0)
        dense = keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1))
        layers = [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Flatten()]
        network = keras.Sequential([keras.Input((8, 8, 1)), *layers, dense])
        model = sr.SaliencyGuided(network, recipe=CONSTANT, kl_weight=lambda epoch: 0.5)
        reduced = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=loss)
        model.compile(keras.optimizers.SGD(0.05), reduced, metrics=["accuracy"])
        return model

    alone = make()
    with two_replicas().scope():
        shared = make()
    mean = loss == "sum_over_batch_size"
    options = {"batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0}
    if mean:
        options["validation_data"] = images[:7], labels[:7]
    # An even end, an uneven one, and one for one replica alone; of a sum, how many images it is of makes no difference.
    for samples in (6, 7, 5) if mean else (5,):
        expected, found = (
            model.fit(images[:samples], labels[:samples], sample_weight=weights[:samples], **options).history
            for model in (alone, shared)
        )
        close(shared.model.get_weights(), alone.model.get_weights())
        # Of sums, metrics are means of what each replica calls its loss.
        for key, values in expected.items() if mean else [("accuracy", expected["accuracy"])]:
            assert found[key] == pytest.approx(values, abs=1e-5), (key, samples)


def test_wrong_labels_of_a_replica_are_found():
    images, labels = make_images(8)
    good, bad = (dataset(images, labels + wrong * (np.arange(8) == 7), batch=4) for wrong in (0, 5))
    for eager in (True, False):
        with two_replicas().scope():
            model = sr.SaliencyGuided(make_network(), saliency=False)
            model.compile("sgd", run_eagerly=eager)
        assert np.isfinite(model.fit(good, verbose=0).history["loss"]).all()
    with pytest.raises(ValueError, match=r"^`y` must be whole numbers from 0 to 2. Received: [5-7]$"):
        model.fit(bad, verbose=0)


@pytest.mark.parametrize("moving_statistics", ["clean", "both"])
def test_a_replica_without_images_leaves_moving_statistics_finite(moving_statistics):
    images, labels = make_images(5)
    with two_replicas().scope():
        layers = [keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization(), keras.layers.Flatten()]
        network = keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Dense(3)])
        model = sr.SaliencyGuided(network, recipe=sr.Recipe(moving_statistics=moving_statistics, dropout="shared"))
        model.compile(keras.optimizers.SGD(0.05))
    model.fit(images, labels, batch_size=4, shuffle=False, verbose=0)
    assert all(np.isfinite(weights).all() for weights in network.get_weights())
    assert not np.allclose(network.layers[1].moving_mean.numpy(), 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": np.full((4, 8, 8, 1), np.nan, np.float32)}, "NaN or infinity in 100.0% of the images"),
        ({"x": np.zeros((4, 8, 8, 1), bool)}, "must be numbers, one image or more. Received: dtype=bool"),
        ({"x": np.zeros((0, 8, 8, 1), np.float32), "y": np.zeros(0, int)}, "one image or more"),
        ({"y": np.array([0, 1, 2, 3])}, "`y` must be 0 to 2. Received: labels from 0 to 3"),
        ({"y": np.array([0, 1])}, "4 in all"),
    ],
)
def test_fit_names_bad_arrays_before_the_first_step(changes, message):
    images, labels = make_images(4)
    model = sr.SaliencyGuided(make_network())
    model.compile("sgd")
    with pytest.raises(ValueError, match=message):
        model.fit(**({"x": images, "y": labels, "verbose": 0} | changes))
    assert int(model.optimizer.iterations) == 0


def test_weights_of_a_regular_wrapper_load_into_a_guided_one(tmp_path):
    regular, guided = (sr.SaliencyGuided(make_network(dropout=0.5, seed=seed), seed > 0) for seed in (0, 1))
    regular.save_weights(tmp_path / "regular.weights.h5")
    guided.load_weights(tmp_path / "regular.weights.h5")
    close(guided.model.get_weights(), regular.model.get_weights(), 0)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_softmax_in_half_precision_is_recognised(policy):
    softmax = keras.layers.Dense(10, activation="softmax", dtype=policy)
    with pytest.raises(ValueError, match="ends in softmax"):
        sr.SaliencyGuided(keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), softmax]))


def test_holm_finds_what_bonferroni_misses_and_stops_at_the_first_miss():
    assert (holm([0.01, 0.02, 0.03, 0.005]) <= 0.05).tolist() == [True, True, True, True]
    assert (holm([0.012, 0.5, 0.001, 0.04]) <= 0.05).tolist() == [True, False, True, False]
    assert (holm([0.03, 0.04, 0.001]) <= 0.05).tolist() == [False, False, True]


def test_paired_interval_is_agresti_and_mins():
    """30 gained, 10 lost of 100: with half an observation in each cell, (20 / 102) +- 1.96 x 0.0590."""
    from test_statistics import pair

    low, high = sr.compare(*pair(30, 10, both=60)).differences[0].interval
    centre, spread = 20 / 102, np.sqrt(41 - 20**2 / 102) / 102
    assert (low, high) == pytest.approx((centre - 1.959964 * spread, centre + 1.959964 * spread), abs=1e-6)
