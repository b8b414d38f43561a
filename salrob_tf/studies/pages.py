"""The report's page of folders of results, whoever wrote them."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from salrob_tf.files import read_json_object
from salrob_tf.reports.page import DOWNLOADS, report
from salrob_tf.results.alike import check_comparable
from salrob_tf.results.comparison import Comparison, compare
from salrob_tf.results.evidence import Evidence, load_evidence
from salrob_tf.results.measures import OverSeeds, load_means, over_seeds
from salrob_tf.results.methods import MethodComparison, compare_methods
from salrob_tf.results.robustness import Robustness
from salrob_tf.results.storage import load_results, save_results
from salrob_tf.studies.names import is_inside

EVIDENCE = "evidence.npz"
MEANS = "measures.csv"
MOST_NAMED = 8  # files that are not there

T = TypeVar("T")


def page_of_folders(folders: Sequence[Path]) -> str:
    """The page of what one or more folders hold, all on the same images.

    Raises:
        ValueError: If a folder holds no results, or is on other images, attacks or epsilons than the first.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError(f"Each folder once. Received: {' '.join(map(str, folders))}")
    every: list[Robustness] = []
    for folder in folders:
        for result in load_results(folder):
            taken = {each.model for each in every}
            name = result.model if result.model not in taken else f"{folder.name} {result.model}"
            if name in taken:
                raise ValueError(f"Two networks of one name need folders of different names. Received: {folder}")
            every.append(replace(result, model=name))
            try:
                check_comparable(every[0], every[-1])
            except ValueError as error:
                raise ValueError(f"{folder} is not alike {folders[0]}: {error}") from error
    first = folders[0]
    record = read_json_object(first / "results.json", "the results.json of an evaluation", "evaluate again")
    files = {name: (first / name).read_bytes() for name in DOWNLOADS if (first / name).is_file()}
    groups = groups_of(every)
    missing: list[str] = []
    seeds = _if_there(partial(_seeds_of, first, every), "Nothing over seeds here: ", missing) or ()
    evidence = _if_there(partial(_evidence_of, first, every), f"{_unseen(seeds)}: ", missing)
    missing += _not_there(first, record)
    shown = {result.model for results in groups.values() for result in results}
    if left := [result.model for result in every if result.model not in shown]:
        missing.append(f"Left out, because not all ways of training have their seeds: {', '.join(left)}.")
    return report(groups, compare_groups(groups), record, evidence, files, missing, seeds)


def _if_there(read: Callable[[], T], lead: str, missing: list[str]) -> T | None:
    """What a function reads, or, where it cannot, nothing and its reason among what is missing."""
    try:
        return read()
    except ValueError as error:
        missing.append(f"{lead}{str(error).removesuffix('.')}.")
        return None


def _unseen(seeds: Sequence[OverSeeds]) -> str:
    """What there is none of without evidence: measures may be there over seeds."""
    return "No images here" if seeds else "No images and no measures here"


def _evidence_of(folder: Path, results: Sequence[Robustness]) -> Evidence:
    if not (folder / EVIDENCE).is_file():
        writers = "reproduce.py, study.py and evaluate.py --evidence write"
        raise ValueError(f"{folder} has no {EVIDENCE}, which {writers}")
    evidence = load_evidence(folder / EVIDENCE)
    evidence.check_of(results)
    return evidence


def _seeds_of(folder: Path, results: Sequence[Robustness]) -> list[OverSeeds]:
    """What was measured over seeds: nothing where nobody measured, which is no fault."""
    if not (folder / MEANS).is_file():
        return []
    means = load_means(folder / MEANS)
    measured = {f"{way}-{seed}" for way, seeds in means.items() for seed in seeds}
    if others := measured - {result.model for result in results}:
        raise ValueError(f"{folder / MEANS} is of other networks than the results: {', '.join(sorted(others))}")
    return over_seeds(means)


def _not_there(folder: Path, record: Mapping[str, Any]) -> list[str]:
    """What the record of a script says that it wrote, and is gone; what has a line of its own is not said again."""
    run = record.get("run")
    written = [run.get(kind) for kind in ("files", "runs")] if isinstance(run, Mapping) else []
    names = [name for each in written if isinstance(each, list) for name in each if isinstance(name, str)]
    own = {EVIDENCE, "report.html"}
    gone = [name for name in names if name not in own and is_inside(name) and not (folder / name).exists()]
    more = f" and {len(gone) - MOST_NAMED} more" if len(gone) > MOST_NAMED else ""
    return [f"Written by the run, and no longer here: {', '.join(gone[:MOST_NAMED])}{more}."] if gone else []


def page_of_results(
    groups: Mapping[str, Sequence[Robustness]],
    comparisons: Sequence[Comparison | MethodComparison],
    evidence: Evidence | None = None,
    seeds: Sequence[OverSeeds] = (),
    files: Mapping[str, bytes] | None = None,
    **saved: Any,
) -> str:
    """The page of results that are not written yet.

    Args:
        groups: By name, the results of one network, or of networks trained alike from several seeds.
        comparisons: How they differ.
        evidence: What is to be seen of them, if anything.
        seeds: What was measured of them, over seeds.
        files: Beside the results, what can be taken from the page, as for `report`.
        **saved: As for `save_results`.
    """
    every = [result for results in groups.values() for result in results]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        save_results(folder, every, comparisons=comparisons, **saved)
        record = read_json_object(folder / "results.json", "results", "")
        files = {name: (folder / name).read_bytes() for name in ("results.json", "correct.npz")} | {**(files or {})}
    missing = [] if evidence else [f"{_unseen(seeds)}."]
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
