"""What happens to images before a Keras model's first weights: KerasHub's preprocessors, and layers that rescale."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from salrob_tf._compat import layers_of, random_states
from salrob_tf.checks import brief
from salrob_tf.models.contract import preprocessor_of
from salrob_tf.models.logits import operations

PASSES = 5


def name_of(preprocessor: Any) -> str:
    """The class of a preprocessor, or the name of a function."""
    return str(getattr(preprocessor, "__name__", type(preprocessor).__name__))


def shape_before(model: Any, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """What images a task takes before its preprocessor, which may resize them.

    Args:
        model: A KerasHub task with a preprocessor.
        shape: What the model behind it takes, `(height, width, channels)`, with `None` where any number will do.

    Returns:
        `shape`, with `None` for each size that the preprocessor makes of any other.
    """
    sizes = [32 if size is None else size for size in shape]

    def after(given: list[int]) -> list[int] | None:
        try:
            return list(model.preprocess_samples(tf.zeros([1, *given])).shape[1:])
        except Exception:
            # A preprocessor may be anything.
            return None

    if after(sizes) is None:
        return (None,) * len(shape)
    before = []
    for axis, size in enumerate(shape):
        one_more = [number + (place == axis) for place, number in enumerate(sizes)]
        found = after(one_more)
        follows = found is None or found[axis : axis + 1] == one_more[axis : axis + 1]
        before.append(size if follows else None)
    return tuple(before)


def check_preprocessor(model: Any, images: tf.Tensor) -> None:
    """Run a task's preprocessor on a few images.

    Args:
        model: A KerasHub task with a preprocessor.
        images: `(N, height, width, channels)`, in the range that the preprocessor takes.

    Raises:
        ValueError: If it does not take them, draws random numbers, or has no gradient.
    """
    try:
        states = _random_states(model)
        with tf.GradientTape() as tape:
            tape.watch(images)
            prepared = model.preprocess_samples(images)
            direction = np.random.default_rng(0).normal(size=prepared.shape)
            target = tf.reduce_sum(tf.cast(prepared, tf.float32) * direction)
        gradient = tape.gradient(target, images)
        again = [np.asarray(model.preprocess_samples(images)) for _ in range(PASSES - 1)]
        moved = _random_states(model)
    except Exception as error:
        # A preprocessor may be anything.
        problem = f"cannot be run on images {tuple(images.shape[1:])} ({brief(error)})"
    else:
        same = all(np.array_equal(part, np.asarray(prepared)) for part in again)
        if not (same and all(map(np.array_equal, states, moved))):
            problem = "draws random numbers"
        elif gradient is None or not np.isfinite(gradient).all() or not np.any(gradient):
            problem = "has no gradient with respect to the images"
        else:
            return
    raise ValueError(
        f"A preprocessor must be a differentiable function of images alone: let it only resize and rescale (an "
        f"ImageConverter), or set `preprocessor = None` and pass images that are prepared. Received: {model.name}, "
        f"whose {name_of(preprocessor_of(model))} {problem}"
    )


def preprocessing_of(model: Any, prepared: bool, bounds: tuple[float, float], name: str) -> list[str]:
    """Names of what rescales or normalises images inside a Keras model, with a warning if that is for a wider range.

    Args:
        model: The model; of one that is not Keras' nothing is known.
        prepared: Whether its own preprocessor is run before it.
        bounds: The range of its images.
        name: What the warning calls it.
    """
    if not isinstance(model, keras.Model):
        return []
    low, high = bounds
    preprocessor = preprocessor_of(model) if prepared else None
    found = [] if preprocessor is None else [name_of(preprocessor)]
    for layer, for_a_wider_range in layers_that_rescale(preprocessor, model, low, high):
        found.append(layer)
        if for_a_wider_range:
            warnings.warn(
                f"{name} begins with {layer} for a wider range than that of the images it is given, [{low:g}, "
                f"{high:g}]: the bounds that it expects are probably 0 and 255",
                stacklevel=3,  # who made the classifier
            )
    return found


def layers_that_rescale(preprocessor: Any, model: keras.Model, low: float, high: float) -> Iterator[tuple[str, bool]]:
    """What rescales or normalises images before the first weights of a model.

    Args:
        preprocessor: What images meet before the model, or `None`.
        model: Any Keras model.
        low: Smallest value of its images.
        high: Largest value of its images.

    Yields:
        The class of a layer, and whether it is made for a wider range: as a rescaling, it leaves these images
        in one narrower than 0.1; as that or a normalisation, it is centred above theirs.
    """
    before = layers_of(preprocessor) if isinstance(preprocessor, keras.Layer) else ()
    for layer in [*before, *operations(model)]:
        if _is_converter(layer) or isinstance(layer, keras.layers.Rescaling):
            scale, offset = (
                np.asarray(default if setting is None else setting, np.float64)
                for setting, default in ((layer.scale, 1.0), (layer.offset, 0.0))
            )
            above = np.all(scale > 0) and bool(np.min(-offset / scale) > high)
            yield type(layer).__name__, above or bool(np.max(np.abs(scale)) * (high - low) < 0.1)
        elif isinstance(layer, keras.layers.Normalization):
            yield type(layer).__name__, bool(np.min(layer.mean) > high)
        elif getattr(layer, "weights", ()):
            return


def _random_states(model: Any) -> list[np.ndarray]:
    return [np.array(state) for state in random_states(preprocessor_of(model))]


def _is_converter(layer: Any) -> bool:
    return any(cls.__name__ == "ImageConverter" for cls in type(layer).__mro__)
