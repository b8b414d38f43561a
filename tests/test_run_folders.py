"""The folder of a run: what resuming mends or refuses, and what is never removed or written over."""

import json
import shutil
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_images, make_network
from test_scripts import small_networks, tree  # noqa: F401

import salrob_tf as sr
from salrob_tf.files import locked
from salrob_tf.studies.run_folders import empty_run
from salrob_tf.studies.runs import Run, train

RUN = Run(epochs=2, batch_size=32, optimizer="adam", learning_rate=0.01)


@pytest.fixture(scope="module")
def data():
    (x_train, y_train), (x_test, y_test) = make_images(96), make_images(40, seed=1)
    return sr.Dataset.from_arrays(x_train, y_train, x_test, y_test, name="rows")


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(folder, data, RUN)
    return folder


@pytest.fixture(scope="module")
def unfinished(finished, tmp_path_factory):
    """The same run, ended after its last epoch and before its export."""
    folder = tmp_path_factory.mktemp("unfinished") / "run"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "export")
    record = json.loads((folder / "run.json").read_text())
    record["finished"] = False
    record["files"].remove("export")
    (folder / "run.json").write_text(json.dumps(record))
    return folder


@pytest.fixture
def done(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def broken(unfinished, tmp_path):
    return shutil.copytree(unfinished, tmp_path / "run")


def edit(folder, **changes):
    record = json.loads((folder / "run.json").read_text()) | changes
    (folder / "run.json").write_text(json.dumps({key: value for key, value in record.items() if value is not ...}))


def logits_of_export(folder, data):
    saved = tf.saved_model.load(str(folder / "export"))
    return saved.serve(data.x_test).numpy()


def test_a_run_names_what_it_wrote_and_leaves_nothing_else(finished):
    record = json.loads((finished / "run.json").read_text())
    assert sorted(record["files"]) == sorted(path.name for path in finished.iterdir())


@pytest.mark.parametrize("lost", ["export", "export/saved_model.pb", "export/variables"])
def test_a_lost_export_of_a_finished_run_is_written_again(done, finished, data, lost):
    path = done / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    record = train(done, data, RUN, resume=True)
    assert record["finished"] and record == json.loads((finished / "run.json").read_text())
    np.testing.assert_array_equal(logits_of_export(done, data), logits_of_export(finished, data))
    assert set(tree(done)) == set(tree(finished))


def test_a_whole_finished_run_is_left_as_it_is(done, data):
    before = tree(done)
    train(done, data, RUN, resume=True)
    assert tree(done) == before


@pytest.fixture(scope="module")
def other_run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("other") / "run"
    train(folder, data, Run(**{**vars(RUN), "learning_rate": 0.1}))
    return folder


MODELS = {
    "empty": (lambda path: path.write_bytes(b""), "cannot be loaded"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-200]), "cannot be loaded"),
    "of another kind": (lambda path: make_network().save(path), "not the model of the run in its folder"),
    "never trained": (lambda path: sr.SaliencyGuided(make_network()).save(path), "not the model of the run in"),
    "of another run": (None, "not the model of the run in its folder"),
}


@pytest.mark.parametrize(("damage", "message"), MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("state", ["done", "broken"])
def test_a_run_whose_network_is_another_is_refused(request, state, data, other_run, damage, message):
    folder = request.getfixturevalue(state)
    if damage:
        damage(folder / "model.keras")
    else:
        shutil.copy(other_run / "model.keras", folder)
    before = tree(folder)
    with pytest.raises(ValueError, match=rf"{message}.*or pass --overwrite to start anew. Received: .*model\.keras"):
        train(folder, data, RUN, resume=True)
    assert tree(folder) == before


def test_a_finished_run_whose_network_is_gone_is_refused_and_an_unfinished_one_begins_again(done, unfinished, data):
    (done / "model.keras").unlink()
    with pytest.raises(ValueError, match="is gone: put back the one that the run saved, or pass --overwrite"):
        train(done, data, RUN, resume=True)
    broken = shutil.copytree(unfinished, done.parent / "broken")
    (broken / "model.keras").unlink()
    assert train(broken, data, RUN, resume=True)["finished"]
    assert keras.saving.load_model(broken / "model.keras").epochs_done == 2


def test_a_network_of_an_older_version_goes_on(broken, data):
    with zipfile.ZipFile(broken / "model.keras", "a") as archive:
        assert archive.comment
        archive.comment = b""
    edit(broken, files=...)
    assert train(broken, data, RUN, resume=True)["finished"] and (broken / "export").is_dir()


def test_a_run_of_before_controls_goes_on(broken, data):
    record = json.loads((broken / "run.json").read_text())
    for later in ("control", "strength"):
        del record["arguments"][later]
    (broken / "run.json").write_text(json.dumps(record))
    assert train(broken, data, RUN, resume=True)["finished"]


RECORDS = {
    "no object": "[]",
    "nothing": "",
    "half": '{"arguments": {',
    "arguments null": {"arguments": None},
    "no arguments": {"arguments": ...},
    "data null": {"data": None},
    "finished as text": {"finished": "yes"},
    "finished without results": {"test": ..., "train": ..., "epoch": ...},
    "finished without an epoch": {"epoch": None},
    "finished without accuracy": {"test": {}},
    "files as text": {"files": "export"},
    "files elsewhere": {"files": ["../notes.txt"]},
}


@pytest.mark.parametrize("change", RECORDS.values(), ids=RECORDS)
@pytest.mark.parametrize("option", ["resume", "overwrite"])
def test_a_run_json_that_no_run_wrote_is_named_and_nothing_removed(done, data, change, option):
    if isinstance(change, dict):
        edit(done, **change)
    else:
        (done / "run.json").write_text(change)
    before = tree(done)
    with pytest.raises(
        ValueError, match=r"not the run\.json of a run.*move it away, or choose another --out. Received"
    ):
        train(done, data, RUN, **{option: True})
    assert tree(done) == before


HISTORIES = {
    "gone": None,
    "empty": b"",
    "noise": b"\xff\xfe\x00",
    "words": b"epoch,accuracy\n0,good\n1,better\n",
    "no epochs": b"accuracy,loss\n0.5,1\n0.5,1\n",
    "other epochs": b"epoch,accuracy\n0,0.5\n2,0.5\n",
    "short rows": b"epoch,accuracy\n0\n1\n",
    "long rows": b"epoch,accuracy\n0,0.5,7\n1,0.5,7\n",
    "a quote": b'epoch,accuracy\n"0,0.5\n1,0.5\n',
    "too few": b"epoch,accuracy\n0,0.5\n",
}


@pytest.mark.parametrize("content", HISTORIES.values(), ids=HISTORIES)
@pytest.mark.parametrize("state", ["done", "broken"])
def test_a_garbled_history_is_named(request, state, data, content):
    folder = request.getfixturevalue(state)
    (folder / "history.csv").unlink()
    if content is not None:
        (folder / "history.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"history.*pass --overwrite to start anew"):
        train(folder, data, RUN, resume=True)


def test_a_best_network_of_another_epoch_is_refused(data, tmp_path):
    run = Run(epochs=2, batch_size=32, optimizer="sgd", learning_rate=0.2, validation_fraction=0.25, keep="best")
    record = train(tmp_path / "run", data, run)
    assert record["files"].count("best.keras") == 1 and not (tmp_path / "run" / "best.keras").exists()
    edit(tmp_path / "run", finished=False)
    for content in (b"", b"half"):
        (tmp_path / "run" / "best.keras").write_bytes(content)
        with pytest.raises(ValueError, match=r"cannot be loaded.*best\.keras|not the model of the run"):
            train(tmp_path / "run", data, run, resume=True)


STRAYS = ["export/saved_model.pb", "saved_model.pb", "variables/variables.index", "theirs.keras", "old.weights.h5"]


@pytest.mark.parametrize("stray", [*STRAYS, "model.keras", "history.csv", "best.keras"])
@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}], ids=["new", "resume", "overwrite"])
def test_a_folder_with_a_model_or_file_that_no_run_wrote_is_refused(tmp_path, data, stray, options):
    (tmp_path / "run" / stray).parent.mkdir(parents=True)
    (tmp_path / "run" / stray).write_text("theirs")
    with pytest.raises(
        ValueError, match="No run here wrote this, and it is in the way: move it away, or choose another"
    ):
        train(tmp_path / "run", data, RUN, **options)
    assert set(tree(tmp_path)) == {(tmp_path / "run" / stray).relative_to(tmp_path)}


@pytest.mark.parametrize("options", [{"resume": True}, {"overwrite": True}], ids=["resume", "overwrite"])
def test_what_lies_beside_a_run_is_in_the_way_only_under_a_name_that_the_run_needs(broken, finished, data, options):
    for stray in (*STRAYS[1:], "best.keras", "notes.txt"):
        (broken / stray).parent.mkdir(parents=True, exist_ok=True)
        (broken / stray).write_text("theirs")
    theirs = {path: content for path, content in tree(broken).items() if content == b"theirs"}
    (broken / "export").mkdir()
    before = tree(broken)
    with pytest.raises(ValueError, match="it is in the way: move it away.*Received: .*export"):
        train(broken, data, RUN, **options)
    assert tree(broken) == before
    (broken / "export").rmdir()
    for again in ({}, {"resume": True}):
        assert train(broken, data, RUN, **(again or options))["finished"]
        assert set(tree(broken)) == set(tree(finished)) | set(theirs)
        assert {path: tree(broken)[path] for path in theirs} == theirs


def test_a_run_that_keeps_its_best_network_needs_that_name_too(done, data):
    (done / "best.keras").write_text("theirs")
    best = Run(**{**vars(RUN), "validation_fraction": 0.25, "keep": "best"})
    with pytest.raises(ValueError, match=r"it is in the way: move it away.*Received: .*best\.keras"):
        train(done, data, best, overwrite=True)
    assert (done / "best.keras").read_text() == "theirs"


def test_an_export_that_comes_while_the_run_goes_on_is_not_written_over(broken, data, monkeypatch):
    fit = sr.SaliencyGuided.fit

    def busy(self, *arguments, **options):
        (broken / "export").mkdir()
        (broken / "export" / "notes.txt").write_text("theirs")
        return fit(self, *arguments, **options)

    monkeypatch.setattr(sr.SaliencyGuided, "fit", busy)
    with pytest.raises(ValueError, match=r"in the way: move it away, then pass --resume. Received: .*export"):
        train(broken, data, RUN, resume=True)
    assert (broken / "export" / "notes.txt").read_text() == "theirs"
    monkeypatch.undo()
    (broken / "export").rename(broken / "theirs")
    assert train(broken, data, RUN, resume=True)["finished"] and (broken / "export" / "saved_model.pb").is_file()


def test_overwriting_removes_what_the_record_names_also_of_older_versions(done, data):
    (done / "notes.txt").write_text("theirs")
    edit(done, files=...)
    record = train(done, data, Run(**{**vars(RUN), "seed": 1}), overwrite=True)
    assert record["arguments"]["seed"] == 1 and (done / "notes.txt").read_text() == "theirs"


def test_a_folder_that_a_killed_overwriting_emptied_takes_any_run(done, data):
    (done / "theirs.keras").write_text("theirs")
    empty_run(done)
    assert {path.as_posix() for path in tree(done)} == {"run.json", "theirs.keras"}
    other = Run(**{**vars(RUN), "seed": 1})
    with pytest.raises(ValueError, match="already holds a run: pass --resume or --overwrite"):
        train(done, data, other)
    record = train(done, data, other, resume=True)
    assert record["arguments"]["seed"] == 1 and record["files"] == json.loads((done / "run.json").read_text())["files"]
    assert (done / "export").is_dir() and (done / "theirs.keras").read_text() == "theirs"


def test_an_older_record_of_an_unfinished_run_names_no_export(broken, data):
    edit(broken, files=...)
    (broken / "export").mkdir()
    with pytest.raises(ValueError, match=r"No run here wrote this.*export"):
        train(broken, data, RUN, overwrite=True)


def test_what_a_killed_save_left_goes_at_the_next_start(done, finished, data):
    for name in ("model.keras", "export", "history.csv"):
        (done / f".{10**9}-{name}").mkdir()  # no system gives such numbers
    train(done, data, RUN, resume=True)
    assert set(tree(done)) == set(tree(finished)) and not list(done.glob(".*"))


def test_two_trainings_do_not_share_a_folder(tmp_path, done, data):
    for folder, options in ((tmp_path / "new", {}), (done, {"resume": True}), (done, {"overwrite": True})):
        before = tree(folder)
        with locked(folder), pytest.raises(ValueError, match="Another process is at work in this folder"):
            train(folder, data, RUN, **options)
        assert tree(folder) == before


def test_an_interruption_lets_go_of_the_folder(tmp_path, data, monkeypatch):
    def interrupted(self, *arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sr.SaliencyGuided, "fit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "run", data, RUN)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]
    assert train(tmp_path / "run", data, RUN, resume=True)["finished"]
