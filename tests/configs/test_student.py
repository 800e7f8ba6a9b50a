"""Students' sizes, first weights and heads, checked."""

from __future__ import annotations

import inspect

import pytest

from textbrewer import BiGRUConfig, HeadConfig, StudentConfig
from textbrewer.errors import ConfigError

DEFAULTS = {
    "hidden_size": None,
    "num_attention_heads": None,
    "intermediate_size": None,
    "layers": "evenly",
    "init": "teacher",
    "family": None,
    "embedding_size": None,
    "freeze_embeddings": False,
}
OTHERS = {
    "num_layers": 3,
    "hidden_size": 384,
    "num_attention_heads": 6,
    "intermediate_size": 1536,
    "layers": [0, 4, 8],
    "init": "random",
    "family": "electra",
    "embedding_size": 128,
    "freeze_embeddings": True,
}


def problems_of(build, *args, **kwargs):
    with pytest.raises(ConfigError) as raised:
        build(*args, **kwargs)
    return raised.value.problems


def test_arguments_and_defaults():
    parameters = inspect.signature(StudentConfig).parameters
    assert list(parameters) == ["num_layers", *DEFAULTS]
    config = StudentConfig(6)
    assert config.num_layers == 6
    assert {name: getattr(config, name) for name in DEFAULTS} == DEFAULTS


def test_arguments_by_position_keyword_and_dict_are_the_same():
    config = StudentConfig(*OTHERS.values())
    assert config == StudentConfig(**OTHERS) == StudentConfig.from_dict(OTHERS)
    assert {name: getattr(config, name) for name in OTHERS} == OTHERS


@pytest.mark.parametrize("layers", ["first", "evenly", "last", [1]])
def test_layers_by_name_or_number(layers):
    assert StudentConfig(1, layers=layers).layers == layers


@pytest.mark.parametrize(
    ("name", "value", "expected", "hint"),
    [
        ("num_layers", 0, "greater than or equal to 1", ""),
        ("hidden_size", -1, "greater than or equal to 1", ""),
        ("num_attention_heads", 1.5, "a valid integer, got a number with a fractional part", ""),
        ("intermediate_size", "wide", "a valid integer, unable to parse string as an integer", ""),
        ("layers", "lst", "one of 'first', 'evenly', 'last'", "did you mean 'last'?"),
        ("init", 3, "a valid string", ""),
        ("family", 3, "a valid string", ""),
        ("embedding_size", 0, "greater than or equal to 1", ""),
    ],
)
def test_bad_values_are_refused_at_the_start_and_later(name, value, expected, hint):
    config = StudentConfig(2)
    for found in (
        problems_of(StudentConfig, **{"num_layers": 2, name: value}),
        problems_of(StudentConfig.from_dict, {"num_layers": 2, name: value}),
        problems_of(setattr, config, name, value),
    ):
        assert [(p.path, p.expected, p.got, p.hint) for p in found] == [(name, expected, repr(value), hint)]
    assert config == StudentConfig(2)


@pytest.mark.parametrize(("layers", "path"), [(3, "layers"), (None, "layers"), ([0, -1], "layers[1]")])
def test_layers_that_are_no_layers_are_one_problem_at_their_path(layers, path):
    (problem,) = problems_of(StudentConfig, 2, layers=layers)
    assert problem.path == path


def test_all_problems_come_at_once_with_the_nearest_key():
    found = problems_of(StudentConfig, num_layer=2, hidden_size=0)
    assert {problem.path: (problem.got, problem.hint) for problem in found} == {
        "num_layers": ("nothing", ""),
        "hidden_size": ("0", ""),
        "num_layer": ("the unknown key 'num_layer'", "did you mean 'num_layers'?"),
    }


@pytest.mark.parametrize(
    ("reader", "text"),
    [
        ("from_json_file", '{"num_layers": 3, "layers": [0, 4, 8], "hidden_size": null}'),
        ("from_yaml_file", "num_layers: 3\nlayers: [0, 4, 8]\nhidden_size:\n"),
    ],
)
def test_files_are_read(tmp_path, reader, text):
    (tmp_path / "student").write_text(text)
    assert getattr(StudentConfig, reader)(tmp_path / "student") == StudentConfig(3, layers=[0, 4, 8])


def test_an_empty_file_lacks_the_number_of_layers(tmp_path):
    (tmp_path / "student.yaml").touch()
    (problem,) = problems_of(StudentConfig.from_yaml_file, tmp_path / "student.yaml")
    assert (problem.path, problem.got) == ("num_layers", "nothing")


def test_printing_lists_every_setting_on_a_line():
    values = {"num_layers": 2} | DEFAULTS
    assert str(StudentConfig(2)) == "".join(f"{name} : {value}\n" for name, value in values.items())


@pytest.mark.parametrize(
    ("values", "path", "expected", "got", "hint"),
    [
        (
            {"task": "text_classification"},
            "task",
            "one of 'text-classification', 'token-classification', 'question-answering'",
            "'text_classification'",
            "did you mean 'text-classification'?",
        ),
        (
            {"problem_type": "regresion"},
            "problem_type",
            "one of 'regression', 'single_label_classification', 'multi_label_classification'",
            "'regresion'",
            "did you mean 'regression'?",
        ),
        ({"pooling": "mean"}, "pooling", "one of 'first', 'max'", "'mean'", ""),
        ({"num_labels": 0}, "num_labels", "greater than or equal to 1", "0", ""),
        ({"dropout": 1}, "dropout", "less than 1", "1", ""),
        (
            {"labels": ["a"]},
            "(the whole config)",
            "as many labels as num_labels",
            "'1 name, num_labels=2'",
            "",
        ),
        (
            {"task": "question-answering", "num_labels": 3},
            "(the whole config)",
            "num_labels=2 for question-answering: start and end",
            "3",
            "",
        ),
    ],
)
def test_heads_that_cannot_be(values, path, expected, got, hint):
    for build in (lambda: HeadConfig(**values), lambda: HeadConfig.from_dict(values)):
        found = problems_of(build)
        assert [(p.path, p.expected, p.got, p.hint) for p in found] == [(path, expected, got, hint)]


def test_labels_by_number():
    head = HeadConfig(num_labels=2, labels=["no", "yes"])
    assert head.id2label == BiGRUConfig(10, head=head).id2label == {0: "no", 1: "yes"}
    assert HeadConfig().id2label is BiGRUConfig(10).id2label is None


def test_a_recurrent_config_is_read_with_its_head():
    config = BiGRUConfig(10, hidden_size=6, embedding_size=4, head=HeadConfig("token-classification", 3))
    values = {"vocab_size": 10, "hidden_size": 6, "embedding_size": 4}
    assert BiGRUConfig.from_dict({**values, "head": {"task": "token-classification", "num_labels": 3}}) == config
    paths = {p.path for p in problems_of(BiGRUConfig.from_dict, {"head": {"num_labels": 0}, "num_layers": 0})}
    assert paths == {"vocab_size", "num_layers", "head.num_labels"}
