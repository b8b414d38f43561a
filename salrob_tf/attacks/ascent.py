"""How all gradient attacks are run on a model, built on the primitives of CleverHans.

CleverHans' own functions retrace for every epsilon and refuse some; here epsilon, the number of steps and the batch are
inputs of one compiled step per attack and model. From the same start both give the same images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from salrob_tf.attacks.balls import Ball, Batch, clip, steepest
from salrob_tf.attacks.base import Attack, Seen, State, missing_gradient
from salrob_tf.attacks.losses import ascended, margin
from salrob_tf.models.classifier import Classifier
from salrob_tf.models.devices import over_devices
from salrob_tf.models.gradients import scaled_gradient


@dataclass(frozen=True)
class GradientAttack(Attack):
    """Steps along the gradient of a loss, each projected to the ball: `move` is the update rule."""

    takes_loss: ClassVar[bool] = True
    stepwise: ClassVar[bool] = True

    def move(self, state: State, gradient: tf.Tensor, loss: tf.Tensor, ball: Ball) -> State:
        """One step before it is projected to the ball.

        Args:
            state: Tensors, each with one row per image.
            gradient: Of the loss with respect to the images, each up to a factor above 0.
            loss: What is ascended, `(N,)`, at the images of the state.
            ball: What the images are projected to.

        Returns:
            The state after the step, with the same keys.
        """
        moved = clip(state["images"] + steepest(gradient, self.step_size(ball.epsilon), self.norm))
        return {**state, "images": moved}

    def step(
        self, classifier: Classifier, batch: Batch, state: State, dtype: str = "float32", draws: int = 1
    ) -> tuple[State, Seen]:
        """One step, compiled and traced once for each model."""
        keys = tuple(state)

        def projected(
            images: tf.Tensor, radii: tf.Tensor, gradient: tf.Tensor, loss: tf.Tensor, *parts: tf.Tensor
        ) -> list[tf.Tensor]:
            ball = Ball(images, radii[:, None, None, None], self.norm)
            moved = self.move(dict(zip(keys, parts, strict=True)), gradient, loss, ball)
            moved["images"] = ball.project(moved["images"])
            return [moved[key] for key in keys]

        def whole(
            images: tf.Tensor, labels: tf.Tensor, loss_classes: tf.Tensor, radii: tf.Tensor, *parts: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            gradient, _, loss, logits = self.gradient(classifier, dtype, parts[keys.index("images")], loss_classes)
            broken = tf.argmax(logits, axis=-1, output_type=tf.int32) != labels
            size = tf.reduce_max(tf.abs(gradient), axis=[1, 2, 3])
            return *projected(images, radii, gradient, loss, *parts), broken, size, -margin(labels, logits)

        # The steps are not a loop inside the graph: there TensorFlow replaces some of its kernels by oneDNN's or not
        # as chance has it, which costs a fifth of the speed in most processes.
        if draws == 1:
            given = (batch.images, batch.labels, batch.loss_classes, batch.radii, *state.values())
            run = _compiled(classifier, (self, dtype), lambda *parts: over_devices(whole, *parts), given)
            *parts, broken, sizes, leads = run(*given)
        else:
            images = np.asarray(state["images"])
            gradient, losses, sizes = self._mean_gradients(classifier, images, batch.loss_classes, dtype, draws)
            given = (batch.images, batch.radii, gradient, losses, *state.values())
            parts = _compiled(classifier, (self, "move"), projected, given)(*given)
            broken, leads = np.zeros(len(batch.images), bool), np.zeros(0, np.float32)
        return dict(zip(keys, parts, strict=True)), Seen(broken, sizes, leads)

    def gradients(
        self,
        classifier: Classifier,
        images: np.ndarray,
        loss_classes: np.ndarray,
        dtype: str = "float32",
        draws: int = 1,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The gradients at the images, means over `draws` passes, each up to a factor, and their largest magnitudes.

        Returns:
            Gradients in the shape of the images, and the largest magnitude in each, `(N,)`.

        Raises:
            ValueError: If a gradient is missing or not finite.
        """
        gradients, _, sizes = self._mean_gradients(classifier, images, loss_classes, dtype, draws)
        return gradients, sizes

    def _mean_gradients(
        self, classifier: Classifier, images: np.ndarray, loss_classes: np.ndarray, dtype: str, draws: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean gradients, mean losses `(N,)` and the largest magnitudes in the gradients `(N,)`."""
        run = _compiled(
            classifier,
            (self, dtype, "gradients"),
            lambda *batch: over_devices(lambda x, y: self.gradient(classifier, dtype, x, y)[:3], *batch),
            (images, loss_classes),
        )
        total, scale = np.zeros_like(images), np.full(len(images), np.inf, np.float32)
        losses = np.zeros(len(images), np.float32)
        for _ in range(draws):
            gradient, its, loss = (part.numpy() for part in run(images, loss_classes))
            losses += loss / draws
            # A draw of a steep loss weighs more than one of a flat loss: the mean is of gradients in one scale.
            its = np.where(np.abs(gradient).max(axis=(1, 2, 3)) == 0, np.float32(np.inf), its)
            both = np.minimum(scale, its)
            total = total * _ratio(both, scale) + gradient * _ratio(both, its)
            scale = both
        gradients = total / draws
        sizes = np.abs(gradients).max(axis=(1, 2, 3))
        self.check_gradients(classifier, sizes)
        return gradients, losses, sizes

    def gradient(
        self, classifier: Classifier, dtype: str, images: tf.Tensor, loss_classes: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Gradient of what is ascended with respect to the images, times a factor per image.

        Returns:
            The gradient, the factors `(N,)`, what is ascended `(N,)`, and the logits of the same pass.

        Raises:
            ValueError: If there is no gradient.
        """
        loss = ascended(self.loss, self.targeted)
        gradient, scale, losses, logits = scaled_gradient(
            classifier.crafting(dtype), images, lambda logits: loss(loss_classes, logits)
        )
        if gradient is None:
            raise missing_gradient(classifier)
        return gradient, scale, losses, logits


def _compiled(
    classifier: Classifier, key: tuple[Any, ...], function: Callable[..., Any], given: tuple[Any, ...]
) -> Any:
    """A function of rows, compiled for any number of rows like those given."""
    signature = [tf.TensorSpec([None, *np.shape(part)[1:]], part.dtype) for part in given]
    return classifier.function(key, function, signature)


def _ratio(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """What brings gradients from one scale to another; 0 for those of no scale, which are zero."""
    return np.divide(new, old, out=np.zeros_like(new), where=np.isfinite(old))[:, None, None, None]
