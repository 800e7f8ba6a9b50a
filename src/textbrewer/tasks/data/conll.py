"""CoNLL files: a token a line, columns, an empty line between sentences."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from ...errors import DataError, count_of
from .report import SHOWN
from .table import Table
from .text import BadBytes, as_separator, table_of, text_of

_DOCUMENT = "-DOCSTART-"


def read_conll(
    path: Path,
    *,
    token: int | None = None,
    tag: int | None = -1,
    separator: str | None = None,
    comments: bool | None = None,
    encoding: str | None = None,
    bad_bytes: BadBytes = "refuse",
) -> Table:
    """Sentences with ``tokens``, ``tags`` and ``lines``, the line of each token.

    ``-DOCSTART-`` lines end a sentence and are left out, as are CoNLL-U's lines of contracted and empty words.

    Args:
        path: the file.
        token: the column of the tokens; negative numbers count from the last. None is the first one, and of ``.conllu``
            the second, behind the words' numbers.
        tag: the column of the tags; None reads none, as does a file of one column. Of ``.conllu``, where ``token`` is
            not said, -1 is the fourth column, the universal parts of speech.
        separator: None for a tab if the first token's line has one, else runs of spaces and tabs.
        comments: whether lines that begin with ``#`` are comments; None takes one for a comment if it stands before a
            sentence and has not as many columns as the tokens (``#`` may well be a token), or other separators.
        encoding: see :func:`~textbrewer.tasks.data.text.text_of`.
        bad_bytes: likewise.

    Raises:
        DataError: lines with another number of columns, or without a token, with their numbers; a column there is not.
    """
    if token is None:
        numbered_words = path.suffix.lower() == ".conllu"
        token, tag = int(numbered_words), 3 if numbered_words and tag == -1 else tag
    text, findings = text_of(path, encoding, bad_bytes)
    lines = [(number, line.rstrip("\r")) for number, line in enumerate(text.split("\n"), 1)]
    layout = _Layout.of([line for _, line in lines], as_separator(separator), token, comments)
    notes = [] if layout.width > 1 or tag is None else ["one column: tokens without tags"]
    if layout.width == 1:
        tag = None
    for name, column in (("token", token), ("tag", tag)):
        if column is not None and not -layout.width <= column < layout.width:
            raise DataError(
                f"{path}: {name}={column}, but there are {count_of(layout.width, 'column')}: {layout.first[:60]!r}"
            )
    sentences, documents = _sentences(lines, layout, path)
    rows = [
        {
            "tokens": [fields[token] for _, fields in sentence],
            **({} if tag is None else {"tags": [fields[tag] for _, fields in sentence]}),
            "lines": [number for number, _ in sentence],
        }
        for sentence in sentences
    ]
    if documents:
        notes.append(f"{count_of(documents, _DOCUMENT + ' line')} left out")
    return table_of(rows, path, [sentence[0][0] for sentence in sentences], notes, findings)


class _Layout(NamedTuple):
    """How the lines of a file are divided.

    Attributes:
        first: the first line with a token.
        separator: None for runs of spaces and tabs.
        width: how many columns there are.
        token: the column of the tokens.
        comments: as :func:`read_conll` takes it.
    """

    first: str
    separator: str | None
    width: int
    token: int
    comments: bool | None

    @classmethod
    def of(cls, lines: list[str], separator: str | None, token: int, comments: bool | None) -> _Layout:
        """That of these lines."""
        # Not str.split() or .strip(): a token may be an ideographic or a no-break space.
        first = next((line for line in lines if line.strip(" \t") and line[0] != "#" and _DOCUMENT not in line), "")
        separator = separator or ("\t" if "\t" in first else None)
        return cls(first, separator, len(_fields(first, separator)), token, comments)

    def fields(self, line: str) -> list[str]:
        """What stands in the columns."""
        return _fields(line, self.separator)

    def is_comment(self, line: str, inside: bool) -> bool:
        """Whether a line is one, ``inside`` a sentence or before it."""
        if not line.startswith("#") or self.comments is False:
            return False
        like_tokens = self.separator is not None or "\t" not in line or "\t" in self.first
        fits = len(self.fields(line)) == self.width and like_tokens
        return self.comments is True or (not inside and not fits)

    def is_no_word(self, fields: list[str]) -> bool:
        """Whether a line is of a contracted or an empty word, as CoNLL-U has them."""
        return self.token % self.width > 0 and re.fullmatch(r"\d+[-.]\d+", fields[0]) is not None


def _sentences(
    lines: list[tuple[int, str]], layout: _Layout, path: Path
) -> tuple[list[list[tuple[int, list[str]]]], int]:
    """The fields of each token with the number of its line, by sentence; and how many documents begin."""
    sentences: list[list[tuple[int, list[str]]]] = [[]]
    bad: list[tuple[int, str]] = []
    documents, width = 0, layout.width
    for number, line in lines:
        fields = layout.fields(line)
        if not line.strip(" \t") or fields[0] == _DOCUMENT:
            documents += bool(line.strip(" \t"))
            sentences.append([])
        elif layout.is_comment(line, bool(sentences[-1])) or layout.is_no_word(fields):
            continue
        elif len(fields) != width or not fields[layout.token]:
            bad.append((number, line))
        else:
            sentences[-1].append((number, fields))
    if bad:
        where = ", ".join(str(number) for number, _ in bad[:SHOWN]) + (", …" if len(bad) > SHOWN else "")
        divided = "spaces" if layout.separator is None else repr(layout.separator)
        raise DataError(
            f"{path}, line {where}: expected {count_of(width, 'column')} separated by {divided} and a token in column "
            f"{layout.token}, found {bad[0][1][:60]!r}"
        )
    return [sentence for sentence in sentences if sentence], documents


def _fields(line: str, separator: str | None) -> list[str]:
    return re.split(r"[ \t]+", line.strip(" \t")) if separator is None else line.split(separator)
