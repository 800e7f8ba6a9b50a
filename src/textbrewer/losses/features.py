"""Losses between intermediate features.

Hidden states are ``(batch, length, width)``, attention maps ``(batch, heads, length, length)`` and masks
``(batch, length)``. The names of TextBrewer 0.2.1 keep its numbers, odd ones too, and average within the batch they
are given. The names ending in ``_valid``, and ``attention_kl``, average over the valid elements alone, divide by
``count`` where the caller knows the whole step's, and do not depend on padding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from ..errors import MatchError
from ._reduce import full_precision, masked_mean, only_valid

_MASKED_SCORE = -1e-3
Pair = Sequence[Tensor]


def att_mse_loss(attention_S: Tensor, attention_T: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference of attention maps (TextBrewer's ``attention_mse``).

    ``mean over heads and valid (query, key) pairs of (S − T)²``

    Odd: without a mask, values ≤ −1e-3 count as masked scores and become 0; with one they are used as they are.
    :func:`attention_mse_valid_loss` is for probabilities and has no such rule.

    Args:
        attention_S: student, ``(batch, heads, length, length)``.
        attention_T: teacher, the same shape.
        mask: ``(batch, length)``; a pair is valid where both its positions are.

    Raises:
        MatchError: the shapes differ.
    """
    return _att_mse(attention_S, attention_T, mask, "attention_mse")


def att_mse_sum_loss(attention_S: Tensor, attention_T: Tensor, mask: Tensor | None = None) -> Tensor:
    """:func:`att_mse_loss` of the maps summed over heads (TextBrewer's ``attention_mse_sum``).

    Student and teacher may have different numbers of heads; ``(batch, length, length)`` counts as summed.
    """
    return _att_mse(*_over_heads("sum", attention_S, attention_T, "attention_mse_sum"), mask, "attention_mse_sum")


def att_ce_loss(attention_S: Tensor, attention_T: Tensor, mask: Tensor | None = None) -> Tensor:
    """Cross-entropy between the rows of raw attention scores (TextBrewer's ``attention_ce``).

    ``mean over heads and valid queries of −Σ_k softmax(T)_k · log softmax(S)_k``

    Odd: it takes scores, while Transformers gives probabilities; both softmaxes run over padded keys too, so padding
    changes the result; with a mask the sum runs over the valid keys, without one the keys whose teacher score is ≤
    −1e-3 are left out of it; the teacher's entropy is missing. :func:`attention_kl_loss` is for probabilities and has
    none of this.

    Args:
        attention_S: student's scores before the softmax, ``(batch, heads, length, length)``.
        attention_T: teacher's, the same shape.
        mask: ``(batch, length)``.

    Raises:
        MatchError: the shapes differ.
    """
    return _att_ce(attention_S, attention_T, mask, "attention_ce")


def att_ce_mean_loss(attention_S: Tensor, attention_T: Tensor, mask: Tensor | None = None) -> Tensor:
    """:func:`att_ce_loss` of the scores averaged over heads (TextBrewer's ``attention_ce_mean``).

    Student and teacher may have different numbers of heads; ``(batch, length, length)`` counts as averaged.
    """
    return _att_ce(*_over_heads("mean", attention_S, attention_T, "attention_ce_mean"), mask, "attention_ce_mean")


def hid_mse_loss(state_S: Tensor, state_T: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference of hidden states (TextBrewer's ``hidden_mse``).

    ``mean over valid positions and width of (S − T)²``

    Args:
        state_S: student, ``(batch, length, width)``.
        state_T: teacher, the same shape.
        mask: ``(batch, length)``.

    Raises:
        MatchError: the shapes differ.

    >>> hid_mse_loss(torch.ones(1, 2, 4), torch.zeros(1, 2, 4))
    tensor(1.)
    """
    _require_same(state_S, state_T, "hidden_mse")
    valid = _optional_mask(mask, state_S, "hidden_mse")
    student, teacher = _both(state_S, state_T, valid)
    return masked_mean(((student - teacher) ** 2).mean(dim=-1), valid)


def cos_loss(state_S: Tensor, state_T: Tensor, mask: Tensor | None = None) -> Tensor:
    """Cosine distance of hidden states (TextBrewer's ``cos``): ``mean over valid positions of 1 − cos(S, T)``.

    Args:
        state_S: student, ``(batch, length, width)``.
        state_T: teacher, the same shape.
        mask: ``(batch, length)``.

    Raises:
        MatchError: the shapes differ.

    Source: DistilBERT, 1910.01108.
    """
    _require_same(state_S, state_T, "cos")
    valid = _optional_mask(mask, state_S, "cos")
    # Filled with ones, because the cosine of zero vectors has no gradient.
    return masked_mean(1 - cosine_similarity(*_both(state_S, state_T, valid, fill=1.0), dim=-1), valid)


def pkd_loss(state_S: Tensor, state_T: Tensor, mask: Tensor | None = None) -> Tensor:
    """Squared distance of the normalised vectors at position 0 (TextBrewer's ``pkd``).

    ``mean over rows with a valid token of ‖S₀/‖S₀‖ − T₀/‖T₀‖‖²``

    Args:
        state_S: student, ``(batch, length, width)``.
        state_T: teacher, the same shape.
        mask: ``(batch, length)``; a row without a valid token costs nothing, unlike in TextBrewer 0.2.1.

    Raises:
        MatchError: the shapes differ.

    Source: PKD, 1908.09355.
    """
    _require_same(state_S, state_T, "pkd")
    valid = _optional_mask(mask, state_S, "pkd")
    rows = None if valid is None else valid.any(dim=1)
    first_S, first_T = _both(state_S[:, 0], state_T[:, 0], rows, fill=1.0)
    squares = (normalize(first_S, dim=-1) - normalize(first_T, dim=-1)) ** 2
    return masked_mean(squares.sum(dim=-1), rows)


def fsp_loss(state_S: Pair, state_T: Pair, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference of Gram matrices between two layers (TextBrewer's ``gram`` and ``fsp``).

    ``G = Xᵀ Y / valid length``, with ``X, Y`` the two layers of one side; ``mean over entries of (G_S − G_T)²``.
    :func:`gram_valid_loss` is the same by row, and can be counted over the whole step.

    Args:
        state_S: two layers of the student, each ``(batch, length, width)``.
        state_T: two layers of the teacher.
        mask: ``(batch, length)``.

    Raises:
        MatchError: not two layers a side, or widths that differ.

    Source: FSP, Yim et al., CVPR 2017.
    """
    return masked_mean(_gram_distances(state_S, state_T, mask, "gram"))


def mmd_loss(state_S: Pair, state_T: Pair, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference of similarities between positions (TextBrewer's ``mmd`` and ``nst``).

    ``K = X Yᵀ / d``, with ``X, Y`` the two layers of one side; ``mean over valid pairs of (K_S − K_T)²``.
    Widths of student and teacher may differ.

    Odd: ``d`` is the width without a mask, and the padded length with one, so that padding changes the result.
    :func:`mmd_valid_loss` always takes the width.

    Args:
        state_S: two layers of the student, each ``(batch, length, width)``.
        state_T: two layers of the teacher.
        mask: ``(batch, length)``.

    Raises:
        MatchError: not two layers a side, or lengths that differ.

    Source: NST, 1707.01219, with a linear kernel.
    """
    similar_S, similar_T = (_similarity(side, mask, "mmd") for side in (state_S, state_T))
    _require_same(similar_S, similar_T, "mmd")
    if mask is None:
        return masked_mean((similar_S - similar_T) ** 2)
    by_length_S, by_length_T = similar_S * state_S[0].shape[-1], similar_T * state_T[0].shape[-1]
    squares = ((by_length_S - by_length_T) / similar_S.shape[1]) ** 2
    return masked_mean(squares, _pairs_of(mask, similar_S, "mmd"))


def hidden_mse_valid_loss(
    state_S: Tensor, state_T: Tensor, mask: Tensor | None = None, *, count: Tensor | float | None = None
) -> Tensor:
    """:func:`hid_mse_loss` as a mean over the valid positions of the whole step (``count``: tokens)."""
    _require_same(state_S, state_T, "hidden_mse_valid")
    valid = _optional_mask(mask, state_S, "hidden_mse_valid")
    student, teacher = _both(full_precision(state_S), full_precision(state_T), valid)
    return masked_mean(((student - teacher) ** 2).mean(dim=-1), valid, count=count)


def cos_valid_loss(
    state_S: Tensor, state_T: Tensor, mask: Tensor | None = None, *, count: Tensor | float | None = None
) -> Tensor:
    """:func:`cos_loss` as a mean over the valid positions of the whole step (``count``: tokens)."""
    _require_same(state_S, state_T, "cos_valid")
    valid = _optional_mask(mask, state_S, "cos_valid")
    student, teacher = _both(full_precision(state_S), full_precision(state_T), valid, fill=1.0)
    return masked_mean(1 - cosine_similarity(student, teacher, dim=-1), valid, count=count)


def attention_mse_valid_loss(
    attention_S: Tensor, attention_T: Tensor, mask: Tensor | None = None, *, count: Tensor | float | None = None
) -> Tensor:
    """Mean squared difference of attention probabilities over heads and valid pairs (``count``: token pairs).

    Args:
        attention_S: student's probabilities, ``(batch, heads, length, length)``.
        attention_T: teacher's, the same shape.
        mask: ``(batch, length)``.
        count: valid (query, key) pairs of the whole step.

    Raises:
        MatchError: the shapes differ.
    """
    _require_same(attention_S, attention_T, "attention_mse_valid")
    pairs = None if mask is None else _pairs_of(mask, attention_S, "attention_mse_valid")
    student, teacher = _both(full_precision(attention_S), full_precision(attention_T), pairs)
    squares = ((student - teacher) ** 2).mean(dim=1)
    return masked_mean(squares, None if pairs is None else pairs[:, 0], count=count)


def attention_kl_loss(
    attention_S: Tensor, attention_T: Tensor, mask: Tensor | None = None, *, count: Tensor | float | None = None
) -> Tensor:
    """KL divergence between the rows of attention probabilities, as Transformers gives them (``count``: tokens).

    ``mean over heads and valid queries of Σ_k T_k (log T_k − log S_k)``, over valid keys

    Args:
        attention_S: student's probabilities, ``(batch, heads, length, length)``.
        attention_T: teacher's, the same shape.
        mask: ``(batch, length)``.
        count: valid queries of the whole step.

    Raises:
        MatchError: the shapes differ.

    Source: MiniLM, 2002.10957 (its attention transfer).
    """
    _require_same(attention_S, attention_T, "attention_kl")
    valid = None if mask is None else _pairs_of(mask, attention_S, "attention_kl")
    student, teacher = _both(full_precision(attention_S), full_precision(attention_T), valid)
    # A probability can underflow to zero; its logarithm must stay finite for the gradient.
    log_S, log_T = (side.clamp(min=torch.finfo(side.dtype).tiny).log() for side in (student, teacher))
    terms = teacher * (log_T - log_S)
    return masked_mean(terms.sum(dim=-1).mean(dim=1), mask, count=count)


def gram_valid_loss(
    state_S: Pair, state_T: Pair, mask: Tensor | None = None, *, count: Tensor | float | None = None
) -> Tensor:
    """:func:`fsp_loss` as a mean over the rows of the whole step (``count``: rows)."""
    return masked_mean(_gram_distances(state_S, state_T, mask, "gram_valid").mean(dim=(1, 2)), count=count)


def mmd_valid_loss(
    state_S: Pair, state_T: Pair, mask: Tensor | None = None, *, count: Tensor | float | None = None
) -> Tensor:
    """:func:`mmd_loss`, always scaled by the width, over the valid pairs of the whole step (``count``: token pairs)."""
    similar_S, similar_T = (_similarity(side, mask, "mmd_valid") for side in (state_S, state_T))
    _require_same(similar_S, similar_T, "mmd_valid")
    pairs = None if mask is None else _pairs_of(mask, similar_S, "mmd_valid")
    return masked_mean((similar_S - similar_T) ** 2, pairs, count=count)


def _att_mse(attention_S: Tensor, attention_T: Tensor, mask: Tensor | None, loss: str) -> Tensor:
    _require_same(attention_S, attention_T, loss)
    if mask is None:
        return masked_mean((_scores(attention_S) - _scores(attention_T)) ** 2)
    pairs = _pairs_of(mask, attention_S, loss)
    student, teacher = _both(attention_S, attention_T, pairs)
    return masked_mean((student - teacher) ** 2, pairs)


def _att_ce(attention_S: Tensor, attention_T: Tensor, mask: Tensor | None, loss: str) -> Tensor:
    _require_same(attention_S, attention_T, loss)
    terms = -attention_T.softmax(dim=-1) * attention_S.log_softmax(dim=-1)
    if mask is None:
        kept = torch.where(attention_T <= _MASKED_SCORE, torch.zeros_like(terms), terms)
        return masked_mean(kept.sum(dim=-1))
    queries = _like_queries(_mask_of(mask, attention_S, loss), attention_S)
    return masked_mean(only_valid(terms, _pairs_of(mask, attention_S, loss)).sum(dim=-1), queries)


def _both(first: Tensor, second: Tensor, valid: Tensor | None, fill: float = 0.0) -> tuple[Tensor, Tensor]:
    return only_valid(first, valid, fill), only_valid(second, valid, fill)


def _scores(attention: Tensor) -> Tensor:
    return torch.where(attention <= _MASKED_SCORE, torch.zeros_like(attention), attention)


def _over_heads(how: str, attention_S: Tensor, attention_T: Tensor, loss: str) -> tuple[Tensor, Tensor]:
    sides = [a if a.dim() == 3 else a.sum(dim=1) if how == "sum" else a.mean(dim=1) for a in (attention_S, attention_T)]
    _require_same(sides[0], sides[1], loss)
    return sides[0], sides[1]


def _require_same(S: Tensor, T: Tensor, loss: str) -> None:
    if S.shape == T.shape:
        return
    student, teacher = list(S.shape), list(T.shape)
    message = f"{loss}: teacher {teacher} and student {student} differ"
    if len(student) == len(teacher) == 3 and student[:-1] == teacher[:-1]:
        message += f" in the last axis; add proj=['linear', {student[-1]}, {teacher[-1]}]"
    elif len(student) == len(teacher) == 4 and student[1] != teacher[1] and student[2:] == teacher[2:]:
        message += " in the number of heads; use attention_mse_sum or attention_ce_mean, or choose equal heads"
    raise MatchError(message)


def _two(side: Pair, loss: str) -> tuple[Tensor, Tensor]:
    if isinstance(side, Tensor) or len(side) != 2:
        got = "one" if isinstance(side, Tensor) else str(len(side))
        raise MatchError(f"{loss}: two layers a side are needed, got {got}; write layer_T: [i, j] and layer_S: [i, j]")
    shapes = [list(layer.shape) for layer in side]
    if any(len(shape) != 3 for shape in shapes) or shapes[0][:2] != shapes[1][:2]:
        raise MatchError(f"{loss}: two layers (batch, length, width) of one batch are needed a side, got {shapes}")
    return side[0], side[1]


def _mask_of(mask: Tensor, feature: Tensor, loss: str) -> Tensor:
    expected = (feature.shape[0], feature.shape[-2])
    if tuple(mask.shape) != expected:
        raise MatchError(
            f"{loss}: the mask is {list(mask.shape)}, but the feature {list(feature.shape)} needs {list(expected)}"
        )
    return mask != 0


def _optional_mask(mask: Tensor | None, feature: Tensor, loss: str) -> Tensor | None:
    return None if mask is None else _mask_of(mask, feature, loss)


def _like_queries(mask: Tensor, attention: Tensor) -> Tensor:
    """The mask for values with one entry per head (if any) and query."""
    return mask if attention.dim() == 3 else mask[:, None, :].expand(attention.shape[:-1])


def _pairs_of(mask: Tensor, attention: Tensor, loss: str) -> Tensor:
    """Valid (query, key) pairs, in the shape of ``attention``."""
    valid = _mask_of(mask, attention, loss)
    pairs = valid[:, :, None] & valid[:, None, :]
    return (pairs if attention.dim() == 3 else pairs[:, None]).expand(attention.shape)


def _similarity(side: Pair, mask: Tensor | None, loss: str) -> Tensor:
    first, second = (full_precision(layer) for layer in _two(side, loss))
    if first.shape[-1] != second.shape[-1]:
        raise MatchError(f"{loss}: the two layers of a side have widths {first.shape[-1]} and {second.shape[-1]}")
    # A mask of another length is told by the caller, with the shape of the similarities.
    fits = mask is not None and mask.shape == first.shape[:2]
    first, second = _both(first, second, mask != 0 if fits else None)  # type: ignore[arg-type]
    return first @ second.transpose(1, 2) / first.shape[-1]


def _gram_distances(state_S: Pair, state_T: Pair, mask: Tensor | None, loss: str) -> Tensor:
    gram_S, gram_T = (_gram(side, mask, loss) for side in (state_S, state_T))
    if gram_S.shape[1:] != gram_T.shape[1:]:
        widths = [[layer.shape[-1] for layer in side] for side in (state_S, state_T)]
        raise MatchError(
            f"{loss}: the widths of teacher {widths[1]} and student {widths[0]} differ, and so do their Gram matrices; "
            f"add proj=['linear', {widths[0][0]}, {widths[1][0]}], or use mmd, which compares positions"
        )
    _require_same(gram_S, gram_T, loss)
    return (gram_S - gram_T) ** 2


def _gram(side: Pair, mask: Tensor | None, loss: str) -> Tensor:
    first, second = (full_precision(layer) for layer in _two(side, loss))
    if mask is None:
        return first.transpose(1, 2) @ second / first.shape[1]
    valid = _mask_of(mask, first, loss)
    first, second = _both(first, second, valid)
    return first.transpose(1, 2) @ second / valid.sum(dim=1)[:, None, None].clamp(min=1)
