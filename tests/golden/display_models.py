"""The models whose parameters are displayed, both by TextBrewer 0.2.1 and by this library."""

from __future__ import annotations

import torch
from torch import nn


def nested() -> nn.Module:
    model = nn.Module()
    model.only = nn.Module()
    model.only.child = nn.Module()
    model.only.child.half = nn.Linear(100, 30).half()
    model.only.child.norm = nn.LayerNorm(300)
    model.double = nn.Linear(3, 3).double()
    model.register_buffer("counts", torch.zeros(1000, dtype=torch.long))
    return model


def shared() -> nn.Module:
    model = nn.Module()
    model.embedding = nn.Embedding(50, 8)
    model.layers = nn.ModuleList([nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)) for _ in range(2)])
    model.again = model.layers[0]
    model.head = nn.Linear(8, 50)
    model.head.weight = model.embedding.weight
    model.one = nn.Parameter(torch.zeros(2))
    model.other = model.one
    return model


MODELS = {
    "nested": nested,
    "shared": shared,
    "linear": lambda: nn.Linear(3, 2),
    "state dict": lambda: {"a.b": torch.zeros(3), "c": torch.zeros(4)},
    "deep": lambda: nn.Sequential(nn.Sequential(nn.Sequential(nn.Linear(2, 2)))),
}
LEVELS = [None, 0, 1, 2, 3]
