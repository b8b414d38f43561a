"""Files that are whole or not there, what killed processes leave, and folders that one process fills at a time."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest
from filelock import FileLock

from salrob_tf import files
from salrob_tf.files import LOCK, locked, read_json_object, remove_leftovers, write_text, written_beside


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture(scope="module")
def dead():
    """The number of a process that was."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_is_renamed_into_place_is_on_the_disk_before_and_its_name_after(tmp_path, monkeypatch):
    done, sync, replace = [], os.fsync, os.replace

    def watched_sync(descriptor):
        done.append(os.readlink(f"/proc/self/fd/{descriptor}") if os.path.isdir("/proc/self/fd") else "?")
        sync(descriptor)

    def watched_replace(source, target):
        done.append("renamed")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(os, "replace", watched_replace)
    write_text(tmp_path / "file", "whole")
    assert len(done) == 3 and done[1] == "renamed"
    assert "?" in done or (done[0].endswith("-file") and done[2] == str(tmp_path))
    done.clear()
    with written_beside(tmp_path / "export") as beside:
        (beside / "variables").mkdir(parents=True)
        for name in ("saved_model.pb", "variables/index"):
            (beside / name).write_text("whole")
    flushed = done[: done.index("renamed")]
    assert len(flushed) == 4, "two files and two folders"
    assert "?" in done or {os.path.basename(path) for path in flushed} >= {"saved_model.pb", "index", "variables"}


def test_a_failure_keeps_what_was_there_and_leaves_nothing_beside(tmp_path):
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "old").write_text("kept")
    for name in ("file", "export"):
        with pytest.raises(OSError, match="disk is full"), written_beside(tmp_path / name) as beside:
            beside.write_text("half")
            raise OSError("disk is full")
    assert names(tmp_path) == ["export", "export/old"]


def test_a_full_disk_says_which_file_it_has_no_room_for(tmp_path):
    full = f"No space left on device: '{tmp_path / 'file'}'"
    with pytest.raises(OSError, match=full) as raised, written_beside(tmp_path / "file"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.errno == errno.ENOSPC
    with pytest.raises(FileNotFoundError, match="elsewhere"), written_beside(tmp_path / "file"):
        open(tmp_path / "elsewhere").close()


def test_a_folder_is_replaced_whole(tmp_path):
    for content in ("old", "new"):
        with written_beside(tmp_path / "export") as beside:
            beside.mkdir()
            (beside / content).write_text("")
    assert names(tmp_path) == ["export", "export/new"]


def test_leftovers_of_dead_processes_go_and_nothing_else(tmp_path, dead):
    ours = [f".{dead}-model.keras", f".{os.getpid()}-model.keras", f".{10**30}-model.keras", f".{dead}-old-model.keras"]
    others = [f".{os.getppid()}-model.keras", f".{dead}-notes.txt", f"{dead}-model.keras", ".mine-model.keras"]
    for name in (*ours, *others):
        (tmp_path / name).write_text("half")
    (tmp_path / ours[1]).unlink()
    (tmp_path / ours[1]).mkdir()
    (tmp_path / ours[1] / "part").write_text("half")
    remove_leftovers(tmp_path / "model.keras")
    assert names(tmp_path) == sorted(others)
    (tmp_path / f".{dead}-pgd-00003.npz").write_text("half")
    remove_leftovers(tmp_path / "*-?????.npz")
    assert names(tmp_path) == sorted(others)


def test_what_another_host_writes_is_left_to_it_for_a_day(tmp_path, dead, monkeypatch):
    begun = tmp_path / f".{dead}@0123abcd-model.keras"
    begun.write_text("half")
    remove_leftovers(tmp_path / "model.keras")
    assert names(tmp_path) == [begun.name]
    os.utime(begun, (time.time() - 2 * 86_400,) * 2)  # as of a folder, which keeps its time when it is put aside
    remove_leftovers(tmp_path / "model.keras")
    assert names(tmp_path) == [begun.name]
    with monkeypatch.context() as patch:
        patch.setattr(files, "now", lambda folder: time.time() + 2 * 86_400)
        remove_leftovers(tmp_path / "model.keras")
    assert names(tmp_path) == []
    gone = tmp_path / f".{dead}@0123abcd-model.keras"
    gone.write_text("half")
    with monkeypatch.context() as patch:
        patch.setattr(files, "now", lambda folder: gone.unlink() or time.time())  # while it is looked at
        write_text(tmp_path / "model.keras", "ours")
    assert names(tmp_path) == ["model.keras"]
    monkeypatch.setattr(files, "space", lambda: "another host")
    with written_beside(tmp_path / "model.keras") as beside:
        beside.write_text("theirs")
        monkeypatch.undo()
        write_text(tmp_path / "model.keras", "ours")  # by a process of the same number, on this host
        assert beside.exists() and names(tmp_path) == sorted([beside.name, "model.keras"])
    assert (tmp_path / "model.keras").read_text() == "theirs"


def test_writing_again_removes_what_a_killed_write_left(tmp_path, dead):
    (tmp_path / f".{dead}-export").mkdir()
    (tmp_path / f".{dead}-export" / "half").write_text("")
    write_text(tmp_path / "export", "whole")
    assert names(tmp_path) == ["export"]


HOLDS = """
import sys, time
from pathlib import Path
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
time.sleep(600)
"""


def test_a_folder_is_held_by_one_process_until_it_ends_however_it_ends(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    process = subprocess.Popen([sys.executable, "-c", HOLDS, folder / LOCK], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="Another process is at work in this folder: wait until it ends.*out"):
            locked(folder).__enter__()
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert names(folder) == [LOCK], "a dead process leaves the file, and does not hold it"
    with locked(folder):
        assert names(folder) == [LOCK]
    assert names(folder) == []


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("theirs")
    for path in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(ValueError, match="This is a file, or below one, and no folder: choose another. Received: "):
            locked(path).__enter__()


def test_a_folder_in_the_place_of_a_file_is_one_line_and_stays(tmp_path):
    (tmp_path / "out" / LOCK).mkdir(parents=True)
    message = "^This is a folder where a file belongs: move it away, or choose another. Received: .*/"
    with pytest.raises(ValueError, match=message + LOCK):
        locked(tmp_path / "out").__enter__()
    with pytest.raises(ValueError, match=message + "out"):
        write_text(tmp_path / "out", "whole")
    with pytest.raises(ValueError, match="^This is not settings .*: move it. Received: .*/out$"):
        read_json_object(tmp_path / "out", "settings", "move it")
    assert names(tmp_path) == ["out", f"out/{LOCK}"]


def test_the_lock_goes_while_it_is_held(tmp_path, monkeypatch):
    """Who opened its file before sees that it lost its name; gone later, it would take the next one's away."""
    release, there = FileLock.release, []

    def watched(self, *arguments, **options):
        there.append((tmp_path / LOCK).exists())
        return release(self, *arguments, **options)

    monkeypatch.setattr(FileLock, "release", watched)
    with locked(tmp_path):
        late = os.open(tmp_path / LOCK, os.O_RDWR)
    assert there and not any(there) and os.fstat(late).st_nlink == 0
    os.close(late)
    with locked(tmp_path), pytest.raises(ValueError, match="Another process"):
        locked(tmp_path).__enter__()
