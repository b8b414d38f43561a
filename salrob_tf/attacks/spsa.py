"""CleverHans' SPSA, made to run on Keras 3, where CleverHans 4.0's own function fails.

It subclasses Keras' Adam with an argument that Keras 3 dropped. Its arithmetic is CleverHans'; what is mended is
stated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf
from cleverhans.tf2.attacks.spsa import margin_logit_loss

from salrob_tf._compat import SeededSPSAAdam, without_deprecations
from salrob_tf.attacks.balls import Batch, clip
from salrob_tf.attacks.base import Attack
from salrob_tf.checks import check_number, check_whole
from salrob_tf.models.classifier import Classifier


@dataclass(frozen=True)
class SPSA(Attack):
    """Simultaneous perturbation stochastic approximation (Uesato et al. 2018): no gradient, only the margin.

    Each of the `steps` estimates a gradient from `samples` forward passes; an image that is broken goes no further.

    Example:
        >>> attack = sr.SPSA(steps=2, samples=16)  # few, to be quick
        >>> adversarial = attack(network, images[:2], labels[:2], epsilon=0.1)

    Attributes:
        learning_rate: Of Adam, in the units of the images.
        delta: Size of the perturbations that estimate the gradient, in the units of the images, in (0, 1].
        samples: Forward passes per step, even, at most 2^20.
    """

    name: ClassVar[str] = "spsa"
    random_start: ClassVar[bool] = True
    uses_gradients: ClassVar[bool] = False
    steps: int = 40
    restarts: int = field(default=1, kw_only=True)
    learning_rate: float = 0.01
    delta: float = 0.01
    samples: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm != np.inf:
            raise ValueError(f"SPSA is for the L-infinity norm. Received: norm={self.norm}")
        self._settle(
            samples=check_whole("samples", self.samples, 2, 2**20),
            learning_rate=check_number("learning_rate", self.learning_rate, above=0),
            delta=check_number("delta", self.delta, above=0, high=1),
        )
        if self.samples % 2:
            raise ValueError(f"`samples` must be even, 2 or more. Received: samples={self.samples}")

    def forwards_per_step(self, draws: int = 1) -> int:
        """Those that estimate the gradient, each with one draw, and one that looks whether the image still stands."""
        return self.samples + 1

    @property
    def reach(self) -> float:
        """Adam moves a pixel by about its learning rate."""
        return self.steps * self.learning_rate

    @property
    def resolution(self) -> float:
        """The perturbations that estimate the gradient."""
        return self.delta

    def craft(
        self, classifier: Classifier, batch: Batch, seed: int, dtype: str = "float32", draws: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Attack one image after the other; `dtype` is not looked at.

        With several `draws` no image stops early, because one draw may be luck. Each sample draws by itself anyway.
        """
        starts = self.start(batch, seed)
        shape = [1, *classifier.input_shape]
        pixels, one = tf.TensorSpec(shape, tf.float32), tf.TensorSpec([1], tf.int32)
        signature = [pixels, one, one, tf.TensorSpec([], tf.float32), pixels, tf.TensorSpec([2], tf.int32)]

        def run(
            x: tf.Tensor, y: tf.Tensor, loss_class: tf.Tensor, radius: tf.Tensor, start: tf.Tensor, key: tf.Tensor
        ) -> Any:
            return self._optimize(classifier, x, y, loss_class, radius, start, key, stops=draws == 1)

        attack = classifier.function((self, dtype, draws), run, signature)
        found = []
        for row, start in enumerate(starts):
            image, label, loss_class, radius, index, number = batch.part(slice(row, row + 1))
            key = [(seed + int(number[0]) * 2**11) % 2**31, int(index[0]) % 2**31]
            found.append(attack(image, label, loss_class, radius[0], start[None], key).numpy())
        return np.concatenate(found), np.zeros(0)

    def _optimize(
        self,
        classifier: Classifier,
        x: tf.Tensor,
        label: tf.Tensor,
        loss_class: tf.Tensor,
        radius: tf.Tensor,
        start: tf.Tensor,
        key: tf.Tensor,
        stops: bool,
    ) -> tf.Tensor:
        optimizer = SeededSPSAAdam(self.learning_rate, self.delta, self.samples, key)
        sign = 1.0 if self.targeted else -1.0

        def loss(change: tf.Tensor) -> tf.Tensor:
            # CleverHans' margin is of one label and a batch of logits; it is high where the label is unlikely.
            return sign * margin_logit_loss(
                classifier.logits(x + change), loss_class, nb_classes=classifier.num_classes
            )

        def standing(step: tf.Tensor, change: tf.Tensor, *_: tf.Tensor) -> tf.Tensor:
            if not stops:
                return step < self.steps
            predicted = tf.argmax(classifier.logits(x + change), axis=-1, output_type=tf.int32)
            return (step < self.steps) & tf.reduce_all(predicted == label)

        def move(step: tf.Tensor, change: tf.Tensor, first: tf.Tensor, second: tf.Tensor) -> tuple[tf.Tensor, ...]:
            optimizer.step = step
            state = {"t": tf.cast(step, tf.float32), "m": [first], "u": [second]}
            with without_deprecations():  # CleverHans passes TensorFlow an argument of old
                (moved,), state = optimizer.minimize(loss, [change], state)
            change = clip(x + tf.clip_by_value(moved, -radius, radius)) - x
            return step + 1, change, state["m"][0], state["u"][0]

        zero = tf.zeros_like(x)
        change = tf.while_loop(standing, move, (tf.constant(0), start - x, zero, zero))[1]
        return clip(x + tf.clip_by_value(change, -radius, radius))
