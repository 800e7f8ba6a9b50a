"""Rows that a task has checked, and how they are parted."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias, overload

from ...errors import DataError
from .report import DataReport

Row: TypeAlias = Mapping[str, Any]
"""One example, by the names that its task uses."""


@dataclass(frozen=True)
class Rows(Sequence[Row]):
    """Checked rows, and the report of how they came to be.

    Attributes:
        rows: the rows.
        report: what was found.
        target: the key of what is to be learned; a row where it is None has no label.
    """

    rows: Sequence[Row]
    report: DataReport
    target: str

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> Row | Rows:
        return self.part(range(len(self))[index]) if isinstance(index, slice) else self.rows[index]

    @cached_property
    def labelled(self) -> int:
        """How many rows have a label; counted once, since every row is asked."""
        return sum(row[self.target] is not None for row in self.rows)

    def without_labels(self) -> Rows:
        """The same rows, none of them with a label."""
        report = replace(self.report, labelled=0, labels={})
        return replace(self, rows=[{**row, self.target: None} for row in self.rows], report=report)

    def part(self, indices: Sequence[int], name: str = "part of {source}") -> Rows:
        """Some of the rows, in the order of ``indices``."""
        part = replace(self, rows=[self.rows[i] for i in indices])
        report = replace(
            self.report,
            source=name.format(source=self.report.source),
            rows=len(part),
            used=len(part),
            labelled=part.labelled,
            labels={},
            findings=(),
            notes=(),
        )
        return replace(part, report=report)


def held_out(
    rows: Sequence[Row], share: float, seed: int, group: Callable[[Row], Hashable]
) -> tuple[list[int], list[int]]:
    """Indices to train on and indices to hold out, each in order; the same for the same rows and seed everywhere.

    Args:
        rows: what is parted.
        share: of the rows to hold out, more than 0 and less than 1.
        seed: decides which.
        group: rows of the same group stay together.

    Raises:
        DataError: ``share`` is no such number, or all rows are of one group.
    """
    if not 0 < share < 1:
        raise DataError(f"split: expected a share between 0 and 1, got {share}")
    groups: dict[Hashable, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(group(row), []).append(index)
    if len(groups) < 2:
        raise DataError("split: there is nothing to part: all rows belong together; give a file to validate on")
    names = list(groups)
    random.Random(seed).shuffle(names)
    held: list[int] = []
    for name in names[1:]:
        held += groups[name]
        if len(held) >= share * len(rows):
            break
    kept = set(range(len(rows))) - set(held)
    return sorted(kept), sorted(held)
