"""What the distillers with intermediate matches share: ``add_match`` and its older form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ._base import Distiller
from ._lesson import CustomMatch, Lesson


class MatchedDistiller(Distiller):
    """A distiller whose lessons may be given matches of submodules."""

    def _lesson(self, task: str | None) -> Lesson:
        """The lesson that a match is added to."""
        raise NotImplementedError

    def add_match(self, match: CustomMatch, *, task: str | None = None) -> None:
        """Match two submodules; hooks are on the models only while training runs.

        Args:
            match: the modules and the loss.
            task: which task's, where there are several.

        Raises:
            MatchError: a module is not in its model.
            ConfigError: the loss or the projection cannot be used.
        """
        self._lesson(task).add(match, self.model_S)

    def add_match_by_module(
        self,
        module_T: nn.Module | str,
        module_S: nn.Module | str,
        proj_func: Any = None,
        proj_group: Mapping[str, Any] | None = None,
        match_weight: float = 1.0,
        match_loss: Any = "hidden_mse",
    ) -> None:
        """:meth:`add_match` with its parts as arguments, in the order of TextBrewer 0.2.1."""
        self.add_match(CustomMatch(module_T, module_S, match_weight, match_loss, proj_func, proj_group))
