"""KerasHub's tasks, whose `fit` and `predict` run a preprocessor that calling them does not."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_bytes

import salrob_tf as sr

pytestmark = pytest.mark.usefixtures("unprobed")

layers = keras.layers
SHAPE = (12, 10, 1)  # of images; the network's own are 8 x 8
CONVERTERS = {
    "scale": {},
    "scale per channel": {"scale": [1 / 127.5], "offset": [-1.0]},
    "crop": {"image_size": (8, 8)},
    "stretch": {"image_size": (8, 8), "crop_to_aspect_ratio": False},
    "pad": {"image_size": (8, 8), "crop_to_aspect_ratio": False, "pad_to_aspect_ratio": True},
    "enlarge": {"image_size": (16, 17), "crop_to_aspect_ratio": False},
    "antialias": {"image_size": (6, 5), "antialias": True},
    "nearest": {"image_size": (8, 8), "interpolation": "nearest"},
    "bicubic": {"image_size": (8, 8), "interpolation": "bicubic"},
    "lanczos": {"image_size": (6, 6), "interpolation": "lanczos3", "antialias": True},
    "float16": {"image_size": (8, 8), "dtype": "float16"},
}


@pytest.fixture(scope="module")
def hub():
    return pytest.importorskip("keras_hub", reason="KerasHub is not installed: pip install 'salrob-tf[hub]'")


def backbone(size=None, kernel=3):
    keras.utils.set_random_seed(0)
    images = keras.Input((size, size, 1))
    return keras.Model(images, layers.Conv2D(6, kernel, activation="tanh")(images))


def converter(hub, **settings):
    return hub.layers.ImageConverter(**{"scale": 1 / 255, **settings})


def task(hub, preprocessor=None, network=None, **settings):
    if isinstance(preprocessor, hub.layers.ImageConverter):
        preprocessor = hub.models.ImageClassifierPreprocessor(preprocessor)
    return hub.models.ImageClassifier(network or backbone(), 3, preprocessor=preprocessor, name="task", **settings)


@pytest.fixture(scope="module")
def trained_task(hub):
    """A task that classifies 8-bit images well, which its preprocessor makes smaller, and such images."""
    images, labels = make_bytes(256, shape=SHAPE)
    stretch = converter(hub, image_size=(8, 8), crop_to_aspect_ratio=False)
    model = task(hub, stretch, backbone(8, kernel=8), activation="softmax")
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    model.fit(images, labels, epochs=12, verbose=0)
    return model, *make_bytes(64, shape=SHAPE, seed=1)


@pytest.mark.parametrize("settings", CONVERTERS)
def test_a_task_is_attacked_through_its_preprocessor(hub, settings):
    model = task(hub, converter(hub, **CONVERTERS[settings]))
    images, _ = make_bytes(5, shape=SHAPE)
    classifier = sr.Classifier(model, bounds=(0, 255), input_shape=SHAPE)
    half = settings == "float16"
    tolerance = 1e-3 if half else 1e-5
    inside = tf.constant(images / np.float32(255))
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(classifier.logits(inside), expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(classifier.predict_logits(inside.numpy()), expected, rtol=0, atol=tolerance)
    with tf.GradientTape() as tape:
        tape.watch(inside)
        logits = classifier.logits(inside)[:, 0]
    gradient = tape.gradient(logits, inside).numpy()
    assert np.isfinite(gradient).all()
    for row, column in ((3, 3), (6, 4), (8, 7)):
        step = np.zeros((1, *SHAPE), np.float32)
        step[0, row, column] = 0.1 if half else 0.02
        above, below = (classifier.logits(inside + sign * step)[:, 0] for sign in (1, -1))
        slope = (above - below).numpy() / (2 * step.max())
        np.testing.assert_allclose(gradient[:, row, column, 0], slope, rtol=0.02, atol=1e-2 if half else 1e-4)


def test_a_task_is_evaluated_as_it_predicts(trained_task, tmp_path):
    model, images, labels = trained_task
    accuracy = (model.predict(images, verbose=0).argmax(-1) == labels).mean()
    assert accuracy > 0.9
    model.save(tmp_path / "task.keras")
    for form in (model, tmp_path / "task.keras"):
        classifier = sr.Classifier(form, bounds=(0, 255), input_shape=SHAPE)
        assert classifier.outputs == "softmax removed"
        found = sr.evaluate(classifier, images, labels, ["pgd"], [0.3], steps=10)
        assert found.clean_accuracy == accuracy and found.accuracy("pgd")[0] < 0.3
        assert found.description["preprocessing"] == ["ImageClassifierPreprocessor", "ImageConverter"]
        crafted = sr.evaluate(classifier, images, labels, ["pgd"], [0.3], steps=10, craft_dtype="bfloat16")
        assert crafted.clean_accuracy == accuracy and crafted.accuracy("pgd")[0] < 0.3


def test_a_task_tells_which_images_it_takes(hub, trained_task):
    with pytest.raises(ValueError, match=r"Which size of images\? .*Received: task, a .* \(None, None, 1\)$"):
        sr.Classifier(trained_task[0])
    with pytest.warns(UserWarning, match="task begins with ImageConverter for a wider range"):
        sr.Classifier(trained_task[0], input_shape=SHAPE)
    for settings in ({"scale": 1.0, "offset": [-127.5]}, {"scale": 1 / 127.5, "offset": -1.0}):
        with pytest.warns(UserWarning, match="task begins with ImageConverter for a wider range"):
            assert sr.Classifier(task(hub, converter(hub, **settings), backbone(8))).input_shape == (8, 8, 1)
    assert sr.Classifier(task(hub, None, backbone(8))).preprocessing == []
    with pytest.raises(ValueError, match=r"takes images of shape \(None, None, 1\). Received: .*\(12, 10, 3\)"):
        sr.Classifier(trained_task[0], input_shape=(12, 10, 3))


def test_identity_is_also_that_of_the_preprocessor(hub):
    network = backbone()
    forms = [task(hub, converter(hub, image_size=size), network) for size in ((8, 8), (6, 6))]
    forms += [forms[0], task(hub, None, network)]
    for form in forms:
        form.set_weights(forms[0].get_weights())
    found = [sr.Classifier(form, bounds=(0, 255), input_shape=SHAPE).fingerprint for form in forms]
    assert len(set(found)) == 3 and found[0] == found[2]


def channels_first(hub):
    images = keras.Input((1, None, None))
    last = layers.Conv2D(6, 3)(layers.Permute((2, 3, 1))(images))
    network = keras.Model(images, last)
    return task(hub, converter(hub, image_size=(8, 8), scale=[1 / 255], data_format="channels_first"), network), (
        1,
        *SHAPE[:2],
    )


def plain_layers(hub):
    preprocessor = keras.Sequential([layers.Resizing(8, 8), layers.Rescaling(1 / 255)])
    return task(hub, preprocessor, backbone(8)), SHAPE


def a_function_that_adds_channels(hub):
    images = keras.Input((8, 8, 3))
    network = keras.Model(images, layers.Conv2D(6, 3)(images))
    return task(hub, lambda x: tf.image.grayscale_to_rgb(tf.image.resize(x, (8, 8)) / 255), network), SHAPE


@pytest.mark.parametrize("make", [channels_first, plain_layers, a_function_that_adds_channels])
def test_preprocessors_of_other_kinds_are_part_of_the_model(hub, make):
    model, shape = make(hub)
    images = make_bytes(5, shape=SHAPE)[0].reshape(-1, *shape)
    classifier = sr.Classifier(model, bounds=(0, 255), input_shape=shape)
    np.testing.assert_allclose(
        classifier.logits(images / np.float32(255)), model.predict(images.astype(np.float32), verbose=0), atol=1e-5
    )
    assert sr.BIM(steps=2)(classifier, images, np.zeros(5, int), 0.1).shape == images.shape


class Rounding(layers.Layer):
    def call(self, inputs):
        return tf.cast(tf.cast(inputs, tf.int32), tf.float32)


class Floored(layers.Layer):
    def call(self, inputs):
        return tf.floor(inputs)


REFUSED = {
    "Sequential draws random numbers": lambda: keras.Sequential([layers.RandomFlip("horizontal", seed=0)]),
    "RandomBrightness draws random numbers": lambda: layers.RandomBrightness(0.1),
    "jitter draws random numbers": lambda: jitter,
    "Rounding has no gradient with respect to the images": Rounding,
    "Floored has no gradient with respect to the images": Floored,
    "jpeg has no gradient with respect to the images": lambda: jpeg,
    r"words cannot be run on images \(12, 10, 1\) \(": lambda: words,
    r"named cannot be run on images \(12, 10, 1\) \(": lambda: named,
}


def jitter(images):
    return images + tf.random.normal(tf.shape(images))


def jpeg(images):
    return tf.cast(tf.map_fn(lambda x: tf.image.adjust_jpeg_quality(x, 50), tf.cast(images, tf.uint8)), tf.float32)


def named(images):
    return {"images": images}


def words(images):
    return tf.strings.split(images)


@pytest.mark.parametrize("received", REFUSED)
def test_a_preprocessor_that_no_attack_goes_through_is_refused_by_name(hub, received):
    message = (
        f"^A preprocessor must be a differentiable function .*preprocessor = None.* Received: task, whose {received}"
    )
    with pytest.raises(ValueError, match=message) as raised:
        sr.Classifier(task(hub, REFUSED[received]()), bounds=(0, 255), input_shape=SHAPE)
    assert len(str(raised.value)) < 500 and "\n" not in str(raised.value)


def test_where_a_preprocessor_is_left_out_it_is_said(trained_task):
    model = trained_task[0]
    logits = keras.Model(model.input, model.output)
    assert sr.Classifier(logits).preprocessing == []
    said = pytest.warns(UserWarning, match="without its preprocessor, ImageClassifierPreprocessor: set")
    with said, pytest.raises(ValueError, match="ends in softmax"):
        sr.SaliencyGuided(model)
