"""Logits, whatever a model gives: which of its outputs they are, and how they are had from probabilities.

The losses of attacks take logits. Given probabilities they still run, but each gradient is then multiplied by the
probabilities of the classes that are not predicted, and dies where the model is sure of itself: attacks look weaker
than they are, those of a margin loss or in L2 most of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from salrob_tf._compat import given_to_last, left_out
from salrob_tf.checks import brief, shown
from salrob_tf.models.contract import outputs_probabilities
from salrob_tf.models.gradients import SCALE

LOGITS = "logits"
REMOVED = {"softmax removed": tf.nn.softmax, "sigmoid removed": tf.math.sigmoid}
ACTIVATIONS = ("Softmax", "Sigmoid")  # what TensorFlow calls them and, as layers and operations, Keras
LOG_PROBABILITIES = "log-probabilities"
SAME = 1e-4  # distance of `furthest` up to which passes agree (AutoAttack's flag)
# Probabilities below it count as 0; the gradient of its logarithm, times what gradients start from, is finite.
SMALLEST = 2 * SCALE * float(np.finfo(np.float32).tiny)

Forward = Callable[[tf.Tensor], tf.Tensor]


def choose_output(
    outputs: Any, output: str | int | None, model: str, names: Sequence[str] = ()
) -> tuple[int, list[str]]:
    """Find the output of a model that is to be attacked.

    Args:
        outputs: What the model gives for a few images: a tensor, or a structure of them.
        output: Its key in a dictionary (`"a/b"` in one inside another), its name in a named tuple or in a Keras
            model with a list of outputs, or its place in a list. `None` takes the only one or, of several, the
            only one that can be logits or probabilities: floats, a row for each image, two columns or more, and no
            other of one column.
        model: What errors call the model.
        names: Names of the outputs of a Keras model, in order.

    Returns:
        Its place in `keras.tree.flatten(outputs)`, and what all outputs there are called.

    Raises:
        ValueError: If there is no such output, or which one is meant is not clear.
    """
    if isinstance(output, bool) or not isinstance(output, str | int | np.integer | None):
        raise ValueError(f"`output` must be the name of an output, or its place. Received: output={shown(output)}")
    found = keras.tree.flatten_with_path(outputs)
    labels = ["/".join(map(str, path)) for path, _ in found]
    names = getattr(outputs, "_fields", names)
    places = [] if isinstance(outputs, dict) else [str(place) for place in range(len(found))]
    if places and len(set(names)) == len(found):
        labels = list(names)
    elif len(found) == 1:
        labels = [labels[0] or "0"]
    listed = brief(
        ", ".join(f"{label} {_described(leaf)}" for label, (_, leaf) in zip(labels, found, strict=True)), 200
    )
    if output is None:
        fitting = [
            place
            for place, (_, leaf) in enumerate(found)
            if len(found) == 1 or (_is_float_rows(leaf) and leaf.shape[-1] > 1)
        ]
        sigmoids = [leaf for _, leaf in found if _is_float_rows(leaf) and leaf.shape[-1] == 1]
        if len(fitting) == 1 and (len(found) == 1 or not sigmoids):
            return fitting[0], labels
        raise ValueError(
            "A model with several outputs needs Classifier(model, output=NAME), or --output NAME, unless one alone is "
            "floats (N, classes) and none is floats (N, 1). "
            f"Received: {model} with outputs {listed or 'none'}"
        )
    for valid in (labels, places):
        if str(output) in valid:
            return valid.index(str(output)), labels
    raise ValueError(f"{model} has no output {brief(repr(output), 60)}. Valid: {listed}")


def logits_of(model: Any, forward: Forward, images: tf.Tensor) -> tuple[Forward, str]:
    """Find a way from images to logits.

    Where a model gives probabilities, the softmax (or sigmoid) that they come from is looked for: in a Keras model it
    is left out, and of what else TensorFlow runs step by step it is the last operation, whose input is taken. It is
    found by trying: only where the softmax of what is left equals what the model gives is it believed, so that no
    structure that a model may have leads astray. Weights stay those of the model. Where there is none to be found, as
    in a SavedModel, logarithms of the probabilities serve as logits, whose softmax are the probabilities.

    Args:
        model: What `forward` runs.
        forward: Outputs `(N, num_classes)` of a batch of images.
        images: A few images to try it on.

    Returns:
        A function from images to logits in any float type, and what was done: `LOGITS` (nothing), a key of
        `REMOVED`, or `LOG_PROBABILITIES`.
    """
    outputs = forward(images)
    given = np.asarray(outputs)
    if given.min() >= 0 and given.max() <= 1:
        activations = reversed(list(_activations(model))) if isinstance(model, keras.Model) else ()
        ways = [_leaving_out(forward, *activation) for activation in activations]
        for without in [*ways, lambda batch: given_to_last(forward, batch, ACTIVATIONS)]:
            try:
                left = without(images)
            except Exception:
                # An activation that changes the shape or the type leaves a model that does not fit together.
                continue
            for done, function in REMOVED.items():
                if _alike(function(left), outputs):
                    return without, done
    if outputs_probabilities(given):
        return lambda batch: tf.math.log(tf.maximum(tf.cast(forward(batch), tf.float32), SMALLEST)), LOG_PROBABILITIES
    return forward, LOGITS


def furthest(passes: np.ndarray) -> float:
    """The largest distance between two passes' logits of one image, each divided by its norm.

    Args:
        passes: Logits `(P, N, num_classes)`.
    """
    normalised = passes / np.maximum(np.linalg.norm(passes, axis=-1, keepdims=True), 1e-12)
    return float(np.linalg.norm(normalised[:, None] - normalised[None], axis=-1).max())


def saturated(log_probabilities: np.ndarray) -> np.ndarray:
    """Which rows have all probabilities but one rounded to 0, so that no gradient is left, boolean `(N,)`."""
    return np.sort(log_probabilities, axis=-1)[:, -2] <= np.log(SMALLEST) + 1e-3


def operations(model: keras.Model) -> Iterator[Any]:
    """Layers, and operations that are none, of a model and the models inside it, in order."""
    for operation in getattr(model, "operations", model.layers):
        if isinstance(operation, keras.Model):
            yield from operations(operation)
        else:
            yield operation


def _is_float_rows(output: Any) -> bool:
    return isinstance(output, tf.Tensor) and output.dtype.is_floating and output.shape.rank == 2


def _described(output: Any) -> str:
    if not hasattr(output, "shape") or not hasattr(output, "dtype"):
        return type(output).__name__
    rest = "".join(f", {size}" for size in tuple(output.shape)[1:])
    return f"(N{rest}) {getattr(output.dtype, 'name', output.dtype)}"


def _activations(model: keras.Model) -> Iterator[tuple[Any, str]]:
    """Operations that may turn logits to probabilities, with the attribute that does."""
    for operation in operations(model):
        if callable(vars(operation).get("activation")):
            yield operation, "activation"
        elif type(operation).__name__ in ACTIVATIONS:
            yield operation, "call"


def _leaving_out(forward: Forward, operation: Any, step: str) -> Forward:
    def without(images: tf.Tensor) -> tf.Tensor:
        with left_out(operation, step):
            return forward(images)

    return without


def _alike(found: tf.Tensor, expected: tf.Tensor) -> bool:
    within = 1e-2 if expected.dtype.size == 2 else 1e-5
    return found.shape == expected.shape and bool(np.allclose(found, tf.cast(expected, found.dtype), 0, within))
