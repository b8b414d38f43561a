"""What a sweep will take, said before it begins."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import shorten_autoattack

import salrob_tf as sr
from salrob_tf.evaluation import estimate as module
from salrob_tf.evaluation.estimate import Estimate, estimate
from salrob_tf.evaluation.plans import choose_attacks, plan_of

pytestmark = pytest.mark.usefixtures("unprobed")

EPSILONS = np.array([0.05, 0.1, 0.15, 0.2])


def both(ready, attacks, monkeypatch, **options):
    """What is estimated, with times that are not this machine's, and what the sweep then takes."""
    monkeypatch.setattr(module, "_seconds", lambda call: call() is None or 64.0)
    shorten_autoattack(monkeypatch)  # what an audit runs
    classifier, images, labels = ready
    chosen = choose_attacks(attacks, steps=5)
    guess = estimate(plan_of(classifier, chosen, EPSILONS, **options), images, len(images))
    found = sr.evaluate(classifier, images, labels, list(chosen.values()), EPSILONS, **options)
    costs = list(found.costs.values()) + [audit.costs for audit in found.audits.values()]
    return guess, sum(cost.gradient_evaluations for cost in costs), sum(cost.forward_evaluations for cost in costs)


def test_of_every_image_at_every_epsilon_it_is_exact(ready, monkeypatch):
    guess, gradients, forwards = both(
        ready, ["bim", "pgd-targeted", sr.Square(steps=50)], monkeypatch, survivors_only=False
    )
    assert guess.gradients == gradients == 2 * 5 * 4 * 64
    assert guess.forward_evaluations <= forwards <= guess.forward_evaluations + 3 * 4 * 64, "what fell is seen twice"
    assert guess.seconds == pytest.approx(1.15 * (guess.gradients + guess.forward_evaluations))


@pytest.mark.parametrize("attacks", [["fgsm", "bim", "pgd"], ["apgd-dlr"], ["fab-targeted"], ["worst-case"]])
def test_of_survivors_it_is_of_the_right_size(ready, monkeypatch, attacks):
    guess, gradients, _ = both(ready, attacks, monkeypatch)
    assert gradients / 3 <= guess.gradients <= 3 * gradients


def test_it_counts_draws_of_random_networks_and_the_time_of_this_machine(trained):
    network, images, _ = trained
    noisy = sr.Classifier(with_noise(network), "noisy", input_shape=(8, 8, 1))
    plain, drawn = (
        estimate(plan_of(each, choose_attacks("bim", steps=5), EPSILONS, survivors_only=False), images, 64)
        for each in (sr.Classifier(network), noisy)
    )
    assert drawn.gradients == 10 * plain.gradients and drawn.forward_evaluations == 51 * plain.forward_evaluations
    assert 0 < plain.seconds < 60


def with_noise(network):
    return lambda x: network(x) + 0.01 * tf.random.normal([tf.shape(x)[0], 3])


def test_it_is_said_in_few_words():
    both = Estimate(1_234_567, 89_123, 59.4) + Estimate(0, 1, 20)
    assert str(both) == "about 1.2 million gradients and 89,000 forward passes, 79 seconds on this machine"
    assert str(Estimate(12, 0, 600)) == "about 12 gradients and 0 forward passes, 10 minutes on this machine"
