"""What any classifier must be, and how one inside another model is found."""

from __future__ import annotations

import json
import os
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from salrob_tf._compat import layers_of
from salrob_tf.checks import brief, shown


def check_policy(dtype: Any) -> None:
    """What layers compute in: `None` for Keras' global dtype policy, or a policy of floats.

    Raises:
        ValueError: If it is neither.
    """
    try:
        valid = dtype is None or "float" in keras.dtype_policies.get(dtype).compute_dtype
    except Exception:  # which one depends on what it was given
        valid = False
    if not valid:
        raise ValueError(
            "`dtype` must be a dtype policy of floats, such as float32 or mixed_bfloat16, or None. "
            f"Received: dtype={shown(dtype)}"
        )


def images_of(shape: tuple[int, ...]) -> tf.Tensor:
    """A few images of a shape, `(height, width, channels)`, always the same, that a model can be tried with.

    Raises:
        ValueError: If they do not fit into memory.
    """
    try:
        return tf.constant(np.random.default_rng(0).random((8, *shape), np.float32))
    except (ValueError, MemoryError) as error:
        raise ValueError(f"Images of {shape} do not fit into memory. Received: input_shape={shape}") from error


def outputs_probabilities(outputs: np.ndarray) -> bool:
    """Whether a classifier's outputs look like probabilities rather than logits (the flag of AutoAttack).

    Args:
        outputs: `(N, num_classes)`.

    Returns:
        `True` if every value lies in [0, 1] and every row sums to 1, both within 1e-5, or 1e-2 for 16-bit outputs.
    """
    outputs = np.asarray(outputs)
    within = 1e-2 if outputs.dtype.itemsize == 2 else 1e-5
    rows = outputs.astype(np.float64)
    return bool(rows.max() < 1 + within and rows.min() > -within and np.abs(rows.sum(-1) - 1).max() < within)


def batch_shape(model: keras.Model) -> tuple[int | None, ...]:
    """What a built model takes, `(N, height, width, channels)`, with `None` where any number will do.

    Raises:
        ValueError: If it is no Keras model, is not built, or does not have one input of images.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(
            "The classifier must be a keras.Model, such as keras.saving.load_model gives of a .keras file. "
            f"Received: {shown(model)}"
        )
    shape = None
    if model.built:
        shape = getattr(model, "input_shape", None) or (model.get_build_config() or {}).get("input_shape")
    if not isinstance(shape, tuple | list) or len(shape) != 4 or not all(isinstance(n, int | None) for n in shape):
        raise ValueError(
            "The classifier must be built, with one input of (height, width, channels): "
            f"start it with keras.Input or call build(). Received: {model.name} with input_shape={shape}"
        )
    return tuple(shape)


def check_outputs(outputs: Any, name: str) -> int:
    """Number of classes of a classifier's outputs.

    Raises:
        ValueError: If they are not one tensor of numbers `(N, num_classes)`, of two classes or more.
    """
    received = type(outputs).__name__
    if isinstance(outputs, tf.Tensor | np.ndarray):
        shape, dtype = tuple(outputs.shape), tf.as_dtype(outputs.dtype)
        if len(shape) == 2 and shape[-1] > 1 and (dtype.is_floating or dtype.is_integer):
            return int(shape[-1])
        received = f"{shape} {dtype.name}"
    raise ValueError(
        "The classifier must give logits (N, num_classes), two classes or more; a binary one needs two outputs, such "
        f"as 0 and its logit. Received: {name} with outputs {received}"
    )


def preprocessor_of(model: Any) -> Any | None:
    """What `fit` and `predict` of a KerasHub task run on images before the model itself, or `None`."""
    return getattr(model, "preprocessor", None) if hasattr(model, "preprocess_samples") else None


def check_gives_logits(model: keras.Model) -> tuple[tuple[int, ...], int]:
    """Find out what a classifier takes and gives; refuse one that does not turn images into logits.

    The model is run on a few random images, so that a softmax is found wherever it hides.

    Args:
        model: A built model with one input `(N, height, width, channels)`.

    Returns:
        Shape of one image, `(height, width, channels)`, and the number of logits.

    Raises:
        ValueError: If the model is not built, has several inputs or outputs, takes images of any size, has fewer
            than two classes, or ends in softmax.
    """
    if (preprocessor := preprocessor_of(model)) is not None:
        warnings.warn(
            f"{model.name} takes images here as they are, without its preprocessor, {type(preprocessor).__name__}: "
            "set `preprocessor = None`, and put layers that resize and rescale before it",
            stacklevel=3,
        )
    shape = tuple(size for size in batch_shape(model)[1:] if size is not None)
    if len(shape) != 3:
        raise ValueError(
            f"The classifier must take images of one size. Received: {model.name} with input_shape={batch_shape(model)}"
        )
    images = np.random.default_rng(0).random((8, *shape), np.float32)
    outputs = model(images, training=False)
    num_classes = check_outputs(outputs, model.name)
    if outputs_probabilities(outputs):
        raise ValueError(
            "The classifier must give logits, but ends in softmax: remove the softmax, its gradients hide attacks. "
            f"Received: {model.name}, whose outputs sum to 1"
        )
    return shape, num_classes


class InInferenceMode(keras.Model):
    """A classifier whose layers are in inference mode whoever calls it: by itself, RandomFlip is not.

    Args:
        model: A built model with one input of images.
    """

    def __init__(self, model: keras.Model) -> None:
        super().__init__(name=model.name, autocast=False)
        self.model = model
        self.built = True

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Logits `(N, num_classes)`."""
        return self.model(inputs, training=False)

    def signature(self) -> list[keras.InputSpec]:
        """What the classifier takes, as Keras names it: images `(N, height, width, channels)` for any N."""
        shape = (None, *batch_shape(self.model)[1:])
        if not hasattr(self.model, "inputs"):
            return [keras.InputSpec(shape=shape, dtype=keras.config.floatx())]
        (image,) = self.model.inputs
        return [keras.InputSpec(shape=shape, dtype=image.dtype, name=image.name)]


class Wrapper(keras.Model):
    """A Keras model around a classifier, which can be taken out of it again; who inherits it builds it last.

    Args:
        model: A built Keras model from images `(N, height, width, channels)` to logits `(N, num_classes)`.
        **kwargs: Passed on to `keras.Model`, such as `name`.

    Raises:
        ValueError: If `model` is not built, has several inputs or outputs, takes images of any size, has fewer than two
            classes, or ends in softmax.
    """

    def __init__(self, model: keras.Model, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.autocast = False  # the classifier casts what it is given, whatever Keras' global policy is
        self.image_shape, self.num_classes = check_gives_logits(model)
        self.model = model

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Logits `(N, num_classes)` of the classifier."""
        return self.model(inputs, training=training)

    def export(
        self,
        filepath: Any,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: Any = None,
        **kwargs: Any,
    ) -> None:
        """Write the classifier alone as a SavedModel that plain TensorFlow loads; see `keras.Model.export`.

        It gives what the classifier gives in inference mode, where Keras' own export leaves RandomFlip and its like on.

        Raises:
            OSError: If it cannot be written there.
            ValueError: If `filepath` is no path.
        """
        if not isinstance(filepath, str | os.PathLike) or not os.fspath(filepath):
            raise ValueError(f"`filepath` must be a path. Received: filepath={shown(filepath)}")
        model = InInferenceMode(self.model)
        signature = model.signature() if input_signature is None else input_signature
        try:
            model.export(filepath, format, verbose, signature, **kwargs)
        except (tf.errors.FailedPreconditionError, tf.errors.ResourceExhaustedError, tf.errors.UnknownError) as error:
            raise OSError(f"This cannot be written ({brief(error.message)}). Received: {shown(filepath)}") from error

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """`keras.Model.save`."""
        with warnings.catch_warnings():
            # Keras' variables are not quite what NumPy 2 wants of arrays, but np.array takes them all the same.
            warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy", DeprecationWarning)
            super().save(filepath, *args, **kwargs)


def structure_of(model: keras.Model) -> str:
    """Layers and operations of a model, their settings and connections, as JSON.

    Names are numbered, and seeds left out: each process gives them anew.
    """
    layers = layers_of(model)
    names = {step.name for step in (*layers, *getattr(model, "operations", ()))}
    numbers: dict[str, str] = {}

    def lasting(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: lasting(part) for key, part in value.items() if key not in ("seed", "trainable")}
        if isinstance(value, list | tuple):
            return [lasting(part) for part in value]
        return numbers.setdefault(value, f"#{len(numbers)}") if isinstance(value, str) and value in names else value

    try:
        settings = [model.get_config()]
    except Exception:
        settings = [_settings(layer) for layer in layers if layer is not model]
    return json.dumps(lasting(settings), sort_keys=True, skipkeys=True, default=_plain)


def _settings(layer: keras.layers.Layer) -> Any:
    try:
        return [type(layer).__name__, layer.get_config()]
    except Exception:
        return [type(layer).__name__]  # layers of the user's own need not have any settings, or may fail at them


def _plain(value: Any) -> Any:
    return np.asarray(value).tolist() if isinstance(value, np.ndarray | tf.Tensor) else type(value).__name__
