"""Several attacks under one name: who is attacked again, by what, and what is missed."""

import json
from dataclasses import dataclass, replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_images, make_network, shorten_autoattack
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import salrob_tf as sr
from salrob_tf.attacks import autoattack
from salrob_tf.attacks.base import Link
from salrob_tf.attacks.ensemble import Ensemble
from salrob_tf.evaluation import audit as audit_module
from salrob_tf.evaluation import sweep as sweep_module
from salrob_tf.evaluation.audit import audited_epsilons, audited_images
from salrob_tf.results.audits import Audit
from salrob_tf.results.costs import Costs

pytestmark = pytest.mark.usefixtures("unprobed")

EPSILONS = [0.05, 0.1, 0.15, 0.2, 0.25]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """AutoAttack's members with budgets that suit tests."""
    shorten_autoattack(monkeypatch)


@pytest.fixture(scope="module")
def classifier(ready):
    return ready[0]


@dataclass(frozen=True)
class Two(Ensemble):
    label = "two"
    near: float = np.inf
    hope: float = np.inf

    def members(self, classifier):
        return Link("first", sr.BIM(steps=2, relative_step=0.1)), Link("again", sr.PGD(steps=20), self.near, self.hope)


def lead(classifier, images, labels):
    logits = classifier.predict_logits(images)
    others = np.where(np.eye(logits.shape[1], dtype=bool)[labels], -np.inf, logits)
    return logits[np.arange(len(labels)), labels] - others.max(axis=1)


def test_only_what_is_near_to_falling_is_attacked_again(classifier, trained):
    """Near by hand: the smallest lead that the first attack's two passes saw, over that of the clean image."""
    images, labels = trained[1], trained[2]
    halfway = sr.BIM(steps=1, relative_step=0.1)(classifier, images, labels, 0.2)
    clean = lead(classifier, images, labels)
    share = np.minimum(lead(classifier, halfway, labels), clean) / clean
    every = sr.evaluate(classifier, images, labels, [Two()], [0.2])
    first = sr.evaluate(classifier, images, labels, [sr.BIM(steps=2, relative_step=0.1)], [0.2]).correct["bim"][0]
    fell_again = first & ~every.correct["two"][0]
    assert fell_again.sum() > 3
    threshold = float(np.median(share[fell_again]))
    found = sr.evaluate(classifier, images, labels, [Two(near=threshold)], [0.2])
    np.testing.assert_array_equal(first & ~found.correct["two"][0], fell_again & (share <= threshold))
    assert found.attacks["two"]["members"]["again"]["near"] == threshold
    costs = [result.members["two"][1].costs.gradient_evaluations for result in (found, every)]
    assert 0 < costs[0] < costs[1]
    hasty = sr.evaluate(classifier, images, labels, [Two(near=threshold, hope=threshold / 2)], [0.2])
    assert not (found.correct["two"] & ~hasty.correct["two"]).any()
    given_up = found.members["two"][1].costs.gradient_evaluations - hasty.members["two"][1].costs.gradient_evaluations
    assert given_up > 0


def test_what_a_batch_of_another_size_does_not_misclassify_stands(trained):
    network, images, labels = trained

    def by_size(x):
        rows = tf.reduce_sum(
            tf.reshape(x[:, :6], [-1, 3, 16]), axis=2
        )  # which epsilon 0.1 does not change the order of
        return tf.where(tf.shape(x)[0] % 2 == 1, rows, network(x))

    classifier = sr.Classifier(by_size, "by size", input_shape=(8, 8, 1))
    for attack in (sr.BIM(steps=5), sr.FGSM()):
        found = sr.evaluate(classifier, images, labels, [attack], [0.1], batch_size=16)
        np.testing.assert_array_equal(found.correct[attack.label][0], found.clean)
        assert found.costs[attack.label].flipped == 1
    plain = sr.evaluate(network, images, labels, ["fgsm"], [0.1], batch_size=16)
    assert plain.costs["fgsm"].flipped == 0 and plain.accuracy("fgsm")[0] < plain.clean_accuracy


@pytest.mark.parametrize("attacks", [["bim", "pgd"], ["apgd-dlr"]])
def test_bfloat16_leaves_nothing_that_float32_breaks(ready, attacks):
    network, images, labels = ready
    exact = sr.evaluate(network, images, labels, attacks, EPSILONS, steps=10)
    found = sr.evaluate(network, images, labels, attacks, EPSILONS, steps=10, craft_dtype="bfloat16")
    for label in attacks:
        assert np.all(found.accuracy(label) <= exact.accuracy(label) + 1 / len(labels) + 1e-9)
        quick, again = found.members[label]
        assert (quick.attack, again.attack) == (f"{label}-bfloat16", label)
        assert 0 < again.costs.gradient_evaluations < exact.costs[label].gradient_evaluations
    dtypes = {name: how["craft_dtype"] for name, how in found.attacks[label]["members"].items()}
    assert dtypes == {f"{label}-bfloat16": "bfloat16", label: "float32"}


@pytest.mark.parametrize("attack", [sr.APGD(steps=30, loss="dlr"), sr.BIM(steps=30, loss="margin")])
def test_float32_goes_on_with_all_where_gradients_in_bfloat16_are_poor(attack):
    """A network that saturates: what bfloat16 leaves far from falling would never meet float32."""
    keras.utils.set_random_seed(1)
    steep = []
    for scale in (1.0, 256.0):
        inputs = keras.Input((8, 8, 1))
        hidden = keras.layers.Rescaling(scale)(keras.layers.Conv2D(6, 3)(inputs))
        outputs = keras.layers.Dense(3)(keras.layers.Flatten()(keras.layers.Activation("tanh")(hidden)))
        steep.append(keras.Model(inputs, outputs))
    steep[0].compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    steep[0].fit(*make_images(256), epochs=8, verbose=0)
    steep[1].set_weights(steep[0].get_weights())
    images, labels = make_images(64, seed=1)
    exact, found = (
        sr.evaluate(steep[1], images, labels, [attack], EPSILONS, craft_dtype=dtype)
        for dtype in ("float32", "bfloat16")
    )
    assert np.all(found.accuracy(attack.label) <= exact.accuracy(attack.label) + 1 / 64 + 1e-9)
    quick = np.array(found.members[attack.label][0].accuracy)
    assert np.max(quick - exact.accuracy(attack.label)) > 0.03, "or this shows nothing"
    (said,) = [flag for flag in found.flags if flag.id == "poor gradients"]
    assert "that they left far from falling fell to those in float32" in str(said) and said.attack == attack.label


def test_the_worst_case_is_no_higher_than_its_bracket_and_near_autoattack(classifier, trained):
    images, labels = trained[1], trained[2]
    found = sr.evaluate(classifier, images, labels, "worst-case", EPSILONS)
    bracket = next(link.attack for link in sr.WorstCase().members(classifier))
    alone = sr.evaluate(classifier, images, labels, [bracket], EPSILONS)
    full = sr.evaluate(classifier, images, labels, "autoattack", EPSILONS)
    assert not (found.correct["worst-case"] & ~alone.correct["apgd"]).any()
    assert np.all(np.abs(found.accuracy("worst-case") - full.accuracy("autoattack")) <= 2 / len(labels))
    assert [member.attack for member in found.members["worst-case"]] == ["bracket", "targets", "longer"]


def test_its_audit_says_what_autoattack_breaks_of_some_images(classifier, trained, monkeypatch):
    monkeypatch.setattr(audit_module, "LEAST", 20)
    weak = (Link("weak", sr.BIM(steps=1, relative_step=0.1)),)
    monkeypatch.setattr(sr.WorstCase, "members", lambda self, classifier: weak)
    images, labels = trained[1], trained[2]
    found = sr.evaluate(classifier, images, labels, "worst-case", EPSILONS, seed=3)
    audit, rows = found.audits["worst-case"], audited_images(np.arange(len(labels)), 3)
    assert audit.images == len(rows) == 20 and audit.by == "autoattack"
    for epsilon, standing, broken in zip(audit.epsilons, audit.standing, audit.broken, strict=True):
        left = found.correct["worst-case"][EPSILONS.index(epsilon), rows]
        alone = sr.evaluate(
            classifier, images[rows][left], labels[rows][left], "autoattack", epsilon, indices=rows[left], seed=4
        )  # not from the starts of what is audited
        fell = int((~alone.correct["autoattack"][0]).sum())
        assert standing == left.sum() and broken >= fell
    assert sum(audit.broken) > 0 and audit.costs.gradient_evaluations > 0
    assert "worst-case: audit of 20 images by autoattack, which broke" in str(found)
    assert "tiny, WORST-CASE: audit of 20 images" in sr.robustness_table({"mine": [found]})
    without = sr.evaluate(classifier, images, labels, [sr.WorstCase(audit=False)], EPSILONS, seed=3)
    assert without.audits == {}
    np.testing.assert_array_equal(without.correct["worst-case"], found.correct["worst-case"])
    sr.compare(found, replace(without, model="other"))


def test_an_audit_by_the_same_attack_has_other_starts(trained, monkeypatch):
    """Of a network without gradients Square audits Square: from the same starts it would find the same again."""
    network, images, labels = trained
    queries = sr.Square(steps=60)
    monkeypatch.setattr(autoattack, "Square", lambda norm: queries)
    monkeypatch.setattr(sr.WorstCase, "members", lambda self, classifier: (Link("square", queries),))
    rounded = sr.Classifier(lambda x: network(tf.round(x * 15) / 15), "rounded", input_shape=(8, 8, 1))
    found = sr.evaluate(rounded, images, labels, "worst-case", [0.2, 0.3])
    audit = found.audits["worst-case"]
    alone = sr.evaluate(rounded, images, labels, [queries], [0.2, 0.3], seed=1)
    rows = audited_images(np.arange(64), 0)
    fell = (found.correct["worst-case"] & ~alone.correct["square"])[:, rows].sum(axis=1)
    fell = fell[[[0.2, 0.3].index(epsilon) for epsilon in audit.epsilons]]
    assert fell.max() > 0, "or this shows nothing"
    assert np.all(np.array(audit.broken) >= fell)


def test_as_many_images_are_audited_in_small_shards(classifier, trained, monkeypatch):
    monkeypatch.setattr(audit_module, "LEAST", 12)
    monkeypatch.setattr(sweep_module, "SHARD_BATCHES", 1)
    images, labels = trained[1], trained[2]
    found = [sr.evaluate(classifier, images, labels, "worst-case", EPSILONS, batch_size=size) for size in (64, 8)]
    assert [each.audits["worst-case"].images for each in found] == [12, 12]
    rows = audited_images(np.arange(64), 0)
    for each in found:
        audit = each.audits["worst-case"]
        at = [EPSILONS.index(epsilon) for epsilon in audit.epsilons]
        assert list(audit.standing) == each.correct["worst-case"][at][:, rows].sum(axis=1).tolist()


def test_which_images_are_audited_of_a_list_that_grew_is_not_what_was_kept(classifier, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(audit_module, "LEAST", 12)
    monkeypatch.setattr(sweep_module, "SHARD_BATCHES", 1)
    images, labels = trained[1], trained[2]
    kept = {"batch_size": 16, "checkpoint": tmp_path}
    sr.evaluate(classifier, images[:48], labels[:48], "worst-case", EPSILONS, **kept)
    grown = sr.evaluate(classifier, images, labels, "worst-case", EPSILONS, **kept)
    fresh = sr.evaluate(classifier, images, labels, "worst-case", EPSILONS, batch_size=16)
    one, other = (replace(each.audits["worst-case"], costs=Costs()) for each in (grown, fresh))
    assert one == other and one.images == 12


def test_an_ensemble_of_which_one_attack_is_left_meets_only_what_stands(trained):
    """Also where other attacks meet every image at every epsilon."""
    network, images, labels = trained
    rounded = sr.Classifier(lambda x: network(tf.round(x * 15) / 15), "rounded", input_shape=(8, 8, 1))
    chosen = [sr.AutoAttack(), sr.Square(steps=20)]
    found = sr.evaluate(rounded, images[:32], labels[:32], chosen, [0.2, 0.3], survivors_only=False)
    assert np.all(found.correct["autoattack"][0] >= found.correct["autoattack"][1])
    assert [found.attacks[each.label]["search"] for each in chosen] == ["full", "independent"]


def test_square_goes_on_where_all_gradients_are_zero(trained):
    network, images, labels = trained

    def rounded(x):  # the gradient is there, and it is zero
        return network(tf.round(tf.stop_gradient(x) * 15) / 15 + 0 * x)

    classifier = sr.Classifier(rounded, "rounded", input_shape=(8, 8, 1))
    chain = sr.WorstCase().members(classifier)
    assert [link.label for link in chain] == ["bracket", "targets", "longer", "square"]
    found = sr.evaluate(classifier, images[:32], labels[:32], [sr.WorstCase(audit=False)], [0.4])
    before, after = (found.members["worst-case"][place].accuracy[0] for place in (2, 3))
    assert after < before


@settings(deadline=None, max_examples=30)
@given(images=st.integers(1, 60), epsilons=st.integers(1, 5), seed=st.integers(0, 2**63 - 1))
def test_images_and_epsilons_of_an_audit_are_a_random_choice_of_their_own(images, epsilons, seed):
    rng = np.random.default_rng(images)
    indices = rng.permutation(1000)[:images]
    chosen = audited_images(indices, seed)
    assert len(chosen) == min(images, 50) and len(set(chosen.tolist())) == len(chosen)
    order = rng.permutation(images)
    assert set(indices[order][audited_images(indices[order], seed)]) == set(indices[chosen]), "whatever their order"
    correct = np.arange(epsilons)[:, None] < rng.integers(0, epsilons + 1, images)
    places = audited_epsilons(correct, correct[0])
    assert 1 <= len(places) <= 3 and np.all(np.diff(places) > 0) and places[-1] < epsilons


def test_the_interval_of_an_audit_is_that_of_clopper_and_pearson_and_covers():
    audit = Audit("autoattack", 60, (0.1, 0.2), (50, 30), (0, 3))
    low, high = stats.beta.ppf([0.025, 0.975], [3, 4], [58, 57])
    np.testing.assert_allclose(audit.missed, [[0, 1 - 0.025 ** (1 / 60)], [low, high]], rtol=1e-9)
    rng, missed = np.random.default_rng(0), np.arange(500) < 12  # 2.4 % of 500 images
    covered = 0
    for _ in range(200):
        broken = int(missed[rng.choice(500, 60, replace=False)].sum())
        low, high = Audit("autoattack", 60, (0.1,), (50,), (broken,)).missed[0]
        covered += low <= missed.mean() <= high
    assert covered >= 190


def test_an_audited_sweep_goes_on_where_it_was_interrupted_and_is_kept(classifier, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_module, "SHARD_BATCHES", 1)
    images, labels = trained[1][:32], trained[2][:32]

    def run(folder, **more):
        return sr.evaluate(
            classifier, images, labels, ["worst-case", "fgsm"], EPSILONS, batch_size=16, checkpoint=tmp_path / folder,
            **more,
        )  # fmt: skip

    def stop(label, done, total, standing):
        if len(list((tmp_path / "part").glob("worst-case-*.npz"))) == stop.after:
            raise KeyboardInterrupt

    whole = run("whole")
    parts = len(list((tmp_path / "whole").glob("worst-case-*.npz")))
    assert parts == 2 * (3 + 4)
    for stop.after in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            run("part", progress=stop)
    resumed = run("part")
    assert resumed.audits["worst-case"].broken == whole.audits["worst-case"].broken
    np.testing.assert_array_equal(resumed.correct["worst-case"], whole.correct["worst-case"])

    sr.save_results(tmp_path / "saved", [whole])
    assert sr.load_results(tmp_path / "saved")[0].audits == whole.audits
    path = tmp_path / "saved" / "results.json"
    record = json.loads(path.read_text())
    record["curves"][0]["audit"]["broken"] = [-1]
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"curves\[0\].audit is not one count of the audited images for each"):
        sr.load_results(tmp_path / "saved")


def test_few_classes_and_no_gradients_have_members_that_suit(trained):
    for classes, loss in ((2, "margin"), (3, "margin"), (4, "dlr"), (10, "dlr")):
        links = sr.WorstCase().members(sr.Classifier(make_network(classes=classes)))
        assert [link.attack.loss for link in links] == ["cross_entropy", loss, "cross_entropy"]
        for link in links:
            link.attack.check_classes(classes)
    network = trained[0]
    rounded = sr.Classifier(lambda x: network(tf.round(x * 15) / 15), "rounded", input_shape=(8, 8, 1))
    assert [link.label for link in sr.WorstCase(2).members(rounded)] == ["square"]
    for wrong in ({"audit": 1}, {"norm": 1}):
        with pytest.raises(ValueError, match=f"Received: {next(iter(wrong))}=1"):
            sr.WorstCase(**wrong)


def test_old_results_have_no_flips(ready, tmp_path):
    network, images, labels = ready
    sr.save_results(tmp_path, [sr.evaluate(network, images[:8], labels[:8], "fgsm", 0.1)])
    path = tmp_path / "results.json"
    record = json.loads(path.read_text())
    assert record["curves"][0]["costs"].pop("flipped") == 0
    path.write_text(json.dumps(record))
    assert sr.load_results(tmp_path)[0].costs["fgsm"].flipped == 0
