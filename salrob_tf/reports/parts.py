"""The parts of the report's page, each from results or evidence alone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from scipy import stats

from salrob_tf.checks import epsilon_text
from salrob_tf.reports.charts import Interval, Line, interval_chart, line_chart
from salrob_tf.reports.directions import isolated_text
from salrob_tf.reports.sprites import mask, signed, sprite
from salrob_tf.reports.tables import PAPER_TABLE_1, first_table, table1
from salrob_tf.results.evidence import Evidence
from salrob_tf.results.flags import gravest
from salrob_tf.results.robustness import WORST, Robustness
from salrob_tf.results.spread import spread

AXIS = "epsilon, for images in [0, 1]"


class Table1(NamedTuple):
    """The paper's Table 1: rows of cells, the head first, a note, and whether it is of the whole test set."""

    rows: list[list[str]]
    note: str
    whole: bool


def table1_of(groups: Mapping[str, Sequence[Robustness]], data: Mapping[str, Any], text: str = "") -> Table1:
    """Accuracies without attack, on the whole test set where that is known.

    Args:
        groups: By name, results of one or more networks.
        data: What `results.json` says of the data.
        text: The content of `table1.md`, if there is one; results hold only the images that were attacked.
    """
    rows, whole = first_table(text), True
    if not rows or rows[0][1:] != [" ".join(name.split()) for name in groups]:
        name, images = str(data.get("name", "")), len(next(iter(groups.values()))[0].clean)
        paper = next((key for key, (known, *_) in PAPER_TABLE_1.items() if known == name), None)
        if [re.sub(r"-\d+$", "", each) for each in groups] != ["regular", "guided"]:
            paper = None  # its two columns are of these
        clean = {each: [result.clean for result in results] for each, results in groups.items()}
        text = table1(", ".join(filter(None, (name, f"{images} images"))), clean, paper)
        rows, whole = first_table(text), False
    return Table1(rows, next((line for line in text.split("\n") if line.startswith("In brackets: ")), ""), whole)


class Row(NamedTuple):
    """A row of the table of accuracies; `seen` is whether its numbers lead to images."""

    name: str
    attack: str
    clean: float
    cells: list[tuple[str, float, float, float]]
    doubt: str
    seen: bool


def rows_of(
    groups: Mapping[str, Sequence[Robustness]], labels: Sequence[str], evidence: Evidence | None = None
) -> list[Row]:
    """Accuracies of each group under each attack, clean and at each epsilon, with their ends."""
    found = []
    for label in labels:
        for name, results in groups.items():
            order = np.argsort(results[0].epsilons)
            cells = []
            for k in order:
                at = spread([result.curves[label][k] for result in results])
                cells.append((epsilon_text(results[0].epsilons[k]), at.mean, at.low, at.high))
            clean = float(np.mean([result.clean_accuracy for result in results]))
            found.append(Row(name, label, clean, cells, doubt_of(results, label), is_seen(results, label, evidence)))
    return found


def is_seen(results: Sequence[Robustness], label: str, evidence: Evidence | None) -> bool:
    """Whether there are images of one of these networks under an attack."""
    if evidence is None or not any(result.model in evidence.networks for result in results):
        return False
    return set(results[0].correct) <= set(evidence.attacks) if label == WORST else label in evidence.attacks


def unseen_of(
    groups: Mapping[str, Sequence[Robustness]], labels: Sequence[str], evidence: Evidence | None
) -> list[str]:
    """Which numbers lead to no images, and why, where others do."""
    if evidence is None:
        return []
    said = []
    if unseen := [label for label in labels if label not in evidence.attacks and label != WORST]:
        kept = ", ".join(evidence.attacks)
        said.append(
            f"Numbers of {', '.join(unseen)} lead to no images: to stay small, this page keeps those of {kept}."
        )
        if WORST in labels:
            said.append(f"Nor do those of {WORST}, which may be by one of these.")
    networks = [result.model for results in groups.values() for result in results]
    if set(networks) - set(evidence.networks):
        said.append(f"Images are of the networks {', '.join(evidence.networks)}, and of no others.")
    return said


def doubt_of(results: Sequence[Robustness], label: str) -> str:
    """The gravest doubt of any of some results, in words, or nothing."""
    return gravest(result.doubt(label) for result in results) or ""


def curve_of(
    groups: Mapping[str, Sequence[Robustness]], label: str, evidence: Evidence | None = None
) -> tuple[str, Markup]:
    """The name of an attack, and its chart, whose points lead to images where the explorer has the attack."""
    lines = []
    for place, (name, results) in enumerate(groups.items()):
        order = np.argsort(results[0].epsilons)
        points = [spread([result.clean for result in results])]
        points += [spread([result.curves[label][k] for result in results]) for k in order]
        x = np.array([0.0, *results[0].epsilons[order]])
        y, low, high = (np.array([getattr(point, end) for point in points]) for end in ("mean", "low", "high"))
        leads_to = label if is_seen(results, label, evidence) else None
        lines.append(Line(name, x, y, low, high, place, bool(doubt_of(results, label)), leads_to))
    return label, Markup(line_chart(f"Accuracy in percent under {label}", lines, AXIS, 0.0, 1.0))


class Checked(NamedTuple):
    """What checks found of one network."""

    name: str
    summary: str
    trust: list[tuple[str, str]]
    flags: list[tuple[str, str, float, float, str, str]]


def checks_of(result: Robustness, labels: Sequence[str]) -> Checked:
    """What was looked at of one network's attacks, and what speaks against its accuracies."""
    flags = [
        (flag.severity, flag.attack or "all attacks", flag.figure, flag.threshold, flag.meaning, flag.remedy)
        for flag in result.flags
    ]
    trust = [(label, str(result.trust(label))) for label in labels if label != WORST]
    return Checked(result.model, str(result.description.get("summary", "")), trust, flags)


def costs_of(results: Sequence[Robustness]) -> list[tuple[str, str, int, int, float]]:
    """What each attack on each network cost."""
    return [
        (result.model, label, cost.gradient_evaluations, cost.forward_evaluations, cost.seconds)
        for result in results
        for label, cost in result.costs.items()
    ]


def explorer_of(evidence: Evidence, attacks: Sequence[str]) -> dict[str, Any]:
    """What may be chosen in the explorer, in words: the worst of all only where it has all attacks."""
    worst = [WORST] if len(attacks) > 1 and set(attacks) <= set(evidence.attacks) else []
    return {
        "networks": evidence.networks,
        "attacks": (*evidence.attacks, *worst),
        "epsilons": [epsilon_text(epsilon) for epsilon in evidence.epsilons],
        "full": epsilon_text(_scale_of(evidence)),
        "magnified": f"{1 / _scale_of(evidence):.3g}",
        "images": [
            f"{place + 1}: {isolated_text(evidence.class_names[label])}, test image {row}"
            for place, (label, row) in enumerate(zip(evidence.labels, evidence.rows, strict=True))
        ],
        "pair": [isolated_text(name) for name in evidence.networks[:2]] if len(evidence.networks) > 1 else (),
    }


def _coloured(values: np.ndarray) -> str:
    return sprite(signed(values))


def _hatched(values: np.ndarray) -> str:
    """Where colours are those of values below zero, which colour alone must not tell."""
    return mask(np.round(16 * values) < 0)


def _scale_of(evidence: Evidence) -> float:
    """The perturbation that is shown in full colour."""
    return float(np.abs(evidence.epsilons).max()) or 1.0


def payload_of(evidence: Evidence) -> str:
    """What the page's script needs, as JSON that ends no element."""
    scale = _scale_of(evidence)
    base = evidence.images.astype(float)[np.newaxis] / 255
    sheets = []
    for network in range(len(evidence.networks)):
        row = []
        for attack in range(len(evidence.attacks)):
            seen = evidence.adversarial[network, attack]
            moved = (seen.astype(float) / 255 - base).mean(axis=-1) / scale
            maps = evidence.maps[network, attack].astype(float) / 127
            colours, below = [[draw(each) for each in (moved, maps)] for draw in (_coloured, _hatched)]
            row.append([sprite(seen), *colours, *below])
        sheets.append(row)
    payload = {
        "networks": evidence.networks,
        "attacks": evidence.attacks,
        "epsilons": [epsilon_text(epsilon) for epsilon in evidence.epsilons],
        "classes": evidence.class_names,
        "labels": evidence.labels.tolist(),
        "size": list(evidence.images.shape[1:3]),
        "predicted": evidence.predicted.tolist(),
        "confidence": np.round(evidence.confidence.astype(float), 3).tolist(),
        "sheets": sheets,
    }
    return json.dumps(payload, separators=(",", ":")).replace("<", "\\u003c").replace("&", "\\u0026")


class Measure(NamedTuple):
    """A row of what was measured."""

    name: str
    values: list[float]
    difference: float
    low: float
    high: float
    images: int


def measures_of(evidence: Evidence) -> dict[str, Any] | None:
    """Means of what was measured, and of two networks the paired difference in standard deviations of the first."""
    networks = [name for name in evidence.networks if name in evidence.measures]
    if not networks:
        return None
    rows = []
    for name in evidence.measures[networks[0]]:
        columns = np.array([evidence.measures[network][name] for network in networks], float)
        columns = columns[:, np.isfinite(columns).all(axis=0)]
        count = columns.shape[1]
        if not count:
            continue
        difference = low = high = float("nan")
        if len(networks) > 1 and count > 1:
            each = columns[1] - columns[0]
            unit = columns[0].std(ddof=1) or float("nan")
            difference, half = each.mean() / unit, stats.t.ppf(0.975, count - 1) * stats.sem(each) / unit
            low, high = difference - half, difference + half
        rows.append(Measure(name, columns.mean(axis=1).tolist(), difference, low, high, count))
    chart = None
    if len(networks) > 1:
        intervals = [
            Interval(row.name, row.difference, row.low, row.high, strong=row.low > 0 or row.high < 0)
            for row in rows
            if np.isfinite(row.difference)
        ]
        title = f"{networks[1]} minus {networks[0]}, in standard deviations over images"
        chart = Markup(interval_chart(title, intervals, "standard deviations"))
    return {"networks": networks, "rows": rows, "chart": chart}
