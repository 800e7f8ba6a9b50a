"""Trained maps from the student's width to the teacher's."""

from __future__ import annotations

from torch import nn


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
