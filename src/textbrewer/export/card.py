"""The model card of an exported folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import yaml

from ..configs._base import Config, config_class
from ..tasks import Task
from .scripts import usage_of

NOT_GIVEN = "not given"

_TAGS = {
    "text_classification": "text-classification",
    "multi_label_classification": "text-classification",
    "text_regression": "text-classification",
    "token_classification": "token-classification",
    "question_answering": "question-answering",
}


@config_class
class Card(Config):
    """What people must know of a model and no program can find out; what is left out is written as "not given".

    Args:
        name: of the model; None for the folder's.
        licence: of the model.
        language: of the texts.
        teacher: the model it was distilled from.
        training_data: what it was trained on.
        data_licence: of that.
        intended_use: what it is for.
        limitations: what it is not for, and where it fails.
        contact: whom to ask.

    Raises:
        ConfigError: a key is unknown, or a value is no text.

    >>> Card(licence="MIT").data_licence is None
    True
    """

    name: str | None = None
    licence: str | None = None
    language: str | None = None
    teacher: str | None = None
    training_data: str | None = None
    data_licence: str | None = None
    intended_use: str | None = None
    limitations: str | None = None
    contact: str | None = None


def card_text(
    card: Card,
    *,
    name: str,
    task: Task,
    kind: str,
    files: Mapping[str, str],
    table: Sequence[Sequence[str]],
    measured: str,
) -> str:
    """The text of ``README.md``.

    Args:
        card: what was given.
        name: of the model, where the card has none.
        task: what it does.
        kind: what it is, in a sentence.
        files: what each file of the folder is.
        table: the measurements.
        measured: on what they were made, and where.
    """
    front: dict[str, Any] = {"library_name": "onnx", "pipeline_tag": _TAGS[task.name]}
    front |= {key: value for key, value in (("license", card.licence), ("language", card.language)) if value}
    given = [(each.name, getattr(card, each.name) or NOT_GIVEN) for each in fields(card) if each.name != "name"]
    labels = ", ".join(_cell(label) for label in task.class_names)
    return "\n".join(
        [
            "---",
            yaml.safe_dump(front, sort_keys=True, allow_unicode=True) + "---",
            "",
            f"# {card.name or name}",
            "",
            kind,
            "",
            "    pip install onnxruntime tokenizers",
            f"    python predict.py {usage_of(task)}",
            "",
            *([f"Labels: {labels}.", ""] if labels else []),
            "## Measured",
            "",
            *_markdown(table),
            "",
            measured,
            "",
            "## About",
            "",
            *_markdown([("", ""), *((key.replace("_", " ").capitalize(), value) for key, value in given)]),
            "",
            "## Files",
            "",
            *_markdown([("", ""), *((f"`{file}`", what) for file, what in files.items())]),
            "",
        ]
    )


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *body = ([_cell(cell) for cell in row] for row in rows)
    return [_line(head), _line(["---", *["---:" if len(head) > 2 else "---"] * (len(head) - 1)]), *map(_line, body)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    """Text that stays in its cell."""
    return " ".join(text.replace("|", r"\|").split())
