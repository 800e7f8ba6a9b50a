"""The only training loop of the project. It knows nothing of teachers: it is handed a step function."""

from .loop import Engine, Step
from .schedule import Schedule

__all__ = ["Engine", "Schedule", "Step"]
