"""Train a Keras model of your own with and without saliency guidance, attack both, and compare.

    python examples/own_model.py --epochs 12

Any built Keras model from images to logits will do. Both networks are exported as SavedModels of the classifier alone,
which `two_savedmodels.py` takes.
"""

import argparse
from pathlib import Path

import keras

import salrob_tf as sr


def network(input_shape: tuple[int, ...], num_classes: int) -> keras.Model:
    """Put your own model here; it ends in logits, not in softmax."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Conv2D(16, 3, strides=2, activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(32, 3, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(num_classes),
        ],
        name="mine",
    )


def main() -> None:
    """Train, export, attack and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="mnist5k", help="as scripts/train.py takes it (default %(default)s)")
    parser.add_argument("--train-samples", type=int, metavar="N", help="train on N images only")
    parser.add_argument("--samples", type=int, default=500, help="test images attacked (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=12, help="default %(default)s")
    parser.add_argument("--out", type=Path, default=Path("exports"), help="where SavedModels go (default %(default)s)")
    args = parser.parse_args()

    data = sr.load_data(args.data)
    if args.train_samples is not None:
        data = data.with_train_samples(args.train_samples)
    results = []
    for name, saliency in {"regular": False, "guided": True}.items():
        keras.utils.set_random_seed(0)  # both begin with the same weights
        model = sr.SaliencyGuided(network(data.input_shape, data.num_classes), saliency=saliency, seed=0)
        model.compile(keras.optimizers.Adam(1e-3), metrics=["accuracy"])
        model.fit(data.x_train, data.y_train, batch_size=128, epochs=args.epochs)
        model.export(args.out / name, verbose=False)
        images, labels = data.x_test[: args.samples], data.y_test[: args.samples]
        results.append(sr.evaluate(model, images, labels, ["fgsm", "pgd"], [0.05, 0.1], steps=20, name=name))
        print(results[-1], end="\n\n")
    print(sr.compare(*results))


if __name__ == "__main__":
    main()
