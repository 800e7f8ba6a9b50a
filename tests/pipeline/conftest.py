"""One finished run that the tests look at, and the files that it was made of."""

from __future__ import annotations

import importlib.util

import pytest

NEEDED = ("transformers", "sklearn", "seqeval", "lmdb", "jinja2", "matplotlib")
collect_ignore_glob = [] if all(map(importlib.util.find_spec, NEEDED)) else ["test_*.py"]


@pytest.fixture(scope="session")
def material(tmp_path_factory):
    """A folder with a base model, films to train on and films to validate with; tests do not write to it."""
    from tests.pipeline.small import base_model, films

    folder = tmp_path_factory.mktemp("material")
    base_model(folder / "base")
    films(folder / "train.csv", 240)
    films(folder / "validation.csv", 48, seed=1)
    films(folder / "more.csv", 64, seed=2, labels=False)
    return folder


@pytest.fixture(scope="session")
def finished(material, tmp_path_factory):
    """The result of a whole run: base model, cache, baseline, unlabelled text; tests do not write to its folder."""
    from tests.pipeline.small import recipe_of
    from textbrewer import distill

    folder = tmp_path_factory.mktemp("runs") / "films"
    recipe = recipe_of(material, output_dir=str(folder), cache=True, baseline=True)
    recipe["data"] = {**recipe["data"], "unlabelled": str(material / "more.csv")}
    return distill(recipe)
