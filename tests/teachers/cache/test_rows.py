"""Rows: what makes two of them the same, and batches of some of them."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from textbrewer.errors import CacheError
from textbrewer.teachers.cache.rows import Rows, salt_of


class Model(nn.Module):
    def forward(self, input_ids, attention_mask=None, **others):
        return input_ids


class Open(nn.Module):
    def forward(self, *inputs):
        return inputs


MODEL = Model()
Pair = namedtuple("Pair", "input_ids attention_mask")
texts = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=4), min_size=1, max_size=6)


def padded(texts, length=None, **more):
    """A batch of texts, which are lists of token ids."""
    length = length or max(map(len, texts))
    ids = torch.tensor([text + [0] * (length - len(text)) for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (length - len(text)) for text in texts])
    return {"input_ids": ids, "attention_mask": mask, **more}


def rows_of(batch, model=MODEL):
    named = batch if hasattr(batch, "keys") else {}
    mask = named.get("attention_mask", batch[1] if isinstance(batch, tuple) and len(batch) > 1 else None)
    return Rows(model, batch, mask)


def keys_of(batch, stripped=True, model=MODEL, **args):
    return rows_of(batch, model).keys(salt_of(args), stripped)


@settings(max_examples=60, deadline=None)
@given(texts=texts, extra=st.integers(0, 3), order=st.randoms(use_true_random=False))
def test_stripped_keys_are_equal_where_the_texts_are(texts, extra, order):
    keys = keys_of(padded(texts))
    for i, first in enumerate(texts):
        for j, second in enumerate(texts):
            assert (keys[i] == keys[j]) == (first == second)
    shuffled = list(range(len(texts)))
    order.shuffle(shuffled)
    longer = padded([texts[i] for i in shuffled], max(map(len, texts)) + extra)
    assert keys_of(longer) == [keys[i] for i in shuffled]
    assert [keys_of(padded([text]))[0] for text in texts] == keys


@settings(max_examples=40, deadline=None)
@given(texts=texts, extra=st.integers(1, 3))
def test_unstripped_keys_keep_the_padding(texts, extra):
    length = max(map(len, texts))
    near, far = keys_of(padded(texts), stripped=False), keys_of(padded(texts, length + extra), stripped=False)
    assert not set(near) & set(far)
    assert not set(near) & set(keys_of(padded(texts)))


def test_left_padding_is_kept():
    right = padded([[1, 2]], 4)
    left = {key: value.flip(1) for key, value in padded([[2, 1]], 4).items()}
    shorter = {key: value[:, 1:] for key, value in left.items()}
    assert len({keys_of(batch)[0] for batch in (right, left, shorter)}) == 3


@pytest.mark.parametrize(("lengths", "padding"), [([4, 4], 0), ([4, 3], 1), ([3, 4, 2], 2), ([1], 2)])
def test_how_much_padding_there_is(lengths, padding):
    assert rows_of(padded([[1] * length for length in lengths], 4)).padding == padding
    assert rows_of({"x": torch.ones(2, 4)}).padding == 0


def test_a_row_without_a_real_token_keeps_all_of_its_padding():
    batch = padded([[1, 2], [1, 2]], 3)
    batch["attention_mask"][0] = 0
    rows = rows_of(batch)
    assert rows.lengths == [3, 2]
    other = {**batch, "input_ids": batch["input_ids"].roll(1, dims=1)}
    assert rows.keys(b"", True)[0] != keys_of(other)[0]
    assert rows.chosen([0], trim=True)["input_ids"].shape == (1, 3)


@pytest.mark.parametrize(
    "other",
    [
        padded([[1, 3]], 3),
        padded([[1, 2, 0]], 3),
        padded([[1, 2]], 3, token_type_ids=torch.zeros(1, 3).long()),
        padded([[1, 2]], 3, weight=torch.tensor([0.5])),
        padded([[1, 2]], 3, flag=None),
        padded([[1, 2]], 3, name=["x"]),
    ],
)
def test_any_other_content_is_another_key(other):
    assert keys_of(padded([[1, 2]], 3)) != keys_of(other)


def test_whole_numbers_mean_the_same_in_any_width_and_booleans_and_fractions_do_not():
    def key(dtype):
        return keys_of({"x": torch.tensor([[1, 0], [1, 1]]).to(dtype)})[0]

    assert len({key(dtype) for dtype in (torch.int64, torch.int32, torch.uint8)}) == 1
    kinds = (torch.int64, torch.bool, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64)
    assert len({key(dtype) for dtype in kinds}) == len(kinds)


def test_the_last_bit_of_a_fraction_counts():
    value = torch.rand(1, 3)
    nudged = torch.nextafter(value, torch.tensor(2.0))
    assert keys_of({"x": value}) != keys_of({"x": nudged})


def test_values_do_not_run_into_each_other():
    # As bytes these follow each other alike: only where the one ends tells them apart.
    near = {"a": torch.tensor([[1, 2]]), "b": torch.tensor([[3]])}
    far = {"a": torch.tensor([[1]]), "b": torch.tensor([[2, 3]])}
    assert keys_of(near) != keys_of(far)
    assert keys_of({"x": torch.ones(1), "a": ["1"], "b": ["2"]}) != keys_of({"x": torch.ones(1), "a": ["1b", "2"]})


@pytest.mark.parametrize("extra", [{"scale": 2.0}, {"scale": torch.tensor(2.0)}, {"how": ["a"]}, {"how": {"a": 1}}])
def test_the_keywords_of_the_pass_are_in_every_key(extra):
    batch = padded([[1], [2]])
    assert not set(keys_of(batch)) & set(keys_of(batch, **extra))
    assert keys_of(batch, **extra) == keys_of(batch, **extra)


def test_a_name_is_told_by_its_place_in_a_tuple_and_items_without_a_name_count_too():
    ids, mask = padded([[1, 2]]).values()
    assert keys_of((ids, mask)) == keys_of({"input_ids": ids, "attention_mask": mask})
    several = [keys_of((ids, torch.tensor([last])), model=Open())[0] for last in (1, 2)]
    assert several[0] != several[1]
    third = [keys_of((ids, mask, torch.tensor([last])), model=Open())[0] for last in (1, 2)]
    assert third[0] != third[1]


def test_texts_and_numbers_in_lists_are_of_the_rows():
    batch = padded([[1], [2]], words=["a", "b"], numbers=[1, 2.5])
    assert rows_of(batch).divisible
    swapped = {**batch, "words": ["b", "b"]}
    assert keys_of(batch)[1] == keys_of(swapped)[1] and keys_of(batch)[0] != keys_of(swapped)[0]
    assert rows_of(batch).chosen([1], trim=False)["words"] == ["b"]


@pytest.mark.parametrize(
    "value",
    [
        [torch.zeros(2), torch.ones(2)],
        (torch.zeros(2, 3), torch.ones(2, 3)),
        [("a", "b"), ("c", "d")],
        {"inner": torch.zeros(2)},
        torch.zeros(5),
        np.zeros((2, 2)),
    ],
    ids=["tensors", "tuple", "turned", "nested", "longer", "numpy"],
)
def test_what_may_lie_the_other_way_is_in_every_key_and_makes_the_batch_indivisible(value):
    batch = padded([[1], [2]], more=value)
    assert not rows_of(batch).divisible
    other = [value[0], value[0]] if isinstance(value, (list, tuple)) else None
    if other is not None:
        assert not set(keys_of(batch)) & set(keys_of({**batch, "more": other}))


@pytest.mark.parametrize("value", [torch.tensor(3.0), "one", None, 4, ["x", "y", "z"], {"a": 1}])
def test_what_all_rows_share_leaves_the_batch_divisible(value):
    batch = padded([[1], [2]], more=value)
    assert rows_of(batch).divisible
    assert rows_of(batch).chosen([1], trim=False)["more"] is value
    assert keys_of(batch)[0] != keys_of(padded([[1], [2]], more="other"))[0]


def test_long_arrays_are_told_to_the_end():
    long = np.zeros(5000)
    other = long.copy()
    other[2500] = 1
    assert salt_of({"x": long}) != salt_of({"x": other})
    assert salt_of({"x": np.float32(1)}) != salt_of({"x": np.float64(1)})


def test_sets_and_dataclasses_are_told_the_same_every_time():
    @dataclass
    class Options:
        names: set

    names = [f"name{i}" for i in range(50)]
    assert salt_of({"o": Options(set(names))}) == salt_of({"o": Options(set(reversed(names)))})
    assert salt_of({"o": Options({"a"})}) != salt_of({"o": Options({"b"})})


def test_an_object_that_can_not_be_told_is_refused():
    with pytest.raises(CacheError, match="can't tell one SimpleNamespace from another"):
        keys_of(padded([[1]], graph=SimpleNamespace(a=1)))
    with pytest.raises(CacheError, match="can't tell one function"):
        salt_of({"hook": salt_of})


@pytest.mark.parametrize("batch", [{"a": "text"}, {"a": torch.tensor(1.0)}, {"in": {"x": torch.ones(2)}}, [], object()])
def test_batches_without_an_axis_of_rows_are_refused(batch):
    with pytest.raises(CacheError, match="rows can be told apart: a mapping, tuple or list"):
        Rows(MODEL, batch, None)


@pytest.mark.parametrize("kind", [dict, OrderedDict, UserDict])
def test_chosen_rows_come_in_the_batchs_own_type(kind):
    rows = rows_of(kind(padded([[1], [2, 3], [4, 5, 6]])))
    some = rows.chosen([1, 0], trim=True)
    assert type(some) is kind
    assert some["input_ids"].tolist() == [[2, 3], [1, 0]]


def test_tuples_named_tuples_lists_and_tensors_stay_what_they_are():
    ids, mask = padded([[1], [2, 3]]).values()
    some = rows_of(Pair(ids, mask)).chosen([0], trim=True)
    assert type(some) is Pair and some.input_ids.tolist() == [[1]]
    assert type(Rows(MODEL, [ids, mask], mask).chosen([0], trim=False)) is list
    assert rows_of((ids, mask, "x")).chosen([1], trim=True)[2] == "x"
    assert Rows(MODEL, ids, None).chosen([1], trim=True).tolist() == [[2, 3]]


def test_a_transformers_batch_encoding_stays_one():
    transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")
    batch = transformers.BatchEncoding(padded([[1], [2, 3]]))
    some = rows_of(batch).chosen([0], trim=True)
    assert type(some) is transformers.BatchEncoding and some.input_ids.tolist() == [[1]]
    assert keys_of(batch) == keys_of(dict(batch))


def test_only_known_inputs_are_cut_however_wide_another_is():
    batch = padded([[1], [2, 3]], 4, scores=torch.rand(2, 4), inputs_embeds=torch.rand(2, 4, 3))
    some = rows_of(batch).chosen([0, 1], trim=True)
    assert [tuple(value.shape) for value in some.values()] == [(2, 2), (2, 2), (2, 4), (2, 2, 3)]
    changed = {**batch, "scores": batch["scores"].clone()}
    changed["scores"][0, 3] += 1
    assert keys_of(batch)[0] != keys_of(changed)[0]


def test_labels_are_cut_only_where_they_are_of_the_tokens():
    def cut(labels, model=MODEL):
        return tuple(rows_of(padded([[1], [2, 3]], 4, labels=labels), model).chosen([0], trim=True)["labels"].shape)

    seq2seq = Model()
    seq2seq.config = SimpleNamespace(is_encoder_decoder=True)
    assert cut(torch.zeros(2, 4).long()) == (1, 1)
    assert cut(torch.zeros(2).long()) == (1,)
    assert cut(torch.zeros(2, 4)) == (1, 4)  # of four classes
    assert cut(torch.zeros(2, 4).long(), seq2seq) == (1, 4)


def test_all_rows_are_taken_without_a_copy():
    batch = padded([[1], [2, 3]])
    assert rows_of(batch).chosen([0, 1], trim=False)["input_ids"] is batch["input_ids"]


def test_keys_do_not_depend_on_the_memory_layout():
    ids = torch.arange(6).reshape(3, 2)
    turned = ids.t().contiguous().t()
    assert not turned.is_contiguous()
    assert keys_of({"x": ids}) == keys_of({"x": turned})


def test_an_empty_text_axis_and_an_empty_batch():
    assert len(set(keys_of({"input_ids": torch.zeros(2, 0).long(), "attention_mask": torch.zeros(2, 0)}))) == 1
    assert keys_of({"x": torch.zeros(0, 3)}) == []
