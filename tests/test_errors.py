"""One family of exceptions, and how names are suggested."""

from __future__ import annotations

import pickle

import pytest

from textbrewer import TextBrewerError, errors
from textbrewer.errors import ConfigError, MissingDependencyError, Problem, UnknownNameError

BUILT_IN = {
    "ConfigError": ValueError,
    "AdaptorError": ValueError,
    "MatchError": ValueError,
    "DataError": ValueError,
    "StudentError": ValueError,
    "NonFiniteLossError": FloatingPointError,
    "UnsupportedError": NotImplementedError,
    "MissingDependencyError": ImportError,
    "UnknownNameError": KeyError,
}
CONFIG_ERROR = ConfigError("Thing", [Problem("a[0].b", "1", "2"), Problem("c", "x", "y", "write x")])
MISSING = MissingDependencyError("seqeval", "hf", "token classification")


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_error_is_of_the_family_and_of_its_built_in_kind(name):
    assert issubclass(getattr(errors, name), TextBrewerError)
    assert issubclass(getattr(errors, name), BUILT_IN[name])


def test_every_exception_is_of_the_family():
    found = [thing for thing in vars(errors).values() if isinstance(thing, type) and issubclass(thing, Exception)]
    assert len(found) > len(BUILT_IN)
    assert all(issubclass(error, TextBrewerError) for error in found)


def test_a_config_error_lists_its_problems():
    assert str(CONFIG_ERROR) == "Thing: 2 problems\n  `a[0].b`: expected 1, got 2\n  `c`: expected x, got y; write x"
    assert [problem.path for problem in CONFIG_ERROR.problems] == ["a[0].b", "c"]
    assert str(ConfigError("Thing", CONFIG_ERROR.problems[:1])).startswith("Thing: 1 problem\n")


def test_a_missing_package_names_what_installs_it():
    assert str(MISSING) == "token classification needs the package `seqeval`: pip install 'textbrewer-next[hf]'"


def test_an_unknown_name_is_printed_without_the_quotes_of_a_key_error():
    assert str(UnknownNameError("no 'x'")) == "no 'x'"


@pytest.mark.parametrize("error", [CONFIG_ERROR, MISSING], ids=lambda error: type(error).__name__)
def test_errors_travel_between_processes(error):
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(
    ("name", "nearest"), [("hiden_mse", "hidden_mse"), ("cosine", "cos"), ("xyz", None), (3, None)]
)
def test_the_nearest_name(name, nearest):
    known = ["cos", "hidden_mse", "gram"]
    assert errors.nearest(name, known) == nearest
    assert errors.did_you_mean(name, known) == (f"did you mean {nearest!r}?" if nearest else "")


def test_a_name_that_is_none_of_the_known_ones():
    found = errors.unknown_name("a.b", "cosin", (name for name in ["cos", "gram"]), "say `cos`")
    assert str(found) == "`a.b`: expected one of 'cos', 'gram', got 'cosin'; did you mean 'cos'?"
    assert str(errors.unknown_name("a.b", 3, ["cos"], "write x")) == "`a.b`: expected one of 'cos', got 3; write x"


def test_names_and_numbers_in_messages():
    assert errors.one_of(["a", "b"]) == "one of 'a', 'b'"
    assert [errors.count_of(number, "layer") for number in (0, 1, 2)] == ["0 layers", "1 layer", "2 layers"]
