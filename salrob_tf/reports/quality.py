"""How good saliency maps are, as parts of the report's page: pixels removed, and whether metrics agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from salrob_tf.reports.charts import Line, line_chart
from salrob_tf.results.evidence import Evidence
from salrob_tf.results.explained import explained_by
from salrob_tf.results.measures import DELETION, FIRST_ORDER, INSERTION, OverSeeds
from salrob_tf.results.spread import spread

REMOVALS = ("most salient", "least salient")


def removals_of(evidence: Evidence) -> list[dict[str, Any]]:
    """Of each fill, a chart of accuracy as pixels go, and its numbers."""
    found = []
    networks = [name for name in evidence.networks if name in evidence.removed]
    for fill in evidence.removed[networks[0]] if networks else ():
        lines: list[Line] = []
        for which, removed in enumerate(REMOVALS):
            for name in networks:
                points = [spread([at]) for at in evidence.removed[name][fill][which]]
                y, low, high = (np.array([getattr(point, end) for point in points]) for end in ("mean", "low", "high"))
                lines.append(Line(f"{name}, {removed}", evidence.shares, y, low, high, len(lines)))
        title = f"Accuracy in percent as pixels go, filled by {fill}"
        found.append(
            {
                "fill": fill,
                "chart": Markup(line_chart(title, lines, "share of the pixels removed", 0.0, 1.0)),
                "lines": [(line.label, line.style) for line in lines],
                "rows": [
                    (share, [float(line.y[place]) for line in lines]) for place, share in enumerate(evidence.shares)
                ],
                "images": evidence.removed[networks[0]][fill].shape[2],
            }
        )
    return found


def agreement_table(evidence: Evidence) -> list[tuple[str, list[float]]]:
    """Rank correlations of the metrics of maps, a row for each."""
    return list(zip(evidence.quality, evidence.agreement.tolist(), strict=True))


def better_maps(intervals: Mapping[str, tuple[float, float]], first: str, second: str) -> str:
    """Whose maps are better, which is said only where removal says so in all ways, under all fills.

    Args:
        intervals: By measure, the ends of the interval of the second's minus the first's.
        first: A network or a way of training.
        second: Another.
    """
    kinds = {"deletion": DELETION, "insertion": INSERTION}
    removals = {name: ends for name, ends in intervals.items() if name.startswith(tuple(kinds.values()))}
    if len(removals) < 2:
        return ""
    means = " and ".join(kind for kind, name in kinds.items() if any(each.startswith(name) for each in removals))
    fills = ", ".join(dict.fromkeys(name.partition(", ")[2] for name in removals))
    for better, other, sign in ((second, first, 1), (first, second, -1)):
        if all(min(sign * low, sign * high) > 0 for low, high in removals.values()):
            return f"The maps of {better} are better than those of {other}, by {means} under all fills ({fills})."
    return f"Whose maps are better, of {second} or {first}, is not decided: {means} disagree by fill, or are not sure."


def verdicts_of(measures: dict[str, Any] | None, seeds: Sequence[OverSeeds]) -> list[str]:
    """`better_maps` of ways of training, where there are several seeds, and else of two networks."""
    if seeds:
        first, *others = seeds[0].means
        found = []
        for way in others:
            ends = {row.name: row.differences[way][1:] for row in seeds if np.isfinite(row.differences[way].low)}
            found.append(better_maps(ends, first, way))
        return list(filter(None, found))
    if measures is None or len(measures["networks"]) < 2:
        return []
    one, two = measures["networks"][:2]
    said = better_maps({row.name: (row.low, row.high) for row in measures["rows"]}, one, two)
    return [f"{said} That is said of these two networks."] if said else []


def explained_of(evidence: Evidence) -> str:
    """How much of the difference of the first two networks the first order explains, in a sentence."""
    names = [name for name in evidence.networks if FIRST_ORDER in evidence.measures.get(name, ())][:2]
    if len(names) < 2:
        return ""
    one, two = (evidence.measures[name] for name in names)
    found = explained_by(one, two, float(evidence.epsilons.max()))
    if found is None:
        return ""
    return (
        f"Of {found.images} images that both networks have right and attacks break, the smallest epsilon is on average "
        f"{2**found.found:.2f} times as large in {names[1]} as in {names[0]}; margin over gradient norm predicts "
        f"{2**found.predicted:.2f} times. From image to image, these two explain {found.r_squared:.0%} of the variance "
        f"of that difference, the margin alone {found.margin_share:.0%}, the gradient norm alone "
        f"{found.gradient_share:.0%}."
    )
