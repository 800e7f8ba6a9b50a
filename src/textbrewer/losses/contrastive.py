"""The student's view of an example told from its views of other examples, by the teacher's view of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from ..errors import MatchError
from ..projections import linear_projection
from ._reduce import full_precision, masked_mean
from .logits import tempered
from .relations import Pooling, examples_of, unit_vectors


class CRDLoss(nn.Module):
    """Contrastive distillation: a pair of views of one example is told from pairs of views of two.

    ``mean over examples of L(z_S, z_T, teacher's memory) + L(z_T, z_S, student's memory)``, with
    ``L(a, b, M) = −log h(a · b) − Σ_k log(1 − h(a · M_k))`` and ``h(x) = e^(x/τ) / (e^(x/τ) + Z K/N)``, over K other
    examples of the N in the data; ``z`` is a trained linear map of the feature, normalised

    The memory holds a ``z`` of each example and side: unit vectors at random at the start, moved towards what is seen
    by ``M_i ← normalised m M_i + (1 − m) z_i``, after a call in training. Z, a constant for each side, is N times the
    mean of ``e^(x/τ)`` in the first such call.

    The positive pair is live, as in the paper; its authors' code takes one side of it from the memory, which in the few
    epochs of fine-tuning holds mostly what it began with.

    A call is a mean over its micro-batch. In a run of several processes a call is made by all of them together: each is
    told from the one memory, which then moves by what all saw, and Z is of all their first calls. Memory, constants and
    maps are in ``state_dict()``; the maps are trained with the student. In a match write ``["crd", examples,
    width_S, width_T]`` or give an object; ``index``, which example a row is, comes from the adaptor of the student, or
    from a column of that name in the batch, which the models are not fed.

    Args:
        examples: N, how many examples the data have.
        width_S: of the student's feature.
        width_T: of the teacher's.
        width: of ``z``.
        negatives: K, drawn for each row from all other examples; the paper's 16,384 suit data of 50,000.
        temperature: τ.
        momentum: m, how much of the memory stays.
        pooling: how hidden states become a vector: ``"mean"`` over the valid tokens, or ``"first"``.

    Raises:
        MatchError: a number is out of range.

    Source: CRD, 1910.10699.

    >>> loss = CRDLoss(examples=100, width_S=4, width_T=8, negatives=5)
    >>> loss(torch.randn(3, 4), torch.randn(3, 8), index=torch.tensor([0, 17, 99])).shape
    torch.Size([])
    """

    needs_index = True
    memory_S: Tensor
    memory_T: Tensor
    log_Z: Tensor

    def __init__(
        self,
        examples: int,
        width_S: int,
        width_T: int,
        *,
        width: int = 128,
        negatives: int = 1024,
        temperature: float = 0.07,
        momentum: float = 0.5,
        pooling: Pooling = "mean",
    ) -> None:
        super().__init__()
        sound = {
            "examples": (examples, examples > 1, "at least 2"),
            "negatives": (negatives, negatives > 0, "at least 1"),
            "temperature": (temperature, 0 < temperature < math.inf, "a finite number above 0"),
            "momentum": (momentum, 0 <= momentum < 1, "a number from 0 to below 1"),
        }
        for name, (value, fits, expected) in sound.items():
            if not fits:
                raise MatchError(f"crd: {name}={value!r}, but {expected} is needed")
        self.__name__ = "crd"
        self.widths = (width_S, width_T)
        self.negatives, self.temperature, self.momentum, self.pooling = negatives, temperature, momentum, pooling
        self.project_S, self.project_T = linear_projection(width_S, width), linear_projection(width_T, width)
        for side in ("S", "T"):
            self.register_buffer(f"memory_{side}", unit_vectors(torch.randn(examples, width)))
        # NaN until it is known; for the student as anchor, then for the teacher.
        self.register_buffer("log_Z", torch.full((2,), math.nan))
        self._gather: Callable[[Any], list[Any]] = _alone

    @contextmanager
    def shared(self, gather: Callable[[Any], list[Any]]) -> Iterator[None]:
        """Meanwhile, what each of several processes sees moves the memories of all.

        Args:
            gather: a value of every process, told without waiting for a device.
        """
        self._gather = gather
        try:
            yield
        finally:
            self._gather = _alone

    def forward(
        self,
        state_S: Tensor,
        state_T: Tensor,
        mask: Tensor | None = None,
        *,
        mask_T: Tensor | None = None,
        index: Tensor | None = None,
        negatives: Tensor | None = None,
    ) -> Tensor:
        """The loss; in training the memory moves.

        Args:
            state_S: the student's feature, ``(batch, width_S)`` or ``(batch, length, width_S)``.
            state_T: the teacher's, ``(batch, width_T)`` or ``(batch, length, width_T)``.
            mask: ``(batch, length)``; for vectors ``(batch,)`` too.
            mask_T: of the teacher, where its tokens are others; None is ``mask``.
            index: ``(batch,)``, which example of the data each row is.
            negatives: ``(batch, K)``, which examples each row is told from; None draws them.

        Raises:
            MatchError: no index, one outside the data, or features that do not fit.
        """
        student, teacher, valid = examples_of(state_S, state_T, mask, mask_T, self.pooling, "crd", at_least=1)
        found = (student.shape[-1], teacher.shape[-1])
        if found != self.widths:
            raise MatchError(f"crd: built for widths {self.widths} of student and teacher, got {found}")
        index = self._checked(index, (len(valid),), "index")
        others = self._drawn(index) if negatives is None else self._checked(negatives, (len(valid), -1), "negatives")
        z_S, z_T = self._embedded(self.project_S, student), self._embedded(self.project_T, teacher)
        alike = (z_S * z_T).sum(dim=-1, keepdim=True)
        sides = [
            torch.cat([alike, torch.einsum("bw,bkw->bk", z, full_precision(memory[others]).to(z.dtype))], dim=1)
            for z, memory in ((z_S, self.memory_T), (z_T, self.memory_S))
        ]
        learns = self.training and torch.is_grad_enabled()
        sizes = self._gather(len(valid)) if learns else []
        rows = self._rows([tempered(side, self.temperature) for side in sides], valid, sizes)
        if learns:
            seen = [_of_all(part, sizes) for part in (index, valid, z_S.detach(), z_T.detach())]
            self._remember(*seen)
        return masked_mean(rows, valid)

    def _rows(self, sides: list[Tensor], valid: Tensor, sizes: Sequence[int]) -> Tensor:
        """What each row pays, both anchors together; in ``sides`` its positive comes first. Where the call teaches the
        memory, ``sizes`` tells the rows of each process."""
        examples, drawn = len(self.memory_S), sides[0].shape[1]
        some = valid.unsqueeze(1)
        exponents = torch.stack([torch.where(some, side.detach(), -torch.inf).logsumexp(dim=(0, 1)) for side in sides])
        counted = (valid.sum() * drawn).to(exponents)
        if sizes:
            each = [1] * len(sizes)
            exponents = _of_all(exponents[None], each).logsumexp(dim=0)
            counted = _of_all(counted[None], each).sum()
        log_mean = exponents - counted.log()
        log_Z = torch.where(self.log_Z.isnan(), (log_mean + math.log(examples)).to(self.log_Z), self.log_Z)
        if sizes:
            self.log_Z.copy_(log_Z)
        # Still unknown only where no row is valid.
        offset = log_Z.nan_to_num().to(sides[0]) + math.log((drawn - 1) / examples)
        log_odds = torch.stack(sides) - offset[:, None, None]
        paid = -logsigmoid(log_odds[..., 0]) - logsigmoid(-log_odds[..., 1:]).sum(dim=-1)
        return paid.sum(dim=0)

    @torch.no_grad()
    def _remember(self, index: Tensor, valid: Tensor, z_S: Tensor, z_T: Tensor) -> None:
        # What overflowed on either side is not remembered: each later row that is told from it would be NaN too.
        valid = valid & z_S.isfinite().all(dim=1) & z_T.isfinite().all(dim=1)
        for memory, z in ((self.memory_S, z_S), (self.memory_T, z_T)):
            before = memory[index]
            moved = unit_vectors(self.momentum * before + (1 - self.momentum) * z.to(memory))
            memory[index] = torch.where(valid.unsqueeze(1), moved, before)

    def _embedded(self, projection: nn.Module, vectors: Tensor) -> Tensor:
        weight = next(projection.parameters())
        return unit_vectors(full_precision(projection(vectors.to(weight.dtype))))

    def _drawn(self, index: Tensor) -> Tensor:
        """Others than the row's own example, each as likely."""
        shape = (len(index), self.negatives)
        others = torch.randint(len(self.memory_S) - 1, shape, device=index.device)
        return others + (others >= index.unsqueeze(1))

    def _checked(self, given: Tensor | None, shape: tuple[int, ...], name: str) -> Tensor:
        """Indices of examples, of a shape in which -1 stands for any number."""
        examples = len(self.memory_S)
        if given is None:
            raise MatchError(
                f"crd: index [{shape[0]}] is needed, which example of the data each row is (0..{examples - 1}); let "
                "the dataset give it with the batch, and pass index="
            )
        fits = given.dim() == len(shape) and all(n in (m, -1) for m, n in zip(given.shape, shape, strict=True))
        if not fits or given.is_floating_point():
            wanted = str(list(shape)).replace("-1", "any")
            raise MatchError(f"crd: {name} {list(given.shape)} ({given.dtype}), but whole numbers {wanted} are needed")
        # On a GPU this is left to the indexing, since reading a number would wait for the device.
        if given.numel() and not given.is_cuda and not 0 <= int(given.min()) <= int(given.max()) < examples:
            raise MatchError(
                f"crd: {name} from {int(given.min())} to {int(given.max())}, but the loss was built for {examples} "
                f"examples (0..{examples - 1})"
            )
        return given.long()


def _alone(value: Any) -> list[Any]:
    return [value]


def _of_all(own: Tensor, sizes: Sequence[int]) -> Tensor:
    """The rows of every process, one after the other; ``sizes`` tells how many each has."""
    if len(sizes) == 1:
        return own
    padded = own.new_zeros((max(sizes), *own.shape[1:]))
    padded[: len(own)] = own
    every = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(every, padded)
    return torch.cat([rows[:size] for rows, size in zip(every, sizes, strict=True)])
