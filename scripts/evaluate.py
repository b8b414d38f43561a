"""Attack models on the same test images with the same random starts, and draw accuracy against epsilon."""

from __future__ import annotations

import argparse

from _common import LONG, Parser, SweepBar, add_attacks, add_data, folder, quiet_start, run_main, samples_of


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("models", nargs="+", metavar="MODEL", help="a folder from train.py, a .keras or .h5 file, or a SavedModel "
        "folder (a SavedModel is a program: load only what you trust)")  # fmt: skip
    add_data(parser, required=True)
    add_attacks(parser)
    add("--bounds", nargs=2, type=float, default=[0.0, 1.0], metavar=("LOW", "HIGH"),
        help="range of images that the models take, one for all (default 0 1); epsilons stay for [0, 1]")  # fmt: skip
    add("--output", metavar="NAME", help="of models with several outputs, the one to attack; one for all (default: the "
        "only one that can be logits or probabilities)")  # fmt: skip
    add("--norm", default="inf", choices=["inf", "2"], help="default %(default)s")
    add("--restarts", type=int, default=1, help="of PGD, APGD, Square and SPSA (default %(default)s)")
    add("--seed", type=int, default=0, help="of the choice of images and of random starts (default %(default)s)")
    add("--search", default="bisect", choices=["bisect", "full"],
        help="of survivors: find each image's smallest epsilon, or go up one by one (default %(default)s)")  # fmt: skip
    add("--craft-dtype", default="float32", choices=["float32", "bfloat16"], help="of gradients (default %(default)s)")
    add("--adversarials", action="store_true", help="keep the adversarial images in --out/adversarials")
    add("--evidence", action="store_true", help="measure saliency maps and mechanism at up to 200 images, and keep "
        "some under attack, for report.py to show")  # fmt: skip
    add("--out", type=folder, required=True, metavar="FOLDER", help="folder to write")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="go on with what --out holds of this sweep")
    existing.add_argument("--overwrite", action="store_true", help="replace the results in --out")
    return parser.parse_args()


def main() -> None:
    """Evaluate one or more models."""
    args = arguments()
    with quiet_start():
        from salrob_tf import Classifier, compare, load_data, make_attack, robustness_curves, robustness_table
        from salrob_tf.studies.evidence import attacks_to_show, gather
        from salrob_tf.studies.names import distinct_names
        from salrob_tf.studies.pages import EVIDENCE
        from salrob_tf.studies.result_folders import check_results_folder, open_results
        from salrob_tf.studies.result_plans import adversarial_files, make_plan
        from salrob_tf.studies.trials import attack_all, estimate_all, make_trial

    # Everything that can be wrong is looked at before anything is written.
    names = distinct_names(args.models)
    settings = {"norm": args.norm, "steps": args.steps, "restarts": args.restarts, "audit": not args.quick}
    attacks = [make_attack(name, **settings) for name in args.attacks]
    kept = adversarial_files(names, [attack.label for attack in attacks]) if args.adversarials else []
    files = ["table.md", "curves.png", *[EVIDENCE] * args.evidence, *kept]
    check_results_folder(args.out, make_plan("evaluate.py", vars(args), files), args.resume, args.overwrite)
    data = load_data(args.data, args.image_size)
    options = {"survivors_only": args.survivors_only, "search": args.search, "craft_dtype": args.craft_dtype}
    trial = make_trial(data, attacks, args.epsilons, samples_of(args), args.seed, **options)
    classifiers = [
        Classifier(path, name, args.bounds, data.input_shape, args.output)
        for path, name in zip(args.models, names, strict=True)
    ]
    plan = make_plan("evaluate.py", vars(args), files, inputs=trial.inputs(classifiers))

    with open_results(args.out, plan, resume=args.resume, overwrite=args.overwrite) as opened:
        if not opened.complete and (estimate := estimate_all(trial, classifiers)).seconds >= LONG:
            print(f"attacking {len(trial.indices)} test images: {estimate}", flush=True)
        results = attack_all(
            trial,
            classifiers,
            opened.saved(),
            checkpoint=opened.checkpoint,
            adversarials=opened.adversarials if args.adversarials else None,
            progress=SweepBar,
        )
        comparisons = [compare(results[0], other) for other in results[1:]]
        if not opened.complete:
            groups = {result.model: [result] for result in results}
            title = f"{data.name}, {len(trial.indices)} images, {len(results)} networks"
            seen = {}
            if args.evidence:
                seen[EVIDENCE] = gather(data, classifiers, results, attacks_to_show(attacks)).to_bytes()
            opened.finish(
                {"table.md": robustness_table(groups), "curves.png": robustness_curves(groups, title), **seen},
                results,
                comparisons=comparisons,
                data_name=data.name,
                arguments=vars(args),
            )
    for text in (*results, *comparisons):
        print(text, end="\n\n")
    print(f"written to {args.out}")


if __name__ == "__main__":
    run_main(main)
