"""Typed, validated settings. Constructing one does no I/O."""

from .distillation import DistillationConfig, IntermediateMatch
from .student import StudentConfig
from .training import TrainingConfig

__all__ = ["DistillationConfig", "IntermediateMatch", "StudentConfig", "TrainingConfig"]
