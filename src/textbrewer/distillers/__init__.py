"""Distillers: each assembles a teacher source and an objective and hands them to the engine."""

from .basic import BasicDistiller
from .general import GeneralDistiller
from .trainer import BasicTrainer

Distillers = {"Basic": BasicDistiller, "General": GeneralDistiller, "Train": BasicTrainer}
"""Distillers by the names of TextBrewer 0.2.1."""

__all__ = ["BasicDistiller", "BasicTrainer", "Distillers", "GeneralDistiller"]
