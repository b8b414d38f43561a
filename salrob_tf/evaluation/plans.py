"""What a sweep is asked for, checked: attacks, epsilons, options, and whether a model takes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from salrob_tf.attacks.balls import NORMS
from salrob_tf.attacks.base import Attack, Link
from salrob_tf.attacks.registry import Entry, make_attack
from salrob_tf.checks import check_choice, check_flag, check_whole, shown
from salrob_tf.evaluation.brackets import SEARCHES
from salrob_tf.evaluation.chains import audits_of, chains_of
from salrob_tf.models.classifier import Classifier

CRAFT_DTYPES = ("float32", "bfloat16")
PARTS = 5  # version of what the parts of a checkpoint hold


@dataclass(frozen=True)
class Plan:
    """What is done to each shard of images.

    Attributes:
        classifier: The model.
        chains: By label, in the order in which they are run, one attack, or several, each of which attacks what those
            before left.
        epsilons: Radii, in the user's order, float64 `(K,)`.
        seed: Seed of random starts.
        batch_size: Images per gradient, at most.
        survivors_only: Whether only what still stands is attacked.
        search: How the smallest epsilon of survivors is looked for.
        keep: Whether adversarial images are kept.
        audits: By label, the attacks that some images meet once more, if any.
    """

    classifier: Classifier
    chains: Mapping[str, tuple[Link, ...]]
    epsilons: np.ndarray
    seed: int
    batch_size: int
    survivors_only: bool
    search: str
    keep: bool
    audits: Mapping[str, tuple[Link, ...]] = field(default_factory=dict)

    @property
    def ascending(self) -> np.ndarray:
        """The radii, each once, ascending."""
        return np.unique(self.epsilons)

    def independent(self, label: str) -> bool:
        """Whether an attack meets every image at every epsilon; ensembles never do, whatever is left of them."""
        return not self.survivors_only and [link.attack.label for link in self.chains[label]] == [label]

    @property
    def links(self) -> dict[str, Link]:
        """By label the attack, or the first of several whose gradients are the hardest to lead astray."""

        def weight(link: Link) -> tuple[bool, bool]:
            return link.attack.uses_gradients, not link.attack.maximises_cross_entropy

        return {label: max(chain, key=weight) for label, chain in self.chains.items()}

    @property
    def attacks(self) -> dict[str, Attack]:
        """By label the attack of `links`."""
        return {label: link.attack for label, link in self.links.items()}

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """What each attack and its sweep are: all that an image's outcome depends on, as JSON holds it."""
        found: dict[str, dict[str, Any]] = {}
        for label, chain in self.chains.items():
            among_all = "independent" if self.independent(label) else "full"
            search, before = self.search if self.survivors_only else among_all, next(reversed(found), None)
            if len(chain) == 1:
                found[label] = self._settings_of(chain[0], search, before)
                continue
            members: dict[str, Any] = {}
            for link in chain:
                members[link.label] = self._settings_of(link, search, next(reversed(members), before))
            first = chain[0].attack
            found[label] = {"norm": _text_of(first.norm), "steps": first.steps, "members": members}
        return found

    def _settings_of(self, link: Link, search: str, before: str | None) -> dict[str, Any]:
        attack = link.attack
        if attack.nearest:
            search = "nearest"
        elif search == "bisect" and not attack.bisects:
            search = "full"
        how: dict[str, Any] = {"search": search, "craft_dtype": link.dtype}
        how |= {key: value for key, value in {"near": link.near, "hope": link.hope}.items() if value < np.inf}
        if link.doubted is not None:
            how["doubted"] = link.doubted if link.doubted < np.inf else "all"
        if search == "bisect":
            how["begins_at"] = before or (attack.scout.name if attack.scout else "the middle")
        settings = asdict(attack)
        if attack.targeted:
            settings["target_classes"] = attack.targets_of(self.classifier.num_classes)
        else:
            del settings["target_classes"]
        return {**settings, "norm": _text_of(attack.norm), "relative_step": attack.step_size(1.0), **how}

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must be of, to go on with it."""
        identity = {"model": self.classifier.fingerprint, "epsilons": self.ascending.tolist(), "seed": self.seed}
        identity |= {"batch_size": self.batch_size, "adversarials": self.keep, "parts": PARTS}
        identity |= {"audits": {label: [link.label for link in chain] for label, chain in self.audits.items()}}
        return identity | {"bounds": list(self.classifier.bounds), "attacks": self.settings}


def plan_of(
    classifier: Classifier,
    attacks: Mapping[str, Entry],
    epsilons: np.ndarray,
    *,
    seed: int = 0,
    batch_size: int = 256,
    survivors_only: bool = True,
    search: str = "bisect",
    craft_dtype: str = "float32",
    keep: bool = False,
) -> Plan:
    """The plan of a sweep over a model, from what the functions here have checked.

    Raises:
        ValueError: If attacks do not suit the model; see `chains_of`.
    """
    chains = chains_of(classifier, attacks, craft_dtype, survivors_only)
    audits = audits_of(classifier, attacks)
    return Plan(classifier, chains, epsilons, seed, batch_size, survivors_only, search, keep, audits)


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


def choose_attacks(attacks: str | Entry | Sequence[str | Entry], **settings: Any) -> dict[str, Entry]:
    """Attacks by their labels.

    Args:
        attacks: Names, `Attack`, `AutoAttack` or `WorstCase` objects; one or several.
        **settings: Passed on to `make_attack` with names.

    Raises:
        ValueError: If there are none, one is unknown, or two have one label.
    """
    if isinstance(attacks, str | Entry):
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


def _text_of(norm: float) -> str:
    return next(text for text, value in NORMS.items() if value == norm)


def default_epsilons(input_shape: tuple[int, ...], attacks: Iterable[Entry]) -> tuple[float, ...]:
    """Radii that tell networks apart, on grey images and on others.

    In L-infinity 0.05 to 0.3 by 0.05, and 1, 2, 4, 6, 8 and 16 255ths; where all attacks are for L2, ten times as much
    on grey images, and 32, 64, 96, 128, 192 and 256 255ths.
    """
    grey, l2 = input_shape[-1] == 1, all(attack.norm == 2 for attack in attacks)
    if grey:
        return (0.5, 1.0, 1.5, 2.0, 2.5, 3.0) if l2 else (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
    return tuple(step / 255 for step in ((32, 64, 96, 128, 192, 256) if l2 else (1, 2, 4, 6, 8, 16)))


def check_epsilons(epsilons: float | Sequence[float] | np.ndarray) -> np.ndarray:
    """Return radii as a float64 array `(K,)`, in their order.

    Raises:
        ValueError: If there are none, or one is no number, negative, NaN, or infinite in float32.
    """
    try:
        given = np.asarray(epsilons)
        text = given.dtype.kind in "bUS" or any(isinstance(each, str | bool) for each in given.ravel().tolist())
        radii = np.full(1, np.nan) if text else np.atleast_1d(given.astype(np.float64))
    except (OverflowError, TypeError, ValueError):
        radii = np.full(1, np.nan)
    largest = np.finfo(np.float32).max
    if radii.ndim != 1 or not radii.size or not np.all((radii >= 0) & (radii <= largest)):
        raise ValueError(
            "`epsilons` must be one or more numbers, 0 or more and finite in float32. "
            f"Received: epsilons={shown(epsilons)}"
        )
    return radii
