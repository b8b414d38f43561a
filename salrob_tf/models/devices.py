"""Several GPUs, each of which takes its share of a batch."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf


def gpus() -> list[str]:
    """Names of the GPUs that TensorFlow may use."""
    return [device.name for device in tf.config.list_logical_devices("GPU")]


def over_devices(function: Callable[..., tuple[tf.Tensor, ...]], *batched: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Run a function of batches, row by row independent, on an equal share of the rows per GPU where there are several.

    Args:
        function: Gives a tuple of tensors with one row per row of its inputs.
        *batched: Tensors with equal numbers of rows.

    Returns:
        What `function` gives for all rows.
    """
    devices = gpus()
    if len(devices) < 2:
        return function(*batched)
    given = tf.shape(batched[0])[0]
    rows, parts = tf.maximum(given, len(devices)), []
    for number, device in enumerate(devices):
        start, stop = (rows * edge // len(devices) for edge in (number, number + 1))
        # Of fewer rows than devices the last one is repeated: gradients of no rows at all fail.
        share = tf.minimum(tf.range(start, stop), given - 1)
        with tf.device(device):
            parts.append(function(*(tf.gather(tensor, share) for tensor in batched)))
    return tuple(tf.concat(shares, axis=0)[:given] for shares in zip(*parts, strict=True))
