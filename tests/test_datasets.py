import gzip
import io
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import salrob_tf as sr
from salrob_tf.data.arrays import check_images, check_labels, choose_indices


def write_npz(path, **changes):
    arrays = {
        "x_train": np.arange(6 * 64, dtype=np.uint8).reshape(6, 8, 8),
        "y_train": np.array([0, 1, 2, 0, 1, 2], np.uint8),
        "x_test": np.full((2, 8, 8), 255, np.uint8),
        "y_test": np.array([[1], [2]]),
    } | changes
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


def test_mnist5k_holds_out_a_stratified_fifth():
    data, again = sr.load_data("mnist5k"), sr.load_data("mnist5k")
    assert data.name == "MNIST-5k"
    assert data.x_train.shape == (4000, 28, 28, 1) and data.x_test.shape == (1000, 28, 28, 1)
    assert np.bincount(data.y_train).tolist() == [400] * 10 and np.bincount(data.y_test).tolist() == [100] * 10
    assert data.x_train.min() == 0 and data.x_train.max() == 1
    assert data.sha256 == again.sha256
    seen = {image.tobytes() for image in data.x_train}
    assert not any(image.tobytes() in seen for image in data.x_test)


def test_npz_becomes_unit_range_floats_with_channels(tmp_path):
    data = sr.load_data(write_npz(tmp_path / "mine.npz"))
    assert (data.name, data.num_classes, data.input_shape) == ("mine", 3, (8, 8, 1))
    np.testing.assert_array_equal(data.x_train[0, :, :, 0], np.arange(64, dtype=np.float32).reshape(8, 8) / 255)
    assert data.y_test.tolist() == [1, 2] and data.y_test.dtype == np.int32
    assert data.sha256 != sr.load_data(write_npz(tmp_path / "other.npz", y_test=np.array([1, 1]))).sha256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_test": None}, "Missing: x_test"),
        ({"x_train": np.full((6, 8, 8), np.nan, np.float32)}, "NaN in 100.0% of the images"),
        ({"x_train": np.full((6, 8, 8), 255.0)}, r"values in \[255, 255\]"),
        ({"x_train": np.full((6, 8, 8), 256)}, "divide 8-bit images by 255"),
        ({"x_test": np.zeros((0, 8, 8), np.uint8), "y_test": np.zeros(0, int)}, "at least one image"),
        ({"x_test": np.zeros((2, 9, 8), np.uint8)}, "must have one shape"),
        ({"y_train": np.eye(3, dtype=int)[[0, 1, 2, 0, 1, 2]]}, "not one-hot"),
        ({"y_train": np.array([0, 1])}, "6 in all"),
        ({"y_train": np.array([0, 1, -1, 0, 1, 2])}, "labels from -1 to 2"),
        ({"y_train": np.zeros(6)}, "must be integers"),
        ({"y_train": np.array([{}] * 6)}, "not an .npz file of plain arrays"),
        ({"x_test": np.zeros((2, 8, 8), np.float32)}, "both floats in .* Received: dtypes uint8 and float32"),
        ({"x_train": np.zeros((6, 8, 8))}, "both floats in .* Received: dtypes float64 and uint8"),
    ],
)
def test_npz_errors_say_what_is_wrong(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        sr.load_data(write_npz(tmp_path / "bad.npz", **changes))


@pytest.mark.parametrize("source", [None, 3, b"mnist5k", ["mnist5k"], {}, np.zeros(3), "x" * 5000, "a\0b", ""])
def test_what_is_no_source_is_one_line(source):
    with pytest.raises(ValueError, match=r"^[^\n]{1,200}$") as raised:
        sr.load_data(source)
    assert "ource" in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": None}, "`name` must be a string. Received: name=None"),
        ({"class_names": "ab"}, "`class_names` must be a list of strings. Received: class_names='ab'"),
        ({"class_names": [0, 1]}, "list of strings"),
        ({"class_names": ["cat"]}, "two classes or more. Received: 1"),
        ({"x_train": None}, r"Received: shape=\(\)"),
        ({"x_train": [[1], [1, 2]]}, r"`x_train` must be an array, all its parts of one shape. Received: x_train=\[\["),
        ({"x_test": [[1], [1, 2]]}, "`x_test` must be an array, all its parts of one shape"),
        ({"y_test": [[1], [1, 2]]}, "`y_test` must be an array, all its parts of one shape"),
        ({"x_train": np.ones((2, 8, 8), bool)}, "turn other numbers and booleans into floats. Received: dtype=bool"),
        ({"x_train": np.full((2, 8, 8), 1 + 1e-7)}, "clip what rounding .* of it. Received: a value of 1.0000001"),
        ({"x_train": np.full((2, 8, 8), -1e-9)}, "clip what rounding carried out of it. Received: a value of -1e-09"),
        ({"y_train": None}, "one label per image"),
        ({"y_train": ["a", "b"]}, "must be integers. Received: dtype=<U1"),
    ],
)
def test_names_and_arrays_that_are_none_are_one_line(changes, message):
    images = np.full((2, 8, 8), 0.5)
    arrays = {"x_train": images, "y_train": [0, 1], "x_test": images, "y_test": [0, 1]}
    with pytest.raises(ValueError, match=message):
        sr.Dataset.from_arrays(**arrays | changes)


def test_unknown_missing_and_broken_sources(tmp_path):
    with pytest.raises(ValueError, match=r"Valid: mnist5k, mnist, fashion_mnist, .* Received: source=mnits"):
        sr.load_data("mnits")
    with pytest.raises(ValueError, match="No such data file"):
        sr.load_data(tmp_path / "none.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(ValueError, match="not an .npz file"):
        sr.load_data(tmp_path / "broken.npz")


@pytest.mark.parametrize(
    ("source", "files"),
    [
        ("mnist", "mnist.npz"),
        ("fashion_mnist", r"fashion-mnist/\*-ubyte.gz"),
        ("cifar10", "cifar-10-python.tar.gz, renamed to cifar-10-batches-py-target_archive,"),
        ("cifar100", "cifar-100-python.tar.gz, renamed to cifar-100-python-target_archive,"),
    ],
)
def test_keras_sources_without_a_network_say_where_to_put_the_file(monkeypatch, source, files):
    def offline():
        raise Exception("URL fetch failure on https://example.com: None -- unreachable")

    monkeypatch.setattr(f"keras.datasets.{source}.load_data", offline)
    with pytest.raises(ValueError, match=rf"put {files} into .*datasets, or use mnist5k"):
        sr.load_data(source)


@pytest.fixture
def keras_home(tmp_path, monkeypatch):
    """As KERAS_HOME sets it where Keras is imported later than here."""
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))
    return tmp_path


def test_progress_of_a_download_is_seen_and_standard_output_is_kept_clean(keras_home, monkeypatch, capsys):
    def retrieve(url, target, progress):
        for block in range(3):
            progress(block, 512, 1024)
        white = np.full((2, 4, 4), 255, np.uint8)
        with open(target, "wb") as file:
            np.savez(file, x_train=white, y_train=[0, 9], x_test=white, y_test=[1, 2])

    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", retrieve)
    monkeypatch.setattr("keras.src.utils.file_utils.validate_file", lambda *given, **more: True)
    assert sr.load_data("mnist").y_train.tolist() == [0, 9]
    said = capsys.readouterr()
    assert not said.out
    assert said.err.startswith("Downloading data from https://") and "1024/1024" in said.err


def test_cifar_is_read_by_keras_from_the_archives_that_the_error_names(keras_home, monkeypatch):
    def write_archive(name, inner, files):
        (keras_home / "datasets").mkdir(exist_ok=True)
        with tarfile.open(keras_home / "datasets" / name, "w:gz") as archive:
            for file, content in files.items():
                member = tarfile.TarInfo(f"{inner}/{file}")
                pickled = pickle.dumps({key.encode(): value for key, value in content.items()}, protocol=4)
                member.size = len(pickled)
                archive.addfile(member, io.BytesIO(pickled))

    red = np.repeat(np.array([255, 0, 0], np.uint8), 1024)[None]  # Keras spreads one image over a batch of 10,000
    batches = {f"data_batch_{n}": {"data": red, "labels": [n]} for n in range(1, 6)}
    batches["test_batch"] = {"data": red.repeat(2, 0), "labels": [9, 0]}
    write_archive("cifar-10-batches-py-target_archive", "cifar-10-batches-py", batches)
    fine = {"data": red.repeat(3, 0), "fine_labels": [0, 98, 99], "coarse_labels": [1, 2, 3]}
    write_archive("cifar-100-python-target_archive", "cifar-100-python", {"train": fine, "test": fine})
    monkeypatch.setattr("keras.src.utils.file_utils.validate_file", lambda *_, **__: True)  # not the published ones
    for source, name, samples, classes, tested in (
        ("cifar10", "CIFAR-10", 50_000, 10, ["truck", "airplane"]),
        ("cifar100", "CIFAR-100", 3, 100, ["apple", "woman", "worm"]),
    ):
        data = sr.load_data(source)
        assert (data.name, data.num_classes, data.y_train.shape) == (name, classes, (samples,))
        assert data.x_train.shape == (samples, 32, 32, 3) and data.x_train[-1, 5, 6].tolist() == [1, 0, 0]
        assert [data.class_names[label] for label in data.y_test] == tested


def test_a_dataset_of_own_arrays(tmp_path):
    images, labels = np.arange(2 * 64, dtype=np.uint8).reshape(2, 8, 8) * 2, np.array([[0], [1]])
    data = sr.Dataset.from_arrays(images, labels, images[:1], labels[:1], name="mine", class_names=["cat", "dog"])
    assert (data.name, data.class_names, data.input_shape) == ("mine", ("cat", "dog"), (8, 8, 1))
    np.testing.assert_array_equal(data.x_train[..., 0], images / np.float32(255))
    same = sr.Dataset.from_arrays(images / np.float32(255), [0, 1], images[:1] / np.float32(255), [0])
    assert same.sha256 == data.sha256 and same.class_names == ("0", "1")
    with pytest.raises(ValueError, match="`y_test` must be 0 to 1. Received: labels from 2 to 2"):
        sr.Dataset.from_arrays(images, labels, images[:1], [2], class_names=["cat", "dog"])


def test_an_npz_that_does_not_fit_into_memory_is_refused_by_its_headers(tmp_path):
    path = write_npz(tmp_path / "huge.npz", x_train=None)
    header = io.BytesIO()
    shape = (10**7, 1000, 1000, 3)
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x_train.npy", header.getvalue())
    with pytest.raises(ValueError, match=r"takes 139698.* GiB of memory, and there are .* use a folder of images"):
        sr.load_data(path)


def test_fashion_mnist_is_read_by_keras_from_its_cache(keras_home):
    folder = keras_home / "datasets" / "fashion-mnist"
    folder.mkdir(parents=True)
    for prefix, count in (("train", 20), ("t10k", 10)):
        labels, images = np.arange(count, dtype=np.uint8) % 10, np.full((count, 28, 28), 255, np.uint8)
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(8) + labels.tobytes()))
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16) + images.tobytes()))
    data = sr.load_data("fashion_mnist")
    assert (data.name, data.x_train.shape, data.class_names[9]) == ("Fashion-MNIST", (20, 28, 28, 1), "ankle boot")


def test_labels_and_images_are_checked_alike_from_code():
    assert check_labels([[1], [0]], 2, 2).tolist() == [1, 0]
    with pytest.raises(ValueError, match="labels from 0 to 2"):
        check_labels([0, 2], 2, num_classes=2)
    with pytest.raises(ValueError, match="dtype=uint8"):
        check_images(np.zeros((2, 8, 8, 1), np.uint8))
    with pytest.raises(ValueError, match=r"values in \[-0.5, 0\]"):
        check_images(np.array([[[0.0, -0.5]]]))


@given(available=st.integers(1, 50), seed=st.integers(0, 9), data=st.data())
def test_chosen_indices_are_distinct_sorted_and_nested(available, seed, data):
    samples = data.draw(st.integers(1, available))
    chosen = choose_indices(available, samples, seed)
    assert len(set(chosen.tolist())) == samples and np.all(np.diff(chosen) > 0) and set(chosen) <= set(range(available))
    assert set(choose_indices(available, max(1, samples - 1), seed)) <= set(chosen)


def test_train_samples(tmp_path):
    data = sr.load_data(write_npz(tmp_path / "mine.npz"))
    fewer = data.with_train_samples(4)
    assert len(fewer.x_train) == len(fewer.y_train) == 4 and len(fewer.x_test) == 2
    for samples, message in {0: "must be 1 to 6. Received: 0", "4": "Received: '4'", 2.0: "Received: 2.0"}.items():
        with pytest.raises(ValueError, match=message):
            data.with_train_samples(samples)
    for seed in ("0", 0.5, -1, None, 2**63):
        with pytest.raises(ValueError, match=f"`seed` must be a whole number, 0 or more.*. Received: seed={seed!r}"):
            data.with_train_samples(4, seed)
    for fraction in ("0.5", None, float("nan"), 0, 1, 1.5, 0.01, True):
        with pytest.raises(ValueError, match="Received: "):
            data.with_validation(fraction)
    assert len(data.with_validation(np.float32(0.5), np.int64(1))[2]) == 3


def test_mnist5k_is_the_same_split_for_ever():
    data = sr.load_data("mnist5k")
    assert data.y_test[:3].tolist() == [0, 0, 0] and data.y_test[-1] == 9
    assert data.sha256 == "de237111df39753c62d00cc40d36b1698c2d3e33836cb2c2f1aa9f11676ae5a7"


BITS = np.eye(8, dtype=np.uint8)[None].repeat(6, 0)


def test_a_few_dark_images_are_8_bit_ones_too(tmp_path):
    data = sr.load_data(write_npz(tmp_path / "mine.npz", x_test=15 * BITS[:2]))
    assert data.x_test.max() == np.float32(15) / np.float32(255)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": np.array([1, 2, 3, 1, 2, 3]), "y_test": np.array([1, 2])}, "without a gap. Missing: class 0"),
        ({"y_train": np.array([0, 1, 2**30, 0, 1, 2])}, "class 3"),
        ({"y_train": np.array([0, 1, 2**40, 0, 1, 2])}, "0 to 2147483647. Received: labels from 0 to 1099511627776"),
        ({"x_train": BITS, "x_test": BITS[:2]}, "pass floats. Received: largest=1"),
        ({"x_train": 15 * BITS, "x_test": 7 * BITS[:2]}, r"not reach half of it: divide .*\(15 if .* largest=15"),
        ({"x_train": 127 * BITS, "x_test": BITS[:2]}, "largest=127"),
        ({"y_train": np.zeros(6, int), "y_test": np.zeros(2, int)}, "two classes or more. Received: 1"),
    ],
)
def test_npz_that_would_be_misread_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        sr.load_data(write_npz(tmp_path / "bad.npz", **changes))


def test_files_that_only_look_like_npz(tmp_path):
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    with pytest.raises(ValueError, match="not an .npz file"):
        sr.load_data(tmp_path / "array.npz")
