"""Which results can be compared, and which can stand in one table or figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from salrob_tf.checks import LONGEST, brief, epsilon_text, shown
from salrob_tf.results.robustness import Robustness

MOST = 6  # members of a list, and differences, that a message names


def check_comparable(first: Robustness, second: Robustness) -> None:
    """Refuse two results that are not of the same images, attacks, settings, epsilons and seed.

    Raises:
        ValueError: If one is no result, or they differ, naming in what, with both values.
    """
    for each in (first, second):
        check_result(each)
    found = [
        *_images(first, second),
        *_epsilons(first, second),
        *_lists("attacks", sorted(first.attacks), sorted(second.attacks)),
    ]
    for label in (label for label in first.attacks if label in second.attacks):
        found += _settings(_shared(label, first, second), _shared(label, second, first), f" of {label}")
    if first.seed != second.seed:
        found.append(f"seeds {first.seed} and {second.seed}")
    _refuse("compared", first, second, found)


def _refuse(what: str, first: Robustness, second: Robustness, found: list[str]) -> None:
    if found:
        more = f", and {len(found) - MOST} more" if len(found) > MOST else ""
        names = f"{brief(first.model, LONGEST)} and {brief(second.model, LONGEST)}"
        raise ValueError(
            f"{names} cannot be {what}, as these differ: {'; '.join(found[:MOST])}{more}. Attack both alike"
        )


def _images(first: Robustness, second: Robustness) -> list[str]:
    if first.sha256 != second.sha256 or len(first.indices) != len(second.indices):
        one, two = (f"{len(each.indices)} ({each.sha256[:8] or 'no digest'})" for each in (first, second))
        return [f"images {one} and {two}"]
    if np.array_equal(first.indices, second.indices):
        return []
    return _lists("indices of images", [*map(str, first.indices)], [*map(str, second.indices)])


def _epsilons(first: Robustness, second: Robustness) -> list[str]:
    if np.array_equal(first.epsilons, second.epsilons):
        return []
    pairs = zip(first.epsilons, second.epsilons, strict=False)
    close = any(one != two and epsilon_text(one) == epsilon_text(two) for one, two in pairs)
    texts = [[repr(float(each)) if close else epsilon_text(each) for each in it.epsilons] for it in (first, second)]
    return _lists("epsilons", *texts)


def _lists(what: str, one: list[str], two: list[str]) -> list[str]:
    """How two lists differ, if they do: long ones from where they part, so that the difference is not cut off."""
    if one == two:
        return []
    pairs = enumerate(zip(one, two, strict=False))
    parted = next((place for place, (a, b) in pairs if a != b), min(len(one), len(two)))
    start = parted if max(len(one), len(two)) > MOST else 0
    texts = []
    for each in (one, two):
        shorter = [*["..."] * (start > 0), *each[start : start + MOST], *["..."] * (len(each) > start + MOST)]
        texts.append(f"[{', '.join(brief(text, LONGEST) for text in shorter)}]")
    return [f"{what} {texts[0]} and {texts[1]}"]


def _settings(mine: Mapping[str, Any], theirs: Mapping[str, Any], of: str) -> Iterator[str]:
    """Each setting in which two attacks differ, with both values; those of an ensemble's attacks one by one."""
    for key in dict.fromkeys([*mine, *theirs]):
        one, two = mine.get(key, ...), theirs.get(key, ...)
        if isinstance(one, dict) and isinstance(two, dict):
            yield from _settings(one, two, f" of {key}{of}" if key != "members" else of)
        elif one != two:
            yield f"{key}{of} " + " and ".join("not there" if each is ... else shown(each) for each in (one, two))


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
        ValueError: If there are none, or they are not of the same attacks, epsilons and images, with what differs.
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
        attacks = _lists("attacks", sorted(first.correct), sorted(result.correct))
        _refuse("shown together", first, result, [*attacks, *_epsilons(first, result), *_images(first, result)])
    return first


def check_result(result: Any) -> Robustness:
    """A `Robustness`, or a `ValueError` that says what it is."""
    if not isinstance(result, Robustness):
        raise ValueError(f"Results must be a Robustness each, as evaluate returns it. Received: {shown(result)}")
    return result
