"""Attacking one model with every attack at every epsilon (K, section 3), streamed and resumable."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from salrob_tf.attack import Attack
from salrob_tf.attacks import make_attack
from salrob_tf.checkpoint import Checkpoint
from salrob_tf.classifier import as_classifier
from salrob_tf.datasets import check_labels, fingerprint
from salrob_tf.files import written_beside
from salrob_tf.folders import ImageFiles
from salrob_tf.inspection import inspect
from salrob_tf.robustness import Robustness
from salrob_tf.steps import NORMS
from salrob_tf.sweep import SEARCHES, Sweep

DEFAULT_ATTACKS = ("fgsm", "bim", "pgd", "mim")
SHARD_BATCHES = 8  # a shard is what is in memory and what a kill can lose; full batches want several in one
CRAFT_DTYPES = ("float32", "bfloat16")

Progress = Callable[[str, int, int | None, int], None]


def evaluate(
    model: Any,
    images: Any,
    labels: np.ndarray | None = None,
    attacks: Sequence[str | Attack] = DEFAULT_ATTACKS,
    epsilons: Sequence[float] | np.ndarray | None = None,
    *,
    norm: float = np.inf,
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

    Args:
        model: Anything that `Classifier` takes.
        images: Floats in [0, 1], `(N, height, width, channels)`, or 8-bit integers for a `Classifier` whose `bounds`
            are 0 and 255; or images in files, as `load_data` gives them for a
            folder, or a `tf.data.Dataset` of batches of images and labels, both of which are streamed.
        labels: True labels, integers `(N,)`; none with a dataset.
        attacks: Names of attacks, or `Attack` objects, which bring settings of their own.
        epsilons: Radii of the balls, 0 or more, in the units of the images, in any order; `default_epsilons`
            unless given.
        norm: `np.inf` or 2, for attacks given by name.
        steps: Steps of the iterative attacks given by name.
        restarts: Random restarts of PGD where given by name.
        seed: Seed of random starts, the same for every model.
        batch_size: Images per gradient.
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
        A `Robustness`.

    Raises:
        ValueError: If an argument is not valid, the model has no finite gradient, or the checkpoint is of another
            sweep: one line says which, and what is valid.
    """
    classifier = as_classifier(model)
    radii = check_epsilons(default_epsilons(classifier.input_shape) if epsilons is None else epsilons)
    ascending, order = np.unique(radii, return_inverse=True)
    chosen = choose_attacks(attacks, norm=norm, steps=steps, restarts=restarts)
    if seed < 0 or batch_size < 1:
        raise ValueError(f"`seed` must be 0 or more, `batch_size` 1 or more. Received: {seed=}, {batch_size=}")
    if search not in SEARCHES or craft_dtype not in CRAFT_DTYPES:
        raise ValueError(
            f"`search` must be one of {SEARCHES}, `craft_dtype` one of {CRAFT_DTYPES}. "
            f"Received: {search=}, {craft_dtype=}"
        )
    if ascending[-1] > 1 and any(attack.norm == np.inf for attack in chosen.values()):
        warnings.warn(f"epsilon {ascending[-1]:g} is larger than the range of the images, [0, 1]", stacklevel=2)
    classifier.crafting(craft_dtype)
    # FGSM's one gradient is not worth the loss, and the attacks that are not packed take float32.
    dtypes = {label: craft_dtype if attack.packs else "float32" for label, attack in chosen.items()}
    search_name = search if survivors_only else "independent"
    settings = {label: _settings(attack, search_name, dtypes[label]) for label, attack in chosen.items()}
    kept = None
    if checkpoint is not None:
        identity = {"model": classifier.fingerprint, "epsilons": ascending.tolist(), "seed": seed}
        identity |= {"batch_size": batch_size, "adversarials": adversarials is not None}
        identity |= {"bounds": list(classifier.bounds)}
        kept = Checkpoint(checkpoint, {**identity, "attacks": settings})

    shards, total = _shards(images, labels, batch_size * SHARD_BATCHES)
    indices = None if indices is None else np.asarray(indices)
    if indices is not None and (total is None or indices.shape != (total,)):
        raise ValueError(f"`indices` must be one per image of an array. Received: shape={indices.shape}")
    digests, seen, clean = (hashlib.sha256(), hashlib.sha256()), 0, []
    correct: dict[str, list[np.ndarray]] = {label: [] for label in chosen}
    costs = {label: dict.fromkeys(("seconds", "gradients", "forwards", "attacked", "flat"), 0.0) for label in chosen}
    done = 0
    for number, (x, y) in enumerate(shards):
        x = classifier.check(x)
        y = check_labels(y, len(x), classifier.num_classes)
        rows = np.arange(seen, seen + len(x)) if indices is None else indices[seen : seen + len(x)]
        seen += len(x)
        sha256 = fingerprint(x, y, rows)
        for digest, column in zip(digests, (x, y), strict=True):
            digest.update(np.ascontiguousarray(column).data)
        clean.append(classifier.predict(x, batch_size) == y)
        if not number:
            description, doubts = inspect(classifier, x, y, clean[-1])
            for doubt in doubts:
                warnings.warn(doubt, stacklevel=2)
        guess = None
        for label, attack in chosen.items():
            report = _Report(progress, label, done, None if total is None else total * len(chosen))
            part = kept.load(label, number, sha256) if kept else None
            if part is None:
                began = time.perf_counter()
                sweep = Sweep(
                    attack, classifier, x, y, clean[-1], ascending, rows, seed, batch_size, dtypes[label], report,
                    guess=guess, keep_all=adversarials is not None,
                )  # fmt: skip
                outcome = sweep.survivors(search) if survivors_only else sweep.everything()
                seconds = time.perf_counter() - began
                part = {"correct": outcome, "seconds": np.array(seconds)}
                part |= {key: np.array(value) for key, value in vars(sweep.counts).items()}
                if adversarials is not None:
                    with written_beside(Path(adversarials) / f"{label}-{number:05d}.npz") as beside:
                        np.savez_compressed(beside, indices=rows, images=sweep.found)
                if kept:
                    kept.save(label, number, sha256, **part)
            correct[label].append(part.pop("correct"))
            guess = correct[label][-1].sum(axis=0)
            for key, value in part.items():
                costs[label][key] += float(value)
            done += len(x)
            report.finish(done)
    if not seen:
        raise ValueError("`images` must hold at least one image. Received: an empty dataset")
    _warn_of_flat_gradients(costs)
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
                "traces": classifier.traces((chosen[label], dtypes[label])),
                "zero_gradients": cost["flat"] / max(1.0, cost["attacked"]),
            }
            for label, cost in costs.items()
        },
        seed=seed,
        sha256=hashlib.sha256("".join(digest.hexdigest() for digest in digests).encode()).hexdigest(),
        path=classifier.path,
        description=description,
    )


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


def choose_attacks(attacks: Sequence[str | Attack], **settings: Any) -> dict[str, Attack]:
    """Attacks by their labels.

    Args:
        attacks: Names or `Attack` objects.
        **settings: Passed on to `make_attack` with names.

    Raises:
        ValueError: If there are none, one is unknown, or two have one label.
    """
    chosen = [make_attack(attack, **settings) for attack in attacks]
    by_label = {attack.label: attack for attack in chosen}
    if not chosen or len(by_label) != len(chosen):
        raise ValueError(
            f"`attacks` must be one or more, each once. Received: attacks={[attack.label for attack in chosen]}"
        )
    return by_label


def _shards(images: Any, labels: Any, size: int) -> tuple[Iterator[tuple[Any, Any]], int | None]:
    """Parts of `size` images with their labels, and the number of images where it is known."""
    if isinstance(images, tf.data.Dataset):
        if labels is not None:
            raise ValueError("A dataset brings its own labels: leave `labels` out")
        parts = images.unbatch().batch(size)
        return ((x.numpy(), y.numpy()) for x, y in parts), None
    images, labels = images if isinstance(images, ImageFiles) else np.asarray(images), np.asarray(labels)
    labels = check_labels(labels, len(images)) if len(images) else labels
    starts = range(0, max(1, len(images)), size)
    return ((images[start : start + size], labels[start : start + size]) for start in starts), len(images)


def _settings(attack: Attack, search: str, dtype: str) -> dict[str, Any]:
    norm = next(text for text, value in NORMS.items() if value == attack.norm)
    how = {"search": search, "craft_dtype": dtype}
    return {**asdict(attack), "norm": norm, "relative_step": attack.step_size(1.0), **how}


def _warn_of_flat_gradients(costs: dict[str, dict[str, float]]) -> None:
    shares = {label: cost["flat"] / max(1.0, cost["attacked"]) for label, cost in costs.items()}
    flat = [f"{label} {share:.1%}" for label, share in shares.items() if share]
    if flat:
        warnings.warn(
            f"The gradient was zero for some of the images attacked ({', '.join(flat)}): the attack learns nothing "
            "there. Try a margin loss, such as pgd-margin",
            stacklevel=3,
        )


def default_epsilons(input_shape: tuple[int, ...]) -> tuple[float, ...]:
    """Radii that tell networks apart: 0.05 to 0.3 on grey images, 1, 2, 4, 6, 8 and 16 255ths on others."""
    grey = input_shape[-1] == 1
    return (0.05, 0.1, 0.15, 0.2, 0.25, 0.3) if grey else tuple(step / 255 for step in (1, 2, 4, 6, 8, 16))


def check_epsilons(epsilons: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return radii as a float64 array `(K,)`, in their order.

    Raises:
        ValueError: If there are none, or one is negative, NaN or infinite.
    """
    radii = np.atleast_1d(np.asarray(epsilons, np.float64))
    if radii.ndim != 1 or not radii.size or not np.all((radii >= 0) & np.isfinite(radii)):
        raise ValueError(f"`epsilons` must be one or more numbers, 0 or more. Received: epsilons={epsilons}")
    return radii
