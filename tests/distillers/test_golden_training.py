"""Training goes the way TextBrewer 0.2.1 went: the loss of every batch, the checkpoints and the final weights."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import textbrewer
from tests.golden.training_cases import CASES, CHECKPOINTS, run

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "training.json").read_text())
TRAJECTORIES = GOLDEN["trajectories"]
CLOSE = {"rtol": 1e-5, "atol": 1e-6}

# Some runs leave out what a term needs, on purpose, and are told so.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@cache
def found(name: str) -> dict[str, Any]:
    if not hasattr(textbrewer, CASES[name].kind):
        pytest.skip(f"{CASES[name].kind} is not here yet")
    return run(CASES[name], "textbrewer")


def test_every_golden_run_is_compared():
    assert TRAJECTORIES.keys() == CASES.keys()
    assert GOLDEN["checkpoints"].keys() == CHECKPOINTS.keys()


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_each_batch_costs_what_it_cost(name):
    """The original ran the batches left over from an accumulation too, without a step; here they are dropped."""
    original, here = TRAJECTORIES[name]["scalars"], found(name)["scalars"]
    new_here = {"scalar/unweighted_hard_label_loss"} if CASES[name].kind == "BasicTrainer" else set()
    by_task = {tag for tag in here if tag.startswith(("scalar/rows/", "scalar/span/"))}
    assert here.keys() - by_task == original.keys() | new_here
    assert bool(by_task) == (CASES[name].kind == "MultiTaskDistiller")
    for tag, values in original.items():
        kept = [value for batch, value in values if batch not in CASES[name].dropped()]
        batches, costs = zip(*here[tag], strict=True)
        assert list(batches) == list(range(len(kept)))
        torch.testing.assert_close(torch.tensor(costs), torch.tensor(kept), **CLOSE)


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_the_student_ends_where_it_ended(name):
    torch.testing.assert_close(
        torch.tensor(found(name)["weights"]), torch.tensor(TRAJECTORIES[name]["weights"]), **CLOSE
    )


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_checkpoints_come_when_they_came(name):
    for what in ("calls", "saved"):
        assert found(name)[what] == TRAJECTORIES[name][what]


@pytest.mark.parametrize("name", GOLDEN["checkpoints"])
def test_the_callback_is_called_when_it_was(name):
    assert run(CHECKPOINTS[name], "textbrewer", logged=False)["calls"] == GOLDEN["checkpoints"][name]
