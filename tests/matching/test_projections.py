"""Projections: built from the matches, trained in the user's optimiser, and taken out of it again."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from textbrewer import PROJ_MAP, IntermediateMatch, register_new
from textbrewer.matching import Projections


def match(proj=None):
    return IntermediateMatch(0, 0, "hidden", "hidden_mse", proj=proj)


def test_they_stand_in_the_order_of_the_matches():
    projections = Projections([match(["linear", 2, 3]), match(), match(["tanh", 4, 5])])
    assert [type(module) for module in projections.for_match] == [nn.Linear, type(None), nn.Sequential]
    assert [projections.for_match[0], projections.for_match[2]] == list(projections)
    assert list(projections.state_dict()) == ["0.weight", "0.bias", "1.0.weight", "1.0.bias"]


def test_builders_of_the_user_by_name_or_as_a_function():
    def two_layers(dim_in, dim_out):
        return nn.Sequential(nn.Linear(dim_in, dim_out), nn.Linear(dim_out, dim_out))

    register_new("projection", "twice", two_layers)
    try:
        projections = Projections([match(["twice", 2, 3]), match([two_layers, 2, 3])])
    finally:
        del PROJ_MAP["twice"]
    assert [[layer.in_features for layer in module] for module in projections] == [[2, 3], [2, 3]]


def test_each_becomes_a_group_with_its_options_and_leaves_with_its_state():
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    projections = Projections([match(["linear", 2, 2, {"lr": 0.5, "weight_decay": 0.0}]), match(["linear", 2, 2])])
    before = {name: value.clone() for name, value in projections.state_dict().items()}
    with projections.trained_by(optimizer):
        groups = optimizer.param_groups
        assert [(group["lr"], group["weight_decay"]) for group in groups] == [(0.1, 0.01), (0.5, 0.0), (0.1, 0.01)]
        assert [id(p) for group in groups[1:] for p in group["params"]] == [id(p) for p in projections.parameters()]
        x = torch.ones(1, 2)
        sum(module(x).sum() for module in (model, *projections)).backward()
        optimizer.step()
    assert len(optimizer.param_groups) == 1
    assert set(optimizer.state) == set(model.parameters())
    assert not any(torch.equal(before[name], value) for name, value in projections.state_dict().items())


def test_they_leave_when_training_fails():
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match="broken"), Projections([match(["linear", 2, 2])]).trained_by(optimizer):
        raise RuntimeError("broken")
    assert len(optimizer.param_groups) == 1


def test_they_can_be_trained_again():
    model = nn.Linear(1, 1)
    optimizer = torch.optim.Adam(model.parameters())
    projections = Projections([match(["linear", 2, 2])])
    for _ in range(2):
        with projections.trained_by(optimizer):
            assert len(optimizer.param_groups) == 2
    assert len(optimizer.param_groups) == 1


def test_a_group_the_optimiser_refuses_leaves_it_as_it_was():
    projections = Projections([match(["linear", 2, 2]), match(["linear", 2, 2])])
    optimizer = torch.optim.SGD(projections[1].parameters(), lr=0.1)
    with pytest.raises(ValueError, match="more than one parameter group"), projections.trained_by(optimizer):
        pytest.fail("the group was accepted")
    assert len(optimizer.param_groups) == 1


def test_what_has_no_shape_yet_is_in_no_state_dict():
    projections = Projections([match("auto"), match(["linear", 2, 3])])
    assert projections.state_dict().keys() == {"1.weight", "1.bias"}
    projections[0].fit(torch.ones(1, 4), torch.ones(1, 6), "name")
    assert projections.state_dict()["0.weight"].shape == (6, 4)
