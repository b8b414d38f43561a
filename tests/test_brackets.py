"""The search for each image's smallest epsilon, without any model: against brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salrob_tf.evaluation.brackets import Brackets

EPSILONS = np.linspace(0.1, 0.9, 9)
thresholds = st.lists(st.integers(0, 9), min_size=1, max_size=12)


def search(brackets, attack):
    """Ask until nothing is open; how often."""
    asked = 0
    while len(rows := brackets.open):
        for row, k in zip(rows, brackets.next(rows), strict=True):
            assert brackets.survived[row] < k < brackets.broken[row], "only what is not known is asked"
            asked += 1
            size = attack(row, k)
            brackets.survives(row, k) if size is None else brackets.falls(row, k, size)
    return asked


@settings(max_examples=60, deadline=None)
@given(thresholds=thresholds, data=st.data())
def test_bisection_finds_each_threshold_from_any_guess(thresholds, data):
    count = len(thresholds)
    guess = np.array(data.draw(st.lists(st.integers(0, 9), min_size=count, max_size=count)))
    brackets = Brackets(np.ones(count, bool), EPSILONS, guess)
    asked = search(brackets, lambda row, k: EPSILONS[k] if k >= thresholds[row] else None)
    np.testing.assert_array_equal(brackets.broken, thresholds)
    np.testing.assert_array_equal(brackets.correct, [np.array(thresholds) > k for k in range(9)])
    assert asked <= 7 * count and brackets.standing == thresholds.count(9)


@settings(max_examples=60, deadline=None)
@given(thresholds=thresholds)
def test_a_right_guess_costs_two_attacks(thresholds):
    brackets = Brackets(np.ones(len(thresholds), bool), EPSILONS, np.array(thresholds))
    asked = search(brackets, lambda row, k: EPSILONS[k] if k >= thresholds[row] else None)
    assert asked <= sum(1 if threshold in (0, 9) else 2 for threshold in thresholds)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), count=st.integers(1, 8))
def test_going_up_takes_the_first_success_or_a_smaller_one_that_its_size_tells(data, count):
    """Any attack, also one that fails above where it succeeded, with adversarials well inside their balls."""
    hits = np.array(
        data.draw(st.lists(st.lists(st.booleans(), min_size=9, max_size=9), min_size=count, max_size=count))
    )
    share = data.draw(st.floats(0.01, 1))
    clean = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    brackets = Brackets(clean, EPSILONS)
    search(brackets, lambda row, k: share * EPSILONS[k] if hits[row, k] else None)
    for row in range(count):
        first = next((k for k in range(9) if hits[row, k]), 9)
        if first < 9:  # the smallest ball that holds the adversarial
            first = min(k for k in range(9) if share * EPSILONS[first] <= EPSILONS[k] + 1e-6)
        assert brackets.broken[row] == (first if clean[row] else 0)


def test_at_epsilon_0_nothing_is_attacked_and_nothing_breaks():
    brackets = Brackets(np.array([True, False]), np.array([0.0, 0.1]))
    assert brackets.open.tolist() == [0] and brackets.next(np.array([0])).tolist() == [1]
    brackets.falls(0, 1, 0.0)
    assert brackets.correct.tolist() == [[True, False], [False, False]]


@pytest.mark.parametrize(("size", "broken"), [(np.inf, 9), (0.05, 0), (0.1, 0), (0.35, 3), (5.0, 9)])
def test_the_nearest_adversarial_settles_an_image(size, broken):
    brackets = Brackets(np.ones(1, bool), EPSILONS)
    brackets.settles(0, size)
    assert brackets.broken.tolist() == [broken] and not len(brackets.open)


@settings(max_examples=60, deadline=None)
@given(thresholds=thresholds, data=st.data())
def test_what_other_attacks_broke_is_asked_about_from_there_down(thresholds, data):
    """Where nothing smaller breaks an image, one attack shows it; where all may, each is found."""
    count = len(thresholds)
    before = np.array(data.draw(st.lists(st.integers(0, 9), min_size=count, max_size=count)))
    brackets = Brackets(np.ones(count, bool), EPSILONS, before, before)
    asked = search(brackets, lambda row, k: EPSILONS[k] if k >= thresholds[row] else None)
    np.testing.assert_array_equal(brackets.broken, np.minimum(before, thresholds))
    assert asked >= np.sum(before > 0)
    if np.all(before <= thresholds):
        assert asked == np.sum(before > 0)
    one_by_one = Brackets(np.ones(count, bool), EPSILONS, None, before)
    search(one_by_one, lambda row, k: EPSILONS[k] if k >= thresholds[row] else None)
    np.testing.assert_array_equal(one_by_one.broken, np.minimum(before, thresholds))


def test_a_nearest_adversarial_that_is_further_than_another_changes_nothing():
    brackets = Brackets(np.ones(2, bool), EPSILONS, None, np.array([3, 3]))
    brackets.settles(0, 0.85)
    brackets.settles(1, 0.15)
    assert brackets.broken.tolist() == [3, 1] and not len(brackets.open)
