"""Typed, validated settings. Constructing one does no I/O."""

from .distillation import DistillationConfig, EnsembleConfig, IntermediateMatch
from .student import StudentConfig
from .training import TrainingConfig

__all__ = ["DistillationConfig", "EnsembleConfig", "IntermediateMatch", "StudentConfig", "TrainingConfig"]
