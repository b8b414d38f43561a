"""Names that are written from right to left, inside sentences that are not: each by itself, so that nothing moves."""

from __future__ import annotations

import re
from collections.abc import Iterable
from unicodedata import bidirectional

from markupsafe import Markup, escape

FROM_RIGHT = {"R", "AL", "AN"}  # classes of letters and digits, as Unicode has them
ISOLATE, END = "\u2068", "\u2069"


def is_from_right(text: str) -> bool:
    """Whether anything in a text is written from right to left."""
    return any(bidirectional(letter) in FROM_RIGHT for letter in text)


def isolated_text(name: str) -> str:
    """A name for where there are no elements, as in an option of a form."""
    return f"{ISOLATE}{name}{END}" if is_from_right(name) else name


def isolated(text: str, names: Iterable[str]) -> Markup:
    """A sentence with each of those names that are written from right to left in an element of its own."""
    turned = sorted({name for name in names if is_from_right(name)}, key=len, reverse=True)
    if not turned:
        return escape(text)
    parts = re.split(f"({'|'.join(map(re.escape, turned))})", text)
    return Markup("").join(Markup("<bdi>{}</bdi>").format(part) if part in turned else part for part in parts)
