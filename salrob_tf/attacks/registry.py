"""All attacks by the names that scripts know."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from salrob_tf.attacks.apgd import APGD
from salrob_tf.attacks.autoattack import AutoAttack
from salrob_tf.attacks.balls import check_norm
from salrob_tf.attacks.base import Attack
from salrob_tf.attacks.carlini_wagner import CWL2
from salrob_tf.attacks.ensemble import Ensemble
from salrob_tf.attacks.fab import FAB
from salrob_tf.attacks.gradient import BIM, FGSM, MIM, PGD
from salrob_tf.attacks.settings import SUFFIXES
from salrob_tf.attacks.spsa import SPSA
from salrob_tf.attacks.square import Square
from salrob_tf.attacks.starts import MOST_TRIES
from salrob_tf.attacks.worst_case import WorstCase
from salrob_tf.checks import check_flag, check_whole, shown

ATTACKS: dict[str, type[Attack]] = {
    attack.name: attack for attack in (FGSM, BIM, PGD, MIM, APGD, FAB, Square, SPSA, CWL2)
}

ENSEMBLES: dict[str, type[Ensemble]] = {ensemble.label: ensemble for ensemble in (AutoAttack, WorstCase)}
Entry = Attack | Ensemble  # what a sweep has a curve for


def make_attack(
    name: str | Entry, *, norm: float = np.inf, steps: int = 40, restarts: int = 1, audit: bool = True
) -> Entry:
    """An attack by its name; an `Attack`, an `AutoAttack` or a `WorstCase` is returned as it is.

    Example:
        >>> sr.make_attack("pgd-dlr-targeted", steps=20, restarts=2).label
        'pgd-dlr-targeted'

    Args:
        name: A key of `ATTACKS`, to which `-margin` or `-dlr` (the loss), `-targeted`, and for MIM `-l2` (the
            normalisation of Karkehabadi's Eq. 4) may be added, in this order, as in `"pgd-dlr-targeted"`; or an
            ensemble, `autoattack` or `worst-case`.
        norm: `np.inf` or 2; `cw` is for 2 whatever is asked. `cw`, `fab`, `spsa` and `square` have a loss of
            their own, and `cw` and `square` are untargeted.
        steps: Steps of the iterative attacks; `cw`, ensembles and the members of AutoAttack (`apgd`, `fab`, `square`)
            keep theirs.
        restarts: Random restarts of those that start at random.
        audit: Whether `worst-case` is audited.

    Raises:
        ValueError: If there is no attack of that name, or a setting is out of its range.
    """
    norm, steps = check_norm(norm), check_whole("steps", steps, 1)
    restarts = check_whole("restarts", restarts, 1, MOST_TRIES)
    check_flag("audit", audit)
    if isinstance(name, Entry):
        return name
    if isinstance(name, str) and name in ENSEMBLES:
        return WorstCase(norm, audit) if name == WorstCase.label else ENSEMBLES[name](norm)
    base, *suffixes = str(name).split("-")
    if base in ATTACKS:
        kind = ATTACKS[base]
        asked = {"norm": norm, "steps": steps, "restarts": restarts}
        settings: dict[str, Any] = {}
        for each in fields(kind):
            if each.init and each.name in kind.by_name:
                settings[each.name] = asked[each.name]
            values = {suffix: value for value, suffix in each.metadata.get(SUFFIXES, {}).items()}
            if suffixes and suffixes[0] in values:
                settings[each.name] = values[suffixes.pop(0)]
        if not suffixes:
            return kind(**settings)
    raise ValueError(f"Unknown attack. Valid: {attack_names()}. Received: attack={shown(name)}")


def attack_names() -> str:
    """The names that `make_attack` takes, as one line of text."""
    common = {each.name for each in fields(Attack)}
    shared = [" or ".join(f"-{suffix}" for suffix in suffixes) for _, suffixes in _suffixes(Attack)]
    own = [
        f"{name}-{suffix}"
        for name, kind in ATTACKS.items()
        for setting, suffixes in _suffixes(kind)
        for suffix in suffixes
        if setting not in common
    ]
    return f"{', '.join([*ATTACKS, *ENSEMBLES, f'with {shared[0]}', *shared[1:]])}, and {', '.join(own)}"


def _suffixes(kind: type[Attack]) -> list[tuple[str, list[str]]]:
    return [(each.name, list(each.metadata[SUFFIXES].values())) for each in fields(kind) if SUFFIXES in each.metadata]
