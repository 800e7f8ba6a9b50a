"""Rules of matches against their formulas over all depths, and the named sets against TextBrewer's numbers."""

from __future__ import annotations

import doctest
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textbrewer import DistillationConfig, matches
from textbrewer.errors import ConfigError, UnknownNameError
from textbrewer.losses import RelationLoss
from textbrewer.presets import ANY_WIDTH_MATCH_LOSSES, MATCH_LOSS_MAP, PAIRED_MATCH_LOSSES

RULES = {
    "uniform": (matches.uniform, lambda i, T, S: round(i * T / S)),
    "first": (matches.first, lambda i, T, S: i),
    "last": (matches.last, lambda i, T, S: T - S + i),
    "skip": (matches.skip, lambda i, T, S: (T // S) * i),
}
STUDENTS = [f"L{S}{letter}" for S in range(1, 13) for letter in ("", "t", "n", "l")] + ["small", "es"]
KINDS = ["hidden_mse", "hidden_smmd", "hidden_sgram"]
KINDS += ["attention_mse", "attention_mse_sum", "attention_ce", "attention_ce_mean"]
NAMES = [f"{student}_{kind}" for student in STUDENTS for kind in KINDS]
DEPTHS = st.integers(1, 200).flatmap(lambda T: st.tuples(st.just(T), st.integers(1, T)))


def layers(found, side):
    return [match[f"layer_{side}"] for match in found]


def problems_of(rule, *args, **kwargs):
    with pytest.raises(ConfigError) as caught:
        rule(*args, **kwargs)
    return {problem.path: problem for problem in caught.value.problems}


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=60, deadline=None)
@given(depths=DEPTHS)
def test_a_rule_is_its_formula_and_rises_within_the_teacher(name, depths):
    rule, formula = RULES[name]
    T, S = depths
    hidden, attention = rule(T, S), rule(T, S, "attention")
    expected = [formula(i, T, S) for i in range(1, S + 1)]
    assert layers(hidden, "S") == [0, *range(1, S + 1)]
    assert layers(hidden, "T") == [0, *expected]
    assert layers(attention, "S") == list(range(S))
    assert layers(attention, "T") == [layer - 1 for layer in expected]
    assert rule(T, S, embeddings=False) == hidden[1:]
    assert all(one < other for one, other in pairwise(layers(hidden, "T")))
    assert layers(hidden, "T")[-1] <= T
    if name in ("uniform", "last") or T == S:
        assert layers(hidden, "T")[-1] == T


def test_features_and_losses():
    both = matches.uniform(4, 2, ["attention", "hidden"], weight=0.5, embeddings=False)
    assert [(m["feature"], m["loss"], m["layer_T"], m["weight"]) for m in both] == [
        ("attention", "attention_mse", 1, 0.5),
        ("attention", "attention_mse", 3, 0.5),
        ("hidden", "hidden_mse", 2, 0.5),
        ("hidden", "hidden_mse", 4, 0.5),
    ]

    def mine(S, T, mask=None):
        return ((S - T) ** 2).mean()

    by_feature = matches.last(4, 1, {"hidden": mine, "attention": None}, embeddings=False)
    assert [match["loss"] for match in by_feature] == [mine, "attention_mse"]
    assert len(DistillationConfig(intermediate_matches=both + by_feature).intermediate_matches) == 6


@pytest.mark.parametrize("loss", sorted(PAIRED_MATCH_LOSSES))
def test_losses_of_two_layers_get_the_same_one_twice(loss):
    found = matches.uniform(12, 2, loss=loss)
    assert layers(found, "T") == [[0, 0], [6, 6], [12, 12]]
    assert layers(found, "S") == [[0, 0], [1, 1], [2, 2]]
    assert layers(matches.uniform(12, 2, "attention", loss), "T") == [[5, 5], [11, 11]]


@pytest.mark.parametrize("loss", [name for name in MATCH_LOSS_MAP if not name.startswith("attention")])
def test_projections_where_a_loss_needs_equal_widths(loss):
    given = ["crd", 9, 312, 768] if loss == "crd" else loss
    features = {"hidden": given, "attention": None}
    found = matches.uniform(12, 3, features, teacher_width=768, student_width=312)
    proj = None if loss in ANY_WIDTH_MATCH_LOSSES else ["linear", 312, 768]
    assert [match.get("proj") for match in found] == [proj] * 4 + [None] * 3
    assert len(DistillationConfig(intermediate_matches=found).intermediate_matches) == 7
    equal = matches.uniform(12, 3, features, teacher_width=768, student_width=768)
    assert not any("proj" in match for match in equal)


def of_hidden(pairs, loss, twice=False, width=None):
    found = [{"layer_T": T, "layer_S": S, "feature": "hidden", "loss": loss, "weight": 1} for T, S in pairs]
    for match in found:
        if twice:
            match.update(layer_T=[match["layer_T"]] * 2, layer_S=[match["layer_S"]] * 2)
        if width:
            match["proj"] = ["linear", width, 768]
    return found


THREE = [(0, 0), (4, 1), (8, 2), (12, 3)]
FOUR = [(0, 0), (3, 1), (6, 2), (9, 3), (12, 4)]
SIX = [(0, 0), (2, 1), (4, 2), (6, 3), (8, 4), (10, 5), (12, 6)]
EVERY_SECOND = [(0, 0), (2, 2), (4, 4), (6, 6), (8, 8), (10, 10), (12, 12)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("L3_hidden_mse", of_hidden(THREE, "hidden_mse")),
        ("L3_hidden_smmd", of_hidden(THREE, "mmd", twice=True)),
        ("L3n_hidden_mse", of_hidden(THREE, "hidden_mse", width=384)),
        ("L3l_hidden_mse", of_hidden(THREE, "hidden_mse", width=1024)),
        ("L4_hidden_smmd", of_hidden(FOUR, "mmd", twice=True)),
        ("L4t_hidden_mse", of_hidden(FOUR, "hidden_mse", width=312)),
        ("L4t_hidden_smmd", of_hidden(FOUR, "mmd", twice=True)),
        ("L4t_hidden_sgram", of_hidden(FOUR, "gram", twice=True, width=312)),
        ("L6_hidden_mse", of_hidden(SIX, "hidden_mse")),
        ("L6_hidden_smmd", of_hidden(SIX, "mmd", twice=True)),
        ("small_hidden_mse", of_hidden(EVERY_SECOND, "hidden_mse", width=256)),
        ("small_hidden_smmd", of_hidden(EVERY_SECOND, "mmd", twice=True)),
        ("es_hidden_mse", of_hidden(EVERY_SECOND[1:], "hidden_mse", width=256)),
        ("es_hidden_smmd", of_hidden(EVERY_SECOND[1:], "mmd", twice=True)),
    ],
)
def test_hidden_sets_have_textbrewers_numbers(name, expected):
    assert matches.named(name) == expected


@pytest.mark.parametrize("loss", ["mse", "mse_sum", "ce", "ce_mean"])
def test_attention_sets_are_of_textbrewers_layers_in_a_list_of_twelve_maps(loss):
    rest = {"feature": "attention", "loss": f"attention_{loss}", "weight": 1}
    assert matches.named(f"L3_attention_{loss}") == [
        {"layer_T": 3, "layer_S": 0, **rest},
        {"layer_T": 7, "layer_S": 1, **rest},
        {"layer_T": 11, "layer_S": 2, **rest},
    ]
    assert layers(matches.named(f"L4_attention_{loss}"), "T") == [2, 5, 8, 11]


def test_a_set_is_new_each_time():
    from textbrewer.matches import L4t_hidden_mse

    L4t_hidden_mse[0]["proj"].append({"lr": 1e-3})
    assert matches.L4t_hidden_mse[0]["proj"] == ["linear", 312, 768]
    assert matches.L4t_hidden_mse + matches.L4_hidden_smmd == matches.named("L4t_hidden_mse") + matches.L4_hidden_smmd


def test_every_known_name_is_an_attribute_and_makes_a_config():
    assert set(NAMES) | {"uniform", "named", "__name__"} <= set(dir(matches))
    config = DistillationConfig(intermediate_matches=[m for name in NAMES for m in getattr(matches, name)])
    for match in config.intermediate_matches:
        counts = (13, 13) if match.feature == "hidden" else (12, 12)
        for side, count in zip((match.layer_T, match.layer_S), counts, strict=True):
            assert all(0 <= layer < count for layer in (side if isinstance(side, list) else [side]))


@pytest.mark.parametrize(
    ("name", "near"),
    [("L3_hiden_mse", "L3_hidden_mse"), ("L13_hidden_mse", "L3_hidden_mse"), ("L0_hidden_mse", ""), ("nothing", None)],
)
def test_unknown_names(name, near):
    with pytest.raises(UnknownNameError) as unknown:
        matches.named(name)
    with pytest.raises(AttributeError) as missing:
        getattr(matches, name)
    for message in (str(unknown.value), str(missing.value)):
        assert repr(name) in message
        assert ("did you mean" in message) == (near is not None)
        assert (near or "") in message
    assert not hasattr(matches, "__path__")


@pytest.mark.parametrize("name", RULES)
def test_every_problem_at_once(name):
    rule = RULES[name][0]
    found = problems_of(rule, 0, True, ["hiden", "attention"], "mdm", weight=float("nan"), student_width=-1, wieght=2)
    assert list(found) == [
        *("wieght", "teacher_layers", "student_layers", "student_width", "teacher_width, student_width"),
        *("weight", "features", "loss of attention"),
    ]
    hints = {path: problem.hint for path, problem in found.items() if problem.hint}
    assert hints == {
        "wieght": "did you mean 'weight'?",
        "features": "did you mean 'hidden'?",
        "loss of attention": "did you mean 'mmd'?",
    }


@pytest.mark.parametrize(
    ("args", "kwargs", "path"),
    [
        ((3, 4), {}, "student_layers"),
        ((3.0, 2), {}, "teacher_layers"),
        ((3, "2"), {}, "student_layers"),
        ((3, 2, []), {}, "features"),
        ((3, 2, {}), {}, "features"),
        ((3, 2), {"weight": "1"}, "weight"),
        ((3, 2), {"teacher_width": 8, "student_width": 0}, "student_width"),
        ((3, 2), {"teacher_width": 8}, "teacher_width, student_width"),
        ((3, 2, "attention"), {"teacher_width": 8}, "teacher_width"),
        ((3, 2, "hidden", "attention_mse"), {}, "loss of hidden"),
        ((3, 2, {"attention": "hidden_mse_valid"}), {}, "loss of attention"),
        ((3, 2, {"hidden": 3}), {}, "loss of hidden"),
        ((3, 2, {"hidden": "cos"}, "cos"), {}, "loss"),
    ],
)
def test_one_problem(args, kwargs, path):
    assert list(problems_of(matches.uniform, *args, **kwargs)) == [path]


def test_minilm_and_minilmv2_match_parts_of_one_layer():
    attention, values = matches.minilm(heads=4, teacher_layer=7, weight=0.5)
    assert (attention["layer_T"], attention["layer_S"]) == (["query:7", "key:7"], ["query:-1", "key:-1"])
    assert (values["layer_T"], values["layer_S"]) == ("value:7", "value:-1")
    assert [match["loss"] for match in (attention, values)] == [RelationLoss(4, "query_key_kl"), RelationLoss(4)]
    second = matches.minilmv2(student_layer=2)
    assert layers(second, "T") == ["query:-1", "key:-1", "value:-1"]
    assert layers(second, "S") == ["query:2", "key:2", "value:2"]
    assert {match["loss"] for match in second} == {RelationLoss(48)}
    every = [attention, values, *second]
    assert [match["weight"] for match in every] == [0.5, 0.5, 1, 1, 1]
    assert len(DistillationConfig(intermediate_matches=every).intermediate_matches) == 5


@settings(max_examples=20, deadline=None)
@given(depths=DEPTHS)
def test_tinybert_is_uniform_with_scores_for_maps(depths):
    hidden, attention = (
        matches.uniform(*depths, loss="hidden_mse_valid", weight=2),
        matches.uniform(*depths, "attention"),
    )
    found = matches.tinybert(*depths, heads=3, weight=2)
    assert found[: len(hidden)] == hidden
    for match, maps in zip(found[len(hidden) :], attention, strict=True):
        for side in ("layer_T", "layer_S"):
            assert match[side] == [f"query:{maps[side]}", f"key:{maps[side]}"]
        assert (match["loss"], match["weight"]) == (RelationLoss(3, "query_key_mse"), 2)


@pytest.mark.parametrize("rule", [matches.minilm, matches.minilmv2])
def test_every_problem_of_a_part_at_once(rule):
    found = problems_of(rule, 0, "last", None, float("inf"))
    assert list(found) == ["heads", "teacher_layer", "student_layer", "weight"]
    assert (found["heads"].got, found["teacher_layer"].got) == ("0", "'last'")


def test_problems_of_tinybert():
    assert list(problems_of(matches.tinybert, 12, 4, heads=2.0)) == ["heads"]
    assert list(problems_of(matches.tinybert, 4, 12, teacher_width=8)) == [
        "student_layers",
        "teacher_width, student_width",
    ]


@pytest.mark.parametrize("loss", ["vid", "gram"])
def test_a_loss_for_one_pair_of_layers_is_not_for_many(loss):
    found = problems_of(matches.many_to_many, 4, 2, loss=loss)
    assert list(found) == ["loss of hidden"] and f"'{loss}'" not in found["loss of hidden"].expected


def test_the_examples_in_the_docstrings():
    result = doctest.testmod(matches)
    assert result.failed == 0 and result.attempted >= 7


def test_losses_with_options_by_rule():
    found = matches.uniform(4, 2, loss=["relation_kl", 48], teacher_width=768, student_width=384)
    assert [(match["loss"], "proj" in match) for match in found] == [(["relation_kl", 48], False)] * 3
    paired = matches.uniform(4, 2, loss={"name": "query_key_kl", "heads": 6})
    assert layers(paired, "S") == [[0, 0], [1, 1], [2, 2]]
    (*_, every) = matches.many_to_many(4, 2, loss=["relation_kl", 6])
    assert every["loss"].__name__ == "many_to_many_relation_kl" and every["loss"].loss.keywords == {"heads": 6}
    for loss in (["relation_kll", 48], ["vid", 7]):
        with pytest.raises(ConfigError, match="`loss of hidden`"):
            matches.many_to_many(4, 2, loss=loss)
