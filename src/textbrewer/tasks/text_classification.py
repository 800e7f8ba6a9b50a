"""Text classification: a text, or a pair of texts, and its class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field
from torch.nn import functional

from ..configs._base import config_class
from ..losses import full_precision, masked_mean
from .data import Row, Table
from .data.columns import Column
from .encoded import UNLABELLED, Encoded
from .labels import Labels, in_order, label_text, named, names_of
from .scores import class_scores
from .task import Reading, softmax
from .texts import TextTask, chosen_columns


@config_class
class TextClassification(TextTask):
    """Texts, or pairs of texts, of one class each.

    A row is ``{"text": …, "label": …}``, with ``text_pair`` for a pair. Its label is a name, or None if it is unknown.

    Args:
        labels: the classes in the order of the model's, or a mapping of what the data says to the names of the classes,
            in whose order they come: ``{"0": "negative", "1": "positive"}``.
        max_length: tokens of a row, special tokens included; longer rows are cut, which the report counts.
        metric: the score to choose a model by; see :func:`~textbrewer.tasks.scores.class_scores`.

    Raises:
        ConfigError: with every problem at once.

    >>> TextClassification({"0": "negative", "1": "positive"}).class_names
    ['negative', 'positive']
    """

    labels: Annotated[Labels, Field(min_length=2)]
    max_length: Annotated[int, Field(ge=4)] = 128
    metric: Literal["accuracy", "macro_f1", "micro_f1", "mcc", "f1"] = "accuracy"

    name: ClassVar[str] = "text_classification"

    @classmethod
    def from_data(cls, data: Any, columns: Mapping[str, Column] | None = None, **settings: Any) -> Self:
        """A task with the labels of data: in its own order where it names its classes, else sorted.

        Raises:
            DataError: there is no column of labels.
        """
        table = Table.of(data)
        column = str(chosen_columns(table, columns, True).get("label"))
        cells = (record.get(column) for record in table)
        found = table.class_names(column) or in_order(label_text(cell) for cell in cells if cell not in (None, ""))
        return cls(labels=found, **settings)

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
        return {**super().model_settings(), "problem_type": "single_label_classification"}

    def is_unlabelled(self, value: Any) -> bool:
        """An empty cell says nothing."""
        return value is None or label_text(value) == ""

    def label_of(self, value: Any, reading: Reading) -> str | None:
        """The name of the class."""
        return named(label_text(value), self.labels, reading.faults, reading.place)

    def counted(self, rows: Sequence[Row]) -> dict[str, int]:
        """Rows of each class."""
        numbers = Counter(row["label"] for row in rows)
        return {name: numbers[name] for name in self.class_names}

    def number(self, label: Any) -> int:
        """The number of the class."""
        return UNLABELLED if label is None else self.class_names.index(label)

    def learned(self, logits: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """``(batch, classes)`` logits, and the mean cross-entropy of the labelled rows."""
        labels = batch.get("labels")
        if labels is None:
            return {"logits": logits}
        losses = functional.cross_entropy(full_precision(logits), labels, ignore_index=UNLABELLED, reduction="none")
        return {"logits": logits, "labels": labels, "losses": masked_mean(losses, labels >= 0)}

    def decoded(self, logits: Sequence[Any], encoded: Encoded) -> list[dict[str, Any]]:
        """``label``, and ``scores``, the probability of each class."""
        names = self.class_names
        rows = [dict(zip(names, softmax(row).tolist(), strict=True)) for row in logits]
        return [{"label": max(names, key=scores.__getitem__), "scores": scores} for scores in rows]

    def score(self, predictions: Sequence[Mapping[str, Any]], rows: Sequence[Row]) -> dict[str, float]:
        """See :func:`~textbrewer.tasks.scores.class_scores`."""
        true = [self.number(row["label"]) for row in rows]
        return class_scores(true, [self.number(each["label"]) for each in predictions], len(self.class_names))
