"""A first recipe, written from a look at the data."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from glob import glob
from itertools import islice
from pathlib import Path
from typing import Any, cast

from ..configs.plain_yaml import yaml_text
from ..errors import DataError, UnknownNameError, did_you_mean, one_of
from ..files import replaced
from ..tasks import TASKS, QuestionAnswering, Table, Task, read
from ..tasks.data.columns import guessed, guessed_pair
from ..tasks.labels import in_order, label_text
from .data import lengths_for
from .models import config_of

_LOOKED_AT = 2000
"""Rows by which a task is guessed."""
_MOST_CLASSES = 50
_BATCH, _LEAST_STEPS, _EPOCHS = 32, 300, (3, 20)
"""Few rows are passed over more often than many: 3 passes over them teach a model nothing (2006.04884, 2006.05987)."""
_LABELS = 0.5
"""``hard_label_weight`` where there are labels: a teacher who knows little does not then lead the student astray."""

_TEXT = """\
# A recipe of textbrewer: {kind} on {file}.
#
#   textbrewer distill {name}
#   textbrewer distill {name} training.num_epochs=10    changes a key
#
# Whatever is left out has a default. Relative paths start at the folder of this file.
#
# What was found in the data:
{found}

task:
{task}

# A folder or a name of the hub. One without a head for this task is fine-tuned first, into output_dir/teacher.
teacher:
  model: {teacher}
  training: {{num_epochs: {epochs}, learning_rate: 3.0e-5, batch_size: {batch}}}
  # Leaves out the tokens that the training rows do not use: a small student is mostly embeddings.
  # prune_vocabulary: true

# A preset (T6, T3, T3-small, T4-tiny, T12-nano, ELECTRA-small, BiGRU), or sizes: num_layers, hidden_size and so on.
# Left out, it has half of the teacher's layers and starts from their weights.
# student: T3
# Or the most capable that keeps to a limit, found by measuring on this machine.
# student: {{plan: {{max_latency_ms: 5, threads: 2}}}}

data:
  train: {train}
  # Left out, a tenth of the training rows are held out, the same each time.
  # validation: validation.csv
  # test: test.csv
  # Text without labels: the teacher says what it is. Several files are a list: [a.txt, b.txt].
  # unlabelled: more.txt
  columns: {columns}

distillation:
  temperature: 4
  # Of the loss on the labels, beside what the teacher says; 0 learns from the teacher alone.
  hard_label_weight: {hard_label_weight}
  # Which layers of the teacher the student's learn from: uniform, minilm, tinybert, many_to_many and others, or none.
  matches: uniform

training:
  num_epochs: {epochs}
  batch_size: {batch}
  learning_rate: 1.0e-4
  # early_stopping_patience: 2

# Keeps what the teacher says on disk, so that later epochs and runs need not ask it.
# cache: runs/cache

# Variants of each row, of which the teacher says what they are.
# augmentation: {{n: 2}}

# The same student without a teacher, to see what distillation wins.
baseline: false

# Make a folder to deploy (ONNX, int8) at the end.
# export: true

seed: 0
output_dir: {output_dir}
"""


def init(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    task: str | None = None,
    teacher: str | None = None,
    format: str | None = None,
    options: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Path:
    """Write a commented recipe for data: the task, the columns and the labels are looked up in it.

    Args:
        data: a file, a folder by label, or a name of the hub.
        output: the recipe.
        task: None finds out.
        teacher: a folder or a name of the hub; None for a common one.
        format: of a file.
        options: of its reader.
        force: write over a file that is there.

    Raises:
        DataError: the data cannot be read, no task is seen in it, or ``output`` is there already.
        UnknownNameError: there is no such task.
    """
    path = Path(output)
    if path.exists() and (path.is_dir() or not force):
        raise DataError(
            f"init: {path} is there already; choose another name" + ("" if path.is_dir() else ", or force it")
        )
    if task is not None and task not in TASKS:
        raise UnknownNameError(
            f"task: expected {one_of(TASKS)}, got {task!r}; {did_you_mean(task, TASKS)}".removesuffix("; ")
        )
    table = read(os.fspath(data), format, **(options or {}))
    text = _recipe(table, task or _guessed_task(table), data, path, teacher, format, options)
    with replaced(path) as beside:
        beside.write_text(text, encoding="utf-8")
    return path


def _recipe(
    table: Table,
    name: str,
    data: str | os.PathLike[str],
    output: Path,
    teacher: str | None,
    format: str | None,
    options: Mapping[str, Any] | None,
) -> str:
    kind = TASKS[name]
    settings: dict[str, Any] = {"name": name}
    if teacher is not None and Path(teacher).exists():
        settings |= lengths_for(kind, config_of(teacher))
    if kind is QuestionAnswering:
        settings |= _kinds_of_answers(table)
    own = {key: value for key, value in settings.items() if key != "name"}
    from_data = getattr(kind, "from_data", None)
    task: Task = kind.from_dict(own) if from_data is None else from_data(table, **own)
    rows = task.rows(table)
    if task.class_names:
        settings["labels"] = task.class_names
    settings.setdefault("max_length", cast(Any, task).max_length)
    source: Any = _relative(data, output)
    if format is not None or options:
        source = {"path": source, "format": format, "options": dict(options or {})}
    chosen = task.choose(table, None, True).columns
    renamed = {role: column for role, column in chosen.items() if role != column}
    found = "\n".join(f"#   {line}" for line in _printable(str(rows.report)).splitlines())
    return _TEXT.format(
        kind=name.replace("_", " "),
        file=_printable(os.fspath(data)),
        name=_printable(output.name),
        found=found,
        task="\n".join(f"  {key}: {_in_yaml(value)}" for key, value in settings.items()),
        teacher=_common_teacher(name, rows) if teacher is None else _in_yaml(_relative(teacher, output)),
        train=_in_yaml(source),
        columns=_in_yaml(renamed),
        batch=_BATCH,
        epochs=min(max(_EPOCHS[0], -(-_LEAST_STEPS * _BATCH // max(len(rows), 1))), _EPOCHS[1]),
        hard_label_weight=_LABELS if any(row[task.target] is not None for row in rows) else 0,
        output_dir=_in_yaml(f"runs/{output.stem}"),
    )


def _kinds_of_answers(table: Table) -> dict[str, Any]:
    """What the rows say of the settings of question answering, where that is not the default."""
    found: dict[str, Any] = {}
    for record in islice(table, _LOOKED_AT):
        if label_text(record.get("is_impossible")).lower() in ("true", "1"):
            found["null_answers"] = True
        if _is_chinese(str(record.get(str(guessed(table, "context"))))):
            found["rules"] = "cmrc"
    return found


def _guessed_task(table: Table) -> str:
    """The task that the columns and labels show.

    Raises:
        DataError: they show none.
    """
    columns = table.columns
    if guessed(table, "question") and guessed(table, "context"):
        return "question_answering"
    if guessed(table, "tokens") and guessed(table, "tags"):
        return "token_classification"
    label = guessed(table, "label")
    has_text = guessed(table, "text") or guessed_pair(table)
    unnamed = all(column.isdecimal() for column in columns) and 2 <= len(columns) <= 3
    if unnamed:
        return "text_classification"
    if label is None or not has_text:
        raise DataError(
            f"init: no task is seen in the columns {', '.join(map(repr, columns))} of {table.source}; give the task: "
            f"{one_of(TASKS)}"
        )
    if table.class_names(label):
        return "text_classification"
    cells = [record.get(label) for record in islice(table, _LOOKED_AT)]
    if any(isinstance(cell, (list, tuple)) for cell in cells):
        return "multi_label_classification"
    return "text_regression" if _are_measured(cells) else "text_classification"


def _are_measured(cells: Sequence[Any]) -> bool:
    """Whether labels are numbers on a scale, and no classes."""
    texts = in_order(label_text(cell) for cell in cells if cell not in (None, ""))
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        return False
    return bool(numbers) and (len(numbers) > _MOST_CLASSES or any(not number.is_integer() for number in numbers))


def _common_teacher(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    text = "".join(str(list(row.values())) for row in islice(rows, 50))
    if _is_chinese(text):
        return "bert-base-chinese"
    return "bert-base-cased" if name == "token_classification" else "bert-base-uncased"


def _is_chinese(text: str) -> bool:
    return sum("\u4e00" <= letter <= "\u9fff" for letter in text) > len(text) / 10


def _relative(data: str | os.PathLike[str], output: Path) -> str:
    """A path or pattern from the recipe's folder, or if that is far away the whole one; a name of the hub as it is."""
    if not Path(data).exists() and not glob(os.fspath(data)):
        return os.fspath(data)
    found = os.path.relpath(data, output.absolute().parent)
    return os.path.abspath(data) if found.count("..") > 1 else found


def _in_yaml(value: Any) -> str:
    """A value on one line."""
    text = yaml_text(value, 10**6, on_one_line=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _printable(text: str) -> str:
    """Text that may stand in a comment."""
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text)
