"""The notebooks: clean as they are committed, and run from top to bottom."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"
# What the student of each scores at least, far above guessing.
AT_LEAST = {"sst2": 0.9, "msra_ner": 0.8, "squad": 0.8}


@pytest.mark.parametrize("name", AT_LEAST)
def test_a_notebook_is_committed_without_outputs_and_its_cells_have_ids(name):
    whole = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert (whole["nbformat"], whole["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in whole["cells"]]
    assert len(set(ids)) == len(ids)
    code = [cell for cell in whole["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_no_notebook_is_left_untested():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(AT_LEAST)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", AT_LEAST)
def test_a_notebook_runs_and_its_student_learns(name, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="needs the extra `dev`")
    client = pytest.importorskip("nbclient", reason="needs the extra `dev`")
    pytest.importorskip("transformers", reason="needs the extra `hf`")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    client.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", []))
    scores = {found: float(score) for found, score in re.findall(r"^(teacher|student) +([01]\.\d{3})$", printed, re.M)}
    assert set(scores) == {"teacher", "student"} and min(scores.values()) >= AT_LEAST[name], printed
    assert (tmp_path / "runs" / name / "student" / "model.safetensors").is_file()
