"""Commands that carry out recipes."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ._app import REFUSED, Json, app, show

Recipe = Annotated[Path, typer.Argument(help="A recipe in YAML; `textbrewer init` writes one.", metavar="RECIPE")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Keys to change, as in training.num_epochs=10.")
]
Resume = Annotated[bool, typer.Option("--resume/--no-resume", help="Go on from what a stopped run left.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Make everything again, whatever is there.")]

cache = typer.Typer(no_args_is_help=True, help="Keep what a teacher gives on disk.")
app.add_typer(cache, name="cache")


def _changes(ctx: typer.Context, overrides: list[str] | None) -> list[str]:
    """What is changed in a recipe; those who want quiet want no progress bars either."""
    quiet = ["training.progress_bar=false", "teacher.training.progress_bar=false"] if ctx.obj else []
    return [*quiet, *(overrides or [])]


@contextmanager
def _one_voice() -> Iterator[None]:
    """Of several processes the first one speaks; the others say what went wrong with them alone."""
    if not int(os.environ.get("RANK", "0")):
        yield
        return
    from ..pipeline.together import ElsewhereError

    logging.getLogger("textbrewer").handlers = [logging.NullHandler()]
    warnings.simplefilter("ignore")
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        try:
            yield
        except ElsewhereError:
            # Not with an error: what starts the processes would end the first one before it has told its own.
            raise typer.Exit from None
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


@app.command()
def train(
    ctx: typer.Context,
    recipe: Recipe,
    overrides: Overrides = None,
    resume: Resume = True,
    fresh: Fresh = False,
    json: Json = False,
) -> None:
    """Fine-tune the teacher of a recipe.

    Examples:

    - `textbrewer train films.yaml`
    - `textbrewer train films.yaml teacher.training.num_epochs=5`
    """
    from .. import pipeline

    with _one_voice():
        result = pipeline.train(recipe, _changes(ctx, overrides), resume=resume, fresh=fresh)
        show(result.to_dict() if json else result, json)


@app.command()
def distill(
    ctx: typer.Context,
    recipe: Recipe,
    overrides: Overrides = None,
    with_baseline: Annotated[
        bool, typer.Option("--with-baseline", help="Also train the student without a teacher.")
    ] = False,
    resume: Resume = True,
    fresh: Fresh = False,
    max_latency_ms: Annotated[float | None, typer.Option(help="Plan the student: median of a batch.")] = None,
    max_mb: Annotated[float | None, typer.Option(help="Plan the student: millions of bytes.")] = None,
    max_params: Annotated[int | None, typer.Option(help="Plan the student: parameters.")] = None,
    batch: Annotated[int | None, typer.Option(help="Rows of a batch, of a plan.")] = None,
    length: Annotated[int | None, typer.Option(help="Tokens of a row, of a plan; else of the longest.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads, of a plan.")] = None,
    json: Json = False,
) -> None:
    """Carry out a recipe: teacher, student, measurements, report.

    What is finished already is used again, and what was stopped is gone on from. With a limit, students of many sizes
    are measured first, and the most capable that keeps to it is distilled: the options are keys of `student.plan`.

    Examples:

    - `textbrewer distill films.yaml --with-baseline`
    - `textbrewer distill films.yaml data.train=my.csv training.num_epochs=10 --resume`
    - `textbrewer distill films.yaml --max-latency-ms 5 --threads 2`
    """
    from .. import pipeline

    limits = {"max_latency_ms": max_latency_ms, "max_mb": max_mb, "max_params": max_params}
    limits |= {"batch": batch, "length": length, "threads": threads}
    planned = [f"student.plan.{key}={value}" for key, value in limits.items() if value is not None]
    with _one_voice():
        result = pipeline.distill(
            recipe,
            [*_changes(ctx, overrides), *planned],
            with_baseline=True if with_baseline else None,
            resume=resume,
            fresh=fresh,
        )
        _show_run(result, pipeline.plan_in(result.output_dir), json)


def _show_run(result: Any, plan: Any, json: bool) -> None:
    """What a recipe came to, after what its student's size was chosen from."""
    if json:
        show({**result.to_dict(), **({"plan": plan.to_dict()} if plan else {})}, json)
        return
    from ..report.table import print_table

    if plan:
        show(f"{plan}\n", json)
    print_table(result.table)
    lines = [f"Student: {result.student}{f' ({plan.chosen})' if plan else ''}"]
    lines += [f"Report:  {result.report}"] if result.report else []
    lines += [f"Export:  {result.exported}"] if result.exported else []
    show("\n".join(lines), json)


@app.command()
def doctor(ctx: typer.Context, recipe: Recipe, overrides: Overrides = None, json: Json = False) -> None:
    """Look over a recipe before it is carried out, and say what to change.

    Examples:

    - `textbrewer doctor films.yaml`
    - `textbrewer doctor films.yaml data.train=my.csv --json`
    """
    from .. import pipeline

    found = pipeline.examine(recipe, _changes(ctx, overrides))
    show(found.to_dict() if json else found, json)
    if not found.is_sound:
        raise typer.Exit(REFUSED)


@cache.command()
def build(ctx: typer.Context, recipe: Recipe, overrides: Overrides = None, json: Json = False) -> None:
    """Ask the teacher of a recipe everything that its student will ask.

    Example:

    - `textbrewer cache build films.yaml cache=runs/cache`
    """
    from .. import pipeline
    from ..teachers.cache.cache import in_bytes

    with _one_voice():
        filled = pipeline.fill_cache(recipe, _changes(ctx, overrides))
        size = in_bytes(filled.size_bytes)
        text = f"{filled.rows:,} rows, {filled.computed:,} computed, {size} in {filled.seconds:.0f} s"
        show(asdict(filled), json, text)


Folder = Annotated[Path, typer.Argument(help="The folder of a cache.")]


@cache.command("list")
def list_(path: Folder, json: Json = False) -> None:
    """What each teacher has in a cache.

    Example:

    - `textbrewer cache list runs/cache`
    """
    from ..teachers import TeacherCache

    with TeacherCache(path, read_only=True) as opened:
        entries = opened.list()
    show([asdict(entry) for entry in entries], json, "\n".join(map(str, entries)) or "empty")


@cache.command()
def verify(path: Folder, json: Json = False) -> None:
    """Read every record; damaged ones are deleted, to be computed again.

    Example:

    - `textbrewer cache verify runs/cache`
    """
    from ..teachers import TeacherCache

    _require_cache(path)
    with TeacherCache(path) as opened:
        found = opened.verify()
    shown = {name: {"whole": whole, "damaged": damaged} for name, (whole, damaged) in found.items()}
    text = "\n".join(
        f"{name[:12]}  {each['whole']:,} whole, {each['damaged']:,} damaged" for name, each in shown.items()
    )
    show(shown, json, text or "empty")


@cache.command()
def prune(
    path: Folder,
    names: Annotated[list[str] | None, typer.Argument(help="Teachers, by the beginning of their fingerprint.")] = None,
    unused_days: Annotated[
        float | None, typer.Option(min=0, help="Also what was not written to for so many days.")
    ] = None,
    json: Json = False,
) -> None:
    """Delete what some teachers have in a cache.

    Examples:

    - `textbrewer cache prune runs/cache 3f2a`
    - `textbrewer cache prune runs/cache --unused-days 30`
    """
    from ..teachers import TeacherCache

    if not names and unused_days is None:
        raise typer.BadParameter("name teachers, or give --unused-days")
    _require_cache(path)
    with TeacherCache(path) as opened:
        gone = opened.prune(names or (), unused_days=unused_days)
    show(list(gone), json, "\n".join(gone) or "nothing to delete")


def _require_cache(path: Path) -> None:
    """Refuse a folder that is no cache, before one is made there."""
    from ..teachers import TeacherCache

    TeacherCache(path, read_only=True).close()
