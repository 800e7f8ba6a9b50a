"""The tables of names that configs use. They are plain dicts: ``MATCH_LOSS_MAP["mine"] = f`` adds a name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from . import balancing, losses, schedules
from .errors import UnknownNameError, did_you_mean, one_of
from .projections import linear_projection, relu_projection, tanh_projection


class Table(dict[str, Callable[..., Any]]):
    """A dict whose lookup of an unknown name says which names there are.

    A name is looked up alone or with options, with which the entry is called: ``table["flsw", 1, 2]`` or
    ``table[["flsw", 1, 2]]`` in their order, or ``table[{"name": "flsw", "beta": 1, "gamma": 2}]``.
    """

    def __init__(self, what: str, entries: dict[str, Callable[..., Any]]) -> None:
        super().__init__(entries)
        self.what = what

    def __missing__(self, name: object) -> Callable[..., Any]:
        hint = did_you_mean(name, self)
        raise UnknownNameError(f"{self.what}: expected {one_of(self)}, got {name!r}; {hint}".removesuffix("; "))

    def __getitem__(self, key: Any) -> Callable[..., Any]:
        _, positional, named = asked(key)
        entry = self.entry(key)
        return self._with_options(entry, positional, named) if positional or named else entry

    def entry(self, key: Any) -> Callable[..., Any]:
        """What stands under a name, whatever options come with it."""
        return super().__getitem__(asked(key)[0])

    def _with_options(self, entry: Callable[..., Any], positional: Any, named: Any) -> Callable[..., Any]:
        made: Callable[..., Any] = entry(*positional, **named)
        return made


class LossTable(Table):
    """Losses; with options, a class becomes an object, and a function the same function with them filled in.

    >>> MATCH_LOSS_MAP["relation_kl", 48].keywords
    {'heads': 48}
    """

    def _with_options(self, entry: Callable[..., Any], positional: Any, named: Any) -> Callable[..., Any]:
        if isinstance(entry, type):
            return super()._with_options(entry, positional, named)
        options = {**dict(zip(options_of(entry), positional, strict=False)), **named}
        return functools.update_wrapper(functools.partial(entry, **options), entry)


def asked(key: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """A name and its options, of ``"kl"``, ``["jsd", 0.1]`` or ``{"name": "jsd", "beta": 0.1}``.

    >>> asked(["jsd", 0.1]), asked({"name": "jsd", "beta": 0.1})
    (('jsd', (0.1,), {}), ('jsd', (), {'beta': 0.1}))
    """
    if isinstance(key, Mapping):
        return key.get("name"), (), {option: value for option, value in key.items() if option != "name"}
    if isinstance(key, (list, tuple)):
        return (key[0] if key else None), tuple(key[1:]), {}
    return key, (), {}


_PASSED = frozenset({"temperature", "mask", "mask_T", "count", "labels", "index"})


def options_of(loss: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The options of a loss in their order: what it takes beside the two sides and what comes with every batch.

    >>> list(options_of(losses.jsd_loss)), list(options_of(losses.VariationalLoss))
    (['beta'], ['width', 'variance'])
    """
    parameters = list(inspect.signature(loss).parameters.values())
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    own = parameters if isinstance(loss, type) else [p for p in parameters[2:] if p.name not in _PASSED]
    return {p.name: p for p in own if p.kind not in several}


KD_LOSS_MAP = LossTable(
    "kd_loss",
    {
        "ce": losses.kd_ce_loss,
        "mse": losses.kd_mse_loss,
        "kl": losses.kl_loss,
        "reverse_kl": losses.reverse_kl_loss,
        "jsd": losses.jsd_loss,
        "focal_kl": losses.focal_kl_loss,
        "standardised_kl": losses.standardised_kl_loss,
        "dkd": losses.dkd_loss,
        "tf_kd": losses.tf_kd_loss,
        "dist": losses.dist_loss,
        "bce": losses.bce_loss,
        "binary_kl": losses.binary_kl_loss,
        "logit_mse": losses.logit_mse_loss,
        "huber": losses.huber_loss,
        "ranknet": losses.ranknet_loss,
        "listnet": losses.listnet_loss,
        "margin_mse": losses.margin_mse_loss,
    },
)
"""Losses between logits: ``f(logits_S, logits_T, temperature)``, and ``labels=`` for those of
:data:`~textbrewer.losses.NEEDS_LABELS`."""

MATCH_LOSS_MAP = LossTable(
    "match_loss",
    {
        "attention_mse_sum": losses.att_mse_sum_loss,
        "attention_mse": losses.att_mse_loss,
        "attention_ce_mean": losses.att_ce_mean_loss,
        "attention_ce": losses.att_ce_loss,
        "hidden_mse": losses.hid_mse_loss,
        "cos": losses.cos_loss,
        "pkd": losses.pkd_loss,
        "gram": losses.fsp_loss,
        "fsp": losses.fsp_loss,
        "mmd": losses.mmd_loss,
        "nst": losses.mmd_loss,
        "hidden_mse_valid": losses.hidden_mse_valid_loss,
        "cos_valid": losses.cos_valid_loss,
        "attention_mse_valid": losses.attention_mse_valid_loss,
        "attention_kl": losses.attention_kl_loss,
        "gram_valid": losses.gram_valid_loss,
        "mmd_valid": losses.mmd_valid_loss,
        "relation_kl": losses.relation_kl_loss,
        "query_key_kl": losses.query_key_kl_loss,
        "query_key_mse": losses.query_key_mse_loss,
        "at": losses.at_loss,
        "nst_polynomial": losses.nst_polynomial_loss,
        "nst_gaussian": losses.nst_gaussian_loss,
        "feature_map": losses.feature_map_loss,
        "cka": losses.cka_loss,
        "vid": losses.VariationalLoss,
        "rkd_distance": losses.rkd_distance_loss,
        "rkd_angle": losses.rkd_angle_loss,
        "similarity_preserving": losses.similarity_preserving_loss,
        "embedding_mse": losses.embedding_mse_loss,
        "crd": losses.CRDLoss,
    },
)
"""Losses between intermediate features: ``f(S, T, mask=None)``, or a class of these with parameters to train, of which
each match has an object of its own."""

PAIRED_MATCH_LOSSES = frozenset(
    {"gram", "fsp", "mmd", "nst", "gram_valid", "mmd_valid", "query_key_kl", "query_key_mse"}
)
"""The match losses that take two layers a side."""

ANY_WIDTH_MATCH_LOSSES = frozenset(
    {
        *("mmd", "nst", "mmd_valid", "relation_kl", "query_key_kl", "query_key_mse"),
        *("at", "nst_polynomial", "nst_gaussian", "cka"),
        *("rkd_distance", "rkd_angle", "similarity_preserving", "crd"),
    }
)
"""The match losses between hidden states of any two widths, which need no projection."""

PROJ_MAP = Table("projection", {"linear": linear_projection, "relu": relu_projection, "tanh": tanh_projection})
"""Builders of projections: ``f(dim_in, dim_out) -> module``."""

BALANCE = LossTable("balance", {"uncertainty": balancing.UncertaintyWeights, "gradient_norm": balancing.GradientNorms})
"""Classes of what makes the total of an objective's terms, in place of their weighted sum."""

WEIGHT_SCHEDULER = Table(
    "weight_scheduler",
    {
        "linear_decay": schedules.linear_decay_weight_scheduler,
        "linear_growth": schedules.linear_growth_weight_scheduler,
        "linear": schedules.linear_weight_scheduler_builder,
        "cosine": schedules.cosine_weight_scheduler_builder,
        "steps": schedules.steps_weight_scheduler_builder,
    },
)
"""Weight schedules: ``f(progress in [0, 1]) -> weight``, and builders of them."""

TEMPERATURE_SCHEDULER = Table(
    "temperature_scheduler",
    {
        "constant": schedules.constant_temperature_scheduler,
        "flsw": schedules.flsw_temperature_scheduler_builder,
        "cwsm": schedules.cwsm_temperature_scheduler_builder,
    },
)
"""Temperature schedules: ``f(logits_S, logits_T, base) -> τ``, and builders of them."""

_TABLES: dict[str, Table] = {
    "kd_loss": KD_LOSS_MAP,
    "match_Loss": MATCH_LOSS_MAP,
    "match_loss": MATCH_LOSS_MAP,
    "projection": PROJ_MAP,
    "weight_scheduler": WEIGHT_SCHEDULER,
    "temperature_scheduler": TEMPERATURE_SCHEDULER,
}


def register_new(map_name: str, name: str, func: Callable[..., Any]) -> None:
    """Add a function of your own under a name that configs can use.

    Args:
        map_name: ``kd_loss``, ``match_Loss`` (TextBrewer's spelling; ``match_loss`` too), ``projection``,
            ``weight_scheduler`` or ``temperature_scheduler``.
        name: the new name.
        func: see the table of that name for its signature.

    Raises:
        UnknownNameError: there is no such table.
        TypeError: ``func`` cannot be called.
    """
    if map_name not in _TABLES:
        hint = did_you_mean(map_name, _TABLES)
        raise UnknownNameError(f"register_new: expected {one_of(_TABLES)}, got {map_name!r}; {hint}".removesuffix("; "))
    if not callable(func):
        raise TypeError(f"register_new: {name!r} must be a function, got {type(func).__name__}")
    _TABLES[map_name][name] = func
