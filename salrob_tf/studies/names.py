"""Names that models and files have in a folder of results, and that lead nowhere else."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def distinct_names(paths: Sequence[str]) -> list[str]:
    """Names of models by their paths: the last part of each, with parts before it where those are alike.

    Returns:
        Names that differ, even where case does not count, and of which each is that of one file or folder.

    Raises:
        ValueError: If a model is there twice.
    """
    full = [Path(os.path.realpath(path)) for path in paths]
    if len(set(full)) != len(full):
        raise ValueError(f"Each model once. Received: {' '.join(paths)}")
    parts = [(*path.parts[:-1], path.stem if path.suffix == ".keras" else path.name) for path in full]
    names: list[str] = []
    for own in parts:
        lengths = (n for n in range(1, len(own)) if [other[-n:] for other in parts].count(own[-n:]) == 1)
        name = plain = safe_name("-".join(own[-next(lengths, len(own)) :]))
        number = 1
        while name.casefold() in (taken.casefold() for taken in names):
            number += 1
            name = safe_name(f"{plain}-{number}")
        names.append(name)
    return names


def safe_name(name: str) -> str:
    """A name as one part of a path on any system, as a file holds it in UTF-8, and as one line of Markdown shows it."""
    name = re.sub(r'[\x00-\x1f\x7f\ud800-\udfff/\\:*?"<>|\[\]]', "_", name)
    name = " ".join("".join(letter if letter.isprintable() else " " for letter in name).split()).strip(" .")
    while len(name.encode()) > 200:
        name = name[1:].lstrip(" .")
    return name or "model"


def is_inside(name: Any) -> bool:
    """Whether this names something in a folder, by plain names all the way down."""
    parts = name.split("/") if isinstance(name, str) else [".."]
    return all(safe_name(part.replace("?", "x")) == part.replace("?", "x") for part in parts)
