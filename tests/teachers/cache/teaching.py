"""What the tests of the teacher cache share: teachers behind a cache, and students that learn from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tests.tiny import EncoderAdaptor, batches, encoder
from textbrewer import DistillationConfig, GeneralDistiller, TeacherCache, TrainingConfig
from textbrewer.adaptors import AdaptedModel
from textbrewer.configs import IntermediateMatch
from textbrewer.teachers import CachedTeacher, LiveTeacher, Reads

ADAPTOR = EncoderAdaptor()
HIDDEN = Reads(layers={"hidden": (0, 2)})


class Counted:
    """The numbers of rows and columns that a model is run on, batch by batch, without a trace in the model."""

    def __init__(self, model: nn.Module) -> None:
        self.shapes: list[tuple[int, ...]] = []
        model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        first = next(value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
        self.shapes.append(tuple(first.shape[:2]))

    @property
    def rows(self) -> int:
        return sum(shape[0] for shape in self.shapes)


@contextmanager
def behind(
    cache: TeacherCache,
    teacher: nn.Module,
    reads: Reads = HIDDEN,
    adaptor: Any = ADAPTOR,
    paths: Iterable[str] = (),
) -> Iterator[tuple[CachedTeacher, LiveTeacher]]:
    """A teacher behind a cache, and the same one live."""
    features = frozenset(feature for feature, layers in reads.layers.items() if layers)
    adapted = AdaptedModel(
        teacher.eval(), adaptor, name="adaptor_T", features=features, teacher=True, paths=frozenset(paths)
    )
    matches = [
        IntermediateMatch(layer_T=layer, layer_S=0, feature=feature, loss=print)
        for feature, layers in reads.layers.items()
        for layer in layers
    ]
    live = LiveTeacher(adapted, torch.no_grad, matches)
    with adapted.ready():
        yield CachedTeacher(live, cache.namespace(teacher, adapted), reads), live


def distiller_of(
    folder: Any,
    cache: TeacherCache | None = None,
    *,
    kind: Any = GeneralDistiller,
    teacher: Any = None,
    student: nn.Module | None = None,
    adaptor_T: Any = ADAPTOR,
    adaptor_S: Any = ADAPTOR,
    training: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    **distill: Any,
) -> Any:
    """A distiller of small encoders; ``distill`` are the arguments of its config."""
    config = TrainingConfig(
        output_dir=str(folder), ckpt_frequency=0, progress_bar=False, device="cpu", **(training or {})
    )
    models = (encoder(1, width=8) if teacher is None else teacher, student or encoder(5, width=8))
    torch.manual_seed(2)  # of the projections' first weights
    return kind(
        config,
        DistillationConfig(**distill),
        *models,
        adaptor_T,
        adaptor_S,
        teacher_cache=cache,
        **(options or {}),
    )


def learned(distiller: Any, loader: Any = None, **how: Any) -> torch.Tensor:
    """The student's weights after training with it."""
    student = distiller.model_S
    loader = batches(3) if loader is None else loader
    torch.manual_seed(3)
    distiller.train(torch.optim.SGD(student.parameters(), lr=0.1), loader, **(how or {"num_epochs": 2}))
    return torch.cat([parameter.detach().flatten() for parameter in student.parameters()])
