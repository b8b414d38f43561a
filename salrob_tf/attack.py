"""What all gradient attacks share, built on the primitives of CleverHans.

CleverHans' own functions retrace for every epsilon and refuse some; here epsilon, the number of steps and the batch are
inputs of one compiled step per attack and model. From the same start both give the same images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf
from cleverhans.tf2.utils import clip_eta, compute_gradient

from salrob_tf.classifier import Classifier, as_classifier, over_devices
from salrob_tf.datasets import check_labels
from salrob_tf.losses import LOSSES
from salrob_tf.steps import NORMS, Batch, clip, steepest


@dataclass(frozen=True)
class Attack:
    """An attack and its settings. It holds no model and no data: call it with both.

    Attributes:
        norm: Norm of the ball, `np.inf` or 2.
        steps: Number of gradient steps; 1 for one-step attacks.
        relative_step: Step size over epsilon, in (0, 1]; `None` is `default_step / steps`, at most 1.
        restarts: How many starts are tried; 1 for attacks that start at the image. An image counts as broken if
            any of them breaks it.
        loss: The loss that is climbed, a key of `LOSSES`.
        targeted: Whether images are driven to a target class, instead of away from their label. What counts as
            broken stays the same: not classified as the label.

    Raises:
        ValueError: If a setting is out of its range.
    """

    name: ClassVar[str]
    random_start: ClassVar[bool] = False
    default_step: ClassVar[float] = 1.0
    packs: ClassVar[bool] = True  # whether a sweep may run it step by step in mixed batches
    minimal: ClassVar[bool] = False  # whether it looks for the nearest adversarial, whatever epsilon is

    norm: float = np.inf
    steps: int = field(default=1, init=False)
    relative_step: float | None = field(default=None, init=False)
    restarts: int = field(default=1, init=False)
    loss: str = field(default="cross_entropy", kw_only=True)
    targeted: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.norm not in NORMS.values():
            raise ValueError(f"`norm` must be np.inf or 2. Received: norm={self.norm}")
        for setting in ("steps", "restarts"):
            value = getattr(self, setting)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"`{setting}` must be a whole number, 1 or more. Received: {setting}={value}")
        if not 0 < self.step_size(1.0) <= 1:
            raise ValueError(
                f"`relative_step` must be above 0 and at most 1. Received: relative_step={self.relative_step}"
            )
        if self.loss not in LOSSES:
            raise ValueError(f"Unknown loss. Valid: {', '.join(LOSSES)}. Received: loss={self.loss!r}")

    @property
    def label(self) -> str:
        """What results and figures call the attack, and `make_attack` knows it by; one sweep needs different ones."""
        parts = [self.name, *([] if self.loss == "cross_entropy" else [self.loss])]
        return "-".join([*parts, *(["targeted"] if self.targeted else [])])

    @property
    def gradients_per_image(self) -> int:
        """Gradients that `craft` takes of each image."""
        return self.steps

    @property
    def forwards_per_image(self) -> int:
        """Forward passes that `craft` makes of each image beside its gradients."""
        return 0

    def step_size(self, epsilon: Any) -> Any:
        """Size of a step at `epsilon`, a number or a tensor, in the units of the images."""
        relative = min(1.0, self.default_step / self.steps) if self.relative_step is None else self.relative_step
        return relative * epsilon

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
            batch_size: Images per gradient.

        Returns:
            The adversarial images of the last step, float32, in [0, 1] and within `epsilon` of `images`.

        Raises:
            ValueError: If an argument is not valid, or the model has no gradient.
        """
        classifier = as_classifier(model)
        images = classifier.check(images)
        labels = check_labels(labels, len(images), classifier.num_classes)
        if not 0 <= epsilon < np.inf:
            raise ValueError(f"`epsilon` must be a number, 0 or more. Received: epsilon={epsilon}")
        indices = np.arange(len(images)) if indices is None else np.asarray(indices)
        aims = self.aims(classifier, images, labels, targets)
        whole = Batch(images, labels, aims, np.full(len(images), epsilon, np.float32), indices)
        starts = range(0, len(images), batch_size)
        parts = [whole.part(slice(start, start + batch_size)) for start in starts]
        return np.concatenate([self.craft(classifier, part, seed, restart)[0] for part in parts])

    def aims(
        self, classifier: Classifier, images: np.ndarray, labels: np.ndarray, targets: np.ndarray | None = None
    ) -> np.ndarray:
        """The class whose loss is climbed or, in a targeted attack, descended: the label or the target, `(N,)`.

        Raises:
            ValueError: If targets are not valid, equal labels, or are given to an untargeted attack, or if the loss
                needs more classes.
        """
        if self.loss == "dlr" and classifier.num_classes < 3:
            raise ValueError(
                f"The DLR loss needs three classes or more: use margin. Received: {classifier.num_classes}"
            )
        if not self.targeted:
            if targets is not None:
                raise ValueError(f"Only a targeted attack takes `targets`. Received: {self}")
            return labels
        if targets is None:
            logits = classifier.predict_logits(images)
            logits[np.arange(len(labels)), labels] = -np.inf
            return logits.argmax(-1).astype(np.int32)
        targets = check_labels(targets, len(images), classifier.num_classes, "targets")
        if np.any(targets == labels):
            raise ValueError(
                f"`targets` must differ from the labels. Received: {int(np.sum(targets == labels))} that do not"
            )
        return targets

    def craft(
        self, classifier: Classifier, batch: Batch, seed: int, restart: int, dtype: str = "float32"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Run all steps on one batch; arguments are not checked.

        Args:
            classifier: The model.
            batch: What is attacked, each image with a radius of its own.
            seed: Seed of random starts.
            restart: Which restart this is, counted from 0.
            dtype: What gradients are computed in, `"float32"` or `"bfloat16"`.

        Returns:
            The adversarial images of the last step, and the largest magnitude in the first gradient of each, `(N,)`,
            which is empty for attacks that are not driven by one.

        Raises:
            ValueError: If a gradient is missing or not finite.
        """
        step = self.compiled(classifier, dtype)
        fixed = [tf.constant(column) for column in batch[:4]]
        adversarial = tf.constant(self.start(batch.images, batch.radii, batch.indices, seed, restart))
        momentum, sizes = tf.zeros_like(adversarial), []
        for _ in range(self.steps):
            adversarial, momentum, _, size = step(*fixed, adversarial, momentum)
            sizes.append(size)
        self.check_gradients(classifier, np.stack(sizes))
        return adversarial.numpy(), sizes[0].numpy()

    def check_gradients(self, classifier: Classifier, sizes: np.ndarray) -> None:
        """Check the largest magnitudes in gradients of images.

        Raises:
            ValueError: If one is NaN or infinite.
        """
        if not np.isfinite(sizes).all():
            share = np.mean(~np.isfinite(sizes).reshape(-1, sizes.shape[-1]).all(axis=0))
            raise ValueError(
                f"{classifier.name} cannot be attacked by {self.label}: its gradients must be finite. "
                f"Received: NaN or infinity for {share:.1%} of a batch of {sizes.shape[-1]} images"
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
        noise = np.empty_like(images)
        shape = images.shape[1:]
        for row, index, number in zip(noise, indices, np.broadcast_to(restart, len(noise)), strict=True):
            generator = np.random.Generator(np.random.Philox(key=[seed, (int(index) << 20) + int(number)]))
            if self.norm == np.inf:
                row[...] = generator.uniform(-1, 1, shape)
            else:
                direction = generator.standard_normal(shape)
                row[...] = generator.random() ** (1 / direction.size) * direction / np.linalg.norm(direction)
        return np.clip(images + radii[:, None, None, None] * noise, 0, 1)

    def compiled(self, classifier: Classifier, dtype: str = "float32") -> Callable[..., tuple[tf.Tensor, ...]]:
        """One step of the attack on one model, compiled and traced once.

        Args:
            classifier: The model.
            dtype: What the gradients are computed in, `"float32"` or `"bfloat16"`.

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
            gradient, logits = self.gradient(classifier, dtype, adversarial, aims)
            broken = tf.argmax(logits, axis=-1, output_type=tf.int32) != labels
            size = tf.reduce_max(tf.abs(gradient), axis=[1, 2, 3])
            epsilon = radii[:, None, None, None]
            moved, momentum = self.move(adversarial, gradient, momentum, epsilon)
            return clip(images + clip_eta(moved - images, self.norm, epsilon)), momentum, broken, size

        batch = tf.TensorSpec([None, *classifier.input_shape], tf.float32)
        rows, radii = tf.TensorSpec([None], tf.int32), tf.TensorSpec([None], tf.float32)
        # The steps are not a loop inside the graph: there TensorFlow replaces some of its kernels by oneDNN's or not
        # as chance has it, which costs a fifth of the speed in most processes.
        run = lambda *batch: over_devices(step, *batch)  # noqa: E731
        return classifier.function((self, dtype), run, [batch, rows, rows, radii, batch, batch])

    def gradient(
        self, classifier: Classifier, dtype: str, images: tf.Tensor, aims: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Gradient of the loss with respect to the images, and the logits of the same pass.

        Raises:
            ValueError: If there is no gradient.
        """
        forward, seen = classifier.crafting(dtype), []

        def logits(batch: tf.Tensor) -> tf.Tensor:
            seen.append(forward(batch))
            return seen[-1]

        # The Python function behind CleverHans' compiled one: inside that, the logits could not be had.
        gradient = compute_gradient.python_function(logits, LOSSES[self.loss], images, aims, self.targeted)
        if gradient is None:
            raise ValueError(f"{classifier.name} has no gradient with respect to its images: it cannot be attacked")
        return gradient, seen[0]

    def move(
        self, adversarial: tf.Tensor, gradient: tf.Tensor, momentum: tf.Tensor, epsilon: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """One step before it is projected to the ball, and the momentum after it: the attack's update rule."""
        return clip(adversarial + steepest(gradient, self.step_size(epsilon), self.norm)), momentum
