"""A training run: what is trained and how, into a folder, resumable after any epoch."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from salrob_tf.checks import check_flag, check_number, check_whole
from salrob_tf.data.datasets import Dataset
from salrob_tf.data.pipeline import batches, file_errors
from salrob_tf.files import environment, write_json
from salrob_tf.models.networks import NETWORKS, PRETRAINED
from salrob_tf.saliency.recipes import get_recipe
from salrob_tf.studies.run_folders import (
    BEST,
    MODEL,
    RECORD,
    KeepRun,
    best_epoch,
    check_run_folder,
    holds_export,
    load_run_model,
    open_run,
    read_history,
    read_record,
    run_identity,
    write_export,
)
from salrob_tf.training.controls import CONTROLS
from salrob_tf.training.guided import SaliencyGuided
from salrob_tf.training.workers import fit_on_workers, is_chief, strategy, worker_count

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
KEEP = ("last", "best")

OPTIMIZERS: dict[str, Callable[[float], keras.optimizers.Optimizer]] = {
    # The paper names Adadelta and its learning rate; rho and epsilon are PyTorch's, as Ismail et al. had, not Keras'.
    "adadelta": lambda rate: keras.optimizers.Adadelta(rate, rho=0.9, epsilon=1e-6),
    "adam": lambda rate: keras.optimizers.Adam(rate),
    "sgd": lambda rate: keras.optimizers.SGD(rate, momentum=0.9),
}
NAMES: dict[str, Iterable[str]] = {  # what may stand in fields of `Run`
    "network": NETWORKS,
    "optimizer": OPTIMIZERS,
    "precision": PRECISIONS,
    "keep": KEEP,
    "control": CONTROLS,
}
OPTIONAL = ("control",)


@dataclass(frozen=True)
class Run:
    """What a network is and how it is trained.

    Attributes:
        network: A key of `NETWORKS`.
        weights: Where the network starts, as `resnet18` takes it; `None` is at random.
        saliency: Whether training is saliency-guided.
        recipe: Name of the recipe, a key of `RECIPES`.
        mask_fraction: Share of the units that is masked, in [0, 1).
        kl_weight: Weight of the divergence, 0 or more.
        epochs: Passes over the training images.
        batch_size: Images per step.
        optimizer: A key of `OPTIMIZERS`.
        learning_rate: Above 0.
        precision: Keras dtype policy of the network, one of `PRECISIONS`.
        validation_fraction: Share of the training images held out for validation, in [0, 1).
        keep: Which epoch's network is kept in the end: the `"last"`, or the `"best"` by accuracy on the validation
            images, of equals the first. Test images choose nothing.
        augment: Whether training images are moved by up to 4 pixels and flipped at random; see `batches`.
        control: A key of `CONTROLS`, another way of training that guidance is held against, or `None`.
        strength: Of the control, above 0, or `None` without one.
        seed: Seed of weights, dropout, shuffling, augmentation and masks.

    Raises:
        ValueError: If a name is unknown, a number is out of its range, or values do not go together: `keep="best"`
            without validation, `weights` for a network that takes none, a control without a strength or with guidance.
    """

    network: str = "cnn"
    weights: str | None = None
    saliency: bool = False
    recipe: str = "karkehabadi2023"
    mask_fraction: float = 0.5
    kl_weight: float = 1.0
    epochs: int = 100
    batch_size: int = 256
    optimizer: str = "adadelta"
    learning_rate: float = 0.1
    precision: str = "float32"
    validation_fraction: float = 0.0
    keep: str = "last"
    augment: bool = False
    control: str | None = None
    strength: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        get_recipe(self.recipe)
        for key, valid in NAMES.items():
            if getattr(self, key) not in (*valid, *[None] * (key in OPTIONAL)):
                raise ValueError(f"Unknown {key}. Valid: {', '.join(valid)}. Received: {key}={getattr(self, key)}")
        if not 0 <= self.validation_fraction < 1 or (self.keep == "best" and not self.validation_fraction):
            raise ValueError(
                "`validation_fraction` must be at least 0 and below 1, and above 0 to keep the best epoch. Received: "
                f"validation_fraction={self.validation_fraction}, keep={self.keep}"
            )
        if self.weights is not None and self.network not in PRETRAINED:
            raise ValueError(
                f"Only {', '.join(PRETRAINED)} takes pretrained weights. "
                f"Received: network={self.network}, weights={self.weights}"
            )
        if (self.control is None) != (self.strength is None) or (self.control is not None and self.saliency):
            raise ValueError(
                "A control has a strength, which nothing else has, and no saliency guidance. Received: "
                f"control={self.control}, strength={self.strength}, saliency={self.saliency}"
            )
        for key in ("epochs", "batch_size"):
            check_whole(key, getattr(self, key), 1, 2**31 - 1)
        check_whole("seed", self.seed, high=2**32 - 1)
        check_number("learning_rate", self.learning_rate, above=0)
        check_number("mask_fraction", self.mask_fraction, low=0, below=1)
        check_number("kl_weight", self.kl_weight, low=0)
        for key in ("saliency", "augment"):
            check_flag(key, getattr(self, key))
        if self.strength is not None:
            most = {"below": 1} if self.control == "label_smoothing" else {}
            check_number("strength", self.strength, above=0, **most)

    def build(self, data: Dataset) -> SaliencyGuided:
        """The compiled, untrained model; seeds all random states first."""
        keras.utils.set_random_seed(self.seed)
        pretrained = {} if self.weights is None else {"weights": self.weights}
        network = NETWORKS[self.network](data.input_shape, data.num_classes, dtype=self.precision, **pretrained)
        if self.control is None:
            guidance = (self.saliency, self.recipe, self.mask_fraction, self.kl_weight)
            model = SaliencyGuided(network, *guidance, seed=self.seed)
        else:
            model = CONTROLS[self.control](network, self.strength, seed=self.seed)
        # A metric by name would be made inside the first step, which TensorFlow would then trace twice.
        accuracy = keras.metrics.SparseCategoricalAccuracy("accuracy")
        model.compile(OPTIMIZERS[self.optimizer](self.learning_rate), metrics=[accuracy])
        return model


def check_run(
    folder: str | Path, data: Dataset, run: Run, *, resume: bool = False, overwrite: bool = False
) -> dict[str, Any]:
    """See whether `train` would begin, without training or writing anything.

    Args:
        folder: As for `train`, and so are the others.
        data: See there.
        run: See there.
        resume: See there.
        overwrite: See there.

    Returns:
        The record that a run begins with.

    Raises:
        ValueError: As `train` does.
    """
    if worker_count() > 1 and run.validation_fraction:
        raise ValueError(
            "Several workers validate nothing: train on one, or leave validation out. "
            f"Received: validation_fraction={run.validation_fraction}"
        )
    if (keras.config.max_epochs(), keras.config.max_steps_per_epoch()) != (None, None):
        raise ValueError(
            "Keras is set to end each training early: unset KERAS_MAX_EPOCHS and KERAS_MAX_STEPS_PER_EPOCH. Received: "
            f"max_epochs={keras.config.max_epochs()}, max_steps_per_epoch={keras.config.max_steps_per_epoch()}"
        )
    record = {
        "arguments": asdict(run),
        "data": {"name": data.name, "sha256": data.sha256, "train_samples": len(data.x_train)},
        "environment": environment(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "finished": False,
    }
    if is_chief():
        check_run_folder(Path(folder), record, resume, overwrite)
    return record


@file_errors()
def train(
    folder: str | Path, data: Dataset, run: Run, *, resume: bool = False, overwrite: bool = False, verbose: int = 0
) -> dict[str, Any]:
    """Train a network into a folder, saving it whole after every epoch.

    Args:
        folder: Where to. Must hold no model; with `resume` or `overwrite` it may hold a run, and others beside it.
        data: What to train and test on.
        run: What to train, and how.
        resume: Go on with the run that the folder holds, from its last finished epoch; start one if there is none.
            Of a finished run, a missing `export/` is written again.
        overwrite: Remove the run that the folder holds, once everything else proved valid, and nothing else there.
        verbose: As for `fit`: 1 shows progress bars.

    Returns:
        What is written as `run.json`.

    Raises:
        ValueError: If the folder holds a run and neither `resume` nor `overwrite` is on, if that run had other
            settings or data, is damaged or lacks its network, if a file there is not the run's, if another process
            trains into it, if `run` does not fit the data, an image cannot be decoded, the loss or a weight is not
            finite, several workers are to validate, or Keras is set to end trainings early.
    """
    folder = Path(folder)
    record = check_run(folder, data, run, resume=resume, overwrite=overwrite)
    with strategy().scope():
        model = run.build(data)
    training, held_out = data, None
    if run.validation_fraction:
        training, images, labels = data.with_validation(run.validation_fraction, run.seed)
        held_out = batches(images, labels, run.batch_size)
    # Only now, when everything proved valid, is anything made or removed.
    with open_run(folder, record, resume, overwrite) if is_chief() else nullcontext():
        found = read_record(folder) if resume else None
        if found and found["finished"]:
            if is_chief():
                _mend(folder, found, model)
            return found
        history: list[dict[str, float]] = []
        if found:
            record["files"] = found["files"]
            if (folder / MODEL).exists():
                with strategy().scope():
                    model = load_run_model(folder / MODEL, found, model)
                history = read_history(folder, model.epochs_done)
        return _train(folder, data, training, held_out, run, record, model, history, verbose)


def _train(
    folder: Path,
    data: Dataset,
    training: Dataset,
    held_out: tf.data.Dataset | None,
    run: Run,
    record: dict[str, Any],
    model: SaliencyGuided,
    history: list[dict[str, float]],
    verbose: int,
) -> dict[str, Any]:
    """The epochs that are left, and what is written at the end."""
    settings: dict[str, Any] = {
        "initial_epoch": len(history),
        "epochs": run.epochs,
        "steps_per_epoch": -(-len(training.x_train) // run.batch_size),
        "callbacks": [KeepRun(folder, history, run.keep, run_identity(record))] if is_chief() else [],
        "verbose": verbose if is_chief() else 0,
    }
    shuffled = batches(
        training.x_train,
        training.y_train,
        run.batch_size,
        seed=run.seed,
        epochs=run.epochs,
        first_epoch=len(history),
        augment=run.augment,
    )
    # A stream that is not used up waits, where TensorFlow tunes it, for the tuning's next look, which comes after 10 ms
    # x 2^n: up to the time that the training took, or a minute.
    untuned = tf.data.Options()
    untuned.autotune.enabled = False
    shuffled = shuffled.with_options(untuned)
    if worker_count() > 1:
        fit_on_workers(model, shuffled, **settings)
    else:
        model.fit(shuffled, shuffle=False, validation_data=held_out, **settings)
    if not is_chief():
        return record
    kept = best_epoch(history) if run.keep == "best" else len(history) - 1
    model = load_run_model(folder / (BEST if run.keep == "best" else MODEL), record, model, epochs_done=kept + 1)
    write_export(folder, record, model)
    metrics = model.evaluate(batches(data.x_test, data.y_test, run.batch_size), verbose=0, return_dict=True)
    record |= {"finished": True, "epoch": kept, "train": history[kept], "test": metrics}
    write_json(folder / RECORD, record)
    if run.keep == "best":
        (folder / BEST).replace(folder / MODEL)  # last, because until then the run may have to go on
    return record


def _mend(folder: Path, record: dict[str, Any], like: SaliencyGuided) -> None:
    """Write again what is missing of a finished run, or say that it cannot be had."""
    best = record["arguments"].get("keep") == "best" and (folder / BEST).exists()
    model = load_run_model(folder / (BEST if best else MODEL), record, like, epochs_done=record["epoch"] + 1)
    if best:
        (folder / BEST).replace(folder / MODEL)
    read_history(folder, record["arguments"]["epochs"])
    if not holds_export(folder):
        write_export(folder, record, model)
