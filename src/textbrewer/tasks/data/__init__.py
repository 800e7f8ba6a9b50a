"""Data as it comes: read, checked, counted and reported."""

from .read import FORMATS, read
from .report import DataReport, Finding, Lengths
from .rows import Row, Rows
from .table import Table

__all__ = ["FORMATS", "DataReport", "Finding", "Lengths", "Row", "Rows", "Table", "read"]
