"""Saliency-guided training (Karkehabadi 2023, Algorithm 1 and Eq. 1) as a Keras model around any classifier."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from salrob_tf._compat import random_states, track_loss
from salrob_tf.checks import check_flag, check_number, check_whole
from salrob_tf.saliency.masking import mask_size, masked_copy
from salrob_tf.saliency.ranking import saliency_scores
from salrob_tf.saliency.recipes import Recipe, Seed, get_recipe
from salrob_tf.training.classifier_losses import is_one_hot
from salrob_tf.training.divergence import Divergence
from salrob_tf.training.fitting import Fitted
from salrob_tf.training.inputs import share_of_batch
from salrob_tf.training.passes import Passes, alike_in_both_modes, can_be_given_weights
from salrob_tf.training.schedules import Schedule, savable, value_at

VALIDATION_SEEDS = (0, 1)  # of a random ranking and of the fill, so that evaluating twice gives the same numbers


@keras.saving.register_keras_serializable(package="salrob_tf")
class SaliencyGuided(Fitted):
    """Train a classifier with or without saliency guidance, by `fit`.

    Each step of guided training ranks the pixels of every image by the network's input gradient, fills the lowest
    ranked ones, and minimises (Karkehabadi 2023, Eq. 1)

        cross-entropy(f(x), y) + kl_weight x KL(f(x) || f(x~)),

    x~ being the masked copy. `saliency=False` is Keras' own training of the classifier, on the same code path.

    The metric `loss` is the whole objective, `cross_entropy` the loss given to `compile`, and `kl` the unweighted
    divergence (guided only), all three in evaluation too, where dropout is off and the fill is the same every time.
    Sample weights weigh both terms. Losses that layers add are taken from the pass over the clean images.

    Passes of a step: the saliency pass is in inference mode, where dropout is off and moving statistics are used and
    left alone. The clean and the masked pass of the loss are in training mode: each normalises by the statistics of
    its own batch and draws dropout masks of its own. Only the clean pass updates moving statistics, so that the network
    is later run with those of real images. `Recipe` has a switch for each of these choices. Where the saliency pass and
    the clean pass are the same, because the recipe or the network knows no difference between the modes, they are
    computed once.

    Example:
        >>> model = sr.SaliencyGuided(network, seed=0)
        >>> model.compile(keras.optimizers.Adadelta(0.1, rho=0.9, epsilon=1e-6), metrics=["accuracy"])
        >>> history = model.fit(images, labels, batch_size=256, epochs=1, verbose=0)
        >>> sorted(history.history)
        ['accuracy', 'cross_entropy', 'kl', 'loss']
        >>> model.export("classifier", verbose=False)  # the classifier alone, as a SavedModel

    Args:
        model: A built Keras model from images `(N, height, width, channels)` to logits `(N, num_classes)`.
        saliency: Whether training is saliency-guided.
        recipe: A name in `RECIPES` or a `Recipe`.
        mask_fraction: Share of the units that is masked, in [0, 1), or a function of the epoch, counted from 0, that
            gives it, such as `lambda epoch: min(0.5, 0.1 * epoch)`. A function costs a full sort of the ranking.
            It has no effect where the recipe has a `mask_count` or masks every unit.
        kl_weight: Weight of the divergence (lambda of Eq. 1), 0 or more, or a function of the epoch that gives it.
        seed: Seed of random rankings and fills, 0 to 2^63 - 1; `None` draws one from Python's random state. Weights,
            dropout and order are seeded by `keras.utils.set_random_seed`, before the network is built.
        **kwargs: Passed on to `keras.Model`, such as `name`.

    Raises:
        ValueError: If an argument is not valid, or `model` is not built, has several inputs or outputs, or ends in
            softmax.
    """

    seed_generator: keras.random.SeedGenerator | None = None  # of fills and random rankings

    def __init__(
        self,
        model: keras.Model,
        saliency: bool = True,
        recipe: str | Recipe = "karkehabadi2023",
        mask_fraction: Schedule = 0.5,
        kl_weight: Schedule = 1.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, **kwargs)
        self.saliency = saliency = check_flag("saliency", saliency)
        self.recipe = get_recipe(recipe)
        self.mask_fraction, self.kl_weight = mask_fraction, kl_weight
        self.seed = seed = None if seed is None else check_whole("seed", seed)
        self.epochs_done = 0  # kept in files, for who counts them
        self._scheduled: dict[str, tf.Variable] = {}
        self.set_epoch(0)
        self.cross_entropy_tracker = keras.metrics.Mean(name="cross_entropy")
        if saliency:
            self.divergence = Divergence(self.recipe.divergence)
            self.kl_tracker = keras.metrics.Mean(name="kl")
            self.seed_generator = keras.random.SeedGenerator(seed)
        self.build((None, *self.image_shape))

    def set_epoch(self, epoch: int) -> None:
        """Take the values that schedules give for an epoch; `fit` calls this, loops of your own must.

        Args:
            epoch: Number of the epoch, counted from 0.

        Raises:
            ValueError: If a value is out of its range.
        """
        self.epoch = check_whole("epoch", epoch)
        fraction = check_number("mask_fraction", value_at(self.mask_fraction, self.epoch), low=0, below=1)
        weight = check_number("kl_weight", value_at(self.kl_weight, self.epoch), low=0)
        changes = callable(self.mask_fraction)
        self._hold("mask_count", mask_size(self.recipe, fraction, self.image_shape, not changes), changes)
        self._hold("current_kl_weight", weight, callable(self.kl_weight))

    def _hold(self, name: str, value: float, changes: bool) -> None:
        """Keep a number where compiled steps see it: as a constant, or as a variable if it changes with the epoch."""
        if not changes:
            setattr(self, name, value)
        elif name in self._scheduled:
            self._scheduled[name].assign(value)
        else:
            self._scheduled[name] = tf.Variable(value, trainable=False)
            setattr(self, name, self._scheduled[name])

    def compile(
        self, optimizer: Any = "rmsprop", loss: Any = None, auto_scale_loss: bool = True, **kwargs: Any
    ) -> None:
        """`keras.Model.compile`, whose loss is by default the cross-entropy of logits, for classes or one-hot labels.

        The optimizer scales the loss where a layer computes in float16.

        Raises:
            ValueError: If `loss` is one of probabilities, there are several, or Keras does not know it.
        """
        super().compile(optimizer, loss, auto_scale_loss, **kwargs)
        # Here, because layers that were frozen or set free since then may behave otherwise.
        own_call = type(self).call is not Fitted.call
        self.reads_once = self.saliency and not own_call and can_be_given_weights(self.model)
        self.shares_forward = self.saliency and (
            self.recipe.saliency_mode == "training" or alike_in_both_modes(self.model, self.image_shape)
        )

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        **kwargs: Any,
    ) -> Any:
        """`keras.Model.fit`, which looks at images and labels and follows schedules.

        Images may be integers, such as 8-bit ones for a network that begins with `Rescaling(1 / 255)`: they become
        floats of the same values. Labels and sample weights may be lists.

        Raises:
            ValueError: If there are several inputs, images are not finite numbers of the classifier's shape, labels
                are of another number or kind, or out of range, an option is not valid, no weight is trainable, or
                the network has no gradient by which to rank pixels.
        """
        if self._scheduled:
            follow = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: self.set_epoch(epoch))
            if isinstance(callbacks, keras.callbacks.CallbackList):
                callbacks.append(follow)
            else:
                given = callbacks if isinstance(callbacks, list | tuple) else [callbacks] * bool(callbacks)
                callbacks = [follow, *given]
        return super().fit(x, y, batch_size, epochs, verbose, callbacks, **kwargs)

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step of Algorithm 1, in the shape of Keras' own `train_step`."""
        if not self.trainable_weights:
            raise ValueError(
                "There is nothing to train: let some layers be trainable, and compile again. "
                f"Received: {self.model.name} with no trainable weights"
            )
        x, y, sample_weight, samples = self._unpacked(data)
        passes = Passes(self, self.reads_once)
        scores, logits, masked_logits = None, None, None
        if self.saliency and not self.shares_forward:
            with passes.clean():
                scores, _ = self._rank(x, y, training=False, seed=self.seed_generator)
        drawn = [(state, tf.identity(state.value)) for state in random_states(self.model)]
        with tf.GradientTape() as tape:
            passes.watched_by(tape)
            with passes.clean():
                if self.shares_forward:
                    scores, logits = self._rank(x, y, training=True, seed=self.seed_generator)
                if logits is None:
                    logits = self(x, training=True)
            losses = self._losses_of(x, y, logits, sample_weight, training=True)
            if self.saliency:
                masked = masked_copy(x, scores, self.recipe, self.mask_count, self.seed_generator)
                with passes.masked(self.model, self.recipe, drawn):
                    masked_logits = self(masked, training=True)
            loss = self._objective(losses, logits, masked_logits, sample_weight, samples)
            scaled = self.optimizer.scale_loss(loss)
        gradients = passes.gradients(tape, scaled)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        return self._report(x, y, logits, sample_weight, samples)

    def test_step(self, data: Any) -> dict[str, Any]:
        """The objective and the metrics in inference mode."""
        x, y, sample_weight, samples = self._unpacked(data)
        logits, masked_logits = None, None
        if self.saliency:
            ranking_seed, fill_seed = VALIDATION_SEEDS
            scores, logits = self._rank(x, y, training=False, seed=ranking_seed)
        if logits is None:
            logits = self(x, training=False)
        losses = self._losses_of(x, y, logits, sample_weight, training=False)
        if self.saliency:
            masked = masked_copy(x, scores, self.recipe, self.mask_count, fill_seed)
            masked_logits = self(masked, training=False)
        self._objective(losses, logits, masked_logits, sample_weight, samples)
        return self._report(x, y, logits, sample_weight, samples)

    def _rank(self, x: tf.Tensor, y: tf.Tensor, training: bool, seed: Seed) -> tuple[tf.Tensor, tf.Tensor | None]:
        """The saliency pass: scores of the units, and the logits, `None` where the ranking needs no pass."""
        labels = tf.argmax(y, axis=-1) if is_one_hot(y) else tf.reshape(y, [-1])
        mode = replace(self.recipe, saliency_mode="training" if training else "inference")
        return saliency_scores(self, x, tf.cast(labels, tf.int32), mode, seed)

    def _report(self, x: tf.Tensor, y: tf.Tensor, logits: tf.Tensor, weight: Any, samples: tf.Tensor) -> dict[str, Any]:
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            x, y, logits, weight = (None if part is None else part[:samples] for part in (x, y, logits, weight))
        return self.compute_metrics(x, y, logits, sample_weight=weight)

    def _losses_of(
        self, x: tf.Tensor, y: tf.Tensor, logits: tf.Tensor, sample_weight: Any, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The loss that `compile` was given, and the sum of those that layers added in the pass before."""
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        both = self.compute_loss(x, y, logits, sample_weight, training=training)
        added = sum((tf.cast(tf.reduce_sum(term), both.dtype) for term in self.losses), tf.zeros((), both.dtype))
        # Keras divides losses by the replicas, each a mean over what its replica has.
        return both - added / replicas, added / replicas

    def _objective(
        self,
        losses: tuple[tf.Tensor, tf.Tensor],
        logits: tf.Tensor,
        masked_logits: tf.Tensor | None,
        sample_weight: Any,
        samples: tf.Tensor,
    ) -> tf.Tensor:
        """This replica's part of Eq. 1 and of the layers' losses; tracks the terms."""
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        loss, added = losses
        share = share_of_batch(samples)
        objective = loss if getattr(self.loss, "reduction", None) == "sum" else share * loss
        self.cross_entropy_tracker.update_state(loss * replicas, sample_weight=samples)
        if masked_logits is not None:
            kl = self.divergence(logits, masked_logits, sample_weight)
            self.kl_tracker.update_state(kl * replicas, sample_weight=samples)
            loss += self.current_kl_weight * kl
            objective += share * self.current_kl_weight * kl
        track_loss(self, (loss + added) * replicas, samples)
        return objective + added

    def save_own_variables(self, store: Any) -> None:
        """Save the states of dropout, fills and random rankings, which Keras leaves out, and of schedules."""
        for key, state in {**self._random_states(), **self._scheduled}.items():
            store[key] = state.numpy()
        store["epochs_done"] = np.array(self.epochs_done)

    def load_own_variables(self, store: Any) -> None:
        """Load what `save_own_variables` saved; weights saved without saliency leave the state of the fills alone."""
        for key, state in {**self._random_states(), **self._scheduled}.items():
            if key in store:
                state.assign(np.asarray(store[key]))
        if "epochs_done" in store:
            self.epochs_done = int(np.asarray(store["epochs_done"]))

    def _random_states(self) -> dict[str, keras.Variable]:
        own = {} if self.seed_generator is None else {"fill": self.seed_generator.state}
        return {**own, **{f"layer_{number}": state for number, state in enumerate(random_states(self.model))}}

    def get_config(self) -> dict[str, Any]:
        """Everything that rebuilds this model, for `.keras` files."""
        return {
            **super().get_config(),
            "model": keras.saving.serialize_keras_object(self.model),
            "saliency": self.saliency,
            "recipe": self.recipe.get_config(),
            "mask_fraction": savable("mask_fraction", self.mask_fraction, self.epoch),
            "kl_weight": savable("kl_weight", self.kl_weight, self.epoch),
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> SaliencyGuided:
        """Rebuild a model from what `get_config` gave."""
        held = {
            key: keras.saving.deserialize_keras_object(config[key], custom_objects=custom_objects)
            for key in ("model", "mask_fraction", "kl_weight")
        }
        return cls(**{**config, **held, "recipe": Recipe(**config["recipe"])})
