"""What was measured of a study's networks: compared over seeds, and shown for some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from salrob_tf.data.datasets import Dataset
from salrob_tf.models.classifier import Classifier
from salrob_tf.results.evidence import Evidence
from salrob_tf.results.explained import explained_by
from salrob_tf.results.measures import Means, Measured
from salrob_tf.studies.evidence import attacks_to_show, gather
from salrob_tf.studies.jobs import FINISHED, Job, network_of
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


def means_of(measured: Mapping[str, Mapping[int, Measured]], largest_epsilon: float) -> Means:
    """The means of what was measured, as `over_seeds` takes them, and what compares each network with the first way's.

    Args:
        measured: By way of training and by seed, what was measured.
        largest_epsilon: That was attacked.
    """
    first = next(iter(measured.values()), {})
    means = {way: {seed: each.means for seed, each in seeds.items()} for way, seeds in measured.items()}
    for way in list(means)[1:]:
        for seed in set(first) & set(means[way]):
            found = explained_by(first[seed].values, measured[way][seed].values, largest_epsilon)
            means[way][seed] |= found.named if found else {}
    return means


def evidence_of(
    folder: Path, study: Study, data: Dataset, jobs: Sequence[Job], measured: Mapping[str, Mapping[int, Measured]]
) -> Evidence | None:
    """What is to be seen of the first ways of training, by their networks of the first seed that all of these have.

    Raises:
        ValueError: If one of those networks is damaged.
    """
    ways = [way for way in study.ways if way in measured][:MOST_SHOWN]
    attacks = {job.name: job for job in jobs if job.kind == "attack"}
    for seed in study.seeds:
        if ways and all(seed in measured[way] for way in ways):
            shown = [attacks[f"{way}-{seed}"] for way in ways]
            results = [result for job in shown if (result := job.result(folder))]
            if len(results) == len(shown):
                classifiers = [Classifier(network_of(job, folder), job.name) for job in shown]
                values = {f"{way}-{seed}": measured[way][seed] for way in ways}
                return gather(data, classifiers, results, attacks_to_show(study.attack.entries().values()), values)
    return None
