"""AutoAttack: its members one after the other, each on what those before left."""

import json
from dataclasses import asdict

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_images, make_network, shorten_autoattack

import salrob_tf as sr
from salrob_tf.evaluation import sweep as sweep_module
from salrob_tf.evaluation.estimate import estimate
from salrob_tf.evaluation.plans import choose_attacks, plan_of

pytestmark = pytest.mark.usefixtures("unprobed")

EPSILONS = [0.05, 0.1, 0.15, 0.2]
LABELS = ["apgd", "apgd-dlr", "fab-targeted", "square"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The members with budgets that suit tests."""
    shorten_autoattack(monkeypatch)


@pytest.fixture(scope="module")
def classifier(ready):
    return ready[0]


def labels_of(model, **settings):
    return [member.label for member in sr.AutoAttack(**settings).members(sr.Classifier(model))]


def test_members_are_those_of_the_paper_with_their_budgets(monkeypatch):
    monkeypatch.undo()
    members = [link.attack for link in sr.AutoAttack(2).members(sr.Classifier(make_network(classes=10)))]
    assert [member.label for member in members] == ["apgd", "apgd-dlr-targeted", "fab-targeted", "square"]
    assert [member.steps for member in members] == [100, 100, 100, 5000] and {each.norm for each in members} == {2}
    assert [member.tries(10) for member in members] == [1, 9, 9, 1]


def test_few_classes_have_no_dlr_loss_that_needs_more():
    assert labels_of(make_network(classes=4)) == ["apgd", "apgd-dlr-targeted", "fab-targeted", "square"]
    assert labels_of(make_network(classes=3)) == LABELS
    assert labels_of(make_network(classes=2)) == ["apgd", "fab-targeted", "square"]
    assert labels_of(make_network(classes=2), version="rand") == ["apgd"]
    with pytest.raises(ValueError, match="Received: version='plus'"):
        sr.AutoAttack(version="plus")


def test_networks_that_draw_random_numbers_get_the_version_for_them():
    network = make_network()
    noisy = lambda images: network(images) + tf.random.normal([tf.shape(images)[0], 3])  # noqa: E731
    classifier = sr.Classifier(noisy, "noisy", input_shape=(8, 8, 1))
    assert [each.label for each in sr.AutoAttack().members(classifier)] == ["apgd", "apgd-dlr"]
    assert len(sr.AutoAttack(version="standard").members(classifier)) == 4
    with pytest.warns(UserWarning, match="autoattack: noisy draws random numbers: .* apgd and apgd-dlr were run"):
        found = sr.evaluate(classifier, *make_images(4), "autoattack", [0.1])
    assert found.members["autoattack"][0].costs.gradient_evaluations % 10 == 0


def test_rounding_alone_makes_no_network_random():
    """One that answers otherwise in the seventh digit is attacked by all members, one draw each, and so estimated."""
    network = make_network()
    shaky = lambda images: network(images) + 1e-7 * tf.random.normal([tf.shape(images)[0], 3])  # noqa: E731
    classifier = sr.Classifier(shaky, "shaky", input_shape=(8, 8, 1))
    assert classifier.deterministic and not classifier.repeats
    assert [each.label for each in sr.AutoAttack().members(classifier)] == LABELS
    images, labels = make_images(4)
    found = sr.evaluate(classifier, images, labels, "autoattack", [0.1])
    assert found.description["deterministic"] and "draws" not in found.description
    plan = plan_of(classifier, choose_attacks("bim", steps=5), np.array([0.1]), survivors_only=False)
    assert estimate(plan, images, 4).gradients == 5 * 4


def test_the_version_for_random_networks_says_that_it_is_less(classifier, trained):
    found = sr.evaluate(classifier, trained[1][:4], trained[2][:4], [sr.AutoAttack(version="rand")], [0.1])
    (said,) = [flag for flag in found.flags if flag.id == "members"]
    assert "networks that draw random numbers apgd and apgd-dlr were run, but tiny draws none" in str(said)


def test_an_attack_that_ends_at_the_boundary_is_doubtful_where_draws_decide_it(trained):
    network, images, labels = trained
    noisy = sr.Classifier(lambda x: network(x) + tf.random.normal([tf.shape(x)[0], 3]), "noisy", input_shape=(8, 8, 1))
    for attack in (sr.FAB(steps=3, targeted=True), sr.AutoAttack(version="standard")):
        found = sr.evaluate(noisy, images[:4], labels[:4], [attack], [0.1])
        said = [flag.id for flag in found.flags if flag.attack == attack.label]
        assert ("boundary" in said) == (attack.label == "fab-targeted")


def test_queries_of_random_networks_are_counted_by_their_draws(trained):
    network, images, labels = trained
    asked = tf.Variable(0, dtype=tf.int64)

    def noisy(x):
        asked.assign_add(tf.shape(x, out_type=tf.int64)[0])
        return network(x) + 0.5 * tf.random.normal([tf.shape(x)[0], 3])

    classifier = sr.Classifier(noisy, "noisy", input_shape=(8, 8, 1))
    for attack in (sr.Square(steps=30), sr.FAB(steps=5, targeted=True)):
        sr.evaluate(classifier, images[:16], labels[:16], [attack], [0.2], batch_size=16)
        before = int(asked)
        found = sr.evaluate(classifier, images[:16], labels[:16], [attack], [0.2], batch_size=16)
        costs = found.costs[attack.label]
        taken = int(asked) - before
        counted = costs.forward_evaluations + costs.gradient_evaluations + costs.padding
        assert counted <= taken <= counted + 16 * 51 + 2000, "clean images, and looks at the model, are beside it"
        assert counted > 16 * attack.steps * 5


def test_one_lucky_draw_ends_no_queries(trained):
    """Ended by the first mean of draws that says so, it would leave the network without its noise a lead of 1.0."""
    network, images, labels = trained
    keras.utils.set_random_seed(0)
    noisy = sr.Classifier(lambda x: network(x) + 1.5 * tf.random.normal([tf.shape(x)[0], 3]), input_shape=(8, 8, 1))
    logits = network(sr.Square(steps=200)(noisy, images, labels, 0.2, draws=10)).numpy()
    others = np.where(np.eye(3, dtype=bool)[labels], -np.inf, logits).max(axis=1)
    assert np.mean(logits[np.arange(64), labels] - others) < 0.75


@pytest.mark.parametrize("name", ["autoattack", "worst-case", "apgd", "square", "fgsm"])
@pytest.mark.parametrize("wrong", [{"steps": 0}, {"steps": "x"}, {"restarts": 0}, {"norm": 3}])
def test_options_are_checked_whatever_attack_takes_them(name, wrong):
    (key,) = wrong
    with pytest.raises(ValueError, match=f"`{key}` .*Received: {key}="):
        sr.make_attack(name, **wrong)


def test_each_member_attacks_what_those_before_left(classifier, trained):
    """Against the members run by hand at each epsilon, an image that fell at a smaller one being broken."""
    images, labels = trained[1][:32], trained[2][:32]
    found = sr.evaluate(classifier, images, labels, ["autoattack"], EPSILONS, batch_size=16)
    assert [member.attack for member in found.members["autoattack"]] == LABELS
    standing = np.tile(found.clean, (len(EPSILONS), 1))
    for link, member in zip(sr.AutoAttack().members(classifier), found.members["autoattack"], strict=True):
        for k, epsilon in enumerate(EPSILONS):
            made = link.attack(classifier, images, labels, epsilon)
            size = np.abs(made - images).max(axis=(1, 2, 3))
            fell = (classifier.predict(made) != labels) & (size <= epsilon + 1e-6)
            standing[k:] &= ~fell
        assert np.all(np.array(member.accuracy) <= standing.mean(axis=1) + 1e-9), "more tries, and nearer adversarials"
    by_member = np.array([member.accuracy for member in found.members["autoattack"]])
    assert np.all(by_member[:-1] >= by_member[1:]) and np.array_equal(by_member[-1], found.accuracy("autoattack"))
    assert 0.1 < by_member[-1].mean() < 0.9 and (by_member[0] > by_member[-1]).any()
    costs, total = [member.costs for member in found.members["autoattack"]], found.costs["autoattack"]
    assert total.gradient_evaluations == sum(cost.gradient_evaluations for cost in costs)
    assert total.forward_evaluations == sum(cost.forward_evaluations for cost in costs)
    assert costs[-1].gradient_evaluations == 0 and "\n  apgd-dlr " in str(found)
    table = sr.robustness_table({"mine": [found]})
    assert "| tiny, AUTOATTACK, after | 0.05 | 0.1 | 0.15 | 0.2 | gradients | forward passes | seconds |" in table
    assert f"| APGD | {by_member[0][0]:.1%} |" in table and f"| {costs[0].gradient_evaluations:,} |" in table


@pytest.mark.parametrize("options", [{}, {"search": "full"}, {"survivors_only": False}, {"norm": 2}])
def test_no_image_survives_that_its_first_member_breaks(classifier, trained, options):
    images, labels = trained[1][:32], trained[2][:32]
    epsilons = np.array(EPSILONS) * (6 if "norm" in options else 1)
    found = sr.evaluate(classifier, images, labels, "autoattack", epsilons, **options)
    first = sr.AutoAttack(options.get("norm", np.inf)).members(classifier)[0].attack
    alone = sr.evaluate(classifier, images, labels, [first], epsilons, survivors_only=False)
    matrix = found.correct["autoattack"]
    assert not (matrix & ~alone.correct["apgd"]).any() and np.all(matrix[:-1] >= matrix[1:])


def test_a_network_without_gradients_is_attacked_by_square_alone(trained):
    network, images, labels = trained
    rounded = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Lambda(lambda x: tf.round(x * 15) / 15), network])
    with pytest.warns(UserWarning, match="square"):
        found = sr.evaluate(rounded, images, labels, "autoattack", [0.4])
    assert (
        found.costs["autoattack"].gradient_evaluations == 0 and found.accuracy("autoattack")[0] < found.clean_accuracy
    )


def test_an_ensemble_goes_on_where_it_was_interrupted(classifier, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_module, "SHARD_BATCHES", 1)
    images, labels = trained[1][:32], trained[2][:32]

    def run(folder, **more):
        kept = {"checkpoint": tmp_path / folder, "adversarials": tmp_path / f"{folder}-adversarials"}
        return sr.evaluate(classifier, images, labels, ["autoattack", "fgsm"], EPSILONS, batch_size=16, **kept, **more)

    whole = run("whole")
    assert len(list((tmp_path / "whole").glob("autoattack-*.npz"))) == 8

    def stop(label, done, total, standing):
        if len(list((tmp_path / "part").glob("autoattack-*.npz"))) == stop.after:
            stop.after += 1
            raise KeyboardInterrupt

    for stop.after in range(1, 8, 2):
        with pytest.raises(KeyboardInterrupt):
            run("part", progress=stop)
    resumed = run("part")
    for label in whole.correct:
        np.testing.assert_array_equal(resumed.correct[label], whole.correct[label])
    assert [member.accuracy for member in resumed.members["autoattack"]] == [
        member.accuracy for member in whole.members["autoattack"]
    ]
    for path in (tmp_path / "whole-adversarials").glob("autoattack-*.npz"):
        with np.load(path) as ours, np.load(tmp_path / "part-adversarials" / path.name) as theirs:
            np.testing.assert_array_equal(ours["images"], theirs["images"])
            row = ours["indices"]
            broken = ~whole.correct["autoattack"][-1, row] & whole.clean[row]
            assert np.all(classifier.predict(ours["images"])[broken] != labels[row][broken])


def test_members_are_saved_and_loaded(classifier, trained, tmp_path):
    found = sr.evaluate(classifier, trained[1][:8], trained[2][:8], ["autoattack", "fgsm"], EPSILONS)
    sr.save_results(tmp_path, [found])
    loaded = sr.load_results(tmp_path)[0]
    assert loaded.members == found.members and list(loaded.members) == ["autoattack"]
    record = json.loads((tmp_path / "results.json").read_text())
    curve = next(curve for curve in record["curves"] if curve["attack"] == "autoattack")
    assert curve["members"][1]["costs"] == asdict(found.members["autoattack"][1].costs)
    curve["members"][0]["accuracy"] = [1.0]
    (tmp_path / "results.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"curves\[0\].members\[0\].accuracy is not one number for each epsilon"):
        sr.load_results(tmp_path)


def test_a_callback_takes_an_ensemble(trained):
    network, images, labels = trained
    callback = sr.RobustAccuracy(images[:8], labels[:8], "autoattack", 0.1)
    model = sr.SaliencyGuided(network, saliency=False)
    model.compile("sgd")
    images, labels = make_images(8)
    assert 0 <= model.fit(images, labels, verbose=0, callbacks=[callback]).history["robust_accuracy"][0] <= 1
