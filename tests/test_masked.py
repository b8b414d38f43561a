"""Networks whose gradients are masked, which PGD on the cross-entropy calls robust: AutoAttack sees through each.

Athalye et al. 2018 is where most masks come from, Xiao et al. 2020 where k-winners-take-all does.
"""

import numpy as np
import pytest
import tensorflow as tf
from conftest import shorten_autoattack

import salrob_tf as sr

pytestmark = pytest.mark.usefixtures("unprobed")

EPSILONS = [0.15, 0.2, 0.25]
STEEP = 2.0**14  # a power of two, so that the DLR loss and FAB round as they do without it


@pytest.fixture(scope="module", autouse=True)
def quick():
    """The members with budgets that suit tests."""
    with pytest.MonkeyPatch.context() as patch:
        shorten_autoattack(patch, 10, 5, 100)
        yield


def attacked(model, trained):
    """Accuracies under PGD, and by member under AutoAttack, whose last member's are those of the ensemble."""
    classifier = model if isinstance(model, sr.Classifier) else sr.Classifier(model, "masked", input_shape=(8, 8, 1))
    found = sr.evaluate(classifier, *trained[1:], [sr.PGD(steps=20), "autoattack"], EPSILONS)
    assert found.clean_accuracy > 0.9
    by_member = {member.attack: np.array(member.accuracy) for member in found.members["autoattack"]}
    return found.accuracy("pgd"), by_member


@pytest.fixture(scope="module")
def unmasked(ready):
    by_member = attacked(ready[0], ready)[1]
    assert 0.1 < by_member["square"][0] < 0.9, "some survive and some do not"
    return by_member["square"]


MASKS = {
    "logits": lambda network: lambda images: STEEP * network(images),
    "softmax": lambda network: lambda images: tf.nn.softmax(STEEP * network(images)),
}


@pytest.mark.filterwarnings("ignore:pgd. the gradient was zero")
@pytest.mark.parametrize("mask", MASKS)
def test_losses_that_no_scale_changes_see_through_steep_logits(trained, unmasked, mask):
    pgd, by_member = attacked(MASKS[mask](trained[0]), trained)
    assert pgd.min() > 0.9 and by_member["apgd"].min() > 0.9, "cross-entropy has no gradient"
    assert np.abs(by_member["apgd-dlr"] - unmasked).max() < 0.1
    assert np.abs(by_member["square"] - unmasked).max() <= 0.02


@pytest.mark.filterwarnings("ignore:.*the gradient was zero")
def test_square_sees_through_quantised_images(trained):
    """16 levels, with a gradient that is zero; of images that are rounded, which have none, PGD refuses to say."""
    quantised = lambda images: trained[0](images - tf.math.floormod(images, 1 / 15))  # noqa: E731
    pgd, by_member = attacked(quantised, trained)
    assert by_member["fab-targeted"].min() > 0.9, "without a gradient"
    assert np.all(by_member["square"][1:] < pgd[1:] - 0.1)


@pytest.mark.filterwarnings("ignore:pgd. the attack finds no more")
def test_the_margin_sees_through_winners_that_take_all(trained, winners_network):
    pgd, by_member = attacked(winners_network, trained)
    assert np.all(by_member["apgd"] > by_member["apgd-dlr"] + 0.2), "cross-entropy's gradient leads astray"
    assert np.all(by_member["square"] < pgd - 0.2)


def test_the_worst_case_sees_through_steep_logits(trained, ready):
    """Its bracket is blind, and says nothing of how near an image is: what comes next must not rest on it."""
    images, labels = trained[1:]
    found = [
        sr.evaluate(model, images, labels, [sr.WorstCase(audit=False)], EPSILONS).accuracy("worst-case")
        for model in (ready[0], sr.Classifier(MASKS["logits"](trained[0]), "steep", input_shape=(8, 8, 1)))
    ]
    assert found[0].min() < 0.5 and np.abs(found[1] - found[0]).max() <= 0.05
