"""Attacking one model with every attack at every epsilon (Karkehabadi 2023, section 3), streamed and resumable."""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from salrob_tf.attacks.base import Attack
from salrob_tf.attacks.registry import Entry
from salrob_tf.attacks.starts import check_indices
from salrob_tf.checks import check_folder, shown
from salrob_tf.data.arrays import check_labels, fingerprint
from salrob_tf.data.shards import shards_of
from salrob_tf.evaluation.checkpoint import Checkpoint
from salrob_tf.evaluation.counts import ONE_DRAW, SEVERAL_DRAWS, Counts
from salrob_tf.evaluation.inspection import chance, inspect
from salrob_tf.evaluation.plans import (
    Plan,
    check_epsilons,
    check_options,
    check_suits,
    choose_attacks,
    default_epsilons,
)
from salrob_tf.evaluation.search import Sweep
from salrob_tf.evaluation.trust import Sample, flags_of
from salrob_tf.files import check_file, locked, written_beside
from salrob_tf.models.classifier import as_classifier
from salrob_tf.results.costs import Member, sum_of
from salrob_tf.results.flags import Flag
from salrob_tf.results.robustness import LONGEST_NAME, Robustness, is_printable

DEFAULT_ATTACKS = ("fgsm", "bim", "pgd", "mim")
SHARD_BATCHES = 8  # a shard is what is in memory and what a kill can lose; full batches want several in one
LARGEST_SHARD = 2**17  # images: no batch size asks for more memory than that
CLEAN = "none"  # the attack that a checkpoint keeps the clean outcomes of random networks under

Progress = Callable[[str, int, int | None, int], None]


def evaluate(
    model: Any,
    images: Any,
    labels: np.ndarray | None = None,
    attacks: str | Entry | Sequence[str | Entry] = DEFAULT_ATTACKS,
    epsilons: float | Sequence[float] | np.ndarray | None = None,
    *,
    norm: float | str = np.inf,
    steps: int = 40,
    restarts: int = 1,
    seed: int = 0,
    batch_size: int = 256,
    survivors_only: bool = True,
    search: str = "bisect",
    craft_dtype: str = "float32",
    indices: np.ndarray | None = None,
    name: str | None = None,
    checkpoint: str | Path | None = None,
    adversarials: str | Path | None = None,
    progress: Progress | None = None,
) -> Robustness:
    """Attack a model at every epsilon.

    Of a model that gives other logits when it is asked again, gradients are means over 10 draws (Athalye et al. 2018,
    expectation over transformation), all steps are taken, and an image counts as classified correctly, clean or
    attacked, where more than half of 51 fresh draws say so: judged at each step, it would fall to one lucky draw.

    Example:
        >>> result = sr.evaluate(network, images, labels, ["fgsm", "pgd"], [0.05, 0.1], steps=10)
        >>> bool((result.accuracy("pgd") <= result.clean_accuracy).all())
        True

    Args:
        model: Anything that `Classifier` takes.
        images: Floats in [0, 1], `(N, height, width, channels)`, or 8-bit integers for a `Classifier` whose `bounds`
            are 0 and 255; or images in files, as `load_data` gives them for a folder, or a `tf.data.Dataset` of
            batches of images and labels, both of which are streamed.
        labels: True labels, integers `(N,)`; none with a dataset.
        attacks: Names of attacks, or `Attack` or `AutoAttack` objects, which bring settings of their own; one or
            several.
        epsilons: Radii of the balls, 0 or more, in the units of the images, in any order; `default_epsilons`
            unless given.
        norm: `np.inf` (`"inf"`) or 2, for attacks given by name.
        steps: Steps of the iterative attacks given by name.
        restarts: Random restarts of PGD and SPSA where given by name.
        seed: Seed of random starts, the same for every model, 0 to 2^63 - 1.
        batch_size: Images per gradient, at most.
        survivors_only: Attack only what still stands: an image misclassified as it is, or broken at a smaller
            epsilon, counts as broken, and one that breaks stops costing gradients. `False` attacks every image at
            every epsilon by itself and judges the last step, as in the paper's figures; accuracy may then rise with it.
            Ensembles attack only what still stands in any case.
        search: Of survivors: `"bisect"` finds the smallest epsilon that breaks an image from where the attack before
            broke it, on the assumption that an image which survives one epsilon survives all smaller ones; `"full"`
            goes up one by one.
        craft_dtype: What gradients of iterative attacks are computed in, `"float32"` or `"bfloat16"`, which is faster
            on hardware made for it (AVX-512 BF16, recent GPUs) and a little weaker. An image counts as broken only
            if the model itself, in float32, misclassifies it.
        indices: Index of each image in its dataset, by default 0 to N - 1: random starts go with it.
        name: What results call the model.
        checkpoint: Folder that keeps finished parts; called again with it, the sweep goes on and gives the same.
        adversarials: Folder for adversarial images, a file `<attack>-<shard>.npz` for each attack and shard with
            `indices` and `images`: with `survivors_only` one per image, `(N, height, width, channels)`, of the
            smallest epsilon that breaks it (the image itself where none does), else `(K, N, ...)`, epsilon ascending.
        progress: Called with the attack's label, image-attack pairs whose fate is known, all of them (`None` if the
            dataset does not tell), and the images of the shard at hand that still stand.

    Returns:
        A `Robustness`, whose `flags` say what speaks against it. Each is a warning too.

    Raises:
        ValueError: If an argument is not valid, the model has no finite gradient, or the checkpoint is of another
            sweep: one line says which, and what is valid.
    """
    seed, batch_size = check_options(seed, batch_size, survivors_only, search, craft_dtype)
    if progress is not None and not callable(progress):
        raise ValueError(f"`progress` must be a function of four arguments. Received: progress={shown(progress)}")
    if name is not None and not (isinstance(name, str) and is_printable(name)):
        raise ValueError(
            f"`name` must be of printable characters, {LONGEST_NAME} at most. Received: name={shown(name)}"
        )
    checkpoint = None if checkpoint is None else check_folder("checkpoint", checkpoint)
    adversarials = None if adversarials is None else check_folder("adversarials", adversarials)
    classifier = as_classifier(model)
    size = min(batch_size * SHARD_BATCHES, LARGEST_SHARD)
    shards, total = shards_of(images, labels, size, classifier.num_classes)
    radii = check_epsilons(default_epsilons(classifier.input_shape) if epsilons is None else epsilons)
    chosen = choose_attacks(attacks, norm=norm, steps=steps, restarts=restarts)
    if radii.max() > 1 and any(attack.norm == np.inf for attack in chosen.values()):
        warnings.warn(f"epsilon {radii.max():g} is larger than the range of the images, [0, 1]", stacklevel=2)
    classifier.refresh()
    chains = check_suits(classifier, chosen, craft_dtype)
    keep = adversarials is not None
    plan = Plan(classifier, chains, radii, seed, batch_size, survivors_only, search, craft_dtype, keep)
    if checkpoint and adversarials and os.path.realpath(checkpoint) == os.path.realpath(adversarials):
        raise ValueError(f"`checkpoint` and `adversarials` must be different folders. Received: both {checkpoint}")
    if indices is not None:
        if total is None:
            raise ValueError(f"`indices` go with an array, not with a dataset. Received: indices={shown(indices)}")
        indices = check_indices(indices, total)
    with nullcontext() if checkpoint is None else locked(checkpoint):
        kept = None if checkpoint is None else Checkpoint(checkpoint, plan.identity)
        work = _Work(plan, indices, kept, adversarials, progress, total)
        for x, y in shards:
            work.take(x, y)
    return work.result(name)


class _Work:
    """A plan carried out: shards are taken one after the other, and what became of their images is collected."""

    def __init__(
        self,
        plan: Plan,
        indices: np.ndarray | None,
        kept: Checkpoint | None,
        adversarials: Path | None,
        progress: Progress | None,
        total: int | None,
    ) -> None:
        self.plan, self.indices, self.kept, self.adversarials = plan, indices, kept, adversarials
        self.progress, self.total = progress, None if total is None else total * len(plan.chains)
        self.digests = hashlib.sha256(), hashlib.sha256()
        self.number = self.seen = self.done = 0
        self.draws, self.sample = ONE_DRAW, Sample()
        self.clean: list[np.ndarray] = []
        # For each member of each chain, what it left, shard by shard, and what it cost.
        self.left: dict[str, list[list[np.ndarray]]] = {label: [[] for _ in run] for label, run in plan.chains.items()}
        self.counts = {label: [Counts() for _ in chain] for label, chain in plan.chains.items()}

    def take(self, x: np.ndarray, y: np.ndarray) -> None:
        """Attack a shard with every attack."""
        x = self.plan.classifier.check(x)
        y = check_labels(y, len(x), self.plan.classifier.num_classes)
        given = slice(self.seen, self.seen + len(x))
        rows = np.arange(given.start, given.stop) if self.indices is None else self.indices[given]
        sha256 = fingerprint(x, y, rows)
        for digest, column in zip(self.digests, (x, y), strict=True):
            digest.update(np.ascontiguousarray(column).data)
        clean = self._look(x, y, sha256)
        sampled = self.sample.take(x, y, clean)
        guess = None
        for label in self.plan.chains:
            report = _Report(self.progress, label, self.done, self.total)
            correct = self._attack(label, _Shard(x, y, rows, clean, sha256), guess, report)
            self.sample.keep(label, correct[:, sampled])
            guess = correct.sum(axis=0)
            self.done += len(x)
            report.finish(self.done)
        self.clean.append(clean)
        self.number, self.seen = self.number + 1, given.stop

    def _look(self, x: np.ndarray, y: np.ndarray, sha256: str) -> np.ndarray:
        """Which images are classified correctly as they are; of the first shard, what is to be said of the model."""
        classifier, size = self.plan.classifier, self.plan.batch_size
        clean = classifier.classify(x, size) == y
        if not self.number:
            self.description, self.flags = inspect(classifier, x, y, self.plan.attacks, size)
            if not self.description["deterministic"]:
                self.draws = SEVERAL_DRAWS
                self.description["draws"] = self.draws._asdict()
        if self.draws.judging > 1:  # what was attacked before is what is to be attacked now
            part = self.kept.load(CLEAN, self.number, sha256) if self.kept else None
            clean = part["correct"] if part else classifier.classifies(x, y, size, self.draws.judging)
            if self.kept and not part:
                self.kept.save(CLEAN, self.number, sha256, correct=clean)
        if not self.number:
            self.said = chance(classifier, clean)
            _warn(self.flags + self.said, above=3)
        return clean

    def _attack(self, label: str, shard: _Shard, guess: np.ndarray | None, report: _Report) -> np.ndarray:
        """What an attack leaves of a shard, or the last of an ensemble, `(K, N)`."""
        chain, before = self.plan.chains[label], None
        for number, attack in enumerate(chain):
            last = number == len(chain) - 1
            name = label if len(chain) == 1 else f"{label}-{attack.label}"
            file = self.adversarials / f"{label}-{self.number:05d}.npz" if self.adversarials and last else None
            # What becomes known is told once; until then, how many stand.
            told = report if last else lambda known, standing: report(0, standing)
            part = self._part(name, attack, shard, guess, before, file, told)
            correct, found = part.pop("correct"), part.pop("found", shard.images)
            self.left[label][number].append(correct)
            self.counts[label][number].add(Counts(**{key: value.item() for key, value in part.items()}))
            before = correct, found
        return correct

    def _part(
        self,
        name: str,
        attack: Attack,
        shard: _Shard,
        guess: np.ndarray | None,
        before: tuple[np.ndarray, np.ndarray] | None,
        file: Path | None,
        report: Callable[[int, int], None],
    ) -> dict[str, np.ndarray]:
        """What one attack did to a shard, done now or kept from before; with `file` its adversarials are there."""
        if file is not None:
            check_file(file)
        part = self.kept.load(name, self.number, shard.sha256, file) if self.kept else None
        if part is not None:
            return part
        plan, began = self.plan, time.perf_counter()
        sweep = Sweep(
            attack, plan.classifier, shard.images, shard.labels, shard.clean, plan.ascending, shard.indices, plan.seed,
            plan.batch_size, plan.dtype(attack), report, before, guess, plan.keep, self.draws,
        )  # fmt: skip
        independent = not plan.survivors_only and name in plan.chains
        outcome = sweep.everything() if independent else sweep.survivors(plan.search if plan.survivors_only else "full")
        sweep.counts.seconds = time.perf_counter() - began
        part = {"correct": outcome} | {key: np.array(value) for key, value in vars(sweep.counts).items()}
        if file is not None:
            with written_beside(file) as beside:
                np.savez_compressed(beside, indices=shard.indices, images=sweep.found)
        elif plan.keep:
            part["found"] = sweep.found
        if self.kept:
            self.kept.save(name, self.number, shard.sha256, file, **part)
        return part

    def result(self, name: str | None) -> Robustness:
        """All shards together, and what speaks against them."""
        if not self.seen:
            raise ValueError("`images` must hold at least one image. Received: an empty dataset")
        plan, clean = self.plan, np.concatenate(self.clean)
        guessing = chance(plan.classifier, clean)
        if not self.said:
            _warn(guessing, above=2)
        order = np.searchsorted(plan.ascending, plan.epsilons)
        members = {label: self._members(label, order) for label in plan.chains}
        costs = {
            label: sum_of([each.costs for each in members[label]], self._zero_gradients(label)) for label in plan.chains
        }
        found = flags_of(self.sample, plan, costs, draws=self.draws, at_chance=bool(guessing))
        _warn(found, above=2)
        return Robustness(
            model=name or plan.classifier.name,
            epsilons=plan.epsilons,
            indices=np.arange(self.seen) if self.indices is None else self.indices,
            clean=clean,
            correct={label: np.concatenate(left[-1], axis=1)[order] for label, left in self.left.items()},
            attacks=plan.settings,
            costs=costs,
            members={label: each for label, each in members.items() if len(each) > 1},
            seed=plan.seed,
            sha256=hashlib.sha256("".join(digest.hexdigest() for digest in self.digests).encode()).hexdigest(),
            path=plan.classifier.path,
            description=self.description,
            flags=(*self.flags, *guessing, *found),
        )

    def _members(self, label: str, order: np.ndarray) -> tuple[Member, ...]:
        """What each attack of a chain left and cost; `order` is that of the user's epsilons."""
        found = []
        for attack, left, counts in zip(self.plan.chains[label], self.left[label], self.counts[label], strict=True):
            costs = counts.costs(self.plan.classifier.traces((attack, self.plan.dtype(attack))))
            accuracy = np.concatenate(left, axis=1)[order].mean(axis=1)
            found.append(Member(attack.label, tuple(accuracy.tolist()), costs))
        return tuple(found)

    def _zero_gradients(self, label: str) -> float:
        """The share of zero gradients of the member that stands for a chain."""
        at = self.plan.chains[label].index(self.plan.attacks[label])
        return self.counts[label][at].costs(0).zero_gradients


class _Shard(NamedTuple):
    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray
    clean: np.ndarray
    sha256: str


def _warn(flags: Iterable[Flag], above: int) -> None:
    for flag in flags:
        warnings.warn(str(flag), stacklevel=above + 2)  # who called `evaluate`


class _Report:
    """Turns what a sweep reports into what `progress` is called with."""

    def __init__(self, progress: Progress | None, label: str, done: int, total: int | None) -> None:
        self.progress, self.label, self.done, self.total = progress, label, done, total
        self.standing = 0

    def __call__(self, known: int, standing: int) -> None:
        self.done += known
        self.standing = standing
        if self.progress:
            self.progress(self.label, self.done, self.total, standing)

    def finish(self, done: int) -> None:
        if self.done != done:
            self(done - self.done, self.standing)
