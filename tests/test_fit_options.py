"""What `fit` and `compile` may bring, each against a hand-written eager loop: losses, logs and weights."""

import csv
import functools
from functools import cache

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_images, make_network

import salrob_tf as sr

CONSTANT = sr.Recipe(fill="constant", fill_value=0.5)
IMAGES, LABELS = make_images(20)
ONE_HOT = np.eye(3, dtype=np.float32)[LABELS]
WEIGHTS = np.linspace(0.2, 2.0, 20).astype(np.float32)
CLASS_WEIGHT = {0: 0.5, 1: 1.0, 2: 3.0}
BATCH = 8  # so that the last batch is ragged


def cross_entropy(y, logits):
    return -tf.gather(tf.nn.log_softmax(logits), y, axis=1, batch_dims=1)


def smoothed(y, logits):
    return -tf.reduce_sum((0.9 * tf.one_hot(y, 3) + 0.1 / 3) * tf.nn.log_softmax(logits), axis=1)


def squared_margin(y, logits):
    wanted = tf.gather(logits, tf.cast(tf.reshape(y, [-1]), tf.int32), axis=1, batch_dims=1)
    return 0.1 * tf.square(1.0 - wanted)


def masked_images(network, images, labels, mode):
    x = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(x)
        logit = tf.gather(tf.cast(network(x, training=mode), tf.float32), labels, axis=1, batch_dims=1)
    score = np.abs(tape.gradient(logit, x).numpy().mean(-1)).reshape(len(images), -1)
    masked = images.copy().reshape(len(images), -1, images.shape[-1])
    for row, order in enumerate(np.argsort(score, axis=1, kind="stable")):
        masked[row, order[: score.shape[1] // 2]] = 0.5
    return masked.reshape(images.shape)


@cache
def eager_loop(build, make_optimizer, loss=cross_entropy, weights=(1.0,) * 20, epochs=1, kl_weight=1.0):
    """Algorithm 1 written out, batch after batch; gives the mean loss, cross-entropy and divergence of each epoch.

    And the weights thereafter. Once for all options that ask the same of it.
    """
    network, optimizer, weights = build(), make_optimizer(), np.float32(weights)
    optimizer.build(network.trainable_variables)
    history = []
    for epoch in range(epochs):
        sums, weight_of_kl = np.zeros(3), kl_weight(epoch) if callable(kl_weight) else kl_weight
        for start in range(0, len(IMAGES), BATCH):
            rows = slice(start, start + BATCH)
            masked = masked_images(network, IMAGES[rows], LABELS[rows], mode=False)
            with tf.GradientTape() as tape:
                logits = tf.cast(network(IMAGES[rows], training=True), tf.float32)
                added = tf.add_n([tf.reduce_sum(term) for term in network.losses] or [tf.constant(0.0)])
                log_p = tf.nn.log_softmax(logits)
                log_q = tf.nn.log_softmax(tf.cast(network(masked, training=True), tf.float32))
                first = tf.reduce_mean(loss(LABELS[rows], logits) * weights[rows])
                kl = tf.reduce_mean(tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=1) * weights[rows])
                whole = first + added + weight_of_kl * kl
                scaled = optimizer.scale_loss(whole)
            optimizer.apply_gradients(
                zip(tape.gradient(scaled, network.trainable_weights), network.trainable_weights, strict=True)
            )
            sums += np.array([whole, first, kl]) * len(masked)
        history.append(sums / len(IMAGES))
    optimizer.finalize_variable_values(network.trainable_variables)
    return np.array(history), network.get_weights()


def sgd():
    return keras.optimizers.SGD(0.5, momentum=0.9)


def slower_sgd():
    return keras.optimizers.SGD(0.1)


@cache
def compiled(saliency):
    model = sr.SaliencyGuided(make_network(), saliency, recipe=CONSTANT)
    model.compile(sgd())
    model.optimizer.build(model.trainable_variables)
    return model, start_of(model)


def fresh(saliency=True):
    """A compiled model before its first step, the same each time: what a step was traced for is not traced again."""
    model, start = compiled(saliency)
    go_back(start)
    return model


def start_of(model):
    return [(variable, variable.numpy()) for variable in (*model.variables, *model.optimizer.variables)]


def go_back(start):
    for variable, value in start:
        variable.assign(value)


def l2_network():
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1), activity_regularizer="l2")
    return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), dense])


def warm_up(epoch):
    return epoch / 2


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, number):
        rows = slice(number * BATCH, (number + 1) * BATCH)
        return IMAGES[rows], LABELS[rows]


def generator():
    for number in range(3):
        yield Batches()[number]


def dataset(*parts, batch=BATCH):
    """Not tuned: what an error leaves of a stream that is waits for the tuning's next look when it is cleared away."""
    untuned = tf.data.Options()
    untuned.autotune.enabled = False
    return tf.data.Dataset.from_tensor_slices(parts).batch(batch).with_options(untuned)


ARRAYS = {"x": IMAGES, "y": LABELS, "batch_size": BATCH, "shuffle": False}
# Name: what the wrapper's `fit` and `compile` are given, and what the written-out loop does about it.
OPTIONS = {
    "two epochs": ({"epochs": 2}, {}, {"epochs": 2}),
    "sample_weight": ({"sample_weight": WEIGHTS}, {}, {"weights": tuple(WEIGHTS)}),
    "class_weight": ({"class_weight": CLASS_WEIGHT}, {}, {"weights": tuple(CLASS_WEIGHT[y] for y in LABELS)}),
    "tf.data": ({"x": dataset(IMAGES, LABELS), "y": None, "batch_size": None}, {}, {}),
    "tf.data with weights": (
        {"x": dataset(IMAGES, LABELS, WEIGHTS), "y": None, "batch_size": None}, {}, {"weights": tuple(WEIGHTS)},
    ),
    "generator": ({"x": generator, "y": None, "batch_size": None}, {}, {}),
    "PyDataset": ({"x": Batches(), "y": None, "batch_size": None}, {}, {}),
    "labels (N, 1)": ({"y": LABELS[:, None]}, {"run_eagerly": False}, {}),  # a step for them alone
    "steps_per_execution": ({"epochs": 2}, {"steps_per_execution": 2}, {"epochs": 2}),
    "run_eagerly": ({}, {"run_eagerly": True}, {}),
    "jit_compile": ({}, {"jit_compile": True}, {}),
    "custom loss": ({}, {"loss": squared_margin}, {"loss": squared_margin}),
    "label smoothing": (
        {"y": ONE_HOT},
        {"loss": keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)},
        {"loss": smoothed},
    ),
    "layer losses": ({}, {"network": l2_network}, {}),
    "clipnorm": ({}, {"optimizer": lambda: keras.optimizers.SGD(0.5, clipnorm=0.05)}, {}),
    "global_clipnorm": ({}, {"optimizer": lambda: keras.optimizers.SGD(0.5, global_clipnorm=0.05)}, {}),
    "clipvalue and weight decay": (
        {}, {"optimizer": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1, clipvalue=0.01)}, {},
    ),
    "moving average": ({}, {"optimizer": lambda: keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.7)}, {}),
    "gradient accumulation": (
        {"epochs": 2}, {"optimizer": lambda: keras.optimizers.SGD(0.5, gradient_accumulation_steps=2)}, {"epochs": 2},
    ),
    "kl_weight of the epoch": ({"epochs": 3}, {"kl_weight": warm_up}, {"epochs": 3, "kl_weight": warm_up}),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_fit_does_what_the_written_out_loop_does(name):
    fit, options, loop = OPTIONS[name]
    options = {"network": make_network, "optimizer": sgd, "kl_weight": 1.0, **options}
    build, optimizer, kl_weight = (options.pop(key) for key in ("network", "optimizer", "kl_weight"))
    expected, expected_weights = eager_loop(build, optimizer, **loop)
    if OPTIONS[name][1]:
        model = sr.SaliencyGuided(build(), recipe=CONSTANT, kl_weight=kl_weight)
        model.compile(optimizer(), **options)
    else:
        model = fresh()
    arguments = {**ARRAYS, **fit}
    if arguments["x"] is generator:
        arguments["x"] = generator()
    history = model.fit(**arguments, verbose=0).history
    for found, wanted in zip(model.model.get_weights(), expected_weights, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    for column, key in enumerate(("loss", "cross_entropy", "kl")):
        np.testing.assert_allclose(history[key], expected[:, column], rtol=0, atol=1e-5)


def test_train_on_batch_does_what_the_written_out_loop_does():
    expected, expected_weights = eager_loop(make_network, sgd, weights=tuple(WEIGHTS))
    model, losses = fresh(), []
    for start in range(0, 20, BATCH):
        rows = slice(start, start + BATCH)
        logs = model.train_on_batch(IMAGES[rows], LABELS[rows], sample_weight=WEIGHTS[rows], return_dict=True)
        losses += [logs["loss"]] * len(LABELS[rows])
    assert np.mean(losses) == pytest.approx(expected[0, 0], abs=1e-5)
    for found, wanted in zip(model.model.get_weights(), expected_weights, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_follows_the_float32_loop(policy):
    expected, expected_weights = eager_loop(make_network, slower_sgd, epochs=2)
    keras.config.set_dtype_policy(policy)
    try:
        model = sr.SaliencyGuided(make_network(), recipe=CONSTANT)
        model.compile(slower_sgd())
    finally:
        keras.config.set_dtype_policy("float32")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == (policy == "mixed_float16")
    history = model.fit(**ARRAYS, epochs=2, verbose=0).history
    for column, key in enumerate(("loss", "cross_entropy", "kl")):
        np.testing.assert_allclose(history[key], expected[:, column], rtol=0, atol=1e-2)
    for found, wanted in zip(model.model.get_weights(), expected_weights, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-2)


def test_no_input_gradient_underflows_in_float16():
    """Images that a network is sure of: the gradient of their log-softmax is below what float16 can hold."""
    keras.utils.set_random_seed(0)
    networks = []
    for policy in ("float32", "mixed_float16"):
        layers = [keras.layers.Flatten(dtype=policy), keras.layers.Dense(3, dtype=policy)]
        networks.append(keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Rescaling(40.0)]))
    networks[1].set_weights(networks[0].get_weights())
    labels = networks[0](IMAGES).numpy().argmax(-1)
    recipe = sr.Recipe(gradient_of="log_softmax", ranking="signed")
    from salrob_tf.saliency.ranking import input_gradient

    exact, half = (input_gradient(net, tf.constant(IMAGES), tf.constant(labels), recipe)[0].numpy() for net in networks)
    assert np.abs(exact).max(axis=(1, 2, 3)).min() < 1e-7 and (exact != 0).all()
    assert (half != 0).all()
    # The logits themselves differ, and with them the size of the whole gradient, which no ranking looks at.
    half, exact = (gradient / np.abs(gradient).max(axis=(1, 2, 3), keepdims=True) for gradient in (half, exact))
    np.testing.assert_allclose(half, exact, rtol=0, atol=2e-2)


@pytest.mark.parametrize("gap", [60.0, 84.0, 86.5])
def test_images_that_a_network_is_sure_of_are_ranked(gap):
    """Gradients of log-softmax near the smallest number of float32; logits that grow in a known order of pixels."""
    from salrob_tf.saliency.ranking import saliency_scores

    weights = np.zeros((16, 2), np.float32)
    weights[:, 1] = -np.linspace(1, 2, 16)
    images = np.full((1, 4, 4, 1), 0.5, np.float32)
    bias = np.float32([gap + (images.reshape(16) @ weights)[1], 0])
    network = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    network.set_weights([weights, bias])
    recipe = sr.Recipe(gradient_of="log_softmax")
    for dtype in (tf.float32, tf.float16):
        scores = saliency_scores(network, tf.constant(images, dtype), tf.constant([0]), recipe, 0)[0].numpy()
        assert np.array_equal(np.argsort(scores.reshape(-1)), np.arange(16))


@pytest.mark.parametrize("recipe", [CONSTANT, sr.Recipe(fill="constant", fill_value=0.5, saliency_mode="training")])
def test_validation_reports_the_objective_in_inference_mode(recipe):
    network = make_network(dropout=0.5)
    model = sr.SaliencyGuided(network, recipe=recipe, kl_weight=0.3)
    model.compile(keras.optimizers.SGD(0.0))
    held_out, held_labels = IMAGES[12:], LABELS[12:]
    masked = masked_images(network, held_out, held_labels, mode=False)
    log_p, log_q = (tf.nn.log_softmax(network(batch, training=False)) for batch in (held_out, masked))
    kl = float(tf.reduce_mean(tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=1)))
    first = float(tf.reduce_mean(cross_entropy(held_labels, log_p)))
    asked = {"validation_split": 0.4}, {"validation_data": (held_out, held_labels)}
    for options in asked:
        history = model.fit(IMAGES, LABELS, batch_size=BATCH, verbose=0, **options).history
        assert history["val_cross_entropy"] == pytest.approx([first], abs=1e-5)
        assert history["val_kl"] == pytest.approx([kl], abs=1e-5)
        assert history["val_loss"] == pytest.approx([first + 0.3 * kl], abs=1e-5)


def test_callbacks_of_keras_see_both_terms(tmp_path):
    model = sr.SaliencyGuided(make_network(), recipe=CONSTANT)
    model.compile(keras.optimizers.SGD(0.1), metrics=["accuracy"])
    best = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", monitor="val_kl", save_best_only=True, mode="min")
    history = model.fit(
        **ARRAYS,
        epochs=6,
        verbose=0,
        validation_data=(IMAGES, LABELS),
        callbacks=[
            keras.callbacks.CSVLogger(tmp_path / "log.csv"),
            keras.callbacks.TensorBoard(tmp_path / "board"),
            keras.callbacks.EarlyStopping("val_kl", patience=0, min_delta=1e9, mode="min"),
            best,
        ],
    ).history
    assert len(history["loss"]) == 2  # nothing improves by 1e9, so that the second epoch is the last
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["kl"]) for row in rows] == pytest.approx(history["kl"])
    assert {"loss", "cross_entropy", "val_loss", "val_kl", "accuracy"} <= set(rows[0])
    tags = set()
    for file in (tmp_path / "board").rglob("events*"):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            tags |= {value.tag for value in event.summary.value}
    assert {"epoch_kl", "epoch_cross_entropy", "epoch_loss"} <= tags
    reloaded = keras.saving.load_model(tmp_path / "best.keras")
    assert reloaded.evaluate(IMAGES, LABELS, verbose=0, return_dict=True)["kl"] == pytest.approx(
        min(history["val_kl"]), abs=1e-6
    )


def test_backup_and_restore_goes_on_where_it_was_interrupted(tmp_path):
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def start():
        model = sr.SaliencyGuided(make_network(dropout=0.5), seed=3)
        model.compile(keras.optimizers.Adam(0.01))
        model.optimizer.build(model.trainable_variables)
        return model

    def run(model, *callbacks):
        return model.fit(**ARRAYS, epochs=4, verbose=0, callbacks=list(callbacks))

    model = start()
    before = start_of(model)
    run(model)
    whole = model.get_weights()
    go_back(before)
    with pytest.raises(KeyboardInterrupt):
        run(model, keras.callbacks.BackupAndRestore(tmp_path), Interrupt())
    resumed = start()
    history = run(resumed, keras.callbacks.BackupAndRestore(tmp_path)).history
    assert len(history["loss"]) == 2
    for found, wanted in zip(resumed.get_weights(), whole, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


def with_moving_parts():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    parts = [layers.Conv2D(4, 3), layers.BatchNormalization(momentum=0.5), layers.ReLU(), layers.Flatten()]
    return keras.Sequential([keras.Input((8, 8, 1)), *parts, layers.Dropout(0.5), layers.Dense(3)])


@pytest.mark.parametrize("dropout", ["independent", "shared"])
@pytest.mark.parametrize("moving_statistics", ["clean", "both"])
@pytest.mark.parametrize("saliency_mode", ["inference", "training"])
def test_each_pass_does_to_the_layers_what_the_recipe_says(saliency_mode, moving_statistics, dropout):
    """A step written out: states are set by hand before and after each pass."""
    expected = with_moving_parts()
    norm, drop = expected.layers[1], expected.layers[4].seed_generator.state
    statistics = [norm.moving_mean, norm.moving_variance]
    images, labels = IMAGES[:8], LABELS[:8]
    drawn = drop.numpy()
    masked = masked_images(expected, images, labels, mode=saliency_mode == "training")
    for variable, fresh in zip(statistics, (0.0, 1.0), strict=True):
        variable.assign(np.full(variable.shape, fresh, np.float32))  # the training-mode pass is the clean pass itself
    drop.assign(drawn)
    with tf.GradientTape() as tape:
        log_p = tf.nn.log_softmax(expected(images, training=True))
        after_clean = [variable.numpy() for variable in statistics]
        if dropout == "shared":
            drop.assign(drawn)
        log_q = tf.nn.log_softmax(expected(masked, training=True))
        if moving_statistics == "clean":
            for variable, value in zip(statistics, after_clean, strict=True):
                variable.assign(value)
        kl = tf.reduce_mean(tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=1))
        loss = tf.reduce_mean(cross_entropy(labels, log_p)) + kl
    for variable, gradient in zip(
        expected.trainable_weights, tape.gradient(loss, expected.trainable_weights), strict=True
    ):
        variable.assign_sub(gradient)
    recipe = sr.Recipe(
        fill="constant",
        fill_value=0.5,
        saliency_mode=saliency_mode,
        moving_statistics=moving_statistics,
        dropout=dropout,
    )
    model = sr.SaliencyGuided(with_moving_parts(), recipe=recipe)
    model.compile(keras.optimizers.SGD(1.0))
    history = model.fit(images, labels, batch_size=8, shuffle=False, verbose=0).history
    assert history["kl"] == pytest.approx([float(kl)], abs=1e-5)
    for found, wanted in zip(model.model.variables, expected.variables, strict=True):
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=0, atol=1e-5)


def test_one_forward_pass_serves_the_ranking_and_the_loss_where_the_modes_agree():
    def calls_in_a_step(recipe, *layers):
        class Counted(keras.layers.Layer):
            calls = 0

            def call(self, inputs):
                Counted.calls += 1
                return inputs

        parts = [Counted(), keras.layers.Flatten(), *layers, keras.layers.Dense(3)]
        model = sr.SaliencyGuided(keras.Sequential([keras.Input((8, 8, 1)), *parts]), recipe=recipe)
        model.compile(run_eagerly=True)
        model.train_on_batch(IMAGES[:4], LABELS[:4])
        Counted.calls = 0
        model.train_on_batch(IMAGES[:4], LABELS[:4])
        return Counted.calls

    dropout = keras.layers.Dropout(0.5)
    nested = keras.Sequential([keras.layers.Dense(5, activation="relu")])
    assert calls_in_a_step(CONSTANT) == calls_in_a_step(CONSTANT, nested) == 2
    assert calls_in_a_step(CONSTANT, dropout) == calls_in_a_step(CONSTANT, keras.Sequential([dropout])) == 3
    assert calls_in_a_step(sr.Recipe(saliency_mode="training"), dropout) == 2
    assert calls_in_a_step(sr.Recipe(ranking="random"), dropout) == 2


def test_schedules_are_followed_saved_and_checked(tmp_path):
    ramp = keras.optimizers.schedules.PolynomialDecay(0.0, 4, 0.8)
    model = sr.SaliencyGuided(make_network(), recipe=CONSTANT, mask_fraction=ramp, kl_weight=lambda epoch: 2.0 - epoch)
    model.compile(keras.optimizers.SGD(0.0))
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append((int(model.mask_count), float(model.current_kl_weight), logs["kl"]))

    model.fit(**ARRAYS, epochs=3, verbose=0, callbacks=Watch())
    assert [(count, weight) for count, weight, _ in seen] == [(0, 2.0), (12, 1.0), (25, 0.0)]
    assert seen[0][2] == pytest.approx(0, abs=1e-7)
    for fraction, (_, _, kl) in zip((0.2, 0.4), seen[1:], strict=True):
        fixed = sr.SaliencyGuided(make_network(), recipe=CONSTANT, mask_fraction=fraction)
        fixed.compile()
        assert fixed.evaluate(IMAGES, LABELS, verbose=0, return_dict=True)["kl"] == pytest.approx(kl, abs=1e-6)
    with pytest.raises(ValueError, match="kl_weight=-1.0"):
        model.fit(**ARRAYS, initial_epoch=3, epochs=4, verbose=0)
    plain = sr.SaliencyGuided(make_network(), mask_fraction=ramp, kl_weight=registered)
    plain.set_epoch(2)
    plain.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    assert int(reloaded.mask_count) == 25 and float(reloaded.current_kl_weight) == 0.5
    reloaded.set_epoch(4)
    assert int(reloaded.mask_count) == 51 and float(reloaded.current_kl_weight) == 1.0
    model.set_epoch(1)
    with pytest.warns(UserWarning, match=r"it gets kl_weight=1, its value in epoch 1. Decorate"):
        model.save(tmp_path / "plain.keras")
    assert keras.saving.load_model(tmp_path / "plain.keras").kl_weight == 1.0
    partial = sr.SaliencyGuided(make_network(), kl_weight=functools.partial(max, 0.5))
    partial.set_epoch(2)
    with pytest.warns(UserWarning, match="it gets kl_weight=2, its value in epoch 2"):
        partial.save(tmp_path / "partial.keras")
    assert keras.saving.load_model(tmp_path / "partial.keras").kl_weight == 2.0


@keras.saving.register_keras_serializable()
def registered(epoch):
    return epoch / 4


def test_layers_set_free_before_compile_end_the_sharing():
    network = with_moving_parts()
    network.layers[4].rate = 0.0
    network.trainable = False
    model = sr.SaliencyGuided(network)
    model.compile("sgd")
    assert model.shares_forward
    network.trainable = True
    model.compile("sgd")
    assert not model.shares_forward


def test_shared_dropout_is_shared_with_layers_that_always_draw():
    class Always(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.seed_generator = keras.random.SeedGenerator(1)

        def call(self, inputs):
            return keras.random.dropout(inputs, 0.5, seed=self.seed_generator)

    network = keras.Sequential([keras.Input((8, 8, 1)), Always(), keras.layers.Flatten(), keras.layers.Dense(3)])
    model = sr.SaliencyGuided(network, recipe=sr.Recipe(dropout="shared"), mask_fraction=0.0)
    model.compile("sgd")
    assert model.fit(**ARRAYS, verbose=0).history["kl"] == pytest.approx([0], abs=1e-7)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (IMAGES[:, :4], LABELS, r"images of shape \(8, 8, 1\). Received: shape=\(20, 4, 8, 1\)"),
        (IMAGES, np.eye(4)[LABELS], r"one-hot \(N, 3\). Received: shape=\(20, 4\)"),
        (IMAGES, ONE_HOT[:7], "20 in all"),
        (IMAGES, LABELS + 0.5, "must be integers"),
        (tf.constant(IMAGES), tf.constant(LABELS + 1), "must be 0 to 2"),
        (tf.constant(IMAGES * np.nan), LABELS, "NaN or infinity in 100.0%"),
        (IMAGES, ONE_HOT * np.nan, "`y` must be one row of finite numbers per image, 20 in all"),
        (IMAGES > 0.5, LABELS, "must be numbers, one image or more. Received: dtype=bool"),
        (IMAGES.astype(object), LABELS, "must be numbers, one image or more. Received: dtype=object"),
        (list(IMAGES), LABELS.tolist(), "one array or tensor, .* Received: list of 20"),
        (dataset(IMAGES > 0.5, LABELS), None, r"numbers, .* Received: x=bool \(None, 8, 8, 1\)"),
        (dataset((IMAGES, IMAGES), LABELS), None, "one tensor of numbers.* Received: x=tuple"),
        (dataset(IMAGES), None, "Received: y=NoneType"),
        (dataset(IMAGES, np.eye(5)[LABELS]), None, r"Received: y=float64 \(None, 5\)"),
        (dataset(IMAGES, LABELS.astype(str)), None, "Received: y=string"),
    ],
)
def test_fit_names_bad_input_before_the_first_step(x, y, message):
    model = fresh()
    with pytest.raises(ValueError, match=message):
        model.fit(x, y, verbose=0)
    assert int(model.optimizer.iterations) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_data": (IMAGES.astype(str), LABELS)}, "must be numbers"),
        ({"validation_data": (IMAGES * np.nan, LABELS)}, "NaN or infinity"),
        ({"sample_weight": WEIGHTS * np.nan}, "Sample weights must be finite numbers"),
        ({"sample_weight": WEIGHTS.astype(str)}, "Sample weights must be finite numbers"),
        ({"sample_weight": WEIGHTS[:7]}, "20 sample weights, one per image. Received: ndarray of float32 \\(7,\\)"),
        ({"batch_size": "8"}, "`batch_size` must be a whole number, 1 or more. Received: batch_size='8'"),
        ({"batch_size": 2.5}, "batch_size=2.5"),
        ({"epochs": True}, "epochs=True"),
        ({"epochs": None}, "epochs=None"),
        ({"validation_batch_size": 0}, "validation_batch_size=0"),
        (
            {"validation_split": "0.5"},
            "`validation_split` must be a finite number, .* Received: validation_split='0.5'",
        ),
        ({"validation_data": (IMAGES,)}, "`validation_data` must be images and labels. Received: 1 parts"),
        ({"validation_data": "mnist5k"}, "one array or tensor, .* Received: str, 'mnist5k'"),
        ({"class_weight": {3: 1.0}}, r"weights by class, 0 to 2. Received: class_weight=\{3: 1.0\}"),
        ({"class_weight": [1, 2, 3]}, "`class_weight` must be a dictionary"),
        ({"class_weight": {0: "1"}}, r"`class_weight\[0\]` must be a finite number"),
        ({"callbacks": [keras.callbacks.History(), 5]}, "`callbacks` must be callbacks of Keras"),
        ({"y": "labels"}, "`y` must be an array, one entry per image. Received: y='labels'"),
        ({"y": 5}, "Received: y=5"),
        ({"x": None}, "Received: NoneType, None"),
        ({"x": 5}, "Received: int, 5"),
    ],
)
def test_what_comes_beside_the_images_is_looked_at_too(options, message):
    model = fresh()
    with pytest.raises(ValueError, match=message):
        model.fit(**ARRAYS | options, verbose=0)
    assert int(model.optimizer.iterations) == 0


WRONG = {
    "out of range": (LABELS + (LABELS == 2) * 5, "`y` must be whole numbers from 0 to 2. Received: 7"),
    "negative": (LABELS - (LABELS == 0), "Received: -1"),
    "fractions": (LABELS + 0.5 * (LABELS == 0), "Received: 0.5"),
    "one-hot": (np.where(np.arange(20)[:, None] == 17, np.nan, ONE_HOT), "finite numbers per image. Received: NaN"),
}


@pytest.mark.parametrize("saliency", [True, False])
def test_labels_in_another_form_than_before_are_one_line_that_says_how_they_may_be(saliency):
    model = fresh(saliency=saliency)
    model.fit(IMAGES, LABELS, verbose=0)
    with pytest.raises(ValueError, match=r"in the same form.* Received: another than before; call .* in between"):
        model.fit(IMAGES, LABELS[:, None], verbose=0)
    model.make_train_function(force=True)
    model.fit(IMAGES, LABELS[:, None], verbose=0)
    model.make_train_function(force=True)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_labels_in_batches_are_one_line(name):
    labels, message = WRONG[name]
    model = fresh(saliency=False)
    with pytest.raises(ValueError, match=message) as caught:
        model.fit(dataset(IMAGES, labels), verbose=0)
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize("options", [{}, {"jit_compile": True}, {"steps_per_execution": 2}, {"run_eagerly": True}])
def test_wrong_labels_end_a_step_before_it_touches_the_weights(options):
    model = sr.SaliencyGuided(make_network())
    model.compile("sgd", **options)
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"^`y` must be .*Received: .*7$"):
        model.fit(dataset(IMAGES, LABELS + (np.arange(20) == 3) * (7 - LABELS)), verbose=0)
    for found, wanted in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("way", ["generator", "PyDataset", "validation", "evaluate", "train_on_batch", "test_on_batch"])
def test_wrong_labels_are_found_in_whatever_way_they_come(way):
    labels = LABELS + (LABELS == 2)

    class Wrong(Batches):
        def __getitem__(self, number):
            rows = slice(number * BATCH, (number + 1) * BATCH)
            return IMAGES[rows], labels[rows]

    model = fresh(saliency=False)
    ways = {
        "generator": lambda: model.fit((batch for batch in (Wrong()[n] for n in range(3))), verbose=0),
        "PyDataset": lambda: model.fit(Wrong(), verbose=0),
        "validation": lambda: model.fit(**ARRAYS, validation_data=dataset(IMAGES, labels), verbose=0),
        "evaluate": lambda: model.evaluate(dataset(IMAGES, labels), verbose=0),
        "train_on_batch": lambda: model.train_on_batch(IMAGES, labels),
        "test_on_batch": lambda: model.test_on_batch(tf.constant(IMAGES), tf.constant(labels)),
    }
    with pytest.raises(ValueError, match="^`y` must be .* Received: .*3$"):
        ways[way]()


def test_labels_of_few_bits_do_for_many_classes():
    network = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(300)])
    model = sr.SaliencyGuided(network, saliency=False)
    model.compile("sgd")
    for dtype in (np.uint8, np.int8, np.float16):
        assert np.isfinite(model.fit(dataset(IMAGES, LABELS.astype(dtype)), verbose=0).history["loss"]).all()


def test_predictions_are_made_of_whatever_keras_takes():
    model = sr.SaliencyGuided(make_network(), saliency=False)
    model.compile("sgd", run_eagerly=True)
    assert np.isnan(model.predict(IMAGES * np.nan, verbose=0)).all()
    assert np.isnan(model.predict_on_batch(IMAGES * np.nan)).all()


def test_lists_of_labels_and_weights_are_taken():
    weights = []
    for labels, factors in ((LABELS, WEIGHTS), (LABELS.tolist(), WEIGHTS.tolist()), (tuple(ONE_HOT), tuple(WEIGHTS))):
        model = sr.SaliencyGuided(make_network(), saliency=False)
        model.compile(sgd(), run_eagerly=True)  # what they become is looked at before a step
        model.fit(IMAGES, labels, sample_weight=factors, validation_data=(IMAGES, labels), shuffle=False, verbose=0)
        model.train_on_batch(IMAGES, labels, sample_weight=factors)
        model.evaluate(IMAGES, labels, sample_weight=factors, verbose=0)
        weights.append(model.get_weights())
    for each in weights[1:]:
        for found, wanted in zip(each, weights[0], strict=True):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


BYTES = np.round(IMAGES * 255).astype(np.uint8)


def scaling_network():
    network = make_network()
    return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Rescaling(1 / 255), *network.layers])


def trained_guided(images):
    """What an epoch of guided training tells and leaves, with 8-bit images to validate."""
    model = sr.SaliencyGuided(scaling_network(), seed=0)
    model.compile(sgd())
    options = {"shuffle": False, "validation_data": (BYTES, LABELS), "validation_batch_size": BATCH, "verbose": 0}
    return [*model.fit(**images | options).history.values(), *model.get_weights()]


@pytest.fixture(scope="module")
def as_in_keras():
    """Weights that Keras' own training leads to, and what guided training of the same images as floats does."""
    plain = scaling_network()
    plain.compile(sgd(), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    plain.fit(**{**ARRAYS, "x": BYTES}, epochs=2, verbose=0)
    return [*plain.get_weights(), *trained_guided({**ARRAYS, "x": BYTES.astype(np.float32)})]


@pytest.mark.parametrize("form", ["arrays", "tf.data"])
def test_8_bit_images_train_as_in_keras(form, as_in_keras):
    given = {"arrays": {"x": BYTES, "y": LABELS, "batch_size": BATCH}, "tf.data": {"x": dataset(BYTES, LABELS)}}[form]
    wrapped = sr.SaliencyGuided(scaling_network(), saliency=False)
    wrapped.compile(sgd(), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    wrapped.fit(**given, epochs=2, shuffle=False, verbose=0)
    for found, wanted in zip([*wrapped.get_weights(), *trained_guided(given)], as_in_keras, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


class Rounded(keras.layers.Layer):
    def call(self, inputs):
        return keras.ops.round(4 * inputs)


@pytest.mark.parametrize("layer", [Rounded(), keras.layers.Rescaling(1.0, dtype="float32")], ids=["round", "frozen"])
def test_networks_without_a_gradient_or_a_weight_to_train_are_one_line(layer):
    parts = [layer, keras.layers.Flatten(), keras.layers.Dense(3)]
    network = keras.Sequential([keras.Input((8, 8, 1)), *parts])
    frozen = not isinstance(layer, Rounded)
    network.trainable = not frozen
    for options in ({}, {"saliency": False}, {"recipe": "random"}):
        model = sr.SaliencyGuided(network, **options)
        model.compile("sgd")
        if frozen or not options:
            with pytest.raises(ValueError, match=r"^(There is nothing to train|A network without a gradient)[^\n]*$"):
                model.fit(**ARRAYS, verbose=0)
        else:
            assert np.isfinite(model.fit(**ARRAYS, verbose=0).history["loss"]).all()


def test_networks_that_are_frozen_in_part_are_trained_in_part():
    network = make_network()
    network.layers[0].trainable = False
    before = network.get_weights()
    model = sr.SaliencyGuided(network)
    model.compile("sgd")
    model.fit(**ARRAYS, verbose=0)
    changed = [not np.array_equal(old, new) for old, new in zip(before, network.get_weights(), strict=True)]
    assert changed == [False, False, True, True]


def test_networks_that_run_eagerly_only_are_trained_eagerly():
    class Eager(keras.layers.Layer):
        def call(self, inputs):
            return inputs * float(inputs.numpy().max()) if hasattr(inputs, "numpy") else inputs.no_graph()

        def compute_output_shape(self, shape):
            return shape

    model = sr.SaliencyGuided(keras.Sequential([keras.Input((8, 8, 1)), Eager(), *make_network().layers]))
    model.compile("sgd", run_eagerly=True)
    assert np.isfinite(model.fit(**ARRAYS, verbose=0).history["loss"]).all()


def test_networks_with_several_inputs_or_outputs_are_named():
    one, two = keras.Input((8, 8, 1)), keras.Input((8, 8, 1))
    logits = keras.layers.Dense(3)(keras.layers.Flatten()(one + two))
    with pytest.raises(ValueError, match="one input"):
        sr.SaliencyGuided(keras.Model([one, two], logits))
    flat = keras.layers.Flatten()(one)
    with pytest.raises(ValueError, match=r"logits \(N, num_classes\)"):
        sr.SaliencyGuided(keras.Model(one, [keras.layers.Dense(3)(flat), keras.layers.Dense(2)(flat)]))
    with pytest.raises(TypeError, match="rankng"):
        sr.Recipe(rankng="signed")
