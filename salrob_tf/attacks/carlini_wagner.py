"""CleverHans' Carlini-Wagner L2, made to run on Keras 3, where CleverHans 4.0's own function fails.

It calls `optimizer.variables()`, which became a property and holds the learning rate too. Its arithmetic is
CleverHans'; what is mended is stated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from cleverhans.tf2.attacks.carlini_wagner_l2 import CarliniWagnerL2

from salrob_tf._compat import PerImage, ResettableAdam
from salrob_tf.attacks.balls import Batch
from salrob_tf.attacks.base import Attack, mean_logits
from salrob_tf.checks import check_number, check_whole
from salrob_tf.models.classifier import Classifier


@dataclass(frozen=True)
class CWL2(Attack):
    """Carlini and Wagner's L2 attack (2017): the nearest adversarial, whatever epsilon is.

    An image survives an epsilon if no adversarial was found within it. Untargeted only: CleverHans takes given labels
    for targets, and attacks the class predicted otherwise, which is the label of every image attacked.

    Example:
        >>> attack = sr.CWL2(steps=20, constants=2)  # few, to be quick
        >>> nearest = attack(network, images[:8], labels[:8], epsilon=0.0)  # whatever epsilon is

    Attributes:
        steps: Iterations of Adam for each constant.
        constants: How many constants, which weigh the margin against the distance, are tried for each image: by
            CleverHans' search, which after a success goes on from ten times the middle.
        learning_rate: Of Adam.
        initial_constant: Where that search starts.
        confidence: Up to which lead over the label the loss goes on; any misclassification is a success, as in
            CleverHans.
    """

    name: ClassVar[str] = "cw"
    nearest: ClassVar[bool] = True
    by_name: ClassVar[tuple[str, ...]] = ()  # `cw` is for L2 whatever is asked, and keeps its own steps
    norm: float = 2.0
    steps: int = 1000
    constants: int = 5
    learning_rate: float = 5e-3
    initial_constant: float = 1e-2
    confidence: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm != 2 or self.targeted:
            raise ValueError(
                f"CWL2 is an untargeted attack for the L2 norm. Received: norm={self.norm}, targeted={self.targeted}"
            )
        positive = ("learning_rate", "initial_constant")
        self._settle(
            constants=check_whole("constants", self.constants, 1),
            confidence=check_number("confidence", self.confidence, low=0),
            **{setting: check_number(setting, getattr(self, setting), above=0) for setting in positive},
        )

    def gradients_per_step(self, num_classes: int) -> int:
        """At most: CleverHans aborts early where a batch makes no progress."""
        return self.constants

    def craft(
        self, classifier: Classifier, batch: Batch, seed: int, dtype: str = "float32", draws: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Attack one batch; radii and `dtype` are not looked at. Images already misclassified stay as they are.

        Of several `draws`, the mean of their logits is attacked.
        """
        attack = CarliniWagnerL2(
            mean_logits(classifier, draws),
            batch_size=len(batch.images),
            clip_min=0.0,
            clip_max=1.0,
            binary_search_steps=self.constants,
            max_iterations=self.steps,
            confidence=self.confidence,
            initial_const=PerImage(self.initial_constant),
            learning_rate=self.learning_rate,
        )
        attack.optimizer = ResettableAdam(self.learning_rate)
        found = attack.attack(batch.images)
        wrong = ~classifier.classifies(batch.images, batch.labels, draws=draws)
        return np.where(wrong[:, None, None, None], batch.images, found), np.zeros(0)
