"""What differs between networks or ways of training, over epsilon and in what was measured, drawn for a paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from salrob_tf.checks import shown
from salrob_tf.reports.effects import points_of
from salrob_tf.reports.figures import COLOURS, DASHES, MARKERS, plain, plainly
from salrob_tf.reports.parts import AXIS, measures_of
from salrob_tf.results.comparison import Comparison
from salrob_tf.results.evidence import Evidence
from salrob_tf.results.methods import MethodComparison


@plainly
def difference_curves(comparisons: Sequence[Comparison | MethodComparison], title: str = "") -> Figure:
    """The difference in robust accuracy over epsilon, a line for each comparison, with its 95 % interval.

    Of two networks it is that under the worst of all attacks, or the first; of ways of training that of the endpoint's
    attack, each epsilon corrected for all.

    Example:
        >>> first, second = (sr.evaluate(network, images, labels, "fgsm", 0.1, name=name) for name in ("one", "two"))
        >>> figure = sr.difference_curves([sr.compare(first, second)])

    Args:
        comparisons: From `compare` or `compare_methods`, one or more.
        title: What stands above.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: If there is none, or nothing above epsilon 0 was attacked.
    """
    if not comparisons:
        raise ValueError("A figure needs one comparison or more. Received: none")
    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    axis = figure.subplots()
    for number, each in enumerate(comparisons):
        _, points = points_of(each)
        if not len(points):
            raise ValueError(f"Nothing above epsilon 0 was attacked. Received: {each.second} and {each.first}")
        x, y, low, high = points.T
        colour = COLOURS[number % len(COLOURS)]
        axis.fill_between(x, 100 * low, 100 * high, color=colour, alpha=0.18, linewidth=0)
        style = {"linestyle": DASHES[number % len(DASHES)], "marker": MARKERS[number % len(MARKERS)], "markersize": 4}
        axis.plot(x, 100 * y, color=colour, label=f"{each.second} minus {each.first}", **style)  # type: ignore[arg-type]
    axis.axhline(0, color="black", linewidth=0.6)
    axis.set(xlabel=f"{AXIS}; bands: 95 %", ylabel="difference in points", xlim=(0, None))
    axis.grid(alpha=0.3)
    axis.legend()
    figure.suptitle(title)
    return plain(figure)


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
        sure = row.low > 0 or row.high < 0
        axis.plot([row.low, row.high], [place, place], color=COLOURS[1 if sure else 0])
        axis.plot(row.difference, place, marker="s" if sure else "o", color=COLOURS[1 if sure else 0], markersize=5)
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
