"""The runs behind the golden trajectories: models, batches and weights made by formula, for either package."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.tensorboard import SummaryWriter

from tests.golden.loss_inputs import wave

CLASSES, VOCABULARY, ROWS, LENGTH = 3, 11, 3, 5
Batch = dict[str, torch.Tensor]


def set_by_formula(module: nn.Module, phase: float) -> nn.Module:
    """Give every parameter values in [-0.7, 0.7] that repeat on any machine."""
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.copy_(0.35 * wave(*parameter.shape, phase=phase + 0.13 * number))
    return module


class Encoder(nn.Module):
    """Embeddings and tanh layers; gives logits of every position, hidden states and attention scores as a tuple."""

    def __init__(self, width: int, layers: int, phase: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(layers)])
        self.head = nn.Linear(width, CLASSES)
        set_by_formula(self, phase)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor, scale: float = 1.0):
        mask = attention_mask.float()[..., None]
        hidden, attention = [scale * self.embedding(input_ids)], []
        for layer in self.layers:
            mean = (hidden[-1] * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
            hidden.append(torch.tanh(layer(hidden[-1] + mean)))
            heads = hidden[-1].unflatten(-1, (-1, 2)).transpose(1, 2)
            scores = heads @ heads.transpose(2, 3)
            attention.append(scores.masked_fill(attention_mask[:, None, None, :] == 0, -1e4))
        return self.head(hidden[-1]), tuple(hidden), tuple(attention)


def batch_of(number: int) -> Batch:
    """Rows of different lengths; the labels of padding are negative."""
    places = torch.arange(ROWS * LENGTH).reshape(ROWS, LENGTH)
    lengths = 2 + (2 * torch.arange(ROWS) + number) % (LENGTH - 1)
    mask = (torch.arange(LENGTH) < lengths[:, None]).long()
    ids = (7 * places + 5 * number + places // 3) % VOCABULARY
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.where(mask == 1, (ids + number) % CLASSES, -100)}


@dataclass(frozen=True)
class Adaptor:
    """Reads the outputs as those of a classifier (``rows``), a tagger (``tokens``) or a reader of spans (``span``)."""

    gives: str = "rows"
    without: tuple[str, ...] = ()

    def __call__(self, batch: Any, outputs: Any) -> dict[str, Any]:
        _, mask, labels = batch.values() if isinstance(batch, dict) else batch
        logits, hidden, attention = outputs
        given: dict[str, Any] = {"hidden": hidden, "attention": attention, "inputs_mask": mask}
        if self.gives == "tokens":
            losses = cross_entropy(logits.transpose(1, 2), labels, reduction="none")
            given |= {"logits": logits, "logits_mask": mask, "labels": labels, "losses": losses}
        elif self.gives == "span":
            given |= {"logits": [logits[..., side] for side in (0, 1)], "labels": [labels[:, side] for side in (0, 1)]}
            given["losses"] = [cross_entropy(*pair) for pair in zip(given["logits"], given["labels"], strict=True)]
        else:
            first, label = logits[:, 0], labels[:, 0]
            given |= {"logits": first, "labels": label, "losses": cross_entropy(first, label)}
        return {key: value for key, value in given.items() if key not in self.without}


@dataclass(frozen=True)
class Case:
    """One run. ``distill`` and ``train`` are the configs' arguments, ``fit`` those of ``distiller.train``.

    Without ``num_steps`` it has two epochs. ``loader`` is the number of batches, ``tasks`` that of each task.
    """

    kind: str = "BasicDistiller"
    distill: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    fit: dict[str, Any] = field(default_factory=dict)
    loader: int = 3
    adaptor: Adaptor = Adaptor()
    teacher_adaptor: Any = None
    width_T: int = 4
    feed: Callable[[Batch, nn.Module], Any] = lambda batch, teacher: batch
    optimizer: Callable[..., torch.optim.Optimizer] = lambda parameters: torch.optim.SGD(parameters, lr=0.3)
    tasks: tuple[int, ...] = ()

    def length(self) -> dict[str, Any]:
        """What tells ``distiller.train`` how long to run, where ``fit`` does not."""
        return {} if "num_steps" in self.fit else {"num_epochs": self.fit.get("num_epochs", 2)}

    def dropped(self) -> set[int]:
        """The batches of a run by epochs that are left over from the last accumulation of their epoch."""
        size, epochs = self.train.get("gradient_accumulation_steps", 1), self.length().get("num_epochs", 0)
        return {i for i in range(self.loader * epochs) if i % self.loader >= self.loader // size * size}


def match(loss: str, T: Any = 2, S: Any = 1, feature: str = "hidden", weight: float = 1, **proj: Any) -> dict[str, Any]:
    return {"layer_T": T, "layer_S": S, "feature": feature, "loss": loss, "weight": weight, **proj}


def general(*matches: dict[str, Any], **rest: Any) -> Case:
    return Case("GeneralDistiller", {"intermediate_matches": list(matches), **rest.pop("distill", {})}, **rest)


def wavy_projection(dim_in: int, dim_out: int) -> nn.Module:
    return set_by_formula(nn.Linear(dim_in, dim_out), phase=0.5)


def tasks(
    *sizes: int, steps: int = 4, distill: dict[str, Any] | None = None, train: dict[str, Any] | None = None, **fit: Any
) -> Case:
    fit["num_steps"] = steps
    return Case("MultiTaskDistiller", distill or {}, {"ckpt_steps": 3, **(train or {})}, fit, tasks=sizes)


def next_words(batch: Batch) -> Batch:
    return {**batch, "input_ids": (batch["input_ids"] + 1) % VOCABULARY}


def twice_as_sure(batch: Batch, outputs: Any) -> dict[str, Any]:
    return {"logits": 2 * outputs[0][:, 0]}


NO_MASK = Adaptor(without=("inputs_mask",))
PAIR = {"T": [1, 2], "S": [0, 1]}
ATTENTION = {"T": 1, "S": 0, "feature": "attention"}
ATTENTION_LOSSES = ("attention_mse", "attention_mse_sum", "attention_ce", "attention_ce_mean")
ACCUMULATE = {"gradient_accumulation_steps": 2}
HALVING = {
    "scheduler_class": torch.optim.lr_scheduler.LambdaLR,
    "scheduler_args": {"lr_lambda": lambda step: 0.5**step},
}

CASES = {
    "trainer": Case("BasicTrainer"),
    "trainer, tokens": Case("BasicTrainer", adaptor=Adaptor("tokens")),
    "trainer, accumulation, clipping": Case("BasicTrainer", train=ACCUMULATE, fit={"max_grad_norm": 0.1}),
    "trainer, num_steps, scheduler_class": Case(
        "BasicTrainer", train={"ckpt_steps": 3}, fit={"num_epochs": None, "num_steps": 5, **HALVING}
    ),
    "ce": Case(),
    "mse": Case(distill={"kd_loss_type": "mse"}),
    "ce, temperature 1": Case(distill={"temperature": 1}),
    "mse, temperature 2": Case(distill={"kd_loss_type": "mse", "temperature": 2}),
    "kd weight": Case(distill={"kd_loss_weight": 2.5}),
    "hard labels": Case(distill={"hard_label_weight": 0.5}),
    "hard labels alone": Case(distill={"hard_label_weight": 1, "kd_loss_weight": 0}),
    "no losses": Case(distill={"hard_label_weight": 1}, adaptor=Adaptor(without=("losses",))),
    "constant temperature": Case(distill={"temperature_scheduler": "constant"}),
    "flsw": Case(distill={"temperature_scheduler": ["flsw", 1, 2]}),
    "cwsm": Case(distill={"temperature_scheduler": ["cwsm", 1]}),
    "flsw, mse": Case(distill={"temperature_scheduler": ["flsw", 1, 1], "kd_loss_type": "mse", "temperature": 2}),
    "cwsm, tokens": Case(distill={"temperature_scheduler": ["cwsm", 0.5]}, adaptor=Adaptor("tokens")),
    "flsw, span": Case(distill={"temperature_scheduler": ["flsw", 0.5, 2]}, adaptor=Adaptor("span")),
    "probability shift": Case(distill={"probability_shift": True}),
    "probability shift, mse": Case(distill={"probability_shift": True, "kd_loss_type": "mse"}),
    # With logits_mask the original fails, and with negative labels of 2-d logits it counts classes from the end.
    "probability shift, tokens without logits_mask": Case(
        distill={"probability_shift": True}, adaptor=Adaptor("tokens", without=("logits_mask",))
    ),
    "probability shift, span": Case(distill={"probability_shift": True}, adaptor=Adaptor("span")),
    "tokens": Case(adaptor=Adaptor("tokens"), distill={"hard_label_weight": 1}),
    "tokens, mse": Case(adaptor=Adaptor("tokens"), distill={"kd_loss_type": "mse"}),
    "tokens without logits_mask": Case(adaptor=Adaptor("tokens", without=("logits_mask",))),
    "span": Case(adaptor=Adaptor("span"), distill={"hard_label_weight": 0.5}),
    "span, mse": Case(adaptor=Adaptor("span"), distill={"kd_loss_type": "mse"}),
    **{
        f"{which} weight, {schedule}": Case(
            distill={"hard_label_weight": 0.5, "kd_loss_weight": 2, f"{which}_weight_scheduler": schedule}
        )
        for which in ("kd_loss", "hard_label")
        for schedule in ("linear_decay", "linear_growth")
    },
    "both weights scheduled, accumulation": Case(
        distill={
            "hard_label_weight": 0.5,
            "kd_loss_weight_scheduler": "linear_decay",
            "hard_label_weight_scheduler": "linear_growth",
        },
        train=ACCUMULATE,
        loader=4,
    ),
    "weights scheduled, num_steps": Case(
        distill={"hard_label_weight": 0.5, "hard_label_weight_scheduler": "linear_growth"},
        train={"ckpt_steps": 2},
        fit={"num_steps": 5},
    ),
    "weight scheduled by a registered function": Case(distill={"kd_loss_weight_scheduler": "quadratic"}),
    "accumulation": Case(train=ACCUMULATE, loader=4),
    "accumulation, a batch left over": Case(train=ACCUMULATE, loader=3),
    "accumulation, two batches left over": Case(train={"gradient_accumulation_steps": 3}, loader=5),
    "accumulation, num_steps": Case(train={**ACCUMULATE, "ckpt_steps": 2}, fit={"num_steps": 4}),
    "accumulation, clipping": Case(train=ACCUMULATE, loader=4, fit={"max_grad_norm": 0.01}),
    "clipping": Case(fit={"max_grad_norm": 0.01}, distill={"hard_label_weight": 1}),
    "clipping above the norm": Case(fit={"max_grad_norm": 100.0}),
    "num_steps across the end": Case(train={"ckpt_steps": 3}, fit={"num_steps": 7}),
    "num_steps wins over num_epochs": Case(train={"ckpt_steps": 2}, fit={"num_steps": 4, "num_epochs": 1}),
    "scheduler_class": Case(fit=HALVING),
    "scheduler_class, accumulation, num_steps": Case(
        train={**ACCUMULATE, "ckpt_steps": 2}, fit={"num_steps": 4, **HALVING}
    ),
    "AdamW": Case(
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.01), distill={"hard_label_weight": 1}
    ),
    "extra keywords": Case(fit={"scale": 1.5}),
    "batch_postprocessor": Case(fit={"batch_postprocessor": next_words}),
    "batches as tuples": Case(feed=lambda batch, teacher: tuple(batch.values())),
    "batches by side": Case(
        feed=lambda b, teacher: {"teacher": {**b, "input_ids": b["input_ids"].flip(1)}, "student": b},
        distill={"hard_label_weight": 1},
    ),
    "teacher_cache": Case(
        feed=lambda b, teacher: {"teacher": b, "student": b, "teacher_cache": (2 * teacher(**b)[0].detach(), (), ())}
    ),
    "is_caching_logits": Case(distill={"is_caching_logits": True}, loader=1, fit={"num_epochs": 3}),
    **{f"{loss}, masked": general(match(loss)) for loss in ("hidden_mse", "cos", "pkd")},
    **{f"{loss}, unmasked": general(match(loss), adaptor=NO_MASK) for loss in ("hidden_mse", "cos", "pkd")},
    **{f"{loss}, masked": general(match(loss, **PAIR)) for loss in ("gram", "fsp", "mmd", "nst")},
    **{f"{loss}, unmasked": general(match(loss, **PAIR), adaptor=NO_MASK) for loss in ("gram", "mmd")},
    **{f"{loss}, masked": general(match(loss, **ATTENTION)) for loss in ATTENTION_LOSSES},
    **{f"{loss}, unmasked": general(match(loss, **ATTENTION), adaptor=NO_MASK) for loss in ATTENTION_LOSSES},
    "attention_mse_sum, other heads": general(match("attention_mse_sum", **ATTENTION), width_T=6),
    "attention_ce_mean, other heads": general(match("attention_ce_mean", **ATTENTION), width_T=6),
    "mmd, other widths": general(match("mmd", **PAIR), width_T=6),
    # Their weights are drawn: both packages take the same numbers from the seed.
    **{
        f"{name} projection": general(match("hidden_mse", weight=2, proj=[name, 4, 6]), width_T=6)
        for name in ("linear", "relu", "tanh")
    },
    "projection by formula": general(match("hidden_mse", weight=2, proj=["wavy", 4, 6]), width_T=6),
    "projection with its own rate": general(
        match("hidden_mse", weight=2, proj=["wavy", 4, 6, {"lr": 0.05}]), width_T=6
    ),
    "projection, scheduler_class": general(
        match("hidden_mse", weight=2, proj=["wavy", 4, 6, {"lr": 0.05}]),
        width_T=6,
        fit=HALVING,
    ),
    "projection, clipping": general(
        match("hidden_mse", weight=2, proj=["wavy", 4, 6]), width_T=6, fit={"max_grad_norm": 0.05}
    ),
    "projections, gram": general(match("gram", **PAIR, proj=["wavy", 4, 6]), width_T=6),
    "projections, several": general(
        match("hidden_mse", T=0, S=0, weight=0.5, proj=["wavy", 4, 6]),
        match("cos", weight=2, proj=["wavy", 4, 6, {"lr": 0.1}]),
        match("mmd", **PAIR, weight=0.1),
        width_T=6,
    ),
    "matches, several": general(
        match("hidden_mse", T=0, S=0, weight=0.5),
        match("hidden_mse", weight=2),
        match("attention_mse", **ATTENTION, weight=0.1),
        match("gram", **PAIR, weight=3),
        distill={"hard_label_weight": 0.5, "kd_loss_weight": 2},
    ),
    "matches, accumulation": general(
        match("hidden_mse", weight=2),
        match("mmd", **PAIR),
        train=ACCUMULATE,
        loader=4,
        distill={"hard_label_weight": 1},
    ),
    "matches without logits": general(match("hidden_mse"), adaptor=Adaptor(without=("logits", "losses"))),
    "no logits": general(distill={"hard_label_weight": 0.5}, adaptor=Adaptor(without=("logits",))),
    "matches, kd weight 0": general(match("hidden_mse"), distill={"kd_loss_weight": 0}),
    "general without matches": general(),
    "matches, tokens": general(match("hidden_mse"), adaptor=Adaptor("tokens"), distill={"hard_label_weight": 1}),
    "matches, teacher's mask only": general(match("hidden_mse"), adaptor=NO_MASK, teacher_adaptor=Adaptor()),
    "two teachers": Case("MultiTeacherDistiller"),
    "two teachers, mse, hard labels": Case("MultiTeacherDistiller", {"kd_loss_type": "mse", "hard_label_weight": 0.5}),
    "two teachers, tokens": Case("MultiTeacherDistiller", adaptor=Adaptor("tokens")),
    "two teachers, span": Case("MultiTeacherDistiller", adaptor=Adaptor("span")),
    "two teachers, flsw": Case("MultiTeacherDistiller", {"temperature_scheduler": ["flsw", 1, 2]}),
    "two teachers, probability shift": Case("MultiTeacherDistiller", {"probability_shift": True}),
    "two teachers, accumulation": Case("MultiTeacherDistiller", train=ACCUMULATE, loader=4),
    "two teachers, num_steps": Case("MultiTeacherDistiller", train={"ckpt_steps": 3}, fit={"num_steps": 4}),
    "two teachers, an adaptor each": Case("MultiTeacherDistiller", teacher_adaptor=[Adaptor(), twice_as_sure]),
    "one task": tasks(3, steps=5),
    "one task, hard labels, accumulation": tasks(3, distill={"hard_label_weight": 0.5}, train=ACCUMULATE),
    "one task, weight scheduled": tasks(
        3, distill={"hard_label_weight": 0.5, "hard_label_weight_scheduler": "linear_growth"}
    ),
    "one task, batch_postprocessors": tasks(3, batch_postprocessors={"rows": next_words}),
    "one task, scheduler_class, clipping": tasks(3, **HALVING, max_grad_norm=0.1, distill={"hard_label_weight": 1}),
    "one task, match": tasks(3, distill={"intermediate_matches": [match("hidden_mse")]}),
    "two tasks, one far larger": tasks(2, 4, steps=5, tau=500),
    "two tasks, drawn": tasks(2, 4, steps=8, distill={"hard_label_weight": 0.5}),
    "two tasks, drawn, tau 0.5": tasks(2, 4, steps=8, tau=0.5),
    "two tasks, drawn, accumulation": tasks(2, 4, train=ACCUMULATE),
}
"""Every trajectory, by what is special about it."""


def _epochs(loader: int, epochs: int, size: int = 1, **train: Any) -> tuple[str, Case]:
    name = f"{loader} batches, {epochs} epochs, accumulation {size}, {train}"
    train["gradient_accumulation_steps"] = size
    return name, Case(train=train, fit={"num_epochs": epochs}, loader=loader)


CHECKPOINTS = dict(
    [
        *(_epochs(4, 2, ckpt_frequency=frequency) for frequency in (1, 2, 3, 4)),
        *(_epochs(7, 2, ckpt_frequency=frequency) for frequency in (2, 3, 5)),
        *(_epochs(2, 3, ckpt_epoch_frequency=each) for each in (1, 2, 3, 5)),
        _epochs(2, 5, ckpt_epoch_frequency=2),
        *(_epochs(3, 2, ckpt_frequency=frequency) for frequency in (0, 5)),
        _epochs(5, 2, 2, ckpt_frequency=4),
        _epochs(4, 5, ckpt_frequency=2, ckpt_epoch_frequency=2),
        *(_epochs(7, 2, 2, ckpt_frequency=frequency) for frequency in (1, 2, 3)),
        _epochs(6, 3, 2, ckpt_frequency=3, ckpt_epoch_frequency=2),
        _epochs(5, 4, 3, ckpt_epoch_frequency=3),
        _epochs(3, 2, ckpt_steps=2),
    ]
    + [
        (
            f"{steps} steps of 3 batches, ckpt_steps {every}, accumulation {size}",
            Case(train={"ckpt_steps": every, "gradient_accumulation_steps": size}, fit={"num_steps": steps}),
        )
        for steps, every, size in ((7, 3, 1), (6, 3, 1), (5, 10, 1), (5, 1, 1), (5, 2, 2), (4, 3, 2))
    ]
)
"""Runs of which only the checkpoints matter."""


def run(case: Case, package: str, logged: bool = True) -> dict[str, Any]:
    """What TensorBoard was told (``[step, value]`` by tag), the checkpoints, and the student's final weights."""
    textbrewer = importlib.import_module(package)
    torch.manual_seed(0)
    numpy.random.seed(3)  # draws both tasks
    scalars: dict[str, list[tuple[int, float]]] = {}
    calls: list[int] = []

    def add_scalar(writer: Any, tag: str, value: Any, step: int) -> None:
        scalars.setdefault(tag, []).append((step, float(value)))

    with ExitStack() as during:
        # The original never closes its writer, so its event file is complete only when the process ends.
        during.enter_context(patch.object(SummaryWriter, "add_scalar", add_scalar))
        for table in (textbrewer.PROJ_MAP, textbrewer.WEIGHT_SCHEDULER):
            during.enter_context(patch.dict(table))
        textbrewer.register_new("projection", "wavy", wavy_projection)
        textbrewer.register_new("weight_scheduler", "quadratic", lambda progress: 3 * progress**2)
        folder = during.enter_context(tempfile.TemporaryDirectory())
        paths = {"output_dir": f"{folder}/out", "log_dir": f"{folder}/logs" if logged else None}
        config = textbrewer.TrainingConfig(**paths, device="cpu", **case.train)
        student, distiller, loader = _assembled(case, textbrewer, config)
        fit = {**case.length(), **case.fit, "callback": lambda model, step: calls.append(step)}
        with distiller:
            distiller.train(case.optimizer(student.parameters()), loader, **fit)
        saved = sorted(int(path.stem.removeprefix("gs")) for path in Path(folder, "out").glob("gs*.pkl"))
    weights = torch.cat([value.flatten() for value in student.state_dict().values()]).tolist()
    return {"scalars": scalars, "calls": calls, "saved": saved, "weights": weights}


def _assembled(case: Case, textbrewer: Any, config: Any) -> tuple[nn.Module, Any, Any]:
    student = Encoder(4, 1, phase=0.2)
    teachers = [Encoder(case.width_T, 2, phase) for phase in (0.7, 1.9)]
    make = getattr(textbrewer, case.kind)
    loader: Any = [case.feed(batch_of(i), teachers[0]) for i in range(case.loader)]
    if case.kind == "BasicTrainer":
        return student, make(config, student, case.adaptor), loader
    if case.kind == "MultiTaskDistiller":
        names = ("rows", "span")[: len(case.tasks)]
        adaptors = {name: Adaptor(name) for name in names}
        loaders = {name: [batch_of(i) for i in range(size)] for name, size in zip(names, case.tasks, strict=True)}
        model_T, adaptor_T, adaptor_S, loader = dict(zip(names, teachers, strict=False)), adaptors, adaptors, loaders
    else:
        model_T = teachers if case.kind == "MultiTeacherDistiller" else teachers[0]
        adaptor_T, adaptor_S = case.teacher_adaptor or case.adaptor, case.adaptor
    distill = textbrewer.DistillationConfig(**case.distill)
    return student, make(config, distill, model_T, student, adaptor_T, adaptor_S), loader
