"""Every form that a classifier comes in, as one function of images: Keras models, files, SavedModels, callables."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from salrob_tf._compat import random_states, traces_in
from salrob_tf.checks import brief, shown
from salrob_tf.data.arrays import fingerprint
from salrob_tf.models.contract import Wrapper, batch_shape, preprocessor_of, structure_of
from salrob_tf.models.loading import load, path_of
from salrob_tf.models.logits import Forward, choose_output
from salrob_tf.models.preprocessing import check_preprocessor, shape_before

CHOOSE = "; another signature is had by loaded = tf.saved_model.load(path), Classifier(loaded.signatures[NAME])"


@dataclass
class Form:
    """A model as attacks can run it.

    Attributes:
        kind: What it is, for reports.
        model: The model itself, which must live as long as its functions.
        shape: What it takes, `(N, height, width, channels)`, with `None` where any number will do.
        call: What it gives for a batch of images in its own range, in inference mode where it has one: a tensor or a
            structure of them.
        identity: Digest of what the model is, or `None` where only its outputs tell.
        batch: How many images it insists on, or `None`.
        names: Names of a Keras model's outputs.
        prepare: What a KerasHub task does to images before the model.
        place: Which output is attacked, in `keras.tree.flatten` of what `call` gives.
        variables: Those of a traced function, which does not hold on to them itself.
    """

    kind: str
    model: Any
    shape: tuple[int | None, ...]
    call: Callable[[tf.Tensor], Any]
    identity: Callable[[], str] | None = None
    batch: int | None = None
    names: Sequence[str] = ()
    prepare: Forward | None = None
    place: int = 0
    variables: Sequence[Any] = ()

    def image_shape(self, given: Sequence[int] | None, name: str) -> tuple[int, ...]:
        """`(height, width, channels)`, as the model says or, where it takes any, as given.

        Raises:
            ValueError: If neither says, or they contradict each other.
        """
        own = self.shape[1:]
        shape = (
            own
            if given is None
            else tuple(given)
            if isinstance(given, Sequence) or getattr(given, "ndim", 0) == 1
            else ()
        )
        if len(shape) != 3 or not all(size is None or _is_count(size) for size in shape):
            raise ValueError(f"`input_shape` must be (height, width, channels). Received: input_shape={shown(given)}")
        if any(size not in (None, asked) for size, asked in zip(own, shape, strict=True)):
            raise ValueError(f"{name} takes images of shape {own}. Received: images of shape {shape}")
        if None in shape:
            raise ValueError(
                "Which size of images? A callable, or a model that takes any, needs Classifier(model, "
                f"input_shape=(height, width, channels)). Received: {name}, a {self.kind} of images {own}"
            )
        return tuple(int(size) for size in shape if size is not None)

    def try_out(self, images: tf.Tensor, output: str | int | None, name: str) -> list[str]:
        """Run the model on a few images, and settle which of its outputs is attacked.

        Args:
            images: Three or more, in the model's own range.
            output: As `choose_output` takes it.
            name: What errors call the model.

        Returns:
            What the outputs are called; that at `place` is attacked.

        Raises:
            ValueError: If the model cannot be run on batches of any size, or there is no such output.
        """
        if self.prepare is not None:
            check_preprocessor(self.model, images)
        with self._in_one_line(images, name):
            outputs = self.call(images if self.batch is None else _filled_up(images[: self.batch], self.batch))
        self.place, labels = choose_output(outputs, output, name, self.names)
        with self._in_one_line(images, name):
            few = self.forward(images[:3])
            if tuple(getattr(few, "shape", ()))[:1] not in ((), (3,)):
                raise ValueError(f"of 3 images it gives outputs {tuple(few.shape)}")
            # Keras has traced Functional and Sequential models before; their outputs show them.
            known = self.kind == "SavedModel" or (
                isinstance(self.model, keras.Model) and hasattr(self.model, "outputs")
            )
            if self.prepare or not known:
                batch = tf.TensorSpec([None, *images.shape[1:]], images.dtype)
                tf.function(self.forward, input_signature=[batch], autograph=False).get_concrete_function()
        if self.identity is not None and len(labels) > 1:
            whole = self.identity
            self.identity = lambda: hashlib.sha256(f"{whole()} {labels[self.place]}".encode()).hexdigest()
        return labels

    @property
    def forward(self) -> Forward:
        """The output that is attacked, of a batch of images in the model's own range."""
        chosen = lambda images: keras.tree.flatten(self.call(images))[self.place]  # noqa: E731
        return chosen if self.batch is None else _in_parts(chosen, self.batch)

    def forward_of(self, copy: keras.Model) -> Forward:
        """`forward` of a copy of the Keras model."""
        call = _keras_call(copy, self.prepare)
        return lambda images: keras.tree.flatten(call(images))[self.place]

    @contextmanager
    def _in_one_line(self, images: tf.Tensor, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            # Anything may be wrong inside a model.
            raise ValueError(
                f"A {self.kind} must be made of TensorFlow operations on a batch {(None, *images.shape[1:])} of any "
                f"size. Received: {name}, which raised {brief(error)}"
            ) from error


def form_of(model: Any) -> Form:
    """The `Form` of a model, or of what lies at a path.

    Raises:
        ValueError: If there is no model, or it does not take one batch of float images.
    """
    path = None
    if isinstance(model, str | bytes | os.PathLike):
        given, model = model, load(model)
        path = path_of(given)
    if isinstance(model, Wrapper):
        return _keras_model(model.model, None)  # which is trained without its preprocessor, where it has one
    if isinstance(model, keras.Model):
        return _keras_model(model, model.preprocess_samples if preprocessor_of(model) is not None else None)
    if hasattr(model, "signatures"):
        # At once: files may change while what was loaded stays.
        digest = None if path is None else _files_digest(path)
        return _function("SavedModel", model, _entry(model), None if digest is None else lambda: digest)
    if callable(model):
        if getattr(model, "structured_input_signature", None):
            try:
                variables = model.variables
            except AssertionError as error:
                raise ValueError(
                    "The variables of this function are gone: hold on to the model that it is of, such as loaded = "
                    f"tf.saved_model.load(path). Received: {brief(getattr(model, 'name', model))}"
                ) from error
            return replace(_function("callable", model, model, None), variables=variables)
        return Form("callable", model, (None,) * 4, model)
    raise ValueError(
        "A model must be a keras.Model, a path, or a callable from images to logits. Received: " + type(model).__name__
    )


def _keras_model(model: keras.Model, prepare: Forward | None) -> Form:
    # The first number is that of the batch which the model was built with, which binds nobody.
    sizes = batch_shape(model)[1:]
    if prepare is not None:
        sizes = shape_before(model, sizes)

    def identity() -> str:
        # Not the states that random numbers are drawn from: asking a model moves them.
        moved = {id(state) for state in random_states(model)}
        variables = [np.asarray(variable) for variable in model.variables if id(variable) not in moved]
        structure = np.frombuffer(structure_of(model).encode(), np.uint8)
        # A preprocessor by what it makes of an image.
        image = np.random.default_rng(0).random([1, *(size or 32 for size in sizes)], np.float32)
        return fingerprint(structure, *variables, *([] if prepare is None else [np.asarray(prepare(image))]))

    names = getattr(model, "output_names", ())
    return Form("Keras model", model, (None, *sizes), _keras_call(model, prepare), identity, None, names, prepare)


def _keras_call(model: keras.Model, prepare: Forward | None) -> Callable[[tf.Tensor], Any]:
    if prepare is None:
        return lambda images: model(images, training=False)
    return lambda images: model(prepare(images), training=False)


def _function(kind: str, model: Any, function: Any, identity: Callable[[], str] | None) -> Form:
    """The form of a model that is run by a traced function."""
    specs = [spec for spec in tf.nest.flatten(function.structured_input_signature) if isinstance(spec, tf.TensorSpec)]
    if len(specs) != 1:
        raise ValueError(
            f"A {kind} must have one input: wrap it, as Classifier(lambda images: loaded.signatures[NAME](...), "
            f"input_shape=...). Received: inputs={brief([spec.name for spec in specs])}"
        )
    (image,) = specs
    if not image.dtype.is_floating:
        raise ValueError(
            f"A {kind} must take float images: there is no gradient with respect to others{CHOOSE}. "
            f"Received: images of {image.dtype.name}"
        )
    shape = (None,) * 4 if image.shape.rank is None else tuple(image.shape)
    if len(shape) != 4:
        raise ValueError(f"A {kind} must take batches (N, height, width, channels). Received: images {shape}")

    def call(images: tf.Tensor) -> Any:
        cast = tf.cast(images, image.dtype)
        fill = lambda part: cast if isinstance(part, tf.TensorSpec) else part  # noqa: E731
        args, kwargs = tf.nest.map_structure(fill, function.structured_input_signature)
        return function(*args, **kwargs)

    return Form(kind, model, shape, call, identity, shape[0])


def _entry(saved: Any) -> Any:
    """The function that a SavedModel is for: its serving signature, its only one, or what calling it runs."""
    signatures = dict(saved.signatures)
    if "serving_default" in signatures or len(signatures) == 1:
        return signatures.get("serving_default") or next(iter(signatures.values()))
    # Not the one with training=True, and rather one for batches of any size.
    inference = [function for function in traces_in(saved) if True not in function.structured_input_signature[0]]
    if inference:
        return max(inference, key=lambda function: _takes_any_number(function.structured_input_signature))
    raise ValueError(
        f"A SavedModel must have a serving_default signature, or be callable{CHOOSE if signatures else ''}. "
        f"Received: signatures={brief(sorted(signatures))}, none of them serving_default"
    )


def _in_parts(forward: Forward, size: int) -> Forward:
    """Run a function of batches of one size on batches of any, the last of which is filled up with its last image."""

    def run(images: tf.Tensor) -> tf.Tensor:
        parts = tf.reshape(_filled_up(images, size), [-1, size, *images.shape[1:]])
        outputs = tf.map_fn(lambda part: tf.cast(forward(part), tf.float32), parts)
        return tf.reshape(outputs, [-1, tf.shape(outputs)[-1]])[: tf.shape(images)[0]]

    return run


def _filled_up(images: tf.Tensor, size: int) -> tf.Tensor:
    """Images with the last one repeated, so that their number divides by `size`."""
    return tf.concat([images, tf.repeat(images[-1:], -tf.shape(images)[0] % size, axis=0)], axis=0)


def _files_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted([folder / "saved_model.pb", *folder.glob("variables/*"), *folder.glob("assets/*")]):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _is_count(size: Any) -> bool:
    return isinstance(size, int | np.integer) and not isinstance(size, bool) and bool(size > 0)


def _takes_any_number(signature: Any) -> bool:
    return all(spec.shape[0] is None for spec in tf.nest.flatten(signature) if isinstance(spec, tf.TensorSpec))
