import json

import numpy as np
import pytest
from conftest import make_images
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import salrob_tf as sr
from salrob_tf.robustness import accuracy_interval

EPSILONS = [0.0, 0.3, 0.1]


def make_dataset():
    (x_train, y_train), (x_test, y_test) = make_images(12), make_images(6, seed=1)
    return sr.Dataset.from_arrays(x_train, y_train, x_test, y_test, name="rows")


@pytest.fixture(scope="module")
def result(trained):
    model, images, labels = trained
    return sr.evaluate(
        model, images, labels, ["fgsm", sr.PGD(steps=5), "mim-l2"], EPSILONS, steps=5, seed=2, survivors_only=False
    )


def test_the_matrix_is_what_each_attack_leaves(trained, result):
    model, images, labels = trained
    predict = sr.Classifier(model).predict
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


def test_restarts_count_per_image(trained):
    model, images, labels = trained
    attack = sr.PGD(steps=1, restarts=3)
    found = sr.evaluate(model, images, labels, [attack], [0.15], seed=4, survivors_only=False)
    each = [
        sr.Classifier(model).predict(attack(model, images, labels, 0.15, seed=4, restart=restart)) == labels
        for restart in range(3)
    ]
    np.testing.assert_array_equal(found.correct["pgd"][0], np.all(each, axis=0))
    assert found.accuracy("pgd")[0] < min(one.mean() for one in each) or len({one.tobytes() for one in each}) == 1
    assert found.costs["pgd"]["gradient_evaluations"] == 3 * len(images)


def test_a_subset_is_attacked_as_in_the_whole(trained, result):
    model, images, labels = trained
    some = np.array([50, 2, 31])
    part = sr.evaluate(
        model, images[some], labels[some], [sr.PGD(steps=5)], EPSILONS, seed=2, indices=some, survivors_only=False
    )
    np.testing.assert_array_equal(part.correct["pgd"], result.correct["pgd"][:, some])


def test_results_are_saved_whole_and_reload(trained, result, tmp_path):
    model, images, labels = trained
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
    assert record["schema"] == 1 and record["data"]["name"] == "noise" and record["data"]["samples"] == 64
    arrays = np.load(tmp_path / "r" / "correct.npz")
    assert set(arrays) == {
        "indices",
        *(f"{m}/{a}" for m in ("tiny", "other") for a in ("clean", "fgsm", "pgd", "mim-l2")),
    }
    assert len(record["curves"]) == 6
    for curve in record["curves"]:
        matrix = arrays[f"{curve['model']}/{curve['attack']}"]
        assert matrix.dtype == bool and curve["accuracy"] == matrix.mean(axis=1).tolist()
        assert curve["norm"] == "inf" and curve["epsilons"] == EPSILONS and len(curve["interval"]) == 3
        assert {"steps", "relative_step", "restarts", "seconds", "gradient_evaluations"} <= set(curve)
    pgd = next(curve for curve in record["curves"] if curve["attack"] == "pgd")
    assert (pgd["steps"], pgd["relative_step"], pgd["gradient_evaluations"]) == (5, 0.5, 64 * 3 * 5)


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
        ({"images": np.full((64, 8, 8, 1), 2.0)}, r"values in \[2, 2\]"),
        ({"images": np.zeros((64, 9, 9, 1))}, "images of shape"),
        ({"labels": np.full(64, 3)}, "0 to 2. Received: labels from 3 to 3"),
        ({"labels": np.zeros(63, int)}, "64 in all"),
        ({"labels": np.eye(3, dtype=int)[np.zeros(64, int)]}, "not one-hot"),
        ({"indices": np.arange(3)}, "one whole number per image"),
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
        ({"epsilons": [[0.1]]}, r"epsilons=\[\[0.1\]\]"),
        ({"search": None}, "Unknown search. Valid: bisect, full. Received: search=None"),
        ({"craft_dtype": "int8"}, "craft_dtype='int8'"),
        ({"images": make_dataset(), "labels": None}, "pass data.x_test and data.y_test. Received: .*Dataset 'rows'"),
        ({"images": iter([])}, "cannot be resumed. Received: images=<list_iterator"),
        ({"images": None}, "images=None"),
        ({"images": [np.zeros((8, 8)), np.zeros((9, 8))]}, r"all its parts of one shape. Received: images=\[array"),
        ({"labels": None}, "must be the true classes of the images. Received: labels=None"),
    ],
)
def test_bad_input_is_named(trained, changes, message):
    model, images, labels = trained
    arguments = {"images": images, "labels": labels, "attacks": ["fgsm"], "epsilons": [0.1]} | changes
    with pytest.raises(ValueError, match=message):
        sr.evaluate(model, **arguments)


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


def test_unlike_results_are_not_compared_or_saved_together(trained, result, tmp_path):
    model, images, labels = trained

    def other(**changes):
        settings = {"epsilons": EPSILONS, "seed": 2, "steps": 5} | changes
        attacks = ["fgsm", sr.PGD(steps=settings["steps"]), "mim-l2"]
        return sr.evaluate(
            model, settings.pop("images", images), labels, attacks, name="other", survivors_only=False, **settings
        )

    for changes, message in (
        ({"epsilons": [0.0, 0.3, 0.2]}, "their epsilons differ"),
        ({"seed": 3}, "their seeds differ"),
        ({"steps": 4}, "their attacks or their settings differ"),
        ({"images": images[::-1]}, "their images differ"),
    ):
        with pytest.raises(ValueError, match=message):
            sr.compare(result, other(**changes))
    with pytest.raises(ValueError, match="different names"):
        sr.save_results(tmp_path, [result, result])
    with pytest.raises(ValueError, match="No results.json"):
        sr.load_results(tmp_path)
    with pytest.raises(ValueError, match="Valid here: fgsm, pgd, mim-l2"):
        result.accuracy("bim")


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
    from salrob_tf.robustness import epsilon_text

    found = [epsilon_text(epsilon) for epsilon in (0, 0.1, 0.2, 51 / 255, 8 / 255, float(np.float32(8 / 255)), 1 / 7)]
    assert found == ["0", "0.1", "0.2", "0.2", "8/255", "8/255", "0.1429"]
