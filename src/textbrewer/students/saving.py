"""Students that are not Transformers models, in a folder: what they are as JSON, their weights as safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import nn

from ..errors import StudentError
from ..files import replaced

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


def save(model: nn.Module, config: Mapping[str, Any], folder: str | Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` to ``folder``; each is whole at any instant."""
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    described = {"architecture": type(model).__name__, "dtype": dtype, "config": config}
    with replaced(Path(folder) / WEIGHTS_FILE) as beside:
        save_model(model, str(beside), metadata={"format": "pt"})
    with replaced(Path(folder) / CONFIG_FILE) as beside:
        beside.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def described_in(folder: str | Path, architecture: str) -> dict[str, Any]:
    """What :func:`save` wrote to ``config.json``: ``architecture``, ``dtype`` and ``config``.

    Raises:
        StudentError: the folder holds no model of this architecture.
    """
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise StudentError(f"{architecture}: expected a folder written by save_pretrained, found no {path}")
    described: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    found = described.get("architecture", described.get("architectures"))
    if found != architecture:
        raise StudentError(f"{architecture}: {folder} holds a model of another kind: {found}")
    return described


def restore(model: nn.Module, dtype: str, folder: str | Path) -> None:
    """Load the weights that :func:`save` wrote, in the precision they have; the model is left in eval mode.

    Raises:
        StudentError: the file and the model have other tensors.
    """
    model.to(getattr(torch, dtype)).eval()
    try:
        load_model(model, Path(folder) / WEIGHTS_FILE)
    except RuntimeError as error:
        raise StudentError(f"{type(model).__name__}: the weights in {folder} do not fit its config: {error}") from error
