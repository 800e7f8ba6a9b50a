"""Which rows make a batch: rows of about the same length together, and batches cut to their longest row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .errors import ConfigError, Problem
from .types import Batch

TOKEN_INPUTS = frozenset(
    (
        "input_ids",
        "attention_mask",
        "token_type_ids",
        "position_ids",
        "special_tokens_mask",
        "inputs_embeds",
        "labels",
        "logits_mask",
    )
)
"""The inputs that have a column for each token. Another input may be as wide as the text by chance."""


class LengthGroupedBatches:
    """A batch sampler of rows of about the same length, so that little of a batch is padding.

    The rows are shuffled, cut into pools of many batches, sorted within each, and the batches shuffled: the order is
    another in every epoch, and depends on the seed alone.

    Args:
        lengths: of each row, in tokens.
        batch_size: rows of a batch.
        seed: of the order.
        pool: batches that are sorted together; more gives less padding and less chance.
        drop_last: leave out a last batch that is not full.

    Raises:
        ConfigError: with every argument that cannot be used.

    >>> list(LengthGroupedBatches([5, 9, 5, 9], batch_size=2))
    [[0, 2], [1, 3]]
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, *, seed: int = 0, pool: int = 50, drop_last: bool = False
    ) -> None:
        given = {"batch_size": batch_size, "pool": pool, "number of lengths": len(lengths)}
        problems = [Problem(name, "at least 1", str(value)) for name, value in given.items() if value < 1]
        if problems:
            raise ConfigError("LengthGroupedBatches", problems)
        self.lengths, self.batch_size, self.seed, self.pool, self.drop_last = lengths, batch_size, seed, pool, drop_last
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch; each pass over the sampler moves on by itself."""
        self.epoch = epoch

    def __len__(self) -> int:
        rows = len(self.lengths)
        return rows // self.batch_size if self.drop_last else -(-rows // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        self.epoch += 1
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        size = self.pool * self.batch_size
        rows = [
            row
            for start in range(0, len(order), size)
            for row in sorted(order[start : start + size], key=lambda row: (self.lengths[row], row))
        ]
        batches = [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]
        if self.drop_last and len(batches[-1]) < self.batch_size:
            batches.pop()
        for place in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[place]


def trimmed(batch: Batch) -> Batch:
    """A batch without the columns that are padding in every row.

    A mapping is cut if it has an ``attention_mask`` of ``(batch, length)`` on the CPU, where reading it waits for
    nothing, and no other input as wide as the text than :data:`TOKEN_INPUTS`. Any other batch comes back as it is.
    """
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    if not isinstance(mask, Tensor) or mask.dim() != 2 or mask.device.type != "cpu" or not mask.numel():
        return batch
    length = mask.shape[1]
    used = (mask != 0).any(dim=0).nonzero()
    longest = max(int(used[-1]) + 1 if len(used) else 1, 1)
    wide = {name for name, value in batch.items() if _has_columns(value, length)}
    # Labels that are no class numbers are not of tokens: as many classes as the text has tokens.
    labels = batch.get("labels")
    of_tokens = not (isinstance(labels, Tensor) and labels.is_floating_point())
    if longest == length or not wide <= (TOKEN_INPUTS if of_tokens else TOKEN_INPUTS - {"labels"}):
        return batch
    cut: dict[str, Any] = {name: value[:, :longest] if name in wide else value for name, value in batch.items()}
    return cut


def _has_columns(value: Any, length: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 1 and value.shape[1] == length
