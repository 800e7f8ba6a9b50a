"""Knowledge distillation for PyTorch language models: a large teacher, a small student, nearly as good."""

from . import losses, matches, schedules, utils
from .adaptors import TransformersAdaptor
from .configs import DistillationConfig, EnsembleConfig, IntermediateMatch, StudentConfig, TrainingConfig
from .distillers import (
    BasicDistiller,
    BasicTrainer,
    CustomMatch,
    Distillers,
    GeneralDistiller,
    MultiTaskDistiller,
    MultiTeacherDistiller,
)
from .errors import TextBrewerError
from .presets import KD_LOSS_MAP, MATCH_LOSS_MAP, PROJ_MAP, TEMPERATURE_SCHEDULER, WEIGHT_SCHEDULER, register_new
from .students import build_student
from .types import ADAPTOR_KEYS, FEATURES

__version__ = "1.0.0.dev0"

__all__ = [
    "ADAPTOR_KEYS",
    "FEATURES",
    "KD_LOSS_MAP",
    "MATCH_LOSS_MAP",
    "PROJ_MAP",
    "TEMPERATURE_SCHEDULER",
    "WEIGHT_SCHEDULER",
    "BasicDistiller",
    "BasicTrainer",
    "CustomMatch",
    "DistillationConfig",
    "Distillers",
    "EnsembleConfig",
    "GeneralDistiller",
    "IntermediateMatch",
    "MultiTaskDistiller",
    "MultiTeacherDistiller",
    "StudentConfig",
    "TextBrewerError",
    "TrainingConfig",
    "TransformersAdaptor",
    "build_student",
    "losses",
    "matches",
    "register_new",
    "schedules",
    "utils",
]
