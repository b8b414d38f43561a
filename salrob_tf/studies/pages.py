"""The report's page of folders of results, whoever wrote them."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from salrob_tf.files import read_json_object
from salrob_tf.reports.page import DOWNLOADS, report
from salrob_tf.results.alike import check_comparable
from salrob_tf.results.comparison import Comparison, compare
from salrob_tf.results.evidence import Evidence, load_evidence
from salrob_tf.results.measures import OverSeeds, load_means, over_seeds
from salrob_tf.results.methods import MethodComparison, compare_methods
from salrob_tf.results.robustness import Robustness
from salrob_tf.results.storage import load_results, save_results

EVIDENCE = "evidence.npz"
MEANS = "measures.csv"
NOTHING_SEEN = "No images and no measures here"


def page_of_folders(folders: Sequence[Path]) -> str:
    """The page of what one or more folders hold, all on the same images.

    Raises:
        ValueError: If a folder holds no results, or is on other images, attacks or epsilons than the first.
    """
    every: list[Robustness] = []
    for folder in folders:
        for result in load_results(folder):
            taken = {each.model for each in every}
            name = result.model if result.model not in taken else f"{folder.name} {result.model}"
            if name in taken:
                raise ValueError(f"Each folder once. Received: {' '.join(map(str, folders))}")
            every.append(replace(result, model=name))
            try:
                check_comparable(every[0], every[-1])
            except ValueError as error:
                raise ValueError(f"{folder} is not alike {folders[0]}: {error}") from error
    first, missing, evidence = folders[0], [], None
    if (first / EVIDENCE).is_file():
        evidence = load_evidence(first / EVIDENCE)
    else:
        missing.append(f"{NOTHING_SEEN}: {first} has no {EVIDENCE}, which reproduce.py writes.")
    record = read_json_object(first / "results.json", "the results.json of an evaluation", "evaluate again")
    files = {name: (first / name).read_bytes() for name in DOWNLOADS if (first / name).is_file()}
    groups = groups_of(every)
    shown = {result.model for results in groups.values() for result in results}
    if left := [result.model for result in every if result.model not in shown]:
        missing.append(f"Left out, because not all ways of training have their seeds: {', '.join(left)}.")
    seeds = over_seeds(load_means(first / MEANS)) if (first / MEANS).is_file() else ()
    return report(groups, compare_groups(groups), record, evidence, files, missing, seeds)


def page_of_results(
    groups: Mapping[str, Sequence[Robustness]],
    comparisons: Sequence[Comparison | MethodComparison],
    evidence: Evidence | None = None,
    seeds: Sequence[OverSeeds] = (),
    **saved: Any,
) -> str:
    """The page of results that are not written yet.

    Args:
        groups: By name, the results of one network, or of networks trained alike from several seeds.
        comparisons: How they differ.
        evidence: What is to be seen of them, if anything.
        seeds: What was measured of them, over seeds.
        **saved: As for `save_results`.
    """
    every = [result for results in groups.values() for result in results]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        save_results(folder, every, comparisons=comparisons, **saved)
        record = read_json_object(folder / "results.json", "results", "")
        files = {name: (folder / name).read_bytes() for name in ("results.json", "correct.npz")}
    missing = [] if evidence else [f"{NOTHING_SEEN}."]
    return report(groups, comparisons, record, evidence, files, missing, seeds)


def groups_of(results: Sequence[Robustness]) -> dict[str, list[Robustness]]:
    """Networks called `<kind>-<seed>` by kind, in the order of the seeds that all kinds have; others each by itself."""
    named = [re.fullmatch(r"(.+)-(\d+)", result.model) for result in results]
    kinds: dict[str, dict[int, Robustness]] = {}
    for match, result in zip(named, results, strict=True):
        if match:
            kinds.setdefault(match[1], {})[int(match[2])] = result
    common = set.intersection(*(set(seeds) for seeds in kinds.values())) if kinds else set()
    if not all(named) or len(kinds) < 2 or len(common) < 2:
        return {result.model: [result] for result in results}
    return {kind: [seeds[seed] for seed in sorted(common)] for kind, seeds in kinds.items()}


def compare_groups(groups: Mapping[str, Sequence[Robustness]]) -> list[Comparison | MethodComparison]:
    """The first compared with each other: as ways of training where there are several seeds, else as two networks."""
    first, *others = groups
    if len(groups[first]) > 1:
        return [compare_methods({first: groups[first], other: groups[other]}) for other in others]
    return [compare(groups[first][0], groups[other][0]) for other in others]
