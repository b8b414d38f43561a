"""Who does which job: a file that says so, kept fresh by a heartbeat, on one folder that processes and hosts share."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

BEAT = 15.0  # seconds between two heartbeats
STALE = 120.0  # seconds without one, after which whoever made a claim is taken for dead


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Claim a job for the time of the block.

    Args:
        path: The claim, a file in a folder that is there.

    Yields:
        Whether it is ours; not where a process that lives has it, on this host or another.
    """
    if not _take(path):
        yield False
        return
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT):
            with suppress(OSError):
                os.utime(path)

    heart = threading.Thread(target=beat, daemon=True)
    heart.start()
    try:
        yield True
    finally:
        ended.set()
        heart.join()
        path.unlink(missing_ok=True)


def holder(path: Path) -> str | None:
    """Who has a claim, host and process, or `None` where nobody does who lives."""
    claim = _read(path)
    return None if claim is None or _is_dead(path, claim) else f"{claim.get('host')}, process {claim.get('process')}"


def _take(path: Path) -> bool:
    for _ in range(2):
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            claim = _read(path)
            if claim is not None and not _is_dead(path, claim):
                return False
            # One of those who see that it is dead moves it away; the others find nothing to move.
            aside = path.with_name(f".{socket.gethostname()}-{os.getpid()}-{path.name}")
            with suppress(FileNotFoundError):
                os.replace(path, aside)
                if _read(aside) != claim:  # somebody was faster, and this is the new one: it goes back
                    with suppress(FileExistsError):
                        os.link(aside, path)
                aside.unlink()
            continue
        with os.fdopen(descriptor, "w") as file:
            json.dump({"host": socket.gethostname(), "process": os.getpid(), "since": time.time()}, file)
        return True
    return False


def _read(path: Path) -> dict[str, Any] | None:
    try:
        claim = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}  # being written, or damaged: it lives until it is stale
    return claim if isinstance(claim, dict) else {}


def _is_dead(path: Path, claim: dict[str, Any]) -> bool:
    process = claim.get("process")
    if claim.get("host") == socket.gethostname() and isinstance(process, int) and process != os.getpid():
        try:
            os.kill(process, 0)
        except (OSError, OverflowError) as error:
            return not isinstance(error, PermissionError)
    try:
        age = _now(path.parent) - path.stat().st_mtime
    except FileNotFoundError:
        return True
    return age > STALE


def _now(folder: Path) -> float:
    """The time by the clock that times of files in a folder go by, which may be that of another host."""
    probe = folder / f".{socket.gethostname()}-{os.getpid()}-now"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
