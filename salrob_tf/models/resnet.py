"""ResNet-18 (Karkehabadi 2023, section 3.1; He et al. 2016), KerasHub's, as one flat Functional model."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import keras
import numpy as np

from salrob_tf._compat import stem_of_resnet
from salrob_tf.checks import check_choice, check_image_shape, check_whole
from salrob_tf.models.contract import check_policy

PRESET = "resnet_18_imagenet"
RESNET18: dict[str, Any] = {
    "input_conv_filters": [64],
    "input_conv_kernel_sizes": [7],
    "stackwise_num_filters": [64, 128, 256, 512],
    "stackwise_num_blocks": [2, 2, 2, 2],
    "stackwise_num_strides": [1, 2, 2, 2],
    "block_type": "basic_block",
    "use_pre_activation": False,
}
STEMS = ("imagenet", "small")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of images in [0, 1]


def resnet18(
    input_shape: tuple[int, ...],
    num_classes: int,
    dtype: str | None = None,
    *,
    weights: str | Path | None = None,
    stem: str = "imagenet",
) -> keras.Model:
    """Karkehabadi's CIFAR-10 network: ResNet-18, pretrained on ImageNet if `weights` says so, with a new head.

    The layers are KerasHub's, in one Functional model without a model inside, so that it reloads without KerasHub.
    Images keep their size. They are normalised as the preset's image converter does it; without preset or converter,
    by ImageNet's mean and standard deviation per channel, so that networks with and without pretrained weights differ
    in nothing else. Images that do not have three channels get the average of the three.

    The `"imagenet"` stem, a 7x7 convolution with stride 2 and a pooling with stride 2, is the paper's; it leaves
    32 x 32 images a single pixel in the last stage. The `"small"` stem, one 3x3 convolution with stride 1, is the
    usual one for such images (He et al. 2016, section 4.2); all else stays KerasHub's.

    Example:
        >>> sr.resnet18((32, 32, 3), num_classes=10, stem="small").output_shape  # doctest: +SKIP
        (None, 10)

    Args:
        input_shape: Shape of one image, `(height, width, channels)`.
        num_classes: Number of logits.
        dtype: Keras dtype policy of the layers, such as `"mixed_bfloat16"`. `None` is Keras' global policy.
            The normalisation and the logits are float32 whatever the policy.
        weights: `None` for random weights; `"imagenet"` for KerasHub's preset `resnet_18_imagenet`, which is
            downloaded from Kaggle; or the folder of a preset that `ResNetBackbone.save_to_preset` wrote.
        stem: `"imagenet"` or `"small"`. The small one takes no pretrained weights: they are of the other one.

    Returns:
        An uncompiled `keras.Model` from `(N, height, width, channels)` to logits `(N, num_classes)`.

    Raises:
        ValueError: If the images, the classes, the policy or the stem are not valid, KerasHub is not installed, or the
            weights cannot be had, are of another network, or do not fit.
    """
    input_shape = check_image_shape(input_shape)
    check_whole("num_classes", num_classes, 2)
    check_policy(dtype)
    check_choice("stem", stem, STEMS)
    if stem == "small" and weights is not None:
        raise ValueError(
            "Pretrained weights are of the imagenet stem, whose 7x7 kernel does not fit the small one: "
            f"leave out one of the two. Received: stem={stem}, weights={weights}"
        )
    try:
        import keras_hub
    except ImportError as error:
        raise ValueError(
            f"resnet18 comes from KerasHub: pip install 'salrob-tf[hub]'. Received: no keras_hub ({error})"
        ) from error

    if weights is None:
        kernel = {"imagenet": [7], "small": [3]}[stem]
        config = {**RESNET18, "input_conv_kernel_sizes": kernel, "image_shape": input_shape}
        backbone, converter = keras_hub.models.ResNetBackbone(**config), None
    else:
        backbone, converter = _from_preset(keras_hub, weights)
        if backbone.image_shape[-1] != input_shape[-1]:
            raise ValueError(
                f"These weights are for images with {backbone.image_shape[-1]} channels. "
                f"Received: weights={weights}, input_shape={input_shape}"
            )
    normalise = _normalisation(converter, input_shape[-1])
    first = next(layer.name for layer in backbone.layers if not isinstance(layer, keras.layers.InputLayer))
    convolution, pooling = stem_of_resnet(backbone) if stem == "small" else ("", ())

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = {**layer.get_config(), "dtype": dtype}
        if layer.name == convolution:
            config["strides"] = 1
        return type(layer).from_config(config)

    def call(layer: keras.layers.Layer, inputs: Any, **kwargs: Any) -> Any:
        if layer.name in pooling:
            return inputs
        return layer(normalise(inputs) if layer.name == first else inputs, **kwargs)

    images = keras.Input(input_shape, name="images")
    features = keras.models.clone_model(backbone, images, clone_function=clone, call_function=call).output
    pooled = keras.layers.GlobalAveragePooling2D(dtype=dtype, name="average")(features)
    logits = keras.layers.Dense(num_classes, dtype="float32", name="logits")(pooled)
    network = keras.Model(images, logits, name="resnet18")
    if weights is not None:
        for layer in backbone.layers:
            if layer.weights:
                network.get_layer(layer.name).set_weights(layer.get_weights())
    return network


def _normalisation(converter: Any, channels: int) -> keras.layers.Layer:
    """What a preset's image converter does to the values of images in [0, 255], for images in [0, 1]."""
    if converter is not None:
        scale = 255 * np.asarray(1.0 if converter.scale is None else converter.scale)
        offset = np.asarray(0.0 if converter.offset is None else converter.offset)
    else:
        mean, std = np.array([IMAGENET_MEAN, IMAGENET_STD])
        if channels != 3:
            mean, std = np.full((2, channels), [[mean.mean()], [std.mean()]])
        scale, offset = 1 / std, -mean / std
    return keras.layers.Rescaling(scale.tolist(), offset.tolist(), dtype="float32", name="normalise")


def _from_preset(keras_hub: Any, weights: str | Path) -> tuple[Any, Any]:
    """The backbone of a preset with its weights, and its image converter, or `None` where it has none."""
    imagenet = str(weights) == "imagenet"
    if not imagenet and not (isinstance(weights, str | Path) and Path(weights).is_dir()):
        raise ValueError(
            "Unknown weights. Valid: imagenet, or the folder of a preset that KerasHub's "
            f"ResNetBackbone.save_to_preset wrote. Received: weights={weights}"
        )
    preset = PRESET if imagenet else str(weights)
    try:
        backbone = keras_hub.models.ResNetBackbone.from_preset(preset)
        try:
            converter = keras_hub.layers.ImageConverter.from_preset(preset)
        except FileNotFoundError:
            converter = None
    except Exception as error:
        # What a damaged preset or a missing network raises depends on where KerasHub, Keras or kagglehub stumble.
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 200)
        advice = (
            "KerasHub cannot download these weights from Kaggle: where it can, run "
            f"keras_hub.models.ResNetBackbone.from_preset('{PRESET}').save_to_preset(FOLDER), and pass that folder"
            if imagenet
            else "This folder holds no ResNet-18 preset of KerasHub: pass imagenet, or one that "
            "ResNetBackbone.save_to_preset wrote"
        )
        raise ValueError(f"{advice}. Received: weights={weights} ({reason})") from error
    config = backbone.get_config()
    different = [f"{key}={config[key]}" for key, value in RESNET18.items() if config[key] != value]
    if different:
        raise ValueError(f"These weights are not of ResNet-18. Received: weights={weights}, {', '.join(different)}")
    return backbone, converter
