"""The examples in docstrings of public names, which are short and run as they stand."""

import doctest

import keras
import numpy as np
import pytest
from conftest import make_network

import salrob_tf as sr

WITHOUT = {"ATTACKS", "CONTROLS", "RECIPES"}  # dictionaries, which have no docstring


def examples_of(name):
    found = doctest.DocTestFinder(recurse=True).find(getattr(sr, name), name, globs={})
    return [test for test in found if test.examples]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", sorted(set(sr.__all__) - WITHOUT))
def test_the_docstring_of_a_public_name_has_an_example_that_runs(name, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, images, labels = trained
    network = make_network()  # a copy, because an example may train it
    network.set_weights(model.get_weights())
    known = {"sr": sr, "keras": keras, "np": np, "network": network, "images": images, "labels": labels}
    tests, said = examples_of(name), []
    assert tests
    for test in tests:
        test.globs = dict(known)
        doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=said.append)
    assert not said, "".join(said)
