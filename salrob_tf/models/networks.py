"""Networks (Karkehabadi 2023, section 3.1): ordinary Functional models from images in [0, 1] to logits."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature

import keras

from salrob_tf.checks import check_image_shape, check_whole
from salrob_tf.models.contract import check_policy
from salrob_tf.models.resnet import resnet18


def cnn(input_shape: tuple[int, ...], num_classes: int, dtype: str | None = None) -> keras.Model:
    """Karkehabadi's MNIST network: two 3x3 convolutions with stride 1, two dense layers, dropout 0.25 and 0.5.

    The paper leaves the sizes open; 32 and 64 filters, 2x2 max-pooling and 128 hidden units are those of Ismail et al.
    2021, whose code Karkehabadi's method follows. There is no normalisation: images enter as they are, in [0, 1].

    Example:
        >>> sr.cnn((28, 28, 1), num_classes=10).output_shape
        (None, 10)

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


def resnet18_small(input_shape: tuple[int, ...], num_classes: int, dtype: str | None = None) -> keras.Model:
    """`resnet18` with the stem that suits small images."""
    return resnet18(input_shape, num_classes, dtype, stem="small")


NETWORKS: dict[str, Callable[..., keras.Model]] = {
    "cnn": cnn,
    "resnet18": resnet18,
    "resnet18_small": resnet18_small,
}
PRETRAINED = tuple(name for name, build in NETWORKS.items() if "weights" in signature(build).parameters)
