"""`compile`, `fit` and `evaluate` of Keras, which look at what they are given before the first step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from salrob_tf._compat import AroundSteps, is_asked_by_fit, layers_of
from salrob_tf.checks import check_number, check_whole, is_whole, shown
from salrob_tf.data.pipeline import file_errors
from salrob_tf.models.contract import Wrapper
from salrob_tf.training.classifier_losses import CrossEntropy, check_takes_logits
from salrob_tf.training.inputs import checked, label_checks, unpack

# Those numbers that Keras' methods count with: the least that is valid, and whether they may be left open.
COUNTS = {
    "epochs": (0, False),
    "initial_epoch": (0, False),
    "batch_size": (1, True),
    "steps_per_epoch": (1, True),
    "steps": (1, True),
    "validation_steps": (1, True),
    "validation_batch_size": (1, True),
}


class Fitted(AroundSteps, Wrapper):
    """A wrapper whose `compile`, `fit` and `evaluate` look at what they are given."""

    def compile(
        self, optimizer: Any = "rmsprop", loss: Any = None, auto_scale_loss: bool = True, **kwargs: Any
    ) -> None:
        """`keras.Model.compile` for a classifier that gives logits.

        Raises:
            ValueError: If `loss` is one of probabilities, there are several, or Keras does not know it.
        """
        loss = CrossEntropy() if loss is None else loss
        check_takes_logits(loss)
        half = any(layer.compute_dtype == "float16" for layer in layers_of(self.model))
        try:
            optimizer = keras.optimizers.get(optimizer)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"`optimizer` must be one of Keras, or its name. Received: optimizer={shown(optimizer)}"
            ) from error
        if half and auto_scale_loss and not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        super().compile(optimizer, loss=loss, auto_scale_loss=auto_scale_loss, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile as the model was that a `.keras` file holds; Keras does so only where `compile` is its own."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

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

        Raises:
            ValueError: If images are not finite numbers of the classifier's shape, labels are of another number or
                kind, or out of range, or an option is not valid.
        """
        check_options(self.num_classes, batch_size=batch_size, epochs=epochs, callbacks=callbacks, **kwargs)
        y, kwargs["sample_weight"] = self._checked(x, y, kwargs.get("sample_weight"))
        held_out = kwargs.get("validation_data")
        if isinstance(held_out, tuple | list):
            if not 2 <= len(held_out) <= 3:
                raise ValueError(f"`validation_data` must be images and labels. Received: {len(held_out)} parts")
            kwargs["validation_data"] = (held_out[0], *self._checked(*held_out))
        elif held_out is not None:
            self._checked(held_out, None)
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
        check_options(self.num_classes, batch_size=batch_size, **kwargs)
        if not is_asked_by_fit(kwargs):
            y, sample_weight = self._checked(x, y, sample_weight)
        with file_errors():
            return super().evaluate(x, y, batch_size, verbose, sample_weight, **kwargs)

    def make_train_function(self, force: bool = False) -> Any:
        """Keras' own, with the optimizer's variables made first: made in the first step, they have it traced twice."""
        if self.trainable_weights and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_weights)
        return super().make_train_function(force)

    def _checked(self, x: Any, y: Any, weights: Any = None) -> tuple[Any, Any]:
        return checked(x, y, weights, image_shape=self.image_shape, num_classes=self.num_classes)

    def _unpacked(self, data: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None, tf.Tensor]:
        return self.in_step(lambda batch: unpack(batch, self.image_shape, self.num_classes), data)

    def around_step(self, run: Callable[[Any], Any], data: Any) -> Any:
        """Run a step, or fail at the labels of its batch."""
        if not tf.executing_eagerly():
            with tf.control_dependencies(label_checks(data, self.distribute_strategy, self.num_classes)):
                return run(data)
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        if y is None or isinstance(y, tf.distribute.DistributedValues):  # of `predict`, or shares of a batch
            return run(data)
        return run((x, *self._checked(x, y, weights)))


def check_options(num_classes: int, **options: Any) -> None:
    """Look at the arguments of `fit` and `evaluate` that are neither images nor labels.

    Raises:
        ValueError: If one is of another kind, or out of its range.
    """
    for name, value in options.items():
        least, optional = COUNTS.get(name, (0, True))
        if name in COUNTS and not (optional and value is None):
            check_whole(name, value, least)
    check_number("validation_split", options.get("validation_split", 0.0), low=0, below=1)
    callbacks, weights = options.get("callbacks"), options.get("class_weight")
    listed = callbacks if isinstance(callbacks, list | tuple) else [callbacks]
    if not all(each is None or hasattr(each, "set_model") for each in listed):
        raise ValueError(f"`callbacks` must be callbacks of Keras. Received: callbacks={shown(callbacks)}")
    valid = isinstance(weights, dict) and all(is_whole(label) and 0 <= label < num_classes for label in weights)
    if weights is not None and not valid:
        raise ValueError(
            f"`class_weight` must be a dictionary of weights by class, 0 to {num_classes - 1}. "
            f"Received: class_weight={shown(weights)}"
        )
    for label, weight in (weights or {}).items():
        check_number(f"class_weight[{label}]", weight)
