"""Studies: jobs that are done once, whoever does them, whatever interrupts them."""

import gzip
import importlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from urllib.error import URLError

import numpy as np
import pytest
from conftest import make_network, write_arrays
from pages import taken
from test_scripts import SCRIPTS, run

import salrob_tf as sr
from salrob_tf.models.networks import NETWORKS
from salrob_tf.processes import space, started
from salrob_tf.reports.tables import measures_table
from salrob_tf.results.evidence import load_evidence
from salrob_tf.results.measures import FIRST_ORDER, MARGIN, SMALLEST, Measured, load_means, load_measured, over_seeds
from salrob_tf.studies import claims, code, jobs
from salrob_tf.studies.claims import claimed, holder
from salrob_tf.studies.cluster import GIB
from salrob_tf.studies.jobs import MEASURES
from salrob_tf.studies.manifest import read_manifest
from salrob_tf.studies.measured import means_of
from salrob_tf.studies.pages import page_of_folders
from salrob_tf.studies.study import compare_ways

MANIFEST = """
data = "{data}"
seeds = {seeds}
evidence = false
[training]
epochs = 2
batch_size = 48
optimizer = "adam"
learning_rate = 0.01
[ways.regular]
[ways.guided]
saliency = true
[attack]
attacks = ["fgsm", "pgd"]
epsilons = [0.1, 0.2]
steps = 3
samples = 20
"""
WAYS = ("regular", "guided")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_arrays(tmp_path_factory.mktemp("data") / "rows.npz")


@pytest.fixture(scope="module")
def manifest(source, tmp_path_factory):
    path = tmp_path_factory.mktemp("manifests") / "rows.toml"
    path.write_text(MANIFEST.format(data=source, seeds="[0, 1]"))
    return path


@pytest.fixture(scope="module")
def single(source, tmp_path_factory):
    """The same of one seed."""
    path = tmp_path_factory.mktemp("manifests") / "single.toml"
    path.write_text(MANIFEST.format(data=source, seeds="[0]"))
    return path


@pytest.fixture(scope="module")
def whole(manifest, tmp_path_factory):
    """A study that nothing interrupted."""
    out = tmp_path_factory.mktemp("study") / "whole"
    run("study.py", manifest, "--out", out)
    return out


def records(out):
    found = [json.loads(path.read_text()) for path in out.glob("jobs/*/job.json")]
    return {(each["kind"], each["name"]): each for each in found}


def folder_of(out, record):
    (path,) = (path for path in out.glob("jobs/*/job.json") if json.loads(path.read_text()) == record)
    return path.parent


def matrices(out):
    with np.load(out / "correct.npz") as file:
        return {key: file[key] for key in file.files}


def assert_same(whole, out, but=()):
    expected = {key: matrix for key, matrix in matrices(whole).items() if not key.startswith(but)}
    assert expected.keys() == matrices(out).keys()
    for key, matrix in expected.items():
        np.testing.assert_array_equal(matrices(out)[key], matrix)


SECOND = tuple(f"{way}-1/" for way in WAYS)


def copy_without(whole, out, *unfinished):
    """A study that has yet to do some jobs, and to write what it found."""
    shutil.copytree(whole / "jobs", out / "jobs")
    shutil.copy(whole / "study.json", out)
    for job in unfinished:
        shutil.rmtree(folder_of(out, records(out)[job]))


@pytest.fixture
def measured_shortly(monkeypatch):
    """Without most of what evidence holds, which is tested with the report."""
    monkeypatch.setattr("salrob_tf.studies.evidence.FILLS", ("blur", "mean"))
    monkeypatch.setattr("salrob_tf.studies.evidence.METHODS", ())


@pytest.mark.usefixtures("measured_shortly")
def test_networks_are_measured_and_compared_over_seeds(whole, manifest, tmp_path, capsys):
    out, asked = tmp_path / "study", tmp_path / "rows.toml"
    shutil.copytree(whole, out)
    asked.write_text(manifest.read_text().replace("evidence = false\n", ""))
    run("study.py", asked, "--out", out, "--resume")
    printed, found = capsys.readouterr().out, records(out)
    assert "measuring guided-1, 1 jobs left" in printed and "training r" not in printed and "attacking" not in printed
    measured = {
        name: load_measured(folder_of(out, record) / MEASURES)
        for (kind, name), record in found.items()
        if kind == "measure"
    }
    norms = {name: each.values["gradient norm, L1"].mean() for name, each in measured.items()}
    steps = [norms[f"guided-{seed}"] - norms[f"regular-{seed}"] for seed in (0, 1)]
    row = re.search(
        r"\| gradient norm, L1 \| (\S+) \| (\S+) \| (\S+) \[(\S+), (\S+)\]", (out / "measures.md").read_text()
    )
    half = 12.7062 * np.std(steps, ddof=1) / np.sqrt(2)
    wanted = [(norms["regular-0"] + norms["regular-1"]) / 2, (norms["guided-0"] + norms["guided-1"]) / 2]
    wanted += [np.mean(steps), np.mean(steps) - half, np.mean(steps) + half]
    np.testing.assert_allclose([float(each) for each in row.groups()], wanted, rtol=0.05, atol=1e-3)
    page = (out / "report.html").read_text()
    assert 'id="explorer"' in page and "Ways of training: means over networks" in page and "No images" not in page
    assert load_evidence(out / "evidence.npz").sha256 == sr.load_results(out)[0].sha256
    for name in ("measures.csv", "manifest.toml"):
        assert taken(page, name) == (out / name).read_text()
    means = load_means(out / "measures.csv")
    assert means["guided"][1]["gradient norm, L1"] == pytest.approx(norms["guided-1"], rel=1e-5)
    assert measures_table(over_seeds(means)) == (out / "measures.md").read_text()
    assert "Ways of training: means over networks" in page_of_folders([out])
    for wrong in (
        "",
        "network,zeros\n",
        "network\nregular-0\n",
        "network,zeros\nregular-0,many\n",
        "network,zeros\nregular-0\n",
        "network,zeros,zeros\nregular-0,1,2\n",
        "network,zeros\nregular-0,1\nregular-0,2\n",
    ):
        (tmp_path / "wrong.csv").write_text(wrong)
        with pytest.raises(ValueError, match="These are no means of networks .* Received: .*wrong.csv"):
            load_means(tmp_path / "wrong.csv")
    assert f"python scripts/study.py {asked} --out {out}" in page and "evidence = false" not in page
    assert (out / "manifest.toml").read_text() == asked.read_text()
    network = folder_of(out, found["train", "guided-0"]) / "network" / "model.keras"
    whole_network = network.read_bytes()
    network.write_bytes(b"cut")
    (out / "results.json").unlink()
    run("study.py", asked, "--out", out, "--status")
    assert "No images are shown: " in capsys.readouterr().err
    assert not (out / "evidence.npz").exists() and (out / "measures.csv").exists() and (out / "results.json").exists()
    network.write_bytes(whole_network)
    run("study.py", manifest, "--out", out, "--status")
    assert not [name for name in ("evidence.npz", "measures.csv", "measures.md") if (out / name).exists()]
    alone = tmp_path / "alone.toml"
    alone.write_text(manifest.read_text().replace("[ways.guided]\nsaliency = true\n", ""))
    run("study.py", alone, "--out", out, "--status")
    assert len(sr.load_results(out)) == 2 and not (out / "specifications.png").exists()
    place = folder_of(out, found["measure", "guided-0"]) / MEASURES
    place.write_bytes(place.read_bytes()[:100])
    run("study.py", asked, "--out", out, "--resume")
    said = capsys.readouterr()
    assert re.search("These are no measures of a network .* guided-0 is measured again", said.err)
    np.testing.assert_array_equal(
        load_measured(place).values["gradient norm, L1"], measured["guided-0"].values["gradient norm, L1"]
    )
    assert "measuring guided-0, 1 jobs left" in said.out


def test_what_compares_networks_with_the_first_ways_is_a_difference_over_seeds():
    rng, largest = np.random.default_rng(0), 0.3
    margins, norms = rng.uniform(1, 2, (3, 30)), rng.uniform(8, 20, (3, 30))
    epsilons = np.where(np.arange(30) < 25, margins / norms, 2 * largest)
    one, two, other = (
        Measured({MARGIN: margin, FIRST_ORDER: margin / norm, SMALLEST: smallest}, {}, {})
        for margin, norm, smallest in zip(margins, norms, epsilons, strict=True)
    )
    means = means_of({"regular": {0: one, 1: two, 2: one}, "guided": {0: two, 1: other, 5: two}}, largest)
    rows = {row.name: row for row in over_seeds(means)}
    ratio = "log2 of the smallest epsilon over the first way's, found"
    steps = [np.log2(b[:25] / a[:25]).mean() for a, b in ((epsilons[0], epsilons[1]), (epsilons[1], epsilons[2]))]
    assert rows[ratio].differences["guided"].mean == pytest.approx(np.mean(steps)) and not rows[ratio].means
    explained = rows["its variance over images explained by margin and gradient norm"]
    assert explained.differences["guided"].mean == pytest.approx(1)
    assert f"| {ratio} |  |  | {rows[ratio].differences['guided']} |" in measures_table(list(rows.values()))
    assert "explained" not in str(means["guided"][5]) and rows[MARGIN].means["guided"].mean == pytest.approx(
        np.mean([margins[1].mean(), margins[2].mean(), margins[1].mean()])
    )
    alone = over_seeds({"regular": {0: {"zeros": np.inf}}, "guided": {1: {"zeros": 1.0}}})
    assert "| zeros | nan | 1 |  |" in measures_table(alone)
    with pytest.raises(ValueError, match="same measures. Received: guided-1 without zeros"):
        over_seeds({"regular": {0: {"zeros": 1.0}}, "guided": {1: {"ones": 1.0}}})


def test_outcomes_rest_on_the_code_that_makes_them_alone(tmp_path, monkeypatch):
    train, attack, measured = (set(code.imported(module)) for module in jobs.MODULES.values())
    assert {"_compat.py", "files.py", "training/guided.py", "saliency/ranking.py", "models/networks.py"} <= train
    assert {"evaluation/search.py", "attacks/fab.py", "results/robustness.py", "models/copies.py"} <= attack
    assert {"saliency/metrics.py", "saliency/mechanism.py", "studies/evidence.py"} <= measured
    assert not {"saliency/metrics.py", "attacks/apgd.py", "evaluation/search.py"} & train
    assert not {"training/guided.py", "results/methods.py", "results/measures.py", "reports/page.py"} & attack
    copied = tmp_path / "salrob_tf"
    shutil.copytree(code.PACKAGE, copied, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "PACKAGE", copied)

    def digests():
        for function in (code.imported, code.code_of):
            function.cache_clear()
        return [code.code_of(module) for module in jobs.MODULES.values()]

    before = digests()
    for name, changes in {
        "saliency/ranking.py": [True, False, False],
        "evaluation/search.py": [False, True, False],
        "saliency/metrics.py": [False, False, True],
        "models/contract.py": [True, True, True],
        "results/methods.py": [False, False, False],
    }.items():
        text = (copied / name).read_bytes()
        (copied / name).write_bytes(text + b"# changed\n")
        assert [one != two for one, two in zip(before, digests(), strict=True)] == changes, name
        (copied / name).write_bytes(text)
    assert digests() == before
    monkeypatch.undo()
    digests()


def test_a_study_trains_attacks_compares_and_repeats_nothing(whole, manifest, source, capsys):
    names = ["regular-0", "guided-0", "regular-1", "guided-1"]
    assert set(records(whole)) == {(kind, name) for name in names for kind in ("train", "attack")}
    assert all(each["finished"] and each["begun"] == 1 and each["seconds"] > 0 for each in records(whole).values())
    record = json.loads((whole / "results.json").read_text())
    assert {way: each["way"] for way, each in record["run"]["choices"].items()} == {
        "regular": "regular",
        "guided": "guided",
    }
    comparison = record["comparison"]["methods"]
    assert [(each["first"], each["second"], each["seeds"]) for each in comparison] == [("regular", "guided", 2)]
    assert "Ways of training" in (whole / "table.md").read_text()
    assert all((whole / name).stat().st_size > 1000 for name in ("curves.png", "specifications.png"))
    page = (whole / "report.html").read_text()
    assert "Ways of training: " in page and "No images and no measures here." in page and "regular-1" in page
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*.keras")}
    assert run("study.py", manifest, "--out", whole, check=False) == 2
    assert "pass --resume" in capsys.readouterr().err
    run("study.py", manifest, "--out", whole, "--resume", "--plan", 10)
    printed = capsys.readouterr().out
    assert "regular and guided. For a 95 % interval of 10 points to each side:\nby more seeds: " in printed
    assert " minutes more" in printed
    run("study.py", manifest, "--out", whole, "--status", "--plan", 10)
    assert "regular and guided. For a 95 % interval of 10 points" in capsys.readouterr().out
    assert "training regular" not in printed and "jobs: 8 finished" in printed and "Ways of training" in printed
    assert before == {path: path.stat().st_mtime_ns for path in whole.rglob("*.keras")}
    assert all(each["begun"] == 1 for each in records(whole).values())
    data = sr.load_data(source)
    network = next(whole.glob(f"jobs/{records(whole)['attack', 'guided-1']['content']['network']}/network"))
    (saved,) = [each for each in sr.load_results(whole) if each.model == "guided-1"]
    rows = saved.indices
    alone = sr.evaluate(
        network, data.x_test[rows], data.y_test[rows], ["fgsm", "pgd"], [0.1, 0.2], steps=3, indices=rows
    )
    for label, correct in alone.correct.items():
        np.testing.assert_array_equal(saved.correct[label], correct)


def test_more_seeds_cost_only_what_is_new_and_damage_is_done_again(whole, source, tmp_path, capsys):
    out, more = tmp_path / "study", tmp_path / "more.toml"
    shutil.copytree(whole, out)
    more.write_text(MANIFEST.format(data=source, seeds="[0, 1, 2]"))
    written = ["table.md", "curves.png", "specifications.png", "report.html", "results.json", "correct.npz"]
    for name in written:
        (out / name).unlink()
    run("study.py", more, "--out", out, "--status")
    printed = capsys.readouterr().out
    assert (
        "jobs: 8 finished, 4 waiting; about" in printed
        and "Ways of training" in printed
        and "training r" not in printed
    )
    assert all((out / name).exists() for name in written) and len(sr.load_results(out)) == 4
    (out / "jobs" / _digests(out)["attack", "guided-1"] / "correct.npz").write_bytes(b"cut")
    lost = out / "jobs" / _digests(out)["train", "regular-0"]
    (lost / "network" / "model.keras").write_bytes(b"cut")
    shutil.rmtree(out / "jobs" / _digests(out)["attack", "regular-0"])
    run("study.py", more, "--out", out, "--resume")
    printed, said = capsys.readouterr()
    assert "training regular-2" in printed and "training guided-0" not in printed and "3 seeds" in printed
    ours = [line for line in printed.splitlines() if line.startswith(("training ", "attacking "))]
    done = [" ".join(line.partition(",")[0].split()) for line in ours]
    again = ["training regular-0", "attacking regular-0", "attacking regular-0", "attacking guided-1"]
    assert sorted(done) == sorted([*again, *(f"{what} {way}-2" for what in ("training", "attacking") for way in WAYS)])
    assert "is attacked again" in said and "It is trained again" in said
    both = {key: matrix for key, matrix in matrices(out).items() if not key.startswith(("regular-2", "guided-2"))}
    for key, matrix in matrices(whole).items():
        np.testing.assert_array_equal(both[key], matrix)


def _digests(out):
    return {
        (each["kind"], each["name"]): path.parent.name
        for path in out.glob("jobs/*/job.json")
        for each in [json.loads(path.read_text())]
    }


def test_the_first_way_is_what_others_are_compared_with_even_if_it_has_no_results(whole, manifest):
    study, results = read_manifest(manifest), sr.load_results(whole)
    groups = {way: [each for each in results if each.model.startswith(way)] for way in WAYS}
    assert [(each.first, each.second) for each in compare_ways(study.ways, groups)] == [WAYS]
    assert compare_ways(study.ways, {"guided": groups["guided"], "other": groups["guided"]}) == []


def test_a_job_that_fails_is_tried_twice_and_the_others_go_on(whole, manifest, tmp_path, capsys, monkeypatch):
    original, out = jobs.train, tmp_path / "out"
    copy_without(whole, out, ("train", "regular-0"), ("attack", "regular-0"), ("attack", "guided-1"))

    def failing(folder, data, trained, **options):
        if trained.seed == 0 and not trained.saliency:
            raise ValueError("no such luck")
        return original(folder, data, trained, **options)

    monkeypatch.setattr(jobs, "train", failing)
    assert run("study.py", manifest, "--out", out, "--resume", check=False) == 2
    printed = capsys.readouterr()
    assert printed.out.count("regular-0 failed: ValueError: no such luck") == 2
    assert "jobs: 6 finished, 1 failed, 1 waiting" in printed.out and "--status" in printed.err
    assert records(out)["train", "regular-0"]["failures"] == 2
    assert len(sr.load_results(out)) == 3
    monkeypatch.setattr(jobs, "train", original)
    run("study.py", manifest, "--out", out, "--resume")
    assert "jobs: 8 finished" in capsys.readouterr().out, "what failed is tried again"


def test_a_study_killed_at_any_moment_goes_on_to_the_same(manifest, whole, forks, tmp_path):
    out = tmp_path / "killed"
    rng = np.random.default_rng(0)
    for sign in (signal.SIGKILL, signal.SIGTERM):
        resume = ["--resume"] if (out / "study.json").exists() else []
        process = forks.start([SCRIPTS / "study.py", manifest, "--out", out, *resume])
        done, deadline = len(finished(out)), time.time() + 120
        while len(finished(out)) <= done and time.time() < deadline:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.5))
        os.kill(process, sign)
        assert forks.ended() != 0
    before = finished(out)
    assert 2 <= len(before) < 8
    process = forks.start([SCRIPTS / "study.py", manifest, "--out", out, "--resume"])
    assert forks.ended() == 0
    after = records(out)
    assert {key: after[key] for key in before} == before, "nothing that is finished is repeated"
    assert_same(whole, out)


def finished(out):
    found = {}
    for path in out.glob("jobs/*/job.json"):
        each = json.loads(path.read_text())
        if each["finished"]:
            found[each["kind"], each["name"]] = each
    return found


def test_two_processes_on_one_folder_do_each_job_once(single, whole, forks, tmp_path):
    out = tmp_path / "shared"
    first = forks.start([SCRIPTS / "study.py", single, "--out", out])
    while not (out / "study.json").exists():
        time.sleep(0.02)
    second = forks.start([SCRIPTS / "study.py", single, "--out", out, "--resume"])
    assert forks.ended(first) == forks.ended(second) == 0
    assert len(records(out)) == 4 and all(each["begun"] == 1 for each in records(out).values())
    assert_same(whole, out, but=SECOND)


def test_shards_of_an_attack_are_jobs_of_their_own_and_change_nothing(forks, tmp_path, capsys):
    data, plain = write_arrays(tmp_path / "rows.npz", test=600), tmp_path / "plain.toml"
    plain.write_text(MANIFEST.format(data=data, seeds="[0]").replace("samples = 20", "samples = 600"))
    out, manifest, whole = tmp_path / "sharded", tmp_path / "sharded.toml", tmp_path / "whole"
    manifest.write_text(f"{plain.read_text()}shards = 5\n")
    run("study.py", plain, "--out", whole)
    first = forks.start([SCRIPTS / "study.py", manifest, "--out", out])
    while not (out / "study.json").exists():
        time.sleep(0.02)
    second = forks.start([SCRIPTS / "study.py", manifest, "--out", out, "--resume"])
    assert forks.ended(first) == forks.ended(second) == 0
    # 256 images at least.
    shards = {("shard", f"{way}-0, shard {number} of 3") for way in WAYS for number in (1, 2, 3)}
    assert set(records(out)) == {(kind, f"{way}-0") for way in WAYS for kind in ("train", "attack")} | shards
    assert all(each["begun"] == 1 for each in records(out).values())
    assert_same(whole, out)
    attack = folder_of(out, records(out)["attack", "guided-0"])
    assert not (attack / "sweep").exists()
    shutil.rmtree(attack)
    (attack / "sweep").mkdir(parents=True)
    (attack / "sweep" / "settings.json").write_text(json.dumps({"parts": 4, "model": "trained elsewhere"}))
    (cut,) = folder_of(out, records(out)["shard", "guided-0, shard 2 of 3"]).glob("sweep/pgd-00001.npz")
    cut.write_bytes(b"cut")
    run("study.py", manifest, "--out", out, "--resume", "--plan", 10)
    printed = capsys.readouterr()
    assert "attacking guided-0, " in printed.out and "shard" not in printed.out.partition("jobs: ")[0]
    assert "damaged or was changed, and is done again" in printed.err and "It is begun anew" in printed.err
    assert "jobs: 10 finished" in printed.out
    assert_same(whole, out)


def test_a_claim_is_kept_by_who_lives_and_taken_from_who_died(tmp_path, monkeypatch):
    path = tmp_path / "claim.json"
    with claimed(path) as ours:
        assert ours and holder(path) == f"{socket.gethostname()}, process {os.getpid()}"
        with claimed(path) as second:
            assert not second
        assert path.exists()
    assert not path.exists() and holder(path) is None
    dead = os.fork()
    if not dead:
        os._exit(0)
    os.waitpid(dead, 0)
    path.write_text(json.dumps({"host": socket.gethostname(), "space": space(), "process": dead}))
    assert holder(path) is None
    with claimed(path) as ours:
        assert ours
    path.write_text(json.dumps({"host": "elsewhere", "process": 1}))
    with claimed(path) as ours:
        assert not ours and holder(path) == "elsewhere, process 1"
    os.utime(path, (time.time() - claims.STALE - 60,) * 2)
    with claimed(path) as ours:
        assert ours
    for began, dead in (started(os.getpid()), False), ("1", True):  # by another process of that number
        mine = {"host": socket.gethostname(), "space": space(), "process": os.getpid(), "started": began}
        path.write_text(json.dumps(mine))
        assert (holder(path) is None) == dead
        with claimed(path) as ours:
            assert ours == dead
    with monkeypatch.context() as patch:
        patch.setattr(claims, "started", lambda process: None)  # a host may hide it of others' processes
        path.write_text(json.dumps({"space": space(), "process": os.getpid(), "started": "1"}))
        assert holder(path) is not None
    monkeypatch.setattr(claims, "BEAT", 0.01)
    path.unlink(missing_ok=True)
    with claimed(path) as ours:
        os.utime(path, (0, 0))
        deadline = time.time() + 10
        while path.stat().st_mtime < 1e6 and time.time() < deadline:
            time.sleep(0.01)
        assert ours and path.stat().st_mtime > 1e6, "a heartbeat keeps it fresh"
    with claimed(path) as ours:
        theirs = json.dumps({"host": "elsewhere", "process": 1, "token": "theirs"})
        path.write_text(theirs)  # as if ours had been taken for dead
    assert path.read_text() == theirs, "what is not ours any more is left alone"
    path.write_text("cut")
    assert holder(path) is not None, "one that is being written lives"


def test_lists_make_a_way_for_each_combination(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text(
        'data = "mnist5k"\nseeds = 2\n[training]\nepochs = 3\n[ways.regular]\n[ways.guided]\nsaliency = true\n'
        "kl_weight = [0.1, 1.0]\nmask_fraction = [0.3, 0.5]\n"
    )
    study = read_manifest(path)
    assert study.seeds == (0, 1) and list(study.ways)[:2] == ["regular", "guided kl_weight=0.1 mask_fraction=0.3"]
    runs = study.runs()
    assert len(runs) == 10 and list(runs)[::5] == ["regular-0", "regular-1"]
    run_of = runs["guided kl_weight=1.0 mask_fraction=0.5-1"]
    assert (run_of.kl_weight, run_of.mask_fraction, run_of.seed, run_of.epochs, run_of.saliency) == (
        1.0,
        0.5,
        1,
        3,
        True,
    )


def test_a_training_that_another_version_did_is_said_to_be_repeated(whole, manifest, tmp_path, capsys):
    out = tmp_path / "study"
    shutil.copytree(whole, out)
    for kind, name in (("train", "guided-1"), ("attack", "guided-1")):
        folder = folder_of(out, records(out)[kind, name])
        folder.rename(folder.with_name(f"{kind[0] * 16}"))
    record = out / "jobs" / ("t" * 16) / "job.json"
    record.write_text(record.read_text().replace('"code": "', '"code": "of another day '))
    run("study.py", manifest, "--out", out, "--resume")
    said = capsys.readouterr().out
    assert "training guided-1 again, which another version of the code has done before, 2 jobs left" in said
    assert "attacking guided-1, 1 jobs left" in said and said.count("again") == 1
    assert_same(whole, out)
    for path in out.glob("jobs/*/job.json"):
        path.write_text('{"finished": true}')  # says nothing of what was done
    assert not any(
        job.is_repeated(out)
        for job in jobs.jobs_of(read_manifest(manifest), sr.load_data(read_manifest(manifest).data))
    )


@pytest.mark.usefixtures("measured_shortly")
def test_what_is_published_of_a_study_is_gathered_from_its_jobs(whole, manifest, single, tmp_path, monkeypatch, capsys):
    out, kept, bare = tmp_path / "study", tmp_path / "rows", manifest
    shutil.copytree(whole, out)
    for path in (manifest, single):
        (tmp_path / path.name).write_text(path.read_text().replace("evidence = false\n", ""))
    manifest, single = (tmp_path / path.name for path in (manifest, single))
    for path in out.glob("jobs/*/job.json"):  # by another version of the code, whose digests are others
        path.write_text(path.read_text().replace('"code": "', '"code": "of another day '))
    monkeypatch.syspath_prepend(str(SCRIPTS.parent / "docs/study"))  # where a script finds the files beside it
    run("../docs/study/gather.py", manifest, out, kept)
    keeping = importlib.import_module("kept")
    found, data = keeping.results_of(kept), sr.load_data(read_manifest(manifest).data)
    assert [each.model for each in found] == ["regular-0", "regular-1", "guided-0", "guided-1"]
    for each, result in zip(found, sr.load_results(out), strict=True):
        for attack, correct in result.correct.items():
            np.testing.assert_array_equal(each.correct[attack], correct)
    predicted = sr.Classifier(folder_of(out, records(out)["train", "guided-1"]) / "network").predict(data.x_test)
    means = load_means(kept / "measures.csv")
    assert means["guided"][1]["accuracy, whole test set"] == np.mean(predicted == data.y_test)
    assert means["guided"][1]["gradient norm, L1"] > 0
    rows = dict(line.split(",", 1) for line in (kept / "training.csv").read_text().splitlines())
    assert rows["regular-0"].startswith("2,0.") and rows["regular-0"].endswith("nan,nan")
    assert 0 < float(rows["guided-1"].split(",")[-1]) < 1
    before = (kept / "measures.csv").read_bytes()
    monkeypatch.setattr("salrob_tf.studies.evidence.measure", None)
    assert "no networks of" in (said := run("../docs/study/gather.py", manifest, out, kept, check=False))
    assert "that are not kept yet" in said and (kept / "measures.csv").read_bytes() == before
    others = {"training": ("epochs = 2", "epochs = 3"), "attack": ("epsilons = [", "epsilons = [0.01, ")}
    for name, (old, new) in others.items():  # one folder holds several studies, of networks of the same names
        path = tmp_path / f"{name}.toml"
        path.write_text(manifest.read_text().replace(old, new))
        assert path.read_text() != manifest.read_text()
        assert "no networks of" in run("../docs/study/gather.py", path, out, tmp_path / "none", check=False)
    longer = tmp_path / "training.toml"
    assert "keeps a regular-0 that is none of" in run("../docs/study/gather.py", longer, out, kept, check=False)
    alone = tmp_path / "alone.toml"
    alone.write_text(manifest.read_text().replace("[ways.guided]\nsaliency = true\n", ""))
    run("../docs/study/gather.py", alone, out, tmp_path / "first")
    run("../docs/study/gather.py", single, out, tmp_path / "pair")
    derive = importlib.import_module("derive")  # makes tables and figures of whatever was gathered
    several, one = derive.tables_of(kept), derive.tables_of(tmp_path / "pair")
    area = [np.trapezoid([each.clean.mean(), *each.curves["pgd"].mean(axis=1)], dx=0.5) for each in found]
    by_hand = 100 * (area[2] + area[3] - area[0] - area[1]) / 2
    head, _, row = (line.split(" | ") for line in several["effects.md"].splitlines())
    assert float(row[head.index("pgd")].split()[0]) == pytest.approx(by_hand, abs=0.051)
    assert "2 seeds" in several["verdict.md"] and "2 seeds" not in one["verdict.md"]
    of_one_way = derive.tables_of(tmp_path / "first")
    assert "accuracy.md" in of_one_way and not {"effects.md", "mechanism.md", "verdict.md"} & set(of_one_way)
    assert list(derive.figures_of(tmp_path / "first")) == ["curves.svg"]
    assert "effects.md" not in one and "1 seed, " in derive.figures_of(tmp_path / "pair")["curves.svg"].get_suptitle()
    assert several["table1.md"].count("[") == 3 and "[" not in one["table1.md"]  # one has no interval
    begun = {"regular": found[:2], "guided": found[2:], "noise": [replace(found[3], model="noise-1")]}
    assert "controls.md" not in derive.tables_of_outcomes(begun), "one network more, of a third way"
    assert "regular-1" in derive.tables_of_outcomes({"regular": found[:2], "guided": found[3:]})["verdict.md"]
    longer = derive.tables_of_outcomes({"longer": found[:2], "guided-longer": found[2:]})
    named = several["effects.md"].replace("regular", "longer").replace("| guided", "| guided-longer")
    assert longer["longer.md"] == named and longer["longer_by_epsilon.md"].count("[") > 0
    run("../docs/study/gather.py", bare, out, tmp_path / "rows-autoattack")  # as another attack of the same networks
    bare_tables = derive.tables_of(tmp_path / "rows-autoattack")
    assert not {"mechanism.md", "maps.md"} & set(bare_tables) and bare_tables["table1.md"] == several["table1.md"]
    before, after = found[2].curves["worst of all"][0], np.arange(20) % 3 > 0
    after = found[2].clean & after
    (alone,) = derive.outcomes.by_attack({"guided": found[2:3]}, "pgd")["guided"]
    again = [replace(alone, epsilons=alone.epsilons[:1], correct={"pgd": after[None]})]
    *_, row = derive.outcomes.beside({"guided": again}, {"guided": found[2:]}).splitlines()
    lost = np.sum(before & ~after)
    assert lost and row.split(" | ")[1:] == [
        "1", "0.1", f"{before.sum()} of {len(before)}", f"{after.sum()} of {len(before)}",
        f"{lost} of {before.sum()} ({lost})", f"{np.sum(after & ~before)} of {after.sum()} |",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="other images or epsilons"):
        derive.outcomes.beside({"guided": again}, {"guided": [replace(found[2], sha256="0")]})
    assert "keeps a regular-1 that is none of" in run("../docs/study/gather.py", single, out, kept, check=False)
    foreign, told = kept / keeping.RECORD, keeping.record_of(kept)  # of networks that were trained on other data
    mine = foreign.read_bytes()
    assert told["arguments"]["data"] == data.sha256
    told["arguments"]["data"] = "0"
    foreign.write_bytes(gzip.compress(json.dumps(told).encode()))
    assert "keeps a regular-0 that is none of" in run("../docs/study/gather.py", manifest, out, kept, check=False)
    foreign.write_bytes(mine[:99])
    assert "damaged" in run("../docs/study/gather.py", manifest, out, kept, check=False)
    foreign.write_bytes(mine)
    (tmp_path / "earlier").mkdir()
    (tmp_path / "earlier" / "results.json").write_text("{}")  # as before it was compressed
    assert "compress it" in run("../docs/study/gather.py", manifest, out, tmp_path / "earlier", check=False)
    for (_, name), record in records(out).items():  # as if another machine had done no other network than this one
        if name != "guided-1":
            shutil.rmtree(folder_of(out, record))
    run("../docs/study/gather.py", manifest, out, tmp_path / "pair")
    run("../docs/study/gather.py", manifest, out, tmp_path / "first")
    said = capsys.readouterr().out
    assert said.endswith("guided-1\nguided-1, without what compares it with regular-1\n")
    assert len(keeping.results_of(tmp_path / "first")) == 3
    three, three_means = keeping.results_of(tmp_path / "pair"), load_means(tmp_path / "pair" / "measures.csv")
    assert [each.model for each in three] == ["regular-0", "guided-0", "guided-1"]
    for each, result in zip(three, [found[0], *found[2:]], strict=True):
        for attack, correct in result.correct.items():
            np.testing.assert_array_equal(each.correct[attack], correct)
    alone = three_means["guided"].pop(1)
    assert three_means == {way: {0: seeds[0]} for way, seeds in means.items()}
    held = set(means["guided"][1]) - set(alone)
    assert alone.items() <= means["guided"][1].items() and held == set(means["guided"][1]) - set(means["regular"][1])
    kept_rows = dict(line.split(",", 1) for line in (tmp_path / "pair" / "training.csv").read_text().splitlines())
    assert kept_rows == {name: row for name, row in rows.items() if name != "regular-1"}
    shutil.rmtree(out / "jobs")
    assert "no networks of" in run("../docs/study/gather.py", manifest, out, tmp_path / "none", check=False)


@pytest.mark.usefixtures("measured_shortly")
def test_strengths_of_a_penalty_are_ways_whose_gradient_norms_are_there_to_be_matched(source, tmp_path, monkeypatch):
    """The list that docs/training.md shows, trained: the stronger the penalty, the smaller the norm in measures.csv."""
    (written,) = re.findall(r"```toml\n(.*?)```", (SCRIPTS.parent / "docs/training.md").read_text(), re.DOTALL)
    monkeypatch.setattr("salrob_tf.studies.study.evidence_of", lambda *given: None)  # images are shown elsewhere
    monkeypatch.setitem(NETWORKS, "cnn", lambda *given, dtype: make_network(*given))
    path, out = tmp_path / "matched.toml", tmp_path / "out"
    asked = MANIFEST.format(data=source, seeds=1).replace("evidence = false\n", "").replace("epochs = 2", "epochs = 4")
    asked = asked.replace("[ways.guided]\nsaliency = true\n", "").replace('"fgsm", "pgd"', '"fgsm"')
    path.write_text(asked.replace("[attack]", f"{written}[attack]"))
    names = ["penalty strength=0.01", "penalty strength=0.1", "penalty strength=1.0"]
    assert list(read_manifest(path).ways) == ["regular", *names]
    run("study.py", path, "--out", out)
    means = load_means(out / "measures.csv")
    norms = [means[name][0]["gradient norm, L1"] for name in ("regular", *names)]
    assert set(means) == {"regular", *names} and norms == sorted(norms, reverse=True) and norms[3] < norms[0]


def test_manifests_that_are_here_and_in_the_docs_can_be_read(tmp_path):
    root = SCRIPTS.parent
    (written,) = re.findall(r"```toml\n(.*?)```", (root / "docs/studies.md").read_text(), re.DOTALL)
    (tmp_path / "docs.toml").write_text(written)
    found = [read_manifest(path) for path in [tmp_path / "docs.toml", *(root / "studies").glob("*.toml")]]
    assert len(found) > 1 and len(found[0].ways) == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data = ", "This is no manifest"),
        ("[ways.regular]\nepochs = 1\n", "needs `data`"),
        ('data = "mnist5k"\n', "needs `ways`"),
        ('data = "mnist5k"\nspeed = 3\n[ways.a]\n', "no key speed"),
        ('data = "mnist5k"\n[ways.a]\nepoch = 3\n', "no key ways.a.epoch. Valid: network"),
        ('data = "mnist5k"\n[training]\nseed = 3\n[ways.a]\n', "no key training.seed"),
        ('data = "mnist5k"\n[ways.a]\n[attack]\nstep = 3\n', "no key attack.step"),
        ('data = "mnist5k"\nseeds = []\n[ways.a]\n', "`seeds` must be one or more"),
        ('data = "mnist5k"\nseeds = [1, 1]\n[ways.a]\n', "each once"),
        ('data = "mnist5k"\nseeds = 0\n[ways.a]\n', "`seeds` must be a whole number"),
        ('data = "mnist5k"\n[ways.a]\nrecipe = "none"\n', "recipe"),
        ('data = "mnist5k"\n[ways.a]\nepochs = "many"\n', "epochs"),
        ('data = "mnist5k"\n[ways.a]\nmask_fraction = 1.5\n', "`mask_fraction` must be"),
        ('data = "mnist5k"\n[ways.a]\n[ways.b]\nsaliency = true\nmask_fraction = 1e-5\n', "[ways.b]: `mask_fraction`"),
        ('data = "mnist5k"\n[ways.a]\nepochs = []\n', "must not be empty"),
        ('data = "mnist5k"\nways = 3\n', "`ways` must be a table"),
        ('data = "mnist5k"\n[ways]\na = 3\n', "`ways.a` must be a table"),
        ('data = "mnist5k"\n[ways.a]\n[attack]\nattacks = ["none"]\n', "none"),
        ('data = "mnist5k"\n[ways.a]\n[attack]\nattacks = "pgd"\n', "must be a list of names"),
        ('data = "mnist5k"\n[ways.a]\n[attack]\nepsilons = [-1]\n', "epsilons"),
        ('data = "mnist5k"\n[ways.a]\n[attack]\naudit = 3\n', "must be true or false"),
        ("data = 3\n[ways.a]\n", "`data` must be"),
        ('data = "mnist5k"\n[ways.""]\n', "name of a way"),
        ('data = "mnist5k"\n[ways.a]\n[ways.b]\nkl_weight = [0.5, 1.0]\n', "Two ways must not be the same"),
    ],
)
def test_a_bad_manifest_is_one_line(tmp_path, capsys, text, words):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    assert run("study.py", path, "--out", tmp_path / "out", check=False) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_folder_that_is_no_studys_is_left_alone(whole, manifest, source, tmp_path, capsys):
    assert run("study.py", manifest, "--out", tmp_path / "none", "--status", check=False) == 2
    assert "There is no study" in capsys.readouterr().err
    (tmp_path / "theirs" / "jobs").mkdir(parents=True)
    assert run("study.py", manifest, "--out", tmp_path / "theirs", check=False) == 2
    assert "No study here wrote this" in capsys.readouterr().err
    other = write_arrays(tmp_path / "other.npz", train=48, seed=2)
    (tmp_path / "other.toml").write_text(MANIFEST.format(data=other, seeds=1))
    assert run("study.py", tmp_path / "other.toml", "--out", whole, "--resume", check=False) == 2
    assert "is on other data" in capsys.readouterr().err


def test_ray_does_the_same_and_a_worker_that_dies_is_counted(single, whole, forks, tmp_path):
    out, printed, killed = tmp_path / "ray", tmp_path / "printed", None
    forks.start([SCRIPTS / "study.py", single, "--out", out, "--engine", "ray"], printed)
    deadline = time.time() + 600  # with other work beside, Ray has taken two minutes to start
    while killed is None and time.time() < deadline:
        for path in out.glob("jobs/*/claim.json"):
            with suppress(OSError, ValueError):  # it may be gone already
                killed = json.loads(path.read_text())["process"]
        time.sleep(0.02)
    os.kill(killed, signal.SIGKILL)
    assert forks.ended() == 0, printed.read_text()
    assert "trained guided-0" in printed.read_text() and " failed: " in printed.read_text()
    begun = sorted(each["begun"] for each in records(out).values())
    assert begun in ([1] * 3 + [2], [1] * 4) and sum(each["failures"] for each in records(out).values()) == 1
    assert_same(whole, out, but=SECOND)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--address", "127.0.0.1:1"], "--engine ray"),
        (["--engine", "ray", "--address", "nowhere"], "No cluster of Ray answers"),
        (["--engine", "ray", "--address", "127.0.0.1:1"], "Received: --address 127.0.0.1:1"),
        (["--engine", "ray", "--threads", "0"], "`threads` must be"),
        (["--engine", "ray", "--memory", "-1"], "`memory` must be"),
    ],
)
def test_clusters_that_are_not_there_or_too_small_are_one_line(manifest, tmp_path, capfd, options, words):
    assert run("study.py", manifest, "--out", tmp_path / "out", *options, check=False) == 2
    error = capfd.readouterr().err
    assert words in error and error.count("\n") == 1, error


def test_a_cluster_whose_hosts_are_too_small_is_one_line(manifest, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("ray.init", lambda **options: None)
    host = {"Alive": True, "Resources": {"CPU": 2.0, "memory": 4.0 * GIB}}
    monkeypatch.setattr("ray.nodes", lambda: [host, {"Alive": False, "Resources": {"CPU": 2000.0, "memory": 1e15}}])
    for option, wrong in {"--threads": "1000", "--memory": "5"}.items():
        command = ["study.py", manifest, "--out", tmp_path / f"out{option}", "--engine", "ray", option, wrong]
        assert run(*command, check=False) == 2
        error = capfd.readouterr().err
        assert "No host has what a job needs" in error and error.count("\n") == 1, error
        assert f"{option[2:]}={wrong}" in error and "hosts of 2 CPUs and 4.0 GiB\n" in error


def test_without_ray_it_is_said_how_to_get_it(manifest, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run("study.py", manifest, "--out", tmp_path / "out", "--engine", "ray", check=False) == 2
    assert "pip install 'salrob-tf[cluster]'" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted((SCRIPTS.parent / "studies").glob("*.toml")), ids=lambda path: path.stem)
def test_manifests_that_are_here_are_whole(path):
    study = read_manifest(path)
    assert next(iter(study.ways)) == "regular" and study.attack.entries()
    assert re.match("# .*(minutes|hour)", path.read_text().replace("\n# ", " ")), "says how long it takes"


def test_data_that_cannot_be_had_is_one_line(tmp_path, monkeypatch, capsys):
    """Keras' own words before it, of a download that did not begin, are none of it."""

    def unreachable(*given, **more):
        raise URLError("no network")

    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path / "keras"))
    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", unreachable)
    assert run("study.py", SCRIPTS.parent / "studies" / "fashion.toml", "--out", tmp_path / "out", check=False) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "Fashion-MNIST could not be downloaded" in said.err and not said.out
    assert not (tmp_path / "out").exists()


def test_in_the_loop_of_the_docs_a_manifest_that_fails_leaves_the_others_running(tmp_path):
    (loop,) = re.findall(r"```\n(for .*?)```", (SCRIPTS.parent / "docs/studies.md").read_text(), re.DOTALL)
    for failing, status, done in (("fashion", 2, 3), ("fashion", 130, 2)):
        (tmp_path / "python").write_text(f'#!/bin/sh\necho "$2"\ncase "$2" in *{failing}*) exit {status};; esac\n')
        (tmp_path / "python").chmod(0o755)
        paths = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
        said = subprocess.run(["sh", "-c", loop], env={**os.environ, "PATH": paths}, capture_output=True, text=True)
        begun = [f"studies/{name}.toml" for name in ("mnist5k", "fashion", "cifar10")]
        assert said.stdout.split() == begun[:done] and not said.stderr
    assert all((SCRIPTS.parent / path).is_file() for path in begun)
