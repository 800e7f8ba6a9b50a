"""What a model is made of and what it costs: parameters, operations, size, latency and memory."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..errors import DataError, TextBrewerError, UnsupportedError
from ..feeding import accepts, to_device
from ..matching.layers import positions_of
from ..modes import modes_kept
from ..utils import display_parameters
from .profile import Inputs, Speed, bytes_of, machine, parameters_of, peak_memories, seconds, speed_of, weights_on_disk
from .table import aligned

logger = logging.getLogger("textbrewer")


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """Operations of two matrix products: scores of queries by keys, and their mean of the values."""
    batch, heads, length, width = query
    return 2 * batch * heads * length * key[2] * (width + value[3])


_UNCOUNTED: dict[Any, Any] = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
"""What PyTorch's counter passes over."""


@dataclass(frozen=True)
class ModuleSize:
    """A module or tensor in the tree of a model.

    Attributes:
        name: with the modules above it, joined by ``.``.
        depth: how many are above it.
        elements: of its parameters and buffers; those that were counted before are not.
        bytes: that they take.
    """

    name: str
    depth: int
    elements: int
    bytes: int

    def cells(self, total: int) -> list[str]:
        """A line of a table, with the share of ``total`` elements."""
        name = "  " * self.depth + self.name.rpartition(".")[2]
        return [name, f"{self.elements:,}", f"{self.elements / total:.1%}", _mega(self.bytes)]


@dataclass(frozen=True)
class Cost:
    """What batches of one size and length cost.

    Attributes:
        batch_size: rows of the batch.
        length: tokens of each row.
        flops_per_row: floating-point operations of matrix products and attention; a multiplication and an addition
            are two.
        speed: latency of the batch.
        peak_memory: bytes that the model and the batch take in a process of their own, or None where that could not be
            measured.
    """

    batch_size: int
    length: int
    flops_per_row: int
    speed: Speed
    peak_memory: int | None

    def cells(self) -> list[str]:
        """A line of a table."""
        return [
            f"{self.batch_size} x {self.length}",
            f"{self.flops_per_row / 1e6:,.1f}",
            f"{self.speed.median_ms:.2f}",
            f"{self.speed.p95_ms:.2f}",
            f"{self.speed.rows_per_second:,.0f}",
            "" if self.peak_memory is None else _mega(self.peak_memory),
        ]


@dataclass(frozen=True)
class Inspection:
    """What :func:`inspect_model` found.

    Attributes:
        model: its class.
        parameters: how many it has; shared ones count once.
        memory: bytes of its parameters and buffers.
        disk: bytes of its saved weights, or None where it cannot save itself.
        modules: its parts, in the order of the model.
        costs: of each batch size and length.
        machine: where it was measured.
    """

    model: str
    parameters: int
    memory: int
    disk: int | None
    modules: tuple[ModuleSize, ...]
    costs: tuple[Cost, ...]
    machine: str

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON takes it."""
        return asdict(self)

    def __str__(self) -> str:
        disk = "" if self.disk is None else f"; {_mega(self.disk)} MB on disk"
        total = max(sum(each.elements for each in self.modules if each.depth == 0), 1)
        parts = [["", "elements", "share", "MB"], *(each.cells(total) for each in self.modules)]
        costs = [
            ["rows x tokens", "MFLOPs a row", "median, ms", "p95, ms", "rows/s", "peak memory, MB"],
            *(each.cells() for each in self.costs),
        ]
        head = f"{self.model}: {self.parameters:,} parameters; {_mega(self.memory)} MB in memory{disk}"
        return f"{head}\n\n{aligned(parts)}\n\n{aligned(costs)}\n\nMeasured on {self.machine}."


def _mega(number: int) -> str:
    return f"{number / 1e6:.1f}"


def inspect_model(
    model: nn.Module,
    *,
    batch_sizes: Sequence[int] = (1, 32),
    lengths: Sequence[int] = (32, 128),
    depth: int = 2,
    repeats: int = 10,
    memory: bool = True,
    inputs: Callable[[int, int], Inputs] | None = None,
) -> Inspection:
    """Count what a model is made of, and measure what it costs on this machine. The model stays as it was.

    Operations are counted where PyTorch knows how: matrix products, convolutions and attention. Memory is measured in
    a process of its own, in which the model is loaded from where it saved itself.

    Args:
        model: called by the names of ``inputs``.
        batch_sizes: rows of a batch.
        lengths: tokens of a row.
        depth: levels of modules below the model.
        repeats: runs by which latency is measured; at least 2.
        memory: whether to measure memory, which takes some seconds.
        inputs: ``(rows, tokens) -> batch``; None for random tokens without padding, of a model that has
            ``get_input_embeddings()``.

    Raises:
        DataError: a number is too small, or a length is more than the model has positions.
        UnsupportedError: nothing tells how to feed the model.
    """
    _require_sizes(model, batch_sizes, lengths, repeats)
    make = inputs or random_tokens(model)
    shapes = sorted({(rows, length) for rows in batch_sizes for length in lengths}, key=lambda s: (s[0] * s[1], s))
    batches = [make(rows, length) for rows, length in shapes]
    flops = {length: _flops(model, make(1, length)) for length in set(lengths)}
    speed = [_speed(model, batch, rows, repeats) for batch, (rows, _) in zip(batches, shapes, strict=True)]
    disk, peaks = _saved(model, batches, memory)
    return Inspection(
        model=type(model).__name__,
        parameters=parameters_of(model),
        memory=bytes_of(model),
        disk=disk,
        modules=tuple(_modules(model, depth)),
        costs=tuple(
            Cost(rows, length, flops[length], each, peak)
            for (rows, length), each, peak in zip(shapes, speed, peaks, strict=True)
        ),
        machine=machine(),
    )


def _require_sizes(model: nn.Module, batch_sizes: Sequence[int], lengths: Sequence[int], repeats: int) -> None:
    if min((*batch_sizes, *lengths), default=0) < 1 or not batch_sizes or not lengths or repeats < 2:
        raise DataError(
            "inspect_model: expected batch_sizes and lengths of at least 1 and repeats of at least 2, got "
            f"batch_sizes={tuple(batch_sizes)}, lengths={tuple(lengths)}, repeats={repeats}"
        )
    positions = positions_of(model)
    if positions is not None and max(lengths) > positions:
        raise DataError(
            f"inspect_model: {type(model).__name__} takes {positions} tokens a row, got lengths={tuple(lengths)}"
        )


def random_tokens(model: nn.Module) -> Callable[[int, int], Inputs]:
    """``(rows, tokens) -> batch`` of random tokens of a model's vocabulary, without padding.

    Raises:
        UnsupportedError: the model does not say what it takes.
    """
    embeddings = getattr(model, "get_input_embeddings", lambda: None)()
    if not isinstance(embeddings, nn.Embedding) or not accepts(model, "input_ids"):
        raise UnsupportedError(
            f"inspect_model: {type(model).__name__} does not say what it takes; give inputs=, a function of rows and "
            "tokens that makes a batch"
        )
    if type(model).__name__.endswith("ForMultipleChoice"):
        raise UnsupportedError(
            f"inspect_model: {type(model).__name__} takes several texts a row; give inputs=, a function of rows and "
            "tokens that makes a batch"
        )
    generator = torch.Generator().manual_seed(0)

    def make(rows: int, length: int) -> Inputs:
        ids = torch.randint(embeddings.num_embeddings, (rows, length), generator=generator)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    return make


def _flops(model: nn.Module, batch: Inputs) -> int:
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    counter = FlopCounterMode(display=False, custom_mapping=_UNCOUNTED)
    with modes_kept(model), torch.inference_mode(), counter:
        model.eval()(**to_device(batch, device))
    return int(counter.get_total_flops())


def _speed(model: nn.Module, batch: Inputs, rows: int, repeats: int) -> Speed:
    taken = seconds({"": model}, [batch] * repeats, warm_up=2)[""]
    return speed_of(taken, rows * repeats / sum(taken))


def _saved(model: nn.Module, batches: Sequence[Inputs], memory: bool) -> tuple[int | None, Sequence[int | None]]:
    """Bytes on disk, and peak memory of each batch."""
    save = getattr(model, "save_pretrained", None)
    if save is None:
        return None, [None] * len(batches)
    with tempfile.TemporaryDirectory() as folder:
        save(folder)
        peaks: Sequence[int | None] = [None] * len(batches)
        if memory:
            try:
                peaks = peak_memories(folder, batches)
            except TextBrewerError as error:
                logger.warning("peak memory: left out, since a process of its own cannot load the model: %s", error)
        return weights_on_disk(folder), peaks


def _modules(model: nn.Module, depth: int) -> list[ModuleSize]:
    _, root = display_parameters(model, depth)
    # The root stands for the model, of which the table is.
    return [
        ModuleSize(node.fullname.removesuffix("(shared)"), level - 1, int(node.value[0]), round(node.value[1] * 2**20))
        for level, node, _ in root.rows(depth)
        if level
    ]
