"""Folders of images, `train/<class>/...` and `test/<class>/...`, decoded where they are indexed and never all at once.

PNG, JPEG, BMP, GIF, TIFF and WebP files of 8 bits, grey or RGB, all of a folder alike. Pixels are taken as they are
stored: orientation and colour profiles in metadata are left alone, as `keras.utils.image_dataset_from_directory` and
torchvision's `ImageFolder` do.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from salrob_tf.checks import is_whole, shown

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")  # not all of Pillow's: some of its readers start programs
MAX_PIXELS = 2**26  # of one file, 8192 x 8192; below the size from which Pillow warns of decompression bombs
CLUTTER = ("thumbs.db", "desktop.ini")  # what Windows leaves in folders; names that begin with a dot go as well

# Palettes give exact colours, and bilevel images exact greys, so both are converted; the rest would be a guess.
CHANNELS = {"1": 1, "L": 1, "RGB": 3, "P": 3}
REFUSED = {
    **dict.fromkeys(
        ("LA", "La", "PA", "RGBA", "RGBa"),
        "has transparency, and a file does not say what is behind it: put it on a background, as grey or RGB",
    ),
    "CMYK": "is CMYK, whose colours depend on a printer's profile: save it as RGB",
}
DEEP = "has more than 8 bits per channel: save it with 8"


class ImageFiles:
    """Images in files as if they were one array: indexing decodes the files asked for, and nothing is kept.

    `images[3]`, `images[10:20]`, `images[rows]` and `images[mask]` give float32 arrays in [0, 1], the values that an
    array of all images would hold there. A file of another size is resized, bilinear with antialiasing (Pillow's
    `BILINEAR`), and rounded to 8 bits. `numpy.asarray(images)` decodes all.

    Args:
        files: Paths of images that `image_shape` accepts.
        image_shape: `(height, width, channels)` of what indexing gives, with 1 or 3 channels.

    Attributes:
        files: Paths, an array of objects `(N,)`.
        shape: `(N, height, width, channels)`.
        dtype: float32.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, files: Sequence[Path] | np.ndarray, image_shape: tuple[int, int, int]) -> None:
        self.files = np.asarray(files, dtype=object)
        self.shape = (len(self.files), *image_shape)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: Any) -> np.ndarray:
        """Decode the images that an array would give for `key`.

        Raises:
            ValueError: If a file cannot be decoded, naming it.
        """
        chosen = np.atleast_1d(self.files[key])
        images = np.empty((len(chosen), *self.shape[1:]), np.float32)

        def decode(row: int) -> None:
            np.divide(self._pixels(chosen[row]), np.float32(255), out=images[row])

        with ThreadPoolExecutor() as pool:
            for _ in pool.map(decode, range(len(chosen))):
                pass
        return images if np.ndim(self.files[key]) else images[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("Images in files cannot become an array without a copy")
        return self[:].astype(dtype or self.dtype, copy=False)

    def _pixels(self, path: Path) -> np.ndarray:
        height, width, channels = self.shape[1:]
        with _opened(path) as image:
            pixels = image.convert("L" if channels == 1 else "RGB")
        if pixels.size != (width, height):
            pixels = pixels.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(pixels).reshape(height, width, channels)


Images = np.ndarray | ImageFiles


def select(images: Images, rows: np.ndarray) -> Images:
    """The images in some rows: of an array their values, of files the files, still to be decoded."""
    if isinstance(images, ImageFiles):
        return ImageFiles(images.files[rows], images.shape[1:])
    return images[rows]


def read_folder(folder: Path, image_size: int | Sequence[int] | None = None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Training and test images with their labels, and the names of the classes, in a folder of folders.

    Every file's header is read here, so that whatever does not belong is named; that a file is whole shows when it is
    decoded. Files whose names begin with a dot, and Windows' Thumbs.db and desktop.ini, are ignored, as is whatever
    lies beside `train` and `test`.

    Args:
        folder: Holds `train/<class>/` and `test/<class>/`. Labels count the classes in the order of their names.
        image_size: Height and width of the images, one number for squares; needed unless all files have one size.

    Returns:
        `x_train`, `y_train`, `x_test` and `y_test` by these names, and the class names.

    Raises:
        ValueError: If the classes or a file are not valid, naming them.
    """
    size = _check_size(image_size)
    splits = {split: _class_files(folder / split) for split in ("train", "test")}
    class_names = tuple(splits["train"])
    if class_names != tuple(splits["test"]):
        different = sorted(set(splits["train"]) ^ set(splits["test"]))
        raise ValueError(f"train and test must hold the same classes. In one of them only: {', '.join(different)}")
    files = {split: [file for name in class_names for file in found[name]] for split, found in splits.items()}
    every = [*files["train"], *files["test"]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # image_shape has a limit of its own
        with ThreadPoolExecutor() as pool:
            shapes = list(pool.map(image_shape, every))
    _check_alike(every, [shape[2] for shape in shapes], "all grey or all in colour", "1 channel for grey, 3 for RGB")
    if size is None:
        _check_alike(every, [shape[:2] for shape in shapes], "of one size", "pass image_size (--image-size) to resize")
    shape = (*(size or shapes[0][:2]), shapes[0][2])
    arrays: dict[str, Any] = {}
    for split in splits:
        arrays[f"x_{split}"] = ImageFiles(files[split], shape)
        counts = [len(splits[split][name]) for name in class_names]
        arrays[f"y_{split}"] = np.repeat(np.arange(len(class_names), dtype=np.int32), counts)
    return arrays, class_names


def image_shape(path: Path) -> tuple[int, int, int]:
    """`(height, width, channels)` of an image file, by its header.

    Raises:
        ValueError: If it is not an image, or one that no array of 8-bit grey or RGB values stands for.
    """
    with _opened(path) as image:
        return image.height, image.width, CHANNELS[image.mode]


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image whose header is found valid; whatever goes wrong with it becomes one line with its name."""
    if not path.is_file():
        raise ValueError(f"A class folder must hold image files and nothing else. Received: {path}")
    try:
        with Image.open(path, formats=FORMATS) as image:
            problem = _problem(image)
            if problem is None:
                yield image
    except Exception as error:
        # What a damaged file raises depends on where Pillow stumbles: OSError, SyntaxError, struct.error and others.
        if isinstance(error, Image.UnidentifiedImageError):
            problem = f"is not an image in a format that is read, which are {', '.join(FORMATS)}"
        elif isinstance(error, Image.DecompressionBombError):
            problem = f"has more than {MAX_PIXELS:,} pixels: make it smaller"
        else:
            problem = f"cannot be decoded ({error})"
        raise ValueError(f"This file {problem}. Received: file={path}") from error
    if problem is not None:
        raise ValueError(f"This file {problem}. Received: file={path}")


def _problem(image: Any) -> str | None:
    if image.width * image.height > MAX_PIXELS:
        return f"has more than {MAX_PIXELS:,} pixels ({image.width} x {image.height}): make it smaller"
    if getattr(image, "n_frames", 1) > 1:
        return f"holds {image.n_frames} pictures: save the one that counts"
    if "transparency" in image.info:
        return REFUSED["RGBA"]
    # Pillow cuts 16-bit colours down to 8 bits without a word: only the raw mode in its tiles tells.
    if image.mode.startswith(("I", "F")) or re.search(r"(RGB|RGBX);16", str(image.tile)):
        return DEEP
    if image.mode not in CHANNELS:
        return REFUSED.get(image.mode, f"is in the mode {image.mode}: save it as 8-bit grey or RGB")
    return None


def _check_size(image_size: int | Sequence[int] | None) -> tuple[int, int] | None:
    if image_size is None:
        return None
    size: list[Any] = [image_size] if np.ndim(image_size) == 0 else [*image_size]  # type: ignore[misc]
    if len(size) not in (1, 2) or not all(is_whole(side) and 1 <= side <= 8192 for side in size):
        raise ValueError(
            "`image_size` must be one number or height and width, each 1 to 8192. "
            f"Received: image_size={shown(image_size)}"
        )
    return int(size[0]), int(size[-1])


def _class_files(folder: Path) -> dict[str, list[Path]]:
    """Files of each class, classes and files in the order of their names."""
    if not folder.is_dir():
        raise ValueError(f"A folder of images holds train/<class>/ and test/<class>/. Missing: {folder}")
    classes = {}
    for entry in _entries(folder):
        if not entry.is_dir():
            raise ValueError(f"{folder} must hold one folder per class and nothing else. Received: file={entry}")
        if re.search("[\ud800-\udfff]", entry.name):
            raise ValueError(f"The name of a class must be in UTF-8. Received: folder={str(entry)!r}")
        classes[entry.name] = _entries(entry)
        if not classes[entry.name]:
            raise ValueError(f"A class must have at least one image. Received: {entry}, which holds none")
    if len(classes) < 2:
        raise ValueError(f"{folder} must hold two classes or more. Received: {', '.join(classes) or 'none'}")
    return classes


def _entries(folder: Path) -> list[Path]:
    entries = (path for path in folder.iterdir() if not path.name.startswith(".") and path.name.lower() not in CLUTTER)
    return sorted(entries, key=lambda path: path.name)


def _check_alike(files: list[Path], values: list[Any], what: str, hint: str) -> None:
    other = next((row for row, value in enumerate(values) if value != values[0]), None)
    if other is not None:
        raise ValueError(
            f"Images must be {what}; {hint}. Received: {values[0]} in file={files[0]}, {values[other]} in "
            f"file={files[other]}"
        )
