import json
import re
from dataclasses import asdict, replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_images
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import salrob_tf as sr
from salrob_tf.results.spread import accuracy_interval

pytestmark = pytest.mark.usefixtures("unprobed")

EPSILONS = [0.0, 0.3, 0.1]


def make_dataset():
    (x_train, y_train), (x_test, y_test) = make_images(12), make_images(6, seed=1)
    return sr.Dataset.from_arrays(x_train, y_train, x_test, y_test, name="rows")


@pytest.fixture(scope="module")
def result(ready):
    model, images, labels = ready
    return sr.evaluate(
        model, images, labels, ["fgsm", sr.PGD(steps=5), "mim-l2"], EPSILONS, steps=5, seed=2, survivors_only=False
    )


def test_the_matrix_is_what_each_attack_leaves(ready, result):
    model, images, labels = ready
    predict = model.predict
    np.testing.assert_array_equal(result.clean, predict(images) == labels)
    for label, attack in (("fgsm", sr.FGSM()), ("pgd", sr.PGD(steps=5))):
        for k, epsilon in enumerate(EPSILONS):
            survived = predict(attack(model, images, labels, epsilon, seed=2)) == labels
            np.testing.assert_array_equal(result.correct[label][k], survived)
            assert result.accuracy(label)[k] == survived.mean()
    assert result.accuracy("pgd")[1] < result.accuracy("pgd")[2] < result.clean_accuracy


def test_epsilon_0_is_clean_accuracy_image_for_image(result):
    for correct in result.correct.values():
        np.testing.assert_array_equal(correct[0], result.clean)


def test_restarts_count_per_image(ready):
    model, images, labels = ready
    attack = sr.PGD(steps=1, restarts=3)
    found = sr.evaluate(model, images, labels, [attack], [0.15], seed=4, survivors_only=False)
    each = [
        model.predict(attack(model, images, labels, 0.15, seed=4, restart=restart)) == labels for restart in range(3)
    ]
    np.testing.assert_array_equal(found.correct["pgd"][0], np.all(each, axis=0))
    assert found.accuracy("pgd")[0] < min(one.mean() for one in each) or len({one.tobytes() for one in each}) == 1
    assert found.costs["pgd"].gradient_evaluations == 3 * len(images)


def test_a_subset_is_attacked_as_in_the_whole(ready, result):
    model, images, labels = ready
    some = np.array([50, 2, 31])
    part = sr.evaluate(
        model, images[some], labels[some], [sr.PGD(steps=5)], EPSILONS, seed=2, indices=some, survivors_only=False
    )
    np.testing.assert_array_equal(part.correct["pgd"], result.correct["pgd"][:, some])


def test_results_are_saved_whole_and_reload(ready, result, tmp_path):
    model, images, labels = ready
    other = sr.evaluate(
        model,
        images,
        labels,
        ["fgsm", sr.PGD(steps=5), "mim-l2"],
        EPSILONS,
        steps=5,
        seed=2,
        name="other",
        survivors_only=False,
    )
    comparison = sr.compare(result, other)
    sr.save_results(tmp_path / "r", [result, other], arguments={"a": 1}, data_name="noise", comparisons=[comparison])
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["correct.npz", "results.json"]
    for saved, loaded in zip([result, other], sr.load_results(tmp_path / "r"), strict=True):
        assert (loaded.model, loaded.seed, loaded.sha256) == (saved.model, saved.seed, saved.sha256)
        assert loaded.attacks == saved.attacks and loaded.costs == saved.costs
        for name in ("epsilons", "indices", "clean"):
            np.testing.assert_array_equal(getattr(loaded, name), getattr(saved, name))
        for label, correct in saved.correct.items():
            np.testing.assert_array_equal(loaded.correct[label], correct)
        sr.compare(loaded, saved)
    record = json.loads((tmp_path / "r" / "results.json").read_text())
    assert set(record) >= {"schema", "created", "environment", "arguments", "data", "models", "curves", "comparison"}
    assert record["schema"] == 2 and record["data"]["name"] == "noise" and record["data"]["samples"] == 64
    arrays = np.load(tmp_path / "r" / "correct.npz")
    assert set(arrays) == {
        "indices",
        *(f"{m}/{a}" for m in ("tiny", "other") for a in ("clean", "fgsm", "pgd", "mim-l2")),
    }
    assert len(record["curves"]) == 6
    for curve in record["curves"]:
        matrix = arrays[f"{curve['model']}/{curve['attack']}"]
        assert matrix.dtype == bool and curve["accuracy"] == matrix.mean(axis=1).tolist()
        assert curve["settings"]["norm"] == "inf" and curve["epsilons"] == EPSILONS and len(curve["interval"]) == 3
        assert {"steps", "relative_step", "restarts"} <= set(curve["settings"])
        assert curve["costs"] == asdict((result if curve["model"] == "tiny" else other).costs[curve["attack"]])
    pgd = next(curve for curve in record["curves"] if curve["attack"] == "pgd")
    assert (pgd["settings"]["steps"], pgd["settings"]["relative_step"]) == (5, 0.5)
    assert pgd["costs"]["gradient_evaluations"] == 64 * 3 * 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attacks": ["deepfool"]}, "Valid: fgsm, bim, pgd, mim"),
        ({"attacks": []}, "one or more"),
        ({"attacks": ["pgd", "pgd"]}, "each once"),
        ({"epsilons": [0.1, -0.1]}, r"epsilons=\[0.1, -0.1\]"),
        ({"epsilons": []}, "one or more numbers"),
        ({"epsilons": [float("nan")]}, "nan"),
        ({"norm": 1}, "norm=1"),
        ({"seed": -1}, "seed=-1"),
        ({"images": np.zeros((0, 8, 8, 1)), "labels": np.zeros(0, int)}, "at least one image"),
        (
            {"images": np.zeros((0, 8, 8, 1)), "labels": np.zeros(0, int), "indices": np.zeros(0, int)},
            "at least one image",
        ),
        ({"images": np.full((64, 8, 8, 1), 2.0)}, r"values in \[2, 2\]"),
        ({"images": np.zeros((64, 9, 9, 1))}, "images of shape"),
        ({"labels": np.full(64, 3)}, "0 to 2. Received: labels from 3 to 3"),
        ({"labels": np.zeros(63, int)}, "64 in all"),
        ({"labels": np.eye(3, dtype=int)[np.zeros(64, int)]}, "not one-hot"),
        ({"indices": np.arange(3)}, "one whole number per image"),
        ({"indices": [[1], [1, 2]]}, "`indices` must be an array, all its parts of one shape"),
        ({"attacks": np.array("pgd")}, r"one or a list of several. Received: attacks=ndarray of str96 \(\)"),
        ({"attacks": "x" * 5000}, "^.{,200}Received: attack='xxx[^ ]{,80}$"),
        ({"epsilons": [10**400]}, "0 or more and finite in float32"),
        ({"indices": np.arange(64) - 1}, "from -1 to 62"),
        ({"indices": np.arange(64) / 2}, "indices=ndarray of float64"),
        ({"seed": 2**63}, "`seed` must be .* 0 or more"),
        ({"seed": "1"}, "seed='1'"),
        ({"batch_size": 2.5}, "batch_size=2.5"),
        ({"batch_size": True}, "batch_size=True"),
        ({"attacks": 7}, "attacks=7"),
        ({"attacks": [None]}, "attack=None"),
        ({"attacks": ["cw-margin"]}, "cw climbs a margin of its own: leave the loss out"),
        ({"attacks": ["spsa-dlr"]}, "spsa climbs a margin of its own"),
        ({"attacks": ["pgd"], "norm": "1"}, "norm='1'"),
        ({"attacks": ["pgd"], "steps": 2.5}, "steps=2.5"),
        ({"attacks": ["pgd"], "restarts": "2"}, "restarts='2'"),
        ({"epsilons": "small"}, "epsilons='small'"),
        ({"epsilons": ["0.1", 0.2]}, r"epsilons=\['0.1', 0.2\]"),
        ({"epsilons": True}, "epsilons=True"),
        ({"attacks": [["pgd"]]}, r"Unknown attack. .*Received: attack=\['pgd'\]"),
        ({"indices": np.full(64, 2**43)}, r"from 0 to 2\^43 - 1. Received: .*, from 8796093022208"),
        ({"epsilons": [[0.1]]}, r"epsilons=\[\[0.1\]\]"),
        ({"search": None}, "Unknown search. Valid: bisect, full. Received: search=None"),
        ({"craft_dtype": "int8"}, "craft_dtype='int8'"),
        ({"images": make_dataset(), "labels": None}, "pass data.x_test and data.y_test. Received: .*Dataset 'rows'"),
        ({"images": iter([])}, "cannot be resumed. Received: images=<list_iterator"),
        ({"images": None}, "images=None"),
        ({"images": [np.zeros((8, 8)), np.zeros((9, 8))]}, r"all its parts of one shape. Received: images=\[array"),
        ({"labels": None}, "must be the true classes of the images. Received: labels=None"),
        ({"labels": [[1], [1, 2]] * 32}, "`labels` must be an array, all its parts of one shape"),
        ({"images": keras.Input((8, 8, 1))}, "`images` must be an array, .*Received: images=KerasTensor"),
        ({"epsilons": [0.1, 1e300]}, r"0 or more and finite in float32. Received: epsilons=\[0.1, 1e\+300\]"),
        ({"attacks": {"pgd": sr.PGD()}}, "one or a list of several. Received: attacks={'pgd': PGD"),
        ({"attacks": {"fgsm"}}, "one or a list of several. Received: attacks={'fgsm'}"),
        ({"attacks": b"pgd"}, "one or a list of several. Received: attacks=b'pgd'"),
        ({"progress": "bar"}, "`progress` must be a function of four arguments. Received: progress='bar'"),
        ({"name": 5}, "`name` must be of printable characters, 1000 at most. Received: name=5"),
        ({"name": "a\udcff"}, "`name` must be of printable characters, 1000 at most. Received: name='a.udcff'"),
        ({"name": "a\0b"}, "`name` must be of printable characters"),
        ({"name": "a\nb"}, "`name` must be of printable characters"),
        ({"name": "n" * 70000}, "`name` must be of printable characters"),
        ({"checkpoint": 5}, "`checkpoint` must be the path of a folder. Received: checkpoint=5"),
        ({"checkpoint": ""}, "`checkpoint` must be the path of a folder. Received: checkpoint=''"),
        ({"adversarials": True}, "`adversarials` must be the path of a folder. Received: adversarials=True"),
        ({"adversarials": __file__}, f"`adversarials` must be a folder, and this is none. Received: {__file__}"),
    ],
)
def test_bad_input_is_named(trained, changes, message):
    model, images, labels = trained
    arguments = {"images": images, "labels": labels, "attacks": ["fgsm"], "epsilons": [0.1]} | changes
    with pytest.raises(ValueError, match=message):
        sr.evaluate(model, **arguments)


def generated(*shapes):
    """A dataset of pairs of batches of zeros, whose shapes only show as it is read."""
    pairs = [(np.zeros(images, np.float32), np.zeros(labels, np.int32)) for images, labels in shapes]
    spec = tf.TensorSpec((None, None, None, 1), tf.float32), tf.TensorSpec((None,), tf.int32)
    return tf.data.Dataset.from_generator(lambda: iter(pairs), output_signature=spec)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (
            generated(((2, 8, 8, 1), 2), ((2, 9, 9, 1), 2)),
            "images of one shape, .* Received: Cannot batch tensors with different shapes in component 0. First ",
        ),
        (generated(((2, 8, 8, 1), 3)), "as many labels as images. Received: Input element must have the same batch"),
        (generated(((2, 8, 8, 1), 2)).repeat(), "leave out .repeat.*Received: a dataset without end"),
    ],
    ids=["shapes", "numbers", "endless"],
)
def test_datasets_that_cannot_be_attacked_are_one_line(trained, dataset, message):
    with pytest.raises(ValueError, match=rf"^A dataset must [^\n]*{message}[^\n]*$"):
        sr.evaluate(trained[0], dataset, None, ["fgsm"], [0.1])


@pytest.mark.parametrize(
    ("outputs", "labels", "attack", "message"),
    [
        (3, 3, "fgsm", "`labels` must be 0 to 2. Received: labels from 3 to 3"),
        (2, 1, "pgd-dlr", "The DLR loss needs three classes or more: use margin. Received: 2"),
    ],
)
def test_what_does_not_suit_a_model_is_said_before_anything_is_written(
    trained, tmp_path, outputs, labels, attack, message
):
    model, images, _ = trained
    classifier = sr.Classifier(lambda x: model(x)[:, :outputs], "pair", input_shape=(8, 8, 1))
    folders = {name: tmp_path / name for name in ("checkpoint", "adversarials")}
    with pytest.raises(ValueError, match=message):
        sr.evaluate(classifier, images, np.full(64, labels), [attack], [0.1], steps=1, **folders)
    assert not list(tmp_path.iterdir())


def test_what_is_valid_in_several_forms_gives_one_result(trained):
    model, images, labels = trained
    expected = sr.evaluate(model, images, labels, ["pgd"], [0.1], norm=np.inf, steps=5, seed=3, batch_size=16)
    found = sr.evaluate(
        model,
        list(images),
        labels.tolist(),
        "pgd",
        0.1,
        norm="inf",
        steps=np.int64(5),
        seed=np.uint8(3),
        batch_size=np.int32(16),
    )
    np.testing.assert_array_equal(found.correct["pgd"], expected.correct["pgd"])
    assert found.attacks == expected.attacks and json.loads(json.dumps(found.attacks)) == found.attacks
    assert sr.PGD("2") == sr.PGD(2) == sr.PGD(np.float32(2.0)) != sr.PGD()


def test_unlike_results_are_not_compared_or_saved_together(ready, result, tmp_path):
    model, images, labels = ready

    def other(**changes):
        settings = {"epsilons": EPSILONS, "seed": 2, "steps": 5} | changes
        attacks = ["fgsm", sr.PGD(steps=settings["steps"]), "mim-l2"]
        return sr.evaluate(
            model, settings.pop("images", images), labels, attacks, name="other", survivors_only=False, **settings
        )

    for changes, message in (
        ({"epsilons": [0.0, 0.3, 0.2]}, r"epsilons \[0, 0.3, 0.1\] and \[0, 0.3, 0.2\]"),
        ({"seed": 3}, "seeds 2 and 3"),
        ({"steps": 4}, "steps of pgd 5 and 4; .*steps of mim-l2 5 and 4; relative_step of mim-l2 0.2 and 0.25"),
        ({"images": images[::-1]}, rf"images 64 \({result.sha256[:8]}\) and 64 \([0-9a-f]{{8}}\)"),
    ):
        with pytest.raises(ValueError, match=rf"^tiny and other cannot be .*: {message}\. Attack both alike$"):
            sr.compare(result, other(**changes))
    with pytest.raises(ValueError, match="different names"):
        sr.save_results(tmp_path, [result, result])
    with pytest.raises(ValueError, match="No results.json"):
        sr.load_results(tmp_path)
    for attack in ("bim", None, ["fgsm"]):
        with pytest.raises(ValueError, match="Valid here: fgsm, pgd, mim-l2, worst of all. Received: attack="):
            result.accuracy(attack)


def test_what_differs_between_results_is_short_and_never_cut_off(result):
    """Long lists are shown from where they part, and numbers that look alike in full."""
    many = np.linspace(0, 1, 30)
    correct = {"pgd": np.ones((30, 64), bool)}
    first = replace(result, epsilons=many, correct=correct, attacks={"pgd": {"steps": 5, "loss": "margin"}})
    last = many.copy()
    last[-2] = 0.97
    members = {"fgsm": {"norm": "inf"}, "pgd": {"steps": 5}}
    for changes, message in (
        ({"epsilons": last}, r"epsilons \[\.\.\., 0.9655, 1\] and \[\.\.\., 0.97, 1\]"),
        (
            {"epsilons": many * (1 + 1e-12)},
            r"epsilons \[\.\.\., 0.0344827586\d+, .*\] and \[\.\.\., 0.0344827586\d+, .*\]",
        ),
        ({"indices": result.indices + 1}, r"indices of images \[0, 1, 2, 3, 4, 5, \.\.\.\] and \[1, .* 6, \.\.\.\]"),
        ({"sha256": ""}, rf"images 64 \({result.sha256[:8]}\) and 64 \(no digest\)"),
        ({"attacks": {"pgd": {"steps": 5}}}, "loss of pgd 'margin' and not there"),
        ({"attacks": {"pgd": {"members": members}}}, "steps of pgd 5 and not there; loss of pgd .*; members of pgd .*"),
        ({"attacks": {"a": {}}, "correct": {"a": correct["pgd"]}}, r"attacks \[pgd\] and \[a\]"),
        (
            {"attacks": {"pgd": {f"s{k}": k for k in range(9)}}},
            "steps of pgd .*; s3 of pgd not there and 3, and 5 more",
        ),
    ):
        with pytest.raises(ValueError, match=rf"^tiny and {'o' * 37} \.\.\. {'o' * 37} cannot be") as refused:
            sr.compare(first, replace(first, model="o" * 900, **changes))
        assert re.search(rf"cannot be compared, as these differ: {message}\. Attack both alike$", str(refused.value))
    ensemble = replace(first, attacks={"pgd": {"members": members}})
    other = replace(first, attacks={"pgd": {"members": members | {"pgd": {"steps": 6}}}})
    with pytest.raises(ValueError, match=r"differ: steps of pgd of pgd 5 and 6\. Attack"):
        sr.compare(ensemble, other)


OUTCOMES = {
    "model": "a",
    "epsilons": np.array([0.1]),
    "indices": np.arange(2),
    "clean": np.array([True, False]),
    "correct": {"fgsm": np.array([[True, False]])},
    "attacks": {"fgsm": {"norm": "inf", "steps": 1}},
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": 5}, "`model` must be of printable characters, 1000 at most. Received: model=5"),
        ({"model": "a\nb"}, "`model` must be of printable characters"),
        ({"epsilons": [0.1]}, r"`epsilons` must be an array of numbers \(1,\). Received: epsilons=\[0.1\]"),
        ({"epsilons": np.zeros(0)}, "one or more `epsilons`"),
        ({"indices": np.arange(3)}, r"`indices` must be an array of integers \(2,\)"),
        ({"clean": [True, False]}, r"`clean` must be an array of booleans \(2,\)"),
        ({"clean": np.zeros(0, bool)}, r"`clean` \(N,\) of one image or more"),
        ({"correct": {}}, r"for the same labels, one or more. Received: correct of \[\], attacks of \['fgsm'\]"),
        (
            {"correct": {}, "attacks": {}},
            r"for the same labels, one or more. Received: correct of \[\], attacks of \[\]",
        ),
        ({"correct": None}, "`correct` must be a dictionary, by attack. Received: correct=None"),
        ({"correct": [np.ones((1, 2), bool)]}, r"Received: correct=\[array"),
        ({"attacks": None}, "attacks=None"),
        ({"costs": None}, "costs=None"),
        ({"costs": {"fgsm": {"seconds": 1.0}}}, "`costs` must be Costs, by attack. Received: costs="),
        ({"epsilons": [[1], [1, 2]]}, "`epsilons` must be an array, all its parts of one shape"),
        ({"seed": "0"}, "`seed` must be a whole number, 0 or more. Received: seed='0'"),
        ({"sha256": None}, "`sha256` must be text. Received: sha256=None"),
        ({"path": 5}, "`path` must be text or None. Received: path=5"),
        ({"description": None}, "`description` must be a dictionary. Received: description=None"),
        ({"description": {"a": 1}}, r"must be empty or hold a summary, .* Received: description=\{'a': 1\}"),
        ({"flags": None}, "`flags` must be a tuple of flags. Received: flags=None"),
        ({"flags": ("doubtful",)}, r"`flags` must be flags. Received: flags=\('doubtful',\)"),
        ({"correct": {"fgsm": [[True, False]]}}, r"`fgsm` must be an array of booleans \(1, 2\)"),
        ({"correct": {"fgsm": np.array([[0.5, np.nan]])}}, "Received: fgsm=ndarray of float64"),
        ({"correct": {"fgsm": np.ones((3, 5), bool)}}, r"Received: fgsm=ndarray of bool \(3, 5\)"),
    ],
)
def test_outcomes_that_do_not_fit_together_are_one_line(changes, message):
    sr.Robustness(**OUTCOMES)
    with pytest.raises(ValueError, match=rf"^[^\n]*{message}[^\n]*$"):
        sr.Robustness(**OUTCOMES | changes)


@given(st.integers(0, 60), st.integers(0, 60))
def test_accuracy_interval_is_wilsons(right, wrong):
    if right + wrong == 0:
        return
    n, p, z = right + wrong, right / (right + wrong), stats.norm.ppf(0.975)
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    found = accuracy_interval(np.arange(n) < right)
    np.testing.assert_allclose(found, [max(centre - half, 0), min(centre + half, 1)], atol=1e-12)
    assert found[0] - 1e-12 <= p <= found[1] + 1e-12


def test_epsilons_are_written_as_people_write_them():
    from salrob_tf.checks import epsilon_text

    found = [epsilon_text(epsilon) for epsilon in (0, 0.1, 0.2, 51 / 255, 8 / 255, float(np.float32(8 / 255)), 1 / 7)]
    assert found == ["0", "0.1", "0.2", "0.2", "8/255", "8/255", "0.1429"]
