"""A study carried out: its jobs, done by one process or by several on one folder, and what they found."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from salrob_tf.data.datasets import Dataset
from salrob_tf.files import differences, read_json_object, remove, write_json, write_text, written_beside
from salrob_tf.reports import figures, tables
from salrob_tf.reports.specification import specification_curve
from salrob_tf.results.comparison import Comparison
from salrob_tf.results.evidence import Evidence
from salrob_tf.results.measures import OverSeeds, means_csv, over_seeds
from salrob_tf.results.methods import MethodComparison, compare_methods
from salrob_tf.results.robustness import Robustness
from salrob_tf.results.storage import save_results
from salrob_tf.studies.claims import claimed
from salrob_tf.studies.jobs import (
    CLAIM,
    FAILED,
    FINISHED,
    JUDGED,
    RUNNING,
    WAITING,
    Job,
    check_jobs,
    do,
    jobs_of,
    trial_of,
)
from salrob_tf.studies.manifest import Study
from salrob_tf.studies.measured import evidence_of, means_of, measured_of
from salrob_tf.studies.pages import EVIDENCE, MEANS, page_of_results
from salrob_tf.studies.result_plans import make_plan

RECORD, MANIFEST = "study.json", "manifest.toml"
FILES = ("table.md", "curves.png", "specifications.png", "measures.md", MEANS, EVIDENCE, MANIFEST, "report.html")
POLL = 2.0  # seconds between two looks at what other processes do


def open_study(folder: Path, study: Study, data: Dataset, resume: bool) -> list[Job]:
    """The jobs of a study in a folder, which is made, or found to hold a study on the same data.

    Raises:
        ValueError: If it holds one and `resume` is off, or holds something else, or that study is on other data, or a
            way of training or an attack does not suit the data.
    """
    path = folder / RECORD
    if path.exists():
        if not resume:
            raise ValueError(f"This folder holds a study: pass --resume. Received: --out {folder}")
        check_study(folder, data)
    elif (folder / "jobs").exists() or (folder / "results.json").exists():
        raise ValueError(f"No study here wrote this, and it is in the way: choose another --out. Received: {folder}")
    jobs = jobs_of(study, data)
    check_jobs(folder, study, data, jobs)
    if not path.exists():
        write_json(path, {"data": data.sha256})  # before anything that it speaks of
    for job in jobs:
        job.folder(folder).mkdir(parents=True, exist_ok=True)
        if job.state(folder) == FAILED:
            job.give_another_try(folder)
    return jobs


def check_study(folder: Path, data: Dataset) -> None:
    """See whether a folder holds a study on some data.

    Raises:
        ValueError: If it does not.
    """
    if not (folder / RECORD).exists():
        raise ValueError(f"There is no study in this folder. Received: --out {folder}")
    found = read_json_object(folder / RECORD, "the record of a study", "choose another --out")
    if different := differences(found, {"data": data.sha256}):
        raise ValueError(f"The study in {folder} is on other data: {'; '.join(different)}")


def carry_out(
    folder: Path,
    study: Study,
    data: Dataset,
    jobs: Sequence[Job],
    begin: Callable[[Job, int], None] = lambda job, left: None,
    failed: Callable[[Job, str], None] = lambda job, why: None,
    **options: Any,
) -> None:
    """Do all jobs that can be done, and wait for those that others do.

    Args:
        folder: Of the study.
        study: What it is.
        data: Its data.
        jobs: Its jobs, from `open_study`.
        begin: Called with each job before it is begun, and how many are not finished.
        failed: Called with each job that failed, and why.
        **options: `verbose` and `progress`, as `do` takes them.
    """
    while True:
        unfinished, ready = look(folder, jobs)
        for job in ready:
            ours, why = take(job, folder, study, data, partial(begin, job, len(unfinished)), **options)
            if why:
                failed(job, why)
            if ours:
                break  # what is ready now is another question
        else:
            if not ready:
                return
            time.sleep(POLL)  # others do them


def look(folder: Path, jobs: Sequence[Job]) -> tuple[list[Job], list[Job]]:
    """Those jobs that are waiting or running, and those of them that can be done now, or are being done.

    An attack or a measurement whose outcome is damaged counts as one that was never made.
    """
    states = {job.digest: job.state(folder) for job in jobs}
    unfinished = [job for job in jobs if states[job.digest] in (WAITING, RUNNING)]
    ready = [job for job in unfinished if all(states[need.digest] == FINISHED for need in job.needs)]
    if not ready:
        done = [job for job in jobs if job.kind in JUDGED and states[job.digest] == FINISHED]
        ready = unfinished = [job for job in done if JUDGED[job.kind](job, folder) is None]
    return unfinished, ready


def take(
    job: Job, folder: Path, study: Study, data: Dataset, begin: Callable[[], None] = lambda: None, **options: Any
) -> tuple[bool, str | None]:
    """Do a job, unless it is another's.

    Args:
        job: The job, which is ready.
        folder: As for `carry_out`, and so are the others.
        study: See there.
        data: See there.
        begin: Called before it is begun.
        **options: See there.

    Returns:
        Whether it was ours, and why it failed, or `None`.
    """
    with claimed(job.folder(folder) / CLAIM) as ours:
        if not ours:
            return False, None
        if job.state(folder) == FINISHED:  # somebody else did it meanwhile
            return True, None
        begin()
        return True, do(job, folder, data, trial_of(study, data), study.attack, **options)


def results_of(folder: Path, study: Study, jobs: Sequence[Job]) -> dict[str, list[Robustness]]:
    """By way of training, what attacks found so far, in the order of the seeds."""
    found: dict[str, list[Robustness]] = {way: [] for way in study.ways}
    for job in jobs:
        if job.kind == "attack" and job.state(folder) == FINISHED and (result := job.result(folder)):
            found[job.name.rpartition("-")[0]].append(result)
    return {way: results for way, results in found.items() if results}


def compare_ways(ways: Iterable[str], groups: Mapping[str, Sequence[Robustness]]) -> list[MethodComparison]:
    """The first way compared with each other, over the seeds that both have, which are two or more."""
    first, *others = ways
    found = []
    for other in [way for way in others if first in groups and way in groups]:
        seeds = [{each.model.rpartition("-")[2]: each for each in groups[way]} for way in (first, other)]
        both = [seed for seed in seeds[0] if seed in seeds[1]]
        if len(both) > 1:
            pair = zip((first, other), seeds, strict=True)
            found.append(compare_methods({way: [each[seed] for seed in both] for way, each in pair}))
    return found


def write_results(folder: Path, study: Study, data: Dataset, jobs: Sequence[Job]) -> list[MethodComparison]:
    """Write what was found so far, its tables and figures, once others who do so are done; what is old goes."""
    with FileLock(folder / ".writing.lock"):
        groups = results_of(folder, study, jobs)
        if not groups:
            return []
        comparisons = compare_ways(study.ways, groups)
        every = [result for results in groups.values() for result in results]
        verdicts = "\n\n".join(f"```\n{each}\n```" for each in comparisons)
        title = f"{data.name}, {len(every[0].clean)} test images, {len(every)} network{'s' * (len(every) > 1)}"
        write_text(folder / "table.md", f"{tables.robustness_table(groups)}\n{verdicts}\n")
        figures.save_figure(figures.robustness_curves(groups, title), folder / "curves.png")
        choices = {way: {"way": way.split()[0], **own} for way, own in study.ways.items()}
        if comparisons:
            specifications = specification_curve(
                comparisons, choices, f"{data.name}: each way, and {next(iter(study.ways))}"
            )
            figures.save_figure(specifications, folder / "specifications.png")
        else:
            remove(folder / "specifications.png")
        evidence, seeds = _write_measured(folder, study, data, jobs, every[0])
        write_text(folder / MANIFEST, study.text)
        arguments = {"manifest": study.path, "out": str(folder)}
        pairs: list[Comparison | MethodComparison] = [*comparisons]
        saved: dict[str, Any] = {"comparisons": pairs, "data_name": data.name, "arguments": arguments}
        plan = make_plan("study.py", arguments, [name for name in FILES if (folder / name).exists()])
        saved["run"] = {**plan, "choices": choices}
        files = {name: (folder / name).read_bytes() for name in (MEANS, MANIFEST) if (folder / name).exists()}
        page = page_of_results(groups, evidence=evidence, seeds=seeds, files=files, **saved)
        write_text(folder / "report.html", page)
        save_results(folder, every, **saved)
    return comparisons


def _write_measured(
    folder: Path, study: Study, data: Dataset, jobs: Sequence[Job], first: Robustness
) -> tuple[Evidence | None, list[OverSeeds]]:
    measured, contents = measured_of(folder, study, jobs), dict.fromkeys((EVIDENCE, MEANS, "measures.md"), b"")
    means = means_of(measured, max(first.epsilons))
    seeds, evidence = over_seeds(means) if next(iter(study.ways)) in means else [], None
    if seeds:
        contents |= {MEANS: means_csv(means).encode(), "measures.md": tables.measures_table(seeds).encode()}
        try:
            evidence = evidence_of(folder, study, data, jobs, measured)
        except ValueError as error:  # the rest is to be had without a network
            warnings.warn(f"No images are shown: {error}", stacklevel=3)
    if evidence:
        contents[EVIDENCE] = evidence.to_bytes()
    for name, content in contents.items():
        if content:
            with written_beside(folder / name) as beside:
                beside.write_bytes(content)
        else:
            remove(folder / name)
    return evidence, seeds
