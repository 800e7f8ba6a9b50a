"""The objective of the distillers in other people's training loops."""

from .trainer import DistillationTrainer

__all__ = ["DistillationTrainer"]
