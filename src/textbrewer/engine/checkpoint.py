"""Writing what a run leaves on disk."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ..files import replaced


def save_student(student: nn.Module, output_dir: str, step: int) -> Path:
    """Write ``output_dir/gs{step}.pkl``, the student's state dict; the file is whole or absent at any instant.

    Load it with ``torch.load(path, weights_only=True)``.
    """
    path = Path(output_dir) / f"gs{step}.pkl"
    with replaced(path) as beside:
        torch.save(student.state_dict(), beside)
    return path
