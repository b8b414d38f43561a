"""Files that are whole or not there: written beside, flushed, renamed; and folders that one process at a time fills."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from salrob_tf.processes import is_alive, now, space

LOCK = ".salrob.lock"
LEFT = re.compile(r"\.(\d+)(?:@([0-9a-f]{8}))?-(?:old-)?(.+)")  # earlier versions did not say where a process was
LONG = 86_400.0  # seconds, after which what a process of another host began to write is taken for left


class DamagedError(ValueError):
    """What should be there of a run, a job or results is not, or is not what was written."""


@contextmanager
def written_beside(path: str | Path) -> Iterator[Path]:
    """Give a path to write a file or a folder to, which takes the place of `path` once the block is done.

    Args:
        path: Where the result belongs; what is there is replaced, and kept if the block fails. Missing folders
            above it are made.

    Yields:
        A path in the same folder, with the same ending.

    Raises:
        ValueError: If a folder is in the place of a file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    beside = _aside(path)
    try:
        yield beside
        _flush(beside)
        if not beside.is_dir():
            check_file(path)
        elif path.is_dir():
            remove(path)
        os.replace(beside, path)
        _flush_entry(path.parent)
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from error  # a full disk does not say which file
    finally:
        _delete(beside)


def check_file(path: Path) -> None:
    """Refuse a folder in the place of a file, which none takes.

    Raises:
        ValueError: If there is one.
    """
    if path.is_dir():
        raise ValueError(f"This is a folder where a file belongs: move it away, or choose another. Received: {path}")


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with written_beside(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: str | Path, record: Any) -> None:
    """Write a JSON file, whole or not at all; what JSON does not know, such as paths, becomes a string."""
    write_text(path, as_json(record))


def as_json(record: Any) -> str:
    """What a JSON file holds."""
    return json.dumps(record, indent=1, default=str) + "\n"


def read_json_object(path: Path, what: str, remedy: str) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Args:
        path: The file.
        what: What it should be, for the error.
        remedy: What to do if it is not, for the error.

    Raises:
        DamagedError: If it holds anything else.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, IsADirectoryError) as error:
        raise DamagedError(f"This is not {what} ({error}): {remedy}. Received: {path}") from error
    if not isinstance(record, dict):
        raise DamagedError(f"This is not {what}, but holds no JSON object: {remedy}. Received: {path}")
    return record


def file_digest(path: Path | None) -> str:
    """SHA-256 of a file; nothing where there is none."""
    if path is None or not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder, which is gone for others before what is in it is."""
    if path.is_dir() and not path.is_symlink():
        aside = _aside(path, "old-")
        os.replace(path, aside)
        path = aside
    _delete(path)


def remove_leftovers(path: Path) -> None:
    """Remove what processes that are dead left beside `path`, whose name may hold `?` and `*`."""
    for left in path.parent.glob(f".*-{path.name}"):
        found = LEFT.fullmatch(left.name)
        if found and fnmatchcase(found[3], path.name) and _is_left(left, int(found[1]), found[2]):
            _delete(left)


def left_of(path: Path) -> str | None:
    """The name that a file was to have which a process left beside it, `None` for other files."""
    found = LEFT.fullmatch(path.name)
    return found[3] if found else None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made if missing, against other processes; a process that dies lets go of it.

    Raises:
        ValueError: If another process holds it, it cannot be a folder, or a folder is in the place of its lock.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"This is a file, or below one, and no folder: choose another. Received: {folder}") from error
    check_file(folder / LOCK)
    lock = FileLock(folder / LOCK, blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(
            f"Another process is at work in this folder: wait until it ends, or choose another. Received: {folder}"
        ) from error
    try:
        yield
    finally:
        # While it is held: who opened the file before finds that it lost its name, and does not take it for the lock.
        (folder / LOCK).unlink(missing_ok=True)
        lock.release()


def _aside(path: Path, what: str = "") -> Path:
    aside = path.with_name(f".{os.getpid()}@{_here()}-{what}{path.name}")
    _delete(aside)  # of a process that had this number before
    return aside


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _here() -> str:
    """A short name of the space in which the number of this process means something."""
    return hashlib.sha256(space().encode()).hexdigest()[:8]


def _is_left(path: Path, process: int, where: str | None) -> bool:
    """Whether who wrote a file or folder beside another is gone: by its process, elsewhere by its age.

    Elsewhere is another host or container, and this host before its last start.
    """
    if where in (None, _here()):
        return process == os.getpid() or not is_alive(process)
    try:
        found = path.lstat()
        return now(path.parent) - max(found.st_mtime, found.st_ctime) > LONG  # a folder put aside keeps its own time
    except FileNotFoundError:  # its writer has just renamed it
        return False


def _flush(path: Path) -> None:
    """Wait until a file, or a folder with all that is in it, is on the disk."""
    for each in path.rglob("*") if path.is_dir() else ():
        _flush_entry(each)
    _flush_entry(path)


def _flush_entry(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def differences(found: dict[str, Any], asked: dict[str, Any], keys: Iterable[str] | None = None) -> list[str]:
    """What differs between two settings, in words.

    Args:
        found: What is there.
        asked: What is asked for.
        keys: Those that count; by default all that are asked for.
    """
    return [
        f"{key}={found.get(key)} there, {key}={asked.get(key)} asked"
        for key in (asked if keys is None else keys)
        if found.get(key) != asked.get(key)
    ]


def environment() -> dict[str, str]:
    """Versions of Python, the platform, and the libraries that results depend on."""
    packages = ("salrob-tf", "tensorflow", "keras", "cleverhans", "numpy", "scipy")
    versions = {package: importlib.metadata.version(package) for package in packages}
    return {"python": platform.python_version(), "platform": platform.platform(), **versions}
