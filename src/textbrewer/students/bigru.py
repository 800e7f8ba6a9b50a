"""A recurrent student: the teacher's token embeddings, a gated recurrent unit in each direction, a head."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..configs import StudentConfig
from ..configs.student import BiGRUConfig
from ..errors import StudentError
from .heads import HEAD_CLASSES, Head, StudentOutput, head_of, output_of
from .saving import described_in, restore, save


class BiGRULayer(nn.Module):
    """A GRU in each direction over the real tokens of a row, and a linear map of both to one width.

    Each direction reads the real tokens first, wherever the padding is, and what it made of them is put back. Unlike
    packed sequences this needs no lengths on the CPU, so that nothing waits for a device, and rows may be empty.

    Args:
        dim_in: width of what is read.
        width: of each direction, and of the result.
    """

    def __init__(self, dim_in: int, width: int) -> None:
        super().__init__()
        self.forwards = nn.GRU(dim_in, width, batch_first=True)
        self.backwards = nn.GRU(dim_in, width, batch_first=True)
        self.merge = nn.Linear(2 * width, width)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """``(batch, length, dim_in)`` to ``(batch, length, width)``; what is at padding means nothing."""
        length = mask.shape[1]
        places = torch.arange(length, device=mask.device)
        read = []
        for direction, priority in ((self.forwards, places), (self.backwards, -places)):
            order = torch.where(mask != 0, priority, length + places).argsort(dim=1)
            ordered, _ = direction(torch.take_along_dim(states, order.unsqueeze(-1), dim=1))
            read.append(torch.take_along_dim(ordered, order.argsort(dim=1).unsqueeze(-1), dim=1))
        merged: Tensor = self.merge(torch.cat(read, dim=-1))
        return merged


class BiGRUEncoder(nn.Module):
    """Token embeddings and layers of :class:`BiGRULayer`; called like a Transformers encoder.

    Args:
        config: its size; the head is not used.
    """

    def __init__(self, config: BiGRUConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size)
        self.dropout = nn.Dropout(config.dropout)
        widths = [config.embedding_size, *[config.hidden_size] * config.num_layers]
        self.layers = nn.ModuleList(BiGRULayer(*pair) for pair in pairwise(widths))

    def get_input_embeddings(self) -> nn.Embedding:
        """The token embeddings, by the name that Transformers models have for it."""
        return self.embeddings

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> StudentOutput:
        """``last_hidden_state`` and, if asked for, ``hidden_states``: the embeddings and each layer's result.

        Args:
            input_ids: ``(batch, length)``.
            attention_mask: the same shape, non-zero where a token is real; None for all.
            token_type_ids: taken and not used; where a pair of texts is divided is read from its separator.
            output_hidden_states: whether to give them.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        states = [self.embeddings(input_ids)]
        for layer in self.layers:
            states.append(layer(self.dropout(states[-1]), mask))
        output = StudentOutput(last_hidden_state=states[-1])
        if output_hidden_states:
            output["hidden_states"] = tuple(states)
        return output


class BiGRUStudent(nn.Module):
    """A bidirectional GRU with a head: a complete student for texts, tokens or answers.

    ``build_student(teacher, "BiGRU")`` makes one with the teacher's token embeddings and task. It is called like the
    Transformers model of its task, gives what that gives by the same names, and needs no Transformers itself.
    Padding, wherever it is, changes nothing.

    Source: GRU, Cho et al. 2014 (1406.1078); the largest value over tokens, Conneau et al. 2017 (1705.02364).

    Args:
        config: its size and its head.

    Raises:
        StudentError: the config has no head.

    >>> from textbrewer import HeadConfig
    >>> student = BiGRUStudent(BiGRUConfig(100, hidden_size=8, embedding_size=4, head=HeadConfig(num_labels=3)))
    >>> student(input_ids=torch.tensor([[7, 8, 9]])).logits.shape
    torch.Size([1, 3])
    """

    def __init__(self, config: BiGRUConfig) -> None:
        super().__init__()
        if config.head is None:
            raise StudentError("BiGRUStudent: its config has no head; give head=HeadConfig(...), or use BiGRUEncoder")
        self.config = config
        self.encoder = BiGRUEncoder(config)
        self.head = Head(config.head, config.hidden_size)

    def get_input_embeddings(self) -> nn.Embedding:
        """The token embeddings, by the name that Transformers models have for it."""
        return self.encoder.embeddings

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_hidden_states: bool = False,
        return_dict: bool = True,
    ) -> Any:
        """``loss`` where there are labels, the logits of the head, and ``hidden_states`` where they are asked for.

        Args:
            input_ids: ``(batch, length)``.
            attention_mask: the same shape, non-zero where a token is real; None for all.
            token_type_ids: taken and not used.
            labels: ``(batch,)`` or ``(batch, num_labels)`` for texts, ``(batch, length)`` for tokens.
            start_positions: ``(batch,)``, for answers.
            end_positions: ``(batch,)``, for answers.
            output_hidden_states: whether to give the embeddings and each layer's result.
            return_dict: False gives a tuple in the same order, which can be exported.
        """
        read = self.encoder(input_ids, attention_mask, output_hidden_states=output_hidden_states)
        logits = self.head(read.last_hidden_state, attention_mask)
        loss = self.head.loss(logits, labels, start_positions, end_positions)
        return output_of(logits, loss, read, return_dict)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` to a folder."""
        save(self, asdict(self.config), folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> BiGRUStudent:
        """The student that :meth:`save_pretrained` wrote, in eval mode.

        Raises:
            StudentError: the folder does not hold one.
        """
        described = described_in(folder, cls.__name__)
        student = cls(BiGRUConfig.from_dict(described["config"]))
        restore(student, described["dtype"], folder)
        return student


def student_of(teacher: Any, wanted: StudentConfig, source: str) -> tuple[Any, dict[str, str]]:
    """A :class:`BiGRUStudent` of a teacher's task, or a :class:`BiGRUEncoder` of a teacher without a head.

    Narrower embeddings than the teacher's are its own on the axes that keep their dot products best, ``E V`` with the
    leading eigenvectors ``V`` of ``EᵀE`` (Eckart and Young 1936).

    Returns:
        The student, and what was copied: its name → the teacher's.

    Raises:
        StudentError: the teacher has another head, or the sizes do not fit.
    """
    unused = [name for name in ("num_attention_heads", "intermediate_size") if getattr(wanted, name) is not None]
    if unused:
        raise StudentError(
            f"build_student: a BiGRU has no {' and no '.join(unused)}; leave {'them' if unused[1:] else 'it'} out"
        )
    name, theirs = _embeddings_of(teacher)
    width = wanted.embedding_size or theirs.shape[1]
    if source == "teacher" and width > theirs.shape[1]:
        raise StudentError(
            f"build_student: embedding_size={width}, but the teacher's embeddings have width {theirs.shape[1]}; use at "
            "most that, or init='random'"
        )
    head = head_of(teacher)
    if head is None and getattr(teacher, "base_model", teacher) is not teacher:
        raise StudentError(
            f"build_student: a BiGRU has no head like that of {type(teacher).__name__}, only like "
            f"{', '.join(HEAD_CLASSES)}; give the encoder alone, teacher.base_model"
        )
    config = BiGRUConfig(
        vocab_size=theirs.shape[0],
        hidden_size=wanted.hidden_size or teacher.config.hidden_size,
        num_layers=wanted.num_layers,
        embedding_size=width,
        head=head and replace(head, pooling="max"),
    )
    student: Any
    if source not in ("teacher", "random"):
        student = _from_folder(source, config)
    else:
        student = BiGRUEncoder(config) if head is None else BiGRUStudent(config)
    student.to(theirs.dtype)
    if source != "teacher":
        return student, {}
    with torch.no_grad():
        student.get_input_embeddings().weight.copy_(theirs if width == theirs.shape[1] else _narrowed(theirs, width))
    mine, _ = _embeddings_of(student)
    return student, {mine: name if width == theirs.shape[1] else f"{name}, {width} of {theirs.shape[1]} axes"}


def _embeddings_of(model: Any) -> tuple[str, Tensor]:
    """Name and value of the token embeddings."""
    weight: Any = getattr(getattr(model, "get_input_embeddings", lambda: None)(), "weight", None)
    for name, parameter in model.named_parameters():
        if parameter is weight:
            return name, parameter.detach()
    raise StudentError(
        f"build_student: {type(model).__name__} has no get_input_embeddings() to take token embeddings from; make a "
        "BiGRUStudent from a BiGRUConfig of your own"
    )


def _narrowed(weight: Tensor, width: int) -> Tensor:
    exact = weight.double()
    _, axes = torch.linalg.eigh(exact.T @ exact)
    # Eigenvalues come in ascending order.
    coordinates: Tensor = exact @ axes[:, -width:].flip(-1)
    return coordinates


def _from_folder(folder: str, config: BiGRUConfig) -> BiGRUStudent:
    student = BiGRUStudent.from_pretrained(folder)
    if student.config != config:
        raise StudentError(
            f"build_student: init={folder!r} holds a BiGRU of another shape or task; it is\n{student.config}"
        )
    return student
