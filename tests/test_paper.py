"""The paper as functions, each by itself, and the registries that all the rest derives from."""

import numpy as np
import pytest
from conftest import make_images, make_network
from test_scripts import run

import salrob_tf as sr
from salrob_tf.data.sources import SOURCES, Source
from salrob_tf.models.networks import NETWORKS
from salrob_tf.studies import paper
from salrob_tf.studies.trials import attack_all, make_trial


@pytest.fixture(scope="module")
def data():
    (x_train, y_train), (x_test, y_test) = make_images(24), make_images(40, seed=1)
    return sr.Dataset.from_arrays(x_train, y_train, x_test, y_test, name="rows")


@pytest.fixture(scope="module")
def classifiers(trained):
    return [sr.Classifier(trained[0], f"{kind}-{seed}") for seed in (3, 5) for kind in ("regular", "guided", "random")]


def test_models_meet_the_same_trial_as_evaluate_gives_each(data, classifiers):
    called, pair = [], classifiers[:2]
    trial = make_trial(data, ["fgsm", "bim"], [0.1, 0.2], samples=30, seed=2, search="full")
    results = attack_all(trial, pair, progress=lambda name: lambda *state: called.append((name, *state)))
    assert [result.model for result in results] == ["regular-3", "guided-3"]
    assert {name for name, *_ in called} == {"regular-3", "guided-3"}
    alone = sr.evaluate(
        pair[0], data.x_test[trial.indices], data.y_test[trial.indices], ["fgsm", "bim"], [0.1, 0.2],
        indices=trial.indices, seed=2, search="full",
    )  # fmt: skip
    for label, correct in alone.correct.items():
        np.testing.assert_array_equal(results[1].correct[label], correct)
    assert len(make_trial(data).indices) == 40 and list(make_trial(data).attacks) == ["fgsm", "bim", "pgd", "mim"]


def test_kinds_are_any_and_the_first_is_compared_with_each_over_seeds_and_seed_by_seed(data, classifiers):
    kinds = {**paper.KINDS, "random": {"saliency": True, "recipe": "random"}}
    runs = paper.make_runs((3, 5), kinds, epochs=2)
    assert list(runs) == [each.name for each in classifiers]
    assert runs["random-5"].recipe == "random" and not runs["regular-3"].saliency and runs["guided-5"].seed == 5
    results = attack_all(make_trial(data, "fgsm", [0.1]), classifiers)
    *ways, first, second, third, fourth = paper.compare_kinds(results)
    assert [(each.first, each.second, each.seeds) for each in ways] == [
        ("regular", "guided", 2),
        ("regular", "random", 2),
    ]
    assert paper.verdict(results).count("Ways of training: between ") == 2 and "These two" not in paper.verdict(results)
    assert paper.verdict(results[:2]).startswith("These two networks: ")
    pairs = [(pair.first, pair.second) for pair in (first, second, third, fourth)]
    assert pairs == [(f"regular-{seed}", f"{kind}-{seed}") for kind in ("guided", "random") for seed in (3, 5)]
    figure = paper.accuracy_curves(data, results)
    assert figure.get_suptitle() == "rows, 40 test images, networks of seeds 3 to 5"
    assert list(paper.by_kind({"guided-3": 1, "regular-3": 2})) == ["guided-3", "regular-3"]


def test_what_is_registered_can_be_asked_for_and_stands_in_help_and_errors(monkeypatch, tmp_path, capsys):
    (x, y), arrays = make_images(24), ("x_train", "y_train", "x_test", "y_test")
    source = Source("Toys", ("a", "b", "c"), lambda: dict(zip(arrays, (x, y, x, y), strict=True)))
    monkeypatch.setitem(SOURCES, "toys", source)
    monkeypatch.setitem(NETWORKS, "toy_network", lambda shape, classes, dtype: make_network(shape, classes))
    monkeypatch.setitem(sr.RECIPES, "toy_recipe", sr.Recipe(ranking="random"))
    names = ["--data", "toys", "--network", "toy_network", "--recipe", "toy_recipe"]
    run("train.py", *names, "--saliency", "--epochs", 1, "--out", tmp_path / "run")
    assert "Toys, guided: test accuracy" in capsys.readouterr().out
    more = ["start resnet18 from: imagenet", "adadelta, adam, sgd", "float32, mixed_bfloat16, mixed_float16"]
    for script, shown in (("train.py", [*names[1::2], *more]), ("evaluate.py", ["toys", ", ".join(sr.ATTACKS)])):
        run(script, "--help")
        text = " ".join(capsys.readouterr().out.split())
        assert [name for name in shown if name not in text] == []
    for option in ("--data", "--network", "--recipe"):
        assert run("train.py", *names, option, "x", "--saliency", "--out", tmp_path / "none", check=False) == 2
        assert "toy" in capsys.readouterr().err.partition("Received")[0]
