"""Matches whose module paths have wildcards, written out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from torch import nn

from ..configs import IntermediateMatch
from ..errors import MatchError, count_of
from .capture import modules_at, only_module_at


def expanded(
    matches: Sequence[IntermediateMatch], teachers: Sequence[nn.Module], student: nn.Module
) -> list[IntermediateMatch]:
    """The matches with every path checked, and a match for each pair of modules that wildcards name.

    Raises:
        MatchError: a path names nothing, the sides name different numbers of modules, or there is no such teacher.
    """
    return [one for match in matches for one in _expanded(match, teachers, student)]


def _expanded(match: IntermediateMatch, teachers: Sequence[nn.Module], student: nn.Module) -> list[IntermediateMatch]:
    if match.teacher >= len(teachers):
        number = count_of(len(teachers), "teacher")
        raise MatchError(f"{match.name}: teacher={match.teacher}, but there are {number} (0..{len(teachers) - 1})")
    of_teacher = _choices(teachers[match.teacher], match.layer_T, "layer_T")
    of_student = _choices(student, match.layer_S, "layer_S")
    if len(of_teacher) != len(of_student):
        raise MatchError(
            f"{match.name}: layer_T={match.layer_T!r} names {len(of_teacher)} and layer_S={match.layer_S!r} "
            f"{len(of_student)} modules; name as many on both sides, one match each if the depths differ"
        )
    pairs = zip(of_teacher, of_student, strict=True)
    return [cast(IntermediateMatch, replace(cast(Any, match), layer_T=t, layer_S=s)) for t, s in pairs]


def _choices(model: nn.Module, layers: Any, side: str) -> list[Any]:
    if isinstance(layers, str):
        return list(modules_at(model, layers, side))
    if isinstance(layers, list) and isinstance(layers[0], str):
        wanted = "in a list of two layers each is one module"
        return [[only_module_at(model, path, side, wanted) for path in layers]]
    return [layers]
