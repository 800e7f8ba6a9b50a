"""Which column is what: names given by the user, or guessed and said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ...errors import DataError, did_you_mean, one_of
from .table import Table

Column: TypeAlias = str | int | Sequence[str]
"""A column by name or, in a file without names, by number; where a role takes several columns, a list of them."""

GUESSES: dict[str, tuple[str, ...]] = {
    "text": ("text", "sentence", "content", "review", "review_body", "document", "body", "article", "tweet", "comment"),
    "label": (
        "label",
        "labels",
        "class",
        "category",
        "target",
        "sentiment",
        "topic",
        "intent",
        "score",
        "similarity_score",
        "similarity",
        "stars",
        "gold_label",
        "y",
    ),
    "tokens": ("tokens", "words"),
    "tags": ("ner_tags", "tags", "labels", "ner", "pos_tags"),
    "id": ("id", "query_id"),
    "question": ("question", "query_text"),
    "context": ("context", "context_text", "passage", "paragraph"),
    "answers": ("answers", "answer"),
    "is_impossible": ("is_impossible",),
}
"""Names by which a column is taken for what it is called, the likeliest first."""

PAIRS: tuple[tuple[str, str], ...] = (
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("query", "passage"),
    ("query", "document"),
    ("source", "translation"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("sentence_a", "sentence_b"),
)
"""Names of two columns that are taken for a pair of texts."""

KNOWN_NAMES = frozenset(name for names in GUESSES.values() for name in names) | {
    name for pair in PAIRS for name in pair
}
"""Every name that the first row of a file is taken for a header by."""


@dataclass(frozen=True)
class Chosen:
    """The columns of a table that a task reads.

    Attributes:
        columns: by what they are; several columns stand in a list.
        guessed: what of it was guessed.
    """

    columns: Mapping[str, str | list[str]]
    guessed: tuple[str, ...] = ()

    @classmethod
    def of(cls, columns: Mapping[str, str | list[str]], given: Iterable[str]) -> Chosen:
        """The columns, those guessed that were not given and are not called what they are."""
        return cls(columns, tuple(role for role in columns if role not in given and columns[role] != role))

    def get(self, role: str) -> str | list[str] | None:
        """The column of a role, or None."""
        return self.columns.get(role)

    def without(self, role: str) -> Chosen:
        """All but one of them."""
        columns = {name: column for name, column in self.columns.items() if name != role}
        return Chosen(columns, tuple(name for name in self.guessed if name != role))

    def written(self) -> dict[str, str]:
        """For a report."""
        return {role: repr(column) for role, column in self.columns.items()}


def named(table: Table, given: Mapping[str, Column] | None, roles: Iterable[str]) -> dict[str, str | list[str]]:
    """The columns that the user names, checked.

    Raises:
        DataError: a role or a column that there is not; the message shows those there are.
    """
    roles = list(roles)
    found: dict[str, str | list[str]] = {}
    for role, column in (given or {}).items():
        if role not in roles:
            raise DataError(
                f"columns: expected {one_of(roles)}, got {role!r}; {did_you_mean(role, roles)}".rstrip("; ")
            )
        if isinstance(column, (str, int)):
            found[role] = table.require(str(column))
        else:
            found[role] = [table.require(str(item)) for item in column]
    return found


def guessed(table: Table, role: str, guesses: Mapping[str, Sequence[str]] = GUESSES) -> str | None:
    """The column whose name says that it is ``role``, whatever its case."""
    by_name = {column.casefold(): column for column in reversed(table.columns)}
    return next((by_name[name] for name in guesses[role] if name in by_name), None)


def guessed_pair(table: Table) -> tuple[str, str] | None:
    """Two columns whose names say that they are a pair of texts."""
    by_name = {column.casefold(): column for column in reversed(table.columns)}
    return next(((by_name[a], by_name[b]) for a, b in PAIRS if a in by_name and b in by_name), None)


def missing(table: Table, role: str, hint: str = "") -> DataError:
    """The error for a column that was neither named nor guessed."""
    columns = ", ".join(map(repr, table.columns))
    return DataError(
        f"{table.source}: no column is taken for {role!r} among {columns}; write columns={{{role!r}: …}}{hint}"
    )
