"""``display_parameters`` prints what TextBrewer 0.2.1 prints."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from torch import nn

from tests.golden.display_models import LEVELS, MODELS
from textbrewer.utils import display_parameters

GOLDEN = json.loads((Path(__file__).parent / "golden" / "display_parameters.json").read_text())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("level", LEVELS)
def test_the_text_is_the_original_one(name, level):
    assert display_parameters(MODELS[name](), level)[0] == GOLDEN[name][str(level)]


def test_shared_memory_is_counted_once():
    model = MODELS["shared"]()
    node = display_parameters(model)[1]
    unique = {p.data_ptr(): p.numel() for p in model.state_dict().values()}
    assert node.value[0] == sum(unique.values())
    assert node.children_name["head"].children_name["weight"].name == "weight(shared)"
    assert node.children_name["head"].parent is node
    assert node.children_name["layers"].children_name["0"].fullname == "layers.0"


def test_a_thousand_modules_take_milliseconds():
    model = nn.Sequential(*[nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)) for _ in range(350)])
    best = float("inf")
    for _ in range(5):
        start = time.process_time()  # of this process alone, whatever else the machine does
        display_parameters(model)
        best = min(best, time.process_time() - start)
    assert best < 0.1
