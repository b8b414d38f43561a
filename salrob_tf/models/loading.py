"""Models that lie in files and folders, loaded without running code in them, or one line that says what is wrong."""

from __future__ import annotations

import os
import re
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from salrob_tf.checks import brief

KERAS_ENDINGS = (".keras", ".h5", ".hdf5")
HDF5 = b"\x89HDF\r\n\x1a\n"  # the first bytes of such a file


def path_of(model: str | bytes | os.PathLike[Any]) -> Path:
    """A path in any of Python's forms as a `Path`, `~` being the home folder."""
    return Path(os.path.expanduser(os.fsdecode(model)))


def load(model: str | bytes | os.PathLike[Any]) -> Any:
    """The model that lies at a path.

    Args:
        model: A folder from `scripts/train.py`, a file that Keras' `save` wrote (`.keras`, or `.h5` of old), whose
            kind is told by what is in it; or a SavedModel folder.

    Returns:
        A `keras.Model`, or what `tf.saved_model.load` gives.

    Raises:
        ValueError: If there is no model, or it cannot be loaded, in one line.
    """
    received, advice = brief(model, 120), ""
    try:
        path, received = path_of(model), brief(os.fsdecode(model), 120) or "an empty path"
        file = path
        if (path / "model.keras").is_file():
            file = path / "model.keras"
            received = brief(file, 120)
        if file.is_file() and (ending := _ending(file)):
            return _load_keras(file, ending)
        if os.fsdecode(model) and tf.saved_model.contains_saved_model(path):
            return tf.saved_model.load(str(path))
        if not path.exists():
            received += ", which does not exist"
        elif path.name.startswith("saved_model.pb") or tf.saved_model.contains_saved_model(path / "export"):
            advice = f": here {brief(path.parent if path.is_file() else path / 'export', 120)}"
    except Exception as error:
        # What a damaged file or an unknown layer raises depends on where Keras or TensorFlow stumbles.
        raise ValueError(f"{_why(error)}. Received: {received}") from error
    raise ValueError(
        f"Not a model: pass a folder from train.py, a .keras or .h5 file, or a SavedModel folder{advice}. "
        f"Received: {received}"
    )


def _ending(file: Path) -> str | None:
    """The ending that Keras knows a file by, told by its content, or `None` where it is none of Keras'."""
    with file.open("rb") as opened:
        if opened.read(len(HDF5)) == HDF5:
            return ".h5"
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if "config.json" in archive.namelist():
                return ".keras"
    if file.suffix.lower() in KERAS_ENDINGS:
        raise ValueError("neither an archive of Keras nor HDF5, so cut short or something else under this name")
    return None


def _load_keras(file: Path, ending: str) -> keras.Model:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Skipping variable loading for optimizer", UserWarning)  # of KerasHub's tasks
        if file.suffix != ending:  # Keras goes by the name, and by lower case
            link = Path(folder) / f"model{ending}"
            link.symlink_to(file.resolve())
            file = link
        return keras.saving.load_model(file, compile=False, safe_mode=True)


def _why(error: Exception) -> str:
    """Why a model cannot be loaded, and what to do: a line of an error that may be pages of configuration."""
    text = str(error)
    if "safe_mode" in text or "Lambda'> could not be deserialized" in text:
        return (
            "This file holds Python code, such as a Lambda layer, which is not run: save the model with a registered "
            "layer in its place, or pass the model itself or its export"
        )
    if missing := re.search(r"(?:Could not locate|Unknown) (class|function|layer):? '([^']+)'", text):
        kind, name = missing.groups()
        return (
            f"This file needs the {kind} {brief(name, 60)}, which is not in it: import what registers it with "
            "keras.saving.register_keras_serializable, or pass the model itself or its export"
        )
    if "No model config found" in text:
        return "This file holds weights at most: pass the whole model, as model.save('model.keras') writes it"
    return (
        f"This model cannot be loaded ({brief(error)}): fetch it again, or save it again with what wrote it, a Keras "
        "model as .keras"
    )
