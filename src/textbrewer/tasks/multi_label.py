"""Multi-label classification: a text, or a pair of texts, and any number of classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator
from torch.nn import functional

from ..configs._base import config_class, reject
from ..losses import full_precision, masked_mean
from .data import Row, Table
from .data.columns import Column
from .encoded import UNLABELLED, Encoded
from .labels import Labels, in_order, label_text, named, names_of
from .scores import set_scores
from .task import Reading, softmax
from .texts import TextTask, chosen_columns

_MARKS = {"0": False, "false": False, "1": True, "true": True}

Share = Annotated[float, Field(ge=0, le=1)]


@config_class
class MultiLabelClassification(TextTask):
    """Texts, or pairs of texts, of any number of classes each.

    A row is ``{"text": …, "label": […]}``; the label is a list of names, or None where it is not known. In a file it is
    a list of names, or of 0 and 1 for each of ``labels``, or names in one cell, or a column of 0 and 1 for each class:
    ``columns={"label": ["toxic", "obscene"]}``.

    The model is one yes-or-no classifier a class, and its own loss the mean binary cross-entropy. A teacher is learned
    from class by class too: ``kd_loss_type="binary_kl"`` or ``"bce"``, or ``"logit_mse"``, ``"mse"``, ``"huber"``.

    Args:
        labels: the classes, as in :class:`~textbrewer.tasks.TextClassification`.
        max_length: tokens of a row, special tokens included; longer rows are cut, which the report counts.
        threshold: the probability from which a class is given; one, or one for each class.
        separator: parts the names in a cell.
        metric: the score to choose a model by; see :func:`~textbrewer.tasks.scores.set_scores`.

    Raises:
        ConfigError: with every problem at once.
    """

    labels: Annotated[Labels, Field(min_length=1)]
    max_length: Annotated[int, Field(ge=4)] = 128
    threshold: Share | dict[str, Share] = 0.5
    separator: Annotated[str, Field(min_length=1)] = ","
    metric: Literal["micro_f1", "macro_f1", "accuracy"] = "micro_f1"

    name: ClassVar[str] = "multi_label_classification"
    label_columns: ClassVar[bool] = True
    soft_losses: ClassVar[tuple[str, ...]] = ("binary_kl", "bce", "logit_mse", "mse", "huber")

    @model_validator(mode="after")
    def _threshold_for_each(self) -> Self:
        if isinstance(self.threshold, dict) and set(self.threshold) != set(self.class_names):
            raise reject(f"a `threshold` for each of {self.class_names}", got=self.threshold)
        return self

    @classmethod
    def from_data(
        cls, data: Any, columns: Mapping[str, Column] | None = None, separator: str = ",", **settings: Any
    ) -> Self:
        """A task with the labels of data; see :meth:`~textbrewer.tasks.TextClassification.from_data`.

        Lists of 0 and 1 have no names; their classes are ``LABEL_0``, ``LABEL_1`` and so on, as in Transformers.
        """
        table = Table.of(data)
        column = chosen_columns(table, columns, True, label_columns=True).get("label")
        found = column if isinstance(column, list) else table.class_names(str(column))
        if found is None:
            lists = [_texts(record.get(str(column)), separator) for record in table]
            found = in_order(text for texts in lists for text in texts)
            sizes = {len(texts) for texts in lists if texts}
            if len(sizes) == 1 and any(map(_are_marks, lists)):
                found = [f"LABEL_{number}" for number in range(sizes.pop())]
        return cls(labels=found, separator=separator, **settings)

    @property
    def class_names(self) -> list[str]:
        """The names of the classes."""
        return names_of(self.labels)

    @property
    def main_metric(self) -> str:
        """The score to choose a model by."""
        return self.metric

    def model_settings(self) -> dict[str, Any]:
        """The labels, as Transformers keeps them in a config."""
        return {**super().model_settings(), "problem_type": "multi_label_classification"}

    def is_unlabelled(self, value: Any) -> bool:
        """An empty cell says that the row is of no class; only a missing one says nothing."""
        return value is None

    def label_of(self, value: Any, reading: Reading) -> list[str] | None:
        """The names of the classes, in their order."""
        texts: list[str] | None
        if isinstance(value, Mapping):
            texts = _marked(value, reading)
        else:
            texts = _texts(value, self.separator)
            if len(texts) == len(self.class_names) and _are_marks(texts, self.labels):
                texts = _marked(dict(zip(self.class_names, texts, strict=True)), reading)
        if texts is None:
            return None
        found = [named(text, self.labels, reading.faults, reading.place) for text in texts]
        return None if None in found else [name for name in self.class_names if name in found]

    def counted(self, rows: Sequence[Row]) -> dict[str, int]:
        """Rows of each class."""
        numbers = Counter(name for row in rows for name in row["label"] or ())
        return {name: numbers[name] for name in self.class_names}

    def number(self, label: Any) -> Any:
        """1 for each class that is given and 0 for the others, as floats, which is how Transformers takes them."""
        known = [UNLABELLED if label is None else name in label for name in self.class_names]
        return np.asarray(known, dtype=np.float32)

    def learned(self, logits: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """``(batch, classes)`` logits, and the mean binary cross-entropy of the labelled rows."""
        labels = batch.get("labels")
        if labels is None:
            return {"logits": logits}
        losses = functional.binary_cross_entropy_with_logits(
            full_precision(logits), labels.clamp(min=0), reduction="none"
        )
        return {"logits": logits, "losses": masked_mean(losses, labels >= 0)}

    def decoded(self, logits: Sequence[Any], encoded: Encoded) -> list[dict[str, Any]]:
        """``labels``, and ``scores``, the probability of each class."""
        names = self.class_names
        bounds = self.threshold if isinstance(self.threshold, dict) else dict.fromkeys(names, self.threshold)
        found = []
        for row in logits:
            yes = softmax(np.stack([np.zeros_like(row), row], axis=-1))[:, 1]
            scores = dict(zip(names, yes.tolist(), strict=True))
            found.append({"labels": [name for name in names if scores[name] >= bounds[name]], "scores": scores})
        return found

    def score(self, predictions: Sequence[Mapping[str, Any]], rows: Sequence[Row]) -> dict[str, float]:
        """See :func:`~textbrewer.tasks.scores.set_scores`."""
        return set_scores([self.number(row["label"]) for row in rows], [self.number(p["labels"]) for p in predictions])


def _texts(cell: Any, separator: str) -> list[str]:
    items = cell if isinstance(cell, (list, tuple)) else [] if cell is None else str(cell).split(separator)
    return [text for item in items if (text := label_text(item))]


def _are_marks(texts: Sequence[str], names: Container[str] = tuple(_MARKS)) -> bool:
    """Whether a list has 0 or 1 for each class, and not names that are these numbers, which do not come twice."""
    marks = all(text in _MARKS for text in texts)
    return marks and (len(set(texts)) < len(texts) or not all(text in names for text in texts))


def _marked(cells: Mapping[str, Any], reading: Reading) -> list[str] | None:
    """The columns that say 1."""
    marks = {column: _MARKS.get(label_text(value).lower()) for column, value in cells.items()}
    for column, mark in marks.items():
        if mark is None:
            reading.faults.add(
                f"value {cells[column]!r} in the column {column!r}, where 0 or 1 is needed", reading.place
            )
            return None
    return [column for column, mark in marks.items() if mark]
