"""Text classification: texts and labels to batches, and the scores of a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..errors import DataError
from ..feeding import to_device


def encode(texts: Sequence[str], labels: Sequence[int], tokenizer: Any, max_length: int) -> list[dict[str, Any]]:
    """Tokenise texts, cut to ``max_length`` tokens; one row each, with its label.

    Raises:
        DataError: the numbers of texts and labels differ.
    """
    if len(texts) != len(labels):
        raise DataError(f"encode: {len(texts)} texts, but {len(labels)} labels; one label per text is needed")
    encoded = tokenizer(list(texts), truncation=True, max_length=max_length)
    return [{**{key: values[i] for key, values in encoded.items()}, "labels": label} for i, label in enumerate(labels)]


def loader_of(
    rows: Sequence[Mapping[str, Any]], tokenizer: Any, batch_size: int, *, shuffle_seed: int | None = None
) -> DataLoader[Any]:
    """Batches padded to their longest row.

    Args:
        rows: from :func:`encode`.
        tokenizer: pads.
        batch_size: rows of a batch.
        shuffle_seed: shuffles anew in each epoch, in an order that depends on this alone; None keeps the order.

    Raises:
        DataError: there are no rows.
    """
    if not rows:
        raise DataError("loader_of: there are no rows")
    generator = None if shuffle_seed is None else torch.Generator().manual_seed(shuffle_seed)

    def collate(batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        return dict(tokenizer.pad(batch, return_tensors="pt"))

    return DataLoader(
        list(rows),  # type: ignore[arg-type]
        batch_size,
        shuffle=shuffle_seed is not None,
        generator=generator,
        collate_fn=collate,
    )


@torch.no_grad()
def evaluate(model: nn.Module, loader: Iterable[Mapping[str, Tensor]]) -> dict[str, float]:
    """``accuracy`` and ``macro_f1`` (both 0 to 1) of a model over a loader; its modes are left as they were."""
    from sklearn.metrics import accuracy_score, f1_score

    from ..engine.modes import modes_kept

    device = next(model.parameters()).device
    predicted, true = [], []
    with modes_kept(model):
        model.eval()
        for batch in loader:
            inputs = {key: value for key, value in batch.items() if key != "labels"}
            predicted.append(model(**to_device(inputs, device)).logits.argmax(dim=-1).cpu())
            true.append(batch["labels"])
    guesses, answers = torch.cat(predicted).numpy(), torch.cat(true).numpy()
    return {
        "accuracy": float(accuracy_score(answers, guesses)),
        "macro_f1": float(f1_score(answers, guesses, average="macro")),
    }
