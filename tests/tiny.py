"""Small models and batches that the tests share. Everything is made from seeds; nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CLASSES = 3
VOCABULARY = 50


class Encoder(nn.Module):
    """Embeddings and tanh layers; gives logits, hidden states and attention-like maps as a tuple.

    Positions are mixed by masked averages, so padding cannot reach real tokens.
    """

    def __init__(self, width: int = 8, layers: int = 2, heads: int = 2, classes: int = CLASSES) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(layers)])
        self.head = nn.Linear(width, classes)
        self.heads = heads

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: Any = None, scale: float = 1.0):
        mask = attention_mask.to(self.head.weight.dtype).unsqueeze(-1)
        state = self.embedding(input_ids) * scale
        hidden, attention = [state], []
        for layer in self.layers:
            mean = (state * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
            state = torch.tanh(layer(state + mean))
            hidden.append(state)
            scores = state @ state.transpose(1, 2) / state.shape[-1] ** 0.5
            scores = scores.masked_fill(attention_mask[:, None, :] == 0, -1e4)
            attention.append(torch.stack([scores * (head + 1) for head in range(self.heads)], dim=1).softmax(-1))
        pooled = (state * mask).sum(1) / mask.sum(1).clamp(min=1)
        logits = self.head(pooled)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return logits, tuple(hidden), tuple(attention), loss


class EncoderAdaptor:
    """The adaptor of :class:`Encoder`, which can also tell the masks of a batch without the model."""

    def __call__(self, batch: Any, outputs: Any) -> dict[str, Any]:
        logits, hidden, attention, loss = outputs
        given = {"logits": logits, "hidden": hidden, "attention": attention, "inputs_mask": batch["attention_mask"]}
        if loss is not None:
            given |= {"losses": loss, "labels": batch["labels"]}
        return given

    def masks(self, batch: Any) -> dict[str, Any]:
        return {"rows": batch["input_ids"].shape[0], "mask": batch["attention_mask"]}


def encoder(seed: int = 0, dtype: torch.dtype = torch.float32, **sizes: int) -> Encoder:
    """An :class:`Encoder` whose weights depend on ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Encoder(**sizes).to(dtype)


def batch_of(rows: int = 4, length: int = 6, seed: int = 0, labels: bool = True) -> dict[str, torch.Tensor]:
    """A batch with rows of different lengths, padded with zeros on the right."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCABULARY, (rows, length), generator=generator)
    lengths = torch.randint(1, length + 1, (rows,), generator=generator)
    lengths[0] = length
    mask = (torch.arange(length)[None] < lengths[:, None]).long()
    batch = {"input_ids": ids * mask, "attention_mask": mask}
    if labels:
        batch["labels"] = torch.randint(0, CLASSES, (rows,), generator=generator)
    return batch


def batches(number: int, rows: int = 4, length: int = 6, labels: bool = True) -> list[dict[str, torch.Tensor]]:
    """A loader: a list of different batches."""
    return [batch_of(rows, length, seed, labels) for seed in range(number)]


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of a model's weights."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
