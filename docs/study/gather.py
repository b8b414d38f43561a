"""Keep what derive.py needs of a study: `python docs/study/gather.py MANIFEST STUDY docs/study/NAME`.

Takes the networks of the manifest's ways and seeds that study.py trained and attacked in STUDY so far, by whichever
version of the code, and measures them by this one, once each (under STUDY/measured). Networks that are kept already
stay as they are, so that a study may be carried out in parts, on several machines. Both networks of a pair should be of
one part, or what is measured of the two together is left out.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from kept import RECORD, keep_results, record_of, results_of

import salrob_tf as sr
from salrob_tf.data.datasets import Dataset
from salrob_tf.files import write_text, written_beside
from salrob_tf.results.alike import check_comparable
from salrob_tf.results.measures import Measured, load_means, load_measured, means_csv
from salrob_tf.results.robustness import Robustness
from salrob_tf.saliency.masking import lowest, mask_size
from salrob_tf.saliency.ranking import saliency_scores
from salrob_tf.saliency.recipes import get_recipe
from salrob_tf.studies.code import code_of
from salrob_tf.studies.evidence import attacks_to_show, measure
from salrob_tf.studies.jobs import jobs_of
from salrob_tf.studies.manifest import Study, read_manifest
from salrob_tf.studies.measured import means_of
from salrob_tf.studies.runs import Run
from salrob_tf.studies.study import check_study

BRIGHT, LOOKED_AT = 0.5, 1000  # what counts as a stroke, and at how many test images masks are looked at
HISTORY = ("accuracy", "cross_entropy", "kl")
HEAD = "network,epoch,accuracy,cross-entropy,divergence,strokes masked"


class Kept(NamedTuple):
    """What is kept of networks, by name: outcomes of attacks, means of measures, and a row of training.csv."""

    results: dict[str, Robustness]
    means: dict[str, Mapping[str, float]]
    rows: dict[str, str]


def attacked(folder: Path, study: Study, data: Dataset) -> dict[str, tuple[Path, Path]]:
    """By name, the networks whose attacks are finished, each with the folder of the attacks, the newest of several.

    One folder may hold several studies: those count that were trained and attacked by the manifest's settings, as far
    as the version of the code that did so knew them.
    """
    paths = sorted(folder.glob("jobs/*/job.json"), key=lambda path: path.stat().st_mtime)
    records: dict[str, dict[str, Any]] = {path.parent.name: json.loads(path.read_text("utf-8")) for path in paths}
    jobs = {job.name: job for job in jobs_of(study, data) if job.kind == "attack"}
    found = {}
    for digest, record in records.items():
        name, content = record["name"], record["content"]
        if record["kind"] == "attack" and record["finished"] and name in jobs:
            wanted, trained = jobs[name].needs[0].content, records[content["network"]]["content"]
            same = trained["run"].items() <= wanted["run"].items() and trained["data"] == wanted["data"]
            if same and content["attack"].items() <= jobs[name].content["attack"].items():
                found[name] = folder / "jobs" / content["network"] / "network", folder / "jobs" / digest
    return found


def measured_once(path: Path, data: Dataset, classifier: sr.Classifier, result: Robustness, study: Study) -> Measured:
    """What `path` holds, which is measured if it does not exist."""
    if not path.exists():
        attack = attacks_to_show(study.attack.entries().values())[0]
        found = measure(data, classifier, result, attack)
        path.parent.mkdir(exist_ok=True)
        with written_beside(path) as beside:
            beside.write_bytes(found.to_bytes())
    return load_measured(path)


def accuracy(data: Dataset, classifier: sr.Classifier) -> float:
    """Share of the whole test set that a network has right."""
    return float((classifier.predict(np.asarray(data.x_test, np.float32)) == data.y_test).mean())


def strokes_masked(data: Dataset, classifier: sr.Classifier, run: Run) -> float:
    """Share of the strokes that a guided network's recipe masks at the end, mean over images.

    NaN for images in colour, and where nothing that is masked is learnt from.
    """
    recipe = get_recipe(run.recipe)
    if not run.saliency or not run.kl_weight or recipe.ranking == "every" or data.x_test.shape[-1] != 1:
        return np.nan
    x, y = np.asarray(data.x_test[:LOOKED_AT], np.float32), data.y_test[:LOOKED_AT]
    images, labels = tf.constant(x), tf.constant(y)

    def logits(batch: tf.Tensor, training: bool = False) -> tf.Tensor:
        return classifier.logits(batch)

    scores, _ = saliency_scores(logits, images, labels, recipe, keras.random.SeedGenerator(0))
    masked = lowest(scores, mask_size(recipe, run.mask_fraction, x.shape[1:])).numpy().reshape(len(x), -1)
    strokes = x.reshape(len(x), -1) > BRIGHT
    some = strokes.any(axis=1)
    return float(np.mean((masked & strokes)[some].sum(1) / strokes[some].sum(1)))


def training_row(data: Dataset, classifier: sr.Classifier, network: Path, run: Run) -> str:
    """A row of training.csv: where the last epoch ended, and what is masked then."""
    with open(network / "history.csv", encoding="utf-8", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    numbers = [*(float(last.get(key, np.nan)) for key in HISTORY), strokes_masked(data, classifier, run)]
    return ",".join([classifier.name, str(int(last["epoch"]) + 1), *(f"{each:.5f}" for each in numbers)])


def gathered(folder: Path, study: Study, data: Dataset, before: Kept) -> Kept:
    """What is to be kept of the networks in a study's folder that are not kept before."""
    found, code = attacked(folder, study, data), code_of("studies/evidence.py").split()[0]
    first = next(iter(study.ways))
    kept = Kept({}, {}, {})
    measured: dict[str, dict[int, Measured]] = {way: {} for way in study.ways}  # the first one, too, if it has none
    for way, seed, name in networks_of(study):
        if name in found and name not in before.results:
            split = f", without what compares it with {first}-{seed}" * (f"{first}-{seed}" in before.results)
            print(f"{name}{split}", flush=True)
            network, attacks = found[name]
            classifier = sr.Classifier(network, name)
            (result,) = sr.load_results(attacks)
            kept.results[name] = result = replace(result, model=name, path=None)
            check_comparable(next(iter((before.results | kept.results).values())), result)
            if study.evidence:
                path = folder / "measured" / f"{attacks.name}-{code}.npz"
                measured[way][seed] = measured_once(path, data, classifier, result, study)
            kept.means[name] = {"accuracy, whole test set": accuracy(data, classifier)}
            kept.rows[name] = training_row(data, classifier, network, study.runs()[name])
    largest_epsilon = max((each.epsilons.max() for each in kept.results.values()), default=0.0)
    for way, seeds in means_of(measured, largest_epsilon).items():
        for seed, means in seeds.items():
            kept.means[f"{way}-{seed}"] = {**kept.means[f"{way}-{seed}"], **means}
    return kept


def networks_of(study: Study) -> list[tuple[str, int, str]]:
    """Way, seed and name of each network of a study, those of a way together."""
    return [(way, seed, f"{way}-{seed}") for way in study.ways for seed in study.seeds]


def kept_in(folder: Path) -> Kept:
    """What a folder keeps of networks."""
    if not (folder / RECORD).exists():
        if (folder / "results.json").exists():
            raise ValueError(f"{folder} holds a results.json: compress it (gzip), or give another folder")
        return Kept({}, {}, {})
    means = {
        f"{way}-{seed}": own
        for way, seeds in load_means(folder / "measures.csv").items()
        for seed, own in seeds.items()
    }
    _, *rows = (folder / "training.csv").read_text(encoding="utf-8").splitlines()
    return Kept({each.model: each for each in results_of(folder)}, means, {row.split(",")[0]: row for row in rows})


def settings_of(study: Study) -> dict[str, dict[str, Any]]:
    """How the networks of each way are trained, as JSON holds it."""
    runs = {way: asdict(study.runs()[f"{way}-{study.seeds[0]}"]) for way in study.ways}
    settings = {way: {key: value for key, value in run.items() if key != "seed"} for way, run in runs.items()}
    return json.loads(json.dumps(settings))


def strange_in(folder: Path, before: Kept, study: Study, data: Dataset) -> str | None:
    """A network that a folder keeps and the study has not: of another name, trained otherwise, or on other data."""
    if not before.results:
        return None
    arguments = record_of(folder)["arguments"]
    names, wanted, trained = study.runs().keys(), settings_of(study), arguments["ways"]
    for name in before.results:
        way = name.rpartition("-")[0]
        known = name in names and trained[way].items() <= wanted[way].items()
        if not known or arguments["data"] != data.sha256:
            return name
    return None


def keep(folder: Path, kept: Kept, study: Study, data: Dataset, manifest: str) -> None:
    """Write what is kept of networks, in the order of a study."""
    networks = [each for each in networks_of(study) if each[-1] in kept.results]
    means: dict[str, dict[int, Mapping[str, float]]] = {}
    for way, seed, name in networks:
        means.setdefault(way, {})[seed] = kept.means[name]
    write_text(folder / "measures.csv", means_csv(means))  # before the results, which say of what networks all speaks
    write_text(folder / "training.csv", "\n".join([HEAD, *(kept.rows[name] for *_, name in networks)]) + "\n")
    arguments = {"manifest": f"studies/{manifest}", "data": data.sha256, "ways": settings_of(study)}
    keep_results(folder, [kept.results[name] for *_, name in networks], data.name, arguments)


def main() -> None:
    """Gather."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name in ("manifest", "study", "kept"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    study = read_manifest(given.manifest)
    data = sr.load_data(study.data, study.image_size)
    check_study(given.study, data)
    try:
        before = kept_in(given.kept)
    except ValueError as error:
        sys.exit(f"gather.py: {error}")
    measures = next(iter(before.means.values()), {})
    if measures and (len(measures) > 1) != study.evidence:
        sys.exit(f"gather.py: {given.kept} keeps networks of a study with other `evidence`: give another folder")
    if strange := strange_in(given.kept, before, study, data):
        sys.exit(f"gather.py: {given.kept} keeps a {strange} that is none of {given.manifest}: give another folder")
    try:
        new = gathered(given.study, study, data, before)
    except ValueError as error:
        sys.exit(f"gather.py: {error}")
    if not new.results:
        more = "that are not kept yet " * bool(before.results)
        sys.exit(f"gather.py: no networks of {given.manifest} {more}were trained and attacked in {given.study} so far")
    both = Kept(before.results | new.results, before.means | new.means, before.rows | new.rows)
    keep(given.kept, both, study, data, given.manifest.name)


if __name__ == "__main__":
    main()
