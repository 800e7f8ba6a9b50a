"""Features to batches."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

pytest.importorskip("transformers", reason="needs the extra `hf`")

from tests.tasks.small import tokenizer_of
from textbrewer import LengthGroupedBatches
from textbrewer.errors import DataError
from textbrewer.tasks import DataReport, Encoded
from textbrewer.tasks.encoded import Made, Padding, Part, Passes, two_sided

FEATURES = [
    {"input_ids": np.array([5, 6, 7]), "token_type_ids": np.array([0, 0, 1]), "labels": np.array([1, -100, 2])},
    {"input_ids": np.array([8]), "token_type_ids": np.array([0]), "labels": np.array([3])},
]


def test_everything_by_token_is_padded_to_the_longest_row():
    batch = Padding(tokenizer_of(), by_token=("labels",))(FEATURES)
    assert {key: value.tolist() for key, value in batch.items()} == {
        "input_ids": [[5, 6, 7], [8, 0, 0]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "token_type_ids": [[0, 0, 1], [0, 0, 0]],
        "labels": [[1, -100, 2], [3, -100, -100]],
    }
    assert all(value.dtype == torch.int64 for value in batch.values())


def test_padding_on_the_left():
    batch = Padding(tokenizer_of(padding_side="left"), by_token=("labels",))(FEATURES)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [0, 0, 8]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch["labels"].tolist() == [[1, -100, 2], [-100, -100, 3]]


def test_positions_move_with_their_tokens():
    rows = [
        {"input_ids": np.array([5, 6, 7]), "start_positions": 1, "end_positions": 2},
        {"input_ids": np.array([8]), "start_positions": 0, "end_positions": -100},
    ]
    for side, length, starts, ends in (("right", 5, [1, 0], [2, -100]), ("left", 0, [1, 2], [2, -100])):
        batch = Padding(tokenizer_of(padding_side=side), length=length)(rows)
        assert batch["start_positions"].tolist() == starts and batch["end_positions"].tolist() == ends
    longer = Padding(tokenizer_of(padding_side="left"), length=5)(rows)
    assert longer["start_positions"].tolist() == [3, 4] and longer["end_positions"].tolist() == [4, -100]


def test_values_of_a_row_are_not_padded_even_if_they_are_as_many_as_its_tokens():
    rows = [{"input_ids": np.array([5, 6, 7]), "labels": np.array([0.0, 1.0, 0.5], dtype=np.float32)}] * 2
    batch = Padding(tokenizer_of())(rows)
    assert batch["labels"].dtype == torch.float32 and batch["labels"].tolist() == [[0.0, 1.0, 0.5]] * 2
    numbers = Padding(tokenizer_of())([{"input_ids": np.array([5]), "labels": 1, "start_positions": 4}])
    assert numbers["labels"].tolist() == [1] and numbers["start_positions"].dtype == torch.int64


def test_a_tokenizer_without_a_padding_token():
    tokenizer = tokenizer_of()
    tokenizer.pad_token = None
    with pytest.raises(DataError, match=r"no padding token; set one, e.g. tokenizer.pad_token = tokenizer.eos_token"):
        Padding(tokenizer)


def encoded(number):
    features = [{"input_ids": np.array([i + 5]), "labels": i, "start_positions": 0} for i in range(number)]
    report = DataReport("a", number, number, number)
    return Encoded(
        [{"text": str(i)} for i in range(number)], features, [Part(i) for i in range(number)], PADDING, report
    )


PADDING = Padding(tokenizer_of())


def test_a_seed_fixes_the_order_and_epochs_differ():
    def order(loader):
        return torch.cat([batch["labels"] for batch in loader]).tolist()

    data = encoded(20)
    first, again = data.loader(4, shuffle_seed=3), data.loader(4, shuffle_seed=3)
    one = order(first)
    assert one == order(again) != order(first) and sorted(one) == list(range(20)) == order(data.loader(3))


def test_other_processes_can_collate():
    padding = pickle.loads(pickle.dumps(PADDING))
    assert padding(encoded(2).features)["labels"].tolist() == [0, 1]


def test_without_labels():
    data = encoded(3).without_labels()
    assert set(next(iter(data.loader(3)))) == {"input_ids", "attention_mask"}
    assert data.report.labelled == 0 and len(data) == 3


def test_batches_of_like_lengths():
    data = Encoded([{}] * 4, [FEATURES[0], FEATURES[1]] * 2, [Part(i) for i in range(4)], PADDING, encoded(4).report)
    assert data.lengths == [3, 1, 3, 1]
    batches = DataLoader(data, batch_sampler=LengthGroupedBatches(data.lengths, 2), collate_fn=data.padding)
    assert sorted(batch["input_ids"].shape[1] for batch in batches) == [1, 3]
    widths = [[b["input_ids"].shape[1] for b in data.loader(2, shuffle_seed=2, group_by_length=True)] for _ in range(2)]
    assert sorted(widths[0]) == [1, 3] and widths[0] == widths[1]
    assert [len(b["labels"]) for b in encoded(3).loader(2, group_by_length=True, drop_last=True)] == [2]


def test_features_made_anew_are_made_anew_when_grouped_too():
    features = Made(4, lambda index: {"input_ids": np.array([5]), "labels": index if isinstance(index, int) else -1})
    data = Encoded([{}] * 4, features, [Part(i) for i in range(4)], PADDING, encoded(4).report, varies=True)
    seen = [batch["labels"].tolist() for batch in data.loader(4, shuffle_seed=0, group_by_length=True)]
    assert seen == [[-1] * 4]


def test_no_rows():
    with pytest.raises(DataError, match="no rows"):
        encoded(0).loader(2)


def test_passes_are_drawn_and_have_every_feature_once():
    shuffled = Passes(6, torch.Generator().manual_seed(2))
    again = Passes(6, torch.Generator().manual_seed(2))
    first, second = list(shuffled), list(shuffled)
    assert [list(again), list(again)] == [first, second]
    for passed in (first, second):
        assert sorted(place for place, _ in passed) == list(range(6)) and len({number for _, number in passed}) == 1
    assert first[0][1] != second[0][1] and [p for p, _ in first] != [p for p, _ in second]
    in_order = Passes(3, None)
    numbers = [list(in_order), list(in_order)]
    assert [[place for place, _ in passed] for passed in numbers] == [[0, 1, 2]] * 2 and numbers[0] != numbers[1]
    assert len(in_order) == 3


def test_two_sides():
    one, other = encoded(3), encoded(3)
    both = two_sided(one, other)
    assert both[1]["student"]["labels"] == 1 and set(both[1]["teacher"]) == {"input_ids"}
    batch = next(iter(both.loader(2)))
    assert batch["student"]["labels"].tolist() == [0, 1] and "labels" not in batch["teacher"]
    assert two_sided(both, both)[2].keys() == {"teacher", "student"} and both.lengths == [1, 1, 1]
    assert pickle.loads(pickle.dumps(both.without_labels()))[0].keys() == {"teacher", "student"}
