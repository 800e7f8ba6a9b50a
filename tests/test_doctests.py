"""The examples in docstrings give what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
import torch
from torch import nn

import textbrewer

MODULES = [
    module.name
    for module in pkgutil.walk_packages(textbrewer.__path__, "textbrewer.")
    if "_peak_memory" not in module.name
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module(name, tmp_path):
    module = importlib.import_module(name)
    names = {**vars(module), "torch": torch, "nn": nn, "folder": tmp_path, "textbrewer": textbrewer}
    found = doctest.DocTestFinder().find(module, globs=names)
    runner = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL | doctest.NORMALIZE_WHITESPACE)
    for test in found:
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    with_examples = [n for n in MODULES if any(t.examples for t in finder.find(importlib.import_module(n)))]
    assert len(with_examples) > 8
