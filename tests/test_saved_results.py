"""`load_results` of folders that are damaged, edited, or of another version: one-line errors and nothing else."""

import copy
import json
import warnings
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import salrob_tf as sr
from salrob_tf.results.costs import Costs

pytestmark = pytest.mark.usefixtures("unprobed")

COSTS = [each.name for each in fields(Costs)]
EPSILONS = np.array([0.0, 0.1, 0.3])


def make_results():
    rng = np.random.default_rng(0)
    description = {"summary": "a network", "deterministic": True}
    attacks = {label: {"norm": "inf", "steps": 4, "search": "bisect"} for label in ("fgsm", "pgd")}
    results = []
    for name in ("regular", "guided"):
        correct = {label: rng.random((3, 20)) < 0.5 for label in attacks}
        costs = {label: Costs(0.5, 3, 3, 3, 3, 0.5) for label in attacks}
        clean = rng.random(20) < 0.9
        results.append(
            sr.Robustness(
                name, EPSILONS, np.arange(20), clean, correct, attacks, costs, 1, "abc", "a/path", dict(description)
            )
        )
    return results


@pytest.fixture
def folder(tmp_path):
    results = make_results()
    sr.save_results(tmp_path, results, comparisons=[sr.compare(*results)], run={"files": []})
    return tmp_path


def use(results):
    """What reports ask of results."""
    for result in results:
        str(result)
        for label in result.correct:
            result.accuracy(label), result.interval(label), result.attacks[label]["steps"]
    sr.compare(*results)


def test_whole_results_come_back(folder):
    found = sr.load_results(folder)
    use(found)
    for one, other in zip(found, make_results(), strict=True):
        np.testing.assert_array_equal(one.correct["pgd"], other.correct["pgd"])


def spots(part, path=()):
    """Where something is in a record, down to the last number of each list."""
    yield from [path] if path else []
    if isinstance(part, dict) and path not in (("environment",), ("comparison",)):
        for key, value in part.items():
            yield from spots(value, (*path, key))
    elif isinstance(part, list):
        yield from spots(part[-1], (*path, len(part) - 1)) if part else ()


def changed(record, path, value):
    """A copy without what is there, or with something else in its place."""
    record = copy.deepcopy(record)
    *above, last = path
    part = record
    for key in above:
        part = part[key]
    if value is DROPPED:
        del part[last]
    else:
        part[last] = value
    return record


DROPPED = object()
VALUES = [DROPPED, None, True, -1, 10**400, 0.5, float("nan"), float("inf"), "text", [], {}, [[1]], {"a": 1}]


def test_whatever_is_dropped_or_replaced_in_results_json_is_a_value_error_or_does_not_matter(folder):
    path = folder / "results.json"
    record, saved = json.loads(path.read_text()), make_results()
    refused = set()
    for spot in spots(record):
        for value in VALUES:
            path.write_text(json.dumps(changed(record, spot, value)))
            try:
                found = sr.load_results(folder)
            except ValueError as error:
                assert str(folder) in str(error) and "evaluate again" in str(error) and "\n" not in str(error)
                refused.add(spot[0] if len(spot) == 1 else spot[-1])
            else:
                use(found)
                for one, other in zip(found, saved, strict=True):
                    assert one.model == other.model and one.clean_accuracy == other.clean_accuracy
                    for label, correct in other.correct.items():
                        np.testing.assert_array_equal(one.correct[label], correct)
                        np.testing.assert_array_equal(one.epsilons, other.epsilons)
    needed = {"schema", "seed", "data", "models", "curves", "samples", "sha256", "name", "clean_accuracy", "model"}
    assert refused >= needed | {"attack", "epsilons", "accuracy", "interval", "summary", "deterministic", *COSTS}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_cut_and_flipped_files_are_value_errors_or_do_not_matter(folder, data):
    name = data.draw(st.sampled_from(["results.json", "correct.npz"]))
    whole = (folder / name).read_bytes()
    where = data.draw(st.integers(0, len(whole) - 1))
    noise = data.draw(st.binary(max_size=8))
    try:
        (folder / name).write_bytes(whole[:where] + noise + data.draw(st.sampled_from([b"", whole[where:]])))
        use(sr.load_results(folder))
    except ValueError as error:
        assert str(folder) in str(error)
    finally:
        (folder / name).write_bytes(whole)


def arrays_of(folder):
    with np.load(folder / "correct.npz") as file:
        return {key: file[key] for key in file.files}


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("guided/pgd", None, "correct.npz: guided/pgd is missing"),
        ("indices", None, "indices is missing"),
        ("guided/pgd", lambda a: a[:, :-1], r"guided/pgd must be boolean \(3, 20\), and is bool \(3, 19\)"),
        ("guided/pgd", lambda a: a[:2], r"and is bool \(2, 20\)"),
        ("guided/pgd", lambda a: a.astype(float), r"guided/pgd must be boolean \(3, 20\), and is float64"),
        ("guided/pgd", lambda a: ~a, "accuracy or interval of guided under pgd is not that of correct.npz"),
        ("regular/clean", lambda a: ~a, "clean_accuracy of regular is not that of correct.npz"),
        ("regular/clean", lambda a: a[None], r"regular/clean must be boolean \(20,\)"),
        ("indices", lambda a: a.astype(float), r"indices must be integer \(20,\)"),
        ("indices", lambda a: np.array([None] * 20), "Object arrays cannot be loaded"),
    ],
)
def test_matrices_that_are_not_those_of_results_json_are_named(folder, key, change, message):
    arrays = arrays_of(folder)
    if change:
        arrays[key] = change(arrays[key])
    else:
        del arrays[key]
    np.savez(folder / "correct.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        sr.load_results(folder)


def edit(folder, change):
    record = json.loads((folder / "results.json").read_text())
    change(record)
    (folder / "results.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(schema=99), "schema is 99, and this version of salrob_tf knows 1 and 2"),
        (lambda r: r["curves"][0]["epsilons"].__setitem__(1, 0.2), "not of the same epsilons"),
        (lambda r: [c["epsilons"].pop() for c in r["curves"]], r"must be boolean \(2, 20\)"),
        (lambda r: r["curves"].pop(), "not one curve for each model and attack"),
        (lambda r: r["curves"].append(r["curves"][0]), "not one curve for each model and attack"),
        (lambda r: r["models"].append(r["models"][0]), "not one curve for each model and attack"),
        (lambda r: r["models"].clear(), "no model, or no image"),
        (lambda r: r["curves"][3]["settings"].update(steps=5), "steps of pgd 4 and 5"),
        (lambda r: r["data"].update(samples=19), r"must be integer \(19,\)"),
        (lambda r: r["models"][1]["description"].pop("summary"), r"models\[1\].description.summary is missing"),
        (lambda r: r["curves"][1]["costs"].pop("seconds"), r"curves\[1\].costs.seconds is missing"),
    ],
)
def test_results_json_that_contradicts_itself_is_named(folder, change, message):
    edit(folder, change)
    with pytest.raises(ValueError, match=message):
        sr.load_results(folder)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"schema": 1}'])
def test_a_results_json_that_is_none_is_named(folder, content):
    (folder / "results.json").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="evaluate again, or put back what was there. Received: "):
            sr.load_results(folder)


def as_before(folder, asked="bisect"):
    """Make of results what the first version wrote: flat, with less, and with the search that was asked for."""

    def change(record):
        record["schema"] = 1
        for model in record["models"]:
            del model["flags"]
            model.update(model.pop("description"))
        for curve in record["curves"]:
            curve.update(curve.pop("settings") | curve.pop("costs"))
            curve.pop("begins_at", None), curve.pop("padding")
            curve["search"] = asked

    edit(folder, change)
    return sr.load_results(folder)


def test_results_of_the_version_before_compare_with_new_ones_and_only_with_alike_ones(trained, tmp_path):
    model, images, labels = trained
    images, labels = images[:12], labels[:12]
    attacks = [sr.FGSM(), sr.BIM(steps=2), sr.CWL2(steps=2, constants=1)]
    new = sr.evaluate(model, images, labels, attacks, [0.1, 0.2], name="new")
    sr.save_results(tmp_path, [new])
    (old,) = as_before(tmp_path)
    assert asdict(old.costs["bim"]) == asdict(new.costs["bim"]) | {"padding": 0}
    assert old.description == new.description and old.attacks["bim"]["steps"] == 2
    for pair in ((old, new), (new, old)):
        assert sr.compare(*pair).differences == sr.compare(new, new).differences
    for changes in ({"search": "full"}, {"survivors_only": False}):
        other = sr.evaluate(model, images, labels, attacks, [0.1, 0.2], **changes)
        with pytest.raises(ValueError, match="search of bim 'bisect' and '(full|independent)'"):
            sr.compare(old, other)
    turned = sr.evaluate(model, images, labels, [attacks[0], attacks[2], attacks[1]], [0.1, 0.2])
    assert sr.compare(old, turned).differences, "where the older bisection began is not known"
    with pytest.raises(ValueError, match="begins_at of bim"):
        sr.compare(new, turned)


@pytest.mark.parametrize(
    ("known", "flags"),
    [
        ({"num_classes": 10, "bounds": [0.0, 1.0]}, ["chance"]),
        ({}, []),
        ({"num_classes": 10, "bounds": None}, []),
        ({"num_classes": 10, "bounds": [0, None]}, []),
        ({"num_classes": 10**400, "bounds": [0, 1]}, []),
    ],
)
def test_results_without_flags_are_doubtful_where_their_clean_accuracy_is_at_chance(tmp_path, known, flags):
    results = make_results()
    results[0].clean[:] = np.arange(20) == 0
    for result in results:
        result.description.update(known)
    sr.save_results(tmp_path, results)
    assert not any(result.flags for result in sr.load_results(tmp_path)), "what was looked at is not looked at again"
    first, second = as_before(tmp_path)
    assert [flag.id for flag in first.flags] == flags and not second.flags
    if flags:
        assert "5.0% of 20, is not significantly above chance" in (verdict := sr.compare(first, second).verdict)
        assert "no verdict" in verdict


RESULT = make_results()[0]
ENDLESS = {}
ENDLESS["again"] = ENDLESS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"results": []}, r"`results` must be a list of one or more results. Received: results=\[\]"),
        ({"results": RESULT}, "`results` must be a list of one or more results. Received: results=Robustness"),
        ({"results": iter([RESULT])}, "`results` must be a list of one or more results"),
        ({"results": [None]}, "Results must be a Robustness each, as evaluate returns it. Received: None"),
        ({"results": [RESULT, "guided"]}, "Results must be a Robustness each, .* Received: 'guided'"),
        ({"results": [RESULT, RESULT]}, "Models need different names"),
        ({"results": [replace(RESULT, costs={})]}, r"`costs` must be there for each attack. Received: costs of \[\]"),
        ({"arguments": {("a", 1): 2}}, r"must be what JSON holds \(keys must be .*\). Received: \{\('a', 1\): 2\}"),
        ({"arguments": ENDLESS}, r"must be what JSON holds \(Circular reference detected\)"),
        ({"comparisons": sr.compare(*make_results())}, "`comparisons` must be a list of what compare returns"),
        (
            {"comparisons": ["x"]},
            r"`comparisons` must be a list of what compare returns, or compare_methods. Received: comparisons=\['x'\]",
        ),
        ({"arguments": [1]}, r"`arguments` must be a dictionary or None. Received: arguments=\[1\]"),
        ({"run": "train.py"}, "`run` must be a dictionary or None. Received: run='train.py'"),
        ({"data_name": None}, "`data_name` must be text. Received: data_name=None"),
        ({"folder": None}, "`folder` must be the path of a folder. Received: folder=None"),
        ({"folder": __file__}, "`folder` must be a folder, and this is none. Received: "),
    ],
)
def test_what_cannot_be_saved_is_one_line_and_leaves_the_old_results(folder, changes, message):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match=rf"^[^\n]*{message}[^\n]*$"):
        sr.save_results(**{"folder": folder, "results": [RESULT]} | changes)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_in_the_place_of_results_json_is_said_before_anything_is_written(tmp_path):
    (tmp_path / "results.json").mkdir()
    with pytest.raises(ValueError, match=r"^This is a folder where a file belongs: .*/results.json$"):
        sr.save_results(tmp_path, [RESULT])
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize("path", [None, 5, ["results"]])
def test_what_is_no_path_holds_no_results(path):
    with pytest.raises(ValueError, match=r"^`folder` must be the path of a folder. Received: folder=[^\n]*$"):
        sr.load_results(path)
