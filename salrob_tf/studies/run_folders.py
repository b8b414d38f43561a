"""The folder of a training run: what it holds, who may write into it, and what is written after each epoch."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np

from salrob_tf.files import (
    DamagedError,
    differences,
    locked,
    read_json_object,
    remove,
    remove_leftovers,
    write_json,
    write_text,
    written_beside,
)
from salrob_tf.training.guided import SaliencyGuided

MODEL, BEST, HISTORY, EXPORT, RECORD = "model.keras", "best.keras", "history.csv", "export", "run.json"
RUN_FILES = (MODEL, BEST, HISTORY, EXPORT, RECORD)
MODELS = ("saved_model.pb*", "variables", "*.keras", "*.h5", "*.hdf5")  # what other models leave in their folders
ELSEWHERE = "move it away, or choose another --out"


def check_run_folder(folder: Path, record: dict[str, Any], resume: bool, overwrite: bool) -> dict[str, Any] | None:
    """See whether a run may be written into a folder.

    Returns:
        The record of the run that is there, or `None`.

    Raises:
        ValueError: If a run is there and neither `resume` nor `overwrite` is on, if it is another one than is to be
            resumed, or if a file is in the way that no run wrote: beside a run one with a name that it needs, without
            a run any model.
    """
    found = read_record(folder)
    if found and not (resume or overwrite):
        raise ValueError(f"This folder already holds a run: pass --resume or --overwrite. Received: {folder}")
    ours = found["files"] if found else []
    names = _own_names(record) if found else (*RUN_FILES, *MODELS)
    for path in sorted({path for name in names for path in folder.glob(name)}):
        if path.name not in ours and not path.name.startswith("."):
            raise ValueError(f"No run here wrote this, and it is in the way: {ELSEWHERE}. Received: {path}")
    if found and resume and not _is_empty(found):
        _check_same_run(folder, found, record)
    return found


@contextmanager
def open_run(folder: Path, record: dict[str, Any], resume: bool, overwrite: bool) -> Iterator[None]:
    """Hold a folder for a run: one begins in it, or the one that it holds is found to be able to go on."""
    check_run_folder(folder, record, resume, overwrite)  # before anything is made
    with locked(folder):
        for name in RUN_FILES:
            remove_leftovers(folder / name)
        found = check_run_folder(folder, record, resume, overwrite)
        if found and overwrite:
            empty_run(folder)
        if not found or overwrite or _is_empty(found):
            record["files"] = [name for name in _own_names(record) if name != EXPORT]
            write_json(folder / RECORD, record)
        yield


def empty_run(folder: Path) -> None:
    """Remove what the record of a run names, and nothing else. The record stays, and says that any run may follow."""
    if found := read_record(folder):
        for name in found["files"]:
            if name != RECORD:
                remove(folder / name)
        write_json(folder / RECORD, {**found, "finished": False, "files": [RECORD]})


def remove_run(folder: Path) -> None:
    """Remove what the record of a run names, and nothing else; the record goes last."""
    empty_run(folder)
    remove(folder / RECORD)


class KeepRun(keras.callbacks.Callback):
    """Writes the history, then the model, which says how many epochs of that history it has seen.

    Args:
        folder: Where to.
        history: The epochs before this one.
        keep: As in `Run`.
        identity: What `run_identity` says of the run; it is kept with the model.
    """

    def __init__(self, folder: Path, history: list[dict[str, float]], keep: str, identity: str) -> None:
        super().__init__()
        self.folder, self.history, self.keep, self.identity = folder, history, keep, identity

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
        write_text(self.folder / HISTORY, table.getvalue())
        self.model.epochs_done = len(self.history)
        if self.keep == "best" and best_epoch(self.history) == epoch:
            self._save(BEST)
        self._save(MODEL)

    def _save(self, name: str) -> None:
        with written_beside(self.folder / name) as beside:
            self.model.save(beside)
            with zipfile.ZipFile(beside, "a") as archive:
                archive.comment = self.identity.encode()

    def _stop(self, what: str) -> None:
        epochs = len(self.history)
        last = f"the last good model is {self.folder / MODEL}, of epoch {epochs}" if epochs else "none was saved"
        raise ValueError(f"{what}; {last}. Lower the learning rate, and pass --overwrite to start anew")


def best_epoch(history: list[dict[str, float]]) -> int:
    """The epoch with the highest accuracy on the validation images, of equals the first."""
    return max(range(len(history)), key=lambda epoch: history[epoch]["val_accuracy"])


LATER = ("control", "strength")  # arguments that runs of older versions had not


def run_identity(record: dict[str, Any]) -> str:
    """Digest of all that decides about the weights after an epoch, as a model of the run carries it."""
    arguments = {key: value for key, value in record["arguments"].items() if key not in ("epochs", "keep")}
    for later in LATER:
        if arguments.get(later) is None:
            arguments.pop(later, None)
    return hashlib.sha256(json.dumps([arguments, record["data"]], sort_keys=True).encode()).hexdigest()


def load_run_model(
    path: Path, record: dict[str, Any], like: SaliencyGuided, epochs_done: int | None = None
) -> SaliencyGuided:
    """The model that a run saved.

    Args:
        path: Its file.
        record: The record of the run.
        like: A model as the run builds it.
        epochs_done: How many epochs it must have seen; any number unless given.

    Raises:
        ValueError: If there is none, it is damaged, or it is not of this run.
    """
    remedy = "put back the one that the run saved, or pass --overwrite to start anew"
    if not path.is_file():
        raise DamagedError(f"The model of the run in this folder is gone: {remedy}. Received: {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            identity = archive.comment.decode()
        model = keras.saving.load_model(path)
    except Exception as error:
        # What a damaged file raises depends on where Keras stumbles.
        why = f"{type(error).__name__}: {error}"[:200]
        raise DamagedError(f"This model cannot be loaded ({why}): {remedy}. Received: {path}") from error
    # Runs of older versions left no identity.
    same = isinstance(model, SaliencyGuided) and identity in ("", run_identity(record))
    if same:
        last = record["arguments"]["epochs"]
        same = (epochs_done or 1) <= model.epochs_done <= (epochs_done or last) and _shapes(model) == _shapes(like)
    if not same:
        raise DamagedError(f"This is not the model of the run in its folder: {remedy}. Received: {path}")
    return model


def write_export(folder: Path, record: dict[str, Any], model: SaliencyGuided) -> None:
    """Write the classifier as a SavedModel, once the record says that its folder is the run's."""
    path = folder / EXPORT
    if EXPORT not in record["files"]:
        if path.exists() or path.is_symlink():
            raise ValueError(
                f"No run here wrote this, and it is in the way: move it away, then pass --resume. Received: {path}"
            )
        record["files"].append(EXPORT)
        write_json(folder / RECORD, record)
    with written_beside(path) as beside:
        model.export(str(beside), verbose=False)


def holds_export(folder: Path) -> bool:
    """Whether a folder holds all files of an exported classifier."""
    parts = ("saved_model.pb", "variables/variables.index", "variables/variables.data-*")
    return all(any((folder / EXPORT).glob(part)) for part in parts)


def read_record(folder: Path) -> dict[str, Any] | None:
    """The `run.json` of a folder, or `None` where there is none.

    Raises:
        ValueError: If it is not one that a run wrote.
    """
    path = folder / RECORD
    if not path.exists():
        return None
    what = "the run.json of a run"
    record = read_json_object(path, what, ELSEWHERE)
    needed = {"arguments": dict, "data": dict, "finished": bool}
    if record.get("finished"):
        needed |= {"epoch": int, "train": dict, "test": dict}
    wrong = [key for key, kind in needed.items() if not isinstance(record.get(key), kind)]
    if not wrong and record["finished"] and not isinstance(record["test"].get("accuracy"), float):
        wrong = ["test"]
    # Older versions kept no list; what follows they are known to have written.
    known = [] if wrong else [name for name in _own_names(record) if name != EXPORT or record["finished"]]
    files = record.setdefault("files", known)
    if not isinstance(files, list) or not all(name in RUN_FILES for name in files):
        wrong = ["files"]
    if wrong:
        raise DamagedError(f"This is not {what} (see {', '.join(wrong)}): {ELSEWHERE}. Received: {path}")
    return record


def read_history(folder: Path, epochs: int) -> list[dict[str, float]]:
    """The first epochs of a folder's `history.csv`: those that its model has seen.

    Raises:
        ValueError: If it is not a history, or too short.
    """
    path, rows = folder / HISTORY, []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file, strict=True)):
                rows.append({"epoch": int(row.pop("epoch")), **{key: float(value) for key, value in row.items()}})
                if rows[-1]["epoch"] != number:
                    raise ValueError(f"epoch {rows[-1]['epoch']} in place of {number}")
    except FileNotFoundError:
        pass
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise DamagedError(
            f"This is not the history of a run ({error}): pass --overwrite to start anew. Received: {path}"
        ) from error
    if len(rows) < epochs:
        raise DamagedError(
            f"The model in {folder} has {epochs} epochs, its history.csv {len(rows)}: pass --overwrite to start anew"
        )
    return rows[:epochs]


def _is_empty(record: dict[str, Any]) -> bool:
    return record["files"] == [RECORD]


def _own_names(record: dict[str, Any]) -> list[str]:
    """The names that a run writes to."""
    return [name for name in RUN_FILES if name != BEST or record["arguments"].get("keep") == "best"]


def _shapes(model: SaliencyGuided) -> list[tuple[int, ...]]:
    return [weights.shape for weights in model.get_weights()]


def _check_same_run(folder: Path, found: dict[str, Any], asked: dict[str, Any]) -> None:
    if different := [text for part in ("arguments", "data") for text in differences(found[part], asked[part])]:
        raise ValueError(f"The run in {folder} is another one and cannot be resumed: {'; '.join(different)}")
