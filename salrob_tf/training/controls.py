"""Controls: other ways of training that saliency guidance is held against, on the same code path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from salrob_tf._compat import layers_of
from salrob_tf.checks import check_number, check_whole
from salrob_tf.models.contract import check_gives_logits
from salrob_tf.models.gradients import scaled_gradient
from salrob_tf.training.classifier_losses import CrossEntropy
from salrob_tf.training.guided import SaliencyGuided

HALF = 128.0  # what gradients are scaled by on their way back, for networks of half precision


class _Control(SaliencyGuided):
    """What controls share: training without guidance, and one number that says how strong they are.

    Args:
        model: As for `SaliencyGuided`, and so are the others.
        strength: How strong, above 0.
        seed: See there.
        **kwargs: Passed on to `keras.Model`, such as `name`.

    Raises:
        ValueError: As for `SaliencyGuided`, or if `strength` is not above 0.
    """

    def __init__(self, model: keras.Model, strength: float, seed: int | None = None, **kwargs: Any) -> None:
        self.strength = check_number("strength", strength, above=0)
        super().__init__(model, saliency=False, seed=seed, **kwargs)

    def compile(
        self, optimizer: Any = "rmsprop", loss: Any = None, auto_scale_loss: bool = True, **kwargs: Any
    ) -> None:
        """As for `SaliencyGuided`, on one device.

        Raises:
            ValueError: As there, or under a strategy of several devices.
        """
        if (replicas := tf.distribute.get_strategy().num_replicas_in_sync) > 1:
            raise ValueError(f"Controls train on one device. Received: a strategy of {replicas}")
        super().compile(optimizer, loss, auto_scale_loss, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Everything that rebuilds this model, for `.keras` files."""
        return {**super().get_config(), "strength": self.strength}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> _Control:
        """Rebuild a model from what `get_config` gave."""
        unguided = ("saliency", "recipe", "mask_fraction", "kl_weight")
        network = keras.saving.deserialize_keras_object(config["model"], custom_objects=custom_objects)
        return cls(**{key: value for key, value in config.items() if key not in unguided} | {"model": network})


@keras.saving.register_keras_serializable(package="salrob_tf")
class AdversariallyTrained(_Control):
    """Train on adversarial examples in the place of the images (Madry et al. 2018, Eq. 2.1): the positive control.

    They are PGD's, in the L-infinity ball of radius epsilon within [0, 1]: a random start, then `steps` steps of
    2.5 epsilon / `steps` along the sign of the cross-entropy's gradient, with the network in inference mode. Labelled
    images outside of [0, 1] are refused, by `fit` and `evaluate`.

    Args:
        model: As for `SaliencyGuided`, and so are the others.
        strength: Epsilon, above 0.
        seed: Of the random starts; see there.
        steps: Of PGD, 1 or more.
        **kwargs: See there.

    Raises:
        ValueError: As for `SaliencyGuided`, or if `strength` or `steps` is out of its range.
    """

    def __init__(
        self, model: keras.Model, strength: float, seed: int | None = None, steps: int = 10, **kwargs: Any
    ) -> None:
        self.steps = check_whole("steps", steps, 1)
        self.seed_generator = keras.random.SeedGenerator(seed)
        super().__init__(model, strength, seed, **kwargs)

    def train_step(self, data: Any) -> dict[str, Any]:
        """A step of `SaliencyGuided` on adversarial examples."""
        data = self.in_step(lambda batch: batch, data)  # of what `fit` gave, not of what is made of it
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        return super().train_step((self.attacked(tf.cast(x, keras.config.floatx()), y), y, sample_weight))

    def around_step(self, run: Callable[[Any], Any], data: Any) -> Any:
        """Run a step of `fit` or `evaluate`, or fail at images not in [0, 1]: XLA drops what a step asserts."""
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        checks = []
        for images in [] if y is None else self.distribute_strategy.experimental_local_results(x):
            if not tf.is_tensor(images) or not (images.dtype.is_floating or images.dtype.is_integer):
                continue  # the step says so
            largest = tf.reduce_max(tf.abs(tf.cast(images, tf.float32) - 0.5)) + 0.5
            said = "Adversarial training takes images in [0, 1]. Received: values as far as "
            if not tf.executing_eagerly():
                text = tf.strings.join([said, tf.strings.as_string(largest)])
                checks.append(tf.debugging.Assert(largest <= 1, [text]))
            elif largest > 1:
                raise ValueError(f"{said}{largest:g}")
        with tf.control_dependencies(checks):
            return super().around_step(run, data)

    def attacked(self, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """Adversarial examples of images `(N, height, width, channels)` in [0, 1] with labels as `fit` takes them."""
        low, high = tf.maximum(x - self.strength, 0.0), tf.minimum(x + self.strength, 1.0)
        cross_entropy = CrossEntropy(reduction="none")

        def step(number: tf.Tensor, adversarial: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            gradient, *_ = scaled_gradient(
                lambda batch: self(batch, training=False), adversarial, lambda logits: cross_entropy(y, logits)
            )
            moved = adversarial + 2.5 * self.strength / self.steps * tf.sign(gradient)
            return number + 1, tf.clip_by_value(moved, low, high)

        start = x + keras.random.uniform(tf.shape(x), -self.strength, self.strength, x.dtype, self.seed_generator)
        return tf.while_loop(
            lambda number, adversarial: number < self.steps, step, (0, tf.clip_by_value(start, low, high))
        )[1]

    def get_config(self) -> dict[str, Any]:
        """Everything that rebuilds this model, for `.keras` files."""
        return {**super().get_config(), "steps": self.steps}


class _InputGradient(_Control):
    """Minimise cross-entropy + strength x penalty, a function of the cross-entropy's gradient by the images.

    The gradient is that of the network in inference mode. Evaluation has the penalty too.
    """

    def _losses_of(
        self, x: tf.Tensor, y: tf.Tensor, logits: tf.Tensor, sample_weight: Any, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        loss, added = super()._losses_of(x, y, logits, sample_weight, training)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            # A power of two changes no gradient, but keeps one of half precision from becoming 0.
            scaled = HALF * CrossEntropy(reduction="sum")(y, tf.cast(self(x, training=False), tf.float32))
        gradient = tf.cast(tape.gradient(scaled, x), tf.float32) / HALF
        penalty = self.penalty(tf.cast(x, tf.float32), gradient, list(range(1, x.shape.rank)))
        if sample_weight is not None:
            penalty *= tf.cast(tf.reshape(sample_weight, [-1]), tf.float32)
        return loss, added + tf.cast(self.strength * tf.reduce_mean(penalty), added.dtype)

    def penalty(self, x: tf.Tensor, gradient: tf.Tensor, axes: list[int]) -> tf.Tensor:
        """The penalty per image `(N,)`, of images and gradients of the same shape."""
        raise NotImplementedError


@keras.saving.register_keras_serializable(package="salrob_tf")
class GradientPenalised(_InputGradient):
    """Penalise the squared L2 norm of the cross-entropy's input gradient (Ross and Doshi-Velez 2018, Eq. 5)."""

    def penalty(self, x: tf.Tensor, gradient: tf.Tensor, axes: list[int]) -> tf.Tensor:
        """The squared norm."""
        return tf.reduce_sum(tf.square(gradient), axes)


@keras.saving.register_keras_serializable(package="salrob_tf")
class GradientAligned(_InputGradient):
    """Train input gradients to look like the images, as JARN does (Chan et al. 2020) with a critic that is learnt.

    Here the critic is the cosine between gradient and image, whose distance from 1 is the penalty. Such saliency maps
    please the eye; JARN fell from 15.5 % to 0.3 % under AutoAttack.
    """

    def penalty(self, x: tf.Tensor, gradient: tf.Tensor, axes: list[int]) -> tf.Tensor:
        """One minus the cosine, of which an image or a gradient of zeros has 0."""
        lengths = tf.reduce_sum(tf.square(x), axes) * tf.reduce_sum(tf.square(gradient), axes)
        return 1 - tf.reduce_sum(x * gradient, axes) / tf.sqrt(lengths + 1e-20)


@keras.saving.register_keras_serializable(package="salrob_tf")
class LabelsSmoothed(_Control):
    """Train on labels of which a share, `strength`, below 1, is spread over all classes (Szegedy et al. 2016, sec. 7).

    It shrinks the gradients that attacks follow, and so makes networks look robust (Fu et al. 2020).
    """

    def __init__(self, model: keras.Model, strength: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(model, check_number("strength", strength, above=0, below=1), seed, **kwargs)

    def compile(
        self, optimizer: Any = "rmsprop", loss: Any = None, auto_scale_loss: bool = True, **kwargs: Any
    ) -> None:
        """As for `SaliencyGuided`, with smoothed labels in the default loss alone."""
        loss = CrossEntropy(label_smoothing=self.strength) if loss is None else loss
        super().compile(optimizer, loss, auto_scale_loss, **kwargs)


@keras.saving.register_keras_serializable(package="salrob_tf")
class Steep(keras.layers.Rescaling):
    """The last layer of a `GradientMasked` network."""


@keras.saving.register_keras_serializable(package="salrob_tf")
class GradientMasked(_Control):
    """Train as ever, and multiply logits by `strength` in what is attacked and exported: the negative control.

    No prediction changes, but softmax saturates, and the gradients that attacks on cross-entropy follow are lost, as
    by defensive distillation (Papernot et al. 2016, sec. IV, whose temperature is `strength`; why it seems to work:
    Carlini and Wagner 2017, sec. VIII). It is no more robust than a regular network, which checks of attacks must see.
    """

    def __init__(self, model: keras.Model, strength: float, seed: int | None = None, **kwargs: Any) -> None:
        strength = check_number("strength", strength, above=0)
        shape, _ = check_gives_logits(model)
        last = layers_of(model)[-1]
        if isinstance(last, Steep):  # one from a file is so already
            if last.scale != strength:
                raise ValueError(
                    f"This network's logits are multiplied already, by {last.scale:g}. Received: strength={strength:g}"
                )
        else:
            steep = Steep(strength, dtype="float32", name="steep")  # half precision would overflow
            if hasattr(model, "inputs"):
                model = keras.Model(model.inputs[0], steep(model.outputs[0]), name=model.name)
            else:
                model = keras.Sequential([keras.Input(shape), model, steep], name=model.name)
        super().__init__(model, strength, seed, **kwargs)

    def _losses_of(
        self, x: tf.Tensor, y: tf.Tensor, logits: tf.Tensor, sample_weight: Any, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        return super()._losses_of(x, y, logits / self.strength, sample_weight, training)


CONTROLS: dict[str, Callable[..., SaliencyGuided]] = {
    "adversarial": AdversariallyTrained,
    "gradient_penalty": GradientPenalised,
    "gradient_alignment": GradientAligned,
    "label_smoothing": LabelsSmoothed,
    "masked": GradientMasked,
}
