"""Saliency quality and mechanism against closed forms on linear networks, and against slow versions."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import salrob_tf as sr
from salrob_tf.data.blocks import beside_null_blocks
from salrob_tf.results.explained import explained
from salrob_tf.saliency.fills import BLUR, NEIGHBOURS, filled
from salrob_tf.saliency.gradients import SMOOTH_NOISE, input_gradients, map_function
from salrob_tf.saliency.mechanism import mechanism_of, share_on_salient, smallest_epsilons
from salrob_tf.saliency.metrics import agreement_with_object, gini, rank_agreement, removal, stability

SHAPE = (6, 5, 2)


@pytest.fixture(scope="module")
def linear():
    """A linear classifier of three classes, its weights `(60, 3)` and biases, and images."""
    rng = np.random.default_rng(0)
    network = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(3)])
    weights, biases = rng.normal(0, 0.5, (60, 3)).astype(np.float32), rng.normal(0, 0.1, 3).astype(np.float32)
    network.set_weights([weights, biases])
    images = rng.uniform(0.2, 0.8, (12, *SHAPE)).astype(np.float32)
    labels = (images.reshape(12, -1) @ weights + biases).argmax(axis=1)
    labels[-2:] = (labels[-2:] + 1) % 3  # two that are misclassified
    return sr.Classifier(network), weights, biases, images, labels


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)


def test_gradients_of_a_linear_network_are_its_weights(linear):
    classifier, weights, biases, images, labels = linear
    logits = images.reshape(12, -1) @ weights + biases
    found, outputs = input_gradients(classifier, images, labels, batch_size=5)
    np.testing.assert_allclose(outputs, logits, atol=1e-5)
    np.testing.assert_allclose(found, weights.T[labels].reshape(images.shape), atol=1e-6)
    others = np.where(np.eye(3)[labels] > 0, -np.inf, logits).argmax(axis=1)
    margin, _ = input_gradients(classifier, images, labels, "margin")
    np.testing.assert_allclose(margin, (weights.T[labels] - weights.T[others]).reshape(images.shape), atol=1e-6)
    loss, _ = input_gradients(classifier, images, labels, "loss")
    expected = ((softmax(logits) - np.eye(3)[labels]) @ weights.T).reshape(images.shape)
    np.testing.assert_allclose(loss, expected, atol=1e-5)


def test_maps_of_each_method(linear, trained):
    classifier, weights, _, images, labels = linear
    own = weights.T[labels].reshape(images.shape)
    for method, wanted in {"gradient": own, "smoothgrad": own, "integrated_gradients": own * images}.items():
        np.testing.assert_allclose(map_function(classifier, method, samples=4)(images, labels), wanted, atol=1e-5)
    network, x, y = trained
    by_integration = map_function(network, "integrated_gradients", samples=400)(x[:5], y[:5])
    logits, empty = (network.predict(each, verbose=0)[range(5), y[:5]] for each in (x[:5], 0 * x[:5]))
    np.testing.assert_allclose(by_integration.sum(axis=(1, 2, 3)), logits - empty, atol=0.02)  # completeness
    rng, total = np.random.default_rng(3), 0.0
    for _ in range(3):
        spread = np.ptp(x[:5], axis=(1, 2, 3), keepdims=True)
        total += input_gradients(
            network, np.clip(x[:5] + SMOOTH_NOISE * spread * rng.standard_normal(x[:5].shape, np.float32), 0, 1), y[:5]
        )[0]
    np.testing.assert_allclose(
        map_function(network, "smoothgrad", samples=3, seed=3)(x[:5], y[:5]), total / 3, atol=1e-5
    )
    one, two = (map_function(network, "random", seed=seed)(x[:5], y[:5]) for seed in (0, 1))
    assert one.shape == x[:5].shape and not np.array_equal(one, two)


def test_gradients_are_those_of_tf_keras_vis(trained):
    network, x, y = trained
    functional = keras.Model(network.inputs, network.outputs)
    np.testing.assert_allclose(
        map_function(network)(x[:8], y[:8]), sr.saliency_maps(functional, x[:8], y[:8]), atol=1e-5
    )


def slow_imputed(image, removed):
    """Every pixel in one dense system."""
    height, width, channels = image.shape
    system, right = np.eye(height * width), image.reshape(-1, channels).astype(float).copy()
    for i, j in zip(*np.nonzero(removed), strict=True):
        row, total = i * width + j, 0.0
        right[row] = 0
        for down, across, weight in NEIGHBOURS:
            if 0 <= i + down < height and 0 <= j + across < width:
                system[row, (i + down) * width + j + across] = -weight
                total += weight
        system[row, row] = total
    return np.linalg.solve(system, right).reshape(image.shape)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), share=st.floats(0.05, 0.95), channels=st.sampled_from([1, 3]))
def test_what_is_left_stays_and_holes_follow_their_neighbours(seed, share, channels):
    rng = np.random.default_rng(seed)
    images, removed = rng.random((2, 7, 5, channels), np.float32), rng.random((2, 7, 5)) < share
    for fill in ("blur", "mean", "linear"):
        found = filled(images, removed, fill, seed)
        np.testing.assert_array_equal(found[~removed], images[~removed])
        assert found.dtype == np.float32 and found.min() >= 0 and found.max() <= 1
    found = filled(images, removed, "linear", seed)
    for image, holes, own in zip(images, removed, found, strict=True):
        if not holes.all():
            assert np.abs(own - slow_imputed(image, holes)).max() < 6 * 0.01, "but for its noise"


def test_fills_of_everything_and_of_nothing():
    images = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
    every, none = np.ones((2, 8, 8), bool), np.zeros((2, 8, 8), bool)
    for fill in ("blur", "mean", "linear"):
        np.testing.assert_array_equal(filled(images, none, fill), images)
        assert filled(images, every, fill).std() < images.std() / 2
    flat = np.full((1, 8, 8, 1), 0.3, np.float32)
    assert np.abs(filled(flat, every[:1], "blur") - 0.3).max() < 1e-6 and BLUR * 8 == 2
    with pytest.raises(ValueError, match="Valid: blur, mean, linear. Received: fill='noise'"):
        filled(images, none, "noise")


def test_removal_equals_the_slow_version(linear):
    classifier, weights, biases, images, labels = linear
    maps = np.random.default_rng(1).normal(size=images.shape)
    fractions = (0.1, 0.5, 0.8)
    found = removal(classifier, images, labels, maps, "mean", fractions)
    magnitudes, count = np.abs(maps).sum(axis=-1), 30

    def seen(n, keep):
        x = images[n].reshape(count, 2).copy()
        x[~keep] = images[n].reshape(count, 2).mean(axis=0)
        logits = x.reshape(-1) @ weights + biases
        return logits.argmax() == labels[n], softmax(logits)[labels[n]]

    for n in range(12):
        order = np.argsort(-magnitudes[n].ravel(), kind="stable")
        at, gone, come = [0, 0.1, 0.5, 0.8, 1], [], []
        for share in at:
            keep = np.ones(count, bool)
            keep[order[: round(share * count)]] = False
            gone.append(seen(n, keep)[1])
            come.append(seen(n, ~keep)[1])
        assert found.deletion[n] == pytest.approx(np.trapezoid(gone, at), abs=1e-5)
        assert found.insertion[n] == pytest.approx(np.trapezoid(come, at), abs=1e-5)
        for place, share in enumerate(fractions):
            keep = np.ones(count, bool)
            keep[order[: round(share * count)]] = False
            assert found.most[place, n] == seen(n, keep)[0]
            keep = np.ones(count, bool)
            keep[np.argsort(magnitudes[n].ravel(), kind="stable")[: round(share * count)]] = False
            assert found.least[place, n] == seen(n, keep)[0]


def test_good_maps_are_better_than_chance_and_random_ones_are_not(ready):
    network, x, y = ready
    maps = map_function(network, "integrated_gradients")(x, y)
    for fill in ("blur", "mean", "linear"):
        good = removal(network, x, y, maps, fill)
        chance = removal(network, x, y, np.random.default_rng(7).random(x.shape), fill)
        assert good.deletion_gain.mean() > 0.02
        # Pixels here and there, as random maps bring them in, let linear imputation guess the whole image.
        assert fill == "linear" or good.insertion_gain.mean() > 0.02
        assert abs(chance.deletion_gain.mean()) < 0.02 and abs(chance.insertion_gain.mean()) < 0.02
        assert good.most.mean() < good.least.mean()


def test_gini_in_closed_form():
    one, all_alike = np.zeros((1, 10)), np.full((1, 10), -3.0)
    one[0, 4] = -2
    np.testing.assert_allclose(gini(one), [0.9])
    np.testing.assert_allclose(gini(all_alike), [0.0], atol=1e-12)
    values = np.abs(np.random.default_rng(0).normal(size=(3, 4, 5)))
    for found, row in zip(gini(values), values.reshape(3, -1), strict=True):
        assert found == pytest.approx(np.abs(row[:, None] - row).mean() / (2 * row.mean()))
    assert gini(np.zeros((2, 3, 3))).tolist() == [0, 0]


def test_agreement_with_a_known_object(trained):
    _, x, _ = trained
    tall, objects = beside_null_blocks(x, seed=1)
    assert 20 < objects[:, 0, 0].sum() < 44 and np.all(objects.sum(axis=(1, 2)) == 64)
    halves = tall.reshape(64, 2, 8, 8, 1)
    np.testing.assert_array_equal(halves[np.arange(64), np.where(objects[:, 0, 0], 0, 1)], x)
    for maps, wanted in ((objects, 1.0), (~objects, 0.0), (np.zeros(objects.shape), 0.5)):
        mass, rank = agreement_with_object(maps, objects)
        np.testing.assert_allclose(mass, wanted)
        np.testing.assert_allclose(rank, wanted)
    mass, rank = agreement_with_object(np.random.default_rng(0).random(objects.shape), objects)
    assert abs(mass.mean() - 0.5) < 0.02 and abs(rank.mean() - 0.5) < 0.03
    with pytest.raises(ValueError, match="`objects` must be boolean"):
        agreement_with_object(np.zeros((64, 8, 8)), objects)


def test_maps_of_a_linear_network_do_not_move_and_random_ones_do(linear):
    classifier, _, _, images, labels = linear
    still = stability(classifier, images, labels, map_function(classifier))
    np.testing.assert_allclose(still.maps, 0, atol=1e-4)
    np.testing.assert_allclose(still.correlation, 1)
    rng = np.random.default_rng(0)
    moving = stability(classifier, images, labels, lambda x, y: rng.normal(size=x.shape))
    assert np.all(moving.maps > 1) and abs(moving.correlation.mean()) < 0.2
    changed = np.clip(images + 0.1, 0, 1)
    by_hand = stability(classifier, images, labels, lambda x, y: x, changed)
    np.testing.assert_allclose(by_hand.maps, 1, rtol=1e-5)
    moved = np.linalg.norm(classifier.predict_logits(images) - classifier.predict_logits(changed), axis=1)
    share = np.linalg.norm((changed - images).reshape(12, -1), axis=1) / np.linalg.norm(images.reshape(12, -1), axis=1)
    np.testing.assert_allclose(by_hand.outputs, share / moved, rtol=1e-4)


def test_metrics_agree_with_themselves():
    rng = np.random.default_rng(0)
    one = rng.normal(size=50)
    table = rank_agreement({"one": one, "same": np.exp(one), "turned": -one, "flat": np.zeros(50)})
    np.testing.assert_allclose(table[0], [1, 1, -1, 0], atol=1e-12)


def test_the_mechanism_of_a_linear_network_in_closed_form(linear):
    classifier, weights, biases, images, labels = linear
    found = mechanism_of(classifier, images, labels, batch_size=5)
    x = images.reshape(12, -1).astype(float)
    logits = x @ weights + biases
    others = np.where(np.eye(3)[labels] > 0, -np.inf, logits).argmax(axis=1)
    gradient = (weights.T[labels] - weights.T[others]).astype(float)
    margin = logits[range(12), labels] - logits[range(12), others]
    np.testing.assert_allclose(found.margin, margin, atol=1e-5)
    np.testing.assert_array_equal(found.correct, margin > 0)
    np.testing.assert_allclose(found.scale, logits.std(axis=1), atol=1e-5)
    np.testing.assert_allclose(found.l1, np.abs(gradient).sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(found.l2, np.linalg.norm(gradient, axis=1), rtol=1e-5)
    length = np.linalg.norm(gradient, axis=1)
    np.testing.assert_allclose(found.alignment, np.abs((gradient * x).sum(axis=1)) / length, rtol=1e-4)
    np.testing.assert_allclose(found.cosine, found.alignment / np.linalg.norm(x, axis=1), rtol=1e-5)
    np.testing.assert_allclose(found.curvature, 0, atol=1e-3)
    assert found.zeros.max() < 0.05
    np.testing.assert_allclose(found.first_order, np.maximum(margin, 0) / np.abs(gradient).sum(axis=1), rtol=1e-4)
    epsilons = np.linspace(0.002, 0.12, 60)
    left = sr.evaluate(classifier, images, labels, [sr.FGSM(loss="margin")], epsilons)
    smallest = smallest_epsilons(left.correct["fgsm-margin"], left.clean, epsilons)
    plain = np.isfinite(smallest) & (smallest > 0)
    assert plain.sum() > 5
    (
        np.testing.assert_allclose(smallest[plain], found.first_order[plain], atol=0.0021),
        "with which of the others it falls",
    )
    assert set(found.columns) >= {"margin", "l1", "curvature"}


def test_curvature_of_a_quadratic():
    x = keras.Input((4, 4, 1))
    half = keras.layers.Lambda(lambda t: tf.reduce_sum(t**2, axis=(1, 2, 3), keepdims=False)[:, None] * 0.5)(x)
    network = keras.Model(x, keras.layers.Concatenate()([half, 0 * half]))
    images = np.random.default_rng(0).uniform(0.3, 0.6, (5, 4, 4, 1)).astype(np.float32)
    found = mechanism_of(sr.Classifier(network), images, np.zeros(5, int))
    np.testing.assert_allclose(found.curvature, 1 / np.linalg.norm(images.reshape(5, -1), axis=1), rtol=0.01)


def test_smallest_epsilons():
    correct = np.array([[True, False, True, False], [True, True, False, False], [True, False, False, False]])
    found = smallest_epsilons(correct, np.array([True, True, True, False]), np.array([0.3, 0.1, 0.2]))
    np.testing.assert_array_equal(found, [np.inf, 0.2, 0.1, 0])
    with pytest.raises(ValueError, match=r"must be \(3, 4\)"):
        smallest_epsilons(correct.T, np.ones(4, bool), np.array([0.3, 0.1, 0.2]))


def test_what_the_first_order_explains(linear):
    classifier, weights, biases, images, labels = linear
    first = mechanism_of(classifier, images[:10], labels[:10])
    network = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(3)])
    network.set_weights([weights * np.random.default_rng(2).uniform(0.9, 1.1, weights.shape), biases])
    second = mechanism_of(network, images[:10], labels[:10])
    both = first.correct & second.correct
    margins, norms = np.stack([first.margin, second.margin]), np.stack([first.l1, second.l1])
    found = explained(margins, norms, np.stack([first.first_order, second.first_order]))
    assert found.images == both.sum() and found.r_squared == pytest.approx(1) and found.slope == pytest.approx(1)
    assert found.found == pytest.approx(found.predicted)
    shuffled = np.stack([first.first_order, np.where(np.arange(10) % 2, 2, 0.5) * second.first_order])
    assert explained(margins, norms, shuffled).r_squared < 0.9
    varied = np.random.default_rng(3).uniform(0.5, 2, (2, 10))
    norms_only = explained(np.ones((2, 10)), varied, 1 / varied)
    assert norms_only.gradient_share == pytest.approx(1) and norms_only.margin_share == 0
    with pytest.raises(ValueError, match="Fewer than three"):
        explained(margins, norms, np.full((2, 10), np.inf))
    with pytest.raises(ValueError, match=r"Received: \(2, 10\), \(2, 10\), \(2, 9\)"):
        explained(margins, norms, norms[:, 1:])


def test_the_share_of_a_perturbation_on_salient_pixels():
    x = np.zeros((2, 10, 10, 1))
    moved, maps = x.copy(), np.zeros((2, 10, 10))
    maps[0, :1], moved[0, :1], moved[0, 5, 5] = 1, 0.1, 0.2
    found = share_on_salient(x, moved, maps)
    assert found[0] == pytest.approx(10 * 0.01 / (10 * 0.01 + 0.04)) and np.isnan(found[1])
    with pytest.raises(ValueError, match=r"`maps` \(2, 10, 10\)\. Received: .*maps=ndarray of bool"):
        share_on_salient(x, moved, maps[..., np.newaxis] > 0)
    assert share_on_salient(x, moved, maps > 0)[0] == pytest.approx(found[0])
    everywhere = share_on_salient(x, x + 0.1, np.random.default_rng(0).random((2, 10, 10, 1)), 0.25)
    np.testing.assert_allclose(everywhere, 0.25)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x, y: map_function(m, "lime"), "Valid: gradient, smoothgrad"),
        (lambda m, x, y: map_function(m, samples=0), "samples"),
        (lambda m, x, y: input_gradients(m, x, y, "log"), "Valid: logit, loss, margin"),
        (lambda m, x, y: removal(m, x, y, x[:3]), "`maps` must be finite numbers of shape"),
        (lambda m, x, y: removal(m, x, y, x * np.nan), "`maps` must be finite"),
        (lambda m, x, y: removal(m, x, y, x, fractions=[0.5, 0.5]), "ascending"),
        (lambda m, x, y: removal(m, x, y, x, fractions=[0.0, 0.5]), "above 0"),
        (lambda m, x, y: removal(m, x, y, x, fill="noise"), "Valid: blur"),
        (lambda m, x, y: stability(m, x, y, map_function(m), noise=0), "noise"),
        (lambda m, x, y: stability(m, x, y, map_function(m), changed=x[:2]), "`changed` must be of shape"),
        (lambda m, x, y: share_on_salient(x, x, x, 1.0), "fraction"),
    ],
)
def test_bad_input_is_one_line(linear, call, message):
    classifier, _, _, images, labels = linear
    with pytest.raises(ValueError, match=message):
        call(classifier, images, labels)
