"""The paper from end to end: train the regular and the guided network, attack both, write its table and figures.

Without arguments it runs in minutes on 5,000 MNIST images that are part of the installation.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from _common import (
    LONG,
    Parser,
    SweepBar,
    add_attacks,
    add_data,
    add_network,
    fit_verbosity,
    folder,
    quiet_start,
    run_main,
    samples_of,
)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add_data(parser, default="mnist5k")
    add_network(parser)
    add("--epochs", type=int, default=12, help="default %(default)s; the paper's is 100")
    add("--batch-size", type=int, default=256, help="default %(default)s")
    add("--learning-rate", type=float, default=1.0, help="of Adadelta; default %(default)s; the paper's is 0.1")
    add("--seeds", type=int, default=1, metavar="S", help="train S networks of each kind (default %(default)s)")
    add_attacks(parser)
    add("--out", type=folder, metavar="FOLDER", help="folder to write (default results/DATA)")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="go on with the run in --out, or add --seeds to it")
    existing.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    return parser.parse_args()


def main() -> None:
    """Reproduce the paper on one data source."""
    args = arguments()
    out = args.out or Path("results") / Path(os.path.realpath(args.data)).stem
    if args.seeds < 1:
        raise ValueError(f"--seeds must be 1 or more. Received: --seeds {args.seeds}")
    with quiet_start():
        from salrob_tf import load_data, make_attack
        from salrob_tf.studies import paper
        from salrob_tf.studies.result_folders import check_results_folder, open_results
        from salrob_tf.studies.result_plans import make_plan
        from salrob_tf.studies.trials import attack_all, estimate_all, make_trial
        from salrob_tf.training.workers import worker_count

    if worker_count() > 1:
        raise ValueError("Several workers train by train.py: unset TF_CONFIG for reproduce.py")
    # Everything that can be wrong is looked at before the first minute of training.
    attacks = [make_attack(name, steps=args.steps, audit=not args.quick) for name in args.attacks]
    runs = paper.make_runs(
        range(args.seeds),
        network=args.network,
        weights=args.weights,
        recipe=args.recipe,
        epochs=args.epochs,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
    )
    existing = {"resume": args.resume, "overwrite": args.overwrite}
    places = list(paper.places(runs).values())
    plan = make_plan("reproduce.py", vars(args), paper.file_names(args.data), runs=places)
    check_results_folder(out, plan, **existing)
    data = load_data(args.data, args.image_size)
    trial = make_trial(data, attacks, args.epsilons, samples_of(args), survivors_only=args.survivors_only)
    paper.check_all(out, data, runs, attacks, **existing)

    def begin(name: str) -> None:
        print(f"training {name} on {data.name}, {args.epochs} epochs", flush=True)

    with open_results(out, plan, **existing) as opened:
        classifiers = paper.train_all(out, data, runs, **existing, verbose=fit_verbosity(), begin=begin)
        images, radii = len(trial.indices), len(trial.epsilons)
        print(f"attacking {images} test images at {radii} epsilons, {args.steps} steps", flush=True)
        found = opened.saved() or []
        if len(found) < len(runs) and (estimate := estimate_all(trial, classifiers[len(found) :])).seconds >= LONG:
            print(estimate, flush=True)
        results = attack_all(trial, classifiers, found, checkpoint=opened.checkpoint, progress=SweepBar)
        correct = paper.correct_in_test(data, classifiers)
        if not opened.complete:
            saved = {"comparisons": paper.compare_kinds(results), "data_name": data.name, "arguments": vars(args)}
            evidence = paper.evidence_of(data, classifiers, results, attacks)
            seen = paper.Paper(args.data, data, classifiers, correct, results, evidence, saved)
            opened.finish(paper.draw_all(seen), results, **saved)

    print(f"\n{paper.accuracy_table(data, correct, args.data)}\n{paper.verdict(results)}\n\nwritten to {out}")


if __name__ == "__main__":
    run_main(main)
