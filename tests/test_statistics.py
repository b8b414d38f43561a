from dataclasses import replace
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import salrob_tf as sr
from salrob_tf.results.flags import Flag


def outcome(name, correct, epsilons=(0.1,)):
    correct = np.asarray(correct, bool)
    return sr.Robustness(
        model=name,
        epsilons=np.array(epsilons),
        indices=np.arange(correct.shape[1]),
        clean=np.ones(correct.shape[1], bool),
        correct={"pgd": correct},
        attacks={"pgd": {"steps": 40}},
    )


def pair(gained, lost, both=30):
    first = np.repeat([False, True, True], [gained, lost, both])
    second = np.repeat([True, False, True], [gained, lost, both])
    return outcome("regular", [first]), outcome("guided", [second])


@settings(deadline=None)
@given(st.integers(0, 25), st.integers(0, 25))
def test_p_value_is_the_exact_mcnemar_test(gained, lost):
    found = sr.compare(*pair(gained, lost)).differences[0]
    n = gained + lost
    tail = sum(comb(n, i) for i in range(min(gained, lost) + 1)) / 2**n
    assert found.p_value == pytest.approx(min(1.0, 2 * tail) if gained != lost else 1.0)
    assert found.difference == pytest.approx((gained - lost) / (30 + n))
    assert found.interval[0] <= found.difference <= found.interval[1]


def test_interval_covers_the_true_difference_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    table = [0.55, 0.15, 0.05, 0.25]  # both right, gained, lost, both wrong: the true difference is 0.10
    hits = 0
    for _ in range(400):
        both, gained, lost, neither = rng.multinomial(200, table)
        first = np.repeat([True, False, True, False], [both, gained, lost, neither])
        second = np.repeat([True, True, False, False], [both, gained, lost, neither])
        low, high = sr.compare(outcome("a", [first]), outcome("b", [second])).differences[0].interval
        hits += low <= 0.10 <= high
    assert 0.92 <= hits / 400 <= 0.98


def test_swapping_the_models_turns_the_sign():
    first, second = pair(12, 3)
    there, back = sr.compare(first, second).differences[0], sr.compare(second, first).differences[0]
    assert there.difference == -back.difference and there.p_value == back.p_value
    assert there.interval == pytest.approx((-back.interval[1], -back.interval[0]))


@pytest.mark.parametrize(
    ("gained", "lost", "verdict"),
    [
        (30, 2, "guided is more robust than regular; 1 of 1"),
        (2, 30, "guided is less robust than regular; 1 of 1"),
        (4, 2, "no difference in robustness found between guided and regular; 0 of 1"),
        (0, 0, "no difference in robustness found"),
    ],
)
def test_verdict(gained, lost, verdict):
    comparison = sr.compare(*pair(gained, lost))
    assert comparison.verdict.startswith("These two networks: " + verdict) and comparison.verdict in str(comparison)
    assert comparison.record()["verdict"] == comparison.verdict


def test_verdict_corrects_for_many_looks():
    """p = 0.039 at each of 20 epsilons: alone it would count, among 20 it does not; epsilon 0 is not looked at."""
    gained = np.repeat([True, False], [8, 1])
    rows = [gained] * 20
    first, second = outcome("a", ~np.array(rows), range(1, 21)), outcome("b", rows, range(1, 21))
    assert sr.compare(first, second).differences[0].p_value == pytest.approx(0.0390625)
    assert sr.compare(first, second).verdict.startswith("These two networks: no difference")
    alone = [outcome("a", [~gained] * 2, (0, 0.1)), outcome("b", [gained] * 2, (0, 0.1))]
    assert "more robust than a; 1 of 1" in sr.compare(*alone).verdict
    mixed = [outcome("a", ~np.array([gained, ~gained] * 1), (1, 2)), outcome("b", [gained, ~gained], (1, 2))]
    assert sr.compare(*mixed).verdict.startswith("These two networks: no difference")


def flag(severity, attack=None):
    return Flag("name", severity, 0.3, 0.01, "something was found", "do this", attack)


def test_a_verdict_takes_notice_of_what_is_known():
    first, second = pair(30, 2)
    assert "more robust" in sr.compare(first, replace(second, flags=(flag("note"),))).verdict
    for severity in ("doubtful", "not to be believed"):
        for both in (
            (first, replace(second, flags=(flag(severity),))),
            (replace(first, flags=(flag(severity),)), second),
        ):
            comparison = sr.compare(*both)
            doubted = both[0].model if both[0].flags else both[1].model
            assert comparison.verdict == (
                f"These two networks, guided and regular: no verdict. {doubted}: something was found ({severity})."
            )
            assert comparison.record()["doubts"][0]["model"] == doubted
    (attack,) = first.correct
    wholly = sr.compare(first, replace(second, flags=(flag("doubtful", attack),)))
    assert wholly.verdict.startswith("These two networks, guided and regular: no verdict. guided under ")
    more = [
        replace(r, correct={**r.correct, "spsa": r.correct[attack]}, attacks={**r.attacks, "spsa": r.attacks[attack]})
        for r in (first, second)
    ]
    partly = sr.compare(more[0], replace(more[1], flags=(flag("doubtful", attack),)))
    assert "guided is more robust than regular; 1 of 1 attack" in partly.verdict
    assert partly.verdict.endswith(f"Left out: guided under {attack}: something was found (doubtful).")


@pytest.mark.parametrize("other", [None, "results", [outcome("a", [[True]])]])
def test_what_is_no_result_is_not_compared(other):
    for pair_ in ((outcome("a", [[True]]), other), (other, outcome("a", [[True]]))):
        with pytest.raises(ValueError, match=r"^Results must be a Robustness each, as evaluate returns it. Received: "):
            sr.compare(*pair_)


def test_networks_of_one_name_are_told_apart():
    first, second = (replace(each, model="tiny") for each in pair(30, 2))
    comparison = sr.compare(first, replace(second, flags=(flag("note"),)))
    assert comparison.verdict.startswith("These two networks: tiny (second) is more robust than tiny (first); 1 of 1")
    doubted = sr.compare(first, replace(second, flags=(flag("doubtful"),)))
    assert "no verdict. tiny (second): something was found (doubtful)." in doubted.verdict


def test_there_is_no_verdict_where_nothing_was_attacked():
    first, second = (outcome(name, [[True, False]], (0,)) for name in ("regular", "guided"))
    verdict = "These two networks, guided and regular: no verdict, nothing above epsilon 0 was attacked."
    assert sr.compare(first, second).verdict == verdict
