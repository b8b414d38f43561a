"""The paper's figures (Karkehabadi 2023, Figures 1 to 3) and saliency maps side by side, drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from salrob_tf.checks import epsilon_text, shown
from salrob_tf.files import written_beside
from salrob_tf.results.alike import check_groups
from salrob_tf.results.robustness import WORST, Robustness
from salrob_tf.results.spread import spread

# Okabe and Ito's colours, which stay apart for colour-blind readers; markers and dashes tell lines apart without them.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":")

plainly = style.context("default")  # whatever a matplotlibrc says: one that asks for LaTeX fails without it


def remove_spare(panels: np.ndarray, count: int, columns: int) -> None:
    """Remove panels after the first `count`; what stands above them shows the numbers of the axis that all share."""
    for panel in panels[count:]:
        panel.remove()
    for panel in panels[max(0, count - columns) : count]:
        panel.tick_params(labelbottom=True)


@plainly
def robustness_curves(groups: Mapping[str, Sequence[Robustness]], title: str = "") -> Figure:
    """Accuracy against epsilon, a panel per attack, with a band (Karkehabadi 2023, Figures 1, 2); epsilon 0 is clean.

    Of several attacks, what none of them broke is a dotted line in each panel. Bands are what `spread` gives, which a
    line below the panels says. Curves that are doubtful or not to be believed have hollow markers and a dagger, and
    their panel says so.

    Example:
        >>> result = sr.evaluate(network, images, labels, ["fgsm", "pgd"], [0.05, 0.1], steps=5)
        >>> figure = sr.robustness_curves({"mine": [result]}, "64 images")

    Args:
        groups: Per line of the legend, the results of one network, or of networks trained alike from several seeds,
            whose mean is drawn and, thin, each seed. All on the same attacks and epsilons.
        title: What stands above the panels.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: If there are no results, or they are not of the same attacks, epsilons and images.
    """
    attacks = list(check_groups(groups).correct)
    columns = min(len(attacks), 2)
    rows = -(-len(attacks) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.5 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for panel, attack in zip(panels, attacks, strict=False):
        doubts = []
        for number, (label, results) in enumerate(groups.items()):
            marked = any(result.doubt(each) for result in results for each in attacks)
            _curve(panel, results, attack, label + " †" * marked, number)
            if len(attacks) > 1:
                _mean(panel, results, WORST, color=COLOURS[number % len(COLOURS)], linestyle=":", linewidth=0.9)
            doubts += [f"† {result.model}: {doubt}" for result in results if (doubt := result.doubt(attack))]
        panel.text(0.02, 0.02, "\n".join(doubts), transform=panel.transAxes, fontsize="x-small", va="bottom")
        panel.set_title(_attack_title(results[0], attack))
        panel.set_ylim(-0.02, 1.02)
        panel.grid(alpha=0.3)
        panel.yaxis.set_major_formatter("{x:.0%}")
    remove_spare(panels, len(attacks), columns)
    first = figure.axes[0]
    first.legend(loc="best")
    kinds = dict.fromkeys(spread([result.clean for result in results]).kind for results in groups.values())
    dotted = "; dotted: the worst of all attacks" * (len(attacks) > 1)
    figure.supxlabel(f"epsilon, for images in [0, 1]\nbands: {'; '.join(kinds)}{dotted}", fontsize="medium")
    figure.supylabel("accuracy")
    figure.suptitle(title)
    return plain(figure)


@plainly
def adversarial_grid(
    adversarial: Mapping[str, np.ndarray],
    predicted: Mapping[str, np.ndarray],
    labels: np.ndarray,
    epsilons: Sequence[float] | np.ndarray,
    class_names: Sequence[str],
    title: str = "",
) -> Figure:
    """Adversarial images with the predicted class under each, epsilon growing downward (Karkehabadi 2023, Figure 3).

    Args:
        adversarial: Per network, from left to right, its images `(K, N, height, width, channels)`, in [0, 1].
        predicted: Per network, the classes it predicts for them, `(K, N)`.
        labels: True labels `(N,)`; a prediction that differs is written in red and between exclamation marks.
        epsilons: The K radii, ascending.
        class_names: Name of each class.
        title: What stands above.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: If there is no network, image or epsilon.
    """
    _check_some(networks=adversarial, labels=labels, epsilons=epsilons)
    count = len(labels)
    figure = Figure(figsize=(1.05 * count * len(adversarial) + 0.8, 1.25 * len(epsilons) + 0.9), layout="constrained")
    blocks = figure.subfigures(1, len(adversarial), wspace=0.03, squeeze=False)[0]
    for block, network in zip(blocks, adversarial, strict=True):
        block.suptitle(network)
        axes = block.subplots(len(epsilons), count, squeeze=False)
        for k, epsilon in enumerate(epsilons):
            for n, label in enumerate(labels):
                show_image(axes[k, n], adversarial[network][k, n])
                found = predicted[network][k, n]
                name, right = class_names[found], found == label
                axes[k, n].set_xlabel(
                    name if right else f"! {name} !", color="black" if right else "#C00000", labelpad=2
                )
            axes[k, 0].set_ylabel(f"ε = {epsilon_text(epsilon)}")
    figure.suptitle(f"{title}\nbelow each image the class predicted; ! red ! where it is not the true one".strip())
    return plain(figure)


@plainly
def saliency_grid(
    images: np.ndarray,
    maps: Mapping[str, np.ndarray],
    labels: np.ndarray,
    class_names: Sequence[str],
    title: str = "",
) -> Figure:
    """Images and their saliency maps, one row per image and one column per kind of map, on one colour scale.

    Args:
        images: `(N, height, width, channels)`, in [0, 1].
        maps: Per column, signed maps in the shape of the images; channels are averaged for display.
        labels: True labels `(N,)`.
        class_names: Name of each class.
        title: What stands above.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: If there is no image or map.
    """
    _check_some(images=images, maps=maps)
    flat = {name: values.mean(axis=-1) for name, values in maps.items()}
    # A few extreme pixels would wash everything out; the colour bar shows that values go on beyond it.
    limit = float(np.quantile(np.abs(np.stack(list(flat.values()))), 0.995)) or 1.0
    figure = Figure(figsize=(1.7 * (len(maps) + 1) + 0.6, 1.55 * len(images) + 0.9), layout="constrained")
    axes = figure.subplots(len(images), len(maps) + 1, squeeze=False)
    for n, (row, label) in enumerate(zip(axes, labels, strict=True)):
        show_image(row[0], images[n])
        row[0].set_ylabel(class_names[label])
        for axis, values in zip(row[1:], flat.values(), strict=True):
            drawn = axis.imshow(values[n], cmap="RdBu_r", vmin=-limit, vmax=limit)
            axis.set(xticks=[], yticks=[])
    for axis, name in zip(axes[0], ["image", *maps], strict=True):
        axis.set_title(name, fontsize="medium")
    figure.colorbar(drawn, ax=axes, extend="both", shrink=0.6, label="gradient of the label's logit")
    figure.suptitle(title)
    return plain(figure)


@plainly
def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure, whole or not at all: as PNG, or as SVG or PDF where the name ends in `.svg` or `.pdf`.

    The same figure gives the same bytes. The texts of an SVG stay texts, which can be searched and read aloud.

    Example:
        >>> result = sr.evaluate(network, images, labels, "fgsm", [0.05, 0.1])
        >>> sr.save_figure(sr.robustness_curves({"mine": [result]}), "curves.png")

    Raises:
        ValueError: If `path` is not that of a file.
    """
    if not isinstance(path, str | Path) or not Path(path).name or "\0" in str(path):
        raise ValueError(f"`path` must be the path of a file. Received: path={shown(path)}")
    kind = {".svg": "svg", ".pdf": "pdf"}.get(Path(path).suffix.lower(), "png")
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with written_beside(path) as beside, rc_context({"svg.hashsalt": "salrob_tf", "svg.fonttype": "none"}):
        figure.savefig(beside, dpi=130, format=kind, metadata=undated)


def show_image(axis: Axes, image: np.ndarray) -> None:
    """Show one image `(height, width, channels)` in [0, 1] without ticks, grey unless it has three channels."""
    axis.imshow(image if image.shape[-1] == 3 else image.mean(axis=-1), cmap="gray", vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[])


def _check_some(**parts: Sized) -> None:
    if empty := [name for name, part in parts.items() if not len(part)]:
        raise ValueError(f"A figure needs one or more of {', '.join(parts)}. Received: no {empty[0]}")


def plain(figure: Figure) -> Figure:
    """The figure with all texts shown as they are: names may hold what matplotlib takes for formulas."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    return figure


def _curve(panel: Axes, results: Sequence[Robustness], attack: str, label: str, number: int) -> None:
    colour = COLOURS[number % len(COLOURS)]
    epsilons, order = np.unique([0.0, *results[0].epsilons], return_index=True)
    correct = np.stack([np.vstack([result.clean, result.correct[attack]])[order] for result in results])
    spreads = [spread(list(correct[:, k])) for k in range(len(epsilons))]
    mean, low, high = np.transpose([(shown.mean, shown.low, shown.high) for shown in spreads])
    if len(results) > 1:
        each = np.pad(correct.mean(axis=2), ((0, 0), (0, 1)), constant_values=np.nan)  # one line with gaps: a small SVG
        along = np.tile(np.append(epsilons, np.nan), len(results))
        panel.plot(along, each.flatten(), color=colour, linewidth=0.6, alpha=0.5)
    panel.fill_between(epsilons, low, high, color=colour, alpha=0.18, linewidth=0)
    doubtful = any(result.doubt(attack) for result in results)
    panel.plot(
        epsilons,
        mean,
        color=colour,
        linestyle=DASHES[number % len(DASHES)],
        marker=MARKERS[number % len(MARKERS)],
        markersize=4,
        markerfacecolor="white" if doubtful else colour,
        label=label,
    )


def _mean(panel: Axes, results: Sequence[Robustness], attack: str, **style: Any) -> None:
    epsilons, order = np.unique([0.0, *results[0].epsilons], return_index=True)
    accuracy = [np.append(result.clean_accuracy, result.accuracy(attack))[order] for result in results]
    panel.plot(epsilons, np.mean(accuracy, axis=0), **style)


def _attack_title(result: Robustness, attack: str) -> str:
    steps = result.attacks[attack]["steps"]
    return attack.upper() if steps == 1 or attack in result.members else f"{attack.upper()}, {steps} steps"
