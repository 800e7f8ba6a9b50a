"""Teacher sources: anything that gives a teacher's outputs for a batch."""

from .live import LiveTeacher, TeacherSource

__all__ = ["LiveTeacher", "TeacherSource"]
