"""Students: their sizes by name, their first weights from a teacher, and two that Transformers does not have."""

from .bigru import BiGRUEncoder, BiGRUStudent
from .build import StudentReport, build_student, build_student_with_report
from .heads import Head, StudentOutput
from .multi_task import MultiTaskStudent
from .presets import STUDENT_PRESETS
from .vocabulary import PrunedVocabulary, prune_vocabulary

__all__ = [
    "STUDENT_PRESETS",
    "BiGRUEncoder",
    "BiGRUStudent",
    "Head",
    "MultiTaskStudent",
    "PrunedVocabulary",
    "StudentOutput",
    "StudentReport",
    "build_student",
    "build_student_with_report",
    "prune_vocabulary",
]
