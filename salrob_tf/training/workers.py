"""Training on several processes, which Keras 3 does not do by `fit` (keras#20585)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from functools import cache
from typing import Any

import keras
import tensorflow as tf

from salrob_tf.training.guided import SaliencyGuided


def strategy() -> tf.distribute.Strategy:
    """`MultiWorkerMirroredStrategy` where `TF_CONFIG` says that this process is one of several, else the current one.

    It must be made before TensorFlow is used for anything else.

    Raises:
        ValueError: If `TF_CONFIG` names no workers, or another task than one of them.
    """
    return _multi_worker() if worker_count() > 1 else tf.distribute.get_strategy()


def worker_count() -> int:
    """How many workers `TF_CONFIG` names; 1 without one."""
    return max(1, len(_config()[0]))


def is_chief() -> bool:
    """Whether this process is the first of its workers, which alone writes files and speaks."""
    return _config()[1] == 0


def fit_on_workers(
    model: SaliencyGuided,
    batches: tf.data.Dataset,
    *,
    epochs: int,
    steps_per_epoch: int,
    initial_epoch: int = 0,
    callbacks: Iterable[keras.callbacks.Callback] = (),
    verbose: int = 0,
) -> keras.callbacks.History:
    """What `fit` does, by a loop over `train_step`, every worker on its share of each batch.

    `validation_data` is not there. A callback that stops the training on one worker stops it on all, at the
    end of the epoch.

    Args:
        model: A compiled model that was made in the scope of `strategy()`.
        batches: Batches of all workers together, the same on each, `steps_per_epoch` for each epoch to come.
        epochs: Number of the last epoch.
        steps_per_epoch: Batches of an epoch.
        initial_epoch: Epochs that were done before.
        callbacks: As for `fit`.
        verbose: As for `fit`.

    Returns:
        The history of this process, whose metrics are those of all workers.
    """
    workers = model.distribute_strategy
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    distributed = workers.experimental_distribute_dataset(batches.with_options(options))
    share = iter(distributed)

    # The signature leaves the batch size open: Keras does not reduce losses of a batch known to be empty.
    @tf.function(input_signature=[distributed.element_spec], autograph=False)
    def step(batch: Any) -> None:
        workers.run(model.train_step, args=(batch,))

    watching = keras.callbacks.CallbackList(
        list(callbacks),
        add_history=True,
        add_progbar=verbose != 0,
        model=model,
        verbose=verbose,
        epochs=epochs,
        steps=steps_per_epoch,
    )
    model.stop_training = False
    watching.on_train_begin()
    logs: dict[str, float] = {}
    for epoch in range(initial_epoch, epochs):
        model.reset_metrics()
        model.set_epoch(epoch)
        watching.on_epoch_begin(epoch)
        for number in range(steps_per_epoch):
            watching.on_train_batch_begin(number)
            step(next(share))
            logs = {key: float(value) for key, value in model.get_metrics_result().items()}
            watching.on_train_batch_end(number, logs)
        watching.on_epoch_end(epoch, logs)
        stopped = workers.run(lambda: tf.constant(float(model.stop_training)))
        if float(workers.reduce(tf.distribute.ReduceOp.SUM, stopped, axis=None)) > 0:
            break
    model.optimizer.finalize_variable_values(model.trainable_weights)
    watching.on_train_end(logs)
    return model.history


@cache
def _multi_worker() -> tf.distribute.Strategy:
    return tf.distribute.MultiWorkerMirroredStrategy()


def _config() -> tuple[list[str], int]:
    """The addresses of all workers, and the number of this one, as `TF_CONFIG` says; no addresses without one.

    Raises:
        ValueError: If it says anything else.
    """
    text = os.environ.get("TF_CONFIG") or "{}"
    try:
        config = json.loads(text)
        cluster, task = config.get("cluster", {}), config.get("task", {})
        processes = sum(len(addresses) for addresses in cluster.values())
        if processes <= 1 and task.get("index", 0) == 0:  # one process by whatever name, as cloud services set it
            return [], 0
        addresses, index = cluster["worker"], task["index"]
        if type(addresses) is not list or len(addresses) != processes or {type(each) for each in addresses} != {str}:
            raise TypeError
        if task["type"] != "worker" or type(index) is not int or not 0 <= index < processes:
            raise TypeError
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(
            'TF_CONFIG must name workers and one of them: {"cluster": {"worker": ["host:port", ...]}, "task": {"type": '
            f'"worker", "index": 0}}}}; unset it to train in one process. Received: TF_CONFIG={text}'
        ) from error
    return addresses, index
