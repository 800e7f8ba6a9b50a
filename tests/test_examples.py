"""Every example runs to its end, in an empty folder, and says what it should."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="needs the extra `hf`")

EXAMPLES = Path(__file__).parents[1] / "examples"
FOLDERS = sorted(script.parent.name for script in EXAMPLES.glob("*/distill.py"))

# Options that make an example short; others run as they are.
SHORT = {
    "multi_task": ["--rows", "64", "--teacher-epochs", "1", "--steps", "4"],
    "multi_teacher": ["--rows", "64", "--teacher-epochs", "1", "--epochs", "1"],
}
SHARE = r"[01]\.\d{3}"
PRINTED = {
    "multi_task": rf"texts +teacher {SHARE} student {SHARE}\ntokens +teacher {SHARE} student {SHARE}\n",
    "multi_teacher": rf"first teacher +{SHARE}\nsecond teacher +{SHARE}\nstudent +{SHARE}\n",
    "random_tokens": r"step 8: saved; an evaluation would go here\n",
}


@pytest.mark.parametrize("folder", FOLDERS)
def test_an_example_runs(folder, tmp_path):
    command = [sys.executable, str(EXAMPLES / folder / "distill.py"), *SHORT.get(folder, [])]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(PRINTED.get(folder, r"\S"), done.stdout), done.stdout


@pytest.mark.parametrize("folder", FOLDERS)
def test_an_example_says_how_to_run_it(folder):
    readme = (EXAMPLES / folder / "README.md").read_text(encoding="utf-8")
    assert f"python examples/{folder}/distill.py" in readme


def test_the_examples_are_there():
    assert set(PRINTED) <= set(FOLDERS)
