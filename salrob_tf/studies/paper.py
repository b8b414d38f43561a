"""The paper: its networks trained, attacked alike, and each of its tables and figures drawn by itself.

A network is called `<kind>-<seed>`, a kind being what networks of several seeds have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from matplotlib.figure import Figure

from salrob_tf.attacks.gradient import FGSM
from salrob_tf.attacks.registry import Entry
from salrob_tf.data.datasets import Dataset
from salrob_tf.data.folders import Images
from salrob_tf.models.classifier import Classifier
from salrob_tf.models.loading import load
from salrob_tf.reports import figures, tables
from salrob_tf.results.comparison import Comparison, compare
from salrob_tf.results.evidence import Evidence
from salrob_tf.results.methods import MethodComparison, compare_methods
from salrob_tf.results.robustness import Robustness
from salrob_tf.saliency.maps import saliency_maps
from salrob_tf.studies.evidence import attacks_to_show, gather
from salrob_tf.studies.pages import EVIDENCE, page_of_results
from salrob_tf.studies.runs import Run, check_run, train

KINDS: dict[str, dict[str, Any]] = {"regular": {"saliency": False}, "guided": {"saliency": True}}
PAPER_LINES = {"mnist5k": "mnist", "mnist": "mnist", "cifar10": "cifar10"}  # of Table 1, by data source
FIGURE_3_IMAGES = 5
SALIENCY_IMAGES = 6
SALIENCY_METHODS = ("gradient", "smoothgrad")  # signed both, so that one colour scale serves

T = TypeVar("T")


def make_runs(seeds: Iterable[int], kinds: Mapping[str, Mapping[str, Any]] = KINDS, **settings: Any) -> dict[str, Run]:
    """What is trained, by name: a network of each kind for each seed.

    Args:
        seeds: Seeds.
        kinds: Per kind, the fields of `Run` that make it.
        **settings: Other fields of `Run`, the same for all.

    Raises:
        ValueError: As `Run` does.
    """
    return {f"{kind}-{seed}": Run(**settings, **own, seed=seed) for seed in seeds for kind, own in kinds.items()}


def places(names: Iterable[str]) -> dict[str, str]:
    """The folder of each network's run, relative to that of the results."""
    return {name: f"models/{name}" for name in names}


def check_all(folder: Path, data: Dataset, runs: Mapping[str, Run], attacks: Iterable[Entry], **existing: bool) -> None:
    """See whether `train_all` would begin and `attacks` suit the data, before the first minute of training.

    Raises:
        ValueError: As `train` does, or if there are too few classes for an attack.
    """
    for attack in attacks:
        attack.check_classes(data.num_classes)
    for name, place in places(runs).items():
        check_run(folder / place, data, runs[name], **existing)
        runs[name].build(data)


def train_all(
    folder: Path,
    data: Dataset,
    runs: Mapping[str, Run],
    begin: Callable[[str], None] = lambda name: None,
    **options: Any,
) -> list[Classifier]:
    """Train networks one after the other.

    Args:
        folder: Of the results; each network goes into its place in it.
        data: What to train and test on.
        runs: What to train, by name.
        begin: Called with each name before it is trained.
        **options: `resume`, `overwrite` and `verbose`, as for `train`.

    Returns:
        The networks as attacks see them, in the order of `runs`.

    Raises:
        ValueError: As `train` does.
    """
    for name, place in places(runs).items():
        begin(name)
        train(folder / place, data, runs[name], **options)
    return [Classifier(folder / place, name) for name, place in places(runs).items()]


def by_kind(each: Mapping[str, T]) -> dict[str, list[T]]:
    """What there is for each network, by kind, in the order of the seeds; by name where there is one seed."""
    kinds: dict[str, list[str]] = {}
    for name in each:
        kinds.setdefault(name.rpartition("-")[0], []).append(name)
    several = any(len(names) > 1 for names in kinds.values())
    return {kind if several else names[0]: [each[name] for name in names] for kind, names in kinds.items()}


def results_by_kind(results: Iterable[Robustness]) -> dict[str, list[Robustness]]:
    """`by_kind` of results, which have the names of their networks."""
    return by_kind({result.model: result for result in results})


def compare_kinds(results: Iterable[Robustness]) -> list[Comparison | MethodComparison]:
    """The first kind compared with each other: as ways of training where there are several seeds, then seed by seed."""
    groups = results_by_kind(results)
    first, *others = groups
    ways = [compare_methods({first: groups[first], other: groups[other]}) for other in others if len(groups[first]) > 1]
    pairs = [compare(*pair) for other in others for pair in zip(groups[first], groups[other], strict=True)]
    return [*ways, *pairs]


def verdict(results: Iterable[Robustness]) -> str:
    """What `compare_kinds` finds, in words: of ways of training, or of two networks where there are no more."""
    found = compare_kinds(results)
    ways = [each for each in found if isinstance(each, MethodComparison)]
    return "\n\n".join(map(str, ways)) if ways else "\n\n".join(each.verdict for each in found)


def predict_all(classifier: Classifier, images: Images, part: int = 2048) -> np.ndarray:
    """Classes of all images, which are never in memory at once where they are in files."""
    return np.concatenate([classifier.predict(images[start : start + part]) for start in range(0, len(images), part)])


def correct_in_test(data: Dataset, classifiers: Iterable[Classifier]) -> dict[str, np.ndarray]:
    """Per network, whether it classifies each image of the whole test set correctly, boolean `(N,)`."""
    return {each.name: predict_all(each, data.x_test) == data.y_test for each in classifiers}


def accuracy_table(data: Dataset, correct: Mapping[str, np.ndarray], source: str = "") -> str:
    """The paper's Table 1 of what `correct_in_test` gives, with its own line where it has the data source."""
    return tables.table1(f"{data.name}, {len(data.x_test)} test images", by_kind(correct), PAPER_LINES.get(source))


def accuracy_curves(data: Dataset, results: Sequence[Robustness]) -> Figure:
    """Karkehabadi's Figure 1 or 2: accuracy against epsilon, a panel per attack."""
    seeds = list(dict.fromkeys(result.model.rpartition("-")[2] for result in results))
    count = {2: "two"}.get(len(results), len(results))
    whose = f"{count} networks, seed {seeds[0]}" if len(seeds) == 1 else f"networks of seeds {seeds[0]} to {seeds[-1]}"
    title = f"{data.name}, {len(results[0].clean)} test images, {whose}"
    return figures.robustness_curves(results_by_kind(results), title)


def adversarial_images(
    data: Dataset, classifiers: Iterable[Classifier], epsilons: Iterable[float], right: np.ndarray
) -> Figure:
    """Karkehabadi's Figure 3: what FGSM makes of test images, one of a class.

    Args:
        data: Whose test images.
        classifiers: Two networks, from left to right.
        epsilons: Radii, to which 0 is added.
        right: Which test images both get right, boolean `(N,)`; where there are none, others are shown.
    """
    rows = first_of_each_class(data, right if right.any() else ~right)[:FIGURE_3_IMAGES]
    x, y, ladder = data.x_test[rows], data.y_test[rows], np.unique([0.0, *epsilons])
    adversarial, predicted = {}, {}
    for each in classifiers:
        found = adversarial[each.name] = np.stack([FGSM()(each, x, y, epsilon) for epsilon in ladder])
        predicted[each.name] = np.stack([each.predict(images) for images in found])
    title = f"FGSM, {data.name}" + ", images that both networks classify correctly" * bool(right.any())
    return figures.adversarial_grid(adversarial, predicted, y, ladder, data.class_names, title)


def saliency_of(data: Dataset, models: Mapping[str, Any]) -> Figure:
    """Saliency maps of the first test image of each class, by gradients for each Keras model, by its name."""
    rows = first_of_each_class(data, np.ones(len(data.y_test), bool))[:SALIENCY_IMAGES]
    x, y = data.x_test[rows], data.y_test[rows]
    each = [(how, name) for how in SALIENCY_METHODS for name in models]
    maps = {f"{name}\n{how}": saliency_maps(models[name], x, y, how) for how, name in each}
    return figures.saliency_grid(x, maps, y, data.class_names, data.name)


def first_of_each_class(data: Dataset, among: np.ndarray) -> np.ndarray:
    """Rows of the first test image of each class where a mask is `True`."""
    rows = np.flatnonzero(among)
    return rows[np.unique(data.y_test[rows], return_index=True)[1]]


class Paper(NamedTuple):
    """All that tables and figures are drawn from: what the functions above take by these names."""

    source: str
    data: Dataset
    classifiers: list[Classifier]
    correct: dict[str, np.ndarray]
    results: list[Robustness]
    evidence: Evidence
    saved: dict[str, Any]  # what `save_results` takes beside results

    @property
    def pair(self) -> list[Classifier]:
        """The first network of each kind."""
        return [group[0] for group in by_kind({each.name: each for each in self.classifiers}).values()]


def _tables(paper: Paper) -> str:
    first, second = accuracy_table(paper.data, paper.correct, paper.source), results_by_kind(paper.results)
    return f"{first}\n{tables.robustness_table(second)}\n{verdict(paper.results)}\n"


def _figure_3(paper: Paper) -> Figure:
    right = np.all([paper.correct[each.name] for each in paper.pair], axis=0)
    return adversarial_images(paper.data, paper.pair[::-1], paper.results[0].epsilons, right)


def evidence_of(
    data: Dataset, classifiers: Sequence[Classifier], results: Sequence[Robustness], attacks: Iterable[Entry]
) -> Evidence:
    """What is to be seen of the first network of each kind."""
    found = {result.model: result for result in results}
    first = [group[0] for group in by_kind({each.name: each for each in classifiers}).values()]
    return gather(data, first, [found[each.name] for each in first], attacks_to_show(attacks))


def _page(paper: Paper) -> str:
    files, run = {"table1.md": _tables(paper).encode()}, {"script": "reproduce.py"}
    return page_of_results(results_by_kind(paper.results), evidence=paper.evidence, files=files, run=run, **paper.saved)


# What is written, by the names of files.
FILES: dict[str, Callable[[Paper], str | bytes | Figure]] = {
    "table1.md": _tables,
    "figure1.png": lambda paper: accuracy_curves(paper.data, paper.results),
    "figure3.png": _figure_3,
    "saliency.png": lambda paper: saliency_of(paper.data, {each.name: load(each.path or "") for each in paper.pair}),
    EVIDENCE: lambda paper: paper.evidence.to_bytes(),
    "report.html": _page,
}


def file_names(source: str) -> list[str]:
    """The names of `FILES` for a data source: the paper draws MNIST as Figure 1, CIFAR-10 as Figure 2."""
    return [name.replace("figure1", "figure2") if source == "cifar10" else name for name in FILES]


def draw_all(paper: Paper) -> dict[str, str | bytes | Figure]:
    """All tables and figures, by the names of their files."""
    return {name: draw(paper) for name, draw in zip(file_names(paper.source), FILES.values(), strict=True)}
