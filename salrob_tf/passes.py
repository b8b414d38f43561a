"""The passes of a training step: what they compute together, and what each leaves in the states of layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import keras
import tensorflow as tf
from tensorflow.python.framework.config import is_op_determinism_enabled  # Keras takes it from there too

from salrob_tf.saliency import Recipe


def random_states(network: keras.Model) -> list[keras.Variable]:
    """The states that layers such as dropout draw their random numbers from."""
    return [variable for variable in network.variables if variable.path.endswith("seed_generator_state")]


class Passes:
    """Passes of one training step through a model, all with the trainable weights that it had at the start.

    TensorFlow does not know that two reads of a variable give the same. Where each weight is read once, it sees what
    passes have in common, such as the layers below the first dropout, and computes it once.

    Args:
        model: The model. Its passes also see to the losses that layers add: `model.losses` is of the pass it is in.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._variables = model.trainable_weights
        self.weights = [tf.convert_to_tensor(variable.value) for variable in self._variables]

    @contextmanager
    def run(
        self, states: Sequence[tuple[keras.Variable, tf.Tensor]] = (), keep: Sequence[keras.Variable] | None = None
    ) -> Iterator[None]:
        """One pass, within which layers see `weights`.

        Args:
            states: Other variables, and what layers are to see in them.
            keep: Variables that hold afterwards what layers assigned to them, `None` for all.
        """
        given = [*zip(self._variables, self.weights, strict=True), *states]
        with keras.StatelessScope(given, collect_losses=True, initialize_variables=False) as scope:
            yield
        seen = {id(variable): value for variable, value in given}
        for variable in self._model.variables if keep is None else keep:
            value = scope.get_current_value(variable)
            if value is not seen.get(id(variable)):
                variable.assign(value)
        if keep is None:
            # Layers such as SpectralNormalization assign weights; Keras differentiates by what they assigned.
            self.weights = [scope.get_current_value(variable) for variable in self._variables]

    def run_masked(
        self, network: keras.Model, recipe: Recipe, before: Sequence[tuple[keras.Variable, tf.Tensor]]
    ) -> AbstractContextManager[None]:
        """The pass over the masked images, which does to the states of a network's layers what the recipe says.

        Args:
            network: The classifier.
            recipe: Decides about moving statistics and dropout masks.
            before: The random states, and what they were before the pass over the clean images.
        """
        seeds = [state for state, _ in before]
        keep = seeds if recipe.dropout == "independent" else []
        if recipe.moving_statistics == "both":
            random = {id(state) for state in seeds}
            keep = [*keep, *(variable for variable in network.variables if id(variable) not in random)]
        return self.run(before if recipe.dropout == "shared" else (), keep)

    def gradients(self, tape: tf.GradientTape, loss: tf.Tensor) -> list[tf.Tensor | None]:
        """The gradients of a loss with respect to the weights, `None` for those that it does not depend on."""
        with _apart_from_kernels():
            # Layers from SavedModels read their variables by themselves.
            given, read = tape.gradient(loss, [self.weights, self._variables])
        return [
            one if other is None else other if one is None else one + other
            for one, other in zip(given, read, strict=True)
        ]


def _apart_from_kernels() -> AbstractContextManager[None]:
    """Keep the gradients of convolutions' biases apart from those of their kernels.

    On CPUs, TensorFlow merges the two into one operation of oneDNN, which in float32 takes 1.7 times as long as both of
    them. It does not merge what XLA computes. XLA leaves the first ragged batch to TensorFlow, so that the last bits
    depend on what a process saw before: not where operations must be deterministic.
    """
    if tf.executing_eagerly() or tf.config.list_physical_devices("GPU") or is_op_determinism_enabled():
        return nullcontext()
    return tf.xla.experimental.jit_scope(
        compile_ops=lambda node: node.op == "BiasAddGrad" and node.attr["T"].type == tf.float32.as_datatype_enum
    )
