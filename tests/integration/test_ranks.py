"""Two processes train as one does with the same global batches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from textbrewer.report.plots import scalars

# One worker makes the runs that all of these tests look at, and no other starts processes that talk meanwhile.
pytestmark = pytest.mark.xdist_group("processes")
HERE = Path(__file__).parent
CHECKPOINTS = {
    "epochs": [2, 4],
    "uneven": [2, 4],
    "steps": [2, 4, 5],
    "listed": [1, 2],
    "teachers": [1],
    "tasks": [4],
    "sharded": [1, 2, 3, 4],
    "resumed": [1, 2, 3, 4],
    "best": [1, 2, 3],
}
RUNS = list(CHECKPOINTS)


def environment():
    return {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}


def run(*command):
    done = subprocess.run(command, env=environment(), cwd=HERE.parents[1], capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr[-4000:]
    return done


LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def alone_and_together(tmp_path_factory, script, *arguments):
    """The folders in which a script has run, in one process with four batches a step, and in two with two each."""
    alone, together = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("together")
    run(sys.executable, str(HERE / script), str(alone), "4", *arguments)
    run(*LAUNCH, str(HERE / script), str(together), "2", *arguments)
    return alone, together


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return alone_and_together(tmp_path_factory, "in_ranks.py", "2")


def state(folder, name, rank):
    return torch.load(folder / f"{name}-{rank}.pt", weights_only=True)


@pytest.mark.parametrize("name", RUNS)
def test_weights_and_projections_are_those_of_one_process(folders, name):
    alone, together = folders
    expected = state(alone, name, False)
    for rank in (0, 1):
        found = state(together, name, rank)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=0, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", RUNS)
def test_the_runs_learn_something_and_write_as_one_process_does(folders, name):
    for folder in folders:
        written = sorted(int(path.stem[2:]) for path in (folder / name).glob("gs*.pkl"))
        assert written == CHECKPOINTS[name]


@pytest.mark.parametrize("name", ["epochs", "uneven"])
def test_the_logged_losses_average_those_of_one_process(folders, name):
    alone, together = ([value for _, value in scalars(folder / name / "log")] for folder in folders)
    assert len(together) == -(-len(alone) // 2)
    # An optimiser step has four batches alone, and two pairs of batches together.
    assert sum(together) / len(together) == pytest.approx(sum(alone) / len(alone), rel=0.05)


def test_a_sharded_run_is_evaluated_as_one_process_is_and_resumed_with_the_same_bits(folders):
    alone, together = (torch.load(folder / "sharded-evaluations.pt") for folder in folders)
    assert [each["step"] for each in together] == [1, 2, 3, 4]
    assert [each["loss"] for each in together] == pytest.approx([each["loss"] for each in alone], abs=1e-5)
    assert together == torch.load(folders[1] / "resumed-evaluations.pt")
    for rank in (0, 1):
        undisturbed, resumed = (state(folders[1], name, rank) for name in ("sharded", "resumed"))
        assert all(torch.equal(undisturbed[key], resumed[key]) for key in undisturbed)


def test_norms_of_gradients_that_are_spread_are_refused_with_the_way_out(folders):
    alone, together = ((folder / "refused.txt").read_text() for folder in folders)
    assert alone == ""
    assert "those of a sharded student are spread over the processes; use balance='uncertainty'" in together


def test_the_best_sharded_student_is_whole_in_its_folder_and_given_back(folders):
    from transformers import AutoModelForSequenceClassification

    for folder, rank in zip(folders, (False, 0), strict=True):
        saved = AutoModelForSequenceClassification.from_pretrained(folder / "best" / "best").state_dict()
        given = state(folder, "best", rank)
        assert all(torch.equal(value, given[f"student.{key}"]) for key, value in saved.items())
