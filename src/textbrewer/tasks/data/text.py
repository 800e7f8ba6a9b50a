"""Text files to rows: bytes to text, and text to CSV, TSV, JSON lines and plain lines, with their numbers."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from ...errors import DataError, MissingDependencyError, count_of
from .columns import KNOWN_NAMES
from .report import SHOWN, Finding
from .table import Table

BadBytes = Literal["refuse", "replace"]
"""What becomes of bytes that are no text in the encoding: an error, or U+FFFD in their place, counted."""

_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def text_of(path: Path, encoding: str | None = None, bad_bytes: BadBytes = "refuse") -> tuple[str, tuple[Finding, ...]]:
    """The text of a file, and what was wrong with its bytes.

    Args:
        path: the file.
        encoding: None for UTF-8, or what a byte order mark says.
        bad_bytes: see :data:`BadBytes`.

    Raises:
        DataError: bytes that are no text in that encoding, with their lines; a binary file; an unknown encoding.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    marked = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    used = encoding or marked
    if encoding and encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
        used = "utf-8-sig"  # a mark is no part of the text, whether or not it was expected
    if b"\0" in data[:65536] and "16" not in used and "32" not in used:
        raise DataError(f"{path}: this is a binary file, not text")
    try:
        text = data.decode(used)
    except LookupError:
        raise DataError(f"{path}: there is no encoding {encoding!r}; write e.g. 'utf-8', 'gb18030', 'cp1252'") from None
    except UnicodeDecodeError as error:
        found = _undecodable(data, used, error)
        if bad_bytes == "refuse":
            raise DataError(_refusal(path, data, used, found)) from None
        places = tuple(f"line {number}" for number in found[:SHOWN])
        return data.decode(used, errors="replace"), (
            Finding(f"line with bytes that are not {used}", len(found), places, "replaced by U+FFFD"),
        )
    if "\ufffd" not in text:
        return text, ()
    lost = [number for number, line in enumerate(text.split("\n"), 1) if "\ufffd" in line]
    places = tuple(f"line {number}" for number in lost[:SHOWN])
    return text, (Finding("line with U+FFFD, where an earlier program lost a character", len(lost), places, "kept"),)


def _undecodable(data: bytes, encoding: str, error: UnicodeDecodeError) -> list[int]:
    if "16" in encoding or "32" in encoding:
        return [data[: error.start].decode(encoding, errors="replace").count("\n") + 1]
    return [number for number, line in enumerate(data.split(b"\n"), 1) if not _decodes(line, encoding)]


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _refusal(path: Path, data: bytes, encoding: str, lines: list[int]) -> str:
    bad = data.split(b"\n")[lines[0] - 1]
    where = ", ".join(map(str, lines[:SHOWN])) + (", …" if len(lines) > SHOWN else "")
    others = [line for line in data.split(b"\n") if not line.isascii()]
    if len(others) > 2 * len(lines):  # a few lines of Chinese may be UTF-8 by chance
        hint = "other lines are, so the file mixes encodings: write it anew in one"
    else:
        fitting = [name for name in ("gb18030", "cp1252") if _decodes(data, name)]
        if "gb18030" in fitting and not re.search("[\u4e00-\u9fff]{2}", data.decode("gb18030")):
            fitting.reverse()
        hint = f"perhaps encoding={(fitting or ['latin-1'])[0]!r}"
    return (
        f"{path}: {count_of(len(lines), 'line')} not {encoding} (line {where}; the first is {bad[:60]!r}); {hint}, or "
        "bad_bytes='replace' puts U+FFFD there"
    )


def as_separator(given: str | None) -> str | None:
    r"""A separator, with the tab that ``\t`` stands for, as a shell and plain YAML leave it."""
    return "\t" if given == r"\t" else given


def read_csv(
    path: Path,
    *,
    separator: str | None = None,
    header: bool | list[str] | None = None,
    quotes: bool = True,
    encoding: str | None = None,
    bad_bytes: BadBytes = "refuse",
) -> Table:
    """Separated values, all as text.

    Args:
        path: the file.
        separator: None for a comma, or a semicolon or tab if the first line has that and no comma.
        header: whether the first row names the columns, or their names if no row does; None guesses, and says so.
            Without names, columns are called ``"0"``, ``"1"``, and so on.
        quotes: whether ``"…"`` encloses a value.
        encoding: see :func:`text_of`.
        bad_bytes: see :func:`text_of`.

    Raises:
        DataError: rows with more or fewer values than the first, with their lines.
    """
    separator = as_separator(separator)
    if separator is not None and (len(separator) != 1 or separator in '\r\n"'):
        raise DataError(f"option separator: expected one character, got {separator!r}")
    text, findings = text_of(path, encoding, bad_bytes)
    notes: list[str] = []
    if separator is None:
        first = text.partition("\n")[0]
        separator = "," if "," in first else next((mark for mark in ";\t" if mark in first), ",")
        if separator != ",":
            notes.append(f"separator {separator!r} (guessed)")
    rows, lines = _separated(path, text, separator, quotes)
    if not rows:
        return table_of([], path, [], notes, findings)
    named, guessed = _header_of(rows, header)
    names = header if isinstance(header, list) else rows[0] if named else [str(i) for i in range(len(rows[0]))]
    if named:
        rows, lines = rows[1:], lines[1:]
    if guessed:
        notes.append("the first row names the columns (guessed)" if named else "no header (guessed)")
    _require_distinct(path, names)
    ragged = [line for row, line in zip(rows, lines, strict=True) if len(row) != len(names)]
    if ragged:
        row = rows[lines.index(ragged[0])]
        raise DataError(
            f"{path}: {count_of(len(names), 'column')}, but line {ragged[0]} has {count_of(len(row), 'value')}"
            + (f" ({len(ragged):,} such lines)" if len(ragged) > 1 else "")
            + f"; the separator is {separator!r} and quotes={quotes}"
        )
    return table_of([dict(zip(names, row, strict=True)) for row in rows], path, lines, notes, findings)


def read_tsv(
    path: Path,
    *,
    header: bool | list[str] | None = None,
    quotes: bool = False,
    encoding: str | None = None,
    bad_bytes: BadBytes = "refuse",
) -> Table:
    """Values separated by tabs, all as text; quotation marks are text like any other, as in GLUE's files.

    The arguments are those of :func:`read_csv`.
    """
    return read_csv(path, separator="\t", header=header, quotes=quotes, encoding=encoding, bad_bytes=bad_bytes)


def _separated(path: Path, text: str, separator: str, quotes: bool) -> tuple[list[list[str]], list[int]]:
    """The rows, and the line each begins at; empty lines are no rows."""
    rows, lines, line = [], [], 1
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=separator,
        quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE,
        strict=quotes,
    )
    with _long_fields():
        try:
            for row in reader:
                if row:
                    rows.append(row)
                    lines.append(line)
                line = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{path}, line {line}: {error}; is a quotation mark not closed?") from None
    return rows, lines


@contextmanager
def _long_fields() -> Iterator[None]:
    """Values of any length: the csv module's limit is global, so it is put back."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _header_of(rows: list[list[str]], header: bool | list[str] | None) -> tuple[bool, bool]:
    """Whether the first row is a header, and whether that is a guess."""
    if header is not None:
        return header is True, False
    first = rows[0]
    if any(cell.strip().casefold() in KNOWN_NAMES for cell in first):
        return True, True
    like_names = len(set(first)) == len(first) and all(re.fullmatch(r"[^\W\d][\w .-]{0,30}", cell) for cell in first)
    again = any(cell in {row[i] for row in rows[1:] if len(row) > i} for i, cell in enumerate(first))
    return like_names and not again and len(rows) > 1, True


def _require_distinct(path: Path, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise DataError(f"{path}: two columns are called {twice[0]!r}; name each another way")


def read_jsonl(path: Path, *, encoding: str | None = None, bad_bytes: BadBytes = "refuse") -> Table:
    """JSON lines: an object a line.

    Raises:
        DataError: a line that is no JSON object, with its number.
    """
    text, findings = text_of(path, encoding, bad_bytes)
    rows, lines = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}, character {error.colno}: not JSON: {error.msg}") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: expected a JSON object of columns, got {type(row).__name__}")
        rows.append(row)
        lines.append(number)
    return table_of(rows, path, lines, [], findings)


def read_text(path: Path, *, encoding: str | None = None, bad_bytes: BadBytes = "refuse") -> Table:
    """One text a line, in the column ``text``; empty lines are left out."""
    text, findings = text_of(path, encoding, bad_bytes)
    numbered = [(number, line.rstrip("\r")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    rows = [{"text": line} for _, line in numbered]
    notes = (
        ["one text a line; format='tsv' or 'conll' reads columns"] if any("\t" in line for _, line in numbered) else []
    )
    return table_of(rows, path, [number for number, _ in numbered], notes, findings)


def table_of(
    rows: list[dict[str, Any]],
    path: Path,
    marks: Sequence[int | str],
    notes: Sequence[str] = (),
    findings: Sequence[Finding] = (),
) -> Table:
    """Rows of Python values as a table over a ``datasets.Dataset``.

    Raises:
        DataError: there are no rows, or a column holds values of different kinds.
    """
    try:
        import datasets
        import pyarrow
    except ImportError:
        raise MissingDependencyError("datasets", "hf", f"reading {path}") from None
    if not rows:
        raise DataError(f"{path}: there are no rows")
    names = list(dict.fromkeys(key for row in rows for key in row))
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        kinds = {type(value) for value in values if value is not None}
        if len(kinds) > 1 and kinds <= {str, int, float, bool}:
            values = [None if value is None else str(value) for value in values]  # such as labels 1 and "neutral"
        columns[name] = values
    try:
        data = datasets.Dataset.from_dict(columns)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
        raise DataError(f"{path}: a column holds values of different kinds: {error}") from None
    return Table(data, str(path), tuple(marks), tuple(notes), tuple(findings))
