"""A sweep on disk, so that one which is killed goes on: a file per attack and shard, whole or not there."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from salrob_tf.data.arrays import fingerprint
from salrob_tf.files import (
    DamagedError,
    check_file,
    file_digest,
    read_json_object,
    remove_leftovers,
    write_json,
    written_beside,
)

SETTINGS, PARTS = "settings.json", "*-?????.npz"


class Checkpoint:
    """The finished parts of one model's sweep.

    Args:
        folder: Where they are kept; made if missing.
        settings: What the sweep is, as JSON holds it. A folder with other settings is refused.

    Raises:
        DamagedError: If the folder holds another sweep, naming what differs, or files that no sweep can go on with.
    """

    def __init__(self, folder: str | Path, settings: dict[str, Any]) -> None:
        self.folder = Path(folder)
        self._settings = json.dumps(settings, sort_keys=True)
        for name in (SETTINGS, PARTS):
            remove_leftovers(self.folder / name)
        path = self.folder / SETTINGS
        if path.exists():
            found = read_json_object(path, "the settings.json of a sweep", "remove its folder, or choose another")
            asked = json.loads(self._settings)
            different = [key for key in {**found, **asked} if found.get(key) != asked.get(key)]
            if found.get("parts") != asked.get("parts"):
                raise DamagedError(
                    "This is a sweep of another version and cannot be resumed: remove its folder. "
                    f"Received: {self.folder}"
                )
            if different:
                what = "; ".join(f"{key}={found.get(key)} there, {asked.get(key)} asked" for key in different)
                raise DamagedError(f"The sweep in {self.folder} is another one and cannot be resumed: {what}")
        elif strays := sorted(self.folder.glob(PARTS)):
            raise DamagedError(
                "This is in the way, and of a sweep without its settings.json: remove its folder, or choose another. "
                f"Received: {strays[0]}"
            )
        else:
            write_json(path, settings)

    def load(
        self, attack: str, shard: int, sha256: str, adversarials: Path | None = None
    ) -> dict[str, np.ndarray] | None:
        """What `save` kept, or `None`, with a warning where a part or its adversarials are damaged or were changed.

        Raises:
            ValueError: If it was of other images or labels, or a folder is in its place.
        """
        path = self._path(attack, shard)
        check_file(path)
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
            whole = str(arrays.pop("digest")) == self._digest(attack, shard, arrays)
        except Exception:
            # What a damaged file raises depends on where NumPy stumbles.
            whole = False
        if not whole:
            warnings.warn(f"This part of a sweep is damaged or was changed, and is done again: {path}", stacklevel=2)
            return None
        if str(arrays.pop("sha256")) != sha256:
            raise ValueError(f"The sweep in {self.folder} is of other images or labels and cannot be resumed")
        if str(arrays.pop("adversarials", "")) != file_digest(adversarials):
            warnings.warn(
                f"These are not the adversarials of the sweep, and are made again: {adversarials}", stacklevel=2
            )
            return None
        return arrays

    def take_over(self, folder: Path, shard: int) -> None:
        """Take over the parts of one shard from another folder; what is here stays.

        Whether they are whole, and of this sweep, is seen when they are loaded.
        """
        for path in sorted(folder.glob(f"[!.]*-{shard:05d}.npz")):
            if path.is_file() and not (self.folder / path.name).exists():
                with written_beside(self.folder / path.name) as beside:
                    shutil.copyfile(path, beside)

    def save(self, attack: str, shard: int, sha256: str, adversarials: Path | None = None, **arrays: Any) -> None:
        """Keep what an attack did to a shard, with the identity of its images and labels, and of a file beside."""
        arrays |= {"sha256": sha256, "adversarials": file_digest(adversarials)}
        part: dict[str, Any] = {key: np.asarray(value) for key, value in arrays.items()}
        with written_beside(self._path(attack, shard)) as beside:
            np.savez_compressed(beside, digest=np.array(self._digest(attack, shard, part)), **part)

    def _digest(self, attack: str, shard: int, arrays: dict[str, np.ndarray]) -> str:
        keys = sorted(arrays)
        what = json.dumps([self._settings, attack, shard, keys]) + fingerprint(*(arrays[key] for key in keys))
        return hashlib.sha256(what.encode()).hexdigest()

    def _path(self, attack: str, shard: int) -> Path:
        if Path(attack).name != attack:
            raise ValueError(f"The name of an attack must be that of a file. Received: {attack!r}")
        return self.folder / f"{attack}-{shard:05d}.npz"
