"""Train and eval modes, borrowed and given back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def modes_kept(*models: nn.Module) -> Iterator[None]:
    """Give every submodule its train or eval mode back at the end, whatever happens."""
    before = [(module, module.training) for model in models for module in model.modules()]
    try:
        yield
    finally:
        for module, training in before:
            # Not .train(training), which would reach into the children and undo their own modes.
            module.training = training
