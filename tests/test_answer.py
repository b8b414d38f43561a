"""The answer in docs/study.md: every table of it is what the kept outcomes give."""

import importlib
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from salrob_tf.results.families import holm

STUDY = Path(__file__).parent.parent / "docs" / "study"
README = STUDY.parent.parent / "README.md"
SHOWN = re.compile(r"!\[[^]]*\]\((.*?)\)")


@pytest.fixture(scope="module")
def derive():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(STUDY))
        return importlib.import_module("derive")


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
    (cells,) = (row for row in rows if row[0] == "karkehabadi2023")
    row = re.match(r"\+(\S+) \[\+(\S+), \+(\S+)\]", cells[head.index("worst of all")]).groups()
    said = "{} points \\(95 % \\+?{} to \\+?{}\\)".format(*map(re.escape, row))
    for paper in (text.split("\n## ")[0], README.read_text(encoding="utf-8")):
        assert re.search(said, " ".join(paper.split())), said


def test_intervals_in_prose_are_those_of_the_tables_beside_them(derive):
    """Of a table in the same section, or one that the section says it is from."""
    number = r"([+-]?\d[\d.]*)"
    brackets = rf"{number}%?(?: points)? \[{number}%?, {number}%?\]"
    words = rf"{number}(?: points)?(?:,| \|)? \(?(?:95 % (?:interval )?)?{number} to {number}"

    def said(text):
        text = " ".join(text.split())
        return {tuple(map(float, each)) for form in (brackets, words) for each in re.findall(form, text)}

    sections = (STUDY.parent / "study.md").read_text(encoding="utf-8").split("\n## ")
    (answer,) = re.findall(r"\n## What it answers(.*?)(?=\n## )", README.read_text(encoding="utf-8"), re.DOTALL)
    counts = {}
    for section in [*sections, answer]:
        table = r"<!-- (\S+/\S+) -->(.*?)<!-- -->"
        named = [name for line in re.findall(r"<!-- from (.*?) -->", section) for name in line.split()]
        folders = [name.split("/") for name in named]
        tables = [content for _, content in re.findall(table, section, re.DOTALL)]
        tables += [derive.tables_of(STUDY / folder)[name] for folder, name in folders]
        prose = said(re.sub(table, "", section, flags=re.DOTALL))
        assert not prose - said("\n".join(tables)), section[:50]
        assert all(prose & said(each) for each in tables[len(tables) - len(named) :]), "from what nothing is"
        counts[section] = len(prose)
    assert min(counts[sections[0]], counts[answer]) >= 2 and sum(counts.values()) >= 30


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_p_values_are_corrected_as_statsmodels_does(p_values):
    np.testing.assert_allclose(holm(p_values), multipletests(p_values, method="holm")[1])


def test_what_is_kept_is_small_and_of_no_machine():
    kept = [path for path in STUDY.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in kept) < 1_000_000
    text = (STUDY.parent / "study.md").read_text(encoding="utf-8")
    assert {path for path in kept if path.suffix == ".svg"} == {STUDY.parent / name for name in SHOWN.findall(text)}
    for path in kept:
        content = path.read_bytes()
        if path.suffix == ".npz":
            with np.load(path) as file:
                content = " ".join(file.files).encode()
        assert not re.search(rb"/(tmp|home|root|work|data)/", content), path
