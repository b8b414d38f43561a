"""Which results can be compared, and which can stand in one table or figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from salrob_tf.checks import shown
from salrob_tf.results.robustness import Robustness


def check_comparable(first: Robustness, second: Robustness) -> None:
    """Refuse two results that are not of the same images, attacks, settings, epsilons and seed.

    Raises:
        ValueError: If one is no result, or they differ, naming in what.
    """
    for each in (first, second):
        check_result(each)
    same = {
        "images": first.sha256 == second.sha256 and np.array_equal(first.indices, second.indices),
        "epsilons": np.array_equal(first.epsilons, second.epsilons),
        "attacks or their settings": set(first.attacks) == set(second.attacks)
        and all(_shared(label, first, second) == _shared(label, second, first) for label in first.attacks),
        "seeds": first.seed == second.seed,
    }
    different = [what for what, equal in same.items() if not equal]
    if different:
        raise ValueError(f"{first.model} and {second.model} cannot be compared: their {', '.join(different)} differ")


def _shared(label: str, mine: Robustness, other: Robustness) -> dict[str, Any]:
    """Settings of an attack as far as results of an older version have them too.

    Those lack `begins_at` and `target_classes`, and have the search that was asked for also where nothing is bisected.
    """
    settings, theirs = mine.attacks[label], other.attacks[label]
    later = {"begins_at": settings.get("begins_at"), "target_classes": 1}
    kept = {key: value for key, value in settings.items() if key in theirs or later.get(key, ...) != value}
    if settings.get("search") == "bisect" and "begins_at" not in settings:
        if label.startswith("fgsm"):
            kept["search"] = "full"
        elif theirs.get("search") == "nearest":
            kept["search"] = "nearest"
    return kept


def check_groups(groups: Mapping[str, Sequence[Robustness]]) -> Robustness:
    """Refuse results that cannot stand in one table or figure; seeds and settings of attacks may differ.

    Args:
        groups: Per name, results of one or more networks.

    Returns:
        The first result.

    Raises:
        ValueError: If there are none, or they are not of the same attacks, epsilons and images.
    """
    valid = isinstance(groups, Mapping) and groups and all(isinstance(group, list | tuple) for group in groups.values())
    if not valid or not all(groups.values()):
        raise ValueError(
            "There must be one or more groups, a dictionary from names to lists of results, none of them empty. "
            f"Received: {shown(groups)}"
        )
    results = [check_result(result) for group in groups.values() for result in group]
    first = results[0]
    for result in results[1:]:
        same = {
            "attacks": list(first.correct) == list(result.correct),
            "epsilons": np.array_equal(first.epsilons, result.epsilons),
            "images": first.sha256 == result.sha256 and np.array_equal(first.indices, result.indices),
        }
        if different := [what for what, equal in same.items() if not equal]:
            raise ValueError(
                f"{first.model} and {result.model} cannot be shown together: their {', '.join(different)} differ"
            )
    return first


def check_result(result: Any) -> Robustness:
    """A `Robustness`, or a `ValueError` that says what it is."""
    if not isinstance(result, Robustness):
        raise ValueError(f"Results must be a Robustness each, as evaluate returns it. Received: {shown(result)}")
    return result
