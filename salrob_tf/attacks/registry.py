"""All attacks by the names that scripts know."""

from __future__ import annotations

from typing import Any

import numpy as np

from salrob_tf.attacks.base import Attack
from salrob_tf.attacks.carlini_wagner import CWL2
from salrob_tf.attacks.gradient import BIM, FGSM, MIM, PGD
from salrob_tf.attacks.losses import LOSSES
from salrob_tf.attacks.spsa import SPSA
from salrob_tf.checks import shown

ATTACKS: dict[str, type[Attack]] = {attack.name: attack for attack in (FGSM, BIM, PGD, MIM, SPSA, CWL2)}


def make_attack(name: str | Attack, *, norm: float = np.inf, steps: int = 40, restarts: int = 1) -> Attack:
    """An attack by its name; an `Attack` is returned as it is.

    Args:
        name: A key of `ATTACKS`, to which `-margin` or `-dlr` (the loss), `-targeted`, and for MIM `-l2` (the
            normalisation of K's Eq. 4) may be added, in this order, as in `"pgd-dlr-targeted"`.
        norm: `np.inf` or 2; `cw` is for 2 whatever is asked. `cw` and `spsa` have a loss of their own.
        steps: Steps of the iterative attacks; `cw` keeps its own.
        restarts: Random restarts of PGD.

    Raises:
        ValueError: If there is no attack of that name, or a setting is out of its range.
    """
    if isinstance(name, Attack):
        return name
    base, *suffixes = str(name).split("-")
    settings: dict[str, Any] = {} if base == CWL2.name else {"norm": norm}
    if base in (BIM.name, PGD.name, MIM.name, SPSA.name):
        settings["steps"] = steps
    if base == PGD.name:
        settings["restarts"] = restarts
    for suffix in suffixes:
        if suffix in LOSSES:
            settings["loss"] = suffix
        elif suffix == "targeted":
            settings["targeted"] = True
        elif suffix == "l2" and base == MIM.name:
            settings["normalization"] = "l2"
    if base in ATTACKS:
        attack = ATTACKS[base](**settings)
        if attack.label == name:
            return attack
    raise ValueError(f"Unknown attack. Valid: {attack_names()}. Received: attack={shown(name)}")


def attack_names() -> str:
    """The names that `make_attack` takes, in words."""
    return f"{', '.join(ATTACKS)}, with -margin or -dlr, -targeted, and mim-l2"
