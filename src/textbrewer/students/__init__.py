"""Students: their sizes by name, and their first weights from a teacher."""

from .build import StudentReport, build_student, build_student_with_report
from .presets import STUDENT_PRESETS

__all__ = ["STUDENT_PRESETS", "StudentReport", "build_student", "build_student_with_report"]
