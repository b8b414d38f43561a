"""Several processes of one script on this machine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Any

PATIENCE = 5.0  # seconds that the first worker has to say what is wrong for all of them
LAUNCHER = "SALROB_LAUNCHER"  # names, in the environment of a worker, the process that started it


def launch(command: Sequence[str], workers: int) -> int:
    """Run a command as several local workers, each with its `TF_CONFIG`; one that fails stops the others.

    Args:
        command: Program and arguments. The first worker's output is shown, and that of one that fails.
        workers: How many, 2 or more.

    Returns:
        The exit code: 0, or that of a worker that failed.
    """
    sockets = [socket.create_server(("localhost", 0)) for _ in range(workers)]
    addresses = [f"localhost:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    with ExitStack() as stack:
        outputs: list[Any] = [None, *(stack.enter_context(tempfile.TemporaryFile()) for _ in range(workers - 1))]
        processes: list[subprocess.Popen[bytes]] = []
        stack.callback(_end, processes)
        for index, output in enumerate(outputs):
            config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            environment = {**os.environ, "TF_CONFIG": json.dumps(config), LAUNCHER: str(os.getpid())}
            processes.append(subprocess.Popen(command, env=environment, stdout=output, stderr=output))
        while None in (codes := [process.poll() for process in processes]) and not any(codes):
            time.sleep(0.1)
        if not any(codes):
            return 0
        with suppress(subprocess.TimeoutExpired):
            processes[0].wait(timeout=PATIENCE)
        failed = next(index for index, process in enumerate(processes) if process.poll())
        if outputs[failed] is not None:
            outputs[failed].seek(0)
            sys.stderr.write(outputs[failed].read().decode(errors="replace"))
        return abs(processes[failed].returncode)


def is_launched() -> bool:
    """Whether `launch` started this process."""
    return LAUNCHER in os.environ


def end_with_launcher() -> None:
    """In a process that `launch` started: end when the launcher is gone, however it went."""
    launcher = os.environ.get(LAUNCHER)

    def watch() -> None:
        while str(os.getppid()) == launcher:
            time.sleep(0.5)
        os._exit(1)

    if launcher:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all of them, and one of them speaks
        threading.Thread(target=watch, daemon=True).start()


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()
        process.wait()
