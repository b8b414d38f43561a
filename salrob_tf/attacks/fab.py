"""Fast adaptive boundary attack (Croce and Hein 2020, arXiv 1907.02044): the nearest adversarial."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import tensorflow as tf

from salrob_tf.attacks.balls import Batch, clip
from salrob_tf.attacks.base import Attack, mean_logits, missing_gradient
from salrob_tf.checks import check_number
from salrob_tf.models.classifier import Classifier
from salrob_tf.models.gradients import scaled_gradient

LEAST = 1e-8  # a distance to a hyperplane that counts as none


@dataclass(frozen=True)
class FAB(Attack):
    """Fast adaptive boundary attack: steps to the linearised decision boundary, and back towards the image.

    It finds an adversarial near the image, whatever epsilon is; an image survives an epsilon if none was found within.
    Targeted, each image is driven over its boundary with one class, else over the nearest one, which takes a gradient
    for each class.

    Example:
        >>> attack = sr.FAB(steps=10, targeted=True, target_classes=2)
        >>> nearest = attack(network, images[:8], labels[:8], epsilon=0.0)  # whatever epsilon is

    Attributes:
        most_bias: The most that a step is drawn to the boundary as seen from the image (alpha_max), in [0, 1].
        overshoot: How far steps lead, over the distance to the boundary (eta), 1 or more.
        backward: Where an adversarial is gone on from, on the way from the image to it (beta), in (0, 1].
    """

    name: ClassVar[str] = "fab"
    nearest: ClassVar[bool] = True
    by_name: ClassVar[tuple[str, ...]] = ("norm",)  # 100 steps are what the name stands for
    steps: int = 100
    target_classes: int | None = field(default=None, kw_only=True)
    most_bias: float = 0.1
    overshoot: float = 1.05
    backward: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        self._settle(
            most_bias=check_number("most_bias", self.most_bias, low=0, high=1),
            overshoot=check_number("overshoot", self.overshoot, low=1),
            backward=check_number("backward", self.backward, above=0, high=1),
        )

    def gradients_per_step(self, num_classes: int) -> int:
        """One, or one for each class that an image may be driven to."""
        return 1 if self.targeted else num_classes - 1

    def forwards_per_step(self, draws: int = 1) -> int:
        """One for each draw, which look whether the step led to an adversarial."""
        return draws

    def craft(
        self, classifier: Classifier, batch: Batch, seed: int, dtype: str = "float32", draws: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """All steps on one batch, of several `draws` on the mean of their logits; radii and `dtype` are not looked at.

        Images for which nothing was found are handed out as the last step left them.
        """

        def step(
            images: tf.Tensor, labels: tf.Tensor, loss_classes: tf.Tensor,
            x: tf.Tensor, found: tf.Tensor, size: tf.Tensor,
        ) -> tuple[tf.Tensor, ...]:  # fmt: skip
            gradient, gap, logits = self._boundary(classifier, draws, x, labels, loss_classes)
            nearer = tf.argmax(logits, axis=-1, output_type=tf.int32) != labels
            found, size = self._kept(images, x, nearer, found, size)
            x = self._stepped(images, x, gradient, gap)
            fell = tf.argmax(mean_logits(classifier, draws)(x), axis=-1, output_type=tf.int32) != labels
            found, size = self._kept(images, x, fell, found, size)
            x = tf.where(fell[:, None, None, None], images + self.backward * (x - images), x)
            return x, found, size, tf.reduce_max(tf.abs(gradient), axis=[1, 2, 3])

        batch = batch.as_tensors()
        x, found, size = batch.images, batch.images, np.full(len(batch.images), np.inf, np.float32)
        given = (batch.images, batch.labels, batch.loss_classes, x, found, size)
        signature = [tf.TensorSpec([None, *np.shape(part)[1:]], part.dtype) for part in given]
        run, sizes = classifier.function((self, "float32", draws), step, signature), []
        for _ in range(self.steps):
            x, found, size, magnitudes = run(*given[:3], x, found, size)
            sizes.append(magnitudes.numpy())
        self.check_gradients(classifier, np.stack(sizes))
        return np.where(np.isfinite(size)[:, None, None, None], found, x), sizes[0]

    def _boundary(
        self, classifier: Classifier, draws: int, x: tf.Tensor, labels: tf.Tensor, loss_classes: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The hyperplane that is stepped to: how much `<gradient, change>` leads to it; and logits."""
        classes = classifier.num_classes
        targets = [loss_classes] if self.targeted else [(labels + shift) % classes for shift in range(1, classes)]
        planes = []
        for target in targets:

            def lead(logits: tf.Tensor, target: tf.Tensor = target) -> tf.Tensor:
                return tf.gather(logits, target, batch_dims=1) - tf.gather(logits, labels, batch_dims=1)

            gradient, scale, leads, logits = scaled_gradient(mean_logits(classifier, draws), x, lead)
            if gradient is None:
                raise missing_gradient(classifier)
            planes.append((gradient, -leads * scale))
        if self.targeted:
            return *planes[0], logits
        gradients, gaps = (tf.stack(parts) for parts in zip(*planes, strict=True))
        flat = tf.reshape(gradients, [len(targets), tf.shape(x)[0], -1])
        dual = tf.norm(flat, ord=1 if self.norm == np.inf else 2, axis=2)
        nearest = tf.argmin(tf.abs(gaps) / (dual + 1e-30), output_type=tf.int32)
        return _rows_of(gradients, nearest), _rows_of(gaps, nearest), logits

    def _stepped(self, images: tf.Tensor, x: tf.Tensor, gradient: tf.Tensor, gap: tf.Tensor) -> tf.Tensor:
        """Algorithm 1, lines 8 to 11: between the projections of the current and of the clean image."""
        behind = tf.reduce_sum(gradient * (x - images), axis=[1, 2, 3])
        starts, weights = tf.concat([x, images], 0), tf.concat([gradient, gradient], 0)
        both = smallest_change(starts, weights, tf.concat([gap, gap + behind], 0), self.norm)
        from_x, from_image = tf.split(both, 2)
        here, there = (tf.maximum(_sizes(change, self.norm), LEAST) for change in (from_x, from_image))
        bias = tf.minimum(here / (here + there), self.most_bias)[:, None, None, None]
        return clip((1 - bias) * (x + self.overshoot * from_x) + bias * (images + self.overshoot * from_image))

    def _kept(
        self, images: tf.Tensor, x: tf.Tensor, fell: tf.Tensor, found: tf.Tensor, size: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        its = _sizes(x - images, self.norm)
        nearer = fell & (its < size)
        return tf.where(nearer[:, None, None, None], x, found), tf.where(nearer, its, size)


def smallest_change(images: tf.Tensor, weights: tf.Tensor, gap: tf.Tensor, norm: float) -> tf.Tensor:
    """The smallest change, images staying in [0, 1], whose product with the weights is `gap` (section 2.2).

    Each pixel moves until it reaches 0 or 1: all alike in L-infinity, in proportion to their weights in L2. How long is
    found by Newton's method: what is gained over time rises ever less steeply, so that each step falls short until no
    more pixels arrive, which is after a few; sorting where pixels arrive takes several times as long. Pixels of no
    weight do not move.

    Args:
        images: `(N, height, width, channels)`, in [0, 1].
        weights: In their shape.
        gap: `(N,)`.
        norm: `np.inf` or 2.

    Returns:
        The changes. Where the gap is out of reach, as far as it goes.
    """
    shape = tf.shape(images)
    images, weights = (tf.reshape(part, [shape[0], -1]) for part in (images, weights))
    upward = tf.sign(weights) * tf.sign(gap)[:, None]
    weight = tf.abs(weights)
    room = tf.where(weight > 0, tf.where(upward > 0, 1 - images, images), 0)
    # In L-infinity the speed of a pixel is 1; one of no weight has no room.
    arrival = room if norm == np.inf else tf.math.divide_no_nan(room, weight)
    gains = weight if norm == np.inf else weight**2
    wholes, need = weight * room, tf.abs(gap)[:, None]

    def longer(time: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        moving = arrival > time
        arrived = tf.reduce_sum(tf.where(moving, 0.0, wholes), axis=1, keepdims=True)
        gain = tf.reduce_sum(tf.where(moving, gains, 0.0), axis=1, keepdims=True)
        return tf.maximum(time, tf.where(gain > 0, (need - arrived) / gain, np.inf)), time

    begin = tf.zeros_like(need)
    time, _ = tf.while_loop(lambda time, before: tf.reduce_any(time > before), longer, (begin, begin - 1))
    way = time if norm == np.inf else tf.math.multiply_no_nan(time, weight)
    return tf.reshape(upward * tf.minimum(way, room), shape)


def _sizes(changes: tf.Tensor, norm: float) -> tf.Tensor:
    return tf.norm(tf.reshape(changes, [tf.shape(changes)[0], -1]), ord=norm, axis=1)


def _rows_of(stacked: tf.Tensor, which: tf.Tensor) -> tf.Tensor:
    """Of tensors `(C, N, ...)` in each row the one that is chosen, `(N, ...)`."""
    return tf.gather_nd(stacked, tf.stack([which, tf.range(tf.shape(which)[0])], axis=1))
