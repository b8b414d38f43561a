"""Saliency quality, mechanism and checks, drawn for a paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from salrob_tf.checks import shown
from salrob_tf.reports.figures import COLOURS, MARKERS, plain, plainly
from salrob_tf.reports.parts import measures_of
from salrob_tf.results.evidence import Evidence
from salrob_tf.results.flags import SEVERITIES
from salrob_tf.results.measures import OverSeeds
from salrob_tf.results.robustness import Robustness


def _interval(axis: Axes, place: int, middle: float, low: float, high: float) -> None:
    sure = low > 0 or high < 0
    axis.plot([low, high], [place, place], color=COLOURS[1 if sure else 0])
    axis.plot(middle, place, marker="s" if sure else "o", color=COLOURS[1 if sure else 0], markersize=5)


@plainly
def measure_intervals(evidence: Evidence, title: str = "") -> Figure:
    """What was measured of two networks, second minus first, in standard deviations over images, with 95 % intervals.

    Args:
        evidence: With measures of two networks or more.
        title: What stands above.

    Raises:
        ValueError: If it has none.
    """
    found = measures_of(evidence)
    if found is None or found["chart"] is None:
        raise ValueError(f"There must be measures of two networks. Received: those of {shown(list(evidence.measures))}")
    rows = [row for row in found["rows"] if np.isfinite(row.difference)][::-1]
    figure = Figure(figsize=(7.4, 0.3 * len(rows) + 1.3), layout="constrained")
    axis = figure.subplots()
    for place, row in enumerate(rows):
        _interval(axis, place, row.difference, row.low, row.high)
    axis.axvline(0, color="black", linewidth=0.6)
    axis.set_yticks(range(len(rows)), [row.name for row in rows], fontsize="small")
    first, second = found["networks"][:2]
    axis.set_xlabel(f"{second} minus {first}, standard deviations over images; squares: not zero (95 %)")
    axis.grid(axis="x", alpha=0.3)
    figure.suptitle(title)
    return plain(figure)


@plainly
def removal_curves(accuracies: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], title: str = "") -> Figure:
    """Accuracy without the most salient pixels, solid, and without the least, dashed (Ismail et al. 2021, Figure 3).

    Args:
        accuracies: By name, the fractions removed `(F,)`, and whether each image is classified correctly without its
            most and without its least salient pixels, boolean `(F, N)` each: as `removal` gives them.
        title: What stands above.

    Raises:
        ValueError: If there are none.
    """
    if not accuracies:
        raise ValueError("A figure needs one curve or more. Received: none")
    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    axis = figure.subplots()
    for number, (name, (fractions, most, least)) in enumerate(accuracies.items()):
        style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)], "markersize": 4}
        axis.plot(fractions, most.mean(axis=1), label=f"{name}, most salient", **style)  # type: ignore[arg-type]
        axis.plot(fractions, least.mean(axis=1), linestyle="--", label=f"{name}, least salient", **style)  # type: ignore[arg-type]
    axis.set(xlabel="share of pixels removed", ylabel="accuracy", xlim=(0, 1), ylim=(-0.02, 1.02))
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    figure.suptitle(title)
    return plain(figure)


@plainly
def seed_intervals(rows: Sequence[OverSeeds], title: str = "") -> Figure:
    """What was measured of ways of training, minus the first way's, a panel each, with 95 % intervals over seeds.

    Args:
        rows: From `over_seeds`, or read from a study's `measures.csv` with `over_seeds(load_means(path))`.
        title: What stands above.

    Raises:
        ValueError: If there are none, or of one way of training alone.
    """
    if not rows or not rows[0].differences:
        raise ValueError(f"There must be measures of two ways of training. Received: {shown(list(rows))}")
    ways = list(rows[0].differences)
    columns = min(3, len(rows))
    lines = -(-len(rows) // columns)
    size = (4.4 * columns, lines * (0.24 * len(ways) + 0.75) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for panel, row in zip(panels, rows, strict=False):
        for place, way in enumerate(ways):
            _interval(panel, place, *row.differences[way])
        panel.axvline(0, color="black", linewidth=0.6)
        panel.set_yticks(range(len(ways)), ways, fontsize="small")
        panel.set_ylim(len(ways) - 0.5, -0.5)
        panel.set_title(row.name, fontsize="small")
        panel.tick_params(axis="x", labelsize="x-small")
    for panel in panels[len(rows) :]:
        panel.remove()
    first = next((next(iter(row.means)) for row in rows if row.means), "the first")
    figure.supxlabel(f"against {first}; bars: 95 % over seeds (Student), squares: not zero", fontsize="small")
    figure.suptitle(title)
    return plain(figure)


@plainly
def agreement_grid(evidence: Evidence, title: str = "") -> Figure:
    """How far metrics of saliency maps rank images alike: rank correlations, mean over networks, in numbers and colour.

    Args:
        evidence: With two metrics or more.
        title: What stands above.

    Raises:
        ValueError: If it has fewer.
    """
    count = len(evidence.quality)
    if count < 2:
        raise ValueError(f"There must be two metrics of saliency maps. Received: {shown(list(evidence.quality))}")
    figure = Figure(figsize=(0.5 * count + 4.2, 0.42 * count + 3.0), layout="constrained")
    axis = figure.subplots()
    drawn = axis.imshow(evidence.agreement, cmap="RdBu_r", vmin=-1, vmax=1)
    for (row, column), value in np.ndenumerate(evidence.agreement):
        colour = "white" if abs(value) > 0.6 else "black"
        axis.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize="x-small", color=colour)
    axis.set_yticks(range(count), evidence.quality, fontsize="small")
    axis.set_xticks(range(count), evidence.quality, fontsize="small", rotation=45, ha="right")
    figure.colorbar(drawn, ax=axis, shrink=0.7, label="rank correlation over images")
    figure.suptitle(title)
    return plain(figure)


@plainly
def check_grid(results: Sequence[Robustness], title: str = "") -> Figure:
    """What checks say of each network under each attack, in a word, and below it the flags that say so.

    Args:
        results: Of the same attacks.
        title: What stands above.

    Raises:
        ValueError: If there are none, or of other attacks.
    """
    if not results or any(list(each.correct) != list(results[0].correct) for each in results):
        received = [list(each.correct) for each in results]
        raise ValueError(f"There must be results of one or more networks, of the same attacks. Received: {received}")
    attacks = list(results[0].correct)
    figure = Figure(figsize=(2.0 * len(attacks) + 1.6, 0.55 * len(results) + 0.9), layout="constrained")
    axis = figure.subplots()
    shade = np.zeros((len(results), len(attacks)))
    for row, result in enumerate(results):
        for column, attack in enumerate(attacks):
            doubt = result.doubt(attack)
            shade[row, column] = SEVERITIES.index(doubt) if doubt else 0
            flags = [flag.id for flag in result.flags if flag.withholds and flag.attack in (None, attack)]
            said = "\n".join([result.trust(attack), ", ".join(dict.fromkeys(flags))]).strip()
            axis.text(column, row, said, ha="center", va="center", fontsize="x-small")
    axis.imshow(shade, cmap="Oranges", vmin=0, vmax=4, aspect="auto")
    axis.set_xticks(range(len(attacks)), [attack.upper() for attack in attacks], fontsize="small")
    axis.set_yticks(range(len(results)), [result.model for result in results], fontsize="small")
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    figure.suptitle(title)
    return plain(figure)
