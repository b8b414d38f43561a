"""Checks of single arguments: each returns what it was given as a plain Python value, or says in one line what is."""

from __future__ import annotations

import math
import os
import re
import reprlib
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

LARGEST = 2**63 - 1  # what TensorFlow's integers hold
LONGEST = 80  # characters of a value in a message


def is_whole(value: Any) -> bool:
    """Whether a value is an integer of Python or NumPy, and no boolean."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_whole(name: str, value: Any, low: int = 0, high: int = LARGEST) -> int:
    """A whole number in a range: a Python or NumPy integer, but no boolean, float or string.

    Args:
        name: How an error calls it.
        value: What was given.
        low: The least that is valid.
        high: The most that is valid.

    Raises:
        ValueError: If it is not one.
    """
    if not is_whole(value) or not low <= value <= high:
        beyond = is_whole(value) and value > high
        valid = f"{low} or more" if high == LARGEST else f"from {low} to {_power(high)}"
        valid += f", at most {_power(high)}" if high == LARGEST and beyond else ""
        raise ValueError(f"`{name}` must be a whole number, {valid}. Received: {name}={shown(value)}")
    return int(value)


def check_number(
    name: str,
    value: Any,
    *,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    below: float | None = None,
) -> float:
    """A finite number in a range: a Python or NumPy integer or float, but no boolean or string.

    It is one that float32 holds, in which everything is computed: neither infinity nor, above 0, zero.

    Args:
        name: How an error calls it.
        value: What was given.
        low: The least that is valid.
        above: What it must be above.
        high: The most that is valid.
        below: What it must be below.

    Raises:
        ValueError: If it is not one.
    """
    given = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    try:
        number = float(value) if given else math.nan
    except OverflowError:
        number = math.inf
    with np.errstate(over="ignore"):
        computed = float(np.float32(number))
    inside = (
        math.isfinite(number)
        and (low is None or number >= low)
        and (above is None or number > above)
        and (high is None or number <= high)
        and (below is None or number < below)
    )
    held = math.isfinite(computed) and (computed > 0 or above != 0)
    if not inside or not held:
        limits = {"{} or more": low, "above {}": above, "{} or less": high, "below {}": below}
        valid = " and ".join(text.format(f"{limit:g}") for text, limit in limits.items() if limit is not None)
        valid = f"a finite number{', ' * bool(valid)}{valid}{', in float32' * inside}"
        raise ValueError(f"`{name}` must be {valid}. Received: {name}={shown(value)}")
    return number


def check_flag(name: str, value: Any) -> bool:
    """`True` or `False`, of Python or of NumPy.

    Raises:
        ValueError: If it is neither.
    """
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"`{name}` must be True or False. Received: {name}={shown(value)}")
    return bool(value)


def check_folder(name: str, value: Any) -> Path:
    """The path of a folder, which may not be there yet.

    Raises:
        ValueError: If it is no path, or empty, or too long, or a file is in its place or above it.
    """
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise ValueError(f"`{name}` must be the path of a folder. Received: {name}={shown(value)}")
    path = Path(value)
    for each in (path, *path.parents):
        try:
            there = stat.S_ISDIR(os.stat(each).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            there = False
        except OSError as error:
            text = f"`{name}` cannot be a folder: {error.strerror}. Received: {name}={shown(value)}"
            raise ValueError(text) from error
        if there:
            break
        if os.path.lexists(each):
            raise ValueError(f"`{name}` must be a folder, and this is none. Received: {each}")
    return path


def check_choice(name: str, value: Any, valid: Iterable[str], other: str = "") -> str:
    """One of several names.

    Args:
        name: How an error calls it.
        value: What was given.
        valid: The names.
        other: What an error says is valid beside them, such as `", or a Recipe"`.

    Raises:
        ValueError: If it is none of them.
    """
    valid = tuple(valid)
    if not isinstance(value, str) or value not in valid:
        raise ValueError(f"Unknown {name}. Valid: {', '.join(valid)}{other}. Received: {name}={shown(value)}")
    return value


def check_image_shape(input_shape: Any, smallest: int = 1) -> tuple[int, int, int]:
    """Shape of one image, `(height, width, channels)`.

    Args:
        input_shape: Three whole numbers.
        smallest: The least height and width.

    Raises:
        ValueError: If it is no such shape.
    """
    sides = input_shape if isinstance(input_shape, tuple | list) and len(input_shape) == 3 else ()
    limits = (smallest, smallest, 1)
    if not sides or not all(is_whole(side) and side >= least for side, least in zip(sides, limits, strict=True)):
        raise ValueError(
            f"`input_shape` must be (height, width, channels) of images of {smallest} x {smallest} or more. "
            f"Received: input_shape={shown(input_shape)}"
        )
    height, width, channels = map(int, sides)
    return height, width, channels


def as_array(values: Any, name: str) -> np.ndarray:
    """What NumPy makes of values, of which lists must not be ragged, and none may be masked.

    Args:
        values: Anything.
        name: How an error calls them.

    Raises:
        ValueError: If NumPy makes nothing of them, or some do not count.
    """
    if np.ma.is_masked(values):
        raise ValueError(f"`{name}` must be an array without masked values. Received: {name}={shown(values)}")
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{name}` must be an array, all its parts of one shape. Received: {name}={shown(values)}"
        ) from error


def brief(value: Any, width: int = 160) -> str:
    """A value as one line of at most `width` printable characters, of errors with their type, cut in the middle."""
    text = f"{type(value).__name__}: {value}" if isinstance(value, BaseException) else str(value)
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)  # colours of Keras
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    half = (width - 5) // 2
    return text if len(text) <= width else f"{text[:half]} ... {text[-half:]}"


def shown(value: Any) -> str:
    """A value as an error shows it, in one short line: arrays and tensors by type and shape, the rest as Python does.

    Args:
        value: Anything.
    """
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None and not isinstance(value, np.generic):
        return f"{type(value).__name__} of {getattr(dtype, 'name', dtype)} {shape}"
    short = reprlib.Repr()
    short.maxstring = short.maxlong = short.maxother = LONGEST
    try:
        text = " ".join(short.repr(value).split())
    except Exception:  # of a number with thousands of digits
        return f"a {type(value).__name__}"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _power(number: int) -> str:
    bits = (number + 1).bit_length() - 1
    return f"2^{bits} - 1" if bits > 20 and number + 1 == 1 << bits else str(number)


def epsilon_text(epsilon: float) -> str:
    """An epsilon as people write it: 0.1, or 4/255 where a few decimals do not say it exactly."""
    steps = round(epsilon * 255)
    exact = float(f"{epsilon:.4g}") == epsilon
    return f"{steps}/255" if not exact and np.isclose(epsilon, steps / 255, rtol=1e-6, atol=0) else f"{epsilon:.4g}"
