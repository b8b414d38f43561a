"""How results, comparisons and classifiers show themselves in a notebook: parts of the report's page."""

from __future__ import annotations

from html import escape
from typing import Any

from salrob_tf.reports import parts
from salrob_tf.reports.effects import differences_of
from salrob_tf.results.comparison import Comparison
from salrob_tf.results.methods import MethodComparison
from salrob_tf.results.robustness import WORST, Robustness

STYLE = (
    "<style>.salrob svg{max-width:420px;color:#0060a0}.salrob svg text{fill:currentColor;font:12px sans-serif}"
    ".salrob .grid{stroke:#8884}.salrob .zero{stroke:#888}.salrob .band{fill:currentColor;opacity:.15}"
    ".salrob polyline{fill:none;stroke:currentColor;stroke-width:2}"
    ".salrob circle,.salrob rect,.salrob path{fill:currentColor}.salrob .hollow>*{fill:none;stroke:currentColor}"
    ".salrob td,.salrob th{text-align:left;padding:.1em .8em .1em 0}</style>"
)


def html_of_result(result: Robustness) -> str:
    """Clean accuracy, a table and a chart of robust accuracy, and what speaks against it."""
    labels = list(result.correct) + [WORST] * (len(result.correct) > 1)
    groups = {result.model: [result]}
    rows = parts.rows_of(groups, labels)
    head = "".join(f"<th>{escape(cell[0])}</th>" for cell in rows[0].cells)
    body = "".join(
        f"<tr><th>{escape(row.attack)}</th>"
        + "".join(f"<td>{100 * mean:.1f}</td>" for _, mean, _, _ in row.cells)
        + f"<td>{escape(row.doubt)}</td></tr>"
        for row in rows
    )
    _, chart = parts.curve_of(groups, labels[-1])
    flags = "".join(f"<li>{escape(str(flag))}</li>" for flag in result.flags)
    clean = f"clean accuracy {100 * result.clean_accuracy:.1f} %, {len(result.clean)} images"
    table = f"<table><tr><th>accuracy in %, epsilon</th>{head}<th></th></tr>{body}</table>"
    return _framed(f"<b>{escape(result.model)}</b>: {clean}{table}{chart}" + (f"<ul>{flags}</ul>" if flags else ""))


def html_of_comparison(comparison: Comparison | MethodComparison) -> str:
    """The verdict, and a chart of the difference over epsilon."""
    drawn = "".join(each.chart for each in differences_of([comparison]))
    title = f"<p>{escape(comparison.second)} minus {escape(comparison.first)}, in points:</p>" if drawn else ""
    return _framed(f"<p>{escape(comparison.verdict)}</p>{title}{drawn}")


def html_of_classifier(classifier: Any) -> str:
    """What was found out about a model; anything with a `name` and `describe`."""
    described = {key: value for key, value in classifier.describe().items() if value not in (None, [])}
    rows = "".join(f"<tr><th>{escape(key)}</th><td>{escape(str(value))}</td></tr>" for key, value in described.items())
    return _framed(f"<b>{escape(classifier.name)}</b><table>{rows}</table>")


def _framed(content: str) -> str:
    return f'<div class="salrob">{STYLE}{content}</div>'
