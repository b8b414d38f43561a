"""The range of images that a model takes, and images in it as images in [0, 1]."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np

from salrob_tf.checks import as_array, shown
from salrob_tf.data.arrays import check_images


def check_images_in(images: Any, bounds: tuple[float, float]) -> np.ndarray:
    """Images as `check_images` returns them; 8-bit ones of a model that takes their range are divided by 255.

    Raises:
        ValueError: If they are not valid.
    """
    images = as_array(images, "images")
    if images.dtype.kind in "iu":
        if bounds != (0, 255):
            raise ValueError(
                "`images` must be floats in [0, 1]: divide 8-bit images by 255, or pass Classifier(model, "
                "bounds=(0, 255)) if the model takes 0..255, which takes them as they are. "
                f"Received: dtype={images.dtype}, bounds={bounds}"
            )
        if images.size and not 0 <= images.min() <= images.max() <= 255:
            raise ValueError(
                "`images` must be floats in [0, 1], or integers in 0..255. "
                f"Received: integers from {images.min()} to {images.max()}"
            )
        images = np.divide(images, np.float32(255), dtype=np.float32)
    return check_images(images)


def check_bounds(bounds: Any) -> tuple[float, float]:
    """The range of images that a model takes, as two floats.

    Raises:
        ValueError: If it is not two finite numbers, the lower one first.
    """
    low, high = np.nan, np.nan
    with suppress(OverflowError, TypeError, ValueError):
        if isinstance(bounds, list | tuple | np.ndarray) and not any(
            isinstance(bound, str | bytes) for bound in bounds
        ):
            low, high = map(float, bounds)
    with np.errstate(over="ignore"):
        lowest, highest = np.array([low, high]).astype(np.float32)  # as images are
    if not (np.isfinite([lowest, highest]).all() and lowest < highest):
        raise ValueError(f"`bounds` must be two finite numbers, the lower one first. Received: bounds={shown(bounds)}")
    return low, high
