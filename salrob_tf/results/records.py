"""Whether `results.json` and `correct.npz` hold what `save_results` writes, and the same in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from salrob_tf.results.alike import check_comparable
from salrob_tf.results.costs import Costs
from salrob_tf.results.flags import Flag
from salrob_tf.results.robustness import Robustness
from salrob_tf.results.schema_1 import from_schema_1

SCHEMA = 2
LATER_COSTS = {"flipped": 0.0}  # what costs of an earlier version lack


def check_record(record: dict[str, Any]) -> dict[str, Any]:
    """Look at each entry of a `results.json` that anything is made of.

    Returns:
        The record in the present schema.

    Raises:
        ValueError: If an entry is missing or of another type, naming it.
    """
    if type(record.get("schema")) is not int or not 1 <= record["schema"] <= SCHEMA:
        raise ValueError(
            f"results.json: schema is {_short(record, 'schema')}, and this version of salrob_tf knows 1 and {SCHEMA}"
        )
    older = record["schema"] == 1
    record = from_schema_1(record) if older else record
    _check(record, "", seed=int, data=dict, models=list, curves=list)
    _check(record["data"], "data.", samples=int, sha256=str)
    if record["data"]["samples"] < 1 or not record["models"]:
        raise ValueError("results.json: there is no model, or no image")
    for number, model in enumerate(record["models"]):
        where = f"models[{number}]."
        _check(model, where, name=str, path=(str, type(None)), clean_accuracy=float, description=dict)
        if not older or "flags" in model:
            _check_flags(model.get("flags"), f"{where}flags")
        if model["description"]:
            _check(model["description"], where if older else f"{where}description.", summary=str, deterministic=bool)
    costs = {each.name: (int, float) for each in fields(Costs)}
    for number, curve in enumerate(record["curves"]):
        where = f"curves[{number}]."
        _check(curve, where, model=str, attack=str, epsilons=list, accuracy=list, interval=list)
        _check(curve, where, settings=dict, costs=dict)
        if "members" in curve:
            _check(curve, where, members=list)
        _check(curve["settings"], where if older else f"{where}settings.", norm=str, steps=int)
        _check({**LATER_COSTS, **curve["costs"]}, where if older else f"{where}costs.", **costs)
        if "audit" in curve:
            _check_audit(curve, where, costs)
        for place, member in enumerate(curve.get("members", [])):
            inside = f"{where}members[{place}]."
            _check(member, inside, attack=str, accuracy=list, costs=dict)
            _check({**LATER_COSTS, **member["costs"]}, f"{inside}costs.", **costs)
            if len(member["accuracy"]) != len(curve["epsilons"]) or not all(map(is_number, member["accuracy"])):
                raise ValueError(f"results.json: {inside}accuracy is not one number for each epsilon")
        valid = all(is_number(epsilon) and epsilon >= 0 for epsilon in curve["epsilons"])
        if not valid or curve["settings"]["steps"] < 1:
            raise ValueError(f"results.json: curves[{number}] has epsilons or steps that no sweep has")
    _check_curves(record)
    return record


def _check_audit(curve: dict[str, Any], where: str, costs: dict[str, Any]) -> None:
    _check(curve, where, audit=dict)
    audit, inside = curve["audit"], f"{where}audit."
    _check(audit, inside, by=str, images=int, epsilons=list, standing=list, broken=list, costs=dict)
    _check({**LATER_COSTS, **audit["costs"]}, f"{inside}costs.", **costs)
    counts = [audit["standing"], audit["broken"]]
    valid = audit["images"] > 0 and all(type(count) is int and count >= 0 for part in counts for count in part)
    valid = valid and all(broken <= standing <= audit["images"] for standing, broken in zip(*counts, strict=False))
    if not valid or not all(map(is_number, audit["epsilons"])) or {len(audit["epsilons"])} != set(map(len, counts)):
        raise ValueError(f"results.json: {inside[:-1]} is not one count of the audited images for each of its epsilons")


def _check_curves(record: dict[str, Any]) -> None:
    names = [model["name"] for model in record["models"]]
    pairs = sorted((curve["model"], curve["attack"]) for curve in record["curves"])
    attacks = sorted({attack for _, attack in pairs})
    if len(set(names)) != len(names) or pairs != [(name, attack) for name in sorted(names) for attack in attacks]:
        raise ValueError("results.json: there is not one curve for each model and attack")
    if not attacks or any(curve["epsilons"] != record["curves"][0]["epsilons"] for curve in record["curves"]):
        raise ValueError("results.json: the curves are not of the same epsilons")


def read_arrays(path: Path, record: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays that a `results.json` speaks of.

    Raises:
        ValueError: If the file is damaged, or one is missing or of another shape or type, naming it.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except Exception as error:
        # What a damaged file raises depends on where NumPy stumbles.
        raise ValueError(f"correct.npz: {type(error).__name__}: {error}") from error
    samples, epsilons = record["data"]["samples"], len(record["curves"][0]["epsilons"])
    expected: dict[str, tuple[str, tuple[int, ...]]] = {"indices": ("iu", (samples,))}
    expected |= {f"{model['name']}/clean": ("b", (samples,)) for model in record["models"]}
    expected |= {f"{curve['model']}/{curve['attack']}": ("b", (epsilons, samples)) for curve in record["curves"]}
    for key, (kinds, shape) in expected.items():
        if key not in arrays:
            raise ValueError(f"correct.npz: {key} is missing")
        if arrays[key].dtype.kind not in kinds or arrays[key].shape != shape:
            what = "integer" if kinds == "iu" else "boolean"
            raise ValueError(
                f"correct.npz: {key} must be {what} {shape}, and is {arrays[key].dtype} {arrays[key].shape}"
            )
    return arrays


def check_agreement(record: dict[str, Any], results: Sequence[Robustness]) -> None:
    """See that a `results.json` says what follows from the matrices.

    Raises:
        ValueError: If not, naming what.
    """
    by_name = {result.model: result for result in results}
    for model in record["models"]:
        if model["clean_accuracy"] != by_name[model["name"]].clean_accuracy:
            raise ValueError(f"results.json: clean_accuracy of {model['name']} is not that of correct.npz")
    for curve in record["curves"]:
        result, attack = by_name[curve["model"]], curve["attack"]
        if curve["accuracy"] != result.accuracy(attack).tolist() or not _close(
            curve["interval"], result.interval(attack)
        ):
            raise ValueError(
                f"results.json: accuracy or interval of {curve['model']} under {attack} is not that of correct.npz"
            )
    for result in results[1:]:
        check_comparable(results[0], result)


def is_number(value: Any) -> bool:
    """Whether a value from JSON is a finite number, no truth value."""
    return type(value) in (int, float) and abs(value) < 1e300


def _check(part: Any, where: str, **kinds: Any) -> None:
    if not isinstance(part, dict):
        raise ValueError(f"results.json: {where.rstrip('.')} is no object")
    for key, kind in kinds.items():
        allowed, value = kind if isinstance(kind, tuple) else (kind,), part.get(key)
        number = int in allowed or float in allowed
        if key not in part or type(value) not in allowed or (number and not is_number(value)):
            raise ValueError(f"results.json: {where}{key} is {_short(part, key)}")


def _check_flags(flags: Any, where: str) -> None:
    try:
        kinds = [
            (type(flag.figure), type(flag.meaning), type(flag.remedy)) for flag in (Flag(**each) for each in flags)
        ]
    except (TypeError, ValueError) as error:
        raise ValueError(f"results.json: {where} holds no flags ({error})") from error
    if not all(figure in (int, float) and {meaning, remedy} == {str} for figure, meaning, remedy in kinds):
        raise ValueError(f"results.json: {where} holds no flags")


def _close(found: list[Any], expected: np.ndarray) -> bool:
    try:
        pairs = np.array(found, np.float64)
    except (OverflowError, TypeError, ValueError):
        return False
    return pairs.shape == expected.shape and np.allclose(pairs, expected, rtol=0, atol=1e-9)


def _short(part: dict[str, Any], key: str) -> str:
    return repr(part[key])[:40] if key in part else "missing"
