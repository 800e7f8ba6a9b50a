"""Rows as they were read, with the place of each in its source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import DataError, did_you_mean
from .report import Finding

_CHUNK = 1000


@dataclass(frozen=True)
class Table:
    """Named columns, read but not yet checked by a task.

    Iterating gives one dict a row. Class numbers that carry names (``datasets.ClassLabel``) come as their names, and
    -1, by which hidden labels are marked, as None.

    Attributes:
        data: a ``datasets.Dataset``, or a list of dicts.
        source: what messages call it.
        marks: of each row, its line in a file or a name of its place; None counts rows from 1.
        notes: decisions that were taken while reading.
        findings: what was wrong while reading.
    """

    data: Any
    source: str
    marks: Sequence[int | str] | None = None
    notes: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    @classmethod
    def of(cls, data: Any) -> Table:
        """A table of what users hold: a table, a ``datasets.Dataset``, or a list of dicts.

        Raises:
            DataError: it is none of them.
        """
        if isinstance(data, Table):
            return data
        if hasattr(data, "column_names") and hasattr(data, "with_format"):
            if not isinstance(data.column_names, list):
                raise DataError(f"expected rows, got splits {sorted(data.column_names)}; give one of them")
            return cls(data, "dataset")
        if isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
            for i, row in enumerate(data):
                if not isinstance(row, Mapping):
                    raise DataError(f"row {i + 1}: expected a dict of columns, got {type(row).__name__}")
            return cls(data, "rows")
        raise DataError(
            f"expected a table from read(), a datasets.Dataset or a list of dicts, got {type(data).__name__}"
        )

    @property
    def columns(self) -> list[str]:
        """Their names; of a list of dicts, every key of any row."""
        if isinstance(self.data, Sequence):
            return list(dict.fromkeys(key for row in self.data for key in row))
        return list(self.data.column_names)

    def require(self, column: str) -> str:
        """``column``, if there is one of that name.

        Raises:
            DataError: there is none; the message shows those there are.
        """
        if column in self.columns:
            return column
        hint = did_you_mean(column, self.columns)
        raise DataError(
            f"{self.source}: there is no column {column!r}; its columns are {', '.join(map(repr, self.columns))}"
            + (f"; {hint}" if hint else "")
        )

    def class_names(self, column: str) -> list[str] | None:
        """The names of a column of class numbers in their order; None for any other column."""
        return None if isinstance(self.data, Sequence) else _class_names(self.data.features[column])

    def place(self, index: int) -> str:
        """Where row ``index`` stands, in words: ``line 3``, ``row 3``, a file, a question."""
        if self.marks is None:
            return f"row {index + 1}"
        mark = self.marks[index]
        return f"line {mark}" if isinstance(mark, int) else mark

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if isinstance(self.data, Sequence):
            yield from map(_plain_row, self.data)
            return
        features = self.data.features
        named = {column: names for column in self.columns if (names := _class_names(features[column]))}
        # Arrow has JSON as text; of the rest it has what datasets has, and faster.
        in_json = type(features)({column: features[column] for column in self.columns if _holds_json(features[column])})
        for chunk in self.data.with_format("arrow").iter(_CHUNK):
            for row in chunk.to_pylist():
                for column, names in named.items():
                    row[column] = _named(row[column], names)
                yield {**row, **in_json.decode_example({name: row[name] for name in in_json})} if in_json else row


def _plain_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without what pandas puts in place of nothing and of lists."""
    return {key: _plain(value) for key, value in row.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


def _holds_json(feature: Any) -> bool:
    """Whether a column has JSON (``datasets.Json``), by itself or within lists and records."""
    if isinstance(feature, Mapping):
        return any(map(_holds_json, feature.values()))
    inner = getattr(feature, "feature", None)
    return type(feature).__name__ == "Json" or (inner is not None and _holds_json(inner))


def _class_names(feature: Any) -> list[str] | None:
    """The names of a column of class numbers, or of lists of them."""
    names = getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None)
    return list(names) if names else None


def _named(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    return names[value] if isinstance(value, int) and value >= 0 else None
