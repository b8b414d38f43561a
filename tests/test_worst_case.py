"""What none of several attacks broke: a curve of its own, and what each attack adds to it."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import salrob_tf as sr
from salrob_tf.results.costs import Costs
from salrob_tf.results.flags import DOUBTFUL, NOT_BELIEVED, NOTE, Flag

LABELS = ("fgsm", "pgd", "square")
WORST = "worst of all"


def make_result(seed=0, labels=LABELS, name="one", **more):
    rng = np.random.default_rng(seed)
    correct = {label: rng.random((2, 30)) < 0.7 for label in labels}
    settings = {label: {"norm": "inf", "steps": 3} for label in labels}
    costs = {label: Costs(0.5, 10 * number, 3, 0, 1, 0.0) for number, label in enumerate(labels)}
    clean = rng.random(30) < 0.9
    return sr.Robustness(name, np.array([0.1, 0.2]), np.arange(30), clean, correct, settings, costs, **more)


@settings(deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(2, 3))
def test_an_image_stands_where_every_attack_leaves_it(seed, count):
    result = make_result(seed, LABELS[:count])
    worst = result.curves[WORST]
    for k in range(2):
        for n in range(30):
            assert worst[k, n] == all(correct[k, n] for correct in result.correct.values())
    np.testing.assert_array_equal(result.accuracy(WORST), worst.mean(axis=1))
    assert result.interval(WORST).shape == (2, 2)
    for number, member in enumerate(result.after_each):
        left = np.all([result.correct[label] for label in LABELS[: number + 1]], axis=0)
        assert member.attack == LABELS[number] and member.costs == result.costs[LABELS[number]]
        np.testing.assert_allclose(member.accuracy, left.mean(axis=1), rtol=1e-12)
    assert member.accuracy == tuple(result.accuracy(WORST))


def test_a_single_attack_has_no_worst_case():
    result = make_result(labels=("pgd",))
    assert list(result.curves) == ["pgd"] and result.after_each == ()
    with pytest.raises(ValueError, match="Unknown attack. Valid here: pgd. Received: attack='worst of all'"):
        result.accuracy(WORST)
    assert WORST.upper() not in sr.robustness_table({"one": [result]})


def test_it_is_as_doubtful_as_the_least_doubtful_attack():
    def flags(*severities):
        return [Flag("x", severity, 1, 0, "m", "r", label) for severity, label in zip(severities, LABELS, strict=False)]

    assert make_result(flags=flags(DOUBTFUL, NOT_BELIEVED, DOUBTFUL)).doubt(WORST) == DOUBTFUL
    assert make_result(flags=flags(NOT_BELIEVED, NOT_BELIEVED)).doubt(WORST) is None
    assert make_result(flags=flags(NOTE, NOT_BELIEVED, NOT_BELIEVED)).doubt(WORST) is None
    assert make_result(flags=[Flag("x", DOUBTFUL, 1, 0, "m", "r")]).doubt(WORST) == DOUBTFUL


def test_it_is_shown_and_saved(tmp_path):
    one, two = make_result(), make_result(1, name="two")
    two = replace(two, clean=one.clean)
    shown = sr.robustness_table({"one": [one], "two": [two]})
    assert f"| WORST OF ALL | 0.1 | {one.accuracy(WORST)[0]:.1%} [" in shown
    last = one.after_each[-1]
    assert f"| SQUARE | {last.accuracy[0]:.1%} | {last.accuracy[1]:.1%} | 20 | 3 |\n" in shown
    assert "| one, after | 0.1 | 0.2 | gradients | forward passes |\n" in shown
    assert "worst of all" in str(one)
    panel = sr.robustness_curves({"one": [one], "two": [two]}).axes[0]
    dotted = [line for line in panel.lines if line.get_linestyle() == ":"]
    np.testing.assert_allclose(dotted[0].get_ydata(), [one.clean_accuracy, *one.accuracy(WORST)])
    sr.save_results(tmp_path, [one, two], comparisons=[sr.compare(one, two)])
    record = json.loads((tmp_path / "results.json").read_text())
    assert record["worst_case"][1]["accuracy"] == two.accuracy(WORST).tolist()
    assert [each["attack"] for each in record["worst_case"][0]["after_each"]] == list(LABELS)
    np.testing.assert_array_equal(sr.load_results(tmp_path)[0].curves[WORST], one.curves[WORST])


def test_it_is_compared_but_no_test_of_its_own():
    one, two = make_result(), make_result(1, name="two")
    compared = sr.compare(one, two)
    rows = [item for item in compared.differences if item.attack == WORST]
    assert [row.difference for row in rows] == pytest.approx(list(two.accuracy(WORST) - one.accuracy(WORST)))
    assert "of 6 attack and epsilon pairs" in compared.verdict and WORST in str(compared)
