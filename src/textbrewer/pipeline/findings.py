"""What is found of teacher and student when a run ends, kept as data, so that pages are written without models."""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path
from typing import Any

from ..export.folder import INT8
from ..export.measured import batches_of
from ..export.runtime import OnnxModel
from ..files import replaced
from ..report.findings import findings_of
from ..report.profile import seconds
from ..tasks import Encoded, Task
from .models import record_in

FINDINGS = "findings.json"


def keep_findings(
    folder: Path,
    task: Task,
    teacher: Any,
    student: Any,
    rows: Encoded,
    tokenizer: Any,
    *,
    exported: Path | None = None,
    batch_size: int = 64,
) -> None:
    """Write ``findings.json`` into the folder of a run: :func:`~textbrewer.report.findings.findings_of`, and ``int8``.

    What an earlier run found of the same student on the same rows is kept. ``int8`` are ``scores``, ``file_bytes`` and
    ``latency``, a share of the student's while both take turns.

    Args:
        folder: of the run, in which the student is already.
        task: of the run.
        teacher: the model.
        student: likewise; with an export it ends on the CPU.
        rows: that are scored.
        tokenizer: that they were encoded with.
        exported: the folder to deploy; None where there is none.
        batch_size: rows of a batch.
    """
    found = findings_in(folder) or findings_of(task, teacher, student, rows, tokenizer, batch_size)
    found = {**found, "of": _identity(folder)}
    found.pop("int8", None)
    if exported is not None and (exported / INT8).is_file():
        found["int8"] = _of_int8(exported / INT8, task, student, rows)
    with replaced(folder / FINDINGS) as beside:
        beside.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def findings_in(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What was found of the student that is in the folder of a run; empty where that is nothing."""
    try:
        found = json.loads((Path(folder) / FINDINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("of") == _identity(folder) else {}


def _identity(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What tells a student of one training from another, and the rows from others."""
    record = record_in(Path(folder) / "student") or {}
    return {"student": record.get("key"), "rows": record.get("scored")}


def _of_int8(file: Path, task: Task, student: Any, rows: Encoded) -> dict[str, Any]:
    small = OnnxModel(file)
    models = {"student": student.cpu(), "int8": small}
    taken = seconds(models, batches_of(rows, small.inputs, 1, 30))
    median = {name: statistics.median(each) for name, each in taken.items()}
    return {
        "scores": task.evaluate(small, rows),
        "file_bytes": file.stat().st_size,
        "latency": median["int8"] / median["student"],
    }
