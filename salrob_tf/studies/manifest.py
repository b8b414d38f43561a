"""A study as a manifest says it: which networks are trained how, from which seeds, and what attacks them all."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

from salrob_tf.attacks.registry import Entry, make_attack
from salrob_tf.checks import check_whole, shown
from salrob_tf.evaluation.plans import check_epsilons, choose_attacks
from salrob_tf.evaluation.sweep import DEFAULT_ATTACKS
from salrob_tf.results.robustness import is_printable
from salrob_tf.studies.runs import Run

RUN_FIELDS = tuple(each.name for each in fields(Run) if each.name != "seed")
MOST_NETWORKS = 10_000


@dataclass(frozen=True)
class AttackPlan:
    """What all networks of a study are attacked with.

    Attributes:
        attacks: Names of attacks.
        epsilons: Radii, or `None` for those that suit the data.
        steps: Of the iterative attacks.
        samples: Test images, chosen at random by `seed`.
        seed: Of that choice and of random starts.
        survivors_only: As for `evaluate`.
        audit: Whether `worst-case` is audited.
        shards: Jobs that attack each network, each on its share of the images, of 256 to 2,048.
    """

    attacks: tuple[str, ...] = DEFAULT_ATTACKS
    epsilons: tuple[float, ...] | None = None
    steps: int = 40
    samples: int = 1000
    seed: int = 0
    survivors_only: bool = True
    audit: bool = True
    shards: int = 1

    def entries(self) -> dict[str, Entry]:
        """The attacks, by label."""
        return choose_attacks([make_attack(name, steps=self.steps, audit=self.audit) for name in self.attacks])


@dataclass(frozen=True)
class Study:
    """A study.

    Attributes:
        data: A data source, as `load_data` takes it.
        image_size: Size that a folder's images get, or `None`.
        seeds: Of networks of each way of training.
        ways: By name, the fields of `Run` that make a way of training; the first is what others are compared with.
        attack: What they are all attacked with.
        evidence: Whether maps and mechanism are measured, and images kept.
        path: The manifest that says so, as it was given.
        text: What it held.
    """

    data: str
    seeds: tuple[int, ...]
    ways: dict[str, dict[str, Any]]
    attack: AttackPlan = field(default_factory=AttackPlan)
    image_size: tuple[int, ...] | None = None
    evidence: bool = True
    path: str = ""
    text: str = field(default="", repr=False)

    def runs(self) -> dict[str, Run]:
        """What is trained, by name, `<way>-<seed>`: seed by seed, so that a study is of use long before its end."""
        return {f"{way}-{seed}": Run(**own, seed=seed) for seed in self.seeds for way, own in self.ways.items()}


def read_manifest(path: str | Path) -> Study:
    """Read a manifest, a TOML file.

    It has `data`, for a folder `image_size`, `seeds` (a list, or how many, 1 unless it says otherwise), `evidence`
    (true unless it says otherwise), a table `training` of fields of `Run` that all ways share, a table for each way in
    `ways`, and a table `attack` of fields of `AttackPlan`.
    Where a field of `Run` is a list, there is a way for each of its values, or for each combination of several, whose
    names say which.

    Raises:
        ValueError: If the file cannot be read, a key is unknown or missing, or a value is not valid; naming it.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        given = tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise ValueError(f"This is no manifest, a TOML file ({error}). Received: {path}") from error
    _check_keys(given, "", ("data", "image_size", "seeds", "evidence", "training", "ways", "attack"))
    for key in ("data", "ways"):
        if not given.get(key):
            raise ValueError(f"A manifest needs `{key}`. Received: {path}")
    tables = {"training": given.get("training", {}), "ways": given["ways"], "attack": given.get("attack", {})}
    tables |= {f"ways.{name}": way for name, way in given["ways"].items()} if isinstance(given["ways"], dict) else {}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise ValueError(f"`{name}` must be a table, [{name}]. Received: {name}={shown(table)}")
        if name not in ("ways", "attack"):
            _check_keys(table, f"{name}.", RUN_FIELDS)
    _check_keys(tables["attack"], "attack.", [each.name for each in fields(AttackPlan)])
    if not isinstance(given["data"], str):
        raise ValueError(f"`data` must be the name or path of a source. Received: data={shown(given['data'])}")
    if not isinstance(evidence := given.get("evidence", True), bool):
        raise ValueError(f"`evidence` must be true or false. Received: evidence={shown(evidence)}")
    ways: dict[str, dict[str, Any]] = {}
    for name, way in given["ways"].items():
        ways |= _expanded(name, {**tables["training"], **way})
    seeds, attack = _seeds(given.get("seeds", 1)), _attack(tables["attack"])
    study = Study(given["data"], seeds, ways, attack, _size(given), evidence, str(path), text)
    if len(study.seeds) * len(ways) > MOST_NETWORKS:
        raise ValueError(f"A study has {MOST_NETWORKS:,} networks at most. Received: {len(study.seeds) * len(ways):,}")
    try:
        runs = study.runs()
        study.attack.entries()
    except TypeError as error:
        raise ValueError(
            f"A value of the manifest is of another type than is taken ({error}). Received: {path}"
        ) from error
    names: dict[Run, str] = {}
    for name, run in runs.items():
        if names.setdefault(run, name) != name:
            raise ValueError(f"Two ways must not be the same. Received: {names[run]} and {name}")
    return study


def _expanded(name: str, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A way for each combination of values where fields are lists."""
    varied = {key: value for key, value in settings.items() if isinstance(value, list)}
    if not all(varied.values()):
        raise ValueError(f"A list of values must not be empty. Received: ways.{name}: {shown(varied)}")
    if (ways := math.prod(map(len, varied.values()))) > MOST_NETWORKS:
        raise ValueError(f"A study has {MOST_NETWORKS:,} networks at most. Received: ways.{name} in {ways:,} ways")
    if not name.strip() or not is_printable(name):
        raise ValueError(f"The name of a way must be of printable characters. Received: ways.{shown(name)}")
    found = {}
    for values in product(*varied.values()):
        chosen = dict(zip(varied, values, strict=True))
        found[" ".join([name, *(f"{key}={value}" for key, value in chosen.items())])] = {**settings, **chosen}
    return found


def _seeds(given: Any) -> tuple[int, ...]:
    if isinstance(given, list):
        seeds = tuple(check_whole("seeds", seed, high=2**32 - 1) for seed in given)
    else:
        seeds = tuple(range(check_whole("seeds", given, 1, MOST_NETWORKS)))
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"`seeds` must be one or more, each once. Received: seeds={shown(given)}")
    return seeds


def _attack(given: dict[str, Any]) -> AttackPlan:
    settings = dict(given)
    names = settings.get("attacks", list(DEFAULT_ATTACKS))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"`attack.attacks` must be a list of names. Received: attacks={shown(names)}")
    settings["attacks"] = tuple(names)
    if "epsilons" in settings:
        settings["epsilons"] = tuple(check_epsilons(settings["epsilons"]).tolist())
    for key, low in {"steps": 1, "samples": 1, "seed": 0, "shards": 1}.items():
        if key in settings:
            settings[key] = check_whole(key, settings[key], low)
    for key in ("survivors_only", "audit"):
        if not isinstance(settings.get(key, True), bool):
            raise ValueError(f"`attack.{key}` must be true or false. Received: {key}={shown(settings[key])}")
    return AttackPlan(**settings)


def _size(given: dict[str, Any]) -> tuple[int, ...] | None:
    size = given.get("image_size")
    if size is None:
        return None
    return tuple(check_whole("image_size", each, 1) for each in (size if isinstance(size, list) else [size]))


def _check_keys(table: dict[str, Any], where: str, valid: Any) -> None:
    for key in table:
        if key not in valid:
            raise ValueError(f"A manifest has no key {where}{key}. Valid: {', '.join(valid)}. Received: {where}{key}")
