"""Two real processes against one device."""

import json
import os
import socket
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import salrob_tf as sr
from salrob_tf.training.workers import fit_on_workers

SCRIPTS = Path(__file__).parent.parent / "scripts"
SAMPLES, BATCH, EPOCHS = 13, 4, 3  # the last batch is one image, so that one worker has none


def train(batches_of_epochs, fit):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Flatten()]
    dense = keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1))
    model = sr.SaliencyGuided(
        keras.Sequential([keras.Input((8, 8, 1)), *layers, dense]),
        recipe=sr.Recipe(fill="constant", fill_value=0.5),
        kl_weight=lambda epoch: 0.5 * epoch,
    )
    model.compile(keras.optimizers.Adam(0.01), metrics=["accuracy"])
    return model, fit(model, batches_of_epochs).history


class StopAfter(keras.callbacks.Callback):
    """Stops on one of the workers."""

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == EPOCHS - 1


def batches():
    import tensorflow as tf

    rng = np.random.default_rng(0)
    images, labels = rng.random((SAMPLES, 8, 8, 1), np.float32), rng.integers(0, 3, SAMPLES).astype(np.int32)
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(BATCH).repeat(EPOCHS + 1)


def test_two_processes_equal_one_device(forks, tmp_path):
    sockets = [socket.create_server(("localhost", 0)) for _ in range(2)]
    cluster = {"worker": [f"localhost:{each.getsockname()[1]}" for each in sockets]}
    for each in sockets:
        each.close()
    configs = [{"cluster": cluster, "task": {"type": "worker", "index": index}} for index in range(2)]
    started = [forks.start([__file__, tmp_path / "shared.npz", json.dumps(config)]) for config in configs]
    steps = -(-SAMPLES // BATCH)
    fit = lambda model, data: model.fit(data, epochs=EPOCHS, steps_per_epoch=steps, shuffle=False, verbose=0)  # noqa: E731
    model, history = train(batches(), fit)
    assert [forks.ended(each) for each in started] == [0, 0]
    with np.load(tmp_path / "shared.npz") as shared:
        for number, expected in enumerate(model.model.get_weights()):
            np.testing.assert_allclose(shared[f"weight{number}"], expected, rtol=0, atol=1e-5)
        for key, expected in history.items():
            assert shared[key] == pytest.approx(expected, abs=1e-5), key


def test_all_workers_are_started_and_waited_for(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from _launch import launch

    code = """if True:
        import json, os, pathlib, sys, time
        config = json.loads(os.environ["TF_CONFIG"])
        time.sleep(0.3 * config["task"]["index"])
        pathlib.Path(sys.argv[1], str(config["task"]["index"])).write_text(json.dumps(config["cluster"]))
        """
    assert launch([sys.executable, "-c", code, str(tmp_path)], 2) == 0
    first, second = (json.loads((tmp_path / index).read_text()) for index in "01")
    assert first == second and len({*first["worker"]}) == 2


@pytest.mark.parametrize("failing", ["01", "0", "1"])
def test_what_is_wrong_is_said_by_one_worker(monkeypatch, capfd, failing):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import _launch

    monkeypatch.setattr(_launch, "PATIENCE", 5 if failing == "01" else 0.2)
    code = f"""if True:
        import json, os, sys, time
        if str(json.loads(os.environ["TF_CONFIG"])["task"]["index"]) in {failing!r}:
            sys.exit("bad input")
        time.sleep(60)
        """
    assert _launch.launch([sys.executable, "-c", code], 2) == 1
    assert capfd.readouterr().err == "bad input\n"


if __name__ == "__main__":
    os.environ["TF_CONFIG"] = sys.argv[2]
    from salrob_tf.training.workers import is_chief, strategy

    with strategy().scope():
        model, history = train(
            batches(),
            lambda model, data: fit_on_workers(
                model,
                data,
                epochs=EPOCHS + 1,
                steps_per_epoch=-(-SAMPLES // BATCH),
                callbacks=[StopAfter()] if is_chief() else [],
            ),
        )
    if is_chief():
        weights = {f"weight{number}": weight for number, weight in enumerate(model.model.get_weights())}
        np.savez(sys.argv[1], **weights, **history)
