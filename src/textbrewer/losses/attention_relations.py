"""Losses between the relations of tokens that queries, keys and values span: MiniLM, MiniLMv2, TinyBERT.

A side is ``(batch, length, width)`` with all heads side by side, as the projections of an attention layer give it, or
two of these where queries meet keys. The width is cut into relation heads, whose number is free: it need not be that
of either model's attention heads, only divide both widths, which may differ. No attention map is read, so fused
attention stays on, and the dropout that Transformers applies to the maps it returns is not in the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import MatchError, UnknownNameError, did_you_mean, one_of
from ._reduce import full_precision, masked_mean
from .features import Pair, _both, _optional_mask, _pairs_of, _two
from .logits import kl_loss


def relation_kl_loss(
    state_S: Tensor,
    state_T: Tensor,
    mask: Tensor | None = None,
    *,
    heads: int = 12,
    count: Tensor | float | None = None,
) -> Tensor:
    """KL divergence between the relations of tokens among queries, among keys or among values (``count``: tokens).

    ``mean over relation heads and valid queries q of Σ_k R_T (log R_T − log R_S)``, over valid keys k, with
    ``R = softmax_k(X_q · X_k / √d)`` and ``d = width / heads`` of each side

    Args:
        state_S: student's, ``(batch, length, width)``.
        state_T: teacher's, ``(batch, length, its width)``.
        mask: ``(batch, length)``.
        heads: relation heads; :class:`RelationLoss` chooses another number in a match.
        count: valid tokens of the whole step.

    Raises:
        MatchError: the sides are not of one batch, or ``heads`` does not divide both widths.

    Source: MiniLMv2, 2012.15828; of values with the models' heads it is MiniLM's value relation, 2002.10957.

    >>> state = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    >>> relation_kl_loss(state, state, heads=2)
    tensor(0.)
    """
    _require_one(state_S, "relation_kl")
    _require_one(state_T, "relation_kl")
    return _kl((state_S, state_S), (state_T, state_T), mask, heads, count, "relation_kl")


def query_key_kl_loss(
    pair_S: Pair,
    pair_T: Pair,
    mask: Tensor | None = None,
    *,
    heads: int = 12,
    count: Tensor | float | None = None,
) -> Tensor:
    """KL divergence between the attention that queries pay to keys (``count``: tokens).

    :func:`relation_kl_loss` with ``R = softmax_k(Q_q · K_k / √d)``. Where ``heads`` are those of both models this is
    the divergence of their attention maps before dropout, but for what a model adds to the scores: rotary positions
    (ModernBERT) and relative ones (DeBERTa-v2) are not in queries and keys.

    Args:
        pair_S: the student's queries and keys, each ``(batch, length, width)``.
        pair_T: the teacher's.
        mask: ``(batch, length)``.
        heads: relation heads.
        count: valid tokens of the whole step.

    Raises:
        MatchError: not two layers a side, not of one batch, or ``heads`` does not divide all widths.

    Source: MiniLM, 2002.10957 (its attention transfer).

    >>> queries, keys = torch.tensor([[[1.0], [0.0]]]), torch.tensor([[[0.0], [1.0]]])
    >>> query_key_kl_loss([queries, keys], [queries, keys], heads=1)
    tensor(0.)
    """
    return _kl(_two(pair_S, "query_key_kl"), _two(pair_T, "query_key_kl"), mask, heads, count, "query_key_kl")


def query_key_mse_loss(
    pair_S: Pair,
    pair_T: Pair,
    mask: Tensor | None = None,
    *,
    heads: int = 12,
    count: Tensor | float | None = None,
) -> Tensor:
    """Mean squared difference of attention scores before the softmax (``count``: token pairs).

    ``mean over heads and valid (query, key) pairs of (A_S − A_T)²``, ``A = Q_q · K_k / √d``

    For arguments, errors and what the scores lack in some models see :func:`query_key_kl_loss`.

    Source: TinyBERT, 1909.10351, which fits these scores rather than the probabilities.

    >>> ones, twos = torch.ones(1, 3, 4), 2 * torch.ones(1, 3, 4)
    >>> query_key_mse_loss([ones, ones], [twos, ones], heads=1)
    tensor(4.)
    """
    sides = _two(pair_S, "query_key_mse"), _two(pair_T, "query_key_mse")
    scores_S, scores_T, _ = _scores(*sides, mask, heads, "query_key_mse")
    pairs = None if mask is None else _pairs_of(mask, scores_S[:, 0], "query_key_mse")
    return masked_mean(((scores_S - scores_T) ** 2).mean(dim=1), pairs, count=count)


_KINDS: dict[str, tuple[Callable[..., Tensor], str]] = {
    "relation_kl": (relation_kl_loss, "tokens"),
    "query_key_kl": (query_key_kl_loss, "tokens"),
    "query_key_mse": (query_key_mse_loss, "token_pairs"),
}


@dataclass(frozen=True)
class RelationLoss:
    """A loss of this module with a number of relation heads, for the ``loss`` of a match.

    Args:
        heads: relation heads; MiniLMv2 takes more of them than the models have attention heads, 48 for a width of 768.
        kind: ``"relation_kl"``, ``"query_key_kl"`` or ``"query_key_mse"``.

    Raises:
        MatchError: ``heads`` is no whole number above 0.
        UnknownNameError: there is no such kind.

    >>> loss = RelationLoss(48)
    >>> loss.__name__, loss.count_unit
    ('relation_kl_48', 'tokens')
    >>> loss(torch.ones(1, 5, 384), torch.ones(1, 5, 768))
    tensor(0.)
    """

    heads: int
    kind: str = "relation_kl"

    def __post_init__(self) -> None:
        if isinstance(self.heads, bool) or not isinstance(self.heads, int) or self.heads < 1:
            raise MatchError(f"RelationLoss: heads={self.heads!r}, but a whole number above 0 is needed")
        if self.kind not in _KINDS:
            hint = did_you_mean(self.kind, _KINDS)
            raise UnknownNameError(
                f"RelationLoss: expected kind {one_of(_KINDS)}, got {self.kind!r}; {hint}".removesuffix("; ")
            )

    @property
    def __name__(self) -> str:
        return f"{self.kind}_{self.heads}"

    @property
    def count_unit(self) -> str:
        """What ``count`` counts; see :data:`~textbrewer.losses.COUNT_UNITS`."""
        return _KINDS[self.kind][1]

    def __call__(
        self,
        state_S: Tensor | Pair,
        state_T: Tensor | Pair,
        mask: Tensor | None = None,
        *,
        count: Tensor | float | None = None,
    ) -> Tensor:
        return _KINDS[self.kind][0](state_S, state_T, mask, heads=self.heads, count=count)


def _kl(
    pair_S: tuple[Tensor, Tensor],
    pair_T: tuple[Tensor, Tensor],
    mask: Tensor | None,
    heads: int,
    count: Tensor | float | None,
    loss: str,
) -> Tensor:
    scores_S, scores_T, valid = _scores(pair_S, pair_T, mask, heads, loss)
    if valid is None:
        return kl_loss(scores_S, scores_T, count=None if count is None else count * heads)
    # Far below every score, and finite, so that a row without a valid key has a softmax too.
    keys, lowest = valid[:, None, None, :], torch.finfo(scores_S.dtype).min / 2
    scores_S, scores_T = (torch.where(keys, scores, lowest) for scores in (scores_S, scores_T))
    queries = valid[:, None, :].expand(scores_S.shape[:-1])
    return kl_loss(scores_S, scores_T, mask=queries, count=None if count is None else count * heads)


def _scores(
    pair_S: tuple[Tensor, Tensor], pair_T: tuple[Tensor, Tensor], mask: Tensor | None, heads: int, loss: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    """``X_q · Y_k / √d`` of both sides, ``(batch, heads, length, length)``, and the valid tokens."""
    (student, _), (teacher, _) = pair_S, pair_T
    if student.shape[:2] != teacher.shape[:2]:
        raise MatchError(
            f"{loss}: student {list(student.shape)} and teacher {list(teacher.shape)} are not of one batch; "
            "both sides must see the same tokens"
        )
    valid = _optional_mask(mask, student, loss)
    _require_divided(pair_S, pair_T, heads, loss)
    scores_S, scores_T = (_similar(*_both(*side, valid), heads) for side in (pair_S, pair_T))
    return scores_S, scores_T, valid


def _similar(first: Tensor, second: Tensor, heads: int) -> Tensor:
    shape = (*first.shape[:2], heads, -1)
    first, second = (full_precision(side).reshape(shape).transpose(1, 2) for side in (first, second))
    return first @ second.transpose(-1, -2) / math.sqrt(first.shape[-1])


def _require_one(state: Tensor, loss: str) -> None:
    if not isinstance(state, Tensor) or state.dim() != 3:
        got = list(state.shape) if isinstance(state, Tensor) else f"{len(state)} layers"
        raise MatchError(
            f"{loss}: one (batch, length, width) a side is needed, got {got}; for queries and keys take query_key_kl"
        )


def _require_divided(pair_S: tuple[Tensor, Tensor], pair_T: tuple[Tensor, Tensor], heads: int, loss: str) -> None:
    widths = [layer.shape[-1] for layer in (*pair_S, *pair_T)]
    if widths[0] != widths[1] or widths[2] != widths[3]:
        raise MatchError(
            f"{loss}: the two layers of a side must have one width, got {widths[:2]} of the student and {widths[2:]} "
            "of the teacher"
        )
    if heads < 1 or any(width % heads for width in widths):
        common = math.gcd(*widths)
        fitting = [number for number in range(1, common + 1) if common % number == 0]
        raise MatchError(
            f"{loss}: {heads} relation heads do not divide the widths {widths[0]} (student) and {widths[2]} (teacher); "
            f"write loss: [{loss!r}, heads] with heads one of {fitting}"
        )
