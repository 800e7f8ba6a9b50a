"""The command line: parses, calls :mod:`textbrewer.pipeline`, and prints."""

from . import _training, _using
from ._app import app

__all__ = ["_training", "_using", "app", "main"]


def main() -> None:
    """What the command ``textbrewer`` runs."""
    app(prog_name="textbrewer")
