"""The trained maps of student features to the teacher's width, and their place in the user's optimiser."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from ..configs import IntermediateMatch
from ..presets import MATCH_LOSS_MAP, PROJ_MAP
from ..projections import Unshaped

logger = logging.getLogger("textbrewer")


class AutoProjection(Unshaped):
    """A linear projection whose widths are those of the first features it sees; none where they are equal."""

    def __init__(self) -> None:
        super().__init__()
        self.weight: Any = UninitializedParameter()
        self.bias: Any = UninitializedParameter()
        self.needed = True

    def fit(self, of_student: Tensor, of_teacher: Tensor, name: str) -> None:
        """Take the widths of the first features seen; called before every forward pass, and quick after the first."""
        if not self.needed or not isinstance(self.weight, UninitializedParameter):
            return
        dim_in, dim_out = of_student.shape[-1], of_teacher.shape[-1]
        self.needed = dim_in != dim_out
        if not self.needed:
            return
        built = PROJ_MAP["linear"](dim_in, dim_out)
        with torch.no_grad():
            for mine, theirs in ((self.weight, built.weight), (self.bias, built.bias)):
                mine.materialize(theirs.shape, device=of_student.device)
                mine.copy_(theirs)
        logger.info("%s: proj='auto' is a linear projection from width %d to %d", name, dim_in, dim_out)

    def forward(self, state: Tensor) -> Tensor:
        return nn.functional.linear(state, self.weight, self.bias) if self.needed else state


class Projections(nn.ModuleList):
    """One projection for each match that has a ``proj``, in the order of the matches.

    ``for_match[i]`` is the projection of match ``i``, or None.
    """

    def __init__(self, matches: Sequence[IntermediateMatch]) -> None:
        super().__init__()
        self.for_match: list[nn.Module | None] = []
        self.options: list[dict[str, Any]] = []
        for match in matches:
            self.extend_by(match)

    def shared(self) -> Projections:
        """The same ones for the matches of another lesson, which trains only what is added to it later."""
        found = Projections([])
        found.for_match = list(self.for_match)
        return found

    def extend_by(self, match: IntermediateMatch, options: Mapping[str, Any] | None = None) -> None:
        """Add what one more match needs; ``options`` win over those in its ``proj``."""
        if match.proj is None:
            self.for_match.append(None)
        elif match.proj == "auto":
            self.add(AutoProjection(), dict(options or {}))
        else:
            builder, dim_in, dim_out, own = match.proj
            module = (PROJ_MAP[builder] if isinstance(builder, str) else builder)(dim_in, dim_out)
            self.add(module, {**own, **(options or {})})

    def add(self, module: nn.Module, options: dict[str, Any]) -> None:
        """Append a projection for one more match, with the options of its parameter group."""
        self.append(module)
        self.options.append(options)
        self.for_match.append(module)

    @contextmanager
    def trained_by(self, optimizer: Optimizer) -> Iterator[None]:
        """Add a parameter group for each projection to ``optimizer``, and take them out again at the end."""
        with lent_to(optimizer, zip(self, self.options, strict=True)):
            yield


class Copies:
    """A distiller's own copy of each object that configs give it, so that what it learns stays out of other runs.

    >>> copies, given = Copies(), nn.Linear(1, 1)
    >>> copies.of(given) is given, copies.of(given) is copies.of(given)
    (False, True)
    """

    def __init__(self) -> None:
        # With what was given, since the id of what is gone may be taken by another.
        self._made: dict[int, tuple[nn.Module, nn.Module]] = {}

    def of(self, given: nn.Module) -> nn.Module:
        """The copy, the same one each time."""
        if given not in self:
            self._made[id(given)] = (given, copy.deepcopy(given))
        return self._made[id(given)][1]

    def __contains__(self, given: object) -> bool:
        return id(given) in self._made


class MatchLosses(nn.ModuleList):
    """The losses of matches; those that are modules are trained with the student, or keep their state.

    ``for_match[i]`` is the loss of match ``i``. A class in the table of losses becomes an object for each match. A
    module that matches give is copied, once however many share it, and stays as it was given.
    What else is trained with a lesson, such as a balance of its terms, may be appended.

    Args:
        matches: in their order.
        copies: of the distiller, whose lessons may share an object, which is then trained by the first of them.
    """

    def __init__(self, matches: Sequence[IntermediateMatch], copies: Copies | None = None) -> None:
        super().__init__()
        self.copies = Copies() if copies is None else copies
        self.for_match: list[Callable[..., Any]] = []
        for match in matches:
            self.extend_by(match)

    def shared(self) -> MatchLosses:
        """The same ones for the matches of another lesson, which trains only what is added to it later."""
        found = MatchLosses([], self.copies)
        found.for_match = list(self.for_match)
        return found

    def extend_by(self, match: IntermediateMatch) -> None:
        """Add the loss of one more match; an object that several matches share is one."""
        named = match.loss if callable(match.loss) else MATCH_LOSS_MAP[match.loss]
        loss = named() if isinstance(named, type) else named
        known = loss in self.copies
        if isinstance(match.loss, nn.Module):
            loss = self.copies.of(match.loss)
        if isinstance(loss, nn.Module) and not known:
            self.append(loss)
        self.for_match.append(loss)

    @contextmanager
    def trained_by(self, optimizer: Optimizer) -> Iterator[None]:
        """Add a parameter group for each loss that has parameters, with its ``group_options`` if it has any, and take
        them out again at the end."""
        with lent_to(optimizer, ((loss, getattr(loss, "group_options", {})) for loss in self)):
            yield


@contextmanager
def lent_to(optimizer: Optimizer, modules: Iterable[tuple[nn.Module, Mapping[str, Any]]]) -> Iterator[None]:
    """Add a parameter group with its options for each module, and take them out again at the end."""
    before = len(optimizer.param_groups)
    try:
        for module, options in modules:
            if parameters := list(module.parameters()):
                optimizer.add_param_group({"params": parameters, **options})
        yield
    finally:
        for group in optimizer.param_groups[before:]:
            for parameter in group["params"]:
                optimizer.state.pop(parameter, None)
        del optimizer.param_groups[before:]
