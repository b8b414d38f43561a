"""Compare two SavedModels, whoever made them, on the same images, and draw their robust accuracy.

    python examples/two_savedmodels.py exports/regular exports/guided

A SavedModel is a program: load only what you trust.
"""

import argparse
from pathlib import Path

import salrob_tf as sr


def main() -> None:
    """Attack both models, print the comparison, save the results and a figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", help="a SavedModel folder, a .keras or a .h5 file")
    parser.add_argument("second", help="another")
    parser.add_argument("--data", default="mnist5k", help="as scripts/train.py takes it (default %(default)s)")
    parser.add_argument("--samples", type=int, default=500, help="test images attacked (default %(default)s)")
    parser.add_argument("--bounds", type=float, nargs=2, default=(0, 1), metavar=("LOW", "HIGH"),
        help="range of images that the models take (default 0 1)")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("results/two"), help="folder to write (default %(default)s)")
    args = parser.parse_args()

    data = sr.load_data(args.data)
    images, labels = data.x_test[: args.samples], data.y_test[: args.samples]
    results = []
    for path in (args.first, args.second):
        classifier = sr.Classifier(path, bounds=args.bounds, input_shape=data.input_shape)
        # An attack by a margin finds what cross-entropy misses where logits are large.
        results.append(sr.evaluate(classifier, images, labels, ["pgd", "pgd-margin"], [0.05, 0.1, 0.2], steps=20))
    comparison = sr.compare(*results)
    print(*results, comparison, sep="\n\n")

    sr.save_results(args.out, results, data_name=data.name, comparisons=[comparison])
    figure = sr.robustness_curves({result.model: [result] for result in results}, f"{data.name}, {len(labels)} images")
    sr.save_figure(figure, args.out / "curves.png")
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
