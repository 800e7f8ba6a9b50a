"""Every exception of the library, and the one way to say "unknown name"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


class TextBrewerError(Exception):
    """Root of all errors raised on purpose by this library."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a config.

    Attributes:
        path: where, as a user would write it, e.g. ``intermediate_matches[1].layer_S``.
        expected: what would be accepted there.
        got: what was found.
        hint: what to write instead; may be empty.
    """

    path: str
    expected: str
    got: str
    hint: str = ""

    def __str__(self) -> str:
        line = f"`{self.path}`: expected {self.expected}, got {self.got}"
        return f"{line}; {self.hint}" if self.hint else line


class ConfigError(TextBrewerError, ValueError):
    """A config that cannot be used, with all of its problems at once (``.problems``)."""

    def __init__(self, title: str, problems: Sequence[Problem]) -> None:
        self.title = title
        self.problems = tuple(problems)
        super().__init__("\n".join([f"{title}: {count_of(len(problems), 'problem')}", *(f"  {p}" for p in problems)]))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.title, self.problems)


class AdaptorError(TextBrewerError, ValueError):
    """An adaptor gave something a term cannot use, or left out what a term needs."""


class MatchError(TextBrewerError, ValueError):
    """Student and teacher tensors of a term do not fit each other."""


class DataError(TextBrewerError, ValueError):
    """A loader or a batch cannot be trained on."""


class StudentError(TextBrewerError, ValueError):
    """A student cannot be built as asked."""


class CacheError(TextBrewerError, RuntimeError):
    """A teacher cache cannot be used as asked; nothing stored in it is lost."""


class CheckpointError(TextBrewerError, RuntimeError):
    """A checkpoint cannot be written or gone on from; those there are stay as they are."""


class NonFiniteLossError(TextBrewerError, FloatingPointError):
    """A loss became NaN or infinite."""


class OutOfMemoryError(TextBrewerError, RuntimeError):
    """A step did not fit into memory; the message says what takes less."""


class EvaluationError(TextBrewerError, RuntimeError):
    """The evaluation of a run failed in another process."""


class UnsupportedError(TextBrewerError, NotImplementedError):
    """What was asked for exists in the field but not here; the message says what to do instead."""


class MissingDependencyError(TextBrewerError, ImportError):
    """An optional package is needed; the message names the extra that installs it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        self.parts = (package, extra, purpose)
        super().__init__(f"{purpose} needs the package `{package}`: pip install 'textbrewer-next[{extra}]'")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.parts


class UnknownNameError(TextBrewerError, KeyError):
    """A name that no table knows; the message names the nearest known one."""

    def __str__(self) -> str:
        # KeyError prints the repr of its argument, which would escape the quotes of the message.
        return str(self.args[0])


def count_of(number: int, noun: str) -> str:
    """``1 problem``, ``2 problems``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def first_line(error: BaseException) -> str:
    """What an error says in its first line."""
    return str(error).strip().partition("\n")[0]


def nearest(name: object, known: Iterable[str]) -> str | None:
    """The known name closest to ``name``, or None when none is close."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.6)
    return close[0] if close else None


def one_of(known: Iterable[str]) -> str:
    """``one of 'a', 'b'``: how every message lists known names."""
    return "one of " + ", ".join(repr(name) for name in known)


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """``did you mean 'x'?``, or an empty string when nothing is close."""
    close = nearest(name, known)
    return f"did you mean {close!r}?" if close else ""


def unknown_name(path: str, name: object, known: Iterable[str], way_out: str = "") -> Problem:
    """A name at ``path`` that is none of the known ones; ``way_out`` is said where none is close."""
    known = list(known)
    return Problem(path, one_of(known), repr(name), did_you_mean(name, known) or way_out)
