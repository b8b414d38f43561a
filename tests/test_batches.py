"""Batches: order and augmentation depend on seed, epoch and image alone."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_images
from test_scripts import small_networks  # noqa: F401

import salrob_tf as sr
from salrob_tf.data.pipeline import crop_and_flip, file_errors
from salrob_tf.studies import run_folders, runs

pytestmark = pytest.mark.usefixtures("unprobed")


def epochs_of(images, labels, **settings):
    parts = [(x.numpy(), y.numpy()) for x, y in sr.batches(images, labels, **settings)]
    x, y = (np.concatenate(column) for column in zip(*parts, strict=True))
    return x.reshape(-1, *images.shape), y.reshape(-1, len(labels))


def test_crops_and_flips_equal_numpys():
    images, rng = make_images(40, shape=(6, 9, 3))[0], np.random.default_rng(0)
    offsets, flips = rng.integers(0, 9, (40, 2), dtype=np.int32), rng.integers(0, 2, 40, dtype=np.int32)
    expected = []
    for image, (row, column), flip in zip(images, offsets, flips, strict=True):
        cut = np.pad(image, ((4, 4), (4, 4), (0, 0)))[row : row + 6, column : column + 9]
        expected.append(cut[:, ::-1] if flip else cut)
    np.testing.assert_array_equal(
        crop_and_flip(tf.constant(images), tf.constant(offsets), tf.constant(flips)), expected
    )


def test_without_a_seed_batches_are_the_arrays():
    images, labels = make_images(10)
    x, y = epochs_of(images, labels, batch_size=4)
    np.testing.assert_array_equal(x[0], images)
    np.testing.assert_array_equal(y[0], labels)


def test_an_epoch_is_the_same_wherever_training_begins_and_whatever_the_batch():
    images, labels = make_images(30)[0], np.arange(30, dtype=np.int32)
    whole = epochs_of(images, labels, batch_size=7, seed=5, epochs=3, augment=True)
    resumed = epochs_of(images, labels, batch_size=7, seed=5, epochs=3, first_epoch=2, augment=True)
    other_batch = epochs_of(images, labels, batch_size=30, seed=5, epochs=3, augment=True)
    other_seed = epochs_of(images, labels, batch_size=7, seed=6, epochs=3, augment=True)
    for expected, late, large, other in zip(whole, resumed, other_batch, other_seed, strict=True):
        np.testing.assert_array_equal(late[0], expected[2])
        np.testing.assert_array_equal(large, expected)
        assert not np.array_equal(other, expected)
    x, y = whole
    first, second = (x[epoch][np.argsort(y[epoch])] for epoch in (0, 1))
    assert np.mean([np.array_equal(a, b) for a, b in zip(first, second, strict=True)]) < 0.2
    plain, order = epochs_of(images, labels, batch_size=7, seed=5, epochs=3)
    np.testing.assert_array_equal(order, y)
    np.testing.assert_array_equal(plain[1], images[order[1]])


def test_augmentation_reaches_every_offset_and_flips_half():
    images = np.zeros((600, 16, 16, 1), np.float32)
    images[:, 8, 7], images[:, 8, 8] = 1, 0.5
    (x,), _ = epochs_of(images, np.zeros(600, np.int32), batch_size=600, seed=0, augment=True)
    rows, columns = np.transpose(np.argwhere(x[..., 0] == 1)[:, 1:])
    flipped = columns > np.argwhere(x[..., 0] == 0.5)[:, 2]
    assert set(rows) == set(range(4, 13)) and set(columns[~flipped]) == set(range(3, 12))
    assert 0.42 < flipped.mean() < 0.58
    counts = np.bincount(rows - 4)
    assert counts.min() > 40 and counts.max() < 95
    assert abs(np.corrcoef([rows, np.where(flipped, 15 - columns, columns), flipped])[0, 1]) < 0.2


def test_an_augmented_run_resumes_to_the_same_weights(tmp_path, monkeypatch):
    data = sr.Dataset.from_arrays(*make_images(96), *make_images(20, seed=1))
    run = runs.Run(epochs=2, batch_size=32, optimizer="adam", augment=True)
    original, calls = run_folders.write_text, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        original(*arguments)

    monkeypatch.setattr(run_folders, "write_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runs.train(tmp_path / "broken", data, run)
    runs.train(tmp_path / "broken", data, run, resume=True)
    runs.train(tmp_path / "whole", data, run)
    weights = [keras.saving.load_model(tmp_path / name / "model.keras").get_weights() for name in ("broken", "whole")]
    for found, expected in zip(*weights, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    plain = dataclasses.replace(run, augment=False)
    with pytest.raises(ValueError, match="augment=True there, augment=False asked"):
        runs.train(tmp_path / "broken", data, plain, resume=True)
    runs.train(tmp_path / "plain", data, plain)
    histories = [(tmp_path / name / "history.csv").read_text() for name in ("plain", "whole")]
    assert histories[0] != histories[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": "8"}, "`batch_size` must be a whole number, 1 or more. Received: batch_size='8'"),
        ({"augment": True}, "`augment` needs a seed. Received: seed=None, augment=True"),
        ({"augment": "no", "seed": 1}, "augment='no'"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**32}, r"from 0 to 2\^32 - 1. Received: seed=4294967296"),
        ({"seed": 0.5}, "seed=0.5"),
        ({"epochs": 1.0}, "epochs=1.0"),
        ({"epochs": 2**63 - 1}, r"from 0 to 2\^31 - 1. Received: epochs=9223372036854775807"),
        ({"images": [np.zeros((8, 8, 1)), np.zeros((9, 9, 1))]}, "`images` must be an array, all its parts of one"),
        ({"labels": [[0], [1, 2]]}, "`labels` must be an array, all its parts of one shape"),
        ({"first_epoch": -1}, "first_epoch=-1"),
        ({"labels": np.zeros(3, np.int32)}, r"images of shape \(4, 8, 8, 1\), labels of shape \(3,\)"),
        ({"labels": None}, "labels numbers"),
        ({"images": None}, "Images must be numbers"),
        ({"images": np.zeros((4, 8, 8), np.float32)}, r"ndarray of float32 \(4, 8, 8\)"),
    ],
)
def test_bad_settings_are_one_line(settings, message):
    images, labels = make_images(4)
    with pytest.raises(ValueError, match=message):
        sr.batches(**{"images": images, "labels": labels, **settings})


def test_other_errors_of_tensorflow_stay_what_they_are():
    with pytest.raises(tf.errors.InvalidArgumentError), file_errors():
        tf.reshape(tf.zeros(3), (2, 2))
