"""The student sizes of TextBrewer's experiments, by name."""

from __future__ import annotations

from ..configs import StudentConfig
from ..errors import UnknownNameError, did_you_mean, one_of

STUDENT_PRESETS: dict[str, StudentConfig] = {
    "T6": StudentConfig(num_layers=6, hidden_size=768, intermediate_size=3072),
    "T3": StudentConfig(num_layers=3, hidden_size=768, intermediate_size=3072),
    "T3-small": StudentConfig(num_layers=3, hidden_size=384, intermediate_size=1536),
    "T4-tiny": StudentConfig(num_layers=4, hidden_size=312, num_attention_heads=12, intermediate_size=1200),
    "T12-nano": StudentConfig(num_layers=12, hidden_size=256, intermediate_size=1024),
    "ELECTRA-small": StudentConfig(
        num_layers=12,
        hidden_size=256,
        num_attention_heads=4,
        intermediate_size=1024,
        family="electra",
        embedding_size=128,
    ),
    "BiGRU": StudentConfig(num_layers=1, hidden_size=768, family="bigru"),
}
"""Layers, widths and feed-forward widths; heads that are not given follow from the teacher's width of a head.

``ELECTRA-small`` is of the ELECTRA family whatever the teacher is, and ``BiGRU`` has recurrent layers.
"""


def preset(name: str) -> StudentConfig:
    """The preset called ``name``.

    Raises:
        UnknownNameError: there is none; the message lists them.
    """
    if name not in STUDENT_PRESETS:
        hint = did_you_mean(name, STUDENT_PRESETS)
        raise UnknownNameError(f"student: expected {one_of(STUDENT_PRESETS)}, got {name!r}; {hint}".removesuffix("; "))
    return STUDENT_PRESETS[name]
