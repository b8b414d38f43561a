"""The answer in docs/study.md: every table of it is what the kept outcomes give."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

STUDY = Path(__file__).parent.parent / "docs" / "study"
README = STUDY.parent.parent / "README.md"


@pytest.fixture(scope="module")
def derive():
    spec = importlib.util.spec_from_file_location("derive", STUDY / "derive.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_are_derived_from_what_is_kept(derive):
    text = (STUDY.parent / "study.md").read_text(encoding="utf-8")
    named = re.findall(r"<!-- (\S+/\S+) -->", text)
    assert len(named) >= 5 and len(named) == text.count("<!-- -->")
    assert derive.with_tables(text) == text
    spoiled = re.sub(r"\| \+(\d)", lambda found: f"| +{9 - int(found[1])}", text, count=1)
    assert spoiled != text and derive.with_tables(spoiled) == text


def test_the_answer_says_what_the_tables_say(derive):
    """The first paragraph's numbers, and the README's, are the table's."""
    text = (STUDY.parent / "study.md").read_text(encoding="utf-8")
    table = derive.tables_of(STUDY / "mnist")["effects.md"]
    head, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    (cells,) = (row for row in rows if row[0] == "worst of all")
    row = re.match(r"\+(\S+) \[\+(\S+), \+(\S+)\]", cells[head.index("karkehabadi2023")]).groups()
    said = "{} points \\(95 % \\+?{} to \\+?{}\\)".format(*map(re.escape, row))
    for paper in (text.split("\n## ")[0], README.read_text(encoding="utf-8")):
        assert re.search(said, " ".join(paper.split())), said


def test_intervals_in_prose_are_those_of_tables(derive):
    number = r"([+-]?\d[\d.]*)"
    brackets = rf"{number}%?(?: points)? \[{number}%?, {number}%?\]"
    words = rf"{number}(?: points)?(?:,| \|)? \(?(?:95 % (?:interval )?)?{number} to {number}"

    def said(text):
        text = " ".join(text.split())
        return {tuple(map(float, each)) for form in (brackets, words) for each in re.findall(form, text)}

    text = (STUDY.parent / "study.md").read_text(encoding="utf-8")
    prose = re.sub(r"<!-- (\S+/\S+) -->.*?<!-- -->", "", text, flags=re.DOTALL)
    assert len(said(prose)) >= 20
    (answer,) = re.findall(r"\n## What it answers.*?(?=\n## )", README.read_text(encoding="utf-8"), re.DOTALL)
    prose += answer
    tables = said(
        "\n".join(table for each in STUDY.glob("*/results.json") for table in derive.tables_of(each.parent).values())
    )
    assert not said(prose) - tables


def test_what_is_kept_is_small_and_of_no_machine():
    kept = [path for path in STUDY.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in kept) < 1_000_000
    for path in kept:
        content = path.read_bytes()
        if path.suffix == ".npz":
            with np.load(path) as file:
                content = " ".join(file.files).encode()
        assert not re.search(rb"/(tmp|home|root|work|data)/", content), path
