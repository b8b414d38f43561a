"""The package's folders: which may import which, and what the public surface holds."""

import ast
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from graphlib import TopologicalSorter
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import make_images

import salrob_tf as sr

PACKAGE = Path(sr.__file__).parent
# Each folder, and those it may import; everything may import the modules that stand beside the folders, but what needs
# no TensorFlow may not import `_compat`.
LIGHT = {"checks", "files", "processes"}
BESIDE = {*LIGHT, "_compat"}
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
    allowed = {own} | MAY_IMPORT.get(own, set()) | (LIGHT if own in {*BESIDE, "results", "reports"} else BESIDE)
    assert {name for name in imported(modules()[module]) if folder_of(name) not in allowed} == set()


def test_no_module_imports_itself_by_way_of_others():
    list(TopologicalSorter({name: set(imported(path)) for name, path in modules().items()}).static_order())


@pytest.mark.parametrize("module", [name for name in sorted(modules()) if folder_of(name) in {"results", *LIGHT}])
def test_results_need_neither_tensorflow_nor_keras(module):
    heads = {
        (alias.name if isinstance(node, ast.Import) else node.module).split(".")[0]
        for node in ast.walk(ast.parse(modules()[module].read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert heads <= {*sys.stdlib_module_names, "numpy", "scipy", "filelock", "salrob_tf"}


def test_internals_of_libraries_are_used_in_one_module():
    """Names that begin with one underscore are the package's own; `_compat` alone knows those of other libraries."""
    own, used = {"_asdict", "_fields", "_replace"}, set()  # of named tuples, which Python documents
    own |= {"_repr_html_"}  # what notebooks ask objects for, which IPython documents
    for module, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())) if module != "_compat" else ():
            match node:
                case ast.Attribute(value=ast.Name("self"), attr=name, ctx=ast.Store()):
                    own.add(name)
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                    own.add(name)
                case ast.Attribute(attr=str(name)) | ast.Constant(value=str(name)):  # `getattr(model, "_layers")`
                    used |= {(module, name)} if re.match("_[a-z]", name) else set()
                case ast.Import(names=[*names]) | ast.ImportFrom(names=[*names]):
                    found = {f"{getattr(node, 'module', '')}.{alias.name}." for alias in names}
                    assert not any(re.match(r"\.?(keras\.src|tensorflow\.python)\.", name) for name in found), module
    assert {(module, name) for module, name in used if name not in own} == set()


def test_no_module_bears_the_name_of_a_public_function():
    functions = {name for name in sr.__all__ if callable(getattr(sr, name)) and name.islower()}
    assert not {name.split(".")[-1] for name in modules()} & functions


def test_the_public_surface_is_there():
    for name in sr.__all__:
        assert not name.startswith("_") and hasattr(sr, name)


def test_a_file_of_before_the_folders_loads_and_trains_on():
    path = Path(__file__).parent / "saved_2026_11.keras"
    model, (images, labels) = keras.saving.load_model(path), make_images(8, shape=(4, 4, 1), classes=2)
    expected = [[0.15056971, -0.0122481], [0.16573082, 0.12051582]]  # as they were when it was saved
    for loaded in (model.model, sr.Classifier(path)):
        logits = loaded(images[:2]) if loaded is model.model else loaded.logits(images[:2])
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)
    assert type(model) is sr.SaliencyGuided and model.recipe == sr.RECIPES["ismail2021"] and model.seed == 1
    model.fit(images, labels, verbose=0)
    assert int(model.optimizer.iterations) == 3


SMOKE = """
import sys, salrob_tf as sr
assert sr.__file__.startswith(sys.prefix), sr.__file__
data = sr.load_data("mnist5k").with_train_samples(64)
model = sr.SaliencyGuided(sr.cnn(data.input_shape, data.num_classes))
model.compile("adam")
model.fit(data.x_train, data.y_train, verbose=0)
result = sr.evaluate(model, data.x_test[:32], data.y_test[:32], ["fgsm"], [0.1])
sr.save_results(sys.argv[1], [result])
print(sr.load_results(sys.argv[1])[0].model)
"""


def test_the_wheel_holds_all_that_the_package_needs(tmp_path):
    """In an environment of its own, which sees the libraries here, but not this checkout."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source = shutil.copytree(PACKAGE, tmp_path / "source" / "salrob_tf").parent  # pip builds where the source is
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PACKAGE.parent / name, source)
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, source]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("salrob_tf/")}
    here = (path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert held == {path.relative_to(PACKAGE.parent).as_posix() for path in here}
    venv.create(tmp_path / "fresh", symlinks=True)
    python = tmp_path / "fresh" / "bin" / "python"
    (installed,) = (tmp_path / "fresh" / "lib").glob("python*/site-packages")
    subprocess.run([*pip, "install", "--no-deps", "--target", installed, wheel], check=True, capture_output=True)
    (installed / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    done = subprocess.run(
        [python, "-I", "-c", SMOKE, tmp_path / "results"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "cnn"
