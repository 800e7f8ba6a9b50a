"""CoNLL files: a token a line, columns, an empty line between sentences."""

from __future__ import annotations

import re
from pathlib import Path

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
    numbered = [(number, line.rstrip("\r")) for number, line in enumerate(text.split("\n"), 1)]
    # Not str.split() or .strip(): a token may be an ideographic or a no-break space.
    first = next((line for _, line in numbered if line.strip(" \t") and line[0] != "#" and _DOCUMENT not in line), "")
    separator = as_separator(separator) or ("\t" if "\t" in first else None)
    width = len(_fields(first, separator))
    notes = [] if width > 1 or tag is None else ["one column: tokens without tags"]
    if width == 1:
        tag = None
    for name, column in (("token", token), ("tag", tag)):
        if column is not None and not -width <= column < width:
            raise DataError(f"{path}: {name}={column}, but there are {count_of(width, 'column')}: {first[:60]!r}")

    def fits(line: str, fields: list[str]) -> bool:
        """Whether a line is divided as those of tokens are."""
        return len(fields) == width and (separator is not None or "\t" not in line or "\t" in first)

    sentences: list[list[tuple[int, list[str]]]] = [[]]
    bad: list[int] = []
    documents = 0
    for number, line in numbered:
        fields = _fields(line, separator)
        if not line.strip(" \t") or fields[0] == _DOCUMENT:
            documents += bool(line.strip(" \t"))
            if sentences[-1]:
                sentences.append([])
        elif _is_comment(line, comments, bool(sentences[-1]), fits(line, fields)) or (
            token % width > 0 and re.fullmatch(r"\d+[-.]\d+", fields[0])
        ):
            continue
        elif len(fields) != width or not fields[token]:
            bad.append(number)
        else:
            sentences[-1].append((number, fields))
    if bad:
        where = ", ".join(map(str, bad[:SHOWN])) + (", …" if len(bad) > SHOWN else "")
        shown = numbered[bad[0] - 1][1]
        raise DataError(
            f"{path}, line {where}: expected {count_of(width, 'column')} separated by "
            f"{'spaces' if separator is None else repr(separator)} and a token in column {token}, found {shown[:60]!r}"
        )
    sentences = [sentence for sentence in sentences if sentence]
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


def _fields(line: str, separator: str | None) -> list[str]:
    return re.split(r"[ \t]+", line.strip(" \t")) if separator is None else line.split(separator)


def _is_comment(line: str, comments: bool | None, inside: bool, fits: bool) -> bool:
    if not line.startswith("#") or comments is False:
        return False
    return comments is True or (not inside and not fits)
