"""What was measured of a study's networks: compared over seeds, and shown for some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from salrob_tf.data.datasets import Dataset
from salrob_tf.results.evidence import Evidence
from salrob_tf.results.measures import Means, Measured
from salrob_tf.studies.evidence import attacks_to_show, gather
from salrob_tf.studies.jobs import FINISHED, Job, classifier_of
from salrob_tf.studies.manifest import Study

MOST_SHOWN = 4  # networks, which are side by side


def measured_of(folder: Path, study: Study, jobs: Sequence[Job]) -> dict[str, dict[int, Measured]]:
    """By way of training and by seed, what was measured so far."""
    found: dict[str, dict[int, Measured]] = {way: {} for way in study.ways}
    for job in jobs:
        if job.kind == "measure" and job.state(folder) == FINISHED and (measured := job.measured(folder)):
            way, _, seed = job.name.rpartition("-")
            found[way][int(seed)] = measured
    return {way: seeds for way, seeds in found.items() if seeds}


def means_of(measured: Mapping[str, Mapping[int, Measured]]) -> Means:
    """The means of what was measured, as `over_seeds` takes them."""
    return {way: {seed: each.means for seed, each in seeds.items()} for way, seeds in measured.items()}


def evidence_of(folder: Path, study: Study, data: Dataset, jobs: Sequence[Job]) -> Evidence | None:
    """What is to be seen of the first ways of training, by their networks of the first seed that all of these have."""
    measured = {
        f"{way}-{seed}": each for way, seeds in measured_of(folder, study, jobs).items() for seed, each in seeds.items()
    }
    for seed in study.seeds:
        names = [f"{way}-{seed}" for way in study.ways][:MOST_SHOWN]
        attacks = [job for job in jobs if job.kind == "attack" and job.name in names]
        results = [result for job in attacks if job.state(folder) == FINISHED and (result := job.result(folder))]
        if len(results) == len(names) and all(name in measured for name in names):
            shown = attacks_to_show(study.attack.entries().values())
            classifiers = [classifier_of(job, folder) for job in attacks]
            return gather(data, classifiers, results, shown, {name: measured[name] for name in names})
    return None
