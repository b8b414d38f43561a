import csv

import keras
import numpy as np
import pytest
from conftest import make_images, make_network

import salrob_tf as sr

pytestmark = pytest.mark.usefixtures("unprobed")


@pytest.mark.parametrize("wrapped", [True, False])
def test_robust_accuracy_is_that_of_evaluate_at_each_epoch(tmp_path, wrapped):
    (images, labels), (held_out, held_labels) = make_images(64), make_images(24, seed=1)
    model = sr.SaliencyGuided(make_network()) if wrapped else make_network()
    model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    measured, expected = [0, 2, 5, 7], []  # the first, every third, the last

    class Expected(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch not in measured:
                return
            fresh = keras.models.clone_model(model.model if wrapped else model)
            fresh.set_weights((model.model if wrapped else model).get_weights())
            found = sr.evaluate(fresh, held_out, held_labels, ["pgd"], [0.15], steps=5, survivors_only=False, seed=3)
            expected.append(found.accuracy("pgd")[0])

    robust = sr.RobustAccuracy(held_out, held_labels, "pgd", 0.15, every=3, steps=5, survivors_only=False, seed=3)
    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    history = model.fit(images, labels, epochs=8, verbose=0, callbacks=[robust, log, Expected()]).history
    assert history["robust_accuracy"] == expected and len(set(expected)) > 1
    with (tmp_path / "log.csv").open(newline="") as file:
        column = [row["robust_accuracy"] for row in csv.DictReader(file)]
    assert [epoch for epoch, value in enumerate(column) if value != "NA"] == measured
    (attack,) = robust.attacks
    assert robust.classifier.traces((attack, "float32")) == 1


def test_several_epsilons_bounds_and_a_classifier_of_the_users(tmp_path):
    (images, labels), (held_out, held_labels) = make_images(64), make_images(32, seed=1)
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Rescaling(1 / 255), make_network()])
    model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    pixels = np.round(held_out * 255).astype(np.uint8)
    settings = {"attack": "bim", "epsilon": [0.05, 0.15], "steps": 3}
    given = sr.Classifier(model, bounds=(0, 255))
    by_bounds = sr.RobustAccuracy(pixels, held_labels, bounds=(0, 255), **settings)
    by_classifier = sr.RobustAccuracy(pixels, held_labels, classifier=given, name="again", **settings)
    history = model.fit(images * 255, labels, epochs=6, verbose=0, callbacks=[by_bounds, by_classifier]).history
    expected = sr.evaluate(given, pixels, held_labels, "bim", [0.05, 0.15], steps=3).accuracy("bim")
    for name in ("robust_accuracy", "again"):
        assert [history[f"{name}_{epsilon}"][-1] for epsilon in (0.05, 0.15)] == expected.tolist()
    assert 0 < expected.mean() < 1
    other = make_network()
    other.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match="must be of the model that is trained. Received: a Classifier of"):
        other.fit(images, labels, verbose=0, callbacks=[by_classifier])


@pytest.mark.parametrize("name", ["accuracy", "val_loss"])
def test_no_other_metric_is_written_over(name):
    images, labels = make_images(32)
    model = make_network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    robust = sr.RobustAccuracy(images, labels, steps=1, name=name)
    with pytest.raises(ValueError, match=f"Another metric has this name: choose another. Received: name='{name}'"):
        model.fit(images, labels, verbose=0, validation_data=(images, labels), callbacks=[robust])
    twice = [sr.RobustAccuracy(images, labels, steps=1) for _ in range(2)]
    with pytest.raises(ValueError, match="name='robust_accuracy'"):
        model.fit(images, labels, verbose=0, callbacks=twice)


def test_what_speaks_against_it_is_said_once():
    images, labels = make_images(64)
    model = make_network()
    model.compile(keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.set_weights([weights * 0 for weights in model.get_weights()])
    with pytest.warns(UserWarning) as said:
        model.fit(images, labels, epochs=3, verbose=0, callbacks=[sr.RobustAccuracy(images, labels, steps=1)])
    texts = [str(warning.message) for warning in said]
    assert sum("is not significantly above chance" in text for text in texts) == 1 and len(texts) == len(set(texts))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"every": 0}, "every=0"),
        ({"epsilon": -1.0}, "epsilons"),
        ({"attack": "unknown"}, "Unknown attack"),
        ({"images": np.zeros((2, 8, 8, 1), np.uint8)}, "divide 8-bit images by 255"),
        ({"labels": np.zeros(3, int)}, "2 in all"),
        ({"steps": 0}, "steps=0"),
        ({"every": 2.5}, "every=2.5"),
        ({"epsilon": [0.1, 0.1]}, "several that differ in six digits"),
        ({"epsilon": [0.1, 0.1000001]}, r"differ in six digits. Received: \[0.1, 0.1000001\]"),
        ({"epsilon": []}, "one or more numbers"),
        ({"name": "loss"}, "Another metric has this name: choose another. Received: name='loss'"),
        ({"name": ""}, "`name` must be text"),
        ({"seed": "0"}, "seed='0'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"search": "random"}, "search='random'"),
        ({"survivors_only": "no"}, "survivors_only='no'"),
        ({"checkpoint": "folder"}, "Unknown settings. Valid: norm, .*Received: checkpoint"),
        ({"bounds": (1, 0)}, r"the lower one first"),
        ({"classifier": "model"}, "must be a Classifier. Received: classifier='model'"),
    ],
)
def test_bad_arguments_are_named_at_once(changes, message):
    arguments = {"images": np.zeros((2, 8, 8, 1), np.float32), "labels": np.zeros(2, int)} | changes
    with pytest.raises(ValueError, match=message):
        sr.RobustAccuracy(**arguments)
