"""What the scripts share: options, a quiet start, one-line errors, and progress bars."""

from __future__ import annotations

import argparse
import io
import os
import re
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

DEFER = "--tf_xla_always_defer_compilation=true"
QUICK = 200  # test images of a first look
LONG = 60  # seconds, from which on it is said before how long something takes
ONE_LINE = (ValueError, OSError, ImportError)  # errors whose message says all: what was wrong, and what to do


class Parser(argparse.ArgumentParser):
    """Errors are one line on stderr, without the usage; names of files are those that every library can write.

    The `help` of an argument may be a function that gives it, called only where help is shown.
    """

    def __init__(self, **settings: Any) -> None:
        self.late: list[tuple[argparse.Action, Callable[[], str]]] = []
        super().__init__(**settings)

    def add_argument(self, *names: Any, **settings: Any) -> Any:
        """Add an argument, as ever."""
        text = settings.get("help")
        if not callable(text):
            return super().add_argument(*names, **settings)
        action = super().add_argument(*names, **{**settings, "help": ""})
        self.late.append((action, text))
        return action

    def format_help(self) -> str:
        """The help, for which TensorFlow starts where a text derives from what the package holds."""
        if self.late:
            with quiet_start():
                for action, text in self.late:
                    action.help = text()
        return super().format_help()

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Read the command line."""
        try:
            here = os.getcwd()
        except FileNotFoundError:
            self.error("the folder that this was started in is gone: change to one that is there")
        for text in (*sys.argv[1:], here):
            if re.search("[\ud800-\udfff]", text):
                self.error(f"names must be in UTF-8: rename the file or the folder. Received: {text!r}")
        return super().parse_args(*args, **kwargs)

    def error(self, message: str) -> Any:
        """Exit with code 2."""
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def folder(text: str) -> Path:
    """The path of a folder on the command line; an empty one is a variable that was not set."""
    if not text:
        raise argparse.ArgumentTypeError("it must be the path of a folder. Received: ''")
    return Path(text)


def names(option: str, text: str = "{} (default %(default)s)") -> Callable[[], str]:
    """A help with all that may be given for an option in the place of the braces."""

    def help_text() -> str:
        from salrob_tf.studies.words import valid

        return text.format(valid(option))

    return help_text


def add_data(parser: Parser, **settings: Any) -> None:
    """Add the options that say which images, `settings` being those of `--data` itself."""
    text = "{}, an .npz file, or a folder of images in train/<class>/ and test/<class>/"
    text += " (default %(default)s)" * ("default" in settings)
    parser.add_argument("--data", metavar="SOURCE", help=names("data", text), **settings)
    parser.add_argument(
        "--image-size",
        type=int,
        nargs="+",
        metavar="N",
        help="resize a folder's images to N x N, or to two numbers, height and width",
    )


def add_network(parser: Parser) -> None:
    """Add the options that say which network, and by which recipe it is guided."""
    add = parser.add_argument
    add("--network", default="cnn", help=names("network"))
    add("--weights", metavar="PRESET",
        help=names("weights", "start {} from: imagenet, or a folder of KerasHub's save_to_preset"))  # fmt: skip
    add("--recipe", default="karkehabadi2023", help=names("recipe", "of guided training: {} (default karkehabadi2023)"))


def add_attacks(parser: Parser) -> None:
    """Add the options that say which attacks on how many images."""
    add = parser.add_argument
    attacks = ["fgsm", "bim", "pgd", "mim"]
    add("--attacks", nargs="+", default=attacks, help=names("attacks", f"{{}} (default {' '.join(attacks)})"))
    add("--epsilons", nargs="+", type=float, metavar="EPSILON", help="for images in [0, 1]; default 0.05 to 0.3 for "
        "grey images, 1/255 to 16/255 for colour (L2: 0.5 to 3, 32/255 to 256/255)")  # fmt: skip
    add("--survivors-only", action=argparse.BooleanOptionalAction, default=True,
        help="attack only what still stands (default), or everything at every epsilon, as in the paper")  # fmt: skip
    add("--steps", type=int, default=40, help="of the iterative attacks (default %(default)s)")
    add("--samples", type=int, default=1000, help="test images, chosen at random (default %(default)s, or all)")
    add("--quick", action="store_true", help=f"a first look: {QUICK} test images at most, and worst-case not audited")


def samples_of(args: argparse.Namespace) -> int:
    """How many test images are asked for."""
    return min(args.samples, QUICK) if args.quick else args.samples


@contextmanager
def quiet_start() -> Iterator[None]:
    """Start TensorFlow, then what the block imports; hold back meanwhile what their C++ code writes to stderr.

    It is said where TensorFlow does not start, and where the block ends with what is no one-line error of ours.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # What XLA compiles by itself depends on what a process did before: a resumed run is to end with the same bits.
    flags = os.environ.get("TF_XLA_FLAGS", "").replace(DEFER, "").strip()
    os.environ["TF_XLA_FLAGS"] = f"{flags} {DEFER}".strip()
    sys.stderr.flush()
    stderr = os.dup(2)
    started = False
    with tempfile.TemporaryFile() as held:
        if not flags:  # where TensorFlow does not know one of the user's, it says so and ends the process
            os.dup2(held.fileno(), 2)
        try:
            from salrob_tf.processes import keep_memory  # noqa: I001  first: TensorFlow stumbles over Keras' settings
            import tensorflow as tf

            keep_memory()
            if "TF_CONFIG" not in os.environ:  # with one, the strategy must come before the devices
                tf.config.list_logical_devices()
            tf.get_logger().setLevel("ERROR")
            started = True
            yield
        except BaseException as error:
            ours = getattr(error, "name", "") == "salrob_tf" or isinstance(error, KeyboardInterrupt)
            if not ours and not (started and isinstance(error, ONE_LINE)):
                held.seek(0)
                os.write(stderr, held.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def run_main(main: Callable[[], None]) -> None:
    """Run a script's `main`.

    Bad input ends with code 2 and one line, SIGINT and SIGTERM with code 130 or 143 and one line, and a pipe that
    nobody reads any more with code 141, as if SIGPIPE had come.
    """
    name, received, over, drop = Path(sys.argv[0]).name, [], threading.Event(), sys.unraisablehook
    _open_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names and signs that the terminal's encoding lacks

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"{name}: warning: {' '.join(str(message).split())}", file=sys.stderr)

    def stop(number: int, _: Any) -> None:
        received.append(number)
        look_soon()
        raise KeyboardInterrupt

    def look_soon() -> None:
        timer = threading.Timer(0.2, look)
        timer.daemon = True
        timer.start()

    def look() -> None:
        # What a weak reference calls, __del__ and some code in C drop what is raised: an interruption then comes again.
        if over.is_set():
            return
        if _handles_an_exception():
            look_soon()
        else:
            os.kill(os.getpid(), received[0])

    def dropped(what: sys.UnraisableHookArgs) -> None:
        if not (received and what.exc_type is KeyboardInterrupt):
            drop(what)

    warnings.showwarning, sys.unraisablehook = show, dropped
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        try:
            main()
        finally:
            over.set()
            sys.stdout.flush()
    except BaseException as error:
        # What was done when the signal came may have made something else of the interruption.
        if received or isinstance(error, KeyboardInterrupt):
            code, message = 128 + (received or [signal.SIGINT])[0], "interrupted; what was finished is kept"
            print(f"\n{name}: {message}", file=sys.stderr)
        elif isinstance(error, BrokenPipeError):
            code = 141
        elif isinstance(error, ONE_LINE):
            code = 2
            print(f"{name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        else:
            raise
        _drop_what_cannot_be_written()
        sys.exit(code)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # all is said and done: an interpreter that ends just ends
            if signal.getsignal(number) is stop:
                signal.signal(number, signal.SIG_DFL)
        sys.unraisablehook = drop


def _handles_an_exception() -> bool:
    """Whether the main thread is at the end of what an exception ended."""
    each = sys._current_exceptions().get(threading.main_thread().ident or 0)
    return each is not None and each != (None, None, None)  # a tuple before Python 3.12


def _drop_what_cannot_be_written() -> None:
    """Let standard output lead to the null device where it takes nothing: Python tries once more when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_closed_streams() -> None:
    """Put the null device in the place of standard streams that are closed, before a file takes their numbers."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


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
