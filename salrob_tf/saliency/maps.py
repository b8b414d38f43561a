"""Saliency maps (Karkehabadi 2023, section 1.1) by tf-keras-vis, signed, so that two networks compare."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from salrob_tf.checks import check_choice, check_number, check_whole
from salrob_tf.data.arrays import check_images, check_labels
from salrob_tf.models.contract import Wrapper, check_gives_logits

METHODS = ("gradient", "smoothgrad", "gradcam++")


def saliency_maps(
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    method: str = "gradient",
    *,
    samples: int = 20,
    noise: float = 0.2,
    seed: int = 0,
) -> np.ndarray:
    """What of images speaks for their labels: by default the gradient of the label's logit with respect to them.

    Example:
        >>> functional = keras.Model(network.inputs, network.outputs)
        >>> sr.saliency_maps(functional, images[:2], labels[:2], "smoothgrad", samples=5).shape
        (2, 8, 8, 1)

    Args:
        model: A Functional Keras model that gives logits, or a `SaliencyGuided` around one.
        images: Floats in [0, 1], `(N, height, width, channels)`.
        labels: The class of each map, integers `(N,)`.
        method: `"gradient"` (Simonyan et al. 2014); `"smoothgrad"` (Smilkov et al. 2017), its mean over noisy copies;
            or `"gradcam++"` (Chattopadhay et al. 2018, Eqs. 10 and 19), from the last convolution's activations.
        samples: Copies per image of SmoothGrad, 1 or more.
        noise: Standard deviation of SmoothGrad's noise over the range of the image's values, 0 or more.
        seed: Seed of SmoothGrad's noise, 0 to 2^32 - 1, so that two networks see the same copies.

    Returns:
        Maps in the shape of the images, float32, signed and not normalised. Where no pixel matters they are zero. Those
        of Grad-CAM++ are 0 or more, alike in all channels, and leave out the factor exp(logit), which would overflow.

    Raises:
        ValueError: If an argument is not valid, the model is not Functional, or it has no gradient, or none that is
            finite, or, for Grad-CAM++, no convolution.
    """
    if isinstance(model, Wrapper):
        model = model.model
    check_choice("method", method, METHODS)
    check_whole("samples", samples, 1)
    check_number("noise", noise, low=0)
    check_whole("seed", seed, high=2**32 - 1)
    nested = any(isinstance(layer, keras.Model) for layer in getattr(model, "layers", ()))
    if not isinstance(model, keras.Model) or not hasattr(model, "output_names") or nested:
        raise ValueError(
            "tf-keras-vis maps need a Functional model without models inside: rebuild a Sequential one as "
            f"keras.Model(model.inputs, model.outputs). Received: {type(model).__name__}"
        )
    shape, num_classes = check_gives_logits(model)
    images = check_images(images)
    if images.shape[1:] != shape:
        raise ValueError(f"`images` must be of shape {shape} each. Received: shape={images.shape}")
    labels = check_labels(labels, len(images), num_classes)
    _check_gradient(model, images[:1])
    if method == "gradcam++":
        maps = _activation_maps(model, images, labels)
    else:
        copies: Iterable[np.ndarray] = [images] if method == "gradient" else _noisy(images, samples, noise, seed)
        maps = _gradients(model, copies, labels) / (1 if method == "gradient" else samples)
    if not np.isfinite(maps).all():
        share = 1 - np.isfinite(maps).all(axis=(1, 2, 3)).mean()
        raise ValueError(
            f"Saliency maps must be finite. Received: gradients of NaN or infinity for {share:.1%} of them"
        )
    return maps


def _gradients(model: keras.Model, copies: Iterable[np.ndarray], labels: np.ndarray) -> np.ndarray:
    """The sum over copies of the images."""
    from tf_keras_vis.saliency import Saliency
    from tf_keras_vis.utils.scores import CategoricalScore

    saliency, score = Saliency(model, clone=False), CategoricalScore(labels.tolist())
    settings: dict[str, Any] = {"gradient_modifier": None, "keepdims": True, "normalize_map": False}
    with _quiet():
        return reduce(np.add, (np.asarray(saliency(score, copy, **settings), np.float32) for copy in copies))


def _activation_maps(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Grad-CAM++."""
    with _quiet():
        from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus

    def score(logits: tf.Tensor) -> tf.Tensor:
        own = tf.gather(logits, labels, axis=1, batch_dims=1)
        return own - tf.stop_gradient(own)  # the gradient's scale, exp(score), becomes 1

    try:
        with _quiet():
            maps = GradcamPlusPlus(model, clone=False)(score, images, normalize_cam=False)
    except ValueError as error:
        raise ValueError(f"Grad-CAM++ needs a network with a convolution. Received: {model.name}") from error
    return np.repeat(np.asarray(maps, np.float32)[..., np.newaxis], images.shape[-1], axis=-1)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # tf-keras-vis passes the one input as a list of one, which Keras remarks on and takes.
        warnings.filterwarnings("ignore", "The structure of `inputs`", UserWarning)
        warnings.filterwarnings("ignore", "Please (use|import) `zoom`", DeprecationWarning)
        yield


def _noisy(images: np.ndarray, samples: int, noise: float, seed: int) -> Iterator[np.ndarray]:
    """SmoothGrad's copies. tf-keras-vis would draw them from NumPy's global generator, which it does not say."""
    generator = np.random.RandomState(seed)
    low, high = (end(images, axis=(1, 2, 3), keepdims=True) for end in (np.min, np.max))
    for _ in range(samples):
        yield images + generator.normal(0.0, noise * (high - low), images.shape).astype(np.float32)


def _check_gradient(model: keras.Model, images: np.ndarray) -> None:
    x = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(x)
        logits = model(x, training=False)
    if tape.gradient(logits, x) is None:
        raise ValueError(
            "A network without a gradient with respect to its images has no saliency maps: it has a step, such as "
            f"rounding, that lets none through. Received: {model.name}"
        )
