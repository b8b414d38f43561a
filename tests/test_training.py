import warnings
from contextlib import nullcontext
from functools import cache

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_images, make_network
from tensorflow.python.eager import context

import salrob_tf as sr


def fit(model, images, labels, **options):
    model.fit(images, labels, **{"batch_size": 8, "epochs": 1, "shuffle": False, "verbose": 0} | options)
    return model


def test_without_saliency_it_trains_to_the_weights_of_plain_fit():
    images, labels = make_images(160)
    optimizer = lambda: keras.optimizers.Adadelta(1.0, rho=0.9, epsilon=1e-6)  # noqa: E731
    plain = make_network(dropout=0.5)
    plain.compile(optimizer(), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    wrapped = sr.SaliencyGuided(make_network(dropout=0.5), saliency=False)
    wrapped.compile(optimizer(), metrics=["accuracy"])
    histories = []
    for model in (plain, wrapped):
        keras.utils.set_random_seed(1)
        histories.append(model.fit(images, labels, batch_size=8, epochs=1, verbose=0).history)
    assert int(wrapped.optimizer.iterations) == 20
    for expected, found in zip(plain.get_weights(), wrapped.model.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert histories[1]["loss"] == pytest.approx(histories[0]["loss"], abs=1e-6)
    assert histories[1]["accuracy"] == histories[0]["accuracy"]
    assert set(histories[1]) == {"loss", "accuracy", "cross_entropy"}


def assigns_its_weights(folder):
    layers = keras.layers
    return [layers.SpectralNormalization(layers.Conv2D(4, 3)), layers.ReLU(), layers.Flatten(), layers.Dense(3)]


def reads_its_weights(folder):
    network = make_network()
    if not folder.exists():
        archive = keras.export.ExportArchive()
        archive.track(network)
        for mode in (True, False):
            signature = [tf.TensorSpec([None, *network.input_shape[1:]])]
            archive.add_endpoint(f"training_{mode}", lambda x, mode=mode: network(x, training=mode), signature)
        archive.write_out(folder, verbose=False)
    return [keras.layers.TFSMLayer(folder, "training_False", "training_True")]


def computes_again(folder):
    class Recomputed(keras.layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 3), initializer="glorot_uniform")

        def call(self, inputs):
            return tf.recompute_grad(lambda values: tf.tanh(values) @ tf.convert_to_tensor(self.kernel))(inputs)

    return [keras.layers.Conv2D(4, 3), keras.layers.Flatten(), Recomputed()]


@pytest.fixture(scope="module")
def own_way(tmp_path_factory):
    """Networks by their layers, and the weights that Keras' own step leads to."""
    folder = tmp_path_factory.mktemp("own_way") / "saved"

    def network(layers):
        keras.utils.set_random_seed(0)
        return keras.Sequential([keras.Input((8, 8, 1)), *layers(folder)])

    @cache
    def by_keras(layers):
        model = network(layers)
        before = model.get_weights()
        fit_own_way(model, layers)
        assert any(np.abs(old - new).max() > 0.01 for old, new in zip(before, model.get_weights(), strict=True))
        return model.get_weights()

    return network, by_keras


def fit_own_way(model, layers):
    """Eagerly where layers compute again: compiled, Keras' own step is now and then wrong there."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.5), loss, run_eagerly=layers is computes_again)
    fit(model, *make_images(24), epochs=3)


@pytest.mark.parametrize("saliency", [False, True])
@pytest.mark.parametrize("layers", [assigns_its_weights, reads_its_weights, computes_again])
def test_layers_with_a_way_of_their_own_with_weights_train_as_in_keras(layers, saliency, own_way):
    network, by_keras = own_way
    found = network(layers)
    fit_own_way(sr.SaliencyGuided(found, saliency, recipe=sr.Recipe(fill="constant"), kl_weight=0.0), layers)
    for wanted, weight in zip(by_keras(layers), found.get_weights(), strict=True):
        np.testing.assert_allclose(weight, wanted, rtol=0, atol=1e-5)


def reads_after_updates(model):
    """Reads of variables that the graph of a step, as TensorFlow runs it, lets come after their update or before."""
    context.enable_run_metadata()
    try:
        model.train_on_batch(*make_images(4))
        graphs = [functions.post_optimization_graph for functions in context.export_run_metadata().function_graphs]
    finally:
        context.disable_run_metadata()
    nodes = {node.name: node for node in max(graphs, key=lambda graph: len(graph.node)).node}

    def ahead_of(node, seen):
        for name in (edge.removeprefix("^").split(":")[0] for edge in node.input):
            if name in nodes and name not in seen:
                seen.add(name)
                ahead_of(nodes[name], seen)
        return seen

    ahead = {node.name: ahead_of(node, set()) for node in nodes.values() if "Variable" in node.op}
    return [
        read
        for update in ahead
        for read in ahead
        if nodes[update].op == "AssignSubVariableOp"
        and nodes[read].op == "ReadVariableOp"
        and nodes[read].input[0] == nodes[update].input[0]
        and read not in ahead[update]
        and update not in ahead[read]
    ]


class Scaled(keras.layers.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=shape[-1:], initializer="ones")

    def call(self, inputs):
        return inputs * self.scale


@pytest.mark.parametrize("saliency", [False, True])
@pytest.mark.parametrize("way", ["recompute_grad", "remat", "RematScope"])
def test_weights_are_updated_only_when_layers_that_compute_again_have_read_them(way, saliency, tmp_path):
    with keras.RematScope("full") if way == "RematScope" else nullcontext():
        again = [Scaled()]
    if way == "recompute_grad":
        again = computes_again(tmp_path)[2:]
    elif way == "remat":
        again[0].call = keras.remat(again[0].call)
    layers = [keras.layers.Conv2D(4, 3), keras.layers.Flatten(), *again]
    network = keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Dense(3)])
    model = sr.SaliencyGuided(network, saliency)
    model.compile(keras.optimizers.SGD(0.5))
    assert reads_after_updates(model) == []


def test_a_guided_step_reads_each_weight_as_often_as_a_regular_one():
    def reads(saliency):
        model = sr.SaliencyGuided(make_network(dropout=0.5), saliency)
        model.compile("sgd")
        model.optimizer.build(model.trainable_variables)
        batch = tuple(map(tf.constant, make_images(4)))
        step = tf.function(model.train_step, autograph=False).get_concrete_function(batch)
        read = [op.outputs[0] for op in step.graph.get_operations() if op.type == "ReadVariableOp"]
        return sum(value.shape.rank > 1 for value in read)  # kernels

    assert reads(True) == reads(False) > 0


def test_losses_of_users_reach_weights_and_states_of_their_own():
    seen = keras.metrics.Sum()

    class Penalised(sr.SaliencyGuided):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            loss = super().compute_loss(x, y, y_pred, sample_weight, training)
            seen.update_state(1.0)
            return loss + 0.5 * keras.ops.sum(keras.ops.square(self.model.trainable_weights[0]))

    images, labels = make_images(8)
    network = make_network()
    network.layers[0].kernel_regularizer = keras.regularizers.L2(0.5)
    by_keras = keras.models.clone_model(network)
    by_keras.set_weights(network.get_weights())
    by_hand = Penalised(make_network(), recipe=sr.Recipe(fill="constant"), kl_weight=0.0)
    for model in (by_hand, by_keras):
        model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit(images, labels, batch_size=4, shuffle=False, verbose=0)
    assert float(seen.result()) == 2
    for wanted, found in zip(by_keras.get_weights(), by_hand.model.get_weights(), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def slow_guided_step(model, recipe, images, labels, kl_weight, count, seed):
    """Loss terms and weight gradients, image by image; random draws in the order in which the model makes them."""
    generator = keras.random.SeedGenerator(seed)
    if recipe.ranking in ("random", "darkest"):
        ranks = keras.random.uniform(images.shape[:3], seed=generator).numpy()
    if recipe.ranking == "fixed":
        ranks = np.stack([keras.random.uniform(images.shape[1:3], seed=0).numpy()] * len(images))
    draw = keras.random.normal if recipe.fill == "added" else keras.random.uniform
    noise = draw(images.shape, seed=generator).numpy()
    masked = images.copy()
    for n, image in enumerate(images):
        x = tf.constant(image[None])
        with tf.GradientTape() as tape:
            tape.watch(x)
            logits = model(x, training=False)[0]
            target = logits[labels[n]]
            if recipe.gradient_of == "log_softmax":
                target = tf.nn.log_softmax(logits)[labels[n]]
        gradient = tape.gradient(target, x)[0].numpy().mean(-1)
        if recipe.ranking == "every":
            masked[n] += recipe.fill_value * noise[n]
            continue
        if recipe.ranking in ("random", "fixed"):
            score = ranks[n]
        elif recipe.ranking == "darkest":
            score = image.mean(-1) + 0.001 * np.ptp(image.mean(-1)) * ranks[n]
        else:
            score = {"magnitude": abs(gradient), "signed": gradient, "highest": -abs(gradient)}[recipe.ranking]
        low, high = image.min(axis=(0, 1)), image.max(axis=(0, 1))
        if recipe.fill == "image_range":
            low, high = low.min(), high.max()
        for position in np.argsort(score.reshape(-1), kind="stable")[:count]:
            i, j = divmod(position, image.shape[1])
            masked[n, i, j] = (low + noise[n] * (high - low))[i, j]
    cross_entropies, divergences = [], []
    with tf.GradientTape() as tape:
        for n, label in enumerate(labels):
            p = tf.nn.softmax(model(images[n : n + 1], training=False)[0])
            q = tf.nn.softmax(model(masked[n : n + 1], training=False)[0])
            p_fixed = tf.stop_gradient(p) if recipe.divergence == "stop_gradient" else p
            forward = tf.reduce_sum(p_fixed * tf.math.log(p_fixed / q))
            reverse = tf.reduce_sum(q * tf.math.log(q / p))
            kl = {"reversed": reverse, "symmetric": (forward + reverse) / 2}.get(recipe.divergence, forward)
            cross_entropies.append(-tf.math.log(p[label]))
            divergences.append(kl)
        cross_entropy, kl = (tf.add_n(terms) / len(labels) for terms in (cross_entropies, divergences))
        loss = cross_entropy + kl_weight * kl
    return float(cross_entropy), float(kl), [g.numpy() for g in tape.gradient(loss, model.trainable_weights)]


RECIPES = {
    **sr.RECIPES,
    "reversed": sr.Recipe(divergence="reversed"),
    "symmetric": sr.Recipe(divergence="symmetric"),
    "stop_gradient": sr.Recipe(divergence="stop_gradient"),
    "count": sr.Recipe(mask_count=5),
}


@pytest.mark.parametrize("name", RECIPES)
def test_guided_step_equals_the_slow_version(name):
    recipe, kl_weight = RECIPES[name], 0.7
    images, labels = make_images(3, shape=(8, 8, 2))
    model = sr.SaliencyGuided(make_network((8, 8, 2)), True, recipe, 0.4, kl_weight, seed=5)
    before = model.model.get_weights()
    count = 5 if name == "count" else int(0.4 * 64)
    cross_entropy, kl, gradients = slow_guided_step(model.model, recipe, images, labels, kl_weight, count, seed=5)
    model.compile(keras.optimizers.SGD(1.0))
    logs = fit(model, images, labels).history.history
    assert logs["cross_entropy"][0] == pytest.approx(cross_entropy, abs=1e-5)
    assert logs["kl"][0] == pytest.approx(kl, abs=1e-5) and kl > 1e-4
    assert logs["loss"][0] == pytest.approx(cross_entropy + kl_weight * kl, abs=1e-5)
    for old, new, gradient in zip(before, model.model.get_weights(), gradients, strict=True):
        np.testing.assert_allclose(old - new, gradient, rtol=0, atol=1e-5)


def test_metrics_are_means_over_the_epoch_with_a_ragged_last_batch():
    images, labels = make_images(20)
    model = sr.SaliencyGuided(make_network(), seed=0)
    model.compile(keras.optimizers.SGD(0.0), metrics=["accuracy"])
    logs = {key: values[0] for key, values in fit(model, images, labels).history.history.items()}
    logits = model.predict(images, verbose=0)
    expected = float(keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels, logits))
    assert set(logs) == {"loss", "cross_entropy", "kl", "accuracy"}
    assert logs["cross_entropy"] == pytest.approx(expected, abs=1e-6)
    assert logs["loss"] == pytest.approx(logs["cross_entropy"] + logs["kl"], abs=1e-6)
    assert logs["accuracy"] == pytest.approx((logits.argmax(-1) == labels).mean())
    tested = model.evaluate(images, labels, batch_size=8, verbose=0, return_dict=True)
    assert tested["cross_entropy"] == pytest.approx(expected, abs=1e-6) and tested["kl"] > 0
    assert tested == model.evaluate(images, labels, batch_size=8, verbose=0, return_dict=True)


def test_layer_losses_are_counted_once_and_kept_out_of_the_cross_entropy():
    images, labels = make_images(8)
    flatten, dense = keras.layers.Flatten(), keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1))
    network = keras.Sequential([keras.Input((8, 8, 1)), flatten, dense])
    penalty = 0.1 * float(np.square(network.layers[-1].kernel.numpy()).sum())
    model = sr.SaliencyGuided(network, seed=0)
    model.compile(keras.optimizers.SGD(0.0))
    logs = {key: values[0] for key, values in fit(model, images, labels).history.history.items()}
    assert logs["loss"] == pytest.approx(logs["cross_entropy"] + logs["kl"] + penalty, abs=1e-5)


@pytest.mark.parametrize("saliency", [True, False])
def test_the_first_step_of_a_run_is_traced_once(saliency, monkeypatch):
    from salrob_tf.studies.runs import Run

    step, traced = sr.SaliencyGuided.train_step, []
    monkeypatch.setattr(sr.SaliencyGuided, "train_step", lambda *given: (traced.append(1), step(*given))[1])
    images, labels = make_images(16)
    model = Run(saliency=saliency).build(sr.Dataset.from_arrays(images, labels, images, labels))
    model.fit(images, labels, batch_size=8, verbose=0)
    assert len(traced) == 1


def test_keras_file_reloads_and_goes_on_training_alike(tmp_path):
    images, labels = make_images(40)
    recipe = sr.Recipe(ranking="random", fill="kept_range")

    def start():
        model = sr.SaliencyGuided(make_network(dropout=0.3), True, recipe, 0.3, 2.0, seed=4)
        model.compile(keras.optimizers.Adam(0.01), metrics=["accuracy"])
        return fit(model, images, labels)

    model = start()
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(reloaded, sr.SaliencyGuided) and reloaded.recipe == recipe
    assert (reloaded.mask_fraction, reloaded.kl_weight, reloaded.saliency) == (0.3, 2.0, True)
    assert int(reloaded.optimizer.iterations) == 5
    for each in (model, reloaded):
        fit(each, images, labels)
    for expected, found in zip(model.get_weights(), reloaded.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("saliency", [True, False])
def test_subclassed_classifiers_train_too(saliency):
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.flatten, self.dense = keras.layers.Flatten(), keras.layers.Dense(3)

        def call(self, inputs):
            return self.dense(self.flatten(inputs))

    images, labels = make_images(16)
    network = Subclassed()
    with pytest.raises(ValueError, match="must be built"):
        sr.SaliencyGuided(network, saliency)
    network(images)
    model = sr.SaliencyGuided(network, saliency, seed=0)
    model.compile(keras.optimizers.SGD(0.1))
    assert np.isfinite(fit(model, images, labels).history.history["loss"]).all()


ARGUMENTS = [
    ({"model": None}, "must be a keras.Model, such as .* Received: None"),
    ({"model": "saved_models/guided"}, "must be a keras.Model, such as .* Received: 'saved_models/guided'"),
    ({"model": keras.Sequential([keras.layers.Dense(3)])}, "must be built"),
    ({"recipe": "unknown"}, "Valid: karkehabadi2023"),
    ({"recipe": {}}, r"or a Recipe. Received: recipe=\{\}"),
    ({"recipe": None}, "Received: recipe=None"),
    ({"mask_fraction": 1.0}, "below 1. Received: mask_fraction=1.0"),
    ({"mask_fraction": -0.1}, "mask_fraction=-0.1"),
    ({"mask_fraction": "0.5"}, "`mask_fraction` must be a finite number, .* Received: mask_fraction='0.5'"),
    ({"mask_fraction": None}, "mask_fraction=None"),
    ({"mask_fraction": 0.01}, "0 or at least one of the 64 units, 0.016. Received: mask_fraction=0.01, which masks no"),
    ({"mask_fraction": True}, "mask_fraction=True"),
    ({"mask_fraction": lambda epoch: None}, "mask_fraction=None"),
    ({"mask_fraction": lambda: 0.5}, "A schedule must be a function of the epoch. Received: <function"),
    ({"kl_weight": -1.0}, "kl_weight=-1.0"),
    ({"kl_weight": float("nan")}, "kl_weight=nan"),
    ({"kl_weight": 1e39}, r"0 or more, in float32. Received: kl_weight=1e\+39"),
    ({"kl_weight": lambda epoch: "1"}, "kl_weight='1'"),
    ({"saliency": "False"}, "`saliency` must be True or False. Received: saliency='False'"),
    ({"saliency": None}, "saliency=None"),
    ({"seed": "0"}, "`seed` must be a whole number, 0 or more. Received: seed='0'"),
    ({"seed": 0.5}, "seed=0.5"),
    ({"seed": -1}, "seed=-1"),
    ({"seed": 2**64}, "seed=18446744073709551616"),
]


@pytest.mark.parametrize(("arguments", "message"), ARGUMENTS)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        sr.SaliencyGuided(**{"model": make_network(), **arguments})


@pytest.mark.parametrize("optimizer", ["none", {}, 3, object()])
def test_what_is_no_optimizer_is_one_line(optimizer):
    with pytest.raises(ValueError, match=r"^`optimizer` must be one of Keras, or its name. Received: optimizer="):
        sr.SaliencyGuided(make_network(), saliency=False).compile(optimizer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shape": (5, 8, 1)}, r"of images of 6 x 6 or more. Received: input_shape=\(5, 8, 1\)"),
        ({"input_shape": (8, 8)}, r"must be \(height, width, channels\)"),
        ({"input_shape": (8.0, 8, 1)}, "8.0"),
        ({"input_shape": None}, "input_shape=None"),
        ({"num_classes": 1}, "`num_classes` must be a whole number, 2 or more. Received: num_classes=1"),
        ({"num_classes": "3"}, "num_classes='3'"),
        ({"dtype": "mixed_float17"}, "`dtype` must be a dtype policy of floats, .* Received: dtype='mixed_float17'"),
        ({"dtype": "int32"}, "dtype='int32'"),
    ],
)
def test_networks_that_cannot_be_built_are_one_line(arguments, message):
    with pytest.raises(ValueError, match=message):
        sr.cnn(**{"input_shape": (8, 8, 1), "num_classes": 3, **arguments})


def test_numbers_of_numpy_are_arguments_too(tmp_path):
    recipe = sr.Recipe(fill="constant", fill_value=np.float32(0.5), mask_count=np.int64(7))
    model = sr.SaliencyGuided(make_network(), np.True_, recipe, np.float32(0.25), np.int64(2), np.uint8(3))
    model.compile("sgd")
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    assert reloaded.recipe == sr.Recipe(fill="constant", fill_value=0.5, mask_count=7)
    assert (reloaded.saliency, reloaded.mask_fraction, reloaded.kl_weight, reloaded.seed) == (True, 0.25, 2.0, 3)


def test_classifiers_that_end_in_softmax_are_refused():
    network = make_network()
    for softmax in (keras.layers.Softmax(), keras.layers.Activation("softmax")):
        with pytest.raises(ValueError, match="ends in softmax"):
            sr.SaliencyGuided(keras.Sequential([network, softmax]))
    dense = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")])
    with pytest.raises(ValueError, match="ends in softmax"):
        sr.SaliencyGuided(dense)


class FromProbabilities(keras.losses.CategoricalCrossentropy):
    pass


def test_losses_of_probabilities_are_refused():
    losses, model = keras.losses, sr.SaliencyGuided(make_network(), saliency=False)
    functions = [
        losses.binary_crossentropy,
        losses.binary_focal_crossentropy,
        losses.categorical_crossentropy,
        losses.categorical_focal_crossentropy,
        losses.dice,
        losses.kl_divergence,
        losses.mean_squared_logarithmic_error,
        losses.poisson,
        losses.sparse_categorical_crossentropy,
        losses.tversky,
    ]
    classes = [getattr(losses, name) for name in dir(losses) if name.endswith(("entropy", "Entropy", "Divergence"))]
    others = (losses.Poisson(), losses.Dice(), losses.Tversky(), losses.MeanSquaredLogarithmicError())
    nested = (["sparse_categorical_crossentropy"], {"dense": losses.SparseCategoricalCrossentropy()})
    names = [function.__name__ for function in functions] + ["bce", "kld", "msle", "BinaryCrossentropy", "KLDivergence"]
    instances = [kind() for kind in classes if isinstance(kind, type)]
    assert len(instances) == 7
    for loss in (*functions, *names, *classes, *instances, *others, *nested, FromProbabilities()):
        with pytest.raises(
            ValueError, match=r"probabilities: pass (.*from_logits=True\)|a function .*)\. Received: loss"
        ):
            model.compile("sgd", loss)


def test_losses_that_logits_suit_are_taken():
    images, labels = make_images(8)
    model = sr.SaliencyGuided(make_network(), saliency=False)
    for loss in (
        *(
            "mse",
            "hinge",
            "cosine_similarity",
            "huber",
            keras.losses.MeanSquaredError(),
            keras.losses.categorical_hinge,
        ),
        *(keras.losses.BinaryCrossentropy(from_logits=True), FromProbabilities(from_logits=True)),
        lambda y, logits: keras.losses.kl_divergence(y, keras.ops.softmax(logits)),
    ):
        model.compile("sgd", loss, run_eagerly=True)
        assert np.isfinite(model.train_on_batch(images, np.eye(3)[labels])).all()


def test_what_is_no_loss_is_one_line():
    model = sr.SaliencyGuided(make_network(), saliency=False)
    for loss in ("crossentropy", 3, object(), ["mse", "mse"], [], {}):
        with pytest.raises(ValueError, match=r"^(`loss` must be a loss|A classifier has one)[^\n]*Received: [^\n]*$"):
            model.compile("sgd", loss)


def test_the_default_loss_follows_the_labels_and_is_saved(tmp_path):
    images, labels = make_images(16)
    model = sr.SaliencyGuided(make_network(), seed=0)
    model.compile(keras.optimizers.SGD(0.1), metrics=["accuracy"])
    model.save(tmp_path / "model.keras")
    weights, histories = [], []
    for y in (labels, labels[:, None], np.eye(3)[labels]):
        model = keras.saving.load_model(tmp_path / "model.keras")
        histories.append(fit(model, images, y, validation_data=(images, y)).history.history)
        weights.append(model.get_weights())
    for row in (1, 2):
        for found, wanted in zip(weights[row], weights[0], strict=True):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
        for key, wanted in histories[0].items():
            assert histories[row][key] == pytest.approx(wanted, abs=1e-5), key


def test_saving_warns_of_nothing(tmp_path):
    model = sr.SaliencyGuided(make_network())
    model.compile("sgd")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.save(tmp_path / "model.keras")
        keras.saving.load_model(tmp_path / "model.keras")


def test_files_with_the_former_default_loss_go_on_training(tmp_path):
    images, labels = make_images(8)
    model = sr.SaliencyGuided(make_network())
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(reloaded.loss) is keras.losses.SparseCategoricalCrossentropy
    assert np.isfinite(fit(reloaded, images, labels).history.history["loss"]).all()


def test_kl_keeps_its_gradient_where_keras_clips():
    """A probability below 1e-7 on the masked image: keras.losses.kl_divergence has no gradient there."""
    from salrob_tf.training.divergence import Divergence

    clean, masked = tf.constant([[0.0, 0.0]]), tf.Variable([[0.0, -40.0]])
    with tf.GradientTape() as tape:
        kl = Divergence("forward")(clean, masked)
    assert float(kl) == pytest.approx(20 - np.log(2), abs=1e-4)
    np.testing.assert_allclose(tape.gradient(kl, masked), [[0.5, -0.5]], atol=1e-6)
