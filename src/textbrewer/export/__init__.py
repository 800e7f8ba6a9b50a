"""Models as files that serve: ONNX, int8, and a folder with all that is needed to use them without PyTorch."""

from .card import Card
from .folder import ExportReport, export, export_model, export_settings, require_exportable, served_in
from .graph import write_onnx
from .int8 import quantise
from .measured import Variant, differences
from .runtime import OnnxModel

__all__ = [
    "Card",
    "ExportReport",
    "OnnxModel",
    "Variant",
    "differences",
    "export",
    "export_model",
    "export_settings",
    "quantise",
    "require_exportable",
    "served_in",
    "write_onnx",
]
