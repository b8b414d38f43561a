"""Which processes live, where their numbers mean something, as hosts may share folders, and this one's memory."""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import time
import uuid
from contextlib import suppress
from functools import cache
from pathlib import Path

# Of glibc's malloc.h, in the order in which they are set: where it refuses the first, nothing is changed.
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD = -3, -1, -2
KEEP = {M_MMAP_THRESHOLD: 2**31 - 1, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 2**28}


def keep_memory() -> bool:
    """Let this process keep what it frees for what it allocates next, where glibc takes these settings (2.36 does).

    By itself glibc gives large arrays back to the system and takes them anew, page by page, at each step of training.
    Where the environment says how to allocate (`MALLOC_...`, `GLIBC_TUNABLES`), that stands.

    Returns:
        Whether it does now.
    """
    told = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if told or platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return all(library.mallopt(option, value) for option, value in KEEP.items())


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
