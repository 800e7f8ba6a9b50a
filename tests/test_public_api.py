"""Every public name can be imported and is documented, and the import itself stays light."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys

import pytest

import textbrewer
from textbrewer import losses, schemes

ON_DEMAND = ["transformers", "tensorboard", "datasets", "sklearn", "matplotlib", "accelerate"]


def documented(thing):
    # A dataclass without a docstring gets its signature as one.
    return bool(thing.__doc__) and not thing.__doc__.startswith(f"{thing.__name__}(")


def in_a_new_process(code):
    """What ``code`` prints as JSON after a plain ``import textbrewer``."""
    command = [sys.executable, "-c", f"import json, sys, textbrewer\nprint(json.dumps({code}))"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.parametrize("name", textbrewer.__all__)
def test_every_public_name_is_there_and_documented(name):
    thing = getattr(textbrewer, name)
    if inspect.isclass(thing) or inspect.isroutine(thing):
        assert documented(thing)


@pytest.mark.parametrize("name", losses.__all__)
def test_every_loss_is_there_and_documented(name):
    thing = getattr(losses, name)
    if inspect.isclass(thing) or inspect.isroutine(thing):
        assert documented(thing)
        assert thing.__module__.startswith("textbrewer.losses")


@pytest.mark.parametrize("name", schemes.__all__)
def test_every_scheme_is_there_and_documented(name):
    thing = getattr(schemes, name)
    assert documented(thing) and thing.__module__.startswith("textbrewer.schemes")


@pytest.mark.parametrize("module", [textbrewer, losses, schemes], ids=lambda module: module.__name__)
def test_the_list_of_names_is_complete_and_has_no_name_twice(module):
    public = {
        name
        for name, thing in vars(module).items()
        if not name.startswith("_")
        and not inspect.ismodule(thing)
        and getattr(thing, "__module__", None) not in ("typing", "collections.abc")
    }
    assert public - set(module.__all__) == set()
    assert len(set(module.__all__)) == len(module.__all__)


def test_importing_loads_nothing_that_is_needed_only_on_demand():
    loaded = in_a_new_process("sorted(sys.modules)")
    assert "textbrewer.distillers" in loaded and "torch" in loaded
    assert [name for name in ON_DEMAND if name in loaded] == []


def test_the_utilities_of_the_original_are_reached_through_the_package():
    assert in_a_new_process("callable(getattr(getattr(textbrewer, 'utils', None), 'display_parameters', None))")
