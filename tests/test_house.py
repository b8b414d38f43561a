"""The package's folders: which may import which, and what the public surface holds."""

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import salrob_tf as sr

PACKAGE = Path(sr.__file__).parent
# Each folder, and those it may import; everything may import the modules that stand beside the folders.
BESIDE = {"checks", "files"}
MAY_IMPORT = {
    "data": set(),
    "models": {"data"},
    "saliency": {"models", "data"},
    "attacks": {"models", "data"},
    "training": {"saliency", "models", "data"},
    "results": set(),
    "evaluation": {"attacks", "models", "data", "results"},
    "reports": {"results"},
    "studies": {"attacks", "data", "evaluation", "models", "reports", "results", "saliency", "training"},
}


def modules():
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(path):
    """The modules of the package that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not any(alias.name.split(".")[0] == "salrob_tf" for alias in node.names), path
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, path
            head, *parts = (node.module or "").split(".")
            if head == "salrob_tf":
                name = ".".join(parts)
                nested = {f"{name}.{alias.name}".strip(".") for alias in node.names}
                yield from (nested & modules().keys()) or {name}


def folder_of(module):
    return module.split(".")[0]


def test_every_module_stands_in_a_folder_whose_imports_are_listed():
    assert {folder_of(name) for name in modules()} == {*MAY_IMPORT, *BESIDE, "__init__"}


@pytest.mark.parametrize("module", sorted(modules().keys() - {"__init__"}))
def test_imports_go_in_one_direction(module):
    own = folder_of(module)
    allowed = {own} | MAY_IMPORT.get(own, set()) | BESIDE
    assert {name for name in imported(modules()[module]) if folder_of(name) not in allowed} == set()


def test_no_module_imports_itself_by_way_of_others():
    list(TopologicalSorter({name: set(imported(path)) for name, path in modules().items()}).static_order())


@pytest.mark.parametrize("module", [name for name in sorted(modules()) if folder_of(name) in {"results", *BESIDE}])
def test_results_need_neither_tensorflow_nor_keras(module):
    heads = {
        (alias.name if isinstance(node, ast.Import) else node.module).split(".")[0]
        for node in ast.walk(ast.parse(modules()[module].read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert heads <= {*sys.stdlib_module_names, "numpy", "scipy", "filelock", "salrob_tf"}


def test_no_module_bears_the_name_of_a_public_function():
    functions = {name for name in sr.__all__ if callable(getattr(sr, name)) and name.islower()}
    assert not {name.split(".")[-1] for name in modules()} & functions


def test_the_public_surface_is_there():
    for name in sr.__all__:
        assert not name.startswith("_") and hasattr(sr, name)
