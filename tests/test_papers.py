"""What people read: links lead somewhere, and code runs."""

import re
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import yaml
from conftest import make_images

import salrob_tf as sr

ROOT = Path(__file__).parent.parent
PAPERS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(ROOT.glob("docs/*.md"))
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def anchors(path):
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def python_of(path):
    return [code for language, code in FENCED.findall(path.read_text()) if language == "python"]


def test_the_readme_is_read_to_its_end():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.name)
def test_every_relative_link_leads_somewhere(path):
    links = re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", path.read_text()))
    for link in (link for link in links if not link.startswith("https://")):
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_and_example_is_linked_from_the_readme():
    text = (ROOT / "README.md").read_text()
    pages = [path.relative_to(ROOT).as_posix() for path in (*PAPERS[1:], *ROOT.glob("examples/*.py"))]
    assert [page for page in pages if f"]({page})" not in text] == []


def test_files_that_are_named_are_there():
    for path in PAPERS:
        for name in re.findall(r"`((?:salrob_tf|tests|scripts|examples|docs)/[\w./]+)`", path.read_text()):
            assert (ROOT / name).exists(), f"{path.name}: {name}"


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.name)
def test_python_in_papers_compiles(path):
    for code in python_of(path):
        compile(code, str(path), "exec")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_quick_start_and_the_docs_run_in_one_sitting(tmp_path, monkeypatch, capsys):
    """On little data and one epoch, as everything else is the user's."""
    monkeypatch.chdir(tmp_path)
    rows = sr.Dataset.from_arrays(*make_images(48), *make_images(16, seed=1), name="rows")
    monkeypatch.setattr(sr, "load_data", lambda source: {"mnist5k": rows}[source])
    (quick_start,) = python_of(ROOT / "README.md")
    assert "epochs=12" in quick_start
    known = {}
    exec(quick_start.replace("epochs=12", "epochs=1"), known)
    assert "These two networks" in capsys.readouterr().out
    assert sorted(path.name for path in Path("exports").iterdir()) == ["guided", "regular"]
    sr.save_results("results/demo", list(known["results"].values()))
    weaker = {label: matrix & (np.arange(16) > 3) for label, matrix in known["results"]["regular"].correct.items()}
    over_seeds = [
        replace(result, model=f"{name}-{seed}", **({"correct": weaker} if (name, seed) == ("regular", 1) else {}))
        for name, result in known["results"].items()
        for seed in (0, 1)
    ]
    sr.save_results("results/five-seeds", over_seeds)
    for path in PAPERS[1:]:
        for code in python_of(path):
            exec(code, {"keras": keras})
    assert "(28, 28, 1) 10 1.0" in capsys.readouterr().out


def test_pre_commit_calls_what_ci_calls():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    called = re.findall(r"^make \w+$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert {hook["entry"] for hook in repository["hooks"]} <= set(called)
