"""Functions of tensors, compiled once, and called without the cost of matching arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


class Compiled:
    """A function of tensors or arrays, traced once.

    `tf.function` matches arguments with its signature three times in each call, which for small models takes as long as
    the call itself: what it traced is called instead, with tensors.
    """

    def __init__(self, function: Callable[..., Any], signature: list[tf.TensorSpec]) -> None:
        self._dtypes = [spec.dtype for spec in signature]
        self._function = tf.function(function, input_signature=signature, autograph=False)
        self._traced = self._function.get_concrete_function()

    def __call__(self, *given: Any) -> Any:
        """What the function gives for tensors or arrays."""
        return self._traced(*map(tf.convert_to_tensor, given, self._dtypes))

    @property
    def traces(self) -> int:
        """How often it was traced."""
        return int(self._function.experimental_get_tracing_count())
