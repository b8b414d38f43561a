"""A training run as a folder: `model.keras`, `export/`, `history.csv` and `run.json`, resumable after any epoch."""

from __future__ import annotations

import csv
import datetime
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras

from salrob_tf.batches import batches, file_errors
from salrob_tf.datasets import Dataset
from salrob_tf.files import write_json, write_text, written_beside
from salrob_tf.networks import NETWORKS
from salrob_tf.results import environment
from salrob_tf.saliency import get_recipe
from salrob_tf.training import SaliencyGuided

PRECISIONS = ("float32", "mixed_bfloat16")

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
        saliency: Whether training is saliency-guided.
        recipe: Name of the recipe, a key of `RECIPES`.
        mask_fraction: Share of the units that is masked, in [0, 1).
        kl_weight: Weight of the divergence, 0 or more.
        epochs: Passes over the training images.
        batch_size: Images per step.
        optimizer: A key of `OPTIMIZERS`.
        learning_rate: Above 0.
        precision: Keras dtype policy of the network, one of `PRECISIONS`.
        augment: Whether training images are moved by up to 4 pixels and flipped at random; see `batches`.
        seed: Seed of weights, dropout, shuffling, augmentation and masks.

    Raises:
        ValueError: If a name is unknown or a number is out of its range.
    """

    network: str = "cnn"
    saliency: bool = False
    recipe: str = "karkehabadi2023"
    mask_fraction: float = 0.5
    kl_weight: float = 1.0
    epochs: int = 100
    batch_size: int = 256
    optimizer: str = "adadelta"
    learning_rate: float = 0.1
    precision: str = "float32"
    augment: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        get_recipe(self.recipe)
        names = {"network": NETWORKS, "optimizer": OPTIMIZERS, "precision": PRECISIONS}
        for key, valid in names.items():
            if getattr(self, key) not in valid:
                raise ValueError(f"Unknown {key}. Valid: {', '.join(valid)}. Received: {key}={getattr(self, key)}")
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
        network = NETWORKS[self.network](data.input_shape, data.num_classes, dtype=self.precision)
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
    model, history = run.build(data), []
    steps_per_epoch = -(-len(data.x_train) // run.batch_size)
    if holds_run(folder) and not (resume or overwrite):
        raise ValueError(f"This folder already holds a run: pass --resume or --overwrite. Received: {folder}")
    if overwrite:
        remove_run(folder)
    if (folder / "run.json").exists():
        found = _read_record(folder)
        _check_same_run(folder, found, record)
        if found["finished"]:
            return found
        if (folder / "model.keras").is_file():
            model = keras.saving.load_model(folder / "model.keras")
            history = _read_history(folder, int(model.optimizer.iterations) // steps_per_epoch)
    elif holds_run(folder):
        raise ValueError(f"This folder holds parts of a run without its run.json: pass --overwrite. Received: {folder}")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.json").open("x").close()  # of two trainings that start at once, one fails here
        write_json(folder / "run.json", record)
    model.fit(
        batches(
            data.x_train,
            data.y_train,
            run.batch_size,
            seed=run.seed,
            epochs=run.epochs,
            first_epoch=len(history),
            augment=run.augment,
        ),
        initial_epoch=len(history),
        epochs=run.epochs,
        steps_per_epoch=steps_per_epoch,
        shuffle=False,
        callbacks=[_SaveEachEpoch(folder, history)],
        verbose=verbose,
    )
    with written_beside(folder / "export") as beside:
        model.export(str(beside), verbose=False)
    metrics = model.evaluate(batches(data.x_test, data.y_test, run.batch_size), verbose=0, return_dict=True)
    record |= {"finished": True, "train": history[-1], "test": metrics}
    write_json(folder / "run.json", record)
    return record


RUN_FILES = ("model.keras", "history.csv", "export", "run.json")


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


class _SaveEachEpoch(keras.callbacks.Callback):
    """Writes the history, then the model: the model's step count says how much of the history it has seen."""

    def __init__(self, folder: Path, history: list[dict[str, float]]) -> None:
        super().__init__()
        self.folder, self.history = folder, history

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.history.append({"epoch": epoch, **{key: float(value) for key, value in (logs or {}).items()}})
        table = io.StringIO()
        writer = csv.DictWriter(table, self.history[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.history)
        write_text(self.folder / "history.csv", table.getvalue())
        with written_beside(self.folder / "model.keras") as beside:
            self.model.save(beside)


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
