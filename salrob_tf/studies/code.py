"""What of the package's code an outcome rests on, so that work is done again where that changed, and only there."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

from salrob_tf.files import environment

PACKAGE = Path(__file__).parent.parent
LIBRARIES = ("tensorflow", "keras")


@cache
def imported(start: str) -> tuple[str, ...]:
    """A module of the package and all of the package that it imports, directly or not, as sorted paths in it."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        if (name := waiting.pop()) not in found:
            found.add(name)
            waiting += _imports(PACKAGE / name)
    return tuple(sorted(found))


@cache
def code_of(start: str) -> str:
    """A digest of that code, and versions of libraries."""
    digest = hashlib.sha256()
    for name in imported(start):
        digest.update(f"{name}\n".encode())
        digest.update((PACKAGE / name).read_bytes())
    versions = [environment()[library] for library in LIBRARIES]
    return " ".join([digest.hexdigest()[:16], *versions])


def _imports(path: Path) -> list[str]:
    """The modules of the package that a file imports, wherever in it."""
    names = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{PACKAGE.name}."):
            folder = (node.module or "").partition(".")[2].replace(".", "/")
            names += [f"{folder}.py", *(f"{folder}/{each.name}.py" for each in node.names)]
    return [name for name in names if (PACKAGE / name).is_file()]
