"""The application: how its commands end, what they print, and where."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .. import __version__
from ..errors import (
    ConfigError,
    MissingDependencyError,
    NonFiniteLossError,
    OutOfMemoryError,
    Problem,
    TextBrewerError,
)

FAILED, REFUSED = 1, 2
"""Exit codes: of what went wrong on the way, and of what cannot be done as it was asked for."""

_ON_THE_WAY = (NonFiniteLossError, OutOfMemoryError, MissingDependencyError)


class Commands(TyperGroup):
    """The commands; an error that is the user's to mend is one message on stderr, without a traceback."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except TextBrewerError as error:
            _complain(str(error))
            raise typer.Exit(FAILED if isinstance(error, _ON_THE_WAY) else REFUSED) from None
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
            raise typer.Exit(FAILED) from None
        except KeyboardInterrupt:
            _complain(
                "stopped; what is finished is whole, and the same command goes on after it, without --fresh and "
                "--no-resume"
            )
            raise typer.Exit(130) from None


app = typer.Typer(
    name="textbrewer",
    cls=Commands,
    help="Distil a large language model into a small one: from one recipe to a deployed model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for machines.")]
Columns = Annotated[
    list[str] | None, typer.Option("--column", metavar="ROLE=NAME", help="A column, as in label=stars; else guessed.")
]
Format = Annotated[str | None, typer.Option("--format", help="How the file is read; else by its ending.")]
Options = Annotated[
    list[str] | None, typer.Option("--option", metavar="KEY=VALUE", help="Of the reader, as in encoding=latin-1.")
]


def _tell_version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def _prepare(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    ctx.obj = quiet
    # Before Transformers is imported, which reads them then.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    handler = _Lines()
    for name, level in (("textbrewer", logging.WARNING), ("textbrewer.pipeline", logging.INFO)):
        logging.getLogger(name).setLevel(logging.ERROR if quiet else level)
    logging.getLogger("textbrewer").handlers = [handler]
    logging.getLogger("textbrewer").propagate = False
    warnings.showwarning = lambda message, category, *_: (
        _say(f"warning: {message}") if category is UserWarning and not quiet else None
    )


class _Lines(logging.Handler):
    """What the library logs, a line each, beside progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write it."""
        _say(f"{'' if record.levelno < logging.WARNING else 'warning: '}{record.getMessage()}")


def _say(text: str) -> None:
    from tqdm.auto import tqdm

    tqdm.write(text, file=sys.stderr)


def _complain(text: str) -> None:
    """An error, on stderr."""
    from rich.console import Console

    Console(stderr=True, soft_wrap=True, highlight=False).print(f"error: {text}", style="red", markup=False)


def show(result: Any, as_json: bool, text: str | None = None) -> None:
    """A result on stdout: as JSON, or as text for people."""
    if as_json:
        print(json.dumps(result, ensure_ascii=False, default=str))
    else:
        print(str(result) if text is None else text)


def in_yaml(text: str, title: str) -> Any:
    """A value in YAML."""
    from ..configs.plain_yaml import yaml_value

    return yaml_value(text, title)


def as_typed(text: str, title: str) -> Any:
    """A value that is a text, whatever is in it."""
    return text


def for_reader(text: str, title: str) -> Any:
    """A value of a reader's option: a number, true, false, null or a list in YAML, else the text as it is typed."""
    if text.lstrip().startswith("["):
        return in_yaml(text, title)
    try:
        value = in_yaml(text, title)
    except ConfigError:
        return text
    return value if text.strip() and (value is None or isinstance(value, (bool, int, float))) else text


def for_column(text: str, title: str) -> Any:
    """The name of a column as it is typed, or a list of names in YAML."""
    return list(map(str, in_yaml(text, title))) if text.lstrip().startswith("[") else text


def pairs_of(given: Sequence[str] | None, option: str, value_of: Callable[[str, str], Any] = in_yaml) -> dict[str, Any]:
    """``KEY=VALUE`` each.

    Raises:
        ConfigError: one is none.
    """
    found = {}
    for each in given or ():
        key, equals, text = each.partition("=")
        if not key or not equals:
            raise ConfigError("options", [Problem(option, "KEY=VALUE", repr(each))])
        found[key] = value_of(text, f"{option} {key}")
    return found


def columns_of(given: Sequence[str] | None) -> dict[str, Any]:
    """``ROLE=NAME`` each."""
    return pairs_of(given, "--column", for_column)


def options_of(given: Sequence[str] | None) -> dict[str, Any]:
    """``KEY=VALUE`` each, of the reader."""
    return pairs_of(given, "--option", for_reader)
