"""The folder of a finished run as a run would leave it, written without training anything."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from textbrewer.configs.recipe import Recipe
from textbrewer.report.findings import calibration, confusion

LABELS = ["business", "entertainment", "politics", "sports", "tech"]


def results_of(folder: Path, student: float = 0.91, **recipe: Any) -> dict[str, Any]:
    """What ``results.json`` holds, for a student of such an accuracy."""
    scores = {"teacher": 0.94, "student": student, "baseline": 0.85}
    milliseconds = {"teacher": 12.4, "student": 4.1, "baseline": 4.0}
    millions = {"teacher": 22.7, "student": 17.4, "baseline": 17.4}
    given = {
        "task": {"name": "text_classification", "labels": LABELS},
        "teacher": "org/teacher",
        "student": {"num_layers": 3},
        "data": {"train": "org/news", "test": "org/news-test"},
        "output_dir": str(folder),
        **recipe,
    }
    return {
        "output_dir": str(folder),
        "student": str(folder / "student"),
        "teacher": str(folder / "teacher"),
        "baseline": str(folder / "baseline"),
        "metric": "accuracy",
        "scores": {name: {"accuracy": value, "macro_f1": value - 0.01} for name, value in scores.items()},
        "costs": {
            name: {
                "parameters": millions[name] * 1e6,
                "file_bytes": millions[name] * 4e6,
                "median_ms": milliseconds[name],
                "p95_ms": milliseconds[name] * 1.3,
                "rows_per_second": 2000 / milliseconds[name],
            }
            for name in scores
        },
        "seconds": {"teacher": 54.5, "student": 48.1, "baseline": 37.7},
        "evaluations": {
            name: [{"step": 10 * i, "accuracy": scores[name] - 0.3 / i**2} for i in range(1, 9)] for name in scores
        },
        "scored_on": "test",
        "recipe": Recipe.from_dict(given).to_dict(),
        "data": ["news.csv: 1,000 rows, 1,000 used"],
        "machine": "Linux x86_64, some processor, 2 threads",
        "versions": {"textbrewer": "1.0", "torch": "2.13"},
        "report": None,
        "exported": None,
    }


def findings_of(text: str = "Shares fell after the central bank raised interest rates.") -> dict[str, Any]:
    """What ``findings.json`` holds; ``text`` is that of the rows on which teacher and student differ."""
    draw = random.Random(0)
    true = [draw.randrange(5) for _ in range(400)]
    said = [each if draw.random() < 0.9 else draw.randrange(5) for each in true]
    sure = [0.4 + 0.6 * draw.random() for _ in true]
    sides = {
        name: calibration(sure, [draw.random() < each**power for each in sure])
        for name, power in (("teacher", 1), ("student", 1.6))
    }
    example = {
        "text": text,
        "truth": "business",
        "teacher": {"answer": "business", "probability": 0.98},
        "student": {"answer": "politics", "probability": 0.71},
    }
    cka = [[math.exp(-abs(i / 2 - j) / 2) for j in range(4)] for i in range(7)]
    return {
        "rows": 400,
        "confusion": {"labels": LABELS, "counts": confusion(true, said, 5)},
        "calibration": sides,
        "disagreements": {"number": 37, "examples": [example] * 5},
        "similarity": {"rows": 200, "cka": cka},
        "int8": {"scores": {"accuracy": 0.9}, "file_bytes": 17_600_000, "latency": 0.6},
    }


def finished_in(
    folder: Path, results: dict[str, Any] | None = None, findings: dict[str, Any] | None = None, rows: str = "rows"
) -> Path:
    """Write the folder of a run, with the logs of its trainings; ``rows`` stands for the digest of the scored ones."""
    from torch.utils.tensorboard import SummaryWriter

    (folder / "student").mkdir(parents=True)
    record = {"key": "key", "scored": rows}
    (folder / "student" / "record.json").write_text(json.dumps(record))
    (folder / "results.json").write_text(json.dumps(results or results_of(folder)))
    if findings is not None:
        of = {"student": "key", "rows": rows}
        (folder / "findings.json").write_text(json.dumps({**findings, "of": of}))
    for name in ("student", "baseline"):
        with SummaryWriter(str(folder / name / "log")) as writer:
            for batch in range(60):
                writer.add_scalar("scalar/total_loss", 2 * math.exp(-batch / 20) + 0.1 * (batch % 3), batch)
    return folder
