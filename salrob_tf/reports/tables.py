"""Tables for people (Karkehabadi 2023, Table 1)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from salrob_tf.checks import check_choice, epsilon_text, shown
from salrob_tf.results.alike import check_groups
from salrob_tf.results.costs import Member
from salrob_tf.results.measures import OverSeeds
from salrob_tf.results.robustness import Robustness
from salrob_tf.results.spread import spread

# Karkehabadi 2023, Table 1: name, test accuracy of the regular and of the guided network, after 100 epochs.
PAPER_TABLE_1 = {"mnist": ("MNIST", 0.993, 0.988), "cifar10": ("CIFAR-10", 0.828, 0.822)}


def table1(data_name: str, correct: Mapping[str, Sequence[np.ndarray]], paper: str | None = None) -> str:
    """Karkehabadi's Table 1, test accuracies, as Markdown.

    Args:
        data_name: What the data is called.
        correct: Per network, for each seed, whether each test image is classified correctly, boolean `(N,)`.
        paper: Key of `PAPER_TABLE_1` for a line with the paper's own figures.

    Returns:
        A Markdown table with what `spread` gives, and a line that says what the brackets are.

    Raises:
        ValueError: If there are no outcomes, or the paper has no such line.
    """
    if not isinstance(data_name, str):
        raise ValueError(f"`data_name` must be text. Received: data_name={shown(data_name)}")
    valid = isinstance(correct, Mapping) and correct and all(isinstance(one, list | tuple) for one in correct.values())
    outcomes = [outcome for one in correct.values() for outcome in one] if valid else []
    if not valid or not all(correct.values()) or not all(_is_outcome(outcome) for outcome in outcomes):
        raise ValueError(
            "`correct` must be a dictionary from names to lists of booleans (N,), one image or more. "
            f"Received: correct={shown(correct)}"
        )
    rows = [["data", *correct]]
    rows.append([data_name, *(_cell(outcomes) for outcomes in correct.values())])
    if paper is not None:
        name, *accuracies = PAPER_TABLE_1[check_choice("paper", paper, PAPER_TABLE_1)]
        rows.append([f"{name} in the paper", *(f"{accuracy:.1%}" for accuracy in accuracies)])
    return markdown_table(rows) + _brackets(correct)


def first_table(text: str) -> list[list[str]]:
    """The cells of the first table of a Markdown text as it is written here, row by row, its head first."""
    rows: list[list[str]] = []
    for line in text.split("\n"):
        if line.startswith("| "):
            rows.append([cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif rows:
            break
    return [*rows[:1], *rows[2:]]


def measures_table(rows: Sequence[OverSeeds]) -> str:
    """What was measured of ways of training, and its differences to the first over paired seeds, as Markdown.

    Args:
        rows: What `over_seeds` gives, one or more.
    """
    head = ["measure", *rows[0].means, *(f"{way}, difference" for way in rows[0].differences)]
    cells = [
        [
            row.name,
            *(f"{row.means[way].mean:.3g}" if row.means else "" for way in rows[0].means),
            *map(str, row.differences.values()),
        ]
        for row in rows
    ]
    return (
        markdown_table([head, *cells])
        + "\nIn brackets: 95 % over paired seeds (Student's t), not corrected for how many measures there are.\n"
    )


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as a Markdown table, the first row as its head."""
    head, *others = ([" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *others)) + "\n"


def robustness_table(groups: Mapping[str, Sequence[Robustness]]) -> str:
    """Accuracy of each network, clean and under each attack at each epsilon, on the same images, as Markdown.

    Example:
        >>> result = sr.evaluate(network, images, labels, "fgsm", [0.05, 0.1])
        >>> print(sr.robustness_table({"mine": [result]}))  # doctest: +ELLIPSIS
        | attack | epsilon | mine |
        | --- | --- | --- |
        | none | 0 | ...% [...] |
        | FGSM | 0.05 | ...% [...] |
        | FGSM | 0.1 | ...% [...] |
        <BLANKLINE>
        In brackets: 95 % over 64 images (Wilson).
        <BLANKLINE>

    Args:
        groups: Per network, its results, one per seed, on the same attacks and epsilons.

    Returns:
        A Markdown table, its cells those of `table1`. A dagger marks what is doubtful or not to be believed; lines
        below say why. Of several attacks there are rows with what none of them broke, and a table with the accuracy
        after each attack and those before it, and what it cost; and so of each ensemble.

    Raises:
        ValueError: If there are no results, or they are not of the same attacks, epsilons and images.
    """
    first = check_groups(groups)
    rows = [["attack", "epsilon", *groups]]
    rows.append(["none", "0", *(_cell([result.clean for result in results]) for results in groups.values())])
    for attack in first.curves:
        left = {name: [result.curves[attack] for result in results] for name, results in groups.items()}
        for k, epsilon in enumerate(first.epsilons):
            cells = (
                _cell([matrix[k] for matrix in left[name]])
                + (" †" if any(result.doubt(attack) for result in results) else "")
                for name, results in groups.items()
            )
            rows.append([attack.upper(), epsilon_text(epsilon), *cells])
    doubts = [
        f"† {result.model}{'' if flag.attack is None else ', ' + flag.attack.upper()}: {flag.meaning} "
        f"({flag.severity}). {flag.remedy}."
        for results in groups.values()
        for result in results
        for flag in result.flags
        if flag.withholds
    ]
    clean = {name: [result.clean for result in results] for name, results in groups.items()}
    every = [result for results in groups.values() for result in results]
    costs = [_after_each(result.model, result, result.after_each) for result in every if result.after_each]
    for result in every:
        for label, members in result.members.items():
            costs.append(_after_each(f"{result.model}, {label.upper()}", result, members, timed=True))
    audits = [f"{each.model}, {label.upper()}: {audit}." for each in every for label, audit in each.audits.items()]
    looked = [f"{each.model}, {each.checks}." for each in every if each.looked_at]
    below = (f"{line}\n" for line in (*doubts, *audits, *looked))
    return "\n".join([markdown_table(rows) + _brackets(clean), *below, *costs])


def _after_each(who: str, result: Robustness, members: Sequence[Member], timed: bool = False) -> str:
    """What was left after each attack, and its costs; with seconds where the same run may give another table."""
    rows = [[f"{who}, after", *map(epsilon_text, result.epsilons), "gradients", "forward passes"] + ["seconds"] * timed]
    for member in members:
        passes = (f"{number:,}" for number in (member.costs.gradient_evaluations, member.costs.forward_evaluations))
        accuracies = (f"{accuracy:.1%}" for accuracy in member.accuracy)
        rows.append([member.attack.upper(), *accuracies, *passes] + [f"{member.costs.seconds:.1f}"] * timed)
    return markdown_table(rows)


def _is_outcome(outcome: Any) -> bool:
    return isinstance(outcome, np.ndarray) and outcome.ndim == 1 and outcome.dtype == bool and outcome.size > 0


def _cell(outcomes: Sequence[np.ndarray]) -> str:
    shown = spread(outcomes)
    return f"{shown.mean:.1%} [{100 * shown.low:.1f}, {100 * shown.high:.1f}]"


def _brackets(correct: Mapping[str, Sequence[np.ndarray]]) -> str:
    kinds = dict.fromkeys(spread(outcomes).kind for outcomes in correct.values())
    return f"\nIn brackets: {'; '.join(kinds)}.\n"
