"""The paper from end to end: train the regular and the guided network, attack both, write its table and figures.

Without arguments it runs in minutes on 5,000 MNIST images that are part of the installation.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from _common import Parser, SweepBar, add_data, fit_verbosity, quiet_start, run_main

KINDS = {"regular": False, "guided": True}
FIGURE_3_IMAGES = 5
SALIENCY_IMAGES = 6
SWEEP = ".sweep"  # where a sweep keeps its finished parts until all is written
WRITTEN = ("results.json", "correct.npz", "table1.md", "figure1.png", "figure2.png", "figure3.png", "saliency.png")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add_data(parser, default="mnist5k")
    add("--network", default="cnn", help="cnn (default), resnet18, or resnet18_small, whose stem suits small images")
    add("--weights", metavar="PRESET", help="start resnet18 from: imagenet, or a folder of KerasHub's save_to_preset")
    add("--recipe", default="karkehabadi2023", help="of the guided network (default %(default)s)")
    add("--epochs", type=int, default=12, help="default %(default)s; the paper's is 100")
    add("--batch-size", type=int, default=256, help="default %(default)s")
    add("--learning-rate", type=float, default=1.0, help="of Adadelta; default %(default)s; the paper's is 0.1")
    add("--seeds", type=int, default=1, metavar="S", help="train S networks of each kind (default %(default)s)")
    add("--attacks", nargs="+", default=["fgsm", "bim", "pgd", "mim"], help="default fgsm bim pgd mim")
    add("--epsilons", nargs="+", type=float, metavar="EPSILON", help="for images in [0, 1]; default 0.05 to 0.3 for "
        "grey images, 1/255 to 16/255 for colour")  # fmt: skip
    add("--survivors-only", action=argparse.BooleanOptionalAction, default=True,
        help="attack only what still stands (default), or everything at every epsilon, as in the paper")  # fmt: skip
    add("--steps", type=int, default=40, help="of the iterative attacks (default %(default)s)")
    add("--samples", type=int, default=1000, help="test images attacked, chosen at random (default %(default)s)")
    add("--out", type=Path, metavar="FOLDER", help="folder to write (default results/DATA)")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="go on with the run in --out")
    existing.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    return parser.parse_args()


def main() -> None:
    """Reproduce the paper on one data source."""
    args = arguments()
    out = args.out or Path("results") / Path(args.data).stem
    if args.seeds < 1:
        raise ValueError(f"--seeds must be 1 or more. Received: --seeds {args.seeds}")
    with quiet_start():
        import keras

        from salrob_tf import figures, report
        from salrob_tf.attacks import FGSM
        from salrob_tf.classifier import Classifier
        from salrob_tf.datasets import choose_indices, load_data
        from salrob_tf.evaluation import check_epsilons, choose_attacks, default_epsilons, evaluate
        from salrob_tf.explanations import saliency_maps
        from salrob_tf.files import write_text
        from salrob_tf.folders import select
        from salrob_tf.results import save_results
        from salrob_tf.run_folders import holds_run
        from salrob_tf.runs import Run, train
        from salrob_tf.statistics import compare

    # Everything that can be wrong is looked at before the first minute of training.
    attacks = list(choose_attacks(args.attacks, steps=args.steps).values())
    seeds = range(args.seeds)
    runs = {
        f"{kind}-{seed}": Run(
            network=args.network,
            weights=args.weights,
            saliency=saliency,
            recipe=args.recipe,
            epochs=args.epochs,
            batch_size=args.batch_size,
            learning_rate=args.learning_rate,
            seed=seed,
        )
        for seed in seeds
        for kind, saliency in KINDS.items()
    }
    folders = {name: out / "models" / name for name in runs}
    if (any(map(holds_run, folders.values())) or (out / "results.json").exists()) and not (
        args.resume or args.overwrite
    ):
        raise ValueError(f"This folder already holds a run: pass --resume or --overwrite. Received: --out {out}")
    data = load_data(args.data, args.image_size)
    epsilons = check_epsilons(args.epsilons or default_epsilons(data.input_shape))
    chosen = choose_indices(len(data.x_test), min(args.samples, len(data.x_test)), seed=0)
    for run in runs.values():
        run.build(data)
    if args.overwrite:
        shutil.rmtree(out / SWEEP, ignore_errors=True)
        for name in WRITTEN:
            (out / name).unlink(missing_ok=True)

    for name, run in runs.items():
        print(f"training {name} on {data.name}, {run.epochs} epochs", flush=True)
        train(folders[name], data, run, resume=args.resume, overwrite=args.overwrite, verbose=fit_verbosity())
    classifiers = {name: Classifier(folder, name) for name, folder in folders.items()}

    print(f"attacking {len(chosen)} test images at {len(epsilons)} epsilons, {args.steps} steps", flush=True)
    x, y = select(data.x_test, chosen), data.y_test[chosen]
    results = {
        name: evaluate(
            classifier,
            x,
            y,
            attacks,
            epsilons,
            survivors_only=args.survivors_only,
            indices=chosen,
            checkpoint=out / SWEEP / name,
            progress=SweepBar(name),
        )
        for name, classifier in classifiers.items()
    }
    groups = {kind: [results[f"{kind}-{seed}"] for seed in seeds] for kind in KINDS}
    comparisons = [compare(results[f"regular-{seed}"], results[f"guided-{seed}"]) for seed in seeds]

    save_results(out, list(results.values()), arguments=vars(args), data_name=data.name, comparisons=comparisons)

    correct = {
        kind: [predict_all(classifiers[f"{kind}-{seed}"], data.x_test) == data.y_test for seed in seeds]
        for kind in KINDS
    }
    paper = {"mnist5k": "mnist", "mnist": "mnist", "cifar10": "cifar10"}.get(args.data)
    table = report.table1(f"{data.name}, {len(data.x_test)} test images", correct, paper)
    verdict = "\n\n".join(comparison.verdict for comparison in comparisons)
    write_text(out / "table1.md", f"{table}\n{report.robustness_table(groups)}\n{verdict}\n")

    title = f"{data.name}, {len(chosen)} test images"
    number = 2 if args.data == "cifar10" else 1  # the paper draws MNIST as Figure 1, CIFAR-10 as Figure 2
    figures.save_figure(figures.robustness_curves(groups, title), out / f"figure{number}.png")

    examples = np.unique(data.y_test, return_index=True)[1]  # the first test image of each class
    x, y = data.x_test[examples[:FIGURE_3_IMAGES]], data.y_test[examples[:FIGURE_3_IMAGES]]
    ladder = np.unique([0.0, *epsilons])
    adversarial = {
        kind: np.stack([FGSM()(classifiers[f"{kind}-0"], x, y, epsilon) for epsilon in ladder])
        for kind in ("guided", "regular")
    }
    predicted = {
        kind: np.stack([classifiers[f"{kind}-0"].predict(images) for images in stack])
        for kind, stack in adversarial.items()
    }
    figure = figures.adversarial_grid(adversarial, predicted, y, ladder, data.class_names, f"FGSM, {data.name}")
    figures.save_figure(figure, out / "figure3.png")

    x, y = data.x_test[examples[:SALIENCY_IMAGES]], data.y_test[examples[:SALIENCY_IMAGES]]
    networks = {kind: keras.saving.load_model(folders[f"{kind}-0"] / "model.keras").model for kind in KINDS}
    maps = {
        f"{kind}\n{method}": saliency_maps(network, x, y, method)
        for method in ("gradient", "smoothgrad")
        for kind, network in networks.items()
    }
    figures.save_figure(figures.saliency_grid(x, maps, y, data.class_names, data.name), out / "saliency.png")

    shutil.rmtree(out / SWEEP)
    print(f"\n{table}\n{verdict}\n\nwritten to {out}")


def predict_all(classifier: Any, images: Any, part: int = 2048) -> np.ndarray:
    """Classes of all images, which are never in memory at once where they are in files."""
    return np.concatenate([classifier.predict(images[start : start + part]) for start in range(0, len(images), part)])


if __name__ == "__main__":
    run_main(main)
