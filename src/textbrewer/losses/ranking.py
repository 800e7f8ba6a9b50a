"""Losses between the scores of candidates, for students that rank.

Scores are ``(queries, candidates)``, or with more axes before the last: one row a query. Where a model gives one score
a pair, or queries differ in the number of candidates, the adaptor brings them to this shape, and fills with −∞: a
candidate that either side scores −∞ is left out.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ..errors import MatchError
from ._reduce import masked_mean
from .logits import cross_entropy_rows, softened


def ranknet_loss(
    logits_S: Tensor,
    logits_T: Tensor,
    temperature: Tensor | float = 1,
    mask: Tensor | None = None,
    *,
    count: Tensor | float | None = None,
) -> Tensor:
    """Cross-entropy between the odds that one candidate beats another, over all pairs.

    ``τ² · mean over valid rows of mean over pairs i ≠ j of −P log Q − (1 − P) log(1 − Q)``,
    ``P = σ((T_i − T_j)/τ)``, ``Q = σ((S_i − S_j)/τ)``

    At equality it is the entropy of the teacher's odds. A teacher that gives an order alone, such as a language model
    (2304.09542), is one whose scores are far apart: −1e4 times the rank.

    Args:
        logits_S: student's scores, ``(..., candidates)``; −∞ leaves a candidate out.
        logits_T: teacher's, the same shape.
        temperature: τ, a number or ``(...)``.
        mask: ``(...)``, the valid rows.
        count: valid rows of the whole step.

    Raises:
        MatchError: the shapes differ, or there is but one candidate a row.

    Source: RankNet, Burges et al., ICML 2005.

    >>> ranknet_loss(torch.tensor([[9.0, 0.0]]), torch.tensor([[2e4, 1e4]])).item() < 1e-3
    True
    """
    student, teacher, tau, kept = _lists(logits_S, logits_T, temperature, mask, "ranknet")
    odds_S, odds_T = (side.unsqueeze(-1) - side.unsqueeze(-2) for side in (student, teacher))
    each = binary_cross_entropy_with_logits(odds_S, odds_T.sigmoid(), reduction="none")
    others = ~torch.eye(kept.shape[-1], dtype=torch.bool, device=kept.device)
    rows = _row_means(each.flatten(-2), (kept.unsqueeze(-1) & kept.unsqueeze(-2) & others).flatten(-2))
    return masked_mean(rows * tau**2, mask, count=count)


def listnet_loss(
    logits_S: Tensor,
    logits_T: Tensor,
    temperature: Tensor | float = 1,
    mask: Tensor | None = None,
    *,
    count: Tensor | float | None = None,
) -> Tensor:
    """Cross-entropy between the odds of each candidate to be the first.

    ``τ² · mean over valid rows of −Σ_i p_i log q_i``, ``p = softmax(T/τ)``, ``q = softmax(S/τ)`` over the candidates

    At equality it is the entropy of ``p``; :func:`~textbrewer.losses.kl_loss` has the same gradient and is 0 there.

    Args:
        logits_S: student's scores, ``(..., candidates)``; −∞ leaves a candidate out.
        logits_T: teacher's, the same shape.
        temperature: τ, a number or ``(...)``.
        mask: ``(...)``, the valid rows.
        count: valid rows of the whole step.

    Raises:
        MatchError: the shapes differ, or there is but one candidate a row.

    Source: ListNet (its top-one form), Cao et al., ICML 2007.

    >>> listnet_loss(torch.zeros(1, 4), torch.zeros(1, 4))  # log 4
    tensor(1.3863)
    """
    student, teacher, tau, kept = _lists(logits_S, logits_T, temperature, mask, "listnet")
    log_q, log_p = (side.masked_fill(~kept, -torch.inf).log_softmax(dim=-1) for side in (student, teacher))
    # A softmax over no candidate at all is NaN.
    rows = torch.where(kept.any(dim=-1), cross_entropy_rows(log_p, log_q), 0.0)
    return masked_mean(rows * tau**2, mask, count=count)


def margin_mse_loss(
    logits_S: Tensor,
    logits_T: Tensor,
    temperature: Tensor | float = 1,
    mask: Tensor | None = None,
    *,
    count: Tensor | float | None = None,
) -> Tensor:
    """Squared difference of the margins by which the relevant candidate, the first of a row, leads the others.

    ``mean over valid rows of mean over j > 0 of ((S_0 − S_j) − (T_0 − T_j))²``

    Scores of both sides may lie anywhere: only their differences count.

    Args:
        logits_S: student's scores, ``(..., candidates)``; −∞ leaves a candidate out.
        logits_T: teacher's, the same shape.
        temperature: not used: margins are compared as they are.
        mask: ``(...)``, the valid rows.
        count: valid rows of the whole step.

    Raises:
        MatchError: the shapes differ, or there is but one candidate a row.

    Source: MarginMSE, 2010.02666.

    >>> margin_mse_loss(torch.tensor([[3.0, 1.0]]), torch.tensor([[105.0, 100.0]]))
    tensor(9.)
    """
    student, teacher, _, kept = _lists(logits_S, logits_T, 1, mask, "margin_mse")
    margin_S, margin_T = (side[..., :1] - side[..., 1:] for side in (student, teacher))
    rows = _row_means((margin_S - margin_T) ** 2, kept[..., :1] & kept[..., 1:])
    return masked_mean(rows, mask, count=count)


def _lists(
    logits_S: Tensor, logits_T: Tensor, temperature: Tensor | float, mask: Tensor | None, loss: str
) -> tuple[Tensor, Tensor, Tensor | float, Tensor]:
    """Softened scores of both sides, τ, and which candidates take part; the scores of the others are 0."""
    student, teacher, tau = softened(logits_S, logits_T, temperature, mask, loss)
    if student.shape[-1] < 2:
        raise MatchError(
            f"{loss}: at least two candidates a row are needed, got logits {list(logits_S.shape)}; let the adaptors "
            "give one row a query, as in logits.view(queries, candidates)"
        )
    kept = (student > -torch.inf) & (teacher > -torch.inf)
    return torch.where(kept, student, 0.0), torch.where(kept, teacher, 0.0), tau, kept


def _row_means(values: Tensor, kept: Tensor) -> Tensor:
    """Mean along the last axis over what is kept; 0 where nothing is."""
    return torch.where(kept, values, 0.0).sum(dim=-1) / kept.sum(dim=-1).clamp(min=1)
