"""The names of TextBrewer 0.2.1 give its numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.golden.loss_inputs import numbers
from textbrewer import KD_LOSS_MAP, MATCH_LOSS_MAP, TEMPERATURE_SCHEDULER

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "losses.json").read_text())
FOUND = numbers(KD_LOSS_MAP, MATCH_LOSS_MAP, TEMPERATURE_SCHEDULER)


def test_every_golden_number_is_compared():
    assert FOUND.keys() == GOLDEN.keys()


@pytest.mark.parametrize("name", GOLDEN)
def test_the_number_is_the_original_one(name):
    torch.testing.assert_close(torch.tensor(FOUND[name]), torch.tensor(GOLDEN[name]), rtol=1e-6, atol=1e-6)
