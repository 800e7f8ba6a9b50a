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
NEW = {
    "kd_loss_active": (None, (0.5, 1.0)),
    "hard_label_active": (None, (0.0, 0.5)),
    "temperature_annealing": (None, ["linear", 8, 1]),
    "balance": (None, "uncertainty"),
}
OTHERS = {name: other for name, (_, other) in {**ORIGINAL, **NEW}.items()}


def problems_of(build, *args, **kwargs):
    with pytest.raises(ConfigError) as raised:
        build(*args, **kwargs)
    return raised.value.problems


def some_function(*_, mask=None):
    """Stands for a loss or a schedule of the user."""


def test_the_first_arguments_come_in_the_order_of_the_original():
    assert list(inspect.signature(DistillationConfig).parameters) == [*ORIGINAL, *NEW]


@pytest.mark.parametrize(("name", "default", "other"), [(n, *v) for n, v in {**ORIGINAL, **NEW}.items()])
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


@pytest.mark.parametrize(
    "scheduler", ["constant", ["flsw", 1, 2], ["cwsm", 0.5], ("cwsm", 1), {"name": "flsw", "beta": 1, "gamma": 2}]
)
def test_temperature_schedules_by_name(scheduler):
    found = DistillationConfig(temperature_scheduler=scheduler).temperature_scheduler
    assert found == (list(scheduler) if isinstance(scheduler, tuple) else scheduler)


KD = f"one of {', '.join(map(repr, KD_LOSS_MAP))}"
DEFAULT = "give one, or leave the key out for its default"
WEIGHT = "one of 'linear_decay', 'linear_growth', 'linear', 'cosine', 'steps'"
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
    ("kd_loss_type", None, KD, "None", DEFAULT),
    ("kd_loss_weight", float("inf"), "a finite number", "inf", ""),
    ("kd_loss_weight_scheduler", 3, WEIGHT, "3", ""),
    ("probability_shift", "perhaps", "a valid boolean, unable to interpret input", "'perhaps'", ""),
    ("intermediate_matches", "x", "a valid list", "'x'", ""),
    ("is_caching_logits", None, "a valid boolean", "None", DEFAULT),
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


@pytest.mark.parametrize("scheduler", [[], ["flsw", "a", "b"], {"name": "cwsm", "beta": 1, "gamma": 2}, {"beta": 1}])
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
    values = {name: default for name, (default, _) in {**ORIGINAL, **NEW}.items()}
    assert str(DistillationConfig()) == "".join(f"{name} : {value}\n" for name, value in values.items())


@pytest.mark.parametrize(
    ("loss", "kept", "name"),
    [
        (["relation_kl", 48], ["relation_kl", 48], "relation_kl_48"),
        (("relation_kl", 48), ["relation_kl", 48], "relation_kl_48"),
        ({"name": "relation_kl", "heads": 24}, {"name": "relation_kl", "heads": 24}, "relation_kl_24"),
        (["vid", 768], ["vid", 768], "vid"),
        (["crd", 9, 4, 8], ["crd", 9, 4, 8], "crd"),
        (["hidden_mse"], ["hidden_mse"], "hidden_mse"),
    ],
)
def test_a_loss_is_named_with_its_options(loss, kept, name):
    match = IntermediateMatch(**{**MATCH, "loss": loss})
    assert (match.loss, match.name) == (kept, f"hidden_{name}_1_0")


def test_two_layers_are_asked_for_with_options_too():
    with pytest.raises(ConfigError, match="expected two layers a side for the loss"):
        IntermediateMatch(**{**MATCH, "loss": ["query_key_kl", 4]})
    with pytest.raises(ConfigError, match="expected one layer a side for the loss"):
        IntermediateMatch(**{**GRAM, "loss": ["relation_kl", 4]})


CRD = "'crd' with the options examples, width_S, width_T, width=128, negatives=1024, temperature=0.07, momentum=0.5, "
CRD += "pooling='mean'"


@pytest.mark.parametrize(
    ("loss", "expected", "got", "hint"),
    [
        (["relation_kll", 48], None, "['relation_kll', 48]", "did you mean 'relation_kl'?"),
        (["relation_kl", 4, 8], "'relation_kl' with the options heads=12", "['relation_kl', 4, 8]", ""),
        (["hidden_mse", 3], "'hidden_mse' alone, which has no options", "['hidden_mse', 3]", ""),
        (["relation_kl", "4"], "heads of 'relation_kl' to be a valid integer", "'4'", ""),
        (["relation_kl", True], "heads of 'relation_kl' to be a valid integer", "True", ""),
        (
            {"name": "relation_kl", "head": 48},
            "'relation_kl' with the options heads=12",
            "{'name': 'relation_kl', 'head': 48}",
            "did you mean 'heads'?",
        ),
        (
            {"name": "embedding_mse", "pooling": "max"},
            "pooling of 'embedding_mse' to be 'mean' or 'first'",
            "'max'",
            "",
        ),
        ("crd", CRD, "'crd'", "examples, width_S, width_T must be given"),
        (["crd", 9, 4], CRD, "['crd', 9, 4]", "width_T must be given"),
        ({"heads": 48}, None, "{'heads': 48}", ""),
        ([], None, "[]", ""),
        ([["relation_kl"], 48], None, "[['relation_kl'], 48]", "did you mean 'relation_kl'?"),
    ],
)
def test_options_that_a_loss_does_not_have_are_told_with_those_it_has(loss, expected, got, hint):
    (problem,) = problems_of(DistillationConfig, intermediate_matches=[{**MATCH, "loss": loss}])
    assert problem.path == "intermediate_matches[0].loss"
    assert (problem.got, problem.hint) == (got, hint)
    assert problem.expected == expected or (expected is None and problem.expected.startswith("one of 'attention_mse"))


def test_options_of_a_loss_between_logits():
    assert DistillationConfig(kd_loss_type=("jsd", 0.1)).kd_loss_type == ["jsd", 0.1]
    (problem,) = problems_of(DistillationConfig, kd_loss_type={"name": "dkd", "gamma": 2})
    assert problem.expected == "'dkd' with the options alpha=1.0, beta=8.0"
    (problem,) = problems_of(DistillationConfig, balance=["gradient_norm", 1.5])
    assert problem.expected == "every of 'gradient_norm' to be a valid integer"


@pytest.mark.parametrize("name", ["hard_label_weight_scheduler", "kd_loss_weight_scheduler", "temperature_annealing"])
@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", "['linear', start, end, until]"),
        (["cosine", 1], "['cosine', start, end, until]"),
        (["steps", "a", 1, 2], "['steps', start, end, steps]"),
        (["linear_growth", 1], "'linear_growth' alone, which has no options"),
    ],
)
def test_schedules_that_cannot_be_built(name, schedule, expected):
    (problem,) = problems_of(DistillationConfig, **{name: schedule})
    assert (problem.path, problem.expected, problem.got) == (name, expected, repr(schedule))


@pytest.mark.parametrize("schedule", [["linear", 1, 0.5], ["steps", 3, 1, 3], {"name": "cosine", "start": 4, "end": 1}])
def test_schedules_with_options(schedule):
    config = DistillationConfig(kd_loss_weight_scheduler=schedule, temperature_annealing=schedule)
    assert config.kd_loss_weight_scheduler == config.temperature_annealing == schedule
    assert IntermediateMatch(**MATCH, weight_scheduler=schedule).weight_scheduler == schedule


@pytest.mark.parametrize("annealing", ["linear_decay", ["linear", 8, 0], ["linear", 8, -1], "linear_growth"])
def test_a_temperature_stays_above_zero(annealing):
    (problem,) = problems_of(DistillationConfig, temperature_annealing=annealing)
    assert problem.expected == "a temperature above 0 throughout the run, as in ['linear', 8, 1]"


@pytest.mark.parametrize("active", [0.5, [0.5], [0.5, 0.5], [0.6, 0.5], [-0.1, 1], [0, 1.1], ["a", 1], [0, 0.5, 1]])
def test_a_part_of_the_run_has_a_start_and_an_end(active):
    (problem,) = problems_of(DistillationConfig, intermediate_matches=[{**MATCH, "active": active}])
    assert problem.path == "intermediate_matches[0].active"
    assert problem.expected == "the start and the end of a part of the run, from 0 to 1, as in [0, 0.5]"
    (problem,) = problems_of(DistillationConfig, kd_loss_active=active)
    assert problem.path == "kd_loss_active"


def test_terms_with_options_come_from_a_file(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(
        "kd_loss_type: [jsd, 0.1]\n"
        "kd_loss_active: [0.5, 1]\n"
        "temperature_annealing: [steps, 3, 1, 3]\n"
        "balance: {name: uncertainty, lr: 0.01}\n"
        "intermediate_matches:\n"
        "  - {layer_T: 0, layer_S: 1, feature: hidden, loss: [relation_kl, 2], active: [0, 0.5], mask: answer,\n"
        "     weight_scheduler: [linear, 1, 0]}\n"
    )
    match = {**MATCH, "loss": ["relation_kl", 2], "active": (0, 0.5), "mask": "answer"}
    assert DistillationConfig.from_yaml_file(file) == DistillationConfig(
        kd_loss_type=["jsd", 0.1],
        kd_loss_active=(0.5, 1),
        temperature_annealing=["steps", 3, 1, 3],
        balance={"name": "uncertainty", "lr": 0.01},
        intermediate_matches=[IntermediateMatch(**match, weight_scheduler=["linear", 1, 0])],
    )
