"""Saliency-guided training (K, Algorithm 1, line 5, and Eq. 1) as a Keras model around any classifier."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from salrob_tf.datasets import check_labels
from salrob_tf.networks import check_gives_logits
from salrob_tf.saliency import Recipe, Seed, get_recipe, mask_size, masked_copy, saliency_scores

VALIDATION_SEEDS = (
    0,
    1,
)  # of a random ranking and of the fill, so that evaluating twice gives the same numbers


@keras.saving.register_keras_serializable(package="salrob_tf")
class SaliencyGuided(keras.Model):
    """Train a classifier with or without saliency guidance, by `fit`.

    Each step of guided training ranks the pixels of every image by the network's input gradient, fills the lowest
    ranked ones, and minimises (K, Eq. 1)

        cross-entropy(f(x), y) + kl_weight x KL(f(x) || f(x~)),

    x~ being the masked copy. `saliency=False` is Keras' own training of the classifier, on the same code path.

    The metric `loss` is the whole objective, `cross_entropy` the loss given to `compile`, and `kl` the unweighted
    divergence (guided only), all three in evaluation too, where dropout is off and the fill is the same every time.
    Sample weights weigh both terms. Losses that layers add are taken from the pass over the clean images. Dropout and
    BatchNormalization are in training mode in both passes of the loss, so that moving statistics are updated twice a
    step, on the clean and then on the masked images; the saliency pass is in inference mode unless the recipe says so.

    Example:
    ```python
    model = SaliencyGuided(cnn((28, 28, 1), 10))
    model.compile(keras.optimizers.Adadelta(0.1, rho=0.9, epsilon=1e-6), metrics=["accuracy"])
    model.fit(x_train, y_train, batch_size=256, epochs=100)
    model.export("classifier")  # the classifier alone, as a SavedModel
    ```

    Args:
        model: A built Keras model from images `(N, height, width, channels)` to logits `(N, num_classes)`.
        saliency: Whether training is saliency-guided.
        recipe: A name in `RECIPES` or a `Recipe`.
        mask_fraction: Share of the units that is masked, in [0, 1).
        kl_weight: Weight of the divergence (lambda of Eq. 1), 0 or more.
        seed: Seed of random rankings and fills; `None` draws one from Python's random state.
        **kwargs: Passed on to `keras.Model`, such as `name`.

    Raises:
        ValueError: If an argument is out of its range, the recipe is unknown, or `model` is not built, has several
            inputs or outputs, or ends in softmax.
    """

    def __init__(
        self,
        model: keras.Model,
        saliency: bool = True,
        recipe: str | Recipe = "karkehabadi2023",
        mask_fraction: float = 0.5,
        kl_weight: float = 1.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= mask_fraction < 1:
            raise ValueError(f"`mask_fraction` must be at least 0 and below 1. Received: mask_fraction={mask_fraction}")
        if not 0 <= kl_weight < float("inf"):
            raise ValueError(f"`kl_weight` must be a number, 0 or more. Received: kl_weight={kl_weight}")
        image_shape, self.num_classes = check_gives_logits(model)
        self.model = model
        self.saliency = saliency
        self.recipe = get_recipe(recipe)
        self.mask_fraction = mask_fraction
        self.kl_weight = kl_weight
        self.seed = seed
        self.mask_count = mask_size(self.recipe, mask_fraction, image_shape)
        self.cross_entropy_tracker = keras.metrics.Mean(name="cross_entropy")
        if saliency:
            self.divergence = Divergence(self.recipe.divergence)
            self.kl_tracker = keras.metrics.Mean(name="kl")
            self.seed_generator = keras.random.SeedGenerator(seed)
        self.build((None, *image_shape))

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Logits `(N, num_classes)` of the classifier."""
        return self.model(inputs, training=training)

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, **kwargs: Any) -> None:
        """`keras.Model.compile`, whose loss is by default the sparse categorical cross-entropy of logits.

        Raises:
            ValueError: If `loss` is a categorical cross-entropy of probabilities.
        """
        if loss is None:
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        named = keras.losses.get(loss) if isinstance(loss, str) else loss
        probabilities = named in (
            keras.losses.sparse_categorical_crossentropy,
            keras.losses.categorical_crossentropy,
        )
        if isinstance(named, keras.losses.SparseCategoricalCrossentropy | keras.losses.CategoricalCrossentropy):
            probabilities = not named.get_config()["from_logits"]
        if probabilities:
            raise ValueError(
                "The classifier gives logits, so its cross-entropy needs from_logits=True: pass "
                f"keras.losses.SparseCategoricalCrossentropy(from_logits=True). Received: loss={loss!r}"
            )
        super().compile(optimizer, loss=loss, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile as the model was that a `.keras` file holds; Keras does so only where `compile` is its own."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """`keras.Model.fit`, which looks at arrays before the first step.

        Raises:
            ValueError: If images in an array are not finite floats, or integer labels are out of range.
        """
        if isinstance(x, np.ndarray):
            if x.dtype.kind != "f" or not len(x):
                raise ValueError(f"`x` must be floats, one image or more. Received: dtype={x.dtype}, shape={x.shape}")
            if not np.isfinite(x).all():
                share = 1 - np.isfinite(x.reshape(len(x), -1)).all(axis=1).mean()
                raise ValueError(f"`x` must be finite. Received: NaN or infinity in {share:.1%} of the images")
            if isinstance(y, np.ndarray) and y.dtype.kind in "iu" and (y.ndim == 1 or y.shape[1:] == (1,)):
                check_labels(y, len(x), self.num_classes, "y")
        return super().fit(x, y, *args, **kwargs)

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step of Algorithm 1, in the shape of Keras' own `train_step`."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        masked = self._masked(x, y, self.seed_generator, self.seed_generator) if self.saliency else None
        with tf.GradientTape() as tape:
            logits = self(x, training=True)
            loss = self._objective(x, y, logits, masked, sample_weight, training=True)
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        return self.compute_metrics(x, y, logits, sample_weight=sample_weight)

    def test_step(self, data: Any) -> dict[str, Any]:
        """The objective and the metrics in inference mode."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        masked = self._masked(x, y, *VALIDATION_SEEDS) if self.saliency else None
        logits = self(x, training=False)
        self._objective(x, y, logits, masked, sample_weight, training=False)
        return self.compute_metrics(x, y, logits, sample_weight=sample_weight)

    def _masked(self, x: tf.Tensor, y: tf.Tensor, ranking_seed: Seed, fill_seed: Seed) -> tf.Tensor:
        one_hot = y.shape.rank == 2 and y.shape[-1] != 1
        labels = tf.argmax(y, axis=-1) if one_hot else tf.reshape(y, [-1])
        scores = saliency_scores(self.model, x, tf.cast(labels, tf.int32), self.recipe, ranking_seed)
        return masked_copy(x, scores, self.recipe, self.mask_count, fill_seed)

    def _objective(
        self, x: tf.Tensor, y: tf.Tensor, logits: tf.Tensor, masked: Any, sample_weight: Any, training: bool
    ) -> tf.Tensor:
        batch_size = tf.shape(x)[0]
        replicas = tf.distribute.get_strategy().num_replicas_in_sync  # Keras divides losses by it: metrics want it back
        loss = self.compute_loss(x, y, logits, sample_weight, training=training)
        added = sum((tf.cast(tf.reduce_sum(term), loss.dtype) for term in self.losses), tf.zeros((), loss.dtype))
        self.cross_entropy_tracker.update_state(loss * replicas - added, sample_weight=batch_size)
        if masked is not None:
            kl = self.divergence(logits, self(masked, training=training), sample_weight)
            self.kl_tracker.update_state(kl * replicas, sample_weight=batch_size)
            loss = loss + self.kl_weight * kl
        self._loss_tracker.update_state(loss * replicas, sample_weight=batch_size)
        return loss

    def export(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Write the classifier alone as a SavedModel that plain TensorFlow loads; see `keras.Model.export`."""
        self.model.export(filepath, *args, **kwargs)

    def save_own_variables(self, store: Any) -> None:
        """Save the states of dropout, fills and random rankings, which Keras leaves out, so that a reload goes on."""
        for key, state in self._random_states().items():
            store[key] = state.numpy()

    def load_own_variables(self, store: Any) -> None:
        """Load what `save_own_variables` saved; weights saved without saliency leave the state of the fills alone."""
        for key, state in self._random_states().items():
            if key in store:
                state.assign(store[key])

    def _random_states(self) -> dict[str, keras.Variable]:
        states = [variable for variable in self.model.variables if variable.path.endswith("seed_generator_state")]
        own = {"fill": self.seed_generator.state} if self.saliency else {}
        return {**own, **{f"layer_{number}": state for number, state in enumerate(states)}}

    def get_config(self) -> dict[str, Any]:
        """Everything that rebuilds this model, for `.keras` files."""
        return {
            **super().get_config(),
            "model": keras.saving.serialize_keras_object(self.model),
            "saliency": self.saliency,
            "recipe": self.recipe.get_config(),
            "mask_fraction": self.mask_fraction,
            "kl_weight": self.kl_weight,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> SaliencyGuided:
        """Rebuild a model from what `get_config` gave."""
        model = keras.saving.deserialize_keras_object(config["model"], custom_objects=custom_objects)
        return cls(**{**config, "model": model, "recipe": Recipe(**config["recipe"])})


class Divergence(keras.losses.Loss):
    """Divergence between the predictions on clean and on masked images (K, Eq. 1), a Keras loss of two logits.

    Args:
        direction: The `divergence` of a `Recipe`.
    """

    def __init__(self, direction: str) -> None:
        super().__init__(name="kl", dtype="float32")
        self.direction = direction

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Divergence per image `(N,)`, in nats, of logits for clean images and logits for masked ones."""
        clean, masked = tf.nn.log_softmax(y_true), tf.nn.log_softmax(y_pred)
        if self.direction == "stop_gradient":
            clean = tf.stop_gradient(clean)
        if self.direction == "reversed":
            return _kl(masked, clean)
        if self.direction == "symmetric":
            return (_kl(clean, masked) + _kl(masked, clean)) / 2
        return _kl(clean, masked)


def _kl(log_p: tf.Tensor, log_q: tf.Tensor) -> tf.Tensor:
    # Not keras.losses.kl_divergence: that clips probabilities at 1e-7, where the gradient dies.
    return tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=-1)
