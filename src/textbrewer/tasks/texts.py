"""What the tasks on whole texts, or pairs of texts, have in common."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from ..errors import DataError
from .data import Lengths, Row, Rows, Table
from .data.columns import Chosen, Column, guessed, guessed_pair, missing, named
from .data.report import Tally
from .encoded import Encoded, Feature, Padding, Part, chunks
from .labels import number_in
from .task import Reading, Task
from .tokens import cut_to, require_fit

ROLES = ("text", "text_pair", "label")


class TextTask(Task):
    """A text, or a pair of texts, and something that is true of it.

    A row is ``{"text": …, "label": …}``, with ``text_pair`` for a pair; its label is None where it is not known.
    """

    max_length: int
    head: ClassVar[str] = "AutoModelForSequenceClassification"
    target: ClassVar[str] = "label"
    by_row: ClassVar[bool] = True
    label_columns: ClassVar[bool] = False
    """Whether the label may stand in several columns."""

    @abstractmethod
    def label_of(self, value: Any, reading: Reading) -> Any:
        """The label in a cell, or None with a fault noted; of several columns, ``value`` is a dict of their cells."""

    @abstractmethod
    def is_unlabelled(self, value: Any) -> bool:
        """Whether a cell says that the label is not known."""

    @abstractmethod
    def number(self, label: Any) -> Any:
        """A label, or None, as it stands in a batch."""

    def choose(self, table: Table, columns: Mapping[str, Column] | None, labelled: bool | None) -> Chosen:
        """``text``, ``text_pair`` and ``label``."""
        return chosen_columns(table, columns, labelled, self.label_columns)

    def row(self, record: Mapping[str, Any], chosen: Chosen, reading: Reading) -> Row:
        """A row with its label by name."""
        row = {role: _text(record.get(str(chosen.get(role)))) for role in ("text", "text_pair") if chosen.get(role)}
        column = chosen.get("label")
        if column is None:
            return {**row, "label": None}
        value = {name: record.get(name) for name in column} if isinstance(column, list) else record.get(column)
        if self.is_unlabelled(value):
            reading.tally.add("row without label", reading.place, "kept for its text")
            return {**row, "label": None}
        return {**row, "label": self.label_of(value, reading)}

    def is_empty(self, row: Row) -> str:
        """A row needs its text, and both of a pair."""
        return "" if row["text"] and row.get("text_pair", "pair") else "row without text"

    def group(self, row: Row) -> Hashable:
        """The same text is not trained on and tested on."""
        return row["text"], row.get("text_pair")

    def record(self, given: Any) -> Mapping[str, Any]:
        """A text, a pair of texts or a dict."""
        if isinstance(given, str):
            return {"text": given}
        if isinstance(given, (tuple, list)) and len(given) == 2:
            return {"text": given[0], "text_pair": given[1]}
        if isinstance(given, Mapping):
            return given
        raise DataError(f"predict: expected a text, a pair of texts or a dict, got {type(given).__name__}")

    def encoded(self, rows: Rows, tokenizer: Any) -> Encoded:
        """Token ids, cut to ``max_length``; of a pair, the longer text is cut first."""
        require_fit(tokenizer, self.max_length)
        paired = {"text_pair" in row for row in rows}
        if len(paired) > 1:
            raise DataError(f"{rows.report.source}: some rows are pairs of texts and others single ones")
        labelled = rows.labelled > 0
        features: list[Feature] = []
        longest = longer = 0
        for chunk in chunks(rows):
            texts = [[row[role] for row in chunk] for role in ("text", "text_pair") if role in chunk[0]]
            shown, lengths = cut_to(tokenizer, self.max_length, *texts)
            longest, longer = max(longest, *lengths), longer + sum(length > self.max_length for length in lengths)
            for feature, row in zip(shown, chunk, strict=True):
                features.append({**feature, "labels": self.number(row["label"])} if labelled else feature)
        report = rows.report.with_lengths(Lengths(longest, self.max_length, longer, "cut"))
        return Encoded(rows, features, [Part(i) for i in range(len(rows))], Padding(tokenizer), report)


class NumberTask(TextTask):
    """A text task whose label is a number.

    Where all numbers of a table are -1, by which hidden labels are marked, as in the test set of STS-B, none is known.
    """

    def begin(self, table: Table, chosen: Chosen, reading: Reading) -> None:
        """Find out whether the labels are hidden."""
        column = chosen.get("label")
        reading.context = column is not None and _are_hidden(record.get(str(column)) for record in table)
        if reading.context:
            reading.notes.append(f"{column}: -1 everywhere, so taken for not known")

    def is_unlabelled(self, value: Any) -> bool:
        """An empty cell says nothing."""
        return value is None or value == ""

    def label_of(self, value: Any, reading: Reading) -> float | None:
        """The number; None where labels are hidden."""
        return None if reading.context else number_in(value, reading.faults, reading.place)

    def counted(self, rows: Sequence[Row]) -> dict[str, int]:
        """Numbers are not counted."""
        return {}

    def number(self, label: Any) -> float:
        """The number itself; NaN where it is not known."""
        return math.nan if label is None else float(label)


def _are_hidden(cells: Iterable[Any]) -> bool:
    """Whether there are labels, and each is the -1 that marks a hidden one."""
    given = (number_in(cell, Tally(), "") for cell in cells if cell is not None and cell != "")
    return next(given, None) == -1 and all(number == -1 for number in given)


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def chosen_columns(
    table: Table, columns: Mapping[str, Column] | None, labelled: bool | None, label_columns: bool = False
) -> Chosen:
    """The columns of texts and labels: as given, else by their names, else by what is in them.

    Raises:
        DataError: a column is not there, or cannot be guessed.
    """
    found = named(table, columns, ROLES)
    given = set(found)
    for role, column in found.items():
        if isinstance(column, list) and (role != "label" or not label_columns):
            raise DataError(f"columns: {role!r} takes one column, got {column}")
    if labelled is False:
        found.pop("label", None)
    if "text" not in found:
        pair, text = guessed_pair(table), guessed(table, "text")
        if pair and "text_pair" not in found:
            found |= {"text": pair[0], "text_pair": pair[1]}
        elif text:
            found["text"] = text
        else:
            found |= _by_content(table, labelled is not False) if not given else {}
    if "text" not in found:
        raise missing(table, "text")
    if labelled is not False and "label" not in found:
        label = guessed(table, "label")
        if label is not None and label not in found.values():
            found["label"] = label
        elif labelled:
            raise missing(table, "label", "; labelled=False reads texts without labels")
    return Chosen.of(found, given)


def _by_content(table: Table, labelled: bool) -> dict[str, str]:
    """Of columns without names, the label is the one with the fewest different values, and the others are texts."""
    columns = table.columns
    if not all(column.isdecimal() for column in columns) or not 1 <= len(columns) - labelled <= 2:
        return {}
    if not labelled and len(columns) > 1:
        return {}  # one of them may be the label
    different = {column: len({record[column] for record in table}) for column in columns}
    label = min(reversed(columns), key=lambda column: different[column]) if labelled else None
    texts = [column for column in columns if column != label]
    return dict(zip(("text", "text_pair"), texts, strict=False)) | ({"label": label} if label else {})
