"""An ONNX file that is called like a model."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import DataError
from .packages import require_packages


class OnnxModel(nn.Module):
    """An ONNX file on the CPU, called like the model that it came from.

    A task evaluates it and predicts with it, and :func:`~textbrewer.report.profile.speeds` measures it::

        task.evaluate(OnnxModel("served/model.onnx"), encoded)

    Args:
        file: from :func:`~textbrewer.export.write_onnx` or :func:`~textbrewer.export.quantise`.
        threads: of one operation; None for PyTorch's number.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
    """

    def __init__(self, file: str | Path, threads: int | None = None) -> None:
        super().__init__()
        require_packages("onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        # Threads that wait for more work by spinning would slow whatever else is measured beside.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self.file = Path(file)
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.inputs = [each.name for each in self.session.get_inputs()]
        self.outputs = [each.name for each in self.session.get_outputs()]

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """The outputs by name; inputs that the file does not take are left out.

        Raises:
            DataError: an input is missing.
        """
        missing = [name for name in self.inputs if name not in inputs]
        if missing:
            raise DataError(f"{self.file.name} needs {', '.join(missing)}; the batch has {', '.join(inputs)}")
        found = self.session.run(self.outputs, {name: inputs[name].numpy() for name in self.inputs})
        return {name: torch.from_numpy(value) for name, value in zip(self.outputs, found, strict=True)}
