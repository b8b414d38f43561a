"""Every script in examples/ as a user runs it, on little data."""

import runpy
import sys
from pathlib import Path

import pytest
from conftest import write_arrays

import salrob_tf as sr

EXAMPLES = Path(__file__).parent.parent / "examples"
LITTLE = ["--train-samples", "64", "--epochs", "1"]

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # networks of one step are doubtful in every way


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_arrays(tmp_path_factory.mktemp("data") / "rows.npz", test=32)


@pytest.fixture
def run(data, tmp_path, monkeypatch, capsys):
    def run_example(name, *arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, "--data", str(data), *map(str, arguments), "--samples", "16"])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run_example


def test_there_is_a_test_for_each_example():
    text = Path(__file__).read_text()
    assert [path.name for path in EXAMPLES.iterdir() if f'run("{path.name}"' not in text and path.suffix] == []


def test_a_model_of_ones_own_and_its_savedmodels_are_compared(run, tmp_path):
    assert "These two networks" in run("own_model.py", *LITTLE)
    folders = [tmp_path / "exports" / name for name in ("regular", "guided")]
    assert "pgd-margin" in run("two_savedmodels.py", *folders)
    assert [result.model for result in sr.load_results("results/two")] == ["regular", "guided"]
    assert (tmp_path / "results/two/curves.png").stat().st_size


def test_a_new_recipe_stands_beside_the_default(run):
    shown = run("new_recipe.py", *LITTLE)
    assert "| attack | epsilon | default | black |" in shown and "These two networks" in shown


def test_robust_accuracy_is_logged_and_chooses_an_epoch(run, tmp_path):
    assert "robust_accuracy_0.1" in run("robust_accuracy_during_fit.py", *LITTLE)
    assert (tmp_path / "history/best.keras").stat().st_size
