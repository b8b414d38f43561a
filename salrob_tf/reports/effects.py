"""What differs between networks or ways of training, as parts of the report's page: over epsilon, and over choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from salrob_tf.checks import epsilon_text
from salrob_tf.reports.charts import Interval, Line, interval_chart, line_chart
from salrob_tf.reports.parts import AXIS
from salrob_tf.results.comparison import Comparison
from salrob_tf.results.flags import gravest, mildest, worst
from salrob_tf.results.methods import LESS, MORE, MethodComparison
from salrob_tf.results.robustness import WORST


def points_of(each: Comparison | MethodComparison) -> tuple[str, np.ndarray]:
    """Which attack a comparison is shown by, and rows of epsilon, difference, and its ends, ascending `(K, 4)`.

    Ends are NaN where nothing tells how far a difference may be off, as all networks differ alike.
    Of two networks it is the worst of all attacks, or the first; of ways of training the endpoint's, each epsilon
    corrected for all.
    """
    if isinstance(each, MethodComparison):
        label, nothing = each.attack, (np.nan, np.nan)
        rows = [(item.epsilon, item.difference, *(item.interval if item.told else nothing)) for item in each.family]
    else:
        attacks = [item.attack for item in each.differences]
        label = WORST if WORST in attacks else attacks[0]
        some = [item for item in each.differences if item.attack == label and item.epsilon > 0]
        rows = [(item.epsilon, item.difference, *item.interval) for item in some]
    return label, np.array(sorted(rows)).reshape(-1, 4)


def doubt_in(each: Comparison | MethodComparison) -> str:
    """The gravest doubt of what a comparison is shown by, in words, or nothing.

    Of two networks the worst of all attacks is as doubtful as the least doubtful of them.
    """
    if isinstance(each, MethodComparison):
        return each.doubt
    label, _ = points_of(each)
    attacks = dict.fromkeys(item.attack for item in each.differences if item.attack != WORST)
    found = []
    for model in dict.fromkeys(name for name, _ in each.doubts):
        flags = [flag for name, flag in each.doubts if name == model]
        of = {attack: worst(flag for flag in flags if flag.attack in (None, attack)) for attack in attacks}
        found.append(mildest(of.values()) if label == WORST else of[label])
    return gravest(found) or ""


class Differing(NamedTuple):
    """A comparison over epsilon: its chart, the rows of its table, and its doubt in words, or nothing."""

    title: str
    chart: Markup
    numbers: list[tuple[str, str, float, float, float]]
    doubt: str


def differences_of(comparisons: Sequence[Comparison | MethodComparison]) -> list[Differing]:
    """Of each comparison, a chart and its numbers."""
    found = []
    for each in comparisons:
        label, points = points_of(each)
        if not len(points):
            continue
        x, y, low, high = points.T
        bound = float(np.ceil(10 * max(np.nanmax(np.abs(points[:, 1:])), 0.05)) / 10)
        title, doubt = f"{each.second} minus {each.first}", doubt_in(each)
        lines = [Line(title, x, y, low, high, 3, bool(doubt))]
        chart = line_chart(f"Difference in points, {title}", lines, AXIS, -bound, bound)
        numbers = [(epsilon_text(row[0]), label, 100 * row[1], 100 * row[2], 100 * row[3]) for row in points.tolist()]
        found.append(Differing(title, Markup(chart), numbers, doubt))
    return found


Choices = Mapping[str, Mapping[str, Any]]  # by way of training, what was chosen, by what is chosen


def varied(choices: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """What is not chosen alike in some ways of training, with its values in the order of their text."""
    every: dict[str, list[Any]] = {}
    for each in choices:
        for key, value in each.items():
            if value not in every.setdefault(key, []):
                every[key].append(value)
    same = {key for key, values in every.items() if len(values) == 1 and all(key in each for each in choices)}
    return {key: sorted(values, key=str) for key, values in every.items() if key not in same}


def choices_of(run: Mapping[str, Any], ways: Sequence[str]) -> Choices:
    """What was chosen in each way of training: what a run recorded, else what its name says, `<name> <key>=<value>`."""
    kept = run.get("choices")
    if isinstance(kept, Mapping) and all(isinstance(kept.get(way), Mapping) for way in ways):
        return {way: kept[way] for way in ways}
    words = {way: way.split() or [way] for way in ways}
    return {
        way: {"way": first, **{key: value for key, is_set, value in (word.partition("=") for word in rest) if is_set}}
        for way, (first, *rest) in words.items()
    }


class Specification(NamedTuple):
    """A row of the table behind a specification curve."""

    way: str
    difference: float
    low: float
    high: float
    outcome: str
    doubt: str
    chosen: list[str]


class Specifications(NamedTuple):
    """A specification curve: its chart, what is chosen, and a row for each way of training but the first."""

    first: str
    chart: Markup
    keys: list[str]
    rows: list[Specification]


def specifications_of(
    comparisons: Sequence[Comparison | MethodComparison], run: Mapping[str, Any]
) -> Specifications | None:
    """A specification curve, where there are several ways of training to hold against one."""
    ways = [each for each in comparisons if isinstance(each, MethodComparison)]
    if len(ways) < 2:
        return None
    choices = choices_of(run, [each.second for each in ways])
    keys = list(varied(list(choices.values())))
    rows = []
    for each in sorted(ways, key=lambda way: way.endpoint.estimate):
        low, high = each.endpoint.interval() if each.varies else (np.nan, np.nan)
        chosen = [str(choices[each.second].get(key, "")) for key in keys]
        ends = 100 * each.endpoint.estimate, 100 * low, 100 * high
        rows.append(Specification(each.second, *ends, each.outcome, doubt_in(each), chosen))
    intervals = [
        Interval(row.way, row.difference, row.low, row.high, row.outcome in (MORE, LESS), bool(row.doubt))
        for row in rows
    ]
    return Specifications(
        ways[0].first, Markup(interval_chart(f"Difference to {ways[0].first}", intervals)), keys, rows
    )
