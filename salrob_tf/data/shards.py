"""The images of a sweep in parts that fit into memory, whatever they are given as."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from salrob_tf.checks import as_array, brief, shown
from salrob_tf.data.arrays import check_labels
from salrob_tf.data.datasets import Dataset
from salrob_tf.data.folders import ImageFiles

Shards = Iterator[tuple[np.ndarray, np.ndarray]]


def shards_of(images: Any, labels: Any, size: int, num_classes: int) -> tuple[Shards, int | None]:
    """Parts of `size` images with their labels.

    Args:
        images: An array or a list of images; images in files; or a `tf.data.Dataset` of batches of images and labels.
        labels: `(N,)`, or `None` with a dataset.
        size: Images in each part but the last.
        num_classes: Number of classes that labels may be of.

    Returns:
        The parts, and the number of images, `None` where a dataset does not tell.

    Raises:
        ValueError: If images are none of these, or labels are missing, too many, of another number or out of range.
    """
    if isinstance(images, tf.data.Dataset):
        return _streamed(images, labels, size), None
    if isinstance(images, Dataset):
        raise ValueError(
            "`images` must be one part of a dataset, with `labels`: pass data.x_test and data.y_test. Received: "
            f"images=Dataset {images.name!r}"
        )
    if not isinstance(images, ImageFiles):
        images = _as_array(images)
    if labels is None:
        raise ValueError(f"`labels` must be the true classes of the images. Received: labels=None, {shown(images)}")
    if len(images):
        labels = check_labels(labels, len(images), num_classes)
    starts = range(0, max(1, len(images)), size)
    return ((images[start : start + size], labels[start : start + size]) for start in starts), len(images)


def _as_array(images: Any) -> np.ndarray:
    if isinstance(images, list | tuple | np.ndarray | tf.Tensor) or hasattr(images, "__array__"):
        found = as_array(images, "images")
        if found.ndim:
            return found
    raise ValueError(
        "`images` must be an array (N, height, width, channels), images in files, or a tf.data.Dataset of batches of "
        "images and labels; what can be read only once, such as a generator, cannot be resumed. "
        f"Received: images={shown(images)}"
    )


def _streamed(images: tf.data.Dataset, labels: Any, size: int) -> Shards:
    if labels is not None:
        raise ValueError("A dataset brings its own labels: leave `labels` out")
    spec = images.element_spec
    if not isinstance(spec, tuple) or len(spec) != 2 or not all(isinstance(part, tf.TensorSpec) for part in spec):
        raise ValueError(f"A dataset must give pairs of images and labels, in batches. Received: {shown(spec)}")
    if spec[0].shape.rank not in (None, 4) or spec[1].shape.rank == 0:
        raise ValueError(
            "A dataset must give batches (N, height, width, channels) with labels (N,): call .batch(256). Received: "
            f"images {spec[0].shape}, labels {spec[1].shape}"
        )
    if images.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("A dataset must come to an end: leave out .repeat(). Received: a dataset without end")
    return _read(images.unbatch().batch(size))


def _read(images: tf.data.Dataset) -> Shards:
    try:
        for x, y in images:
            yield x.numpy(), y.numpy()
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(
            "A dataset must give images of one shape, and as many labels as images. "
            f"Received: {brief(re.sub('{{.*?}}|.Op:.*', '', error.message))}"
        ) from error
