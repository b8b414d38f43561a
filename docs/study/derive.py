"""Derive the tables and figures of docs/study.md again from what is kept here: `python docs/study/derive.py`.

Each folder beside this file holds `results.json` and `correct.npz` of a study, the images that each network still had
right under each attack at each epsilon, `measures.csv`, each network's means of what was measured, and `training.csv`,
where its last epoch ended, and which share of the bright pixels (above 0.5) of 1,000 test images its recipe then masks.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import salrob_tf as sr
from salrob_tf.files import write_text
from salrob_tf.reports import tables
from salrob_tf.reports.specification import specification_curve
from salrob_tf.results.measures import Mean, OverSeeds, load_means, mean_of, over_seeds
from salrob_tf.results.methods import MethodComparison
from salrob_tf.results.robustness import WORST, Robustness
from salrob_tf.studies.study import compare_ways

HERE = Path(__file__).parent
ENSEMBLE = "worst-case"
PAIR = ("regular", "karkehabadi2023")
TEST_ACCURACY = "accuracy, whole test set"
FIRST_OF_MAPS = "sparsity of maps (Gini)"  # of what is measured, after what may say why networks are robust
Groups = dict[str, list[Robustness]]


def by_attack(results: Groups, attack: str) -> Groups:
    """Results of one attack alone; of what none of all broke, all."""
    if attack == WORST:
        return results

    def alone(each: Robustness) -> Robustness:
        parts: dict[str, Any] = {key: {attack: getattr(each, key)[attack]} for key in ("correct", "attacks", "costs")}
        kept = tuple(flag for flag in each.flags if flag.attack in (None, attack))
        return replace(each, **parts, flags=kept, members={}, audits={})

    return {way: list(map(alone, group)) for way, group in results.items()}


def ways_of(results: list[Robustness]) -> Groups:
    """Networks called `<way>-<seed>` by way."""
    ways: Groups = {}
    for each in results:
        ways.setdefault(each.model.rpartition("-")[0], []).append(each)
    return ways


def compared(groups: Groups) -> list[MethodComparison]:
    """The first way with each other, over the seeds that both have."""
    return compare_ways(groups, groups)


def without_regular(groups: Groups) -> Groups:
    """The guided way first, then what it is held against to say what of guidance it is."""
    return {way: group for way, group in groups.items() if way != "regular"}


def by_each_attack(groups: Groups) -> dict[str, list[MethodComparison]]:
    """What `compared` gives, by attack; the ensemble is in the worst of all."""
    attacks = (attack for attack in next(iter(groups.values()))[0].curves if attack != ENSEMBLE)
    return {attack: compared(by_attack(groups, attack)) for attack in attacks}


def effects(groups: Groups) -> str:
    """The difference of each way to the first one, averaged over epsilon, by attack."""
    every = by_each_attack(groups)
    ways = [each.second for each in next(iter(every.values()))]
    head = [f"minus {next(iter(groups))}, points; pairs less robust", *ways]
    rows = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for attack, found in every.items():
        cells = []
        for each in found:
            low, high = (100 * end for end in each.endpoint.interval())
            fewer = f"{np.sum(each.by_seed < 0)} of {each.seeds}"
            cells.append(f"{100 * each.endpoint.estimate:+.1f} [{low:+.1f}, {high:+.1f}], {fewer}")
        rows.append(f"| {attack} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def specifications(groups: Groups, title: str) -> Figure:
    """The differences of `effects`, sorted, with the way and the attack of each."""
    found, choices = [], {}
    for attack, comparisons in by_each_attack(groups).items():
        for each in comparisons:
            name = f"{each.second}, {attack}"
            found.append(replace(each, second=name))
            choices[name] = {"way": each.second, "attack": attack}
    return specification_curve(found, choices, title)


def accuracies(groups: Groups) -> str:
    """The table of accuracies, and why some are doubtful; what each network's attacks cost is left out."""
    blocks = sr.robustness_table({f"{way}, {len(group)} seeds": group for way, group in groups.items()}).split("\n\n")
    return "\n\n".join(each for each in blocks if each.startswith(("| attack", "In brackets", "†"))) + "\n"


def audits(groups: Groups, attack: str = ENSEMBLE) -> str:
    """What audits broke of what the curves have standing, over all networks of a way."""
    epsilons = sorted(
        {epsilon for group in groups.values() for each in group for epsilon in each.audits[attack].epsilons}
    )
    head = ["broken of standing", *(f"{each:g}" for each in epsilons), "networks", "one curve too high by at most"]
    rows = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for way, group in groups.items():
        found = [each.audits[attack] for each in group]
        counts: dict[float, list[tuple[int, int]]] = {epsilon: [] for epsilon in epsilons}
        for each in found:
            for epsilon, broken, standing in zip(each.epsilons, each.broken, each.standing, strict=True):
                counts[epsilon].append((broken, standing))
        cells = ["{} of {}".format(*np.sum(each, axis=0)) if each else "" for each in counts.values()]
        most = max(each.missed.max() for each in found)
        rows.append(f"| {' | '.join([way, *cells, str(len(group)), f'{100 * most:.1f} points'])} |")
    return "\n".join(rows) + "\n"


def probes(groups: Groups) -> str:
    """What was looked at to see whether attacks can be believed, by way and how many networks had which outcome."""
    found: dict[str, list[dict[str, str]]] = {way: [] for way in groups}
    for way, group in groups.items():
        for each in group:
            outcomes: dict[str, list[str]] = {}
            for probe in each.description["checks"]["probes"]:
                outcomes.setdefault(probe["id"], []).append(probe["outcome"])
            found[way].append({name: " and ".join(dict.fromkeys(several)) for name, several in outcomes.items()})
    names = list(dict.fromkeys(name for group in found.values() for each in group for name in each))
    rows = [f"| check, outcomes in networks | {' | '.join(found)} |", "| --- " * (len(found) + 1) + "|"]
    for name in names:
        cells = [
            ", ".join(f"{count} {outcome}" for outcome, count in Counter(each[name] for each in group).most_common())
            for group in found.values()
        ]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def by_epsilon(groups: Groups, attack: str = WORST) -> str:
    """The difference at each epsilon, each interval corrected for all epsilons."""
    found = compared(by_attack(groups, attack))
    rows = [f"| {attack}, points | " + " | ".join(f"{epsilon:g}" for epsilon in found[0].epsilons) + " |"]
    rows.append("| --- " * (len(found[0].epsilons) + 1) + "|")
    for each in found:
        cells = [
            f"{100 * item.difference:+.1f} [{100 * item.interval[0]:+.1f}, {100 * item.interval[1]:+.1f}]"
            if item.told
            else f"{100 * item.difference:+.1f}"
            for item in each.family
        ]
        rows.append(f"| {each.second} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def verdicts(groups: Groups) -> str:
    """What the comparisons with the first way say."""
    return "\n\n".join(f"```\n{each}\n```" for each in compared(groups)) + "\n"


def flags(groups: Groups) -> str:
    """What checks say against networks, by way and kind."""
    found: dict[tuple[str, str, str], int] = {}
    for way, group in groups.items():
        for each in group:
            for what in {(flag.id, flag.severity) for flag in each.flags}:
                found[way, *what] = found.get((way, *what), 0) + 1
    said = [f"- {way}: {name} ({severity}) of {count} networks" for (way, name, severity), count in found.items()]
    return "\n".join(said or [f"None of {sum(map(len, groups.values()))} networks has a flag."]) + "\n"


@cache
def tables_of(folder: Path) -> dict[str, str]:
    """The tables of a study, by name."""
    groups = ways_of(sr.load_results(folder))
    found = {"accuracy.md": accuracies(groups), "effects.md": effects(groups), "audits.md": audits(groups)}
    found |= {"by_epsilon.md": by_epsilon(groups), "by_epsilon_pgd.md": by_epsilon(groups, "pgd")}
    controls = without_regular(groups)
    if len(controls) > 1:
        found |= {"controls.md": effects(controls), "controls_verdicts.md": verdicts(controls)}
    found |= {"flags.md": flags(groups), "checks.md": probes(groups), "verdicts.md": verdicts(groups)}
    if (folder / "independent.csv").exists():
        found["independent.md"] = independent(groups, folder / "independent.csv")
    with open(folder / "training.csv", encoding="utf-8", newline="") as file:
        found["training.md"] = training(list(csv.DictReader(file)))
    rows = over_seeds(load_means(folder / "measures.csv"))
    found["table1.md"] = table_1(next(row for row in rows if row.name == TEST_ACCURACY), folder.name)
    quality = [row.name for row in rows].index(FIRST_OF_MAPS)
    maps = [row for row in rows[quality:] if row.means]
    found["maps.md"] = tables.measures_table(maps)
    found["mechanism.md"] = tables.measures_table(
        [row for row in rows if row not in maps and row.name != TEST_ACCURACY]
    )
    return found


def independent(groups: Groups, path: Path) -> str:
    """Regular and guided networks here and those of independent.py, with differences over pairs of seeds."""
    theirs: dict[str, dict[tuple[str, float], float]] = {}
    with open(path, encoding="utf-8", newline="") as file:
        for network, attack, epsilon, accuracy in csv.reader(file):
            theirs.setdefault(network, {})[attack, float(epsilon)] = float(accuracy)
    ours: dict[str, dict[tuple[str, float], float]] = {}
    for each in (each for way in PAIR for each in groups[way]):
        ours[each.model] = {("none", 0.0): each.clean.mean()}
        for attack, name in {"fgsm": "fgsm", "pgd": "pgd", WORST: "strongest"}.items():
            accuracies = each.curves[attack].mean(axis=1)
            ours[each.model] |= {(name, float(at)): left for at, left in zip(each.epsilons, accuracies, strict=True)}
    rows = [f"| accuracy | networks | {' | '.join(PAIR)} | difference, points |", "| --- " * 5 + "|"]
    for what in summary(next(iter(theirs.values()))):
        for who, networks in (("here", ours), ("PyTorch", theirs)):
            values = {name: summary(outcomes)[what] for name, outcomes in networks.items()}
            seeds = [name.removeprefix(PAIR[0]) for name in values if name.startswith(PAIR[0])]
            pairs = [tuple(values[way + seed] for way in PAIR) for seed in seeds if PAIR[1] + seed in values]
            cells = [_percent(mean_of(each)) for each in zip(*pairs, strict=True)]
            difference = _points(mean_of([guided - regular for regular, guided in pairs]))
            rows.append(f"| {' | '.join([what, f'{who}, {len(pairs)} pairs', *cells, difference])} |")
    return "\n".join(rows) + "\n"


def summary(outcomes: dict[tuple[str, float], float]) -> dict[str, float]:
    """What the accuracies of a network, by attack and epsilon, come to."""
    epsilons = sorted({epsilon for attack, epsilon in outcomes if attack == "pgd"})
    found = {}
    for attack in ("fgsm", "pgd"):
        curve = [outcomes["none", 0.0], *(outcomes[attack, epsilon] for epsilon in epsilons)]
        found[f"{attack}, averaged over epsilon"] = float(np.trapezoid(curve, [0, *epsilons]) / epsilons[-1])
    return found | {f"{attack} at 0.15": outcomes[attack, 0.15] for attack in ("pgd", "strongest")}


def training(rows: list[dict[str, str]]) -> str:
    """Where training ended, each way's mean and range over networks."""
    by_way: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        by_way.setdefault(row["network"].rpartition("-")[0], []).append(row)
    names = list(rows[0])[2:]
    lines = [f"| | {' | '.join(names)} |", "| --- " * (len(names) + 1) + "|"]
    for way, networks in by_way.items():
        cells = []
        for name in names:
            values = [float(each[name]) for each in networks]
            told = f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"
            cells.append(told if np.isfinite(values).all() else "")
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def table_1(row: OverSeeds, name: str) -> str:
    """Test accuracies beside the paper's."""
    paper, *accuracies = tables.PAPER_TABLE_1.get(name, (name,))
    rows = [["", *row.means], ["---"] * (len(row.means) + 1)]
    rows.append([f"{paper} here", *(_percent(each) for each in row.means.values())])
    if accuracies:
        rows.append([f"{paper} in the paper", *(f"{each:.1%}" for each in accuracies)])
    rows.append([f"minus {next(iter(row.means))}, points", "", *map(_points, row.differences.values())])
    return "\n".join(f"| {' | '.join([*each, *[''] * (len(rows[0]) - len(each))])} |" for each in rows) + "\n"


def _percent(mean: Mean) -> str:
    return f"{100 * mean.mean:.2f}% [{100 * mean.low:.2f}, {100 * mean.high:.2f}]"


def _points(mean: Mean) -> str:
    return f"{100 * mean.mean:+.2f} [{100 * mean.low:+.2f}, {100 * mean.high:+.2f}]"


def with_tables(text: str) -> str:
    """The text of study.md with its tables derived again, each of which is after a comment that names it."""

    def again(match: re.Match[str]) -> str:
        folder, name = match[1].split("/")
        return f"<!-- {match[1]} -->\n\n{tables_of(HERE / folder)[name]}\n<!-- -->"

    return re.sub(r"<!-- (\S+/\S+) -->.*?<!-- -->", again, text, flags=re.DOTALL)


def main() -> None:
    """Write figures beside the results, and tables into study.md: the same bytes each time."""
    for folder in sorted(path.parent for path in HERE.glob("*/results.json")):
        groups = ways_of(sr.load_results(folder))
        seeds = sorted({len(group) for group in groups.values()})
        how_many = " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))
        title = f"{folder.name}, {how_many} seeds, {len(groups['regular'][0].clean)} test images"
        sr.save_figure(sr.robustness_curves(groups, title), folder / "curves.svg")
        sr.save_figure(sr.difference_curves(compared(groups), title), folder / "difference.svg")
        sr.save_figure(specifications(groups, title), folder / "specifications.svg")
    write_text(HERE.parent / "study.md", with_tables((HERE.parent / "study.md").read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
