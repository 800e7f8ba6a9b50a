"""Each concept has one home: one training loop, one masked mean, one place that divides by a temperature."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import textbrewer

ROOT = Path(textbrewer.__file__).parent
SOURCES = {str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8")) for path in ROOT.rglob("*.py")}


def where(fits):
    """The functions in which some node fits, as ``file:function``."""
    found = set()
    for name, tree in SOURCES.items():
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef) and any(fits(node) for node in ast.walk(function)):
                found.add(f"{name}:{function.name}")
    return found


def is_call(node, name):
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == name


def says_temperature(node):
    return any(
        getattr(part, "id", getattr(part, "attr", "")) in ("temperature", "tau", "T", "temp") for part in ast.walk(node)
    )


def test_one_loop_trains():
    # The loop's, handed to PyTorch or to DeepSpeed.
    passes = {"engine/loop.py:_accumulate", "engine/updates.py:backward", "engine/zero.py:backward"}
    assert where(lambda node: is_call(node, "backward")) == passes
    steps = where(lambda node: is_call(node, "step") and "optimizer" in ast.dump(node))
    assert steps == {"engine/updates.py:take"}


def test_one_place_applies_a_temperature_to_logits():
    """Whatever else divides by something of that name is no division of logits."""

    def divides(node):
        by_one = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and says_temperature(node.right)
        return by_one and not isinstance(node.left, ast.Constant)

    others = {"matches.py:_evenly"}  # T is a number of layers there
    layers = {"losses/many_to_many.py:_update"}  # and a softmax over layers here
    assert where(divides) - others - layers == {"losses/logits.py:tempered"}


def test_one_masked_mean():
    """A sum that is divided by what a mask counts stands in one function."""

    def counts(node):
        return is_call(node, "sum") and any(
            getattr(part, "id", "") in ("mask", "valid", "pairs") for part in ast.walk(node.func.value)
        )

    def divides(node):
        return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and any(map(counts, ast.walk(node.right)))

    means = where(lambda node: divides(node) and any(is_call(part, "sum") for part in ast.walk(node.left)))
    vectors = {"losses/similarity.py:_centred"}  # the mean vector that features are centred by, no mean of a loss
    assert means - vectors <= {"losses/_reduce.py:masked_mean"}
    assert any(isinstance(f, ast.FunctionDef) and f.name == "masked_mean" for f in SOURCES["losses/_reduce.py"].body)


@pytest.mark.parametrize("name", ["masked_mean", "tempered", "full_precision", "only_valid"])
def test_a_helper_of_the_losses_is_defined_once(name):
    homes = [
        file
        for file, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    assert len(homes) == 1
