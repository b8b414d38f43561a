"""Single arguments: Python's and NumPy's numbers are valid alike, and whatever else comes is one short line."""

import os
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest

from salrob_tf.checks import as_array, check_choice, check_flag, check_folder, check_number, check_whole, shown

CHECKS = {
    "whole": partial(check_whole, "value", low=1, high=2**32 - 1),
    "number": partial(check_number, "value", above=0, below=1),
    "flag": partial(check_flag, "value"),
    "choice": partial(check_choice, "value", valid=("a", "b")),
}


class Unprintable:
    def __repr__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    ("check", "values"),
    [
        ("whole", (1, np.int64(1), np.uint8(200), 2**32 - 1)),
        ("number", (0.5, np.float32(0.5), np.float16(0.5), np.longdouble(0.5))),
        ("flag", (True, False, np.True_)),
        ("choice", ("a", "b")),
    ],
)
def test_numbers_of_python_and_numpy_are_taken(check, values):
    for value in values:
        taken = CHECKS[check](value)
        assert taken == value and type(taken) in (int, float, bool, str)


HOSTILE = {
    "whole": (True, 0, 2**32, 1.0, np.float32(1), np.True_),
    "number": (True, 0, 1, np.int64(1), 10**400, np.longdouble("1e4000"), np.True_, 1e-46),
    "flag": (0, 1, "False"),
    "choice": ("c", ("a",), np.array(["a"])),
}
ALWAYS = (None, "1", "x" * 9999, "\n" * 99, float("nan"), float("inf"), -1, [1], {}, 10**5000, object(), Unprintable())


@pytest.mark.parametrize("check", CHECKS)
def test_anything_else_is_one_short_line(check):
    for value in (*ALWAYS, np.zeros((2, 3)), np.array(1), [np.zeros((9, 9))] * 99, *HOSTILE[check]):
        with pytest.raises(ValueError, match=r"^[^\n]{1,200}$") as caught:
            CHECKS[check](value)
        assert f"Received: value={shown(value)}" in str(caught.value)


def test_messages_say_what_is_valid():
    with pytest.raises(ValueError, match=r"`n` must be a whole number, 1 or more. Received: n='3'"):
        check_whole("n", "3", 1)
    with pytest.raises(ValueError, match=r"`seed` must be a whole number, from 0 to 2\^32 - 1. Received: seed=-1"):
        check_whole("seed", -1, high=2**32 - 1)
    with pytest.raises(ValueError, match=r"0 or more, at most 2\^63 - 1. Received: seed=9223372036854775808"):
        check_whole("seed", 2**63)
    with pytest.raises(ValueError, match=r"`f` must be a finite number, 0 or more and below 1. Received: f=nan"):
        check_number("f", float("nan"), low=0, below=1)
    with pytest.raises(ValueError, match=r"Unknown recipe. Valid: a, b, or a Recipe. Received: recipe=\{\}"):
        check_choice("recipe", {}, ["a", "b"], ", or a Recipe")
    assert shown(np.zeros((2, 3), np.float32)) == "ndarray of float32 (2, 3)"


@pytest.mark.parametrize("value", [1e39, -1e39, np.float64(1e300), np.longdouble(1e300)])
def test_numbers_that_float32_takes_for_infinite_are_none(value):
    with pytest.raises(ValueError, match=r"`f` must be a finite number, in float32. Received: f="):
        check_number("f", value)


def test_numbers_that_float32_takes_for_zero_are_not_above_it():
    assert check_number("f", 1e-45, above=0) == 1e-45 and check_number("f", 1e-46, low=0) == 1e-46
    with pytest.raises(ValueError, match=r"`f` must be a finite number, above 0, in float32. Received: f=1e-46"):
        check_number("f", 1e-46, above=0)


@pytest.mark.parametrize("value", [None, 5, True, "", b"folder", "a\0b", ["folder"], {}])
def test_what_is_no_path_is_no_folder(value):
    with pytest.raises(ValueError, match=r"^`out` must be the path of a folder. Received: out=[^\n]*$"):
        check_folder("out", value)


def test_a_folder_is_one_or_can_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    os.symlink("loop", tmp_path / "loop")
    os.symlink("gone", tmp_path / "link")
    for path in (tmp_path, tmp_path / "new", tmp_path / "new" / "deeper"):
        assert check_folder("out", str(path)) == check_folder("out", path) == path
    for path, found in (("file", "file"), ("file/below", "file"), ("link", "link"), ("link/below", "link")):
        with pytest.raises(ValueError, match=f"`out` must be a folder, and this is none. Received: .*/{found}$"):
            check_folder("out", tmp_path / path)
    assert check_folder("out", "relative/path") == Path("relative/path")
    for path, reason in (("loop", "Too many levels of symbolic links"), ("x" * 300, "File name too long")):
        with pytest.raises(ValueError, match=f"`out` cannot be a folder: {reason}. Received: out="):
            check_folder("out", tmp_path / path)


@pytest.mark.parametrize("values", [[[1], [1, 2]], [np.zeros((8, 8)), np.zeros((9, 9))], keras.Input((8, 8, 1))])
def test_what_numpy_makes_no_array_of_is_one_line(values):
    with pytest.raises(ValueError, match=r"^`x` must be an array, all its parts of one shape. Received: x=[^\n]*$"):
        as_array(values, "x")


def test_masked_values_are_none():
    values = np.ma.masked_array([0.5, 1.0], mask=[False, True])
    with pytest.raises(
        ValueError, match="`x` must be an array without masked values. Received: x=MaskedArray of float"
    ):
        as_array(values, "x")
    assert type(as_array(values[:1], "x")) is np.ndarray
