"""The folder that a script fills with results: who may write into it, what it holds so far, and what may be removed.

It is empty, or unfinished while there is a `.sweep`, or finished once there is a `results.json`, which is written last.
Both hold what the script was asked for and which files are its own; nothing else is removed or written over.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from salrob_tf.files import (
    differences,
    environment,
    file_digest,
    locked,
    read_json_object,
    remove,
    remove_leftovers,
    write_json,
    write_text,
    written_beside,
)
from salrob_tf.reports import figures
from salrob_tf.results.robustness import Robustness
from salrob_tf.results.storage import load_results, save_results
from salrob_tf.studies.names import is_inside, safe_name
from salrob_tf.studies.result_plans import RESULTS, is_larger, plan_differences, plan_of_older_version
from salrob_tf.studies.run_folders import empty_run, read_record, remove_run
from salrob_tf.studies.sweep_folders import SWEEP, SWEEP_RECORD, holds_nothing, not_of_sweeps, sweep_of_older_version

ELSEWHERE = "move it away, or choose another --out"
LIBRARIES = ("salrob-tf", "tensorflow", "keras")


class ResultFolder:
    """An open folder, as `open_results` gives it.

    Attributes:
        path: Where it is.
        complete: Whether a finished run left nothing to do.
    """

    def __init__(self, path: Path, plan: dict[str, Any], found: dict[str, Any] | None) -> None:
        self.path, self._plan = path, plan
        self._finished = found is not None and found["finished"]
        self._files: list[str] = found["files"] if found else []
        self._digests: dict[str, str] = found.get("adversarials", {}) if found else {}
        self._grows = found is not None and self._finished and (found.get("grows", False) or is_larger(found, plan))
        self.complete = self._finished and not self._missing("") and not self._grows

    def checkpoint(self, number: int) -> Path:
        """The folder for the finished parts of a model's sweep."""
        return self.path / SWEEP / str(number)

    def adversarials(self, name: str) -> Path:
        """The folder for the adversarial images of a model.

        Raises:
            ValueError: If the name is more than a name.
        """
        if safe_name(name) != name:
            raise ValueError(f"The name of a model must be that of a folder. Received: {name!r}")
        return self.path / "adversarials" / name

    def saved(self) -> list[Robustness] | None:
        """The results of a finished run; `None`, with a warning, where they are damaged or not all there.

        They are the first of those asked for, where it is to grow.
        """
        if not self._finished:
            return None
        try:
            if missing := self._missing("adversarials/"):
                raise ValueError(f"This file is missing: {self.path / missing[0]}")
            for name, digest in self._digests.items():
                if file_digest(self.path / name) != digest:
                    raise ValueError(f"This file was changed: {self.path / name}")
            if self._grows:
                self._compare_versions()
            return load_results(self.path)
        except ValueError as error:
            warnings.warn(f"{error}. The attacks are run again", stacklevel=2)
            self.complete = False
            return None

    def _compare_versions(self) -> None:
        there = read_json_object(self.path / "results.json", "the results.json of a script here", ELSEWHERE)
        if different := differences(there.get("environment", {}), environment(), LIBRARIES):
            said = "; ".join(different).replace(" asked", " here")
            warnings.warn(f"The results in {self.path} were made by other versions, and are kept: {said}", stacklevel=3)

    def finish(self, drawn: Mapping[str, str | bytes | Figure], results: Sequence[Robustness], **more: Any) -> None:
        """Write tables and figures, by the names of their files, and last the results, by `save_results`."""
        for name, content in drawn.items():
            if isinstance(content, str):
                write_text(self.path / name, content)
            elif isinstance(content, bytes):
                with written_beside(self.path / name) as beside:
                    beside.write_bytes(content)
            else:
                figures.save_figure(content, self.path / name)
        files = _present(self.path, self._plan["files"])
        digests = {name: file_digest(self.path / name) for name in files if name.startswith("adversarials/")}
        run = {**self._plan, "files": sorted({*RESULTS, *files}), "adversarials": digests}
        save_results(self.path, results, run=run, **more)

    def _missing(self, beginning: str) -> list[str]:
        return [name for name in self._files if name.startswith(beginning) and not any(self.path.glob(name))]


def check_results_folder(folder: Path, plan: dict[str, Any], resume: bool, overwrite: bool) -> dict[str, Any] | None:
    """See whether a script may write into a folder.

    Returns:
        What the folder's own record says, or `None` where there is none.

    Raises:
        ValueError: If it holds results and neither `resume` nor `overwrite` is on, if they are others than are to be
            resumed, or if a file is in the way that no script wrote.
    """
    found = _read(folder) or sweep_of_older_version(folder / SWEEP, plan)
    older = found is not None and found.get("older", False)
    if found and not (resume or overwrite or older):
        if found["finished"]:
            raise ValueError(f"This folder already holds results: pass --overwrite. Received: --out {folder}")
        raise ValueError(f"This folder holds an unfinished sweep: pass --resume or --overwrite. Received: {folder}")
    ours = found["files"] if found else []
    strays = [
        name
        for name in _present(folder, plan["files"])
        if (folder / name).is_dir() or not any(fnmatchcase(name, own) for own in ours)
    ]
    above = {parent.as_posix() for name in plan["files"] for parent in Path(name).parents}
    strays += sorted(name for name in above if (folder / name).is_file())
    strays += [path.relative_to(folder).as_posix() for path in not_of_sweeps(folder / SWEEP)]
    if not found and not holds_nothing(folder / SWEEP):
        strays.append(SWEEP)
    if strays:
        raise ValueError(
            f"No script here wrote this, and it is in the way: {ELSEWHERE}. Received: {folder / strays[0]}"
        )
    if found and older and not overwrite:
        kept = f", or remove its {SWEEP} and pass --resume to keep the networks" if found["runs"] else ""
        raise ValueError(
            "This folder holds an unfinished sweep of an earlier version, which cannot be resumed: pass --overwrite"
            f"{kept}. Received: {folder}"
        )
    if found and overwrite:
        if found["runs"] and found["script"] != plan["script"]:
            raise ValueError(
                f"This folder holds networks that {found['script']} trained: {ELSEWHERE}. Received: {folder}"
            )
        for run in found["runs"]:
            read_record(folder / run)
    if found and resume and (different := plan_differences(found, plan)):
        raise ValueError(
            f"The results in {folder} are others and cannot be resumed, only replaced by --overwrite: "
            + "; ".join(different)
        )
    return found


@contextmanager
def open_results(folder: Path, plan: dict[str, Any], *, resume: bool, overwrite: bool) -> Iterator[ResultFolder]:
    """Hold a folder for a script, whose `.sweep` goes once the block is done.

    Args:
        folder: Where to.
        plan: What the script will do, from `make_plan`.
        resume: Go on with what the folder holds; begin where there is nothing.
        overwrite: Remove what the record in the folder names, and nothing else.

    Raises:
        ValueError: As `check_results_folder` does, or if another process is at work there.
    """
    check_results_folder(folder, plan, resume, overwrite)  # before anything is made
    with locked(folder):
        found = check_results_folder(folder, plan, resume, overwrite)
        for name in (SWEEP, *plan["files"]):
            remove_leftovers(folder / name)
        if found and overwrite:
            _remove(folder, found, plan)
            found = None
        opened = ResultFolder(folder, plan, found)
        if not opened.complete:
            write_json(folder / SWEEP / SWEEP_RECORD, plan)
        yield opened
        remove(folder / SWEEP)


def _read(folder: Path) -> dict[str, Any] | None:
    results, sweep = folder / "results.json", folder / SWEEP / SWEEP_RECORD
    if not results.exists():
        return _read_record(sweep, "the run.json of a sweep", False) if sweep.exists() else None
    found = _read_record(results, "the results.json of a script here", True)
    with suppress(OSError, ValueError):  # none, or damaged, beside results that need it no more
        begun = _read_record(sweep, "the run.json of a sweep", False)
        if is_larger(found, begun):  # killed while it grew
            files = sorted({*found["files"], *begun["files"]})
            return {**found, "settings": begun["settings"], "runs": begun["runs"], "files": files, "grows": True}
    return found


def _read_record(path: Path, what: str, finished: bool) -> dict[str, Any]:
    record = read_json_object(path, what, ELSEWHERE)
    try:
        found = record if not finished else record["run"] if "run" in record else plan_of_older_version(record)
        for key, kind in (("script", str), ("settings", dict), ("inputs", dict), ("files", list), ("runs", list)):
            if not isinstance(found[key], kind):
                raise TypeError(key)
        if not all(map(is_inside, [*found["files"], *found["runs"]])):
            raise ValueError("files")
        if not set(found.get("adversarials", {})) <= set(found["files"]):
            raise ValueError("adversarials")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"This is not {what} (see {error}): {ELSEWHERE}. Received: {path}") from error
    return {**found, "finished": finished}


def _present(folder: Path, names: Sequence[str]) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for name in names for path in folder.glob(name))


def _remove(folder: Path, found: dict[str, Any], plan: dict[str, Any]) -> None:
    """Remove what a record names; the record goes last. Folders of runs that are planned stay folders of runs."""
    names = (name for name in _present(folder, found["files"]) if name != "results.json")
    files = [name for name in names if not (folder / name).is_dir()]
    for name in files:
        remove_leftovers(folder / name)
        (folder / name).unlink()
    for name in found["runs"]:
        (empty_run if name in plan["runs"] else remove_run)(folder / name)
    for name in (*files, *(f"{run}/run.json" for run in found["runs"])):
        for above in list(Path(name).parents)[:-1]:
            with suppress(OSError):  # not empty
                (folder / above).rmdir()
    remove(folder / SWEEP)
    remove(folder / "results.json")
