"""A training run as a folder: `model.keras`, `export/`, `history.csv` and `run.json`, resumable after any epoch."""

from __future__ import annotations

import csv
import datetime
import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from salrob_tf.batches import batches, file_errors
from salrob_tf.datasets import Dataset
from salrob_tf.files import write_json, write_text, written_beside
from salrob_tf.networks import NETWORKS, PRETRAINED
from salrob_tf.results import environment
from salrob_tf.saliency import get_recipe
from salrob_tf.training import SaliencyGuided
from salrob_tf.workers import fit_on_workers, is_chief, strategy, worker_count

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
KEEP = ("last", "best")

OPTIMIZERS: dict[str, Callable[[float], keras.optimizers.Optimizer]] = {
    # K names Adadelta and its learning rate; rho and epsilon are PyTorch's, which I's code trained with, not Keras'.
    "adadelta": lambda rate: keras.optimizers.Adadelta(rate, rho=0.9, epsilon=1e-6),
    "adam": lambda rate: keras.optimizers.Adam(rate),
    "sgd": lambda rate: keras.optimizers.SGD(rate, momentum=0.9),
}


@dataclass(frozen=True)
class Run:
    """What a network is and how it is trained.

    Attributes:
        network: A key of `NETWORKS`.
        weights: Where the network starts, as `resnet18` takes it; `None` is at random.
        saliency: Whether training is saliency-guided.
        recipe: Name of the recipe, a key of `RECIPES`.
        mask_fraction: Share of the units that is masked, in [0, 1).
        kl_weight: Weight of the divergence, 0 or more.
        epochs: Passes over the training images.
        batch_size: Images per step.
        optimizer: A key of `OPTIMIZERS`.
        learning_rate: Above 0.
        precision: Keras dtype policy of the network, one of `PRECISIONS`.
        validation_fraction: Share of the training images held out for validation, in [0, 1).
        keep: Which epoch's network is kept in the end: the `"last"`, or the `"best"` by accuracy on the validation
            images, of equals the first. Test images choose nothing.
        augment: Whether training images are moved by up to 4 pixels and flipped at random; see `batches`.
        seed: Seed of weights, dropout, shuffling, augmentation and masks.

    Raises:
        ValueError: If a name is unknown or a number is out of its range.
    """

    network: str = "cnn"
    weights: str | None = None
    saliency: bool = False
    recipe: str = "karkehabadi2023"
    mask_fraction: float = 0.5
    kl_weight: float = 1.0
    epochs: int = 100
    batch_size: int = 256
    optimizer: str = "adadelta"
    learning_rate: float = 0.1
    precision: str = "float32"
    validation_fraction: float = 0.0
    keep: str = "last"
    augment: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        get_recipe(self.recipe)
        names = {"network": NETWORKS, "optimizer": OPTIMIZERS, "precision": PRECISIONS, "keep": KEEP}
        for key, valid in names.items():
            if getattr(self, key) not in valid:
                raise ValueError(f"Unknown {key}. Valid: {', '.join(valid)}. Received: {key}={getattr(self, key)}")
        if not 0 <= self.validation_fraction < 1 or (self.keep == "best" and not self.validation_fraction):
            raise ValueError(
                "`validation_fraction` must be at least 0 and below 1, and above 0 to keep the best epoch. Received: "
                f"validation_fraction={self.validation_fraction}, keep={self.keep}"
            )
        if self.weights is not None and self.network not in PRETRAINED:
            raise ValueError(
                f"Only {', '.join(PRETRAINED)} takes pretrained weights. "
                f"Received: network={self.network}, weights={self.weights}"
            )
        in_range = self.epochs >= 1 and self.batch_size >= 1 and 0 <= self.seed < 2**32
        if not in_range or not 0 < self.learning_rate < float("inf"):
            raise ValueError(
                "`epochs` and `batch_size` must be 1 or more, `seed` 0 to 2^32 - 1, `learning_rate` above 0. Received: "
                f"epochs={self.epochs}, batch_size={self.batch_size}, seed={self.seed}, "
                f"learning_rate={self.learning_rate}"
            )

    def build(self, data: Dataset) -> SaliencyGuided:
        """The compiled, untrained model; seeds all random states first."""
        keras.utils.set_random_seed(self.seed)
        pretrained = {} if self.weights is None else {"weights": self.weights}
        network = NETWORKS[self.network](data.input_shape, data.num_classes, dtype=self.precision, **pretrained)
        model = SaliencyGuided(network, self.saliency, self.recipe, self.mask_fraction, self.kl_weight, seed=self.seed)
        model.compile(OPTIMIZERS[self.optimizer](self.learning_rate), metrics=["accuracy"])
        return model


@file_errors()
def train(
    folder: str | Path, data: Dataset, run: Run, *, resume: bool = False, overwrite: bool = False, verbose: int = 0
) -> dict[str, Any]:
    """Train a network into a folder, saving it whole after every epoch.

    Args:
        folder: Where to. Must not hold a run, unless `resume` or `overwrite`.
        data: What to train and test on.
        run: What to train, and how.
        resume: Go on with the run that the folder holds, from its last finished epoch; start one if there is none.
        overwrite: Remove the run that the folder holds, once everything else proved valid.
        verbose: As for `fit`: 1 shows progress bars.

    Returns:
        What is written as `run.json`.

    Raises:
        ValueError: If the folder holds a run and neither `resume` nor `overwrite` is on, if that run had other
            settings or data, if `run` does not fit the data, or if an image in a folder cannot be decoded.
    """
    folder = Path(folder)
    record: dict[str, Any] = {
        "arguments": asdict(run),
        "data": {"name": data.name, "sha256": data.sha256, "train_samples": len(data.x_train)},
        "environment": environment(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "finished": False,
    }
    if worker_count() > 1 and run.validation_fraction:
        raise ValueError(
            "Several workers validate nothing: train on one, or leave validation out. "
            f"Received: validation_fraction={run.validation_fraction}"
        )
    training, held_out = data, None
    if run.validation_fraction:
        training, images, labels = data.with_validation(run.validation_fraction, run.seed)
        held_out = batches(images, labels, run.batch_size)
    steps_per_epoch = -(-len(training.x_train) // run.batch_size)
    with strategy().scope():
        model, history = run.build(data), []
        # Only now, when everything proved valid, is anything removed.
        if is_chief():
            _open(folder, record, resume, overwrite)
        if resume and (folder / "run.json").exists() and (found := _read_record(folder))["finished"]:
            if is_chief() and (folder / BEST).exists():
                (folder / BEST).replace(folder / "model.keras")
            return found
        if resume and (folder / "model.keras").is_file():
            model = keras.saving.load_model(folder / "model.keras")
            history = _read_history(folder, model.epochs_done)
    settings: dict[str, Any] = {
        "initial_epoch": len(history),
        "epochs": run.epochs,
        "steps_per_epoch": steps_per_epoch,
        "callbacks": [_KeepRun(folder, history, run.keep)] if is_chief() else [],
        "verbose": verbose if is_chief() else 0,
    }
    shuffled = batches(
        training.x_train,
        training.y_train,
        run.batch_size,
        seed=run.seed,
        epochs=run.epochs,
        first_epoch=len(history),
        augment=run.augment,
    )
    if worker_count() > 1:
        fit_on_workers(model, shuffled, **settings)
    else:
        model.fit(shuffled, shuffle=False, validation_data=held_out, **settings)
    if not is_chief():
        return record
    kept = _best(history) if run.keep == "best" else len(history) - 1
    model = keras.saving.load_model(folder / (BEST if run.keep == "best" else "model.keras"))
    with written_beside(folder / "export") as beside:
        model.export(str(beside), verbose=False)
    metrics = model.evaluate(batches(data.x_test, data.y_test, run.batch_size), verbose=0, return_dict=True)
    record |= {"finished": True, "epoch": kept, "train": history[kept], "test": metrics}
    write_json(folder / "run.json", record)
    if run.keep == "best":
        (folder / BEST).replace(folder / "model.keras")  # last, because until then the run may have to go on
    return record


BEST = "best.keras"
RUN_FILES = ("model.keras", BEST, "history.csv", "export", "run.json")


def holds_run(folder: str | Path) -> bool:
    """Whether a folder holds a run or parts of one."""
    return any((Path(folder) / name).exists() for name in RUN_FILES)


def remove_run(folder: str | Path) -> None:
    """Remove what `train` wrote into a folder, and nothing else there; `run.json` goes last."""
    for name in RUN_FILES:
        path = Path(folder) / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        for left in Path(folder).glob(f".*-{name}"):  # of a write that was killed
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def _open(folder: Path, record: dict[str, Any], resume: bool, overwrite: bool) -> None:
    """Begin a run in a folder, or see whether the one that it holds can go on."""
    if holds_run(folder) and not (resume or overwrite):
        raise ValueError(f"This folder already holds a run: pass --resume or --overwrite. Received: {folder}")
    if overwrite:
        remove_run(folder)
    if (folder / "run.json").exists():
        _check_same_run(folder, _read_record(folder), record)
    elif holds_run(folder):
        raise ValueError(f"This folder holds parts of a run without its run.json: pass --overwrite. Received: {folder}")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        beside = folder / f".{os.getpid()}-run.json"
        write_json(beside, record)
        try:
            os.link(beside, folder / "run.json")  # of two trainings that start at once, one fails here
        finally:
            beside.unlink()


class _KeepRun(keras.callbacks.Callback):
    """Writes the history, then the model, which says how many epochs of that history it has seen."""

    def __init__(self, folder: Path, history: list[dict[str, float]], keep: str) -> None:
        super().__init__()
        self.folder, self.history, self.keep = folder, history, keep

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if not np.isfinite(loss := float((logs or {})["loss"])):
            self._stop(f"The loss became {loss} in step {batch + 1} of epoch {len(self.history) + 1}")

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if not all(np.isfinite(weights).all() for weights in self.model.get_weights()):
            self._stop(f"The weights became infinite or NaN in the last step of epoch {epoch + 1}")
        self.history.append({"epoch": epoch, **{key: float(value) for key, value in (logs or {}).items()}})
        table = io.StringIO()
        writer = csv.DictWriter(table, self.history[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.history)
        write_text(self.folder / "history.csv", table.getvalue())
        self.model.epochs_done = len(self.history)
        if self.keep == "best" and _best(self.history) == epoch:
            with written_beside(self.folder / BEST) as beside:
                self.model.save(beside)
        with written_beside(self.folder / "model.keras") as beside:
            self.model.save(beside)

    def _stop(self, what: str) -> None:
        epochs = len(self.history)
        last = (
            f"the last good model is {self.folder / 'model.keras'}, of epoch {epochs}" if epochs else "none was saved"
        )
        raise ValueError(f"{what}; {last}. Lower the learning rate, and pass --overwrite to start anew")


def _best(history: list[dict[str, float]]) -> int:
    return max(range(len(history)), key=lambda epoch: history[epoch]["val_accuracy"])


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        record["arguments"], record["data"], record["finished"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"This is not the run.json of a run: pass --overwrite. Received: {folder / 'run.json'}"
        ) from error
    return record


def _read_history(folder: Path, epochs: int) -> list[dict[str, float]]:
    rows = []
    if (folder / "history.csv").is_file():
        with (folder / "history.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                rows.append({key: int(value) if key == "epoch" else float(value) for key, value in row.items()})
    if len(rows) < epochs:
        raise ValueError(
            f"The model in {folder} has {epochs} epochs, its history.csv {len(rows)}: pass --overwrite to start anew"
        )
    return rows[:epochs]


def _check_same_run(folder: Path, found: dict[str, Any], asked: dict[str, Any]) -> None:
    different = [
        f"{key}={theirs.get(key)} there, {key}={value} asked"
        for theirs, ours in ((found["arguments"], asked["arguments"]), (found["data"], asked["data"]))
        for key, value in ours.items()
        if theirs.get(key) != value
    ]
    if different:
        raise ValueError(f"The run in {folder} is another one and cannot be resumed: {'; '.join(different)}")
