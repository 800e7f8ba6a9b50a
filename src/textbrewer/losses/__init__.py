"""Pure functions: tensors in, tensor out."""

import functools
from collections.abc import Callable
from typing import Any

from ._reduce import full_precision, masked_mean
from .activations import at_loss, feature_map_loss, nst_gaussian_loss, nst_polynomial_loss
from .attention_relations import RelationLoss, query_key_kl_loss, query_key_mse_loss, relation_kl_loss
from .contrastive import CRDLoss
from .correlation import dist_loss
from .elementwise import bce_loss, binary_kl_loss, huber_loss, logit_mse_loss
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
from .labelled import dkd_loss, tf_kd_loss
from .logits import focal_kl_loss, jsd_loss, kd_ce_loss, kd_mse_loss, kl_loss, reverse_kl_loss
from .many_to_many import ManyToManyLoss
from .ranking import listnet_loss, margin_mse_loss, ranknet_loss
from .relations import (
    embedding_mse_loss,
    principal_components,
    rkd_angle_loss,
    rkd_distance_loss,
    similarity_preserving_loss,
    takes_mask_T,
)
from .similarity import cka, cka_loss
from .standardised import StandardisedLoss, standardised_kl_loss, standardised_logits
from .variational import VariationalLoss

COUNT_UNITS: dict[Callable[..., Any], str] = {
    kl_loss: "logit_rows",
    reverse_kl_loss: "logit_rows",
    jsd_loss: "logit_rows",
    focal_kl_loss: "logit_rows",
    standardised_kl_loss: "logit_rows",
    dkd_loss: "logit_rows",
    tf_kd_loss: "logit_rows",
    bce_loss: "logit_rows",
    binary_kl_loss: "logit_rows",
    logit_mse_loss: "logit_rows",
    huber_loss: "logit_rows",
    ranknet_loss: "logit_rows",
    listnet_loss: "logit_rows",
    margin_mse_loss: "logit_rows",
    embedding_mse_loss: "rows",
    hidden_mse_valid_loss: "tokens",
    cos_valid_loss: "tokens",
    attention_mse_valid_loss: "token_pairs",
    attention_kl_loss: "tokens",
    gram_valid_loss: "rows",
    mmd_valid_loss: "token_pairs",
    relation_kl_loss: "tokens",
    query_key_kl_loss: "tokens",
    query_key_mse_loss: "token_pairs",
    at_loss: "rows",
    nst_polynomial_loss: "rows",
    nst_gaussian_loss: "rows",
    feature_map_loss: "tokens",
}
"""The losses that take ``count``, and what it counts: rows of the batch, valid tokens, valid pairs of tokens
(Σ length²), or rows of logits (rows for 2-d logits; for 3-d the selected positions, or all without a mask)."""


NEEDS_LABELS: frozenset[Callable[..., Any]] = frozenset({dkd_loss, tf_kd_loss})
"""The losses between logits that take ``labels``, one class index for each row of the logits."""


OVER_CLASSES: frozenset[Callable[..., Any]] = frozenset(
    {kd_ce_loss, kl_loss, reverse_kl_loss, jsd_loss, focal_kl_loss, dkd_loss, standardised_kl_loss}
)
"""The losses between distributions over classes, of which one class alone says nothing."""


def unit_of(loss: Callable[..., Any]) -> str:
    """What the ``count`` of a loss counts: of an object its own ``count_unit``, else as :data:`COUNT_UNITS` says.

    Empty for a loss that takes no count. A loss with some arguments given, or in a wrapper, counts what it always does.

    >>> unit_of(kl_loss), unit_of(RelationLoss(48)), unit_of(hid_mse_loss)
    ('logit_rows', 'tokens', '')
    >>> unit_of(functools.partial(jsd_loss, beta=0.1))
    'logit_rows'
    """
    loss = function_of(loss)
    return str(getattr(loss, "count_unit", "") or COUNT_UNITS.get(loss, ""))


def needs_labels(loss: Callable[..., Any]) -> bool:
    """Whether a loss between logits, or one inside a wrapper, takes the ``labels`` of :data:`NEEDS_LABELS`.

    >>> needs_labels(StandardisedLoss(functools.partial(dkd_loss, beta=2.0))), needs_labels(kl_loss)
    (True, False)
    """
    return function_of(loss) in NEEDS_LABELS


def needs_index(loss: Callable[..., Any]) -> bool:
    """Whether a loss takes the ``index`` of each row, which example of the data it is.

    >>> needs_index(CRDLoss(2, 4, 4)), needs_index(hid_mse_loss)
    (True, False)
    """
    return bool(getattr(function_of(loss), "needs_index", False))


def function_of(loss: Callable[..., Any]) -> Callable[..., Any]:
    """The function that partials and wrappers end up calling.

    >>> function_of(StandardisedLoss(functools.partial(jsd_loss, beta=0.1))) is jsd_loss
    True
    """
    inner = loss.func if isinstance(loss, functools.partial) else getattr(loss, "__wrapped__", None)
    return loss if inner is None else function_of(inner)


__all__ = [
    "COUNT_UNITS",
    "NEEDS_LABELS",
    "OVER_CLASSES",
    "CRDLoss",
    "ManyToManyLoss",
    "RelationLoss",
    "StandardisedLoss",
    "VariationalLoss",
    "at_loss",
    "att_ce_loss",
    "att_ce_mean_loss",
    "att_mse_loss",
    "att_mse_sum_loss",
    "attention_kl_loss",
    "attention_mse_valid_loss",
    "bce_loss",
    "binary_kl_loss",
    "cka",
    "cka_loss",
    "cos_loss",
    "cos_valid_loss",
    "dist_loss",
    "dkd_loss",
    "embedding_mse_loss",
    "feature_map_loss",
    "focal_kl_loss",
    "fsp_loss",
    "full_precision",
    "function_of",
    "gram_valid_loss",
    "hid_mse_loss",
    "hidden_mse_valid_loss",
    "huber_loss",
    "jsd_loss",
    "kd_ce_loss",
    "kd_mse_loss",
    "kl_loss",
    "listnet_loss",
    "logit_mse_loss",
    "margin_mse_loss",
    "masked_mean",
    "mmd_loss",
    "mmd_valid_loss",
    "needs_index",
    "needs_labels",
    "nst_gaussian_loss",
    "nst_polynomial_loss",
    "pkd_loss",
    "principal_components",
    "query_key_kl_loss",
    "query_key_mse_loss",
    "ranknet_loss",
    "relation_kl_loss",
    "reverse_kl_loss",
    "rkd_angle_loss",
    "rkd_distance_loss",
    "similarity_preserving_loss",
    "standardised_kl_loss",
    "standardised_logits",
    "takes_mask_T",
    "tf_kd_loss",
    "unit_of",
]
