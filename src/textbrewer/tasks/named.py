"""Tasks by name, and a task as plain settings."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, cast

from .masked_lm import MaskedLM
from .multi_label import MultiLabelClassification
from .question_answering import QuestionAnswering
from .ranking import PairwiseRanking
from .regression import TextRegression
from .sentence_embedding import SentenceEmbedding
from .task import Task
from .text_classification import TextClassification
from .token_classification import TokenClassification

TASKS: dict[str, type[Task]] = {
    "text_classification": TextClassification,
    "multi_label_classification": MultiLabelClassification,
    "text_regression": TextRegression,
    "token_classification": TokenClassification,
    "question_answering": QuestionAnswering,
    "masked_lm": MaskedLM,
    "sentence_embedding": SentenceEmbedding,
    "ranking": PairwiseRanking,
}
"""Tasks by the name that recipes use; their arguments are the keys of ``task`` there."""


def task_settings(task: Task) -> dict[str, Any]:
    """A task as a recipe says it."""
    return {"name": task.name, **asdict(cast(Any, task))}


def task_from(settings: Any) -> Task | None:
    """The task of :func:`task_settings`; None where they name none.

    Raises:
        ConfigError: with every problem at once.
    """
    if not isinstance(settings, dict) or settings.get("name") not in TASKS:
        return None
    return TASKS[settings["name"]].from_dict({key: value for key, value in settings.items() if key != "name"})
