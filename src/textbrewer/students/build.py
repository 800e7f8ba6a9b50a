"""A student built from a Transformers encoder: its config, its size, its first weights."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ..configs import StudentConfig
from ..errors import StudentError, UnknownNameError, count_of, did_you_mean, one_of
from ..matching.layers import layer_list, positions_of
from . import bigru
from .factorising import factorise, prepare, require_factors
from .narrowing import NARROWING, Rows, narrow
from .presets import preset

logger = logging.getLogger("textbrewer")

_FEED_FORWARD = ("intermediate_size", "hidden_dim")
OWN_SOURCES = ("teacher", "random", *NARROWING)
_HEADS = (
    "Model",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
    "ForMaskedLM",
)
"""Ends of the names of classes that do the same in every family."""
_SHARED = (
    "vocab_size",
    "max_position_embeddings",
    "type_vocab_size",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "cls_token_id",
    "sep_token_id",
    "id2label",
    "label2id",
    "problem_type",
)


@dataclass(frozen=True)
class StudentReport:
    """What a student was made of.

    Attributes:
        copied: names of the student's tensors, and the teacher's tensor each was copied from; of a narrowed student
            also its shapes: ``"bert.pooler.dense.weight, [312, 312] of [768, 768]"``.
        fresh: names of the tensors with random weights (or from the checkpoint, where ``source`` names one).
        layers: the teacher layer that each student layer started from; empty where nothing was copied.
        teacher_parameters: parameters of the teacher.
        student_parameters: parameters of the student.
        source: ``"teacher"``, ``"importance"``, ``"svd"``, ``"random"`` or the checkpoint.
    """

    copied: dict[str, str]
    fresh: list[str]
    layers: list[int]
    teacher_parameters: int
    student_parameters: int
    source: str

    def __str__(self) -> str:
        smaller = self.teacher_parameters / max(self.student_parameters, 1)
        text = f"student: {self.student_parameters:,} parameters, {smaller:.1f} x fewer than its teacher; "
        if self.source not in OWN_SOURCES:
            return text + f"weights from {self.source}"
        how = f" (narrowed by {self.source})" if self.source in NARROWING else ""
        text += f"{count_of(len(self.copied), 'tensor')} copied{how}, {len(self.fresh)} random"
        if self.layers:
            text += f"; its layers start from teacher layers {self.layers}"
        if self.copied and self.fresh:
            text += f"; random: {', '.join(self.fresh[:4])}{', ...' if len(self.fresh) > 4 else ''}"
        return text


def build_student(
    teacher: nn.Module,
    config: StudentConfig | str,
    *,
    init: str | None = None,
    seed: int | None = None,
    rows: Rows | None = None,
) -> Any:
    """A smaller model of the teacher's class; see :func:`build_student_with_report`, whose report is logged."""
    student, report = build_student_with_report(teacher, config, init=init, seed=seed, rows=rows)
    logger.info("%s", report)
    return student


def build_student_with_report(
    teacher: nn.Module,
    config: StudentConfig | str,
    *,
    init: str | None = None,
    seed: int | None = None,
    rows: Rows | None = None,
) -> tuple[Any, StudentReport]:
    """A smaller model of the teacher's class, and what it was made of.

    With the teacher's width, chosen layers, the embeddings, the head and everything else of the same name and shape
    are copied from the teacher. A student of another width starts with random weights, or with the teacher's narrowed:
    ``init="importance"`` chooses heads, neurons and dimensions, ``init="svd"`` chooses heads and neurons and projects
    the hidden states, both in models with layers like BERT's. Labels and the other settings of the teacher's config are
    kept; the teacher is not changed. The student is returned in eval mode.

    With ``family`` the student is of the class with the teacher's head in another family of Transformers, and its
    weights are random: ``"ELECTRA-small"`` of a ``BertForTokenClassification`` is an ``ElectraForTokenClassification``
    with the teacher's vocabulary and labels. With ``init="svd"`` or ``"importance"`` it starts from the teacher all the
    same where the family, as ELECTRA, has layers like BERT's behind embeddings of another width: layers are copied or
    narrowed, and the embeddings are factorised into a table of ``embedding_size`` and a map to the hidden states by a
    truncated singular value decomposition. With ``family="bigru"`` it is a :class:`~textbrewer.BiGRUStudent`, or its
    encoder alone where the teacher has no head; the token embeddings are the teacher's.

    Args:
        teacher: a Transformers encoder, with or without a head.
        config: the student's size, or the name of a preset.
        init: overrides ``config.init``.
        seed: makes random weights repeatable, and leaves the global random state alone.
        rows: batches as the teacher takes them, with labels or without, by which a narrowed student measures what is
            important, and factorised embeddings what is read; some tens of rows do. None judges by the weights.

    Raises:
        StudentError: the teacher has no layers to choose from, the sizes do not fit, the family lacks the head or what
            the teacher's weights need, or ``rows`` are given and nothing is narrowed.
        UnknownNameError: there is no such preset or family.
    """
    wanted = preset(config) if isinstance(config, str) else config
    source = init or wanted.init
    if not hasattr(teacher, "config") or not hasattr(teacher.config, "num_hidden_layers"):
        raise StudentError(
            f"build_student: expected a Transformers encoder, got {type(teacher).__name__} without a config that has "
            "num_hidden_layers; build other students yourself: any nn.Module can be distilled"
        )
    _require_narrowing_fits(wanted, source, rows)
    chosen: list[int] = []
    with seeded(seed):
        if wanted.family == "bigru":
            student, copied = bigru.student_of(teacher, wanted, source)
        else:
            student, copied, chosen = _encoder_of(teacher, wanted, source, rows)
    if wanted.freeze_embeddings:
        student.get_input_embeddings().requires_grad_(False)
    fresh = [name for name in student.state_dict() if name not in copied]
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in (teacher, student)]
    label = "random" if source == "teacher" and not copied else source
    return student.eval(), StudentReport(copied, fresh, chosen, counts[0], counts[1], label)


def _require_narrowing_fits(wanted: StudentConfig, source: str, rows: Rows | None) -> None:
    if source in NARROWING and wanted.family == "bigru":
        raise StudentError(
            f"build_student: init={source!r} narrows the teacher's own layers, got family='bigru'; leave family out, "
            "or use another init"
        )
    if rows is not None and source not in NARROWING:
        raise StudentError(
            f"build_student: rows= are for {one_of(NARROWING)}, got init={source!r}; leave rows out, or change init"
        )


def _encoder_of(
    teacher: Any, wanted: StudentConfig, source: str, rows: Rows | None
) -> tuple[Any, dict[str, str], list[int]]:
    """A Transformers student, what of it was copied, and the teacher layers that its layers start from."""
    given = teacher.config
    same_family = _same_family(given, wanted)
    narrower = wanted.hidden_size not in (None, given.hidden_size)
    narrowing = source in NARROWING
    copying = narrowing or (source == "teacher" and same_family and not narrower)
    prefix = _layers_of(teacher) if same_family else ""
    chosen = _chosen_layers(wanted, given.num_hidden_layers, required=copying)
    sized = _sized_config(teacher, wanted, chosen)
    if copying and not narrowing and sized.num_attention_heads != given.num_attention_heads:
        raise StudentError(
            f"build_student: num_attention_heads={sized.num_attention_heads} would cut the teacher's weights, of "
            f"{given.num_attention_heads} heads, into other heads; leave it out, or use init='random'"
        )
    model_class = type(teacher) if same_family else _counterpart(teacher, sized)
    if not same_family:
        _give_positions(sized, model_class, teacher)
    factorising = narrowing and not same_family
    if factorising:
        prepare(teacher, sized, source)
    student = model_class(sized) if source in OWN_SOURCES else _from_checkpoint(model_class, source, sized)
    student = student.to(next(teacher.parameters()).dtype)
    if same_family:
        leave_out(student, teacher)
    if not copying:
        return student, {}, []
    if factorising:
        require_factors(student, source)
        of_teacher = replace(wanted, family=None, embedding_size=None)
        rows = None if rows is None else list(rows)
        narrowed, told, chosen = _encoder_of(teacher, of_teacher, source, rows)
        return student, factorise(narrowed, student, told, rows), chosen
    if narrowing:
        return student, narrow(teacher, student, prefix, chosen, source, rows), chosen
    return student, _copy_weights(teacher, student, prefix, chosen), chosen


def _same_family(given: Any, wanted: StudentConfig) -> bool:
    return wanted.family is None or wanted.family == getattr(given, "model_type", None)


def _layers_of(teacher: Any) -> str:
    """The dotted name of the list of the encoder's layers.

    Raises:
        StudentError: there is none.
    """
    path = layer_list(teacher)
    if path is None:
        raise StudentError(
            f"build_student: {type(teacher).__name__} has no list of {teacher.config.num_hidden_layers} layers to "
            "choose from (models such as ALBERT share one layer); build the student from a config of your own"
        )
    return path


def _chosen_layers(wanted: StudentConfig, teacher_layers: int, required: bool) -> list[int]:
    number = wanted.num_layers
    if isinstance(wanted.layers, list):
        if len(wanted.layers) != number or max(wanted.layers) >= teacher_layers:
            raise StudentError(
                f"build_student: layers={wanted.layers} must name {count_of(number, 'teacher layer')} among "
                f"0..{teacher_layers - 1}"
            )
        return list(wanted.layers)
    if number > teacher_layers:
        if required:
            raise StudentError(
                f"build_student: num_layers={number}, but the teacher has {teacher_layers} layers to copy; use at most "
                f"{teacher_layers}, or init='random'"
            )
        return [min(i, teacher_layers - 1) for i in range(number)]
    if wanted.layers == "first":
        return list(range(number))
    if wanted.layers == "last":
        return list(range(teacher_layers - number, teacher_layers))
    # The i-th of n students layers ends where the i-th of n equal parts of the teacher ends.
    return [(i + 1) * teacher_layers // number - 1 for i in range(number)]


def _sized_config(teacher: Any, wanted: StudentConfig, chosen: list[int]) -> Any:
    given = teacher.config
    same_family = _same_family(given, wanted)
    config = copy.deepcopy(given) if same_family else _config_of_family(given, wanted)
    width = wanted.hidden_size or given.hidden_size
    config.num_hidden_layers = wanted.num_layers
    config.hidden_size = width
    if hasattr(config, "pooler_hidden_size"):  # of DeBERTa, which takes it from the width once
        config.pooler_hidden_size = width
    heads = wanted.num_attention_heads
    if heads is None:
        head_width = given.hidden_size // given.num_attention_heads
        heads = width // head_width if width % head_width == 0 else given.num_attention_heads
    if width % heads:
        raise StudentError(
            f"build_student: hidden_size={width} is not a multiple of num_attention_heads={heads}; "
            "give a number of heads that divides it"
        )
    config.num_attention_heads = heads
    if "attention_head_size" in vars(config):  # of DeBERTa-v2, which goes by it where it is there
        config.attention_head_size = width // heads
    theirs, mine = (next((n for n in _FEED_FORWARD if hasattr(c, n)), None) for c in (given, config))
    if theirs and mine:
        narrowed = round(getattr(given, theirs) * width / given.hidden_size)
        setattr(config, mine, wanted.intermediate_size or narrowed)
    if same_family and getattr(given, "layer_types", None):
        config.layer_types = [given.layer_types[i] for i in chosen]
    if wanted.embedding_size:
        if not hasattr(config, "embedding_size"):
            raise StudentError(
                f"build_student: embedding_size={wanted.embedding_size}, but the embeddings of {config.model_type} are "
                "as wide as its hidden states; leave it out, or choose a family='electra'"
            )
        config.embedding_size = wanted.embedding_size
    return config


def _config_of_family(given: Any, wanted: StudentConfig) -> Any:
    """A config of another family, with what a model must share with its teacher to read and answer the same."""
    from transformers import CONFIG_MAPPING

    family = str(wanted.family)
    if family not in CONFIG_MAPPING:
        what = f"family={family!r} is neither 'bigru' nor a model type of Transformers"
        hint = did_you_mean(family, [*CONFIG_MAPPING, "bigru"])
        raise UnknownNameError(f"build_student: {what}; {hint}".removesuffix("; "))
    # The number of layers at once, since some families derive other settings from it.
    config_class: Any = CONFIG_MAPPING[family]
    config = config_class(num_hidden_layers=wanted.num_layers)
    for name in _SHARED:
        # DeBERTa's 0 types are for no table of them, which other families cannot do without.
        is_no_table = name == "type_vocab_size" and not getattr(given, name, 0)
        if hasattr(given, name) and hasattr(config, name) and not is_no_table:
            setattr(config, name, getattr(given, name))
    return config


def _give_positions(config: Any, model_class: Any, teacher: nn.Module) -> None:
    """Let a student of another family take as many tokens as its teacher, wherever its positions begin."""
    wanted = positions_of(teacher) or getattr(teacher.config, "max_position_embeddings", None)
    if wanted is None or not hasattr(config, "max_position_embeddings"):
        return
    # With room for what a family such as RoBERTa keeps for padding.
    config.max_position_embeddings = wanted + (config.pad_token_id or 0) + 1
    with torch.device("meta"):
        found = positions_of(model_class(config))
    config.max_position_embeddings -= (found or config.max_position_embeddings) - wanted


def leave_out(model: nn.Module, original: nn.Module) -> None:
    """Take out of a model the parts that the one it is made of was built without, such as a pooler."""
    theirs = dict(original.named_modules())
    for name, module in list(model.named_modules()):
        for part in [part for part in module._modules if name in theirs and getattr(theirs[name], part, 0) is None]:
            setattr(module, part, None)


def _counterpart(teacher: Any, config: Any) -> Any:
    """The class with the teacher's head in the family of ``config``.

    Raises:
        StudentError: the family has none, or the head does not mean the same in every family.
    """
    import transformers

    original = next((c for c in type(teacher).__mro__ if c.__module__.startswith("transformers.")), type(teacher))
    families = [type(c).__name__.removesuffix("Config") for c in (teacher.config, config)]
    head = original.__name__.removeprefix(families[0])
    found = getattr(transformers, families[1] + head, None) if head in _HEADS else None
    if found is None:
        raise StudentError(
            f"build_student: {families[1]} has no head like that of {original.__name__}; "
            "leave family out for a student of the teacher's own family"
        )
    return found


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Random numbers of a seed, and the global random state as it was at the end; None changes nothing."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _from_checkpoint(model_class: Any, source: str, config: Any) -> Any:
    try:
        return model_class.from_pretrained(source, config=config)
    except (RuntimeError, OSError, ValueError) as error:
        raise StudentError(
            f"build_student: init={source!r} is neither 'teacher' nor 'random', and no checkpoint of "
            f"{model_class.__name__} with {config.num_hidden_layers} layers of width {config.hidden_size} "
            f"could be loaded from it: {error}"
        ) from error


def _copy_weights(teacher: nn.Module, student: nn.Module, prefix: str, chosen: list[int]) -> dict[str, str]:
    """Copy every tensor that has a counterpart of its shape; return student name → teacher name."""
    available = teacher.state_dict()
    sources: dict[str, str] = {}
    for name, tensor in student.state_dict().items():
        source = name
        if name.startswith(f"{prefix}."):
            index, rest = name[len(prefix) + 1 :].split(".", 1)
            source = f"{prefix}.{chosen[int(index)]}.{rest}"
        if source in available and available[source].shape == tensor.shape:
            sources[name] = source
    student.load_state_dict({name: available[source] for name, source in sources.items()}, strict=False)
    return sources
