"""A run in stages, each a run of a distiller of its own."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.optim import Optimizer

from ..configs import DistillationConfig, TrainingConfig
from ..distillers import GeneralDistiller
from ..distillers._base import Distiller
from ..engine.checkpoint import described, require_same, set_tensors, weights_of
from ..errors import CheckpointError, ConfigError, Problem
from ..feeding import length_of
from ..files import replaced
from ..randomness import random_state, set_random_state
from ..ranks import Ranks
from ..stream import Stream
from ..teachers import TeacherCache
from ..types import Adaptor

logger = logging.getLogger("textbrewer")

_FINISHED = "finished.pt"


@dataclass(frozen=True)
class Stage:
    """One stage of :class:`Stages`.

    Attributes:
        name: of its folder.
        distiller: ``f(train_config) -> distiller``, called when the stage begins.
        train: the arguments of the distiller's ``train`` in which this stage differs: ``{"num_epochs": 3}``.
    """

    name: str
    distiller: Callable[[TrainingConfig], Distiller]
    train: Mapping[str, Any] = field(default_factory=dict)


class Stages:
    """Stages one after the other; what one has trained the next begins with, if they are given the same model.

    Each stage has a folder of its name in ``output_dir`` (and in ``log_dir``), and a fresh optimiser.

    Args:
        train_config: of all stages.
        stages: in their order.

    Raises:
        ConfigError: no stage, or names that are no folders or stand twice.

    >>> from textbrewer import BasicTrainer
    >>> model = nn.Linear(2, 1)
    >>> adaptor = lambda batch, outputs: {"losses": (outputs - batch[0].sum()) ** 2}
    >>> warm_up, rest = (Stage(n, lambda c: BasicTrainer(c, model, adaptor)) for n in ("warm-up", "rest"))
    >>> stages = Stages(TrainingConfig(output_dir=folder, progress_bar=False), [warm_up, rest])
    >>> optimizer = lambda student: torch.optim.SGD(student.parameters(), lr=0.1)
    >>> stages.train(optimizer, [(torch.ones(1, 2),)], num_epochs=1)
    [Linear(in_features=2, out_features=1, bias=True), Linear(in_features=2, out_features=1, bias=True)]
    """

    def __init__(self, train_config: TrainingConfig, stages: Sequence[Stage]) -> None:
        self.t_config = train_config
        self.stages = list(stages)
        names = [stage.name for stage in self.stages]
        problems = [] if names else [Problem("stages", "at least one", "none")]
        for place, name in enumerate(names):
            path = f"stages[{place}].name"
            if not re.fullmatch(r"\w[\w.-]*", name):
                problems.append(Problem(path, "the name of a folder: letters, digits, '_', '-' and '.'", repr(name)))
            if name in names[:place]:
                problems.append(Problem(path, "another name for each stage", f"{name!r} again"))
        if problems:
            raise ConfigError("Stages", problems)

    def train(
        self,
        optimizer: Callable[[nn.Module], Optimizer],
        dataloader: Any = None,
        *,
        resume: str | None = None,
        **arguments: Any,
    ) -> list[nn.Module]:
        """Run the stages.

        Args:
            optimizer: ``f(student) -> optimizer``, called when a stage begins.
            dataloader: the batches; or give ``dataloaders`` to several tasks.
            resume: ``"auto"`` leaves out the stages that are finished, goes on within the one that is not, and ends
                with the same bits as a run that was never stopped. None begins anew.
            **arguments: of the distillers' ``train``, for all stages; those of a stage win.

        Returns:
            The student of each stage.

        Raises:
            ConfigError: what cannot serve all stages.
            CheckpointError: a stage that is finished is of another job.
        """
        problems = []
        if not callable(optimizer) or isinstance(optimizer, Optimizer):
            hint = "write lambda student: AdamW(student.parameters(), lr=1e-4), so that each stage has a fresh one"
            problems.append(Problem("optimizer", "a function of the student", type(optimizer).__name__, hint))
        if resume not in (None, "auto"):
            problems.append(Problem("resume", "'auto' or None", repr(resume)))
        if problems:
            raise ConfigError("Stages.train", problems)
        common = {"optimizer": optimizer, **({} if dataloader is None else {"dataloader": dataloader}), **arguments}
        students = []
        for place, stage in enumerate(self.stages):
            config = self._config(stage)
            distiller = stage.distiller(config)
            path = Path(config.output_dir) / _FINISHED
            own = {**common, **stage.train}
            if resume == "auto" and path.exists():
                _take(path, distiller, _loaders(own), _job(stage, distiller, own), Ranks.of(config))
            else:
                self._forget(self.stages[place + 1 :], Ranks.of(config))
                self._run(stage, distiller, own, path, resume)
                resume = None
            students.append(distiller.model_S)
        return students

    def _forget(self, later: Sequence[Stage], ranks: Ranks) -> None:
        """What there is of later stages began with another student than the one that is trained now."""
        if ranks.index == 0:
            for stage in later:
                folder = Path(self._config(stage).output_dir)
                (folder / _FINISHED).unlink(missing_ok=True)
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        ranks.wait()

    def _run(
        self, stage: Stage, distiller: Distiller, arguments: Mapping[str, Any], path: Path, resume: str | None
    ) -> None:
        """Train a stage, and write down that it is finished."""
        ranks = Ranks.of(distiller.t_config)
        if ranks.index == 0:
            path.unlink(missing_ok=True)
        own = {name: value for name, value in arguments.items() if name != "optimizer"}
        with distiller:
            distiller.train(arguments["optimizer"](distiller.model_S), **own, resume=resume)
        weights = weights_of(distiller.model_S, ranks.index == 0)
        loaders = [Stream(one).state_dict() for one in _loaders(arguments)]
        every = ranks.gather({"random": random_state(), "loaders": loaders})
        if ranks.index == 0:
            with replaced(path) as beside:
                job = _job(stage, distiller, arguments)
                torch.save({"job": job, "student": weights, "processes": every}, beside)
        ranks.wait()

    def _config(self, stage: Stage) -> TrainingConfig:
        folders = {"output_dir": self.t_config.output_dir, "log_dir": self.t_config.log_dir}
        own = {name: str(Path(folder) / stage.name) for name, folder in folders.items() if folder is not None}
        return cast(TrainingConfig, replace(cast(Any, self.t_config), **own))


def features_then_logits(
    train_config: TrainingConfig,
    distill_config: DistillationConfig,
    model_T: nn.Module,
    model_S: nn.Module,
    adaptor_T: Adaptor | None = None,
    adaptor_S: Adaptor | None = None,
    *,
    teacher_cache: TeacherCache | None = None,
    features: Mapping[str, Any] | None = None,
    logits: Mapping[str, Any] | None = None,
) -> Stages:
    """The two stages of TinyBERT: ``Σ weight · match``, and then all that is learned from logits and labels.

    Args:
        train_config: of both stages.
        distill_config: its matches are the first stage, the rest of it the second.
        model_T: the teacher.
        model_S: the student.
        adaptor_T: the teacher's.
        adaptor_S: the student's.
        teacher_cache: of both stages.
        features: arguments of ``train`` in which the first stage differs, such as ``{"num_epochs": 3}``.
        logits: the same of the second.

    Raises:
        ConfigError: the config has no matches.

    Source: TinyBERT, 1909.10351.
    """
    if not distill_config.intermediate_matches:
        problem = Problem("intermediate_matches", "at least one, for the first stage", "none")
        raise ConfigError("features_then_logits", [problem])
    no_labels: dict[str, Any] = {"kd_loss_weight": 0, "kd_loss_weight_scheduler": None}
    no_labels |= {"hard_label_weight": 0, "hard_label_weight_scheduler": None}
    changes: dict[str, dict[str, Any]] = {"features": no_labels, "logits": {"intermediate_matches": []}}

    def stage(name: str, train: Mapping[str, Any] | None) -> Stage:
        own = cast(DistillationConfig, replace(cast(Any, distill_config), **changes[name]))

        def distiller(config: TrainingConfig) -> Distiller:
            return GeneralDistiller(config, own, model_T, model_S, adaptor_T, adaptor_S, teacher_cache=teacher_cache)

        return Stage(name, distiller, train or {})

    return Stages(train_config, [stage("features", features), stage("logits", logits)])


def _job(stage: Stage, distiller: Distiller, arguments: Mapping[str, Any]) -> dict[str, str]:
    """What must be alike for a finished stage to be taken as this one."""
    return {
        "stage": stage.name,
        **distiller._identity(),
        "data": described([length_of(loader) for loader in _loaders(arguments)]),
        "length": described({name: arguments.get(name) for name in ("num_epochs", "num_steps")}),
    }


def _take(path: Path, distiller: Distiller, loaders: Sequence[Any], job: Mapping[str, str], ranks: Ranks) -> None:
    """Set the student, and whatever is drawn from, to the end of a stage."""
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        theirs, student, own = state["job"], state["student"], state["processes"][ranks.index]
    except Exception as error:
        raise CheckpointError(
            f"{path} is damaged ({type(error).__name__}); delete it, and the stage goes on from its last checkpoint"
        ) from error
    require_same(f"{path} is of a stage that was another one", theirs, job)
    set_tensors(distiller.model_S, student)
    for one, kept in zip(loaders, own["loaders"], strict=True):
        Stream(one).load_state_dict(kept, within=False)
    set_random_state(own["random"])
    logger.info("%s: this stage is finished", path)


def _loaders(arguments: Mapping[str, Any]) -> list[Any]:
    """Of one task, or of several."""
    return list(arguments["dataloaders"].values()) if "dataloaders" in arguments else [arguments["dataloader"]]
