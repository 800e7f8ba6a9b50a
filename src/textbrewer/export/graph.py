"""A PyTorch model as an ONNX file."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..adaptors import TransformersAdaptor
from ..errors import UnsupportedError
from ..feeding import accepts
from ..files import replaced
from ..modes import modes_kept
from .forms import OpenSizes
from .packages import require_packages, silence

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""What an exported model may take, all ``(batch, length)`` and int64."""

_LARGEST = 2 * 1000**3


def write_onnx(model: nn.Module, file: str | Path, inputs: Sequence[str] = INPUTS[:2]) -> None:
    """Write a model to one ONNX file that takes batches of any size and any length.

    Its outputs are ``logits``, or ``start_logits`` and ``end_logits`` with −1e4 at padding. It computes in float32,
    whatever the model's precision and device are; the model stays as it was.

    Args:
        model: called by the names of ``inputs``; :class:`~textbrewer.TransformersAdaptor` must find logits in what it
            gives.
        file: the ONNX file; it appears only when it is whole.
        inputs: which of :data:`INPUTS` the model is fed.

    Raises:
        MissingDependencyError: the extra ``export`` is not installed.
        UnsupportedError: the model gives no logits, cannot be followed by ``torch.export``, or is larger than the 2 GB
            that an ONNX file holds.
    """
    require_packages("onnx", "onnxscript")
    name = type(model).__name__
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    if size >= _LARGEST:
        raise UnsupportedError(f"{name} has {size / 1e9:.1f} GB of weights, and an ONNX file holds 2; distil it first")
    refused = [each for each in inputs if not accepts(model, each)]
    if refused:
        raise UnsupportedError(f"{name} takes no {' and no '.join(refused)}, which an exported model is fed")
    wrapped = Logits(on_cpu(model), inputs)
    # Any values do. Sizes of one would be taken for constants, and equal ones for the same axis.
    sample = tuple(torch.ones(2, 7, dtype=torch.int64) for _ in inputs)
    with modes_kept(wrapped), torch.no_grad(), silence():
        given = wrapped.eval()(*sample)
        outputs = ["logits"] if isinstance(given, Tensor) else ["start_logits", "end_logits"]
        try:
            program = _program(wrapped, sample, inputs, outputs)
        except Exception as error:  # whatever the model's own code meets under torch.export
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise UnsupportedError(f"{name} cannot be exported: torch.export says: {reason[0]}") from error
        _save(program.model_proto, file)


def _program(model: nn.Module, sample: tuple[Tensor, ...], inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    def of_each(batch: Any, length: Any) -> tuple[tuple[dict[int, Any], ...]]:
        return (tuple({0: batch, 1: length} for _ in inputs),)

    dynamic = torch.export.Dim.DYNAMIC
    # What is found out about the length, such as the number of positions, does not reach the file.
    with OpenSizes():
        exported = torch.export.export(model, sample, dynamic_shapes=of_each(dynamic, dynamic), strict=False)
    return torch.onnx.export(
        exported,
        dynamo=True,
        input_names=inputs,
        output_names=outputs,
        dynamic_shapes=of_each("batch", "length"),
        verbose=False,
    )


def _save(proto: Any, file: str | Path) -> None:
    import onnx

    # The exporter notes the line of source, with its path on this machine, that each node came from.
    for part in (proto, proto.graph, *proto.graph.node, *proto.graph.value_info, *proto.graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    with replaced(file) as beside:
        onnx.save(proto, str(beside))


def on_cpu(model: nn.Module) -> nn.Module:
    """The model itself if it is in float32 on the CPU, else a copy that is."""
    tensors = [*model.parameters(), *model.buffers()]
    if all(t.device.type == "cpu" and (t.dtype == torch.float32 or not t.is_floating_point()) for t in tensors):
        return model
    return copy.deepcopy(model).to("cpu", torch.float32)


class Logits(nn.Module):
    """A model that takes its inputs by position and gives its logits alone."""

    def __init__(self, model: nn.Module, inputs: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.inputs = list(inputs)
        self.adaptor = TransformersAdaptor(model)

    def forward(self, *values: Tensor) -> Any:
        """Logits, or those of starts and of ends as a tuple."""
        batch = dict(zip(self.inputs, values, strict=True))
        logits = self.adaptor(batch, self.model(**batch, **self.adaptor.request())).get("logits")
        if logits is None:
            raise UnsupportedError(f"{type(self.model).__name__} gives no logits; export a model with a head")
        return tuple(logits) if isinstance(logits, list) else logits
