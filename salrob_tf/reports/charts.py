"""Charts as inline SVG; a page's style sheet gives lines their colours and dashes, markers tell them apart as well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from salrob_tf.checks import epsilon_text

WIDTH, HEIGHT = 380, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 12, 40
LONGEST = 58  # letters of a label that fit beside a chart of intervals
MARKS: tuple[Callable[[float, float], str], ...] = (
    lambda x, y: f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>',
    lambda x, y: f'<rect x="{x - 3.2:.1f}" y="{y - 3.2:.1f}" width="6.4" height="6.4"/>',
    lambda x, y: f'<path d="M{x:.1f} {y - 4.5:.1f}l4.2 7.5h-8.4z"/>',
    lambda x, y: f'<path d="M{x:.1f} {y - 4.8:.1f}l4.8 4.8l-4.8 4.8l-4.8 -4.8z"/>',
    lambda x, y: f'<path d="M{x:.1f} {y + 4.5:.1f}l4.2 -7.5h-8.4z"/>',
)


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        label: Its name.
        x: Where, ascending `(K,)`.
        y: What, `(K,)`.
        low: Lower end of its band `(K,)`, NaN where it has none.
        high: Upper end, NaN there, too.
        style: Number of its colour, marker and dash.
        hollow: Whether its markers are, which is said of what is doubtful.
        attack: The attack whose images a page's script shows where a point, an epsilon, is clicked.
    """

    label: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray
    style: int
    hollow: bool = False
    attack: str | None = None


def line_chart(title: str, lines: Sequence[Line], x_label: str, low: float, high: float) -> str:
    """Lines with bands over a grid; values are shares, shown in percent, or differences of those in points.

    Args:
        title: What a screen reader says first.
        lines: One or more.
        x_label: Of the horizontal axis.
        low: Least value shown; below 0, of differences, with a line at 0.
        high: Largest value shown.
    """
    right = max(float(line.x[-1]) for line in lines) or 1.0
    across = _scale(0.0, right, LEFT, WIDTH - RIGHT)
    down = _scale(low, high, HEIGHT - BOTTOM, TOP)
    unit = " points" if low < 0 else " %"
    parts = [_open(title, "; ".join(_said(line, unit) for line in lines), WIDTH, HEIGHT)]
    for value in _ticks(low, high):
        y, strong = down(value), ' class="zero"' if value == 0 and low < 0 else ' class="grid"'
        text = f"{100 * value:+.0f}" if low < 0 and value else f"{100 * value:.0f}"
        parts.append(f'<line{strong} x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for value in _ticks(0.0, right):
        text = f"{value:.3g}"
        parts.append(f'<text x="{across(value):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{text}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    for line in lines:
        at = [across(float(x)) for x in line.x]
        middles = [down(float(v)) for v in line.y]
        parts.append(f'<g class="s{line.style % 5}{" hollow" if line.hollow else ""}">')
        known = np.flatnonzero(np.isfinite(line.low) & np.isfinite(line.high))
        for run in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1) if len(known) else []:
            upper, lower = ([(at[k], down(float(ends[k]))) for k in run] for ends in (line.high, line.low))
            parts.append(f'<polygon class="band" points="{_points([*upper, *reversed(lower)])}"/>')
        parts.append(f'<polyline points="{_points(zip(at, middles, strict=True))}"/>')
        marks = [_mark(line.style)(x, y) for x, y in zip(at, middles, strict=True)]
        if line.attack is not None:
            lead, texts = f'<g data-attack="{escape(line.attack)}" data-epsilon=', [epsilon_text(x) for x in line.x]
            said = [f"{line.label}: {100 * y:.1f}{unit} at {text}" for y, text in zip(line.y, texts, strict=True)]
            marks = [
                f'{lead}"{text}">{mark}<title>{escape(words)}</title></g>'
                for text, mark, words in zip(texts, marks, said, strict=True)
            ]
        parts += marks
        parts.append("</g>")
    return "".join([*parts, "</svg>"])


@dataclass(frozen=True)
class Interval:
    """A row of a chart of intervals: an estimate with its ends, what it is of, and whether it is to be doubted."""

    label: str
    estimate: float
    low: float
    high: float
    strong: bool = False
    doubtful: bool = False


def interval_chart(title: str, rows: Sequence[Interval], unit: str = "points") -> str:
    """Estimates with intervals, one below the other, around a line at 0.

    Args:
        title: What a screen reader says first.
        rows: From top to bottom.
        unit: What values are in, already multiplied.
    """
    width, left, row_height = 820, 370, 26
    height = row_height * len(rows) + 34
    ends = [0.0, *(value for row in rows for value in (row.estimate, row.low, row.high) if np.isfinite(value))]
    low, high = min(ends), max(ends)
    room = 0.05 * (high - low or 1.0)
    across = _scale(low - room, high + room, left, width - 14)
    said = "; ".join(
        f"{row.label}: {row.estimate:+.2g}{_ends(row)} {unit}{', doubtful' * row.doubtful}" for row in rows
    )
    parts = [_open(title, said, width, height)]
    for value in _ticks(low - room, high + room):
        strong, x = ' class="zero"' if value == 0 else ' class="grid"', across(value)
        parts.append(f'<line{strong} x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{height - 28}"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{height - 12}" text-anchor="middle">{f"{value:+.3g}" if value else "0"}</text>'
        )
    for place, row in enumerate(rows):
        y = 18 + row_height * place
        text = row.label if len(row.label) <= LONGEST else row.label[: LONGEST - 1] + "…"
        marked = escape(text) + " †" * row.doubtful
        parts.append(f'<text x="{left - 12}" y="{y + 4}" text-anchor="end">{marked}</text>')
        x = across(row.estimate)
        parts.append(f'<g class="s{1 if row.strong else 0}{" hollow" * row.doubtful}">')
        if np.isfinite(row.low) and np.isfinite(row.high):
            parts.append(f'<line x1="{across(row.low):.1f}" x2="{across(row.high):.1f}" y1="{y}" y2="{y}"/>')
        parts.append(MARKS[1 if row.strong else 0](x, y) + "</g>")
    return "".join([*parts, "</svg>"])


def _ends(row: Interval) -> str:
    return f" ({row.low:+.2g} to {row.high:+.2g})" if np.isfinite([row.low, row.high]).all() else ""


def legend_mark(style: int) -> str:
    """The marker and dash of a line, for a legend in text."""
    return (
        f'<svg class="mark s{style % 5}" viewBox="0 0 34 14" width="34" height="14" aria-hidden="true">'
        f'<polyline points="1,7 33,7"/>{_mark(style)(17, 7)}</svg>'
    )


def _mark(style: int) -> Callable[[float, float], str]:
    """The marker of a line: colours and dashes repeat after five, with other markers."""
    return MARKS[(style + style // 5) % 5]


def _open(title: str, said: str, width: int, height: int) -> str:
    return (
        f'<svg role="img" viewBox="0 0 {width} {height}" preserveAspectRatio="xMidYMid meet" '
        f'aria-label="{escape(title)}. {escape(said)}">'
    )


def _said(line: Line, unit: str) -> str:
    first, last = (f"{100 * line.y[end]:.0f}{unit} at {line.x[end]:.3g}" for end in (0, -1))
    return f"{line.label}: from {first} to {last}"


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (min(max(value, low), high) - low) / (high - low) * (end - start)


def _points(pairs: object) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in pairs)  # type: ignore[attr-defined]


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers from one to the other."""
    step = 10.0 ** np.floor(np.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if (high - low) / (factor * step) <= 6)
    first = int(np.ceil(low / step - 1e-9))
    return [round(step * number, 12) for number in range(first, int(np.floor(high / step + 1e-9)) + 1)]
