"""Trained maps from the student's width to the teacher's."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter


def linear_projection(dim_in: int, dim_out: int) -> nn.Module:
    """A linear layer with bias; weights N(0, 0.02), bias 0.

    Args:
        dim_in: the student's width.
        dim_out: the teacher's width.
    """
    layer = nn.Linear(dim_in, dim_out)
    nn.init.normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


def relu_projection(dim_in: int, dim_out: int) -> nn.Module:
    """:func:`linear_projection`, then ReLU."""
    return nn.Sequential(linear_projection(dim_in, dim_out), nn.ReLU())


def tanh_projection(dim_in: int, dim_out: int) -> nn.Module:
    """:func:`linear_projection`, then tanh."""
    return nn.Sequential(linear_projection(dim_in, dim_out), nn.Tanh())


class Unshaped(nn.Module):
    """A module whose parameters take their shape from what they first see; until then they are in no state dict."""

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        if not any(isinstance(parameter, UninitializedParameter) for parameter in self._parameters.values()):
            super()._save_to_state_dict(destination, prefix, keep_vars)
