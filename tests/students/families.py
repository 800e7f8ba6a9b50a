"""Tiny teachers of every family, which the tests of students share."""

from __future__ import annotations

import pytest

transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")

SIZES = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 32}
FAMILIES = {
    "Bert": SIZES,
    "Roberta": SIZES,
    "Electra": SIZES | {"embedding_size": 8},
    "DistilBert": {"vocab_size": 60, "dim": 16, "n_layers": 6, "n_heads": 2, "hidden_dim": 32},
    "DebertaV2": SIZES,
    "ModernBert": SIZES
    | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
}


def teacher_of(family="Bert", head="ForSequenceClassification", **changes):
    config = getattr(transformers, f"{family}Config")(**{**FAMILIES[family], "num_labels": 4, **changes})
    return getattr(transformers, f"{family}{head}")(config).eval()
