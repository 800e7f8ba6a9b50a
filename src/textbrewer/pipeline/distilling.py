"""Recipes, carried out to the end."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from .. import __version__
from ..configs.recipe import ExportSettings
from ..doctor import Examination
from ..errors import DataError, MissingDependencyError
from ..export import export_model
from ..report import profile
from ..tasks.scores import told
from ..teachers import CacheFilling
from .findings import keep_findings
from .models import hub_options, is_trained_for
from .recipes import RecipeLike, read_recipe
from .results import DistillationResult, write_report
from .run import EXPORT, Made, Run
from .together import once

logger = logging.getLogger("textbrewer.pipeline")


@dataclass(frozen=True)
class TrainingResult:
    """A fine-tuned teacher.

    Attributes:
        folder: where it is, or the name of one that needed no training.
        metric: the score that the best checkpoint is chosen by.
        scores: on the test rows, or where there are none on those for validation.
        evaluations: along the training.
        seconds: that it took.
    """

    folder: str
    metric: str
    scores: Mapping[str, float]
    evaluations: Sequence[Mapping[str, float]]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON takes it."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.folder}\n{told(self.scores)}"


def train(
    recipe: RecipeLike, overrides: Sequence[str] = (), *, resume: bool = True, fresh: bool = False
) -> TrainingResult:
    """Fine-tune the teacher of a recipe into ``output_dir/teacher``, where :func:`distill` finds it.

    Args:
        recipe: a YAML file, or what one holds.
        overrides: ``key.path=value`` each.
        resume: go on from what a stopped run left.
        fresh: train it again if it is there already.

    Raises:
        ConfigError: the recipe cannot be used; with every problem at once.
        DataError: the rows cannot be used.
    """
    chosen = read_recipe(recipe, overrides)
    given = chosen.teacher
    if given.train == "auto":
        chosen = replace(chosen, teacher=replace(given, train=True))
    run = Run(chosen, resume=resume, fresh=fresh)
    if given.train == "auto" and is_trained_for(given.model, run.task.model_class, **hub_options(given)):
        logger.warning(
            "%s has a head for this task, and distill takes it as it is; with teacher.train=true it takes what is "
            "trained now",
            given.model,
        )
    with run.held():
        made = run.teacher
    record = made.record
    return TrainingResult(
        made.folder, run.task.main_metric, record["scores"], record.get("evaluations", []), record["seconds"]
    )


def distill(
    recipe: RecipeLike,
    overrides: Sequence[str] = (),
    *,
    with_baseline: bool | None = None,
    resume: bool = True,
    fresh: bool = False,
) -> DistillationResult:
    """Carry out a recipe: fine-tune the teacher if it is a base model, distil it, measure, and write the report.

    What an earlier run of the same settings finished is used again, and what it began is gone on from, to the same
    bits. In ``output_dir`` there are then ``recipe.yaml``, which repeats the run, ``student``, ``teacher`` and
    ``baseline`` (where they were trained), ``results.json`` and ``report.html``, and where the student's size was
    planned ``plan.json``, ``plan.txt`` and ``plan.svg``.

    Several processes, started with ``torchrun``, train together; the first one does what is done once, and each gets
    the same result.

    Args:
        recipe: a YAML file, or what one holds.
        overrides: ``key.path=value`` each.
        with_baseline: also train the student without a teacher; None leaves it to the recipe.
        resume: go on from what a stopped run left; False begins unfinished models anew.
        fresh: make everything again.

    Raises:
        ConfigError: the recipe cannot be used; with every problem at once.
        DataError: the rows cannot be used, or ``output_dir`` holds something else.
        StudentError: no student keeps to the limits of ``student.plan``.
        NonFiniteLossError: a loss became NaN or infinite.
    """
    chosen = read_recipe(recipe, overrides)
    if with_baseline is not None:
        chosen = replace(chosen, baseline=with_baseline)
    run = Run(chosen, resume=resume, fresh=fresh)
    run.settle()
    with run.held():
        models = {"teacher": run.teacher, "student": run.student}
        if chosen.baseline:
            models["baseline"] = run.baseline
        return once(run.ranks, lambda: _finished(run, models))


def fill_cache(recipe: RecipeLike, overrides: Sequence[str] = ()) -> CacheFilling:
    """Fill the teacher cache of a recipe with all that its student will ask of the teacher.

    The teacher is fine-tuned first if it is a base model. A stopped filling goes on.

    Raises:
        ConfigError: the recipe cannot be used.
        DataError: the rows cannot be used, or the cache would be gone with this process.
    """
    chosen = read_recipe(recipe, overrides)
    if chosen.cache is not None and chosen.cache.memory:
        raise DataError("cache build: cache.memory keeps nothing after this process; give cache.path")
    run = Run(chosen)
    run.settle()
    with run.held():
        return run.fill_cache()


def examine(recipe: RecipeLike, overrides: Sequence[str] = ()) -> Examination:
    """Look over a recipe before it is carried out: data, teacher, tokenizer, matches, gradients, memory and time.

    Nothing is trained, and nothing written. A teacher that :func:`train` or :func:`distill` made of this recipe already
    is looked over as it is.

    Raises:
        ConfigError: the recipe cannot be used.
        DataError: the rows cannot be used.
        StudentError: no student keeps to the limits of ``student.plan``.
        UnsupportedError: there are several processes.
    """
    run = Run(read_recipe(recipe, overrides))
    run.settle()
    return run.examine()


def _finished(run: Run, models: Mapping[str, Made]) -> DistillationResult:
    """What is made of models that are done: measurements, the page, the folder to deploy."""
    _keep_findings(run, models)
    result = _written(_result(run, models))
    settings = run.recipe.export
    if settings is None:
        return result
    # After all else, so that what was learned is told even where the export fails.
    exported = _exported(run, settings)
    _keep_findings(run, models, exported)
    return _written(replace(result, exported=exported))


def _keep_findings(run: Run, models: Mapping[str, Made], exported: Path | None = None) -> None:
    teacher, student = (models[name].model for name in ("teacher", "student"))
    keep_findings(run.folder, run.task, teacher, student, run.data.scored, run.tokenizer, exported=exported)


def _written(result: DistillationResult) -> DistillationResult:
    """The result, once its numbers and its page are in the folder of the run."""
    result.write()
    try:
        page = write_report(result.output_dir)
    except MissingDependencyError as error:
        logger.warning("no page: %s", error)
        return result
    result = replace(result, report=page)
    result.write()
    return result


def _result(run: Run, models: Mapping[str, Made]) -> DistillationResult:
    used = {"textbrewer": __version__, "python": platform.python_version()}
    return DistillationResult(
        output_dir=run.folder,
        student=run.folder / "student",
        teacher=models["teacher"].folder,
        baseline=run.folder / "baseline" if "baseline" in models else None,
        metric=run.task.main_metric,
        scores={name: made.record["scores"] for name, made in models.items()},
        costs=_costs(run, models),
        seconds={name: made.record["seconds"] for name, made in models.items()},
        evaluations={name: made.record.get("evaluations", []) for name, made in models.items()},
        scored_on="validation" if run.data.test is None else "test",
        recipe=run.recipe.to_dict(),
        data=list(run.data.reports),
        machine=profile.machine(),
        versions={**used, **{name: version(name) for name in ("torch", "transformers")}},
    )


def _costs(run: Run, models: Mapping[str, Made]) -> dict[str, dict[str, float]]:
    """What each model costs; the models take turns on the same rows."""
    by_name = {name: made.model.cpu() for name, made in models.items()}
    single, large = (list(_inputs(run, by_name, *size)) for size in ((1, 50), (32, 4)))
    speed = profile.speeds(by_name, single, large)
    return {
        name: {
            "parameters": profile.parameters_of(model),
            "file_bytes": _bytes(models[name].folder, model),
            **asdict(speed[name]),
        }
        for name, model in by_name.items()
    }


def _bytes(folder: str, model: Any) -> int:
    """Of the saved weights; of a model of the hub, what they take in memory."""
    try:
        return profile.weights_on_disk(folder)
    except DataError:
        return profile.bytes_of(model)


def _inputs(run: Run, models: Mapping[str, Any], size: int, number: int) -> Iterator[dict[str, Any]]:
    """Batches of what every model takes, from the beginning again where there are too few rows."""
    adaptors = [run.task.adaptor(model) for model in models.values()]
    batches = list(islice(run.data.scored.without_labels().loader(size), number))
    for batch in islice(cycle(batches), number):
        fed: list[Any] = [adaptor.feed(batch) for adaptor in adaptors]
        yield {name: value for name, value in fed[0].items() if all(name in each for each in fed)}


def _exported(run: Run, settings: ExportSettings) -> Path:
    """The student as a folder to deploy."""
    rows = run.data.validation.rows[: settings.rows]
    logger.info("export: %d rows", len(rows))
    report = export_model(
        run.student.model,
        run.tokenizer,
        run.folder / EXPORT,
        rows,
        task=run.task,
        int8=settings.int8,
        tolerance=settings.tolerance,
        card=settings.card,
    )
    return report.folder
