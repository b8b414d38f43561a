"""What was measured of networks, image by image, and how it differs between ways of training over seeds."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

DELETION = "deletion against random maps"  # what measures are called before the name of a fill
INSERTION = "insertion against random maps"
MARGIN = "margin of the logits"
FIRST_ORDER = "smallest epsilon by the first order"
SMALLEST = "smallest epsilon found (none: twice the largest)"

Table = Mapping[str, Mapping[str, np.ndarray]]  # arrays by network, or part, and name
Means = Mapping[str, Mapping[int, Mapping[str, float]]]  # by way of training, seed, and what: a network's, over images
NETWORK = "network"  # the first column of what `means_csv` writes


def flattened(name: str, table: Table) -> tuple[list[tuple[str, str]], dict[str, np.ndarray]]:
    """The keys of a table of arrays, and the arrays by names that files can hold."""
    order = [(network, measure) for network, each in table.items() for measure in each]
    return order, {f"{name}_{place}": table[one][what] for place, (one, what) in enumerate(order)}


def packed(words: Any, arrays: Mapping[str, np.ndarray]) -> bytes:
    """The content of an `.npz` file of arrays and of what JSON can hold."""
    file = io.BytesIO()
    every: dict[str, Any] = {**arrays, "words": np.array(json.dumps(words))}
    np.savez_compressed(file, **every)
    return file.getvalue()


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured of one network.

    Attributes:
        mechanism: By name, a number for each of the first images that were attacked, which may say why it is robust.
        quality: The same for how good its saliency maps are: higher is better. Of images that nothing was removed
            from NaN.
        removed: By fill, as `Evidence.removed` has it.
    """

    mechanism: Mapping[str, np.ndarray]
    quality: Mapping[str, np.ndarray]
    removed: Mapping[str, np.ndarray]

    @property
    def values(self) -> dict[str, np.ndarray]:
        """`mechanism` and `quality`."""
        return {**self.mechanism, **self.quality}

    @property
    def means(self) -> dict[str, float]:
        """The mean of each of `values` over images, of which those are left out that have no finite number."""
        finite = {name: each[np.isfinite(each)] for name, each in self.values.items()}
        return {name: float(each.mean()) if each.size else np.nan for name, each in finite.items()}

    def to_bytes(self) -> bytes:
        """As the content of an `.npz` file."""
        order, arrays = flattened("part", {part.name: getattr(self, part.name) for part in fields(self)})
        return packed(order, arrays)


def load_measured(path: Path) -> Measured:
    """Read what `Measured.to_bytes` gave.

    Raises:
        ValueError: If the file is not that, or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            parts: dict[str, dict[str, np.ndarray]] = {part.name: {} for part in fields(Measured)}
            for place, (part, name) in enumerate(json.loads(str(file["words"]))):
                parts[part][name] = file[f"part_{place}"]
        return Measured(**parts)
    except Exception as error:
        why = " ".join(str(error).split())[:200]
        raise ValueError(f"These are no measures of a network ({why}). Received: {path}") from error


class Mean(NamedTuple):
    """A mean over seeds, NaN without any, with the ends of its 95 % interval (Student's t), NaN of one seed."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        ends = "" if np.isnan(self.low) else f" [{self.low:+.2g}, {self.high:+.2g}]"
        return "" if np.isnan(self.mean) else f"{self.mean:+.2g}{ends}"


class OverSeeds(NamedTuple):
    """What was measured of networks of several ways of training.

    Attributes:
        name: What.
        means: By way of training, over its seeds, each network's mean over images counting as one value; empty where
            it is something that compares a network with the first way's.
        differences: By way of training but the first, its difference to the first over the seeds that both have.
    """

    name: str
    means: dict[str, Mean]
    differences: dict[str, Mean]


def means_csv(groups: Means) -> str:
    """Means of networks, as the content of a `.csv` file: a row per network, empty where it lacks what others have."""
    networks = {f"{way}-{seed}": means for way, seeds in groups.items() for seed, means in seeds.items()}
    measures = list(dict.fromkeys(name for means in networks.values() for name in means))
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow([NETWORK, *measures])
    for network, means in networks.items():
        rows.writerow([network, *(f"{means[name]:.7g}" if name in means else "" for name in measures)])
    return file.getvalue()


def load_means(path: Path) -> Means:
    """Read what `means_csv` gave.

    Raises:
        ValueError: If the file is not that, or damaged.
    """
    groups: dict[str, dict[int, dict[str, float]]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            (first, *measures), *rows = csv.reader(file)
        names = [row[0] for row in rows if row]
        if first != NETWORK or not measures or not rows or any(len({*each}) < len(each) for each in (measures, names)):
            raise ValueError(
                f"the first column must be {NETWORK}, each other one a measure, and each row a network, once"
            )
        for network, *means in rows:
            way, _, seed = network.rpartition("-")
            own = {name: float(mean) for name, mean in zip(measures, means, strict=True) if mean}
            groups.setdefault(way, {})[int(seed)] = own
    except (ValueError, csv.Error) as error:
        raise ValueError(f"These are no means of networks ({error}). Received: {path}") from error
    return groups


def over_seeds(groups: Means) -> list[OverSeeds]:
    """Compare ways of training by what was measured of their networks.

    Args:
        groups: By way of training and by seed, the `means` of what was measured of the network. What those of the
            first way lack, and another way has, is taken as a difference to it.

    Raises:
        ValueError: If there is none, or a network lacks what the first one has.
    """
    if not groups or not all(groups.values()):
        raise ValueError(f"There must be measures of each way of training. Received: {dict.fromkeys(groups)}")
    first, *others = groups
    own = next(iter(groups[first].values()))
    for way, seeds in groups.items():
        for seed, means in seeds.items():
            if missing := [name for name in own if name not in means]:
                raise ValueError(f"Each network needs the same measures. Received: {way}-{seed} without {missing[0]}")
    rows = [_row(name, groups, first) for name in own]
    compared = [name for way in others for means in groups[way].values() for name in means if name not in own]
    for name in dict.fromkeys(compared):
        values = {way: [means[name] for means in groups[way].values() if name in means] for way in others}
        rows.append(OverSeeds(name, {}, {way: mean_of(each) for way, each in values.items()}))
    return rows


def _row(name: str, groups: Means, first: str) -> OverSeeds:
    each = {way: {seed: means[name] for seed, means in seeds.items()} for way, seeds in groups.items()}
    differences = {
        way: mean_of([seeds[seed] - each[first][seed] for seed in seeds if seed in each[first]])
        for way, seeds in each.items()
        if way != first
    }
    return OverSeeds(name, {way: mean_of([*seeds.values()]) for way, seeds in each.items()}, differences)


def mean_of(values: Sequence[float]) -> Mean:
    """The mean of those values that are finite, with its interval."""
    values = [value for value in values if np.isfinite(value)]
    if len(values) < 2:
        return Mean(*values, *[np.nan] * (3 - len(values)))
    mean = float(np.mean(values))
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return Mean(mean, mean - half, mean + half)
