"""DistillationConfig and its matches: TextBrewer 0.2.1's arguments, and every problem in one error."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest

from textbrewer import DistillationConfig, IntermediateMatch, register_new
from textbrewer.errors import ConfigError
from textbrewer.presets import KD_LOSS_MAP, MATCH_LOSS_MAP

MATCH = {"layer_T": 0, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse", "weight": 1}
GRAM = {**MATCH, "loss": "gram", "layer_T": [0, 1], "layer_S": [0, 2]}
ORIGINAL = {
    "temperature": (4, 8.5),
    "temperature_scheduler": (None, ["flsw", 1, 2]),
    "hard_label_weight": (0, 0.5),
    "hard_label_weight_scheduler": (None, "linear_growth"),
    "kd_loss_type": ("ce", "mse"),
    "kd_loss_weight": (1, 2),
    "kd_loss_weight_scheduler": (None, "linear_decay"),
    "probability_shift": (False, True),
    "intermediate_matches": ([], [IntermediateMatch(**MATCH)]),
    "is_caching_logits": (False, True),
}
OTHERS = {name: other for name, (_, other) in ORIGINAL.items()}


def problems_of(build, *args, **kwargs):
    with pytest.raises(ConfigError) as raised:
        build(*args, **kwargs)
    return raised.value.problems


def some_function(*_, mask=None):
    """Stands for a loss or a schedule of the user."""


def test_the_arguments_come_in_the_order_of_the_original():
    assert list(inspect.signature(DistillationConfig).parameters) == list(ORIGINAL)


@pytest.mark.parametrize(("name", "default", "other"), [(n, *v) for n, v in ORIGINAL.items()])
def test_every_argument_has_its_default_and_takes_another_value(name, default, other):
    assert getattr(DistillationConfig(), name) == default
    changed = DistillationConfig(**{name: other})
    assert getattr(changed, name) == other
    untouched = [field.name for field in fields(changed) if field.name != name]
    assert all(getattr(changed, field) == getattr(DistillationConfig(), field) for field in untouched)


def test_arguments_by_position_keyword_and_dict_are_the_same():
    config = DistillationConfig(*OTHERS.values())
    assert config == DistillationConfig(**OTHERS) == DistillationConfig.from_dict(OTHERS)
    assert {name: getattr(config, name) for name in OTHERS} == OTHERS


@pytest.mark.parametrize("name", ["temperature_scheduler", "hard_label_weight_scheduler", "kd_loss_weight_scheduler"])
def test_the_word_none_switches_a_schedule_off(name):
    assert getattr(DistillationConfig(**{name: "none"}), name) is None
    assert getattr(DistillationConfig(**{name: some_function}), name) is some_function


@pytest.mark.parametrize("scheduler", ["constant", ["flsw", 1, 2], ["cwsm", 0.5], ("cwsm", 1)])
def test_temperature_schedules_by_name(scheduler):
    found = DistillationConfig(temperature_scheduler=scheduler).temperature_scheduler
    assert found == (scheduler if isinstance(scheduler, str) else list(scheduler))


KD = f"one of {', '.join(map(repr, KD_LOSS_MAP))}"
WEIGHT = "one of 'linear_decay', 'linear_growth'"
BAD = [
    ("temperature", 0, "greater than 0", "0", ""),
    ("temperature", float("nan"), "a finite number", "nan", ""),
    ("temperature", float("inf"), "a finite number", "inf", ""),
    ("temperature_scheduler", "flws", "one of 'constant', 'flsw', 'cwsm'", "'flws'", "did you mean 'flsw'?"),
    ("temperature_scheduler", "flsw", "['flsw'] followed by 2 numbers, as in ['flsw', 1, 1]", "'flsw'", ""),
    ("temperature_scheduler", ["cwsm"], "['cwsm'] followed by 1 number, as in ['cwsm', 1]", "['cwsm']", ""),
    ("hard_label_weight", float("nan"), "a finite number", "nan", ""),
    ("hard_label_weight_scheduler", "linear_grow", WEIGHT, "'linear_grow'", "did you mean 'linear_growth'?"),
    ("kd_loss_type", "cee", KD, "'cee'", "did you mean 'ce'?"),
    ("kd_loss_type", None, KD, "None", ""),
    ("kd_loss_weight", float("inf"), "a finite number", "inf", ""),
    ("kd_loss_weight_scheduler", 3, WEIGHT, "3", ""),
    ("probability_shift", "perhaps", "a valid boolean, unable to interpret input", "'perhaps'", ""),
    ("intermediate_matches", "x", "a valid list", "'x'", ""),
    ("is_caching_logits", None, "a valid boolean", "None", ""),
]


@pytest.mark.parametrize(("name", "value", "expected", "got", "hint"), BAD)
def test_bad_values_are_refused_at_the_start_and_later(name, value, expected, got, hint):
    config = DistillationConfig()
    for found in (
        problems_of(DistillationConfig, **{name: value}),
        problems_of(DistillationConfig.from_dict, {name: value}),
        problems_of(setattr, config, name, value),
    ):
        assert [(p.path, p.expected, p.got, p.hint) for p in found] == [(name, expected, got, hint)]
    assert config == DistillationConfig()


@pytest.mark.parametrize("scheduler", [[], ["flsw", "a", "b"]])
def test_temperature_schedules_that_cannot_be_built_are_refused_clearly(scheduler):
    (problem,) = problems_of(DistillationConfig, temperature_scheduler=scheduler)
    assert "unpack" not in problem.expected


def test_all_problems_come_at_once_with_paths_into_the_matches():
    matches = [{**MATCH, "feature": "hiden"}, {**MATCH, "layers_S": 3, "loss": "cosine"}, {"layer_T": 1}]
    found = problems_of(DistillationConfig, temperature=-1, kd_loss_type="cee", intermediate_matches=matches)
    assert {problem.path: (problem.got, problem.hint) for problem in found} == {
        "temperature": ("-1", ""),
        "kd_loss_type": ("'cee'", "did you mean 'ce'?"),
        "intermediate_matches[0].feature": ("'hiden'", ""),
        "intermediate_matches[1].loss": ("'cosine'", "did you mean 'cos'?"),
        "intermediate_matches[1].layers_S": ("the unknown key 'layers_S'", "did you mean 'layer_S'?"),
        "intermediate_matches[2].layer_S": ("nothing", ""),
        "intermediate_matches[2].feature": ("nothing", ""),
        "intermediate_matches[2].loss": ("nothing", ""),
    }


def test_an_unknown_key_names_the_nearest():
    (problem,) = problems_of(DistillationConfig.from_dict, {"temprature": 4})
    assert (problem.path, problem.hint) == ("temprature", "did you mean 'temperature'?")


@pytest.mark.parametrize("layer", ["not a path", 1.5, None, True, [], [0, "x"], [0, None]])
def test_a_layer_that_is_no_index_is_one_problem_at_its_path(layer):
    (problem,) = problems_of(DistillationConfig, intermediate_matches=[MATCH, {**MATCH, "layer_S": layer}])
    assert problem.path == "intermediate_matches[1].layer_S"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"loss": "gram"},
            "`intermediate_matches[1]`: expected two layers a side for the loss 'gram', "
            "got 'layer_T=0, layer_S=1'; write layer_T: [0, 1], layer_S: [0, 1]",
        ),
        (
            {"loss": "nst", "layer_T": [0, 1, 2], "layer_S": [0, 1]},
            "`intermediate_matches[1]`: expected two layers a side for the loss 'nst', "
            "got 'layer_T=[0, 1, 2], layer_S=[0, 1]'; write layer_T: [0, 1], layer_S: [0, 1]",
        ),
        (
            {"layer_T": [0, 1]},
            "`intermediate_matches[1]`: expected one layer a side for the loss 'hidden_mse', "
            "got 'layer_T=[0, 1], layer_S=1'",
        ),
        (
            {"proj": ["linar", 8, 8]},
            "`intermediate_matches[1].proj`: expected one of 'linear', 'relu', 'tanh', got ['linar', 8, 8]; "
            "did you mean 'linear'?",
        ),
    ],
)
def test_matches_that_do_not_fit_together(change, message):
    (problem,) = problems_of(DistillationConfig, intermediate_matches=[MATCH, {**MATCH, **change}])
    assert str(problem) == message


NO_PROJ = ["linear", ["linear", 8], ["linear", 0, 8], ["linear", "8", 8], ["linear", 8, 8, 0.1], [*"abcde"], [3, 8, 8]]


@pytest.mark.parametrize("proj", NO_PROJ)
def test_projections_that_cannot_be_built(proj):
    (problem,) = problems_of(IntermediateMatch, **MATCH, proj=proj)
    assert (problem.path, problem.got) == ("proj", repr(proj))


@pytest.mark.parametrize(
    ("proj", "kept"),
    [
        (None, None),
        (["linear", 4, 8], ["linear", 4, 8, {}]),
        (("tanh", 4, 8, {"lr": 0.1}), ["tanh", 4, 8, {"lr": 0.1}]),
        ([some_function, 4, 8], [some_function, 4, 8, {}]),
    ],
)
def test_projections_are_kept_with_their_options(proj, kept):
    assert IntermediateMatch(**MATCH, proj=proj).proj == kept


def test_the_name_of_a_match_has_student_layers_first():
    names = [IntermediateMatch(**match).name for match in (MATCH, GRAM, {**MATCH, "loss": some_function})]
    assert names == ["hidden_hidden_mse_1_0", "hidden_gram_0-2_0-1", "hidden_some_function_1_0"]


def test_layers_as_tuples_and_a_missing_list_of_matches():
    config = DistillationConfig(intermediate_matches=[{**GRAM, "layer_T": (0, 1)}])
    assert config.intermediate_matches == [IntermediateMatch(**GRAM)]
    assert DistillationConfig(intermediate_matches=None).intermediate_matches == []


def test_matches_are_checked_when_they_are_changed():
    config = DistillationConfig(intermediate_matches=[MATCH])
    (problem,) = problems_of(setattr, config, "intermediate_matches", [{**MATCH, "weight": "x"}])
    assert problem.path == "intermediate_matches[0].weight"
    (problem,) = problems_of(setattr, config.intermediate_matches[0], "feature", "hiden")
    assert problem.path == "feature"
    assert config == DistillationConfig(intermediate_matches=[MATCH])


def test_a_refused_change_of_a_match_changes_nothing():
    match = IntermediateMatch(**MATCH)
    problems_of(setattr, match, "loss", "gram")
    assert match.loss == "hidden_mse"


def test_a_registered_loss_is_a_known_name():
    assert problems_of(IntermediateMatch, **{**MATCH, "loss": "mine"})[0].path == "loss"
    register_new("match_Loss", "mine", some_function)
    try:
        assert IntermediateMatch(**{**MATCH, "loss": "mine"}).name == "hidden_mine_1_0"
    finally:
        del MATCH_LOSS_MAP["mine"]


@pytest.mark.parametrize(
    ("reader", "text"),
    [
        ("from_json_file", '{"temperature": 8, "intermediate_matches": [%s], "temperature_scheduler": ["cwsm", 1]}'),
        ("from_yaml_file", "temperature: 8\nintermediate_matches:\n  - %s\ntemperature_scheduler: [cwsm, 1]\n"),
    ],
)
def test_files_reach_into_the_matches(tmp_path, reader, text):
    good, bad = tmp_path / "good", tmp_path / "bad"
    match = '{"layer_T": 0, "layer_S": 1, "feature": "hidden", "loss": "cos"}'
    good.write_text(text % match)
    bad.write_text(text % match.replace("hidden", "hiden"))
    expected = DistillationConfig(8, ["cwsm", 1], intermediate_matches=[IntermediateMatch(0, 1, "hidden", "cos")])
    assert getattr(DistillationConfig, reader)(good) == expected
    (problem,) = problems_of(getattr(DistillationConfig, reader), bad)
    assert problem.path == "intermediate_matches[0].feature"


def test_printing_lists_every_setting_on_a_line():
    values = {name: default for name, (default, _) in ORIGINAL.items()}
    assert str(DistillationConfig()) == "".join(f"{name} : {value}\n" for name, value in values.items())
