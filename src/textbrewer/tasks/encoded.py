"""Rows as a model takes them, and batches of them padded to their longest row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import DataError
from .data import DataReport, Row

Feature: TypeAlias = dict[str, Any]
"""What one row of a batch is made of: ``input_ids`` and others as NumPy arrays, labels as numbers or arrays."""

TARGETS = ("labels", "start_positions", "end_positions")
"""The names of labels in a batch."""

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

    Args:
        tokenizer: its padding token, side and token type.
        by_token: the keys, besides the tokenizer's own, that have a value for each token.

    Raises:
        DataError: the tokenizer has no padding token.
    """

    def __init__(self, tokenizer: Any, by_token: Sequence[str] = ()) -> None:
        if tokenizer.pad_token_id is None:
            raise DataError(
                f"{type(tokenizer).__name__} has no padding token; set one, e.g. "
                "tokenizer.pad_token = tokenizer.eos_token"
            )
        self.fills = {key: UNLABELLED if key in TARGETS else 0 for key in by_token}
        self.fills |= {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        self.left = tokenizer.padding_side == "left"

    def __call__(self, features: Sequence[Feature]) -> dict[str, Tensor]:
        masks = [np.ones(len(feature["input_ids"])) for feature in features]
        batch = {"input_ids": self._padded([f["input_ids"] for f in features], self.fills["input_ids"])}
        batch["attention_mask"] = self._padded(masks, 0)
        for key in features[0]:
            values = [feature[key] for feature in features]
            if key in self.fills:
                batch[key] = self._padded(values, self.fills[key])
            else:
                batch[key] = _tensor(np.asarray(values))
        return batch

    def _padded(self, values: Sequence[Any], fill: int) -> Tensor:
        longest = max(len(value) for value in values)
        padded = np.full((len(values), longest), fill, dtype=np.int64)
        for row, value in zip(padded, values, strict=True):
            row[longest - len(value) if self.left else 0 :][: len(value)] = value
        return torch.from_numpy(padded)


def _tensor(values: Any) -> Tensor:
    return torch.from_numpy(values.astype(np.float32 if values.dtype.kind == "f" else np.int64))


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
    """

    rows: Sequence[Row]
    features: Sequence[Feature]
    parts: Sequence[Part]
    padding: Padding
    report: DataReport = field(repr=False)

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> Feature:
        return self.features[index]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each feature, for :class:`~textbrewer.LengthGroupedBatches`."""
        return [len(feature["input_ids"]) for feature in self.features]

    def loader(self, batch_size: int, *, shuffle_seed: int | None = None, **options: Any) -> DataLoader[Feature]:
        """Batches padded to their longest row.

        Args:
            batch_size: features of a batch.
            shuffle_seed: shuffles anew in each epoch, in an order that depends on this alone; None keeps the order.
            **options: of ``DataLoader``.

        Raises:
            DataError: there are no rows.
        """
        if not self.features:
            raise DataError("loader: there are no rows")
        generator = None if shuffle_seed is None else torch.Generator().manual_seed(shuffle_seed)
        return DataLoader(
            self,
            batch_size,
            shuffle=shuffle_seed is not None,
            generator=generator,
            collate_fn=self.padding,
            **options,
        )

    def without_labels(self) -> Encoded:
        """The same texts, to learn from a teacher alone."""
        features = [{key: value for key, value in f.items() if key not in TARGETS} for f in self.features]
        return replace(self, features=features, report=replace(self.report, labelled=0, labels={}))


def chunks(rows: Sequence[Row], size: int = 1000) -> Iterable[Sequence[Row]]:
    """The rows, so many at a time: a tokenizer's lists take far more memory than what is kept of them."""
    return (rows[start : start + size] for start in range(0, len(rows), size))
