"""A teacher that costs nothing after the first epoch: what it gives for a row is kept, by the row's content."""

from .cache import CacheEntry, CacheFilling, TeacherCache
from .cached import CachedTeacher, FillJob
from .parts import Reads

__all__ = ["CacheEntry", "CacheFilling", "CachedTeacher", "FillJob", "Reads", "TeacherCache"]
