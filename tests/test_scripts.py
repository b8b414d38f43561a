"""The scripts as users run them: files written, resuming, and one-line errors."""

import csv
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_images, make_network, write_arrays

import salrob_tf as sr
from salrob_tf.files import locked
from salrob_tf.models.networks import NETWORKS
from salrob_tf.reports import figures
from salrob_tf.results.costs import Costs
from salrob_tf.studies import paper

pytestmark = pytest.mark.usefixtures("unprobed")

SCRIPTS = Path(__file__).parent.parent / "scripts"


def small(shape, classes, dtype="float32"):
    """A network in the place of `cnn`, for tests of what is done with runs, whatever they train."""
    layers = keras.layers
    images = keras.Input(shape)
    x = layers.Flatten()(layers.Conv2D(4, 3, activation="relu", dtype=dtype)(images))
    return keras.Model(images, layers.Dense(classes)(x))


@pytest.fixture(scope="module", autouse=True)
def small_networks():
    with pytest.MonkeyPatch.context() as patch:
        yield patch.setitem(NETWORKS, "cnn", small)


@pytest.fixture
def real_networks(monkeypatch):
    monkeypatch.setitem(NETWORKS, "cnn", sr.cnn)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_arrays(tmp_path_factory.mktemp("data") / "rows.npz")


def run(script, *arguments, check=True):
    """Run a script in this process, which is much faster than a new one, and give its exit code."""
    code = 0
    path, argv, shown = list(sys.path), sys.argv, warnings.showwarning
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    sys.path.insert(0, str(SCRIPTS))
    sys.argv = [str(SCRIPTS / script), *map(str, arguments)]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        sys.path[:], sys.argv, warnings.showwarning = path, argv, shown
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert not check or code == 0
    return code


def train(data, out, *more):
    return run("train.py", "--data", data, "--epochs", 2, "--batch-size", 32, "--optimizer", "adam",
               "--learning-rate", 0.01, "--out", out, *more)  # fmt: skip


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    train(data, folder / "regular")
    train(data, folder / "guided", "--saliency", "--recipe", "ismail2021", "--mask-fraction", 0.3)
    return folder


def save_as_before(folder, arguments, models=("regular-0",)):
    """Results as scripts wrote them that did not record what is theirs."""
    clean, indices = np.array([True, False]), np.arange(2)
    attacks = {"fgsm": {"norm": "inf", "steps": 1}}
    costs = {"fgsm": Costs(seconds=1.0)}
    results = [
        sr.Robustness(name, np.array([0.1]), indices, clean, {"fgsm": clean[None]}, attacks, costs) for name in models
    ]
    sr.save_results(folder, results, arguments=arguments)


def tree(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_train_writes_what_the_contract_lists(runs, data):
    record = json.loads((runs / "guided" / "run.json").read_text())
    assert sorted(path.name for path in (runs / "guided").iterdir()) == [
        "export",
        "history.csv",
        "model.keras",
        "run.json",
    ]
    assert record["arguments"]["recipe"] == "ismail2021" and record["arguments"]["mask_fraction"] == 0.3
    assert record["data"]["sha256"] == sr.load_data(data).sha256 and record["finished"]
    assert {"tensorflow", "keras", "cleverhans"} <= set(record["environment"])
    history = (runs / "guided" / "history.csv").read_text().splitlines()
    assert history[0] == "epoch,accuracy,cross_entropy,kl,loss" and len(history) == 3
    model = keras.saving.load_model(runs / "guided" / "model.keras")
    assert isinstance(model, sr.SaliencyGuided) and model.recipe == sr.RECIPES["ismail2021"]
    assert int(model.optimizer.iterations) == 6
    loaded = sr.load_data(data)
    tested = model.evaluate(loaded.x_test, loaded.y_test, verbose=0, return_dict=True)
    assert record["test"]["accuracy"] == pytest.approx(tested["accuracy"])
    adadelta = json.loads((runs / "regular" / "run.json").read_text())["arguments"]
    assert adadelta["optimizer"] == "adam" and not adadelta["saliency"]


def test_the_default_optimizer_is_adadelta_at_the_papers_settings():
    from salrob_tf.studies.runs import Run

    data = sr.load_data("mnist5k")
    model = Run().build(data)
    optimizer = model.optimizer
    assert isinstance(optimizer, keras.optimizers.Adadelta) and Run().batch_size == 256 and Run().epochs == 100
    assert float(optimizer.learning_rate) == pytest.approx(0.1)
    assert (optimizer.rho, optimizer.epsilon) == (0.9, 1e-6)


def test_a_run_is_not_overwritten_unasked_and_resumes_only_itself(runs, data, capsys):
    before = tree(runs / "regular")
    assert run("train.py", "--data", data, "--out", runs / "regular", check=False) == 2
    assert "already holds a run: pass --resume or --overwrite" in capsys.readouterr().err
    assert run("train.py", "--data", data, "--out", runs / "regular", "--resume", "--seed", 1, check=False) == 2
    assert "seed=0 there, seed=1 asked" in capsys.readouterr().err
    train(data, runs / "regular", "--resume")
    assert tree(runs / "regular") == before


def test_overwrite_replaces_the_run_and_nothing_else(runs, data, tmp_path):
    shutil.copytree(runs / "regular", tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    train(data, tmp_path / "run", "--overwrite", "--seed", 3)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["arguments"]["seed"] == 3
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def interrupt(forks, arguments, ready, sign, tmp_path):
    """Start train.py in a new process, and send it a signal once `ready()` holds."""
    streams = tmp_path / "output", tmp_path / "errors"
    process = forks.start([SCRIPTS / "train.py", *arguments], *streams)
    deadline = time.time() + 120
    while not ready() and time.time() < deadline:
        time.sleep(0.01)
    os.kill(process, sign)
    return forks.ended(), *(stream.read_text() for stream in streams)


def in_new_process(forks, *arguments):
    forks.start([SCRIPTS / "train.py", *arguments])
    assert forks.ended() == 0


def test_an_interrupted_run_resumes_to_the_same_weights(data, forks, tmp_path):
    shared = ["--data", data, "--epochs", 15, "--batch-size", 40, "--saliency"]  # the last batches are ragged
    unbroken, out = tmp_path / "unbroken", tmp_path / "broken"
    model, resumed = out / "model.keras", [*shared, "--out", out, "--resume"]
    in_new_process(forks, *shared, "--out", unbroken)
    ended = interrupt(forks, [*shared, "--out", out], model.exists, signal.SIGTERM, tmp_path)
    assert ended == (143, "", "\ntrain.py: interrupted; what was finished is kept\n")
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]
    epochs, saved = keras.saving.load_model(model).epochs_done, model.stat().st_mtime_ns
    code, output, _ = interrupt(forks, resumed, lambda: model.stat().st_mtime_ns != saved, signal.SIGKILL, tmp_path)
    assert code == -signal.SIGKILL and output == ""
    assert 1 <= epochs < keras.saving.load_model(model).epochs_done
    in_new_process(forks, *resumed)
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]
    assert len((out / "history.csv").read_text().splitlines()) == 16
    networks = (keras.saving.load_model(folder / "model.keras") for folder in (unbroken, out))
    for expected, found in zip(*(network.get_weights() for network in networks), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_the_best_epoch_is_chosen_by_images_held_out_of_training(data, tmp_path):
    options = ["--epochs", 6, "--learning-rate", 0.2, "--optimizer", "sgd", "--validation-fraction", 0.25]
    for keep in ("best", "last"):
        train(data, tmp_path / keep, *options, "--keep", keep)
    best, last = (json.loads((tmp_path / keep / "run.json").read_text()) for keep in ("best", "last"))
    with (tmp_path / "best" / "history.csv").open(newline="") as file:
        history = [float(row["val_accuracy"]) for row in csv.DictReader(file)]
    assert best["epoch"] == int(np.argmax(history)) < 5 and last["epoch"] == 5
    assert best["train"]["val_accuracy"] == max(history) and best["test"] != last["test"]
    kept, held = sr.load_data(data).with_validation(0.25)[0], 24
    assert len(kept.x_train) == 96 - held
    images, labels = sr.load_data(data).with_validation(0.25)[1:]
    model = keras.saving.load_model(tmp_path / "best" / "model.keras")
    assert not (tmp_path / "best" / "best.keras").exists()
    found = model.evaluate(images, labels, verbose=0, return_dict=True)["accuracy"]
    assert found == pytest.approx(max(history))


def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_last_good_model(data, tmp_path, capsys, monkeypatch):
    step = sr.SaliencyGuided.compute_loss

    def poisoned(self, x, y, logits, *arguments, **options):
        late = tf.cast(self.optimizer.iterations >= 4, tf.float32)
        return step(self, x, y, logits, *arguments, **options) + tf.math.log(0.5 - late)

    monkeypatch.setattr(sr.SaliencyGuided, "compute_loss", poisoned)
    out = tmp_path / "run"
    assert run("train.py", "--data", data, "--epochs", 3, "--batch-size", 32, "--out", out, check=False) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "The loss became nan in step 2 of epoch 2; the last good model is" in error
    assert f"{out / 'model.keras'}, of epoch 1. Lower the learning rate" in error
    assert np.isfinite(keras.saving.load_model(out / "model.keras").get_weights()[0]).all()
    assert len((out / "history.csv").read_text().splitlines()) == 2


def test_two_workers_share_a_run_that_one_process_can_resume(real_networks, data, forks, tmp_path, capfd):
    out = tmp_path / "shared"
    shared = ["--data", data, "--epochs", 400, "--batch-size", 32, "--saliency", "--out", out]
    code, _, _ = interrupt(forks, [*shared, "--workers", 2], (out / "model.keras").exists, signal.SIGKILL, tmp_path)
    assert code == -signal.SIGKILL
    deadline = time.time() + 60
    while True:  # the workers end with their launcher
        with suppress(ValueError), locked(out):
            break
        assert time.time() < deadline
        time.sleep(0.05)
    before = tree(out)
    done = keras.saving.load_model(out / "model.keras").epochs_done
    assert 1 <= done < 400 and b'"finished": false' in before[Path("run.json")]
    record = json.loads((out / "run.json").read_text())
    record["arguments"]["epochs"] = done + 2
    (out / "run.json").write_text(json.dumps(record))
    run("train.py", *shared, "--epochs", done + 2, "--resume")
    assert len((out / "history.csv").read_text().splitlines()) == done + 3
    assert int(keras.saving.load_model(out / "model.keras").optimizer.iterations) == 3 * (done + 2)
    capfd.readouterr()
    train(data, tmp_path / "whole", "--workers", 2)
    printed = capfd.readouterr()
    assert printed.out.count("test accuracy") == 1
    assert json.loads((tmp_path / "whole" / "run.json").read_text())["finished"]


def test_a_run_killed_between_any_two_of_its_last_writes_resumes_to_the_same(data, tmp_path):
    out, keep = tmp_path / "run", ("--validation-fraction", 0.25, "--keep", "best", "--epochs", 3)
    train(data, out, *keep)
    finished, whole = (out / "model.keras").read_bytes(), json.loads((out / "run.json").read_text())
    (out / "best.keras").write_bytes(finished)  # killed before the last rename
    (out / "model.keras").write_bytes(b"of another epoch")
    train(data, out, *keep, "--resume")
    assert (out / "model.keras").read_bytes() == finished and not (out / "best.keras").exists()
    train(data, tmp_path / "last", "--validation-fraction", 0.25, "--epochs", 3)
    (out / "best.keras").write_bytes(finished)  # killed before run.json said that it is finished
    (out / "model.keras").write_bytes((tmp_path / "last" / "model.keras").read_bytes())
    (out / "run.json").write_text(json.dumps(whole | {"finished": False}))
    train(data, out, *keep, "--resume")
    assert json.loads((out / "run.json").read_text())["test"] == whole["test"]


def test_float16_runs_scale_their_loss(data):
    from salrob_tf.studies.runs import Run

    for precision, scaled in (("mixed_float16", True), ("mixed_bfloat16", False), ("float32", False)):
        model = Run(precision=precision, saliency=True).build(sr.load_data(data))
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == scaled


def test_evaluate_attacks_models_of_every_form_alike(runs, data, tmp_path, capsys):
    out = tmp_path / "out"
    models = [runs / "regular", runs / "guided", runs / "guided" / "export"]
    arguments = ["--data", data, "--attacks", "fgsm", "pgd", "--epsilons", 0, 0.1, "--steps", 3, "--samples", 30]
    run("evaluate.py", *models, *arguments, "--out", out)
    assert sorted(path.name for path in out.iterdir()) == ["correct.npz", "curves.png", "results.json", "table.md"]
    table = (out / "table.md").read_text().splitlines()
    assert table[0] == "| attack | epsilon | regular | guided | export |" and len(table) == 2 + 1 + 6 + 2 + 3 * (2 + 5)
    results = sr.load_results(out)
    assert [result.model for result in results] == ["regular", "guided", "export"]
    for label in ("fgsm", "pgd"):
        np.testing.assert_array_equal(results[1].correct[label], results[2].correct[label])
        np.testing.assert_array_equal(results[0].correct[label][0], results[0].clean)
    record = json.loads((out / "results.json").read_text())
    assert len(record["comparison"]["pairs"]) == 2 and record["data"]["samples"] == 30
    assert record["data"]["name"] == "rows" and record["arguments"]["samples"] == 30
    printed = capsys.readouterr()
    assert "no difference in robustness found" in printed.out and printed.err == ""
    assert run("evaluate.py", *models, *arguments, "--out", out, check=False) == 2
    assert "already holds results: pass --overwrite" in capsys.readouterr().err


def test_one_seed_is_two_networks_and_figure_3_shows_what_both_get_right(
    real_networks, data, tmp_path, monkeypatch, capsys
):
    drawn = {}
    for name in ("robustness_curves", "adversarial_grid"):
        draw = getattr(figures, name)

        def watching(*arguments, draw=draw, name=name):
            drawn[name] = arguments
            return draw(*arguments)

        monkeypatch.setattr(figures, name, watching)
    monkeypatch.setattr("salrob_tf.studies.evidence.FILLS", ("mean",))  # what is measured is tested elsewhere
    monkeypatch.setitem(paper.FILES, "more.md", lambda paper: f"{len(paper.results)} results")
    out = tmp_path / "one"
    attacks = ["--attacks", "fgsm", "pgd", "--epsilons", 0.1, 0.2, "--steps", 2, "--samples", 30]
    run("reproduce.py", "--data", data, "--epochs", 6, "--batch-size", 32, *attacks, "--out", out)
    printed = capsys.readouterr().out
    assert "| data | regular-0 | guided-0 |" in printed and "\nThese two networks" in printed
    assert (out / "more.md").read_text() == "2 results", "another table or figure is a line of FILES"
    groups, title = drawn["robustness_curves"]
    assert list(groups) == ["regular-0", "guided-0"] and title == "rows, 30 test images, two networks, seed 0"
    adversarial, predicted, labels, ladder, _, title = drawn["adversarial_grid"]
    assert list(adversarial) == ["guided-0", "regular-0"] and ladder[0] == 0
    assert "images that both networks classify correctly" in title and len(labels) == 3
    for classes in predicted.values():
        np.testing.assert_array_equal(classes[0], labels)


def test_reproduce_draws_cifar_as_the_paper_does(tmp_path, monkeypatch, capsys):
    images, labels = make_images(40, shape=(8, 8, 3), classes=4)
    arrays = (images * 255).astype(np.uint8), labels[:, None]
    monkeypatch.setattr("keras.datasets.cifar10.load_data", lambda: (arrays, arrays))
    monkeypatch.setattr("salrob_tf.studies.evidence.FILLS", ("mean",))  # what is measured is tested elsewhere
    out, stale = tmp_path / "cifar", tmp_path / "cifar" / "figure1.png"
    save_as_before(out, {"seeds": 1})
    stale.write_text("of an older run")
    arguments = ["--data", "cifar10", "--epochs", 1, "--batch-size", 20, "--attacks", "fgsm", "--samples", 10]
    run("reproduce.py", *arguments, "--out", out, "--overwrite")
    assert (out / "figure2.png").is_file() and not stale.exists() and (out / "figure3.png").is_file()
    table = (out / "table1.md").read_text()
    assert "| CIFAR-10 in the paper | 82.8% | 82.2% |" in table and "| FGSM | 1/255 |" in table
    np.testing.assert_allclose(sr.load_results(out)[0].epsilons * 255, [1, 2, 4, 6, 8, 16])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.py", "--data", "mnits"], "Valid: mnist5k, mnist, fashion_mnist"),
        (
            ["train.py", "--data", "{data}", "--network", "vgg"],
            "Unknown network. Valid: cnn, resnet18, resnet18_small",
        ),
        (["train.py", "--data", "{data}", "--weights", "imagenet"], "Only resnet18 takes pretrained weights. Received"),
        (["reproduce.py", "--data", "{data}", "--weights", "imagenet"], "network=cnn, weights=imagenet"),
        (["train.py", "--data", "{data}", "--optimizer", "lion"], "Valid: adadelta, adam, sgd"),
        (["train.py", "--data", "{data}", "--saliency", "--recipe", "x"], "Unknown recipe. Valid: karkehabadi2023"),
        (["train.py", "--data", "{data}", "--saliency", "--mask-fraction", "1"], "mask_fraction=1.0"),
        (["train.py", "--data", "{data}", "--mask-fraction", "0.1"], "--mask-fraction needs --saliency"),
        (["train.py", "--data", "{data}", "--control", "masked", "--recipe", "random"], "--recipe needs --saliency"),
        (["train.py", "--data", "{data}", "--epochs", "0"], "epochs=0"),
        (["train.py", "--data", "{data}", "--train-samples", "0"], "1 to 96. Received: 0"),
        (["train.py", "--epochs", "1"], "required: --data (see --help)"),
        (["train.py", "--data", ""], "Unknown data source. Valid: mnist5k"),
        (
            ["train.py", "--data", "{data}", "--epochs", str(10**30)],
            "`epochs` must be a whole number, from 1 to 2^31 - 1",
        ),
        (
            ["train.py", "--data", "{data}", "--batch-size", str(10**30)],
            "`batch_size` must be a whole number, from 1 to ",
        ),
        (["train.py", "--data", "{data}", "--learning-rate", "1e300"], "in float32. Received: learning_rate=1e+300"),
        (["train.py", "--data", "{data}", "--learning-rate", "1e-300"], "in float32. Received: learning_rate=1e-300"),
        (
            ["train.py", "--data", "{data}", "--saliency", "--kl-weight", "1e300"],
            "in float32. Received: kl_weight=1e+300",
        ),
        (["train.py", "--data", "{data}", "--saliency", "--mask-fraction", "0.001"], "which masks nothing"),
        (["train.py", "--data", "{data}", "--validation-fraction", "0.001"], "of the 96 training images, one or more,"),
        (["evaluate.py", "{out}/none", "--data", "{data}"], "which does not exist"),
        (["evaluate.py", "{runs}/regular", "--data", "{data}", "--attacks", "x"], "Valid: fgsm, bim, pgd, mim"),
        (["evaluate.py", "{runs}/regular", "--data", "{data}", "--epsilons", "-1"], "0 or more"),
        (["evaluate.py", "{runs}/regular", "--data", "{data}", "--epsilons", "1e300"], "finite in float32. Received"),
        (
            ["evaluate.py", "{runs}/regular/export", "--data", "{data}", "--craft-dtype", "bfloat16"],
            "Only a Functional or Sequential Keras model can be attacked in bfloat16. Received: export",
        ),
        (["evaluate.py", "{runs}/regular", "--data", "{data}", "--samples", "0"], "1 to 40. Received: 0"),
        (["evaluate.py", "{runs}/regular", "{runs}/regular", "--data", "{data}"], "Each model once"),
        (
            ["evaluate.py", "{runs}/regular", "--data", "{data}", "--seed", "-1"],
            "`seed` must be a whole number, 0 or more",
        ),
        (["reproduce.py", "--data", "{data}", "--attacks", "fgsm", "fgsm"], "each once"),
        (["evaluate.py", "{runs}/regular", "--data", "mnist5k"], "takes images of shape (8, 8, 1)"),
        (["reproduce.py", "--data", "{data}", "--attacks", "x"], "Valid: fgsm, bim, pgd, mim"),
        (["reproduce.py", "--data", "{data}", "--epsilons", "nan"], "0 or more"),
        (["reproduce.py", "--data", "{data}", "--seeds", "0"], "--seeds 0"),
        (["reproduce.py", "--data", "{data}", "--recipe", "x"], "Unknown recipe"),
        (["reproduce.py", "--data", "{data}", "--batch-size", str(10**30)], "`batch_size` must be a whole number"),
    ],
)
def test_bad_input_ends_with_code_2_one_line_and_no_files(arguments, message, runs, data, tmp_path, capsys):
    script, *rest = (part.format(data=data, runs=runs, out=tmp_path) for part in arguments)
    assert run(script, *rest, "--out", tmp_path / "out", check=False) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and printed.err.startswith(script)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("script", "models", "options", "message"),
    [
        ("evaluate.py", ["pair.keras"], [], "`labels for pair` must be 0 to 1. Received: labels from 0 to 2"),
        ("evaluate.py", ["regular", "pair.keras"], [], "`labels for pair` must be 0 to 1"),
        ("evaluate.py", ["pair.keras"], ["--data", "pair.npz", "--attacks", "pgd-dlr"], "DLR loss needs three classes"),
        (
            "reproduce.py",
            [],
            ["--data", "pair.npz", "--attacks", "pgd-dlr"],
            "The DLR loss needs three classes or more",
        ),
    ],
)
def test_what_does_not_suit_models_or_images_is_said_before_anything_is_written(
    runs, data, tmp_path, capsys, monkeypatch, script, models, options, message
):
    make_network(classes=2).save(tmp_path / "pair.keras")
    (tmp_path / "regular").symlink_to(runs / "regular")
    with np.load(data) as arrays:
        two = {name: np.minimum(array, 1) if name[0] == "y" else array for name, array in arrays.items()}
    np.savez(tmp_path / "pair.npz", **two)
    before = sorted(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    assert run(script, *models, "--data", data, *options, "--out", "out", check=False) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "reproduce.py"])
def test_an_empty_out_is_not_the_folder_at_hand(runs, data, tmp_path, capsys, monkeypatch, script):
    monkeypatch.chdir(tmp_path)
    models = [runs / "regular"] if script == "evaluate.py" else []
    assert run(script, *models, "--data", data, "--out", "", check=False) == 2
    error = capsys.readouterr().err
    assert "argument --out: it must be the path of a folder. Received: ''" in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--samples", 0], "--samples must be 1 or more. Received: --samples 0"),
        (["--samples", -1], "--samples must be 1 or more. Received: --samples -1"),
        (["--rounds", 0], "--rounds must be 1 or more. Received: --rounds 0"),
        (["--epochs", 0], "`epochs` must be a whole number, from 1 to"),
        (["--parts", ""], "Unknown part. Valid: sweep, floor"),
    ],
)
def test_what_the_benchmark_cannot_do_is_one_line(data, capsys, options, message):
    assert run("benchmark.py", "--data", data, *options, check=False) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_benchmark_does_with_fewer_images_than_a_batch(data, capsys):
    run("benchmark.py", "--data", data, "--epochs", 1, "--rounds", 1, "--samples", 8, "--parts", "floor")
    assert "over their gradients and passes alone, batch 8\n  bim " in capsys.readouterr().out


def test_a_script_in_a_process_of_its_own_says_only_its_result(runs, data, tmp_path):
    command = [sys.executable, SCRIPTS / "evaluate.py", runs / "regular", runs / "guided", "--data", data]
    command += ["--epsilons", "0.1", "--steps", "2", "--out", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.startswith("regular: clean accuracy") and done.stdout.count("\n") <= 29


def test_an_interrupted_evaluation_goes_on_and_gives_the_same(runs, data, tmp_path, capsys, monkeypatch):
    from salrob_tf.evaluation.probes import Probes
    from salrob_tf.evaluation.search import Sweep

    monkeypatch.setattr(Probes, "run", lambda self: [])  # which has sweeps of its own

    arguments = [runs / "regular", runs / "guided", "--data", data, "--steps", 3, "--epsilons", 0.1, 0.2]
    run("evaluate.py", *arguments, "--out", tmp_path / "whole")
    original, calls = Sweep.survivors, []

    def interrupted(self, search):
        calls.append(self.attack.label)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, search)

    Sweep.survivors = interrupted
    try:
        assert run("evaluate.py", *arguments, "--out", tmp_path / "out", check=False) == 130
        assert [path.name for path in (tmp_path / "out").iterdir()] == [".sweep"]
        assert run("evaluate.py", *arguments, "--out", tmp_path / "out", check=False) == 2
        assert "unfinished sweep: pass --resume or --overwrite" in capsys.readouterr().err
        run("evaluate.py", *arguments, "--out", tmp_path / "out", "--resume")
    finally:
        Sweep.survivors = original
    assert len(calls) == 9, "the two parts that were finished are not run again"
    for whole, resumed in zip(*(sr.load_results(tmp_path / name) for name in ("whole", "out")), strict=True):
        for label, correct in whole.correct.items():
            np.testing.assert_array_equal(resumed.correct[label], correct)
    assert not (tmp_path / "out" / ".sweep").exists()


def test_options_of_the_sweep_reach_it(runs, data, tmp_path):
    arguments = [runs / "guided", "--data", data, "--steps", 3, "--epsilons", 0.2, "--attacks", "pgd-margin"]
    run("evaluate.py", *arguments, "--no-survivors-only", "--adversarials", "--restarts", 2, "--out", tmp_path / "out")
    (curve,) = json.loads((tmp_path / "out" / "results.json").read_text())["curves"]
    settings, costs = curve["settings"], curve["costs"]
    assert (settings["search"], settings["loss"], settings["restarts"]) == ("independent", "margin", 2)
    assert costs["gradient_evaluations"] == 40 * 3 * 2 and costs["traces"] == 1
    assert (tmp_path / "out" / "adversarials" / "guided" / "pgd-margin-00000.npz").is_file()


@pytest.mark.parametrize("wrong", [["--mask-fraction", "1"], ["--kl-weight", "-1"], ["--seed", "8589934592"]])
def test_an_invalid_overwrite_keeps_the_old_run(runs, data, wrong):
    before = tree(runs / "guided")
    code = run("train.py", "--data", data, "--saliency", "--out", runs / "guided", "--overwrite", *wrong, check=False)
    assert code == 2 and tree(runs / "guided") == before


def test_a_stray_model_is_not_taken_for_a_run(runs, data, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.keras").write_bytes((runs / "regular" / "model.keras").read_bytes())
    for option in ([], ["--resume"]):
        assert run("train.py", "--data", data, "--saliency", "--out", tmp_path / "run", *option, check=False) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "No run here wrote this, and it is in the way: move it away" in error and "model.keras" in error
    for content in ('{"a": 1}', "[]", "half"):
        (tmp_path / "run" / "run.json").write_text(content)
        assert run("train.py", "--data", data, "--out", tmp_path / "run", "--resume", check=False) == 2
        assert "not the run.json of a run" in capsys.readouterr().err


def test_damaged_models_and_uint8_saved_models_are_named(data, tmp_path, capsys):
    import tensorflow as tf

    (tmp_path / "damaged.keras").write_bytes(b"PK nothing")
    module, network = tf.Module(), make_network()
    module.network = network
    spec = tf.TensorSpec([None, 8, 8, 1], tf.uint8)
    serve = tf.function(lambda images: {"logits": network(tf.cast(images, tf.float32))}, input_signature=[spec])
    tf.saved_model.save(module, str(tmp_path / "bytes"), {"serving_default": serve.get_concrete_function()})
    for model, message in (("damaged.keras", "cannot be loaded"), ("bytes", "must take float images")):
        arguments = [tmp_path / model, "--data", data, "--out", tmp_path / "out"]
        assert run("evaluate.py", *arguments, check=False) == 2
        printed = capsys.readouterr().err
        assert message in printed and printed.count("\n") == 1


def test_softmax_models_and_other_bounds_are_evaluated_and_described(runs, data, tmp_path, capsys):
    network = keras.saving.load_model(runs / "regular" / "model.keras").model
    layers = keras.layers
    inputs = keras.Input((None, None, 1))  # of any size: the data says which
    logits = keras.Model(inputs, network(layers.Rescaling(1 / 255)(inputs)), name="logits")
    logits.save(tmp_path / "logits.keras")
    keras.Model(inputs, layers.Softmax()(logits.output)).save(tmp_path / "softmax.keras")
    models = [tmp_path / "logits.keras", tmp_path / "softmax.keras"]
    arguments = ["--data", data, "--epsilons", 0.1, "--steps", 3, "--attacks", "fgsm", "pgd"]
    run("evaluate.py", *models, *arguments, "--bounds", 0, 255, "--out", tmp_path / "out")
    printed = capsys.readouterr()
    assert printed.err == "" and "8 x 8 x 1 images in [0, 255] (Rescaling inside) to 3 logits\n" in printed.out
    assert "to 3 probabilities, attacked by logits (softmax removed)\n" in printed.out
    run("evaluate.py", runs / "regular", *arguments, "--out", tmp_path / "plain")
    (plain,), found = sr.load_results(tmp_path / "plain"), sr.load_results(tmp_path / "out")
    for result in found:
        for label, correct in plain.correct.items():
            np.testing.assert_array_equal(result.correct[label], correct)
    assert found[1].description["outputs"] == "softmax removed" and found[0].description["bounds"] == [0, 255]
    assert run("evaluate.py", *models, *arguments, "--bounds", 1, 0, "--out", tmp_path / "no", check=False) == 2
    assert "the lower one first. Received: bounds=[1.0, 0.0]" in capsys.readouterr().err


def test_one_of_several_outputs_is_evaluated(runs, data, tmp_path, capsys):
    network = keras.saving.load_model(runs / "regular" / "model.keras").model
    inputs = keras.Input(network.input_shape[1:])
    logits = network(inputs)
    both = keras.Model(inputs, {"logits": logits, "probabilities": keras.layers.Softmax()(logits)})
    both.save(tmp_path / "live.keras")
    both.export(str(tmp_path / "serving"), verbose=False)
    models = [tmp_path / "live.keras", tmp_path / "serving"]
    arguments = ["--data", data, "--epsilons", 0.1, "--attacks", "fgsm"]
    run("evaluate.py", *models, *arguments, "--output", "logits", "--out", tmp_path / "out")
    assert capsys.readouterr().out.count("to 3 logits, its output logits, not probabilities\n") == 2
    run("evaluate.py", runs / "regular", *arguments, "--out", tmp_path / "plain")
    (plain,), found = sr.load_results(tmp_path / "plain"), sr.load_results(tmp_path / "out")
    for result in found:
        np.testing.assert_array_equal(result.correct["fgsm"], plain.correct["fgsm"])
        assert result.description["output"] == "logits"
    listed = "with outputs logits (N, 3) float32, probabilities (N, 3) float32\n"
    for asked, said in (([], listed), (["--output", "x"], "has no output 'x'. Valid: logits (N, 3) float32, prob")):
        assert run("evaluate.py", *models, *arguments, *asked, "--out", tmp_path / "no", check=False) == 2
        printed = capsys.readouterr().err
        assert said in printed and printed.count("\n") == 1 and not (tmp_path / "no").exists()


def test_links_that_lead_to_themselves_are_one_line(data, tmp_path, capsys):
    (tmp_path / "loop").symlink_to("loop")
    for command in (
        ["evaluate.py", tmp_path / "loop", "--data", data, "--out", tmp_path / "out"],
        ["train.py", "--data", tmp_path / "loop"],
        ["reproduce.py", "--data", tmp_path / "loop"],
    ):
        assert run(*command, check=False) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
