"""What a student looks like."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from ..errors import one_of
from ._base import Config, config_class, known_name, reject

LAYER_CHOICES = ("first", "evenly", "last")


def _layers(value: Any) -> Any:
    if isinstance(value, str):
        return known_name(value, LAYER_CHOICES)
    if not isinstance(value, list):
        raise reject(f"{one_of(LAYER_CHOICES)}, or a list of teacher layers")
    return value


Positive = Annotated[int, Field(ge=1)]


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
        init: ``"teacher"`` copies every weight that fits, ``"random"`` none; anything else is a folder or hub name
            of a checkpoint of the student's shape.

    >>> StudentConfig(num_layers=3).layers
    'evenly'
    """

    num_layers: Positive
    hidden_size: Positive | None = None
    num_attention_heads: Positive | None = None
    intermediate_size: Positive | None = None
    layers: Annotated[str | list[Annotated[int, Field(ge=0)]], BeforeValidator(_layers)] = "evenly"
    init: str = "teacher"
