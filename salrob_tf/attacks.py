"""Gradient attacks on logits (K, sections 2.2 to 2.5, Eq. 2 to 4), built on the primitives of CleverHans.

CleverHans' own functions retrace for every epsilon and refuse some; here epsilon is a tensor, so that one compiled
loop per attack and model serves a whole sweep. From the same start both give the same images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf
from cleverhans.tf2.utils import clip_eta, compute_gradient, optimize_linear

from salrob_tf.classifier import Classifier, as_classifier
from salrob_tf.datasets import check_labels

NORMS = {"inf": np.inf, "2": 2.0}

Gradient = Callable[[tf.Tensor], tf.Tensor]


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy per image; one named function, because CleverHans compiles once per loss object."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


@dataclass(frozen=True)
class Attack:
    """An untargeted attack with true labels, and its settings.

    An attack holds no model and no data: call it with both. A subclass is its update rule, `perturb`.

    Attributes:
        norm: Norm of the ball, `np.inf` or 2.
        steps: Number of gradient steps; 1 for one-step attacks.
        relative_step: Step size over epsilon, in (0, 1]; `None` is `default_step / steps`, at most 1.
        restarts: How many starts are tried; 1 for attacks that start at the image.

    Raises:
        ValueError: If a setting is out of its range.
    """

    name: ClassVar[str]
    random_start: ClassVar[bool] = False
    default_step: ClassVar[float] = 1.0

    norm: float = np.inf
    steps: int = field(default=1, init=False)
    relative_step: float | None = field(default=None, init=False)
    restarts: int = field(default=1, init=False)

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

    @property
    def label(self) -> str:
        """What results and figures call the attack; two attacks of one sweep need different labels."""
        return self.name

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
        seed: int = 0,
        indices: np.ndarray | None = None,
        restart: int = 0,
        batch_size: int = 256,
    ) -> np.ndarray:
        """Craft adversarial images.

        Args:
            model: A `Classifier`, or anything that `Classifier` takes. Pass a `Classifier` to many calls, so that
                the attack is compiled once.
            images: `(N, height, width, channels)`, floats in [0, 1].
            labels: True labels, integers `(N,)`.
            epsilon: Radius of the ball, 0 or more, in the units of the images.
            seed: Seed of random starts. A start depends on the seed, the image's index and the restart alone.
            indices: One index per image, by default 0 to N - 1, so that a subset starts as it does in the whole.
            restart: Which restart this is, counted from 0.
            batch_size: Images per gradient.

        Returns:
            The adversarial images of the last step, float32, in [0, 1] and within `epsilon` of `images`.

        Raises:
            ValueError: If an argument is not valid.
        """
        classifier = as_classifier(model)
        images = classifier.check(images)
        labels = check_labels(labels, len(images), classifier.num_classes)
        if not 0 <= epsilon < np.inf:
            raise ValueError(f"`epsilon` must be a number, 0 or more. Received: epsilon={epsilon}")
        indices = np.arange(len(images)) if indices is None else np.asarray(indices)
        run = self.compiled(classifier)
        parts = []
        for start in range(0, len(images), batch_size):
            rows = slice(start, start + batch_size)
            parts.append(
                run(
                    images[rows],
                    labels[rows],
                    epsilon,
                    self.starts(indices[rows], images.shape[1:], seed, restart),
                )
            )
        return np.concatenate([part.numpy() for part in parts])

    def compiled(self, classifier: Classifier) -> Callable[..., tf.Tensor]:
        """The attack on one model as a compiled function of images, labels, epsilon and starts, traced once."""
        shape = [None, *classifier.input_shape]

        def run(images: tf.Tensor, labels: tf.Tensor, epsilon: tf.Tensor, starts: tf.Tensor) -> tf.Tensor:
            def gradient(adversarial: tf.Tensor) -> tf.Tensor:
                return compute_gradient(classifier.logits, cross_entropy, adversarial, labels, False)

            return _clip(self.perturb(gradient, images, epsilon, starts))

        if self not in classifier.functions:
            classifier.functions[self] = tf.function(
                run,
                input_signature=[
                    tf.TensorSpec(shape, tf.float32),
                    tf.TensorSpec([None], tf.int32),
                    tf.TensorSpec([], tf.float32),
                    tf.TensorSpec(shape, tf.float32),
                ],
            )
        return classifier.functions[self]

    def perturb(self, gradient: Gradient, images: tf.Tensor, epsilon: tf.Tensor, starts: tf.Tensor) -> tf.Tensor:
        """The update rule.

        Args:
            gradient: Gives the gradient of the loss at some images.
            images: The clean images.
            epsilon: Radius of the ball, a scalar.
            starts: Where to start, as a perturbation from the unit ball.

        Returns:
            Adversarial images in the ball; the caller clips them to [0, 1].
        """
        raise NotImplementedError

    def starts(self, indices: np.ndarray, shape: tuple[int, ...], seed: int, restart: int) -> np.ndarray:
        """Starts in the unit ball, one per index: zeros, or uniform in the ball where the attack starts at random.

        Args:
            indices: Index of each image in its dataset, `(N,)`.
            shape: Shape of one image.
            seed: Seed of the sweep.
            restart: Which restart this is, counted from 0.

        Returns:
            Perturbations `(N, *shape)`, float32.
        """
        starts = np.zeros((len(indices), *shape), np.float32)
        if self.random_start:
            for start, index in zip(starts, indices, strict=True):
                generator = np.random.Generator(np.random.Philox(key=[seed, (int(index) << 20) + restart]))
                if self.norm == np.inf:
                    start[...] = generator.uniform(-1, 1, shape)
                else:
                    direction = generator.standard_normal(shape)
                    radius = generator.random() ** (1 / direction.size)
                    start[...] = radius * direction / np.linalg.norm(direction)
        return starts


@dataclass(frozen=True)
class FGSM(Attack):
    """Fast gradient sign method (Goodfellow et al. 2015; K, Eq. 2): one step of size epsilon."""

    name: ClassVar[str] = "fgsm"

    def perturb(self, gradient: Gradient, images: tf.Tensor, epsilon: tf.Tensor, starts: tf.Tensor) -> tf.Tensor:
        """One step along the gradient's sign, or along the gradient in L2."""
        return images + optimize_linear(gradient(images), epsilon, self.norm)


@dataclass(frozen=True)
class BIM(Attack):
    """Basic iterative method (Kurakin et al. 2017; K, Eq. 3): FGSM steps, projected to the ball, from the image."""

    name: ClassVar[str] = "bim"
    default_step: ClassVar[float] = 2.5  # Madry et al. 2018, appendix B: enough to reach the boundary and move along it
    steps: int = 40
    relative_step: float | None = None

    def perturb(self, gradient: Gradient, images: tf.Tensor, epsilon: tf.Tensor, starts: tf.Tensor) -> tf.Tensor:
        """Steps of `step_size(epsilon)`, each projected to the ball and to [0, 1]."""

        def step(index: tf.Tensor, adversarial: tf.Tensor, momentum: tf.Tensor) -> tuple[tf.Tensor, ...]:
            moved, momentum = self.move(adversarial, gradient(adversarial), momentum, epsilon)
            return index + 1, _clip(images + clip_eta(moved - images, self.norm, epsilon)), momentum

        start = _clip(images + clip_eta(epsilon * starts, self.norm, epsilon))
        loop = (tf.constant(0), start, tf.zeros_like(images))
        return tf.while_loop(lambda index, *_: index < self.steps, step, loop)[1]

    def move(
        self, adversarial: tf.Tensor, gradient: tf.Tensor, momentum: tf.Tensor, epsilon: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """One step before projection to the ball, and the momentum after it."""
        return _clip(adversarial + optimize_linear(gradient, self.step_size(epsilon), self.norm)), momentum


@dataclass(frozen=True)
class PGD(BIM):
    """Projected gradient descent (Madry et al. 2018): BIM from a random start in the ball.

    With several `restarts` an image counts as broken if any of them breaks it.
    """

    name: ClassVar[str] = "pgd"
    random_start: ClassVar[bool] = True
    restarts: int = 1


@dataclass(frozen=True)
class MIM(BIM):
    """Momentum iterative method (Dong et al. 2018; K, Eq. 4): BIM along a decaying sum of normalised gradients.

    Attributes:
        decay: Decay factor of the momentum, mu, 0 or more.
        normalization: Gradients are divided by their mean magnitude, `"l1"` (Dong et al., CleverHans), or by
            their L2 norm, `"l2"` (K, Eq. 4).
    """

    name: ClassVar[str] = "mim"
    default_step: ClassVar[float] = 1.0  # Dong et al. 2018
    decay: float = 1.0
    normalization: str = "l1"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.decay < np.inf:
            raise ValueError(f"`decay` must be a number, 0 or more. Received: decay={self.decay}")
        if self.normalization not in ("l1", "l2"):
            raise ValueError(f"`normalization` must be l1 or l2. Received: normalization={self.normalization!r}")

    @property
    def label(self) -> str:
        """`"mim"`, or `"mim-l2"` with the normalisation of K's Eq. 4."""
        return self.name if self.normalization == "l1" else f"{self.name}-l2"

    def move(
        self, adversarial: tf.Tensor, gradient: tf.Tensor, momentum: tf.Tensor, epsilon: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """One step along the decayed sum of the normalised gradients."""
        if self.normalization == "l1":
            size = tf.reduce_mean(tf.abs(gradient), axis=[1, 2, 3], keepdims=True)
        else:
            size = tf.sqrt(tf.reduce_sum(tf.square(gradient), axis=[1, 2, 3], keepdims=True))
        momentum = self.decay * momentum + gradient / tf.maximum(size, 1e-12)
        return adversarial + optimize_linear(momentum, self.step_size(epsilon), self.norm), momentum


ATTACKS: dict[str, type[Attack]] = {attack.name: attack for attack in (FGSM, BIM, PGD, MIM)}


def make_attack(name: str | Attack, *, norm: float = np.inf, steps: int = 40, restarts: int = 1) -> Attack:
    """An attack by its name; an `Attack` is returned as it is.

    Args:
        name: A key of `ATTACKS`, or `"mim-l2"` for MIM with the normalisation of K's Eq. 4.
        norm: `np.inf` or 2.
        steps: Steps of the iterative attacks.
        restarts: Random restarts of PGD.

    Raises:
        ValueError: If there is no attack of that name, or a setting is out of its range.
    """
    if isinstance(name, Attack):
        return name
    if name == FGSM.name:
        return FGSM(norm)
    if name == PGD.name:
        return PGD(norm, steps, restarts=restarts)
    if name == BIM.name:
        return BIM(norm, steps)
    if name in (MIM.name, "mim-l2"):
        return MIM(norm, steps, normalization="l2" if name == "mim-l2" else "l1")
    raise ValueError(f"Unknown attack. Valid: {', '.join(ATTACKS)}, mim-l2. Received: attack={name!r}")


def _clip(images: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(images, 0.0, 1.0)
