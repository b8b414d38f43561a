"""The jobs of a study: each trains one network or attacks one, and has its name from all that its outcome rests on."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from salrob_tf.data.datasets import Dataset
from salrob_tf.evaluation.sweep import Progress
from salrob_tf.files import DamagedError, environment, read_json_object, remove, write_json
from salrob_tf.models.classifier import Classifier
from salrob_tf.results.robustness import Robustness
from salrob_tf.results.storage import load_results, save_results
from salrob_tf.studies.claims import holder
from salrob_tf.studies.manifest import Study
from salrob_tf.studies.run_folders import MODEL, holds_export
from salrob_tf.studies.runs import Run, train
from salrob_tf.studies.trials import Trial, attack_all, make_trial

CODE = {  # folders and files of the package whose code an outcome rests on
    "train": ("data", "models", "saliency", "training", "studies/runs.py", "studies/run_folders.py"),
    "attack": ("data", "models", "attacks", "evaluation", "results", "studies/trials.py"),
}
LIBRARIES = ("tensorflow", "keras")
MOST_FAILURES = 2  # of one job, after which it is left
FINISHED, RUNNING, FAILED, WAITING = STATES = ("finished", "running", "failed", "waiting")
JOB, CLAIM, NETWORK, SWEEP = "job.json", "claim.json", "network", "sweep"


@dataclass(frozen=True)
class Job:
    """A training or an attack.

    Attributes:
        kind: `"train"` or `"attack"`.
        name: Of the network.
        content: All that its outcome rests on, as JSON holds it.
        needs: The job that must be finished before, if any.
    """

    kind: str
    name: str
    content: dict[str, Any]
    needs: Job | None = None

    @property
    def digest(self) -> str:
        """The name of its folder."""
        return hashlib.sha256(json.dumps(self.content, sort_keys=True).encode()).hexdigest()[:16]

    def folder(self, study: Path) -> Path:
        """Its folder in that of a study."""
        return study / "jobs" / self.digest

    def record(self, study: Path) -> dict[str, Any]:
        """What is known of it: how often it was begun, whether it is finished, and how often it failed with what."""
        path = self.folder(study) / JOB
        try:
            found = read_json_object(path, "the record of a job", "") if path.exists() else {}
        except ValueError:
            found = {}  # damaged: the job is done again
        counts = {key: found[key] if type(found.get(key)) is int else 0 for key in ("begun", "failures")}
        return {**found, **counts, "finished": found.get("finished") is True}

    def state(self, study: Path) -> str:
        """One of `STATES`."""
        record = self.record(study)
        if record["finished"] and self._is_whole(study):
            return FINISHED
        if holder(self.folder(study) / CLAIM):
            return RUNNING
        return FAILED if record["failures"] >= MOST_FAILURES else WAITING

    def _is_whole(self, study: Path) -> bool:
        folder = self.folder(study)
        if self.kind == "train":
            return (folder / NETWORK / MODEL).is_file() and holds_export(folder / NETWORK)
        return (folder / "results.json").is_file() and (folder / "correct.npz").is_file()

    def result(self, study: Path) -> Robustness | None:
        """What an attack found; `None`, with a warning, where it is damaged, and is to be done again."""
        try:
            (found,) = load_results(self.folder(study))
        except ValueError as error:
            warnings.warn(f"{error}. {self.name} is attacked again", stacklevel=2)
            remove(self.folder(study) / JOB)
            return None
        return replace(found, model=self.name)

    def give_another_try(self, study: Path) -> None:
        """Forget that it failed."""
        record = self.record(study)
        if record["failures"]:
            write_json(self.folder(study) / JOB, {**record, "failures": 0})

    def fail(self, study: Path, error: BaseException) -> str:
        """Count a failure of it, and say why."""
        record, why = self.record(study), " ".join(f"{type(error).__name__}: {error}".split())[:500]
        write_json(self.folder(study) / JOB, {**record, "failures": record["failures"] + 1, "error": why})
        return why


def jobs_of(study: Study, data: Dataset) -> list[Job]:
    """All jobs, each after the one that it needs."""
    trial = trial_of(study, data)
    attack = {**asdict(study.attack), "epsilons": trial.epsilons.tolist(), "images": trial.inputs([])["images"]}
    found = []
    for name, run in study.runs().items():
        training = Job("train", name, {"run": asdict(run), "data": data.sha256, "code": code_of("train")})
        content = {"network": training.digest, "attack": attack, "code": code_of("attack")}
        found += [training, Job("attack", name, json.loads(json.dumps(content)), training)]
    return found


def trial_of(study: Study, data: Dataset) -> Trial:
    """What all networks of a study meet."""
    plan = study.attack
    return make_trial(
        data, list(plan.entries().values()), plan.epsilons, plan.samples, plan.seed, survivors_only=plan.survivors_only
    )


@cache
def code_of(kind: str) -> str:
    """A digest of the package's code that the outcome of a kind of job rests on, and versions of libraries."""
    digest, package = hashlib.sha256(), Path(__file__).parent.parent
    for name in CODE[kind]:
        for path in sorted((package / name).glob("*.py")) or [package / name]:
            digest.update(path.name.encode())
            digest.update(path.read_bytes())
    versions = [environment()[library] for library in LIBRARIES]
    return " ".join([digest.hexdigest()[:16], *versions])


def do(
    job: Job,
    study: Path,
    data: Dataset,
    trial: Trial,
    verbose: int = 0,
    progress: Callable[[str], Progress] | None = None,
) -> str | None:
    """Do a job that this process has claimed, going on with what is there of it.

    Returns:
        Why it failed, or `None` if it did not.
    """
    folder, record, began = job.folder(study), job.record(study), time.time()
    record |= {"kind": job.kind, "name": job.name, "content": job.content, "environment": environment()}
    record |= {"begun": record["begun"] + 1, "finished": False}
    write_json(folder / JOB, record)
    try:
        if job.kind == "train":
            _train(folder / NETWORK, data, Run(**job.content["run"]), verbose)
        else:
            _attack(job, study, trial, progress)
    except Exception as error:
        if _is_interruption(error):
            raise KeyboardInterrupt from error
        # Whatever else it is, memory that does not suffice or a defect, the other jobs are to be done.
        return job.fail(study, error)
    write_json(folder / JOB, {**record, "finished": True, "seconds": time.time() - began})
    return None


def _is_interruption(error: BaseException | None) -> bool:
    """Whether an interruption is what an error came from: TensorFlow makes others of it."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt) or "KeyboardInterrupt" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _train(folder: Path, data: Dataset, run: Run, verbose: int) -> None:
    try:
        train(folder, data, run, resume=True, verbose=verbose)
    except DamagedError as error:
        warnings.warn(f"{error}. It is trained again", stacklevel=2)
        remove(folder)
        train(folder, data, run, verbose=verbose)


def _attack(job: Job, study: Path, trial: Trial, progress: Callable[[str], Progress] | None) -> None:
    folder, network = job.folder(study), job.needs
    assert network is not None
    try:
        classifier = Classifier(network.folder(study) / NETWORK, job.name)
    except ValueError as error:
        warnings.warn(f"{error}. It is trained again", stacklevel=2)
        remove(network.folder(study) / JOB)
        raise
    parts = folder / SWEEP
    results = attack_all(trial, [classifier], checkpoint=lambda number: parts, progress=progress)
    save_results(folder, results)
    remove(parts)
