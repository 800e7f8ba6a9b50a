"""Knowledge distillation for PyTorch language models: a large teacher, a small student, nearly as good."""

import typing

from . import data_utils, losses, matches, schedules, schemes, utils
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
from .engine.sharding import shard
from .errors import TextBrewerError
from .presets import KD_LOSS_MAP, MATCH_LOSS_MAP, PROJ_MAP, TEMPERATURE_SCHEDULER, WEIGHT_SCHEDULER, register_new
from .students import BiGRUStudent, MultiTaskStudent, build_student, prune_vocabulary
from .teachers import TeacherCache
from .types import ADAPTOR_KEYS, FEATURES

if typing.TYPE_CHECKING:
    from .pipeline import DistillationResult, distill

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
    "DistillationResult",
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
    "distill",
    "losses",
    "matches",
    "prune_vocabulary",
    "register_new",
    "schedules",
    "schemes",
    "shard",
    "utils",
]

_ON_DEMAND = ("DistillationResult", "distill")


def __getattr__(name: str) -> typing.Any:
    """What carries out recipes stands on everything else, and is imported when it is first asked for."""
    if name not in _ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import pipeline

    return getattr(pipeline, name)
