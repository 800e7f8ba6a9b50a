"""What an export costs and what it keeps, beside the model that it came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..adaptors import TransformersAdaptor
from ..errors import TextBrewerError
from ..modes import modes_kept
from ..report.profile import Speed
from ..tasks import Encoded
from ..tasks.task import unpadded

_DECISIONS = ("label", "labels", "tags", "answer")
"""The keys of predictions that decide something; of the others, two are never quite the same."""


@dataclass(frozen=True)
class Variant:
    """One form of a model.

    Attributes:
        file: its file in the folder; None for the PyTorch model.
        bytes: size of its file, or of the PyTorch model's float32 weights.
        speed: latency of one row, and throughput of 32.
        scores: of the task, where the rows have labels.
        difference: the largest difference of a logit from the PyTorch model's; None for that itself.
        agreement: the share of its decisions that are the PyTorch model's; None for that, and for numbers.
    """

    file: str | None
    bytes: int
    speed: Speed
    scores: Mapping[str, float]
    difference: float | None
    agreement: float | None


def batches_of(encoded: Encoded, inputs: Sequence[str], size: int, number: int) -> list[dict[str, Tensor]]:
    """So many batches of what a model is fed, from the beginning again where there are too few rows."""
    batches = list(islice(encoded.loader(size), number))
    return [{name: batch[name] for name in inputs} for batch in islice(cycle(batches), number)]


def differences(model: nn.Module, other: nn.Module, batches: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """The largest difference of two models in each of their outputs, padding aside."""
    adaptor = TransformersAdaptor(model)
    worst: dict[str, float] = {}
    with modes_kept(model, other), torch.inference_mode():
        for batch in batches:
            sides = [
                _by_name(adaptor(batch, each.eval()(**batch))["logits"], batch["attention_mask"])
                for each in (model, other)
            ]
            for name, values in sides[0].items():
                worst[name] = max(worst.get(name, 0.0), *map(_largest, values, sides[1][name]))
    return worst


def _by_name(logits: Any, mask: Tensor) -> dict[str, list[Any]]:
    if not isinstance(logits, list):
        return {"logits": unpadded(logits, mask)}
    starts, ends = zip(*unpadded(logits, mask), strict=True)
    return {"start_logits": list(starts), "end_logits": list(ends)}


def _largest(ours: Any, theirs: Any) -> float:
    found = float(np.abs(ours - theirs).max(initial=0.0))
    return float("inf") if np.isnan(found) else found


def require_close(found: Mapping[str, float], tolerance: float) -> None:
    """Refuse an export that computes something else.

    Raises:
        TextBrewerError: an output differs by more than ``tolerance``.
    """
    worst = max(found, key=found.__getitem__)
    if found[worst] > tolerance:
        raise TextBrewerError(
            f"export: `{worst}` of the ONNX file differ from PyTorch's by {found[worst]:.2g} on the rows given, more "
            f"than tolerance={tolerance:g}; nothing was written. A model whose logits are far from 1 may need another "
            "tolerance; if not, it computes something that ONNX does not express"
        )


def agreement(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> float | None:
    """The share of decisions in which two lists of predictions agree; of tags, the share of tags."""
    key = next((key for key in _DECISIONS if ours and key in ours[0]), None)
    if key is None:
        return None
    pairs = [(a[key], b[key]) for a, b in zip(ours, theirs, strict=True)]
    if key == "tags":
        pairs = [pair for a, b in pairs for pair in zip(a, b, strict=True)]
    same: int = sum(a == b for a, b in pairs)
    return same / len(pairs)


def table_of(variants: Mapping[str, Variant]) -> list[list[str]]:
    """The measurements as a table, a column for each variant."""

    def row(name: str, cell: Callable[[Variant], str]) -> list[str]:
        return [name, *map(cell, variants.values())]

    first = next(iter(variants.values()))
    rows = [
        ["", *variants],
        row("Size, MB", lambda v: f"{v.bytes / 1e6:.1f}"),
        row("Latency, 1 row, median, ms", lambda v: f"{v.speed.median_ms:.2f}"),
        row("Latency, 1 row, p95, ms", lambda v: f"{v.speed.p95_ms:.2f}"),
        row("Throughput, 32 rows, rows/s", lambda v: f"{v.speed.rows_per_second:,.0f}"),
        *(row(name, lambda v, name=name: f"{v.scores[name]:.4f}") for name in first.scores),  # type: ignore[misc]
        row("Largest difference of a logit", lambda v: "" if v.difference is None else f"{v.difference:.1e}"),
    ]
    if any(v.agreement is not None for v in variants.values()):
        rows.append(row("Decisions as PyTorch's", lambda v: "" if v.agreement is None else f"{v.agreement:.1%}"))
    return rows


def plain(variants: Mapping[str, Variant]) -> dict[str, Any]:
    """The measurements as JSON takes them."""
    return {name: asdict(variant) for name, variant in variants.items()}
