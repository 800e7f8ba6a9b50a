"""What a model tells of its task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..configs.student import HeadConfig
from ..errors import DataError, UnsupportedError
from ..matching.layers import positions_of
from ..students.heads import HEAD_CLASSES, head_of
from ..tasks import (
    MultiLabelClassification,
    QuestionAnswering,
    Rows,
    Table,
    Task,
    TextClassification,
    TextRegression,
    TokenClassification,
)

_LONGEST = 512


def task_for(model: nn.Module, tokenizer: Any) -> Task:
    """The task of a model's head, with the labels and the longest row that the model has.

    Raises:
        UnsupportedError: the head is of none of the tasks.
    """
    head = getattr(getattr(model, "config", None), "head", None)
    found = head if isinstance(head, HeadConfig) else head_of(model)
    if found is None:
        raise UnsupportedError(
            f"{type(model).__name__} does not say what it is for; export takes classes that end in "
            f"{', '.join(HEAD_CLASSES)} and BiGRUStudent, or give task=…"
        )
    longest = min(positions_of(model) or _LONGEST, tokenizer.model_max_length, _LONGEST)
    labels = found.labels or [f"LABEL_{i}" for i in range(found.num_labels)]
    if found.task == "question-answering":
        return QuestionAnswering.from_dict(QuestionAnswering.lengths(min(384, longest)))
    if found.task == "token-classification":
        return TokenClassification(labels, max_length=longest)
    if found.problem_type == "multi_label_classification":
        return MultiLabelClassification(labels, max_length=longest)
    if found.num_labels == 1:
        return TextRegression(max_length=longest)
    return TextClassification(labels, max_length=longest)


def rows_of(task: Task, data: Any) -> Rows:
    """Rows of what users hold: a table, rows, or a list of what ``task.predict`` takes.

    Raises:
        DataError: there are none.
    """
    if data is None or (isinstance(data, Sequence) and not len(data)):
        raise DataError("export: no rows; give some real ones, by which the exported model is checked and measured")
    if isinstance(data, (str, bytes, Mapping)):
        raise DataError(f"export: expected a list of rows, got one {type(data).__name__}; write [row]")
    if isinstance(data, Sequence) and not isinstance(data, (Rows, Table)):
        data = [task.record(row) for row in data]
    return task.rows(data, labelled=None)
