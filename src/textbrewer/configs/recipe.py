"""A recipe: a whole run in one file, checked all at once. What stands in it is data; nothing of it is run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, cast

from pydantic import Field, field_validator, model_validator

from .. import matches
from ..errors import ConfigError, Problem, did_you_mean, one_of
from ._base import Config, config_class, known_name, reject, validated
from .distillation import DistillationConfig
from .plain_yaml import read_yaml
from .student import StudentConfig
from .training import TrainingConfig

C = TypeVar("C")

MATCH_RULES: dict[str, Callable[..., matches.Matches]] = {
    "uniform": matches.uniform,
    "first": matches.first,
    "last": matches.last,
    "skip": matches.skip,
    "many_to_many": matches.many_to_many,
    "tinybert": matches.tinybert,
    "minilm": matches.minilm,
    "minilmv2": matches.minilmv2,
}
"""Rules that say which layers are matched, once the depths of both models are known."""

SOURCES = ("train", "validation", "test", "unlabelled")
SHARED = ("format", "columns", "options")
"""Keys of a source that may stand beside the sources, for all files with labels."""
OUTPUT_DIR = "runs/distilled"

_SHORT = {"task": "name", "teacher": "model", "student": "preset", "data": "train", "cache": "path"}
"""The key that a section stands for when it is written as a single text."""
_OFF_BY_DEFAULT = ("cache", "augmentation", "export")
_DECIDED_ELSEWHERE = {
    "output_dir": "write it at the top of the recipe",
    "log_dir": "the log goes to output_dir",
    "local_rank": "torchrun gives each process its own",
    "fp16": "write precision: fp16",
    "fp16_opt_level": "write precision: fp16",
    "save_state": "a recipe can always be gone on from",
    "load_best_model_at_end": "the best model is always the one that is kept",
}
"""Keys of :class:`~textbrewer.TrainingConfig` that a recipe does not have, and why."""


@config_class
class TrainingSettings(TrainingConfig):
    """How a model is trained: what :class:`~textbrewer.TrainingConfig` takes, and what goes into ``train``.

    Args:
        num_epochs: passes over the rows.
        num_steps: optimiser steps; wins over ``num_epochs``.
        batch_size: rows of a batch.
        eval_batch_size: rows of a batch when the model is evaluated.
        learning_rate: at its highest.
        weight_decay: of all parameters but biases and norms.
        warmup: the share of the steps in which the learning rate grows.
        schedule: what the learning rate does then.
        max_grad_norm: gradients are clipped to it; 0 leaves them.
        group_by_length: batches of rows of about the same length.
    """

    # There is always a best checkpoint to keep.
    ckpt_frequency: Annotated[int, Field(ge=1)] = 1
    num_epochs: Annotated[int, Field(ge=1)] = 3
    num_steps: Annotated[int, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(ge=1)] = 32
    eval_batch_size: Annotated[int, Field(ge=1)] = 64
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-4
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    max_grad_norm: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    group_by_length: bool = True


@config_class
class TeacherTrainingSettings(TrainingSettings):
    """The same for a teacher, whose weights are good already: a lower learning rate."""

    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3e-5


@config_class
class TeacherSettings(Config):
    """The model to learn from.

    Args:
        model: a folder or a name of the hub.
        training: how it is fine-tuned, where it is.
        tokenizer: a folder or a name of the hub; None for the model's.
        train: whether it is fine-tuned; ``"auto"`` does so where the model has no head for the task.
        prune_vocabulary: leave out the tokens that the training rows do not use, of teacher and student alike; see
            :func:`~textbrewer.prune_vocabulary`.
        revision: of the hub's model and tokenizer.
        trust_remote_code: run the Python code that lies beside the model and its tokenizer.
    """

    model: Annotated[str, Field(min_length=1)]
    training: TeacherTrainingSettings
    tokenizer: str | None = None
    train: Literal["auto"] | bool = "auto"
    prune_vocabulary: bool = False
    revision: str | None = None
    trust_remote_code: bool = False


_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@config_class
class PlanSettings(Config):
    """What a student may cost; its size is found by measuring. See :class:`textbrewer.planner.Limits`.

    Args:
        max_latency_ms: median latency of a batch, in milliseconds.
        max_mb: size of the parameters, in millions of bytes.
        max_params: parameters.
        batch: rows of the batch.
        length: tokens of each row; None for those of the longest training row.
        threads: of PyTorch; None for as many as it has.
        headroom: share of ``max_latency_ms`` that is left free when it is measured.
    """

    max_latency_ms: _Positive | None = None
    max_mb: _Positive | None = None
    max_params: Annotated[int, Field(ge=1)] | None = None
    batch: Annotated[int, Field(ge=1)] = 1
    length: Annotated[int, Field(ge=1)] | None = None
    threads: Annotated[int, Field(ge=1)] | None = None
    headroom: Annotated[float, Field(ge=0, lt=1)] = 0.1

    @model_validator(mode="after")
    def _something_is_limited(self) -> Self:
        if (self.max_latency_ms, self.max_mb, self.max_params) == (None, None, None):
            raise reject("max_latency_ms, max_mb or max_params", got="no limit")
        return self


BESIDE_PLAN = ("layers", "init", "freeze_embeddings")
"""Keys of :class:`~textbrewer.StudentConfig` that are no sizes, and may stand beside a plan."""


@config_class
class StudentSettings(Config):
    """The model to train.

    Args:
        preset: a size by name; None starts from half of the teacher's layers.
        model: a student that is there already: a folder or a name of the hub.
        plan: limits that its size is chosen by.
        sizes: keys of :class:`~textbrewer.StudentConfig`, which win over the preset's.
    """

    preset: str | None = None
    model: str | None = None
    plan: PlanSettings | None = None
    sizes: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        sizes = [key for key in self.sizes if self.plan is None or key not in BESIDE_PLAN]
        sized = [*(["preset"] if self.preset is not None else []), *sizes]
        others = [key for key in ("model", "plan") if getattr(self, key) is not None]
        if len(others) + bool(sized) > 1:
            hint = "as a first change, student=null takes away what the recipe has"
            raise reject("one of `model`, `plan` and a size", got=[*others, *sized], hint=hint)
        return self


@config_class
class SourceSettings(Config):
    """Where rows come from.

    Args:
        path: a file, a folder, or a name of the hub; or a list of them, whose rows follow each other.
        format: how it is read; None goes by the ending of a file.
        columns: the column of each thing the task reads; what is left out is guessed, and said.
        options: of the reader: ``separator``, ``encoding``, ``split`` and so on.
    """

    path: str | list[str]
    format: str | None = None
    columns: dict[str, str | int | list[str]] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("path")
    @classmethod
    def _leads_somewhere(cls, value: str | list[str]) -> str | list[str]:
        if not value or (isinstance(value, list) and "" in value):
            raise reject("a path, or a list of them")
        return value


@config_class
class DataSettings(Config):
    """The rows of a run.

    Args:
        train: rows with labels; those without one are learned from the teacher alone.
        validation: rows by which the best model is chosen; None holds out a share of the training rows.
        test: rows that are scored once, at the end.
        unlabelled: rows that are learned from the teacher alone.
        validation_share: of the training rows with labels, where there is no validation file.
        bad_labels: ``"refuse"``, or ``"unlabelled"`` to keep rows without the labels that cannot be used.
    """

    train: SourceSettings
    validation: SourceSettings | None = None
    test: SourceSettings | None = None
    unlabelled: SourceSettings | None = None
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    bad_labels: Literal["refuse", "unlabelled"] = "refuse"


@config_class
class MatchSettings(Config):
    """Intermediate matches by rule; see :mod:`textbrewer.matches`.

    Args:
        rule: a name of :data:`MATCH_RULES`.
        options: keywords of the rule, but for depths and widths, which the models say.
    """

    rule: str
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _rule_takes_options(self) -> Self:
        known_name(self.rule, MATCH_RULES)
        known = match_options(self.rule)
        for name in self.options:
            if name not in known:
                raise reject(one_of(known), got=name, hint=did_you_mean(name, known))
        return self


def match_options(rule: str) -> list[str]:
    """What a recipe may say of a rule: its keywords, but for what both models tell."""
    parameters = inspect.signature(MATCH_RULES[rule]).parameters
    names = [name for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD]
    if len(names) < len(parameters):
        names += list(matches.More.__annotations__)
    told = ("teacher_layers", "student_layers", "teacher_width", "student_width")
    return [name for name in names if name not in told]


@config_class
class CacheSettings(Config):
    """A :class:`~textbrewer.TeacherCache`.

    Args:
        path: its folder; None for one in ``output_dir``.
        memory: keep it in memory alone.
        dtype: of the values.
        max_bytes: at most so large.
        top_k: of a vocabulary's logits; 0 keeps all.
    """

    path: str | None = None
    memory: bool = False
    dtype: Literal["float16", "bfloat16", "float32", "float64"] = "float16"
    max_bytes: Annotated[int, Field(ge=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] = 0


@config_class
class AugmentationSettings(Config):
    """Variants of the training rows, of which the teacher says what they are.

    See :class:`~textbrewer.data_utils.Augmenter`.

    Args:
        n: variants of a row.
        operations: by name, with ``p`` or a mapping; None for the published ones.
    """

    n: Annotated[int, Field(ge=1)] = 1
    operations: dict[str, float | dict[str, Any]] | None = None


@config_class
class ExportSettings(Config):
    """A folder to deploy, made at the end; see :func:`textbrewer.export.export`.

    Args:
        int8: also in eight bits.
        tolerance: how far a logit may be from PyTorch's.
        rows: validation rows that it is checked and measured on.
        card: what the model card says.
    """

    int8: bool = True
    tolerance: Annotated[float, Field(gt=0)] = 1e-3
    rows: Annotated[int, Field(ge=1)] = 200
    card: dict[str, str] = Field(default_factory=dict)


@config_class
class Recipe(Config):
    """A run. :meth:`from_dict` takes what a file holds, shorthands included.

    Args:
        task: ``name`` and the settings of the task; labels are found in the data where they are left out.
        teacher: the model to learn from.
        student: the model to train.
        data: the rows.
        distillation: what is learned of the teacher.
        training: how.
        output_dir: the folder of the run.
        matches: intermediate matches by rule, in a file a key of ``distillation``: ``uniform`` where nothing is said,
            ``none`` for none.
        cache: keeps what the teacher gives; None for none.
        augmentation: variants of the training rows; None for none.
        export: makes a folder to deploy at the end; None makes none.
        baseline: also train the same student without a teacher, for the same steps.
        seed: of everything random.
    """

    task: dict[str, Any]
    teacher: TeacherSettings
    student: StudentSettings
    data: DataSettings
    distillation: DistillationConfig
    training: TrainingSettings
    output_dir: Annotated[str, Field(min_length=1)] = OUTPUT_DIR
    matches: MatchSettings | None = None
    cache: CacheSettings | None = None
    augmentation: AugmentationSettings | None = None
    export: ExportSettings | None = None
    baseline: bool = False
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @classmethod
    def from_dict(cls, dict_object: Mapping[str, Any]) -> Self:
        """Build from what a file holds.

        Raises:
            ConfigError: with every problem in it, whichever section it is in.
        """
        problems: list[Problem] = []
        found = _sections(shared_out(expanded(dict_object)), problems)
        of_all: list[Problem] = []
        recipe = _checked(cls, found, "", of_all)
        # A section that failed is missed here again; what stands beside the sections is told with their problems.
        problems += [each for each in of_all if not problems or each.path in ("output_dir", "baseline", "seed")]
        if problems or recipe is None:
            raise ConfigError("recipe", problems)
        return recipe

    @classmethod
    def from_yaml_file(cls, yaml_filename: str | Path) -> Self:
        """Build from a YAML file, whose paths are taken as they are."""
        return cls.from_dict(read_yaml(yaml_filename))

    def to_dict(self) -> dict[str, Any]:
        """The recipe as a file holds it, every default written out; :meth:`from_dict` reads it."""
        plain = asdict(cast(Any, self))
        for training in (plain["training"], plain["teacher"]["training"]):
            for key in _DECIDED_ELSEWHERE:
                del training[key]
        plain["student"] |= plain["student"].pop("sizes")
        plan = plain["student"]["plan"] or {}
        chosen = plain.pop("matches")
        plain["distillation"]["matches"] = chosen and {"rule": chosen["rule"], **chosen["options"]}
        for part in (plain, plain["student"], plan, plain["data"]):
            for key in [key for key, value in part.items() if value is None]:
                del part[key]
        return plain


def expanded(values: Any) -> Any:
    """A recipe with every shorthand written out; what is no recipe comes back as it is.

    >>> expanded({"task": "text_regression", "cache": True})
    {'task': {'name': 'text_regression'}, 'cache': {}}
    """
    if not isinstance(values, Mapping):
        return values
    plain = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    for section, key in _SHORT.items():
        if isinstance(plain.get(section), str):
            plain[section] = {key: plain[section]}
    for section in _OFF_BY_DEFAULT:
        if plain.get(section) is True:
            plain[section] = {}
        elif plain.get(section) in (None, False):
            plain.pop(section, None)
    data = plain.get("data")
    if isinstance(data, dict):
        data |= {name: {"path": data[name]} for name in SOURCES if isinstance(data.get(name), (str, list))}
    return plain


def shared_out(values: Any) -> Any:
    """An :func:`expanded` recipe in which every file with labels has what ``data`` says of all of them.

    What it says itself wins.

    >>> shared_out({"data": {"train": {"path": "a.csv"}, "columns": {"text": "review"}}})
    {'data': {'train': {'columns': {'text': 'review'}, 'path': 'a.csv'}}}
    """
    if not isinstance(values, Mapping) or not isinstance(values.get("data"), Mapping):
        return values
    given = values["data"]
    shared = {key: given[key] for key in SHARED if key in given}
    data = {key: value for key, value in given.items() if key not in shared}
    for name in SOURCES:
        if isinstance(data.get(name), Mapping) and name != "unlabelled":
            own = {key: value for key, value in data[name].items() if key not in shared or value not in (None, {})}
            data[name] = {**shared, **own}
    return {**values, "data": data}


def _sections(values: Any, problems: list[Problem]) -> dict[str, Any]:
    """The sections of a written-out recipe as configs, what is wrong with them noted in ``problems``."""
    if not isinstance(values, Mapping):
        problems.append(Problem("(the whole recipe)", "a mapping of keys to values", repr(values)))
        return {}
    found = {**values}
    names = [each.name for each in fields(cast(Any, Recipe)) if each.name != "matches"]
    problems += _unknown(found, names, "")
    found = {name: value for name, value in found.items() if name in names}
    if not isinstance(found.get("task"), Mapping) or not isinstance(found["task"].get("name"), str):
        got = repr(found["task"]) if "task" in found else "nothing"
        problems.append(Problem("task", "the name of a task, or a mapping with its name", got))
    found["teacher"] = _teacher(found.get("teacher"), problems)
    found["student"] = _student(found.get("student"), problems)
    found["data"] = _data(found.get("data"), problems)
    found["distillation"], found["matches"] = _distillation(found.get("distillation"), problems)
    found["training"] = _training(TrainingSettings, found.get("training"), "training", problems)
    for name, kind in (("cache", CacheSettings), ("augmentation", AugmentationSettings), ("export", ExportSettings)):
        if name in found:
            found[name] = _checked(cast(Any, kind), found[name], name, problems)
    return found


def _teacher(values: Any, problems: list[Problem]) -> TeacherSettings | None:
    if values is None:
        problems.append(Problem("teacher", "a folder or a name of the hub", "nothing"))
        return None
    if not isinstance(values, Mapping):
        return _checked(TeacherSettings, values, "teacher", problems)
    training = _training(TeacherTrainingSettings, values.get("training"), "teacher.training", problems)
    # A placeholder, so that what is wrong beside it is told as well.
    return _checked(TeacherSettings, {**values, "training": training or TeacherTrainingSettings()}, "teacher", problems)


def _training(kind: type[C], values: Any, path: str, problems: list[Problem]) -> C | None:
    given = {} if values is None else values
    if isinstance(given, Mapping):
        problems += [
            Problem(f"{path}.{key}", "no such key in a recipe", repr(given[key]), way_out)
            for key, way_out in _DECIDED_ELSEWHERE.items()
            if key in given
        ]
        given = {key: value for key, value in given.items() if key not in _DECIDED_ELSEWHERE}
    return _checked(kind, given, path, problems)


def _student(values: Any, problems: list[Problem]) -> StudentSettings | None:
    given = {} if values is None else values
    if not isinstance(given, Mapping):
        return _checked(StudentSettings, given, "student", problems)
    sizes = [each.name for each in fields(cast(Any, StudentConfig))]
    problems += _unknown(given, [*sizes, "preset", "model", "plan"], "student")
    chosen = {key: value for key, value in given.items() if key in sizes}
    _checked(StudentConfig, {"num_layers": 1, **chosen}, "student", problems)
    own = {key: value for key, value in given.items() if key in ("preset", "model")}
    if given.get("plan") is not None:
        plan = _checked(PlanSettings, given["plan"], "student.plan", problems)
        # A placeholder, so that what is wrong beside it is told as well.
        own["plan"] = plan or PlanSettings(max_params=1)
    return _checked(StudentSettings, {**own, "sizes": chosen}, "student", problems)


def _data(values: Any, problems: list[Problem]) -> DataSettings | None:
    if not isinstance(values, Mapping):
        got = "nothing" if values is None else repr(values)
        problems.append(Problem("data", "a file, or a mapping with train", got))
        return None
    sources = {
        name: _checked(SourceSettings, values[name], f"data.{name}", problems)
        for name in SOURCES
        if values.get(name) is not None
    }
    rest = {key: value for key, value in values.items() if key not in SOURCES}
    if None in sources.values():
        known = [each.name for each in fields(cast(Any, DataSettings))]
        problems += _unknown(rest, known, "data")
        return None
    return _checked(DataSettings, {**rest, **sources}, "data", problems)


def _distillation(values: Any, problems: list[Problem]) -> tuple[DistillationConfig | None, MatchSettings | None]:
    given = {} if values is None else values
    if not isinstance(given, Mapping):
        return _checked(DistillationConfig, given, "distillation", problems), None
    known = [each.name for each in fields(cast(Any, DistillationConfig))]
    problems += _unknown(given, [*known, "matches"], "distillation")
    chosen = {key: value for key, value in given.items() if key in known}
    config = _checked(DistillationConfig, chosen, "distillation", problems)
    wanted = given.get("matches", None if given.get("intermediate_matches") else "uniform")
    if wanted is None or wanted == "none":
        return config, None
    if isinstance(wanted, str):
        wanted = {"rule": wanted}
    if not isinstance(wanted, Mapping):
        problems.append(Problem("distillation.matches", f"{one_of(MATCH_RULES)}, or a mapping with rule", repr(wanted)))
        return config, None
    options = {key: value for key, value in wanted.items() if key != "rule"}
    own = {key: value for key, value in wanted.items() if key == "rule"}
    return config, _checked(MatchSettings, {**own, "options": options}, "distillation.matches", problems)


def _checked(kind: type[C], values: Any, path: str, problems: list[Problem]) -> C | None:
    """A section as a config; None, with its problems under ``path``, where it is none."""
    if not isinstance(values, Mapping):
        problems.append(Problem(path, "a mapping of keys to values", repr(values)))
        return None
    try:
        return validated(kind, values, path)
    except ConfigError as error:
        problems += [replace(each, path=_below(path, each.path)) for each in error.problems]
        return None


def _below(path: str, key: str) -> str:
    """The path of a key in a section; that of the section where the problem is of all of it."""
    return path or key if key.startswith("(") else f"{path}.{key}".lstrip(".")


def _unknown(values: Mapping[Any, Any], known: list[str], path: str) -> list[Problem]:
    return [
        Problem(_below(path, str(key)), one_of(known), f"the unknown key {key!r}", did_you_mean(key, known))
        for key in values
        if key not in known
    ]
