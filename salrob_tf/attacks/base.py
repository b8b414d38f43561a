"""How all gradient attacks are run on a model, built on the primitives of CleverHans.

CleverHans' own functions retrace for every epsilon and refuse some; here epsilon, the number of steps and the batch are
inputs of one compiled step per attack and model. From the same start both give the same images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from cleverhans.tf2.utils import clip_eta

from salrob_tf.attacks.balls import Batch, clip, steepest
from salrob_tf.attacks.losses import LOSSES
from salrob_tf.attacks.settings import AttackSettings
from salrob_tf.attacks.starts import MOST_RESTARTS, check_indices, random_starts
from salrob_tf.checks import check_number, check_whole, shown
from salrob_tf.data.arrays import check_labels
from salrob_tf.models.classifier import Classifier, as_classifier
from salrob_tf.models.devices import over_devices
from salrob_tf.models.gradients import scaled_gradient


@dataclass(frozen=True)
class Attack(AttackSettings):
    """An attack and its settings, those of `AttackSettings`. It holds no model and no data: call it with both.

    Raises:
        ValueError: If a setting is out of its range.
    """

    def __call__(
        self,
        model: Any,
        images: np.ndarray,
        labels: np.ndarray,
        epsilon: float,
        *,
        targets: np.ndarray | None = None,
        seed: int = 0,
        indices: np.ndarray | None = None,
        restart: int = 0,
        batch_size: int = 256,
        draws: int = 1,
    ) -> np.ndarray:
        """Craft adversarial images, all steps for every image.

        Args:
            model: A `Classifier`, or anything that `Classifier` takes. Pass a `Classifier` to many calls, so that
                the attack is compiled once.
            images: `(N, height, width, channels)`, floats in [0, 1], or 8-bit integers for a `Classifier` whose
                `bounds` are 0 and 255.
            labels: True labels, integers `(N,)`.
            epsilon: Radius of the ball, 0 or more, in the units of the images.
            targets: Target classes of a targeted attack, `(N,)`; by default the likeliest wrong ones.
            seed: Seed of random starts. A start depends on the seed, the image's index and the restart alone; it
                is drawn in the unit ball and scaled by epsilon.
            indices: One index per image, by default 0 to N - 1, so that a subset starts as it does in the whole.
            restart: Which restart this is, counted from 0.
            batch_size: Images per gradient, at most.
            draws: Over how many passes each gradient is averaged, for models that draw random numbers (Athalye et
                al. 2018, expectation over transformation).

        Returns:
            The adversarial images of the last step, float32, in [0, 1] and within `epsilon` of `images`.

        Raises:
            ValueError: If an argument is not valid, or the model has no gradient.
        """
        classifier = as_classifier(model)
        images = classifier.check(images)
        labels = check_labels(labels, len(images), classifier.num_classes)
        epsilon = check_number("epsilon", epsilon, low=0)
        seed, restart = check_whole("seed", seed), check_whole("restart", restart, high=MOST_RESTARTS - 1)
        batch_size, draws = check_whole("batch_size", batch_size, 1), check_whole("draws", draws, 1)
        indices = check_indices(indices, len(images))
        classifier.refresh()
        aims = self.aims(classifier, images, labels, targets, batch_size)
        whole = Batch(images, labels, aims, np.full(len(images), epsilon, np.float32), indices)
        starts = range(0, len(images), batch_size)
        parts = [whole.part(slice(start, start + batch_size)) for start in starts]
        found = np.concatenate([self.craft(classifier, part, seed, restart, draws=draws)[0] for part in parts])
        self.check_adversarials(found)
        return found

    def aims(
        self,
        classifier: Classifier,
        images: np.ndarray,
        labels: np.ndarray,
        targets: np.ndarray | None = None,
        batch_size: int = 256,
    ) -> np.ndarray:
        """The class whose loss is climbed or, in a targeted attack, descended: the label or the target, `(N,)`.

        Raises:
            ValueError: If targets are not valid, equal labels, or are given to an untargeted attack, or if the loss
                needs more classes.
        """
        self.check_classes(classifier.num_classes)
        if not self.targeted:
            if targets is not None:
                raise ValueError(f"Only a targeted attack takes `targets`. Received: {self}")
            return labels
        if targets is None:
            logits = classifier.predict_logits(images, batch_size)
            logits[np.arange(len(labels)), labels] = -np.inf
            return logits.argmax(-1).astype(np.int32)
        targets = check_labels(targets, len(images), classifier.num_classes, "targets")
        if np.any(targets == labels):
            raise ValueError(
                f"`targets` must differ from the labels. Received: {int(np.sum(targets == labels))} that do not"
            )
        return targets

    def craft(
        self, classifier: Classifier, batch: Batch, seed: int, restart: int, dtype: str = "float32", draws: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Run all steps on one batch; arguments are not checked.

        Args:
            classifier: The model.
            batch: What is attacked, each image with a radius of its own.
            seed: Seed of random starts.
            restart: Which restart this is, counted from 0.
            dtype: What gradients are computed in, `"float32"` or `"bfloat16"`.
            draws: Over how many passes each gradient is averaged.

        Returns:
            The adversarial images of the last step, and the largest magnitude in the first gradient of each, `(N,)`,
            which is empty for attacks that are not driven by one.

        Raises:
            ValueError: If a gradient is missing or not finite.
        """
        step = self.compiled(classifier, dtype, draws)
        fixed = [tf.constant(column) for column in batch[:4]]
        adversarial = tf.constant(self.start(batch.images, batch.radii, batch.indices, seed, restart))
        momentum, sizes = tf.zeros_like(adversarial), []
        for _ in range(self.steps):
            adversarial, momentum, _, size = step(*fixed, adversarial, momentum)
            sizes.append(size)
        self.check_gradients(classifier, np.stack(sizes))
        return np.asarray(adversarial), np.asarray(sizes[0])

    def check_gradients(self, classifier: Classifier, sizes: np.ndarray) -> None:
        """Check the largest magnitudes in gradients of images.

        Raises:
            ValueError: If one is NaN or infinite.
        """
        if not np.isfinite(sizes).all():
            share = np.mean(~np.isfinite(sizes).reshape(-1, sizes.shape[-1]).all(axis=0))
            raise ValueError(
                f"{classifier.name} cannot be attacked by {self.label}: its gradients must be finite (layers in "
                "float16 overflow at 65504). "
                f"Received: NaN or infinity for {share:.1%} of a batch of {sizes.shape[-1]} images"
            )

    def check_adversarials(self, images: np.ndarray) -> None:
        """Check what the attack made of images.

        Raises:
            ValueError: If a value is NaN, which no model classifies.
        """
        if np.isnan(images).any():
            share = np.isnan(images).any(axis=(1, 2, 3)).mean()
            raise ValueError(
                f"{self.label} must lead to images of numbers: one of its settings makes float32 overflow. Received: "
                f"NaN in {share:.1%} of them, with {shown(self)}"
            )

    def start(
        self, images: np.ndarray, radii: np.ndarray, indices: np.ndarray, seed: int, restart: int | np.ndarray
    ) -> np.ndarray:
        """Where the attack starts: at the images, or uniformly at random in the ball, clipped to [0, 1].

        Args:
            images: `(N, height, width, channels)`.
            radii: Radius of each ball, float32 `(N,)`.
            indices: Index of each image in its dataset, `(N,)`.
            seed: Seed of the sweep.
            restart: Which restart this is, counted from 0; one number, or one per image.

        Returns:
            Starting images, float32.
        """
        if not self.random_start:
            return images
        return random_starts(images, radii, indices, self.norm, seed, np.broadcast_to(restart, len(images)))

    def compiled(
        self, classifier: Classifier, dtype: str = "float32", draws: int = 1
    ) -> Callable[..., tuple[tf.Tensor, ...]]:
        """One step of the attack on one model, compiled and traced once.

        Args:
            classifier: The model.
            dtype: What the gradients are computed in, `"float32"` or `"bfloat16"`.
            draws: Over how many passes each gradient is averaged. Of several, none says whether an image is broken:
                each look at one draw is another chance of luck.

        Returns:
            A function of images, labels, aims, radii `(N,)`, and the adversarial images and the momentum so far, all
            of any batch size. It gives the adversarial images and the momentum after the step, whether the
            images that it was given were broken `(N,)`, and the largest magnitude in each of their gradients `(N,)`.
        """

        def step(
            images: tf.Tensor,
            labels: tf.Tensor,
            aims: tf.Tensor,
            radii: tf.Tensor,
            adversarial: tf.Tensor,
            momentum: tf.Tensor,
        ) -> tuple[tf.Tensor, ...]:
            gradient, _, logits = self.gradient(classifier, dtype, adversarial, aims)
            broken = tf.argmax(logits, axis=-1, output_type=tf.int32) != labels
            size = tf.reduce_max(tf.abs(gradient), axis=[1, 2, 3])
            return *self._projected(images, radii, adversarial, gradient, momentum), broken, size

        def averaged(
            images: np.ndarray,
            labels: np.ndarray,
            aims: np.ndarray,
            radii: np.ndarray,
            adversarial: np.ndarray,
            momentum: np.ndarray,
        ) -> tuple[Any, ...]:
            gradient, size = self.gradients(classifier, adversarial, aims, dtype, draws)
            return *move(images, radii, adversarial, gradient, momentum), np.zeros(len(images), bool), size

        batch = tf.TensorSpec([None, *classifier.input_shape], tf.float32)
        rows, radii = tf.TensorSpec([None], tf.int32), tf.TensorSpec([None], tf.float32)
        # The steps are not a loop inside the graph: there TensorFlow replaces some of its kernels by oneDNN's or not
        # as chance has it, which costs a fifth of the speed in most processes.
        run = lambda *batch: over_devices(step, *batch)  # noqa: E731
        if draws == 1:
            return classifier.function((self, dtype), run, [batch, rows, rows, radii, batch, batch])
        move = classifier.function((self, "move"), self._projected, [batch, radii, batch, batch, batch])
        return averaged

    def gradients(
        self, classifier: Classifier, images: np.ndarray, aims: np.ndarray, dtype: str = "float32", draws: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """The gradients at the images, means over `draws` passes, each up to a factor, and their largest magnitudes.

        Returns:
            Gradients in the shape of the images, and the largest magnitude in each, `(N,)`.

        Raises:
            ValueError: If a gradient is missing or not finite.
        """
        run = classifier.function(
            (self, dtype, "gradients"),
            lambda *batch: over_devices(lambda x, y: self.gradient(classifier, dtype, x, y), *batch),
            [tf.TensorSpec([None, *classifier.input_shape], tf.float32), tf.TensorSpec([None], tf.int32)],
        )
        total, scale = np.zeros_like(images), np.full(len(images), np.inf, np.float32)
        for _ in range(draws):
            gradient, its, _ = (part.numpy() for part in run(images, aims))
            # A draw of a steep loss weighs more than one of a flat loss: the mean is of gradients in one scale.
            its = np.where(np.abs(gradient).max(axis=(1, 2, 3)) == 0, np.float32(np.inf), its)
            both = np.minimum(scale, its)
            total = total * _ratio(both, scale) + gradient * _ratio(both, its)
            scale = both
        gradients = total / draws
        sizes = np.abs(gradients).max(axis=(1, 2, 3))
        self.check_gradients(classifier, sizes)
        return gradients, sizes

    def _projected(
        self, images: tf.Tensor, radii: tf.Tensor, adversarial: tf.Tensor, gradient: tf.Tensor, momentum: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The adversarial images and the momentum after a step along a gradient, back in the balls and in [0, 1]."""
        epsilon = radii[:, None, None, None]
        moved, momentum = self.move(adversarial, gradient, momentum, epsilon)
        return clip(images + clip_eta(moved - images, self.norm, epsilon)), momentum

    def gradient(
        self, classifier: Classifier, dtype: str, images: tf.Tensor, aims: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Gradient of the loss with respect to the images, times a factor per image.

        Returns:
            The gradient, the factors `(N,)`, and the logits of the same pass.

        Raises:
            ValueError: If there is no gradient.
        """
        loss, sign = LOSSES[self.loss], -1.0 if self.targeted else 1.0
        gradient, scale, logits = scaled_gradient(
            classifier.crafting(dtype), images, lambda logits: sign * loss(aims, logits)
        )
        if gradient is None:
            raise ValueError(
                f"{classifier.name} has no gradient with respect to its images: attack it with spsa, which takes none, "
                "or give the step that has none, such as rounding, a straight-through gradient"
            )
        return gradient, scale, logits

    def move(
        self, adversarial: tf.Tensor, gradient: tf.Tensor, momentum: tf.Tensor, epsilon: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """One step before it is projected to the ball, and the momentum after it: the attack's update rule."""
        return clip(adversarial + steepest(gradient, self.step_size(epsilon), self.norm)), momentum


def _ratio(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """What brings gradients from one scale to another; 0 for those of no scale, which are zero."""
    return np.divide(new, old, out=np.zeros_like(new), where=np.isfinite(old))[:, None, None, None]
