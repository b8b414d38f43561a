"""Attack models on the same test images with the same random starts, and draw accuracy against epsilon."""

from __future__ import annotations

import argparse

from _common import Parser, SweepBar, add_data, folder, quiet_start, run_main

WRITTEN = ("table.md", "curves.png")  # beside results.json and correct.npz


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("models", nargs="+", metavar="MODEL", help="a folder from train.py, a .keras or .h5 file, or a SavedModel "
        "folder (a SavedModel is a program: load only what you trust)")  # fmt: skip
    add_data(parser, required=True)
    add(
        "--attacks",
        nargs="+",
        default=["fgsm", "bim", "pgd", "mim"],
        help="default fgsm bim pgd mim; also spsa, cw; with -margin, -dlr, -targeted, and mim-l2",
    )
    add("--epsilons", nargs="+", type=float, metavar="EPSILON", help="for images in [0, 1]; default 0.05 to 0.3 for "
        "grey images, 1/255 to 16/255 for colour")  # fmt: skip
    add("--bounds", nargs=2, type=float, default=[0.0, 1.0], metavar=("LOW", "HIGH"),
        help="range of images that the models take, one for all (default 0 1); epsilons stay for [0, 1]")  # fmt: skip
    add("--output", metavar="NAME", help="of models with several outputs, the one to attack; one for all (default: the "
        "only one that can be logits or probabilities)")  # fmt: skip
    add("--norm", default="inf", choices=["inf", "2"], help="default %(default)s")
    add("--steps", type=int, default=40, help="of the iterative attacks (default %(default)s)")
    add("--restarts", type=int, default=1, help="of PGD (default %(default)s)")
    add("--samples", type=int, default=1000, help="test images, chosen at random (default %(default)s, or all)")
    add("--seed", type=int, default=0, help="of the choice of images and of random starts (default %(default)s)")
    add("--survivors-only", action=argparse.BooleanOptionalAction, default=True,
        help="attack only what still stands (default), or everything at every epsilon, as in the paper")  # fmt: skip
    add("--search", default="bisect", choices=["bisect", "full"],
        help="of survivors: find each image's smallest epsilon, or go up one by one (default %(default)s)")  # fmt: skip
    add("--craft-dtype", default="float32", choices=["float32", "bfloat16"], help="of gradients (default %(default)s)")
    add("--adversarials", action="store_true", help="keep the adversarial images in --out/adversarials")
    add("--out", type=folder, required=True, metavar="FOLDER", help="folder to write")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="go on with what --out holds of this sweep")
    existing.add_argument("--overwrite", action="store_true", help="replace the results in --out")
    return parser.parse_args()


def main() -> None:
    """Evaluate one or more models."""
    args = arguments()
    with quiet_start():
        from salrob_tf.attacks.balls import NORMS
        from salrob_tf.data.arrays import check_labels, choose_indices, fingerprint
        from salrob_tf.data.datasets import load_data
        from salrob_tf.data.folders import select
        from salrob_tf.evaluation.plans import check_epsilons, check_suits, choose_attacks, default_epsilons
        from salrob_tf.evaluation.sweep import evaluate
        from salrob_tf.files import write_text
        from salrob_tf.models.classifier import Classifier
        from salrob_tf.reports.figures import robustness_curves, save_figure
        from salrob_tf.reports.tables import robustness_table
        from salrob_tf.results.comparison import compare
        from salrob_tf.results.storage import save_results
        from salrob_tf.studies.names import distinct_names
        from salrob_tf.studies.result_folders import check_results_folder, make_plan, open_results

    # Everything that can be wrong is looked at before anything is written.
    names = distinct_names(args.models)
    attacks = choose_attacks(args.attacks, norm=NORMS[args.norm], steps=args.steps, restarts=args.restarts)
    kept = [f"adversarials/{name}/{attack}-?????.npz" for name in names for attack in attacks if args.adversarials]
    files = [*WRITTEN, *kept]
    check_results_folder(args.out, make_plan("evaluate.py", vars(args), files), args.resume, args.overwrite)
    data = load_data(args.data, args.image_size)
    epsilons = check_epsilons(args.epsilons or default_epsilons(data.input_shape))
    indices = choose_indices(len(data.x_test), min(args.samples, len(data.x_test)), args.seed)
    classifiers = [
        Classifier(path, name, args.bounds, data.input_shape, args.output)
        for path, name in zip(args.models, names, strict=True)
    ]
    images, labels = select(data.x_test, indices), data.y_test[indices]
    for classifier in classifiers:
        check_suits(classifier, attacks, args.craft_dtype)
        check_labels(labels, len(labels), classifier.num_classes, f"labels for {classifier.name}")
    inputs = {f"model {classifier.name}": classifier.fingerprint for classifier in classifiers}
    inputs["images"] = fingerprint(images, labels)
    plan = make_plan("evaluate.py", vars(args), files, inputs=inputs)

    with open_results(args.out, plan, resume=args.resume, overwrite=args.overwrite) as opened:
        results = opened.saved() or [
            evaluate(
                classifier,
                images,
                labels,
                list(attacks.values()),
                epsilons,
                seed=args.seed,
                survivors_only=args.survivors_only,
                search=args.search,
                craft_dtype=args.craft_dtype,
                indices=indices,
                checkpoint=opened.checkpoint(number),
                adversarials=opened.adversarials(classifier.name) if args.adversarials else None,
                progress=SweepBar(classifier.name),
            )
            for number, classifier in enumerate(classifiers)
        ]
        comparisons = [compare(results[0], other) for other in results[1:]]
        if not opened.complete:
            groups = {result.model: [result] for result in results}
            write_text(args.out / "table.md", robustness_table(groups))
            title = f"{data.name}, {len(indices)} images, {len(results)} networks"
            save_figure(robustness_curves(groups, title), args.out / "curves.png")
            save_results(
                args.out,
                results,
                arguments=vars(args),
                data_name=data.name,
                comparisons=comparisons,
                run=opened.record(),
            )
    for text in (*results, *comparisons):
        print(text, end="\n\n")
    print(f"written to {args.out}")


if __name__ == "__main__":
    run_main(main)
