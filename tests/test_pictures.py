from dataclasses import replace

import keras
import matplotlib
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_images, make_network

import salrob_tf as sr
from salrob_tf.reports.figures import adversarial_grid, robustness_curves, saliency_grid, save_figure
from salrob_tf.reports.tables import robustness_table, table1
from salrob_tf.results.flags import Flag


@pytest.fixture(scope="module")
def results(ready):
    model, images, labels = ready
    return [
        sr.evaluate(
            model, images, labels, [sr.FGSM(), sr.PGD(steps=steps)], [0.2, 0.1], seed=steps, name=f"tiny-{steps}"
        )
        for steps in (3, 2)
    ]


def test_curves_show_each_attack_with_clean_accuracy_at_epsilon_0(results):
    figure = robustness_curves({"tiny": results[:1]}, "title")
    assert [panel.get_title() for panel in figure.axes] == ["FGSM", "PGD, 3 steps"]
    line, worst = figure.axes[0].lines
    accuracy = results[0].accuracy("fgsm")
    np.testing.assert_allclose(line.get_xdata(), [0, 0.1, 0.2])
    np.testing.assert_allclose(line.get_ydata(), [results[0].clean_accuracy, accuracy[1], accuracy[0]])
    assert worst.get_linestyle() == ":" and worst.get_ydata()[1] == results[0].accuracy("worst of all")[1]
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    low, high = results[0].interval("fgsm")[0]
    assert {round(y, 6) for x, y in band if x == 0.2} == {round(low, 6), round(high, 6)}


@pytest.mark.parametrize("seeds", [2, 3, 4])
def test_curves_of_several_seeds_show_the_mean_and_each_seed_and_the_spread_of_the_table(results, seeds):
    chosen = [results[0], results[1], results[0], results[1]][:seeds]
    figure = robustness_curves({"tiny": chosen})
    panel = figure.axes[1]
    assert len(panel.lines) == 3
    accuracy = np.array([r.accuracy("pgd")[0] for r in chosen])
    x, y = panel.lines[0].get_data()  # each seed between gaps
    np.testing.assert_array_equal(y[x == 0.2], accuracy)
    assert np.isnan(y).sum() == seeds and (np.isnan(x) == np.isnan(y)).all()
    np.testing.assert_allclose(panel.lines[-2].get_ydata()[2], accuracy.mean())
    band = [y for x, y in panel.collections[0].get_paths()[0].vertices if x == 0.2]
    expected, kind = [accuracy.min(), accuracy.max()], f"lowest and highest of {seeds} seeds"
    if seeds == 4:
        half = 3.18245 * accuracy.std(ddof=1) / 2  # Student's 97.5 % quantile, three degrees of freedom
        expected, kind = np.clip([accuracy.mean() - half, accuracy.mean() + half], 0, 1), "95 % over 4 seeds (Student)"
    np.testing.assert_allclose([min(band), max(band)], expected, atol=1e-4)
    assert f"bands: {kind}" in figure.get_supxlabel()
    table = robustness_table({"tiny": chosen})
    assert f"In brackets: {kind}." in table
    assert f"{accuracy.mean():.1%} [{100 * expected[0]:.1f}, {100 * expected[1]:.1f}]" in table


def test_lines_differ_without_colours(results):
    figure = robustness_curves({str(number): results[:1] for number in range(7)})
    styles = {(line.get_linestyle(), line.get_marker()) for line in figure.axes[0].lines[::2]}
    assert len(styles) == 7


def test_what_is_doubtful_is_marked_in_figure_and_table(results):
    blind = Flag("zero gradients", "doubtful", 0.3, 0.01, "the gradient was zero for 30.0%", "Try spsa", "pgd")
    marked = replace(results[1], flags=(blind, replace(blind, attack="fgsm", severity="note")))
    groups = {"sure": results[:1], "doubtful": [marked]}
    figure = robustness_curves(groups)
    fgsm, pgd = figure.axes
    assert [text.get_text() for text in fgsm.texts] == [""]
    assert [text.get_text() for text in pgd.texts] == ["† tiny-2: doubtful"]
    assert [text.get_text() for text in fgsm.get_legend().get_texts()] == ["sure", "doubtful †"]
    assert [line.get_markerfacecolor() == "white" for line in pgd.lines[::2]] == [False, True]
    table = robustness_table(groups)
    rows = [row for row in table.splitlines() if row.startswith("| PGD") and "[" in row]
    assert len(rows) == 2 and all(row.count("†") == 1 and row.endswith("† |") for row in rows)
    assert "† tiny-2, PGD: the gradient was zero for 30.0% (doubtful). Try spsa." in table and table.count("†") == 3


def test_names_that_look_like_formulas_are_drawn_as_they_are(tmp_path, results, trained):
    name, (_, images, labels) = r"$\frac$ 5 % _x^2 {a}", trained
    figures = [
        robustness_curves({name: [replace(results[0], model=name)]}, name),
        adversarial_grid({name: images[None, :2]}, {name: 1 - labels[None, :2]}, labels[:2], [0.1], [name] * 3, name),
        saliency_grid(images[:2], {name: images[:2]}, labels[:2], [name] * 3, name),
    ]
    for number, figure in enumerate(figures):
        save_figure(figure, tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").stat().st_size
    row = robustness_table({"a | b\nc": results[:1]}).splitlines()[0]
    assert row == r"| attack | epsilon | a \| b c |"


def test_an_odd_number_of_attacks_leaves_no_empty_panel(trained):
    model, images, labels = trained
    found = sr.evaluate(model, images, labels, ["fgsm", "bim", "pgd"], [0.1], steps=2)
    assert [panel.get_title() for panel in robustness_curves({"tiny": [found]}).axes] == [
        "FGSM",
        "BIM, 2 steps",
        "PGD, 2 steps",
    ]


def test_a_file_never_takes_the_place_of_a_folder(tmp_path, results):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"^This is a folder where a file belongs: move it away, .*/folder$"):
        save_figure(robustness_curves({"tiny": results}), tmp_path / "folder")
    assert (tmp_path / "folder" / "mine.txt").read_text() == "precious"


def test_figure_3_names_the_predicted_class_and_marks_mistakes(trained):
    _, images, labels = trained
    stack = {"guided": np.stack([images[:2]] * 3), "regular": np.stack([images[:2]] * 3)}
    wrong = (labels[:2] + 1) % 3
    predicted = {"guided": np.stack([labels[:2]] * 3), "regular": np.stack([labels[:2], wrong, wrong])}
    figure = adversarial_grid(stack, predicted, labels[:2], [0, 0.1, 0.2], ("a", "b", "c"))
    assert [block.get_suptitle() for block in figure.subfigs] == ["guided", "regular"]
    left, right = ([axis.xaxis.label for axis in block.axes] for block in figure.subfigs)
    assert [label.get_color() for label in left] == ["black"] * 6
    assert [label.get_color() for label in right] == ["black"] * 2 + ["#C00000"] * 4
    assert left[0].get_text() == "abc"[labels[0]] and right[2].get_text() == f"! {'abc'[wrong[0]]} !"
    assert "! red ! where it is not the true one" in figure.get_suptitle()


def test_figure_3_shows_colours_as_they_are():
    images, labels = make_images(2, shape=(8, 8, 3))
    stack = {kind: np.stack([images, images[:, ::-1]]) for kind in ("guided", "regular")}
    predicted = dict.fromkeys(stack, np.stack([labels, labels]))
    figure = adversarial_grid(stack, predicted, labels, [0, 1 / 255], ("a", "b", "c"))
    shown = [axis.images[0].get_array() for axis in figure.subfigs[1].axes]
    np.testing.assert_array_equal(shown, [*images, *images[:, ::-1]])
    assert [axis.get_ylabel() for axis in figure.subfigs[0].axes[::2]] == ["ε = 0", "ε = 1/255"]


def test_saliency_maps_equal_our_own_gradient_and_are_seeded(trained):
    model, images, labels = trained
    functional = keras.Model(model.inputs, model.outputs)
    x = tf.constant(images[:5])
    with tf.GradientTape() as tape:
        tape.watch(x)
        logit = tf.gather(functional(x, training=False), labels[:5], axis=1, batch_dims=1)
    gradient = tape.gradient(logit, x)
    np.testing.assert_allclose(sr.saliency_maps(functional, images[:5], labels[:5]), gradient, atol=1e-6)
    smooth = [
        sr.saliency_maps(sr.SaliencyGuided(functional), images[:5], labels[:5], "smoothgrad", seed=seed)
        for seed in (0, 0, 1)
    ]
    assert np.array_equal(smooth[0], smooth[1]) and not np.array_equal(smooth[0], smooth[2])
    still = sr.saliency_maps(functional, images[:5], labels[:5], "smoothgrad", noise=0.0)
    np.testing.assert_allclose(still, gradient, atol=1e-6)


def test_smoothgrad_is_the_mean_gradient_over_noisy_copies(trained):
    model, images, labels = trained
    functional = keras.Model(model.inputs, model.outputs)
    found = sr.saliency_maps(functional, images[:2], labels[:2], "smoothgrad", samples=300, noise=0.1)
    rng, spread = np.random.default_rng(5), 0.1 * np.ptp(images[:2], axis=(1, 2, 3), keepdims=True)
    copies = images[:2] + spread * rng.standard_normal((300, *images[:2].shape))
    x = tf.constant(copies.reshape(-1, *images.shape[1:]).astype(np.float32))
    with tf.GradientTape() as tape:
        tape.watch(x)
        logit = tf.gather(functional(x, training=False), np.tile(labels[:2], 300), axis=1, batch_dims=1)
    mean = tape.gradient(logit, x).numpy().reshape(copies.shape).mean(axis=0)
    np.testing.assert_allclose(found, mean, atol=0.05)


def test_activation_maps_equal_grad_cam_plus_plus_written_out():
    images, labels = make_images(5, (8, 8, 2))
    keras.utils.set_random_seed(2)
    image = keras.Input((8, 8, 2))
    seen = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    network = keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(seen)))
    found = sr.saliency_maps(network, images, labels, "gradcam++")
    activations = keras.Model(image, seen).predict(images, verbose=0)
    kernel = network.layers[-1].kernel.numpy().reshape(8, 8, 4, 3)
    for map_, at, label in zip(found, activations, labels, strict=True):
        expected = np.zeros((8, 8))
        for k in range(4):
            slope = kernel[:, :, k, label]  # of a linear head, everywhere
            weights = slope**2 / (2 * slope**2 + slope**3 * at[..., k].sum())  # Eq. 19, exp(logit) cancelled
            expected += (weights / weights.sum() * np.maximum(slope, 0)).sum() * at[..., k]
        for channel in range(2):
            np.testing.assert_allclose(map_[..., channel], np.maximum(expected, 0), rtol=1e-3, atol=1e-5)
    coarse = keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(keras.layers.MaxPool2D()(seen))))
    assert sr.saliency_maps(coarse, images, labels, "gradcam++").shape == images.shape
    flat = keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(image)))
    with pytest.raises(ValueError, match=r"^Grad-CAM\+\+ needs a network with a convolution. Received: functional"):
        sr.saliency_maps(flat, images, labels, "gradcam++")


def test_models_without_a_map_are_refused(trained):
    model, images, labels = trained
    nested = keras.Model(model.inputs, keras.Sequential([keras.Input((8, 8, 1)), model])(model.inputs))
    with pytest.raises(ValueError, match="without models inside"):
        sr.saliency_maps(nested, images[:1], labels[:1])
    with pytest.raises(ValueError, match="Functional"):
        sr.saliency_maps(model, images[:1], labels[:1])
    with pytest.raises(ValueError, match="Valid: gradient, smoothgrad, gradcam.*Received: method='lime'"):
        sr.saliency_maps(keras.Model(model.inputs, model.outputs), images[:1], labels[:1], "lime")


class Through(keras.layers.Layer):
    def __init__(self, function):
        super().__init__()
        self.call = function


def test_networks_without_a_map_are_one_line_and_flat_ones_have_zeros():
    images, labels = make_images(2)
    x = keras.Input((8, 8, 1))

    def maps(function, **settings):
        network = keras.Model(x, keras.layers.Dense(3)(keras.layers.Flatten()(Through(function)(x))))
        return sr.saliency_maps(network, images, labels, **settings)

    for method in ("gradient", "smoothgrad"):
        for step in (keras.ops.round, keras.ops.stop_gradient):
            with pytest.raises(ValueError, match=r"^A network without a gradient [^\n]*Received: functional"):
                maps(step, method=method)
        assert not maps(lambda inputs: keras.ops.relu(inputs - 5), method=method, samples=2).any()
    with pytest.raises(ValueError, match=r"gradients of NaN or infinity for 100.0% of them"):
        maps(lambda inputs: keras.ops.sqrt(keras.ops.relu(inputs - 0.3)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 0}, "`samples` must be a whole number, 1 or more. Received: samples=0"),
        ({"samples": 2.5}, "samples=2.5"),
        ({"noise": -1}, "`noise` must be a finite number, 0 or more. Received: noise=-1"),
        ({"noise": float("nan")}, "noise=nan"),
        ({"seed": "0"}, "seed='0'"),
        ({"seed": 2**32}, "seed=4294967296"),
        ({"method": None}, "Valid: gradient, smoothgrad, gradcam.*Received: method=None"),
        ({"images": np.zeros((1, 8, 4, 1))}, r"of shape \(8, 8, 1\) each. Received: shape=\(1, 8, 4, 1\)"),
    ],
)
def test_arguments_of_maps_are_looked_at(trained, arguments, message):
    model, images, labels = trained
    functional = keras.Model(model.inputs, model.outputs)
    with pytest.raises(ValueError, match=message):
        sr.saliency_maps(**{"model": functional, "images": images[:1], "labels": labels[:1]} | arguments)


def test_saliency_grid_has_one_colour_scale_and_pictures_are_written(tmp_path):
    images, labels = make_images(2, shape=(8, 8, 3))
    network = make_network(shape=(8, 8, 3))
    functional = keras.Model(network.inputs, network.outputs)
    maps = {name: k * sr.saliency_maps(functional, images, labels) for k, name in ((1, "regular"), (5, "guided"))}
    figure = saliency_grid(images, maps, labels, ("a", "b", "c"))
    limits = {axis.images[0].get_clim() for axis in figure.axes[:6] if axis.images[0].get_cmap().name == "RdBu_r"}
    assert len(limits) == 1
    np.testing.assert_array_equal(figure.axes[3].images[0].get_array(), images[1])
    np.testing.assert_allclose(figure.axes[4].images[0].get_array(), maps["regular"][1].mean(-1))
    save_figure(figure, tmp_path / "new" / "saliency.png")
    assert (tmp_path / "new" / "saliency.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["saliency.png"]


def test_tables():
    outcomes = [np.arange(100) < right for right in (90, 80)]
    one = table1("MNIST-5k", {"regular": outcomes[:1], "guided": outcomes[1:]}, paper="mnist")
    assert one.splitlines() == [
        "| data | regular | guided |",
        "| --- | --- | --- |",
        "| MNIST-5k | 90.0% [82.6, 94.5] | 80.0% [71.1, 86.7] |",
        "| MNIST in the paper | 99.3% | 98.8% |",
        "",
        "In brackets: 95 % over 100 images (Wilson).",
    ]
    cifar = table1("CIFAR-10", {"regular": outcomes[:1], "guided": outcomes[1:]}, paper="cifar10")
    assert cifar.splitlines()[3] == "| CIFAR-10 in the paper | 82.8% | 82.2% |"
    two = table1("MNIST-5k", {"regular": outcomes})
    assert "| 85.0% [80.0, 90.0] |" in two and "In brackets: lowest and highest of 2 seeds." in two


@pytest.mark.parametrize(
    ("correct", "paper", "message"),
    [
        ({}, None, r"Received: correct=\{\}"),
        ({"a": []}, None, "one image or more"),
        ({"a": [np.zeros(0, bool)]}, None, "one image or more"),
        ({"a": [np.zeros(3)]}, None, r"lists of booleans \(N,\)"),
        ({"a": np.zeros(3, bool)}, None, r"lists of booleans \(N,\)"),
        ([np.zeros(3, bool)], None, "must be a dictionary"),
        ({"a": [np.zeros(3, bool)]}, "svhn", "Unknown paper. Valid: mnist, cifar10. Received: paper='svhn'"),
    ],
)
def test_a_table_of_nothing_is_one_line(correct, paper, message):
    with pytest.raises(ValueError, match=rf"^[^\n]*{message}[^\n]*$"):
        table1("data", correct, paper)


@pytest.mark.parametrize("path", [None, 5, b"figure.png", "", ".", "a\0b"])
def test_what_is_no_path_is_no_place_for_a_figure(results, path):
    with pytest.raises(ValueError, match="^`path` must be the path of a file. Received: path="):
        save_figure(robustness_curves({"tiny": results[:1]}), path)


def test_a_table_has_a_name():
    with pytest.raises(ValueError, match="^`data_name` must be text. Received: data_name=None$"):
        table1(None, {"a": [np.zeros(3, bool)]})


def test_a_figure_of_nothing_is_one_line():
    images, labels = make_images(1)
    for arguments, missing in (
        (({}, {}, labels, [0.1], "abc"), "networks"),
        (({"a": images[None, :0]}, {"a": labels[None, :0]}, labels[:0], [0.1], "abc"), "labels"),
        (({"a": images[None][:0]}, {"a": labels[None][:0]}, labels, [], "abc"), "epsilons"),
    ):
        with pytest.raises(ValueError, match=f"^A figure needs one or more of networks, .* Received: no {missing}$"):
            adversarial_grid(*arguments)
    for arguments, missing in (((images[:0], {"a": images[:0]}, labels[:0]), "images"), ((images, {}, labels), "maps")):
        with pytest.raises(ValueError, match=f"^A figure needs one or more of images, maps. Received: no {missing}$"):
            saliency_grid(*arguments, "abc")


def test_robustness_table_has_a_row_per_attack_and_epsilon_beside_clean_accuracy(results):
    table = robustness_table({"tiny": results[:1]}).splitlines()
    assert table[2].startswith(f"| none | 0 | {results[0].clean_accuracy:.1%} [")
    assert table[3].startswith("| FGSM | 0.2 | ") and table[6].startswith("| PGD | 0.1 | ") and table[9] == ""
    assert table[7].startswith("| WORST OF ALL | 0.2 | ") and table[8].startswith("| WORST OF ALL | 0.1 | ")


def test_results_that_do_not_belong_together_are_neither_drawn_nor_tabled(results):
    other = {
        r"epsilons \[0.2, 0.1\] and \[0.3, 0.4\]": replace(results[0], model="o", epsilons=np.array([0.3, 0.4])),
        r"images (\d+) \(\w{8}\) and \1 \(of other\)": replace(results[0], model="o", sha256="of others"),
        r"attacks \[fgsm, pgd\] and \[bim\]": replace(
            results[0], model="o", correct={"bim": results[0].correct["pgd"]}, attacks={"bim": {"steps": 3}}
        ),
    }
    for show in (robustness_curves, robustness_table):
        for what, result in other.items():
            for groups in ({"a": [results[0]], "b": [result]}, {"a": [results[0], result]}):
                with pytest.raises(ValueError, match=f"^tiny-3 and o cannot be shown together, .*: {what}\\. A"):
                    show(groups)
        for groups in ({}, {"a": []}, {"a": results, "b": []}, {"a": results[0]}, results, None):
            with pytest.raises(ValueError, match=r"^There must be one or more groups, [^\n]*empty. Received: [^\n]*$"):
                show(groups)
        with pytest.raises(ValueError, match=r"^Results must be a Robustness each, .* Received: 'results'$"):
            show({"a": ["results"]})


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_images_that_have_no_colours_are_drawn_in_grey(tmp_path, channels):
    images = np.random.default_rng(0).random((1, 1, 4, 4, channels), np.float32)
    figure = adversarial_grid({"a": images}, {"a": np.zeros((1, 1), int)}, [0], [0.1], ["c"])
    save_figure(figure, tmp_path / "figure.png")
    np.testing.assert_allclose(figure.subfigs[0].axes[0].images[0].get_array(), images[0, 0].mean(-1))


def test_figures_are_alike_whatever_a_matplotlibrc_says(tmp_path, results, trained):
    _, images, labels = trained

    def drawn():
        figures = [
            robustness_curves({"tiny": results[:1]}),
            adversarial_grid({"tiny": images[None, :1]}, {"tiny": labels[None, :1]}, labels[:1], [0.1], "abc"),
            saliency_grid(images[:1], {"tiny": images[:1]}, labels[:1], "abc"),
        ]
        for number, figure in enumerate(figures):
            save_figure(figure, tmp_path / f"{number}.png")
        return [(tmp_path / f"{number}.png").read_bytes() for number in range(3)]

    expected = drawn()
    with matplotlib.rc_context({"text.usetex": True, "figure.facecolor": "black", "savefig.dpi": 10}):
        assert drawn() == expected
