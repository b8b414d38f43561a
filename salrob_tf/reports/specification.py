"""The effect over all choices of a study at once: a specification curve (Simonsohn, Simmons and Nelson 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from salrob_tf.checks import epsilon_text, shown
from salrob_tf.reports.effects import varied
from salrob_tf.reports.figures import COLOURS, plain, plainly
from salrob_tf.results.methods import LESS, MORE, MethodComparison

COLOUR_OF = {MORE: COLOURS[2], LESS: COLOURS[1]}  # of outcomes; grey of the others


@plainly
def specification_curve(
    comparisons: Sequence[MethodComparison], choices: Mapping[str, Mapping[str, Any]], title: str = ""
) -> Figure:
    """The difference of each way of training to the first, sorted, with what each choice was below.

    Args:
        comparisons: The first way compared with each other.
        choices: For the name of each other way, what was chosen, by what is chosen; shown is what is not the same
            for all of them.
        title: What stands above.

    Returns:
        A matplotlib figure: above the differences of the endpoint with their 95 % intervals, green where the way is
        more and red where it is less robust; below a row for each value of each choice, with a mark where it was so.

    Raises:
        ValueError: If there are no comparisons, or choices of one are missing.
    """
    if not comparisons or any(each.second not in choices for each in comparisons):
        raise ValueError(
            "There must be one comparison or more, and choices for each. "
            f"Received: {shown([each.second for each in comparisons])}, choices for {shown(list(choices))}"
        )
    ordered = sorted(comparisons, key=lambda each: each.endpoint.estimate)
    every = varied([choices[each.second] for each in ordered])
    rows = [(key, value) for key, values in every.items() for value in values]
    height = 2.6 + 0.24 * max(1, len(rows))
    figure = Figure(figsize=(max(5.0, 0.32 * len(ordered) + 3), height + 0.6), layout="constrained")
    heights = [2.6, max(0.01, 0.24 * len(rows))]
    upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": heights})
    places = np.arange(len(ordered))
    for place, each in zip(places, ordered, strict=True):
        colour = COLOUR_OF.get(each.outcome, "#777777")
        if each.varies:  # or nothing tells how far it may be off
            low, high = each.endpoint.interval()
            upper.plot([place, place], [100 * low, 100 * high], color=colour, linewidth=1.2)
        upper.plot(place, 100 * each.endpoint.estimate, "o" if each.outcome in COLOUR_OF else "s", color=colour, ms=4)
    upper.axhline(0, color="black", linewidth=0.6)
    first = ordered[0]
    upper.set_ylabel(f"difference to {first.first},\npoints of robust accuracy")
    upper.grid(axis="y", alpha=0.3)
    for row, (key, value) in enumerate(rows):
        where = [place for place, each in zip(places, ordered, strict=True) if choices[each.second].get(key) == value]
        lower.plot(where, [row] * len(where), "|", color="black", ms=8)
    lower.set_yticks(range(len(rows)), [f"{key} = {value}" for key, value in rows], fontsize="x-small")
    lower.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    lower.set_xticks([])
    seeds = sorted({each.seeds for each in ordered})
    how_many = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    figure.supxlabel(
        f"averaged over epsilon from 0 to {epsilon_text(first.epsilons[-1])}; bars: 95 % over {how_many} seeds and "
        f"{first.images} images",
        fontsize="small",
    )
    figure.suptitle(title)
    return plain(figure)
