"""What an attack may see of a model (K, section 2, "white-box"): logits of images in [0, 1], in inference mode."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from salrob_tf.datasets import check_images, fingerprint
from salrob_tf.networks import check_gives_logits, outputs_probabilities
from salrob_tf.training import SaliencyGuided


class Classifier:
    """Logits of a model, as attacks and evaluations use them.

    Args:
        model: A Keras model that gives logits (a `SaliencyGuided` counts as its classifier), or the path of a
            folder that `scripts/train.py` wrote, of a `.keras` file, or of a SavedModel folder. A SavedModel
            is a program: load only what you trust.
        name: What reports call it; by default the model's name or the last part of the path.

    Attributes:
        name: See above.
        path: Where it was loaded from, or `None`.
        input_shape: `(height, width, channels)`.
        num_classes: Number of logits.

    Raises:
        ValueError: If there is no model, or it does not turn images into logits.
    """

    def __init__(self, model: Any, name: str | None = None) -> None:
        self.path: str | None = None
        self._functions: dict[Any, Any] = {}  # compiled for this model: attacks and prediction
        if isinstance(model, str | Path):
            self.path = str(model)
            path = Path(model)
            name = name or (path.stem if path.suffix == ".keras" else path.resolve().name)
            model = _load(Path(model))
        if isinstance(model, SaliencyGuided):
            model = model.model
        if isinstance(model, keras.Model):
            self.input_shape, self.num_classes = check_gives_logits(model)
            self._forward = lambda images: model(images, training=False)
        else:
            self._forward, self.input_shape, self.num_classes = _signature(model)
            images = np.random.default_rng(0).random((8, *self.input_shape), np.float32)
            if outputs_probabilities(self._forward(images)):
                raise ValueError(
                    f"A SavedModel must give logits. Received: {self.path}, whose outputs are probabilities"
                )
        self._model = model  # a SavedModel's functions die with it
        self.name = str(name or getattr(model, "name", "model"))

    def logits(self, images: tf.Tensor) -> tf.Tensor:
        """Float32 logits `(N, num_classes)` of images `(N, height, width, channels)`, in inference mode."""
        return tf.cast(self._forward(images), tf.float32)

    def crafting(self, dtype: str) -> Callable[[tf.Tensor], tf.Tensor]:
        """Logits to take gradients of: those of the model, or of a copy of it that computes in bfloat16.

        Args:
            dtype: `"float32"` or `"bfloat16"`.

        Raises:
            ValueError: If the model cannot be copied in bfloat16: only Functional and Sequential ones can.
        """
        if dtype == "float32":
            return self.logits
        if "copy" not in self._functions:
            try:
                copy = keras.models.clone_model(self._model, clone_function=_layer_in_bfloat16)
                copy.set_weights(self._model.get_weights())
            except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
                raise ValueError(
                    f"Only a Functional or Sequential Keras model can be attacked in bfloat16. Received: {self.name}"
                ) from error
            self._functions["copy"] = lambda images: tf.cast(copy(images, training=False), tf.float32)
        return self._functions["copy"]

    def function(self, key: Any, python_function: Callable[..., Any], signature: list[tf.TensorSpec]) -> Any:
        """The compiled function kept under `key`, made from `python_function` where there is none yet."""
        if key not in self._functions:
            self._functions[key] = tf.function(python_function, input_signature=signature, autograph=False)
        return self._functions[key]

    def traces(self, key: Any) -> int:
        """How often the function kept under `key` was traced."""
        return self._functions[key].experimental_get_tracing_count() if key in self._functions else 0

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the weights, as a hexadecimal digest."""
        return fingerprint(*(np.asarray(variable) for variable in self._model.variables))

    def check(self, images: Any) -> np.ndarray:
        """Images as `check_images` returns them, which must have this model's shape.

        Raises:
            ValueError: If they are not valid, or do not fit the model.
        """
        images = check_images(images)
        if images.shape[1:] != self.input_shape:
            raise ValueError(
                f"{self.name} takes images of shape {self.input_shape}. Received: images of shape {images.shape[1:]}"
            )
        return images

    def predict(self, images: np.ndarray, batch_size: int = 256) -> np.ndarray:
        """Predict classes.

        Args:
            images: `(N, height, width, channels)`, floats in [0, 1].
            batch_size: Images per forward pass.

        Returns:
            Classes `(N,)`, int64.

        Raises:
            ValueError: If the images do not fit the model, or it gives probabilities, NaN or infinity.
        """
        logits = self.predict_logits(self.check(images), batch_size)
        if not np.isfinite(logits).all():
            raise ValueError(f"{self.name} must give finite logits. Received: NaN or infinity for some images")
        if outputs_probabilities(logits):
            raise ValueError(
                f"{self.name} must give logits, but its outputs are probabilities: attack it without its softmax"
            )
        return logits.argmax(-1)

    def predict_logits(self, images: np.ndarray, batch_size: int = 256) -> np.ndarray:
        """Logits `(N, num_classes)` of float32 images that fit the model, without any check."""
        signature = [tf.TensorSpec([None, *self.input_shape], tf.float32)]
        run = self.function("predict", lambda batch: over_devices(lambda part: (self.logits(part),), batch), signature)
        starts = range(0, len(images), batch_size)
        return np.concatenate([run(images[start : start + batch_size])[0].numpy() for start in starts])


def as_classifier(model: Any) -> Classifier:
    """A `Classifier` of anything that `Classifier` takes; a `Classifier` is returned as it is."""
    return model if isinstance(model, Classifier) else Classifier(model)


def gpus() -> list[str]:
    """Names of the GPUs that TensorFlow may use."""
    return [device.name for device in tf.config.list_logical_devices("GPU")]


def over_devices(function: Callable[..., tuple[tf.Tensor, ...]], *batched: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Run a function of batches, row by row independent, on an equal share of the rows per GPU where there are several.

    Args:
        function: Gives a tuple of tensors with one row per row of its inputs.
        *batched: Tensors with equal numbers of rows.

    Returns:
        What `function` gives for all rows.
    """
    devices = gpus()
    if len(devices) < 2:
        return function(*batched)
    rows, parts = tf.shape(batched[0])[0], []
    for number, device in enumerate(devices):
        start, stop = (rows * edge // len(devices) for edge in (number, number + 1))
        with tf.device(device):
            parts.append(function(*(tensor[start:stop] for tensor in batched)))
    return tuple(tf.concat(shares, axis=0) for shares in zip(*parts, strict=True))


def _layer_in_bfloat16(layer: keras.layers.Layer) -> keras.layers.Layer:
    if layer.dtype_policy.name != "float32":
        raise ValueError(f"Only float32 layers are copied. Received: {layer.name} in {layer.dtype_policy.name}")
    return type(layer).from_config({**layer.get_config(), "dtype": "mixed_bfloat16"})


def _load(path: Path) -> Any:
    file = path / "model.keras" if (path / "model.keras").is_file() else path
    try:
        if file.suffix == ".keras" and file.is_file():
            return keras.saving.load_model(file, compile=False)
        if (path / "saved_model.pb").is_file():
            return tf.saved_model.load(str(path))
    except Exception as error:
        # What a damaged file or an unknown layer raises depends on where Keras or TensorFlow stumbles.
        raise ValueError(f"This model cannot be loaded ({type(error).__name__}: {error}). Received: {path}") from error
    raise ValueError(
        "Not a model: pass a folder from train.py, a .keras file, or a SavedModel folder. "
        f"Received: {path}{'' if path.exists() else ', which does not exist'}"
    )


def _signature(saved: Any) -> tuple[Any, tuple[int, ...], int]:
    function = getattr(saved, "signatures", {}).get("serving_default")
    if function is None:
        raise ValueError(
            f"A model must be a keras.Model or a SavedModel with a serving_default signature. Received: {type(saved)}"
        )
    inputs, outputs = function.structured_input_signature[1], function.structured_outputs
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(
            "A SavedModel must have one input and one output. "
            f"Received: inputs={sorted(inputs)}, outputs={sorted(outputs)}"
        )
    ((key, image),) = inputs.items()
    ((output, logits),) = outputs.items()
    shaped = image.shape.rank == 4 and None not in image.shape[1:] and logits.shape.rank == 2
    if not shaped or image.shape[0] is not None or logits.shape[-1] is None or not image.dtype.is_floating:
        raise ValueError(
            "A SavedModel must turn float images (N, height, width, channels), N being any number, into logits "
            f"(N, num_classes). Received: {image.dtype.name} {image.shape} into {logits.shape}"
        )
    return (
        lambda images: function(**{key: tf.cast(images, image.dtype)})[output],
        tuple(image.shape[1:]),
        int(logits.shape[-1]),
    )
