import itertools
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_images, make_network
from hypothesis import given, settings
from hypothesis import strategies as st

from salrob_tf.saliency.masking import lowest, mask_size, masked_copy
from salrob_tf.saliency.ranking import input_gradient, saliency_scores
from salrob_tf.saliency.recipes import RECIPES, Recipe, get_recipe

FILLS = ("image_range", "channel_range", "kept_range", "constant", "channel_mean", "added")


def slow_gradient(model, image, label, recipe):
    """Central differences in float64 of the output that the recipe names, for one image."""
    weights = [np.asarray(weight, np.float64) for weight in model.get_weights()]

    def output(x):
        kernel, bias, dense, offset = weights
        height, width = x.shape[0] - 2, x.shape[1] - 2
        maps = np.zeros((height, width, kernel.shape[-1]))
        for i, j in itertools.product(range(height), range(width)):
            maps[i, j] = np.tensordot(x[i : i + 3, j : j + 3], kernel, axes=3) + bias
        logits = np.maximum(maps, 0).reshape(-1) @ dense + offset
        target = logits.argmax() if recipe.target_class == "predicted" else label
        if recipe.gradient_of == "logit":
            return logits[target]
        log_softmax = logits - np.log(np.exp(logits).sum())
        return log_softmax[target] * (-1 if recipe.gradient_of == "loss" else 1)

    gradient, x = np.zeros(image.shape), image.astype(np.float64)
    for position in np.ndindex(image.shape):
        step = np.zeros(image.shape)
        step[position] = 1e-6
        gradient[position] = (output(x + step) - output(x - step)) / 2e-6
    return gradient


@pytest.mark.parametrize("target_class", ["true", "predicted"])
@pytest.mark.parametrize("gradient_of", ["logit", "log_softmax", "loss"])
def test_input_gradient_equals_finite_differences(gradient_of, target_class):
    recipe = Recipe(gradient_of=gradient_of, target_class=target_class)
    images, _ = make_images(3, shape=(8, 8, 2))
    labels = np.array([2, 0, 1], np.int32)
    model = make_network(shape=(8, 8, 2))
    gradient = input_gradient(model, tf.constant(images), tf.constant(labels), recipe)[0].numpy()
    slow = np.stack([slow_gradient(model, *pair, recipe) for pair in zip(images, labels, strict=True)])
    np.testing.assert_allclose(gradient, slow, atol=1e-5)


def test_scores_follow_ranking_and_unit():
    images, labels = make_images(4, shape=(8, 8, 3))
    model, x, y = make_network(shape=(8, 8, 3)), tf.constant(images), tf.constant(labels)
    gradient = input_gradient(model, x, y, Recipe())[0].numpy()
    expected = {"magnitude": np.abs, "signed": lambda g: g, "highest": lambda g: -np.abs(g)}
    for ranking, score in expected.items():
        pixels = saliency_scores(model, x, y, Recipe(ranking=ranking), 0)[0].numpy()
        features = saliency_scores(model, x, y, Recipe(ranking=ranking, unit="feature"), 0)[0].numpy()
        for found, wanted in ((pixels, score(gradient.mean(-1))), (features, score(gradient))):
            factor = np.abs(found).reshape(4, -1).max(-1) / np.abs(wanted).reshape(4, -1).max(-1)
            np.testing.assert_allclose(found / factor.reshape(4, *[1] * (found.ndim - 1)), wanted, rtol=1e-5, atol=1e-7)
    random = saliency_scores(model, x, y, Recipe(ranking="random"), 0)[0].numpy()
    assert random.shape == (4, 8, 8) and len(np.unique(random)) > 200
    for unit, shape in (("pixel", (4, 8, 8)), ("feature", (4, 8, 8, 3))):
        fixed, again = (saliency_scores(model, x, y, Recipe(ranking="fixed", unit=unit), s)[0].numpy() for s in (0, 1))
        assert fixed.shape == shape and len(np.unique(fixed)) > 60
        np.testing.assert_array_equal(fixed, np.broadcast_to(fixed[:1], shape))
        np.testing.assert_array_equal(fixed, again)


@pytest.mark.parametrize("unit", ["pixel", "feature"])
def test_the_darkest_units_are_those_of_the_lowest_value_and_equal_ones_are_drawn(unit):
    images = np.round(make_images(3, shape=(8, 8, 3))[0] * 255) / 255
    images[:, :5] = 0  # most of each image
    model, x, y = make_network(shape=(8, 8, 3)), tf.constant(images), tf.zeros(3, tf.int32)
    values = (images if unit == "feature" else images.mean(-1)).reshape(3, -1)
    drawn = []
    for seed in (0, 1, 1):
        scores = saliency_scores(model, x, y, Recipe(ranking="darkest", unit=unit), seed)[0].numpy().reshape(3, -1)
        for value, order in zip(values, np.argsort(scores), strict=True):
            np.testing.assert_allclose(value[order], np.sort(value), atol=1e-3)
        drawn.append(np.argsort(scores)[:, :20])
    assert not np.array_equal(*drawn[:2]) and np.array_equal(*drawn[1:])
    assert drawn[0].max() > values.shape[1] / 2 and (values[np.arange(3)[:, None], drawn[0]] == 0).all()


def test_saliency_pass_in_training_mode_uses_dropout():
    images, labels = make_images(4)
    model, x, y = make_network(dropout=0.5), tf.constant(images), tf.constant(labels)
    inference = [input_gradient(model, x, y, Recipe())[0].numpy() for _ in range(2)]
    training = [input_gradient(model, x, y, Recipe(saliency_mode="training"))[0].numpy() for _ in range(2)]
    assert np.array_equal(*inference) and not np.array_equal(*training)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    levels=st.integers(1, 4),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)),
    data=st.data(),
)
def test_exactly_the_lowest_are_marked_ties_included(seed, levels, shape, data):
    scores = np.random.default_rng(seed).integers(0, levels, shape).astype(np.float32)
    units = shape[1] * shape[2]
    count = data.draw(st.integers(0, units - 1))
    mask = lowest(tf.constant(scores), count).numpy().reshape(shape[0], -1)
    for row, marked in zip(scores.reshape(shape[0], -1), mask, strict=True):
        np.testing.assert_array_equal(np.flatnonzero(marked), np.sort(np.argsort(row, kind="stable")[:count]))


@settings(max_examples=60, deadline=None)
@given(
    fill=st.sampled_from(FILLS),
    unit=st.sampled_from(["pixel", "feature"]),
    fraction=st.floats(0, 0.999),
    channels=st.sampled_from([1, 3]),
    kind=st.sampled_from(["noise", "constant", "binary"]),
    seed=st.integers(0, 1000),
)
def test_masked_copy_fills_in_range_and_keeps_the_rest_bit_for_bit(fill, unit, fraction, channels, kind, seed):
    rng = np.random.default_rng(seed)
    shape = (3, 5, 4, channels)
    images = {
        "noise": rng.random(shape, np.float32),
        "constant": np.full(shape, 0.7, np.float32),
        "binary": rng.integers(0, 2, shape).astype(np.float32),
    }[kind]
    recipe = Recipe(fill=fill, unit=unit, fill_value=0.25)
    count = mask_size(recipe, fraction, shape[1:])
    assert count == int(fraction * 20 * (channels if unit == "feature" else 1))
    scores = np.zeros(shape if unit == "feature" else shape[:-1], np.float32)  # an all-zero gradient
    copy = masked_copy(tf.constant(images), tf.constant(scores), recipe, count, seed).numpy()
    mask = lowest(tf.constant(scores), count).numpy()
    assert np.all(mask.reshape(3, -1).sum(-1) == count)
    mask = np.broadcast_to(mask if unit == "feature" else mask[..., None], shape)
    np.testing.assert_array_equal(copy[~mask], images[~mask])
    for image, filled, hidden in zip(images, copy, mask, strict=True):
        if fill == "constant":
            assert np.all(filled[hidden] == np.float32(0.25))
        elif fill == "added":
            assert np.all(np.abs(filled - image) < 6 * 0.25)
        elif fill == "channel_mean":
            expected = np.broadcast_to(image.mean((0, 1)), image.shape)
            np.testing.assert_allclose(filled[hidden], expected[hidden], rtol=1e-5)
        else:
            visible = image[~hidden] if fill == "kept_range" else image
            low, high = visible.min(), visible.max()
            if fill == "channel_range":
                low, high = (np.broadcast_to(f(image, axis=(0, 1)), image.shape)[hidden] for f in (np.min, np.max))
            assert np.all(filled[hidden] >= low) and np.all(filled[hidden] <= high)


@settings(deadline=None)
@given(height=st.integers(1, 300), width=st.integers(2, 300))
def test_the_least_share_that_is_named_is_taken(height, width):
    with pytest.raises(ValueError, match="which masks nothing") as refused:
        mask_size(RECIPES["random"], 1e-9, (height, width, 1), some=True)
    least = float(re.search(r"units, ([\d.e-]+)\. Received", str(refused.value))[1])
    assert 1 <= mask_size(RECIPES["random"], least, (height, width, 1), some=True) <= 2


def test_no_unit_is_filled_from_the_range_of_none():
    with pytest.raises(ValueError, match="ranking='every', fill='kept_range'"):
        Recipe(ranking="every", fill="kept_range")


def test_fill_is_uniform_over_the_range():
    images = np.zeros((1, 100, 100, 1), np.float32)
    images[0, 0, 0], images[0, 0, 1] = 0.2, 0.6
    images[0, 1:] = 0.3
    images[0, 0, 2:] = 0.3
    scores = np.ones((1, 100, 100), np.float32)
    scores[0, 1:] = 0
    copy = masked_copy(tf.constant(images), tf.constant(scores), Recipe(), 9900, 1).numpy()
    noise = np.sort(copy[0, 1:].reshape(-1))
    np.testing.assert_allclose(noise, np.linspace(0.2, 0.6, len(noise)), atol=0.01)


def test_noise_is_added_to_every_unit_whatever_the_scores():
    recipe, images = RECIPES["noise"], np.full((1, 100, 100, 3), 0.5, np.float32)
    scores, outputs = saliency_scores(None, tf.constant(images), None, recipe, 0)
    assert outputs is None
    noise = masked_copy(tf.constant(images), scores, recipe, mask_size(recipe, 0.1, (100, 100, 3)), 1) - images
    assert abs(float(tf.reduce_mean(noise))) < 0.005 and abs(float(tf.math.reduce_std(noise)) - 0.2) < 0.005
    with pytest.raises(ValueError, match="fill_value"):
        Recipe(fill="added", fill_value=-1)


def test_mask_size():
    assert mask_size(Recipe(), 0.5, (28, 28, 1)) == 392
    assert mask_size(Recipe(), 0.5, (5, 5, 3)) == 12
    assert mask_size(Recipe(unit="feature"), 0.5, (5, 5, 3)) == 37
    assert mask_size(Recipe(mask_count=7), 0.5, (5, 5, 3)) == 7
    with pytest.raises(ValueError, match="leave some of the 25 units. Received: mask_count=25"):
        mask_size(Recipe(mask_count=25), 0.5, (5, 5, 3))


def test_recipes_of_the_papers_and_controls():
    assert RECIPES["karkehabadi2023"] == Recipe()
    ismail = RECIPES["ismail2021"]
    assert (ismail.ranking, ismail.gradient_of, ismail.fill) == ("signed", "log_softmax", "channel_range")
    assert RECIPES["random"].ranking == "random" and RECIPES["highest"].ranking == "highest"
    with pytest.raises(ValueError, match=r"Valid: karkehabadi2023, .*Received: recipe='ismail'"):
        get_recipe("ismail")
    with pytest.raises(ValueError, match=r"Unknown fill. Valid: image_range, .*Received: fill='zero'"):
        Recipe(fill="zero")
    for count in (-1, "5", 2.0, True, 2**63):
        with pytest.raises(ValueError, match=f"`mask_count` must be a whole number, .* Received: mask_count={count!r}"):
            Recipe(mask_count=count)
    for value in (float("nan"), float("inf"), None, "0", True, [0.5]):
        with pytest.raises(ValueError, match="`fill_value` must be a finite number. Received: fill_value="):
            Recipe(fill="constant", fill_value=value)
    for name in (None, {}, np.array(["zero"]), 1):
        with pytest.raises(ValueError, match=r"Unknown fill. Valid: image_range, .*Received: fill="):
            Recipe(fill=name)
        with pytest.raises(ValueError, match=r"Unknown recipe. Valid: karkehabadi2023, .*Received: recipe="):
            get_recipe(name)


def test_random_draws_come_from_the_seed():
    x = tf.random.stateless_uniform([2, 8, 8, 1], [0, 0])
    scores = tf.zeros([2, 8, 8])
    copies = [masked_copy(x, scores, Recipe(), 32, seed).numpy() for seed in (3, 3, 4)]
    assert np.array_equal(copies[0], copies[1]) and not np.array_equal(copies[0], copies[2])
    generator = keras.random.SeedGenerator(3)
    first, second = (masked_copy(x, scores, Recipe(), 32, generator).numpy() for _ in range(2))
    assert not np.array_equal(first, second)
