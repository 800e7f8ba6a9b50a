"""What a student looks like."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from ..errors import count_of, one_of
from ._base import Config, config_class, known_name, reject

LAYER_CHOICES = ("first", "evenly", "last")
HEAD_TASKS = ("text-classification", "token-classification", "question-answering")
POOLINGS = ("first", "max")
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")


def _layers(value: Any) -> Any:
    if isinstance(value, str):
        return known_name(value, LAYER_CHOICES)
    if not isinstance(value, list):
        raise reject(f"{one_of(LAYER_CHOICES)}, or a list of teacher layers")
    return value


Positive = Annotated[int, Field(ge=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]


@config_class
class StudentConfig(Config):
    """The size of a student and where its weights come from.

    Args:
        num_layers: layers of the student.
        hidden_size: width of the hidden states; None for the teacher's.
        num_attention_heads: None keeps the teacher's width of a head where it divides ``hidden_size``, and its number
            of heads otherwise.
        intermediate_size: width of the feed-forward layers; None keeps the teacher's ratio to ``hidden_size``.
        layers: the teacher layer that each student layer starts from: ``"first"`` (0, 1, …), ``"last"`` (the last
            ones), ``"evenly"`` (spread out, the last student layer from the last teacher layer) or a list of
            teacher layers, counted from 0.
        init: ``"teacher"`` copies every weight that fits, ``"random"`` none; ``"importance"`` and ``"svd"`` narrow the
            teacher's, see :func:`~textbrewer.students.build_student_with_report`; anything else is a folder or hub
            name of a checkpoint of the student's shape.
        family: None for a model of the teacher's family; a Transformers model type such as ``"electra"`` for one of
            that family with the teacher's head, vocabulary and labels, whose weights are random unless ``init`` is
            ``"importance"`` or ``"svd"``; ``"bigru"`` for a recurrent one, see :class:`~textbrewer.BiGRUStudent`.
        embedding_size: width of the token embeddings, for families where it may differ from ``hidden_size``. None for
            the teacher's in its own family and in a BiGRU, else for the family's default.
        freeze_embeddings: the student's token embeddings are not trained.

    >>> StudentConfig(num_layers=3).layers
    'evenly'
    """

    num_layers: Positive
    hidden_size: Positive | None = None
    num_attention_heads: Positive | None = None
    intermediate_size: Positive | None = None
    layers: Annotated[str | list[Annotated[int, Field(ge=0)]], BeforeValidator(_layers)] = "evenly"
    init: str = "teacher"
    family: str | None = None
    embedding_size: Positive | None = None
    freeze_embeddings: bool = False


def _task(value: Any) -> Any:
    return known_name(value, HEAD_TASKS)


def _pooling(value: Any) -> Any:
    return known_name(value, POOLINGS)


def _problem_type(value: Any) -> Any:
    return None if value is None else known_name(value, PROBLEM_TYPES)


@config_class
class HeadConfig(Config):
    """What a head makes of hidden states.

    Args:
        task: ``"text-classification"``, ``"token-classification"`` or ``"question-answering"``.
        num_labels: classes; 2 for answers, which have a start and an end.
        labels: their names, in order.
        problem_type: of a text: ``"regression"``, ``"single_label_classification"`` or
            ``"multi_label_classification"``. None decides as Transformers does: regression for one class, else a
            single label where labels are integers and several where they are not.
        pooling: how the tokens of a text become one: ``"first"`` is a dense layer with tanh on the first token,
            ``"max"`` the largest value of each feature over the real tokens.
        dropout: before the last layer.

    >>> HeadConfig(num_labels=3, labels=["no", "maybe", "yes"]).id2label
    {0: 'no', 1: 'maybe', 2: 'yes'}
    """

    task: Annotated[str, BeforeValidator(_task)] = "text-classification"
    num_labels: Positive = 2
    labels: list[str] | None = None
    problem_type: Annotated[str | None, BeforeValidator(_problem_type)] = None
    pooling: Annotated[str, BeforeValidator(_pooling)] = "first"
    dropout: Dropout = 0.1

    @model_validator(mode="after")
    def _labels_are_counted(self) -> HeadConfig:
        if self.labels is not None and len(self.labels) != self.num_labels:
            named = count_of(len(self.labels), "name")
            raise reject("as many labels as num_labels", got=f"{named}, num_labels={self.num_labels}")
        if self.task == "question-answering" and self.num_labels != 2:
            raise reject("num_labels=2 for question-answering: start and end", got=self.num_labels)
        return self

    @property
    def id2label(self) -> dict[int, str] | None:
        """The names by number, as in a Transformers config."""
        return None if self.labels is None else dict(enumerate(self.labels))


@config_class
class BiGRUConfig(Config):
    """The size of a :class:`~textbrewer.BiGRUStudent`.

    Args:
        vocab_size: tokens.
        hidden_size: width of the hidden states, and of each direction.
        num_layers: recurrent layers.
        embedding_size: width of the token embeddings.
        dropout: before each layer.
        head: None for an encoder without one.
    """

    vocab_size: Positive
    hidden_size: Positive = 768
    num_layers: Positive = 1
    embedding_size: Positive = 768
    dropout: Dropout = 0.1
    head: HeadConfig | None = None

    @property
    def id2label(self) -> dict[int, str] | None:
        """The names of the head's classes by number, as in a Transformers config."""
        return self.head.id2label if self.head else None
