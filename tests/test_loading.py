"""Models that lie at paths: what is loaded, and the one line that all else gets."""

import gc
import json
import os
import shutil
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_network

import salrob_tf as sr

pytestmark = pytest.mark.usefixtures("unprobed")

layers = keras.layers
SHAPE = (8, 8, 1)


class Doubling(layers.Layer):
    def call(self, inputs):
        return 2 * inputs


def doubled(inputs):
    return 2 * inputs


@keras.saving.register_keras_serializable(package="tests")
def halved(inputs):
    return inputs / 2


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with one network as `.keras`, as `.h5` and as a SavedModel, and the network."""
    folder, network = tmp_path_factory.mktemp("files"), make_network()
    for name in ("whole.keras", "whole.h5", "weights.weights.h5"):
        (network.save_weights if "weights" in name else network.save)(folder / name)
    network.export(str(folder / "export"), verbose=False)
    return folder, network


def with_layer(layer):
    return keras.Sequential([keras.Input(SHAPE), layer, layers.Flatten(), layers.Dense(3)])


def saved(model, path):
    model.save(path)
    return path


def rewritten(source, path, **parts):
    """A copy of a `.keras` archive, some of its parts being other bytes or left out."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(path, "w") as copy:
        for name in archive.namelist():
            part = parts.get(name.split(".")[0], archive.read(name))
            if part is not None:
                copy.writestr(name, part)
    return path


def copied(source, path, size=None):
    if source.is_dir():
        return shutil.copytree(source, path)
    path.write_bytes(source.read_bytes()[:size])
    return path


class Named:
    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return self.path


LOADED = {
    "hdf5": lambda files, here: copied(files / "whole.h5", here / "old.hdf5"),
    "upper case": lambda files, here: copied(files / "whole.h5", here / "OLD.H5"),
    "upper case keras": lambda files, here: copied(files / "whole.keras", here / "NEW.KERAS"),
    "another ending": lambda files, here: copied(files / "whole.h5", here / "old.keras"),
    "no ending": lambda files, here: copied(files / "whole.keras", here / "model"),
    "bytes": lambda files, _: os.fsencode(files / "whole.h5"),
    "os.PathLike": lambda files, _: Named(str(files / "whole.keras")),
    "os.PathLike of bytes": lambda files, _: Named(os.fsencode(files / "whole.keras")),
    "slash": lambda files, _: f"{files / 'export'}/",
    "file and slash": lambda files, _: f"{files / 'whole.h5'}/",
    "newline": lambda files, here: copied(files / "whole.keras", here / "a\nname.keras"),
    "not UTF-8": lambda files, here: copied(files / "whole.keras", here / os.fsdecode(b"\xff\xfe.keras")),
    "link": lambda files, here: linked(here / "link", files / "export"),
    "link to a file": lambda files, here: linked(here / "link.h5", files / "whole.h5"),
    "home": lambda files, here: f"~/{copied(files / 'whole.keras', here / 'mine.keras').name}",
}


def linked(link, target):
    link.symlink_to(target)
    return link


@pytest.mark.parametrize("form", LOADED)
def test_a_model_is_found_by_what_it_is(files, tmp_path, monkeypatch, form):
    folder, network = files
    monkeypatch.setenv("HOME", str(tmp_path))
    classifier = sr.Classifier(LOADED[form](folder, tmp_path))
    images = np.random.default_rng(0).random((4, *SHAPE), np.float32)
    np.testing.assert_allclose(classifier.logits(images), network(images), atol=1e-6)
    assert "\n" not in classifier.name and isinstance(classifier.path, str)


def test_h5_files_are_attacked_as_the_model_that_they_hold(files, trained, tmp_path):
    network, images, labels = trained
    expected = sr.evaluate(network, images, labels, ["pgd"], [0.1, 0.2], steps=3)
    softmax = keras.Model(network.inputs, layers.Softmax()(network.outputs[0]))
    for path, outputs in ((saved(network, tmp_path / "a.h5"), "logits"), (saved(softmax, tmp_path / "b.h5"), "soft")):
        found = sr.evaluate(path, images, labels, ["pgd"], [0.1, 0.2], steps=3)
        np.testing.assert_array_equal(found.correct["pgd"], expected.correct["pgd"])
        assert found.description["outputs"].startswith(outputs) and found.model == path.stem
    halving = with_layer(layers.Lambda(halved))
    for name in ("a.keras", "c.h5"):
        classifier = sr.Classifier(saved(halving, tmp_path / name))
        np.testing.assert_allclose(classifier.logits(images), halving(images), atol=1e-6)


def writing_lambda(here):
    model = with_layer(layers.Lambda(lambda x: (open("ran", "w").close(), x)[1]))
    (here / "ran").unlink()
    return model


def unknown(here, name, key="Doubling"):
    """A model that needs what is nowhere to be found."""
    model = with_layer(Doubling()) if key == "Doubling" else with_layer(layers.Dense(3, activation=doubled))
    path = saved(model, here / f"old-{name}")
    if name.endswith(".h5"):
        with h5py.File(path, "r+") as file:
            file.attrs["model_config"] = file.attrs["model_config"].replace(key, "Missing")
        return path
    with zipfile.ZipFile(path) as archive:
        config = archive.read("config.json").replace(key.encode(), b"Missing")
    return rewritten(path, here / name, config=config.replace(__name__.encode(), b"nowhere"))


def h5(here, **attributes):
    with h5py.File(here / "odd.h5", "w") as file:
        file["x"] = np.zeros(3)
        file.attrs.update(attributes)
    return here / "odd.h5"


def folder_of(here, **contents):
    for name, data in contents.items():
        path = here / "folder" / name.replace("__", "/").replace("_pb", ".pb").replace("_keras", ".keras")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return here / "folder"


def without_variables(files, here):
    folder = copied(files / "export", here / "export")
    shutil.rmtree(folder / "variables")
    return folder


CODE = "^This file holds Python code, such as a Lambda layer, which is not run: "
DAMAGED = r"^This model cannot be loaded \("
NO_MODEL = "^Not a model: pass a folder from train.py, a .keras or .h5 file, or a SavedModel folder"
NEEDED = "^This file needs the "
WEIGHTS = "^This file holds weights at most: pass the whole model, as model.save"
# What each path holds, and what is said of it.
REFUSED = {
    "lambda": (lambda _, here: saved(writing_lambda(here), here / "a.keras"), CODE),
    "lambda in h5": (lambda _, here: saved(writing_lambda(here), here / "a.h5"), CODE),
    "lambda of a named function": (lambda _, here: saved(with_layer(layers.Lambda(doubled)), here / "a.keras"), CODE),
    "lambda of a named function in h5": (
        lambda _, here: saved(with_layer(layers.Lambda(doubled)), here / "a.h5"),
        NEEDED + "function doubled, which is not in it: import what registers it"),
    "lambda nested": (
        lambda _, here: saved(with_layer(keras.Sequential([layers.Lambda(doubled)])), here / "a.keras"), CODE),
    "unknown layer": (lambda _, here: unknown(here, "a.keras"), NEEDED + "class Missing, "),
    "unknown layer in h5": (lambda _, here: unknown(here, "a.h5"), NEEDED + "layer Missing, "),
    "unknown function": (
        lambda _, here: unknown(here, "a.keras", "doubled"), NEEDED + "function Missing, "),
    "program as a class": (
        lambda files, here: rewritten(
            files / "whole.keras", here / "a.keras", config=json.dumps(
                {"module": "os", "class_name": "system", "config": {"command": "touch ran"}, "registered_name": None})),
        NEEDED + "class system, "),
    "weights": (lambda files, _: files / "weights.weights.h5", WEIGHTS),
    "hdf5 of others": (lambda _, here: h5(here), WEIGHTS),
    "hdf5 with a broken config": (lambda _, here: h5(here, model_config="{"), DAMAGED + "JSONDecode"),
    "hdf5 with an unknown config": (
        lambda _, here: h5(here, model_config=json.dumps({"class_name": "Sequential", "config": [{"x": "y" * 9999}]})),
        DAMAGED),
    "cut short": (lambda files, here: copied(files / "whole.keras", here / "a.keras", 999), DAMAGED + ".*cut short"),
    "cut short h5": (lambda files, here: copied(files / "whole.h5", here / "a.h5", 999), DAMAGED + ".*truncated"),
    "empty": (lambda files, here: copied(files / "whole.keras", here / "a.keras", 0), DAMAGED + ".*cut short"),
    "no weights": (
        lambda files, here: rewritten(files / "whole.keras", here / "a.keras", model=None), DAMAGED + "ValueError: "),
    "broken config": (
        lambda files, here: rewritten(files / "whole.keras", here / "a.keras", config="{"), DAMAGED + "JSONDecode"),
    "a run of which nothing is left": (lambda _, here: folder_of(here, model_keras=b"x"), DAMAGED + ".*model.keras$"),
    "export of a run": (
        lambda files, here: copied(files / "export", here / "run" / "export").parent, NO_MODEL + ": here .*run/export"),
    "file of a SavedModel": (lambda files, _: files / "export" / "saved_model.pb", NO_MODEL + ": here .*/export. Rec"),
    "no variables": (without_variables, DAMAGED + ".*Failed to find"),
    "broken SavedModel": (lambda _, here: folder_of(here, saved_model_pb=b"x" * 99), DAMAGED + ".*Cannot parse"),
    "empty SavedModel": (lambda _, here: folder_of(here, saved_model_pb=b""), DAMAGED),
    "variables alone": (lambda _, here: folder_of(here, variables__variables=b"x"), NO_MODEL),
    "empty folder": (lambda _, here: here, NO_MODEL),
    "TFLite": (lambda _, here: folder_of(here, **{"m.tflite": b"\0\0\0\0TFL3"}) / "m.tflite", NO_MODEL),
    "pickle": (lambda _, here: folder_of(here, **{"m.pkl": b"\x80\x04N."}) / "m.pkl", NO_MODEL),
    "archive of others": (lambda _, here: zipped(here), NO_MODEL),
    "nothing": (lambda _, here: here / "a.keras", NO_MODEL + ".*a.keras, which does not exist$"),
    "link to nothing": (lambda _, here: linked(here / "a.h5", here / "b.h5"), NO_MODEL + ".*a.h5, which does"),
    "no path": (lambda *_: "", NO_MODEL + ". Received: an empty path$"),
    "long": (lambda *_: "x/" * 3000 + "x" * 3000, DAMAGED + "OSError: .*File name too long"),
    "newline": (lambda *_: "a\nb.keras", NO_MODEL + ".*a b.keras, which does not exist$"),
    "NUL": (lambda *_: "a\0b.keras", NO_MODEL + ".*a b.keras, which does not exist$"),
    "someone's home": (lambda *_: "~nobody-of-this-name/a.keras", NO_MODEL + ".*~nobody-of-this-name/a.keras, which"),
    "address": (lambda *_: "https://example.com/a.keras", NO_MODEL + ".*https://example.com/a.keras, which does not"),
    "os.PathLike of a number": (lambda *_: Named(3), DAMAGED + "TypeError: "),
}  # fmt: skip


def zipped(here):
    np.savez(here / "a.npz", x=1)
    return here / "a.npz"


@pytest.mark.parametrize("form", REFUSED)
def test_what_cannot_be_loaded_gets_one_line_and_runs_nothing(files, tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    make, message = REFUSED[form]
    path = make(files[0], tmp_path)
    with pytest.raises(ValueError, match=message) as raised:
        sr.Classifier(path)
    assert "\n" not in str(raised.value) and "Received: " in str(raised.value)
    assert len(str(raised.value)) < 400 + len(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_signatures_of_a_saved_model_are_chosen_by_hand(trained, tmp_path):
    network, images, labels = trained
    batch, text = tf.TensorSpec([None, *SHAPE], name="images"), tf.TensorSpec([None], tf.string)
    module = tf.Module()
    module.network = network
    module.images = tf.function(lambda images: {"logits": network(images)}, input_signature=[batch])
    module.text = tf.function(lambda text: {"length": tf.strings.length(text)}, input_signature=[text])
    for name, signatures in {"none": ("a", "b"), "text": ("serving_default", "predict")}.items():
        functions = dict(zip(signatures, (module.text, module.images), strict=True))
        tf.saved_model.save(module, str(tmp_path / name), signatures=functions)
        message = (
            r"tf.saved_model.load\(path\), Classifier\(loaded.signatures\[NAME\]\). Received: (sign|images of str)"
        )
        with pytest.raises(ValueError, match=message):
            sr.Classifier(tmp_path / name)
        function = tf.saved_model.load(str(tmp_path / name)).signatures[signatures[1]]
        gc.collect()
        with pytest.raises(
            ValueError, match="^The variables of this function are gone: hold on to the model that it is"
        ):
            sr.Classifier(function)
        loaded = tf.saved_model.load(str(tmp_path / name))
        classifier = sr.Classifier(loaded.signatures[signatures[1]])
        del loaded
        gc.collect()
        assert classifier.input_shape == SHAPE
        assert sr.BIM(steps=1)(classifier, images, labels, 0.1).shape == images.shape
        np.testing.assert_allclose(classifier.logits(images), network(images), atol=1e-6)
