"""What a sweep is asked for, checked: attacks, epsilons, options, and whether a model takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from salrob_tf.attacks.balls import NORMS
from salrob_tf.attacks.base import Attack
from salrob_tf.attacks.registry import make_attack
from salrob_tf.checks import check_choice, check_flag, check_whole, shown
from salrob_tf.evaluation.brackets import SEARCHES
from salrob_tf.models.classifier import Classifier

CRAFT_DTYPES = ("float32", "bfloat16")
PARTS = 3  # version of what the parts of a checkpoint hold


@dataclass(frozen=True)
class Plan:
    """What is done to each shard of images.

    Attributes:
        classifier: The model.
        attacks: By label, in the order in which they are run.
        epsilons: Radii, in the user's order, float64 `(K,)`.
        seed: Seed of random starts.
        batch_size: Images per gradient, at most.
        survivors_only: Whether only what still stands is attacked.
        search: How the smallest epsilon of survivors is looked for.
        craft_dtype: What gradients of attacks that go step by step are computed in.
        keep: Whether adversarial images are kept.
    """

    classifier: Classifier
    attacks: Mapping[str, Attack]
    epsilons: np.ndarray
    seed: int
    batch_size: int
    survivors_only: bool
    search: str
    craft_dtype: str
    keep: bool

    @property
    def ascending(self) -> np.ndarray:
        """The radii, each once, ascending."""
        return np.unique(self.epsilons)

    def dtype(self, label: str) -> str:
        """What an attack's gradients are computed in.

        FGSM's one gradient is not worth the loss, and attacks that are run whole take float32.
        """
        return self.craft_dtype if self.attacks[label].stepwise else "float32"

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """What each attack and its sweep are: all that an image's outcome depends on, as JSON holds it."""
        found: dict[str, dict[str, Any]] = {}
        for label, attack in self.attacks.items():
            search, before = self.search if self.survivors_only else "independent", next(reversed(found), None)
            found[label] = _settings_of(attack, search, before, self.dtype(label))
            if attack.targeted:
                found[label]["target_classes"] = attack.targets_of(self.classifier.num_classes)
        return found

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must be of, to go on with it."""
        identity = {"model": self.classifier.fingerprint, "epsilons": self.ascending.tolist(), "seed": self.seed}
        identity |= {"batch_size": self.batch_size, "adversarials": self.keep, "parts": PARTS}
        return identity | {"bounds": list(self.classifier.bounds), "attacks": self.settings}


def check_options(
    seed: int = 0,
    batch_size: int = 256,
    survivors_only: bool = True,
    search: str = "bisect",
    craft_dtype: str = "float32",
) -> tuple[int, int]:
    """Check what `evaluate` is given by these names.

    Returns:
        `seed` and `batch_size` as Python's integers.

    Raises:
        ValueError: If one is not valid.
    """
    check_flag("survivors_only", survivors_only)
    check_choice("search", search, SEARCHES)
    check_choice("craft_dtype", craft_dtype, CRAFT_DTYPES)
    return check_whole("seed", seed), check_whole("batch_size", batch_size, 1)


def check_suits(classifier: Classifier, attacks: Mapping[str, Attack], craft_dtype: str) -> None:
    """See whether attacks can be run on a model, before anything is written.

    Raises:
        ValueError: If the model has too few classes for one, or cannot be copied in bfloat16.
    """
    classifier.crafting(craft_dtype)
    for attack in attacks.values():
        attack.check_classes(classifier.num_classes)


def choose_attacks(attacks: str | Attack | Sequence[str | Attack], **settings: Any) -> dict[str, Attack]:
    """Attacks by their labels.

    Args:
        attacks: Names or `Attack` objects; one or several.
        **settings: Passed on to `make_attack` with names.

    Raises:
        ValueError: If there are none, one is unknown, or two have one label.
    """
    if isinstance(attacks, str | Attack):
        attacks = [attacks]
    # Of a dictionary only the names would be used, and a set has an order of its own in each process.
    listed = isinstance(attacks, Sequence | Iterator) or getattr(attacks, "ndim", 0) == 1
    if not listed or isinstance(attacks, bytes):
        raise ValueError(
            f"`attacks` must be names or attacks, one or a list of several. Received: attacks={shown(attacks)}"
        )
    chosen = [make_attack(attack, **settings) for attack in attacks]
    by_label = {attack.label: attack for attack in chosen}
    if not chosen or len(by_label) != len(chosen):
        raise ValueError(
            f"`attacks` must be one or more, each once. Received: attacks={[attack.label for attack in chosen]}"
        )
    return by_label


def _settings_of(attack: Attack, search: str, before: str | None, dtype: str) -> dict[str, Any]:
    norm = next(text for text, value in NORMS.items() if value == attack.norm)
    if attack.nearest:
        search = "nearest"
    elif search == "bisect" and not attack.bisects:
        search = "full"
    how: dict[str, Any] = {"search": search, "craft_dtype": dtype}
    if search == "bisect":
        how["begins_at"] = before or (attack.scout.name if attack.scout else "the middle")
    settings = asdict(attack)
    if not attack.targeted:
        del settings["target_classes"]
    return {**settings, "norm": norm, "relative_step": attack.step_size(1.0), **how}


def default_epsilons(input_shape: tuple[int, ...]) -> tuple[float, ...]:
    """Radii that tell networks apart: 0.05 to 0.3 on grey images, 1, 2, 4, 6, 8 and 16 255ths on others."""
    grey = input_shape[-1] == 1
    return (0.05, 0.1, 0.15, 0.2, 0.25, 0.3) if grey else tuple(step / 255 for step in (1, 2, 4, 6, 8, 16))


def check_epsilons(epsilons: float | Sequence[float] | np.ndarray) -> np.ndarray:
    """Return radii as a float64 array `(K,)`, in their order.

    Raises:
        ValueError: If there are none, or one is negative, NaN, or infinite in float32.
    """
    try:
        radii = np.atleast_1d(np.asarray(epsilons, np.float64))
    except (OverflowError, TypeError, ValueError):
        radii = np.full(1, np.nan)
    largest = np.finfo(np.float32).max
    if radii.ndim != 1 or not radii.size or not np.all((radii >= 0) & (radii <= largest)):
        raise ValueError(
            "`epsilons` must be one or more numbers, 0 or more and finite in float32. "
            f"Received: epsilons={shown(epsilons)}"
        )
    return radii
