"""ResNet-18 against KerasHub's own, and against the paper's drawing written out by hand."""

import json
import os
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_images
from test_scripts import run

import salrob_tf as sr
from salrob_tf.models.resnet import RESNET18
from salrob_tf.studies.runs import Run

pytestmark = pytest.mark.usefixtures("unprobed")

SHAPE = (16, 16, 3)
IMAGENET = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
SCALE, OFFSET = [0.01, 0.02, 0.03], [-0.5, -1.0, -1.5]  # of the preset's image converter, for pixels in [0, 255]


@pytest.fixture(scope="module")
def hub():
    return pytest.importorskip("keras_hub", reason="KerasHub is not installed: pip install 'salrob-tf[hub]'")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((6, *SHAPE), np.float32)


def scramble(model):
    """Give batch normalisation statistics and parameters that show where they are left out."""
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            for variable in (layer.gamma, layer.moving_variance):
                variable.assign(rng.uniform(0.5, 1.5, variable.shape))
            for variable in (layer.beta, layer.moving_mean):
                variable.assign(rng.normal(0, 0.1, variable.shape))


def backbone(hub, **changes):
    keras.utils.set_random_seed(1)
    model = hub.models.ResNetBackbone(**{**RESNET18, **changes})
    scramble(model)
    return model


@pytest.fixture(scope="module")
def bare_preset(hub, tmp_path_factory):
    """A preset without image converter, saved while its backbone was frozen."""
    folder = tmp_path_factory.mktemp("presets") / "bare"
    model = backbone(hub)
    model.trainable = False
    model.save_to_preset(folder)
    return folder


@pytest.fixture(scope="module")
def preset(hub, bare_preset):
    """The same with an image converter whose figures are not ImageNet's."""
    folder = bare_preset.parent / "with_converter"
    folder.mkdir()
    for file in bare_preset.iterdir():
        (folder / file.name).hardlink_to(file)
    hub.layers.ResNetImageConverter(image_size=(224, 224), scale=SCALE, offset=OFFSET).save_to_preset(folder)
    return folder


@pytest.fixture(scope="module")
def pretrained(preset):
    return sr.resnet18(SHAPE, 3, weights=preset)


def features(network):
    return keras.Model(network.input, network.get_layer("average").input)


def test_pretrained_features_are_those_of_kerashub(hub, preset, pretrained, bare_preset, images):
    theirs = hub.models.ResNetBackbone.from_preset(str(preset))
    convert = hub.layers.ImageConverter.from_preset(str(preset))
    convert.image_size = None  # images keep their size here
    expected = theirs(convert(255 * images), training=False)
    assert expected.shape == (6, 1, 1, 512) and np.std(expected) > 0.1
    np.testing.assert_allclose(features(pretrained)(images), expected, rtol=1e-5, atol=1e-5)
    mean, std = IMAGENET
    expected = theirs(((images - mean) / std).astype(np.float32), training=False)
    bare = features(sr.resnet18(SHAPE, 7, weights=str(bare_preset)))(images)
    np.testing.assert_allclose(bare, expected, rtol=1e-5, atol=1e-5)
    assert pretrained.name == "resnet18" and pretrained.output.dtype == "float32"
    assert not any(isinstance(layer, keras.Model) for layer in pretrained.layers)


def test_imagenet_is_kerashubs_preset_of_that_name(hub, preset, pretrained, images, monkeypatch):
    import kagglehub

    handles = []

    def download(handle, path):
        handles.append(handle)
        return str(preset / path)

    monkeypatch.setattr(kagglehub, "model_download", download)
    network = sr.resnet18(SHAPE, 3, weights="imagenet")
    assert {handle.split("/")[3] for handle in handles} == {"resnet_18_imagenet"}
    np.testing.assert_array_equal(features(network)(images), features(pretrained)(images))


def reference(network, images, stem):
    """Logits of ResNet-18 as He et al. 2016 draw it, in inference mode."""
    weights = {variable.path: variable.value for variable in network.variables}

    def convolve(x, name, stride):
        kernel = weights[f"{name}_conv/kernel"]
        pad = (kernel.shape[0] - 1) // 2
        x = tf.nn.conv2d(tf.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]]), kernel, stride, "VALID")
        parts = (weights[f"{name}_bn/{part}"] for part in ("moving_mean", "moving_variance", "gamma", "beta"))
        mean, variance, gamma, beta = parts
        return (x - mean) / tf.sqrt(variance + 1e-5) * gamma + beta

    mean, std = IMAGENET if images.shape[-1] == 3 else (0.449, 0.226)
    x = tf.cast((images - mean) / std, tf.float32)
    x = tf.nn.relu(convolve(x, "conv1", 2 if stem == "imagenet" else 1))
    if stem == "imagenet":
        x = tf.nn.max_pool2d(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), 3, 2, "VALID")
    for stack in range(4):
        for block in range(2):
            name, stride = f"stack{stack}_block{block}", 2 if stack and not block else 1
            shortcut = convolve(x, f"{name}_0", stride) if stride == 2 else x
            x = tf.nn.relu(convolve(tf.nn.relu(convolve(x, f"{name}_1", stride)), f"{name}_2", 1) + shortcut)
    return tf.reduce_mean(x, [1, 2]) @ weights["logits/kernel"] + weights["logits/bias"]


@pytest.mark.parametrize(("stem", "channels", "size", "pixels"), [("imagenet", 3, 40, 2), ("small", 1, 16, 2)])
def test_a_network_from_scratch_is_the_papers(hub, stem, channels, size, pixels):
    images = np.random.default_rng(0).random((4, size, size, channels), np.float32)
    network = sr.resnet18(images.shape[1:], 7, stem=stem)
    scramble(network)
    np.testing.assert_allclose(network(images), reference(network, images, stem), rtol=1e-5, atol=1e-5)
    assert features(network).output_shape == (None, pixels, pixels, 512)


def test_sizes_are_those_published_and_seeds_count(hub):
    def trainable(network):
        return sum(int(np.prod(variable.shape)) for variable in network.trainable_variables)

    assert trainable(sr.resnet18((32, 32, 3), 1000)) == 11_689_512  # torchvision's resnet18
    networks = []
    for seed in (0, 0, 1):
        keras.utils.set_random_seed(seed)
        networks.append(sr.resnet18((32, 32, 3), 10, stem="small"))
    assert trainable(networks[0]) == 11_173_962  # what CIFAR-10 papers use: 3x3 stem, 10 classes
    for name in ("conv1_conv", "stack3_block1_2_conv", "logits"):
        first, same, other = (np.asarray(network.get_layer(name).kernel) for network in networks)
        np.testing.assert_array_equal(first, same)
        assert (first != other).all()


def test_logits_and_normalisation_are_float32_whatever_the_policy(hub, preset, pretrained, images):
    full, half = pretrained, sr.resnet18(SHAPE, 3, "mixed_bfloat16", weights=preset)
    half.set_weights(full.get_weights())
    policies = {layer.name: layer.dtype_policy.name for layer in half.layers}
    assert policies.pop("normalise") == policies.pop("logits") == policies.pop("images") == "float32"
    assert set(policies.values()) == {"mixed_bfloat16"} and half.output.dtype == "float32"
    np.testing.assert_allclose(half(images), full(images), atol=0.05 * np.abs(full(images)).max())
    crafting = sr.Classifier(full).crafting("bfloat16")(tf.constant(images))
    np.testing.assert_allclose(crafting, full(images), atol=0.05 * np.abs(full(images)).max())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": "resnet_81_imagenet"}, "Unknown weights. Valid: imagenet, or the folder"),
        ({"weights": "{presets}/bare/config.json"}, "Unknown weights"),
        ({"weights": "{presets}"}, "holds no ResNet-18 preset of KerasHub: pass imagenet"),
        ({"weights": "{presets}/damaged"}, "holds no ResNet-18 preset of KerasHub"),
        ({"weights": "{presets}/text"}, "BertBackbone"),
        ({"weights": "{presets}/resnet50"}, "not of ResNet-18. Received: weights={presets}/resnet50, stackwise_num_b"),
        ({"weights": "{presets}/bare", "shape": (16, 16, 1)}, "are for images with 3 channels"),
        ({"weights": "{presets}/bare", "stem": "small"}, "7x7 kernel does not fit the small one"),
        ({"stem": "big"}, "Unknown stem. Valid: imagenet, small"),
        ({"shape": (16, 16)}, "`input_shape` must be (height, width, channels)"),
    ],
)
def test_bad_weights_and_arguments_get_one_line(hub, bare_preset, arguments, message):
    presets = bare_preset.parent
    if "damaged" in arguments.get("weights", ""):
        (presets / "damaged").mkdir()
        (presets / "damaged" / "config.json").write_text((bare_preset / "config.json").read_text())
        (presets / "damaged" / "model.weights.h5").write_bytes(b"nothing")
    if "text" in arguments.get("weights", ""):
        sizes = {"num_layers": 1, "num_heads": 1, "hidden_dim": 8, "intermediate_dim": 8}
        hub.models.BertBackbone(vocabulary_size=10, **sizes).save_to_preset(presets / "text")
    if "resnet50" in arguments.get("weights", ""):
        changes = {"stackwise_num_blocks": [1, 1, 1, 1], "block_type": "bottleneck_block"}
        backbone(hub, **changes).save_to_preset(presets / "resnet50")
    options = {key: value.format(presets=presets) for key, value in arguments.items() if key != "shape"}
    with pytest.raises(ValueError) as error:
        sr.resnet18(arguments.get("shape", SHAPE), 3, **options)
    assert message.format(presets=presets) in str(error.value) and "\n" not in str(error.value)


def test_without_a_network_imagenet_weights_say_what_to_do(hub, tmp_path, monkeypatch):
    def unreachable(*arguments, **options):
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"cannot download .* run .*save_to_preset\(FOLDER\), and pass that") as error:
        sr.resnet18(SHAPE, 3, weights="imagenet")
    assert "weights=imagenet (ConnectionError" in str(error.value) and "\n" not in str(error.value)


def test_without_kerashub_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(ValueError, match=r"pip install 'salrob-tf\[hub\]'\. Received: no keras_hub"):
        sr.resnet18(SHAPE, 3)


FRESH = """
import sys
sys.modules["keras_hub"] = None  # from here on, importing it fails
import keras, numpy as np, tensorflow as tf
folder, run = sys.argv[1:]
images = np.load(f"{folder}/images.npy")
logits = {"network": keras.saving.load_model(f"{folder}/network.keras")(images, training=False)}
exported = tf.saved_model.load(f"{run}/export").signatures["serving_default"](tf.constant(images))
(logits["export"],) = exported.values()
import salrob_tf
logits["guided"] = keras.saving.load_model(f"{run}/model.keras")(images, training=False)
np.savez(f"{folder}/logits.npz", **{name: np.asarray(value) for name, value in logits.items()})
"""


@pytest.fixture(scope="module")
def guided(hub, preset, tmp_path_factory):
    """A folder with data, and what train.py made of them in two guided steps from the preset."""
    folder = tmp_path_factory.mktemp("guided")
    (x_train, y_train), (x_test, y_test) = make_images(16, SHAPE), make_images(8, SHAPE, seed=1)
    np.savez(folder / "data.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    train(folder, "--weights", preset)
    return folder


def train(folder, *more, **options):
    arguments = ["--data", folder / "data.npz", "--network", "resnet18", "--saliency", "--epochs", 1, "--batch-size", 8]
    return run("train.py", *arguments, "--out", folder / "run", *more, **options)


@pytest.fixture(scope="module")
def moved(guided):
    return keras.saving.load_model(guided / "run" / "model.keras")


def test_guided_training_starts_from_the_preset_and_moves_every_weight(guided, moved, preset, pretrained):
    data = sr.load_data(guided / "data.npz")
    built = Run(network="resnet18", weights=str(preset)).build(data).model
    np.testing.assert_array_equal(features(built)(data.x_test), features(pretrained)(data.x_test))
    assert moved.saliency and moved.optimizer.iterations == 2
    for old, new in zip(built.variables, moved.model.variables, strict=True):
        assert old.path == new.path and (np.asarray(old) != np.asarray(new)).any(), old.path
    record = json.loads((guided / "run" / "run.json").read_text())
    assert np.isfinite(list(record["train"].values())).all() and record["train"]["kl"] > 0


def test_a_trained_network_can_be_attacked(guided):
    data = sr.load_data(guided / "data.npz")
    result = sr.evaluate(guided / "run", data.x_test, data.y_test, ["fgsm"], [0.3])
    assert result.correct["fgsm"].shape == (1, 8) and (result.correct["fgsm"] <= result.clean).all()


def test_files_need_no_kerashub(guided, moved, tmp_path):
    images = sr.load_data(guided / "data.npz").x_test
    network = moved.model
    np.save(tmp_path / "images.npy", images)
    network.save(tmp_path / "network.keras")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", FRESH, tmp_path, guided / "run"]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    with np.load(tmp_path / "logits.npz") as loaded:
        assert sorted(loaded.files) == ["export", "guided", "network"]
        for name in loaded.files:
            np.testing.assert_allclose(loaded[name], network(images), rtol=1e-5, atol=1e-5, err_msg=name)


def test_weights_are_recorded_and_bad_ones_end_the_scripts_with_one_line(guided, preset, tmp_path, capsys):
    record = json.loads((guided / "run" / "run.json").read_text())
    assert record["arguments"]["weights"] == str(preset) and record["arguments"]["network"] == "resnet18"
    assert train(guided, "--resume", check=False) == 2
    assert f"weights={preset} there, weights=None asked" in capsys.readouterr().err
    for script in ("train.py", "reproduce.py"):
        arguments = ["--data", guided / "data.npz", "--network", "resnet18", "--weights", tmp_path]
        assert run(script, *arguments, "--out", tmp_path / "none", check=False) == 2
        printed = capsys.readouterr().err
        assert "holds no ResNet-18 preset" in printed and printed.count("\n") == 1
        assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("stem", ["imagenet", "small"])
def test_saliency_maps_are_the_input_gradient(hub, images, stem):
    network = sr.resnet18(SHAPE, 4, stem=stem)
    scramble(network)
    labels = np.array([0, 3, 2, 1, 0, 2])
    x = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(x)
        chosen = tf.reduce_sum(tf.one_hot(labels, 4) * network(x, training=False))
    expected = tape.gradient(chosen, x).numpy()
    maps = sr.saliency_maps(network, images, labels)
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
