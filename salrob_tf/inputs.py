"""What `fit` may be given, looked at before the first step, and what each of several replicas has of it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from salrob_tf.datasets import check_labels


def check_arrays(x: Any, y: Any, weights: Any = None, *, image_shape: tuple[int, ...], num_classes: int) -> None:
    """Look at the values of all images, labels and weights; what is no array and no tensor is not looked at.

    Args:
        x: Images, `(N, height, width, channels)`.
        y: Labels `(N,)` or `(N, 1)`, or one-hot `(N, num_classes)`.
        weights: Sample weights.
        image_shape: `(height, width, channels)`.
        num_classes: Number of classes.

    Raises:
        ValueError: If there are no images, they are not finite floats of that shape, or labels are of another number
            or kind, or out of range, or weights are not finite.
    """
    x, y, weights = (value.numpy() if isinstance(value, tf.Tensor) else value for value in (x, y, weights))
    if isinstance(weights, np.ndarray) and not np.isfinite(weights).all():
        raise ValueError("Sample weights must be finite. Received: NaN or infinity")
    if not isinstance(x, np.ndarray):
        return
    if x.dtype.kind != "f" or not len(x):
        raise ValueError(f"`x` must be floats, one image or more. Received: dtype={x.dtype}, shape={x.shape}")
    if x.shape[1:] != image_shape:
        raise ValueError(f"`x` must be images of shape {image_shape}. Received: shape={x.shape}")
    if not np.isfinite(x).all():
        share = 1 - np.isfinite(x.reshape(len(x), -1)).all(axis=1).mean()
        raise ValueError(f"`x` must be finite. Received: NaN or infinity in {share:.1%} of the images")
    if not isinstance(y, np.ndarray):
        return
    if y.ndim == 2 and y.shape[1] == num_classes:
        if len(y) != len(x) or not np.isfinite(y).all():
            raise ValueError(
                f"`y` must be one finite row per image, {len(x)} in all. Received: shape={y.shape}, "
                f"finite={bool(np.isfinite(y).all())}"
            )
    elif y.ndim == 2 and y.shape[1] != 1:
        raise ValueError(f"`y` must be classes (N,), or one-hot (N, {num_classes}). Received: shape={y.shape}")
    else:
        whole = y.astype(np.int64) if y.dtype.kind == "f" and np.array_equal(y, np.rint(y)) else y
        check_labels(whole, len(x), num_classes, "y")


def unpack(
    data: Any, image_shape: tuple[int, ...], num_classes: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None, tf.Tensor]:
    """Images, labels and sample weights of one batch, whose shapes and types are looked at while a step is traced.

    Args:
        data: What `fit` hands to a step.
        image_shape: `(height, width, channels)`.
        num_classes: Number of classes.

    Returns:
        Images, labels, weights or `None`, and how many images there are. A replica without a share of the last batch
        gets a black image that must not count, because oneDNN and BatchNormalization cannot do with none.

    Raises:
        ValueError: If images are not one tensor of floats of that shape, there are none, or labels are missing or
            neither classes nor one-hot.
    """
    data = tf.nest.map_structure(lambda part: tf.constant(part) if isinstance(part, np.ndarray) else part, data)
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    floats = tf.is_tensor(x) and x.dtype.is_floating and x.shape.is_compatible_with([None, *image_shape])
    alone = (
        tf.distribute.get_strategy().num_replicas_in_sync == 1
    )  # of several, one may have no share of the last batch
    if not floats or (x.shape[0] == 0 and alone):
        raise ValueError(
            f"Images must be one tensor of floats, (N, {', '.join(map(str, image_shape))}), one image or more. "
            f"Received: x={_described(x)}"
        )
    numbers = tf.is_tensor(y) and (y.dtype.is_floating or y.dtype.is_integer)
    if not numbers or not (y.shape.rank == 1 or (y.shape.rank == 2 and y.shape[-1] in (1, num_classes))):
        raise ValueError(f"Labels must be classes (N,), or one-hot (N, {num_classes}). Received: y={_described(y)}")
    samples = tf.shape(x)[0]
    if not alone:
        missing = tf.cast(samples == 0, tf.int32)
        x, y, sample_weight = (
            None if part is None else tf.concat([part, tf.zeros([missing, *part.shape[1:]], part.dtype)], axis=0)
            for part in (x, y, sample_weight)
        )
    return x, y, sample_weight, samples


def share_of_batch(samples: tf.Tensor) -> tf.Tensor | float:
    """How many samples this replica has over the mean of all replicas: their last batches are not of one size."""
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    context = tf.distribute.get_replica_context()
    if replicas == 1 or context is None:
        return 1.0
    samples = tf.cast(samples, tf.float32)
    return tf.math.divide_no_nan(samples * replicas, context.all_reduce(tf.distribute.ReduceOp.SUM, samples))


def _described(value: Any) -> str:
    return f"{value.dtype.name} {value.shape}" if tf.is_tensor(value) else type(value).__name__
