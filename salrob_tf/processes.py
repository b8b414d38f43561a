"""Which processes live, and which numbers of processes mean something here: folders may be shared by hosts."""

from __future__ import annotations

import os
import socket
import time
import uuid
from contextlib import suppress
from functools import cache
from pathlib import Path


@cache
def space() -> str:
    """What this process shares with those whose numbers it can look up: a host since its start, or a container."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return socket.gethostname()


def is_alive(process: int) -> bool:
    """Whether there is a process of this number in this space."""
    try:
        os.kill(process, 0)
    except (OSError, OverflowError) as error:
        return isinstance(error, PermissionError)
    return True


def started(process: int) -> str | None:
    """When a process of this space began, by its host's clock, or `None` where that cannot be seen."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, ValueError, IndexError):  # no Linux, or gone
        return None


def now(folder: Path) -> float:
    """The time by the clock that times of files in a folder go by, which may be that of another host."""
    probe = folder / f".{uuid.uuid4().hex}-now"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:  # a folder that may only be read
        return time.time()
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
