"""A folder that serves: the model as ONNX, its tokenizer, a script that uses them, and what was measured."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from .. import __version__
from ..errors import DataError, UnsupportedError, count_of
from ..feeding import accepts
from ..files import replaced_folder
from ..modes import modes_kept
from ..report.profile import bytes_of, machine, parameters_of, speeds
from ..report.table import aligned
from ..students.loading import load_model
from ..tasks import Encoded, Task
from ..tasks._needed import needed
from ..tasks.named import task_settings
from .card import Card, card_text
from .graph import INPUTS, on_cpu, write_onnx
from .inferred import rows_of, task_for
from .int8 import quantise
from .measured import Variant, agreement, batches_of, differences, plain, require_close, table_of
from .packages import require_packages
from .runtime import OnnxModel
from .scripts import require_script, script_of, settings_of, truncation_of

FLOAT, INT8, SETTINGS = "model.onnx", "model.int8.onnx", "export.json"
_PYTORCH = "PyTorch"
_NAMES = {FLOAT: "ONNX", INT8: "ONNX int8"}
_KEPT_SCORE = 0.01
_KEPT_DECISIONS = 0.98

Evaluate = Callable[[nn.Module], Mapping[str, float]]


@dataclass(frozen=True)
class ExportReport:
    """What :func:`export` wrote and measured.

    Attributes:
        folder: where it is.
        model: the class of the model.
        parameters: how many it has.
        task: its task, by the name that recipes use.
        rows: rows that it was checked and measured on.
        variants: the PyTorch model, ``"ONNX"`` and ``"ONNX int8"``.
        serves: the file that ``predict.py`` uses.
        reason: why that one.
        machine: where it was measured.
        versions: of the packages that were used.
    """

    folder: Path
    model: str
    parameters: int
    task: str
    rows: int
    variants: Mapping[str, Variant]
    serves: str
    reason: str
    machine: str
    versions: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """All of it but the folder, as JSON takes it."""
        kept = {key: value for key, value in vars(self).items() if key not in ("folder", "variants", "versions")}
        return {**kept, "versions": dict(self.versions), "variants": plain(self.variants)}

    @property
    def measured(self) -> str:
        """On what, where and with what it was measured."""
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return (
            f"Scores, differences and decisions on {count_of(self.rows, 'row')} given at export; times side by side on "
            f"the first of them, on {self.machine}; {versions}. "
            f"`predict.py` uses {self.serves}: {self.reason}."
        )

    def __str__(self) -> str:
        return f"{self.folder}\n\n{aligned(table_of(self.variants))}\n\n{self.measured}"


def export(
    model_folder: str | Path, output: str | Path, data: Any, *, tokenizer: Any = None, **options: Any
) -> ExportReport:
    """Export the model in a folder; see :func:`export_model`, which has the options.

    Args:
        model_folder: written by ``save_pretrained``, of Transformers or of a student of this library.
        output: the new folder.
        data: some real rows.
        tokenizer: None for the one in ``model_folder``.
        **options: of :func:`export_model`.

    Raises:
        StudentError: the folder holds no model.
        DataError: the folder holds no tokenizer.
    """
    return export_model(
        load_model(model_folder),
        _tokenizer_in(model_folder) if tokenizer is None else tokenizer,
        output,
        data,
        **options,
    )


def _tokenizer_in(folder: str | Path) -> Any:
    if not (Path(folder) / "tokenizer.json").is_file():
        raise DataError(
            f"export: {folder} holds no tokenizer.json; save the tokenizer beside the model with "
            "tokenizer.save_pretrained(…), or give tokenizer=…"
        )
    return needed("transformers", "transformers", "reading a tokenizer").AutoTokenizer.from_pretrained(folder)


def export_model(
    model: nn.Module,
    tokenizer: Any,
    output: str | Path,
    data: Any,
    *,
    task: Task | None = None,
    evaluate: Evaluate | None = None,
    int8: bool = True,
    tolerance: float = 1e-3,
    card: Card | Mapping[str, Any] | None = None,
) -> ExportReport:
    """Write a folder from which a model is used without PyTorch, and measure what is in it.

    ``model.onnx`` is the model in float32 and ``model.int8.onnx`` in eight bits, both for batches of any size and
    length. ``python predict.py "a text"`` needs onnxruntime and tokenizers alone. It uses the int8 file, unless that
    loses more than 0.01 of the task's main score, or without labels 2 % of its decisions. ``README.md`` is the model
    card. The folder appears only when all of it is there; an earlier export is then replaced.

    Args:
        model: a Transformers encoder with a head for texts, tokens or answers, a :class:`~textbrewer.BiGRUStudent`, or
            with ``task`` any module that gives logits. It stays as it was.
        tokenizer: of Transformers, with a ``tokenizer.json``.
        output: the new folder.
        data: some real rows to check and measure with: what ``task.predict`` or ``task.rows`` takes. With labels they
            give scores.
        task: what the model does; None asks the model.
        evaluate: gives scores of any form of the model, which is in eval mode, instead of the task's on ``data``.
        int8: whether to write the int8 file.
        tolerance: how far any logit of ``model.onnx`` may be from PyTorch's.
        card: what the model card says; see :class:`Card`.

    Raises:
        MissingDependencyError: the extra ``export`` is not installed.
        UnsupportedError: the model or its tokenizer cannot be exported; the message says why.
        DataError: there are no rows, or ``output`` is a folder of something else.
        ConfigError: a key of ``card`` is unknown.
        TextBrewerError: the ONNX model differs from PyTorch's by more than ``tolerance``.
    """
    facts = card if isinstance(card, Card) else Card.from_dict(card or {})
    require_exportable(tokenizer, output)
    chosen = task or task_for(model, tokenizer)
    require_script(chosen)
    encoded = chosen.encode(rows_of(chosen, data), tokenizer)
    given = on_cpu(model)
    chosen.adaptor(given)  # refuses a model with other labels
    inputs = [name for name in INPUTS if name in encoded.padding([encoded[0]]) and accepts(given, name)]
    with replaced_folder(output) as beside:
        write_onnx(given, beside / FLOAT, inputs)
        if int8:
            quantise(beside / FLOAT, beside / INT8)
        models = {_NAMES[file]: OnnxModel(beside / file) for file in (FLOAT, INT8) if (beside / file).exists()}
        variants = _measured({_PYTORCH: given, **models}, chosen, encoded, inputs, tokenizer, evaluate, tolerance)
        serves, reason = _choice(variants, chosen.main_metric)
        report = ExportReport(
            folder=Path(output),
            model=type(model).__name__,
            parameters=parameters_of(model),
            task=chosen.name,
            rows=len(encoded.rows),
            variants=variants,
            serves=serves,
            reason=reason,
            machine=machine(),
            versions={"python": platform.python_version()} | {p: version(p) for p in ("torch", "onnx", "onnxruntime")},
        )
        _write_tokenizer(tokenizer, chosen, beside)
        config: Any = getattr(model, "config", None)
        if hasattr(config, "save_pretrained"):
            config.save_pretrained(beside)
        settings = {
            **settings_of(chosen, tokenizer),
            "model": serves,
            "settings": task_settings(chosen),
            "textbrewer": __version__,
            "export": report.to_dict(),
        }
        _write(beside / SETTINGS, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
        _write(beside / "predict.py", script_of(chosen))
        _write(beside / "README.md", _card(facts, report, chosen))
    return report


def export_settings(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What ``export.json`` says in a folder of :func:`export`; None of any other folder."""
    try:
        found = json.loads((Path(folder) / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("model") in (FLOAT, INT8) else None


def served_in(folder: str | os.PathLike[str], settings: Mapping[str, Any]) -> OnnxModel:
    """The model that a folder of :func:`export` serves.

    Args:
        folder: where it is.
        settings: its :func:`export_settings`.

    Raises:
        DataError: the file is not there.
        MissingDependencyError: onnxruntime is not installed.
    """
    file = Path(folder) / settings["model"]
    if not file.is_file():
        raise DataError(f"{folder}: expected an exported model, {file.name} beside {SETTINGS}")
    return OnnxModel(file)


def require_exportable(tokenizer: Any, output: str | Path, task: Task | None = None) -> None:
    """Refuse what :func:`export_model` could not finish, as far as it can be told without the model.

    Raises:
        MissingDependencyError: the extra ``export`` is not installed.
        UnsupportedError: the task or the tokenizer cannot be exported.
        DataError: there is no tokenizer, or ``output`` is a folder of something else.
    """
    require_packages("onnx", "onnxscript", "onnxruntime", "tokenizers")
    _require_fast(tokenizer)
    _require_free(Path(output))
    if task is not None:
        require_script(task)


def _require_fast(tokenizer: Any) -> None:
    if tokenizer is None:
        raise DataError("export: no tokenizer; predict.py could not read texts without one")
    if not getattr(tokenizer, "is_fast", False):
        raise UnsupportedError(
            f"export: {type(tokenizer).__name__} is written in Python and has no tokenizer.json, which predict.py "
            "reads; use its fast form"
        )


def _require_free(output: Path) -> None:
    """Refuse to replace anything but an earlier export."""
    if output.exists() and not (output / SETTINGS).is_file() and not (output.is_dir() and not any(output.iterdir())):
        raise DataError(f"export: {output} is there already and is no earlier export; choose another folder")


def _measured(
    models: Mapping[str, nn.Module],
    task: Task,
    encoded: Encoded,
    inputs: list[str],
    tokenizer: Any,
    evaluate: Evaluate | None,
    tolerance: float,
) -> dict[str, Variant]:
    single, large = batches_of(encoded, inputs, 1, 30), batches_of(encoded, inputs, 32, 2)
    every = [*single, *batches_of(encoded, inputs, 32, -(-len(encoded) // 32))]
    reference = models[_PYTORCH]
    found = {name: differences(reference, other, every) for name, other in models.items() if name != _PYTORCH}
    require_close(found[_NAMES[FLOAT]], tolerance)
    predictions = {name: task.predict(model, encoded.rows, tokenizer) for name, model in models.items()}
    labelled = all(row[task.target] is not None for row in encoded.rows)
    speed = speeds(models, single, large)
    with modes_kept(*models.values()):
        scores: Mapping[str, Mapping[str, float]] = (
            {name: evaluate(model.eval()) for name, model in models.items()}
            if evaluate is not None
            else {name: task.score(each, encoded.rows) if labelled else {} for name, each in predictions.items()}
        )
    return {
        name: Variant(
            file=model.file.name if isinstance(model, OnnxModel) else None,
            bytes=model.file.stat().st_size if isinstance(model, OnnxModel) else bytes_of(model),
            speed=speed[name],
            scores=dict(scores[name]),
            difference=max(found[name].values()) if name in found else None,
            agreement=agreement(predictions[_PYTORCH], predictions[name]) if name in found else None,
        )
        for name, model in models.items()
    }


def _choice(variants: Mapping[str, Variant], metric: str) -> tuple[str, str]:
    """The file that ``predict.py`` uses, and why."""
    small = variants.get(_NAMES[INT8])
    if small is None:
        return FLOAT, "no int8 file was asked for"
    scores = variants[_PYTORCH].scores
    if metric in scores:
        change = small.scores[metric] - scores[metric]
        file = INT8 if round(change, 9) >= -_KEPT_SCORE else FLOAT  # 0.7 - 0.69 is a little more than 0.01
        return file, f"int8 changes {metric} by {change:+.4f}, and may lose {_KEPT_SCORE}"
    if small.agreement is None:
        return FLOAT, "without labels nothing tells what int8 loses"
    file = INT8 if small.agreement >= _KEPT_DECISIONS else FLOAT
    return file, f"int8 decides {small.agreement:.1%} of the rows as PyTorch does, and must {_KEPT_DECISIONS:.0%}"


def _write_tokenizer(tokenizer: Any, task: Task, folder: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer.save_pretrained(folder)
    file = str(folder / "tokenizer.json")
    # Whatever lengths the tokenizer was last called with are saved in it; predict.py needs the task's.
    saved = Tokenizer.from_file(file)
    saved.no_padding()
    saved.enable_truncation(**truncation_of(task, tokenizer))
    saved.save(file)


def _card(facts: Card, report: ExportReport, task: Task) -> str:
    files = {FLOAT: "the model, float32"}
    if _NAMES[INT8] in report.variants:
        files[INT8] = "the model, int8"
    files |= {
        "tokenizer.json": "the tokenizer",
        SETTINGS: "labels, measurements, and in `model` the file that predict.py uses",
        "predict.py": "the model in use",
    }
    kind = (
        f"A {report.model} with {report.parameters:,} parameters for {task.name.replace('_', ' ')}, as ONNX for the "
        f"CPU; exported by textbrewer {__version__}."
    )
    return card_text(
        facts,
        name=report.folder.resolve().name,
        task=task,
        kind=kind,
        files=files,
        measured=report.measured,
        table=table_of(report.variants),
    )


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
