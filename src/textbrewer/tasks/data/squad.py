"""Reading comprehension in JSON: SQuAD 1.1 and 2.0, and CMRC 2018 in both of its forms."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import DataError
from .report import Finding
from .table import Table
from .text import BadBytes, table_of, text_of


def read_squad(path: Path, *, encoding: str | None = None, bad_bytes: BadBytes = "refuse") -> Table:
    """Questions with ``id``, ``question``, ``context``, ``answers`` and, in 2.0's form, ``is_impossible``.

    Raises:
        DataError: the file is not JSON, or not of such a form, with the place.
    """
    text, findings = text_of(path, encoding, bad_bytes)
    return squad_table(parsed(path, text), path, findings)


def parsed(path: Path, text: str) -> Any:
    """JSON, with the line of a mistake in it."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from None


def is_squad(value: Any) -> bool:
    """Whether a JSON value looks like one of these forms."""
    articles = value.get("data") if isinstance(value, Mapping) else value
    first = articles[0] if isinstance(articles, list) and articles else None
    return isinstance(first, Mapping) and ("paragraphs" in first or "qas" in first)


def squad_table(value: Any, path: Path, findings: tuple[Finding, ...] = ()) -> Table:
    """The questions of a JSON value of such a form."""
    if not is_squad(value):
        raise DataError(f"{path}: expected a list of articles, under 'data' or alone, with 'paragraphs' or 'qas'")
    rows = list(_questions(path, value["data"] if isinstance(value, Mapping) else value))
    places = [f"question {row['id']!r}" for row in rows]
    twice = len(places) - len(set(places))
    if twice:
        findings += (Finding("question with the id of another", twice, (), "kept"),)
    return table_of(rows, path, places, (), findings)


def _questions(path: Path, articles: list[Any]) -> Iterator[dict[str, Any]]:
    for a, article in enumerate(articles):
        for p, paragraph in enumerate(article.get("paragraphs", [article])):
            place = f"article {a + 1}, paragraph {p + 1}"
            context = _one_of(path, place, paragraph, "context", "context_text")
            for q, asked in enumerate(paragraph.get("qas", [])):
                here = f"{place}, question {q + 1}"
                row: dict[str, Any] = {
                    "id": str(asked.get("id", asked.get("query_id", here))),
                    "question": _one_of(path, here, asked, "question", "query_text"),
                    "context": context,
                    "answers": _answers(path, here, asked.get("answers")),
                }
                if "is_impossible" in asked:
                    row["is_impossible"] = bool(asked["is_impossible"])
                yield row


def _one_of(path: Path, place: str, found: Any, *keys: str) -> str:
    for key in keys:
        if isinstance(found, Mapping) and isinstance(found.get(key), str):
            return str(found[key])
    keys_there = list(found) if isinstance(found, Mapping) else type(found).__name__
    raise DataError(f"{path}, {place}: expected the text {keys[0]!r}, found {keys_there}")


def _answers(path: Path, place: str, given: Any) -> list[dict[str, Any]] | None:
    """Texts with where they start; None where the file has no answers, -1 where it does not say where."""
    if given is None:
        return None
    answers = []
    for answer in given if isinstance(given, list) else [given]:
        if isinstance(answer, str):
            answer = {"text": answer}
        if not isinstance(answer, Mapping) or not isinstance(answer.get("text"), str):
            raise DataError(f"{path}, {place}: expected answers with a 'text', found {answer!r}")
        start = answer.get("answer_start")
        answers.append({"text": answer["text"], "answer_start": start if isinstance(start, int) else -1})
    return answers
