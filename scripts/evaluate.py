"""Attack models on the same test images with the same random starts, and draw accuracy against epsilon."""

from __future__ import annotations

import argparse
from pathlib import Path

from _common import Parser, SweepBar, quiet_start, run_main


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("models", nargs="+", metavar="MODEL", help="a folder from train.py, a .keras file, or a SavedModel folder "
        "(a SavedModel is a program: load only what you trust)")  # fmt: skip
    add("--data", required=True, metavar="SOURCE", help="mnist5k, mnist, fashion_mnist, or an .npz file")
    add("--attacks", nargs="+", default=["fgsm", "bim", "pgd", "mim"], help="default fgsm bim pgd mim; also mim-l2")
    add("--epsilons", nargs="+", type=float, default=[0.05, 0.1, 0.15, 0.2, 0.25, 0.3], help="for images in [0, 1]")
    add("--norm", default="inf", choices=["inf", "2"], help="default %(default)s")
    add("--steps", type=int, default=40, help="of the iterative attacks (default %(default)s)")
    add("--restarts", type=int, default=1, help="of PGD (default %(default)s)")
    add("--samples", type=int, default=1000, help="test images, chosen at random (default %(default)s, or all)")
    add("--seed", type=int, default=0, help="of the choice of images and of random starts (default %(default)s)")
    add("--out", type=Path, required=True, metavar="FOLDER", help="folder to write")
    add("--overwrite", action="store_true", help="replace the results in --out")
    return parser.parse_args()


def main() -> None:
    """Evaluate one or more models."""
    args = arguments()
    if (args.out / "results.json").exists() and not args.overwrite:
        raise ValueError(f"This folder already holds results: pass --overwrite. Received: --out {args.out}")
    with quiet_start():
        from salrob_tf.attacks import NORMS
        from salrob_tf.classifier import Classifier
        from salrob_tf.datasets import choose_indices, load_data
        from salrob_tf.figures import robustness_curves, save_figure
        from salrob_tf.results import save_results
        from salrob_tf.robustness import evaluate
        from salrob_tf.statistics import compare

    classifiers = [Classifier(path) for path in args.models]
    names = distinct_names(args.models)
    data = load_data(args.data)
    indices = choose_indices(len(data.x_test), min(args.samples, len(data.x_test)), args.seed)
    results = [
        evaluate(
            classifier,
            data.x_test[indices],
            data.y_test[indices],
            args.attacks,
            args.epsilons,
            norm=NORMS[args.norm],
            steps=args.steps,
            restarts=args.restarts,
            seed=args.seed,
            indices=indices,
            name=name,
            progress=SweepBar(name),
        )
        for classifier, name in zip(classifiers, names, strict=True)
    ]
    comparisons = [compare(results[0], other) for other in results[1:]]
    figure = robustness_curves({result.model: [result] for result in results}, f"{data.name}, {len(indices)} images")
    save_figure(figure, args.out / "curves.png")
    save_results(args.out, results, arguments=vars(args), data_name=data.name, comparisons=comparisons)
    for text in (*results, *comparisons):
        print(text, end="\n\n")
    print(f"written to {args.out}")


def distinct_names(paths: list[str]) -> list[str]:
    """The last part of each path, or the whole of it where two would be alike."""
    short = [Path(path).resolve().stem for path in paths]
    return [name if short.count(name) == 1 else path for name, path in zip(short, paths, strict=True)]


if __name__ == "__main__":
    run_main(main)
