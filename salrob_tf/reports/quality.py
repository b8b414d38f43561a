"""How good saliency maps are, as parts of the report's page: pixels removed, and whether metrics agree."""

from __future__ import annotations

from typing import Any

import numpy as np
from markupsafe import Markup

from salrob_tf.reports.charts import Line, line_chart
from salrob_tf.reports.parts import Measure
from salrob_tf.results.evidence import Evidence
from salrob_tf.results.measures import DELETION
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


def better_maps(rows: list[Measure], networks: list[str]) -> str:
    """Whose maps are better, which is said only where removal under all fills agrees."""
    by_fill = [row for row in rows if row.name.startswith(DELETION)]
    if len(networks) < 2 or len(by_fill) < 2:
        return ""
    fills = " and ".join(row.name.removeprefix(f"{DELETION}, ") for row in by_fill)
    for better, other, sign in ((networks[1], networks[0], 1), (networks[0], networks[1], -1)):
        if all(min(sign * row.low, sign * row.high) > 0 for row in by_fill):
            return f"The maps of {better} are better than those of {other}: deletion says so under all fills ({fills})."
    return f"Whose maps are better is not decided: deletion does not say the same, or is not sure, under {fills}."
