"""Networks (K, section 3.1, Model Architecture): ordinary Functional models from images in [0, 1] to logits."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from salrob_tf.checks import check_image_shape, check_policy, check_whole, shown
from salrob_tf.resnet import resnet18


def cnn(input_shape: tuple[int, ...], num_classes: int, dtype: str | None = None) -> keras.Model:
    """K's MNIST network: two 3x3 convolutions with stride 1, two dense layers, dropout 0.25 and 0.5.

    K leaves the sizes open; 32 and 64 filters, 2x2 max-pooling and 128 hidden units are those of Ismail et al.
    2021, whose code K's method follows. There is no normalisation: images enter as they are, in [0, 1].

    Args:
        input_shape: Shape of one image, `(height, width, channels)`, at least 6 x 6.
        num_classes: Number of logits.
        dtype: Keras dtype policy of the layers, such as `"mixed_bfloat16"`. `None` is Keras' global policy.
            The logits are float32 whatever the policy.

    Returns:
        An uncompiled `keras.Model` from `(N, height, width, channels)` to logits `(N, num_classes)`.

    Raises:
        ValueError: If the images are too small, there are fewer than two classes, or the policy is none of floats.
    """
    input_shape = check_image_shape(input_shape, smallest=6)
    check_whole("num_classes", num_classes, 2)
    check_policy(dtype)
    layers = keras.layers
    images = keras.Input(input_shape, name="images")
    x = layers.Conv2D(32, 3, activation="relu", dtype=dtype)(images)
    x = layers.Conv2D(64, 3, activation="relu", dtype=dtype)(x)
    x = layers.MaxPooling2D(2, dtype=dtype)(x)
    x = layers.Dropout(0.25, dtype=dtype)(x)
    x = layers.Flatten(dtype=dtype)(x)
    x = layers.Dense(128, activation="relu", dtype=dtype)(x)
    x = layers.Dropout(0.5, dtype=dtype)(x)
    logits = layers.Dense(num_classes, dtype="float32", name="logits")(x)
    return keras.Model(images, logits, name="cnn")


NETWORKS: dict[str, Callable[..., keras.Model]] = {
    "cnn": cnn,
    "resnet18": resnet18,
    "resnet18_small": partial(resnet18, stem="small"),
}
PRETRAINED = ("resnet18",)  # those that take `weights`


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
        ValueError: If the model is not built, has several inputs or outputs, takes images of any size, or ends in
            softmax.
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


def alike_in_both_modes(model: keras.Model, image_shape: tuple[int, ...]) -> bool:
    """Whether a network computes the same in training as in inference mode: whether its two graphs are the same."""
    images = tf.TensorSpec([None, *image_shape], keras.config.floatx())
    traced = (
        tf.function(lambda batch, mode=mode: model(batch, training=mode)).get_concrete_function(images)
        for mode in (True, False)
    )
    try:
        training, inference = (list(function.graph.as_graph_def().node) for function in traced)
    except Exception:
        return False  # there is no graph of what runs only eagerly; what it raises is up to its layers
    return training == inference


def structure_of(model: keras.Model) -> str:
    """Layers and operations of a model, their settings and connections, as JSON.

    Names are numbered, and seeds left out: each process gives them anew.
    """
    layers = model._flatten_layers()
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
