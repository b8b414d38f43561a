"""Derive the tables and figures of docs/study.md again from what is kept here: `python docs/study/derive.py`.

Each folder beside this file holds the outcomes of a study's networks, the images that each still had right under each
attack at each epsilon (kept.py), `measures.csv`, each network's means of what was measured, and `training.csv`, where
its last epoch ended, and which share of the bright pixels (above 0.5) of 1,000 test images its recipe then masks.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import networks
import outcomes
from kept import RECORD, record_of, results_of
from matplotlib.figure import Figure
from outcomes import Groups, attacks_of, by_attack, compared

import salrob_tf as sr
from salrob_tf.files import write_text
from salrob_tf.reports.specification import specification_curve
from salrob_tf.reports.tables import measures_table
from salrob_tf.results.measures import load_means, over_seeds

HERE = Path(__file__).parent
LONGER = ("longer", "guided-longer")  # held against each other, too
FURTHER = "-autoattack"  # ends the name of a folder of networks that another one without it attacked before
FIRST_OF_MAPS = "sparsity of maps (Gini)"  # of what is measured, after what may say why networks are robust


def tables_of_outcomes(groups: Groups) -> dict[str, str]:
    """What tables say of outcomes, by name."""
    found = {
        "accuracy.md": outcomes.accuracies(groups),
        "flags.md": outcomes.flags(groups),
        "checks.md": outcomes.probes(groups),
    }
    first = next(iter(groups.values()))[0]
    found |= {f"audits_{attack}.md": outcomes.audits(groups, attack) for attack in first.audits}
    if len(groups) > 1:
        found["verdict.md"] = outcomes.verdict(groups)
    if not compared(groups):
        return found
    found |= {"effects.md": outcomes.effects(groups), "verdicts.md": outcomes.sentences(groups)}
    for attack in first.curves:
        found[f"by_epsilon_{attack.replace(' ', '_')}.md"] = outcomes.by_epsilon(groups, attack)
    *_, worst = first.curves  # of several attacks, what none of them broke
    others = dict(list(groups.items())[1:])  # the guided way, and what is held against it
    if compared(others):
        found |= {"controls.md": outcomes.effects(others), "controls_verdicts.md": outcomes.sentences(others)}
        found["controls_by_epsilon.md"] = outcomes.by_epsilon(others, worst)
    longer = {way: groups[way] for way in LONGER if way in groups}
    if longer and compared(longer):
        found |= {"longer.md": outcomes.effects(longer), "longer_by_epsilon.md": outcomes.by_epsilon(longer, worst)}
    return found


def tables_of_measures(path: Path) -> dict[str, str]:
    """What tables say of the means of networks, by name."""
    rows = over_seeds(load_means(path))
    names = [row.name for row in rows]
    start = names.index(FIRST_OF_MAPS) if FIRST_OF_MAPS in names else len(names)
    maps = [row for row in rows[start:] if row.means]
    accuracy = next(row for row in rows if row.name == networks.TEST_ACCURACY)
    first, *ways = accuracy.means
    others = [row for row in rows if row not in (accuracy, *maps)]
    data = record_of(path.parent)["data"]["name"]
    found: dict[str, str] = {"table1.md": networks.table_1(accuracy, data, path.parent.name)}
    for name, some in (("mechanism", others), ("maps", maps)):
        if not some or not ways:  # of a study without evidence, or of one way
            continue
        guided, *controls = ways
        found[f"{name}.md"] = measures_table(networks.of_ways(some, (first, guided), (guided,)))
        if controls:
            found[f"{name}_controls.md"] = measures_table(networks.of_ways(some, (), tuple(controls)))
    return found


@cache
def tables_of(folder: Path) -> dict[str, str]:
    """The tables of a study, by name."""
    groups = outcomes.ways_of(results_of(folder))
    found = tables_of_outcomes(groups) | tables_of_measures(folder / "measures.csv")
    found["training.md"] = networks.training(folder / "training.csv")
    before = folder.with_name(folder.name.removesuffix(FURTHER))
    if before != folder:
        found["beside.md"] = outcomes.beside(groups, outcomes.ways_of(results_of(before)))
    if (folder / "independent.csv").exists():
        found["independent.md"] = networks.independent(
            groups, load_means(folder / "measures.csv"), folder / "independent.csv"
        )
    return found


def specifications(groups: Groups, title: str) -> Figure:
    """The differences of `effects`, sorted, with the way and the attack of each."""
    found, choices = [], {}
    for attack in attacks_of(groups):
        for each in compared(by_attack(groups, attack)):
            name = f"{each.second}, {attack}"
            found.append(replace(each, second=name))
            choices[name] = {"way": each.second, "attack": attack}
    return specification_curve(found, choices, title)


def with_tables(text: str) -> str:
    """The text of study.md with its tables derived again, each of which is after a comment that names it."""

    def again(match: re.Match[str]) -> str:
        folder, name = match[1].split("/")
        return f"<!-- {match[1]} -->\n\n{tables_of(HERE / folder)[name]}\n<!-- -->"

    return re.sub(r"<!-- (\S+/\S+) -->.*?<!-- -->", again, text, flags=re.DOTALL)


def title_of(folder: Path, groups: Groups) -> str:
    """What a figure of these networks is called."""
    seeds = sorted({len(group) for group in groups.values()})
    how_many = " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1])))) + f" seed{'s' * (seeds[-1] > 1)}"
    return f"{folder.name}, {how_many}, {len(next(iter(groups.values()))[0].clean)} test images"


def figures_of(folder: Path) -> dict[str, Figure]:
    """The figures of a study, by name."""
    groups = outcomes.ways_of(results_of(folder))
    pair = dict(list(groups.items())[:2])
    found = {"curves.svg": sr.robustness_curves(pair, title_of(folder, pair))}
    if len(pair) > 1:
        found["difference.svg"] = sr.difference_curves([outcomes.pair_compared(groups)], title_of(folder, pair))
    comparisons = compared(groups)
    if comparisons:
        found["specifications.svg"] = specifications(groups, title_of(folder, groups))
    if len(comparisons) > 1:
        found["controls.svg"] = sr.difference_curves(comparisons, title_of(folder, groups))
    return found


def shorter(svg: str) -> str:
    """An SVG whose numbers have two decimals, finer than what screens show; its texts stay as they are."""
    return re.sub(r">[^<]*<|\d+\.\d{3,}", lambda it: it[0] if it[0][0] == ">" else f"{float(it[0]):.2f}", svg)


def main() -> None:
    """Write the figures that pages show beside the results, and tables into study.md.

    The same bytes each time on one machine; another's may differ in the identifiers of an SVG file.
    """
    page = HERE.parent / "study.md"
    text = page.read_text(encoding="utf-8")
    for folder in sorted(path.parent for path in HERE.glob(f"*/{RECORD}")):
        for name, figure in figures_of(folder).items():
            if f"(study/{folder.name}/{name})" in text:
                sr.save_figure(figure, folder / name)
                write_text(folder / name, shorter((folder / name).read_text(encoding="utf-8")))
    write_text(page, with_tables(text))


if __name__ == "__main__":
    main()
