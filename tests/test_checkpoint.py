"""What a sweep's folder gives back, and what it finds damaged."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from conftest import make_images, shorten_autoattack

import salrob_tf as sr
from salrob_tf.evaluation import sweep, work
from salrob_tf.evaluation.checkpoint import Checkpoint
from salrob_tf.results.costs import Costs
from salrob_tf.studies.trials import attack_shards, make_trial

SETTINGS = {"seed": 0, "epsilons": [0.1, 0.2]}
PART = {"correct": np.array([[True, False], [False, False]]), "seconds": np.array(1.5)}


def saved(folder):
    kept = Checkpoint(folder, SETTINGS)
    kept.save("pgd", 0, "abc", **PART)
    return kept


def rewrite(path, **changes):
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files} | changes
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})


def test_a_part_comes_back_as_it_was_saved(tmp_path):
    saved(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Checkpoint(tmp_path, SETTINGS).load("pgd", 0, "abc")
    assert set(found) == set(PART)
    for key, value in PART.items():
        np.testing.assert_array_equal(found[key], value)
        assert found[key].dtype == value.dtype
    assert Checkpoint(tmp_path, SETTINGS).load("pgd", 1, "abc") is None


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "cut early": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "noise": lambda path: path.write_bytes(b"\0" * 200),
    "no archive": lambda path: np.save(path.open("wb"), np.zeros(3)),
    "no digest": lambda path: rewrite(path, digest=None),
    "no identity": lambda path: rewrite(path, sha256=None),
    "no outcome": lambda path: rewrite(path, correct=None),
    "one outcome more": lambda path: rewrite(path, broken=np.zeros(2)),
    "an edited outcome": lambda path: rewrite(path, correct=np.array([[False, False], [True, True]])),
    "an edited type": lambda path: rewrite(path, correct=PART["correct"].astype(np.uint8)),
    "an edited shape": lambda path: rewrite(path, correct=PART["correct"].reshape(4)),
    "other images": lambda path: rewrite(path, sha256=np.array("abd")),
    "objects": lambda path: rewrite(path, correct=np.array([None])),
    "another part": lambda path: (path.parent / "fgsm-00000.npz").replace(path),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_part_is_done_again_and_said(tmp_path, damage):
    saved(tmp_path).save("fgsm", 0, "abc", **PART)
    damage(tmp_path / "pgd-00000.npz")
    kept = Checkpoint(tmp_path, SETTINGS)
    with pytest.warns(UserWarning, match=r"part of a sweep is damaged or was changed, and is done again: .*pgd-00000"):
        assert kept.load("pgd", 0, "abc") is None
    kept.save("pgd", 0, "abc", **PART)
    np.testing.assert_array_equal(kept.load("pgd", 0, "abc")["correct"], PART["correct"])


def test_every_cut_of_a_part_is_found(tmp_path):
    kept, path = saved(tmp_path), tmp_path / "pgd-00000.npz"
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.warns(UserWarning, match="done again"):
            assert kept.load("pgd", 0, "abc") is None


def test_parts_are_of_one_sweep_and_of_its_images(tmp_path):
    kept = saved(tmp_path / "a")
    with pytest.raises(ValueError, match="of other images or labels and cannot be resumed"):
        kept.load("pgd", 0, "abd")
    Checkpoint(tmp_path / "b", {**SETTINGS, "seed": 1})
    (tmp_path / "a" / "pgd-00000.npz").rename(tmp_path / "b" / "pgd-00000.npz")
    with pytest.warns(UserWarning, match="done again"):
        assert Checkpoint(tmp_path / "b", {**SETTINGS, "seed": 1}).load("pgd", 0, "abc") is None


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b'"text"', b"{", b"\xff\xfe", b"[" * 100_000])
def test_settings_that_are_no_object_are_named(tmp_path, content):
    saved(tmp_path)
    (tmp_path / "settings.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"not the settings.json of a sweep.*remove its folder.*settings\.json"):
        Checkpoint(tmp_path, SETTINGS)


def test_parts_without_their_settings_are_in_the_way(tmp_path):
    saved(tmp_path)
    (tmp_path / "settings.json").unlink()
    with pytest.raises(ValueError, match="sweep without its settings.json: remove its folder.*pgd-00000.npz"):
        Checkpoint(tmp_path, SETTINGS)


def test_the_name_of_an_attack_leads_nowhere_else(tmp_path):
    kept = Checkpoint(tmp_path / "sweep", SETTINGS)
    for name in ("../pgd", "/pgd", "a/b"):
        with pytest.raises(ValueError, match="name of an attack must be that of a file"):
            kept.save(name, 0, "abc", **PART)
    assert [path.name for path in tmp_path.rglob("*")] == ["sweep", "settings.json"]


def test_an_edited_part_changes_no_result(trained, tmp_path):
    model, images, labels = trained
    arguments = (model, images, labels, [sr.BIM(steps=3)], [0.1, 0.2])
    whole = sr.evaluate(*arguments, checkpoint=tmp_path)
    rewrite(tmp_path / "bim-00000.npz", correct=~whole.correct["bim"])
    with pytest.warns(UserWarning, match="done again: .*bim-00000.npz"):
        again = sr.evaluate(*arguments, checkpoint=tmp_path)
    np.testing.assert_array_equal(again.correct["bim"], whole.correct["bim"])


@pytest.mark.usefixtures("unprobed")
@pytest.mark.parametrize("size", [20, 64])
@pytest.mark.parametrize("noisy", [False, True])
def test_shards_that_were_attacked_elsewhere_are_not_attacked_again(trained, ready, tmp_path, monkeypatch, noisy, size):
    shorten_autoattack(monkeypatch)
    monkeypatch.setattr("salrob_tf.evaluation.audit.LEAST", 12)
    network, images, labels = ready
    attacks = [sr.PGD(steps=2)]
    if noisy:
        noise = lambda x: trained[0](x) + tf.random.normal([tf.shape(x)[0], 3])  # noqa: E731
        network = sr.Classifier(noise, "noisy", input_shape=(8, 8, 1))
    else:
        attacks.append(sr.WorstCase())
    data = sr.Dataset.from_arrays(*make_images(8), images, labels)
    trial = make_trial(data, attacks, [0.1, 0.2], samples=50, seed=3, batch_size=size)
    numbers = range(-(-50 // size))
    folders = {number: tmp_path / f"{number}" for number in numbers}
    found = [attack_shards(trial, network, size, [0], folders[0], {})]
    for number in numbers[1:]:
        found.append(attack_shards(trial, network, size, [0, number], folders[number], {0: folders[0]}))
    with monkeypatch.context() as patch:
        patch.setattr(work, "Sweep", None)
        together = attack_shards(trial, network, size, numbers, tmp_path / "all", folders).result("all")
    np.testing.assert_array_equal(together.indices, trial.indices)
    for number, each in enumerate(found):
        own = slice(number * size, (number + 1) * size)
        np.testing.assert_array_equal(together.clean[own], each.clean[-1])
        for label, correct in together.correct.items():
            np.testing.assert_array_equal(correct[:, own], each.left[label][-1][-1])
    if noisy:
        assert not together.description["deterministic"]
        return
    monkeypatch.setattr(sweep, "SHARD_BATCHES", 1)
    whole = sr.evaluate(
        network, trial.images, trial.labels, attacks, [0.1, 0.2], indices=trial.indices, seed=3, batch_size=size
    )
    assert together.sha256 == whole.sha256
    for label, correct in whole.correct.items():
        np.testing.assert_array_equal(together.correct[label], correct)
    audits = [replace(each.audits["worst-case"], costs=Costs()) for each in (together, whole)]
    assert audits[0] == audits[1]


@pytest.mark.usefixtures("unprobed")
def test_parts_of_who_took_a_random_network_for_another_are_made_again(trained, tmp_path, monkeypatch):
    noise = lambda x: trained[0](x) + tf.random.normal([tf.shape(x)[0], 3])  # noqa: E731
    network = sr.Classifier(noise, "noisy", input_shape=(8, 8, 1))
    data = sr.Dataset.from_arrays(*make_images(8), *trained[1:])
    trial, folders = make_trial(data, [sr.PGD(steps=2)], [0.2], samples=50), {0: tmp_path / "0", 1: tmp_path / "1"}
    attack_shards(trial, network, 30, [0], folders[0], {})

    def certain(*args):
        description, flags = inspect(*args)
        return {**description, "deterministic": True}, flags

    inspect = work.inspect
    with monkeypatch.context() as patch:
        patch.setattr(work, "inspect", certain)
        attack_shards(trial, network, 30, [0, 1], folders[1], {})
    made, sweep_of = [], work.Sweep
    monkeypatch.setattr(work, "Sweep", lambda *args: made.append(args[6].tolist()) or sweep_of(*args))
    attack_shards(trial, network, 30, [0, 1], tmp_path / "all", folders)
    assert made == [trial.indices[30:].tolist()]
