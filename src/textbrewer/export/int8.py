"""An ONNX file with weights of eight bits."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ..files import replaced
from .packages import require_packages, silence


def quantise(file: str | Path, target: str | Path) -> None:
    """Write an ONNX file whose matrices and embeddings are int8, for CPUs.

    Weights have a scale for each output channel; activations are quantised batch by batch, so no data is needed to
    calibrate them. What ONNX Runtime has no int8 kernel for, such as a GRU, keeps its float weights.

    Args:
        file: from :func:`~textbrewer.export.write_onnx`.
        target: the new file; it appears only when it is whole.

    Raises:
        MissingDependencyError: the extra ``export`` is not installed.
    """
    require_packages("onnx", "onnxruntime")
    with silence(), tempfile.TemporaryDirectory() as scratch, replaced(target) as beside:
        from onnxruntime.quantization import QuantType, quantize_dynamic
        from onnxruntime.quantization.shape_inference import quant_pre_process

        prepared = Path(scratch) / "prepared.onnx"
        quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
        quantize_dynamic(str(prepared), str(beside), weight_type=QuantType.QInt8, per_channel=True)
