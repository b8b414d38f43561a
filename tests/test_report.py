"""The report's page as text, its charts, and the evidence it shows; in a browser it is tested elsewhere."""

import base64
import html
import io
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from conftest import make_images, make_network, write_arrays
from pages import EPSILONS, RECORD, WAYS, make_evidence, make_page, make_result, make_study, make_study_page, taken
from PIL import Image
from test_saved_results import as_before
from test_scripts import run

import salrob_tf as sr
from salrob_tf.reports.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Interval, Line, interval_chart, line_chart
from salrob_tf.reports.evidence_figures import (
    agreement_grid,
    check_grid,
    measure_intervals,
    removal_curves,
    seed_intervals,
)
from salrob_tf.reports.page import report
from salrob_tf.reports.parts import measures_of
from salrob_tf.reports.quality import better_maps, explained_of, verdicts_of
from salrob_tf.reports.sprites import signed
from salrob_tf.reports.tables import first_table, table1
from salrob_tf.results.evidence import load_evidence
from salrob_tf.results.flags import DOUBTFUL, Flag
from salrob_tf.results.measures import FIRST_ORDER, MARGIN, SMALLEST, Mean, OverSeeds, over_seeds
from salrob_tf.saliency.gradients import input_gradients
from salrob_tf.saliency.mechanism import mechanism_of
from salrob_tf.saliency.metrics import removal
from salrob_tf.studies.evidence import attacks_to_show, gather, telling
from salrob_tf.studies.pages import groups_of, page_of_folders

HOSTILE = ("<script>alert(1)</script>", "\u05e9\u05dc\u05d5\u05dd.</b>&amp;", '"onload="alert(2)')


def numbers(text):
    return [float(each) for each in re.findall(r"-?[\d.]+", text)]


def test_points_of_a_line_chart_are_where_they_belong():
    line = Line("<one>", np.array([0, 0.5, 1.0]), np.array([1, 0.5, 0]), np.zeros(3), np.ones(3), 0, hollow=True)
    root = ElementTree.fromstring(line_chart("a & b", [line], "x", 0.0, 1.0))
    (polyline,) = root.iter("polyline")
    middle = ((LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2)
    assert numbers(polyline.get("points")) == [LEFT, TOP, *middle, WIDTH - RIGHT, HEIGHT - BOTTOM]
    assert len(list(root.iter("circle"))) == 3 and root.get("role") == "img"
    assert root.get("aria-label") == "a & b. <one>: from 100 % at 0 to 0 % at 1"
    texts = [each.text for each in root.iter("text")]
    assert texts[:6] == ["0", "20", "40", "60", "80", "100"] and texts[-1] == "x"
    assert any(each.get("class") == "s0 hollow" for each in root.iter("g"))
    (band,) = [each for each in root.iter("polygon") if each.get("class") == "band"]
    assert len(numbers(band.get("points"))) == 12
    nothing = replace(line, low=np.array([0, np.nan, 0]), high=np.array([1, np.nan, 1]))
    bands = ElementTree.fromstring(line_chart("n", [nothing], "x", 0.0, 1.0)).iter("polygon")
    assert [len(numbers(each.get("points"))) for each in bands] == [4, 4]
    differences = ElementTree.fromstring(line_chart("d", [replace(line, y=line.y - 0.5)], "x", -0.5, 0.5))
    assert "+40" in [each.text for each in differences.iter("text")]
    assert sum(each.get("class") == "zero" for each in differences.iter("line")) == 1


def test_intervals_lie_around_zero():
    rows = [Interval("a" * 60, -1.0, -2.0, 0.0), Interval("b", 2.0, float("nan"), float("nan"), strong=True)]
    root = ElementTree.fromstring(interval_chart("t", rows))
    (zero,) = [each for each in root.iter("line") if each.get("class") == "zero"]
    (circle,), ends = root.iter("circle"), [each for each in root.iter("line") if each.get("class") is None]
    (square,) = root.iter("rect")
    assert float(circle.get("cx")) < float(zero.get("x1")) and len(ends) == 1
    below, above = (abs(float(mark) - float(zero.get("x1"))) for mark in (circle.get("cx"), square.get("x")))
    assert above + 3.2 == pytest.approx(2 * below, abs=0.3), "also where there is no interval"
    assert "0" in [each.text for each in root.iter("text")] and len(list(root.iter("rect"))) == 1
    assert root.get("aria-label").endswith("a: -1 (-2 to +0) points; b: +2 points".replace("a:", f"{'a' * 60}:"))


def test_signed_values_have_colours():
    colours = signed(np.array([[[0.0, 1.0, -1.0, 0.5, 9.0]]]))
    assert colours.dtype == np.uint8 and colours.shape == (1, 1, 5, 3)
    white, red, blue, half, beyond = colours[0, 0].astype(int)
    assert white.tolist() == [255] * 3 and red[0] > red[2] and blue[2] > blue[0]
    assert np.abs(half - (white + red) / 2).max() <= 1 and beyond.tolist() == red.tolist()


def test_signs_are_told_without_colour():
    payload = json.loads(re.search(r'id="payload">(.*?)</script>', make_page(), re.DOTALL)[1])
    evidence = make_evidence()
    moved = (evidence.adversarial[1, 0].astype(float) - evidence.images).mean(axis=-1)
    for values, sheet in ((moved / 255 / 0.3, 3), (evidence.maps[1, 0] / 127, 4)):
        content = base64.b64decode(payload["sheets"][1][0][sheet].partition("base64,")[2])
        alpha = np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))[..., 3]
        blue = (signed(values)[..., 2] > signed(values)[..., 0]).transpose(0, 2, 1, 3).reshape(alpha.shape)
        np.testing.assert_array_equal(alpha == 255, blue)
        assert set(alpha.flat) == {0, 255} and blue.any()


def test_perturbations_say_by_how_much_they_are_magnified():
    assert "Perturbation, magnified 3.33 times: red is brighter, blue and hatched darker" in make_page()
    assert "in full colour by 0.3, the largest epsilon" in make_page()


def test_a_page_says_the_verdict_first_and_holds_all_it_needs():
    page = make_page()
    body = page[page.index("<body>") :]
    assert body.index("These two networks") < body.index("<table")
    assert "One pair of networks says nothing of two ways of training" in body
    for words in ("more steps break more", "worst of all", "40 test images", "guided-0 minus regular-0"):
        assert words in body, words
    assert "python scripts/reproduce.py --data 'my rows.npz' --steps 5 --attacks fgsm pgd --no-survivors-only" in (
        body.replace("&#39;", "'")
    )
    addresses = re.findall(r"(?:src|href)=\"([^\"]*)\"", page)
    assert all(each.startswith(("#", "data:")) for each in addresses) and "://" not in re.sub(r"data:[^\"]*", "", page)
    payload = json.loads(re.search(r'id="payload">(.*?)</script>', page, re.DOTALL)[1])
    assert payload["predicted"] == make_evidence().predicted.tolist() and len(payload["sheets"]) == 2
    result = make_result("regular-0")
    assert f"{100 * result.accuracy('pgd')[1]:.1f}" in body


def test_the_worst_case_is_as_doubtful_as_its_least_doubtful_attack_and_odd_records_are_shown():
    page = make_page(record={"data": {}, "environment": [], "arguments": None, "run": "x"})
    rows = re.findall(
        r"<tr><th scope=\"row\">(.*?)</th><td><bdi>(.*?)</bdi>.*?<td>([a-z ]*)</td></tr>", page, re.DOTALL
    )
    doubts = {(attack, name): doubt for attack, name, doubt in rows}
    assert doubts["pgd", "guided-0"] == "doubtful" and doubts["worst of all", "guided-0"] == ""


def test_numbers_lead_to_images_that_are_there_and_the_page_says_which_do_not():
    attacks = ("fgsm", "pgd", "square")
    groups = {name: [make_result(name, seed, attacks)] for seed, name in enumerate(("regular-0", "guided-0", "more"))}
    page = report(groups, [], RECORD, make_evidence())
    table = page[page.index("Table of accuracies") : page.index('id="table1"')]
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</th><td><bdi>(.*?)</bdi></td>(.*?)</tr>", table, re.DOTALL)
    leads = {
        (attack, name): re.findall(r'data-attack="(.*?)" data-epsilon="(.*?)"', cells) for attack, name, cells in rows
    }
    for (attack, name), found in leads.items():
        there = attack in ("fgsm", "pgd") and name != "more"
        assert found == [(attack, epsilon) for epsilon in ("0", "0.1", "0.2", "0.3")] * there, (attack, name)
    assert "Numbers of square lead to no images: to stay small, this page keeps those of fgsm, pgd." in page
    assert "Nor do those of worst of all, which may be by one of these." in page
    assert ">worst of all</option>" not in page and ">worst of all</option>" in make_page()
    assert "Images are of the networks regular-0, guided-0, " in page
    charts = page[: page.index("Table of accuracies")]
    assert charts.count('<g data-attack="fgsm"') == 2 * 4 and 'data-attack="square"' not in charts
    assert "lead to no" not in make_study_page()
    alone = {name: [make_result(name, 0, ("fgsm",))] for name in ("regular-0", "guided-0")}
    assert "lead to no" not in report(alone, [], RECORD, make_evidence())


def test_names_are_shown_as_text():
    page = make_page(HOSTILE[:2], HOSTILE, {**RECORD, "data": {**RECORD["data"], "name": HOSTILE[0]}})
    assert "<script>alert" not in page and page.count("<script") == 2 and page.count("</script>") == 2
    assert 'data-attack="fgsm"' in page and 'onload="alert' not in page


def test_several_seeds_give_a_verdict_on_ways_and_a_specification_curve():
    groups = {
        way: [make_result(f"{way}-{seed}", 10 * place + seed) for seed in range(4)]
        for place, way in enumerate(("regular", "guided", "random"))
    }
    every = [each for results in groups.values() for each in results]
    assert {name: len(each) for name, each in groups_of(every).items()} == {name: 4 for name in groups}
    comparisons = [sr.compare_methods({"regular": groups["regular"], way: groups[way]}) for way in ("guided", "random")]
    page = report(groups, comparisons, RECORD)
    assert "Specification curve" in page and page.count("Ways of training: ") == 2
    assert "withstand" in re.search(r"<h1.*?</h1>", page, re.DOTALL)[0] and 'id="explorer"' not in page
    fewer = groups_of([each for each in every if each.model != "random-2"])
    assert [len(each) for each in fewer.values()] == [3, 3, 3]
    assert list(groups_of(every[:1])) == ["regular-0"]
    turned = groups_of([*every[:4], *every[7:3:-1]])
    assert [each.model for each in turned["guided"]] == [f"guided-{seed}" for seed in range(4)]
    assert list(groups_of([replace(every[0], model=f"resnet-{size}") for size in (18, 50)])) == [
        "resnet-18",
        "resnet-50",
    ]


def rows_after(page, words):
    """The cells of each row of the first table after some words, as text."""
    table = page[page.index(words) :]
    table = table[table.index("<tbody>") : table.index("</tbody>")]
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
    cells = (re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows)
    return [[re.sub(r"<.*?>", "", cell).strip() for cell in row] for row in cells]


def test_a_specification_curve_has_a_table_with_choices_and_doubts():
    page, groups = make_study_page(), make_study()
    first, *others = groups
    found = {way: sr.compare_methods({first: groups[first], way: groups[way]}) for way in others}
    rows = rows_after(page, 'id="specifications"')
    assert {row[0]: row[-2:] for row in rows} == {
        "guided fill=mean": ["guided", "mean"],
        "random fill=linear": ["random", "linear"],
    }
    for way, difference, low, high, outcome, doubt, *_ in rows:
        mean = found[way].endpoint
        wanted = [100 * each for each in (mean.estimate, *mean.interval())]
        mark = " †" if way.startswith("random") else ""
        assert [difference, low, high] == [f"{wanted[0]:+.1f}{mark}", f"{wanted[1]:+.1f}", f"{wanted[2]:+.1f}"]
        assert (outcome, doubt) == (found[way].outcome, "doubtful" if mark else "")
    assert [float(row[1].split()[0]) for row in rows] == sorted(float(row[1].split()[0]) for row in rows)
    chart = page[page.index("Chart of all ways of training") :]
    chart = chart[: chart.index("</svg>")]
    assert chart.count(" hollow") == 1 and ">random fill=linear †</text>" in chart


def test_choices_are_those_that_a_study_recorded():
    choices = {way: {"fill": "mean", "epochs": place} for place, way in enumerate(WAYS)}
    page = make_study_page(record={**RECORD, "run": {"choices": choices}})
    assert {tuple(row[5:]) for row in rows_after(page, 'id="specifications"')} == {("", "1"), ("doubtful", "2")}
    for odd in ({"choices": []}, {"choices": {"regular": {}}}):
        page = make_study_page(record={**RECORD, "run": odd})
        assert {tuple(row[6:]) for row in rows_after(page, 'id="specifications"')} == {
            ("guided", "mean"),
            ("random", "linear"),
        }


def test_what_is_doubtful_is_marked_in_differences():
    page = make_study_page()
    part = page[page.index('id="difference"') : page.index('id="specifications"')]
    sure, doubtful = part.split("<figure>")[1:]
    assert "†" not in sure and "hollow" not in sure
    assert '<g class="s3 hollow">' in doubtful and doubtful.count("†") == 1 + len(EPSILONS)
    flag = Flag("more steps", DOUBTFUL, 0.1, 0.02, "more steps break more", "Give it more steps", "fgsm")
    for attacks, hollow in ((("fgsm",), True), (("fgsm", "pgd"), False)):
        results = [make_result("one", 0, attacks), make_result("two", 1, attacks, flags=[flag])]
        page = report({each.model: [each] for each in results}, [sr.compare(*results)], RECORD)
        assert ('<g class="s3 hollow">' in page) == hollow, "of several attacks the worst is as doubtful as the least"


def test_checks_are_shown_with_what_was_measured_and_from_where_it_counts():
    rows = rows_after(make_page(), "What speaks against them")
    assert rows == [["pgd", "doubtful", "0.1", "0.02", "more steps break more", "Give it more steps"]]


def test_what_was_measured_has_its_differences_in_a_table():
    (row, *_) = measures_of(make_evidence())["rows"]
    found = rows_after(make_page(), "Means over images")[0]
    assert found[3:] == [f"{row.difference:+.2g}", f"{row.low:+.2g}", f"{row.high:+.2g}", "20"]
    page = make_study_page()
    assert "Ways of training: means over networks" in page and "Means over images" not in page


def test_large_results_stay_small():
    attacks = tuple(f"attack-{number}" for number in range(6))
    results = [make_result(f"network {n}", n, attacks, 2000, np.linspace(0.02, 0.3, 10)) for n in range(10)]
    comparisons = [sr.compare(results[0], each) for each in results[1:]]
    page = report({each.model: [each] for each in results}, comparisons, RECORD)
    assert len(page.encode()) < 1_000_000 and "How 10 networks withstand attacks, each held against network 0." in page


def test_evidence_is_what_it_was_and_damage_is_named(tmp_path):
    evidence, path = make_evidence(), tmp_path / "evidence.npz"
    path.write_bytes(evidence.to_bytes())
    again = load_evidence(path)
    assert again.networks == evidence.networks and again.class_names == evidence.class_names
    for name in ("images", "adversarial", "maps", "predicted", "epsilons"):
        np.testing.assert_array_equal(getattr(again, name), getattr(evidence, name))
    np.testing.assert_array_equal(again.measures["guided-0"]["margin"], evidence.measures["guided-0"]["margin"])
    np.testing.assert_array_equal(again.removed["guided-0"]["linear"], evidence.removed["guided-0"]["linear"])
    assert again.quality == evidence.quality and again.shares.tolist() == [0, 0.5, 0.9]
    whole = path.read_bytes()
    turned = [
        whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :] for at in range(400, len(whole), len(whole) // 20)
    ]
    for damage in (b"", b"PK", whole[:500], b"{}"):
        path.write_bytes(damage)
        with pytest.raises(ValueError, match="This is no evidence"):
            load_evidence(path)
    for damage in turned:
        path.write_bytes(damage)
        with suppress(ValueError):  # some bytes decide about nothing
            load_evidence(path)
    np.savez(path, words=np.array(json.dumps({"networks": [], "attacks": [], "class_names": [], "measures": []})))
    with pytest.raises(ValueError, match="This is no evidence"):
        load_evidence(path)
    with pytest.raises(ValueError, match="`maps` must be of shape"):
        replace(evidence, maps=evidence.maps[:1])
    with pytest.raises(ValueError, match=r"`removed` must be \(2, 3, N\) each. Received: .* of guided-0, blur"):
        replace(evidence, removed={"guided-0": {"blur": np.ones((2, 2, 5), bool)}})
    with pytest.raises(ValueError, match="Classes must be from 0 to 1"):
        replace(evidence, class_names=("a", "b"))


def test_evidence_is_what_networks_say(trained):
    network, x, y = trained
    data = sr.Dataset.from_arrays(*make_images(12), x, y, name="rows")
    classifiers = [sr.Classifier(network, "one"), sr.Classifier(network, "two")]
    results = [sr.evaluate(each, x[:30], y[:30], "fgsm", [0.1, 0.2], indices=np.arange(30)) for each in classifiers]
    found = gather(data, classifiers, results, [sr.FGSM(), sr.PGD(steps=3)])
    rows = found.rows
    assert found.epsilons.tolist() == [0, 0.1, 0.2] and found.adversarial.shape[:4] == (2, 2, 3, len(rows))
    np.testing.assert_array_equal(found.labels, y[rows])
    np.testing.assert_array_equal(found.adversarial[0, 0, 0], found.images)
    moved = sr.FGSM()(classifiers[0], x[rows], y[rows], 0.1)
    assert np.abs(found.adversarial[1, 0, 1] / 255 - moved).max() <= 0.5 / 255 + 1e-6
    np.testing.assert_array_equal(found.predicted[0, 0, 1], classifiers[0].predict(moved))
    np.testing.assert_array_equal(found.predicted[0, 0, 1] == y[rows], results[0].correct["fgsm"][0, rows])
    probabilities = np.exp(classifiers[0].predict_logits(np.asarray(moved)))
    np.testing.assert_allclose(
        found.confidence[0, 0, 1], probabilities.max(axis=1) / probabilities.sum(axis=1), rtol=1e-4
    )
    assert np.all(np.abs(found.maps).max(axis=(-2, -1)) == 127)
    one, two = found.measures["one"], found.measures["two"]
    assert len(one) > 12 and all(np.array_equal(one[name], two[name], equal_nan=True) for name in one)
    assert np.isfinite(one["deletion against random maps, blur"]).sum() == 30
    bright = x[:30, ..., 0] > 0.5
    maps = np.abs(input_gradients(classifiers[0], x[:30], y[:30])[0][..., 0])
    wanted = (maps * bright).sum(axis=(1, 2)) / maps.sum(axis=(1, 2))
    np.testing.assert_allclose(one["map on the bright object, share"], wanted, rtol=1e-4)

    gone = removal(classifiers[0], x[:30], y[:30], input_gradients(classifiers[0], x[:30], y[:30])[0], "blur")
    most, least = found.removed["one"]["blur"]
    np.testing.assert_array_equal(most[1:], gone.most)
    np.testing.assert_array_equal(least[1:], gone.least)
    np.testing.assert_array_equal(most[0], results[0].clean)
    assert found.agreement.shape == (len(found.quality),) * 2 and np.all(np.diag(found.agreement) == 1)


def test_evidence_is_of_the_norm_of_the_run_and_of_networks_that_know_more_classes():
    x, y = make_images(12)
    data, epsilons = sr.Dataset.from_arrays(x, y, x, y, name="rows"), [0.5, 1.0]
    classifiers = [sr.Classifier(make_network(classes=5), name) for name in ("one", "two")]
    results = [sr.evaluate(each, x, y, "apgd", epsilons, norm=2, indices=np.arange(12)) for each in classifiers]
    shown = attacks_to_show([sr.make_attack("worst-case", norm=2)])
    assert [(each.label, each.norm) for each in shown] == [("fgsm", 2)]
    found = gather(data, classifiers, results, shown)
    moved = (found.adversarial[0, 0].astype(float) - found.images) / 255
    lengths = np.linalg.norm(moved.reshape(3, len(found.rows), -1), axis=2)
    assert np.all(lengths <= found.epsilons[:, None] + 0.05) and lengths[2].max() > 0.5
    assert found.class_names == (*map(str, data.class_names), *map(str, range(len(data.class_names), 5)))
    one = found.measures["one"]
    right, by_margin = one["margin of the logits"] > 0, one["margin of the logits"] / one["gradient norm, L2"]
    np.testing.assert_allclose(one["smallest epsilon by the first order"], np.where(right, by_margin, 0), rtol=1e-5)
    with pytest.raises(ValueError, match="`norm` must be np.inf or 2. Received: norm=1"):
        mechanism_of(classifiers[0], x, y, norm=1)


def test_what_removal_and_metrics_say_is_on_the_page_and_better_only_where_fills_agree():
    evidence = make_evidence()
    page = make_page()
    accuracy = 100 * evidence.removed["guided-0"]["linear"][1, 2].mean()
    table = page[page.index("filled by linear") :]
    rows = re.findall(r"<tr><th scope=\"row\">([\d.]+) %</th>(.*?)</tr>", table)
    assert [share for share, _ in rows] == ["0.0", "50.0", "90.0"]
    assert re.findall(r"<td>([\d.]+)</td>", rows[2][1])[3] == f"{accuracy:.1f}"
    assert "<td>+0.25</td>" in page and "The maps of guided-0 are better than those of regular-0" in page
    assert "That is said of these two networks." in page
    blur, linear = "deletion against random maps, blur", "insertion against random maps, linear"
    assert better_maps({blur: (0.1, 0.2), linear: (0.1, 0.2)}, "a", "b").startswith("The maps of b are better than")
    assert better_maps({blur: (-0.2, -0.1), linear: (-0.2, -0.1)}, "a", "b").startswith("The maps of a are better than")
    assert "by deletion and insertion under all fills (blur, linear)" in better_maps(
        {blur: (0.1, 0.2), linear: (0.1, 0.2)}, "a", "b"
    )
    for unsure in ((-0.2, -0.1), (-0.1, 0.2), (np.nan, np.nan)):
        assert "is not decided" in better_maps({blur: (0.1, 0.2), linear: unsure}, "a", "b")
    assert not better_maps({blur: (0.1, 0.2), "margin": (1, 2)}, "a", "b")


def test_what_margin_and_gradient_norm_explain_is_said_of_a_pair():
    rng, evidence = np.random.default_rng(0), make_evidence()
    margins, norms = rng.uniform(1, 2, (2, 20)), rng.uniform(20, 40, (2, 20))
    names = (MARGIN, FIRST_ORDER, SMALLEST)
    measures = {
        network: dict(zip(names, (margin, margin / norm, 2 * margin / norm), strict=True))
        for network, margin, norm in zip(evidence.networks, margins, norms, strict=True)
    }
    ratio = 2 ** np.log2((margins[1] / norms[1]) / (margins[0] / norms[0])).mean()
    said = explained_of(replace(evidence, measures=measures))
    assert said.startswith("Of 20 images") and f"on average {ratio:.2f} times as large in guided-0" in said
    assert f"predicts {ratio:.2f} times" in said and "explain 100% of the variance" in said
    assert explained_of(evidence) == ""


def test_over_seeds_maps_are_better_by_the_seeds():
    names = ("deletion against random maps, blur", "insertion against random maps, blur")
    for low, said in ((0.1, "The maps of guided are better than those of regular"), (-0.1, "is not decided")):
        seeds = [
            OverSeeds(name, {"regular": Mean(0, 0, 0), "guided": Mean(0.2, 0, 0)}, {"guided": Mean(0.2, low, 0.3)})
            for name in names
        ]
        (found,) = verdicts_of({"networks": ["regular-0", "guided-0"], "rows": []}, seeds)
        assert said in found and "two networks" not in found
    assert verdicts_of(None, seeds[:1]) == [] and verdicts_of(None, []) == []


def test_images_worth_a_look_are_where_networks_differ():
    first, second = make_result("one", samples=30), make_result("two", samples=30)
    for result, stands, falls in ((first, 7, 20), (second, 20, 7)):
        result.clean[[7, 20]] = True
        for matrix in result.correct.values():
            matrix[:, stands], matrix[:, falls] = True, False
    chosen = telling([first, second], 6)
    assert len(chosen) == len(set(chosen.tolist())) == 6 and {7, 20} <= set(chosen.tolist())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("results")
    results = [make_result("regular-0"), make_result("guided-0", 1)]
    sr.save_results(place, results, data_name="rows", comparisons=[sr.compare(*results)])
    return place


def test_a_page_needs_no_model_and_says_what_is_not_there(folder, tmp_path, capsys):
    run("report.py", folder, "--out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "No images and no measures here" in page and 'download="correct.npz"' in page
    assert "no evidence.npz, which reproduce.py, study.py and evaluate.py --evidence write." in page
    assert "kB" in capsys.readouterr().out
    assert run("report.py", folder, "--out", tmp_path / "page.html", check=False) == 2
    assert "pass --overwrite" in capsys.readouterr().err
    (folder / "evidence.npz").write_bytes(make_evidence().to_bytes())
    run("report.py", folder, "--out", tmp_path / "page.html", "--overwrite")
    assert 'id="explorer"' in (tmp_path / "page.html").read_text()
    (folder / "evidence.npz").unlink()


@pytest.fixture
def own_folder(folder, tmp_path):
    """A copy of the folder of results, which a test may damage."""
    return shutil.copytree(folder, tmp_path / "own")


def test_evidence_of_something_else_is_not_shown(own_folder):
    evidence, path = make_evidence(), own_folder / "evidence.npz"
    for known in ("", "ab" * 32):
        path.write_bytes(replace(evidence, sha256=known).to_bytes())
        assert 'id="explorer"' in page_of_folders([own_folder]) and load_evidence(path).sha256 == known
    others = {
        "networks": make_evidence(("regular-0", "another-0")),
        "epsilons": replace(evidence, epsilons=2 * evidence.epsilons),
        "images": replace(evidence, rows=evidence.rows + 35),
    }
    for what, other in [*others.items(), ("images", replace(evidence, sha256="cd" * 32))]:
        path.write_bytes(other.to_bytes())
        page = page_of_folders([own_folder])
        assert f"No images and no measures here: This evidence is of other {what} than the results" in page
        assert 'id="explorer"' not in page and "How many of the images are classified correctly" in page


def test_what_is_damaged_or_gone_is_said_and_the_rest_is_shown(own_folder):
    (own_folder / "evidence.npz").write_bytes(make_evidence().to_bytes()[:500])
    whole = "network,margin,zeros\nregular-0,1,\nguided-0,2,\n"
    for damage, words in {
        "network,margin\n": "These are no means of networks",
        whole.replace("guided-0,2,", "guided-0,,2"): "Each network needs the same measures.",
        whole + 'guided-0,"' + "x" * 200_000: "These are no means of networks",
        whole.replace("guided-0", "other-0"): "measures.csv is of other networks than the results: other-0.",
    }.items():
        (own_folder / "measures.csv").write_text(damage)
        page = page_of_folders([own_folder])
        assert "Nothing over seeds here: " in page and words in page, words
        assert "No images and no measures here: This is no evidence" in page and 'download="correct.npz"' in page
    (own_folder / "measures.csv").write_text(whole)
    page = page_of_folders([own_folder])
    assert "Ways of training: means over networks" in page and "No images here: This is no evidence" in page
    (own_folder / "measures.csv").unlink()
    assert "Nothing over seeds here" not in page_of_folders([own_folder])


def test_what_the_run_wrote_and_is_gone_is_named(own_folder):
    assert "Written by the run" not in page_of_folders([own_folder]), "its record says nothing of a run"
    record = json.loads((own_folder / "results.json").read_text())
    names = ["results.json", "evidence.npz", "report.html", "curves.png", "table1.md", "../outside", "/", 7]
    images = [f"adversarials/regular-0/fgsm-{place}.npz" for place in range(9)]
    record["run"] = {"script": "reproduce.py", "files": names + images, "runs": ["models/regular-0"]}
    (own_folder / "results.json").write_text(json.dumps(record))
    (own_folder / "curves.png").write_bytes(b"")
    (said,) = re.findall(r"Written by the run, and no longer here: (.*?)</p>", page_of_folders([own_folder]))
    assert said == ", ".join(["table1.md", *images[:7]]) + " and 3 more."


def test_table_1_is_of_the_whole_test_set_where_that_is_known(own_folder):
    results = [make_result("regular-0"), make_result("guided-0", 1)]
    clean = {each.model: [each.clean] for each in results}
    words = "On the images that were attacked; accuracies on the whole test set are not here."
    page = page_of_folders([own_folder])
    assert rows_after(page, 'id="table1"') == first_table(table1("rows, 40 images", clean))[1:] and words in page
    whole = {name: [np.arange(90) % 9 > place] for place, name in enumerate(clean)}
    text = table1("MNIST|a, 90 test images", whole, "mnist")
    (own_folder / "table1.md").write_text(f"{text}\n{sr.robustness_table({'one': results[:1]})}")
    page = page_of_folders([own_folder])
    assert "On the whole test set." in page and "In brackets: 95 % over 90 images (Wilson)." in page
    assert rows_after(page, 'id="table1"') == first_table(text)[1:]
    assert [row[:2] for row in first_table(text)[1:]] == [
        ["MNIST|a, 90 test images", "88.9% [80.7, 93.9]"],
        ["MNIST in the paper", "99.3%"],
    ]
    for other in ("", "| a |\n", table1("rows", {"one": [results[0].clean]})):
        (own_folder / "table1.md").write_text(other)
        assert words in page_of_folders([own_folder]), "a table of other networks is no Table 1 of these"
    (own_folder / "table1.md").write_bytes(b"\xff")
    assert words in page_of_folders([own_folder])


@pytest.mark.parametrize(
    ("name", "ways", "line"),
    [
        ("MNIST", ("regular", "guided"), ["MNIST in the paper", "99.3%", "98.8%"]),
        ("CIFAR-10", ("regular", "guided"), ["CIFAR-10 in the paper", "82.8%", "82.2%"]),
        ("MNIST-5k", ("regular", "guided"), None),
        ("MNIST", ("regular", "random"), None),
    ],
)
def test_the_papers_line_stands_below_what_it_is_about(name, ways, line):
    page = make_study_page(ways, {**RECORD, "data": {"name": name}})
    first, *more = rows_after(page, 'id="table1"')
    assert first[0] == f"{name}, 40 images" and more == ([line] if line else [])


def test_a_page_of_results_of_the_first_version(own_folder):
    as_before(own_folder)
    page = page_of_folders([own_folder])
    assert json.loads((own_folder / "results.json").read_text())["schema"] == 1
    assert "These two networks" in page and f"{100 * make_result('guided-0', 1).accuracy('pgd')[1]:.1f}" in page


def test_several_folders_are_one_page_if_they_are_alike(folder, tmp_path, capsys):
    sr.save_results(tmp_path / "more", [make_result("random-0", 2)])
    assert "random-0" in page_of_folders([folder, tmp_path / "more"])
    sr.save_results(tmp_path / "again", [make_result("regular-0", 3)])
    assert "again regular-0" in page_of_folders([folder, tmp_path / "again"])
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    for again in (folder, folder / ".." / folder.name, tmp_path / "link"):
        with pytest.raises(ValueError, match=r"^Each folder once. Received: "):
            page_of_folders([folder, again])
    sr.save_results(tmp_path / "other", [replace(make_result("random-0", 2), sha256="cd" * 32)])
    sr.save_results(tmp_path / "radii", [make_result("random-0", 2, epsilons=2 * EPSILONS)])
    for name, words in {"other": "is not alike", "radii": "is not alike", "none": "must"}.items():
        if name == "none":
            (tmp_path / name).mkdir()
            words = "No results.json"
        assert run("report.py", folder, tmp_path / name, "--out", tmp_path / "page.html", check=False) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1 and not (tmp_path / "page.html").exists()


def test_reproduce_ends_with_a_page(tmp_path, monkeypatch):
    monkeypatch.setattr("salrob_tf.studies.evidence.FILLS", ("blur", "mean"))  # the rest is tested above
    monkeypatch.setattr("salrob_tf.studies.evidence.METHODS", ())
    data, out = write_arrays(tmp_path / "rows.npz"), tmp_path / "out"
    run("reproduce.py", "--data", data, "--epochs", 1, "--epsilons", 0.1, 0.2, "--attacks", "fgsm", "pgd", "--steps", 2,
        "--samples", 12, "--out", out)  # fmt: skip
    page = (out / "report.html").read_text()
    evidence = load_evidence(out / "evidence.npz")
    assert evidence.networks == ("regular-0", "guided-0") and evidence.attacks == ("fgsm", "pgd")
    assert 'id="explorer"' in page and "Saliency maps and mechanism" in page and "scripts/reproduce.py" in page
    assert len(page.encode()) < 3_000_000
    assert taken(page, "table1.md") == (out / "table1.md").read_text()
    rows = [[html.unescape(cell) for cell in row] for row in rows_after(page, 'id="table1"')]
    assert rows == first_table((out / "table1.md").read_text())[1:] and "On the whole test set." in page
    models, more = [out / "models" / name for name in evidence.networks], tmp_path / "more"
    run("evaluate.py", *models, "--data", data, "--epsilons", 0.1, 0.2, "--attacks", "pgd", "--steps", 2,
        "--samples", 12, "--evidence", "--out", more)  # fmt: skip
    again = load_evidence(more / "evidence.npz")
    assert [each.sha256 for each in (evidence, again)] == [sr.load_results(each)[0].sha256 for each in (out, more)]
    assert again.networks == evidence.networks and again.attacks == ("pgd",)
    name = "smallest epsilon by the first order"
    np.testing.assert_array_equal(again.measures["guided-0"][name], evidence.measures["guided-0"][name])
    assert 'id="explorer"' in page_of_folders([more])


def test_differences_and_measures_are_drawn_for_papers(tmp_path):
    pair = [make_result("one"), make_result("two", 1)]
    comparison = sr.compare(*pair)
    axis = sr.difference_curves([comparison], "$title").axes[0]
    wanted = [100 * each.difference for each in comparison.differences if each.attack == "worst of all"]
    np.testing.assert_allclose(axis.lines[0].get_ydata(), wanted)
    assert axis.get_legend().texts[0].get_text() == "two minus one"
    ways = {
        way: [make_result(f"{way}-{seed}", 5 * place + seed) for seed in range(3)] for place, way in enumerate("ab")
    }
    both = sr.compare_methods(ways)
    drawn = sr.difference_curves([both]).axes[0].lines[0]
    np.testing.assert_allclose(drawn.get_ydata(), [100 * each.difference for each in both.family])
    panels = sr.difference_curves([both] * 4).axes
    assert [panel.get_title() for panel in panels] == ["b minus a"] * 4 and panels[3].lines[0].get_marker() == "v"
    curves = {line.get_label(): line for line in sr.robustness_curves(ways).axes[0].lines}
    assert drawn.get_color() == curves["b"].get_color() and drawn.get_marker() == curves["b"].get_marker()
    evidence = make_evidence()
    axis = measure_intervals(evidence).axes[0]
    first, second = (evidence.measures[name]["margin"] for name in evidence.networks)
    np.testing.assert_allclose(axis.lines[5].get_xdata(), (second - first).mean() / first.std(ddof=1))
    rng = np.random.default_rng(0)
    figure = removal_curves({"one": (np.array([0.1, 0.5]), rng.random((2, 9)) < 0.5, np.ones((2, 9), bool))})
    assert figure.axes[0].lines[1].get_ydata().tolist() == [1, 1]
    for name, beginning in {"a.png": b"\x89PNG", "a.svg": b"<?xml", "a.pdf": b"%PDF"}.items():
        sr.save_figure(figure, tmp_path / name)
        content = (tmp_path / name).read_bytes()
        sr.save_figure(figure, tmp_path / name)
        assert content.startswith(beginning) and (tmp_path / name).read_bytes() == content
    assert figure.axes[0].get_xlabel() in re.findall(r"<text[^>]*>([^<]*)", (tmp_path / "a.svg").read_text("utf-8"))
    for draw in (sr.difference_curves, removal_curves):
        with pytest.raises(ValueError, match="Received: none"):
            draw([])
    with pytest.raises(ValueError, match="measures of two networks"):
        measure_intervals(replace(evidence, measures={}))


def test_measures_over_seeds_agreement_and_checks_are_drawn_for_papers():
    rng = np.random.default_rng(0)
    means = {
        way: {seed: {name: rng.normal(place, 0.1) for name in ("$m$", "n")} for seed in range(4)}
        for place, way in enumerate(("regular", "guided", "random"))
    }
    rows = over_seeds(means)
    figure = seed_intervals([*rows, *rows])
    assert [panel.get_title() for panel in figure.axes] == ["$m$", "n"] * 2
    for panel, row in zip(figure.axes, rows, strict=False):
        assert [text.get_text() for text in panel.get_yticklabels()] == ["guided", "random"]
        for line, way in zip(panel.lines[::2], ("guided", "random"), strict=False):
            np.testing.assert_array_equal(line.get_xdata(), row.differences[way][1:])
    evidence = make_evidence()
    texts = [text.get_text() for text in agreement_grid(evidence).axes[0].texts]
    assert texts == ["1.00", "0.25", "0.25", "1.00"]
    flag = Flag("more steps", DOUBTFUL, 0.1, 0.02, "more steps break more", "Give it more steps", "pgd")
    grid = check_grid([make_result("one", 0), make_result("two", 1, flags=[flag])]).axes[0]
    said = [text.get_text() for text in grid.texts]
    assert said[3] == "doubtful\nmore steps" and len({*said[:3]}) == 1 and "doubtful" not in said[0]
    shades = grid.images[0].get_array()
    assert shades[1, 1] > shades[0, 0] == shades[0, 1] == shades[1, 0]
    for draw, wrong in (
        (seed_intervals, []),
        (seed_intervals, over_seeds({"regular": means["regular"]})),
        (agreement_grid, replace(evidence, quality=("n",), agreement=np.ones((1, 1)))),
        (check_grid, []),
        (check_grid, [make_result("one", 0), make_result("two", 1, ("fgsm",))]),
    ):
        with pytest.raises(ValueError, match="There must be"):
            draw(wrong)


def test_notebooks_show_results(trained):
    result = make_result(HOSTILE[0])
    shown = result._repr_html_()
    assert "<script" not in shown and "&lt;script" in shown and f"{100 * result.accuracy('pgd')[0]:.1f}" in shown
    assert "<svg" in shown and shown.count("<div") == shown.count("</div>") == 1
    comparison = sr.compare(result, make_result(HOSTILE[2], 1))
    assert "These two networks" in comparison._repr_html_() and 'onload="' not in comparison._repr_html_()
    described = sr.Classifier(trained[0], "<mine>")._repr_html_()
    assert "&lt;mine&gt;" in described and "num_classes</th><td>3" in described
