"""What `fit` may be given, looked at before the first step, and what each of several replicas has of it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from salrob_tf.checks import shown
from salrob_tf.data.arrays import check_labels
from salrob_tf.training.classifier_losses import is_one_hot


def checked(x: Any, y: Any, weights: Any = None, *, image_shape: tuple[int, ...], num_classes: int) -> tuple[Any, Any]:
    """Look at the values of images, labels and weights; return the latter two, as arrays where they were lists.

    Args:
        x: Images, `(N, height, width, channels)`, floats or integers. What is no array and no tensor, such as a
            `tf.data.Dataset`, is left to be looked at batch by batch.
        y: Labels `(N,)` or `(N, 1)`, or one-hot `(N, num_classes)`.
        weights: Sample weights.
        image_shape: `(height, width, channels)`.
        num_classes: Number of classes.

    Raises:
        ValueError: If there are no images, they are not finite numbers of that shape, or labels are of another number
            or kind, or out of range, or weights are not finite.
    """
    no_source = not hasattr(x, "__iter__") and not hasattr(x, "__getitem__")
    if no_source or isinstance(x, list | tuple | dict | set | range | str | bytes | np.generic):
        many = f" of {len(x)}" if isinstance(x, list | tuple | dict) else f", {shown(x)}"
        raise ValueError(
            "`x` must be the images as one array or tensor, or a source of batches such as a tf.data.Dataset. "
            f"Received: {type(x).__name__}{many}"
        )
    y, weights = (np.asarray(part) if isinstance(part, list | tuple | range) else part for part in (y, weights))
    images, labels, factors = (_values(part) for part in (x, y, weights))
    if isinstance(factors, np.ndarray) and not _finite_numbers(factors):
        raise ValueError(f"Sample weights must be finite numbers. Received: {shown(factors)}")
    if isinstance(images, np.ndarray):
        _check_images(images, image_shape)
        for name, part in {"y": y, "sample_weight": weights}.items():
            if part is not None and (isinstance(part, np.generic) or not hasattr(part, "shape")):
                raise ValueError(f"`{name}` must be an array, one entry per image. Received: {name}={shown(part)}")
        if isinstance(labels, np.ndarray):
            _check_labels(labels, len(images), num_classes)
        if isinstance(factors, np.ndarray) and (factors.ndim == 0 or len(factors) != len(images)):
            raise ValueError(f"There must be {len(images)} sample weights, one per image. Received: {shown(factors)}")
    return y, weights


def _check_images(x: np.ndarray, image_shape: tuple[int, ...]) -> None:
    if x.dtype.kind not in "fiu" or not x.size:
        raise ValueError(f"`x` must be numbers, one image or more. Received: dtype={x.dtype}, shape={x.shape}")
    if x.shape[1:] != image_shape:
        raise ValueError(f"`x` must be images of shape {image_shape}. Received: shape={x.shape}")
    if not np.isfinite(x).all():
        share = 1 - np.isfinite(x.reshape(len(x), -1)).all(axis=1).mean()
        raise ValueError(f"`x` must be finite. Received: NaN or infinity in {share:.1%} of the images")


def _check_labels(y: np.ndarray, samples: int, num_classes: int) -> None:
    if y.ndim == 2 and y.shape[1] == num_classes:
        if len(y) != samples or not _finite_numbers(y):
            raise ValueError(f"`y` must be one row of finite numbers per image, {samples} in all. Received: {shown(y)}")
    elif y.ndim == 2 and y.shape[1] != 1:
        raise ValueError(f"`y` must be classes (N,), or one-hot (N, {num_classes}). Received: shape={y.shape}")
    else:
        whole = y.astype(np.int64) if y.dtype.kind == "f" and np.array_equal(y, np.rint(y)) else y
        check_labels(whole, samples, num_classes, "y")


def _values(part: Any) -> Any:
    """The NumPy array behind a tensor; NumPy takes bfloat16 for no number."""
    part = np.asarray(part.numpy()) if isinstance(part, tf.Tensor) else part
    return part.astype(np.float32) if getattr(part, "dtype", None) == tf.bfloat16.as_numpy_dtype else part


def _finite_numbers(values: np.ndarray) -> bool:
    return values.dtype.kind in "fiub" and bool(np.isfinite(values).all())


def label_checks(data: Any, strategy: tf.distribute.Strategy, num_classes: int) -> list[tf.Operation]:
    """Operations that fail where labels of a batch are out of range or not finite, for outside of what XLA compiles.

    Args:
        data: What `fit` hands to a step, symbolic.
        strategy: Whose replicas have a share of it each.
        num_classes: Number of classes.
    """
    _, y, _ = keras.utils.unpack_x_y_sample_weight(data)
    checks = []
    for labels in strategy.experimental_local_results(y):
        if not tf.is_tensor(labels) or not (labels.dtype.is_floating or labels.dtype.is_integer):
            continue  # the step says so
        if labels.shape.rank == 2 and is_one_hot(labels):
            valid = tf.math.is_finite(labels) if labels.dtype.is_floating else True
            message = "`y` must be one row of finite numbers per image. Received: NaN or infinity"
        else:
            labels = tf.cast(labels, tf.float32 if labels.dtype.is_floating else tf.int64)
            valid = (labels >= 0) & (labels < num_classes)
            if labels.dtype.is_floating:
                valid &= labels == tf.round(labels)
            wrong = tf.reduce_max(tf.where(valid, labels.dtype.min, labels))
            message = tf.strings.format(f"`y` must be whole numbers from 0 to {num_classes - 1}. Received: {{}}", wrong)
        checks.append(tf.debugging.Assert(tf.reduce_all(valid), [message]))
    return checks


def unpack(
    data: Any, image_shape: tuple[int, ...], num_classes: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None, tf.Tensor]:
    """Images, labels and sample weights of one batch, whose shapes and types are looked at while a step is traced.

    Args:
        data: What `fit` hands to a step.
        image_shape: `(height, width, channels)`.
        num_classes: Number of classes.

    Returns:
        Images as floats, labels, weights or `None`, and how many images there are. A replica without a share of the
        last batch gets a black image that must not count, because oneDNN and BatchNormalization cannot do with none.

    Raises:
        ValueError: If images are not one tensor of numbers of that shape, there are none, or labels are missing or
            neither classes nor one-hot.
    """
    data = tf.nest.map_structure(lambda part: tf.constant(part) if isinstance(part, np.ndarray) else part, data)
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    numbers = tf.is_tensor(x) and (x.dtype.is_floating or x.dtype.is_integer)
    # Of several replicas, one may have no share of the last batch.
    alone = tf.distribute.get_strategy().num_replicas_in_sync == 1
    if not numbers or not x.shape.is_compatible_with([None, *image_shape]) or (x.shape[0] == 0 and alone):
        raise ValueError(
            f"Images must be one tensor of numbers, (N, {', '.join(map(str, image_shape))}), one image or more. "
            f"Received: x={_described(x)}"
        )
    if x.dtype.is_integer:
        x = tf.cast(x, keras.config.floatx())  # as Keras casts them, but where there is a gradient
    if tf.is_tensor(y) and y.shape.rank is None:  # a second tracing is of all forms together, which no loss can take
        raise ValueError(
            "Labels must be in the same form, (N,) or (N, columns), in each `fit`. Received: another than before; "
            "call `make_train_function(force=True)` of the model in between"
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
