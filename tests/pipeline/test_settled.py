"""What settings come to for the models at hand."""

from __future__ import annotations

import pytest
import torch

from textbrewer.errors import StudentError
from textbrewer.pipeline import load
from textbrewer.pipeline.settled import student_config


def test_sizes_of_students(finished):
    teacher = load(finished.output_dir / "teacher").model
    assert student_config(None, {}, teacher).num_layers == 2
    assert student_config(None, {"num_layers": 3}, teacher).num_layers == 3
    changed = student_config("T4-tiny", {"num_layers": 2}, teacher)
    assert (changed.num_layers, changed.hidden_size) == (2, 312)
    with pytest.raises(StudentError, match=r"give student\.model"):
        student_config(None, {}, torch.nn.Linear(1, 1))
