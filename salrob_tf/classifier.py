"""What an attack may see of a model (K, section 2, "white-box"): logits of images in [0, 1], in inference mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from salrob_tf.datasets import check_images
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
        functions: Attacks compiled for this model, filled by the attacks.

    Raises:
        ValueError: If there is no model, or it does not turn images into logits.
    """

    def __init__(self, model: Any, name: str | None = None) -> None:
        self.path: str | None = None
        self.functions: dict[Any, Any] = {}
        if isinstance(model, str | Path):
            self.path = str(model)
            name = name or Path(model).stem
            model = _load(Path(model))
        if isinstance(model, SaliencyGuided):
            model = model.model
        if isinstance(model, keras.Model):
            self.input_shape, self.num_classes = check_gives_logits(model)
            self._forward = lambda images: model(images, training=False)
        else:
            self._forward, self.input_shape, self.num_classes = _signature(model)
        self._model = model  # a SavedModel's functions die with it
        self.name = str(name or getattr(model, "name", "model"))

    def logits(self, images: tf.Tensor) -> tf.Tensor:
        """Float32 logits `(N, num_classes)` of images `(N, height, width, channels)`, in inference mode."""
        return tf.cast(self._forward(images), tf.float32)

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
        images = self.check(images)
        forward = self.functions.setdefault(
            "predict",
            tf.function(self.logits, input_signature=[tf.TensorSpec([None, *self.input_shape], tf.float32)]),
        )
        logits = np.concatenate(
            [forward(images[start : start + batch_size]).numpy() for start in range(0, len(images), batch_size)]
        )
        if not np.isfinite(logits).all():
            raise ValueError(f"{self.name} must give finite logits. Received: NaN or infinity for some images")
        if outputs_probabilities(logits):
            raise ValueError(
                f"{self.name} must give logits, but its outputs are probabilities: attack it without its softmax"
            )
        return logits.argmax(-1)


def as_classifier(model: Any) -> Classifier:
    """A `Classifier` of anything that `Classifier` takes; a `Classifier` is returned as it is."""
    return model if isinstance(model, Classifier) else Classifier(model)


def _load(path: Path) -> Any:
    if (path / "model.keras").is_file():
        return keras.saving.load_model(path / "model.keras", compile=False)
    if path.suffix == ".keras" and path.is_file():
        return keras.saving.load_model(path, compile=False)
    if (path / "saved_model.pb").is_file():
        return tf.saved_model.load(str(path))
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
    if image.shape.rank != 4 or None in image.shape[1:] or logits.shape.rank != 2 or logits.shape[-1] is None:
        raise ValueError(
            "A SavedModel must turn images (N, height, width, channels) into logits (N, num_classes). "
            f"Received: {image.shape} into {logits.shape}"
        )
    return (
        lambda images: function(**{key: tf.cast(images, image.dtype)})[output],
        tuple(image.shape[1:]),
        int(logits.shape[-1]),
    )
