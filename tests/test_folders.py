"""Folders of images: the same as arrays, never all in memory, and one line for whatever does not belong."""

import json
import signal
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from conftest import make_bytes, make_network, write_tree
from PIL import Image
from test_scripts import small_networks  # noqa: F401

import salrob_tf as sr
from salrob_tf.data.folders import ImageFiles, select
from salrob_tf.studies.paper import predict_all
from salrob_tf.studies.runs import Run, train

pytestmark = pytest.mark.usefixtures("unprobed")

RUN = Run(saliency=True, epochs=2, batch_size=32, optimizer="adam", learning_rate=0.01)


@pytest.fixture(scope="module")
def splits():
    return {"train": make_bytes(300), "test": make_bytes(40, seed=1)}


@pytest.fixture(scope="module")
def tree(splits, tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("data") / "rows", **splits)


@pytest.fixture
def small(tmp_path):
    """A valid folder of six colour images, 8 x 8, to spoil."""
    images, _ = make_bytes(6, shape=(8, 8, 3), classes=2, seed=2)
    return write_tree(tmp_path / "small", train=(images, np.arange(6) % 2), test=(images, np.arange(6) % 2))


def arrays_of(splits):
    return (*splits["train"], *splits["test"])


@pytest.fixture
def decoded(monkeypatch):
    """How many images each access decodes."""
    counts, original = [], ImageFiles.__getitem__

    def counted(self, key):
        found = original(self, key)
        counts.append(len(found))
        return found

    monkeypatch.setattr(ImageFiles, "__getitem__", counted)
    return counts


def test_a_folder_an_npz_and_arrays_give_identical_results(splits, tree, tmp_path):
    arrays = arrays_of(splits)
    np.savez(tmp_path / "rows.npz", x_train=arrays[0], y_train=arrays[1], x_test=arrays[2], y_test=arrays[3])
    sources = {
        "folder": sr.load_data(tree),
        "npz": sr.load_data(tmp_path / "rows.npz"),
        "arrays": sr.Dataset.from_arrays(*arrays),
    }
    assert len({data.sha256 for data in sources.values()}) == 1
    records, correct, models = [], [], []
    for name, data in sources.items():
        data = data.with_train_samples(200, seed=3)
        records.append(train(tmp_path / name, data, RUN))
        models.append(sr.Classifier(tmp_path / name))
        found = sr.evaluate(models[0], data.x_test, data.y_test, ["fgsm", "pgd"], [0.05, 0.1, 0.3], steps=3)
        correct.append((found.sha256, found.clean, *found.correct.values()))
    weights = [model.fingerprint for model in models]
    histories = [(tmp_path / name / "history.csv").read_text() for name in sources]
    assert len(set(weights)) == len(set(histories)) == 1
    assert records[0]["data"]["sha256"] == records[1]["data"]["sha256"] and records[0]["test"] == records[2]["test"]
    for other in correct[1:]:
        for expected, outcome in zip(correct[0], other, strict=True):
            np.testing.assert_array_equal(outcome, expected)
    assert 0 < correct[0][3].mean() < 1


def test_files_are_indexed_like_the_array_of_them(splits, tree):
    data, (images, labels, *_) = sr.load_data(tree), arrays_of(splits)
    expected = images.astype(np.float32) / np.float32(255)
    assert data.class_names == ("class_0", "class_1", "class_2") and data.name == "rows"
    assert (data.x_train.shape, data.x_train.dtype, len(data.x_train)) == ((300, 8, 8, 1), np.float32, 300)
    np.testing.assert_array_equal(data.y_train, labels)
    mask = np.arange(300) % 7 == 0
    for key in (slice(3, 9), slice(None, None, 50), np.array([5, 2, 5]), mask, [1], -1, np.int64(4), slice(5, 5)):
        found = data.x_train[key]
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected[key])
    np.testing.assert_array_equal(np.asarray(data.x_train), expected)
    np.testing.assert_array_equal(select(data.x_train, mask)[:], select(expected, mask))
    with pytest.raises(IndexError):
        data.x_train[300]


def test_training_and_evaluation_never_hold_all_images(tree, tmp_path, decoded):
    data = sr.load_data(tree)
    assert decoded == []
    train(tmp_path / "run", data, RUN)
    model = sr.Classifier(tmp_path / "run")
    sr.evaluate(model, select(data.x_test, np.arange(0, 40, 2)), data.y_test[::2], ["fgsm"], [0.1], batch_size=2)
    assert max(decoded) == 256 and sum(decoded) == 340 + 2 * 300 + 40 + 20
    assert max(decoded[3:]) == 32, "after the 256 at a time of the identity there are batches only"
    assert decoded[-2:] == [16, 4], "a sweep reads eight batches at a time"


def test_a_whole_test_set_is_predicted_in_parts(tree, decoded):
    data, model = sr.load_data(tree), sr.Classifier(make_network())
    found = predict_all(model, data.x_test, part=16)
    assert decoded == [16, 16, 8]
    np.testing.assert_array_equal(found, model.predict(data.x_test[:]))


def test_batches_of_files_train_a_keras_model_by_its_own_fit(tree):
    data, model = sr.load_data(tree), sr.SaliencyGuided(make_network(), seed=0)
    model.compile("adam", metrics=["accuracy"])
    stream = sr.batches(data.x_train, data.y_train, 50, seed=0, epochs=2)
    assert len(model.fit(stream, epochs=2, steps_per_epoch=6, verbose=0).history["loss"]) == 2
    assert len(list(sr.batches(data.x_test, data.y_test, 32))) == 2
    model.fit(data.x_train, data.y_train, epochs=1, verbose=0)  # all at once, for those that fit into memory


@pytest.mark.parametrize("size", [5, (4, 10), [20]])
def test_resizing_is_bilinear_with_antialias(tmp_path, size):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (9 + n, 12, 3), dtype=np.uint8) for n in range(4)]
    write_tree(tmp_path, train=(images, [0, 0, 1, 1]), test=(images, [0, 0, 1, 1]))
    with pytest.raises(ValueError, match=r"of one size; pass image_size .*\(9, 12\) in file=.*0000.png, \(10, 12\) in"):
        sr.load_data(tmp_path)
    data = sr.load_data(tmp_path, size)
    height, width = np.broadcast_to(size, 2)
    assert data.input_shape == (height, width, 3)
    for found, image in zip(data.x_train[:], images, strict=True):
        expected = tf.image.resize(image / np.float32(255), (height, width), "bilinear", antialias=True)
        np.testing.assert_allclose(found, expected, atol=1.01 / 255)


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "tif", "webp", "jpg"])
def test_formats_that_are_read(small, suffix):
    image = np.random.default_rng(0).integers(0, 2, (8, 8, 3), dtype=np.uint8) * 255
    path = small / "train" / "class_0" / f"0000.{suffix}"
    (small / "train" / "class_0" / "0000.png").unlink()
    Image.fromarray(image).save(path, **({"lossless": True} if suffix == "webp" else {}))
    expected = Image.open(path).convert("RGB") if suffix == "jpg" else image
    np.testing.assert_array_equal(sr.load_data(small).x_train[0], np.float32(expected) / np.float32(255))


def test_palettes_and_bilevel_images_keep_their_values(small, tmp_path):
    image = np.random.default_rng(0).integers(0, 4, (8, 8, 3), dtype=np.uint8) * 80
    Image.fromarray(image).quantize(64, dither=Image.Dither.NONE).save(small / "train" / "class_0" / "0000.png")
    np.testing.assert_array_equal(sr.load_data(small).x_train[0], image / np.float32(255))
    grey = write_tree(tmp_path / "grey", **dict.fromkeys(("train", "test"), make_bytes(20)))
    first = grey / "train" / "class_0" / "0000.png"
    Image.fromarray(image[..., 0] > 100).save(first)
    np.testing.assert_array_equal(sr.load_data(grey).x_train[0][..., 0], image[..., 0] > 100)


def test_clutter_of_file_browsers_is_ignored(small):
    before = sr.load_data(small).sha256
    for name in (".DS_Store", "train/.DS_Store", "train/class_0/Thumbs.db", "test/class_1/._0001.png", "README.md"):
        (small / name).write_text("clutter")
    (small / "train" / ".cache").mkdir()
    assert sr.load_data(small).sha256 == before


def test_the_identity_is_of_what_files_hold(small):
    before = sr.load_data(small)
    assert before.sha256 == sr.load_data(small, 8).sha256 != sr.load_data(small, 7).sha256
    path = small / "test" / "class_1" / "0005.png"
    image = np.array(Image.open(path))
    image[0, 0, 0] ^= 1
    Image.fromarray(image).save(path)
    assert sr.load_data(small).sha256 != before.sha256


def png(path, width, height, depth, colour, pixel_bytes):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    rows = zlib.compress(bytes((1 + width * pixel_bytes) * min(height, 8)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def save(mode="RGB", **settings):
    image = Image.fromarray(np.zeros((8, 8, 3), np.uint8)).convert(mode)
    other = Image.fromarray(np.full((8, 8, 3), 9, np.uint8)).convert(mode)
    more = {"append_images": [other]} if "save_all" in settings else {}
    return lambda path: image.save(path, **settings, **more)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_text("not an image"), "is not an image in a format that is read, which are PNG, JPEG"),
        (lambda path: path.write_bytes(b""), "is not an image"),
        (save(format="EPS"), "is not an image in a format that is read"),
        (lambda path: (path.unlink(), path.mkdir()), "must hold image files and nothing else"),
        (lambda path: (path.unlink(), path.symlink_to("nowhere")), "must hold image files and nothing else"),
        (lambda path: png(path, 8, 8, 16, 2, 6), "more than 8 bits per channel"),
        (lambda path: png(path, 8, 8, 16, 0, 2), "more than 8 bits per channel"),
        (lambda path: png(path, 9000, 9000, 8, 2, 3), r"more than 67,108,864 pixels \(9000 x 9000\)"),
        (lambda path: png(path, 12000, 12000, 8, 2, 3), "more than 67,108,864 pixels"),
        (lambda path: png(path, 30000, 30000, 8, 2, 3), "more than 67,108,864 pixels"),
        (save("RGBA", format="PNG"), "has transparency"),
        (save("LA", format="PNG"), "has transparency"),
        (save(format="PNG", transparency=(0, 0, 0)), "has transparency"),
        (save("CMYK", format="JPEG"), "is CMYK"),
        (save("F", format="TIFF"), "more than 8 bits per channel"),
        (save("LAB", format="TIFF"), "is in the mode LAB"),
        (save(format="GIF", save_all=True), "holds 2 pictures"),
        (save(format="PNG", save_all=True), "holds 2 pictures"),
        (save(format="WEBP", save_all=True), "holds 2 pictures"),
        (save(format="TIFF", save_all=True), "holds 2 pictures"),
        (save("L", format="PNG"), r"all grey or all in colour; .* 3 in file=.*, 1 in"),
    ],
)
@pytest.mark.filterwarnings("error::Warning:PIL")
def test_files_that_do_not_belong_are_named(small, spoil, message):
    path = small / "test" / "class_1" / "0005.png"
    spoil(path)
    with pytest.raises(ValueError, match=message) as caught:
        sr.load_data(small)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "GIF", "TIFF"])
def test_a_truncated_file_is_named_before_the_first_step(small, tmp_path, form):
    path = small / "train" / "class_1" / "0001.png"
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, format=form)
    path.write_bytes(path.read_bytes()[:-40])
    data = sr.load_data(small)
    data.x_train[:3]
    with pytest.raises(ValueError, match=r"cannot be decoded \(.*\). Received: file=.*class_1/0001.png"):
        data.x_train[:]
    with pytest.raises(ValueError, match="cannot be decoded"):
        train(tmp_path / "run", data, RUN)
    assert not (tmp_path / "run").exists()


def test_a_file_that_breaks_during_training_ends_in_the_same_line(small, tmp_path):
    data, path = sr.load_data(small), small / "train" / "class_1" / "0001.png"
    assert data.sha256
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"^This file cannot be decoded \(.*\)\. Received: file=.*0001.png$"):
        train(tmp_path / "run", data, RUN)


def spoiled(folder, change):
    def remove(path):
        for file in path.iterdir():
            file.unlink()
        path.rmdir()

    {
        "no test": lambda: (folder / "test").rename(folder / "tset"),
        "one class": lambda: [remove(folder / split / "class_1") for split in ("train", "test")],
        "no class": lambda: [remove(folder / "train" / name) for name in ("class_0", "class_1")],
        "empty class": lambda: (folder / "train" / "zebra").mkdir(),
        "class missing": lambda: remove(folder / "test" / "class_1") or other_class(folder / "test"),
        "file among classes": lambda: (folder / "train" / "labels.csv").write_text("a,b"),
    }[change]()


def other_class(split):
    (split / "dogs").mkdir()
    (split / "dogs" / "0.png").write_bytes((split / "class_0" / "0000.png").read_bytes())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no test", r"holds train/<class>/ and test/<class>/. Missing: .*test"),
        ("one class", "must hold two classes or more. Received: class_0"),
        ("no class", "must hold two classes or more. Received: none"),
        ("empty class", "at least one image. Received: .*zebra, which holds none"),
        ("class missing", "the same classes. In one of them only: class_1, dogs"),
        ("file among classes", "one folder per class and nothing else. Received: file=.*labels.csv"),
    ],
)
def test_folders_of_another_layout_are_refused(small, change, message):
    spoiled(small, change)
    with pytest.raises(ValueError, match=message):
        sr.load_data(small)


@pytest.mark.parametrize("size", [0, -1, 9000, (8, 8, 8), 8.5, ()])
def test_sizes_that_are_none(small, size):
    with pytest.raises(ValueError, match="one number or height and width, each 1 to 8192. Received: image_size="):
        sr.load_data(small, size)


def test_image_size_is_for_folders(tmp_path):
    for source in ("mnist5k", tmp_path / "some.npz"):
        with pytest.raises(ValueError, match="for folders of images only. Received: image_size=8, source="):
            sr.load_data(source, 8)


def test_scripts_take_folders(tmp_path, capsys):
    from test_scripts import run, train

    shape = (12, 10, 3)
    tree = write_tree(
        tmp_path / "photos", train=make_bytes(40, shape=shape, classes=2), test=make_bytes(20, shape=shape, classes=2)
    )
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tree / "test" / "class_0" / "last.png")
    train(tree, tmp_path / "run", "--image-size", 8, 9, "--augment", "--train-samples", 32)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["arguments"]["augment"] and record["data"]["name"] == "photos"
    out, arguments = tmp_path / "out", ["--data", tree, "--steps", 2, "--samples", 8]
    assert run("evaluate.py", tmp_path / "run", *arguments, "--out", out, check=False) == 2
    assert "Images must be of one size; pass image_size (--image-size) to resize" in capsys.readouterr().err
    run("evaluate.py", tmp_path / "run", *arguments, "--image-size", 8, 9, "--out", out)
    (found,) = sr.load_results(out)
    np.testing.assert_allclose(found.epsilons * 255, [1, 2, 4, 6, 8, 16])
    capsys.readouterr()

    broken = tree / "train" / "class_0" / "0000.png"
    broken.write_bytes(broken.read_bytes()[:-60])
    for arguments, message in (
        (["train.py", "--data", tree, "--image-size", 8], f"Received: file={broken}"),
        (["reproduce.py", "--data", tree], "pass image_size (--image-size)"),
        (["reproduce.py", "--image-size", 8], "image_size=[8], source=mnist5k"),
    ):
        assert run(*arguments, "--out", tmp_path / "none", check=False) == 2
        printed = capsys.readouterr().err
        assert printed.count("\n") == 1 and message in printed


def test_interrupting_a_training_on_files_ends_it(forks, tmp_path):
    from test_scripts import interrupt

    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    for split, count in (("train", 64), ("test", 2)):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(noise).save(tmp_path / split / name / f"{number}.bmp")
    arguments = ["--data", tmp_path, "--image-size", 8, "--batch-size", 32, "--out", tmp_path / "run"]
    ended = interrupt(forks, arguments, (tmp_path / "run" / "model.keras").exists, signal.SIGINT, tmp_path)
    assert ended == (130, "", "\ntrain.py: interrupted; what was finished is kept\n")
