"""Test images and attacks that several models meet alike, and the sweeps over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from salrob_tf.attacks.registry import Entry
from salrob_tf.data.arrays import check_labels, choose_indices, fingerprint
from salrob_tf.data.datasets import Dataset
from salrob_tf.data.folders import Images, select
from salrob_tf.evaluation.checkpoint import Checkpoint
from salrob_tf.evaluation.estimate import Estimate, estimate
from salrob_tf.evaluation.plans import check_epsilons, choose_attacks, default_epsilons, plan_of
from salrob_tf.evaluation.sweep import DEFAULT_ATTACKS, Progress, evaluate
from salrob_tf.evaluation.transfer import look_at_transfer
from salrob_tf.evaluation.work import Work
from salrob_tf.files import locked
from salrob_tf.models.classifier import Classifier
from salrob_tf.results.robustness import Robustness

SMALLEST_SHARD, LARGEST_SHARD = 256, 2048  # images: what is said of a model rests on the first 256, all are in memory


class Trial(NamedTuple):
    """What models meet, all of them the same: `evaluate` takes it by these names, `options` being more of them."""

    images: Images
    labels: np.ndarray
    indices: np.ndarray
    attacks: dict[str, Entry]
    epsilons: np.ndarray
    options: dict[str, Any]

    def inputs(self, classifiers: Sequence[Classifier]) -> dict[str, str]:
        """Digests of the images and of models, which are found to suit the trial first.

        Raises:
            ValueError: If a model has no class for a label, too few for an attack, or cannot be copied in bfloat16.
        """
        for each in classifiers:
            plan_of(each, self.attacks, self.epsilons, **self.options)
            check_labels(self.labels, len(self.labels), each.num_classes, f"labels for {each.name}")
        digests = {f"model {each.name}": each.fingerprint for each in classifiers}
        return {**digests, "images": fingerprint(self.images, self.labels)}


def estimate_all(trial: Trial, classifiers: Sequence[Classifier]) -> Estimate:
    """About what `attack_all` takes, from a few batches of each model."""
    total, some = Estimate(), trial.images[:256]
    for each in classifiers:
        plan = plan_of(each, trial.attacks, trial.epsilons, **trial.options)
        total += estimate(plan, each.check(some), len(trial.indices))
    return total


def make_trial(
    data: Dataset,
    attacks: Sequence[str | Entry] = DEFAULT_ATTACKS,
    epsilons: Sequence[float] | None = None,
    samples: int = 1000,
    seed: int = 0,
    **options: Any,
) -> Trial:
    """Choose test images at random, and check what they are attacked with.

    Args:
        data: Where they are from.
        attacks: Names or attacks, each once.
        epsilons: As for `evaluate`.
        samples: How many images; all, if there are fewer.
        seed: Seed of the choice, and of random starts.
        **options: More of what `evaluate` takes, such as `survivors_only`.

    Raises:
        ValueError: If an attack is unknown or there twice, or an epsilon or a number is out of its range.
    """
    chosen = choose_attacks(attacks)
    radii = check_epsilons(default_epsilons(data.input_shape, chosen.values()) if epsilons is None else epsilons)
    rows = choose_indices(len(data.x_test), min(samples, len(data.x_test)), seed)
    return Trial(select(data.x_test, rows), data.y_test[rows], rows, chosen, radii, {"seed": seed, **options})


def attack_all(
    trial: Trial,
    classifiers: Sequence[Classifier],
    found: Sequence[Robustness] | None = None,
    *,
    checkpoint: Callable[[int], Path] | None = None,
    adversarials: Callable[[str], Path] | None = None,
    progress: Callable[[str], Progress] | None = None,
) -> list[Robustness]:
    """Attack models one after the other on the same images from the same random starts.

    Args:
        trial: What they meet.
        classifiers: The models, with different names.
        found: Results of the first of them, from an earlier call, which are kept.
        checkpoint: Gives, for the number of a model, the folder that keeps finished parts.
        adversarials: Gives, for the name of a model, the folder for adversarial images.
        progress: Gives, for the name of a model, what `evaluate` is to call.

    Returns:
        A result for each model; of several, adversarials of one were tried on another, too.

    Raises:
        ValueError: As `evaluate` does.
    """
    known = list(found or ())
    results = known + [
        evaluate(
            classifier,
            trial.images,
            trial.labels,
            list(trial.attacks.values()),
            trial.epsilons,
            indices=trial.indices,
            checkpoint=checkpoint and checkpoint(number),
            adversarials=adversarials and adversarials(classifier.name),
            progress=progress and progress(classifier.name),
            **trial.options,
        )
        for number, classifier in enumerate(classifiers)
        if number >= len(known)
    ]
    if len(known) == len(classifiers):
        return known
    return look_at_transfer(results, classifiers, trial.images, trial.labels, trial.attacks)


def shards_of(trial: Trial, most: int) -> tuple[int, range]:
    """Images of each shard of a trial but the last, and the numbers of the shards, `most` at most but for the size."""
    images = len(trial.indices)
    size = min(LARGEST_SHARD, max(SMALLEST_SHARD, -(-images // most)))
    return size, range(-(-images // size))


def attack_shards(
    trial: Trial,
    classifier: Classifier,
    size: int,
    numbers: Sequence[int],
    checkpoint: Path,
    found: Mapping[int, Path],
    progress: Callable[[str], Progress] | None = None,
) -> Work:
    """Attack a model on some shards of a trial's images, of which others may be attacked elsewhere.

    Args:
        trial: What it meets.
        classifier: The model.
        size: Images of each shard but the last.
        numbers: Which shards, ascending, from 0 on. The first is always among them: others go by what it showed.
        checkpoint: The folder that keeps finished parts.
        found: Folders of this kind that others filled, by the number of the shard that is taken over from each.
        progress: As for `attack_all`.

    Returns:
        The work, whose `result` is that of a sweep where all shards are in it.

    Raises:
        DamagedError: If the folder holds another sweep.
        ValueError: As `evaluate` does.
    """
    plan = plan_of(classifier, trial.attacks, trial.epsilons, **trial.options)
    parts = {number: np.arange(number * size, min((number + 1) * size, len(trial.indices))) for number in numbers}
    rows = np.concatenate(list(parts.values()))
    with locked(checkpoint):
        kept = Checkpoint(checkpoint, {**plan.identity, "shard_size": size})
        for number, folder in found.items():
            kept.take_over(folder, number)
        told = progress and progress(classifier.name)
        work = Work(plan, trial.indices[rows], kept, None, told, len(rows), trial.indices)
        for number, part in parts.items():
            work.take(trial.images[part[0] : part[-1] + 1], trial.labels[part], number)
    return work
