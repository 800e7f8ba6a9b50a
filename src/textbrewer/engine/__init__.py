"""The only training loop of the project. It knows nothing of teachers: it is handed a step function."""

from .loop import Engine, Schedule, Step

__all__ = ["Engine", "Schedule", "Step"]
