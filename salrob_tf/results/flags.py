"""What speaks against a result, kept and shown wherever the result is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

NOTE, DOUBTFUL, NOT_BELIEVED = SEVERITIES = ("note", "doubtful", "not to be believed")


@dataclass(frozen=True)
class Flag:
    """One thing that speaks against robust accuracies.

    Attributes:
        id: Short name of what was looked at.
        severity: `"note"`; `"doubtful"`, the accuracies may be too high; or `"not to be believed"`, they say nothing.
        figure: What was measured.
        threshold: From where on it is said, in the same units.
        meaning: What was found, in words.
        remedy: What to do next.
        attack: Label of the attack that it concerns, or `None` for all of them.
    """

    id: str
    severity: str
    figure: float
    threshold: float
    meaning: str
    remedy: str
    attack: str | None = None

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(f"`severity` must be one of {', '.join(SEVERITIES)}. Received: severity={self.severity!r}")

    @property
    def withholds(self) -> bool:
        """Whether no verdict can rest on the accuracies that it concerns."""
        return self.severity != NOTE

    def __str__(self) -> str:
        which = "" if self.attack is None else f"{self.attack}: "
        judged = f" ({self.severity})" if self.withholds else ""
        return f"{which}{self.meaning}{judged}. {self.remedy}"

    def record(self) -> dict[str, Any]:
        """The flag as `results.json` holds it."""
        return asdict(self)


def mildest(severities: Iterable[str | None]) -> str | None:
    """The least grave of some severities, `None` being none."""
    return min(severities, key=lambda severity: SEVERITIES.index(severity) if severity else -1)


def gravest(severities: Iterable[str | None]) -> str | None:
    """The gravest of some severities; `None` stands for none, and is what there is without any."""
    return max(filter(None, severities), key=SEVERITIES.index, default=None)


def worst(flags: Iterable[Flag]) -> str | None:
    """The gravest severity of some flags that withhold a verdict, `None` without any."""
    return gravest(flag.severity for flag in flags if flag.withholds)
