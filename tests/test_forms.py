"""One classifier in every form, attacked alike; and what becomes of forms that cannot be."""

from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent

import salrob_tf as sr
from salrob_tf.attacks.losses import margin

pytestmark = pytest.mark.usefixtures("unprobed")

layers = keras.layers
SHAPE = (8, 8, 1)
EPSILONS = [0.05, 0.1, 0.2]


@keras.saving.register_keras_serializable(package="tests")
class Subclassed(keras.Model):
    def __init__(self, activation=None, **kwargs):
        super().__init__(**kwargs)
        self.convolution = layers.Conv2D(6, 3, activation="relu")
        self.flatten = layers.Flatten()
        self.classes = layers.Dense(3, activation=activation)
        self.activation_name = activation

    def call(self, inputs):
        return self.classes(self.flatten(self.convolution(inputs)))

    def get_config(self):
        return {"activation": self.activation_name}


class Module(tf.Module):
    """A network as plain TensorFlow saves it, with a traced call and no signature of its own choice."""

    def __init__(self, network, spec, outputs=tf.identity):
        super().__init__()
        self.network, self.outputs = network, outputs
        self.call = tf.function(lambda images: outputs(network(tf.cast(images, tf.float32))), input_signature=[spec])


def body(inputs, activation=None):
    x = layers.Conv2D(6, 3, activation="relu")(inputs)
    return layers.Dense(3, activation=activation)(layers.Flatten()(x))


def functional(activation=None, before=None, after=None):
    inputs = keras.Input(SHAPE)
    outputs = body(before(inputs) if before else inputs, activation)
    return keras.Model(inputs, after(outputs) if after else outputs)


def subclassed(activation=None):
    model = Subclassed(activation)
    model(np.zeros((1, *SHAPE), np.float32))  # the batch that it is built with binds nobody
    return model


def nested(*after, activation=None):
    return keras.Sequential([keras.Input(SHAPE), functional(activation), layers.Rescaling(1.0), *after])


def keras_file(model, folder):
    model.save(folder / "model.keras")
    return folder / "model.keras"


def exported(model, folder, **settings):
    model.export(str(folder / "export"), verbose=False, **settings)
    return folder / "export"


def module(model, folder, spec, outputs=tf.identity):
    saved = Module(model, spec, outputs)
    tf.saved_model.save(saved, str(folder / "module"))
    return folder / "module"


def traced_call(model, folder):
    """A module that is only callable, once traced with a fixed batch and once with training=True, as Keras 2 did."""

    class Callable(tf.Module):
        def __init__(self):
            super().__init__()
            self.network = model

        @tf.function
        def __call__(self, images, training=False):
            return self.network(images) * (-1.0 if training else 1.0)

    saved = Callable()
    for size, training in ((4, True), (None, True), (4, False), (None, False)):
        saved.__call__.get_concrete_function(tf.TensorSpec([size, *SHAPE]), training)
    tf.saved_model.save(saved, str(folder / "callable"))
    return folder / "callable"


ANY, FOUR = (tf.TensorSpec([size, *SHAPE], tf.float32) for size in (None, 4))
# How each form is made of a Keras model and an empty folder, of which model, and how its logits are had.
FORMS = {
    "functional": (functional, None, "logits"),
    "subclassed": (subclassed, None, "logits"),
    "nested": (nested, None, "logits"),
    "keras file": (functional, keras_file, "logits"),
    "subclassed keras file": (subclassed, keras_file, "logits"),
    "export": (functional, exported, "logits"),
    "export for batches of 4": (functional, lambda *a: exported(*a, input_signature=[FOUR]), "logits"),
    "tf.Module": (functional, lambda *a: module(*a, ANY), "logits"),
    "tf.Module called": (functional, traced_call, "logits"),
    "callable": (functional, lambda model, _: lambda images: model(images), "logits"),
    "log-softmax": (lambda: functional("log_softmax"), None, "logits"),
    "softmax of Dense": (lambda: functional("softmax"), None, "softmax removed"),
    "layer in Dense": (lambda: functional(layers.Softmax()), None, "softmax removed"),
    "Softmax layer": (lambda: functional(after=layers.Softmax()), None, "softmax removed"),
    "Activation layer": (lambda: functional(after=layers.Activation("softmax")), None, "softmax removed"),
    "keras.ops.softmax": (lambda: functional(after=keras.ops.softmax), None, "softmax removed"),
    "softmax nested": (lambda: nested(activation="softmax"), None, "softmax removed"),
    "Softmax after nested": (lambda: nested(layers.Softmax()), None, "softmax removed"),
    "softmax subclassed": (lambda: subclassed("softmax"), None, "softmax removed"),
    "softmax keras file": (lambda: functional("softmax"), keras_file, "softmax removed"),
    "sigmoid": (lambda: functional("sigmoid"), None, "sigmoid removed"),
    "softmax export": (lambda: functional("softmax"), exported, "log-probabilities"),
    "softmax tf.Module": (functional, lambda *a: module(*a, FOUR, tf.nn.softmax), "log-probabilities"),
    "softmax callable": (functional, lambda model, _: lambda x: tf.nn.softmax(model(x)), "softmax removed"),
    "softmax tf.function": (
        functional,
        lambda model, _: tf.function(lambda x: tf.nn.softmax(model(x))),
        "log-probabilities",
    ),
    "sigmoid callable": (functional, lambda model, _: lambda x: tf.math.sigmoid(model(x)), "sigmoid removed"),
}
BOUNDED = {
    "Rescaling": (lambda: functional(before=layers.Rescaling(1 / 255)), None, (0, 255)),
    "Rescaling, softmax": (lambda: functional("softmax", layers.Rescaling(1 / 255)), None, (0, 255)),
    "Rescaling with offset": (lambda: functional(before=layers.Rescaling(0.5, 0.5)), None, (-1, 1)),
    "Normalization": (
        lambda: functional(before=layers.Normalization(mean=128.0, variance=64.0**2)), None, (128, 192)
    ),
    "Rescaling, export": (lambda: functional(before=layers.Rescaling(1 / 255)), exported, (0, 255)),
    "callable": (functional, lambda model, _: lambda images: model(images / 255), (0, 255)),
}  # fmt: skip


def same_weights(make, trained):
    model = make()
    model.set_weights([*model.get_weights()[: -len(trained.weights)], *trained.get_weights()])
    return model


def attacked(model, images, labels):
    return sr.evaluate(model, images, labels, ["fgsm", "pgd"], EPSILONS, steps=5)


@pytest.fixture(scope="module")
def expected(trained):
    found = attacked(*trained)
    assert found.accuracy("pgd")[0] > 0.8 > 0.2 > found.accuracy("pgd")[2], "some survive and some do not"
    return found


@pytest.mark.parametrize("form", FORMS)
def test_the_same_weights_in_every_form_give_the_same_matrix(trained, expected, tmp_path, form):
    make, save, outputs = FORMS[form]
    model = same_weights(make, trained[0])
    classifier = sr.Classifier(save(model, tmp_path) if save else model, form, input_shape=SHAPE)
    assert classifier.outputs == outputs
    some = trained[1][:7]
    close = np.testing.assert_allclose
    close(tf.nn.log_softmax(classifier.logits(some)), tf.nn.log_softmax(trained[0](some)), atol=1e-4)
    found = check_alike(classifier, expected, *trained[1:])
    assert classifier.describe().items() <= found.description.items()


@pytest.mark.parametrize("form", BOUNDED)
def test_bounds_give_the_same_matrix_at_the_same_epsilons(trained, expected, tmp_path, form):
    make, save, bounds = BOUNDED[form]
    model = same_weights(make, trained[0])
    classifier = sr.Classifier(save(model, tmp_path) if save else model, form, bounds, SHAPE)
    check_alike(classifier, expected, *trained[1:])


def check_alike(classifier, expected, images, labels):
    found = attacked(classifier, images, labels)
    np.testing.assert_array_equal(found.clean, expected.clean)
    for label, correct in expected.correct.items():
        np.testing.assert_array_equal(found.correct[label], correct)
    assert found.description["deterministic"]
    return found


def heads(model):
    """A model that also tells the class, and what it saw."""
    logits = model.output
    return {"probabilities": layers.Softmax()(logits), "class": keras.ops.argmax(logits, -1), "seen": model.input}


def named(outputs):
    return lambda logits: outputs(tf.nn.softmax(logits), tf.argmax(logits, -1))


class Pair(NamedTuple):
    probabilities: tf.Tensor
    classes: tf.Tensor


TWO = named(lambda probabilities, classes: {"probabilities": probabilities, "classes": classes})
SEVERAL = {  # how a model with several outputs is made of one, which of them is attacked, and what the others are
    "Keras dict": (lambda m, _: keras.Model(m.input, heads(m)), "probabilities", "class, seen"),
    "Keras list": (
        lambda m, _: keras.Model(
            m.input, [layers.Identity(name="seen")(m.input), layers.Identity(name="logits")(m.output)]),
        "logits", "seen"),
    "Keras dict in Sequential": (
        lambda m, _: keras.Sequential([keras.Input(SHAPE), keras.Model(m.input, heads(m))]), "probabilities",
        "class, seen"),
    "Keras file": (lambda m, f: keras_file(keras.Model(m.input, heads(m)), f), "probabilities", "class, seen"),
    "export": (lambda m, f: exported(keras.Model(m.input, heads(m)), f), "probabilities", "class, seen"),
    "serving": (lambda m, f: module(m, f, ANY, TWO), "probabilities", "classes"),
    "serving in batches of 4": (lambda m, f: module(m, f, FOUR, TWO), "probabilities", "classes"),
    "loaded": (lambda m, f: tf.saved_model.load(str(module(m, f, ANY, TWO))), "probabilities", "classes"),
    "TFSMLayer": (lambda m, f: tfsm(module(m, f, ANY, TWO)), "probabilities", "classes"),
    "traced for 4": (
        lambda m, _: tf.function(lambda x: TWO(m(x)), input_signature=[FOUR]).get_concrete_function(),
        "probabilities", "classes"),
    "callable": (lambda m, _: lambda images: TWO(m(images)), "probabilities", "classes"),
    "nested": (lambda m, _: lambda images: {"a": [images, m(images)], "b": None}, "a/1", "a/0, b"),
    "tuple": (lambda m, _: lambda images: named(lambda *both: both)(m(images)), "0", "1"),
    "named tuple": (lambda m, _: lambda images: named(Pair)(m(images)), "probabilities", "classes"),
}  # fmt: skip


def tfsm(folder):
    return keras.Sequential([keras.Input(SHAPE), layers.TFSMLayer(str(folder), call_endpoint="serving_default")])


@pytest.mark.parametrize("form", SEVERAL)
def test_of_several_outputs_the_only_one_that_can_be_logits_is_attacked_and_said(trained, expected, tmp_path, form):
    make, output, others = SEVERAL[form]
    model = make(same_weights(functional, trained[0]), tmp_path)
    for asked in (None, output):
        classifier = sr.Classifier(model, form, input_shape=SHAPE, output=asked)
        assert classifier.describe()["output"] == classifier.output == output
        assert classifier.summary.endswith(f", its output {output}, not {others}")
        logits = tf.nn.log_softmax(classifier.logits(trained[1][:7]))
        np.testing.assert_allclose(logits, tf.nn.log_softmax(trained[0](trained[1][:7])), atol=1e-4)
    if form == "serving in batches of 4":
        check_alike(classifier, expected, *trained[1:])


class Several(keras.Model):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def call(self, inputs):
        logits = self.network(inputs)
        return {"logits": logits, "probabilities": keras.ops.softmax(logits), "turned": -logits}


def test_the_output_that_is_named_is_attacked(trained, expected, tmp_path):
    model = Several(trained[0])
    model(trained[1])
    inputs = keras.Input(SHAPE)
    as_list = keras.Model(inputs, [layers.Rescaling(-1.0, name="turned")(trained[0](inputs)), trained[0](inputs)])
    saved = module(trained[0], tmp_path, ANY, lambda logits: {"logits": logits, "turned": -logits})
    check_alike(sr.Classifier(model, output="logits"), expected, *trained[1:])
    for form, output in ((as_list, 1), (as_list, "1"), (as_list, np.int64(1)), (saved, "logits")):
        logits = sr.Classifier(form, output=output).logits(trained[1])
        np.testing.assert_allclose(logits, trained[0](trained[1]), atol=1e-5)
    turned = [sr.Classifier(form, output="turned") for form in (model, as_list, saved)]
    for classifier in turned:
        np.testing.assert_allclose(classifier.logits(trained[1]), -trained[0](trained[1]), atol=1e-5)
    whole = [
        sr.Classifier(form, output=output).fingerprint for form in (model, saved) for output in ("logits", "turned")
    ]
    assert len(set(whole)) == 4, "another output is another model"
    crafted = sr.Classifier(as_list, output=1).crafting("bfloat16")(trained[1])
    np.testing.assert_allclose(crafted, trained[0](trained[1]), rtol=0.05, atol=0.2)


def test_an_output_that_is_not_there_or_not_clear_gets_one_line(trained):
    network = trained[0]
    inputs = keras.Input(SHAPE)
    flat = layers.Flatten(name="flat")(inputs)
    model = keras.Model(inputs, [flat, layers.Dense(3, name="logits")(flat)], name="both")
    doubtful = keras.Model(inputs, {"embedding": flat, "prob": layers.Dense(1, activation="sigmoid")(flat)})
    listed = r"flat \(N, 64\) float32, logits \(N, 3\) float32$"
    cases = [
        (model, None, rf"^A model with several .*output=NAME\), or --output NAME.* both with outputs {listed}"),
        (doubtful, None, r"several outputs .* embedding \(N, 64\) float32, prob \(N, 1\) float32$"),
        (model, "logit", f"^both has no output 'logit'. Valid: {listed}"),
        (model, 2, f"^both has no output 2. Valid: {listed}"),
        (model, -1, f"^both has no output -1. Valid: {listed}"),
        (model, 1.0, "^`output` must be the name of an output, or its place. Received: output=1.0$"),
        (model, True, "^`output` must be .*Received: output=True$"),
        (model, ["logits"], r"^`output` must be .*Received: output=\['logits'\]$"),
        (network, "logits", r"^tiny has no output 'logits'. Valid: 0 \(N, 3\) float32$"),
        (lambda x: network(x), "a\n" * 900, r"^mine has no output 'a.* \.\.\. .*'. Valid: 0 \(N, 3\) float32$"),
        (lambda x: {f"{i}": network(x) for i in range(99)}, None, r"mine with outputs 0 \(N, 3\) float32, .* \.\.\. "),
        (lambda x: {}, None, "mine with outputs none$"),
        (lambda x: {"text": tf.as_string(network(x)), "image": x}, "text", r"mine with outputs \(8, 3\) string$"),
    ]  # fmt: skip
    for form, output, message in cases:
        name = "mine" if form not in (model, network) else None
        with pytest.raises(ValueError, match=message) as raised:
            sr.Classifier(form, name, input_shape=SHAPE, output=output)
        assert "\n" not in str(raised.value) and len(str(raised.value)) < 400


def test_models_that_fail_are_named_in_one_line(trained):
    four = keras.Input(batch_shape=(4, *SHAPE))
    only_four = keras.Model(four, layers.Dense(3)(keras.ops.reshape(four, (4, 64))), name="only_four")
    eager = Several(trained[0])
    eager(trained[1])
    eager.network = lambda inputs: tf.constant(trained[0](inputs).numpy())
    for model in (only_four, eager):
        with pytest.raises(
            ValueError, match=r"^A Keras model must be made .* batch \(None, 8, 8, 1\) of any size"
        ) as raised:
            sr.Classifier(model, output="logits" if model is eager else None)
        assert "\n" not in str(raised.value) and "\x1b" not in str(raised.value) and len(str(raised.value)) < 400
    with pytest.raises(ValueError, match=r"^Images of .* do not fit into memory. Received: input_shape=\(10{9}, "):
        sr.Classifier(lambda x: tf.reduce_sum(x, [1, 2]), input_shape=(10**9, 10**9, 3))
    assert sr.Classifier(trained[0], "a\nname\0").name == "a name"


def hand_made(attacked, images, epsilon, labels):
    """CleverHans' BIM in L2 on the margin of whatever outputs it is given."""
    return projected_gradient_descent(
        attacked, images, epsilon, 0.25 * epsilon, 20, 2, clip_min=0.0, clip_max=1.0, y=labels, rand_init=False,
        loss_fn=margin,
    )  # fmt: skip


RADII = [0.4, 0.8, 1.2]


@pytest.fixture(scope="module")
def sure(trained):
    """A network that is sure, and its accuracy where its logits are attacked, and where its probabilities are."""
    network, images, labels = trained
    inputs = keras.Input(SHAPE)
    logits = keras.Model(inputs, layers.Rescaling(4.0)(same_weights(functional, network)(inputs)))
    # In float32 it depends on the processor how a softmax that is sure rounds, and so where an attack on it leads.
    exact = lambda batch: tf.nn.softmax(tf.cast(logits(batch), tf.float64))  # noqa: E731
    curves = (
        [
            (sr.Classifier(logits).predict(hand_made(model, images, epsilon, labels)) == labels).mean()
            for epsilon in RADII
        ]
        for model in (logits, exact)
    )
    return logits, *curves


@pytest.mark.parametrize("form", ["keras", "callable", "export"])
def test_probabilities_taken_for_logits_look_robust_and_their_classifier_does_not(trained, sure, tmp_path, form):
    logits, of_logits, of_probabilities = sure
    softmax = keras.Model(logits.input, layers.Softmax()(logits.output))
    forms = {
        "keras": lambda: softmax,
        "callable": lambda: lambda batch: softmax(batch),
        "export": lambda: exported(softmax, tmp_path),
    }
    classifier = sr.Classifier(forms[form](), input_shape=SHAPE)
    bim = sr.BIM(2, steps=20, relative_step=0.25, loss="margin")
    guarded = sr.evaluate(classifier, *trained[1:], [bim], RADII, survivors_only=False).accuracy("bim-margin")
    np.testing.assert_array_equal(guarded, of_logits)
    assert guarded[2] < 0.3 and of_probabilities[2] > 0.9
