"""Print ratios of docs/performance.md, each from one run on this machine, on one trained MNIST network.

The sweep is compared with its floor, with a plain loop over CleverHans' functions and, where the extra `bench` is
installed, with Foolbox on TensorFlow; guided training steps with regular ones. Rivals take turns, and ratios are
medians over the rounds. Memory is measured in processes of their own, as is what keeping it gains.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from _common import Parser, quiet_start, run_main
from _guided_steps import (
    STEPS_OF,
    kept_memory,
    peak_memory,
    peak_of_training,
    ratio,
    step,
    step_memory,
    take_steps,
    torch,
)

EPSILONS = np.linspace(0.02, 0.3, 10)
STEPS = 40
SEARCHES = {
    "everything": {"survivors_only": False},
    "survivors, one by one": {"search": "full"},
    "survivors, bisected": {"search": "bisect"},
    "survivors, bisected, bfloat16": {"search": "bisect", "craft_dtype": "bfloat16"},
}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--data", default="mnist5k", metavar="SOURCE", help="mnist5k (default), mnist, or an .npz file like it")
    parts = ["sweep", "floor", "memory", "step", "step-memory", "kept-memory", "torch"]
    add("--parts", nargs="+", default=parts, metavar="PART", help=f"default {' '.join(parts)}")
    add("--samples", type=int, default=1000, help="test images attacked (default %(default)s)")
    add("--epochs", type=int, default=4, help="training epochs of the network (default %(default)s)")
    add(
        "--rounds",
        type=int,
        default=3,
        help="rounds of each comparison of attacks; steps take several times as many (default %(default)s)",
    )
    add("--memory-of", type=int, help=argparse.SUPPRESS)
    add("--peak-of", help=argparse.SUPPRESS)
    add("--steps-of", choices=STEPS_OF, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run the chosen parts."""
    args = arguments()
    for name in ("samples", "rounds"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} must be 1 or more. Received: --{name} {getattr(args, name)}")
    with quiet_start():
        from salrob_tf import load_data

    if args.memory_of:
        print(peak_of_a_sweep(args.memory_of))
        return
    if args.peak_of:
        print(peak_of_training(args.peak_of))
        return
    if args.steps_of:
        take_steps(args.steps_of)
        return
    parts: dict[str, Callable[..., None]] = {
        "sweep": sweep, "floor": floor, "memory": memory,
        "step": step, "step-memory": step_memory, "kept-memory": kept_memory, "torch": torch,
    }  # fmt: skip
    unknown = [part for part in args.parts if part not in parts]
    if unknown:
        raise ValueError(f"Unknown part. Valid: {', '.join(parts)}. Received: --parts {' '.join(unknown)}")
    data = load_data(args.data)
    model = trained(data, args.epochs)
    for part in args.parts:
        parts[part](data, model, args)


def trained(data: Any, epochs: int) -> Any:
    """The regular network, trained with Adadelta 1.0."""
    from salrob_tf.studies.runs import Run

    run = Run(epochs=epochs, learning_rate=1.0)
    model = run.build(data)
    model.fit(data.x_train, data.y_train, batch_size=run.batch_size, epochs=epochs, verbose=0)
    return model


def sweep(data: Any, model: Any, args: argparse.Namespace) -> None:
    """FGSM, BIM and PGD at ten epsilons: ours, lever by lever, and the others' over the same grid."""
    from salrob_tf import Classifier, evaluate

    x, y = data.x_test[: args.samples], data.y_test[: args.samples]
    runs: dict[str, Callable[[], dict[str, np.ndarray]]] = {}
    details: dict[str, Any] = {}
    for name, options in SEARCHES.items():
        classifier = Classifier(model)

        def ours(name: str = name, options: Any = options, classifier: Any = classifier) -> dict[str, np.ndarray]:
            found = details[name] = evaluate(classifier, x, y, ["fgsm", "bim", "pgd"], EPSILONS, steps=STEPS, **options)
            return {label: found.accuracy(label) for label in found.correct}

        runs[name] = ours
    runs["CleverHans"] = lambda: cleverhans_grid(model.model, x, y)
    foolbox = foolbox_grid(model.model, x, y)
    if foolbox:
        runs["Foolbox"] = foolbox

    print(f"\nFGSM, BIM, PGD with {STEPS} steps, {len(EPSILONS)} epsilons, {len(x)} images of {data.name}")
    evaluate(Classifier(model), x[:64], y[:64], ["pgd"], [0.1], steps=1)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    accuracy: dict[str, dict[str, np.ndarray]] = {}
    for _ in range(args.rounds):
        for name, run in runs.items():
            began = time.perf_counter()
            accuracy[name] = run()
            seconds[name].append(time.perf_counter() - began)
            print(f"  {name:32} {seconds[name][-1]:8.1f} s", flush=True)
    print(f"{'':32}{'gradients':>10}" + "".join(f"{f'x {rival}':>14}" for rival in runs if rival not in SEARCHES))
    for name in SEARCHES:
        gradients = sum(cost.gradient_evaluations for cost in details[name].costs.values())
        ratios = [ratio(seconds[rival], seconds[name]) for rival in runs if rival not in SEARCHES]
        print(f"{name:32}{gradients:10,}" + "".join(f"{value:14.2f}" for value in ratios))
        if name == "everything":
            print(f"{'survivors without early stop':32}{without_early_stop(details['survivors, one by one']):10,}")
    for name in SEARCHES:
        for rival in (rival for rival in runs if rival not in (name, *list(SEARCHES)[1:])):
            above = {
                attack: 100 * float((accuracy[name][attack] - accuracy[rival][attack]).max())
                for attack in accuracy[name]
            }
            points = ", ".join(f"{attack} {value:+.2f}" for attack, value in above.items())
            print(f"robust accuracy, {name}, above {rival} at the worst epsilon, in points: {points}")


def without_early_stop(found: Any) -> int:
    """Gradients of going up the epsilons with survivors only, had every attack on them taken all its steps."""
    standing = {label: found.clean.sum() + correct[:-1].sum() for label, correct in found.correct.items()}
    return sum(int(found.clean.sum() if label == "fgsm" else STEPS * count) for label, count in standing.items())


def cleverhans_grid(network: Any, x: np.ndarray, y: np.ndarray, batch_size: int = 256) -> dict[str, np.ndarray]:
    """A plain loop over CleverHans' own functions, PGD from the starts that ours takes."""
    import tensorflow as tf
    from cleverhans.tf2.attacks import projected_gradient_descent as module
    from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method

    logits = logits_of(network)
    bounds = {"clip_min": 0.0, "clip_max": 1.0}
    accuracy: dict[str, np.ndarray] = {name: np.zeros(len(EPSILONS)) for name in ("fgsm", "bim", "pgd")}
    for k, epsilon in enumerate(EPSILONS):
        for start in range(0, len(x), batch_size):
            images, labels = tf.constant(x[start : start + batch_size]), tf.constant(y[start : start + batch_size])
            step = 2.5 / STEPS * epsilon
            starts = tf.constant(unit_starts(images, start) * np.float32(epsilon))
            module.random_lp_vector = lambda *_, starts=starts, **__: starts
            found = {"fgsm": fast_gradient_method(logits, images, epsilon, np.inf, y=labels, **bounds)}
            for name, rand in (("bim", False), ("pgd", True)):
                found[name] = module.projected_gradient_descent(
                    logits, images, epsilon, step, STEPS, np.inf, y=labels, rand_init=rand, **bounds
                )
            for name, adversarial in found.items():
                accuracy[name][k] += np.sum(logits(adversarial).numpy().argmax(-1) == labels.numpy()) / len(x)
    return accuracy


def unit_starts(images: Any, first: int) -> np.ndarray:
    """Where our PGD starts, as changes of these images, `first` being the index of the first, at epsilon 1."""
    from salrob_tf.attacks.balls import Batch
    from salrob_tf.attacks.starts import random_starts

    grey, rows = np.full(images.shape, 0.5, np.float32), np.arange(first, first + len(images))
    batch = Batch(grey, rows, rows, np.full(len(rows), 2.0**-6, np.float32), rows, 0 * rows)
    return (random_starts(batch, np.inf, seed=0) - grey) * 2.0**6


def foolbox_grid(network: Any, x: np.ndarray, y: np.ndarray) -> Callable[[], dict[str, np.ndarray]] | None:
    """Foolbox over the grid, one call per attack, PGD from our starts, or nothing where it is not installed."""
    try:
        import foolbox
    except ImportError:
        print("Foolbox is not installed: pip install -e '.[bench]' to compare with it")
        return None
    import tensorflow as tf

    model = foolbox.models.TensorFlowModel(logits_of(network), bounds=(0, 1), device="/CPU:0")
    settings: dict[str, Any] = {"rel_stepsize": 2.5 / STEPS, "steps": STEPS}
    attacks = {
        "fgsm": foolbox.attacks.LinfFastGradientAttack(),
        "bim": foolbox.attacks.LinfBasicIterativeAttack(**settings),
        "pgd": foolbox.attacks.LinfProjectedGradientDescentAttack(**settings),
    }

    def run(batch_size: int = 256) -> dict[str, np.ndarray]:
        accuracy: dict[str, np.ndarray] = {name: np.zeros(len(EPSILONS)) for name in attacks}
        for start in range(0, len(x), batch_size):
            images = tf.constant(x[start : start + batch_size])
            labels = tf.constant(y[start : start + batch_size], tf.int64)
            unit = tf.constant(unit_starts(images, start))
            attacks["pgd"].get_random_start = lambda x0, epsilon, unit=unit: x0 + epsilon * unit
            for name, attack in attacks.items():
                success = attack(model, images, labels, epsilons=list(EPSILONS))[2]
                accuracy[name] += np.sum(~success.numpy(), axis=1) / len(x)
        return accuracy

    return run


def logits_of(network: Any) -> Callable[[Any], Any]:
    """One compiled forward pass that both libraries may differentiate."""
    import tensorflow as tf

    return tf.function(lambda images: network(images, training=False))


def floor(data: Any, model: Any, args: argparse.Namespace) -> None:
    """Attacks on every image against the time of as many compiled gradients and forward passes as they take."""
    import tensorflow as tf
    from cleverhans.tf2.utils import compute_gradient

    from salrob_tf import APGD, BIM, FAB, Classifier, Square, evaluate
    from salrob_tf.attacks.losses import cross_entropy

    classifier, logits = Classifier(model), logits_of(model.model)
    available = min(args.samples, len(data.x_test))
    size = min(256, available)
    samples = available // size * size
    x, y = data.x_test[:samples], data.y_test[:samples]
    images, labels = tf.constant(x[:size]), tf.constant(y[:size])

    def seconds(call: Callable[[], Any], times: int = STEPS) -> float:
        began = time.perf_counter()
        for _ in range(times):
            call()
        return (time.perf_counter() - began) / times

    print(f"\nan attack, and survivors_only=False with all checks, over their gradients and passes alone, batch {size}")
    one_target: dict[str, Any] = {"targeted": True, "target_classes": 1}
    for attack in (BIM(steps=STEPS), APGD(steps=STEPS), FAB(steps=STEPS, **one_target), Square(steps=5 * STEPS)):
        options: dict[str, Any] = {"batch_size": size, "survivors_only": False}
        evaluate(classifier, x[:size], y[:size], [attack], [0.1], **options)
        attack(classifier, x[:size], y[:size], 0.1)
        gradients, forwards = attack.gradients_per_step(classifier.num_classes), attack.forwards_per_step()
        alone, ratios = [], []
        for _ in range(args.rounds * 3):
            gradient = seconds(lambda: compute_gradient(logits, cross_entropy, images, labels, False).numpy()) / size
            forward = seconds(lambda: logits(images).numpy()) / size
            spent = seconds(partial(attack, classifier, x[:size], y[:size], 0.1), 1)
            alone.append(spent / (attack.steps * size * (gradients * gradient + forwards * forward)))
            began = time.perf_counter()
            costs = evaluate(classifier, x, y, [attack], [0.1, 0.2], **options).costs[attack.label]
            spent = time.perf_counter() - began
            ratios.append(spent / (costs.gradient_evaluations * gradient + costs.forward_evaluations * forward))
        print(f"  {attack.label:16}{statistics.median(alone):8.3f}{statistics.median(ratios):8.3f}", flush=True)


def memory(data: Any, model: Any, args: argparse.Namespace) -> None:
    """Peak memory of a sweep over 10,000 images above that over 1,000, each in a new process."""
    peaks = {}
    for samples in (1000, 10_000):
        command = [sys.executable, __file__, "--memory-of", str(samples)]
        peaks[samples] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(f"\npeak memory with 10,000 images above that with 1,000: {peaks[10_000] - peaks[1000]:.0f} MB")


def peak_of_a_sweep(samples: int) -> float:
    """Peak resident memory in MB after FGSM and PGD on random images with the labels that the network gives them."""
    from salrob_tf import Classifier, cnn, evaluate

    classifier = Classifier(cnn((28, 28, 1), 10))
    images = np.random.default_rng(0).random((samples, 28, 28, 1), np.float32)
    evaluate(classifier, images, classifier.predict(images), ["fgsm", "pgd"], [0.001, 0.002], steps=2)
    return peak_memory()


if __name__ == "__main__":
    run_main(main)
