"""Schemes of training: several stages, several students, generations. Each is small, on the distillers' one loop."""

from .chain import born_again, teacher_assistants
from .mutual import MutualDistiller
from .replacing import ReplacingTrainer, theseus
from .stages import Stage, Stages, features_then_logits

__all__ = [
    "MutualDistiller",
    "ReplacingTrainer",
    "Stage",
    "Stages",
    "born_again",
    "features_then_logits",
    "teacher_assistants",
    "theseus",
]
