"""The passes of a training step: what they compute together, and what each leaves in the states of layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import zip_longest

import keras
import tensorflow as tf
from keras import layers

from salrob_tf._compat import apart_from_kernels, does_no_more_than_its_call, is_of_keras, layers_of
from salrob_tf.saliency.recipes import Recipe

# Layers that take their weights as they are. Others may assign weights (SpectralNormalization), read variables that
# Keras does not know (TFSMLayer), or compute in functions of their own (Lambda).
# fmt: off
PLAIN = {
    layers.Activation, layers.Add, layers.Average, layers.AveragePooling2D, layers.BatchNormalization,
    layers.Concatenate, layers.Conv2D, layers.Conv2DTranspose, layers.Cropping2D, layers.Dense,
    layers.DepthwiseConv2D, layers.Dropout, layers.ELU, layers.Flatten, layers.GaussianDropout, layers.GaussianNoise,
    layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D, layers.GroupNormalization, layers.InputLayer,
    layers.LayerNormalization, layers.LeakyReLU, layers.MaxPooling2D, layers.Maximum, layers.Minimum, layers.Multiply,
    layers.Normalization, layers.PReLU, layers.Permute, layers.ReLU, layers.Rescaling, layers.Reshape,
    layers.SeparableConv2D, layers.Softmax, layers.SpatialDropout2D, layers.Subtract, layers.UpSampling2D,
    layers.ZeroPadding2D,
}
# fmt: on


def can_be_given_weights(network: keras.Model) -> bool:
    """Whether a network is known to compute the same with weights that were read for it: all its layers are plain."""
    return all(
        (isinstance(layer, keras.Model) and is_of_keras(type(layer))) or _is_plain(layer)
        for layer in layers_of(network)
    )


def _is_plain(layer: keras.layers.Layer) -> bool:
    activation = getattr(layer, "activation", None)
    own = not hasattr(activation, "__module__") or is_of_keras(activation)
    return type(layer) in PLAIN and layer.activity_regularizer is None and own and does_no_more_than_its_call(layer)


class Passes:
    """Passes of one training step through a model.

    TensorFlow does not know that two reads of a variable give the same. Where each weight is read once, it sees what
    passes have in common, such as the layers below the first dropout, and computes it once.

    Args:
        model: The model.
        read_once: Whether weights are read once, and layers are given what was read. If not, layers read variables.
    """

    def __init__(self, model: keras.Model, read_once: bool) -> None:
        self._model = model
        self._given = [(v, tf.convert_to_tensor(v.value)) for v in model.trainable_weights] if read_once else []

    def watched_by(self, tape: tf.GradientTape) -> None:
        """Let a tape see the weights that are given; it sees variables by itself."""
        tape.watch([value for _, value in self._given])

    def clean(self) -> AbstractContextManager[None]:
        """Where a pass over the clean images belongs: layers keep the states that they assign."""
        return self._scope((), self._model.variables) if self._given else nullcontext()

    @contextmanager
    def _scope(
        self, states: Sequence[tuple[keras.Variable, tf.Tensor]], keep: Sequence[keras.Variable]
    ) -> Iterator[None]:
        given = [*self._given, *states]
        with keras.StatelessScope(given, initialize_variables=False) as scope:
            yield
        seen = {id(variable): value for variable, value in given}
        for variable in keep:
            value = scope.get_current_value(variable)
            if value is not seen.get(id(variable)):
                variable.assign(value)

    def masked(
        self, network: keras.Model, recipe: Recipe, before: Sequence[tuple[keras.Variable, tf.Tensor]]
    ) -> AbstractContextManager[None]:
        """Where the pass over the masked images belongs: it does to the states of layers what the recipe says.

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
        return self._scope(before if recipe.dropout == "shared" else (), keep)

    def gradients(self, tape: tf.GradientTape, loss: tf.Tensor) -> list[tf.Tensor | None]:
        """The gradients of a loss with respect to the trainable weights, `None` where it does not depend on one."""
        with apart_from_kernels():
            # Regularizers, and losses that users add, read variables.
            sources = [self._model.trainable_weights, [value for _, value in self._given]]
            read, given = tape.gradient(loss, sources)
        gradients = [_sum(parts) for parts in zip_longest(read, given)]
        # Otherwise TensorFlow lets the update of a weight come before the backward pass has read it, if that reads it
        # anew (tf.recompute_grad, keras.remat): its graph optimizer drops the edge between the two.
        found = [gradient for gradient in gradients if gradient is not None]
        with tf.control_dependencies(tf.nest.flatten(found, expand_composites=True)):
            return [None if gradient is None else tf.identity(gradient) for gradient in gradients]


def _sum(parts: Sequence[tf.Tensor | None]) -> tf.Tensor | None:
    found = [part for part in parts if part is not None]
    return sum(found[1:], found[0]) if found else None


def alike_in_both_modes(model: keras.Model, image_shape: tuple[int, ...]) -> bool:
    """Whether a network computes the same in training as in inference mode: whether its two graphs are the same."""
    images = tf.TensorSpec([None, *image_shape], keras.config.floatx())
    traced = (
        tf.function(lambda batch, mode=mode: model(batch, training=mode)).get_concrete_function(images)
        for mode in (True, False)
    )
    try:
        training, inference = (list(function.graph.as_graph_def().node) for function in traced)
    except Exception:
        return False  # there is no graph of what runs only eagerly; what it raises is up to its layers
    return training == inference
