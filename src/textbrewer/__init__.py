"""Knowledge distillation for PyTorch language models: a large teacher, a small student, nearly as good."""

from . import data_utils, losses, matches, schedules, utils
from .adaptors import TransformersAdaptor
from .batching import LengthGroupedBatches
from .configs import DistillationConfig, EnsembleConfig, IntermediateMatch, StudentConfig, TrainingConfig
from .configs.student import BiGRUConfig, HeadConfig
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
from .students import BiGRUStudent, MultiTaskStudent, build_student
from .teachers import TeacherCache
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
    "BiGRUConfig",
    "BiGRUStudent",
    "CustomMatch",
    "DistillationConfig",
    "Distillers",
    "EnsembleConfig",
    "GeneralDistiller",
    "HeadConfig",
    "IntermediateMatch",
    "LengthGroupedBatches",
    "MultiTaskDistiller",
    "MultiTaskStudent",
    "MultiTeacherDistiller",
    "StudentConfig",
    "TeacherCache",
    "TextBrewerError",
    "TrainingConfig",
    "TransformersAdaptor",
    "build_student",
    "data_utils",
    "losses",
    "matches",
    "register_new",
    "schedules",
    "utils",
]
