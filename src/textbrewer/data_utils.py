"""Text augmentation: the five functions of TextBrewer 0.2.1, and variants of whole rows that keep their labels right.

The functions work on tokens of any kind, words, characters or ids, and return new lists. They draw from numpy's global
random state as TextBrewer 0.2.1 does, so that after ``numpy.random.seed`` they give what it gives; or from ``rng``.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, TypeAlias, TypeVar

import numpy as np

from .errors import ConfigError, DataError, Problem, count_of, did_you_mean, one_of, unknown_name

Token = TypeVar("Token")
Row: TypeAlias = Mapping[str, Any]
Unit: TypeAlias = tuple[int, ...]
_WHOLE = (int, np.integer)
_NUMBER = (int, float, np.integer, np.floating)


def masking(
    tokens: Sequence[Any], p: float = 0.1, mask: Any = "[MASK]", *, rng: np.random.Generator | None = None
) -> list[Any]:
    """Each token becomes ``mask`` with probability ``p``, independently of the others.

    Args:
        tokens: what is read.
        p: of each token.
        mask: what stands in a token's place.
        rng: what is drawn from instead of numpy's global random state.

    Raises:
        ConfigError: ``p`` is no probability.

    >>> masking(["a", "cat"], p=1)
    ['[MASK]', '[MASK]']
    """
    _check("masking", _probability(p))
    draws = _draws(rng).random(len(tokens)).tolist()
    return [mask if draw < p else token for token, draw in zip(tokens, draws, strict=True)]


def deleting(tokens: Sequence[Token], p: float = 0.1, *, rng: np.random.Generator | None = None) -> list[Token]:
    """Each token is left out with probability ``p``, independently of the others; none may be left.

    Args:
        tokens: what is read.
        p: of each token.
        rng: what is drawn from instead of numpy's global random state.

    Raises:
        ConfigError: ``p`` is no probability.

    >>> deleting(["a", "cat"], p=0)
    ['a', 'cat']
    """
    _check("deleting", _probability(p))
    kept = _draws(rng).binomial(1, 1 - p, len(tokens)).tolist()
    return [token for token, keep in zip(tokens, kept, strict=True) if keep]


def n_gram_sampling(
    tokens: Sequence[Token],
    p_ng: Sequence[float] = (0.2, 0.2, 0.2, 0.2, 0.2),
    l_ng: Sequence[int] = (1, 2, 3, 4, 5),
    *,
    rng: np.random.Generator | None = None,
) -> list[Token]:
    """A window of the tokens: ``l_ng[i]`` long with probability ``p_ng[i]``, each place equally likely.

    A window longer than the tokens is all of them, where TextBrewer 0.2.1 failed.

    Args:
        tokens: what is read.
        p_ng: probabilities of the lengths.
        l_ng: lengths.
        rng: what is drawn from instead of numpy's global random state.

    Raises:
        ConfigError: lengths below 1, or probabilities that do not fit them or do not add up to 1.

    >>> n_gram_sampling(["a", "black", "cat"], p_ng=[1], l_ng=[3])
    ['a', 'black', 'cat']
    """
    size = len(l_ng) if isinstance(l_ng, Sized) else 0
    _check("n_gram_sampling", _lengths(l_ng), _distribution("p_ng", p_ng, size))
    draws = _draws(rng)
    length = min(int(l_ng[_pick(_bounds(p_ng), draws)]), len(tokens))
    start = int(draws.choice(len(tokens) - length + 1))
    return list(tokens[start : start + length])


def short_disorder(
    tokens: Sequence[Token],
    p: Sequence[float] = (0.9, 0.1, 0, 0, 0),
    *,
    rng: np.random.Generator | None = None,
) -> list[Token]:
    """From left to right, the next tokens ``a b c`` change places as ``p`` says.

    ====  =============  ==========
    p     what is given  then after
    ====  =============  ==========
    p[0]  a              a
    p[1]  b a            b
    p[2]  c b a          c
    p[3]  c a b          c
    p[4]  b c a          c
    ====  =============  ==========

    The last two tokens can only swap, with probability ``1 − p[0]``; a last one alone stays.

    Args:
        tokens: what is read.
        p: five probabilities.
        rng: what is drawn from instead of numpy's global random state.

    Raises:
        ConfigError: ``p`` is not five probabilities that add up to 1.

    >>> short_disorder(["a", "b", "c", "d", "e"], p=[0, 0, 0, 0, 1])
    ['b', 'c', 'a', 'e', 'd']
    """
    _check("short_disorder", _distribution("p", p, len(_ORDERS)))
    draws, bounds, position = _draws(rng), _bounds(p), 0
    found = list(tokens)
    while position + 1 < len(tokens):
        order = _ORDERS[_pick(bounds, draws)]
        if len(order) > len(tokens) - position:
            order = (1, 0)
        found[position : position + len(order)] = [tokens[position + i] for i in order]
        position += len(order)
    return found


def long_disorder(
    tokens: Sequence[Token], p: float = 0.1, length: float = 20, *, rng: np.random.Generator | None = None
) -> list[Token]:
    """From left to right, with probability ``p`` the two halves of the next ``length`` tokens change places.

    After a swap the next token is the one behind the span, else the one behind the first. An odd span is taken one
    longer, and none is shorter than two; where the span does not fit before the end, tokens stay.

    Args:
        tokens: what is read.
        p: at each token.
        length: of a span; below 2 it is a share of the tokens, rounded down.
        rng: what is drawn from instead of numpy's global random state.

    Raises:
        ConfigError: ``p`` is no probability, or ``length`` is not above 0.

    >>> long_disorder(["a", "b", "c", "d", "e"], p=1, length=4)
    ['c', 'd', 'a', 'b', 'e']
    """
    known = isinstance(length, _NUMBER) and 0 < length < math.inf
    _check("long_disorder", _probability(p), None if known else Problem("length", "a number above 0", repr(length)))
    span = int(length if length >= 2 else length * len(tokens))
    half, draws, position = max((span + 1) // 2, 1), _draws(rng), 0
    found = list(tokens)
    while position + 2 * half <= len(tokens):
        if draws.random() < p:
            middle, end = position + half, position + 2 * half
            found[position:end] = [*tokens[middle:end], *tokens[position:middle]]
            position = end
        else:
            position += 1
    return found


_ORDERS = ((0,), (1, 0), (2, 1, 0), (2, 0, 1), (1, 2, 0))


def _draws(rng: np.random.Generator | None) -> np.random.Generator | np.random.RandomState:
    if rng is not None:
        return rng
    # A view of the global state: what is drawn here moves it, and numpy.random.seed sets it.
    return np.random.RandomState(np.random.get_bit_generator())  # type: ignore[attr-defined]


def _bounds(p: Sequence[float]) -> list[float]:
    sums = list(accumulate(p))
    return [bound / sums[-1] for bound in sums]


def _pick(bounds: list[float], draws: np.random.Generator | np.random.RandomState) -> int:
    """An index with the probabilities of ``bounds``: what ``choice`` of numpy's global state gives, but faster."""
    return bisect_right(bounds, draws.random())


def _check(doing: str, *problems: Problem | None) -> None:
    if found := [problem for problem in problems if problem]:
        raise ConfigError(doing, found)


def _probability(value: Any, path: str = "p") -> Problem | None:
    fits = isinstance(value, _NUMBER) and 0 <= value <= 1
    return None if fits else Problem(path, "a number from 0 to 1", repr(value))


def _distribution(path: str, values: Any, size: int) -> Problem | None:
    numbers = list(values) if isinstance(values, Iterable) else []
    fits = len(numbers) == size and all(isinstance(number, _NUMBER) and number >= 0 for number in numbers)
    if fits and abs(math.fsum(numbers) - 1) <= 1e-6:
        return None
    return Problem(path, f"{size} numbers from 0 to 1 that add up to 1", repr(values))


def _lengths(l_ng: Any) -> Problem | None:
    lengths = list(l_ng) if isinstance(l_ng, Iterable) else []
    fits = lengths != [] and all(isinstance(length, _WHOLE) and length > 0 for length in lengths)
    return None if fits else Problem("l_ng", "whole numbers above 0", repr(l_ng))


_OPERATIONS: dict[str, tuple[Callable[..., list[Any]], tuple[str, ...]]] = {
    "masking": (masking, ("p",)),
    "deleting": (deleting, ("p",)),
    "n_gram_sampling": (n_gram_sampling, ("p", "p_ng", "l_ng")),
    "short_disorder": (short_disorder, ("p",)),
    "long_disorder": (long_disorder, ("p", "length")),
}
# 1903.12136 also replaces words by others of their part of speech, which needs a tagger.
_PUBLISHED = {"masking": 0.1, "n_gram_sampling": 0.25}
# A chunk's label: B-PER, I-PER, E-PER, S-PER, or L, U and M of the other schemes; the type may be missing.
_CHUNK = re.compile(r"([BIMELSU])(?:[-_](.*))?", re.DOTALL)


@dataclass(frozen=True)
class _Text:
    """A text of a row, cut up.

    Attributes:
        tokens: an answer, with all of the tokens it touches, is one of them.
        units: positions of the tokens that stay together.
        held: positions of the tokens with answers in them: never masked, never left out.
        labels: the names of the labels, for each column of them.
        places: for each answer, the position of its token and where in it the answer begins; None for an empty one.
    """

    tokens: list[str]
    units: list[Unit]
    held: frozenset[int] = frozenset()
    labels: dict[str, list[str]] = field(default_factory=dict)
    places: list[tuple[int, int] | None] = field(default_factory=list)


class Augmenter:
    """Variants of a row, for any task: ``augmenter(row)`` is a list of ``n`` new rows.

    A variant is a copy of the row in which each text of ``fields`` went through every operation, in the order given:

    - ``masking``: each token becomes ``mask`` with probability ``p``, and keeps its label;
    - ``deleting``: each unit is left out with probability ``p``;
    - ``n_gram_sampling``: with probability ``p`` the text becomes a window of its units, see :func:`n_gram_sampling`
      for ``p_ng`` and ``l_ng``; the window grows as far as it must to hold every answer;
    - ``short_disorder``: units change places, see :func:`short_disorder`; a single number ``p`` stands for
      ``(1 − p, p, 0, 0, 0)``;
    - ``long_disorder``: halves of spans of units change places, see :func:`long_disorder` for ``p`` and ``length``.

    A *unit* is a token, or a whole chunk where labels are IOB (or IOBES, BILOU), or an answer with all words it
    touches. Chunks are neither split nor joined, and answers are neither masked nor left out. An operation whose
    outcome would be a text without words, or would make one chunk of two (which only one that begins with I can bring
    about), is passed over. A short text may come out as it was, but for its white space.

    Variant ``i`` of a row depends on ``seed``, ``i``, and what is read of the row: its texts, labels per token and
    answers. Neither the order of the rows nor the number of workers matters, nor does numpy's global random state.

    Args:
        fields: the column, or columns, with texts to change: strings, or lists of tokens.
        n: variants of a row.
        operations: from names to ``p``, or to a mapping of ``p`` and the other arguments. By default masking 0.1 and
            n-gram sampling 0.25, as published; with ``answers`` masking alone, as n-grams leave little to search.
        token_labels: columns with a label for each token of the first field, which follows its token: the name of one
            whose labels are strings, or a mapping from columns to the names of their labels' ids (None for strings).
        answers: a column of spans of the first field, a string: ``{"text": [...], "answer_start": [...]}``, or a list
            with a ``{"text": ..., "answer_start": ...}`` for each, as :func:`~textbrewer.tasks.read` has them, or with
            ``"start"`` for ``"answer_start"``, as a task has them; of such a list, those with a start below 0, which
            says that they were not found, are left as they are. Starts are counted anew.
        drop: columns that variants do not get: labels, where only the teacher's outputs for them shall count.
        mask: what masks a token.
        tokenize: from a string to its tokens; by default it splits on white space. With ``answers``, tokens must be
            parts of the string, in order. For Chinese: ``list``, with ``"".join``.
        join: from tokens to a string; by default with a space between.
        seed: another one gives other variants.

    Raises:
        ConfigError: with every problem at once.

    Source: 1903.12136.

    >>> augmenter = Augmenter("text", n=2, operations={"masking": 1})
    >>> augmenter({"text": "a cat", "label": 1})
    [{'text': '[MASK] [MASK]', 'label': 1}, {'text': '[MASK] [MASK]', 'label': 1}]
    >>> swap = Augmenter("tokens", operations={"short_disorder": 1}, token_labels="tags")
    >>> swap({"tokens": ["in", "New", "York"], "tags": ["O", "B-LOC", "I-LOC"]})
    [{'tokens': ['New', 'York', 'in'], 'tags': ['B-LOC', 'I-LOC', 'O']}]
    """

    def __init__(
        self,
        fields: str | Iterable[str],
        n: int = 1,
        operations: Mapping[str, float | Mapping[str, Any]] | None = None,
        *,
        token_labels: str | Mapping[str, Sequence[str] | None] | None = None,
        answers: str | None = None,
        drop: str | Iterable[str] = (),
        mask: str = "[MASK]",
        tokenize: Callable[[str], Sequence[str]] = str.split,
        join: Callable[[Sequence[str]], str] = " ".join,
        seed: int = 0,
    ) -> None:
        self.fields = _names(fields)
        self.n = n
        self.token_labels = {token_labels: None} if isinstance(token_labels, str) else dict(token_labels or {})
        self.answers = answers
        self.drop = frozenset(_names(drop))
        self.mask = mask
        self.tokenize = tokenize
        self.join = join
        self.seed = seed
        if operations is None:
            operations = {"masking": _PUBLISHED["masking"]} if answers else _PUBLISHED
        self.operations = {name: _options(name, given) for name, given in operations.items()}
        _check("Augmenter", *self._problems())

    def _problems(self) -> Iterator[Problem | None]:
        if not self.fields or len(set(self.fields)) < len(self.fields):
            yield Problem("fields", "names of columns, none twice", repr(self.fields))
        if isinstance(self.n, bool) or not isinstance(self.n, int) or self.n < 1:
            yield Problem("n", "a whole number above 0", repr(self.n))
        if not isinstance(self.seed, int):
            yield Problem("seed", "a whole number", repr(self.seed))
        if self.token_labels and self.answers:
            yield Problem("answers", "None, as `token_labels` are given", repr(self.answers))
        if not self.operations:
            yield Problem("operations", one_of(_OPERATIONS), "none")
        for name, options in self.operations.items():
            yield from _operation_problems(name, options)

    def __call__(self, row: Row) -> list[dict[str, Any]]:
        """``n`` variants of a row.

        Raises:
            DataError: a column is missing or does not hold what it should; an answer does not stand where it begins;
                ``tokenize`` or ``join`` changed a token of a text with answers.
        """
        texts = {name: self._read(row, name) for name in self.fields}
        read = [[text.tokens, list(text.labels.values()), text.places] for text in texts.values()]
        content = json.dumps([self.seed, read]).encode()
        return [self._variant(row, texts, _generator(content, number)) for number in range(self.n)]

    def over(self, rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
        """The variants of each row in turn."""
        for row in rows:
            yield from self(row)

    def batched(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """The same for rows in columns, as in ``dataset.map(augmenter.batched, batched=True)``.

        The rows themselves are not among the variants; ``datasets.concatenate_datasets`` puts both together. With
        ``drop``, ``map`` needs these columns as its ``remove_columns``.
        """
        rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
        variants = list(self.over(rows))
        return {name: [variant[name] for variant in variants] for name in columns if name not in self.drop}

    def _read(self, row: Row, name: str) -> _Text:
        value = _column(row, name)
        if isinstance(value, str):
            tokens = list(self.tokenize(value))
        elif isinstance(value, (list, tuple, np.ndarray)) and all(isinstance(token, str) for token in value):
            tokens = list(value)
        else:
            raise DataError(f"Augmenter: {name!r} of a row must be a string or a list of strings, not {value!r}")
        if name != self.fields[0]:
            return _Text(tokens, _units(len(tokens), []))
        if self.answers is not None:
            return _with_answers(name, value, tokens, _column(row, self.answers))
        labels = {column: self._labels(row, column, len(tokens)) for column in self.token_labels}
        return _Text(tokens, _units(len(tokens), labels.values()), labels=labels)

    def _labels(self, row: Row, column: str, count: int) -> list[str]:
        labels, names = list(_column(row, column)), self.token_labels[column]
        if len(labels) != count:
            raise DataError(
                f"Augmenter: {count_of(count, 'token')} in {self.fields[0]!r}, but {count_of(len(labels), 'label')} in "
                f"{column!r}; one label per token is needed"
            )
        if names is not None:
            for label in labels:
                if not isinstance(label, _WHOLE) or not 0 <= label < len(names):
                    raise DataError(f"Augmenter: label {label!r} in {column!r} has none of the {len(names)} names")
            return [names[label] for label in labels]
        if not all(isinstance(label, str) for label in labels):
            raise DataError(
                f"Augmenter: the labels in {column!r} are no strings; name their ids, as in "
                f"token_labels={{{column!r}: ['O', 'B-PER', 'I-PER']}}, so that chunks stay whole"
            )
        return labels

    def _variant(self, row: Row, texts: Mapping[str, _Text], rng: np.random.Generator) -> dict[str, Any]:
        new = dict(row)
        for name, text in texts.items():
            order, masked = self._operate(text, rng)
            tokens = [self.mask if i in masked else text.tokens[i] for i in order]
            if tokens:
                new[name] = self.join(tokens) if isinstance(row[name], str) else tokens
            new |= {column: [row[column][i] for i in order] for column in text.labels}
            if self.answers is not None and any(text.places):
                new[self.answers] = self._moved_answers(row[self.answers], new[name], tokens, order, text.places)
        return {column: value for column, value in new.items() if column not in self.drop}

    def _operate(self, text: _Text, rng: np.random.Generator) -> tuple[list[int], set[int]]:
        """Positions of the tokens in their new order, and which of them are masked."""
        units, masked = text.units, set[int]()
        for name, options in self.operations.items():
            if name == "masking":
                free = [i for unit in units for i in unit if i not in text.held]
                left = masking(free, options["p"], mask=None, rng=rng)
                masked |= set(free).difference(left)
            else:
                moved = _moved(units, name, options, text.held, rng)
                has_words = any(text.tokens[i].strip() for unit in moved for i in unit)
                units = moved if has_words and _are_whole(moved, text.labels.values()) else units
        return [i for unit in units for i in unit], masked

    def _moved_answers(
        self, answers: Any, written: str, tokens: list[str], order: list[int], places: list[tuple[int, int] | None]
    ) -> Any:
        starts = [start for _, start in _listed(answers)]
        for i, ((answer, _), place) in enumerate(zip(_listed(answers), places, strict=True)):
            if place is not None:
                token, within = order.index(place[0]), place[1]
                starts[i] = len(self.join(tokens[: token + 1])) - len(tokens[token]) + within
                if written[starts[i] : starts[i] + len(answer)] != answer:
                    raise DataError(
                        f"Augmenter: answer {answer!r} is lost in {written!r}; `join` must write tokens unchanged, and "
                        "those before a token must not depend on those after it"
                    )
        if isinstance(answers, Mapping):
            return {**answers, "answer_start": starts}
        return [{**answer, _start_key(answer): start} for answer, start in zip(answers, starts, strict=True)]


def _names(names: str | Iterable[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _options(name: str, given: Any) -> dict[str, Any]:
    options = dict(given) if isinstance(given, Mapping) else {"p": given}
    p = options.get("p")
    if name == "short_disorder" and isinstance(p, _NUMBER):
        options["p"] = (1 - p, p, 0, 0, 0)
    return options


def _operation_problems(name: str, options: Mapping[str, Any]) -> Iterator[Problem | None]:
    if name not in _OPERATIONS:
        yield unknown_name("operations", name, _OPERATIONS)
        return
    function, known = _OPERATIONS[name]
    path = f"operations[{name!r}]"
    for key in [key for key in options if key not in known]:
        yield Problem(f"{path}.{key}", one_of(known), "another key", did_you_mean(key, known))
    given = {"p": None} | {key: value for key, value in options.items() if key in known}
    if name == "n_gram_sampling":
        yield _probability(given.pop("p"), f"{path}.p")
    try:
        function([], **given, rng=np.random.default_rng(0))
    except ConfigError as error:
        for problem in error.problems:
            yield Problem(f"{path}.{problem.path}", problem.expected, problem.got)


def _generator(content: bytes, number: int) -> np.random.Generator:
    digest = hashlib.blake2b(f"{number}:".encode() + content, digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def _column(row: Row, name: str) -> Any:
    if name not in row:
        hint = did_you_mean(name, row)
        raise DataError(f"Augmenter: the row has no {name!r}, only {', '.join(map(repr, row))}; {hint}".rstrip("; "))
    return row[name]


def _units(count: int, labels: Iterable[Sequence[str]]) -> list[Unit]:
    """Positions 0 to ``count`` − 1, those of a chunk together; with several columns, chunks that overlap too."""
    columns, units = list(labels), list[Unit]()
    for i in range(count):
        if i and any(_continues(column[i - 1], column[i]) for column in columns):
            units[-1] += (i,)
        else:
            units.append((i,))
    return units


def _continues(before: str, label: str) -> bool:
    """Whether two neighbours with these labels are of one chunk."""
    first, second = _CHUNK.fullmatch(before), _CHUNK.fullmatch(label)
    if first is None or second is None:
        return False
    return first[1] in "BIM" and second[1] in "IMEL" and first[2] == second[2]


def _are_whole(units: list[Unit], labels: Iterable[Sequence[str]]) -> bool:
    """Whether the labels, in the order of the units, have these units as their chunks."""
    order = [i for unit in units for i in unit]
    columns = [[column[i] for i in order] for column in labels]
    return not columns or [len(unit) for unit in _units(len(order), columns)] == [len(unit) for unit in units]


def _moved(
    units: list[Unit], name: str, options: Mapping[str, Any], held: frozenset[int], rng: np.random.Generator
) -> list[Unit]:
    """The units after an operation other than masking."""
    answered = [k for k, unit in enumerate(units) if held.intersection(unit)]
    if name == "deleting":
        kept = {*deleting(range(len(units)), **options, rng=rng), *answered}
        return [units[k] for k in sorted(kept)]
    if name == "n_gram_sampling":
        how = dict(options)
        if not units or rng.random() >= how.pop("p"):
            return units
        window = [*n_gram_sampling(range(len(units)), **how, rng=rng), *answered]
        return units[min(window) : max(window) + 1]
    return _OPERATIONS[name][0](units, **options, rng=rng)


def _with_answers(name: str, context: Any, tokens: list[str], answers: Any) -> _Text:
    """A text whose tokens are joined where an answer stands."""
    if not isinstance(context, str):
        raise DataError(f"Augmenter: answers are spans of a string, but {name!r} is {context!r}")
    cuts, end = [], 0
    for token in tokens:
        start = context.find(token, end)
        if start < 0:
            raise DataError(
                f"Augmenter: token {token!r} is not in {name!r} after position {end}; with answers, `tokenize` must "
                "cut the text without changing it"
            )
        end = start + len(token)
        cuts.append((start, end))
    spans = _spans(name, context, answers)
    pieces: list[tuple[int, int]] = []
    for start, end in sorted([*cuts, *filter(None, spans)]):
        if pieces and start < pieces[-1][1]:
            pieces[-1] = (pieces[-1][0], max(pieces[-1][1], end))
        else:
            pieces.append((start, end))
    begins = [start for start, _ in pieces]
    places: list[tuple[int, int] | None] = []
    for span in spans:
        k = bisect_right(begins, span[0]) - 1 if span else 0
        places.append((k, span[0] - begins[k]) if span else None)
    held = frozenset(place[0] for place in places if place)
    return _Text([context[start:end] for start, end in pieces], _units(len(pieces), []), held, places=places)


def _spans(name: str, context: str, answers: Any) -> list[tuple[int, int] | None]:
    """Where each answer begins and ends; None for an empty one, and for one of a list that was not found."""
    spans: list[tuple[int, int] | None] = []
    for text, start in _listed(answers):
        if start < 0 and not isinstance(answers, Mapping):
            text = ""
        if text and (start < 0 or context[start : start + len(text)] != text):
            raise DataError(f"Augmenter: answer {text!r} is not at {start} of {name!r}: {context!r}")
        spans.append((int(start), int(start) + len(text)) if text else None)
    return spans


def _listed(answers: Any) -> list[tuple[str, int]]:
    """The text and the start of each answer, in either of the forms that data has.

    Raises:
        DataError: it is in another form.
    """
    if isinstance(answers, Mapping) and {"text", "answer_start"} <= answers.keys():
        if len(answers["text"]) != len(answers["answer_start"]):
            raise DataError(f"Augmenter: as many texts as starts of answers are needed, not {answers!r}")
        return list(zip(answers["text"], answers["answer_start"], strict=True))
    if isinstance(answers, (list, tuple)) and all(
        isinstance(answer, Mapping) and {"text", _start_key(answer)} <= answer.keys() for answer in answers
    ):
        return [(answer["text"], answer[_start_key(answer)]) for answer in answers]
    raise DataError(
        "Augmenter: answers must be {'text': [...], 'answer_start': [...]}, or a list of {'text': ..., "
        f"'answer_start': ...}}, not {answers!r}"
    )


def _start_key(answer: Row) -> str:
    """The key under which an answer of a list has its start: that of SQuAD's files, or that of a task's rows."""
    return "answer_start" if "answer_start" in answer else "start"
