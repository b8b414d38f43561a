"""Attacking one model with every attack at every epsilon (K, section 3), streamed and resumable."""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from salrob_tf.attacks.base import Attack
from salrob_tf.attacks.starts import check_indices
from salrob_tf.checks import check_folder, shown
from salrob_tf.data.arrays import check_labels, fingerprint
from salrob_tf.data.shards import shards_of
from salrob_tf.evaluation.checkpoint import Checkpoint
from salrob_tf.evaluation.counts import ONE_DRAW, SEVERAL_DRAWS, Counts
from salrob_tf.evaluation.inspection import chance, inspect
from salrob_tf.evaluation.plans import (
    check_epsilons,
    check_options,
    check_suits,
    choose_attacks,
    default_epsilons,
    settings_of,
)
from salrob_tf.evaluation.search import Sweep
from salrob_tf.evaluation.trust import Sample, flags_of
from salrob_tf.files import check_file, locked, written_beside
from salrob_tf.models.classifier import as_classifier
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
    attacks: str | Attack | Sequence[str | Attack] = DEFAULT_ATTACKS,
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

    Args:
        model: Anything that `Classifier` takes.
        images: Floats in [0, 1], `(N, height, width, channels)`, or 8-bit integers for a `Classifier` whose `bounds`
            are 0 and 255; or images in files, as `load_data` gives them for a folder, or a `tf.data.Dataset` of
            batches of images and labels, both of which are streamed.
        labels: True labels, integers `(N,)`; none with a dataset.
        attacks: Names of attacks, or `Attack` objects, which bring settings of their own; one or several.
        epsilons: Radii of the balls, 0 or more, in the units of the images, in any order; `default_epsilons`
            unless given.
        norm: `np.inf` (`"inf"`) or 2, for attacks given by name.
        steps: Steps of the iterative attacks given by name.
        restarts: Random restarts of PGD where given by name.
        seed: Seed of random starts, the same for every model, 0 to 2^63 - 1.
        batch_size: Images per gradient, at most.
        survivors_only: Attack only what still stands: an image misclassified as it is, or broken at a smaller
            epsilon, counts as broken, and one that breaks stops costing gradients. `False` attacks every image at
            every epsilon by itself and judges the last step, as in K's figures; accuracy may then rise with epsilon.
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
    ascending, order = np.unique(radii, return_inverse=True)
    chosen = choose_attacks(attacks, norm=norm, steps=steps, restarts=restarts)
    if ascending[-1] > 1 and any(attack.norm == np.inf for attack in chosen.values()):
        warnings.warn(f"epsilon {ascending[-1]:g} is larger than the range of the images, [0, 1]", stacklevel=2)
    classifier.refresh()
    check_suits(classifier, chosen, craft_dtype)
    # FGSM's one gradient is not worth the loss, and the attacks that are not packed take float32.
    dtypes = {label: craft_dtype if attack.packs else "float32" for label, attack in chosen.items()}
    settings, before = {}, None
    for label, attack in chosen.items():
        settings[label] = settings_of(attack, search if survivors_only else "independent", before, dtypes[label])
        before = label
    if (
        checkpoint is not None
        and adversarials is not None
        and os.path.realpath(checkpoint) == os.path.realpath(adversarials)
    ):
        raise ValueError(f"`checkpoint` and `adversarials` must be different folders. Received: both {checkpoint}")
    if indices is not None:
        if total is None:
            raise ValueError(f"`indices` go with an array, not with a dataset. Received: indices={shown(indices)}")
        indices = check_indices(indices, total)
    digests, seen, clean = (hashlib.sha256(), hashlib.sha256()), 0, []
    correct: dict[str, list[np.ndarray]] = {label: [] for label in chosen}
    costs = {label: dict.fromkeys(("seconds", *vars(Counts())), 0.0) for label in chosen}
    done, draws, sample = 0, ONE_DRAW, Sample()
    with nullcontext() if checkpoint is None else locked(checkpoint):
        kept = None
        if checkpoint is not None:
            identity = {"model": classifier.fingerprint, "epsilons": ascending.tolist(), "seed": seed}
            identity |= {"batch_size": batch_size, "adversarials": adversarials is not None}
            kept = Checkpoint(checkpoint, identity | {"bounds": list(classifier.bounds), "attacks": settings})
        for number, (x, y) in enumerate(shards):
            x = classifier.check(x)
            y = check_labels(y, len(x), classifier.num_classes)
            rows = np.arange(seen, seen + len(x)) if indices is None else indices[seen : seen + len(x)]
            seen += len(x)
            sha256 = fingerprint(x, y, rows)
            for digest, column in zip(digests, (x, y), strict=True):
                digest.update(np.ascontiguousarray(column).data)
            predicted = classifier.classify(x, batch_size)
            if not number:
                description, flags = inspect(classifier, x, y, chosen, batch_size)
                if not description["deterministic"]:
                    draws = SEVERAL_DRAWS
                    description["draws"] = draws._asdict()
            clean.append(predicted == y)
            if draws.judging > 1:  # what was attacked before is what is to be attacked now
                part = kept.load(CLEAN, number, sha256) if kept else None
                clean[-1] = part["correct"] if part else classifier.classifies(x, y, batch_size, draws.judging)
                if kept and not part:
                    kept.save(CLEAN, number, sha256, correct=clean[-1])
            if not number:
                soon = chance(classifier, clean[0])
                _warn(flags + soon)
            sampled = sample.take(x, y, clean[-1])
            guess = None
            for label, attack in chosen.items():
                report = _Report(progress, label, done, None if total is None else total * len(chosen))
                file = None if adversarials is None else adversarials / f"{label}-{number:05d}.npz"
                if file is not None:
                    check_file(file)
                part = kept.load(label, number, sha256, file) if kept else None
                if part is None:
                    began = time.perf_counter()
                    sweep = Sweep(
                        attack, classifier, x, y, clean[-1], ascending, rows, seed, batch_size, dtypes[label], report,
                        guess=guess, keep_all=adversarials is not None, draws=draws,
                    )  # fmt: skip
                    outcome = sweep.survivors(search) if survivors_only else sweep.everything()
                    seconds = time.perf_counter() - began
                    part = {"correct": outcome, "seconds": np.array(seconds)}
                    part |= {key: np.array(value) for key, value in vars(sweep.counts).items()}
                    if file is not None:
                        with written_beside(file) as beside:
                            np.savez_compressed(beside, indices=rows, images=sweep.found)
                    if kept:
                        kept.save(label, number, sha256, file, **part)
                correct[label].append(part.pop("correct"))
                sample.keep(label, correct[label][-1][:, sampled])
                guess = correct[label][-1].sum(axis=0)
                for key, value in part.items():
                    costs[label][key] += float(value)
                done += len(x)
                report.finish(done)
    if not seen:
        raise ValueError("`images` must hold at least one image. Received: an empty dataset")
    guessing = chance(classifier, np.concatenate(clean))
    if not soon:
        _warn(guessing)
    shares = {label: cost["flat"] / max(1.0, cost["attacked"]) for label, cost in costs.items()}
    found = flags_of(
        sample, classifier, chosen, dtypes, shares, ascending,
        at_chance=bool(guessing), seed=seed, draws=draws, batch_size=batch_size,
    )  # fmt: skip
    _warn(found)
    return Robustness(
        model=name or classifier.name,
        epsilons=radii,
        indices=np.arange(seen) if indices is None else indices,
        clean=np.concatenate(clean),
        correct={label: np.concatenate(parts, axis=1)[order] for label, parts in correct.items()},
        attacks=settings,
        costs={
            label: {
                "seconds": cost["seconds"],
                "gradient_evaluations": int(cost["gradients"]),
                "forward_evaluations": int(cost["forwards"]),
                "padding": int(cost["padding"]),
                "traces": classifier.traces((chosen[label], dtypes[label])),
                "zero_gradients": shares[label],
            }
            for label, cost in costs.items()
        },
        seed=seed,
        sha256=hashlib.sha256("".join(digest.hexdigest() for digest in digests).encode()).hexdigest(),
        path=classifier.path,
        description=description,
        flags=(*flags, *guessing, *found),
    )


def _warn(flags: Iterable[Flag]) -> None:
    for flag in flags:
        warnings.warn(str(flag), stacklevel=3)


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
