"""A student of several tasks: one encoder, and a head for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..configs import StudentConfig
from ..configs.student import BiGRUConfig, HeadConfig
from ..errors import StudentError, UnknownNameError, did_you_mean, one_of
from .bigru import BiGRUEncoder
from .build import build_student, seeded
from .heads import HEAD_CLASSES, Head, head_of, output_of
from .saving import described_in, restore, save


@dataclass
class MultiTaskConfig:
    """What a :class:`MultiTaskStudent` is.

    Attributes:
        encoder: the encoder's config.
        heads: the heads by task.
    """

    encoder: Any
    heads: dict[str, HeadConfig]

    @property
    def _attn_implementation(self) -> str | None:
        """The encoder's, which is switched while attention maps are matched."""
        return getattr(self.encoder, "_attn_implementation", None)


class MultiTaskStudent(nn.Module):
    """A shared encoder with a head for each task, for :class:`~textbrewer.MultiTaskDistiller`.

    Told the task (``MultiTaskDistiller(…, task_argument="task")``), it gives what a Transformers model of that task
    gives, and no adaptor is needed. Not told, it gives the logits of every head by task, and each task's adaptor picks
    its own: ``lambda batch, outputs: {"logits": outputs.logits["topic"]}``.

    Heads read the last hidden state, so an encoder needs no pooler of its own.

    Args:
        encoder: a Transformers encoder without a head, a :class:`~textbrewer.students.BiGRUEncoder`, or any module
            that is called like one, gives ``last_hidden_state`` and has ``config.hidden_size``.
        heads: by task, a :class:`~textbrewer.HeadConfig` or a dict of its settings.

    Raises:
        StudentError: there are no heads, a task's name cannot name a module, or the encoder does not say its width.
        ConfigError: a head's settings are wrong.

    >>> from textbrewer.students import BiGRUEncoder
    >>> encoder = BiGRUEncoder(BiGRUConfig(100, hidden_size=8, embedding_size=4))
    >>> heads = {"topic": {"num_labels": 3}, "names": {"task": "token-classification", "num_labels": 5}}
    >>> student, ids = MultiTaskStudent(encoder, heads), torch.tensor([[7, 8, 9]])
    >>> student(ids, task="names").logits.shape
    torch.Size([1, 3, 5])
    >>> {task: logits.shape for task, logits in student(ids).logits.items()}
    {'topic': torch.Size([1, 3]), 'names': torch.Size([1, 3, 5])}
    """

    def __init__(self, encoder: nn.Module, heads: Mapping[str, HeadConfig | Mapping[str, Any]]) -> None:
        super().__init__()
        width = getattr(getattr(encoder, "config", None), "hidden_size", None)
        if not isinstance(width, int):
            raise StudentError(
                f"MultiTaskStudent: expected an encoder whose config has hidden_size, got {type(encoder).__name__}"
            )
        if not heads:
            raise StudentError("MultiTaskStudent: expected a head for each task, got none")
        for task in heads:
            if not task or "." in task or hasattr(nn.ModuleDict(), task):
                raise StudentError(f"MultiTaskStudent: {task!r} cannot name a head; choose another name, without dots")
        read = {
            task: head if isinstance(head, HeadConfig) else HeadConfig.from_dict(head) for task, head in heads.items()
        }
        self.config = MultiTaskConfig(encoder.config, read)
        self.encoder = encoder
        self.heads = nn.ModuleDict({task: Head(head, width) for task, head in read.items()})

    @classmethod
    def from_teachers(
        cls,
        teachers: Mapping[str, Any],
        config: StudentConfig | str,
        *,
        encoder_from: str | None = None,
        init: str | None = None,
        seed: int | None = None,
    ) -> MultiTaskStudent:
        """A student of the teachers' tasks and labels, whose encoder is built from one of them.

        Args:
            teachers: by task, as :class:`~textbrewer.MultiTaskDistiller` takes them. All must share the tokenizer.
            config: the encoder's size, as in :func:`~textbrewer.build_student`.
            encoder_from: the task whose teacher gives the encoder its shape and weights; None for the first.
            init: overrides ``config.init``.
            seed: makes random weights repeatable, and leaves the global random state alone.

        Raises:
            StudentError: a teacher has no head of the three tasks, or the sizes do not fit.
            UnknownNameError: ``encoder_from`` is no task, or there is no such preset.
        """
        if not teachers:
            raise StudentError("MultiTaskStudent: expected a teacher for each task, got none")
        # Of several teachers of a task the first speaks for its head and labels.
        firsts: dict[str, Any] = {
            task: given[0] if isinstance(given, (list, tuple, nn.ModuleList)) else given
            for task, given in teachers.items()
        }
        heads = {task: _head_like(teacher, task) for task, teacher in firsts.items()}
        chosen = next(iter(firsts)) if encoder_from is None else encoder_from
        if chosen not in firsts:
            raise UnknownNameError(_unknown("encoder_from", chosen, firsts))
        with seeded(seed):
            encoder = build_student(firsts[chosen].base_model, config, init=init)
            if getattr(encoder, "pooler", None) is not None:
                encoder.pooler = None  # no head would read or train it
            if isinstance(encoder, BiGRUEncoder):
                heads = {task: replace(head, pooling="max") for task, head in heads.items()}
            return cls(encoder, heads).to(next(encoder.parameters()).dtype).eval()

    def get_input_embeddings(self) -> Any:
        """The encoder's token embeddings."""
        return self.encoder.get_input_embeddings()  # type: ignore[operator]

    def set_attn_implementation(self, name: str) -> None:
        """How a Transformers encoder computes attention; maps need ``"eager"``."""
        self.encoder.set_attn_implementation(name)  # type: ignore[operator]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        task: str | None = None,
        return_dict: bool = True,
        **inputs: Any,
    ) -> Any:
        """``loss`` where there are labels, the logits, and what the encoder gives of ``hidden_states, attentions``.

        Args:
            input_ids: ``(batch, length)``.
            attention_mask: the same shape, non-zero where a token is real; None for all.
            token_type_ids: the same shape; None for the encoder's default.
            labels: of ``task``; without a task they are not used.
            start_positions: the same, for answers.
            end_positions: the same, for answers.
            task: whose head to use. None gives ``logits`` as a dict by task: a tensor, or for answers the two of
                start and end.
            return_dict: False gives a tuple in the same order, which can be exported.
            **inputs: more for the encoder, such as ``output_hidden_states``.

        Raises:
            UnknownNameError: there is no such task.
        """
        if task is not None and task not in self.heads:
            raise UnknownNameError(_unknown("task", task, self.heads))
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        read = self.encoder(input_ids, attention_mask=attention_mask, **inputs)
        states = read.last_hidden_state
        if task is None:
            given = {name: list(head(states, attention_mask).values()) for name, head in self.heads.items()}
            logits = {name: values[0] if len(values) == 1 else values for name, values in given.items()}
            return output_of({"logits": logits}, None, read, return_dict)
        head: Any = self.heads[task]
        logits = head(states, attention_mask)
        return output_of(logits, head.loss(logits, labels, start_positions, end_positions), read, return_dict)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` to a folder."""
        encoder = self.config.encoder
        if isinstance(encoder, BiGRUConfig):
            kept = {"model_type": "bigru", **asdict(encoder)}
        else:
            kept = encoder.to_dict() if hasattr(encoder, "to_dict") else {}
        heads = {task: asdict(head) for task, head in self.config.heads.items()}
        pooler = getattr(self.encoder, "pooler", None) is not None
        save(self, {"encoder": kept, "pooler": pooler, "heads": heads}, folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path, encoder: nn.Module | None = None) -> MultiTaskStudent:
        """The student that :meth:`save_pretrained` wrote, in eval mode.

        Args:
            folder: where it is.
            encoder: an encoder of the same shape, needed only where it is neither a BiGRU nor one that Transformers'
                ``AutoModel`` makes from its config.

        Raises:
            StudentError: the folder does not hold one, or its encoder must be given.
        """
        described = described_in(folder, cls.__name__)
        config = described["config"]
        if encoder is None:
            encoder = _encoder_from(config["encoder"], folder)
            if hasattr(encoder, "pooler") and not config["pooler"]:
                encoder.pooler = None
        student = cls(encoder, config["heads"])
        restore(student, described["dtype"], folder)
        return student


def _encoder_from(config: dict[str, Any], folder: str | Path) -> Any:
    family = str(config.pop("model_type", None))
    if family == "bigru":
        return BiGRUEncoder(BiGRUConfig.from_dict(config))
    from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoModel

    if family not in CONFIG_MAPPING or CONFIG_MAPPING[family] not in MODEL_MAPPING:
        raise StudentError(
            f"MultiTaskStudent: {folder} holds an encoder that cannot be made from its config; give encoder="
        )
    return AutoModel.from_config(CONFIG_MAPPING[family].from_dict(config))  # type: ignore[no-untyped-call]


def _head_like(teacher: Any, task: str) -> HeadConfig:
    head = head_of(teacher)
    if head is None:
        raise StudentError(
            f"MultiTaskStudent: the teacher of {task!r} is a {type(teacher).__name__}; expected a Transformers model "
            f"whose class ends in {one_of(HEAD_CLASSES)}"
        )
    return head


def _unknown(name: str, value: Any, known: Mapping[str, Any] | nn.ModuleDict) -> str:
    hint = did_you_mean(value, known)
    return f"MultiTaskStudent: {name}: expected {one_of(known)}, got {value!r}; {hint}".removesuffix("; ")
