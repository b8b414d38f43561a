"""A Keras model around a classifier: it looks at what it is given, and the classifier can be taken out of it again."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from salrob_tf.batches import file_errors
from salrob_tf.checks import check_whole
from salrob_tf.inputs import checked, label_checks
from salrob_tf.networks import InInferenceMode, check_gives_logits

LEAST = {"batch_size": 1, "epochs": 0, "initial_epoch": 0, "steps_per_epoch": 1, "steps": 1, "validation_steps": 1,
         "validation_batch_size": 1}  # fmt: skip


class Wrapper(keras.Model):
    """Whatever has nothing to do with how a classifier is trained; who inherits it builds it last.

    Args:
        model: A built Keras model from images `(N, height, width, channels)` to logits `(N, num_classes)`.
        **kwargs: Passed on to `keras.Model`, such as `name`.

    Raises:
        ValueError: If `model` is not built, has several inputs or outputs, or ends in softmax.
    """

    def __init__(self, model: keras.Model, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.autocast = False  # the classifier casts what it is given, whatever Keras' global policy is
        self.image_shape, self.num_classes = check_gives_logits(model)
        self.model = model

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Logits `(N, num_classes)` of the classifier."""
        return self.model(inputs, training=training)

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        **kwargs: Any,
    ) -> Any:
        """`keras.Model.fit`, which looks at arrays before the first step, and at the labels of everything else.

        Images may be integers, such as 8-bit ones for a network that begins with `Rescaling(1 / 255)`: they become
        floats of the same values. Labels and sample weights may be lists.

        Raises:
            ValueError: If there are several inputs, images are not finite numbers of the classifier's shape, labels
                are of another number or kind, or out of range, or no weight of the network is trainable.
        """
        check_counts(batch_size=batch_size, epochs=epochs, **kwargs)
        y, kwargs["sample_weight"] = self._checked(x, y, kwargs.get("sample_weight"))
        if isinstance(held_out := kwargs.get("validation_data"), tuple | list) and 2 <= len(held_out) <= 3:
            kwargs["validation_data"] = (held_out[0], *self._checked(*held_out))
        with file_errors():
            return super().fit(x, y, batch_size, epochs, verbose, callbacks, **kwargs)

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: Any = "auto",
        sample_weight: Any = None,
        **kwargs: Any,
    ) -> Any:
        """`keras.Model.evaluate`, which looks at images and labels as `fit` does.

        Raises:
            ValueError: As `fit` does.
        """
        check_counts(batch_size=batch_size, **kwargs)
        if not kwargs.get("_use_cached_eval_dataset"):  # which `fit` has looked at
            y, sample_weight = self._checked(x, y, sample_weight)
        with file_errors():
            return super().evaluate(x, y, batch_size, verbose, sample_weight, **kwargs)

    def _checked(self, x: Any, y: Any, weights: Any = None) -> tuple[Any, Any]:
        return checked(x, y, weights, image_shape=self.image_shape, num_classes=self.num_classes)

    def _autoconvert_optionals(self, step_func: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """What Keras puts around a step, outside of what XLA compiles: there labels can fail, and here they do."""
        run = super()._autoconvert_optionals(step_func)

        def step(data: Any) -> Any:
            if not tf.executing_eagerly():
                with tf.control_dependencies(label_checks(data, self.distribute_strategy, self.num_classes)):
                    return run(data)
            x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
            return run((x, *self._checked(x, y, weights)))

        return step

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
        """
        model = InInferenceMode(self.model)
        signature = model.signature() if input_signature is None else input_signature
        model.export(filepath, format, verbose, signature, **kwargs)

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """`keras.Model.save`."""
        with warnings.catch_warnings():
            # Keras' variables are not quite what NumPy 2 wants of arrays, but np.array takes them all the same.
            warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy", DeprecationWarning)
            super().save(filepath, *args, **kwargs)


def check_counts(**counts: Any) -> None:
    """Look at those arguments of `fit` and `evaluate` that count something.

    Raises:
        ValueError: If one is no whole number, or too small.
    """
    for name, value in counts.items():
        if name in LEAST and value is not None:
            check_whole(name, value, LEAST[name])
