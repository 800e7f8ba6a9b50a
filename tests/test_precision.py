"""What a model computes in, without touching it; the rest is told by tests of devices and of the teacher cache."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from textbrewer.errors import ConfigError
from textbrewer.precision import computing_in, quantised

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("precision", "leaves", "within"),
    [
        ("fp32", False, torch.bfloat16),
        ("fp32", True, torch.float32),
        ("int8", True, torch.float32),
        ("bf16", False, torch.bfloat16),
        ("fp16", True, torch.float16),
    ],
)
def test_a_precision_within_another(precision, leaves, within):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with computing_in(precision, CPU, leaves):
            assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == within
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.bfloat16


def test_eight_bits_on_an_accelerator_are_refused_where_they_were_asked_for():
    with pytest.raises(ConfigError) as raised:
        quantised(nn.Linear(1, 1), torch.device("meta"), "TeacherCache.build.precision")
    (problem,) = raised.value.problems
    assert (raised.value.title, problem.path) == ("TeacherCache.build", "precision")
    assert (problem.got, problem.hint) == ("'int8'", "use 'bf16'")
