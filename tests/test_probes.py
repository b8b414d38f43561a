"""Whether attacks can be believed: masked networks are seen, plain ones are not suspected."""

import json
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_images
from scipy import stats

import salrob_tf as sr
from salrob_tf.studies.trials import attack_all, make_trial

EPSILONS = [0.1, 0.15, 0.2, 0.25]
ATTACKS = ["fgsm", "bim", "pgd", "mim"]
STEEP = 1e4

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def many():
    return make_images(512, seed=1)


def attacked(model, many, attacks=ATTACKS, epsilons=EPSILONS, steps=10, **options):
    return sr.evaluate(model, *many, attacks, epsilons, steps=steps, **options)


def ids(result):
    return {flag.id for flag in result.flags if flag.withholds}


def outcomes(result):
    return {probe["id"]: probe["outcome"] for probe in result.description["checks"]["probes"]}


def test_plain_networks_are_not_suspected_and_all_probes_are_run(ready, many):
    result = attacked(ready[0], many)
    assert not result.flags
    names = ["one step", "bounds", "unbounded", "more steps", "second loss", "black box"]
    assert outcomes(result) == dict.fromkeys(names, "passed")
    assert {result.trust(label) for label in result.curves} == {"no sign of masking"}
    looked, spent = result.description["checks"], sum(cost.gradient_evaluations for cost in result.costs.values())
    assert looked["share"] == looked["gradient_evaluations"] / spent <= 0.15
    assert f"({looked['gradient_evaluations']:,} gradients, " in str(result) and "checks: passed: one step" in str(
        result
    )


def looked_at(result):
    return {probe["id"]: probe["images"] for probe in result.description["checks"]["probes"]}


def test_few_images_are_looked_at_also_where_tries_make_each_of_them_dear(ready):
    """Shares of what probes may take leave fewer images than say something; all that is left has room for them."""
    result = sr.evaluate(ready[0], *make_images(256, seed=1), [sr.PGD(steps=10, restarts=5)], EPSILONS)
    assert set(outcomes(result).values()) == {"passed"} and len(outcomes(result)) == 5, outcomes(result)
    images = looked_at(result)
    assert images["bounds"] == images["unbounded"] == images["more steps"] == 10 <= images["second loss"]
    assert result.description["checks"]["share"] <= 0.15


def test_other_checks_take_nothing_from_a_second_loss_that_cannot_spare_it(ready):
    result = sr.evaluate(ready[0], *make_images(128, seed=1), [sr.PGD(steps=10)], [0.15], survivors_only=False)
    images = looked_at(result)
    assert images["second loss"] >= 10 and images["bounds"] == images["unbounded"] == images["more steps"] == 0, images


@pytest.fixture(scope="module")
def untrained():
    """A network and its weights, and a classifier of it: what is compiled follows the weights."""
    keras.utils.set_random_seed(3)
    layers = keras.layers
    network = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Conv2D(8, 3, activation="relu"), layers.Flatten(), layers.Dense(3)]
    )
    return network, network.get_weights(), sr.Classifier(network)


@pytest.mark.parametrize("recipe", ["regular", "karkehabadi2023", "adversarial"])
def test_other_trainings_are_not_suspected_either(many, untrained, recipe):
    network, weights, classifier = untrained
    network.set_weights(weights)
    keras.utils.set_random_seed(3)
    images, labels = make_images(256)
    model = sr.SaliencyGuided(network, saliency=recipe == "karkehabadi2023")
    model.compile(keras.optimizers.Adam(0.01))
    for _ in range(6):
        seen = sr.PGD(steps=4)(classifier, images, labels, 0.1) if recipe == "adversarial" else images
        model.fit(seen, labels, verbose=0)
    result = attacked(classifier, many)
    assert not ids(result) and result.trust("pgd") == "no sign of masking", result


@pytest.fixture(scope="module")
def masked(trained, winners_network):
    models = {
        "steep logits": lambda images: STEEP * trained[0](images),
        "saturated softmax": lambda images: tf.nn.softmax(STEEP * trained[0](images)),
        "quantised": lambda images: trained[0](images - tf.math.floormod(images, 1 / 15)),
        "winners take all": winners_network,
    }
    return {mask: sr.Classifier(model, "masked", input_shape=(8, 8, 1)) for mask, model in models.items()}


@pytest.fixture(scope="module")
def of_masked(masked, many):
    """What the attacks find of a masked network, which several tests read."""
    return cache(lambda mask: attacked(masked[mask], many))


@pytest.mark.parametrize("mask", ["steep logits", "saturated softmax", "quantised", "winners take all"])
def test_masked_networks_are_doubtful_for_two_reasons_at_least(of_masked, mask):
    result = of_masked(mask)
    assert len(ids(result)) >= 2, result
    assert {result.trust(label) for label in result.curves} <= {"doubtful", "not to be believed"}
    assert sr.compare(result, result).verdict.count("no verdict") == 1


def test_what_a_stronger_attack_breaks_of_what_stands_is_said_of_all_curves(masked, of_masked, many):
    result = of_masked("steep logits")
    flags = {flag.id: flag for flag in result.flags}
    assert flags["second loss"].attack is None and flags["second loss"].figure > flags["second loss"].threshold
    assert {flag.attack for flag in result.flags if flag.id == "unbounded"} == set(ATTACKS), "all go along gradients"
    assert "with a margin loss" in flags["second loss"].meaning and "worst-case" in flags["second loss"].remedy
    rounded = {flag.id: flag for flag in attacked(masked["quantised"], many, steps=40).flags}
    assert (
        rounded["black box"].attack is None
        and "square, which takes no gradient, breaks" in rounded["black box"].meaning
    )
    believed = attacked(masked["steep logits"], many, [*ATTACKS, "pgd-margin"])
    assert "second loss" not in ids(believed), "one of the run's own attacks has another loss"


def test_too_few_steps_are_seen(ready, many):
    result = attacked(ready[0], many, [sr.BIM(steps=4, relative_step=0.1)])
    (flag,) = [flag for flag in result.flags if flag.id == "more steps"]
    assert flag.severity != "note" and "bim has not converged: in twice its steps it breaks" in flag.meaning
    both = attacked(ready[0], many, ["fgsm", sr.BIM(steps=4, relative_step=0.1)])
    (flag,) = [flag for flag in both.flags if flag.id == "one step"]
    assert flag.attack == "bim" and "that fgsm breaks" in flag.meaning
    assert outcomes(both)["one step"] == "doubtful"


def test_an_attack_that_passes_by_adversarials_is_seen(ready, many):
    @dataclass(frozen=True)
    class Returns(sr.BIM):
        """Ends where it began, whatever it met on its way."""

        name: ClassVar[str] = "returns"

        def outcome(self, state, draws=1):
            return np.asarray(state["began"])

        def init(self, classifier, batch, seed):
            return {**super().init(classifier, batch, seed), "began": batch.images}

    result = attacked(ready[0], many, [Returns(steps=10)], survivors_only=False)
    assert outcomes(result)["silent success"] == "not to be believed", result
    assert "silent success" not in outcomes(attacked(ready[0], many, [Returns(steps=10)]))


@dataclass(frozen=True)
class GivesUp(sr.FGSM):
    """Goes back to some images at large epsilons."""

    name: ClassVar[str] = "gives-up"
    share: float = 1.0

    def along(self, images, directions, radii):
        back = (radii > 0.2) & (images[:, 0, 0, 0] < self.share / 2)
        return np.where(back[:, None, None, None], images, super().along(images, directions, radii))


def test_accuracy_that_rises_with_epsilon_is_doubtful(ready, many):
    attack = GivesUp()
    result = attacked(ready[0], many, ["fgsm", attack], survivors_only=False)
    (flag,) = result.flags
    assert (flag.id, flag.severity, flag.attack) == ("monotone", "doubtful", "gives-up")
    left = result.correct["gives-up"]
    rose, fell = (np.sum(left[-1] & ~left[-2]), np.sum(left[-2] & ~left[-1]))
    assert flag.meaning.startswith(f"gives-up leaves {rose} images at epsilon 0.25 that are broken at 0.2, and breaks")
    assert flag.figure == stats.binomtest(int(rose), int(rose + fell), alternative="greater").pvalue < flag.threshold
    assert flag.threshold == 0.005 / 10, "four epsilons and the images as they are make ten pairs"
    assert result.trust("fgsm") != "doubtful" == result.trust("gives-up")
    assert outcomes(attacked(ready[0], many, ["fgsm"], survivors_only=False)) == {"monotone": "passed"}
    assert not outcomes(attacked(ready[0], many, [attack])), "what stands only is attacked further: it cannot rise"


def test_a_rise_within_the_error_of_paired_images_is_no_flag(ready, many):
    attack = GivesUp(share=0.04)
    result = attacked(ready[0], many, [attack], survivors_only=False)
    left = result.correct["gives-up"]
    assert np.any(left[-1] & ~left[-2]) and outcomes(result) == {"monotone": "passed"}


def test_an_attack_that_does_something_at_epsilon_0_is_doubtful(ready, many):
    @dataclass(frozen=True)
    class Restless(sr.FGSM):
        """Moves images where it may not."""

        name: ClassVar[str] = "restless"

        def along(self, images, directions, radii):
            return super().along(images, directions, np.maximum(radii, np.float32(0.15)))

    epsilons = [0.2, 0.0]
    result = attacked(ready[0], many, ["fgsm", Restless(), "pgd"], epsilons, survivors_only=False)
    (flag,) = [flag for flag in result.flags if flag.id == "epsilon 0"]
    changed = int(np.sum(result.correct["restless"][1] != result.clean))
    assert flag.attack == "restless" and flag.severity == "doubtful" and flag.figure == changed / 512 > 0
    assert f"at epsilon 0, where nothing may be changed, {changed} of 512 images come out otherwise" in flag.meaning
    assert [each["outcome"] for each in result.description["checks"]["probes"] if each["id"] == "epsilon 0"] == [
        "passed", "doubtful", "passed"
    ]  # fmt: skip
    assert "epsilon 0" not in outcomes(attacked(ready[0], many, ["pgd"], epsilons)), "by construction there"


def test_epsilon_0_of_networks_that_draw_random_numbers_is_not_looked_at(trained, many):
    def noisy(images):
        logits = trained[0](images)
        return logits + 0.01 * tf.random.normal(tf.shape(logits))

    model = sr.Classifier(noisy, "noisy", input_shape=(8, 8, 1))
    found = outcomes(attacked(model, [part[:32] for part in many], ["fgsm"], [0, 0.1], survivors_only=False))
    assert found == {"epsilon 0": "not run", "monotone": "passed"}


def test_an_attack_that_leaves_its_ball_is_seen(ready, many):
    @dataclass(frozen=True)
    class Outside(sr.BIM):
        """Goes twice as far as it may."""

        name: ClassVar[str] = "outside"

        def step(self, classifier, batch, state, dtype="float32", draws=1):
            return super().step(classifier, batch._replace(radii=2 * batch.radii), state, dtype, draws)

    result = attacked(ready[0], many, [Outside(steps=10)])
    (flag,) = [flag for flag in result.flags if flag.id == "bounds"]
    assert flag.severity == "not to be believed" and flag.figure > 0.01


def test_probes_of_a_run_that_is_too_cheap_are_not_run_and_that_is_said(ready):
    few = ready[1][:20], ready[2][:20]
    result = attacked(ready[0], few)
    assert set(outcomes(result).values()) <= {"not run", "passed"} and outcomes(result)["unbounded"] == "not run"
    alone = attacked(ready[0], few, ["fgsm"])
    assert alone.trust("fgsm") == "not checked" and alone.checks == "checks: none" and "checks" not in str(alone)


@pytest.mark.parametrize("norm", ["inf", "2"])
@pytest.mark.parametrize("attack", ["pgd-margin", "apgd-dlr", "worst-case"])
def test_probes_follow_the_attack_and_the_norm(ready, many, attack, norm):
    epsilons = EPSILONS if norm == "inf" else [0.5, 1.0, 1.5]
    entry = sr.WorstCase(norm=norm, audit=False) if attack == "worst-case" else attack
    result = attacked(ready[0], many, [entry], epsilons, norm=norm)
    assert not ids(result), result
    assert result.description["checks"]["share"] <= 0.15


def test_checks_are_kept_and_are_the_same_when_a_sweep_is_gone_on_with(ready, many, tmp_path):
    first = attacked(ready[0], many, ["bim"], checkpoint=tmp_path / "parts")
    again = attacked(ready[0], many, ["bim"], checkpoint=tmp_path / "parts")
    assert again.description == first.description and again.flags == first.flags
    sr.save_results(tmp_path / "results", [first])
    record = json.loads((tmp_path / "results" / "results.json").read_text())
    assert record["models"][0]["description"]["checks"] == first.description["checks"]
    (loaded,) = sr.load_results(tmp_path / "results")
    assert loaded.checks == first.checks and loaded.trust("bim") == first.trust("bim")


def test_adversarials_of_another_network_are_tried_on_each(trained, ready, masked, many):
    data = sr.Dataset.from_arrays(*make_images(32), *many, name="rows")
    trial = make_trial(data, [sr.BIM(steps=10), sr.PGD(steps=10)], EPSILONS, samples=512)
    steep = masked["steep logits"]
    plain, other = attack_all(trial, [ready[0], steep])
    assert outcomes(plain)["transfer"] in ("passed", "not run") and not plain.flags
    (flag,) = [flag for flag in other.flags if flag.id == "transfer"]
    assert "pgd makes on tiny break" in flag.meaning or "bim makes on tiny break" in flag.meaning
    assert flag.severity != "note" and other.description["checks"]["share"] <= 0.15
    first, second = attack_all(trial, [ready[0], sr.Classifier(trained[0], "two")])
    assert outcomes(first)["transfer"] == outcomes(second)["transfer"] == "passed"
    *kept, third = attack_all(trial, [ready[0], sr.Classifier(trained[0], "two"), steep], [first, second])
    assert kept[0] is first and kept[1] is second
    (flag,) = [flag for flag in third.flags if flag.id == "transfer"]
    assert "makes on two break" in flag.meaning, "the one before a single last one"
    (alone,) = attack_all(trial, [steep])
    assert "transfer" not in outcomes(alone)
