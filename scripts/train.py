"""Train a network with or without saliency guidance, and write it as a folder."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from _common import Parser, add_data, add_network, fit_verbosity, folder, names, quiet_start, run_main
from _launch import end_with_launcher, is_launched, launch

GUIDANCE = ("recipe", "mask_fraction", "kl_weight")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add_data(parser, required=True)
    add_network(parser)
    parser.set_defaults(recipe=None)  # so that one shows that is given where nothing is guided
    add("--saliency", action="store_true", help="train with saliency guidance")
    add("--mask-fraction", type=float, help="of guided training: share of the pixels masked (default 0.5)")
    add("--kl-weight", type=float, help="of guided training: lambda of Eq. 1 (default 1.0)")
    add("--control", help=names("control", "another way of training that guidance is held against: {}"))
    add("--strength", type=float, metavar="X", help="of the control")
    add("--epochs", type=int, default=100, help="default %(default)s")
    add("--batch-size", type=int, default=256, help="default %(default)s")
    add("--optimizer", default="adadelta", help=names("optimizer"))
    add("--learning-rate", type=float, default=0.1, help="default %(default)s")
    add("--precision", default="float32", help=names("precision"))
    add("--augment", action="store_true", help="move training images by up to 4 pixels and flip half of them")
    add("--train-samples", type=int, metavar="N", help="train on a random choice of N images")
    add("--validation-fraction", type=float, default=0.0, metavar="F", help="share of the training images held out")
    add("--keep", default="last", help="last epoch (default), or best by accuracy on the images held out")
    add("--workers", type=int, default=1, metavar="N",
        help="train on N processes of this machine; on several machines, start the script on each with TF_CONFIG set "
        "and one shared --out")  # fmt: skip
    add("--seed", type=int, default=0, help="default %(default)s")
    add("--out", type=folder, help="folder to write (default saved_models/DATA-KIND-SEED)")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="go on with the run in --out")
    existing.add_argument("--overwrite", action="store_true", help="remove the run in --out first")
    args = parser.parse_args()
    given = [key for key in GUIDANCE if getattr(args, key) is not None]
    if given and not args.saliency:
        parser.error(f"--{given[0].replace('_', '-')} needs --saliency: nothing else is guided")
    if args.workers > 1 and os.environ.get("TF_CONFIG") and not is_launched():
        parser.error(f"--workers starts processes of this machine, and TF_CONFIG is set: give one of the two. "
                     f"Received: --workers {args.workers}")  # fmt: skip
    return args


def main() -> None:
    """Train one network."""
    args = arguments()
    if args.workers < 1:
        raise ValueError(f"--workers must be 1 or more. Received: --workers {args.workers}")
    if args.workers > 1 and not os.environ.get("TF_CONFIG"):
        sys.exit(launch([sys.executable, *sys.argv], args.workers))
    end_with_launcher()
    with quiet_start():
        from salrob_tf import load_data
        from salrob_tf.studies.runs import Run, train
        from salrob_tf.training.workers import is_chief, strategy

        strategy()

    run = Run(
        network=args.network,
        weights=args.weights,
        saliency=args.saliency,
        **{key: value for key in GUIDANCE if (value := getattr(args, key)) is not None},
        epochs=args.epochs,
        batch_size=args.batch_size,
        optimizer=args.optimizer,
        learning_rate=args.learning_rate,
        precision=args.precision,
        validation_fraction=args.validation_fraction,
        keep=args.keep,
        augment=args.augment,
        control=args.control,
        strength=args.strength,
        seed=args.seed,
    )
    kind = "guided" if args.saliency else args.control or "regular"
    out = args.out or Path("saved_models") / f"{Path(os.path.realpath(args.data)).stem}-{kind}-{args.seed}"
    data = load_data(args.data, args.image_size)
    if args.train_samples is not None:
        data = data.with_train_samples(args.train_samples, args.seed)
    record = train(out, data, run, resume=args.resume, overwrite=args.overwrite, verbose=fit_verbosity())
    if is_chief():
        print(f"{data.name}, {kind}: test accuracy {record['test']['accuracy']:.2%}; written to {out}")


if __name__ == "__main__":
    run_main(main)
