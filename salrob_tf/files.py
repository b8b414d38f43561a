"""Files that are whole or not there: write beside, then rename."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def written_beside(path: str | Path) -> Iterator[Path]:
    """Give a path to write a file or a folder to, which takes the place of `path` once the block is done.

    Args:
        path: Where the result belongs; what is there is replaced, and kept if the block fails. Missing folders
            above it are made.

    Yields:
        A path in the same folder, with the same ending.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield beside
        if path.is_dir() and beside.is_dir():
            shutil.rmtree(path)
        os.replace(beside, path)
    finally:
        if beside.is_dir():
            shutil.rmtree(beside)
        beside.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with written_beside(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: str | Path, record: Any) -> None:
    """Write a JSON file, whole or not at all; paths become strings."""
    write_text(path, json.dumps(record, indent=1, default=str) + "\n")
