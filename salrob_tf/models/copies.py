"""What stands for a model beside it: its layers computing in bfloat16, and whether something still stands for it."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from salrob_tf._compat import finalize, layers_of, random_states
from salrob_tf.checks import brief
from salrob_tf.models.logits import Forward

MORE_PASSES = 8  # of functions that draw random numbers
CHANCE = 6.0  # standard errors up to which means over passes may differ


def copy_in_bfloat16(
    model: keras.Model, forward_of: Callable[[keras.Model], Forward], name: str
) -> tuple[keras.Model, Forward]:
    """A copy of a model whose layers compute in bfloat16 with the model's weights, read at each run.

    Args:
        model: Functional or Sequential.
        forward_of: What makes a copy a function of images.
        name: What errors call the model.

    Returns:
        The copy, whose own weights nothing reads, and a function from images to its outputs.

    Raises:
        ValueError: If the model cannot be copied.
    """
    try:
        copy = keras.models.clone_model(model, clone_function=_layer_in_bfloat16, recursive=True)
        pairs = list(zip(copy.weights, model.weights, strict=True))
        derived = list(zip(_normalisations(copy), _normalisations(model), strict=True))
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            "Only a Functional or Sequential Keras model can be attacked in bfloat16. "
            f"Received: {name}, of which copying raised {brief(error)}"
        ) from error
    crafted = forward_of(copy)
    states = random_states(copy)

    def forward(images: tf.Tensor) -> tf.Tensor:
        # The copy's layers with the model's weights, read at each run: training goes on after the copying.
        given = [(ours, tf.convert_to_tensor(theirs.value)) for ours, theirs in pairs]
        with keras.StatelessScope(given, initialize_variables=False) as scope:
            for ours, theirs in derived:  # what they adapted to became constants when they were built
                finalize(ours, theirs)
            outputs = crafted(images)
        for state in states:  # each pass draws anew
            moved = scope.get_current_value(state)
            if moved is not None:
                state.assign(moved)
        return outputs

    return copy, forward


def differ(first: Callable[[], np.ndarray], second: Callable[[], np.ndarray], within: float) -> bool:
    """Whether two functions give different arrays or, where they draw random numbers, arrays of different means.

    Args:
        first: Gives an array `(N, classes)`.
        second: Gives one of the same shape.
        within: Which share of the largest magnitude is rounding.
    """
    ours, theirs = [first()], [second()]
    if _near(ours[0], theirs[0], within):  # as a rule, and two passes are all that it takes
        return False
    ours.append(first())
    theirs.append(second())
    if _near(ours[0], ours[1], within) and _near(theirs[0], theirs[1], within):
        return True
    for passes, run in ((ours, first), (theirs, second)):
        passes += [run() for _ in range(MORE_PASSES - 2)]
    # Row by row: of many columns, one would be far off by chance.
    apart = np.linalg.norm(np.mean(ours, axis=0) - np.mean(theirs, axis=0), axis=-1)
    chance = np.sqrt(np.sum(np.var(ours, axis=0) + np.var(theirs, axis=0), axis=-1) / MORE_PASSES)
    return bool(np.any(apart > within * np.linalg.norm(np.mean(ours, axis=0), axis=-1) + CHANCE * chance))


def _near(one: np.ndarray, other: np.ndarray, within: float) -> bool:
    return bool(np.abs(one - other).max() <= within * np.abs(one).max())


def rounding(model: object) -> float:
    """How far logits of one model may lie apart by rounding, as a share of the largest: more in half precision."""
    layers = layers_of(model) if isinstance(model, keras.Model) else ()
    half = any(getattr(layer, "compute_dtype", "") in ("float16", "bfloat16") for layer in layers)
    return 0.03 if half else 1e-3


def _normalisations(model: keras.Model) -> list[keras.layers.Normalization]:
    return [layer for layer in layers_of(model) if isinstance(layer, keras.layers.Normalization)]


def _layer_in_bfloat16(layer: keras.layers.Layer) -> keras.layers.Layer:
    if layer.dtype_policy.name != "float32" or isinstance(layer, keras.Model):
        raise ValueError(f"Only float32 layers are copied. Received: {layer.name} in {layer.dtype_policy.name}")
    return type(layer).from_config({**layer.get_config(), "dtype": "mixed_bfloat16"})
