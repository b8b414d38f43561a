import json
import math
import shutil
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_images, make_network

import salrob_tf as sr
from salrob_tf.evaluation.inspection import passes_agree
from salrob_tf.models.logits import saturated
from salrob_tf.results.comparison import at_chance

pytestmark = pytest.mark.usefixtures("unprobed")

PLAIN_TENSORFLOW = """
import sys
import numpy as np, tensorflow as tf
from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent

folder, *exports = sys.argv[1:]
arrays = np.load(f"{folder}/in.npz")
images, labels = tf.constant(arrays["images"]), tf.constant(arrays["labels"])
for export in exports:
    model = tf.saved_model.load(f"{folder}/{export}")
    adversarial = projected_gradient_descent(
        model.serve, images, 0.2, 0.05, 10, np.inf, clip_min=0.0, clip_max=1.0, y=labels, rand_init=False
    )
    np.savez(f"{folder}/{export}.npz", logits=model.serve(images), adversarial=adversarial)
assert not any(name.startswith("salrob_tf") for name in sys.modules)
"""


def test_exported_classifier_is_the_same_in_plain_tensorflow(trained, tmp_path):
    model, images, labels = trained
    for saliency in (True, False):
        sr.SaliencyGuided(model, saliency).export(tmp_path / str(saliency), verbose=False)
    np.savez(tmp_path / "in.npz", images=images, labels=labels)
    command = [sys.executable, "-c", PLAIN_TENSORFLOW, tmp_path, "True", "False"]
    subprocess.run(command, check=True, capture_output=True)
    live = sr.BIM(steps=10, relative_step=0.25)(model, images, labels, 0.2)
    for saliency in (True, False):
        with np.load(tmp_path / f"{saliency}.npz") as found:
            np.testing.assert_allclose(found["logits"], model(images), atol=1e-5)
            np.testing.assert_allclose(found["adversarial"], live, atol=1e-5)


def test_every_way_to_name_a_model_gives_the_same_logits(trained, tmp_path):
    model, images, labels = trained
    guided = sr.SaliencyGuided(model)
    guided.compile("sgd")
    (tmp_path / "run").mkdir()
    guided.save(tmp_path / "run" / "model.keras")
    guided.export(tmp_path / "export", verbose=False)
    model.save(tmp_path / "bare.keras")
    forms = [model, guided, tmp_path / "run", tmp_path / "run" / "model.keras", tmp_path / "bare.keras"]
    forms.append(str(tmp_path / "export"))
    for form in forms:
        classifier = sr.Classifier(form)
        assert classifier.input_shape == (8, 8, 1) and classifier.num_classes == 3
        np.testing.assert_allclose(classifier.logits(images), model(images), atol=1e-6)
        adversarial = sr.PGD(steps=3)(classifier, images, labels, 0.2)
        np.testing.assert_allclose(adversarial, sr.PGD(steps=3)(model, images, labels, 0.2), atol=1e-5)
    assert sr.Classifier(tmp_path / "run").name == "run" and sr.Classifier(model).name == "tiny"


def softmax_of(model):
    return keras.Sequential([keras.Input(model.input_shape[1:]), model, keras.layers.Softmax()])


def test_leaving_the_softmax_out_changes_nothing_of_the_users_model(trained):
    network, images, labels = trained
    model = softmax_of(keras.models.clone_model(network))
    before, nodes = model(images).numpy(), len(model.layers[0]._inbound_nodes)
    classifier = sr.Classifier(model)
    sr.PGD(steps=2)(classifier, images, labels, 0.1)
    np.testing.assert_array_equal(model(images), before)
    assert len(model.layers[0]._inbound_nodes) == nodes and "call" not in vars(model.layers[-1])
    model.layers[0].set_weights(network.get_weights())
    np.testing.assert_allclose(classifier.logits(images), network(images), atol=1e-6)
    np.testing.assert_array_equal(classifier.predict(images), network(images).numpy().argmax(-1))


def test_a_softmax_that_is_not_the_last_thing_stays(trained):
    """Two softmaxes, one weighing the image: the right one goes, even where both are one layer."""
    inputs, shared = keras.Input((8, 8, 1)), keras.layers.Softmax()
    flat = keras.layers.Flatten()(inputs)
    logits = keras.layers.Dense(3)(flat * keras.layers.Softmax()(flat))
    classifier = sr.Classifier(keras.Model(inputs, keras.layers.Softmax()(logits)))
    np.testing.assert_allclose(classifier.logits(trained[1]), keras.Model(inputs, logits)(trained[1]), atol=1e-6)
    logits = keras.layers.Dense(3)(flat * shared(flat))
    classifier = sr.Classifier(keras.Model(inputs, shared(logits)))
    np.testing.assert_allclose(classifier.logits(trained[1]), keras.Model(inputs, logits)(trained[1]), atol=1e-6)


class Halves(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.activation = lambda inputs: tf.split(inputs, 2, axis=-1)

    def call(self, inputs):
        low, high = self.activation(inputs)
        return low - high


def test_an_activation_that_cannot_be_left_out_is_passed_over(trained):
    inputs = keras.Input((8, 8, 1))
    outputs = keras.layers.Dense(3)(Halves()(keras.layers.Flatten()(inputs)))
    model = keras.Model(inputs, keras.layers.Lambda(lambda z: tf.nn.softmax(z))(outputs))
    classifier = sr.Classifier(model)
    assert classifier.outputs == "softmax removed"
    np.testing.assert_allclose(classifier.logits(trained[1]), keras.Model(inputs, outputs)(trained[1]), atol=1e-5)


def test_a_softmax_model_is_copied_in_bfloat16_without_its_softmax(trained):
    network, images, _ = trained
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(keras.layers.Conv2D(6, 3, activation="relu")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))
    model.set_weights(network.get_weights())
    crafted = sr.Classifier(model).crafting("bfloat16")(images)
    np.testing.assert_allclose(crafted, network(images), rtol=0.05, atol=0.2)


def test_models_run_in_inference_mode(trained):
    network, images, labels = trained
    layers = [keras.layers.BatchNormalization(), network, keras.layers.Dropout(0.5)]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    before = [np.array(variable) for variable in model.variables]
    found = sr.evaluate(model, images, labels, ["fgsm"], [0.1])
    assert found.description["deterministic"]
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_passes_agree_as_in_the_flag_of_autoattack():
    logits = np.random.default_rng(0).normal(size=(9, 4))
    labels = logits.argmax(-1)
    assert passes_agree(np.stack([logits, logits, 3 * logits]), labels), "scale does not count"
    for size, expected in ((3e-5, True), (3e-4, False)):
        moved = logits / np.linalg.norm(logits, axis=1, keepdims=True)
        moved = np.stack([moved, moved])
        moved[1, 5, 1] += size
        assert passes_agree(moved, labels) is expected
    other = np.tile([[1.0, 1.0 + 1e-6]], (2, 1, 1))
    other[1] = other[1, :, ::-1]
    assert not passes_agree(other, np.array([0])), "the correct count differs"


@pytest.mark.parametrize("samples", [3, 10, 64, 500])
@pytest.mark.parametrize("classes", [2, 10])
def test_chance_is_an_exact_binomial_test_of_enough_images(samples, classes):
    def tails(p):
        masses = [math.comb(samples, k) * p**k * (1 - p) ** (samples - k) for k in range(samples + 1)]
        return np.cumsum([0, *masses[::-1]])[::-1]

    guessing, halfway = tails(1 / classes), tails((1 + 1 / classes) / 2)
    rejecting = int(np.argmax(guessing <= 0.01))
    enough = halfway[rejecting] >= 0.95
    assert enough == (samples > 10)
    for right in range(samples + 1):
        assert at_chance(np.arange(samples) < right, classes) == (enough and right < rejecting)


def test_an_accuracy_at_chance_is_laid_to_preprocessing(trained):
    network, images, labels = trained
    rescaled = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Rescaling(1 / 255), network])
    with pytest.warns(UserWarning) as said:
        found = sr.evaluate(rescaled, images, labels, ["fgsm"], [0.1], name="x")
    texts = [str(warning.message) for warning in said]
    assert any("begins with Rescaling for a wider range" in text for text in texts)
    assert any(
        "is not significantly above chance" in text and "bounds (here 0 to 1) and another order" in text
        for text in texts
    )
    assert found.clean_accuracy < 0.5 and found.description["preprocessing"] == ["Rescaling"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = sr.evaluate(sr.Classifier(rescaled, bounds=(0, 255)), images, labels, ["fgsm"], [0.1])
    assert found.clean_accuracy > 0.9 and found.description["bounds"] == [0, 255]


def test_saturated_probabilities_are_said_and_cost_nothing_where_the_softmax_goes(trained, ready):
    network, images, labels = trained
    sure = keras.Sequential([keras.Input((8, 8, 1)), network, keras.layers.Rescaling(50.0), keras.layers.Softmax()])

    def rounded(images):  # as written: how TensorFlow's own softmax rounds depends on the processor
        logits = 50 * network(images)
        powers = tf.exp(logits - tf.stop_gradient(tf.reduce_max(logits, axis=-1, keepdims=True)))
        return powers / tf.reduce_sum(powers, axis=-1, keepdims=True)

    opaque = sr.Classifier(rounded, "opaque", input_shape=(8, 8, 1))
    attack = sr.PGD(steps=9, loss="margin")
    with pytest.warns(UserWarning) as said:
        blind = sr.evaluate(opaque, images, labels, [attack], [0.2])
    texts = [str(warning.message) for warning in said]
    assert any("opaque gives probabilities, and for 100.0% of the images all but one round to 0" in t for t in texts)
    assert any("gradient was zero" in text for text in texts) and blind.description["saturated"] == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        seeing = sr.evaluate(sure, images, labels, [attack], [0.2])
    plain = sr.evaluate(*ready, [attack], [0.2])
    assert seeing.accuracy("pgd-margin") == plain.accuracy("pgd-margin") < blind.accuracy("pgd-margin") - 0.2
    rows = np.log(np.array([[1, 1e-30, 1e-37], [1, 1e-38, 1e-38], [0.5, 0.5, 1e-38]], np.float32))
    np.testing.assert_array_equal(saturated(rows), [False, True, False])


@pytest.mark.parametrize("gap", [84.0, 86.5, 87.2])
def test_probabilities_that_float32_just_holds_have_finite_gradients(gap):
    def sure(images):
        mean = tf.reduce_mean(images, axis=(1, 2))
        return tf.nn.softmax(tf.concat([gap + 0.01 * mean, -mean, -2 * mean], axis=1))

    images, labels = make_images(8)[0], np.zeros(8, np.int32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        result = sr.evaluate(sr.Classifier(sure, "sure", input_shape=(8, 8, 1)), images, labels, ["pgd-margin"], [0.1])
    assert result.accuracy("pgd-margin") == 1


def test_hidden_sigmoids_are_asked_about(trained):
    network, images, labels = trained
    classifier = sr.Classifier(lambda x: 1 / (1 + tf.exp(-network(x))), "hidden", input_shape=(8, 8, 1))
    with pytest.warns(UserWarning, match="All outputs of hidden lie in .*if a sigmoid gives them"):
        sr.evaluate(classifier, images, labels, ["fgsm"], [0.1])


def test_what_was_found_out_is_said_and_kept(trained, tmp_path):
    network, images, labels = trained
    classifier = sr.Classifier(softmax_of(network), "soft")
    assert repr(classifier) == (
        "<Classifier soft: Keras model, 8 x 8 x 1 images in [0, 1] to 3 probabilities, attacked by logits "
        "(softmax removed)>"
    )
    result = sr.evaluate(classifier, images, labels, ["fgsm"], [0.1])
    assert str(result).splitlines()[1] == classifier.summary
    sr.save_results(tmp_path, [result])
    (entry,) = json.loads((tmp_path / "results.json").read_text())["models"]
    assert entry == {
        "name": "soft",
        "path": None,
        "clean_accuracy": result.clean_accuracy,
        "description": {
            "summary": classifier.summary,
            "form": "Keras model",
            "input_shape": [8, 8, 1],
            "num_classes": 3,
            "bounds": [0.0, 1.0],
            "preprocessing": [],
            "output": None,
            "checks": result.description["checks"],
            "outputs": "softmax removed",
            "deterministic": True,
        },
        "flags": [],
    }
    assert sr.load_results(tmp_path)[0].description == result.description


def test_identity_tells_models_of_every_form_apart(trained, tmp_path):
    network, _, _ = trained
    other = keras.models.clone_model(network)
    for number, model in enumerate((network, other)):
        model.export(str(tmp_path / str(number)), verbose=False)
    forms = [network, other, tmp_path / "0", tmp_path / "1", lambda x: network(x), lambda x: other(x)]

    def identities():
        return [sr.Classifier(form, input_shape=(8, 8, 1)).fingerprint for form in forms]

    assert len(set(identities())) == 6 and identities() == identities()
    classifier = sr.Classifier(other)
    assert classifier.fingerprint != sr.Classifier(network).fingerprint
    other.set_weights(network.get_weights())
    assert classifier.fingerprint == sr.Classifier(network).fingerprint, "the weights as they are now"


def test_identity_is_that_of_what_was_loaded(trained, tmp_path):
    trained[0].export(tmp_path / "saved", verbose=False)
    loaded = sr.Classifier(tmp_path / "saved")
    before = loaded.fingerprint
    shutil.rmtree(tmp_path / "saved")
    make_network(seed=3).export(tmp_path / "saved", verbose=False)
    assert loaded.fingerprint == before != sr.Classifier(tmp_path / "saved").fingerprint


def test_a_checkpoint_is_of_one_range(trained, tmp_path):
    network, images, labels = trained
    sr.evaluate(network, images, labels, ["fgsm"], [0.1], checkpoint=tmp_path)
    with pytest.raises(ValueError, match=r"bounds=\[0.0, 1.0\] there, \[-1.0, 1.0\] asked"):
        sr.evaluate(sr.Classifier(network, bounds=(-1, 1)), images, labels, ["fgsm"], [0.1], checkpoint=tmp_path)


def test_half_precision_models_are_attacked(trained, tmp_path):
    network, images, labels = trained
    module = tf.Module()
    module.network = network
    half = [tf.TensorSpec([None, 8, 8, 1], tf.float16)]
    module.serve = tf.function(lambda x: tf.cast(network(tf.cast(x, tf.float32)), tf.float16), input_signature=half)
    tf.saved_model.save(module, str(tmp_path / "half"))
    classifier = sr.Classifier(tmp_path / "half")
    np.testing.assert_allclose(classifier.logits(images), network(images), rtol=1e-2, atol=1e-2)
    assert sr.evaluate(classifier, images, labels, ["bim"], [0.2]).accuracy("bim")[0] < 0.3
    for policy in ("bfloat16", "mixed_bfloat16", "mixed_float16"):
        softmax = keras.layers.Dense(10, activation="softmax", dtype=policy)
        classifier = sr.Classifier(keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), softmax]))
        assert classifier.outputs == "softmax removed" and len(classifier.fingerprint) == 64
        opaque = tf.function(lambda x, f=softmax: f(tf.reshape(x, [-1, 64])))
        assert sr.Classifier(opaque, input_shape=(8, 8, 1)).outputs == "log-probabilities"


def test_a_quantised_model_is_attacked_without_its_softmax(trained):
    _, images, labels = trained
    dense = [keras.layers.Dense(16, activation="relu"), keras.layers.Dense(3, activation="softmax")]
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), *dense])
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(*make_images(256), epochs=8, verbose=0)
    model.quantize("int8", filters=lambda layer: "dense" in layer.name)
    classifier = sr.Classifier(model)
    assert classifier.outputs == "softmax removed"
    found = sr.evaluate(classifier, images, labels, ["pgd"], [0.25], steps=9)
    assert found.clean_accuracy > 0.9 and found.accuracy("pgd")[0] < 0.3


def test_a_model_of_images_of_any_size_takes_those_it_is_told(trained, tmp_path):
    inputs = keras.Input((None, None, 1))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3)(x), name="any")
    model.export(str(tmp_path / "export"), verbose=False)
    for form in (model, tmp_path / "export"):
        classifier = sr.Classifier(form, input_shape=(8, 8, 1))
        np.testing.assert_allclose(classifier.logits(trained[1]), model(trained[1]), atol=1e-6)
        with pytest.raises(ValueError, match=r"needs Classifier\(model, input_shape=.*Received: .*\(None, None, 1\)"):
            sr.Classifier(form)
    with pytest.raises(ValueError, match=r"must take images of one size. .*input_shape=\(None, None, None, 1\)"):
        sr.SaliencyGuided(model)
    with pytest.raises(ValueError, match=r"takes images of shape \(None, None, 1\). Received: .*\(8, 8, 3\)"):
        sr.Classifier(model, input_shape=(8, 8, 3))


def saved(folder, function, *specs, **attributes):
    module = tf.Module()
    for name, value in attributes.items():
        setattr(module, name, value)
    module.serve = tf.function(function, input_signature=specs)
    tf.saved_model.save(module, str(folder / "saved"))
    return folder / "saved"


def test_saved_models_that_cannot_be_attacked_are_named(trained, tmp_path):
    network, images, labels = trained
    batch, two = (tf.TensorSpec([None, 8, 8, 1], name=name) for name in "xy")
    cases = {
        "there is no gradient with respect to others; .*Received: images of uint8": (
            lambda x: network(tf.cast(x, tf.float32)),
            tf.TensorSpec([None, 8, 8, 1], tf.uint8),
        ),
        r"must take batches .*Received: images \(8, 8, 1\)": (lambda x: network(x[None]), tf.TensorSpec([8, 8, 1])),
        r"must have one input: .* Received: inputs=\['x', 'y'\]": (lambda x, y: network(x + y), batch, two),
        r"must give logits \(N, num_classes\).*with outputs \(8, 3, 1\)": (lambda x: network(x)[..., None], batch),
    }
    for number, (message, (function, *specs)) in enumerate(cases.items()):
        with pytest.raises(ValueError, match=message):
            sr.Classifier(saved(tmp_path / str(number), function, *specs, network=network))
    rounded = saved(tmp_path, lambda x: network(tf.cast(tf.cast(x, tf.int32), tf.float32)), batch, network=network)
    message = "^saved has no gradient with respect to its images: attack it with spsa, which takes none, or "
    with pytest.warns(UserWarning, match="not significantly above chance"), pytest.raises(ValueError, match=message):
        sr.evaluate(rounded, images, labels, ["bim"], [0.1])
    tf.saved_model.save(tf.Module(), str(tmp_path / "empty"))
    with pytest.raises(ValueError, match="must have a serving_default signature, or be callable"):
        sr.Classifier(tmp_path / "empty")


def test_a_saved_model_that_does_not_say_its_shapes_is_attacked_alike(trained, ready, tmp_path):
    network, images, labels = trained[0], trained[1][:24], trained[2][:24]  # of which no probe is run

    def serve(x):
        logits = network(tf.ensure_shape(x, [None, 8, 8, 1]))
        return tf.reshape(logits, tf.stack([-1, 3 + 0 * tf.size(logits)]))

    expected = sr.evaluate(ready[0], images, labels, ["pgd-dlr"], [0.1], steps=3)
    for number, shape in enumerate((None, [None] * 4, [4, 8, 8, 1])):
        path = saved(tmp_path / str(number), serve, tf.TensorSpec(shape), network=network)
        classifier = sr.Classifier(path, input_shape=np.array([8, 8, 1]))
        found = sr.evaluate(classifier, images, labels, ["pgd-dlr"], [0.1], steps=3)
        np.testing.assert_array_equal(found.correct["pgd-dlr"], expected.correct["pgd-dlr"])


def test_files_with_code_are_refused_in_one_line(trained, tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Lambda(lambda x: 2 * x), trained[0]])
    model.save(tmp_path / "code.keras")
    message = "^This file holds Python code, such as a Lambda layer, which is not run: [^\n]*code.keras$"
    with pytest.raises(ValueError, match=message):
        sr.Classifier(tmp_path / "code.keras")


def test_models_that_do_not_fit(trained, tmp_path):
    model, images, _ = trained
    with pytest.raises(ValueError, match=f"Received: {tmp_path}/none, which does not exist"):
        sr.Classifier(tmp_path / "none")
    with pytest.raises(ValueError, match="Not a model: pass a folder from train.py"):
        sr.Classifier(tmp_path)
    with pytest.raises(ValueError, match=r"takes images of shape \(8, 8, 1\). Received: .*\(9, 8, 1\)"):
        sr.Classifier(model).predict(np.zeros((2, 9, 8, 1), np.float32))
    with pytest.raises(ValueError, match="must be built"):
        sr.Classifier(keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)]))
    with pytest.raises(ValueError, match="a path, or a callable from images to logits. Received: object"):
        sr.Classifier(object())
    binary = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(1, "sigmoid")])
    with pytest.raises(ValueError, match=r"a binary one needs two outputs.* with outputs \(8, 1\)"):
        sr.Classifier(binary)
    for bounds in ((0, 0), (1, 0), (0, np.inf), (0,), 255, ("a", "b"), "01", {0, 255}, (0, 1e-300), (0, 1e300)):
        with pytest.raises(ValueError, match="two finite numbers, the lower one first. Received: bounds="):
            sr.Classifier(model, bounds=bounds)
    for shape in ((8, 8), (8, 8, 0), (8, 8, 1.0), (8, 8, True), 8, "881", {8: 8}):
        with pytest.raises(ValueError, match="`input_shape` must be .*Received: input_shape="):
            sr.Classifier(model, input_shape=shape)
    broken = make_network()
    broken.layers[-1].bias.assign([np.nan, 0, 0])
    with pytest.raises(ValueError, match="finite logits"):
        sr.Classifier(broken).predict(images)


def long_story(images):
    raise RuntimeError("what a long story\n" * 99)


def test_callables_that_do_not_fit(trained):
    network, images, _ = trained

    def wrapped(function, shape=(8, 8, 1)):
        return sr.Classifier(function, "mine", input_shape=shape)

    with pytest.raises(ValueError, match=r"A callable, or .*Received: mine, a callable of images"):
        wrapped(lambda x: network(x), None)
    with pytest.raises(ValueError, match=r"\(N, num_classes\).*Received: mine with outputs \(8, 8, 8, 1\)"):
        wrapped(lambda x: x)
    for outputs in (lambda _: None, lambda _: "text", tf.RaggedTensor.from_tensor, tf.as_string):
        with pytest.raises(
            ValueError, match=r"\(N, num_classes\).*Received: mine with outputs (None|str|Rag|.*string$)"
        ):
            wrapped(lambda x, outputs=outputs: outputs(network(x)))
    for rows in ([0], [0, 0, 1, 1, 2, 2]):
        with pytest.raises(
            ValueError, match=r"of any size. .*mine, which raised .*of 3 images it gives outputs \(\d, 3\)"
        ):
            wrapped(lambda x, rows=rows: tf.gather(network(x), rows))
    with pytest.raises(ValueError, match=r"mine, which raised RuntimeError: what a long story ") as raised:
        wrapped(long_story)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400
    with pytest.raises(ValueError, match=r"made of TensorFlow operations on a batch \(None, 8, 8, 1\).*'numpy'"):
        wrapped(lambda x: tf.constant(network(x).numpy()))
    with pytest.raises(ValueError, match=r"made of TensorFlow operations .*mine, which raised \w+: .*numpy"):
        wrapped(lambda x: network(x).numpy())
    with pytest.raises(ValueError, match="finite logits. Received: NaN"):
        wrapped(lambda x: network(x) + np.nan).predict(images)


@pytest.mark.parametrize("name", [5, ["a"], b"a"])
def test_what_is_no_text_is_no_name(trained, name):
    with pytest.raises(ValueError, match="^`name` must be text. Received: name="):
        sr.Classifier(trained[0], name)


def test_arrays_without_a_shape_are_neither_bounds_nor_shapes(trained):
    for given in (np.array(3), np.zeros((3, 3)), [10**400, 1], np.ma.masked):
        with pytest.raises(ValueError, match="^`bounds` must be two finite numbers, the lower one first. Received: bo"):
            sr.Classifier(trained[0], bounds=given)
        for model in (trained[0], lambda images: trained[0](images)):
            with pytest.raises(ValueError, match=r"^`input_shape` must be \(height, width, channels\). Received: inp"):
                sr.Classifier(model, input_shape=given)


def test_callables_that_change_are_named(trained):
    network, images, labels = trained
    classes = 3

    def changing(x):
        return tf.reshape(x, [-1, 64])[:, :classes]

    classifier = sr.Classifier(changing, "mine", input_shape=(8, 8, 1))
    classes = 4
    with pytest.raises(
        ValueError, match=r"^mine must give logits \(N, 3\), as it did before. Received: .*\(None, 4\)$"
    ):
        classifier.predict(images)

    def failing(x):  # on adversarials only, and with a gradient that is finite
        clipped = tf.reduce_min(x, axis=(1, 2, 3)) == 0
        return network(x) + tf.where(clipped, np.float32("inf"), np.float32(0))[:, None]

    classifier = sr.Classifier(failing, "mine", input_shape=(8, 8, 1))
    for survivors_only in (True, False):
        with pytest.raises(ValueError, match=r"^mine must give finite logits. Received: NaN or infinity for some "):
            sr.evaluate(classifier, images, labels, ["fgsm"], [0.3], survivors_only=survivors_only)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, "8", None])
def test_batch_sizes_of_predictions_are_looked_at(trained, batch_size):
    model, images, _ = trained
    with pytest.raises(ValueError, match=f"^`batch_size` must be a whole number, 1 or more. .*={batch_size!r}$"):
        sr.Classifier(model).predict(images, batch_size)


def test_8_bit_images_are_those_of_models_that_take_that_range(trained):
    network, images, labels = trained
    inputs = keras.Input((8, 8, 1))
    classifier = sr.Classifier(keras.Model(inputs, network(inputs / 255)), bounds=(0, 255))
    bytes_ = np.round(images * 255).astype(np.uint8)
    floats = bytes_ / np.float32(255)
    expected = sr.evaluate(classifier, floats, labels, ["fgsm", "pgd"], [0.1, 0.2], steps=3)
    batches = tf.data.Dataset.from_tensor_slices((bytes_, labels)).batch(10)
    for given in ((bytes_, labels), (bytes_.astype(np.int64), labels), (batches,)):
        found = sr.evaluate(classifier, *given, attacks=["fgsm", "pgd"], epsilons=[0.1, 0.2], steps=3)
        assert found.sha256 == expected.sha256
        for label, correct in expected.correct.items():
            np.testing.assert_array_equal(found.correct[label], correct)
    np.testing.assert_array_equal(classifier.predict(bytes_), classifier.predict(floats))
    attacked = sr.BIM(steps=2)(classifier, bytes_, labels, 0.1)
    np.testing.assert_array_equal(attacked, sr.BIM(steps=2)(classifier, floats, labels, 0.1))
    assert attacked.dtype == np.float32 and np.abs(attacked - floats).max() < 0.1001
    for bounds in ((0, 1), (-1, 1)):
        with pytest.raises(
            ValueError, match=r"divide 8-bit images by 255, or pass .*\(0, 255\)\) .*dtype=uint8, bounds"
        ):
            sr.evaluate(sr.Classifier(network, bounds=bounds), bytes_, labels)
    for wrong in (bytes_.astype(np.int32) + 200, bytes_.astype(np.int32) - 1):
        with pytest.raises(
            ValueError, match=r"must be floats in \[0, 1\], or integers in 0..255. Received: integers from"
        ):
            classifier.predict(wrong)


def test_predict_takes_batches_of_any_size(trained):
    model, images, _ = trained
    expected = model(images).numpy().argmax(-1)
    for batch_size in (1, 7, 64, 1000):
        np.testing.assert_array_equal(sr.Classifier(model).predict(images, batch_size), expected)


def test_images_of_another_seed_are_classified(trained):
    model, _, _ = trained
    images, labels = make_images(200, seed=9)
    assert (sr.Classifier(model).predict(images) == labels).mean() > 0.9
