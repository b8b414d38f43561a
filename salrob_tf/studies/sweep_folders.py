"""The `.sweep` in a folder of results: whether scripts left it there, and what is known of it without its record."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from salrob_tf.evaluation.checkpoint import PARTS, SETTINGS
from salrob_tf.files import LOCK, left_of, read_json_object
from salrob_tf.studies.names import is_inside

SWEEP, SWEEP_RECORD = ".sweep", "run.json"


def not_of_sweeps(sweep: Path) -> list[Path]:
    """The files in a `.sweep` that no script wrote, or itself where it is none."""
    files = [path for path in sweep.rglob("*") if not path.is_dir() and not _is_ours(path.relative_to(sweep))]
    return sorted(files) if sweep.is_dir() or not sweep.exists() else [sweep]


def holds_nothing(folder: Path) -> bool:
    """Whether a process that ended before it wrote anything could have left such a `.sweep`, or there is none."""
    firsts, left = (SWEEP_RECORD, SETTINGS), folder.rglob("*")
    return not folder.exists() or (folder.is_dir() and all(path.is_dir() or left_of(path) in firsts for path in left))


def sweep_of_older_version(sweep: Path, plan: dict[str, Any]) -> dict[str, Any] | None:
    """What is known of a `.sweep` without a record, as its record would say it; `None` if nothing.

    Args:
        sweep: The folder.
        plan: What is to be written beside. Of that, adversarials of the attacks in the settings are the sweep's.
    """
    found = {path.name: _settings(path) for path in sweep.glob("*") if not holds_nothing(path)}
    settings = [each for each in found.values() if each]
    if not found or len(settings) < len(found) or not all(map(is_inside, found)):
        return None
    kept = [f"{label}-?????.npz" for each in settings if each.get("adversarials") for label in each["attacks"]]
    files = [name for name in plan["files"] if name.startswith("adversarials/") and Path(name).name in kept]
    runs = [f"models/{name}" for name in found if not name.isdigit()]  # reproduce.py named them, evaluate.py numbered
    script = "reproduce.py" if runs else "evaluate.py"
    return {"script": script, "files": files, "runs": runs, "finished": False, "older": True}


def _is_ours(path: Path) -> bool:
    name = left_of(path) or path.name
    names = {1: (SWEEP_RECORD,), 2: (SETTINGS, PARTS, LOCK)}.get(len(path.parts), ())
    return any(fnmatchcase(name, own) for own in names)


def _settings(folder: Path) -> dict[str, Any] | None:
    try:
        settings = read_json_object(folder / SETTINGS, "the settings.json of a sweep", "remove its folder")
    except (OSError, ValueError):
        return None
    needed = {"model": str, "epsilons": list, "seed": int, "attacks": dict}
    return settings if all(isinstance(settings.get(key), kind) for key, kind in needed.items()) else None
