"""Results on disk: `results.json` for people and tools, `correct.npz` for everything that derives from it."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from salrob_tf.checks import check_folder, shown
from salrob_tf.files import as_json, check_file, environment, read_json_object, write_text, written_beside
from salrob_tf.results.alike import check_comparable, check_result
from salrob_tf.results.audits import Audit
from salrob_tf.results.comparison import Comparison, chance_flags
from salrob_tf.results.costs import Costs, Member
from salrob_tf.results.flags import Flag
from salrob_tf.results.methods import MethodComparison
from salrob_tf.results.records import LATER_COSTS, SCHEMA, check_agreement, check_record, is_number, read_arrays
from salrob_tf.results.robustness import WORST, Robustness

REMEDY = "evaluate again, or put back what was there"


def save_results(
    folder: str | Path,
    results: Sequence[Robustness],
    *,
    arguments: dict[str, Any] | None = None,
    data_name: str = "",
    split: str = "test",
    comparisons: Sequence[Comparison | MethodComparison] = (),
    run: dict[str, Any] | None = None,
) -> None:
    """Write the outcomes of one or more models, attacked on the same images, as `results.json` and `correct.npz`.

    Example:
        >>> sr.save_results("results", [sr.evaluate(network, images, labels, "fgsm", 0.1)], data_name="rows")

    Args:
        folder: Where to; made if missing. Each file is replaced whole.
        results: One per model, with different names.
        arguments: What the run was asked for.
        data_name: What reports call the data.
        split: Which part of the data.
        comparisons: How models differ, a pair each, and how ways of training do.
        run: What a script did to the folder; see `open_results`.

    Raises:
        ValueError: If there are no results, two models have one name or were attacked otherwise, costs of an attack are
            missing, an argument is not valid, or a folder is in the place of a file; nothing is written then.
    """
    folder = check_folder("folder", folder)
    for name, value in {"data_name": data_name, "split": split}.items():
        if not isinstance(value, str):
            raise ValueError(f"`{name}` must be text. Received: {name}={shown(value)}")
    for name, asked in {"arguments": arguments, "run": run}.items():
        if not isinstance(asked, dict | None):
            raise ValueError(f"`{name}` must be a dictionary or None. Received: {name}={shown(asked)}")
    if not isinstance(results, list | tuple) or not results:
        raise ValueError(f"`results` must be a list of one or more results. Received: results={shown(results)}")
    first = check_result(results[0])
    kinds = Comparison | MethodComparison
    if not isinstance(comparisons, list | tuple) or not all(isinstance(each, kinds) for each in comparisons):
        raise ValueError(
            "`comparisons` must be a list of what compare returns, or compare_methods. Received: "
            f"comparisons={shown(comparisons)}"
        )
    for result in results:
        check_comparable(first, result)
        if set(result.costs) != set(result.correct):
            raise ValueError(f"`costs` must be there for each attack. Received: costs of {shown(list(result.costs))}")
    if len({result.model for result in results}) != len(results):
        raise ValueError(f"Models need different names. Received: {[result.model for result in results]}")
    record = _record(results, data_name, split) | {"arguments": arguments or {}}
    if comparisons:
        ways = [each.record() for each in comparisons if isinstance(each, MethodComparison)]
        pairs = [each.record() for each in comparisons if isinstance(each, Comparison)]
        record["comparison"] = {"pairs": pairs, **({"methods": ways} if ways else {})}
    if run:
        record["run"] = run
    try:
        text = as_json(record)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`arguments` and `run` must be what JSON holds ({error}). Received: {shown(arguments)}"
        ) from error
    arrays: dict[str, np.ndarray] = {"indices": first.indices}
    for result in results:
        arrays[f"{result.model}/clean"] = result.clean
        arrays |= {f"{result.model}/{label}": correct for label, correct in result.correct.items()}
    for name in ("correct.npz", "results.json"):
        check_file(folder / name)
    with written_beside(folder / "correct.npz") as beside:
        np.savez_compressed(beside, **arrays)  # type: ignore[arg-type]
    write_text(folder / "results.json", text)


def _record(results: Sequence[Robustness], data_name: str, split: str) -> dict[str, Any]:
    first = results[0]
    return {
        "schema": SCHEMA,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "environment": environment(),
        "arguments": {},
        "data": {"name": data_name, "split": split, "samples": len(first.clean), "sha256": first.sha256},
        "seed": first.seed,
        "models": [
            {
                "name": result.model,
                "path": result.path,
                "clean_accuracy": result.clean_accuracy,
                "description": result.description,
                "flags": [flag.record() for flag in result.flags],
            }
            for result in results
        ],
        "worst_case": [
            {
                "model": result.model,
                "accuracy": result.accuracy(WORST).tolist(),
                "interval": result.interval(WORST).tolist(),
                "after_each": [_member(member) for member in result.after_each],
            }
            for result in results
            if WORST in result.curves
        ],
        "curves": [
            {
                "model": result.model,
                "attack": label,
                "epsilons": result.epsilons.tolist(),
                "accuracy": result.accuracy(label).tolist(),
                "interval": result.interval(label).tolist(),
                "settings": result.attacks[label],
                "costs": asdict(result.costs[label]),
                **_members(result, label),
                **({"audit": _audit(result.audits[label])} if label in result.audits else {}),
            }
            for result in results
            for label in result.correct
        ],
    }


def _members(result: Robustness, label: str) -> dict[str, Any]:
    """The attacks of an ensemble; nothing of a single attack."""
    members = [_member(member) for member in result.members.get(label, ())]
    return {"members": members} if members else {}


def _member(member: Member) -> dict[str, Any]:
    return {"attack": member.attack, "accuracy": list(member.accuracy), "costs": asdict(member.costs)}


def _audit(audit: Audit) -> dict[str, Any]:
    return {**asdict(audit), "missed": audit.missed.tolist()}


def load_results(folder: str | Path) -> list[Robustness]:
    """Read what `save_results` wrote, one `Robustness` per model.

    Example:
        >>> sr.save_results("results", [sr.evaluate(network, images, labels, "fgsm", [0.05, 0.1])])
        >>> sr.load_results("results")[0].correct["fgsm"].shape
        (2, 64)

    Raises:
        ValueError: If the folder does not hold results, they are damaged or of a version that is not known, or the
            two files contradict each other.
    """
    folder = check_folder("folder", folder)
    if not (folder / "results.json").is_file() or not (folder / "correct.npz").is_file():
        raise ValueError(f"No results.json and correct.npz in this folder. Received: {folder}")
    record = read_json_object(folder / "results.json", "the results.json of an evaluation", REMEDY)
    try:
        record = check_record(record)
        results = _build(record, read_arrays(folder / "correct.npz", record))
        check_agreement(record, results)
    except ValueError as error:
        raise ValueError(
            f"These are not results as save_results writes them ({error}): {REMEDY}. Received: {folder}"
        ) from error
    return results


def _build(record: dict[str, Any], arrays: dict[str, np.ndarray]) -> list[Robustness]:
    results = []
    for model in record["models"]:
        curves = {curve["attack"]: curve for curve in record["curves"] if curve["model"] == model["name"]}
        results.append(
            Robustness(
                model=model["name"],
                epsilons=np.array(next(iter(curves.values()))["epsilons"]),
                indices=arrays["indices"],
                clean=arrays[f"{model['name']}/clean"],
                correct={label: arrays[f"{model['name']}/{label}"] for label in curves},
                attacks={label: curve["settings"] for label, curve in curves.items()},
                costs={label: _costs(curve["costs"]) for label, curve in curves.items()},
                members={
                    label: tuple(
                        Member(member["attack"], tuple(member["accuracy"]), _costs(member["costs"]))
                        for member in curve["members"]
                    )
                    for label, curve in curves.items()
                    if curve.get("members")
                },
                audits={label: _audit_of(curve["audit"]) for label, curve in curves.items() if curve.get("audit")},
                seed=record["seed"],
                sha256=record["data"]["sha256"],
                path=model["path"],
                description=model["description"],
                flags=_flags(model, arrays[f"{model['name']}/clean"]),
            )
        )
    return results


def _costs(record: dict[str, Any]) -> Costs:
    known = {**LATER_COSTS, **record}
    return Costs(**{each.name: known[each.name] for each in fields(Costs)})


def _audit_of(record: dict[str, Any]) -> Audit:
    numbers = {key: tuple(record[key]) for key in ("epsilons", "standing", "broken")}
    return Audit(record["by"], record["images"], **numbers, costs=_costs(record["costs"]))


def _flags(model: dict[str, Any], clean: np.ndarray) -> tuple[Flag, ...]:
    """Flags of a model, where an older version kept none the one that follows from its outcomes."""
    if "flags" in model:
        return tuple(Flag(**flag) for flag in model["flags"])
    known = model["description"]
    classes, bounds = known.get("num_classes", 0), known.get("bounds", [])
    if type(classes) is not int or not 1 < classes < 2**31 or not isinstance(bounds, list) or len(bounds) != 2:
        return ()
    return tuple(chance_flags(model["name"], clean, classes, bounds)) if all(map(is_number, bounds)) else ()
