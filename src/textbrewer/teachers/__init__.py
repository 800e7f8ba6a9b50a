"""Teacher sources: anything that turns a batch into what the teacher knows about it."""

from .cache import CachedTeacher, CacheEntry, CacheFilling, FillJob, Reads, TeacherCache
from .ensemble import EnsembleTeacher
from .live import LiveTeacher, TeacherSource

__all__ = [
    "CacheEntry",
    "CacheFilling",
    "CachedTeacher",
    "EnsembleTeacher",
    "FillJob",
    "LiveTeacher",
    "Reads",
    "TeacherCache",
    "TeacherSource",
]
