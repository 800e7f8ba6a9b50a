"""Teacher sources: anything that turns a batch into what the teacher knows about it."""

from .ensemble import EnsembleTeacher
from .live import LiveTeacher, TeacherSource

__all__ = ["EnsembleTeacher", "LiveTeacher", "TeacherSource"]
