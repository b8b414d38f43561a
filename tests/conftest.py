import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import pytest
import tensorflow as tf
from forks import Forks
from PIL import Image

import salrob_tf as sr
from salrob_tf.attacks import autoattack
from salrob_tf.evaluation.probes import Probes
from salrob_tf.processes import keep_memory

# Two devices, so that code for several is run; before TensorFlow starts.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

# Tracing makes very many objects, and taking apart those of graphs that are gone costs minutes; left alone they take a
# process of the whole suite, of two, to 5.5 GiB.
gc.disable()
keep_memory()

PROBE = Probes.run


def make_images(samples, shape=(8, 8, 1), classes=3, seed=0):
    """Images whose class is the row that is bright, with noise, in [0, 1]."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, samples).astype(np.int32)
    images = rng.uniform(0, 0.5, (samples, *shape)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 2] += np.float32(0.4)
    return images, labels


def make_network(shape=(8, 8, 1), classes=3, dropout=0.0, seed=0):
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Conv2D(6, 3, activation="relu"),
            layers.Flatten(),
            layers.Dropout(dropout),
            layers.Dense(classes),
        ],
        name="tiny",
    )


def shorten_autoattack(patch, steps=8, fab_steps=4, queries=20):
    """Give AutoAttack's members budgets that suit tests."""
    patch.setattr(autoattack, "APGD", lambda *given, **more: sr.APGD(*given, steps=steps, **more))
    patch.setattr(autoattack, "FAB", lambda *given, **more: sr.FAB(*given, steps=fab_steps, **more))
    patch.setattr(autoattack, "Square", lambda *given, **more: sr.Square(*given, steps=queries, **more))


def winners(values):
    """The 8 largest of each row; the others become 0 (Xiao et al. 2020)."""
    return tf.where(values >= tf.math.top_k(values, 8).values[:, -1:], values, 0.0)


@pytest.fixture(scope="session")
def winners_network():
    """A trained network whose k-winners-take-all activations lead gradients of the cross-entropy astray."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    wide = [layer for _ in range(2) for layer in (layers.Dense(512), layers.Lambda(winners))]
    network = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), *wide, layers.Dense(3)])
    model = sr.SaliencyGuided(network, saliency=False)
    model.compile(keras.optimizers.Adam(0.01))
    model.fit(*make_images(256), epochs=8, verbose=0)
    return network


def write_arrays(path, train=96, test=40, seed=1):
    """Write `make_images` as an `.npz` that scripts read as data."""
    (x_train, y_train), (x_test, y_test) = make_images(train), make_images(test, seed=seed)
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path


def make_bytes(samples, **settings):
    """`make_images` as 8-bit values, class by class, which is the order of a folder."""
    images, labels = make_images(samples, **settings)
    order = np.argsort(labels, kind="stable")
    return np.round(images[order] * 255).astype(np.uint8), labels[order]


def write_tree(folder, **splits):
    """Write 8-bit images as PNG files `split/class_<label>/<row>.png`."""
    for split, (images, labels) in splits.items():
        for row, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = folder / split / f"class_{label}" / f"{row:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.squeeze()).save(path)
    return folder


@pytest.fixture(autouse=True, scope="module")
def left_alone_by_the_garbage_collector():
    """Libraries collect garbage by themselves; what a module leaves, they do not look through again."""
    yield
    gc.freeze()


@pytest.fixture
def unprobed(monkeypatch):
    """Sweeps alone: probes, a third of what a small one costs, have tests of their own."""
    monkeypatch.setattr(Probes, "run", lambda self: [])


@pytest.fixture
def probed(monkeypatch):
    """All of a sweep, in a module that is not probed otherwise."""
    monkeypatch.setattr(Probes, "run", PROBE)


@pytest.fixture(scope="session")
def forks():
    started = Forks()
    yield started
    started.close()


@pytest.fixture(scope="session")
def trained():
    """A small network that classifies its 64 test images well, and those images."""
    images, labels = make_images(256)
    model = sr.SaliencyGuided(make_network(), saliency=False)
    model.compile(keras.optimizers.Adam(0.01))
    model.fit(images, labels, epochs=8, verbose=0)
    return model.model, *make_images(64, seed=1)


@pytest.fixture(scope="session")
def ready(trained):
    """The same, the network as a classifier: what is compiled for it in one test need not be in another."""
    return sr.Classifier(trained[0]), *trained[1:]
