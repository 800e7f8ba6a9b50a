"""Every layer of the student learning from every layer of the teacher, by the cheapest transport between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import MatchError, MissingDependencyError
from .relations import takes_mask_T


class ManyToManyLoss(nn.Module):
    """Earth mover's distance between the layers of two models, after BERT-EMD.

    ``Σ_ij F_ij D_ij``, with ``D_ij`` the loss between student layer j and teacher layer i, and ``F ≥ 0`` the flow of
    least cost whose row sums are the teacher's layer weights ``w_T`` and whose column sums are the student's ``w_S``.
    The flow is a constant of the gradient. Weights start equal; after each call in training a layer that was dear to
    move weighs less: ``C_i = Σ_j F_ij D_ij / w_i``, ``w = softmax((Σ C / C) / τ)``, for both sides.

    The loss is a mean over the micro-batch it is given, and the weights move once a micro-batch; under several
    processes each has weights of its own. The costs are read from the device once a call, since the transport is
    solved on the CPU.

    Args:
        loss: ``f(S, T, mask=None)`` between two layers.
        name: of the loss, for messages and logs.
        temperature: τ; a higher one keeps the weights nearer to each other.
        learn_weights: whether the weights move at all.

    Source: BERT-EMD, 2010.06133.
    """

    weights_T: Tensor
    weights_S: Tensor

    def __init__(
        self, loss: Callable[..., Tensor], name: str, temperature: float = 1.0, learn_weights: bool = True
    ) -> None:
        super().__init__()
        self.loss = loss
        self.temperature = temperature
        self.learn_weights = learn_weights
        self.__name__ = f"many_to_many_{name}"
        # Float64 on the CPU, where the transport is solved.
        self.register_buffer("weights_T", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("weights_S", torch.zeros(0, dtype=torch.float64))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ManyToManyLoss:
        """Moving or casting a model that holds this leaves the weights alone, but not what the loss itself has."""
        if recurse and isinstance(self.loss, nn.Module):
            cast(Any, self.loss)._apply(fn)
        return self

    def forward(
        self,
        state_S: Sequence[Tensor],
        state_T: Sequence[Tensor],
        mask: Tensor | None = None,
        *,
        mask_T: Tensor | None = None,
    ) -> Tensor:
        """The distance.

        Args:
            state_S: the student's layers, as ``loss`` takes them.
            state_T: the teacher's.
            mask: ``(batch, length)``.
            mask_T: of the teacher, for a loss that takes one.

        Raises:
            MatchError: not a list of layers on both sides, or another number of them than before.
            MissingDependencyError: the package that solves the transport is not installed.
        """
        if isinstance(state_S, Tensor) or isinstance(state_T, Tensor):
            raise MatchError(f"{self.__name__}: a list of layers is needed on both sides, as in layer_S: [1, 2, 3]")
        self._begin(len(state_T), len(state_S))
        masks = {"mask": mask, "mask_T": mask_T} if takes_mask_T(self.loss) else {"mask": mask}
        with torch.no_grad():
            rows = [torch.stack([self.loss(s, t, **masks) for s in state_S]) for t in state_T]
            cost = torch.stack(rows).double().cpu()
        if not cost.isfinite().all():
            # The engine names the step and the term of a loss that is not finite.
            return self.loss(state_S[-1], state_T[-1], **masks) * torch.nan
        flow = transport(cost, self.weights_T, self.weights_S)
        if self.learn_weights and torch.is_grad_enabled():
            self._update(cost * flow)
        # The optimal flow has at most layers_T + layers_S - 1 entries, so that the graph holds few of the pairs.
        pairs = flow.nonzero().tolist()
        parts = [self.loss(state_S[j], state_T[i], **masks) * float(flow[i, j]) for i, j in pairs]
        return torch.stack(parts).sum()

    def _begin(self, layers_T: int, layers_S: int) -> None:
        if self.weights_T.numel() == 0:
            self.weights_T = torch.full((layers_T,), 1 / layers_T, dtype=torch.float64)
            self.weights_S = torch.full((layers_S,), 1 / layers_S, dtype=torch.float64)
        before = (self.weights_T.numel(), self.weights_S.numel())
        if (layers_T, layers_S) != before:
            raise MatchError(
                f"{self.__name__}: {layers_T} and {layers_S} layers of teacher and student, but {before[0]} and "
                f"{before[1]} before; make one match for each pair of models"
            )

    def _update(self, moved: Tensor) -> None:
        """New weights from what it cost to move each layer."""
        for name, paid in (("weights_T", moved.sum(dim=1)), ("weights_S", moved.sum(dim=0))):
            each = paid / getattr(self, name)
            # Layers that agree exactly cost nothing; the least positive cost stands for theirs.
            each = each.clamp(min=max(float(each.max()) * 1e-6, torch.finfo(each.dtype).tiny))
            weights = torch.softmax(each.sum() / each / self.temperature, dim=0)
            # A layer never loses all its weight, or it could not get any back.
            weights = weights.clamp(min=1e-6)
            setattr(self, name, weights / weights.sum())


def transport(cost: Tensor, weights_T: Tensor, weights_S: Tensor) -> Tensor:
    """The flow of least cost: ``argmin_F Σ F · cost`` with the weights as sums of rows and columns.

    Args:
        cost: ``(layers_T, layers_S)``, float64 on the CPU.
        weights_T: ``(layers_T,)``, adding up to 1.
        weights_S: ``(layers_S,)``, adding up to 1.

    Returns:
        ``(layers_T, layers_S)``.

    Raises:
        MissingDependencyError: POT, which solves it, is not installed.
    """
    try:
        import ot
    except ImportError:
        raise MissingDependencyError("POT", "transport", "a many-to-many match") from None
    flow: Any = ot.emd(weights_T.numpy(), weights_S.numpy(), cost.numpy())
    return torch.from_numpy(flow)
