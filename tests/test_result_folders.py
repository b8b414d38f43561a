"""Folders that evaluate.py and reproduce.py fill: names, what is replaced, what is finished, and what stays."""

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import make_network, write_arrays
from hypothesis import given
from hypothesis import strategies as st
from test_scripts import run, save_as_before, small_networks, tree  # noqa: F401

import salrob_tf as sr
from salrob_tf.checks import brief
from salrob_tf.files import environment, locked
from salrob_tf.studies import paper, result_folders, trials
from salrob_tf.studies.names import distinct_names, safe_name
from salrob_tf.studies.result_folders import ResultFolder, open_results
from salrob_tf.studies.result_plans import make_plan

pytestmark = pytest.mark.usefixtures("unprobed")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_arrays(tmp_path_factory.mktemp("data") / "rows.npz", test=24)


@pytest.fixture(scope="module")
def models(trained, tmp_path_factory):
    """Two models whose last parts are alike."""
    folder = tmp_path_factory.mktemp("models")
    other = keras.models.clone_model(trained[0])
    other.set_weights([0.9 * weights for weights in trained[0].get_weights()])
    for name, model in (("a", trained[0]), ("b", other)):
        (folder / name / "m").mkdir(parents=True)
        model.save(folder / name / "m" / "model.keras")
    return [folder / "a" / "m", folder / "b" / "m"]


def evaluate(models, data, out, *more, **options):
    arguments = ["--data", data, "--attacks", "fgsm", "bim", "--steps", 2, "--epsilons", 0.1, 0.2, "--out", out]
    return run("evaluate.py", *models, *arguments, *more, **options)


@pytest.fixture(scope="module")
def whole(models, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "out"
    evaluate(models, data, folder, "--adversarials")
    return folder


@pytest.fixture
def out(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "out")


def same_results(found, expected):
    for one, other in zip(sr.load_results(found), sr.load_results(expected), strict=True):
        assert one.model == other.model
        for label, correct in other.correct.items():
            np.testing.assert_array_equal(one.correct[label], correct)


def test_names_are_the_last_parts_of_paths_and_more_where_those_are_alike():
    for paths, names in (
        (["x/regular", "y/guided.keras"], ["regular", "guided"]),
        (["A/m", "B/m"], ["A-m", "B-m"]),
        (["A/m", "../m", "m"], ["A-m", f"{Path('..').resolve().name}-m", f"{Path('.').resolve().name}-m"]),
        (["A/x/m", "A/y/m", "B/y/m.keras"], ["x-m", "A-y-m", "B-y-m"]),
        (["A/m", "A/m.keras"], [safe_name("-".join(Path("A/m").resolve().parts)), ...]),
        (["A/m", "B/m", "A-m", "B-M"], ["A-m", "B-m", "A-m-2", "B-M-2"]),
        (["a|b", "c:d", "e\tf", "..g", "h."], ["a_b", "c_d", "e_f", "g", "h"]),
        (["/"], ["model"]),
        (["a  b", "a b", "c\u2028d"], ["a b", "a b-2", "c d"]),
        (["x" + 300 * "a", "y" + 300 * "a"], [200 * "a", 198 * "a" + "-2"]),
    ):
        found = distinct_names(paths)
        for name, expected in zip(found, names, strict=True):
            assert expected is ... or name == expected
            assert brief(name, 255) == name, "what Classifier calls it"
    with pytest.raises(ValueError, match="Each model once"):
        distinct_names(["a/../m", "m"])


@given(st.lists(st.text(min_size=1).filter(lambda text: "\0" not in text), min_size=1, max_size=4, unique=True))
def test_names_of_any_paths_differ_and_lead_nowhere_else(paths):
    try:
        names = distinct_names(paths)
    except (ValueError, OSError):  # one model twice, or no path
        return
    assert len({name.casefold() for name in names}) == len(paths)
    for name in names:
        assert name == Path(name).name == safe_name(name) == brief(name, 255) and name not in ("", ".", "..")
        assert len(name.encode()) < 255


def test_adversarials_stay_in_out_whatever_the_models_are_called(whole, models, tmp_path):
    expected = {f"adversarials/{name}/{attack}-00000.npz" for name in ("a-m", "b-m") for attack in ("bim", "fgsm")}
    record = json.loads((whole / "results.json").read_text())
    assert set(record["run"]["files"]) == expected | {"results.json", "correct.npz", "curves.png", "table.md"}
    assert {path.as_posix() for path in tree(whole)} == set(record["run"]["files"])
    assert [model["name"] for model in record["models"]] == ["a-m", "b-m"]
    for model in models:
        assert [path.name for path in model.iterdir()] == ["model.keras"]
    folder = ResultFolder(tmp_path, make_plan("evaluate.py", {}, []), None)
    for name in ("../m", "/m", "a/b", "..", ".", "", "a\\b"):
        with pytest.raises(ValueError, match="name of a model must be that of a folder"):
            folder.adversarials(name)


def test_results_are_not_replaced_unasked(out, models, data, capsys):
    before = tree(out)
    assert evaluate(models, data, out, "--adversarials", check=False) == 2
    assert "already holds results: pass --overwrite" in capsys.readouterr().err
    for more, what in (
        (["--steps", 3], "steps=2 there, steps=3 asked"),
        (["--seed", 1], "seed=0 there, seed=1 asked"),
        ([], "adversarials=True there, adversarials=False asked"),
    ):
        wanted = ["--adversarials"] if more else []
        assert evaluate(models, data, out, *wanted, "--resume", *more, check=False) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and what in error and "only replaced by --overwrite" in error
    assert tree(out) == before


def test_resuming_finished_results_says_them_and_writes_nothing(out, models, data, capsys):
    before = tree(out)
    evaluate(models, data, out, "--adversarials", "--resume")
    assert tree(out) == before
    printed = capsys.readouterr()
    assert printed.out.startswith("a-m: clean accuracy") and f"written to {out}" in printed.out and printed.err == ""


@pytest.mark.parametrize("lost", ["curves.png", "table.md", "correct.npz", "adversarials/b-m/bim-00000.npz", ".sweep"])
def test_resuming_writes_what_is_missing_of_finished_results(out, whole, models, data, capsys, lost):
    if lost == ".sweep":  # killed before the last removal
        (out / lost).mkdir()
    else:
        (out / lost).unlink()
    evaluate(models, data, out, "--adversarials", "--resume")
    assert set(tree(out)) == set(tree(whole)) and not (out / ".sweep").exists()
    same_results(out, whole)
    said = capsys.readouterr().err
    assert ("The attacks are run again" in said) == lost.endswith(".npz") and said.count("\n") == lost.endswith(".npz")


def test_adversarials_that_were_changed_since_are_made_again_and_said(out, whole, models, data, capsys):
    changed = "adversarials/b-m/bim-00000.npz"
    shutil.copy(out / "adversarials/a-m/bim-00000.npz", out / changed)
    evaluate(models, data, out, "--adversarials", "--resume")
    said = capsys.readouterr().err
    assert (
        said.endswith(f"This file was changed: {out / changed}. The attacks are run again\n") and said.count("\n") == 1
    )
    same_results(out, whole)
    with np.load(out / changed) as found, np.load(whole / changed) as expected:
        np.testing.assert_array_equal(found["images"], expected["images"])


@pytest.mark.parametrize("name", [".sweep", ".sweep/notes.txt", ".sweep/0/notes.txt", ".sweep/0/1/settings.json"])
@pytest.mark.parametrize("option", ["--resume", "--overwrite"])
def test_a_file_where_a_sweep_goes_beside_results_is_in_the_way(out, models, data, capsys, name, option):
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_text("theirs")
    before = tree(out)
    assert evaluate(models, data, out, "--adversarials", option, check=False) == 2
    assert f"it is in the way: move it away, or choose another --out. Received: {out / name}" in capsys.readouterr().err
    assert tree(out) == before


def test_damaged_results_are_made_again_and_said(out, whole, models, data, capsys):
    (out / "correct.npz").write_bytes((out / "correct.npz").read_bytes()[:99])
    evaluate(models, data, out, "--adversarials", "--resume")
    assert "BadZipFile" in (said := capsys.readouterr().err) and said.endswith("The attacks are run again\n")
    same_results(out, whole)


def test_models_and_images_that_changed_since_are_other_results(out, models, data, tmp_path, capsys):
    moved = [shutil.copytree(model.parent, tmp_path / model.parent.name) / "m" for model in models]
    evaluate(moved, data, tmp_path / "new")
    make_network(seed=2).save(moved[1] / "model.keras")
    assert evaluate(moved, data, tmp_path / "new", "--resume", check=False) == 2
    assert "only replaced by --overwrite: the model b-m changed since" in capsys.readouterr().err


def test_overwriting_leaves_nothing_of_models_and_attacks_that_are_gone(out, models, data):
    for name in ("notes.txt", "adversarials/a-m/notes.txt"):
        (out / name).write_text("theirs")
    (out / "adversarials" / "a-m" / f".{10**9}-bim-00000.npz").write_text("half")
    evaluate(models[1:], data, out, "--overwrite", "--attacks", "bim", "--adversarials")
    expected = {"adversarials/a-m/notes.txt", "adversarials/m/bim-00000.npz", "notes.txt"}
    expected |= {"correct.npz", "curves.png", "results.json", "table.md"}
    assert {path.as_posix() for path in tree(out)} == expected
    assert not (out / "adversarials" / "b-m").exists()


@pytest.mark.parametrize(
    "name", ["curves.png", "table.md", "results.json", "correct.npz", ".sweep/notes.txt", "adversarials", ".sweep"]
)
@pytest.mark.parametrize("option", ["--resume", "--overwrite"])
def test_files_that_no_script_wrote_are_in_the_way(tmp_path, models, data, capsys, name, option):
    (tmp_path / "out" / name).parent.mkdir(parents=True)
    (tmp_path / "out" / name).write_text("{}")
    for options in ([], [option]):
        assert evaluate(models, data, tmp_path / "out", "--adversarials", *options, check=False) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "move it away, or choose another --out" in error
    assert {path.as_posix() for path in tree(tmp_path / "out")} == {name}


def test_a_folder_in_the_place_of_a_result_is_said_before_the_sweep(out, models, data, capsys):
    (out / "curves.png").unlink()
    (out / "curves.png").mkdir()
    for option in ("--resume", "--overwrite"):
        before = tree(out)
        assert evaluate(models, data, out, "--adversarials", option, check=False) == 2
        assert "it is in the way: move it away" in capsys.readouterr().err and tree(out) == before


@pytest.mark.parametrize(
    "run_record",
    [
        None,
        [],
        {},
        {"files": ["../notes.txt"]},
        {"files": ["/etc/hosts"]},
        {"files": ["*"]},
        {"runs": [".."]},
        {"adversarials": None},
        {"adversarials": {"../notes.txt": "abc"}},
    ],
)
def test_a_record_that_names_other_places_is_refused(out, models, data, tmp_path, capsys, run_record):
    (tmp_path / "notes.txt").write_text("theirs")
    record = json.loads((out / "results.json").read_text())
    record["run"] = {**record["run"], **run_record} if run_record else run_record
    (out / "results.json").write_text(json.dumps(record))
    before = tree(tmp_path)
    for option in ("--resume", "--overwrite"):
        assert evaluate(models, data, out, option, check=False) == 2
        assert "This is not the results.json of a script here" in capsys.readouterr().err
    assert tree(tmp_path) == before


def test_a_failure_before_the_figure_is_finished_by_resuming(whole, models, data, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("salrob_tf.reports.figures.save_figure", lambda *_: (_ for _ in ()).throw(OSError("no space")))
        assert evaluate(models, data, out, "--adversarials", check=False) == 2
    assert not (out / "results.json").exists() and (out / ".sweep").is_dir()
    assert evaluate(models, data, out, "--adversarials", check=False) == 2
    assert "unfinished sweep: pass --resume or --overwrite" in capsys.readouterr().err
    assert evaluate(models, data, out, "--adversarials", "--resume", "--steps", 4, check=False) == 2
    assert "steps=2 there, steps=4 asked" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr("salrob_tf.evaluation.work.Sweep", None)  # all parts are there: nothing is attacked again
        evaluate(models, data, out, "--adversarials", "--resume")
    same_results(out, whole)
    assert set(tree(out)) == set(tree(whole))


def test_overwriting_an_unfinished_sweep_removes_what_it_wrote(whole, models, data, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("salrob_tf.reports.figures.save_figure", lambda *_: (_ for _ in ()).throw(OSError("no space")))
        evaluate(models, data, out, "--adversarials", check=False)
    evaluate(models[:1], data, out, "--overwrite")
    assert {path.as_posix() for path in tree(out)} == {"correct.npz", "curves.png", "results.json", "table.md"}
    assert not (out / "adversarials").exists()


def test_results_of_older_versions_name_what_they_are_known_to_have_written(tmp_path, models, data, capsys):
    out, arguments = tmp_path / "out", {"models": ["x"], "adversarials": True, "steps": 2}
    save_as_before(out, arguments, models=("x", "../y"))
    ours = ["curves.png", "adversarials/x/fgsm-00000.npz"]
    theirs = ["adversarials/x/pgd-00000.npz", "figure1.png", "adversarials/z.npz"]
    (tmp_path / "y").mkdir()
    for name in (*ours, *theirs, "../y/fgsm-00000.npz"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("old")
    assert evaluate(models, data, out, "--resume", check=False) == 2
    assert "models=['x'] there" in capsys.readouterr().err
    evaluate(models, data, out, "--overwrite")
    new = {"correct.npz", "curves.png", "results.json", "table.md"}
    assert {path.as_posix() for path in tree(out)} == new | set(theirs)
    assert (tmp_path / "y" / "fgsm-00000.npz").read_text() == "old"


def older_sweep(folder, name="0", **settings):
    """An unfinished sweep as the scripts left it that kept no `run.json`."""
    sweep = folder / ".sweep" / name
    sweep.mkdir(parents=True)
    found = {"model": "abc", "epsilons": [0.1], "seed": 0, "batch_size": 256, "attacks": {"bim": {"steps": 2}}}
    (sweep / "settings.json").write_text(json.dumps(found | settings))
    np.savez(sweep / "bim-00000.npz", sha256="abc", correct=np.ones((1, 2), bool))
    (sweep / f".{10**9}-bim-00001.npz").write_text("half")


def test_an_unfinished_sweep_of_an_older_version_is_said_and_can_be_overwritten(tmp_path, models, data, capsys):
    out = tmp_path / "out"
    older_sweep(out, adversarials=True)
    (out / ".sweep" / "1").mkdir()
    ours, theirs = ["adversarials/m/bim-00000.npz"], ["notes.txt", "adversarials/m/notes.npz", "adversarials/n/bim.npz"]
    for name in (*ours, *theirs):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("old")
    before = tree(out)
    for options in ([], ["--resume"]):
        assert evaluate(models[:1], data, out, "--adversarials", *options, check=False) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "of an earlier version, which cannot be resumed: pass --overwrite" in error
    assert tree(out) == before
    evaluate(models[:1], data, out, "--adversarials", "--overwrite")
    new = {"correct.npz", "curves.png", "results.json", "table.md", "adversarials/m/fgsm-00000.npz", *ours}
    assert {path.as_posix() for path in tree(out)} == new | set(theirs)
    assert (out / ours[0]).read_bytes() != b"old"


@pytest.mark.parametrize("stray", ["notes.txt", "0/notes.txt", "0/bim.npz", "1/bim-00000.npz", "2/settings.json"])
@pytest.mark.parametrize("option", ["--resume", "--overwrite"])
def test_a_sweep_of_an_older_version_with_other_files_is_in_the_way(tmp_path, models, data, capsys, stray, option):
    out = tmp_path / "out"
    older_sweep(out)
    (out / ".sweep" / stray).parent.mkdir(exist_ok=True)
    (out / ".sweep" / stray).write_text("{}")
    before = tree(out)
    assert evaluate(models, data, out, option, check=False) == 2
    assert "No script here wrote this, and it is in the way: move it away" in capsys.readouterr().err
    assert tree(out) == before


def test_networks_that_an_older_sweep_of_reproduce_attacked_stay_with_it(tmp_path, models, data, capsys):
    older_sweep(tmp_path / "out", "regular-0")
    assert evaluate(models, data, tmp_path / "out", "--overwrite", check=False) == 2
    assert "networks that reproduce.py trained" in capsys.readouterr().err
    assert reproduce(data, tmp_path / "out", check=False) == 2
    assert "remove its .sweep and pass --resume to keep the networks. Received" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", f".{10**9}-run.json", "0", f"0/.{10**9}-settings.json"])
def test_a_folder_whose_script_was_killed_at_its_first_write_is_as_good_as_new(tmp_path, models, data, name):
    left = tmp_path / "out" / ".sweep" / name
    left.parent.mkdir(parents=True)
    left.write_text("") if "json" in name else left.mkdir(exist_ok=True)
    evaluate(models[:1], data, tmp_path / "out")
    assert {path.as_posix() for path in tree(tmp_path)} == {
        f"out/{name}" for name in ("correct.npz", "curves.png", "results.json", "table.md")
    }


def test_two_scripts_do_not_share_a_folder(out, models, data, tmp_path, capsys):
    for folder, options in ((out, ["--adversarials", "--resume"]), (out, ["--overwrite"]), (tmp_path / "new", [])):
        before = tree(folder)
        with locked(folder):
            assert evaluate(models, data, folder, *options, check=False) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "Another process is at work in this folder" in error
        assert tree(folder) == before


def test_an_open_folder_that_nothing_was_written_to_is_unfinished(tmp_path):
    plan = make_plan("evaluate.py", {"steps": 2}, ["curves.png"])
    with pytest.raises(KeyboardInterrupt), open_results(tmp_path / "out", plan, resume=False, overwrite=False):
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="unfinished sweep"):
        open_results(tmp_path / "out", plan, resume=False, overwrite=False).__enter__()
    with open_results(tmp_path / "out", plan, resume=True, overwrite=False) as folder:
        assert folder.saved() is None and not folder.complete


def reproduce(data, out, *more, **options):
    arguments = ["--data", data, "--epochs", 2, "--batch-size", 48, "--seeds", 2, "--steps", 2, "--samples", 10]
    arguments += ["--attacks", "fgsm", "mim", "--epsilons", 0.1, 0.2]
    return run("reproduce.py", *arguments, "--out", out, *more, **options)


def test_reproduce_walks_the_paper_resumes_itself_alone_and_overwrites_what_it_wrote_alone(
    data, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "paper"
    monkeypatch.setattr("salrob_tf.studies.evidence.FILLS", ("mean",))  # what is measured is tested elsewhere
    with monkeypatch.context() as patch:
        patch.setattr("salrob_tf.studies.paper.evidence_of", lambda *_: (_ for _ in ()).throw(ValueError("no figure")))
        assert reproduce(data, out, check=False) == 2
    assert not (out / "results.json").exists()
    reproduce(data, out, "--resume")
    printed, table, whole = capsys.readouterr().out, (out / "table1.md").read_text(), tree(out)
    assert "| data | regular | guided |" in printed and "2 seeds" in table and "MIM" in table
    assert table.splitlines()[-1].startswith("Ways of training: ") and "guided" in table.splitlines()[-1]
    assert {path.parts[0] for path in whole} == {
        "correct.npz", "evidence.npz", "figure1.png", "figure3.png", "models", "report.html", "results.json",
        "saliency.png", "table1.md",
    }  # fmt: skip
    assert {path.parts[1] for path in whole if path.parts[0] == "models"} == {
        "guided-0", "guided-1", "regular-0", "regular-1"
    }  # fmt: skip
    # From here on it counts which files are written, and not what is drawn.
    monkeypatch.setattr(paper, "evidence_of", lambda *_: None)
    monkeypatch.setattr(paper, "FILES", {name: lambda _, name=name: f"{name} again" for name in paper.FILES})
    assert reproduce(data, out, check=False) == 2
    for more in (["--steps", 3], ["--seeds", 1], ["--epochs", 1]):
        assert reproduce(data, out, "--resume", *more, check=False) == 2
        assert "cannot be resumed, only replaced by --overwrite" in capsys.readouterr().err
    reproduce(data, out, "--resume")
    assert tree(out) == whole
    older = json.loads((out / "results.json").read_text())
    del older["run"]
    (out / "results.json").write_text(json.dumps(older))
    for later in ("evidence.npz", "report.html"):
        (out / later).unlink()
    whole = tree(out)
    reproduce(data, out, "--resume")
    assert tree(out) == whole, "results of an older version are left as they are"
    (out / "figure3.png").unlink()
    shutil.rmtree(out / "models" / "guided-0" / "export")
    reproduce(data, out, "--resume")
    assert set(tree(out)) == {*whole, Path("evidence.npz"), Path("report.html")}

    model = out / "models" / "regular-0"
    assert evaluate([model], data, out, "--overwrite", check=False) == 2
    assert "networks that reproduce.py trained" in capsys.readouterr().err and model.exists()

    gone = out / "models" / "guided-1"
    beside = [
        gone / "theirs.keras",
        out / "models" / "regular-0" / "theirs.h5",
        out / "models" / "guided-0" / "a.keras",
    ]
    for theirs in beside:
        theirs.write_text("theirs")
    run_record = out / "models" / "guided-0" / "run.json"
    written = run_record.read_text()
    run_record.write_text(json.dumps({**json.loads(written), "files": ["run.json", "history.csv", "model.keras"]}))
    before = tree(out)
    assert reproduce(data, out, "--overwrite", check=False) == 2
    assert "guided-0/export" in capsys.readouterr().err and tree(out) == before, "before anything is removed"
    run_record.write_text(written)
    shorter = ["--epochs", 1, "--seeds", 1, "--attacks", "fgsm"]
    with monkeypatch.context() as patch:
        patch.setattr("salrob_tf.studies.runs._train", lambda *_: (_ for _ in ()).throw(ValueError("no training")))
        assert reproduce(data, out, "--overwrite", *shorter, check=False) == 2
    reproduce(data, out, "--resume", *shorter)
    assert sorted(path.name for path in (out / "models").iterdir()) == ["guided-0", "guided-1", "regular-0"]
    assert [path.name for path in gone.iterdir()] == ["theirs.keras"]
    assert {theirs.read_text() for theirs in beside} == {"theirs"}


def test_reproduce_grows_by_seeds_to_what_it_would_have_been(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(paper, "evidence_of", lambda *_: None)
    monkeypatch.setattr(paper, "FILES", {"table1.md": paper.FILES["table1.md"]})
    out, attacked = tmp_path / "out", []

    def counted(classifier, *args, **options):
        attacked.append(classifier.name)
        return sweep(classifier, *args, **options)

    sweep = trials.evaluate
    monkeypatch.setattr(trials, "evaluate", counted)
    reproduce(data, tmp_path / "whole")
    reproduce(data, out, "--seeds", 1)
    before, written = tree(out / "models"), (out / "results.json").read_bytes()
    attacked.clear()
    with monkeypatch.context() as patch:
        patch.setattr(paper, "correct_in_test", lambda *_: (_ for _ in ()).throw(ValueError("no prediction")))
        assert reproduce(data, out, "--resume", check=False) == 2
    assert attacked == ["regular-1", "guided-1"] and (out / "results.json").read_bytes() == written
    ended, damaged = (shutil.copytree(out, tmp_path / name) for name in ("ended", "damaged"))
    capsys.readouterr()
    assert reproduce(data, ended, "--resume", "--seeds", 1, check=False) == 2
    assert "seeds=2 there, seeds=1 asked" in capsys.readouterr().err, "it would lose what was begun"
    (damaged / ".sweep" / "run.json").write_text("{")
    reproduce(data, damaged, "--resume", "--seeds", 1)
    assert (damaged / "results.json").read_bytes() == written and not (damaged / ".sweep").exists()
    with monkeypatch.context() as patch:
        patch.setattr(result_folders, "environment", lambda: {**environment(), "keras": "9.0"})
        reproduce(data, out, "--resume")
    assert "keras=9.0 here" in capsys.readouterr().err
    same_results(out, tmp_path / "whole")
    assert (out / "table1.md").read_text() == (tmp_path / "whole" / "table1.md").read_text()
    assert set(tree(out)) == set(tree(tmp_path / "whole"))
    assert {path: content for path, content in tree(out / "models").items() if path in before} == before
    for fewer in (["--seeds", 1], ["--seeds", 3, "--steps", 3]):
        assert reproduce(data, out, "--resume", *fewer, check=False) == 2
        assert "cannot be resumed, only replaced by --overwrite" in capsys.readouterr().err

    reproduce(data, ended, "--overwrite", "--seeds", 1)
    assert sorted(path.name for path in (ended / "models").iterdir()) == ["guided-0", "regular-0"]
