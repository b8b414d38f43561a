"""Derive the tables and figures of docs/study.md again from what is kept here: `python docs/study/derive.py`.

Each folder beside this file holds `results.json` and `correct.npz` of a study, which say what image each network still had
right under which attack at which epsilon, and `measures.csv`, each network's means of what was measured.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np

import salrob_tf as sr
from salrob_tf.files import write_text
from salrob_tf.reports import tables
from salrob_tf.reports.specification import specification_curve
from salrob_tf.results.measures import Measured, over_seeds
from salrob_tf.results.methods import MethodComparison
from salrob_tf.results.robustness import Robustness
from salrob_tf.studies.pages import groups_of

HERE = Path(__file__).parent
Groups = dict[str, list[Robustness]]


def by_attack(results: Groups, attack: str) -> Groups:
    """Results of one attack alone."""
    return {
        way: [replace(each, correct={attack: each.correct[attack]}, members={}, audits={}) for each in group]
        for way, group in results.items()
    }


def compared(groups: Groups) -> list[MethodComparison]:
    """The regular way with each other."""
    regular, *others = groups
    return [sr.compare_methods({regular: groups[regular], way: groups[way]}) for way in others]


def effects(groups: Groups) -> str:
    """The difference of each way to the regular one, averaged over epsilon, by attack."""
    rows = ["| difference to regular, points | attack | estimate | 95 % | seeds |", "| --- | --- | --- | --- | --- |"]
    for attack in next(iter(groups.values()))[0].correct:
        for each in compared(by_attack(groups, attack)):
            low, high = each.endpoint.interval()
            ends = f"{100 * low:+.1f} to {100 * high:+.1f}"
            rows.append(f"| {each.second} | {attack} | {100 * each.endpoint.estimate:+.1f} | {ends} | {each.seeds} |")
    return "\n".join(rows) + "\n"


def by_epsilon(groups: Groups, attack: str = "worst-case") -> str:
    """The difference at each epsilon under the worst case, each interval corrected for all epsilons."""
    found = compared(by_attack(groups, attack))
    rows = ["| worst case, points | " + " | ".join(f"{epsilon:g}" for epsilon in found[0].epsilons) + " |"]
    rows.append("| --- " * (len(found[0].epsilons) + 1) + "|")
    for each in found:
        cells = [
            f"{100 * item.difference:+.1f} [{100 * item.interval[0]:+.1f}, {100 * item.interval[1]:+.1f}]"
            for item in each.family
        ]
        rows.append(f"| {each.second} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def flags(groups: Groups) -> str:
    """What checks say against networks, by way and kind."""
    found: dict[tuple[str, str, str], int] = {}
    for way, group in groups.items():
        for each in group:
            for what in {(flag.id, flag.severity) for flag in each.flags}:
                found[way, *what] = found.get((way, *what), 0) + 1
    said = [f"- {way}: {name} ({severity}) of {count} networks" for (way, name, severity), count in found.items()]
    return "\n".join(said or [f"None of {sum(map(len, groups.values()))} networks has a flag."]) + "\n"


def measured(path: Path) -> str:
    """Means of what was measured, and differences to the regular way over seeds."""
    ways: dict[str, dict[int, dict[str, np.ndarray]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            way, _, seed = row["network"].rpartition("-")
            ways.setdefault(way, {}).setdefault(int(seed), {})[row["measure"]] = np.array([float(row["mean"])])
    groups = {way: {seed: Measured(each, {}, {}) for seed, each in seeds.items()} for way, seeds in ways.items()}
    return tables.measures_table(over_seeds(groups))


def tables_of(folder: Path) -> dict[str, str]:
    """The tables of a study, by name."""
    groups = groups_of(sr.load_results(folder))
    found = {"accuracy.md": sr.robustness_table(groups), "effects.md": effects(groups)}
    found |= {"by_epsilon.md": by_epsilon(groups), "flags.md": flags(groups)}
    found["verdicts.md"] = "\n\n".join(f"```\n{each}\n```" for each in compared(groups)) + "\n"
    if (folder / "measures.csv").exists():
        found["measures.md"] = measured(folder / "measures.csv")
    return found


def main() -> None:
    """Write the tables and figures of each study beside its results."""
    for folder in sorted(path.parent for path in HERE.glob("*/results.json")):
        for name, text in tables_of(folder).items():
            write_text(folder / name, text)
        groups = groups_of(sr.load_results(folder))
        title = f"{folder.name}, {len(groups['regular'])} seeds, {len(groups['regular'][0].clean)} test images"
        sr.save_figure(sr.robustness_curves(groups, title), folder / "curves.png")
        sr.save_figure(sr.difference_curves(compared(groups), title), folder / "difference.png")
        choices = {way: {"way": way} for way in groups}
        sr.save_figure(specification_curve(compared(groups), choices, title), folder / "specifications.png")
        print(f"{folder.name}: derived")


if __name__ == "__main__":
    main()
