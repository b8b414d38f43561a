"""What differs between networks or ways of training over epsilon, drawn for a paper."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from salrob_tf.reports.effects import points_of
from salrob_tf.reports.figures import COLOURS, DASHES, MARKERS, plain, plainly
from salrob_tf.reports.parts import AXIS
from salrob_tf.results.comparison import Comparison
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
    for number, each in enumerate(comparisons, 1):  # styles of `robustness_curves`, whose first is what is subtracted
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
