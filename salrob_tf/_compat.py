"""What leans on internals of Keras, TensorFlow, KerasHub and CleverHans: which, why, and the way on without them.

Nothing else in the package uses a private name of theirs. Where an internal is gone, results are the same and take
longer, or are refused; `tests/test_compat.py` takes each of them away. The internals are those of Keras 3.15,
TensorFlow 2.18 to 2.21, KerasHub 0.32 and CleverHans 4.0.0.

What errors say is read where they are caught, and they are passed on where they say something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import keras
import tensorflow as tf
from cleverhans.tf2.attacks.spsa import SPSAAdam


def layers_of(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """A model, the layers in it, and those in them, each once.

    Keras' `layers` leaves out what a layer that is no model holds, such as `TimeDistributed`; its own walk over all of
    them is `Layer._flatten_layers`. Without it, attributes are looked through, which may find more.
    """
    return list(model._flatten_layers() if hasattr(model, "_flatten_layers") else _held(model, keras.layers.Layer))


def random_states(model: Any) -> list[keras.Variable]:
    """Those of a model's variables that layers such as dropout draw their random numbers from.

    Keras tells them by `Layer._seed_generators` alone. Attributes are looked through, that one among them.
    """
    states = {id(generator.state) for generator in _held(model, keras.random.SeedGenerator)}
    return [variable for variable in getattr(model, "variables", ()) if id(variable) in states]


def _held(holder: Any, kind: type) -> Iterator[Any]:
    """Objects of a kind among a layer's attributes, and among those of the layers there, in order."""
    waiting, seen = [holder], set()
    while waiting:
        part: Any = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, kind):
            yield part
        if isinstance(part, dict):
            waiting += reversed(list(part.values()))
        elif isinstance(part, list | tuple | set):
            waiting += reversed(list(part))
        elif part is holder or isinstance(part, keras.layers.Layer):
            waiting += reversed(getattr(part, "__dict__", {}).values())


def is_of_keras(thing: Any) -> bool:
    """Whether a class or a function is Keras' own; its folders (`keras.src`) are not looked at."""
    return thing.__module__.split(".")[0] == "keras"


def does_no_more_than_its_call(layer: keras.layers.Layer) -> bool:
    """Whether a layer of Keras is known to run nothing but its own `call`.

    `Layer._remat_mode` says whether a `keras.RematScope` computes it again on the way back, `quantization_mode` whether
    its weights are others than they seem. In a Keras that tells neither, or walks over layers otherwise than by
    `_flatten_layers`, nothing is known, and no short cut is taken.
    """
    modes = [getattr(layer, name, "unknown") for name in ("_remat_mode", "quantization_mode")]
    return hasattr(layer, "_flatten_layers") and modes == [None, None]


def finalize(ours: keras.layers.Normalization, theirs: keras.layers.Normalization) -> None:
    """Let a copy of a layer normalise by what the original adapted to, with the weights that the scope gives it.

    Keras makes constants of these weights when it loads them, by `finalize_state`, which no page documents. Without it,
    the original's constants are taken as they are now.
    """
    if hasattr(ours, "finalize_state"):
        ours.finalize_state()
    else:
        ours.mean, ours.variance = (keras.ops.cast(part, ours.compute_dtype) for part in (theirs.mean, theirs.variance))


@contextmanager
def left_out(operation: Any, step: str) -> Iterator[None]:
    """Let a step of an operation, its `activation` or its `call`, do nothing meanwhile.

    A copy of the model would not follow its weights, and new calls of its layers would stay in the user's graph. Keras
    looks both up at each call, so that what stands in the operation's own dictionary goes first. Where it does not,
    outputs stay what they were, and who calls this sees it.
    """
    own = vars(operation)
    before = {step: own[step]} if step in own else {}
    own[step] = lambda outputs, *_, **__: outputs
    try:
        yield
    finally:
        del own[step]
        own.update(before)


def given_to_last(forward: Callable[[tf.Tensor], tf.Tensor], inputs: tf.Tensor, kinds: tuple[str, ...]) -> tf.Tensor:
    """What a function of tensors gives to its last operation, one of some kinds, whether it is run eagerly or traced.

    An eager tensor does not tell where it comes from, and what is traced anew for it draws the same random numbers
    again. `op_callbacks`, which TensorFlow's debugger stands on, are told of both. Without them, `ImportError`.

    Raises:
        ValueError: If it is of another kind.
    """
    from tensorflow.python.framework import op_callbacks

    found = {}  # holds on to outputs, so that no other tensor gets their id

    def note(kind: str, given: Any, attributes: Any, outputs: Any, *_: Any, **__: Any) -> None:
        if kind in kinds:
            found[id(outputs[0])] = outputs[0], given[0]

    op_callbacks.add_op_callback(note)
    try:
        last = forward(inputs)
    finally:
        op_callbacks.remove_op_callback(note)
    if id(last) not in found:
        raise ValueError(f"The last operation of this function must be {' or '.join(kinds)}. Received: another one")
    return found[id(last)][1]


class AroundSteps(keras.Model):
    """A Keras model whose `around_step(run, data)` runs each step of `fit` and `evaluate`, and may refuse its batch.

    XLA drops assertions. `_autoconvert_optionals` of Keras' trainer is what goes around the compiled step, and
    nothing public does. Without it, `around_step` is called inside, by `in_step`, and nothing is compiled by XLA.
    """

    if hasattr(keras.Model, "_autoconvert_optionals"):

        def _autoconvert_optionals(self, step_func: Callable[[Any], Any]) -> Callable[[Any], Any]:
            run = super()._autoconvert_optionals(step_func)
            return lambda data: self.around_step(run, data)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """`keras.Model.compile`."""
        super().compile(*args, **(kwargs if _goes_around() else {**kwargs, "jit_compile": False}))

    def in_step(self, run: Callable[[Any], Any], data: Any) -> Any:
        """What `run` makes of a batch in a step that `around_step` may not have gone around."""
        if _goes_around():
            return run(data)
        once_looked_at = lambda part: part if part is None else tf.identity(part)  # noqa: E731
        return self.around_step(lambda batch: run(keras.tree.map_structure(once_looked_at, batch)), data)


def _goes_around() -> bool:
    return "_autoconvert_optionals" in vars(AroundSteps)


def is_asked_by_fit(options: dict[str, Any]) -> bool:
    """Whether `evaluate` is called by `fit`, which has looked at the data before the first epoch.

    Keras' `fit` says so by an option of its own. Without it, the data is looked at in each epoch.
    """
    return bool(options.get("_use_cached_eval_dataset"))


def track_loss(model: keras.Model, loss: tf.Tensor, samples: tf.Tensor) -> None:
    """Count a loss into the metric `loss` of a model that has a training step of its own.

    Keras' step updates `_loss_tracker`. Without it, the metric is found by its name.
    """
    named = (metric for metric in model.metrics if metric.name == "loss")
    tracker = model._loss_tracker if hasattr(model, "_loss_tracker") else next(named, None)
    if tracker is not None:
        tracker.update_state(loss, sample_weight=samples)


def apart_from_kernels() -> AbstractContextManager[None]:
    """Keep the gradients of convolutions' biases apart from those of their kernels.

    On CPUs, TensorFlow's graph optimizer merges the two into one operation of oneDNN, which in float32 takes 1.7 times
    as long as both of them. It does not merge what XLA computes. XLA leaves the first ragged batch to TensorFlow, so
    that the last bits depend on what a process saw before: not where operations must be deterministic, or may have to
    be. All other gradients are kept from autoclustering thereby. Where nothing is merged, nothing is gained.
    """
    if tf.executing_eagerly() or tf.config.list_physical_devices("GPU") or _may_have_to_be_deterministic():
        return nullcontext()
    return tf.xla.experimental.jit_scope(
        compile_ops=lambda node: node.op == "BiasAddGrad" and node.attr["T"].type == tf.float32.as_datatype_enum
    )


def _may_have_to_be_deterministic() -> bool:
    """Whether `enable_op_determinism` was called, which TensorFlow tells in private alone; Keras asks there too."""
    try:
        from tensorflow.python.framework.config import is_op_determinism_enabled
    except ImportError:
        return True
    return bool(is_op_determinism_enabled())


def traces_in(saved: Any) -> list[Any]:
    """The traces of what calling a loaded SavedModel runs, which it keeps as `concrete_functions`; none without."""
    return list(getattr(saved.__call__, "concrete_functions", ())) if callable(saved) else []


def without_deprecations() -> AbstractContextManager[None]:
    """Keep TensorFlow from remarking on arguments of old, which CleverHans passes; without `silence` it does."""
    try:
        from tensorflow.python.util.deprecation import silence
    except ImportError:
        return nullcontext()
    return silence()


class SeededSPSAAdam:
    """CleverHans' optimizer with draws that depend on a key and the step alone.

    `SPSAAdam` inherits Keras' Adam, whose constructor it calls with `lr`, which Keras 3 does not take. Of Keras it
    uses nothing: its methods are taken by themselves, with all that they read. Their names are those of CleverHans
    4.0.0, the one version that is let in.
    """

    minimize = SPSAAdam.minimize
    _compute_gradients = SPSAAdam._compute_gradients
    _apply_gradients = SPSAAdam._apply_gradients

    def __init__(self, learning_rate: float, delta: float, samples: int, key: tf.Tensor) -> None:
        self.lr, self.beta_1, self.beta_2, self.epsilon = learning_rate, 0.9, 0.999, 1e-7
        self._delta, self._num_samples, self._num_iters = delta, samples // 2, 1
        self.key, self.step = key, tf.constant(0)

    def _get_delta(self, x: tf.Tensor, delta: float) -> tf.Tensor:
        shape = [self._num_samples, *x.shape[1:]]
        seed = tf.random.experimental.stateless_fold_in(self.key, self.step)
        return delta * tf.sign(tf.random.stateless_uniform(shape, seed, -1.0, 1.0))


class PerImage:
    """A number that `CarliniWagnerL2` makes one constant per image of.

    It multiplies ones in the shape of the images by its `initial_const`, and losses of images `(N,)` by that: for
    colour images the shapes do not fit, for grey ones each loss is weighted by the constants of all images and by their
    pixels. So the product with these ones is a vector. In CleverHans 4.0.0, the one version that is let in.
    """

    def __init__(self, value: float) -> None:
        self.value = value

    def __rmul__(self, ones: tf.Tensor) -> tf.Tensor:
        return self.value * ones[:, 0, 0, 0]


class ResettableAdam:
    """Keras' Adam as CleverHans uses it: `variables()` are those that it sets to zero between its searches.

    `CarliniWagnerL2` calls what became a property and holds the learning rate too. It takes this for its attribute
    `optimizer`, in CleverHans 4.0.0, the one version that is let in.
    """

    def __init__(self, learning_rate: float) -> None:
        self.adam = keras.optimizers.Adam(learning_rate)
        self.learning_rate = self.adam.learning_rate

    def variables(self) -> list[Any]:
        """Momenta and the number of steps."""
        return [variable for variable in self.adam.variables if variable is not self.learning_rate]

    def apply_gradients(self, pairs: list[tuple[tf.Tensor, tf.Variable]]) -> None:
        """As Keras' Adam."""
        self.adam.apply_gradients(pairs)


def stem_of_resnet(backbone: keras.Model) -> tuple[str, tuple[str, str]]:
    """Names of the first convolution of KerasHub's ResNet, and of the padding and the pooling behind it.

    Nothing in its configuration changes them. They are told by their kinds, in the order of KerasHub 0.32.

    Raises:
        ValueError: If it is built otherwise.
    """
    stem = backbone.layers[1:7]
    kinds = ", ".join(type(layer).__name__ for layer in stem)
    if kinds != "ZeroPadding2D, Conv2D, BatchNormalization, Activation, ZeroPadding2D, MaxPooling2D":
        raise ValueError(
            "The small stem is made from the stem of KerasHub 0.32, and this KerasHub builds another: install that "
            f"version, or use stem='imagenet'. Received: {kinds}"
        )
    return stem[1].name, (stem[4].name, stem[5].name)
