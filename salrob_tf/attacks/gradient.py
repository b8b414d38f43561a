"""The paper's attacks (Karkehabadi 2023, sections 2.2 to 2.5, Eq. 2 to 4): steps along the gradient of a loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import tensorflow as tf

from salrob_tf.attacks.ascent import GradientAttack
from salrob_tf.attacks.balls import Ball, Batch, clip, steepest
from salrob_tf.attacks.base import State
from salrob_tf.attacks.settings import SUFFIXES
from salrob_tf.checks import check_choice, check_number
from salrob_tf.models.classifier import Classifier


@dataclass(frozen=True)
class FGSM(GradientAttack):
    """Fast gradient sign method (Goodfellow et al. 2015; Karkehabadi 2023, Eq. 2): one step of size epsilon.

    Example:
        >>> adversarial = sr.FGSM()(sr.Classifier(network), images, labels, epsilon=0.1)
    """

    name: ClassVar[str] = "fgsm"
    stepwise: ClassVar[bool] = False
    one_gradient: ClassVar[bool] = True

    def craft(
        self, classifier: Classifier, batch: Batch, seed: int, dtype: str = "float32", draws: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """One step on one batch."""
        gradients, sizes = self.gradients(classifier, batch.images, batch.loss_classes, dtype, draws)
        return self.along(batch.images, gradients, batch.radii), sizes

    def along(self, images: np.ndarray, gradients: np.ndarray, radii: np.ndarray) -> np.ndarray:
        """The images moved along given gradients to the edge of their balls, clipped to [0, 1]."""
        step = steepest(tf.constant(gradients), radii[:, None, None, None], self.norm)
        return clip(images + step).numpy()


@dataclass(frozen=True)
class BIM(GradientAttack):
    """Basic iterative method (Kurakin et al. 2017; Karkehabadi 2023, Eq. 3): projected FGSM steps from the image.

    Example:
        >>> adversarial = sr.BIM(norm=2, steps=5)(network, images, labels, epsilon=0.5)
    """

    name: ClassVar[str] = "bim"
    default_step: ClassVar[float] = 2.5  # Madry et al. 2018, appendix B: enough to reach the boundary and move along it
    steps: int = 40
    relative_step: float | None = None

    @property
    def scout(self) -> FGSM:
        """What is asked where a search is best begun: one gradient for all epsilons."""
        return FGSM(self.norm, loss=self.loss, targeted=self.targeted)


@dataclass(frozen=True)
class PGD(BIM):
    """Projected gradient descent (Madry et al. 2018): BIM from a random start in the ball.

    Example:
        >>> sr.PGD(steps=10, restarts=2, loss="dlr", targeted=True).label
        'pgd-dlr-targeted'
    """

    name: ClassVar[str] = "pgd"
    random_start: ClassVar[bool] = True
    restarts: int = 1


@dataclass(frozen=True)
class MIM(BIM):
    """Momentum iterative method (Dong et al. 2018; Karkehabadi 2023, Eq. 4): BIM along decaying sums of gradients.

    Example:
        >>> sr.MIM(steps=10, normalization="l2").label  # Karkehabadi 2023, Eq. 4
        'mim-l2'

    Attributes:
        decay: Decay factor of the momentum, mu, 0 or more.
        normalization: Gradients are divided by their mean magnitude, `"l1"` (Dong et al., CleverHans), or by
            their L2 norm, `"l2"` (Karkehabadi 2023, Eq. 4).
    """

    name: ClassVar[str] = "mim"
    default_step: ClassVar[float] = 1.0  # Dong et al. 2018
    decay: float = 1.0
    normalization: str = field(default="l1", metadata={SUFFIXES: {"l2": "l2"}})  # `-l2` is Karkehabadi's Eq. 4

    def __post_init__(self) -> None:
        super().__post_init__()
        self._settle(
            decay=check_number("decay", self.decay, low=0),
            normalization=check_choice("normalization", self.normalization, ("l1", "l2")),
        )

    def init(self, classifier: Classifier, batch: Batch, seed: int) -> State:
        """A state without momentum."""
        return {**super().init(classifier, batch, seed), "momentum": np.zeros_like(batch.images)}

    def move(self, state: State, gradient: tf.Tensor, loss: tf.Tensor, ball: Ball) -> State:
        """One step along the decayed sum of the normalised gradients."""
        if self.normalization == "l1":
            size = tf.reduce_mean(tf.abs(gradient), axis=[1, 2, 3], keepdims=True)
        else:
            size = tf.sqrt(tf.reduce_sum(tf.square(gradient), axis=[1, 2, 3], keepdims=True))
        momentum = self.decay * state["momentum"] + gradient / tf.maximum(size, 1e-12)
        images = state["images"] + steepest(momentum, self.step_size(ball.epsilon), self.norm)
        return {"images": images, "momentum": momentum}
