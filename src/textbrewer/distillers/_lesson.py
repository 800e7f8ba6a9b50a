"""What one task teaches, and how it becomes a step of training: the one place where distillers assemble."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ..adaptors import AdaptedModel, label_names
from ..balancing import GradientNorms
from ..configs import DistillationConfig, EnsembleConfig, IntermediateMatch
from ..engine.sharding import is_sharded
from ..errors import ConfigError, Problem, UnsupportedError
from ..losses import needs_index
from ..matching import MatchLosses, Projections, path_of
from ..matching.layers import layer_list, layers_give_states
from ..objective import FeatureMatch, HardLabels, Objective, SoftLabels, Term, is_told_teachers_mask
from ..presets import BALANCE
from ..teachers import CachedTeacher, EnsembleTeacher, LiveTeacher, Reads, TeacherCache, TeacherSource
from ..types import INDEX, Adaptor
from ._base import DistillationStep, Run


@dataclass(frozen=True)
class CustomMatch:
    """A match of two submodules with a loss of the user's own.

    Attributes:
        module_T: a submodule of the teacher, or its dotted path.
        module_S: the same for the student.
        weight: factor in the total.
        loss: ``f(S, T, mask_S, mask_T)`` with the ``inputs_mask`` of both sides (or None), or a name of
            :data:`textbrewer.MATCH_LOSS_MAP`.
        proj_func: applied to the student's feature: a module, whose parameters are trained, or a function. Or what a
            match takes as ``proj``: ``"auto"`` or ``["linear", student width, teacher width]``.
        proj_group: options of the projection's parameter group, such as ``{"lr": 1e-3}``.
        teacher: which of several teachers.
        weight_scheduler: as of :class:`~textbrewer.IntermediateMatch`.
        active: the same: the part of the run in which the term counts.
    """

    module_T: nn.Module | str
    module_S: nn.Module | str
    weight: float
    loss: Any
    proj_func: Any = None
    proj_group: Mapping[str, Any] | None = None
    teacher: int = 0
    weight_scheduler: Any = None
    active: tuple[float, float] | None = None


@dataclass
class Lesson:
    """One task: its teachers, what is learned of them, and the projections that this takes.

    Attributes:
        config: the terms and their weights.
        teachers: the models.
        adaptors_T: one for each; None reads Transformers outputs.
        adaptor_S: the student's.
        matches: written out, in the order of ``projections.for_match``.
        projections: of the matches.
        ensemble: how several teachers become one target.
        losses: of the matches, in their order; objects of the config are copied, and the copies hold what is learned.
        custom: positions in ``matches`` of those whose loss takes both masks.
        functions: projections without parameters, by position in ``matches``.
        memory: the cache of a config with ``is_caching_logits``, from one run to the next.
        balance: what makes the total of the terms, as the config says; a copy of a module that it gives.
    """

    config: DistillationConfig
    teachers: Sequence[nn.Module]
    adaptors_T: Sequence[Adaptor | None]
    adaptor_S: Adaptor | None
    matches: list[IntermediateMatch] = field(default_factory=list)
    projections: Projections = field(default_factory=lambda: Projections([]))
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    losses: MatchLosses = field(default_factory=lambda: MatchLosses([]))
    custom: set[int] = field(default_factory=set)
    functions: dict[int, Any] = field(default_factory=dict)
    memory: TeacherCache | None = None
    balance: Any = field(init=False)

    def __post_init__(self) -> None:
        given = self.config.balance
        made = given if given is None or callable(given) else BALANCE[given]
        self.balance = made() if isinstance(made, type) else made
        if isinstance(given, nn.Module):
            # Of this lesson alone, as one that is named: it knows the terms by their places.
            self.balance = copy.deepcopy(given)
        if isinstance(self.balance, nn.Module):
            self.losses.append(self.balance)

    def add(self, match: CustomMatch, student: nn.Module) -> None:
        """Add a custom match; its modules are looked up in the models.

        Raises:
            MatchError: a module is not in its model.
            ConfigError: the loss or the projection cannot be used.
        """
        ready_made = isinstance(match.proj_func, nn.Module) or callable(match.proj_func)
        written = IntermediateMatch(
            layer_T=path_of(self.teachers[match.teacher], match.module_T, "module_T"),
            layer_S=path_of(student, match.module_S, "module_S"),
            feature="hidden",
            loss=match.loss,
            weight=match.weight,
            proj=None if ready_made else match.proj_func,
            teacher=match.teacher,
            weight_scheduler=match.weight_scheduler,
            active=match.active,
        )
        place = len(self.matches)
        if isinstance(match.proj_func, nn.Module):
            self.projections.add(match.proj_func, dict(match.proj_group or {}))
        else:
            self.projections.extend_by(written, match.proj_group)
            if ready_made:
                self.functions[place] = match.proj_func
        self.matches.append(written)
        self.losses.extend_by(written)
        if callable(match.loss):
            self.custom.add(place)

    def assemble(
        self,
        run: Run,
        student: nn.Module,
        data_parallel: bool,
        cache: TeacherCache | None = None,
        student_args: Mapping[str, Any] | None = None,
    ) -> DistillationStep:
        """The step of this task.

        Args:
            run: where and how it is run.
            student: the model that is trained.
            data_parallel: use all GPUs of this process.
            cache: keeps what the teachers give; ``is_caching_logits`` of the config makes one in memory.
            student_args: extra keywords of the student alone.
        """
        if cache is None and self.config.is_caching_logits:
            cache = self.memory = self.memory or TeacherCache.in_memory()
        features, paths_S = _features(self._read(), "S"), _paths(match.layer_S for match in self._read())
        of_student = AdaptedModel(
            student, self.adaptor_S, name="adaptor_S", features=features, paths=paths_S, extra=self._extra()
        )
        soft = SoftLabels(self.config, self.ensemble)
        sources = [self._source(i, student, run, cache, soft) for i in range(len(self.teachers))]
        run.running.enter_context(of_student.ready())
        config = self.config
        hard = HardLabels(config.hard_label_weight, config.hard_label_weight_scheduler, config.hard_label_active)
        terms = [soft, *self._feature_terms(), hard]
        if self.balance is not None:
            if isinstance(self.balance, GradientNorms) and run.placement.compiles:
                raise UnsupportedError(
                    "balance='gradient_norm' and compile_models do not go together: what is compiled gives its "
                    "gradients once, and this takes them for each term; leave one of them out"
                )
            self.balance.begin(len(terms), student, run.placement.ranks.gather)
        objective = Objective(terms, self.balance)
        forward = run.placement.forward_of(student, data_parallel)
        if isinstance(forward, nn.DataParallel) and paths_S:
            raise UnsupportedError("data_parallel and matches of modules by path do not go together: match layers")
        source: TeacherSource = sources[0] if len(sources) == 1 else EnsembleTeacher(sources)
        # A user's adaptor sees batches as the loader gave them.
        trims = of_student.ready_adaptor is not None and not any(self.adaptors_T)
        return DistillationStep(of_student, source, objective, run.placement, forward, run.args, student_args, trims)

    def _source(
        self, index: int, student: nn.Module, run: Run, cache: TeacherCache | None, soft: SoftLabels
    ) -> TeacherSource:
        own = [match for match in self._read() if match.teacher == index]
        reads = self._reads(own, soft)
        teacher = run.placement.teacher(self.teachers[index])
        adapted = AdaptedModel(
            teacher,
            self.adaptors_T[index],
            name="adaptor_T" if len(self.teachers) == 1 else f"adaptor_T[{index}]",
            features=_features(own, "T"),
            teacher=True,
            paths=_paths(match.layer_T for match in own),
            extra=self._extra(),
            # A sharded teacher's layers are put together and apart again by its forward pass, which must end.
            deepest=None if self.adaptors_T[index] or is_sharded(teacher) else deepest_read(teacher, reads),
        )
        run.running.enter_context(adapted.ready())
        maps = self.ensemble.label_maps
        label_map = resolved_label_map(self.teachers[index], student, maps[index] if maps else None, index)
        forward = run.placement.forward_of(teacher) if adapted.deepest is None else None
        live = LiveTeacher(adapted, run.placement.teacher_autocast, own, label_map, forward)
        if cache is None:
            return live
        if is_sharded(teacher):
            raise UnsupportedError(
                "a sharded teacher is run by all processes at once, and a cache would let some of them leave it out; "
                "leave out teacher_cache (or is_caching_logits), or the sharding"
            )
        namespace = cache.namespace(self.teachers[index], adapted, run.placement.teacher_precision)
        return CachedTeacher(live, namespace, reads, run.rows)

    def _reads(self, matches: list[IntermediateMatch], soft: SoftLabels) -> Reads:
        both = [
            match
            for place, (match, loss) in enumerate(zip(self.matches, self.losses.for_match, strict=True))
            if place in self.custom or is_told_teachers_mask(match, loss)
        ]
        return Reads.of(
            matches,
            logits=soft.reads_logits,
            labels=soft.reads_labels,
            inputs_mask=any(match in both for match in matches),
        )

    def _read(self) -> list[IntermediateMatch]:
        """The matches that ever count."""
        return [match for match in self.matches if match.weight or match.weight_scheduler is not None]

    def _extra(self) -> frozenset[str]:
        """What the matches ask for of adaptor or batch beside the keys of 0.2.1."""
        indexed = (needs_index(loss) for loss in self.losses.for_match)
        return frozenset({match.mask for match in self.matches if match.mask} | ({INDEX} if any(indexed) else set()))

    def _feature_terms(self) -> list[Term]:
        terms: list[Term] = []
        parts = zip(self.matches, self.losses.for_match, self.projections.for_match, strict=True)
        for place, (match, loss, module) in enumerate(parts):
            projection = self.functions.get(place, module)
            terms.append(FeatureMatch(match, projection, both_masks=place in self.custom, loss=loss))
        return terms


def deepest_read(teacher: Any, reads: Reads) -> int | None:
    """The last hidden state that is read, where nothing else is and it is not the teacher's last; else None."""
    hidden = reads.layers.get("hidden", ())
    if reads.logits or reads.labels or reads.modules or reads.layers.get("attention") or not hidden:
        return None
    path = layer_list(teacher)
    if path is None or not layers_give_states(teacher):
        return None
    number: int = teacher.config.num_hidden_layers + 1
    if any(not -number <= layer < number for layer in hidden):
        return None  # the match says what is wrong with it
    deepest = max(layer % number for layer in hidden)
    return deepest if deepest < number - 1 else None


def resolved_label_map(teacher: nn.Module, student: nn.Module, given: Any, index: int) -> list[int] | None:
    """A teacher's class for each class of the student, out of what the user gave and both models' configs.

    Raises:
        ConfigError: the names of the labels cannot be mapped, or they differ in order and no map is given.
    """
    if isinstance(given, list):
        return given
    of_teacher, of_student = (label_names(getattr(model, "config", None)) for model in (teacher, student))
    path = f"label_maps[{index}]"
    if given == "names":
        missing = [name for name in of_student or [] if name not in (of_teacher or [])]
        if of_teacher is None or of_student is None or missing:
            what = f"the teacher has no {missing}" if missing else "a model without id2label in its config"
            problem = Problem(path, "the student's labels among the teacher's", what, "give a list of classes instead")
            raise ConfigError("label_maps", [problem])
        return [of_teacher.index(name) for name in of_student]
    if of_teacher and of_student and of_teacher != of_student and sorted(of_teacher) == sorted(of_student):
        problem = Problem(
            path,
            "a map, since teacher and student name their classes in other orders",
            f"teacher {of_teacher}, student {of_student}",
            "write 'names' to map them by name",
        )
        raise ConfigError("label_maps", [problem])
    return None


def _features(matches: Iterable[IntermediateMatch], side: str) -> frozenset[str]:
    """The features that matches read from what an adaptor gives."""
    layers = ((match.feature, match.layer_S if side == "S" else match.layer_T) for match in matches)
    return frozenset(feature for feature, layer in layers if not _listed_paths(layer))


def _paths(layers: Iterable[Any]) -> frozenset[str]:
    return frozenset(path for layer in layers for path in _listed_paths(layer))


def _listed_paths(layer: Any) -> list[str]:
    return [item for item in (layer if isinstance(layer, list) else [layer]) if isinstance(item, str)]
