"""What differs between networks or ways of training over epsilon, drawn for a paper."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from salrob_tf.reports.effects import points_of
from salrob_tf.reports.figures import COLOURS, DASHES, MARKERS, plain, plainly, remove_spare
from salrob_tf.reports.parts import AXIS
from salrob_tf.results.comparison import Comparison
from salrob_tf.results.methods import MethodComparison

TOGETHER = 3  # lines with bands that can be told apart on one pair of axes


@plainly
def difference_curves(comparisons: Sequence[Comparison | MethodComparison], title: str = "") -> Figure:
    """The difference in robust accuracy over epsilon, a line for each comparison, with its 95 % interval.

    More than three have a panel each, with the same axes: their bands would hide each other.

    Of two networks it is that under the worst of all attacks, or the first; of ways of training that of the endpoint's
    attack, each epsilon corrected for all; where all seeds differ alike, as where no image stands, there is no band.

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
    lines = list(enumerate(comparisons, 1))  # styles of `robustness_curves`, whose first is what is subtracted
    parts = [lines] if len(lines) <= TOGETHER else [[line] for line in lines]
    columns = min(3, len(parts))
    rows = -(-len(parts) // columns)
    size = (5.6, 3.8) if len(parts) == 1 else (2.9 * columns, 2.4 * rows + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for panel, part in zip(panels, parts, strict=False):
        for number, each in part:
            _line(panel, each, number)
        panel.axhline(0, color="black", linewidth=0.6)
        panel.set_xlim(0, None)
        panel.grid(alpha=0.3)
        if len(parts) == 1:
            panel.legend()
        else:
            panel.set_title(panel.lines[0].get_label(), fontsize="medium")
    remove_spare(panels, len(parts), columns)
    alike = any(np.isnan(points_of(each)[1]).any() for each in comparisons)
    figure.supxlabel(f"{AXIS}\nbands: 95 %{', none where all seeds differ alike' * alike}", fontsize="medium")
    figure.supylabel("difference in points", fontsize="medium")
    figure.suptitle(title)
    return plain(figure)


def _line(axis: Axes, each: Comparison | MethodComparison, number: int) -> None:
    """Draw one comparison in the style of that number."""
    _, points = points_of(each)
    if not len(points):
        raise ValueError(f"Nothing above epsilon 0 was attacked. Received: {each.second} and {each.first}")
    x, y, low, high = points.T
    colour = COLOURS[number % len(COLOURS)]
    axis.fill_between(x, 100 * low, 100 * high, color=colour, alpha=0.18, linewidth=0)
    style = {"linestyle": DASHES[number % len(DASHES)], "marker": MARKERS[number % len(MARKERS)], "markersize": 4}
    axis.plot(x, 100 * y, color=colour, label=f"{each.second} minus {each.first}", **style)  # type: ignore[arg-type]
