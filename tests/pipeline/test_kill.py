"""A recipe whose process is killed in the middle goes on, and ends as one that was left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
import torch
import yaml

from tests.pipeline.small import recipe_of
from textbrewer.students.loading import load_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def started(recipe):
    command = [sys.executable, "-m", "textbrewer", "distill", str(recipe), "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def written(material, folder):
    recipe = recipe_of(material, output_dir=str(folder / "run"), cache=True)
    recipe["training"] |= {"num_epochs": 12, "ckpt_frequency": 2}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def killed_once_there(recipe, pattern):
    """Start a run, and kill it as soon as there is such a file."""
    process = started(recipe)
    deadline = time.monotonic() + 120
    while not list((recipe.parent / "run").glob(pattern)):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()


def test_killed_twice_it_ends_as_one_that_was_left_alone(material, tmp_path):
    folders = [tmp_path / "undisturbed", tmp_path / "killed"]
    for folder in folders:
        folder.mkdir()
    whole, killed = (written(material, folder) for folder in folders)
    out, errors = started(whole).communicate(timeout=200)
    expected = json.loads(out)
    killed_once_there(killed, "work/teacher-*/checkpoints/step-*/manifest.json")
    assert not (killed.parent / "run" / "teacher").exists()
    killed_once_there(killed, "work/student-*/checkpoints/step-*/manifest.json")
    assert not (killed.parent / "run" / "student").exists()
    process = started(killed)
    out, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    found = json.loads(out)
    assert "teacher: already there" in errors
    assert found["scores"] == expected["scores"] and found["evaluations"] == expected["evaluations"]
    weights = [load_model(folder / "run" / "student").state_dict() for folder in folders]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert json.loads((killed.parent / "run" / "student" / "record.json").read_text())["resumed"] is True
