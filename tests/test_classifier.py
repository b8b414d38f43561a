import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import make_images, make_network

import salrob_tf as sr

PLAIN_TENSORFLOW = """
import sys
import numpy as np, tensorflow as tf
from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent
arrays = np.load(sys.argv[2])
model = tf.saved_model.load(sys.argv[1])
images, labels = tf.constant(arrays["images"]), tf.constant(arrays["labels"])
adversarial = projected_gradient_descent(
    model.serve, images, 0.2, 0.05, 10, np.inf, clip_min=0.0, clip_max=1.0, y=labels, rand_init=False
)
assert not any(name.startswith("salrob_tf") for name in sys.modules)
np.savez(sys.argv[3], logits=model.serve(images), adversarial=adversarial)
"""


@pytest.mark.parametrize("saliency", [True, False])
def test_exported_classifier_is_the_same_in_plain_tensorflow(trained, tmp_path, saliency):
    model, images, labels = trained
    sr.SaliencyGuided(model, saliency).export(tmp_path / "export", verbose=False)
    np.savez(tmp_path / "in.npz", images=images, labels=labels)
    paths = [str(tmp_path / name) for name in ("export", "in.npz", "out.npz")]
    subprocess.run([sys.executable, "-c", PLAIN_TENSORFLOW, *paths], check=True, capture_output=True)
    found = np.load(tmp_path / "out.npz")
    np.testing.assert_allclose(found["logits"], model(images), atol=1e-5)
    live = sr.BIM(steps=10, relative_step=0.25)(model, images, labels, 0.2)
    np.testing.assert_allclose(found["adversarial"], live, atol=1e-5)


def test_every_way_to_name_a_model_gives_the_same_logits(trained, tmp_path):
    model, images, labels = trained
    guided = sr.SaliencyGuided(model)
    guided.compile("sgd")
    (tmp_path / "run").mkdir()
    guided.save(tmp_path / "run" / "model.keras")
    guided.export(tmp_path / "export", verbose=False)
    model.save(tmp_path / "bare.keras")
    forms = [model, guided, tmp_path / "run", tmp_path / "run" / "model.keras", tmp_path / "bare.keras"]
    forms.append(str(tmp_path / "export"))
    for form in forms:
        classifier = sr.Classifier(form)
        assert classifier.input_shape == (8, 8, 1) and classifier.num_classes == 3
        np.testing.assert_allclose(classifier.logits(images), model(images), atol=1e-6)
        adversarial = sr.PGD(steps=3)(classifier, images, labels, 0.2)
        np.testing.assert_allclose(adversarial, sr.PGD(steps=3)(model, images, labels, 0.2), atol=1e-5)
    assert sr.Classifier(tmp_path / "run").name == "run" and sr.Classifier(model).name == "tiny"


def test_softmax_is_refused_in_every_form(trained, tmp_path):
    model, images, _ = trained
    softmax = keras.Sequential([model, keras.layers.Softmax()])
    softmax.export(tmp_path / "export", verbose=False)
    with pytest.raises(ValueError, match="ends in softmax"):
        sr.Classifier(softmax)
    with pytest.raises(ValueError, match="probabilities"):
        sr.Classifier(tmp_path / "export").predict(images)


def test_models_that_do_not_fit(trained, tmp_path):
    model, images, _ = trained
    with pytest.raises(ValueError, match=f"Received: {tmp_path}/none, which does not exist"):
        sr.Classifier(tmp_path / "none")
    with pytest.raises(ValueError, match="Not a model: pass a folder from train.py"):
        sr.Classifier(tmp_path)
    with pytest.raises(ValueError, match=r"takes images of shape \(8, 8, 1\). Received: .*\(9, 8, 1\)"):
        sr.Classifier(model).predict(np.zeros((2, 9, 8, 1), np.float32))
    with pytest.raises(ValueError, match="must be built"):
        sr.Classifier(keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)]))
    with pytest.raises(ValueError, match="must be a keras.Model or a SavedModel"):
        sr.Classifier(object())
    broken = make_network()
    broken.layers[-1].bias.assign([np.nan, 0, 0])
    with pytest.raises(ValueError, match="finite logits"):
        sr.Classifier(broken).predict(images)


def test_predict_takes_batches_of_any_size(trained):
    model, images, _ = trained
    expected = model(images).numpy().argmax(-1)
    for batch_size in (1, 7, 64, 1000):
        np.testing.assert_array_equal(sr.Classifier(model).predict(images, batch_size), expected)


def test_images_of_another_seed_are_classified(trained):
    model, _, _ = trained
    images, labels = make_images(200, seed=9)
    assert (sr.Classifier(model).predict(images) == labels).mean() > 0.9
