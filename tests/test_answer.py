"""The answer in docs/study.md: every table of it is what the kept outcomes give."""

import gc
import gzip
import importlib
import re
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from salrob_tf.results.families import holm
from salrob_tf.results.measures import load_means
from salrob_tf.results.robustness import WORST

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
        p_values = re.findall(r"\bp\s(\d\.\d+)", re.sub(table, "", section, flags=re.DOTALL))
        assert set(p_values) <= set(re.findall(r"\| (\d\.\d{3}) \|", "\n".join(tables))), section[:50]
        assert all(prose & said(each) for each in tables[len(tables) - len(named) :]), "from what nothing is"
        counts[section] = len(prose)
    assert min(counts[sections[0]], counts[answer]) >= 2 and sum(counts.values()) >= 30


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_p_values_are_corrected_as_statsmodels_does(p_values):
    with mock.patch.object(gc, "collect"):  # statsmodels calls it, which takes a quarter of a second beside TensorFlow
        expected = multipletests(p_values, method="holm")[1]
    np.testing.assert_allclose(holm(p_values), expected)


def test_shorter_figures_say_the_same(derive):
    svg = '<text x="47.109375">0.005</text>\n<path d="M 72.003918 -742.976383"/><text>0.0125</text>'
    assert derive.shorter(svg) == '<text x="47.11">0.005</text>\n<path d="M 72.00 -742.98"/><text>0.0125</text>'


def test_networks_of_a_second_implementation_are_summed_up_as_those_here(derive, tmp_path):
    groups = derive.outcomes.ways_of(derive.results_of(STUDY / "mnist"))
    means = load_means(STUDY / "mnist" / "measures.csv")
    named = {"fgsm": "fgsm", "pgd": "pgd", "strongest": WORST}

    def table(gain):
        """Of networks that have what those here have, but for a gain of `noise` under PGD."""
        lines = []
        for way in ("regular", "noise"):
            for seed, each in enumerate(groups[way][:3]):
                whole = means[way][seed]["accuracy, whole test set"]
                lines += [(each.model, "none", 0, each.clean.mean()), (each.model, derive.networks.WHOLE, 0, whole)]
                for attack, curve in named.items():
                    more = gain if (way, attack) == ("noise", "pgd") else 0
                    shares = each.curves[curve].mean(axis=1) + more
                    lines += [(each.model, attack, at, share) for at, share in zip(each.epsilons, shares, strict=True)]
        path = tmp_path / "independent.csv"
        path.write_text("".join(",".join(map(str, line)) + "\n" for line in lines))
        rows = derive.networks.independent(groups, means, path).splitlines()[2:]
        return [[cell.strip() for cell in row.split("|")[3:-1]] for row in rows]

    rows = table(0)
    assert len(rows) == 10 and {row[1] for row in rows} == {"here, 3 pairs", "PyTorch, 3 pairs"}
    assert all(here[2:] == theirs[2:] for here, theirs in zip(rows[::2], rows[1::2], strict=True))
    spoiled = table(0.06)
    steps = {
        row[0]: float(row[-1].split()[0]) - float(before[-1].split()[0])
        for before, row in zip(rows[1::2], spoiled[1::2], strict=True)
    }
    assert steps.pop("pgd, averaged over epsilon") == pytest.approx(5.5, abs=0.011)  # at 0 it has no part
    assert steps.pop("pgd at 0.15") == pytest.approx(6, abs=0.011)
    assert set(steps.values()) == {0}


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
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        assert not re.search(rb"/(tmp|home|root|work|data)/", content), path
