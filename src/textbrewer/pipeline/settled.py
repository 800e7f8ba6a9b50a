"""What the settings of a recipe come to for the models and the training at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any, cast

from ..configs import StudentConfig
from ..configs.recipe import MATCH_RULES, MatchSettings, TrainingSettings
from ..engine.checkpoint import described
from ..errors import StudentError
from ..students.presets import preset
from ..tasks._needed import needed

# What of a training's settings does not change its result.
_INCIDENTAL = {
    "output_dir",
    "log_dir",
    "log_every",
    "progress_bar",
    "keep_last",
    "save_in_background",
    "eval_batch_size",
    "trackers",
    "tracker_project",
}


def student_config(name: str | None, sizes: Mapping[str, Any], teacher: Any) -> StudentConfig:
    """The size of a student: a preset's, or half of the teacher's layers, changed by ``sizes``.

    Raises:
        StudentError: the teacher has no layers to count.
        ConfigError: a size cannot be used.
    """
    if name is not None:
        base = {each: value for each, value in asdict(cast(Any, preset(name))).items() if value is not None}
    elif "num_layers" in sizes:
        base = {}
    else:
        layers = getattr(getattr(teacher, "config", None), "num_hidden_layers", None)
        if layers is None:
            raise StudentError(
                f"{type(teacher).__name__} has no layers that half could be taken of; give student.model"
            )
        base = {"num_layers": max(1, layers // 2)}
    return StudentConfig.from_dict({**base, **sizes})


def sizes_of(config: Any) -> dict[str, Any]:
    """The keys of a :class:`~textbrewer.StudentConfig` that say something."""
    return {key: value for key, value in asdict(config).items() if value is not None}


def matches_of(settings: MatchSettings, teacher: Any, student: Any) -> list[dict[str, Any]]:
    """The matches of a rule for two models.

    Raises:
        ConfigError: the rule and the models do not fit each other.
        StudentError: a model does not tell its layers.
    """
    rule, given = MATCH_RULES[settings.rule], dict(settings.options)
    if settings.rule in ("minilm", "minilmv2"):
        return rule(**given)
    depths = [_told_by(model, "num_hidden_layers", "num_layers") for model in (teacher, student)]
    widths = [_told_by(model, "hidden_size") for model in (teacher, student)]
    if widths[0] != widths[1] and given.get("features") not in ("attention", ["attention"]):
        given |= {"teacher_width": widths[0], "student_width": widths[1]}
    return rule(*depths, **given)


def _told_by(model: Any, *names: str) -> int:
    """A number of a model's config."""
    for name in names:
        found = getattr(getattr(model, "config", None), name, None)
        if isinstance(found, int):
            return found
    raise StudentError(
        f"{type(model).__name__} does not tell its {names[0]}, which matches by rule need; write "
        "distillation.intermediate_matches, or distillation.matches: none"
    )


def lasting(settings: TrainingSettings) -> str:
    """What of the settings of a training changes its result, as text."""
    kept = {each.name: getattr(settings, each.name) for each in fields(cast(Any, settings))}
    return described({name: value for name, value in kept.items() if name not in _INCIDENTAL})


def scheduler(config: TrainingSettings, total: int) -> tuple[Callable[..., Any], dict[str, int]]:
    """The ``scheduler_class`` and ``scheduler_args`` of a training of ``total`` steps."""
    transformers = needed("transformers", "transformers", "a recipe")
    growing = {"num_warmup_steps": round(config.warmup * total)}
    if config.schedule == "constant":
        return transformers.get_constant_schedule_with_warmup, growing
    chosen = f"get_{config.schedule}_schedule_with_warmup"
    return getattr(transformers, chosen), {**growing, "num_training_steps": total}
