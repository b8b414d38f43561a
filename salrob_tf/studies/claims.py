"""Who does which job: a file that says so, kept fresh by a heartbeat, on one folder that processes and hosts share."""

from __future__ import annotations

import json
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from salrob_tf.processes import is_alive, now, space, started

BEAT = 15.0  # seconds between two heartbeats
STALE = 120.0  # seconds without one, after which whoever made a claim on another host is taken for dead
PATIENCE = 10.0  # seconds that others may take to look at a claim


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Claim a job for the time of the block.

    Args:
        path: The claim, a file in a folder that is there.

    Yields:
        Whether it is ours; not where a process that lives has it, on this host or another.
    """
    process, token = os.getpid(), uuid.uuid4().hex
    mine = {
        "host": socket.gethostname(), "space": space(), "process": process, "started": started(process),
        "token": token,
    }  # fmt: skip
    if not _take(path, mine):
        yield False
        return
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT):
            with suppress(OSError):
                if _read(path) == mine:
                    os.utime(path)

    heart = threading.Thread(target=beat, daemon=True)
    heart.start()
    try:
        yield True
    finally:
        ended.set()
        heart.join()
        if _read(path) == mine:  # not what others made of one that was taken for dead
            path.unlink(missing_ok=True)


def holder(path: Path) -> str | None:
    """Who has a claim, host and process, or `None` where nobody does who lives."""
    claim = _read(path)
    return None if claim is None or _is_dead(path, claim) else f"{claim.get('host')}, process {claim.get('process')}"


def _take(path: Path, mine: dict[str, Any]) -> bool:
    """Put a claim in its place, whole, if there is none or that of the dead; one process at a time looks."""
    try:
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=PATIENCE):
            claim = _read(path)
            if claim is not None and not _is_dead(path, claim):
                return False
            beside = path.with_name(f".{mine['token']}-{path.name}")
            beside.write_text(json.dumps(mine))
            os.replace(beside, path)
            return True
    except Timeout:
        return False


def _read(path: Path) -> dict[str, Any] | None:
    try:
        claim = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}  # damaged: it lives until it is stale
    return claim if isinstance(claim, dict) else {}


def _is_dead(path: Path, claim: dict[str, Any]) -> bool:
    """Whether who made a claim is gone: by its process where that can be seen, elsewhere by its heartbeat."""
    process = claim.get("process")
    if claim.get("space") == space() and isinstance(process, int):
        then, began = claim.get("started"), started(process)
        another = None not in (then, began) and then != began  # has its number now; some hosts show nobody else's start
        return another or not is_alive(process)
    try:
        return now(path.parent) - path.stat().st_mtime > STALE
    except FileNotFoundError:
        return True
