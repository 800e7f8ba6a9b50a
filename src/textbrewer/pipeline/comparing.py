"""Several runs of one task beside each other, on one page."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..report import page, plots
from .figures import NAMES, Figure, figure, loss_of, points_of, scores_of, tradeoffs, words
from .findings import findings_in
from .models import record_in
from .results import DistillationResult

_PLACES = ("output_dir", "cache.path")
"""Keys of a recipe that say where a run writes, in which any two differ."""
_LETTERS = 60


def compare(
    runs: Sequence[str | os.PathLike[str]],
    path: str | os.PathLike[str] = "comparison.html",
    images: str | os.PathLike[str] | None = None,
) -> Path:
    """Write a page that compares finished runs: scores, costs, where their recipes differ, and their curves.

    Args:
        runs: their folders, at least two.
        path: the page.
        images: a folder for each plot as SVG and PNG; None writes none.

    Raises:
        DataError: a folder is no finished run, or the runs are of different tasks, metrics or rows, so that their
            scores say nothing beside each other.
        MissingDependencyError: the extra ``report`` is not installed.
    """
    results = _named([Path(run) for run in runs])
    metric = _one_metric(results)
    relative = _have_one_teacher(results.values())
    drawn = [
        *tradeoffs(metric, list(_points(results, relative)), relative),
        *_curves(results, metric),
    ]
    if images is not None:
        page.write_images(Path(images), drawn)
    best = max(results, key=lambda name: results[name].scores["student"][metric])
    first = next(iter(results.values()))
    machines = {result.machine for result in results.values()}
    return page.write_page(
        Path(path),
        title=f"{len(results)} runs: {first.recipe['task']['name'].replace('_', ' ')}",
        summary=f"{best} has the best student: {words(metric)} {results[best].scores['student'][metric]:.4f}.",
        table=_table(results, metric),
        tables=[_differences(results)],
        plots=drawn,
        settings=[
            ("Runs", ", ".join(f"{name}: {os.fspath(result.output_dir)}" for name, result in results.items())),
            *_told_once("Machine", {name: result.machine for name, result in results.items()}),
            *_told_once("Versions", {name: page.versions_line(result.versions) for name, result in results.items()}),
        ],
        notes=[
            f"One run each, scored on the same {first.scored_on} rows.",
            "Latency was measured when each run ended, its models taking turns; between runs other things may have "
            "changed: compare how many times faster they are than their teachers.",
            *(["The runs were measured on different machines."] if len(machines) > 1 else []),
        ],
    )


def _named(folders: Sequence[Path]) -> dict[str, DistillationResult]:
    """The results by the end of their paths that tells them apart."""
    found = [DistillationResult.of_folder(folder) for folder in folders]
    parts = [folder.resolve().parts for folder in folders]
    if len(set(parts)) < max(2, len(parts)):
        raise DataError(f"compare: expected at least two different runs, got {', '.join(map(str, folders)) or 'none'}")
    length = next(n for n in range(1, 1 + max(map(len, parts))) if len({each[-n:] for each in parts}) == len(parts))
    return {"/".join(each[-length:]): result for each, result in zip(parts, found, strict=True)}


def _one_metric(results: Mapping[str, DistillationResult]) -> str:
    """The metric of all runs.

    Raises:
        DataError: they differ in what makes scores comparable.
    """
    alike: dict[str, Callable[[DistillationResult], str]] = {
        "of one task": lambda result: result.recipe["task"]["name"],
        "with one metric": lambda result: result.metric,
        "scored on the same rows": lambda result: f"{result.scored_on} rows {_scored(result)}",
    }
    for what, of in alike.items():
        values = {name: of(result) for name, result in results.items()}
        if len(set(values.values())) > 1:
            told = ", ".join(f"{name}: {value}" for name, value in values.items())
            raise DataError(f"compare: expected runs {what}, found {told}")
    return next(iter(results.values())).metric


def _scored(result: DistillationResult) -> str:
    """A digest of the rows that a run was scored on."""
    return str((record_in(result.student) or {}).get("scored", "unknown"))


def _have_one_teacher(results: Any) -> bool:
    """Whether the teachers are the same as far as numbers tell, so that latency can be told in shares of theirs."""
    return len({(r.costs["teacher"]["parameters"], *r.scores["teacher"].values()) for r in results}) == 1


def _points(results: Mapping[str, DistillationResult], relative: bool) -> Iterator[dict[str, Any]]:
    """The students and their exports, and each teacher once."""
    for place, (name, result) in enumerate(results.items()):
        unit = result.costs["teacher"]["median_ms"] if relative else 1.0
        teacher, *others = points_of(result, findings_in(result.output_dir))
        if place == 0 or not relative:
            title = teacher["name"] if relative else f"{teacher['name']} of {name}"
            yield {**teacher, "name": title, "median_ms": teacher["median_ms"] / unit}
        for each in others:
            if each["name"] != NAMES["baseline"]:
                title = name if each["name"] == NAMES["student"] else f"{name}, int8"
                yield {**each, "name": title, "median_ms": each["median_ms"] / unit}


def _curves(results: Mapping[str, DistillationResult], metric: str) -> Iterator[Figure]:
    along = {name: curve for name, result in results.items() if (curve := scores_of(result, "student"))}
    if along:
        svg = plots.progress(along, f"{words(metric)}, %")
        text = "Of the students, on the validation rows; a ring marks the best."
        yield figure("progress", f"{words(metric)} while training", svg, text)
    losses = {name: [curve] for name, result in results.items() if (curve := loss_of(result, "student"))}
    if losses:
        text = "Of the students. Losses of different recipes measure different things: compare their course."
        yield figure("loss", "Loss while training", plots.curves(losses, "training loss"), text)


def _table(results: Mapping[str, DistillationResult], metric: str) -> dict[str, Any]:
    columns: dict[str, Callable[[DistillationResult], str]] = {
        words(metric): lambda r: f"{r.scores['student'][metric]:.4f}",
        "Kept": lambda r: "" if r.retention is None else f"{100 * r.retention:.1f} %",
        "Teacher's": lambda r: f"{r.scores['teacher'][metric]:.4f}",
        "No teacher": lambda r: f"{r.scores['baseline'][metric]:.4f}" if "baseline" in r.scores else "",
        "Parameters": lambda r: f"{r.costs['student']['parameters'] / 1e6:,.1f} M",
        "Smaller": lambda r: f"{r.times_smaller:.1f}×",
        "MB": lambda r: f"{r.costs['student']['file_bytes'] / 1e6:,.1f}",
        "Latency, ms": lambda r: f"{r.costs['student']['median_ms']:.2f}",
        "Faster": lambda r: f"{r.times_faster:.1f}×",
        "Training, s": lambda r: f"{r.seconds['student']:,.0f}",
    }
    rows = [[name, *(cell(result) for cell in columns.values())] for name, result in results.items()]
    return {"columns": ["", *columns], "rows": rows, "chosen": 1}


def _differences(results: Mapping[str, DistillationResult]) -> dict[str, Any]:
    """The keys in which the recipes differ, a row each."""
    flat = {name: _flat(result.recipe) for name, result in results.items()}
    keys = list(dict.fromkeys(key for each in flat.values() for key in each if key not in _PLACES))
    rows = []
    for key in keys:
        cells = [each.get(key, "") for each in flat.values()]
        if len(set(cells)) > 1:
            rows.append([key, *(plots.cut(cell, _LETTERS) for cell in cells)])
    text = "The keys that are not the same in all of them." if rows else "They are the same."
    return {"title": "Where the recipes differ", "text": text, "columns": ["", *results], "rows": rows}


def _flat(values: Mapping[str, Any], path: str = "") -> dict[str, str]:
    """``{"training.batch_size": "16"}``; what says nothing is left out."""
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{path}{key}.")
        elif isinstance(value, float):
            found[f"{path}{key}"] = f"{value:g}"
        elif value not in (None, []):
            found[f"{path}{key}"] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return found


def _told_once(what: str, values: Mapping[str, str]) -> list[tuple[str, str]]:
    """A line where all runs have the same, else one for each."""
    if len(set(values.values())) == 1:
        return [(what, next(iter(values.values())))]
    return [(f"{what}, {name}", value) for name, value in values.items()]
