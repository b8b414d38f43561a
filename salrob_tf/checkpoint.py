"""A sweep on disk, so that one which is killed goes on: a file per attack and shard, whole or not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from salrob_tf.files import write_json, written_beside


class Checkpoint:
    """The finished parts of one model's sweep.

    Args:
        folder: Where they are kept; made if missing.
        settings: What the sweep is, as JSON holds it. A folder with other settings is refused.

    Raises:
        ValueError: If the folder holds another sweep, naming what differs.
    """

    def __init__(self, folder: str | Path, settings: dict[str, Any]) -> None:
        self.folder = Path(folder)
        path = self.folder / "settings.json"
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            asked = json.loads(json.dumps(settings))
            different = [key for key in {**found, **asked} if found.get(key) != asked.get(key)]
            if different:
                what = "; ".join(f"{key}={found.get(key)} there, {asked.get(key)} asked" for key in different)
                raise ValueError(f"The sweep in {self.folder} is another one and cannot be resumed: {what}")
        else:
            write_json(path, settings)

    def load(self, attack: str, shard: int, sha256: str) -> dict[str, np.ndarray] | None:
        """What `save` kept, or `None`.

        Raises:
            ValueError: If it was of other images or labels.
        """
        path = self._path(attack, shard)
        if not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        if str(arrays.pop("sha256")) != sha256:
            raise ValueError(f"The sweep in {self.folder} is of other images or labels and cannot be resumed")
        return arrays

    def save(self, attack: str, shard: int, sha256: str, **arrays: Any) -> None:
        """Keep what an attack did to a shard, with the identity of its images and labels."""
        with written_beside(self._path(attack, shard)) as beside:
            np.savez_compressed(beside, sha256=np.array(sha256), **arrays)

    def _path(self, attack: str, shard: int) -> Path:
        return self.folder / f"{attack}-{shard:05d}.npz"
