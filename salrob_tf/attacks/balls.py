"""What a step of an attack is given, and where it goes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from cleverhans.tf2.utils import clip_eta, optimize_linear

from salrob_tf.checks import shown

NORMS = {"inf": np.inf, "2": 2.0}


def check_norm(norm: Any) -> float:
    """A norm as a number: infinity for `np.inf` or `"inf"`, 2.0 for 2 or `"2"`.

    Raises:
        ValueError: If it is another one.
    """
    if isinstance(norm, str) and norm in NORMS:
        return NORMS[norm]
    if isinstance(norm, int | float | np.integer | np.floating) and not isinstance(norm, bool) and norm in (2, np.inf):
        return float(norm)
    raise ValueError(f"`norm` must be np.inf or 2. Received: norm={shown(norm)}")


class Batch(NamedTuple):
    """Images that are attacked together.

    Attributes:
        images: `(N, height, width, channels)`, float32 in [0, 1].
        labels: True labels, int32 `(N,)`.
        loss_classes: The classes whose loss is maximised or, in a targeted attack, minimised, int32 `(N,)`.
        radii: Radius of each ball, float32 `(N,)`.
        indices: Index of each image in its dataset, `(N,)`.
        tries: Which try each is at, counted from 0, `(N,)`; see `AttackSettings.tries`.
    """

    images: np.ndarray
    labels: np.ndarray
    loss_classes: np.ndarray
    radii: np.ndarray
    indices: np.ndarray
    tries: np.ndarray

    def part(self, rows: slice) -> Batch:
        """Some of the rows."""
        return Batch(*(column[rows] for column in self))

    def as_tensors(self) -> Batch:
        """The same as tensors, so that not every step converts it."""
        return Batch(*(tf.constant(column) for column in self))


def steepest(gradient: tf.Tensor, size: tf.Tensor, norm: float) -> tf.Tensor:
    """The change of a given size that raises a loss most: CleverHans' `optimize_linear`, however small the gradient is.

    CleverHans takes a norm below 1e-6 for 1e-6, which stops L2 attacks where the network is sure of itself.
    """
    if norm == 2:
        gradient = tf.math.divide_no_nan(gradient, tf.reduce_max(tf.abs(gradient), axis=[1, 2, 3], keepdims=True))
    return optimize_linear(gradient, size, norm)


def clip(images: tf.Tensor) -> tf.Tensor:
    """Images clipped to [0, 1]."""
    return tf.clip_by_value(images, 0.0, 1.0)


class Ball(NamedTuple):
    """What adversarial images of a batch stay in.

    Attributes:
        images: Their centres, `(N, height, width, channels)`.
        epsilon: Their radii, `(N, 1, 1, 1)`.
        norm: Their norm.
    """

    images: tf.Tensor
    epsilon: tf.Tensor
    norm: float

    def project(self, moved: tf.Tensor) -> tf.Tensor:
        """The nearest images in the balls, clipped to [0, 1]."""
        return clip(self.images + clip_eta(moved - self.images, self.norm, self.epsilon))
