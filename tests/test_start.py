"""How scripts start and end: settings, signals, streams that are closed, and what is said."""

import json
import os
import platform
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_bytes, make_images, write_tree
from test_scripts import run

import salrob_tf as sr
from salrob_tf.training import workers

SCRIPTS = Path(__file__).parent.parent / "scripts"
HEAD = f"import os, sys, time; sys.path.insert(0, {str(SCRIPTS)!r}); from _common import run_main\n"


def program(body, redirection="", **options):
    """Run a script whose `main` has this body, in a new process."""
    code = HEAD + "def main():\n" + "".join(f"    {line}\n" for line in body.splitlines()) + "run_main(main)"
    command = ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize(
    ("redirection", "output", "errors"),
    [(">&-", "", "an error"), ("2>&-", "a result\n", ""), (">&- 2>&-", "", ""), ("<&- >&- 2>&-", "", "")],
)
def test_closed_streams_are_as_good_as_the_null_device(tmp_path, redirection, output, errors):
    body = f"""
sys.stdout.isatty(), sys.stderr.isatty()
with open({str(tmp_path / "file")!r}, "w") as file:
    print("a result", flush=True)
    os.write(2, b"an error")
    file.write(str(file.fileno()))
"""
    done = program(body, redirection)
    assert (done.returncode, done.stdout, done.stderr) == (0, output, errors)
    assert int((tmp_path / "file").read_text()) > 2


BUFFERING = pytest.mark.parametrize("unbuffered", ["", "1"])  # Python keeps what it could not write, or not


@BUFFERING
def test_a_pipe_that_nobody_reads_ends_quietly_as_pipes_do(unbuffered):
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    for body in ("print('word ' * 100_000)", "print('word')", "for _ in range(99): print('word', flush=True)"):
        code = HEAD + f"def main():\n    {body}\nrun_main(main)"
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes)
        process.stdout.close()
        errors = process.stderr.read()
        process.stderr.close()
        assert (process.wait(), errors) == (141, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@BUFFERING
def test_a_full_disk_behind_standard_output_is_one_line(unbuffered):
    done = program("print('word')", ">/dev/full", env={**os.environ, "PYTHONUNBUFFERED": unbuffered})
    assert done.returncode == 2 and done.stderr == "-c: error: [Errno 28] No space left on device\n"


def test_what_a_terminal_cannot_show_is_escaped():
    done = program("print('é ±', '\\udcff')", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "\\xe9 \\xb1 \\udcff\n", "")


WAITS = """
print("ready", flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    raise {}
"""


DROPS = """
import weakref
class Thing:
    pass
thing = Thing()
weak = weakref.ref(thing, lambda _: [print("ready", flush=True), time.sleep(60)])
del thing
time.sleep(60)
"""


SWALLOWS = """
print("ready", flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    pass
time.sleep(60)
"""
CLEANS_UP = """
try:
    print("ready", flush=True)
    time.sleep(60)
finally:
    time.sleep(1)
    print("clean", flush=True)
"""


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize(
    ("waits", "output"),
    [
        (WAITS.format(""), ""),
        (WAITS.format("RuntimeError('library')"), ""),
        (DROPS, ""),
        (SWALLOWS, ""),
        (CLEANS_UP, "clean\n"),
    ],
    ids=["raises", "converts", "drops", "swallows", "cleans up"],
)
def test_signals_end_with_one_line_whatever_a_library_makes_of_them(sign, code, waits, output):
    body = "".join(f"    {line}\n" for line in waits.splitlines())
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD + "def main():\n" + body + "run_main(main)"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(sign)
    said = process.communicate(timeout=50)
    assert (process.returncode, *said) == (code, output, "\n-c: interrupted; what was finished is kept\n")


@pytest.mark.parametrize(
    ("script", "environment", "settings", "message"),
    [
        ("train.py", {"KERAS_BACKEND": "nonsense"}, {}, "Keras does not start: set KERAS_BACKEND=tensorflow"),
        ("train.py", {"KERAS_MAX_EPOCHS": "few"}, {}, "a mistake in other KERAS_... variables"),
        ("evaluate.py", {}, {"backend": "nonsense"}, "or in keras.json, which is in KERAS_HOME"),
        ("evaluate.py", {}, [], "or in keras.json, which is in KERAS_HOME"),
        ("evaluate.py", {}, {"floatx": "float16"}, "Received: backend=tensorflow, floatx=float16"),
    ],
)
def test_settings_of_keras_that_cannot_work_are_one_line(tmp_path, script, environment, settings, message):
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    arguments = ["none"] if script == "evaluate.py" else []
    done = subprocess.run(
        [sys.executable, SCRIPTS / script, *arguments, "--data", "none", "--out", tmp_path / "out"],
        env={**os.environ, "KERAS_HOME": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "out").exists()


def test_a_keras_of_channels_first_is_refused_as_well():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ImportError, match=r"and image_data_format=channels_last.*Received.*format=channels_first"):
            runpy.run_path(sr.__file__)
    finally:
        keras.config.set_image_data_format("channels_last")
    runpy.run_path(sr.__file__)


def test_what_tensorflow_says_as_it_starts_is_shown_only_where_it_fails(monkeypatch, capfd):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from _common import quiet_start

    def start(wrong=None):
        os.write(2, b"noise")
        if wrong:
            raise wrong
        return []

    monkeypatch.delenv("TF_CONFIG", raising=False)
    for wrong, shown in ((None, ""), (RuntimeError("no device"), "noise"), (OSError("no library"), "noise")):
        monkeypatch.setattr(tf.config, "list_logical_devices", lambda wrong=wrong: start(wrong))
        for ours in (ValueError("bad input"), KeyboardInterrupt()):
            with pytest.raises(type(wrong or ours)), quiet_start():
                raise ours
            assert capfd.readouterr().err == shown
    monkeypatch.setattr(tf.config, "list_logical_devices", start)
    with pytest.raises(ZeroDivisionError), quiet_start():
        raise ZeroDivisionError
    assert capfd.readouterr().err == "noise", "a mistake of ours comes with all that may tell"


def test_what_tensorflow_says_of_flags_of_the_user_is_shown_and_ours_is_set_once(monkeypatch, capfd):
    """TensorFlow ends the process over a flag that it does not know, and nothing could show what was held back."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from _common import quiet_start

    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda: os.write(2, b"noise"))
    ours = "--tf_xla_always_defer_compilation=true"
    for flags, shown in (("", ""), ("--nonsense", "noise"), (f"--nonsense {ours}", "noise"), (ours, "")):
        monkeypatch.setenv("TF_XLA_FLAGS", flags)
        with quiet_start():
            pass
        assert capfd.readouterr().err == shown
        assert sorted(os.environ["TF_XLA_FLAGS"].split()) == sorted({*flags.split(), ours})


@pytest.mark.skipif(sys.platform == "win32", reason="there a folder that is in use cannot be removed")
def test_a_folder_at_hand_that_is_gone_is_one_line(capsys, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for arguments in (["train.py", "--data", "mnist5k"], ["evaluate.py", "m", "--data", "mnist5k", "--out", "out"]):
        assert run(*arguments, check=False) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "the folder that this was started in is gone: change to one that" in error


WORKERS = {"worker": ["a:1", "b:2"]}


@pytest.mark.parametrize(
    "config",
    [
        "[]",
        "null",
        "5",
        "no JSON",
        {"cluster": []},
        {"cluster": {"worker": 5}},
        {"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 0}},
        {"cluster": {"worker": [1, 2]}, "task": {"type": "worker", "index": 0}},
        {"cluster": WORKERS},
        {"cluster": WORKERS, "task": []},
        {"cluster": WORKERS, "task": {"type": "worker"}},
        {"cluster": WORKERS, "task": {"type": "worker", "index": "0"}},
        {"cluster": WORKERS, "task": {"type": "worker", "index": 2}},
        {"cluster": WORKERS, "task": {"type": "worker", "index": -1}},
        {"cluster": WORKERS, "task": {"type": "evaluator", "index": 0}},
        {"cluster": {**WORKERS, "chief": ["c:3"]}, "task": {"type": "worker", "index": 0}},
        {"cluster": {"chief": ["a:1"]}, "task": {"type": "worker", "index": 1}},
    ],
)
def test_a_tf_config_that_names_no_workers_is_named(monkeypatch, config):
    text = config if isinstance(config, str) else json.dumps(config)
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError) as raised:
        workers.worker_count()
    assert str(raised.value).startswith("TF_CONFIG must name workers and one of them:")
    assert str(raised.value).endswith(f"unset it to train in one process. Received: TF_CONFIG={text}")


def test_a_tf_config_of_one_process_or_of_workers_is_taken(monkeypatch):
    one = {"cluster": {"chief": ["a:1"]}, "task": {"type": "chief", "index": 0}}
    two = {"cluster": WORKERS, "task": {"type": "worker", "index": 1}}
    for text, count, chief in (("", 1, True), ("{}", 1, True), (json.dumps(one), 1, True), (json.dumps(two), 2, False)):
        monkeypatch.setenv("TF_CONFIG", text)
        assert (workers.worker_count(), workers.is_chief()) == (count, chief)


def test_scripts_name_a_wrong_tf_config(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("TF_CONFIG", "[]")
    for script in ("train.py", "reproduce.py"):
        assert run(script, "--data", "mnist5k", "--out", tmp_path / "out", check=False) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "Received: TF_CONFIG=[]" in error
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": WORKERS, "task": {"type": "worker", "index": 0}}))
    assert run("reproduce.py", "--out", tmp_path / "out", check=False) == 2
    assert "unset TF_CONFIG for reproduce.py" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_keras_that_ends_each_training_early_is_refused(capsys, tmp_path):
    (x, y), data = make_images(12), tmp_path / "rows.npz"
    np.savez(data, x_train=x, y_train=y, x_test=x, y_test=y)
    for setter, name in ((keras.config.set_max_epochs, "KERAS_MAX_EPOCHS"), (keras.config.set_max_steps_per_epoch, "")):
        setter(1)
        try:
            assert run("train.py", "--data", data, "--out", tmp_path / "out", check=False) == 2
        finally:
            setter(None)
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and f"unset {name}" in error
    assert not (tmp_path / "out").exists()


def test_names_that_are_not_utf_8_are_refused_before_anything_is_done(capsys, tmp_path, monkeypatch):
    name = str(tmp_path) + "/m\udcff"
    for arguments in (
        ["train.py", "--data", name],
        ["train.py", "--data", "mnist5k", "--out", name],
        ["evaluate.py", name, "--data", "mnist5k", "--out", tmp_path / "out"],
        ["evaluate.py", "m", "--data", "mnist5k", "--out", name],
        ["reproduce.py", "--data", name],
    ):
        assert run(*arguments, check=False) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "names must be in UTF-8: rename the file or the folder" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_classes_and_places_whose_names_are_not_utf_8_are_refused_too(capsys, tmp_path, monkeypatch):
    tree = write_tree(tmp_path / "photos", train=make_bytes(12), test=make_bytes(6))
    for split in ("train", "test"):
        os.rename(tree / split / "class_0", os.fsencode(tree / split) + b"/caf\xe9")
    assert run("reproduce.py", "--data", tree, "--out", tmp_path / "out", check=False) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "The name of a class must be in UTF-8. Received: folder='" in error
    os.mkdir(os.fsencode(tmp_path) + b"/d\xe9")
    monkeypatch.chdir(os.fsencode(tmp_path) + b"/d\xe9")
    np.savez("rows.npz")
    assert run("evaluate.py", ".", "--data", "rows.npz", "--out", tmp_path / "out", check=False) == 2
    assert "names must be in UTF-8" in capsys.readouterr().err


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no glibc here")
@pytest.mark.parametrize(("environment", "kept"), [({}, True), ({"MALLOC_TOP_PAD_": "65536"}, False)])
def test_a_process_keeps_the_memory_that_it_frees_unless_the_environment_says_how(environment, kept):
    code = """
import resource
import numpy as np
from salrob_tf.processes import keep_memory
said = keep_memory()
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**24)  # 128 MiB, which are 32,768 pages
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(said, faults < 4_000)
"""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    own["NUMPY_MADVISE_HUGEPAGE"] = "0"  # of large pages it takes few, kept or not
    done = subprocess.run(
        [sys.executable, "-c", code], env=own | environment, capture_output=True, text=True, check=True
    )
    said, few = (each == "True" for each in done.stdout.split())
    assert said == kept and (few or not kept)
