"""Token classification: names, parts of speech, or whatever else is said of each word or character."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import BeforeValidator, Field, model_validator
from torch.nn import functional

from ..configs._base import config_class, reject
from ..errors import DataError, did_you_mean
from ..losses import full_precision, masked_mean
from .adaptor import MASK
from .data import Lengths, Row, Rows, Table
from .data.columns import Chosen, Column, guessed, missing, named
from .data.report import Tally
from .encoded import UNLABELLED, Encoded, Feature, Padding, Part
from .labels import in_order, label_names
from .scores import class_scores, entity_scores
from .tags import OUTSIDE, Entity, Scheme, TagError, checked, entities, parts_of, scheme_of, tag_names, written
from .task import Reading, Task
from .tokens import WordPieces, require_fit
from .windows import windows_of

_ROLES = ("tokens", "tags")


@config_class
class TokenClassification(Task):
    """Sentences with a tag for each token: a word, or a character of Chinese.

    A row is ``{"tokens": […], "tags": […]}``; ``tags`` is None where they are not known.

    A word may be several pieces for the model. The first one says its tag; it alone is learned from labels and from a
    teacher, because what a teacher says of special tokens and of inner pieces was never taught to it. ``pieces="all"``
    gives every piece of a word its tag and learns from all of them.

    A sentence longer than ``max_length`` is read in windows; each word is judged in the one that shows most around it.

    Args:
        labels: the tags in the order of the model's classes. If they are ``O`` and chunk tags, they are IOB2, or IOBES
            (BMES and BILOU too), and whole entities are scored; any others are plain tags, such as parts of speech.
        types: what data calls a type of entity, or a plain tag, mapped to what the model calls it; ``"O"`` drops it.
        data_scheme: ``"iob1"``, ``"iob2"`` or ``"iobes"``, in which data is written; None finds out, and says so.
        max_length: tokens of a window, special tokens included.
        overlap: tokens that neighbouring windows share; None for a quarter of ``max_length``.
        pieces: ``"first"`` or ``"all"``.
        units: what a text in one string is split into: ``"words"``, at spaces, or ``"characters"``.
        metric: the score to choose a model by; None for ``f1`` of entities, or ``accuracy`` of plain tags.

    Raises:
        ConfigError: with every problem at once.

    >>> task = TokenClassification(["O", "B-LOC", "I-LOC"])
    >>> task.scheme
    'iob2'
    """

    labels: Annotated[list[str], BeforeValidator(label_names), Field(min_length=2)]
    types: dict[str, str] = Field(default_factory=dict)
    data_scheme: Scheme | None = None
    max_length: Annotated[int, Field(ge=4)] = 128
    overlap: Annotated[int, Field(ge=0)] | None = None
    pieces: Literal["first", "all"] = "first"
    units: Literal["words", "characters"] = "words"
    metric: Literal["f1", "precision", "recall", "accuracy", "macro_f1"] | None = None

    name: ClassVar[str] = "token_classification"
    head: ClassVar[str] = "AutoModelForTokenClassification"
    target: ClassVar[str] = "tags"

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        if self.scheme is not None:
            wanted = set(tag_names(self._kinds, self.scheme))
            lacking = sorted(wanted - set(self._own_names))
            if lacking:
                hint = (
                    f"add {lacking}; a model with these labels alone cannot say every entity, so it cannot be used as "
                    "it is: train one with all of them, to which load(…, ignore_mismatched_sizes=True) gives a new head"
                )
                raise reject(f"`labels` with every tag of {self.scheme.upper()}", got=self.labels, hint=hint)
        if self.overlap is not None and self.overlap >= self.max_length // 2:
            raise reject("`overlap` below half of `max_length`", got=self.overlap)
        return self

    @classmethod
    def from_data(
        cls,
        data: Any,
        columns: Mapping[str, Column] | None = None,
        scheme: Literal["iob2", "iobes"] | None = None,
        **settings: Any,
    ) -> Self:
        """A task with the tags of data: in its own order where it names its classes, else sorted by type.

        Where ``O`` and mostly chunk tags occur, the others are taken for mistakes: they give no label, so that
        :meth:`rows` refuses them with their places.

        Args:
            data: as for :meth:`rows`.
            columns: likewise.
            scheme: of the model, where the tags are chunk tags; None for that of the classes that data names, else
                ``"iob2"``.
            **settings: of the task.

        Raises:
            DataError: there is no column of tags.
        """
        table = Table.of(data)
        column = str(_chosen_columns(table, columns, True).get("tags"))
        types = settings.get("types", {})
        names = None if types else table.class_names(column)
        if names is None:
            tags = {tag for record in table for tag in _tags_of(record.get(column)) or ()}
            return cls(labels=_labels_for(tags, types, scheme or "iob2"), **settings)
        if scheme is not None and _are_chunk_tags(names):
            names = tag_names(_kinds_of(names), scheme)
        return cls(labels=names, **settings)

    @property
    def class_names(self) -> list[str]:
        """The tags."""
        return self.labels

    @property
    def scheme(self) -> Literal["iob2", "iobes"] | None:
        """The scheme of the model's tags; None where they are plain."""
        if not _are_chunk_tags(self.labels):
            return None
        return "iobes" if any(parts_of(tag)[0] in ("E", "S") for tag in self.labels) else "iob2"

    @property
    def _own_names(self) -> dict[str, str]:
        """The model's name of each tag by its name in IOBES letters."""
        return {_in_iobes_letters(tag): tag for tag in self.labels}

    @property
    def _kinds(self) -> list[str]:
        return _kinds_of(self.labels)

    @property
    def main_metric(self) -> str:
        """The score to choose a model by."""
        return self.metric or ("f1" if self.scheme else "accuracy")

    # Rows.

    def choose(self, table: Table, columns: Mapping[str, Column] | None, labelled: bool | None) -> Chosen:
        """``tokens`` and ``tags``."""
        return _chosen_columns(table, columns, labelled)

    def begin(self, table: Table, chosen: Chosen, reading: Reading) -> None:
        """Find out the scheme of the tags."""
        column = chosen.get("tags")
        if self.scheme is None or column is None:
            return
        found = self.data_scheme or scheme_of(_tags_of(record.get(str(column))) or () for record in table)
        reading.context = found
        if found != self.scheme or self.data_scheme is None:
            how = "" if self.data_scheme else " (found in them)"
            into = "" if found == self.scheme else f", written as {self.scheme.upper()} for the model"
            reading.notes.append(f"tags in {found.upper()}{how}{into}")

    def row(self, record: Mapping[str, Any], chosen: Chosen, reading: Reading) -> Row:
        """A row with tags as the model names them."""
        cell = record.get(str(chosen.get("tokens")))
        tokens = self._units(cell) if isinstance(cell, str) else [str(token) for token in cell or ()]
        column = chosen.get("tags")
        tags = _tags_of(record.get(str(column))) if column else None
        if column and tags is None:
            reading.tally.add("row without tags", reading.place, "kept for its tokens")
        return {"tokens": tokens, "tags": None if tags is None else self._tags(tokens, tags, record, reading)}

    def _units(self, text: str) -> list[str]:
        return text.split() if self.units == "words" else [unit for unit in text if not unit.isspace()]

    def _tags(
        self, tokens: list[str], tags: list[str], record: Mapping[str, Any], reading: Reading
    ) -> list[str] | None:
        """The model's tags; None, with a fault noted, if the given ones cannot be used."""
        lines = record.get("lines")

        def place(index: int) -> str:
            if not lines:
                return f"{reading.place}, token {index + 1}"
            # Of several files, the place of the sentence says which.
            return f"{reading.place.rpartition('line ')[0]}line {lines[index]}"

        if len(tags) != len(tokens):
            reading.faults.add(f"row of {len(tokens)} tokens and {len(tags)} tags", reading.place)
            return None
        if self.scheme is None:
            return self._plain(tags, reading.faults, place)
        try:
            found = checked(tags, reading.context or self.scheme)
        except TagError as error:
            reading.faults.add(f"tag {error.reason}", place(error.index))
            return None
        kept = []
        for entity in found:
            kind = self.types.get(entity.type, entity.type)
            if kind not in (*self._kinds, OUTSIDE):
                hint = did_you_mean(kind, self._kinds)
                reading.faults.add(f"entity of type {kind!r}" + (f" ({hint})" if hint else ""), place(entity.start))
                return None
            if kind != OUTSIDE:
                kept.append(Entity(kind, entity.start, entity.end))
        own = self._own_names
        return [own[tag] for tag in written(kept, len(tags), self.scheme)]

    def _plain(self, tags: list[str], faults: Tally, place: Callable[[int], str]) -> list[str] | None:
        named_tags = [self.types.get(tag, tag) for tag in tags]
        for index, tag in enumerate(named_tags):
            if tag not in self.labels:
                hint = did_you_mean(tag, self.labels)
                faults.add(f"tag {tag!r}" + (f" ({hint})" if hint else ""), place(index))
                return None
        return named_tags

    def is_empty(self, row: Row) -> str:
        """A row needs tokens."""
        return "" if row["tokens"] else "row without tokens"

    def counted(self, rows: Sequence[Row]) -> dict[str, int]:
        """Entities of each type, or tokens of each plain tag."""
        labelled = [row["tags"] for row in rows if row["tags"] is not None]
        if self.scheme is None:
            numbers = Counter(tag for tags in labelled for tag in tags)
            return {tag: numbers[tag] for tag in self.labels}
        numbers = Counter(entity.type for tags in labelled for entity in entities(tags))
        return {kind: numbers[kind] for kind in self._kinds}

    def group(self, row: Row) -> Hashable:
        """The same sentence is not trained on and tested on."""
        return tuple(row["tokens"])

    def record(self, given: Any) -> Mapping[str, Any]:
        """A text, a list of tokens or a dict."""
        if isinstance(given, Mapping):
            return given
        if isinstance(given, str) or (
            isinstance(given, (list, tuple)) and all(isinstance(unit, str) for unit in given)
        ):
            return {"tokens": given}
        raise DataError(f"predict: expected a text, a list of tokens or a dict, got {type(given).__name__}")

    # Batches.

    def encoded(self, rows: Rows, tokenizer: Any) -> Encoded:
        """Windows of pieces, with the place of the first piece of each word."""
        require_fit(tokenizer, self.max_length)
        padding = Padding(tokenizer, by_token=("labels", MASK))
        pieces = WordPieces(tokenizer)
        frame = len(pieces.before) + len(pieces.after)
        capacity = self.max_length - frame
        overlap = self.max_length // 4 if self.overlap is None else self.overlap
        features: list[Feature] = []
        parts: list[Part] = []
        tally = Tally()
        longest = longer = 0
        for index, row in enumerate(rows):
            words = pieces.of(row["tokens"])
            length = sum(map(len, words)) + frame
            longest, longer = max(longest, length), longer + (length > self.max_length)
            if any(len(word) > capacity for word in words):
                tally.add("row with a word of more tokens than a window", f"row {index + 1}", "the word cut")
                words = [word[:capacity] for word in words]
            for window in windows_of([len(word) for word in words], capacity, overlap):
                shown = words[window.start : window.stop]
                starts = list(accumulate(map(len, shown), initial=len(pieces.before)))[:-1]
                own = range(window.own_start - window.start, window.own_stop - window.start)
                framed = pieces.framed([piece for word in shown for piece in word])
                feature = {key: np.asarray(values, dtype=np.int32) for key, values in framed.items()}
                feature[MASK] = np.zeros(len(feature["input_ids"]), dtype=np.int32)
                if rows.labelled:
                    feature["labels"] = np.full(len(feature["input_ids"]), UNLABELLED, dtype=np.int32)
                for i in own:
                    learned = slice(starts[i], starts[i] + (len(shown[i]) if self.pieces == "all" else 1))
                    feature[MASK][learned] = 1
                    if row["tags"] is not None:
                        feature["labels"][learned] = self.labels.index(row["tags"][window.start + i])
                features.append(feature)
                parts.append(Part(index, np.asarray([starts[i] for i in own])))
        how = f"read in windows that share {overlap} tokens"
        report = rows.report.with_lengths(Lengths(longest, self.max_length, longer, how), tally.findings())
        return Encoded(rows, features, parts, padding, report)

    # What is learned, and what comes out.

    def learned(self, logits: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """``(batch, length, tags)`` logits, masked but for words, and the mean cross-entropy of the labelled ones."""
        found = {"logits": logits, "logits_mask": batch.get(MASK, batch.get("attention_mask"))}
        labels = batch.get("labels")
        if labels is None:
            return found
        scores = full_precision(logits).transpose(1, 2)
        losses = functional.cross_entropy(scores, labels, ignore_index=UNLABELLED, reduction="none")
        return {**found, "labels": labels, "losses": masked_mean(losses, labels >= 0)}

    def masks(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The words of the batch."""
        return {"logits_mask": batch[MASK]} if MASK in batch else {}

    def decoded(self, logits: Sequence[Any], encoded: Encoded) -> list[dict[str, Any]]:
        """``tags``, and their ``entities``, each with ``type``, ``start`` and ``end`` in tokens, and ``text``."""
        tags: list[list[str]] = [[] for _ in encoded.rows]
        for row, part in zip(logits, encoded.parts, strict=True):
            tags[part.row] += [self.labels[i] for i in row[part.spans].argmax(axis=-1)]
        if self.scheme is None:
            return [{"tags": each} for each in tags]
        space = " " if self.units == "words" else ""
        return [
            {
                "tags": each,
                "entities": [
                    {**entity._asdict(), "text": space.join(row["tokens"][entity.start : entity.end])}
                    for entity in entities(each)
                ],
            }
            for each, row in zip(tags, encoded.rows, strict=True)
        ]

    def score(self, predictions: Sequence[Mapping[str, Any]], rows: Sequence[Row]) -> dict[str, float]:
        """See :func:`~textbrewer.tasks.scores.entity_scores`; of plain tags ``accuracy`` and ``macro_f1``."""
        sides = [row["tags"] for row in rows], [found["tags"] for found in predictions]
        if self.scheme is not None:
            true, predicted = ([[_in_iobes_letters(tag) for tag in tags] for tags in side] for side in sides)
            return entity_scores(true, predicted)
        flat = [[self.labels.index(tag) for tags in side for tag in tags] for side in sides]
        found = class_scores(flat[0], flat[1], len(self.labels))
        return {metric: found[metric] for metric in ("accuracy", "macro_f1")}


def _tags_of(cell: Any) -> list[str] | None:
    """The tags in a cell, a list or a text with spaces; None where any is hidden."""
    tags = cell.split() if isinstance(cell, str) else cell
    return None if tags is None or None in tags else [str(tag) for tag in tags]


def _is_chunk_tag(tag: str) -> bool:
    try:
        parts_of(tag)
    except ValueError:
        return False
    return True


def _are_chunk_tags(names: Sequence[str]) -> bool:
    """Whether a model's classes are ``O`` and chunk tags."""
    return OUTSIDE in names and all(_is_chunk_tag(name) for name in names)


def _kinds_of(tags: Iterable[str]) -> list[str]:
    """The types of chunk tags, in their order."""
    return list(dict.fromkeys(parts_of(tag)[1] for tag in tags if tag != OUTSIDE))


def _labels_for(tags: Collection[str], types: Mapping[str, str], scheme: Literal["iob2", "iobes"]) -> list[str]:
    """The labels for tags that occur, named by ``types``; those that are no chunk tags among many give none."""
    chunks = [tag for tag in tags if tag != OUTSIDE and _is_chunk_tag(tag)]
    others = len(tags) - len(chunks) - (OUTSIDE in tags)
    if others and (OUTSIDE not in tags or others >= len(chunks)):
        return in_order(types.get(tag, tag) for tag in tags)
    kinds = _kinds_of(chunks)
    return tag_names(in_order(types.get(kind, kind) for kind in kinds if types.get(kind) != OUTSIDE), scheme)


def _in_iobes_letters(tag: str) -> str:
    prefix, kind = parts_of(tag)
    return f"{prefix}-{kind}" if kind else OUTSIDE


def _chosen_columns(table: Table, columns: Mapping[str, Column] | None, labelled: bool | None) -> Chosen:
    found = named(table, columns, _ROLES)
    given = set(found)
    for role in _ROLES:
        if role == "tags" and labelled is False:
            found.pop(role, None)
        elif role not in found and (column := guessed(table, role)):
            found[role] = column
        elif role not in found and (role == "tokens" or labelled):
            raise missing(table, role, "; labelled=False reads tokens without tags" if role == "tags" else "")
    return Chosen.of(found, given)
