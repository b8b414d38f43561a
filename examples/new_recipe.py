"""Try a choice that the papers did not make: here, what the least salient pixels are filled with.

    python examples/new_recipe.py --epochs 12

Each recipe trains a network of its own, from the same weights; all are attacked alike. `help(sr.Recipe)` lists the
other choices. A difference between two networks is none between two recipes: repeat with other seeds.
"""

import argparse
from dataclasses import replace

import keras

import salrob_tf as sr

DEFAULT = sr.RECIPES["karkehabadi2023"]
RECIPES = {
    "default": DEFAULT,
    "black": replace(DEFAULT, fill="constant", fill_value=0.0),  # the background of MNIST: no noise is drawn
}


def main() -> None:
    """Train a network by each recipe, and attack both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="mnist5k", help="as scripts/train.py takes it (default %(default)s)")
    parser.add_argument("--train-samples", type=int, metavar="N", help="train on N images only")
    parser.add_argument("--samples", type=int, default=500, help="test images attacked (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=12, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    args = parser.parse_args()

    data = sr.load_data(args.data)
    if args.train_samples is not None:
        data = data.with_train_samples(args.train_samples)
    images, labels = data.x_test[: args.samples], data.y_test[: args.samples]
    results = {}
    for name, recipe in RECIPES.items():
        keras.utils.set_random_seed(args.seed)
        model = sr.SaliencyGuided(sr.cnn(data.input_shape, data.num_classes), recipe=recipe, seed=args.seed)
        model.compile(keras.optimizers.Adadelta(1.0, rho=0.9, epsilon=1e-6), metrics=["accuracy"])
        model.fit(data.x_train, data.y_train, batch_size=256, epochs=args.epochs)
        results[name] = sr.evaluate(model, images, labels, "pgd", [0.1, 0.2], steps=20, name=name)
    print(sr.robustness_table({name: [result] for name, result in results.items()}))
    print(sr.compare(results["default"], results["black"]).verdict)


if __name__ == "__main__":
    main()
