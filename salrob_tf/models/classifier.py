"""What an attack sees of a model (Karkehabadi 2023, section 2): logits of images in [0, 1], in inference mode."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from salrob_tf.checks import brief, check_whole, shown
from salrob_tf.data.arrays import fingerprint
from salrob_tf.models.bounds import check_bounds, check_images_in
from salrob_tf.models.compiled import Compiled
from salrob_tf.models.contract import check_outputs, images_of, outputs_probabilities
from salrob_tf.models.copies import copy_in_bfloat16, differ, rounding
from salrob_tf.models.devices import over_devices
from salrob_tf.models.forms import form_of
from salrob_tf.models.loading import path_of
from salrob_tf.models.logits import LOG_PROBABILITIES, LOGITS, SAME, Forward, furthest, logits_of
from salrob_tf.models.preprocessing import preprocessing_of

PASSES = 5
COPIED = 0.1  # share of the largest logit by which a copy in bfloat16 may be off


class Classifier:
    """Logits of a model, as attacks and evaluations use them: a function of images in [0, 1], whatever it is inside.

    A model that gives probabilities is attacked by logits all the same: the softmax of a Keras model or a callable is
    left out; where it is out of sight, as in a SavedModel, the logarithms are taken. `outputs` says which.

    Example:
        >>> classifier = sr.Classifier(lambda x: network(x, training=False), "mine", input_shape=(8, 8, 1))
        >>> classifier
        <Classifier mine: callable, 8 x 8 x 1 images in [0, 1] to 3 logits>
        >>> classifier.predict(images).shape
        (64,)

    Args:
        model: A Keras model (a `SaliencyGuided` counts as its classifier, a KerasHub task brings its preprocessor);
            the path of a folder that `scripts/train.py` wrote, of a `.keras` or `.h5` file, or of a SavedModel
            folder, whoever made it; or a callable made of TensorFlow operations, from a float32 batch of any size to
            logits or probabilities `(N, num_classes)`, which runs as it is: only a Keras model can be told to be in
            inference mode. A SavedModel is a program: load only what you trust. Of a Keras file no code is run.
        name: What reports call it; by default the model's name or the last part of the path.
        bounds: The range of images that the model itself takes, `(low, high)`. Images are in [0, 1] everywhere
            outside it, and so are epsilons: x becomes low + x (high - low) on the way in.
        input_shape: `(height, width, channels)` of images, for callables and models that take images of any size.
        output: Of a model with several outputs, the one to attack: its key, its name in a Keras model, or its place
            in a list. By default the only one that can be logits or probabilities, floats `(N, num_classes)`.

    Attributes:
        name: See above.
        path: Where it was loaded from, or `None`.
        bounds: See above, two floats.
        input_shape: `(height, width, channels)`.
        num_classes: Number of logits.
        output: Name of the output that is attacked, or `None` where there is but one.
        outputs: How logits are had: `"logits"`, as given; `"softmax removed"` or `"sigmoid removed"`;
            `"log-probabilities"`.
        preprocessing: Names of a KerasHub task's preprocessor, and of the layers that rescale or normalise images
            inside a Keras model.

    Raises:
        ValueError: If there is no model, it does not turn images into logits or probabilities, or an argument is not
            valid or does not fit it.
    """

    def __init__(
        self,
        model: Any,
        name: str | None = None,
        bounds: tuple[float, float] = (0, 1),
        input_shape: Sequence[int] | None = None,
        output: str | int | None = None,
    ) -> None:
        if name is not None and not isinstance(name, str):
            raise ValueError(f"`name` must be text. Received: name={shown(name)}")
        self.path: str | None = None
        self._functions: dict[Any, Any] = {}  # compiled for this model: attacks and prediction
        self.bounds = check_bounds(bounds)
        self._form = form_of(model)
        if isinstance(model, str | bytes | os.PathLike):
            self.path = os.fsdecode(model)
            path = path_of(model)
            name = name or (path.stem if path.is_file() else Path(os.path.realpath(path)).name)
        self._model = self._form.model
        self.name = brief(name or getattr(self._model, "name", None) or getattr(model, "__name__", ""), 255) or "model"
        self.input_shape = self._form.image_shape(input_shape, self.name)
        self._probe = images_of(self.input_shape)
        labels = self._form.try_out(self._inside(tf.identity)(self._probe), output, self.name)
        self.output = labels[self._form.place] if len(labels) > 1 else None
        self._others = [label for label in labels if label != self.output] if self.output else []
        self.num_classes = check_outputs(self._inside(self._form.forward)(self._probe), self.name)
        self._forward, self.outputs = logits_of(self._model, self._inside(self._form.forward), self._probe)
        prepared = self._form.prepare is not None
        self.preprocessing = preprocessing_of(self._model, prepared, self.bounds, self.name)

    def __repr__(self) -> str:
        return f"<Classifier {self.name}: {self.summary}>"

    @property
    def summary(self) -> str:
        """What was found out about the model, in one line."""
        height, width, channels = self.input_shape
        low, high = self.bounds
        inside = f" ({', '.join(self.preprocessing)} inside)" if self.preprocessing else ""
        outputs = {
            LOGITS: "logits",
            LOG_PROBABILITIES: "probabilities, attacked by their logarithms (no gradient where they round to 0)",
        }.get(self.outputs, f"probabilities, attacked by logits ({self.outputs})")
        of_several = f", its output {self.output}, not {brief(', '.join(self._others))}" if self.output else ""
        return (
            f"{self._form.kind}, {height} x {width} x {channels} images in [{low:g}, {high:g}]{inside} to "
            f"{self.num_classes} {outputs}{of_several}"
        )

    def describe(self) -> dict[str, Any]:
        """What was found out about the model, as JSON holds it."""
        return {
            "summary": self.summary,
            "form": self._form.kind,
            "input_shape": list(self.input_shape),
            "num_classes": self.num_classes,
            "bounds": list(self.bounds),
            "preprocessing": self.preprocessing,
            "output": self.output,
            "outputs": self.outputs,
        }

    def is_of(self, model: Any) -> bool:
        """Whether this is a classifier of a Keras model, a `SaliencyGuided` counting as what it trains."""
        return getattr(model, "model", model) is self._model or model is self._model

    def logits(self, images: tf.Tensor) -> tf.Tensor:
        """Float32 logits `(N, num_classes)` of images `(N, height, width, channels)`, in inference mode."""
        logits = tf.cast(self._forward(images), tf.float32)
        if not logits.shape.is_compatible_with([None, self.num_classes]):
            raise ValueError(
                f"{self.name} must give logits (N, {self.num_classes}), as it did before. "
                f"Received: outputs {tuple(logits.shape)}"
            )
        logits.set_shape([None, self.num_classes])  # some SavedModels do not say it
        return logits

    def crafting(self, dtype: str) -> Callable[[tf.Tensor], tf.Tensor]:
        """Logits to take gradients of: those of the model, or of its layers computing in bfloat16.

        Args:
            dtype: `"float32"` or `"bfloat16"`.

        Raises:
            ValueError: If the model cannot be copied in bfloat16: only Functional and Sequential ones can.
        """
        if dtype == "float32":
            return self.logits
        if "copy" not in self._functions:
            copy, forward = copy_in_bfloat16(self._model, self._form.forward_of, self.name)
            logits, _ = logits_of(copy, self._inside(forward), self._probe)
            self._functions["copy"] = lambda images: tf.cast(logits(images), tf.float32)
            if self._is_stale("copy"):
                del self._functions["copy"]
                raise ValueError(
                    f"{self.name} cannot be attacked in bfloat16: a copy of it gives other logits, because a layer "
                    "keeps more than its configuration and its weights, or because it needs more digits"
                )
        return self._functions["copy"]

    def refresh(self) -> None:
        """Make anew what was compiled, if it gives other logits than the model now does.

        Compiled functions follow weights, but not what a model computes with them: a normalisation that was adapted, a
        layer's activation, what a callable looks up.
        """
        if any(self._is_stale(key) for key in ("predict", "copy") if key in self._functions):
            self._functions.clear()

    def _is_stale(self, key: str) -> bool:
        now = lambda: self.logits(self._probe).numpy()  # noqa: E731
        if key == "predict":
            return differ(now, lambda: self.predict_logits(self._probe.numpy()), rounding(self._model))
        return differ(now, lambda: self._functions[key](self._probe).numpy(), COPIED)

    def function(self, key: Any, python_function: Callable[..., Any], signature: list[tf.TensorSpec]) -> Any:
        """The compiled function kept under `key`, made from `python_function` where there is none yet."""
        if key not in self._functions:
            if key != "predict" and "predict" not in self._functions:
                self.predict_logits(self._probe.numpy())  # by which `refresh` tells whether the model is the same
            self._functions[key] = Compiled(python_function, signature)
        return self._functions[key]

    def traces(self, key: tuple[Any, ...]) -> int:
        """How often functions were traced whose keys begin with `key`."""
        kept = [run for name, run in self._functions.items() if isinstance(name, tuple) and name[: len(key)] == key]
        return sum(run.traces for run in kept)

    @property
    def repeats(self) -> bool:
        """Whether the same images have the same logits when the model is asked again."""
        first, second = (self.logits(self._probe).numpy() for _ in range(2))
        return bool(np.array_equal(first, second))

    @property
    def deterministic(self) -> bool:
        """Whether the same images have the same logits, but for rounding, when the model is asked again."""
        return furthest(np.stack([self.logits(self._probe).numpy() for _ in range(PASSES)])) <= SAME

    @property
    def fingerprint(self) -> str:
        """Identity of the model, as a hexadecimal digest: of its weights, its files, or what a callable gives."""
        if self._form.identity is None:
            name = np.frombuffer(self.name.encode(), np.uint8)  # nothing else tells random callables apart
            return fingerprint(self.logits(self._probe).numpy() if self.repeats else name)
        return self._form.identity()

    def check(self, images: Any) -> np.ndarray:
        """Images as `check_images` returns them, which must have this model's shape.

        Args:
            images: Floats in [0, 1]; or, for a model whose `bounds` are 0 and 255, integers in 0..255, which become
                floats in [0, 1] as in `Dataset.from_arrays`.

        Raises:
            ValueError: If they are not valid, or do not fit the model.
        """
        images = check_images_in(images, self.bounds)
        if images.shape[1:] != self.input_shape:
            raise ValueError(
                f"{self.name} takes images of shape {self.input_shape}. Received: images of shape {images.shape[1:]}"
            )
        return images

    def predict(self, images: np.ndarray, batch_size: int = 256) -> np.ndarray:
        """Predict classes.

        Args:
            images: `(N, height, width, channels)`, as `check` takes them.
            batch_size: Images per forward pass.

        Returns:
            Classes `(N,)`, int64.

        Raises:
            ValueError: If the images do not fit the model, it gives probabilities, NaN or infinity, or `batch_size` is
                not valid.
        """
        images, batch_size = self.check(images), check_whole("batch_size", batch_size, 1)
        self.refresh()
        return self.classify(images, batch_size)

    def classify(self, images: np.ndarray, batch_size: int = 256) -> np.ndarray:
        """What `predict` gives, of images that `check` has returned and a model that `refresh` has looked at."""
        logits = self.predict_logits(images, batch_size)
        self._check_finite(logits)
        if outputs_probabilities(logits):
            raise ValueError(
                f"{self.name} must give logits, but its outputs are probabilities: attack it without its softmax"
            )
        return logits.argmax(-1)

    def predict_logits(self, images: np.ndarray, batch_size: int = 256) -> np.ndarray:
        """Logits `(N, num_classes)` of float32 images that fit the model, without any check."""
        signature = [tf.TensorSpec([None, *self.input_shape], tf.float32)]
        run = self.function("predict", lambda batch: over_devices(lambda part: (self.logits(part),), batch), signature)
        starts = range(0, len(images), batch_size)
        return np.concatenate([run(images[start : start + batch_size])[0].numpy() for start in starts])

    def classifies(self, images: np.ndarray, labels: np.ndarray, batch_size: int = 256, draws: int = 1) -> np.ndarray:
        """Whether each image gets its label in more than half of `draws` passes, boolean `(N,)`; as `votes`."""
        return 2 * self.votes(images, labels, batch_size, draws) > draws

    def votes(self, images: np.ndarray, labels: np.ndarray, batch_size: int = 256, draws: int = 1) -> np.ndarray:
        """In how many of `draws` passes each image gets its label, integers `(N,)`.

        Raises:
            ValueError: If a logit is NaN or infinite; nothing else is checked.
        """
        right = np.zeros(len(images), np.int32)
        for _ in range(draws):
            logits = self.predict_logits(images, batch_size)
            self._check_finite(logits)
            right += logits.argmax(-1) == labels
        return right

    def _check_finite(self, logits: np.ndarray) -> None:
        if not np.isfinite(logits).all():
            raise ValueError(f"{self.name} must give finite logits. Received: NaN or infinity for some images")

    def _inside(self, forward: Forward) -> Forward:
        """A function of images in the model's own range as one of images in [0, 1]."""
        low, high = self.bounds
        return forward if (low, high) == (0, 1) else lambda images: forward(low + images * (high - low))


def as_classifier(model: Any) -> Classifier:
    """A `Classifier` of anything that `Classifier` takes; a `Classifier` is returned as it is."""
    return model if isinstance(model, Classifier) else Classifier(model)
