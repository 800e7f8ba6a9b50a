"""What ``torch.export`` cannot follow with open sizes, in forms that it can."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class OpenSizes(TorchFunctionMode):
    """While it is entered, calls that would fix the sizes of an exported model are made another way.

    ``torch.export`` unrolls a GRU over the length of its sample, where ONNX has a GRU of its own, and takes the sizes
    of ``take_along_dim`` for constants, though not those of ``gather``.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return _FORMS.get(func, func)(*args, **(kwargs or {}))


def _take_along_dim(values: Tensor, indices: Tensor, dim: int) -> Tensor:
    sizes = list(values.shape)
    sizes[dim] = indices.shape[dim]
    return values.gather(dim, indices.expand(sizes))


def _gru(
    values: Tensor,
    start: Tensor,
    weights: list[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor]:
    """A GRU of one layer and one direction that starts from zeros, as the layers of a BiGRU student are."""
    if not (has_biases and batch_first) or num_layers > 1 or bidirectional:
        raise NotImplementedError("a GRU is exported with biases, batch_first, one layer and one direction")
    read, kept, read_bias, kept_bias = (_gates(weight) for weight in weights)
    width = kept.shape[1]
    batch, length, _ = values.shape
    states, last = torch.onnx.ops.symbolic_multi_out(
        "GRU",
        (values.transpose(0, 1), read[None], kept[None], torch.cat([read_bias, kept_bias])[None]),
        {"hidden_size": width, "linear_before_reset": 1},
        dtypes=(values.dtype, values.dtype),
        shapes=((length, 1, batch, width), (1, batch, width)),
    )
    return states[:, 0].transpose(0, 1), last


def _gates(weight: Tensor) -> Tensor:
    """PyTorch's order of gates is reset, update, new; ONNX's is update, reset, new."""
    width = weight.shape[0] // 3
    return torch.cat([weight[width : 2 * width], weight[:width], weight[2 * width :]])


_FORMS: dict[Any, Callable[..., Any]] = {torch.take_along_dim: _take_along_dim, torch.gru: _gru}
