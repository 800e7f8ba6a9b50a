"""What a run came to: numbers, a table, and a page that is written from them alone."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from ..configs.plain_yaml import yaml_text
from ..configs.recipe import TrainingSettings
from ..errors import DataError
from ..files import replaced
from ..report import page
from ..report.table import aligned
from .figures import NAMES, Figure, figure, figures_of, words
from .findings import findings_in
from .planning import plan_in

RESULTS, PAGE = "results.json", "report.html"


@dataclass(frozen=True)
class DistillationResult:
    """A finished run. It prints as a table.

    Attributes:
        output_dir: the folder of the run.
        student: the folder of the student.
        teacher: the folder or name of the teacher.
        baseline: the folder of the student without a teacher; None where it was not trained.
        metric: the score that models are chosen by.
        scores: of each model, by name.
        costs: parameters, bytes and speed of each model.
        seconds: that each model took to train; 0 where it was there.
        evaluations: the scores of each model along its training.
        scored_on: the rows that ``scores`` are of: ``"test"`` or ``"validation"``.
        recipe: what the run was made of.
        data: what was found in the data.
        machine: where it was measured.
        versions: of the packages.
        report: the page; None where it was not written.
        exported: the folder to deploy; None where none was asked for.
    """

    output_dir: Path
    student: Path
    teacher: str
    baseline: Path | None
    metric: str
    scores: Mapping[str, Mapping[str, float]]
    costs: Mapping[str, Mapping[str, float]]
    seconds: Mapping[str, float]
    evaluations: Mapping[str, Sequence[Mapping[str, float]]]
    scored_on: str
    recipe: Mapping[str, Any]
    data: Sequence[str]
    machine: str
    versions: Mapping[str, str]
    report: Path | None = None
    exported: Path | None = field(default=None)

    @property
    def names(self) -> list[str]:
        """The models of the run, in the order of tables."""
        return [name for name in NAMES if name in self.scores]

    @property
    def retention(self) -> float | None:
        """What the student keeps of the teacher's score, as a share; None where that says nothing."""
        teacher = self.scores["teacher"][self.metric]
        return self.scores["student"][self.metric] / teacher if teacher > 0 else None

    @property
    def times_smaller(self) -> float:
        """How many times fewer parameters the student has."""
        return self.costs["teacher"]["parameters"] / self.costs["student"]["parameters"]

    @property
    def times_faster(self) -> float:
        """How many times as fast the student answers one row."""
        return self.costs["teacher"]["median_ms"] / self.costs["student"]["median_ms"]

    @property
    def table(self) -> dict[str, Any]:
        """The table of the page: ``columns``, ``rows``, and the column that is ``chosen``."""
        names = self.names

        def cost(key: str, unit: float, digits: int = 1) -> list[str]:
            return [f"{self.costs[name][key] / unit:,.{digits}f}" for name in names]

        shares = [self.scores[name][self.metric] for name in names]
        kept = [f"{100 * share / shares[0]:.1f} %" if shares[0] > 0 else "" for share in shares]
        rows = [
            *([words(each), *(f"{self.scores[name][each]:.4f}" for name in names)] for each in self.scores[names[0]]),
            [f"{words(self.metric)} kept", *kept],
            ["Parameters, millions", *cost("parameters", 1e6, 2)],
            ["Weights on disk, MB", *cost("file_bytes", 1e6)],
            ["Latency, batch 1, median, ms", *cost("median_ms", 1, 2)],
            ["Latency, batch 1, p95, ms", *cost("p95_ms", 1, 2)],
            ["Throughput, batch 32, rows/s", *cost("rows_per_second", 1, 0)],
            ["Training, s", *(f"{self.seconds[name]:,.1f}" for name in names)],
        ]
        return {"columns": ["", *(NAMES[name] for name in names)], "rows": rows, "chosen": 2}

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON takes it."""
        plain = asdict(self)
        return {key: os.fspath(value) if isinstance(value, Path) else value for key, value in plain.items()}

    @classmethod
    def of_folder(cls, folder: str | os.PathLike[str]) -> DistillationResult:
        """The result that a run left in its folder, wherever the folder is now.

        Raises:
            DataError: there is none.
        """
        path = Path(folder)
        try:
            plain = json.loads((path / RESULTS).read_text(encoding="utf-8"))
            moved = {"output_dir": path, "student": path / "student"}
            made = {key: None if plain[key] is None else path / Path(plain[key]).name for key in ("baseline", "report")}
            exported = None if plain["exported"] is None else Path(plain["exported"])
            return cls(**{**plain, **moved, **made, "exported": exported})
        except FileNotFoundError:
            raise DataError(f"{path}: expected the folder of a finished run, found no {RESULTS} in it") from None
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path / RESULTS}: not what a run writes: {error}") from None

    def write(self) -> None:
        """Write ``results.json``."""
        with replaced(self.output_dir / RESULTS) as beside:
            text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, default=str)
            beside.write_text(text + "\n", encoding="utf-8")

    def __str__(self) -> str:
        table = self.table
        return aligned([table["columns"], *table["rows"]])


def write_report(folder: str | os.PathLike[str], images: str | os.PathLike[str] | None = None) -> Path:
    """Write the page of a finished run anew, from what lies in its folder.

    Args:
        folder: of the run.
        images: a folder for each plot as SVG and PNG; None writes none.

    Raises:
        DataError: it is no folder of a finished run, or ``images`` is a file.
        MissingDependencyError: the extra ``report`` is not installed.
    """
    result = DistillationResult.of_folder(folder)
    findings = findings_in(folder)
    chose = result.scored_on == "validation"
    drawn = [*figures_of(result, findings), *_plan(result)]
    if images is not None:
        page.write_images(Path(images), drawn)
    return page.write_page(
        result.output_dir / PAGE,
        title=f"{Path(result.recipe['output_dir']).name}: {result.recipe['task']['name'].replace('_', ' ')}",
        summary=_summary(result),
        headline=_headline(result),
        table=result.table,
        plots=drawn,
        examples=_examples(findings),
        code=_code(result),
        settings=_settings(result),
        recipe=yaml_text(dict(result.recipe)),
        notes=[
            *(["The rows that were scored also chose the best checkpoint of each model."] if chose else []),
            "Latency and throughput: the models take turns on the same rows.",
            *("; ".join(line.strip() for line in report.splitlines()) for report in result.data),
        ],
    )


def _headline(result: DistillationResult) -> list[dict[str, str]]:
    """What was won, in figures of a few letters."""
    teacher, student = result.costs["teacher"], result.costs["student"]
    found = [
        {
            "figure": f"{result.times_smaller:.1f}×",
            "unit": "smaller",
            "text": f"{student['parameters'] / 1e6:.1f} of {teacher['parameters'] / 1e6:.1f} million parameters",
        },
        {
            "figure": f"{result.times_faster:.1f}×",
            "unit": "faster",
            "text": f"{student['median_ms']:.1f} ms for a row instead of {teacher['median_ms']:.1f} ms",
        },
    ]
    if result.retention is not None:
        mine, whole = (result.scores[name][result.metric] for name in ("student", "teacher"))
        kept = f"{words(result.metric)} {mine:.3f} of {whole:.3f}"
        found.append({"figure": f"{100 * result.retention:.1f} %", "unit": "of the score kept", "text": kept})
    return found


def _plan(result: DistillationResult) -> Iterator[Figure]:
    """The sizes among which the student's was chosen."""
    plan = plan_in(result.output_dir)
    if plan is not None:
        text = f"Chosen: {plan.chosen}, for at most {plan.limits}."
        yield figure("plan", "The sizes that were measured", plan.svg(), text)


def _examples(findings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Rows on which teacher and student differ."""
    found = findings.get("disagreements")
    if found is None or not found["examples"]:
        return None

    def said(each: Mapping[str, Any]) -> str:
        return f"{each['answer']}" + ("" if each["probability"] is None else f" ({each['probability']:.0%})")

    cards = [
        {
            "text": each["text"],
            "lines": [("Truth", each["truth"]), ("Teacher", said(each["teacher"])), ("Student", said(each["student"]))],
        }
        for each in found["examples"]
    ]
    number, rows = found["number"], findings["rows"]
    text = f"{number:,} of {rows:,} rows ({number / rows:.1%})"
    if number > len(cards):
        text += f"; the {len(cards)} that tell most"
    return {"title": "Where teacher and student differ", "text": f"{text}.", "cards": cards}


def _summary(result: DistillationResult) -> str:
    kept = result.retention
    text = "The student "
    if kept is not None:
        text += f"keeps {100 * kept:.1f} % of its teacher's {words(result.metric, within=True)}, "
    text += f"has {result.times_smaller:.1f}× fewer parameters and answers {result.times_faster:.1f}× as fast."
    if "baseline" in result.scores:
        gained = 100 * (result.scores["student"][result.metric] - result.scores["baseline"][result.metric])
        how = "less" if gained >= 0 else "more"
        text += f" Trained on the labels alone for the same steps, the same student has {abs(gained):.1f} points {how}."
    return text


_ASKED = {
    "question_answering": '[("a question", "its context")]',
    "ranking": '[{"query": "a query", "candidates": ["a text", "another"]}]',
}
"""What each task is asked to predict; a text where nothing is said."""


def _code(result: DistillationResult) -> str:
    folder = os.fspath(result.student)
    given = _ASKED.get(result.recipe["task"]["name"], '["a text"]')
    return f"from textbrewer.pipeline import predict\nprint(predict({folder!r}, {given}))"


def _settings(result: DistillationResult) -> list[tuple[str, str]]:
    """The recipe, a line for each section, and how to repeat it."""
    recipe = {**result.recipe, "training": _telling(result.recipe["training"])}
    recipe["teacher"] = {**recipe["teacher"], "training": _telling(recipe["teacher"]["training"])}
    return [
        *((words(key), _plain(value)) for key, value in recipe.items()),
        ("Repeat it", shlex.join(["textbrewer", "distill", os.fspath(result.output_dir / "recipe.yaml")])),
        ("Machine", result.machine),
        ("Versions", page.versions_line(result.versions)),
    ]


def _telling(training: Mapping[str, Any]) -> dict[str, Any]:
    """Of the settings of a training those that are not as they are by default, and a few that always tell something."""
    always = ("num_epochs", "num_steps", "batch_size", "learning_rate", "schedule")
    usual = asdict(cast(Any, TrainingSettings()))
    return {key: value for key, value in training.items() if key in always or value != usual.get(key)}


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_plain(item)}" for key, item in value.items() if item not in (None, {}, []))
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_plain(item) for item in value) + "]"
    return str(value)
