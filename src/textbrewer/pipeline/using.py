"""What is done with models that are there: scores, predictions, sizes, folders to deploy, students to begin with."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..configs import StudentConfig
from ..errors import ConfigError, DataError, Problem
from ..export import ExportReport
from ..export import export_model as _export_model
from ..files import replaced_folder
from ..matching.layers import positions_of
from ..planner import Limits
from ..report.inspection import Inspection, inspect_model
from ..report.profile import bytes_of, machine, parameters_of, speeds
from ..report.table import aligned
from ..students import build_student_with_report, prune_vocabulary
from ..students.build import StudentReport
from ..tasks import Rows, Table, Task, read
from .data import TARGETS
from .models import any_model, config_of, load, tokenizer_of
from .planning import planned
from .settled import student_config

logger = logging.getLogger("textbrewer.pipeline")

Data = str | os.PathLike[str] | Table | Sequence[Any]
"""A file, a folder, a name of the hub, a table, or a list of rows."""


def evaluate(
    model: str | os.PathLike[str],
    data: Data,
    *,
    task: Task | None = None,
    columns: Mapping[str, Any] | None = None,
    format: str | None = None,
    options: Mapping[str, Any] | None = None,
    batch_size: int = 64,
) -> dict[str, float]:
    """Scores of a saved model on rows with labels. What was found in the data is logged.

    Args:
        model: a folder, or a name of the hub.
        data: the rows.
        task: None for what the model's run recorded, or its head tells.
        columns: the column of each thing the task reads; what is left out is guessed.
        format: of a file.
        options: of its reader.
        batch_size: rows at a time.

    Raises:
        ConfigError: there is no such model.
        DataError: the rows cannot be used, or some have no label.
    """
    found = load(model, task)
    rows = found.task.rows(_table(data, format, options), columns)
    return found.task.evaluate(found.model, found.task.encode(rows, found.tokenizer), batch_size)


def predict(
    model: str | os.PathLike[str],
    inputs: Data,
    *,
    task: Task | None = None,
    columns: Mapping[str, Any] | None = None,
    format: str | None = None,
    options: Mapping[str, Any] | None = None,
    batch_size: int = 64,
) -> list[dict[str, Any]]:
    """What a saved model says of each input, in their order.

    Args:
        model: a folder, or a name of the hub.
        inputs: a list with a text, a pair or a dict for each row; or a file of rows.
        task: None for what the model's run recorded, or its head tells.
        columns: of a file: the column of each thing the task reads; what is left out is guessed.
        format: of a file.
        options: of its reader.
        batch_size: rows at a time.

    Raises:
        ConfigError: there is no such model.
        DataError: an input is not of this task, or the file cannot be read.
    """
    found = load(model, task)
    given: Any = inputs
    if isinstance(inputs, (str, os.PathLike)):
        given = _table(inputs, format, options)
    chosen = {role: column for role, column in (columns or {}).items() if role not in TARGETS}
    return found.task.predict(found.model, given, found.tokenizer, batch_size, columns=chosen or None)


def export(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    data: Data,
    *,
    task: Task | None = None,
    columns: Mapping[str, Any] | None = None,
    format: str | None = None,
    options: Mapping[str, Any] | None = None,
    rows: int = 200,
    int8: bool = True,
    tolerance: float = 1e-3,
    card: Mapping[str, str] | None = None,
) -> ExportReport:
    """A folder that serves a saved model without PyTorch; see :func:`textbrewer.export.export_model`.

    Args:
        model: a folder, or a name of the hub.
        output: the new folder.
        data: real rows to check and measure with; with labels they give scores.
        task: None for what the model's run recorded, or its head tells.
        columns: the column of each thing the task reads; what is left out is guessed.
        format: of a file.
        options: of its reader.
        rows: of the data that are used, from the first on.
        int8: also in eight bits.
        tolerance: how far a logit may be from PyTorch's.
        card: what the model card says.

    Raises:
        ConfigError: there is no such model, or a key of ``card`` is unknown.
        DataError: there are no rows, or ``output`` is a folder of something else.
        UnsupportedError: the model cannot be exported.
    """
    found = load(model, task)
    given: Rows = found.task.rows(_table(data, format, options), columns, labelled=None)
    return _export_model(
        found.model,
        found.tokenizer,
        Path(output),
        given[:rows],
        task=found.task,
        int8=int8,
        tolerance=tolerance,
        card=card,
    )


def inspect(model: str | os.PathLike[str], **options: Any) -> Inspection:
    """What a saved model is made of and costs here; see :func:`textbrewer.report.inspection.inspect_model`.

    Args:
        model: a folder, or a name of the hub.
        **options: ``batch_sizes``, ``lengths``, ``depth``, ``repeats``, ``memory``.

    Raises:
        ConfigError: there is no such model.
        DataError: a length is more than the model takes.
    """
    return inspect_model(any_model(model), **options)


@dataclass(frozen=True)
class Benchmark:
    """Models measured side by side. It prints as a table.

    Attributes:
        models: what each costs, by its name: ``parameters``, ``bytes`` and the fields of
            :class:`~textbrewer.report.profile.Speed`.
        batch_size: rows of the batches for the throughput; those for the latency have one.
        length: tokens of a row.
        machine: where it was measured.
    """

    models: Mapping[str, Mapping[str, float]]
    batch_size: int
    length: int
    machine: str

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON takes it."""
        return asdict(self)

    def __str__(self) -> str:
        head = ["", "parameters, M", "MB", "median, ms", "p95, ms", f"rows/s, batch {self.batch_size}"]
        rows = [
            [
                name,
                f"{each['parameters'] / 1e6:,.2f}",
                f"{each['bytes'] / 1e6:,.1f}",
                f"{each['median_ms']:.2f}",
                f"{each['p95_ms']:.2f}",
                f"{each['rows_per_second']:,.0f}",
            ]
            for name, each in self.models.items()
        ]
        return f"{aligned([head, *rows])}\n\n{self.length} tokens a row, on {self.machine}."


def benchmark(
    models: Sequence[str | os.PathLike[str]], *, batch_size: int = 32, length: int = 128, repeats: int = 20
) -> Benchmark:
    """Size and speed of saved models; they take turns on the same random tokens.

    Args:
        models: folders, or names of the hub.
        batch_size: rows of a batch, for the throughput.
        length: tokens of a row.
        repeats: batches of each kind; at least 2.

    Raises:
        ConfigError: there is no such model.
        DataError: a number is too small, or a length is more than a model takes.
    """
    if not models or min(batch_size, length) < 1 or repeats < 2:
        raise DataError(
            "benchmark: expected a model, batch_size and length of at least 1 and repeats of at least 2, got "
            f"{len(models)} models, batch_size={batch_size}, length={length}, repeats={repeats}"
        )
    loaded = {os.fspath(name): any_model(name) for name in models}
    for name, model in loaded.items():
        positions = positions_of(model)
        if positions is not None and length > positions:
            raise DataError(f"benchmark: {name} takes {positions} tokens a row, got length={length}")
    words = min(model.get_input_embeddings().num_embeddings for model in loaded.values())
    generator = torch.Generator().manual_seed(0)

    def batches(rows: int) -> list[dict[str, torch.Tensor]]:
        drawn = [torch.randint(words, (rows, length), generator=generator) for _ in range(repeats)]
        return [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in drawn]

    speed = speeds(loaded, batches(1), batches(batch_size))
    costs = {
        name: {"parameters": parameters_of(model), "bytes": bytes_of(model), **asdict(speed[name])}
        for name, model in loaded.items()
    }
    return Benchmark(costs, batch_size, length, machine())


def make_student(
    teacher: str | os.PathLike[str],
    output: str | os.PathLike[str],
    config: StudentConfig | str | Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    limits: Limits | None = None,
    texts: Data | None = None,
) -> StudentReport:
    """Build a student from a saved teacher and save it with the teacher's tokenizer.

    Args:
        teacher: a folder, or a name of the hub.
        output: the new folder.
        config: a size, a preset's name, or keys of :class:`~textbrewer.StudentConfig`; None takes half of the layers.
        seed: of random weights.
        limits: choose the size by these instead; :func:`~textbrewer.pipeline.plan_in` reads the plan in ``output``.
        texts: a file or its rows: tokens that none of its texts has are left out, see
            :func:`~textbrewer.prune_vocabulary`. The teacher that reads the same ids is then in ``output/teacher``.

    Raises:
        ConfigError: there is no such teacher, or a size cannot be used.
        DataError: ``output`` is there already, or ``texts`` cannot be read.
        StudentError: no student can be built from this teacher, or none keeps to the limits.
    """
    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"student: {folder} is there already; choose another folder")
    if limits is not None and config is not None:
        raise ConfigError("student", [Problem("limits", "limits or a size, not both", repr(config))])
    config_of(teacher)
    model, tokenizer = any_model(teacher), tokenizer_of(teacher)
    pruned = None if texts is None else prune_vocabulary(model, tokenizer, _strings_in(list(_table(texts, None, None))))
    if pruned is not None:
        logger.info("teacher: %s", pruned)
        model, tokenizer = pruned.model.eval(), pruned.tokenizer
    found = None if limits is None else planned(model, limits, folder)
    if found is not None and found.plan.chosen.config is not None:
        config = found.plan.chosen.config
    if not isinstance(config, StudentConfig):
        name = config if isinstance(config, str) else None
        config = student_config(name, config if isinstance(config, Mapping) else {}, model)
    student, report = build_student_with_report(model, config, seed=seed)
    with replaced_folder(folder) as beside:
        student.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        if found is not None:
            found.write(beside)
        if pruned is not None:
            pruned.save_pretrained(beside / "teacher")
    return report


def _strings_in(value: Any) -> Iterator[str]:
    """Every text in plain values, however they are nested."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _strings_in(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _strings_in(each)


def _table(data: Data, format: str | None, options: Mapping[str, Any] | None) -> Table:
    if isinstance(data, (str, os.PathLike)):
        return read(os.fspath(data), format, **(options or {}))
    if format is not None or options:
        raise ConfigError("data", [Problem("format", "a file to read", f"{type(data).__name__} that is read already")])
    return Table.of(data)
