"""Packages of the extra `hf`, imported where they are used."""

from __future__ import annotations

import importlib
from typing import Any

from ..errors import MissingDependencyError


def needed(module: str, package: str, purpose: str) -> Any:
    """Import ``module``.

    Raises:
        MissingDependencyError: ``package``, which has it, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingDependencyError(package, "hf", purpose) from None
