"""Single arguments: Python's and NumPy's numbers are valid alike, and whatever else comes is one short line."""

from functools import partial

import numpy as np
import pytest

from salrob_tf.checks import check_choice, check_flag, check_number, check_whole, shown

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
    "number": (True, 0, 1, np.int64(1), 10**400, np.longdouble("1e4000"), np.True_),
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
    with pytest.raises(ValueError, match=r"`f` must be a finite number, 0 or more and below 1. Received: f=nan"):
        check_number("f", float("nan"), low=0, below=1)
    with pytest.raises(ValueError, match=r"Unknown recipe. Valid: a, b, or a Recipe. Received: recipe=\{\}"):
        check_choice("recipe", {}, ["a", "b"], ", or a Recipe")
    assert shown(np.zeros((2, 3), np.float32)) == "ndarray of float32 (2, 3)"
