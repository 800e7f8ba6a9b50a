"""A recipe in several processes: what the first of them does for all, and how all learn that one of them failed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar, cast

import torch.distributed as dist

from ..configs import TrainingConfig
from ..errors import TextBrewerError
from ..ranks import Ranks

V = TypeVar("V")

_PATIENCE = timedelta(days=7)


class ElsewhereError(TextBrewerError, RuntimeError):
    """Another process failed, which says why itself; this one cannot go on without it."""


def processes(training: TrainingConfig) -> Ranks:
    """The processes that carry out a recipe, who wait for each other as long as it takes.

    What trains gives up a process that keeps the others waiting for some minutes, since it hangs. Here they wait while
    the first one scores, measures and exports; one that dies is noticed all the same, by its closed connection.
    """
    ranks = Ranks.of(training)
    return ranks if ranks.number == 1 else replace(ranks, group=_patient_group())


@cache
def _patient_group() -> Any:
    return dist.new_group(backend="gloo", timeout=_PATIENCE)


def once(ranks: Ranks, do: Callable[[], V]) -> V:
    """What ``do`` gives in the first process, told to the others, which wait for it; it must be picklable.

    Raises:
        ElsewhereError: it failed in the first process, in which the error itself is raised.
    """
    value, failure = _tried(do) if ranks.index == 0 else (None, None)
    told, why = ranks.agree((value, _said(failure)))
    if failure is not None:
        raise failure
    if why:
        raise ElsewhereError(f"the first process failed: {why}")
    return cast(V, told)


def alike(ranks: Ranks, do: Callable[[], V]) -> V:
    """What ``do`` gives, which every process does; where one fails, none goes on.

    Raises:
        ElsewhereError: it failed in another process. What fails in all of them the first one alone tells: the others
            raise this.
    """
    value, failure = _tried(do)
    reasons = ranks.gather(_said(failure))
    if failure is not None and (ranks.index == 0 or not reasons[0]):
        raise failure
    for index, why in enumerate(reasons):
        if why:
            raise ElsewhereError(f"{f'process {index}' if index else 'the first process'} failed: {why}")
    return cast(V, value)


def _tried(do: Callable[[], V]) -> tuple[V | None, Exception | None]:
    try:
        return do(), None
    except Exception as error:
        return None, error


def _said(failure: Exception | None) -> str:
    return "" if failure is None else f"{type(failure).__name__}: {failure}"
