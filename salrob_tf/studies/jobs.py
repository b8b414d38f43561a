"""The jobs of a study: each trains, attacks or measures a network, and has its name from all its outcome rests on."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from salrob_tf.data.datasets import Dataset
from salrob_tf.evaluation.checkpoint import SETTINGS
from salrob_tf.evaluation.sweep import Progress
from salrob_tf.files import DamagedError, environment, read_json_object, remove, write_json, written_beside
from salrob_tf.models.classifier import Classifier
from salrob_tf.results.measures import Measured, load_measured
from salrob_tf.results.robustness import Robustness
from salrob_tf.results.storage import load_results, save_results
from salrob_tf.studies.claims import holder
from salrob_tf.studies.code import code_of
from salrob_tf.studies.evidence import attacks_to_show, measure
from salrob_tf.studies.manifest import AttackPlan, Study
from salrob_tf.studies.run_folders import MODEL, holds_export
from salrob_tf.studies.runs import Run, train
from salrob_tf.studies.trials import Trial, attack_shards, make_trial, shards_of

MODULES = {"train": "studies/runs.py", "attack": "studies/trials.py", "measure": "studies/evidence.py"}  # that do them
DOING = {"train": "training", "shard": "attacking", "attack": "attacking", "measure": "measuring"}
DONE = {"train": "trained", "shard": "attacked", "attack": "attacked", "measure": "measured"}
MOST_FAILURES = 2  # of one job, after which it is left
FINISHED, RUNNING, FAILED, WAITING = STATES = ("finished", "running", "failed", "waiting")
JOB, CLAIM, NETWORK, SWEEP, MEASURES = "job.json", "claim.json", "network", "sweep", "measures.npz"


@dataclass(frozen=True)
class Job:
    """A training, an attack, a shard of one, or a measurement.

    Attributes:
        kind: `"train"`, `"shard"`, `"attack"` or `"measure"`.
        name: Of the network, and which shard.
        content: All that its outcome rests on, as JSON holds it.
        needs: The jobs that must be finished before.
    """

    kind: str
    name: str
    content: dict[str, Any]
    needs: tuple[Job, ...] = ()

    @property
    def digest(self) -> str:
        """The name of its folder."""
        return hashlib.sha256(json.dumps(self.content, sort_keys=True).encode()).hexdigest()[:16]

    def folder(self, study: Path) -> Path:
        """Its folder in that of a study."""
        return study / "jobs" / self.digest

    def record(self, study: Path) -> dict[str, Any]:
        """What is known of it: how often it was begun, whether it is finished, and how often it failed with what."""
        return record_in(self.folder(study))

    def is_repeated(self, study: Path) -> bool:
        """Whether another version of the code has finished the same training."""
        return self.kind == "train" and any(
            other["finished"]
            and isinstance(found := other.get("content"), dict)
            and found != self.content
            and _but_code(found) == _but_code(self.content)
            for other in (record_in(path.parent) for path in study.glob(f"jobs/*/{JOB}"))
        )

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
        if self.kind == "measure":
            return (folder / MEASURES).is_file()
        if self.kind == "shard":
            return (folder / SWEEP / SETTINGS).is_file()
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

    def measured(self, study: Path) -> Measured | None:
        """What a measurement gave; `None`, with a warning, where it is damaged, and is to be made again."""
        try:
            return load_measured(self.folder(study) / MEASURES)
        except ValueError as error:
            warnings.warn(f"{error}. {self.name} is measured again", stacklevel=2)
            remove(self.folder(study) / JOB)
            return None

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


def record_in(folder: Path) -> dict[str, Any]:
    """`Job.record` of the job whose folder this is."""
    try:
        found = read_json_object(folder / JOB, "the record of a job", "") if (folder / JOB).exists() else {}
    except ValueError:
        found = {}  # damaged: the job is done again
    counts = {key: found[key] if type(found.get(key)) is int else 0 for key in ("begun", "failures")}
    return {**found, **counts, "finished": found.get("finished") is True}


def _but_code(content: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key != "code"}


def jobs_of(study: Study, data: Dataset) -> list[Job]:
    """All jobs, each after those that it needs."""
    trial = trial_of(study, data)
    attack = {**asdict(study.attack), "epsilons": trial.epsilons.tolist(), "images": trial.inputs([])["images"]}
    code = {kind: code_of(module) for kind, module in MODULES.items()}
    found, count = [], len(shards_of(trial, study.attack.shards)[1])
    for name, run in study.runs().items():
        training = Job("train", name, {"run": asdict(run), "data": data.sha256, "code": code["train"]})
        content = json.loads(json.dumps({"network": training.digest, "attack": attack, "code": code["attack"]}))
        shards: list[Job] = []
        for number in range(count if study.attack.shards > 1 else 0):
            called, own = f"{name}, shard {number + 1} of {count}", {**content, "shard": number}
            shards.append(Job("shard", called, own, (training, *shards[:1])))
        found += [training, *shards, attacking := Job("attack", name, content, (training, *shards))]
        if study.evidence:
            found.append(Job("measure", name, {"attack": attacking.digest, "code": code["measure"]}, (attacking,)))
    return found


def check_jobs(folder: Path, study: Study, data: Dataset, jobs: Sequence[Job]) -> None:
    """See whether each attack, and each way of which a network is to be trained, suits the data, before the first is.

    Raises:
        ValueError: If one does not; naming the way.
    """
    for attack in study.attack.entries().values():
        attack.check_classes(data.num_classes)
    to_train, runs = [job.name for job in jobs if job.kind == "train" and job.state(folder) != FINISHED], study.runs()
    for way, name in {name.rpartition("-")[0]: name for name in to_train}.items():
        try:
            runs[name].build(data)
        except ValueError as error:
            raise ValueError(f"[ways.{way}]: {error}") from error


# Outcomes that may be damaged, and what looks at them.
JUDGED: dict[str, Callable[[Job, Path], object]] = {"attack": Job.result, "measure": Job.measured}


def trial_of(study: Study, data: Dataset) -> Trial:
    """What all networks of a study meet."""
    plan = study.attack
    return make_trial(
        data, list(plan.entries().values()), plan.epsilons, plan.samples, plan.seed, survivors_only=plan.survivors_only
    )


def do(
    job: Job,
    study: Path,
    data: Dataset,
    trial: Trial,
    plan: AttackPlan,
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
        elif job.kind == "measure":
            _measure(job, study, data, trial)
        else:
            _attack(job, study, trial, plan, progress)
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


def classifier_of(job: Job, study: Path) -> Classifier:
    """The network that a job attacks or measures.

    Raises:
        ValueError: If it is damaged; it is then to be trained again.
    """
    try:
        return Classifier(network_of(job, study), job.name)
    except ValueError as error:
        warnings.warn(f"{error}. It is trained again", stacklevel=2)
        remove(network_of(job, study).parent / JOB)
        raise


def network_of(job: Job, study: Path) -> Path:
    """Where the network is that a job attacks or measures."""
    while job.kind != "train":
        job = job.needs[0]
    return job.folder(study) / NETWORK


def _attack(job: Job, study: Path, trial: Trial, plan: AttackPlan, progress: Callable[[str], Progress] | None) -> None:
    """Attack a network, or one shard of the images and the first, which others go by; what is there is taken over."""
    folder, classifier, (size, numbers) = job.folder(study), classifier_of(job, study), shards_of(trial, plan.shards)
    own = sorted({0, job.content["shard"]}) if job.kind == "shard" else numbers
    found = {before.content["shard"]: before.folder(study) / SWEEP for before in job.needs[1:]}
    attack = partial(attack_shards, trial, classifier, size, own, folder / SWEEP, found, progress)
    try:
        work = attack()
    except DamagedError as error:  # also where the network was trained again, and came to other weights
        warnings.warn(f"{error}. It is begun anew", stacklevel=2)
        remove(folder / SWEEP)
        work = attack()
    if job.kind == "attack":
        save_results(folder, [work.result(job.name)])
        remove(folder / SWEEP)


def _measure(job: Job, study: Path, data: Dataset, trial: Trial) -> None:
    (attack,) = job.needs
    if (result := attack.result(study)) is None:
        raise ValueError(f"What attacks on {job.name} found is damaged")
    found = measure(data, classifier_of(attack, study), result, attacks_to_show(trial.attacks.values())[0])
    with written_beside(job.folder(study) / MEASURES) as beside:
        beside.write_bytes(found.to_bytes())
