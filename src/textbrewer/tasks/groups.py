"""Rows of several sequences that a model reads one by one: a query and its candidates, two sentences to compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .encoded import SEQUENCES, Feature, Padding, tensor_of

PRESENT = "present"
"""The key by which a batch says which candidates of a row there are, ``(batch, candidates)``."""

COLUMNS = "columns"
"""The key by which a batch says which of its columns hold any text, ``(first, last + 1)``."""

GIVEN = "given"
"""The key by which a batch says which of all its sequences there are, as numbers; None where there are all."""


class GroupPadding:
    """Collates rows of several sequences into a batch of ``(batch, sequences, length)``.

    Every batch is as long as any other, so that a row looks the same to a teacher cache in all of them; a model is fed
    only the sequences that there are, and the columns that hold text.

    Args:
        tokenizer: its padding token, side and token type.
        number: sequences of a row; where there are fewer, the others are a padding token each.
        length: of a sequence.

    Raises:
        DataError: the tokenizer has no padding token.
    """

    def __init__(self, tokenizer: Any, number: int, length: int) -> None:
        self.number, self.padding = number, Padding(tokenizer, length=length)

    def __call__(self, features: Sequence[Feature]) -> dict[str, Any]:
        blank = {key: np.asarray([self.padding.fills[key]]) for key in features[0][SEQUENCES][0]}
        sequences = [
            sequence
            for feature in features
            for sequence in [*feature[SEQUENCES], *[blank] * (self.number - len(feature[SEQUENCES]))]
        ]
        flat = self.padding(sequences)
        batch: dict[str, Any] = {key: value.reshape(len(features), self.number, -1) for key, value in flat.items()}
        batch[COLUMNS] = _used(flat["attention_mask"])
        numbers = [len(feature[SEQUENCES]) for feature in features]
        given = [self.number * row + place for row, number in enumerate(numbers) for place in range(number)]
        batch[GIVEN] = None if len(given) == len(sequences) else tuple(given)
        return batch | {key: tensor_of([f[key] for f in features]) for key in features[0] if key != SEQUENCES}


def is_grouped(batch: Any) -> bool:
    """Whether the rows of a batch have several sequences."""
    ids = batch.get("input_ids") if isinstance(batch, Mapping) else None
    return isinstance(ids, Tensor) and ids.dim() == 3


def sequences_of(batch: Any) -> Any:
    """The sequences that the rows have, ``(sequences, columns used)``; any other batch as it is."""
    if not is_grouped(batch):
        return batch
    # A teacher cache makes batches of some of the rows, which do not say it.
    start, stop = batch.get(COLUMNS) or _used(batch["attention_mask"].flatten(0, 1))
    by_token = {key: value for key, value in batch.items() if isinstance(value, Tensor) and value.dim() == 3}
    flat = {key: value[..., start:stop].flatten(0, 1) for key, value in by_token.items()}
    given = batch[GIVEN] if GIVEN in batch else _given(batch)
    if given is None:
        return flat
    where = torch.as_tensor(given, device=batch["input_ids"].device)
    return {key: value.index_select(0, where) for key, value in flat.items()}


def of_rows(values: Tensor, batch: Mapping[str, Any], missing: float) -> Tensor:
    """What a model gave for each of :func:`sequences_of`, row by row again.

    Args:
        values: ``(sequences, …)``.
        batch: of which they are.
        missing: stands for a sequence that a row does not have.

    Returns:
        ``(batch, sequences of a row, …)``.
    """
    there = _there(batch)
    if there is None:
        return values.reshape(*batch["input_ids"].shape[:2], *values.shape[1:])
    there = there.reshape(*there.shape, *[1] * (values.dim() - 1))
    return values.new_full((*there.shape[:2], *values.shape[1:]), missing).masked_scatter(there, values)


def _there(batch: Mapping[str, Any]) -> Tensor | None:
    """Which sequences of a row there are; None where a batch does not say it, and has all."""
    if PRESENT not in batch:
        return None
    present = batch[PRESENT] != 0
    # A bi-encoder reads the query before its candidates.
    queries = batch["input_ids"].shape[1] - present.shape[1]
    return functional.pad(present, (queries, 0), value=True)


def _given(batch: Mapping[str, Any]) -> Tensor | None:
    there = _there(batch)
    return None if there is None else there.flatten().nonzero().squeeze(-1)


def _used(mask: Tensor) -> tuple[int, int]:
    columns = (mask != 0).any(dim=0).nonzero()
    return int(columns[0]), int(columns[-1]) + 1
