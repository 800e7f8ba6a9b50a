"""Pure functions: tensors in, tensor out."""

from collections.abc import Callable
from typing import Any

from ._reduce import full_precision, masked_mean
from .features import (
    att_ce_loss,
    att_ce_mean_loss,
    att_mse_loss,
    att_mse_sum_loss,
    attention_kl_loss,
    attention_mse_valid_loss,
    cos_loss,
    cos_valid_loss,
    fsp_loss,
    gram_valid_loss,
    hid_mse_loss,
    hidden_mse_valid_loss,
    mmd_loss,
    mmd_valid_loss,
    pkd_loss,
)
from .logits import kd_ce_loss, kd_mse_loss, kl_loss
from .many_to_many import ManyToManyLoss

COUNT_UNITS: dict[Callable[..., Any], str] = {
    kl_loss: "logit_rows",
    hidden_mse_valid_loss: "tokens",
    cos_valid_loss: "tokens",
    attention_mse_valid_loss: "token_pairs",
    attention_kl_loss: "tokens",
    gram_valid_loss: "rows",
    mmd_valid_loss: "token_pairs",
}
"""The losses that take ``count``, and what it counts: rows of the batch, valid tokens, valid pairs of tokens
(Σ length²), or rows of logits (rows for 2-d logits; for 3-d the selected positions, or all without a mask)."""

__all__ = [
    "COUNT_UNITS",
    "ManyToManyLoss",
    "att_ce_loss",
    "att_ce_mean_loss",
    "att_mse_loss",
    "att_mse_sum_loss",
    "attention_kl_loss",
    "attention_mse_valid_loss",
    "cos_loss",
    "cos_valid_loss",
    "fsp_loss",
    "full_precision",
    "gram_valid_loss",
    "hid_mse_loss",
    "hidden_mse_valid_loss",
    "kd_ce_loss",
    "kd_mse_loss",
    "kl_loss",
    "masked_mean",
    "mmd_loss",
    "mmd_valid_loss",
    "pkd_loss",
]
