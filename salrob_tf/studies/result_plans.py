"""What a script is about to do to a folder of results, as the folder's own record keeps it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from salrob_tf.files import differences
from salrob_tf.results.records import check_record
from salrob_tf.studies.names import is_inside

RESULTS = ("results.json", "correct.npz")
NOT_SETTINGS = ("out", "resume", "overwrite")
GROWS = "seeds"  # the setting of which more may be asked for later: they come after those there are


def make_plan(
    script: str,
    arguments: Mapping[str, Any],
    files: Sequence[str],
    *,
    inputs: Mapping[str, str] | None = None,
    runs: Sequence[str] = (),
) -> dict[str, Any]:
    """What a script is about to do to a folder.

    Args:
        script: Its name.
        arguments: What it was asked for.
        files: What it will write beside `results.json` and `correct.npz`, relative to the folder; a `?` stands for
            any character.
        inputs: Digests of what the arguments name.
        runs: Folders of runs that it will train, relative to the folder.
    """
    settings = {key: value for key, value in arguments.items() if key not in NOT_SETTINGS}
    plan = {"script": script, "settings": settings, "inputs": inputs or {}, "files": [*RESULTS, *files], "runs": runs}
    return json.loads(json.dumps(plan, default=str))


def adversarial_files(models: Sequence[str], attacks: Iterable[str]) -> list[str]:
    """The files of adversarial images, by names of models and labels of attacks, as `make_plan` takes them."""
    return [f"adversarials/{model}/{attack}-?????.npz" for model in models for attack in sorted(attacks)]


def is_larger(found: dict[str, Any], plan: dict[str, Any]) -> bool:
    """Whether a plan is for more than what there is."""
    there, asked = (each["settings"].get(GROWS) for each in (found, plan))
    return isinstance(there, int) and isinstance(asked, int) and there < asked


def plan_of_older_version(record: dict[str, Any]) -> dict[str, Any]:
    """The plan of a run whose `results.json` holds none.

    Raises:
        TypeError: If it is no such record.
        ValueError: See there.
    """
    record = check_record(record)
    arguments, names = record["arguments"], [model["name"] for model in record["models"]]
    if not isinstance(arguments, dict):
        raise TypeError("arguments")
    script: str = "another program"
    files: list[str] = []
    runs: list[str] = []
    if "seeds" in arguments:
        curves = "figure2.png" if arguments.get("data") == "cifar10" else "figure1.png"
        script, files = "reproduce.py", ["table1.md", curves, "figure3.png", "saliency.png"]
        runs = [f"models/{name}" for name in names]
    elif "models" in arguments:
        script, files = "evaluate.py", ["curves.png"]
        if arguments.get("adversarials"):
            files += adversarial_files(names, {curve["attack"] for curve in record["curves"]})
    return make_plan(script, arguments, list(filter(is_inside, files)), runs=list(filter(is_inside, runs)))


def plan_differences(found: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """What differs between the plan that a folder holds and one that goes on with it, in words."""
    if found["script"] != asked["script"]:
        return [f"script={found['script']} there, script={asked['script']} asked"]
    settings = found["settings"]
    # What came with a later version, and is off unless asked for, is no difference.
    keys = [key for key, value in asked["settings"].items() if key in settings or value]
    if is_larger(found, asked):
        keys.remove(GROWS)
    different = differences(settings, asked["settings"], keys)
    inputs = [key for key in asked["inputs"] if found["inputs"].get(key, asked["inputs"][key]) != asked["inputs"][key]]
    return different or [f"the {key} changed since" for key in inputs]
