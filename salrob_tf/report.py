"""Tables for people (K, Table 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from salrob_tf.robustness import Robustness, accuracy_interval, epsilon_text

# K, Table 1: name, test accuracy of the regular and of the guided network, after 100 epochs.
PAPER_TABLE_1 = {"mnist": ("MNIST", 0.993, 0.988), "cifar10": ("CIFAR-10", 0.828, 0.822)}


def table1(data_name: str, correct: Mapping[str, Sequence[np.ndarray]], paper: str | None = None) -> str:
    """K's Table 1, test accuracies, as Markdown.

    Args:
        data_name: What the data is called.
        correct: Per network, for each seed, whether each test image is classified correctly, boolean `(N,)`.
        paper: Key of `PAPER_TABLE_1` for a line with the paper's own figures.

    Returns:
        A Markdown table. One seed has Wilson's 95 % interval, several have mean and standard deviation.
    """
    rows = [["data", *correct], ["---"] * (len(correct) + 1)]
    rows.append([data_name, *(_cell(outcomes) for outcomes in correct.values())])
    if paper:
        name, *accuracies = PAPER_TABLE_1[paper]
        rows.append([f"{name} in the paper", *(f"{accuracy:.1%}" for accuracy in accuracies)])
    return _markdown(rows)


def robustness_table(groups: Mapping[str, Sequence[Robustness]]) -> str:
    """Accuracy of each network under each attack at each epsilon, as Markdown.

    Args:
        groups: Per network, its results, one per seed, on the same attacks and epsilons.

    Returns:
        A Markdown table, its cells those of `table1`.
    """
    first = next(iter(groups.values()))[0]
    rows = [["attack", "epsilon", *groups], ["---"] * (len(groups) + 2)]
    for attack in first.correct:
        for k, epsilon in enumerate(first.epsilons):
            cells = (_cell([result.correct[attack][k] for result in results]) for results in groups.values())
            rows.append([attack.upper(), epsilon_text(epsilon), *cells])
    return _markdown(rows)


def _cell(outcomes: Sequence[np.ndarray]) -> str:
    accuracies = [correct.mean() for correct in outcomes]
    if len(outcomes) == 1:
        low, high = accuracy_interval(outcomes[0])
        return f"{accuracies[0]:.1%} [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{np.mean(accuracies):.1%} ± {100 * np.std(accuracies, ddof=1):.1f} ({len(outcomes)} seeds)"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"
