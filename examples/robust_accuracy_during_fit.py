"""Log robust accuracy beside the loss while a network trains, and keep the most robust epoch.

    python examples/robust_accuracy_during_fit.py --epochs 12 --out history

What chooses an epoch by test images measures nothing on them: the images attacked here are held out of training.
"""

import argparse
from pathlib import Path

import keras

import salrob_tf as sr


def main() -> None:
    """Train a guided network with a callback that attacks it after every epoch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="mnist5k", help="as scripts/train.py takes it (default %(default)s)")
    parser.add_argument("--train-samples", type=int, metavar="N", help="train on N images only")
    parser.add_argument("--samples", type=int, default=200, help="validation images attacked (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=12, help="default %(default)s")
    parser.add_argument("--out", type=Path, default=Path("history"), help="folder to write (default %(default)s)")
    args = parser.parse_args()

    data = sr.load_data(args.data)
    if args.train_samples is not None:
        data = data.with_train_samples(args.train_samples)
    data, x_val, y_val = data.with_validation(0.1)
    keras.utils.set_random_seed(0)
    model = sr.SaliencyGuided(sr.cnn(data.input_shape, data.num_classes), seed=0)
    model.compile(keras.optimizers.Adadelta(1.0, rho=0.9, epsilon=1e-6), metrics=["accuracy"])

    args.out.mkdir(parents=True, exist_ok=True)
    robust = sr.RobustAccuracy(x_val[: args.samples], y_val[: args.samples], attack="pgd", epsilon=[0.1, 0.2])
    best = keras.callbacks.ModelCheckpoint(
        args.out / "best.keras", "robust_accuracy_0.1", mode="max", save_best_only=True
    )
    log = keras.callbacks.CSVLogger(args.out / "log.csv")
    model.fit(
        data.x_train,
        data.y_train,
        batch_size=256,
        epochs=args.epochs,
        validation_data=(x_val, y_val),
        callbacks=[robust, best, log],  # `robust` first: those after it find its metrics in the logs
    )
    print((args.out / "log.csv").read_text())


if __name__ == "__main__":
    main()
