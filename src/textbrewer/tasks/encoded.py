"""Rows as a model takes them, and batches of them padded to their longest row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias, cast, overload

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..batching import LengthGroupedBatches
from ..errors import DataError
from ..feeding import sides
from .data import DataReport, Row

Feature: TypeAlias = dict[str, Any]
"""What one row of a batch is made of: ``input_ids`` and others as NumPy arrays, labels as numbers or arrays.

Where teacher and student read something else, it is ``{"teacher": feature, "student": feature}``.
"""

Index: TypeAlias = int | tuple[int, int]
"""Which feature; or which, and the number of the pass for which it is made anew."""

Collate: TypeAlias = Callable[[Sequence[Feature]], dict[str, Any]]
"""Makes a batch of features."""

POSITIONS = ("start_positions", "end_positions")
"""The names of labels that are places of tokens in their row."""

TARGETS = ("labels", *POSITIONS)
"""The names of labels in a batch."""

SEQUENCES = "sequences"
"""The key of a feature that has several sequences."""

UNLABELLED = -100
"""Stands for a class or a position that is not known; no loss counts it."""


@dataclass(frozen=True)
class Part:
    """What one feature shows of a row: all of it, or a window.

    Attributes:
        row: which.
        spans: what the task needs to find its way back from tokens to the row.
    """

    row: int
    spans: Any = None


class Padding:
    """Collates features into a batch of tensors, padded to its longest row; ``attention_mask`` marks what is real.

    Where padding stands on the left, positions of tokens move with them.

    Args:
        tokenizer: its padding token, side and token type.
        by_token: the keys, besides the tokenizer's own, that have a value for each token.
        length: how long a batch is at least.

    Raises:
        DataError: the tokenizer has no padding token.
    """

    def __init__(self, tokenizer: Any, by_token: Sequence[str] = (), length: int = 0) -> None:
        if tokenizer.pad_token_id is None:
            raise DataError(
                f"{type(tokenizer).__name__} has no padding token; set one, e.g. "
                "tokenizer.pad_token = tokenizer.eos_token"
            )
        self.fills = {key: UNLABELLED if key in TARGETS else 0 for key in by_token}
        self.fills |= {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        self.left = tokenizer.padding_side == "left"
        self.length = length

    def __call__(self, features: Sequence[Feature]) -> dict[str, Tensor]:
        masks = [np.ones(len(feature["input_ids"])) for feature in features]
        batch = {"input_ids": self._padded([f["input_ids"] for f in features], self.fills["input_ids"])}
        before = [batch["input_ids"].shape[1] - len(mask) if self.left else 0 for mask in masks]
        batch["attention_mask"] = self._padded(masks, 0)
        for key in features[0]:
            values = [feature[key] for feature in features]
            if key in self.fills:
                batch[key] = self._padded(values, self.fills[key])
            elif key in POSITIONS:
                batch[key] = tensor_of([moved(place, by) for place, by in zip(values, before, strict=True)])
            else:
                batch[key] = tensor_of(values)
        return batch

    def _padded(self, values: Sequence[Any], fill: int) -> Tensor:
        longest = max(self.length, *(len(value) for value in values))
        padded = np.full((len(values), longest), fill, dtype=np.int64)
        for row, value in zip(padded, values, strict=True):
            row[longest - len(value) if self.left else 0 :][: len(value)] = value
        return torch.from_numpy(padded)


def moved(place: int, by: int) -> int:
    """A position behind so many more tokens; one below 0, which stands for none, stays."""
    return place + by if place >= 0 else place


def tensor_of(values: Sequence[Any]) -> Tensor:
    """Numbers or arrays of one shape as a tensor."""
    array = np.asarray(values)
    return torch.from_numpy(array.astype(np.float32 if array.dtype.kind == "f" else np.int64))


@dataclass(frozen=True)
class TwoSides:
    """Collates features of two sides, each as its own tokenizer has them."""

    teacher: Collate
    student: Collate

    def __call__(self, features: Sequence[Feature]) -> dict[str, Any]:
        return {
            "teacher": self.teacher([feature["teacher"] for feature in features]),
            "student": self.student([feature["student"] for feature in features]),
        }


@dataclass(frozen=True, eq=False)
class Encoded(Dataset[Feature]):
    """Encoded rows, with the way back to what they were.

    It is a dataset for ``DataLoader``, with :attr:`padding` as ``collate_fn``; :meth:`loader` makes one.

    Attributes:
        rows: as they were.
        features: what batches are made of; one a row, or one a window of it.
        parts: what each feature shows.
        padding: makes batches.
        report: of the rows, now with their lengths.
        varies: whether features are made anew in each pass of :meth:`loader`; by index they are always the same.
    """

    rows: Sequence[Row]
    features: Sequence[Feature]
    parts: Sequence[Part]
    padding: Collate
    report: DataReport = field(repr=False)
    varies: bool = False

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: Index) -> Feature:
        return self.features[index]  # type: ignore[index]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each feature, of its longest sequence, for :class:`~textbrewer.LengthGroupedBatches`."""
        return [max(len(ids) for ids in own) for own in self.ids]

    @property
    def ids(self) -> Iterator[list[Any]]:
        """The ids of each feature's sequences, of the student's side."""
        students = (sides(feature).student for feature in self.features)
        return ([sequence["input_ids"] for sequence in own.get(SEQUENCES, [own])] for own in students)

    @property
    def sequences(self) -> int:
        """How many a student reads of each feature."""
        return int(getattr(_side(self.padding, "student"), "number", 1))

    def loader(
        self, batch_size: int, *, shuffle_seed: int | None = None, group_by_length: bool = False, **options: Any
    ) -> DataLoader[Feature]:
        """Batches padded to their longest row.

        Args:
            batch_size: features of a batch.
            shuffle_seed: shuffles anew in each epoch, in an order that depends on this alone; None keeps the order.
            group_by_length: shuffles so that rows of about the same length come together, with seed 0 where no other
                is given; see :class:`~textbrewer.LengthGroupedBatches`. Features that are made anew in each pass are
                left as they are.
            **options: of ``DataLoader``.

        Raises:
            DataError: there are no rows.
        """
        if not len(self):
            raise DataError("loader: there are no rows")
        if group_by_length and not self.varies:
            drop_last = options.pop("drop_last", False)
            batches = LengthGroupedBatches(self.lengths, batch_size, seed=shuffle_seed or 0, drop_last=drop_last)
            return DataLoader(self, batch_sampler=cast(Any, batches), collate_fn=self.padding, **options)
        generator = None if shuffle_seed is None else torch.Generator().manual_seed(shuffle_seed)
        if self.varies:
            options["sampler"] = Passes(len(self), generator)
        else:
            options |= {"shuffle": generator is not None, "generator": generator}
        return DataLoader(self, batch_size, collate_fn=self.padding, **options)

    def without_labels(self) -> Encoded:
        """The same texts, to learn from a teacher alone."""
        report = replace(self.report, labelled=0, labels={})
        return replace(self, features=Made(len(self), partial(_unlabelled_of, self.features)), report=report)


class Made(Sequence[Feature]):
    """Features that are made when they are asked for.

    Args:
        number: how many there are.
        make: a feature from its :data:`Index`.
    """

    def __init__(self, number: int, make: Callable[[Index], Feature]) -> None:
        self.number, self.make = number, make

    def __len__(self) -> int:
        return self.number

    @overload
    def __getitem__(self, index: Index) -> Feature: ...
    @overload
    def __getitem__(self, index: slice) -> list[Feature]: ...
    def __getitem__(self, index: Index | slice) -> Feature | list[Feature]:
        if isinstance(index, slice):
            return [self.make(place) for place in range(self.number)[index]]
        return self.make(range(self.number)[index] if isinstance(index, int) else index)


def _unlabelled_of(features: Sequence[Feature], index: Any) -> Feature:
    return _unlabelled(features[index])


def _unlabelled(feature: Mapping[str, Any]) -> Feature:
    kept = {key: value for key, value in feature.items() if key not in TARGETS}
    return {key: _unlabelled(value) if isinstance(value, Mapping) else value for key, value in kept.items()}


class Passes(Sampler[tuple[int, int]]):
    """Every feature once a pass, each with a number that is drawn for the pass.

    Args:
        number: of features.
        generator: of the numbers and of the order; None keeps the order, and draws the numbers from a seed of its own.
    """

    def __init__(self, number: int, generator: torch.Generator | None) -> None:
        self.number, self.shuffles = number, generator is not None
        # By this name a stream of batches finds what to put back where it goes on in the middle of a pass.
        self.generator = generator or torch.Generator().manual_seed(0)

    def __len__(self) -> int:
        return self.number

    def __iter__(self) -> Iterator[tuple[int, int]]:
        drawn = drawn_number(self.generator)
        order = torch.randperm(self.number, generator=self.generator).tolist() if self.shuffles else range(self.number)
        return ((place, drawn) for place in order)


def drawn_number(generator: torch.Generator) -> int:
    """A number that tells one pass from another."""
    return int(torch.randint(2**62, (), generator=generator))


def two_sided(of_teacher: Encoded, of_student: Encoded) -> Encoded:
    """The same rows encoded once for each side; the teacher's go without labels."""
    features: list[Feature] = [
        {"teacher": sides(theirs).teacher, "student": sides(mine).student}
        for theirs, mine in zip(of_teacher.without_labels().features, of_student.features, strict=True)
    ]
    padding = TwoSides(_side(of_teacher.padding, "teacher"), _side(of_student.padding, "student"))
    return replace(of_student, features=features, padding=padding)


def _side(padding: Collate, side: str) -> Collate:
    found: Collate = getattr(padding, side) if isinstance(padding, TwoSides) else padding
    return found


def chunks(rows: Sequence[Row], size: int = 1000) -> Iterable[Sequence[Row]]:
    """The rows, so many at a time: a tokenizer's lists take far more memory than what is kept of them."""
    return (rows[start : start + size] for start in range(0, len(rows), size))
