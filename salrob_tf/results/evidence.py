"""What is shown beside results and cannot be derived from them: images under attack, maps, measures at images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from salrob_tf.checks import shown
from salrob_tf.results.measures import Table, flattened, packed
from salrob_tf.results.robustness import Robustness

ARRAYS = (
    "images",
    "labels",
    "rows",
    "epsilons",
    "adversarial",
    "maps",
    "predicted",
    "confidence",
    "agreement",
    "shares",
)
NAMES = ("networks", "attacks", "class_names", "quality")
TABLES = ("measures", "removed")


@dataclass(frozen=True, eq=False)
class Evidence:
    """Some test images under some attacks, as one or more networks see them, and what was measured at images.

    Attributes:
        networks: Names, `J` of them.
        attacks: Labels, `A` of them.
        class_names: Names of classes.
        epsilons: Radii, ascending, the first 0, `(E,)`.
        images: The images, uint8 `(M, height, width, channels)`.
        labels: Their classes `(M,)`.
        rows: Their rows in the test set `(M,)`.
        adversarial: What each attack makes of them for each network, uint8 `(J, A, E, M, height, width, channels)`.
        maps: Saliency maps at those, over channels, int8, -127 to 127 being the largest magnitude of each,
            `(J, A, E, M, height, width)`.
        predicted: Classes `(J, A, E, M)`.
        confidence: Probability of that class `(J, A, E, M)`.
        measures: By network and by what was measured, a number for each of some images, the same for all networks.
        quality: Names of those measures that say how good saliency maps are, by a number that is higher then, `Q`.
        agreement: Of each two of those, how far they rank images alike, from -1 to 1, mean over networks, `(Q, Q)`.
        shares: Shares of the pixels that were removed, ascending from 0, `(F,)`.
        removed: By network and by what pixels were filled with, whether some images are still classified correctly
            without the most, and without the least salient of them, boolean `(2, F, N)`.
        sha256: Identity of the images and labels that were attacked, as of results; nothing where it is not known.

    Raises:
        ValueError: If the parts do not fit together.
    """

    networks: tuple[str, ...]
    attacks: tuple[str, ...]
    class_names: tuple[str, ...]
    epsilons: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    rows: np.ndarray
    adversarial: np.ndarray
    maps: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    measures: Table = field(default_factory=dict)
    quality: tuple[str, ...] = ()
    agreement: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    shares: np.ndarray = field(default_factory=lambda: np.zeros(0))
    removed: Table = field(default_factory=dict)
    sha256: str = ""

    def __post_init__(self) -> None:
        lead = (len(self.networks), len(self.attacks), len(self.epsilons), len(self.labels))
        shape = self.images.shape
        expected = {
            "images": (len(self.labels), *shape[1:]),
            "rows": lead[3:],
            "adversarial": (*lead, *shape[1:]),
            "maps": (*lead, *shape[1:3]),
            "predicted": lead,
            "confidence": lead,
            "agreement": (len(self.quality),) * 2,
        }
        if len(shape) != 4 or not all(lead):
            raise ValueError(f"There must be networks, attacks, epsilons and images. Received: {shown(self.images)}")
        for name, wanted in expected.items():
            if getattr(self, name).shape != wanted:
                raise ValueError(f"`{name}` must be of shape {wanted}. Received: {shown(getattr(self, name))}")
        for network, fills in self.removed.items():
            for fill, curves in fills.items():
                wanted = (2, len(self.shares))
                if curves.ndim != 3 or curves.shape[:2] != wanted or not curves.size:
                    valid, what = f"(2, {len(self.shares)}, N)", f"{shown(curves)} of {network}, {fill}"
                    raise ValueError(f"`removed` must be {valid} each. Received: {what}")
        top = len(self.class_names)
        if any(each.size and (each.min() < 0 or each.max() >= top) for each in (self.labels, self.predicted)):
            raise ValueError(f"Classes must be from 0 to {top - 1}. Received: labels={shown(self.labels)}")

    def check_of(self, results: Sequence[Robustness]) -> None:
        """Refuse evidence of other networks, epsilons or images than results are.

        Raises:
            ValueError: If it is, naming of which.
        """
        first = results[0]
        same = {
            "networks": {*self.networks, *self.measures} <= {result.model for result in results},
            "epsilons": np.array_equal(self.epsilons, np.unique([0.0, *first.epsilons])),
            "images": bool(np.isin(self.rows, first.indices).all()) and first.sha256 == (self.sha256 or first.sha256),
        }
        if different := [what for what, equal in same.items() if not equal]:
            raise ValueError(f"This evidence is of other {', '.join(different)} than the results of {first.model}")

    def to_bytes(self) -> bytes:
        """As the content of an `.npz` file."""
        arrays = {name: getattr(self, name) for name in ARRAYS}
        words: dict[str, Any] = {name: list(getattr(self, name)) for name in NAMES}
        words["sha256"] = self.sha256
        for name in TABLES:
            words[name], columns = flattened(name, getattr(self, name))
            arrays |= columns
        return packed(words, arrays)


def load_evidence(path: Path) -> Evidence:
    """Read what `Evidence.to_bytes` gave.

    Raises:
        ValueError: If the file is no evidence, or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            words = json.loads(str(file["words"]))
            parts: dict[str, Any] = {name: tuple(map(str, words[name])) for name in NAMES}
            parts |= {name: file[name] for name in ARRAYS}
            for name in TABLES:
                table: dict[str, dict[str, np.ndarray]] = {}
                for place, (network, measure) in enumerate(words[name]):
                    table.setdefault(network, {})[measure] = file[f"{name}_{place}"]
                parts[name] = table
        return Evidence(**parts, sha256=str(words.get("sha256", "")))  # which earlier versions did not keep
    except Exception as error:
        # What a damaged archive raises depends on where NumPy, zipfile or zlib stumbles.
        why = " ".join(str(error).split())[:200]
        raise ValueError(f"This is no evidence as reproduce.py writes it ({why}). Received: {path}") from error
