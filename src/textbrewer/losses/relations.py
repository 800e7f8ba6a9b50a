"""Losses between the relations that examples of one batch have with each other, and between their embeddings.

A feature is one vector an example, ``(batch, width)``, or hidden states ``(batch, length, width)``, of which
``pooling`` makes one: ``"mean"``, over the tokens of the mask, or ``"first"``, the token at position 0. The sides may
have tokens of their own, as with a translation or another tokenizer, and then have a mask each. An example without a
valid token on either side takes no part. Where relations are compared, widths of student and teacher may differ, and
the loss is a mean over the pairs of a micro-batch: accumulating gradients is not the same as a larger batch.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from ..errors import MatchError, did_you_mean, one_of
from ._reduce import full_precision, masked_mean, only_valid

Pooling = Literal["mean", "first"]
_POOLINGS = ("mean", "first")


def rkd_distance_loss(
    state_S: Tensor,
    state_T: Tensor,
    mask: Tensor | None = None,
    *,
    pooling: Pooling = "mean",
    mask_T: Tensor | None = None,
) -> Tensor:
    """How far examples are from each other, in units of the mean distance.

    ``mean over pairs i ≠ j of l(‖s_i − s_j‖/μ_S, ‖t_i − t_j‖/μ_T)``, with ``μ`` the mean distance of the pairs of a
    side, and ``l`` Huber's loss with δ = 1

    Args:
        state_S: student, ``(batch, width)`` or ``(batch, length, width)``.
        state_T: teacher, one of these with a width of its own.
        mask: ``(batch, length)``; for vectors ``(batch,)`` too.
        pooling: how hidden states become a vector.
        mask_T: of the teacher, where its tokens are others; None is ``mask``.

    Raises:
        MatchError: not of one batch, a batch of one, or a mask that does not fit.

    Source: RKD (distance-wise), 1904.05068.

    >>> corners = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]])
    >>> rkd_distance_loss(10 * corners, corners)
    tensor(0.)
    """
    student, teacher, valid = examples_of(state_S, state_T, mask, mask_T, pooling, "rkd_distance", at_least=2)
    pairs = _distinct_pairs(valid)
    far_S, far_T = _distances(student, pairs), _distances(teacher, pairs)
    return masked_mean(smooth_l1_loss(far_S, far_T, reduction="none"), pairs)


def rkd_angle_loss(
    state_S: Tensor,
    state_T: Tensor,
    mask: Tensor | None = None,
    *,
    pooling: Pooling = "mean",
    mask_T: Tensor | None = None,
) -> Tensor:
    """The angles that examples make with each other.

    ``mean over distinct i, j, k of l(cos ∠ s_i s_j s_k, cos ∠ t_i t_j t_k)``, with ``l`` Huber's loss with δ = 1

    An angle at two equal examples counts as a right one, and has no gradient. Memory grows with batch³.

    Args:
        state_S: student, ``(batch, width)`` or ``(batch, length, width)``.
        state_T: teacher, one of these with a width of its own.
        mask: ``(batch, length)``; for vectors ``(batch,)`` too.
        pooling: how hidden states become a vector.
        mask_T: of the teacher, where its tokens are others; None is ``mask``.

    Raises:
        MatchError: not of one batch, fewer than three examples, or a mask that does not fit.

    Source: RKD (angle-wise), 1904.05068.

    >>> corners = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]])
    >>> rkd_angle_loss(10 * corners - 1, corners)
    tensor(0.)
    """
    student, teacher, valid = examples_of(state_S, state_T, mask, mask_T, pooling, "rkd_angle", at_least=3)
    pairs = _distinct_pairs(valid)
    triples = pairs.unsqueeze(2) & pairs.unsqueeze(1) & pairs.unsqueeze(0)
    return masked_mean(smooth_l1_loss(_cosines(student), _cosines(teacher), reduction="none"), triples)


def similarity_preserving_loss(
    state_S: Tensor,
    state_T: Tensor,
    mask: Tensor | None = None,
    *,
    pooling: Pooling = "mean",
    mask_T: Tensor | None = None,
) -> Tensor:
    """How alike examples are to each other.

    ``mean over pairs i, j of (G_S − G_T)²_ij``, with ``G`` the rows of ``X Xᵀ``, each normalised, and ``X`` the
    examples of a side

    Args:
        state_S: student, ``(batch, width)`` or ``(batch, length, width)``.
        state_T: teacher, one of these with a width of its own.
        mask: ``(batch, length)``; for vectors ``(batch,)`` too.
        pooling: how hidden states become a vector.
        mask_T: of the teacher, where its tokens are others; None is ``mask``.

    Raises:
        MatchError: not of one batch, a batch of one, or a mask that does not fit.

    Source: 1907.09682, there of flattened activations.

    >>> turned = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    >>> similarity_preserving_loss(turned, torch.eye(2))
    tensor(0.)
    """
    student, teacher, valid = examples_of(state_S, state_T, mask, mask_T, pooling, "similarity_preserving", at_least=2)
    alike_S, alike_T = (unit_vectors(x @ x.T) for x in (student, teacher))
    return masked_mean((alike_S - alike_T) ** 2, _pairs(valid))


def embedding_mse_loss(
    state_S: Tensor,
    state_T: Tensor,
    mask: Tensor | None = None,
    *,
    pooling: Pooling = "mean",
    mask_T: Tensor | None = None,
    components: Tensor | None = None,
    count: Tensor | float | None = None,
) -> Tensor:
    """Mean squared difference of sentence embeddings (``count``: rows).

    ``mean over rows and width of (s − t)²``, with ``t`` the teacher's embedding, or what ``components`` make of it

    To teach a language, feed the student the translation of what the teacher reads. An example without a valid token
    costs nothing, but counts in the mean.

    Args:
        state_S: student, ``(batch, width)`` or ``(batch, length, width)``.
        state_T: teacher, one of these, of the same width or of that of ``components``.
        mask: ``(batch, length)``; for vectors ``(batch,)`` too.
        pooling: how hidden states become a vector.
        mask_T: of the teacher, where its tokens are others; None is ``mask``.
        components: ``(student width, teacher width)``, as :func:`principal_components` finds them.
        count: rows of the whole step.

    Raises:
        MatchError: not of one batch, other widths, or a mask that does not fit.

    Source: 2004.09813.

    >>> embedding_mse_loss(torch.ones(2, 3), torch.zeros(2, 3))
    tensor(1.)
    """
    student, teacher, _ = examples_of(state_S, state_T, mask, mask_T, pooling, "embedding_mse", at_least=1)
    of_S, of_T = student.shape[-1], teacher.shape[-1]
    if components is not None:
        if components.shape != (of_S, of_T):
            raise MatchError(
                f"embedding_mse: components {list(components.shape)} do not fit; for a student of width {of_S} and a "
                f"teacher of {of_T} they are {[of_S, of_T]}"
            )
        teacher = teacher @ components.to(teacher).T
    elif of_S != of_T:
        raise MatchError(
            f"embedding_mse: teacher {list(state_T.shape)} and student {list(state_S.shape)} differ in the last axis; "
            f"add proj=['linear', {of_S}, {of_T}], or components=principal_components(teacher's embeddings, {of_S})"
        )
    return masked_mean(((student - teacher) ** 2).mean(dim=-1), count=count)


def principal_components(embeddings: Tensor, width: int) -> Tensor:
    """The directions in which a teacher's embeddings differ most, to project them on.

    Orthonormal rows, the largest variance first; the largest entry of each is positive, so that they are the same on
    any machine. The mean of the embeddings is taken off to find them; keep it where they are used, so that cosines keep
    their meaning.

    Args:
        embeddings: ``(examples, teacher width)``, of some thousand sentences of the kind to be embedded.
        width: the student's.

    Returns:
        ``(width, teacher width)``, for ``embedding_mse_loss(..., components=)``.

    Raises:
        MatchError: fewer examples or a narrower teacher than ``width``, or embeddings that are not finite.

    Source: 2004.09813, as its authors' library reduces dimensions.

    >>> principal_components(torch.tensor([[0.0, -2.0, 5.0], [0.0, 2.0, 5.0], [0.1, 0.0, 5.0]]), 1).round()
    tensor([[0., 1., 0.]])
    """
    if embeddings.dim() != 2 or not 0 < width <= min(embeddings.shape):
        raise MatchError(
            f"principal_components: width={width} needs at least as many examples, of at least this width; got "
            f"embeddings {list(embeddings.shape)}"
        )
    if not embeddings.isfinite().all():
        raise MatchError(f"principal_components: embeddings {list(embeddings.shape)} are not all finite")
    exact = embeddings.double()
    centred = exact - exact.mean(dim=0)
    # The eigenvectors of the covariance: a matrix of the width alone, however many examples there are.
    directions: Tensor = torch.linalg.eigh(centred.T @ centred).eigenvectors.T.flip(0)[:width]
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    return (directions * largest.sign()).to(full_precision(embeddings).dtype)


def takes_mask_T(loss: Callable[..., Any]) -> bool:
    """Whether a loss between features takes ``mask_T``, the mask of the teacher's own tokens.

    >>> takes_mask_T(embedding_mse_loss), takes_mask_T(masked_mean)
    (True, False)
    """
    try:
        return "mask_T" in signature(loss.forward if isinstance(loss, nn.Module) else loss).parameters
    except (TypeError, ValueError):
        return False  # written in C, and tells nothing


def examples_of(
    state_S: Tensor,
    state_T: Tensor,
    mask: Tensor | None,
    mask_T: Tensor | None,
    pooling: str,
    loss: str,
    at_least: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """One vector an example and side, in one precision, zero for those without a valid token on both; and which have.

    Raises:
        MatchError: see the losses of this module.
    """
    if pooling not in _POOLINGS:
        hint = did_you_mean(pooling, _POOLINGS)
        raise MatchError(f"{loss}: pooling: expected {one_of(_POOLINGS)}, got {pooling!r}; {hint}".removesuffix("; "))
    for side, state in (("student", state_S), ("teacher", state_T)):
        if state.dim() not in (2, 3):
            raise MatchError(
                f"{loss}: the {side}'s feature is {list(state.shape)}, but (batch, width) or (batch, length, width) is "
                "needed"
            )
    dtype = torch.promote_types(full_precision(state_S).dtype, full_precision(state_T).dtype)
    student, valid_S = pooled_states(state_S.to(dtype), mask, pooling, loss)
    teacher, valid_T = pooled_states(state_T.to(dtype), mask if mask_T is None else mask_T, pooling, loss)
    if student.shape[0] != teacher.shape[0]:
        raise MatchError(
            f"{loss}: teacher {list(state_T.shape)} and student {list(state_S.shape)} are not of one batch"
        )
    if 0 < student.shape[0] < at_least:
        raise MatchError(
            f"{loss}: relations need at least {at_least} examples, got a batch of {student.shape[0]} "
            f"({list(state_S.shape)}); use a larger batch, and drop_last=True in the loader"
        )
    valid = valid_S & valid_T
    return only_valid(student, valid), only_valid(teacher, valid), valid


def pooled_states(state: Tensor, mask: Tensor | None, pooling: str, loss: str) -> tuple[Tensor, Tensor]:
    """``(batch, width)``, and which examples have a valid token."""
    vector = state if state.dim() == 2 else state[:, 0]
    of_all = state.dim() == 3 and pooling == "mean"
    if mask is None:
        valid = torch.ones(len(state), dtype=torch.bool, device=state.device)
        return state.mean(dim=1) if of_all else vector, valid
    needed = list(state.shape[:-1])
    if list(mask.shape) != needed and not (state.dim() == mask.dim() == 2 and len(mask) == len(state)):
        raise MatchError(f"{loss}: the mask is {list(mask.shape)}, but the feature {list(state.shape)} needs {needed}")
    tokens = mask != 0
    valid = tokens if mask.dim() == 1 else tokens.any(dim=1)
    if not of_all:
        return only_valid(vector, valid), valid
    return only_valid(state, tokens).sum(dim=1) / tokens.sum(dim=1, keepdim=True).clamp(min=1), valid


def unit_vectors(vectors: Tensor) -> Tensor:
    """``v / ‖v‖`` along the last axis; zeros stay, and have no gradient. What is not finite is not hidden."""
    lengths = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    some = lengths != 0
    return torch.where(some, vectors / torch.where(some, lengths, 1.0), 0.0)


def _pairs(valid: Tensor) -> Tensor:
    """Where both examples are valid, ``(batch, batch)``."""
    return valid.unsqueeze(0) & valid.unsqueeze(1)


def _distinct_pairs(valid: Tensor) -> Tensor:
    """Those of two examples, not of one with itself."""
    return _pairs(valid) & ~torch.eye(len(valid), dtype=torch.bool, device=valid.device)


def _distances(vectors: Tensor, pairs: Tensor) -> Tensor:
    """Between all examples, divided by their mean over the pairs."""
    # The faster way by products of matrices loses small distances between large vectors.
    distances = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
    mean = masked_mean(distances, pairs)
    return distances / torch.where(mean > 0, mean, 1.0)


def _cosines(vectors: Tensor) -> Tensor:
    """Of the angle at j between i and k, ``[j, i, k]``."""
    towards = unit_vectors(vectors.unsqueeze(0) - vectors.unsqueeze(1))
    return towards @ towards.transpose(1, 2)
