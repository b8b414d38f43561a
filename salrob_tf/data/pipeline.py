"""Batches of images for training and testing, from arrays or from files, augmented or as they are."""

from __future__ import annotations

import atexit
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import tensorflow as tf

from salrob_tf.checks import as_array, check_flag, check_whole, shown
from salrob_tf.data.folders import ImageFiles, Images

PADDING = 4  # pixels on each side, as is standard for CIFAR (He et al. 2016, section 4.2)


def batches(
    images: Images,
    labels: np.ndarray,
    batch_size: int = 256,
    *,
    seed: int | None = None,
    epochs: int = 1,
    first_epoch: int = 0,
    augment: bool = False,
) -> tf.data.Dataset:
    """Stream images and labels; of images in files, a few batches are in memory at a time.

    Example:
        >>> stream = sr.batches(images, labels, batch_size=48, seed=0, epochs=2, augment=True)
        >>> [len(x) for x, y in stream]
        [48, 16, 48, 16]

    Args:
        images: Images `(N, height, width, channels)`, an array or the `x_train` or `x_test` of a `Dataset`.
        labels: Integers `(N,)`, or one row per image.
        batch_size: Images per batch; the last batch of an epoch has what is left.
        seed: Seed of the order, and of the augmentation, in 0 to 2^32 - 1; `None` keeps the order. An epoch depends
            on the seed and its number alone, and not on where one begins.
        epochs: Number of the epoch to end before.
        first_epoch: Number of the epoch to begin with.
        augment: Whether each image is moved by up to 4 pixels along both axes, black coming in from the edges, and
            flipped left to right in half of the cases, anew in each epoch. Needs a seed.

    Returns:
        A `tf.data.Dataset` of images and labels, of all epochs one after the other.

    Raises:
        ValueError: If an argument is out of its range.
    """
    images = images if isinstance(images, ImageFiles) else as_array(images, "images")
    labels = as_array(labels, "labels")
    if len(images.shape) != 4 or images.dtype.kind not in "fiu" or labels.dtype.kind not in "fiu":
        raise ValueError(
            "Images must be numbers (N, height, width, channels), and labels numbers (N,). "
            f"Received: {shown(images)}, {shown(labels)}"
        )
    if labels.ndim == 0 or len(images) != len(labels) or not len(labels):
        raise ValueError(
            "There must be as many images as labels, one or more. "
            f"Received: images of shape {images.shape}, labels of shape {labels.shape}"
        )
    batch_size, epochs = check_whole("batch_size", batch_size, 1), check_whole("epochs", epochs, high=2**31 - 1)
    first_epoch = check_whole("first_epoch", first_epoch)
    if check_flag("augment", augment) and seed is None:
        raise ValueError("`augment` needs a seed. Received: seed=None, augment=True")
    seed = None if seed is None else check_whole("seed", seed, high=2**32 - 1)
    rows, read, y = np.arange(len(labels)), _reader(images), tf.constant(labels)

    def epoch_rows(epoch: tf.Tensor) -> tf.data.Dataset:
        if seed is None:
            return tf.data.Dataset.from_tensor_slices({"row": rows}).batch(batch_size)
        columns = {"row": tf.random.experimental.stateless_shuffle(rows, seed=_seed(seed, epoch, 0))}
        if augment:
            corners = [len(rows), 2]
            columns["offset"] = tf.random.stateless_uniform(
                corners, _seed(seed, epoch, 1), 0, 2 * PADDING + 1, tf.int32
            )
            columns["flip"] = tf.random.stateless_uniform([len(rows)], _seed(seed, epoch, 2), 0, 2, tf.int32)
        return tf.data.Dataset.from_tensor_slices(columns).batch(batch_size)

    def load(columns: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        x = read(columns["row"])
        if augment:
            x = crop_and_flip(x, columns["offset"], columns["flip"])
        return x, tf.gather(y, columns["row"])

    count = -(-len(rows) // batch_size) * max(0, epochs - first_epoch)  # known, so that Keras takes no end for an error
    stream = tf.data.Dataset.range(first_epoch, epochs).flat_map(epoch_rows).map(load)
    return stream.apply(tf.data.experimental.assert_cardinality(count)).prefetch(2)


def crop_and_flip(images: tf.Tensor, offsets: tf.Tensor, flips: tf.Tensor) -> tf.Tensor:
    """Cut each image out of itself with a black border of 4 pixels, and flip some left to right.

    Args:
        images: Float32 `(N, height, width, channels)`.
        offsets: First row and column of each cut in the padded image, integers in 0..8, `(N, 2)`; 4 is no move.
        flips: 1 for a flipped image, else 0, `(N,)`.

    Returns:
        Images in the shape of `images`.
    """
    shape = tf.shape(images)
    padded = tf.pad(images, [[0, 0], [PADDING, PADDING], [PADDING, PADDING], [0, 0]])
    rows, columns = tf.range(shape[1]), tf.range(shape[2])
    columns = tf.where(flips[:, None] == 1, columns[::-1], columns)
    moved = tf.gather(padded, offsets[:, :1] + rows, axis=1, batch_dims=1)
    return tf.ensure_shape(tf.gather(moved, offsets[:, 1:] + columns, axis=2, batch_dims=1), images.shape)


@contextmanager
def file_errors() -> Iterator[None]:
    """Where batches are used up: a file that could not be read, or labels out of range, end in a `ValueError`.

    Raises:
        ValueError: In place of TensorFlow's error, which is a page long.
    """
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = re.search(r"assertion failed: \[(.* Received: .*)\]|ValueError: (.* Received: .*)", error.message)
        # Of several replicas one may fail in its loss before the check of its labels is heard of.
        label = re.search(r"label value of (\S+) which is outside the valid range of \[0, (\d+)\)", error.message)
        if found is not None:
            raise ValueError(found[1] or found[2]) from error
        if label is not None:
            line = f"`y` must be whole numbers from 0 to {int(label[2]) - 1}. Received: {label[1]}"
            raise ValueError(line) from error
        raise


def _seed(seed: int, epoch: tf.Tensor, stream: int) -> tf.Tensor:
    return tf.stack([tf.constant(seed + stream * 2**32, tf.int64), epoch])


def _reader(images: Images) -> Callable[[tf.Tensor], tf.Tensor]:
    """What gives the images of some rows inside a `tf.data.Dataset`."""
    if not isinstance(images, ImageFiles):
        with tf.device("CPU:0"):  # where batches are put together: a GPU's memory is for the network
            values = tf.constant(images)
        return lambda rows: tf.gather(values, rows)

    atexit.unregister(_let_reads_end)  # once is enough
    atexit.register(_let_reads_end)

    def decode(rows: np.ndarray) -> np.ndarray:
        _reading.add(call := object())
        try:
            return images[rows]
        finally:
            _reading.discard(call)

    def read(rows: tf.Tensor) -> tf.Tensor:
        x = tf.numpy_function(decode, [rows], tf.float32)
        return tf.ensure_shape(x, (None, *images.shape[1:]))

    return read


_reading: set[object] = set()  # calls under way in TensorFlow's threads


def _let_reads_end() -> None:
    """Wait until no file is read: a thread that needs Python when it is gone never ends, and its iterator waits for it.

    From here on reads fail at once, because thread pools are closed, so that a few moments do.
    """
    quiet = 0
    while quiet < 5:
        time.sleep(0.01)
        quiet = 0 if _reading else quiet + 1
