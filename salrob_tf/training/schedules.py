"""Numbers of guided training that may change with the epoch."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from salrob_tf.checks import shown

Schedule: TypeAlias = "float | Callable[[int], float]"


def value_at(schedule: Schedule, epoch: int) -> Any:
    """The number itself, or what a function of the epoch gives, which may be a tensor of one number.

    Raises:
        ValueError: If the function does not take the epoch.
    """
    try:
        value: Any = schedule(epoch) if callable(schedule) else schedule
    except TypeError as error:
        raise ValueError(
            f"A schedule must be a function of the epoch. Received: {shown(schedule)} ({error})"
        ) from error
    return value.numpy()[()] if tf.is_tensor(value) else value


def savable(name: str, schedule: Schedule, epoch: int) -> Any:
    """What a `.keras` file holds of a schedule: of what Keras cannot find again or rebuild, its value now."""
    plain = inspect.isfunction(schedule)
    known = keras.saving.get_registered_object(keras.saving.get_registered_name(schedule)) if plain else None
    if callable(schedule) and not (known is schedule if plain else hasattr(schedule, "get_config")):
        value = value_at(schedule, epoch)
        remedy = "Decorate the function" if plain else "Give a function that is decorated"
        warnings.warn(
            f"A .keras file cannot hold this function: it gets {name}={value:g}, its value in epoch {epoch}. {remedy} "
            f"with keras.saving.register_keras_serializable(). Received: {name}={schedule}",
            stacklevel=2,
        )
        return value
    return keras.saving.serialize_keras_object(schedule) if callable(schedule) else float(schedule)
