"""What an adaptor may return, and what becomes of it."""

from __future__ import annotations

import warnings
from collections import UserDict

import pytest
import torch

from textbrewer import ADAPTOR_KEYS, FEATURES
from textbrewer.errors import AdaptorError
from textbrewer.types import ModelOutputs

X, Y = torch.ones(2, 3), torch.zeros(2)


def adapted(returned):
    return ModelOutputs.from_adaptor(returned, adaptor="adaptor_T")


def test_the_words_of_the_original():
    assert ADAPTOR_KEYS == ["logits", "logits_mask", "losses", "inputs_mask", "labels", "hidden", "attention"]
    assert FEATURES == ["hidden", "attention"]


@pytest.mark.parametrize("key", ["logits", "logits_mask", "losses", "labels"])
@pytest.mark.parametrize(("value", "expected"), [(X, [X]), ([X, Y], [X, Y]), ((Y,), [Y]), ([], [])])
def test_one_tensor_or_several_become_a_list(key, value, expected):
    found = adapted({key: value})
    assert [id(tensor) for tensor in getattr(found, key)] == [id(tensor) for tensor in expected]
    assert found.given == (key,)


@pytest.mark.parametrize("key", FEATURES)
@pytest.mark.parametrize("value", [[X, None], (X,), torch.ones(2, 1, 1, 1)], ids=["list", "tuple", "stacked"])
def test_layers_stay_as_they_are(key, value):
    assert getattr(adapted({key: value}), key) is value


def test_what_was_given_and_what_was_not():
    found = adapted(UserDict(hidden=[X], logits=None, inputs_mask=Y))
    assert found.given == ("hidden", "inputs_mask")
    assert (found.logits, found.losses, found.attention) == ([], [], ())
    assert found.inputs_mask is Y
    assert adapted({}) == ModelOutputs()


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (X, "adaptor_T returned Tensor; it must return a dict"),
        (None, "returned NoneType"),
        ({"logits": [X, 3]}, "logits with a int; logits must be a tensor or a list of tensors"),
        ({"losses": 0.5}, "losses with a float"),
        ({"labels": [0, 1]}, "labels with a int"),
        ({"hidden": "text"}, "hidden as str; it must be a list of tensors, one per layer"),
        ({"attention": (layer for layer in [X])}, "attention as generator"),
        ({"inputs_mask": [1, 1]}, "inputs_mask as list; it must be a tensor"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(returned, message):
    with pytest.raises(AdaptorError, match=message):
        adapted(returned)


@pytest.mark.parametrize(("key", "hint"), [("logit", "did you mean 'logits'?"), ("xyz", "'attention']."), (3, "].")])
def test_a_key_that_is_not_used_is_said_with_the_nearest(key, hint):
    with pytest.warns(UserWarning) as record:
        found = adapted({key: X, "hidden": [X]})
    (message,) = [str(warning.message) for warning in record]
    assert message.startswith(f"adaptor_T returned the key {key!r}, which is not used.")
    assert message.endswith(hint)
    assert found.given == ("hidden",)


def test_known_keys_are_not_warned_about():
    values = {"inputs_mask": X, **{key: [X] for key in ADAPTOR_KEYS if key != "inputs_mask"}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert adapted(values).given == tuple(values)
