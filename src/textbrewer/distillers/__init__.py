"""Distillers: each assembles a teacher source and an objective and hands them to the engine."""

from ._lesson import CustomMatch
from .basic import BasicDistiller
from .general import GeneralDistiller
from .multi_task import MultiTaskDistiller
from .multi_teacher import MultiTeacherDistiller
from .trainer import BasicTrainer

Distillers = {
    "Basic": BasicDistiller,
    "General": GeneralDistiller,
    "MultiTeacher": MultiTeacherDistiller,
    "MultiTask": MultiTaskDistiller,
    "Train": BasicTrainer,
}
"""Distillers by the names of TextBrewer 0.2.1."""

__all__ = [
    "BasicDistiller",
    "BasicTrainer",
    "CustomMatch",
    "Distillers",
    "GeneralDistiller",
    "MultiTaskDistiller",
    "MultiTeacherDistiller",
]
