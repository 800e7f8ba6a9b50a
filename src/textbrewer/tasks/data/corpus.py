"""Plain text to learn a language from: files of documents, read as they are needed, from any place on."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from ...errors import DataError, did_you_mean, one_of
from .files import Source, several
from .text import BadBytes

Documents = Literal["lines", "paragraphs", "files"]
"""What a document is in a file of text: a line, lines up to an empty one, or all of the file."""

_JSON = (".jsonl", ".ndjson", ".json")
_TABLES = (".csv", ".tsv", ".tab", ".parquet")


class Place(NamedTuple):
    """Where a document begins.

    Attributes:
        file: which of the files.
        offset: in it, in bytes.
        line: its first one, counted from 1.
    """

    file: int = 0
    offset: int = 0
    line: int = 1


class Corpus:
    """The documents of files, one after the other; no more than one of them is held at a time.

    Iterating gives their texts. Of JSON lines each line is a document; of text files see :data:`Documents`. Documents
    without text are left out.

    Args:
        files: a file, a pattern such as ``"wiki/*.txt"``, or a list of them; they are read in this order, those of a
            pattern in that of their names.
        documents: what a document is in a file of text.
        column: the key of JSON lines under which the text stands.
        encoding: of the files; one in which a byte 10 ends a line, as in all but UTF-16 and UTF-32.
        bad_bytes: ``"refuse"`` bytes that are no text in it, or ``"replace"`` them by U+FFFD.

    Raises:
        DataError: there is no such file or encoding.

    >>> _ = (folder / "a.txt").write_text("one line\\n\\nanother\\n")
    >>> list(Corpus(folder / "a.txt"))
    ['one line', 'another']
    """

    def __init__(
        self,
        files: Source,
        documents: Documents = "lines",
        *,
        column: str = "text",
        encoding: str = "utf-8",
        bad_bytes: BadBytes = "refuse",
    ) -> None:
        if documents not in get_args(Documents):
            hint = did_you_mean(documents, get_args(Documents))
            message = f"documents: expected {one_of(get_args(Documents))}, got {documents!r}; {hint}"
            raise DataError(message.removesuffix("; "))
        found = several(files)
        self.paths = [Path(path).expanduser() for path in ([files] if found is None else found)]  # type: ignore[arg-type]
        for path in self.paths:
            if not path.is_file():
                raise DataError(f"there is no file {str(path)!r}")
            if path.suffix.lower() in _TABLES:
                raise DataError(
                    f"{path}: a corpus is text or JSON lines; write the column with the texts as one of these"
                )
        try:
            name = codecs.lookup(encoding).name
        except LookupError:
            raise DataError(f"there is no encoding {encoding!r}; write e.g. 'utf-8', 'gb18030', 'cp1252'") from None
        if name.startswith(("utf-16", "utf-32")):
            raise DataError(f"a corpus is read line by line, which {encoding} does not allow; write the files in UTF-8")
        self.documents, self.column, self.encoding, self.bad_bytes = documents, column, encoding, bad_bytes

    def __iter__(self) -> Iterator[str]:
        return (text for _, text in self.beginning_at(Place()))

    def beginning_at(self, place: Place) -> Iterator[tuple[Place, str]]:
        """Documents with their places, from the one at ``place`` on."""
        for number in range(place.file, len(self.paths)):
            yield from self._of_file(place if number == place.file else Place(number))

    def _of_file(self, start: Place) -> Iterator[tuple[Place, str]]:
        path = self.paths[start.file]
        whole_lines = path.suffix.lower() in _JSON or self.documents == "lines"
        held: list[str] = []
        begun = start
        for place, line in self._lines(start):
            text = self._text_of(path, place, line) if path.suffix.lower() in _JSON else line
            ends = whole_lines or (self.documents == "paragraphs" and not text.strip())
            if not held:
                begun = place
            if text.strip():
                held.append(text.strip())
            if ends and held:
                yield begun, "\n".join(held)
                held = []
        if held:
            yield begun, "\n".join(held)

    def _lines(self, start: Place) -> Iterator[tuple[Place, str]]:
        path, offset, number = self.paths[start.file], start.offset, start.line
        with path.open("rb") as file:
            file.seek(offset)
            for raw in file:
                if b"\0" in raw:
                    raise DataError(f"{path}, line {number}: this is a binary file, not text")
                try:
                    line = raw.decode(self.encoding, "replace" if self.bad_bytes == "replace" else "strict")
                except UnicodeDecodeError:
                    raise DataError(
                        f"{path}, line {number}: not {self.encoding} ({raw[:60]!r}); give its encoding, or "
                        "bad_bytes='replace' puts U+FFFD there"
                    ) from None
                yield Place(start.file, offset, number), line.removeprefix("\ufeff") if offset == 0 else line
                offset, number = offset + len(raw), number + 1

    def _text_of(self, path: Path, place: Place, line: str) -> str:
        """The text of a line of JSON."""
        if not line.strip():
            return ""
        try:
            row: Any = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {place.line}, character {error.colno}: not JSON: {error.msg}") from None
        if not isinstance(row, dict) or not isinstance(row.get(self.column), str):
            found = ", ".join(map(repr, row)) if isinstance(row, dict) else type(row).__name__
            raise DataError(
                f"{path}, line {place.line}: expected an object with a text under {self.column!r}, found {found}; "
                "column=… says where the text stands"
            )
        return str(row[self.column])
