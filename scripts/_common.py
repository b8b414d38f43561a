"""What the scripts share: a quiet start, one-line errors, progress bars, and several processes."""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

LAUNCHER = "SALROB_LAUNCHER"  # names, in the environment of a worker, the process that started it


class Parser(argparse.ArgumentParser):
    """Errors are one line on stderr, without the usage."""

    def error(self, message: str) -> Any:
        """Exit with code 2."""
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def add_data(parser: argparse.ArgumentParser, **settings: Any) -> None:
    """Add the options that say which images, `settings` being those of `--data` itself."""
    parser.add_argument(
        "--data",
        metavar="SOURCE",
        help="mnist5k, mnist, fashion_mnist, cifar10, cifar100, an .npz file, or a folder of images in train/<class>/ "
        "and test/<class>/" + (f" (default {settings['default']})" if "default" in settings else ""),
        **settings,
    )
    parser.add_argument(
        "--image-size",
        type=int,
        nargs="+",
        metavar="N",
        help="resize a folder's images to N x N, or to two numbers, height and width",
    )


@contextmanager
def quiet_start() -> Iterator[None]:
    """Start TensorFlow; hold back what its C++ code writes to stderr meanwhile, and say it if the start fails."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # What XLA compiles by itself depends on what a process did before: a resumed run is to end with the same bits.
    flags = os.environ.get("TF_XLA_FLAGS", "")
    os.environ["TF_XLA_FLAGS"] = f"{flags} --tf_xla_always_defer_compilation=true".strip()
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            import tensorflow as tf

            if "TF_CONFIG" not in os.environ:  # with one, the strategy must come before the devices
                tf.config.list_logical_devices()
            tf.get_logger().setLevel("ERROR")
            yield
        except BaseException:
            held.seek(0)
            os.write(stderr, held.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def run_main(main: Callable[[], None]) -> None:
    """Run a script's `main`; bad input ends with code 2 and one line, an interruption with code 130 and one line."""
    name = Path(sys.argv[0]).name

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"{name}: warning: {' '.join(str(message).split())}", file=sys.stderr)

    warnings.showwarning = show
    try:
        main()
    except (ValueError, OSError) as error:
        print(f"{name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted; what was finished is kept", file=sys.stderr)
        sys.exit(130)


class SweepBar:
    """A progress bar for `evaluate(progress=...)`, silent where stderr is no terminal.

    Args:
        title: What stands before it.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.bar: Any = None

    def __call__(self, attack: str, done: int, total: int | None, standing: int) -> None:
        """Show how many image-attack pairs are known of all, and how many images of the shard at hand still stand."""
        if self.bar is None:
            self.bar = tqdm(total=total, desc=self.title, unit="img", disable=None)
        self.bar.set_postfix_str(f"{attack}, {standing} standing", refresh=False)
        self.bar.update(done - self.bar.n)
        if done == total:
            self.bar.close()
            self.bar = None


def fit_verbosity() -> int:
    """Keras' `verbose`: a progress bar on a terminal, silence elsewhere."""
    return int(sys.stdout.isatty())


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
            processes[0].wait(timeout=5)  # what is wrong for all of them the first one says
        failed = next(index for index, process in enumerate(processes) if process.poll())
        if outputs[failed] is not None:
            outputs[failed].seek(0)
            sys.stderr.write(outputs[failed].read().decode(errors="replace"))
        return abs(processes[failed].returncode)


def end_with_launcher() -> None:
    """In a process that `launch` started: end when the launcher is gone, however it went."""
    launcher = os.environ.get(LAUNCHER)

    def watch() -> None:
        while str(os.getppid()) == launcher:
            time.sleep(0.5)
        os._exit(1)

    if launcher:
        threading.Thread(target=watch, daemon=True).start()


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()
        process.wait()
