"""The paper from end to end: train the regular and the guided network, attack both, write its table and figures.

Without arguments it runs in minutes on 5,000 MNIST images that are part of the installation.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
from _common import Parser, SweepBar, add_data, fit_verbosity, folder, quiet_start, run_main

KINDS = {"regular": False, "guided": True}
FIGURE_3_IMAGES = 5
SALIENCY_IMAGES = 6


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
    add("--out", type=folder, metavar="FOLDER", help="folder to write (default results/DATA)")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="go on with the run in --out")
    existing.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    return parser.parse_args()


def main() -> None:
    """Reproduce the paper on one data source."""
    args = arguments()
    out = args.out or Path("results") / Path(os.path.realpath(args.data)).stem
    if args.seeds < 1:
        raise ValueError(f"--seeds must be 1 or more. Received: --seeds {args.seeds}")
    with quiet_start():
        import keras

        from salrob_tf.data.arrays import choose_indices
        from salrob_tf.data.datasets import load_data
        from salrob_tf.data.folders import select
        from salrob_tf.evaluation.plans import check_epsilons, choose_attacks, default_epsilons
        from salrob_tf.evaluation.sweep import evaluate
        from salrob_tf.files import write_text
        from salrob_tf.models.classifier import Classifier
        from salrob_tf.reports import figures, tables
        from salrob_tf.results.comparison import compare
        from salrob_tf.results.storage import save_results
        from salrob_tf.studies.result_folders import check_results_folder, make_plan, open_results, reproduced
        from salrob_tf.studies.runs import Run, check_run, train
        from salrob_tf.training.workers import worker_count

    if worker_count() > 1:
        raise ValueError("Several workers train by train.py: unset TF_CONFIG for reproduce.py")
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
    existing = {"resume": args.resume, "overwrite": args.overwrite}
    written = reproduced(args.data)
    curves = written[1]
    plan = make_plan("reproduce.py", vars(args), written, runs=[f"models/{name}" for name in runs])
    check_results_folder(out, plan, **existing)
    data = load_data(args.data, args.image_size)
    epsilons = check_epsilons(args.epsilons or default_epsilons(data.input_shape))
    for attack in attacks:
        attack.check_classes(data.num_classes)
    chosen = choose_indices(len(data.x_test), min(args.samples, len(data.x_test)), seed=0)
    for name, run in runs.items():
        check_run(folders[name], data, run, **existing)
        run.build(data)

    with open_results(out, plan, **existing) as opened:
        for name, run in runs.items():
            print(f"training {name} on {data.name}, {run.epochs} epochs", flush=True)
            train(folders[name], data, run, resume=args.resume, overwrite=args.overwrite, verbose=fit_verbosity())
        classifiers = {name: Classifier(folders[name], name) for name in runs}

        print(f"attacking {len(chosen)} test images at {len(epsilons)} epsilons, {args.steps} steps", flush=True)
        results = opened.saved() or [
            evaluate(
                classifier,
                select(data.x_test, chosen),
                data.y_test[chosen],
                attacks,
                epsilons,
                survivors_only=args.survivors_only,
                indices=chosen,
                checkpoint=opened.checkpoint(number),
                progress=SweepBar(name),
            )
            for number, (name, classifier) in enumerate(classifiers.items())
        ]
        by_name = {result.model: result for result in results}
        # One seed is two networks, by their names; of several seeds a line is what networks trained alike share.
        lines = {kind: kind if args.seeds > 1 else f"{kind}-0" for kind in KINDS}
        groups = {line: [by_name[f"{kind}-{seed}"] for seed in seeds] for kind, line in lines.items()}
        comparisons = [compare(by_name[f"regular-{seed}"], by_name[f"guided-{seed}"]) for seed in seeds]

        correct = {
            line: [predict_all(classifiers[f"{kind}-{seed}"], data.x_test) == data.y_test for seed in seeds]
            for kind, line in lines.items()
        }
        paper = {"mnist5k": "mnist", "mnist": "mnist", "cifar10": "cifar10"}.get(args.data)
        table = tables.table1(f"{data.name}, {len(data.x_test)} test images", correct, paper)
        verdict = "\n\n".join(comparison.verdict for comparison in comparisons)
        if not opened.complete:
            write_text(out / "table1.md", f"{table}\n{tables.robustness_table(groups)}\n{verdict}\n")
            whose = "two networks, seed 0" if args.seeds == 1 else f"networks of seeds 0 to {args.seeds - 1}"
            title = f"{data.name}, {len(chosen)} test images, {whose}"
            figures.save_figure(figures.robustness_curves(groups, title), out / curves)
            pair = {f"{kind}-0": classifiers[f"{kind}-0"] for kind in ("guided", "regular")}
            right = np.all([correct[line][0] for line in lines.values()], axis=0)
            figures.save_figure(adversarial_images(pair, data, epsilons, right), out / "figure3.png")
            names = [f"{kind}-0" for kind in KINDS]
            networks = {name: keras.saving.load_model(folders[name] / "model.keras").model for name in names}
            figures.save_figure(saliency_of(networks, data), out / "saliency.png")
            save_results(
                out, results, arguments=vars(args), data_name=data.name, comparisons=comparisons, run=opened.record()
            )

    print(f"\n{table}\n{verdict}\n\nwritten to {out}")


def adversarial_images(classifiers: dict[str, Any], data: Any, epsilons: np.ndarray, right: np.ndarray) -> Any:
    """Figure 3: what FGSM makes of test images, one of a class, that both networks get `right`."""
    from salrob_tf.attacks.gradient import FGSM
    from salrob_tf.reports.figures import adversarial_grid

    some = right if right.any() else ~right  # networks that get nothing right are shown on what they get wrong
    rows = first_of_each_class(data, some)[:FIGURE_3_IMAGES]
    x, y = data.x_test[rows], data.y_test[rows]
    ladder = np.unique([0.0, *epsilons])
    adversarial = {
        name: np.stack([FGSM()(classifier, x, y, epsilon) for epsilon in ladder])
        for name, classifier in classifiers.items()
    }
    predicted = {
        name: np.stack([classifiers[name].predict(images) for images in stack]) for name, stack in adversarial.items()
    }
    title = f"FGSM, {data.name}" + ", images that both networks classify correctly" * bool(right.any())
    return adversarial_grid(adversarial, predicted, y, ladder, data.class_names, title)


def saliency_of(networks: dict[str, Any], data: Any) -> Any:
    """Saliency maps of the first test images, by two methods for each network."""
    from salrob_tf.reports.figures import saliency_grid
    from salrob_tf.saliency.maps import saliency_maps

    rows = first_of_each_class(data, np.ones(len(data.y_test), bool))[:SALIENCY_IMAGES]
    x, y = data.x_test[rows], data.y_test[rows]
    maps = {
        f"{kind}\n{method}": saliency_maps(network, x, y, method)
        for method in ("gradient", "smoothgrad")
        for kind, network in networks.items()
    }
    return saliency_grid(x, maps, y, data.class_names, data.name)


def first_of_each_class(data: Any, among: np.ndarray) -> np.ndarray:
    """Rows of the first test image of each class where a mask is `True`."""
    rows = np.flatnonzero(among)
    return rows[np.unique(data.y_test[rows], return_index=True)[1]]


def predict_all(classifier: Any, images: Any, part: int = 2048) -> np.ndarray:
    """Classes of all images, which are never in memory at once where they are in files."""
    return np.concatenate([classifier.predict(images[start : start + part]) for start in range(0, len(images), part)])


if __name__ == "__main__":
    run_main(main)
