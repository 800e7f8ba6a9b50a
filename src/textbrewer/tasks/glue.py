"""The tasks of GLUE (Wang et al., 1804.07461), as their datasets on the hub have them."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..errors import UnknownNameError, did_you_mean, one_of
from .regression import TextRegression
from .text_classification import TextClassification
from .texts import ROLES, TextTask


class GlueTask(NamedTuple):
    """One of them.

    Attributes:
        columns: for :meth:`~textbrewer.tasks.Task.rows`.
        labels: its classes, in their order there; empty for numbers.
        metrics: what GLUE reports of it, by the names of :meth:`~textbrewer.tasks.Task.evaluate`.
    """

    columns: dict[str, str]
    labels: list[str]
    metrics: list[str]


def _glue(columns: str, labels: str, metrics: str = "accuracy") -> GlueTask:
    return GlueTask(
        {**dict(zip(ROLES, columns.split(), strict=False)), "label": "label"}, labels.split(), metrics.split()
    )


GLUE = {
    "cola": _glue("sentence", "unacceptable acceptable", "mcc"),
    "sst2": _glue("sentence", "negative positive"),
    "mrpc": _glue("sentence1 sentence2", "not_equivalent equivalent", "accuracy f1"),
    "stsb": _glue("sentence1 sentence2", "", "pearson spearman"),
    "qqp": _glue("question1 question2", "not_duplicate duplicate", "accuracy f1"),
    "mnli": _glue("premise hypothesis", "entailment neutral contradiction"),
    "qnli": _glue("question sentence", "entailment not_entailment"),
    "rte": _glue("sentence1 sentence2", "entailment not_entailment"),
    "wnli": _glue("sentence1 sentence2", "not_entailment entailment"),
}
"""The tasks by the name of their configuration of ``nyu-mll/glue``."""


def glue_task(name: str, **settings: Any) -> TextTask:
    """The task of this name.

    Args:
        name: of :data:`GLUE`.
        **settings: of the task's class.

    Raises:
        UnknownNameError: there is none.

    >>> glue_task("cola").main_metric
    'mcc'
    """
    if name not in GLUE:
        raise UnknownNameError(
            f"glue: expected {one_of(GLUE)}, got {name!r}; {did_you_mean(name, GLUE)}".removesuffix("; ")
        )
    found = GLUE[name]
    chosen = {"metric": found.metrics[0], **settings}
    return TextClassification(labels=found.labels, **chosen) if found.labels else TextRegression(**chosen)
