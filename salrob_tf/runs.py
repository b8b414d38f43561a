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
import numpy as np
import tensorflow as tf

from salrob_tf.datasets import Dataset
from salrob_tf.files import write_json, write_text, written_beside
from salrob_tf.networks import NETWORKS, PRETRAINED
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
        seed: Seed of weights, dropout, shuffling and masks.

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
    seed: int = 0

    def __post_init__(self) -> None:
        get_recipe(self.recipe)
        names = {"network": NETWORKS, "optimizer": OPTIMIZERS, "precision": PRECISIONS}
        for key, valid in names.items():
            if getattr(self, key) not in valid:
                raise ValueError(f"Unknown {key}. Valid: {', '.join(valid)}. Received: {key}={getattr(self, key)}")
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
            settings or data, or if `run` does not fit the data.
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
        _batches(data, run, first_epoch=len(history)),
        initial_epoch=len(history),
        epochs=run.epochs,
        steps_per_epoch=steps_per_epoch,
        shuffle=False,
        callbacks=[_SaveEachEpoch(folder, history)],
        verbose=verbose,
    )
    with written_beside(folder / "export") as beside:
        model.export(str(beside), verbose=False)
    metrics = model.evaluate(data.x_test, data.y_test, batch_size=run.batch_size, verbose=0, return_dict=True)
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


def _batches(data: Dataset, run: Run, first_epoch: int) -> tf.data.Dataset:
    """Batches of all epochs from `first_epoch` on; an epoch's order depends on the seed and its number alone."""
    rows = np.arange(len(data.x_train))
    x, y = tf.constant(data.x_train), tf.constant(data.y_train)

    def epoch_rows(epoch: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(rows, seed=tf.stack([tf.constant(run.seed, tf.int64), epoch]))
        return tf.data.Dataset.from_tensor_slices(order).batch(run.batch_size)

    batches = tf.data.Dataset.range(first_epoch, run.epochs).flat_map(epoch_rows)
    return batches.map(lambda rows: (tf.gather(x, rows), tf.gather(y, rows))).prefetch(2)


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
