"""What an attack is to those who run it: called with a model and images, or step by step on rows of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from salrob_tf.attacks.balls import Batch
from salrob_tf.attacks.settings import AttackSettings
from salrob_tf.attacks.starts import MOST_TRIES, check_indices, random_starts
from salrob_tf.checks import check_number, check_whole, shown
from salrob_tf.data.arrays import check_labels
from salrob_tf.models.classifier import Classifier, as_classifier

State = dict[str, Any]  # arrays or tensors, a row for each image; `"images"` is what was made of it so far


class Seen(NamedTuple):
    """What a step saw of the images that it was given.

    Attributes:
        broken: Whether the model misclassified each, boolean `(N,)`.
        sizes: The largest magnitude in each one's gradient, `(N,)`; empty where no gradient was taken.
        leads: How far the logit of each one's label was above all others, `(N,)`; empty where that was not seen.
    """

    broken: Any
    sizes: Any
    leads: Any


@dataclass(frozen=True)
class Attack(AttackSettings):
    """An attack and its settings, those of `AttackSettings`. It holds no model and no data: call it with both.

    One that is `stepwise` gives `init` and `step`, and keeps what it must remember of an image in that image's row of
    the state; who runs it may put any rows together, and judges what it hands out. One whose `one_gradient` serves all
    epsilons gives `gradients` and `along`. All others give `craft`.

    Example:
        >>> attack = sr.ATTACKS["pgd"](steps=10)
        >>> adversarial = attack(network, images, labels, epsilon=0.1)
        >>> bool(np.abs(adversarial - images).max() <= 0.1 + 1e-6)
        True

    Raises:
        ValueError: If a setting is out of its range.
    """

    def members(self, classifier: Classifier) -> tuple[Link, ...]:
        """The attacks that are run one after the other, each on what those before left: this one."""
        return (Link(self.label, self),)

    @property
    def scout(self) -> Attack | None:
        """A quick attack that tells a search where it is best begun."""
        return None

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
        """Craft adversarial images; steps go on where an image is broken, but for SPSA and Carlini-Wagner.

        Args:
            model: A `Classifier`, or anything that `Classifier` takes. Pass a `Classifier` to many calls, so that
                the attack is compiled once.
            images: `(N, height, width, channels)`, floats in [0, 1], or 8-bit integers for a `Classifier` whose
                `bounds` are 0 and 255.
            labels: True labels, integers `(N,)`.
            epsilon: Radius of the ball, 0 or more, in the units of [0, 1], of 8-bit images, too.
            targets: Target classes of a targeted attack, `(N,)`; by default the likeliest wrong ones.
            seed: Seed of random starts. A start depends on the seed, the image's index and `restart` alone; it
                is drawn in the unit ball and scaled by epsilon.
            indices: One index per image, by default 0 to N - 1, so that a subset starts as it does in the whole.
            restart: Which try this is, counted from 0; of a targeted attack without `targets`, tries beyond `restarts`
                are towards the next of its `target_classes`.
            batch_size: Images per gradient, at most.
            draws: Over how many passes each gradient is averaged, for models that draw random numbers (Athalye et
                al. 2018, expectation over transformation).

        Returns:
            Adversarial images, float32, in [0, 1] and within `epsilon` of `images`, but for `fab` and `cw`, which look
            for the nearest whatever `epsilon` is: those of the last step, of `apgd` and `spsa` one that was
            misclassified on the way, if any was.

        Raises:
            ValueError: If an argument is not valid, the model has no finite gradient (`cw`, whose loss has one, is run
                all the same where it has none), or a setting makes float32 overflow.
        """
        classifier = as_classifier(model)
        images = classifier.check(images)
        labels = check_labels(labels, len(images), classifier.num_classes)
        epsilon = check_number("epsilon", epsilon, low=0)
        seed, restart = check_whole("seed", seed), check_whole("restart", restart, high=MOST_TRIES - 1)
        batch_size, draws = check_whole("batch_size", batch_size, 1), check_whole("draws", draws, 1)
        indices = check_indices(indices, len(images))
        classifier.refresh()
        loss_classes = self.loss_classes(classifier, images, labels, targets, batch_size)
        loss_class = loss_classes[:, min(restart // self.restarts, loss_classes.shape[1] - 1)]
        radii, tries = np.full(len(images), epsilon, np.float32), np.full(len(images), restart)
        whole = Batch(images, labels, loss_class, radii, indices, tries)
        starts = range(0, len(images), batch_size)
        parts = [whole.part(slice(start, start + batch_size)) for start in starts]
        found = np.concatenate([self.craft(classifier, part, seed, draws=draws)[0] for part in parts])
        self.check_adversarials(found)
        return found

    def loss_classes(
        self,
        classifier: Classifier,
        images: np.ndarray,
        labels: np.ndarray,
        targets: np.ndarray | None = None,
        batch_size: int = 256,
    ) -> np.ndarray:
        """The classes whose loss is maximised or, in a targeted attack, minimised.

        Returns:
            The label of each image, or its target classes, the likeliest first, `(N, target_classes)`; one where
            `targets` are given.

        Raises:
            ValueError: If targets are not valid, equal labels, or are given to an untargeted attack, or if the loss
                needs more classes.
        """
        self.check_classes(classifier.num_classes)
        if not self.targeted:
            if targets is not None:
                raise ValueError(f"Only a targeted attack takes `targets`. Received: {self}")
            return labels[:, None]
        if targets is None:
            logits = classifier.predict_logits(images, batch_size)
            logits[np.arange(len(labels)), labels] = -np.inf
            return np.argsort(-logits, axis=-1, kind="stable")[:, : self.targets_of(classifier.num_classes)].astype(
                np.int32
            )
        targets = check_labels(targets, len(images), classifier.num_classes, "targets")
        if np.any(targets == labels):
            raise ValueError(
                f"`targets` must differ from the labels. Received: {int(np.sum(targets == labels))} that do not"
            )
        return targets[:, None]

    def init(self, classifier: Classifier, batch: Batch, seed: int) -> State:
        """The state before the first step."""
        return {"images": self.start(batch, seed)}

    def step(
        self, classifier: Classifier, batch: Batch, state: State, dtype: str = "float32", draws: int = 1
    ) -> tuple[State, Seen]:
        """One step of each row, whatever the others are.

        Args:
            classifier: The model.
            batch: What is attacked, each image with a radius of its own.
            state: Rows that `init` or `step` gave for these images.
            dtype: What gradients are computed in, `"float32"` or `"bfloat16"`.
            draws: Over how many passes each gradient is averaged. Of several, none says whether an image is broken:
                each look at one draw is another chance of luck.

        Returns:
            The state after the step, its images in [0, 1] and in their balls, and what was seen of those before it.
        """
        raise NotImplementedError

    def outcome(self, state: State, draws: int = 1) -> np.ndarray:
        """The adversarial images that the last step left, of gradients averaged over so many draws."""
        return np.asarray(state["images"])

    def craft(
        self, classifier: Classifier, batch: Batch, seed: int, dtype: str = "float32", draws: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """All steps on one batch; arguments are those of `init` and `step`, and are not checked.

        Returns:
            The adversarial images of the last step, and the largest magnitude in the first gradient of each, `(N,)`,
            which is empty for attacks that are not driven by one.

        Raises:
            ValueError: If a gradient is missing or not finite.
        """
        state, sizes = self.init(classifier, batch, seed), []
        batch = batch.as_tensors()
        for _ in range(self.steps):
            state, seen = self.step(classifier, batch, state, dtype, draws)
            sizes.append(seen.sizes)
        self.check_gradients(classifier, np.stack(sizes))
        return self.outcome(state, draws), np.asarray(sizes[0])

    def gradients(
        self,
        classifier: Classifier,
        images: np.ndarray,
        loss_classes: np.ndarray,
        dtype: str = "float32",
        draws: int = 1,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Gradients at images, each up to a factor, in their shape, and the largest magnitude in each, `(N,)`."""
        raise NotImplementedError

    def along(self, images: np.ndarray, gradients: np.ndarray, radii: np.ndarray) -> np.ndarray:
        """The images moved along gradients to the edge of their balls, clipped to [0, 1]."""
        raise NotImplementedError

    def start(self, batch: Batch, seed: int) -> np.ndarray:
        """Where the attack starts: at the images, or uniformly at random in the ball, clipped to [0, 1]."""
        return random_starts(batch, self.norm, seed) if self.random_start else batch.images

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
                f"{self.label} must lead to images of numbers: a setting makes float32 overflow, or gradients are not "
                f"finite. Received: NaN in {share:.1%} of them, with {shown(self)}"
            )


class Link(NamedTuple):
    """An attack in its place among several, each of which attacks what those before it left.

    Attributes:
        label: What it is called there.
        attack: The attack.
        near: The largest share of its lead, how far the logit of its label is above all others, that those before may
            have left an image at the largest epsilon it survived, if it is to be attacked: others are far from it.
        hope: The same share for tries: one that leaves more of it, at first more than a multiple, is given up. It is of
            use where steps begin large.
        dtype: What gradients are computed in, `"float32"` or `"bfloat16"`.
        doubted: What `near` is instead if some images that are further fall all the same; `None` where none are tried.
    """

    label: str
    attack: Attack
    near: float = np.inf
    hope: float = np.inf
    dtype: str = "float32"
    doubted: float | None = None


def mean_logits(classifier: Classifier, draws: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """Logits, of several draws their mean."""
    if draws == 1:
        return classifier.logits
    return lambda images: tf.add_n([classifier.logits(images) for _ in range(draws)]) / draws


def missing_gradient(classifier: Classifier) -> ValueError:
    """What is said of a model that no gradient goes through."""
    return ValueError(
        f"{classifier.name} has no gradient with respect to its images: attack it with spsa, which takes none, or "
        "square, or give the step that has none, such as rounding, a straight-through gradient"
    )
