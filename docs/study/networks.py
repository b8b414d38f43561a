"""Tables of docs/study.md from numbers of whole networks: their training, their measures, and PyTorch's networks."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from outcomes import Groups

from salrob_tf.reports.tables import PAPER_TABLE_1, markdown_table
from salrob_tf.results.measures import Mean, Means, OverSeeds, mean_of
from salrob_tf.results.robustness import WORST

PAIR = ("regular", "karkehabadi2023")
TEST_ACCURACY = "accuracy, whole test set"
WHOLE = "none on the whole test set"  # as independent.py calls it


def percent(mean: Mean) -> str:
    """A share with its interval, in per cent."""
    return f"{100 * mean.mean:.2f}%" + _interval(mean, ".2f")


def points(mean: Mean) -> str:
    """A difference of shares with its interval, in points."""
    return f"{100 * mean.mean:+.2f}" + _interval(mean, "+.2f")


def _interval(mean: Mean, form: str) -> str:
    return "" if np.isnan(mean.low) else f" [{100 * mean.low:{form}}, {100 * mean.high:{form}}]"


def table_1(row: OverSeeds, called: str, name: str) -> str:
    """Test accuracies on data that is called so, beside the paper's of that name."""
    _, *accuracies = PAPER_TABLE_1.get(name, (called,))
    paper = dict(zip(PAIR, accuracies, strict=False))
    rows = [["way", f"{called} here", f"minus {next(iter(row.means))}, points"]]
    for way, mean in row.means.items():
        rows.append([way, percent(mean), points(row.differences[way]) if way in row.differences else ""])
    if paper:
        rows[0].append(f"{called} in the paper")
        for cells in rows[1:]:
            cells.append(f"{paper[cells[0]]:.1%}" if cells[0] in paper else "")
    return markdown_table(rows)


def training(path: Path) -> str:
    """Where training ended, each way's mean and range over networks."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    by_way: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        by_way.setdefault(row["network"].rpartition("-")[0], []).append(row)
    names = list(rows[0])[2:]
    lines = [["", *names]]
    for way, networks in by_way.items():
        cells = []
        for name in names:
            values = [float(each[name]) for each in networks]
            told = f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"
            cells.append(told if np.isfinite(values).all() else "")
        lines.append([way, *cells])
    return markdown_table(lines)


def of_ways(rows: list[OverSeeds], means: tuple[str, ...], differences: tuple[str, ...]) -> list[OverSeeds]:
    """Rows with the means and differences of some ways of training alone."""
    return [
        row._replace(
            means={way: mean for way, mean in row.means.items() if way in means},
            differences={way: mean for way, mean in row.differences.items() if way in differences},
        )
        for row in rows
    ]


def independent(groups: Groups, means: Means, path: Path) -> str:
    """Networks here and those of independent.py by way, with differences over pairs of seeds."""
    theirs: dict[str, dict[tuple[str, float], float]] = {}
    with open(path, encoding="utf-8", newline="") as file:
        for network, attack, epsilon, accuracy in csv.reader(file):
            theirs.setdefault(network, {})[attack, float(epsilon)] = float(accuracy)
    ours: dict[str, dict[tuple[str, float], float]] = {}
    for each in (each for group in groups.values() for each in group):
        way, _, seed = each.model.rpartition("-")
        ours[each.model] = {("none", 0.0): each.clean.mean(), (WHOLE, 0.0): means[way][int(seed)][TEST_ACCURACY]}
        for attack, name in {"fgsm": "fgsm", "pgd": "pgd", WORST: "strongest"}.items():
            left = each.curves[attack].mean(axis=1)
            ours[each.model] |= {(name, float(at)): share for at, share in zip(each.epsilons, left, strict=True)}
    first, *others = dict.fromkeys(name.rpartition("-")[0] for name in theirs)
    contrasts = [(way, first) for way in others] + [(way, others[0]) for way in others[1:]]
    rows = [["way", "minus", "accuracy", "networks", "the way's", "the other's", "difference, points"]]
    for way, other in contrasts:
        for what in summary(next(iter(theirs.values()))):
            for who, networks in (("here", ours), ("PyTorch", theirs)):
                values = {name: summary(outcomes)[what] for name, outcomes in networks.items()}
                seeds = [name.removeprefix(way) for name in values if name.rpartition("-")[0] == way]
                pairs = [(values[way + seed], values[other + seed]) for seed in seeds if other + seed in values]
                cells = [percent(mean_of(each)) for each in zip(*pairs, strict=True)]
                difference = points(mean_of([one - another for one, another in pairs]))
                number = f"{who}, {len(pairs)} pair{'s' * (len(pairs) > 1)}"
                rows.append([way, other, what, number, *cells, difference])
    return markdown_table(rows)


def summary(accuracies: dict[tuple[str, float], float]) -> dict[str, float]:
    """What the accuracies of a network, by attack and epsilon, come to."""
    epsilons = sorted({epsilon for attack, epsilon in accuracies if attack == "pgd"})
    found = {"clean, whole test set": accuracies[WHOLE, 0.0]}
    for attack in ("fgsm", "pgd"):
        curve = [accuracies["none", 0.0], *(accuracies[attack, epsilon] for epsilon in epsilons)]
        found[f"{attack}, averaged over epsilon"] = float(np.trapezoid(curve, [0, *epsilons]) / epsilons[-1])
    return found | {f"{attack} at 0.15": accuracies[attack, 0.15] for attack in ("pgd", "strongest")}
