"""The packages that write and run ONNX files: whether they are there, and silence while they work."""

from __future__ import annotations

import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

from ..errors import MissingDependencyError

_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


def require_packages(*packages: str) -> None:
    """Refuse to begin what could not be finished.

    Raises:
        MissingDependencyError: a package is not installed.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(package, "export", "exporting a model")


@contextmanager
def silence() -> Iterator[None]:
    """Hold back the warnings of exporters, which say nothing about the model, and keep their hands off logging."""
    root = logging.getLogger()
    handlers = list(root.handlers)
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    # Without a handler, logging.info(…) of a library would add one to the root logger for good.
    root.addHandler(logging.NullHandler())
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        # A graph that could not be exported is printed to stderr; the exception says what was wrong with it.
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        root.handlers[:] = handlers
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
