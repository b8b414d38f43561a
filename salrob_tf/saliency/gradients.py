"""Saliency maps of anything that a `Classifier` takes, compiled, for metrics over thousands of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from salrob_tf.checks import check_choice, check_whole
from salrob_tf.data.arrays import check_labels
from salrob_tf.models.classifier import as_classifier

TARGETS = ("logit", "loss", "margin")
METHODS = ("gradient", "smoothgrad", "integrated_gradients", "random")
SMOOTH_NOISE = 0.15  # of the range of an image, as Smilkov et al. 2017 recommend 10 to 20 %


def input_gradients(
    model: Any, images: np.ndarray, labels: np.ndarray, of: str = "logit", batch_size: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients with respect to images, of each image's label.

    Args:
        model: A `Classifier`, or anything that it takes.
        images: `(N, height, width, channels)` in [0, 1].
        labels: Integers `(N,)`.
        of: The label's `"logit"`, the cross-entropy `"loss"`, or the `"margin"`, the label's logit minus the largest
            other.
        batch_size: Images per pass.

    Returns:
        The gradients in the shape of the images, of no gradient zeros, and logits `(N, num_classes)`, both float32.

    Raises:
        ValueError: If an argument is not valid.
    """
    classifier = as_classifier(model)
    check_choice("of", of, TARGETS)
    images = classifier.check(images)
    labels = check_labels(labels, len(images), classifier.num_classes).astype(np.int32)

    def run(batch: tf.Tensor, classes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(batch)
            logits = classifier.logits(batch)
            own = tf.gather(logits, classes, axis=1, batch_dims=1)
            if of == "loss":
                target = tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits)
            elif of == "margin":
                others = tf.where(tf.one_hot(classes, classifier.num_classes) > 0, -np.inf, logits)
                target = own - tf.reduce_max(others, axis=1)
            else:
                target = own
        gradient = tape.gradient(target, batch)
        return (tf.zeros_like(batch) if gradient is None else gradient), logits

    signature = [tf.TensorSpec([None, *classifier.input_shape], tf.float32), tf.TensorSpec([None], tf.int32)]
    compiled = classifier.function(("input gradient", of), run, signature)
    starts = range(0, len(images), check_whole("batch_size", batch_size, 1))
    parts = [compiled(images[at : at + batch_size], labels[at : at + batch_size]) for at in starts]
    gradients, logits = (np.concatenate([part[place].numpy() for part in parts]) for place in (0, 1))
    return gradients, logits


def map_function(model: Any, method: str = "gradient", *, samples: int = 20, seed: int = 0) -> MapFunction:
    """What makes saliency maps of one model by one method.

    Args:
        model: A `Classifier`, or anything that it takes.
        method: `"gradient"` of the label's logit (Simonyan et al. 2014); `"smoothgrad"`, its mean over noisy copies
            (Smilkov et al. 2017); `"integrated_gradients"`, image times its mean on the way from black (Sundararajan
            et al. 2017), at the middles of `samples` equal parts; or `"random"`, maps that know nothing, others in each
            call.
        samples: Copies, or parts of the way, 1 or more.
        seed: Of noise and random maps, 0 to 2^32 - 1.

    Returns:
        A function of images `(N, height, width, channels)` and labels `(N,)` that gives float32 maps of that shape.

    Raises:
        ValueError: If an argument is not valid.
    """
    check_choice("method", method, METHODS)
    samples, seed = check_whole("samples", samples, 1), check_whole("seed", seed, high=2**32 - 1)
    classifier = as_classifier(model)
    classifier.refresh()

    anew = np.random.default_rng(seed)

    def maps(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        if method == "random":
            return anew.random(images.shape, np.float32)
        rng = np.random.default_rng(seed)  # so that two networks see the same copies
        if method == "gradient":
            return input_gradients(classifier, images, labels)[0]
        total = np.zeros(images.shape, np.float32)
        for copy in _copies(method, np.asarray(images, np.float32), samples, rng):
            total += input_gradients(classifier, copy, labels)[0]
        return total / samples * (images if method == "integrated_gradients" else 1)

    return maps


MapFunction = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _copies(method: str, images: np.ndarray, samples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    if method == "integrated_gradients":
        for part in range(samples):
            yield images * np.float32((part + 0.5) / samples)
        return
    spread = images.max(axis=(1, 2, 3), keepdims=True) - images.min(axis=(1, 2, 3), keepdims=True)
    for _ in range(samples):
        # A classifier takes images in [0, 1] alone.
        noisy = images + SMOOTH_NOISE * spread * rng.standard_normal(images.shape, np.float32)
        yield np.clip(noisy, 0, 1)
