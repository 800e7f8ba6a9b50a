"""The files that a user means: one, those of a pattern, or a list."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from ...errors import DataError

Source: TypeAlias = str | Path | Sequence[str | Path]
"""A file, a folder or a name; a pattern such as ``"part-*.csv"``; or a list of these."""


def several(source: Source) -> list[str | Path] | None:
    """What a list or a pattern stands for, those of a pattern in the order of their names; None for a single one.

    Raises:
        DataError: nothing fits a pattern, or a list is empty.
    """
    if not isinstance(source, (str, os.PathLike)):
        found = [each for one in source for each in (several(one) or [one])]
        if not found:
            raise DataError("expected files, got an empty list")
        return found
    pattern = os.path.expanduser(source)
    if not glob.has_magic(pattern) or os.path.exists(pattern):
        return None
    files = sorted(glob.glob(pattern, recursive=True))
    if not files:
        raise DataError(f"no file fits {str(source)!r}")
    return list(files)
