"""The folder of a training run: what it holds, who may write into it, and what is written after each epoch."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np

from salrob_tf.files import write_json, write_text, written_beside

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


def open_run(folder: Path, record: dict[str, Any], resume: bool, overwrite: bool) -> None:
    """Begin a run in a folder, or see whether the one that it holds can go on."""
    if holds_run(folder) and not (resume or overwrite):
        raise ValueError(f"This folder already holds a run: pass --resume or --overwrite. Received: {folder}")
    if overwrite:
        remove_run(folder)
    if (folder / "run.json").exists():
        _check_same_run(folder, read_record(folder), record)
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


class KeepRun(keras.callbacks.Callback):
    """Writes the history, then the model, which says how many epochs of that history it has seen."""

    def __init__(self, folder: Path, history: list[dict[str, float]], keep: str) -> None:
        super().__init__()
        self.folder, self.history, self.keep = folder, history, keep

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """End the run where the loss is no number."""
        if not np.isfinite(loss := float((logs or {})["loss"])):
            self._stop(f"The loss became {loss} in step {batch + 1} of epoch {len(self.history) + 1}")

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Write the history and the model, unless its weights are no numbers."""
        if not all(np.isfinite(weights).all() for weights in self.model.get_weights()):
            self._stop(f"The weights became infinite or NaN in the last step of epoch {epoch + 1}")
        self.history.append({"epoch": epoch, **{key: float(value) for key, value in (logs or {}).items()}})
        table = io.StringIO()
        writer = csv.DictWriter(table, self.history[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.history)
        write_text(self.folder / "history.csv", table.getvalue())
        self.model.epochs_done = len(self.history)
        if self.keep == "best" and best_epoch(self.history) == epoch:
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


def best_epoch(history: list[dict[str, float]]) -> int:
    """The epoch with the highest accuracy on the validation images, of equals the first."""
    return max(range(len(history)), key=lambda epoch: history[epoch]["val_accuracy"])


def read_record(folder: Path) -> dict[str, Any]:
    """The `run.json` of a folder."""
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        record["arguments"], record["data"], record["finished"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"This is not the run.json of a run: pass --overwrite. Received: {folder / 'run.json'}"
        ) from error
    return record


def read_history(folder: Path, epochs: int) -> list[dict[str, float]]:
    """The first epochs of a folder's `history.csv`: those that its model has seen."""
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
