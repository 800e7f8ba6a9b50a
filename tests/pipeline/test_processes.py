"""A recipe in two real processes: as one process carries it out, and once."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
import yaml

from tests.pipeline.small import base_model, recipe_of
from textbrewer.students.loading import load_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("processes")]

TOGETHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def carried_out(folder, *arguments, together=True):
    """What ``textbrewer`` says and how it ends, in two processes or in one."""
    command = [sys.executable, *(TOGETHER if together else []), "-m", "textbrewer", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)


def written(material, folder, base, processes):
    """A recipe of the same optimiser steps for so many processes."""
    folder.mkdir()
    recipe = recipe_of(material, output_dir=str(folder / "run"), cache=True, baseline=True)
    same = {"gradient_accumulation_steps": 2 // processes, "learning_rate": 1e-3}
    recipe["training"] |= same
    recipe["teacher"] = {"model": str(base), "training": recipe["training"].copy()}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def runs(material, tmp_path_factory):
    """The folder, and what was printed, of a run in one process and of one in two."""
    folder = tmp_path_factory.mktemp("processes")
    # Without dropout, which each process draws for itself.
    base = base_model(folder / "base", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    found = []
    for name, processes in (("alone", 1), ("together", 2)):
        recipe = written(material, folder / name, base, processes)
        done = carried_out(folder, "distill", recipe, "--json", together=processes > 1)
        assert done.returncode == 0, done.stderr[-4000:]
        found.append((recipe.parent / "run", done))
    return found


def test_two_processes_train_as_one_does(runs):
    (alone, _), (together, _) = runs
    for name in ("teacher", "student", "baseline"):
        ours, theirs = (load_model(folder / name).state_dict() for folder in (together, alone))
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, rtol=0, atol=1e-4, msg=lambda text, key=key: f"{key}: {text}")


def test_the_result_is_told_and_written_once(runs):
    (alone, one), (together, two) = runs
    assert sorted(path.name for path in together.iterdir()) == sorted(path.name for path in alone.iterdir())
    told, expected = json.loads(two.stdout), json.loads(one.stdout)
    assert told == json.loads((together / "results.json").read_text())
    assert [each["step"] for each in told["evaluations"]["student"]] == [7, 14]
    for name, scores in expected["scores"].items():
        assert told["scores"][name] == pytest.approx(scores, abs=0.03), name
    assert two.stderr.count("teacher: fine-tuning") == two.stderr.count("baseline: the same") == 1
    assert "Traceback" not in two.stderr


def test_what_is_there_is_found_by_all(runs):
    together, _ = runs[1]
    again = carried_out(together, "distill", together.parent / "recipe.yaml", "--json")
    assert again.returncode == 0, again.stderr[-4000:]
    assert again.stderr.count("already there") == 3
    assert json.loads(again.stdout)["scores"] == json.loads((together / "results.json").read_text())["scores"]


def test_a_student_is_planned_once_and_a_cache_is_filled_by_both(runs, tmp_path):
    recipe = runs[1][0].parent / "recipe.yaml"
    new = ["student.plan.max_params=5000", f"output_dir={tmp_path}/run", "teacher.training.num_steps=1"]
    filled = carried_out(tmp_path, "cache", "build", recipe, *new, "--json")
    assert filled.returncode == 0, filled.stderr[-4000:]
    assert json.loads(filled.stdout)["rows"] == 240 and filled.stderr.count("plan: measuring") == 1
    assert {"plan.json", "plan.txt", "plan.svg", "cache", "teacher"} <= {
        path.name for path in (tmp_path / "run").iterdir()
    }


def test_what_cannot_be_done_is_told_by_the_first_and_nothing_is_written(runs, tmp_path):
    recipe = runs[1][0].parent / "recipe.yaml"
    refused = carried_out(tmp_path, "distill", recipe, f"output_dir={tmp_path}/run", "--max-params", 3)
    assert refused.returncode != 0 and refused.stdout == ""
    assert refused.stderr.count("none of 7 candidates has at most 3 parameters; the closest is") == 1
    assert "ElsewhereError" not in refused.stderr
    assert not (tmp_path / "run").exists()
