"""The paper's figures (K, Figures 1 to 3) and saliency maps side by side, drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from salrob_tf.files import written_beside
from salrob_tf.robustness import Robustness, accuracy_interval, epsilon_text

# Okabe and Ito's colours, which stay apart for colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def robustness_curves(groups: Mapping[str, Sequence[Robustness]], title: str = "") -> Figure:
    """Accuracy against epsilon, a panel per attack, with 95 % intervals (K, Figures 1 and 2); epsilon 0 is clean.

    Args:
        groups: Per line of the legend, the results of one network (intervals are Wilson's, over images) or of
            the same network trained from several seeds (means, Student's intervals over seeds; each seed is
            drawn too, thin). All on the same attacks and epsilons.
        title: What stands above the panels.

    Returns:
        A matplotlib figure.
    """
    attacks = list(next(iter(groups.values()))[0].correct)
    columns = min(len(attacks), 2)
    rows = -(-len(attacks) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.5 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for panel, attack in zip(panels, attacks, strict=False):
        for (label, results), colour in zip(groups.items(), _cycle(COLOURS), strict=False):
            _curve(panel, results, attack, label, colour)
        panel.set_title(_attack_title(results[0], attack))
        panel.set_ylim(-0.02, 1.02)
        panel.grid(alpha=0.3)
        panel.yaxis.set_major_formatter("{x:.0%}")
    for panel in panels[len(attacks) :]:
        panel.remove()
    first = figure.axes[0]
    first.legend(loc="best")
    figure.supxlabel("epsilon, for images in [0, 1]")
    figure.supylabel("accuracy")
    figure.suptitle(title)
    return figure


def adversarial_grid(
    adversarial: Mapping[str, np.ndarray],
    predicted: Mapping[str, np.ndarray],
    labels: np.ndarray,
    epsilons: Sequence[float] | np.ndarray,
    class_names: Sequence[str],
    title: str = "",
) -> Figure:
    """Adversarial images with the predicted class under each, epsilon growing downward (K, Figure 3).

    Args:
        adversarial: Per network, from left to right, its images `(K, N, height, width, channels)`, in [0, 1].
        predicted: Per network, the classes it predicts for them, `(K, N)`.
        labels: True labels `(N,)`; a prediction that differs is written in red.
        epsilons: The K radii, ascending.
        class_names: Name of each class.
        title: What stands above.

    Returns:
        A matplotlib figure.
    """
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
                axes[k, n].set_xlabel(class_names[found], color="black" if found == label else "#C00000", labelpad=2)
            axes[k, 0].set_ylabel(f"ε = {epsilon_text(epsilon)}")
    figure.suptitle(title)
    return figure


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
    """
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
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as a PNG file, whole or not at all."""
    with written_beside(path) as beside:
        figure.savefig(beside, dpi=130, format="png")


def show_image(axis: Axes, image: np.ndarray) -> None:
    """Show one image `(height, width, channels)` in [0, 1], grey or colour, without ticks."""
    axis.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[])


def _curve(panel: Axes, results: Sequence[Robustness], attack: str, label: str, colour: str) -> None:
    epsilons, order = np.unique([0.0, *results[0].epsilons], return_index=True)
    correct = np.stack([np.vstack([result.clean, result.correct[attack]])[order] for result in results])
    accuracy = correct.mean(axis=2)
    mean = accuracy.mean(axis=0)
    if len(results) == 1:
        low, high = np.transpose([accuracy_interval(outcomes) for outcomes in correct[0]])
    else:
        half = stats.t.ppf(0.975, len(results) - 1) * stats.sem(accuracy, axis=0)
        low, high = np.clip([mean - half, mean + half], 0, 1)
        panel.plot(epsilons, accuracy.T, color=colour, linewidth=0.6, alpha=0.5)
    panel.fill_between(epsilons, low, high, color=colour, alpha=0.18, linewidth=0)
    panel.plot(epsilons, mean, color=colour, marker="o", markersize=3.5, label=label)


def _attack_title(result: Robustness, attack: str) -> str:
    steps = result.attacks[attack]["steps"]
    return attack.upper() if steps == 1 else f"{attack.upper()}, {steps} steps"


def _cycle(colours: Sequence[str]) -> list[str]:
    return list(colours) * 8
