"""Attacking one model with every attack at every epsilon (Karkehabadi 2023, section 3), streamed and resumable."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from salrob_tf.attacks.registry import Entry
from salrob_tf.attacks.starts import check_indices
from salrob_tf.checks import check_folder, shown
from salrob_tf.data.shards import shards_of
from salrob_tf.evaluation.checkpoint import Checkpoint
from salrob_tf.evaluation.plans import (
    check_epsilons,
    check_options,
    choose_attacks,
    default_epsilons,
    plan_of,
)
from salrob_tf.evaluation.work import Progress, Work
from salrob_tf.files import locked
from salrob_tf.models.classifier import as_classifier
from salrob_tf.results.robustness import LONGEST_NAME, Robustness, is_printable

DEFAULT_ATTACKS = ("fgsm", "bim", "pgd", "mim")
SHARD_BATCHES = 8  # a shard is what is in memory and what a kill can lose; full batches want several in one
LARGEST_SHARD = 2**17  # images: no batch size asks for more memory than that


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
        attacks: Names of attacks, or `Attack`, `AutoAttack` or `WorstCase` objects, which bring settings of their own;
            one or several.
        epsilons: Radii of the balls, 0 or more, in the units of [0, 1], of 8-bit images, too, in any order;
            `default_epsilons` unless given.
        norm: `np.inf` (`"inf"`) or 2, for attacks given by name; `cw` is for 2 whatever is asked.
        steps: Steps of BIM, PGD, MIM and SPSA where given by name; all others keep theirs.
        restarts: Random restarts of PGD, APGD, Square and SPSA where given by name.
        seed: Seed of random starts, the same for every model, 0 to 2^63 - 1.
        batch_size: Images per gradient, at most.
        survivors_only: Attack only what still stands: an image misclassified as it is, or broken at a smaller
            epsilon, counts as broken, and one that breaks stops costing gradients. `False` attacks every image at
            every epsilon by itself and judges the last step, as in the paper's figures; accuracy may then rise with it.
            Ensembles attack only what still stands in any case, `fab` and `cw` are run once for all epsilons, and of
            `apgd` and `spsa` what breaks on the way counts.
        search: Of survivors: `"bisect"` finds the smallest epsilon that breaks an image from where the attack before
            broke it, on the assumption that an image which survives one epsilon survives all smaller ones; `"full"`
            goes up one by one.
        craft_dtype: What gradients of BIM, PGD, MIM and APGD are computed in, `"float32"` or `"bfloat16"`, which is
            faster on hardware made for it (AVX-512 BF16, recent GPUs) and a little weaker. An image counts as broken
            only if the model itself, in float32, misclassifies it.
        indices: Index of each image in its dataset, by default 0 to N - 1: random starts go with it.
        name: What results call the model.
        checkpoint: Folder that keeps finished parts; called again with it, the sweep goes on and gives the same.
        adversarials: Folder for adversarial images, a file `<attack>-<shard>.npz` for each attack and shard with
            `indices` and `images`: with `survivors_only`, and of ensembles, one per image, `(N, height, width,
            channels)`, of the smallest epsilon that breaks it (the image itself where none does), else `(K, N, ...)`,
            epsilon ascending.
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
    chosen = choose_attacks(attacks, norm=norm, steps=steps, restarts=restarts)
    radii = check_epsilons(default_epsilons(classifier.input_shape, chosen.values()) if epsilons is None else epsilons)
    classifier.refresh()
    plan = plan_of(
        classifier, chosen, radii, seed=seed, batch_size=batch_size, survivors_only=survivors_only, search=search,
        craft_dtype=craft_dtype, keep=adversarials is not None,
    )  # fmt: skip
    if checkpoint and adversarials and os.path.realpath(checkpoint) == os.path.realpath(adversarials):
        raise ValueError(f"`checkpoint` and `adversarials` must be different folders. Received: both {checkpoint}")
    if indices is not None:
        if total is None:
            raise ValueError(f"`indices` go with an array, not with a dataset. Received: indices={shown(indices)}")
        indices = check_indices(indices, total)
    with nullcontext() if checkpoint is None else locked(checkpoint):
        kept = None if checkpoint is None else Checkpoint(checkpoint, plan.identity)
        every = indices if indices is not None or total is None else np.arange(total)
        work = Work(plan, indices, kept, adversarials, progress, total, every)
        for x, y in shards:
            work.take(x, y)
    return work.result(name)
