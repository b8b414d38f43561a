"""Every form that a classifier comes in, as one function of images: Keras models, files, SavedModels, callables."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from salrob_tf.datasets import fingerprint
from salrob_tf.networks import batch_shape
from salrob_tf.training import SaliencyGuided


@dataclass
class Form:
    """A model as attacks can run it.

    Attributes:
        kind: What it is, for reports.
        model: The model itself, which must live as long as its functions.
        shape: What it takes, `(N, height, width, channels)`, with `None` where any number will do.
        forward: Outputs of a batch of images in the model's own range, in inference mode where it has one.
        identity: Digest of what the model is, or `None` where only its outputs tell.
    """

    kind: str
    model: Any
    shape: tuple[int | None, ...]
    forward: Callable[[tf.Tensor], Any]
    identity: Callable[[], str] | None = None

    def image_shape(self, given: Sequence[int] | None, name: str) -> tuple[int, ...]:
        """`(height, width, channels)`, as the model says or, where it takes any, as given.

        Raises:
            ValueError: If neither says, or they contradict each other.
        """
        own = self.shape[1:]
        shape = own if given is None else tuple(given)
        if len(shape) != 3 or not all(size is None or _is_count(size) for size in shape):
            raise ValueError(f"`input_shape` must be (height, width, channels). Received: input_shape={given}")
        if any(size not in (None, asked) for size, asked in zip(own, shape, strict=True)):
            raise ValueError(f"{name} takes images of shape {own}. Received: images of shape {shape}")
        if None in shape:
            raise ValueError(
                "Which size of images? A callable, or a model that takes any, needs Classifier(model, "
                f"input_shape=(height, width, channels)). Received: {name}, a {self.kind} of images {own}"
            )
        return tuple(int(size) for size in shape if size is not None)


def form_of(model: Any) -> Form:
    """The `Form` of a model, or of what lies at a path.

    Raises:
        ValueError: If there is no model, or it does not take one batch of float images.
    """
    if isinstance(model, str | Path):
        path, model = Path(model), _load(Path(model))
        if not isinstance(model, keras.Model):
            return _saved_model(model, path)
    if isinstance(model, SaliencyGuided):
        model = model.model
    if isinstance(model, keras.Model):
        # The first number is that of the batch which the model was built with, which binds nobody.
        shape = (None, *batch_shape(model)[1:])
        forward = lambda images: _only(model(images, training=False))  # noqa: E731
        return Form("Keras model", model, shape, forward, lambda: fingerprint(*map(np.asarray, model.variables)))
    if hasattr(model, "signatures"):
        return _saved_model(model, None)
    if callable(model):
        return Form("callable", model, (None,) * 4, lambda images: _only(model(images)))
    raise ValueError(
        "A model must be a keras.Model, a path, or a callable from images to logits. Received: " + type(model).__name__
    )


def _load(path: Path) -> Any:
    file = path / "model.keras" if (path / "model.keras").is_file() else path
    try:
        if file.suffix == ".keras" and file.is_file():
            return keras.saving.load_model(file, compile=False, safe_mode=True)
        if (path / "saved_model.pb").is_file():
            return tf.saved_model.load(str(path))
    except Exception as error:
        if "safe_mode" in str(error):
            raise ValueError(
                "This file holds Python code, such as a Lambda layer, which is not run: save the model with a "
                f"registered layer in its place. Received: {path}"
            ) from error
        # What a damaged file or an unknown layer raises depends on where Keras or TensorFlow stumbles.
        raise ValueError(f"This model cannot be loaded ({type(error).__name__}: {error}). Received: {path}") from error
    raise ValueError(
        "Not a model: pass a folder from train.py, a .keras file, or a SavedModel folder. "
        f"Received: {path}{'' if path.exists() else ', which does not exist'}"
    )


def _saved_model(saved: Any, path: Path | None) -> Form:
    function = _entry(saved)
    specs = [spec for spec in tf.nest.flatten(function.structured_input_signature) if isinstance(spec, tf.TensorSpec)]
    outputs = tf.nest.flatten(function.structured_outputs)
    if len(specs) != 1 or len(outputs) != 1:
        raise ValueError(
            "A SavedModel must have one input and one output. "
            f"Received: inputs={[spec.name for spec in specs]}, outputs={[spec.name for spec in outputs]}"
        )
    (image,) = specs
    if not image.dtype.is_floating:
        raise ValueError(
            "A SavedModel must take float images: there is no gradient with respect to integers. Received: images of "
            f"{image.dtype.name}"
        )
    shape = (None,) * 4 if image.shape.rank is None else tuple(image.shape)
    if len(shape) != 4:
        raise ValueError(f"A SavedModel must take batches (N, height, width, channels). Received: images {shape}")

    def forward(images: tf.Tensor) -> tf.Tensor:
        cast = tf.cast(images, image.dtype)
        fill = lambda part: cast if isinstance(part, tf.TensorSpec) else part  # noqa: E731
        args, kwargs = tf.nest.map_structure(fill, function.structured_input_signature)
        return _only(function(*args, **kwargs))

    identity = None if path is None else lambda: _files_digest(path)
    return Form("SavedModel", saved, shape, forward if shape[0] is None else _in_parts(forward, shape[0]), identity)


def _entry(saved: Any) -> Any:
    """The function that a SavedModel is for: its serving signature, its only one, or what calling it runs."""
    signatures = dict(saved.signatures)
    if "serving_default" in signatures or len(signatures) == 1:
        return signatures.get("serving_default") or next(iter(signatures.values()))
    traced = saved.__call__.concrete_functions if callable(saved) else []
    # Not the one with training=True, and rather one for batches of any size.
    inference = [function for function in traced if True not in function.structured_input_signature[0]]
    if inference:
        return max(inference, key=lambda function: _takes_any_number(function.structured_input_signature))
    raise ValueError(
        "A SavedModel must have a serving_default signature, or be callable. "
        f"Received: signatures={sorted(signatures)}, none of them serving_default"
    )


def _in_parts(forward: Callable[[tf.Tensor], tf.Tensor], size: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """Run a function of batches of one size on batches of any, the last of which is filled up with its last image."""

    def run(images: tf.Tensor) -> tf.Tensor:
        count = tf.shape(images)[0]
        full = tf.concat([images, tf.repeat(images[-1:], -count % size, axis=0)], axis=0)
        parts = tf.reshape(full, [-1, size, *images.shape[1:]])
        outputs = tf.map_fn(lambda part: tf.cast(forward(part), tf.float32), parts)
        return tf.reshape(outputs, [-1, tf.shape(outputs)[-1]])[:count]

    return run


def _only(outputs: Any) -> Any:
    """The one tensor in a structure; other structures are left for a check to name."""
    flat = tf.nest.flatten(outputs)
    return flat[0] if len(flat) == 1 else outputs


def _files_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted([folder / "saved_model.pb", *folder.glob("variables/*"), *folder.glob("assets/*")]):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _is_count(size: Any) -> bool:
    return isinstance(size, int | np.integer) and bool(size > 0)


def _takes_any_number(signature: Any) -> bool:
    return all(spec.shape[0] is None for spec in tf.nest.flatten(signature) if isinstance(spec, tf.TensorSpec))
