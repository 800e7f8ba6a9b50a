"""Commands for models and runs that are there."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ConfigError, Problem
from ._app import Columns, Format, Json, Options, app, as_typed, columns_of, options_of, pairs_of, show

Model = Annotated[str, typer.Argument(help="A folder with a model, or a name of the hub.", metavar="MODEL")]
DataPath = Annotated[str, typer.Argument(help="A file, a folder by label, or a name of the hub.", metavar="DATA")]
BatchSize = Annotated[int, typer.Option(min=1, help="Rows at a time.")]


@app.command()
def evaluate(
    model: Model,
    data: DataPath,
    column: Columns = None,
    format: Format = None,
    option: Options = None,
    batch_size: BatchSize = 64,
    json: Json = False,
) -> None:
    """Score a model on rows with labels.

    Examples:

    - `textbrewer evaluate runs/films/student test.csv`
    - `textbrewer evaluate runs/films/student test.csv --column text=review --json`
    """
    from .. import pipeline

    scores = pipeline.evaluate(
        model,
        data,
        columns=columns_of(column),
        format=format,
        options=options_of(option),
        batch_size=batch_size,
    )
    show(scores, json, "\n".join(f"{name}  {value:.4f}" for name, value in scores.items()))


@app.command()
def predict(
    model: Model,
    texts: Annotated[list[str] | None, typer.Argument(help="Texts.", metavar="[TEXT]...")] = None,
    data: Annotated[str | None, typer.Option(help="A file of rows in their place.")] = None,
    pair: Annotated[bool, typer.Option("--pair", help="Take the texts two by two: question and context, say.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write JSON lines to this file.")] = None,
    column: Columns = None,
    format: Format = None,
    option: Options = None,
    batch_size: BatchSize = 64,
    json: Json = False,
) -> None:
    """What a model says of texts.

    Examples:

    - `textbrewer predict runs/films/student "A fine film." "A dull one."`
    - `textbrewer predict runs/answers/student --pair "Who came?" "Ann came."`
    - `textbrewer predict runs/films/student --data new.csv --output said.jsonl`
    """
    import json as json_

    from .. import pipeline
    from ..files import replaced

    given = _inputs(texts or [], data, pair)
    found = pipeline.predict(
        model,
        given,
        columns=columns_of(column),
        format=format,
        options=options_of(option),
        batch_size=batch_size,
    )
    lines = [json_.dumps(each, ensure_ascii=False) for each in found]
    if output is not None:
        with replaced(output) as beside:
            beside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        show({"output": str(output), "rows": len(found)}, json, f"{len(found):,} rows: {output}")
        return
    show(found, json, "\n".join(lines))


def _inputs(texts: list[str], data: str | None, pair: bool) -> Any:
    """What is to be predicted: texts, pairs of them, or a file."""
    if bool(texts) == (data is not None):
        raise typer.BadParameter("give texts, or --data, one of the two")
    if data is not None:
        return data
    file = next(filter(os.path.isfile, texts), None)
    if file is not None:
        raise typer.BadParameter(f"{file} is a file, and would be read as a text; its rows are read with --data {file}")
    if not pair:
        return texts
    if len(texts) % 2:
        raise typer.BadParameter(f"--pair takes texts two by two, and there are {len(texts)}")
    return list(zip(texts[::2], texts[1::2], strict=True))


@app.command()
def export(
    model: Model,
    data: DataPath,
    output: Annotated[Path, typer.Option("--output", "-o", help="The new folder.")],
    rows: Annotated[int, typer.Option(min=1, help="Rows to check and measure with.")] = 200,
    int8: Annotated[bool, typer.Option("--int8/--no-int8", help="Also in eight bits.")] = True,
    tolerance: Annotated[float, typer.Option(min=0, help="How far a logit may be from PyTorch's.")] = 1e-3,
    card: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Of the model card, as in licence=MIT.")
    ] = None,
    column: Columns = None,
    format: Format = None,
    option: Options = None,
    json: Json = False,
) -> None:
    """Make a folder that serves a model without PyTorch: ONNX, int8, tokenizer, script, model card.

    Examples:

    - `textbrewer export runs/films/student test.csv -o films-onnx`
    - `textbrewer export runs/films/student test.csv -o films-onnx --no-int8 --card licence=MIT`
    """
    from .. import pipeline

    report = pipeline.export(
        model,
        output,
        data,
        columns=columns_of(column),
        format=format,
        options=options_of(option),
        rows=rows,
        int8=int8,
        tolerance=tolerance,
        card=pairs_of(card, "--card", as_typed),
    )
    show({"folder": str(report.folder), **report.to_dict()} if json else report, json)


@app.command()
def inspect(
    model: Model,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Rows of a batch; may be given several times.")] = None,
    length: Annotated[list[int] | None, typer.Option(min=1, help="Tokens of a row; likewise.")] = None,
    depth: Annotated[int, typer.Option(min=1, help="Levels of modules.")] = 2,
    repeats: Annotated[int, typer.Option(min=2, help="Runs by which latency is measured.")] = 10,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Measure memory, in a new process.")] = True,
    json: Json = False,
) -> None:
    """What a model is made of, and what it costs on this machine.

    Examples:

    - `textbrewer inspect runs/films/student`
    - `textbrewer inspect runs/films/student --batch 1 --length 32 --length 128 --no-memory`
    """
    from .. import pipeline

    found = pipeline.inspect(
        model,
        batch_sizes=tuple(batch or (1, 32)),
        lengths=tuple(length or (32, 128)),
        depth=depth,
        repeats=repeats,
        memory=memory,
    )
    show(found.to_dict() if json else found, json)


@app.command()
def benchmark(
    models: Annotated[list[str], typer.Argument(help="Folders with models, or names of the hub.", metavar="MODEL...")],
    batch: Annotated[int, typer.Option(min=1, help="Rows of a batch, for the throughput.")] = 32,
    length: Annotated[int, typer.Option(min=1, help="Tokens of a row.")] = 128,
    repeats: Annotated[int, typer.Option(min=2, help="Batches of each kind.")] = 20,
    json: Json = False,
) -> None:
    """Size and speed of models, which take turns on the same batches.

    Examples:

    - `textbrewer benchmark runs/films/teacher runs/films/student`
    - `textbrewer benchmark runs/films/student --batch 8 --length 32 --json`
    """
    from .. import pipeline

    found = pipeline.benchmark(models, batch_size=batch, length=length, repeats=repeats)
    show(found.to_dict() if json else found, json)


@app.command()
def student(
    teacher: Annotated[str, typer.Argument(help="A folder with a teacher, or a name of the hub.", metavar="TEACHER")],
    output: Annotated[Path, typer.Argument(help="The new folder.")],
    sizes: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Sizes, as in num_layers=3 hidden_size=384.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="A size by name, as in T6.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of random weights.")] = 0,
    plan: Annotated[bool, typer.Option("--plan", help="Measure sizes; take the best within the limits.")] = False,
    max_latency_ms: Annotated[float | None, typer.Option(help="Limit of a plan: median of a batch.")] = None,
    max_mb: Annotated[float | None, typer.Option(help="Limit of a plan: millions of bytes.")] = None,
    max_params: Annotated[int | None, typer.Option(help="Limit of a plan: parameters.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Rows of a batch, of a plan.")] = 1,
    length: Annotated[int, typer.Option(min=1, help="Tokens of a row, of a plan.")] = 128,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads, of a plan.")] = None,
    plot: Annotated[Path | None, typer.Option(help="An SVG file for the plot of a plan.")] = None,
    texts: Annotated[
        Path | None, typer.Option(help="A file: tokens that its texts lack are left out, of OUTPUT/teacher too.")
    ] = None,
    json: Json = False,
) -> None:
    """Build a student from a teacher: of a size that is given, or planned for limits, else of half of its layers.

    Examples:

    - `textbrewer student runs/films/teacher films-student num_layers=3`
    - `textbrewer student bert-base-uncased tiny --preset T4-tiny`
    - `textbrewer student runs/films/teacher fast --plan --max-latency-ms 5 --threads 2 --plot plan.svg`
    - `textbrewer student bert-base-uncased small --plan --max-mb 20 --texts films.csv`
    """
    from .. import pipeline
    from ..planner import Limits

    chosen = pairs_of(sizes, "sizes")
    if preset is not None and chosen:
        raise ConfigError("student", [Problem("--preset", "a preset or sizes, not both", f"{preset!r} and {chosen}")])
    limits = Limits(max_latency_ms, max_mb, max_params, batch, length, threads)
    if not plan and (str(limits) or plot):
        raise ConfigError("student", [Problem("--plan", "--plan with limits and --plot", "none")])
    size = preset or chosen or None
    if plan and size is not None:
        raise ConfigError("student", [Problem("--plan", "a plan or a size, not both", repr(size))])
    report = pipeline.make_student(teacher, output, size, seed=seed, limits=limits if plan else None, texts=texts)
    told = {"folder": str(output), **asdict(report)}
    found = pipeline.plan_in(output) if plan else None
    if found is None:
        show(told, json, f"{output}\n{report}")
        return
    if plot:
        plot.write_text(found.svg(), encoding="utf-8")
    show({**told, "plan": found.to_dict()}, json, f"{found}\n\n{output}\n{report}")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="The output_dir of finished runs.", metavar="RUN...")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The page of several runs; else comparison.html.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="A folder for each plot as SVG and PNG.")] = None,
    json: Json = False,
) -> None:
    """Write the page of a finished run anew, or one that compares several.

    Examples:

    - `textbrewer report runs/films`
    - `textbrewer report runs/films --images plots`
    - `textbrewer report runs/films runs/films-T6 runs/films-no-matches -o comparison.html`
    """
    from .. import pipeline

    if len(runs) == 1 and output is not None:
        raise typer.BadParameter("--output is for several runs; the page of one is report.html in its folder")
    if len(runs) == 1:
        page = pipeline.write_report(runs[0], images)
    else:
        page = pipeline.compare(runs, output or Path("comparison.html"), images)
    told = {"report": str(page), **({} if images is None else {"images": str(images)})}
    show(told, json, "\n".join(told.values()))


@app.command()
def init(
    data: DataPath,
    output: Annotated[Path, typer.Option("--output", "-o", help="The recipe.")] = Path("recipe.yaml"),
    task: Annotated[str | None, typer.Option(help="Found out where it is left out.")] = None,
    teacher: Annotated[str | None, typer.Option(help="A folder or a name of the hub.")] = None,
    format: Format = None,
    option: Options = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    json: Json = False,
) -> None:
    """Write a commented recipe for data, which is looked at.

    Examples:

    - `textbrewer init films.csv -o films.yaml`
    - `textbrewer init train.conll --task token_classification --teacher bert-base-cased`
    """
    from .. import pipeline

    written = pipeline.init(
        data, output, task=task, teacher=teacher, format=format, options=options_of(option), force=force
    )
    show({"recipe": str(written)}, json, f"{written}\nNext: textbrewer distill {written}")
