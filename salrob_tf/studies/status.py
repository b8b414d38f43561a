"""How far a study is, and what it would take to know more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from salrob_tf.results.methods import MethodComparison
from salrob_tf.studies.claims import holder
from salrob_tf.studies.jobs import CLAIM, DOING, FAILED, FINISHED, RUNNING, STATES, WAITING, Job


class Status(NamedTuple):
    """How far a study is.

    Attributes:
        counts: How many jobs are in each state.
        minutes_left: What those that can still be done take on this machine, if one process does them, from what
            finished ones of their kind took; `None` before one of each kind that is left is.
        lines: Who does which job, and which failed why.
    """

    counts: dict[str, int]
    minutes_left: float | None
    lines: tuple[str, ...]

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {state}" for state, count in self.counts.items() if count)
        left = "" if self.minutes_left is None else f"; about {self.minutes_left:.0f} minutes left for one process"
        return "\n".join([f"jobs: {counts}{left}", *self.lines])


def status(folder: Path, jobs: Sequence[Job]) -> Status:
    """How far a study is."""
    states = {job.digest: job.state(folder) for job in jobs}
    lines = []
    for job in jobs:
        record, state = job.record(folder), states[job.digest]
        if state == RUNNING:
            lines.append(f"{DOING[job.kind]} {job.name}: {holder(job.folder(folder) / CLAIM)}")
        elif state == FAILED:
            lines.append(f"{DOING[job.kind]} {job.name}: failed {record['failures']} times, {record.get('error')}")
    left, typical = None, typical_seconds(folder, jobs)
    lost = {digest for digest, state in states.items() if state == FAILED}
    for job in jobs:  # each after those that it needs
        if any(need.digest in lost for need in job.needs):
            lost.add(job.digest)
    to_do = [job for job in jobs if states[job.digest] in (WAITING, RUNNING) and job.digest not in lost]
    if typical and all(job.kind in typical for job in to_do):
        left = sum(typical[job.kind] for job in to_do) / 60
    return Status({state: list(states.values()).count(state) for state in STATES}, left, tuple(lines))


def typical_seconds(folder: Path, jobs: Sequence[Job]) -> dict[str, float]:
    """What jobs took on average, by kind, of those kinds of which one is finished."""
    seconds: dict[str, list[float]] = {}
    for job in jobs:
        took = job.record(folder).get("seconds")
        if job.state(folder) == FINISHED and isinstance(took, int | float):
            seconds.setdefault(job.kind, []).append(float(took))
    return {kind: sum(each) / len(each) for kind, each in seconds.items()}


def plans_of(
    folder: Path, jobs: Sequence[Job], comparisons: Sequence[MethodComparison], half_width: float
) -> list[str]:
    """What brings the interval of each comparison to a half width, as a share, and how long that takes here."""
    if not comparisons:
        return ["No plan: no two ways of training have two seeds in common so far"]
    found = []
    for each in comparisons:
        names = f"{each.first} and {each.second}"
        own = [job for job in jobs if job.name.rpartition("-")[0] in (each.first, each.second)]
        minutes = {kind: seconds / 60 for kind, seconds in typical_seconds(folder, own).items()}
        for_network = minutes.get("train", 0) + minutes.get("measure", 0)
        shards = sum(job.kind == "shard" for job in own) / sum(job.kind == "attack" for job in own)
        for_images = minutes.get("attack", 0) + shards * minutes.get("shard", 0)
        try:
            found.append(f"{names}. {each.plan(half_width, for_network, for_images / each.images)}")
        except ValueError as error:
            found.append(f"{names}: {error}")
    return found
