"""The trained maps of student features to the teacher's width, and their place in the user's optimiser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ..configs import IntermediateMatch
from ..presets import PROJ_MAP


class Projections(nn.ModuleList):
    """One projection for each match that has a ``proj``, in the order of the matches.

    ``for_match[i]`` is the projection of match ``i``, or None.
    """

    def __init__(self, matches: Sequence[IntermediateMatch]) -> None:
        super().__init__()
        self.for_match: list[nn.Module | None] = []
        self.options: list[dict[str, Any]] = []
        for match in matches:
            module: nn.Module | None = None
            if match.proj is not None:
                builder, dim_in, dim_out, options = match.proj
                module = (PROJ_MAP[builder] if isinstance(builder, str) else builder)(dim_in, dim_out)
                self.append(module)
                self.options.append(options)
            self.for_match.append(module)

    @contextmanager
    def trained_by(self, optimizer: Optimizer) -> Iterator[None]:
        """Add a parameter group for each projection to ``optimizer``, and take them out again at the end."""
        before = len(optimizer.param_groups)
        for module, options in zip(self, self.options, strict=True):
            optimizer.add_param_group({"params": list(module.parameters()), **options})
        try:
            yield
        finally:
            for group in optimizer.param_groups[before:]:
                for parameter in group["params"]:
                    optimizer.state.pop(parameter, None)
            del optimizer.param_groups[before:]
