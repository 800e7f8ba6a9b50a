"""Writing what a run leaves on disk."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn


def save_student(student: nn.Module, output_dir: str, step: int) -> Path:
    """Write ``output_dir/gs{step}.pkl``, the student's state dict.

    Written beside, synced, then renamed: a kill at any instant leaves the file whole or absent.
    Load it with ``torch.load(path, weights_only=True)``.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    path, beside = folder / f"gs{step}.pkl", folder / f".gs{step}.pkl.partial"
    try:
        with beside.open("wb") as file:
            torch.save(student.state_dict(), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return path
