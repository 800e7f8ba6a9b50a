"""Data as it comes: read, checked, counted and reported."""

from .corpus import Corpus
from .read import FORMATS, read
from .report import DataReport, Finding, Lengths
from .rows import Row, Rows
from .table import Table

__all__ = ["FORMATS", "Corpus", "DataReport", "Finding", "Lengths", "Row", "Rows", "Table", "read"]
