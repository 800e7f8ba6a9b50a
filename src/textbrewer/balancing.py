"""Terms of very different sizes in one total: weights that are learned, or set by the gradients.

Both read the configured weights as ratios between the terms, and leave out what weighs 0 at the moment.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from .errors import MatchError, UnsupportedError
from .projections import Unshaped


class UncertaintyWeights(Unshaped):
    """Each term weighs by how uncertain the student is in it, which is trained with the student.

    ``total = Σ_i w_i e^(−s_i) L_i + s_i / 2``, with ``s_i = log σ_i²``, 0 at the start

    A term that stays large comes to weigh less: the best ``e^(s_i)`` is ``2 w_i L_i``. With ``w_i = 1`` this is the
    paper's form for a classification, with ``w_i = ½`` that for a regression. A loss that falls below zero (``vid``)
    has no best ``s_i``: its weight would grow without end.

    Args:
        lr: learning rate of the ``s_i``; None for the optimiser's own, which for a pretrained encoder is too low for
            them to move far. They are in a parameter group without weight decay.

    Source: 1705.07115, which learns the logarithm too.
    """

    def __init__(self, lr: float | None = None) -> None:
        super().__init__()
        self.group_options: dict[str, Any] = {"weight_decay": 0.0, **({} if lr is None else {"lr": lr})}
        self.log_variances: Any = UninitializedParameter()

    def begin(self, terms: int, student: nn.Module, gather: Callable[[Any], list[Any]]) -> None:
        """Called before each run, with what it consists of.

        Args:
            terms: their number.
            student: the model that is trained.
            gather: a value of every process.

        Raises:
            MatchError: another number of terms than before.
        """
        if isinstance(self.log_variances, UninitializedParameter):
            device = next(student.parameters()).device
            with torch.no_grad():
                self.log_variances.materialize((terms,), device=device)
                self.log_variances.zero_()
        if len(self.log_variances) != terms:
            raise MatchError(
                f"uncertainty: the objective has {terms} terms, and {len(self.log_variances)} before; make a new "
                "distiller where matches are added"
            )

    def forward(self, values: Mapping[int, Tensor], weights: Mapping[int, float], parts: int) -> Tensor:
        """The total of one micro-batch.

        Args:
            values: of the terms that count now, by their place in the objective.
            weights: of the same terms.
            parts: how many micro-batches the step has.
        """
        each = [
            weights[i] * torch.exp(-self.log_variances[i]) * value + self.log_variances[i] / (2 * parts)
            for i, value in values.items()
        ]
        return torch.stack(each).sum()


_SCALES = (2.0**16, 2.0**8, 1.0)
"""Tried in turn to measure a gradient: unscaled, a small one vanishes in float16; scaled, a large one overflows."""


class GradientNorms(nn.Module):
    """Each term pulls at the student as hard as its configured weight says, whatever the size of its loss.

    ``total = Σ_i v_i L_i``, with ``v_i = w_i n̄ / n_i`` and ``n̄ = Σ_j w_j n_j / Σ_j w_j``, where ``n_i`` is the norm of
    the gradient of ``L_i`` in all parameters of the student

    So the gradient of each term has the norm ``w_i n̄``, which is what GradNorm with α = 0 steers towards. As norms are
    linear in the weights, it is written down rather than approached by a second optimiser. GradNorm also keeps the sum
    of the weights; here the mean norm is kept, since a term that is all but fitted would take the whole sum. Its α > 0,
    which favours terms that learn slowly, compares each loss with its first value, and a divergence or a likelihood may
    begin at zero or fall below it. All parameters, rather than the last shared layer, because matches of different
    layers have no last layer in common.

    Measuring takes a backward pass for each term, and is done at every ``every``-th micro-batch, from the first one
    on. Between processes the norms are averaged.

    Args:
        every: micro-batches between measurements.
        momentum: how much of the norms stays when they are measured again.

    Raises:
        MatchError: a number is out of range.

    Source: GradNorm, 1711.02257.
    """

    norms: Tensor
    calls: Tensor

    def __init__(self, every: int = 10, momentum: float = 0.9) -> None:
        super().__init__()
        if every < 1 or not 0 <= momentum < 1:
            raise MatchError(
                f"gradient_norm: every={every!r}, momentum={momentum!r}, but every >= 1 and 0 <= momentum < 1 is needed"
            )
        self.every, self.momentum = every, momentum
        self._trained: list[nn.Parameter] = []
        self._gather: Callable[[Any], list[Any]] = lambda value: [value]
        # NaN where a term has not counted yet. On the CPU, where reading them waits for nothing.
        self.register_buffer("norms", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GradientNorms:
        """Moving or casting a model that holds this leaves the norms alone."""
        return self

    def begin(self, terms: int, student: nn.Module, gather: Callable[[Any], list[Any]]) -> None:
        """As of :class:`UncertaintyWeights`.

        Raises:
            UnsupportedError: no parameter of the student is trained.
        """
        self._trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
        if not self._trained:
            raise UnsupportedError("gradient_norm: no parameter of the student requires a gradient")
        self._gather = gather
        if len(self.norms) != terms:
            self.norms = torch.full((terms,), torch.nan, dtype=torch.float64)

    def forward(self, values: Mapping[int, Tensor], weights: Mapping[int, float], parts: int) -> Tensor:
        """The total of one micro-batch; the arguments are those of :class:`UncertaintyWeights`."""
        places = list(values)
        if torch.is_grad_enabled():
            if int(self.calls) % self.every == 0 or not bool(self.norms[places].isfinite().all()):
                self._measure(values, parts)
            self.calls += 1
        given, norms = torch.tensor([weights[i] for i in places], dtype=torch.float64), self.norms[places]
        known = norms.isfinite()
        mean = (given * norms)[known].sum() / given[known].sum()
        # A term without a gradient does not pull, whatever it weighs.
        each = torch.where(known & (norms > 0), given * mean / norms, given)
        return torch.stack([values[i] * weight for i, weight in zip(places, each.tolist(), strict=True)]).sum()

    def _measure(self, values: Mapping[int, Tensor], parts: int) -> None:
        every = self._gather([self._norm(value) * parts for value in values.values()])
        for place, found in zip(values, zip(*every, strict=True), strict=True):
            before, norm = float(self.norms[place]), sum(found) / len(found)
            if not math.isfinite(before):
                self.norms[place] = norm
            elif math.isfinite(norm):  # a batch that overflows is no reason to forget
                self.norms[place] = self.momentum * before + (1 - self.momentum) * norm

    def _norm(self, value: Tensor) -> float:
        if not value.requires_grad:
            return 0.0
        norm = math.inf
        for scale in _SCALES:
            times = torch.full_like(value, scale)
            gradients = torch.autograd.grad(value, self._trained, times, retain_graph=True, allow_unused=True)
            norm = float(nn.utils.get_total_norm([gradient for gradient in gradients if gradient is not None])) / scale
            if math.isfinite(norm):
                break
        return norm
