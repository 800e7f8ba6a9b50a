"""The tables of names: complete, open to new names, and clear about what does not fit."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
from unittest.mock import patch

import pytest
import torch

from textbrewer import (
    KD_LOSS_MAP,
    MATCH_LOSS_MAP,
    PROJ_MAP,
    TEMPERATURE_SCHEDULER,
    WEIGHT_SCHEDULER,
    losses,
    projections,
    register_new,
    schedules,
)
from textbrewer.errors import MatchError, UnknownNameError
from textbrewer.presets import ANY_WIDTH_MATCH_LOSSES, PAIRED_MATCH_LOSSES, options_of

TABLES = {
    "kd_loss": KD_LOSS_MAP,
    "match_Loss": MATCH_LOSS_MAP,
    "match_loss": MATCH_LOSS_MAP,
    "projection": PROJ_MAP,
    "weight_scheduler": WEIGHT_SCHEDULER,
    "temperature_scheduler": TEMPERATURE_SCHEDULER,
}
# The names that configs of TextBrewer 0.2.1 may hold.
ORIGINAL = {
    "kd_loss": {"mse", "ce"},
    "match_Loss": {
        *("attention_mse_sum", "attention_mse", "attention_ce_mean", "attention_ce"),
        *("hidden_mse", "cos", "pkd", "fsp", "gram", "mmd", "nst"),
    },
    "projection": {"linear", "relu", "tanh"},
    "weight_scheduler": {"linear_decay", "linear_growth"},
    "temperature_scheduler": {"constant", "flsw", "cwsm"},
}
OWN_NAME = {"fsp": "gram", "nst": "mmd"}
BORROWING = {"attention_mse_sum", "attention_ce_mean"}
# Losses with parameters are classes, and each match makes its own object.
TRAINED = {"VariationalLoss", "CRDLoss"}


def public(module, ending):
    return {name for name in vars(module) if name.endswith(ending) and not name.startswith("_")}


def made(name, width_S, width_T):
    """The loss of a name as a match of three rows calls it."""
    loss = MATCH_LOSS_MAP[name]
    if name == "crd":
        return functools.partial(loss(9, width_S, width_T), index=torch.arange(3))
    return loss() if isinstance(loss, type) else loss


@pytest.mark.parametrize("map_name", ORIGINAL)
def test_the_original_names_are_there(map_name):
    assert ORIGINAL[map_name] <= TABLES[map_name].keys()


@pytest.mark.parametrize(
    ("tables", "functions"),
    [
        ([KD_LOSS_MAP, MATCH_LOSS_MAP], {name for name in losses.__all__ if name.endswith("_loss")} | TRAINED),
        ([PROJ_MAP], public(projections, "_projection")),
        (
            [WEIGHT_SCHEDULER],
            public(schedules, "_weight_scheduler") | public(schedules, "_weight_scheduler_builder"),
        ),
        (
            [TEMPERATURE_SCHEDULER],
            public(schedules, "_temperature_scheduler") | public(schedules, "_temperature_scheduler_builder"),
        ),
    ],
    ids=["losses", "projections", "weights", "temperatures"],
)
def test_every_function_has_a_name_and_every_name_a_function(tables, functions):
    named = [function.__name__ for table in tables for function in set(table.values())]
    assert sorted(named) == sorted(functions)


def test_all_of_losses_is_what_the_module_has():
    assert {name for name in losses.__all__ if not hasattr(losses, name)} == set()
    assert public(losses, "_loss") <= set(losses.__all__)


def test_the_losses_that_count_are_those_that_take_a_count():
    taking = {
        f for f in [*KD_LOSS_MAP.values(), *MATCH_LOSS_MAP.values()] if "count" in inspect.signature(f).parameters
    }
    assert losses.COUNT_UNITS.keys() == taking
    assert set(losses.COUNT_UNITS.values()) <= {"rows", "tokens", "token_pairs", "logit_rows"}


def test_losses_that_take_any_widths_are_those_that_do():
    taking = set()
    for name in [name for name in MATCH_LOSS_MAP if not name.startswith("attention")]:
        loss = made(name, 12, 24)
        try:
            loss(*sides(name, (3, 3, 12), (3, 3, 24)))
        except MatchError:
            continue
        taking.add(name)
    assert taking == ANY_WIDTH_MATCH_LOSSES


def test_paired_losses_are_those_that_refuse_a_single_layer():
    refusing = set()
    for name in MATCH_LOSS_MAP:
        layer = torch.rand((3, 2, 3, 3) if "attention" in name else (3, 3, 12))
        try:
            made(name, 12, 12)(layer, layer)
        except MatchError as error:
            refusing.add(name)
            assert f"{OWN_NAME.get(name, name)}: two layers a side are needed, got one; write layer_T: [i, j]" in str(
                error
            )
    assert refusing == PAIRED_MATCH_LOSSES


@pytest.mark.parametrize("map_name", TABLES)
def test_a_new_name_is_known_by_every_map(map_name):
    def mine(*arguments):
        return arguments

    with patch.dict(TABLES[map_name]):
        register_new(map_name, "mine", mine)
        assert "mine" in TABLES[map_name]
        assert TABLES[map_name]["mine"] is mine


def test_a_known_name_can_be_replaced():
    with patch.dict(KD_LOSS_MAP):
        register_new("kd_loss", "ce", losses.kl_loss)
        assert KD_LOSS_MAP["ce"] is losses.kl_loss


def test_a_new_temperature_schedule_is_built_with_its_parameters():
    with patch.dict(TEMPERATURE_SCHEDULER):
        register_new("temperature_scheduler", "mine", lambda a, b: lambda S, T, base: (a, b, base))
        for key in (("mine", 1, 2), ["mine", 1, 2]):
            assert TEMPERATURE_SCHEDULER[key](None, None, 8) == (1, 2, 8)


@pytest.mark.parametrize("map_name", ["match_los", "", None, "Kd_Loss"])
def test_an_unknown_map_is_told_with_those_there_are(map_name):
    with pytest.raises(UnknownNameError) as caught:
        register_new(map_name, "mine", len)
    assert str(caught.value).startswith("register_new: expected one of 'kd_loss', 'match_Loss', ")
    assert f"got {map_name!r}" in str(caught.value)


@pytest.mark.parametrize("func", [None, 3, "ce", ["ce"]], ids=str)
def test_what_cannot_be_called_is_refused(func):
    with pytest.raises(TypeError, match=f"register_new: 'mine' must be a function, got {type(func).__name__}"):
        register_new("kd_loss", "mine", func)
    assert "mine" not in KD_LOSS_MAP


@pytest.mark.parametrize(
    ("table", "name", "tail"),
    [
        (KD_LOSS_MAP, "cee", "'listnet', 'margin_mse', got 'cee'; did you mean 'ce'?"),
        (MATCH_LOSS_MAP, "hidden_msee", "got 'hidden_msee'; did you mean 'hidden_mse'?"),
        (PROJ_MAP, "linaer", "one of 'linear', 'relu', 'tanh', got 'linaer'; did you mean 'linear'?"),
        (WEIGHT_SCHEDULER, "zzz", "'linear', 'cosine', 'steps', got 'zzz'"),
        (TEMPERATURE_SCHEDULER, "flws", "got 'flws'; did you mean 'flsw'?"),
        (TEMPERATURE_SCHEDULER, ("flws", 1, 2), "got 'flws'; did you mean 'flsw'?"),
        (KD_LOSS_MAP, None, "got None"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest(table, name, tail):
    with pytest.raises(UnknownNameError) as caught:
        table[name]
    assert str(caught.value).endswith(tail)
    assert isinstance(caught.value, KeyError)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_a_table_is_a_dict(table):
    name = next(iter(table))
    assert isinstance(table, dict)
    assert "none such" not in table
    assert table.get("none such") is None
    for copied in (copy.copy(table), copy.deepcopy(table), pickle.loads(pickle.dumps(table))):
        assert copied == table
        assert copied is not table
        assert copied[name] is table[name]


def sides(name, shape_S, shape_T):
    layers = [torch.ones(shape) for shape in (shape_S, shape_T)]
    return [[layer, layer] for layer in layers] if name in PAIRED_MATCH_LOSSES else layers


def refusal(name, *arguments, **keywords):
    loss = made(name, 3, 3)
    with pytest.raises(MatchError) as caught:
        loss(*arguments, **keywords)
    message = str(caught.value)
    assert message.startswith(f"{OWN_NAME.get(name, name)}: ")
    return message


@pytest.mark.parametrize("name", ["hidden_mse", "cos", "pkd", "hidden_mse_valid", "cos_valid", "feature_map", "vid"])
def test_other_widths_are_told_with_the_projection(name):
    message = refusal(name, torch.ones(2, 4, 3), torch.ones(2, 4, 5))
    assert "teacher [2, 4, 5] and student [2, 4, 3] differ in the last axis; add proj=['linear', 3, 5]" in message
    assert "proj" not in refusal(name, torch.ones(2, 4, 3), torch.ones(2, 5, 3))


@pytest.mark.parametrize("name", ["attention_mse", "attention_ce", "attention_mse_valid", "attention_kl"])
def test_other_heads_are_told_with_the_losses_that_take_them(name):
    message = refusal(name, torch.ones(2, 2, 4, 4), torch.ones(2, 3, 4, 4))
    assert (
        "teacher [2, 3, 4, 4] and student [2, 2, 4, 4] differ in the number of heads; use attention_mse_sum" in message
    )


@pytest.mark.parametrize("name", [name for name in MATCH_LOSS_MAP if "attention" in name])
@pytest.mark.parametrize("shape", [(2, 2, 5, 5), (1, 2, 4, 4)], ids=str)
def test_maps_of_other_sizes_are_told(name, shape):
    student, teacher = [2, 2, 4, 4], list(shape)
    if name in BORROWING:
        del student[1], teacher[1]
    assert f"teacher {teacher} and student {student} differ" in refusal(name, torch.ones(2, 2, 4, 4), torch.ones(shape))


@pytest.mark.parametrize("name", sorted(PAIRED_MATCH_LOSSES))
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_a_pair_is_two_layers(name, layers):
    message = refusal(name, [torch.ones(2, 4, 3)] * layers, [torch.ones(2, 4, 3)] * 2)
    assert f"two layers a side are needed, got {layers}; write layer_T: [i, j] and layer_S: [i, j]" in message


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 1, 3), (1, 4, 3)], ids=str)
@pytest.mark.parametrize("name", ["mmd", "nst", "mmd_valid"])
def test_similarities_of_other_sizes_are_told(name, shape, masked):
    message = refusal(name, *sides(name, (2, 4, 3), shape), mask=torch.ones(2, 4) if masked else None)
    assert "student [2, 4, 4]" in message


@pytest.mark.parametrize("name", ["gram", "fsp", "gram_valid"])
def test_gram_matrices_of_other_widths_are_told_with_the_projection(name):
    message = refusal(name, *sides(name, (2, 4, 3), (2, 4, 5)))
    assert "teacher [5, 5] and student [3, 3] differ" in message
    assert "add proj=['linear', 3, 5], or use mmd" in message


@pytest.mark.parametrize("name", ["gram", "fsp", "gram_valid"])
def test_gram_matrices_of_other_rows_are_not_told_as_widths(name):
    message = refusal(name, *sides(name, (2, 4, 3), (1, 4, 3)))
    assert "teacher [1, 3, 3] and student [2, 3, 3] differ" in message
    assert "width" not in message


@pytest.mark.parametrize("mask_shape", [(4,), (1, 4), (2, 3), (2, 1, 4)], ids=str)
@pytest.mark.parametrize("name", sorted(MATCH_LOSS_MAP.keys() - {"pkd"}))
def test_a_mask_of_another_shape_is_told(name, mask_shape):
    shape = (2, 2, 4, 4) if "attention" in name else (2, 4, 3)
    message = refusal(name, *sides(name, shape, shape), mask=torch.ones(mask_shape))
    assert f"the mask is {list(mask_shape)}, but the feature" in message
    assert message.endswith("needs [2, 4]")


def test_a_name_is_looked_up_with_its_options():
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(3, 4)
    for key in (("jsd", 0.1), ["jsd", 0.1], {"name": "jsd", "beta": 0.1}):
        found = KD_LOSS_MAP[key]
        assert torch.equal(found(*logits), losses.jsd_loss(*logits, beta=0.1))
        assert (found.__name__, losses.unit_of(found)) == ("jsd_loss", "logit_rows")
    assert MATCH_LOSS_MAP["vid", 7].alpha.shape == (7,)
    assert MATCH_LOSS_MAP["vid", 7] is not MATCH_LOSS_MAP["vid", 7]
    assert MATCH_LOSS_MAP.entry(["vid", 7]) is losses.VariationalLoss
    assert WEIGHT_SCHEDULER["linear", 4, 2](0.5) == 3
    assert KD_LOSS_MAP[["kl"]] is losses.kl_loss


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (losses.kl_loss, []),
        (losses.dkd_loss, ["alpha", "beta"]),
        (losses.relation_kl_loss, ["heads"]),
        (losses.embedding_mse_loss, ["pooling", "components"]),
        (losses.VariationalLoss, ["width", "variance"]),
        (
            losses.CRDLoss,
            ["examples", "width_S", "width_T", "width", "negatives", "temperature", "momentum", "pooling"],
        ),
        (lambda S, T, temperature, alpha=1, **more: None, ["alpha"]),
        (lambda S, T, mask=None, *, alpha: None, ["alpha"]),
    ],
)
def test_the_options_of_a_loss_are_what_no_batch_brings(loss, options):
    assert list(options_of(loss)) == options
