import csv

import keras
import numpy as np
import pytest
from conftest import make_images, make_network

import salrob_tf as sr


@pytest.mark.parametrize("wrapped", [True, False])
def test_robust_accuracy_is_that_of_evaluate_at_each_epoch(tmp_path, wrapped):
    (images, labels), (held_out, held_labels) = make_images(64), make_images(32, seed=1)
    model = sr.SaliencyGuided(make_network()) if wrapped else make_network()
    model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    expected = []

    class Expected(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            fresh = keras.models.clone_model(model.model if wrapped else model)
            fresh.set_weights((model.model if wrapped else model).get_weights())
            found = sr.evaluate(fresh, held_out, held_labels, ["pgd"], [0.15], steps=5, survivors_only=False, seed=3)
            expected.append(found.accuracy("pgd")[0])

    robust = sr.RobustAccuracy(held_out, held_labels, "pgd", 0.15, every=3, steps=5, survivors_only=False, seed=3)
    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    history = model.fit(images, labels, epochs=8, verbose=0, callbacks=[robust, log, Expected()]).history
    measured = [0, 2, 5, 7]  # the first, every third, the last
    assert history["robust_accuracy"] == [expected[epoch] for epoch in measured] and len(set(expected)) > 1
    with (tmp_path / "log.csv").open(newline="") as file:
        column = [row["robust_accuracy"] for row in csv.DictReader(file)]
    assert [epoch for epoch, value in enumerate(column) if value != "NA"] == measured
    (attack,) = robust.attacks
    assert robust.classifier.traces((attack, "float32")) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"every": 0}, "every=0"),
        ({"epsilon": -1.0}, "epsilons"),
        ({"attack": "unknown"}, "Unknown attack"),
        ({"images": np.zeros((2, 8, 8, 1), np.uint8)}, "divide 8-bit images by 255"),
        ({"labels": np.zeros(3, int)}, "2 in all"),
        ({"steps": 0}, "steps=0"),
    ],
)
def test_bad_arguments_are_named_at_once(changes, message):
    arguments = {"images": np.zeros((2, 8, 8, 1), np.float32), "labels": np.zeros(2, int)} | changes
    with pytest.raises(ValueError, match=message):
        sr.RobustAccuracy(**arguments)
