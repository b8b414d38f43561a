"""The parts of `benchmark.py` that time and weigh guided training steps."""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

STEPS_OF = {"cnn": ((28, 28, 1), 256), "resnet18": ((32, 32, 3), 64)}  # images and batches of the part kept-memory


def peak_memory() -> float:
    """Peak resident memory of this process in MB."""
    status = Path("/proc/self/status").read_text().split()  # getrusage would count the parent's memory too
    return int(status[status.index("VmHWM:") + 1]) / 1024


def step(data: Any, model: Any, args: argparse.Namespace) -> None:
    """Guided training steps over regular ones, ours and Keras' own, compiled as `fit` compiles them, in turn."""
    from salrob_tf import RECIPES, Recipe, cnn, resnet18

    default, shared = RECIPES["karkehabadi2023"], Recipe(saliency_mode="training")
    grey, colour = data.input_shape, (32, 32, 3)
    half = partial(cnn, dtype="mixed_bfloat16")
    # Name: a network, the recipes that train it, and the network whose regular step they are compared with.
    rivals: dict[str, tuple[Any, ...]] = {
        "cnn": (cnn, grey, {"default recipe": default, "shared forward": shared}, cnn),
        "cnn without dropout": (plain_network, grey, {"shared forward": default}, plain_network),
        "with BatchNormalization": (
            partial(plain_network, batch_norm=True),
            grey,
            {"default recipe": default, "shared forward": shared},
            partial(plain_network, batch_norm=True),
        ),
        "cnn, bfloat16 over float32": (half, grey, {"default recipe": default}, cnn),
        "ResNet18 at 32 x 32": (resnet18, colour, {"default recipe": default}, resnet18),
    }
    print("\nguided over regular step, batch 256 (floor 2.33 where the forward is shared, else 2.67)")
    print("                                    over the regular step here, and over that of Keras without salrob_tf")
    for name, (network, shape, recipes, rival) in rivals.items():
        batch = np.random.default_rng(0).random((256, *shape), np.float32), np.arange(256) % data.num_classes
        built = (rival(shape, data.num_classes), *(network(shape, data.num_classes) for _ in recipes))
        models = [wrapped(each, recipe) for each, recipe in zip(built, (None, *recipes.values()), strict=True)]
        models.append(compiled(rival(shape, data.num_classes)))
        *ours, keras_own = in_turn([partial(each.train_on_batch, *batch) for each in models], args.rounds * 10)
        for recipe, guided in zip(recipes, ours[1:], strict=True):
            over = f"{ratio(guided, ours[0]):6.2f}{ratio(guided, keras_own):6.2f}"
            print(f"  {name + ', ' + recipe:44}{over}", flush=True)


def plain_network(shape: tuple[int, ...], classes: int, batch_norm: bool = False) -> Any:
    """The layers of `cnn` without dropout, so that it runs alike in both modes, or with BatchNormalization."""
    import keras

    layers = keras.layers
    parts: list[Any] = [keras.Input(shape)]
    for filters in (32, 64):
        parts += [layers.Conv2D(filters, 3), *([layers.BatchNormalization()] if batch_norm else []), layers.ReLU()]
    flat = [layers.MaxPooling2D(2), layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dense(classes)]
    return keras.Sequential([*parts, *flat])


def wrapped(network: Any, recipe: Any) -> Any:
    """A compiled model for guided training, or for regular training without a recipe."""
    from salrob_tf import SaliencyGuided

    return compiled(SaliencyGuided(network, recipe is not None, recipe or "karkehabadi2023", seed=0))


def compiled(model: Any) -> Any:
    """The model, ready for `train_on_batch`."""
    import keras

    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adadelta(0.1, rho=0.9, epsilon=1e-6), cross_entropy)
    return model


def in_turn(calls: list[Callable[[], Any]], rounds: int) -> list[list[float]]:
    """Seconds of each call in each round but the first two, in which they are compiled."""
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds + 2):
        for call, times in zip(calls, seconds, strict=True):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
    return [times[2:] for times in seconds]


def step_memory(data: Any, model: Any, args: argparse.Namespace) -> None:
    """Peak memory of guided training over regular training, each in a new process."""
    peaks = {}
    for kind in ("none", "regular", "guided"):
        command = [sys.executable, sys.argv[0], "--peak-of", kind]
        peaks[kind] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    of_step = (peaks["guided"] - peaks["none"]) / (peaks["regular"] - peaks["none"])
    print(f"\npeak memory of a guided step over a regular one, batch 256: {of_step:.2f}", end="")
    print(f"; of the whole processes: {peaks['guided'] / peaks['regular']:.2f}")


def peak_of_training(kind: str) -> float:
    """Peak resident memory in MB after ten steps of the MNIST network at batch 256, or before any."""
    from salrob_tf import RECIPES, cnn

    batch = np.random.default_rng(0).random((256, 28, 28, 1), np.float32), np.arange(256) % 10
    model = wrapped(cnn((28, 28, 1), 10), RECIPES["karkehabadi2023"] if kind == "guided" else None)
    for _ in range(0 if kind == "none" else 10):
        model.train_on_batch(*batch)
    return peak_memory()


def torch(data: Any, model: Any, args: argparse.Namespace) -> None:
    """Our guided step, of the recipe `ismail2021`, against the reference's loop in PyTorch with Captum."""
    from salrob_tf import RECIPES, cnn
    from salrob_tf.processes import KEEP, M_MMAP_THRESHOLD, M_TOP_PAD, M_TRIM_THRESHOLD

    x, y = data.x_train[:256], data.y_train[:256]
    ours = wrapped(cnn(data.input_shape, data.num_classes), RECIPES["ismail2021"])
    tunables = {"mmap_threshold": M_MMAP_THRESHOLD, "trim_threshold": M_TRIM_THRESHOLD, "top_pad": M_TOP_PAD}
    as_here = ":".join(f"glibc.malloc.{name}={KEEP[option]}" for name, option in tunables.items())
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/batch.npz", images=x, labels=y, num_classes=data.num_classes)
        loop = [str(Path(__file__).parent / "torch_loop.py"), f"{folder}/batch.npz"]
        with stepping(loop, {"GLIBC_TUNABLES": as_here}) as theirs:
            if not theirs:
                print(
                    "PyTorch with Captum does not run: pip install -e '.[bench]' to compare with the reference's loop"
                )
                return
            seconds = in_turn([partial(ours.train_on_batch, x, y), theirs], args.rounds * 3)
    print(f"\nguided step: times faster than the reference's loop in PyTorch: {ratio(seconds[1], seconds[0]):.2f}")


def kept_memory(data: Any, model: Any, args: argparse.Namespace) -> None:
    """Guided steps that keep the memory they free over steps that give it back, in processes that take turns."""
    from salrob_tf.processes import keep_memory

    if not keep_memory():
        print("\nMemory cannot be kept here: no glibc that is told how, or MALLOC_... or GLIBC_TUNABLES say otherwise")
        return
    print("\nguided step that keeps memory over one that gives it back: time, peak memory, page faults of a step")
    for name, (shape, size) in STEPS_OF.items():
        command = [sys.argv[0], "--steps-of", name]
        told = {"GLIBC_TUNABLES": ""}  # where it is there, `keep_memory` changes nothing
        with stepping(command) as kept, stepping(command, told) as returned:
            if not kept or not returned:
                raise RuntimeError(f"A process of benchmark.py did not start. Received: {name}")
            seconds = in_turn([kept, returned], args.rounds * 5)
            (kept_peak, kept_faults), (peak, faults) = (map(float, ask().split()) for ask in (kept, returned))
        last = f"{kept_peak / peak:.2f}  {kept_faults:,.0f} for {faults:,.0f}"
        what = f"{name} at {shape[0]} x {shape[1]}, batch {size}"
        print(f"  {what:32}{ratio(seconds[0], seconds[1]):.2f}  {last}", flush=True)


def take_steps(name: str) -> None:
    """A guided step for each line of standard input, answered with peak memory in MB and the step's page faults."""
    from salrob_tf import RECIPES
    from salrob_tf.models.networks import NETWORKS

    shape, size = STEPS_OF[name]
    batch = np.random.default_rng(0).random((size, *shape), np.float32), np.arange(size) % 10
    model = wrapped(NETWORKS[name](shape, 10), RECIPES["karkehabadi2023"])
    print("ready", flush=True)
    for _ in sys.stdin:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        model.train_on_batch(*batch)
        print(peak_memory(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, flush=True)


@contextmanager
def stepping(command: list[str], settings: Mapping[str, str] | None = None) -> Iterator[Callable[[], str] | None]:
    """Start a Python process that takes a step when it is sent a line, and answers with one.

    Args:
        command: Script and arguments.
        settings: Added to its environment.

    Yields:
        What asks for a step and gives its answer, or `None` if the process did not say that it is ready.
    """
    environment = {**os.environ, **(settings or {})}
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, *command], stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        asked, answers = process.stdin, process.stdout
        assert asked and answers

        def ask() -> str:
            print("step", file=asked, flush=True)
            answer = answers.readline()
            if not answer:
                raise RuntimeError(f"A process that took steps ended with {process.wait()}. Received: {command}")
            return answer

        yield ask if answers.readline() == "ready\n" else None


def ratio(slow: list[float], fast: list[float]) -> float:
    """Median of the ratios of runs that took turns."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))
