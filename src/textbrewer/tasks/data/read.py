"""One door to data: a file, a folder or a name of the hub, to a table."""

from __future__ import annotations

import inspect
import json
import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, cast, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from ...errors import (
    DataError,
    MissingDependencyError,
    UnknownNameError,
    count_of,
    did_you_mean,
    first_line,
    nearest,
    one_of,
)
from .conll import read_conll
from .files import Source, several
from .report import SHOWN, Finding, Tally
from .squad import is_squad, read_squad, squad_table
from .table import Table
from .text import BadBytes, read_csv, read_jsonl, read_text, read_tsv, table_of, text_of

_SPLITS = "dataset_dict.json"
"""What ``DatasetDict.save_to_disk`` leaves beside its splits."""
_SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".conll": "conll",
    ".conllu": "conll",
    ".bio": "conll",
    ".iob": "conll",
    ".iob2": "conll",
    ".txt": "text",
}


def read(source: Source, format: str | None = None, **options: Any) -> Table:
    """Read rows from wherever they are.

    Local files are read as data: nothing in them is run, and a folder's files are taken only from inside it.

    Args:
        source: a file, a folder, or the name of a dataset on the Hugging Face hub; a pattern such as ``"part-*.csv"``,
            or a list of these, whose rows follow each other.
        format: one of :data:`FORMATS`; None goes by the ending of a file, and by what is in a folder.
        **options: of the format's reader: ``separator``, ``header``, ``encoding``, ``split``, and so on.

    Raises:
        DataError: there is no such file, it cannot be read, files of a list have other columns, or the reader has no
            such option.
        UnknownNameError: there is no such format.
        MissingDependencyError: the package ``datasets`` is not installed.

    >>> _ = (folder / "films.csv").write_text("text,label\\nwonderful,good\\ndreadful,bad\\n")
    >>> list(read(folder / "films.csv"))
    [{'text': 'wonderful', 'label': 'good'}, {'text': 'dreadful', 'label': 'bad'}]
    """
    found = several(source)
    if found is not None:
        return _joined([read(each, format, **options) for each in found])
    source = cast(str | Path, source)
    path = Path(source).expanduser()
    if format is not None and format not in FORMATS:
        hint = did_you_mean(format, FORMATS)
        raise UnknownNameError(f"format: expected {one_of(FORMATS)}, got {format!r}; {hint}".removesuffix("; "))
    if format == "hub" or (not path.exists() and format is None and not _looks_local(source)):
        return _with_options("hub", options)(str(source), **options)
    if not path.exists():
        raise DataError(f"there is no file or folder {str(path)!r}{_near(path)}")
    if not path.is_dir() and not path.is_file():
        raise DataError(f"{path}: neither a plain file nor a folder")
    chosen = format or _format_of(path)
    if path.is_dir() != (chosen in ("folder", "saved")):
        raise DataError(f"{path} is a {'folder' if path.is_dir() else 'file'}; format={chosen!r} does not read that")
    return _with_options(chosen, options)(path, **options)


def _joined(tables: list[Table]) -> Table:
    """The rows of tables, one after the other, each with its place in its own source.

    Raises:
        DataError: they have other columns, or values of other kinds in them.
    """
    first = tables[0]
    for table in tables:
        if sorted(table.columns) != sorted(first.columns):
            raise DataError(
                f"{table.source} has the columns {', '.join(map(repr, table.columns))}, and {first.source} "
                f"{', '.join(map(repr, first.columns))}; files that are read together need the same ones"
            )
    datasets = _datasets(first.source)
    try:
        data = datasets.concatenate_datasets([table.data.select_columns(first.columns) for table in tables])
    except (TypeError, ValueError) as error:
        raise DataError(f"{first.source} and others: a column holds values of different kinds: {error}") from None
    notes = dict.fromkeys(note for table in tables for note in table.notes)
    names = [table.source for table in tables]
    source = f"{len(tables)} sources ({', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''})"
    return Table(data, source, _Places(tables), tuple(notes), _findings_of(tables))


def _findings_of(tables: list[Table]) -> tuple[Finding, ...]:
    """What was found in each, added up by kind."""
    found: dict[tuple[str, str], Finding] = {}
    for table in tables:
        for each in table.findings:
            before = found.get((each.what, each.action), Finding(each.what, 0, (), each.action))
            places = before.places + tuple(f"{table.source}, {place}" for place in each.places)
            number = before.number + each.number
            found[each.what, each.action] = Finding(each.what, number, places[:SHOWN], each.action)
    return tuple(found.values())


class _Places(Sequence[str]):
    """Where each row of joined tables stands."""

    def __init__(self, tables: list[Table]) -> None:
        self.tables = tables
        self.starts = list(accumulate(map(len, tables), initial=0))

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        which = bisect_right(self.starts, index) - 1
        table = self.tables[which]
        return f"{table.source}, {table.place(index - self.starts[which])}"


def _with_options(format: str, options: dict[str, Any]) -> Callable[..., Table]:
    """The reader of a format, once it is known to take these options."""
    reader = FORMATS[format]
    known = [name for name, p in inspect.signature(reader).parameters.items() if p.kind is p.KEYWORD_ONLY]
    for name, value in options.items():
        if name not in known:
            there = one_of(known) if known else "no options"
            hint = did_you_mean(name, known)
            raise DataError(f"format={format!r}: expected {there}, got {name!r}; {hint}".removesuffix("; "))
        options[name] = _checked(name, value, get_type_hints(reader)[name])
    return reader


def _checked(name: str, value: Any, kind: Any) -> Any:
    """A value of an option, where it is of its type; a number is a text too, as in ``encoding=1252``.

    Raises:
        DataError: it is of another.
    """
    fits = TypeAdapter(kind)
    texts = [str(value)] if type(value) is int else []
    for each in (value, *texts):
        try:
            return fits.validate_python(each, strict=True)
        except ValidationError:
            continue
    said = str(kind).replace("typing.", "") if get_origin(kind) else kind.__name__
    raise DataError(f"option {name}: expected {said}, got {value!r}")


def _looks_local(source: str | Path) -> bool:
    text = os.fspath(source)
    return not isinstance(source, str) or Path(text).suffix in _SUFFIXES or text[:1] in "./~\\" or text.count("/") > 1


def _near(path: Path) -> str:
    """The name beside it that is closest to a path that is not there."""
    siblings = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
    close = nearest(path.name, siblings)
    return f"; did you mean {str(path.with_name(close))!r}?" if close else ""


def _format_of(path: Path) -> str:
    if path.is_dir():
        saved = [(_SPLITS,), ("dataset_info.json", "state.json")]
        return "saved" if any(all((path / name).is_file() for name in names) for names in saved) else "folder"
    format = _SUFFIXES.get(path.suffix.lower())
    if format is None:
        raise DataError(
            f"{path}: what is in a {path.suffix or 'file without an ending'}? Write format={one_of(FORMATS)}"
        )
    return format


def read_json(path: Path, *, encoding: str | None = None, bad_bytes: BadBytes = "refuse") -> Table:
    """Whatever JSON is in the file: a list of objects, SQuAD's or CMRC's form, or JSON lines.

    Raises:
        DataError: it is none of them.
    """
    text, findings = text_of(path, encoding, bad_bytes)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and error.lineno > 1:
            return read_jsonl(path, encoding=encoding, bad_bytes=bad_bytes)
        raise DataError(f"{path}, line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from None
    if is_squad(value):
        return squad_table(value, path, findings)
    if isinstance(value, dict) and not isinstance(value.get("data"), list) and "\n" not in text.strip():
        return read_jsonl(path, encoding=encoding, bad_bytes=bad_bytes)  # of one row
    rows = value.get("data") if isinstance(value, dict) else value
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: expected a list of objects with the columns as keys, or SQuAD's form")
    return table_of(rows, path, [f"item {i + 1}" for i in range(len(rows))], [], findings)


def read_parquet(path: Path) -> Table:
    """A Parquet file, mapped into memory as it is read.

    Raises:
        DataError: it is no Parquet file.
    """
    datasets = _datasets(path)
    try:
        data = datasets.Dataset.from_parquet(str(path))
    except Exception as error:  # pyarrow's and datasets' own kinds, which are many
        raise DataError(f"{path}: cannot be read as Parquet: {error.__cause__ or error}") from None
    return Table(data, str(path))


def read_saved(path: Path) -> Table:
    """What ``Dataset.save_to_disk`` wrote.

    Raises:
        DataError: it is several splits.
    """
    if (path / _SPLITS).is_file():
        names = sorted(each.name for each in path.iterdir() if each.is_dir())
        raise DataError(
            f"{path}: holds the splits {', '.join(names)}; read one of them, as in {str(path / names[0])!r}"
        )
    return Table(_datasets(path).load_from_disk(str(path)), str(path))


def read_folder(path: Path, *, encoding: str | None = None, bad_bytes: BadBytes = "refuse") -> Table:
    """Folders named by their label, with a text in each ``.txt`` file: columns ``text`` and ``label``.

    Hidden files and links to files outside of the folder are left out; the latter are counted.

    Raises:
        DataError: there are no such files, or one cannot be read.
    """
    root = path.resolve()
    rows, places, tally, findings = [], [], Tally(), list[Finding]()
    for file in sorted(path.glob("*/*.txt")):
        name = str(file.relative_to(path))
        if any(part.startswith(".") for part in file.relative_to(path).parts):
            continue
        if not file.resolve().is_relative_to(root) or not file.is_file():
            tally.add("link out of the folder", name, "left out")
            continue
        text, found = text_of(file, encoding, bad_bytes)
        findings += [Finding(f"file: {each.what}", 1, (name,), each.action) for each in found]
        rows.append({"text": text.strip(), "label": file.parent.name})
        places.append(name)
    if not rows:
        raise DataError(f"{path}: expected a folder for each label with .txt files in it; there are none")
    number = len({row["label"] for row in rows})
    return table_of(
        rows, path, places, [f"{count_of(number, 'folder')} taken as labels"], [*findings, *tally.findings()]
    )


def read_hub(name: str, *, config: str | None = None, split: str = "train", revision: str | None = None) -> Table:
    """A dataset of the Hugging Face hub, through ``datasets.load_dataset``.

    Raises:
        DataError: the hub does not give it, or it has no such split.
    """
    datasets = _datasets(name)
    try:
        data = datasets.load_dataset(name, config, split=split, revision=revision)
    except Exception as error:  # of the hub, of the network, of datasets
        reason = first_line(error)
        raise DataError(
            f"{name!r} is no file or folder here{_near(Path(name))}, and the hub does not give it: {reason}"
        ) from None
    return Table(data, f"{name}, {split}" if config is None else f"{name} ({config}), {split}")


def _datasets(what: object) -> Any:
    try:
        import datasets
    except ImportError:
        raise MissingDependencyError("datasets", "hf", f"reading {what}") from None
    return datasets


FORMATS: dict[str, Callable[..., Table]] = {
    "csv": read_csv,
    "tsv": read_tsv,
    "jsonl": read_jsonl,
    "json": read_json,
    "parquet": read_parquet,
    "conll": read_conll,
    "squad": read_squad,
    "text": read_text,
    "folder": read_folder,
    "saved": read_saved,
    "hub": read_hub,
}
"""Readers by the name of a format; their keywords are the options of :func:`read`."""
