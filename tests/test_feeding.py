"""How a batch reaches a model: its sides, its device, and the call."""

from __future__ import annotations

from collections import OrderedDict, UserDict, defaultdict, namedtuple

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from textbrewer.errors import DataError
from textbrewer.feeding import ABSENT, accepts, call, length_of, named_inputs, require_batches, sides, to_device

META = torch.device("meta")
Pair = namedtuple("Pair", "ids mask")


class Forward(nn.Module):
    """Gives back what it was called with."""

    def forward(self, input_ids=None, attention_mask=None, scale=1.0):
        return input_ids, attention_mask, scale


class Open(nn.Module):
    def forward(self, x, **others):
        return x, others


@pytest.mark.parametrize("kind", [dict, UserDict])
def test_each_side_gets_its_own_part(kind):
    fed = sides(kind({"teacher": [1], "student": (2,)}))
    assert (fed.teacher, fed.student, fed.teacher_cache) == ([1], (2,), ABSENT)


@pytest.mark.parametrize("cache", [{"logits": 1}, None])
def test_ready_outputs_stand_beside_or_in_place_of_the_teachers_part(cache):
    fed = sides({"teacher": 1, "student": 2, "teacher_cache": cache})
    assert (fed.teacher, fed.student, fed.teacher_cache) == (1, 2, cache)
    fed = sides({"student": 2, "teacher_cache": cache})
    assert (fed.teacher, fed.student, fed.teacher_cache) == (None, 2, cache)


@pytest.mark.parametrize(
    "batch",
    [
        {"input_ids": 1},
        {"student": 1},
        {"teacher": 1},
        {"teacher": 1, "teacher_cache": 2},
        (1, 2),
        ["student", "teacher"],
    ],
)
def test_any_other_batch_goes_to_both(batch):
    fed = sides(batch)
    assert fed.teacher is batch and fed.student is batch and fed.teacher_cache is ABSENT


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x,
        lambda x: {"a": x, "b": {"c": [x, 3, None]}},
        lambda x: [x, (x, "text"), {"deep": [[x]]}],
        lambda x: (x, 1.5),
        lambda x: Pair(x, mask=[x]),
        lambda x: UserDict(a=x, b=(x,)),
        lambda x: OrderedDict(a=x),
    ],
    ids=["tensor", "dict", "list", "tuple", "namedtuple", "UserDict", "OrderedDict"],
)
def test_tensors_are_moved_wherever_they_are_nested(make):
    given = make(torch.ones(2))
    before = skeleton(given, "cpu")
    assert skeleton(to_device(given, META), "meta") == before
    assert skeleton(given, "cpu") == before, "the batch itself stays where it was"


def skeleton(value, device):
    """Types and plain values of a nest, with each tensor replaced by whether it is on ``device``."""
    if isinstance(value, torch.Tensor):
        return value.device.type == device
    if isinstance(value, (dict, UserDict)):
        return type(value), [(key, skeleton(item, device)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [skeleton(item, device) for item in value]
    return value


def test_an_object_that_can_move_is_moved_by_itself():
    class Movable:
        def to(self, device):
            return ("moved", device)

    assert to_device([Movable()], META) == [("moved", META)]


def test_a_mapping_that_cannot_be_rebuilt_becomes_a_dict():
    moved = to_device(defaultdict(list, a=torch.ones(1)), META)
    assert type(moved) is dict
    assert moved["a"].device == META


@pytest.mark.parametrize("value", [3, "text", None, {1, 2}, range(2), b"bytes"])
def test_other_values_pass(value):
    assert to_device(value, META) is value


def test_packed_sequences_are_moved():
    packed = nn.utils.rnn.pack_sequence([torch.ones(2), torch.ones(1)])
    assert to_device(packed, META).data.device == META


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ({"attention_mask": 2, "input_ids": 1}, (1, 2, 0.5)),
        (UserDict(input_ids=1), (1, None, 0.5)),
        ((1, 2), (1, 2, 0.5)),
        ([1], (1, None, 0.5)),
        (Pair(1, 2), (1, 2, 0.5)),
        (7, (7, None, 0.5)),
    ],
)
def test_the_call(batch, expected):
    assert call(Forward(), batch, {"scale": 0.5}) == expected


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ({"mine": 1}, {"mine": 1}),
        (UserDict(mine=1), {"mine": 1}),
        ((1, 2), {"input_ids": 1, "attention_mask": 2}),
        ([1], {"input_ids": 1}),
        ((1, 2, 3, 4), {"input_ids": 1, "attention_mask": 2, "scale": 3}),
        (7, {}),
    ],
)
def test_named_inputs(batch, expected):
    assert named_inputs(Forward(), batch) == expected


@pytest.mark.parametrize(
    ("model", "name", "taken"), [(Forward(), "scale", True), (Forward(), "output", False), (Open(), "output", True)]
)
def test_which_keywords_a_model_takes(model, name, taken):
    assert accepts(model, name) is taken


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(3))


@pytest.mark.parametrize(
    ("loader", "length"),
    [([1, 2], 2), ([], 0), (iter([1]), None), (DataLoader(range(5), batch_size=2), 3), (DataLoader(Stream()), None)],
)
def test_length_of(loader, length):
    assert length_of(loader) == length


@pytest.mark.parametrize(
    ("number", "accumulation", "keep_last", "message"),
    [
        (0, 1, False, "the dataloader is empty"),
        (0, 1, True, "the dataloader is empty"),
        (2, 3, False, r"gives 2 batch\(es\), fewer than gradient_accumulation_steps=3.*keep_last_accumulation=True"),
        (2, 3, True, None),
        (3, 3, False, None),
        (None, 3, False, None),
    ],
)
def test_loaders_too_short_for_a_single_step(number, accumulation, keep_last, message):
    if message is None:
        require_batches(number, accumulation, keep_last)
        return
    with pytest.raises(DataError, match=message):
        require_batches(number, accumulation, keep_last)


def small_bert(**sizes):
    from transformers import BertConfig, BertForSequenceClassification

    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return BertForSequenceClassification(BertConfig(vocab_size=30, max_position_embeddings=6, **shape, **sizes))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            {"input_ids": torch.ones(2, 3, dtype=torch.long), "labels": torch.tensor([0, 4])},
            r"a label is outside of its 3 classes.*labels 0 to 4.*num_labels.*Target 4 is out of bounds",
        ),
        (
            {"input_ids": torch.tensor([[2, 30]])},
            r"an id is outside of its embeddings.*input_ids 2 to 30; .*word_embeddings 30.*tokenizer",
        ),
    ],
)
def test_numbers_outside_of_what_a_model_knows_are_named(batch, message):
    with pytest.raises(DataError, match=message):
        call(small_bert(num_labels=3), batch, {})


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_a_batch_of_nothing_is_named(shape):
    with pytest.raises(DataError, match=rf"the batch is empty \(input_ids \[{shape[0]}, {shape[1]}\]\)"):
        call(small_bert(), {"input_ids": torch.ones(shape, dtype=torch.long)}, {})


def test_a_model_that_takes_an_empty_batch_is_left_to_it():
    assert call(Open(), {"x": torch.ones(0, 2)}, {})[0].shape == (0, 2)


def test_another_index_error_stays_what_it_is():
    class Broken(nn.Module):
        def forward(self, x):
            return (x,)[3]

    with pytest.raises(IndexError, match="tuple index"):
        call(Broken(), {"x": torch.ones(1)}, {})
