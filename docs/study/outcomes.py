"""Tables of docs/study.md from the outcomes of attacks: which images each network still has right."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

import salrob_tf as sr
from salrob_tf.checks import epsilon_text
from salrob_tf.reports.tables import markdown_table
from salrob_tf.results.comparison import Comparison
from salrob_tf.results.families import holm
from salrob_tf.results.methods import MethodComparison
from salrob_tf.results.robustness import WORST, Robustness
from salrob_tf.studies.study import compare_ways

Groups = dict[str, list[Robustness]]  # networks by way of training, whose first is what the others are held against


def ways_of(results: list[Robustness]) -> Groups:
    """Networks called `<way>-<seed>` by way."""
    ways: Groups = {}
    for each in results:
        ways.setdefault(each.model.rpartition("-")[0], []).append(each)
    return ways


def compared(groups: Groups) -> list[MethodComparison]:
    """The first way with each other, over the seeds that both have, where those are two or more."""
    return compare_ways(groups, groups)


def pair_compared(groups: Groups) -> MethodComparison | Comparison:
    """The first two ways, over seeds, or over the images of their networks of one seed if they share no more."""
    first, second = list(groups)[:2]
    over_seeds = compared({way: groups[way] for way in (first, second)})
    if over_seeds:
        return over_seeds[0]
    return next(
        sr.compare(one, other)
        for one in groups[first]
        for other in groups[second]
        if one.model.rpartition("-")[2] == other.model.rpartition("-")[2]
    )


def attacks_of(groups: Groups) -> list[str]:
    """Attacks and what none of them broke; of ensembles, which that takes in, only if there is nothing else."""
    first = next(iter(groups.values()))[0]
    single = [attack for attack in first.correct if attack not in first.members]
    return [attack for attack in first.curves if attack in (single or first.correct) or attack == WORST]


def by_attack(groups: Groups, attack: str) -> Groups:
    """Results of one attack alone; of what none of all broke, all."""
    if attack == WORST:
        return groups

    def alone(each: Robustness) -> Robustness:
        parts: dict[str, Any] = {key: {attack: getattr(each, key)[attack]} for key in ("correct", "attacks", "costs")}
        kept = tuple(flag for flag in each.flags if flag.attack in (None, attack))
        return replace(each, **parts, flags=kept, members={}, audits={})

    return {way: list(map(alone, group)) for way, group in groups.items()}


def points(estimate: float, low: float, high: float) -> str:
    """A difference with its interval, in points, of shares."""
    return f"{100 * estimate:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def effects(groups: Groups) -> str:
    """The difference of each way to the first one, averaged over epsilon, by attack.

    Of the last attack also p, corrected for all ways of the table (Holm), if there are several.
    """
    every = {attack: compared(by_attack(groups, attack)) for attack in attacks_of(groups)}
    *_, last = every
    corrected = holm([each.endpoint.p_value for each in every[last]])
    title = f"{last}, p after Holm" if len(corrected) > 1 else f"{last}, p"
    rows = [[f"minus {next(iter(groups))}, points; pairs less robust", *every, title]]
    for found, p_value in zip(zip(*every.values(), strict=True), corrected, strict=True):
        cells = [
            f"{points(each.endpoint.estimate, *each.endpoint.interval())}, {np.sum(each.by_seed < 0)} of {each.seeds}"
            for each in found
        ]
        rows.append([found[0].second, *cells, "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"])
    return markdown_table(rows)


def by_epsilon(groups: Groups, attack: str) -> str:
    """The difference at each epsilon, each interval corrected for all epsilons."""
    found = compared(by_attack(groups, attack))
    rows = [[f"{attack}, points", *map(epsilon_text, found[0].epsilons)]]
    for each in found:
        cells = [
            points(item.difference, *item.interval) if item.told else f"{100 * item.difference:+.1f}"
            for item in each.family
        ]
        rows.append([each.second, *cells])
    return markdown_table(rows)


def accuracies(groups: Groups) -> str:
    """The table of accuracies, and why some are doubtful; what each network's attacks cost is left out."""
    blocks = sr.robustness_table({f"{way}, {len(group)} seeds": group for way, group in groups.items()}).split("\n\n")
    return "\n\n".join(each for each in blocks if each.startswith(("| attack", "In brackets", "†"))) + "\n"


def verdict(groups: Groups) -> str:
    """What the comparison of the first two ways says."""
    return f"```\n{pair_compared(groups)}\n```\n"


def sentences(groups: Groups) -> str:
    """What each comparison with the first way says in its last line."""
    return "".join(f"- {str(each).splitlines()[-1]}\n" for each in compared(groups))


def audits(groups: Groups, attack: str) -> str:
    """What audits broke of what the curves of an attack have standing, over all networks of a way."""
    every = {way: [each.audits[attack] for each in group] for way, group in groups.items()}
    epsilons = sorted({epsilon for found in every.values() for each in found for epsilon in each.epsilons})
    most = "one curve too high by at most"
    rows = [["broken of standing", *map(epsilon_text, epsilons), "networks", most]]
    for way, found in every.items():
        counts: dict[float, list[tuple[int, int]]] = {epsilon: [] for epsilon in epsilons}
        for each in found:
            for epsilon, broken, standing in zip(each.epsilons, each.broken, each.standing, strict=True):
                counts[epsilon].append((broken, standing))
        cells = ["{} of {}".format(*np.sum(each, axis=0)) if each else "" for each in counts.values()]
        rows.append([way, *cells, str(len(found)), f"{100 * max(each.missed.max() for each in found):.1f} points"])
    return markdown_table(rows)


def beside(groups: Groups, before: Groups) -> str:
    """What attacks left at each epsilon, and what others before them left of the same images.

    Counts outcomes, one of a network and an image, over all networks of a way.
    """
    known = {each.model: each for group in before.values() for each in group}
    *_, attack = next(iter(groups.values()))[0].curves  # of several attacks, what none of them broke
    left, broken = f"left by {attack}", f"broken by {attack} of what was left before (most of one network)"
    rows = [["way", "networks", "epsilon", "left before", left, broken, f"broken before of what is {left}"]]
    for way, group in groups.items():
        for place, epsilon in enumerate(group[0].epsilons):
            old = np.stack([_left(known.get(each.model), epsilon, each) for each in group])
            new = np.stack([each.curves[attack][place] for each in group])
            lost, won = old & ~new, new & ~old
            counts = [f"{each.sum()} of {each.size}" for each in (old, new)]
            last = [f"{lost.sum()} of {old.sum()} ({lost.sum(axis=1).max()})", f"{won.sum()} of {new.sum()}"]
            rows.append([way, str(len(group)), epsilon_text(epsilon), *counts, *last])
    return markdown_table(rows)


def _left(before: Robustness | None, epsilon: float, now: Robustness) -> np.ndarray:
    """What a network had right at an epsilon after all attacks, at the images of another result."""
    if before is None:
        raise ValueError(f"{now.model} was not attacked before")
    places = np.flatnonzero(np.isclose(before.epsilons, epsilon, rtol=1e-9))
    if before.sha256 != now.sha256 or not np.array_equal(before.indices, now.indices) or not len(places):
        raise ValueError(f"{now.model} was attacked at other images or epsilons before")
    *_, worst = before.curves.values()
    return worst[places[0]]


def probes(groups: Groups) -> str:
    """What was looked at to see whether attacks can be believed, by way and how many networks had which outcome.

    A check that a version of the code did not have has no outcome.
    """
    found: dict[str, list[dict[str, str]]] = {way: [] for way in groups}
    for way, group in groups.items():
        for each in group:
            outcomes: dict[str, list[str]] = {}
            for probe in each.description["checks"]["probes"]:
                outcomes.setdefault(probe["id"], []).append(probe["outcome"])
            found[way].append({name: " and ".join(dict.fromkeys(several)) for name, several in outcomes.items()})
    names = list(dict.fromkeys(name for group in found.values() for each in group for name in each))
    rows = [["outcomes of networks", *names]]
    for way, several in found.items():
        counted = [Counter(each[name] for each in several if name in each).most_common() for name in names]
        rows.append([way, *(", ".join(f"{count} {outcome}" for outcome, count in each) for each in counted)])
    return markdown_table(rows)


def flags(groups: Groups) -> str:
    """What checks say against networks, by way and kind."""
    found: Counter[tuple[str, str, str]] = Counter()
    for way, group in groups.items():
        for each in group:
            found.update({(way, flag.id, flag.severity) for flag in each.flags})
    said = [f"- {way}: {name} ({severity}) of {count} networks" for (way, name, severity), count in found.items()]
    return "\n".join(said or [f"None of {sum(map(len, groups.values()))} networks has a flag."]) + "\n"
