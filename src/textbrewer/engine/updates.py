"""From the losses of a window to a step of the optimiser."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from ..configs import TrainingConfig
from .checkpoint import RunState
from .sharding import whole


class Updates(Protocol):
    """What the loop hands its losses to."""

    def backward(self, total: Tensor, last: bool) -> None:
        """The backward pass of one micro-batch.

        Args:
            total: its part of the loss.
            last: of its window.
        """

    def norm(self) -> Tensor | None:
        """Of the gradients of the window, which are clipped; None where others look after them."""

    def take(self, norm: Tensor | None) -> None:
        """The optimiser step, after which there are no gradients."""


class PlainUpdates:
    """Backward passes and steps as PyTorch does them, with float16's gradients scaled.

    Args:
        config: the run's settings.
        state: of the run.
        max_grad_norm: clip the student's gradients to this norm; not above 0: off.
    """

    def __init__(self, config: TrainingConfig, state: RunState, max_grad_norm: float = -1.0) -> None:
        self.config, self.state, self.max_grad_norm = config, state, max_grad_norm

    def backward(self, total: Tensor, last: bool) -> None:
        self.state.scaler.scale(total).backward()

    def norm(self) -> Tensor | None:
        """As of :class:`Updates`; None where the scaler of float16 looks after them."""
        state = self.state
        if self.max_grad_norm > 0:
            state.scaler.unscale_(state.optimizer)
            norm = nn.utils.clip_grad_norm_(state.student.parameters(), self.max_grad_norm)
            return None if state.scaler.is_enabled() else whole(norm)
        if state.scaler.is_enabled():
            return None
        return whole(nn.utils.get_total_norm([p.grad for p in state.student.parameters() if p.grad is not None]))

    def take(self, norm: Tensor | None) -> None:
        optimizer: Any = self.state.optimizer
        if norm is None or self.config.on_nonfinite == "stop":
            self.state.scaler.step(optimizer)
        elif getattr(optimizer, "_step_supports_amp_scaling", False):
            # Fused optimisers skip on the device, as GradScaler has them do: nothing waits.
            optimizer.grad_scale, optimizer.found_inf = None, (~norm.isfinite()).float()
            try:
                optimizer.step()
            finally:
                del optimizer.grad_scale, optimizer.found_inf
        elif bool(norm.isfinite()):
            optimizer.step()
        self.state.scaler.update()
        optimizer.zero_grad()
