"""The functions against TextBrewer 0.2.1 and their probabilities; variants of rows against what labels promise."""

from __future__ import annotations

import copy
import itertools
import json
import math
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textbrewer import data_utils
from textbrewer.data_utils import Augmenter, deleting, long_disorder, masking, n_gram_sampling, short_disorder
from textbrewer.errors import ConfigError, DataError

GOLDEN = json.loads((Path(__file__).parent / "golden" / "data_utils.json").read_text())
FUNCTIONS = [masking, deleting, n_gram_sampling, short_disorder, long_disorder]
NAMES = [function.__name__ for function in FUNCTIONS]
TRIALS = 20_000
few = settings(max_examples=60, deadline=None)


def near(count, p, trials=TRIALS):
    """Whether ``count`` hits in ``trials`` fit probability ``p``: within five standard deviations of a binomial."""
    return abs(count - p * trials) <= 5 * math.sqrt(trials * p * (1 - p))


def fits(counts, shares, trials=TRIALS):
    return counts.keys() <= shares.keys() and all(near(counts[key], share, trials) for key, share in shares.items())


@pytest.fixture(params=["global", "generator"])
def rng(request):
    np.random.seed(7)
    return None if request.param == "global" else np.random.default_rng(7)


def problems_of(function, *args, **kwargs):
    with pytest.raises(ConfigError) as caught:
        function(*args, **kwargs)
    return {problem.path: problem for problem in caught.value.problems}


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_what_the_original_gives_with_as_many_draws(name):
    cases = [case for case in GOLDEN if case["name"] == name]
    assert len(cases) >= 18
    for case in cases:
        np.random.seed(case["seed"])
        found = getattr(data_utils, name)(list(range(case["count"])), **case["arguments"])
        assert (found, np.random.rand()) == (case["found"], case["next"]), case


@pytest.mark.parametrize("function", FUNCTIONS, ids=NAMES)
@pytest.mark.parametrize("make", [list, tuple, "".join, np.array], ids=["list", "tuple", "string", "array"])
def test_any_sequence_becomes_a_new_list(function, make):
    tokens = make(list("abcdefghijklmnopqrstuvwxyz"))
    before = copy.copy(tokens)
    found = function(tokens, rng=np.random.default_rng(3))
    assert type(found) is list and found is not tokens
    assert list(tokens) == list(before)
    assert found == function(list(before), rng=np.random.default_rng(3))


@pytest.mark.parametrize("function", FUNCTIONS, ids=NAMES)
def test_no_tokens_are_no_tokens(function, rng):
    assert function([], rng=rng) == []


@pytest.mark.parametrize("function", FUNCTIONS, ids=NAMES)
def test_a_generator_leaves_the_global_state_alone(function):
    np.random.seed(1)
    expected = np.random.rand()
    np.random.seed(1)
    function(list(range(50)), rng=np.random.default_rng(0))
    assert np.random.rand() == expected


def test_what_the_original_failed_on(rng):
    assert n_gram_sampling(["a", "b"], [1], [5], rng=rng) == ["a", "b"]
    assert long_disorder(["a"], 1, 0.5, rng=rng) == ["a"]
    assert long_disorder(list("abcde"), 1, 0.1, rng=rng) == list("badce")


@few
@given(st.integers(0, 30), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_what_each_function_keeps(count, p, seed):
    tokens = list(range(count))
    rng = np.random.default_rng(seed)
    masked = masking(tokens, p, mask=-1, rng=rng)
    assert len(masked) == count and all(found in (token, -1) for found, token in zip(masked, tokens, strict=True))
    kept = deleting(tokens, p, rng=rng)
    assert kept == sorted(set(kept)) and set(kept) <= set(tokens)
    window = n_gram_sampling(tokens, [p, 1 - p], [2, 4], rng=rng)
    assert len(window) in {min(2, count), min(4, count)}
    assert window == tokens[window[0] : window[0] + len(window)] if window else count == 0
    near_by = short_disorder(tokens, [1 - p, *[p / 4] * 4], rng=rng)
    assert sorted(near_by) == tokens and all(abs(i - token) <= 2 for i, token in enumerate(near_by))
    for length in (1, 0.4, 2, 5, 8):
        assert sorted(long_disorder(tokens, p, length, rng=rng)) == tokens


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_of_masked_tokens(p, rng):
    tokens = list(range(TRIALS))
    masked = np.array(masking(tokens, p, mask=-1, rng=rng)) == -1
    assert near(masked.sum(), p)
    # Neighbours are independent.
    assert near((masked[1:] & masked[:-1])[::2].sum(), p * p, TRIALS // 2)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_of_deleted_tokens(p, rng):
    kept = np.isin(np.arange(TRIALS), deleting(list(range(TRIALS)), p, rng=rng))
    assert near((~kept).sum(), p)
    assert near((~kept[1:] & ~kept[:-1])[::2].sum(), p * p, TRIALS // 2)


def test_the_lengths_and_places_of_n_grams(rng):
    found = Counter(tuple(n_gram_sampling(range(6), [0.3, 0.0, 0.7], [1, 2, 4], rng=rng)) for _ in range(TRIALS))
    ones = {(i,): 0.3 / 6 for i in range(6)}
    fours = {tuple(range(i, i + 4)): 0.7 / 3 for i in range(3)}
    assert fits(found, ones | fours)


def test_the_default_n_grams(rng):
    lengths = Counter(len(n_gram_sampling(range(9), rng=rng)) for _ in range(TRIALS))
    assert fits(lengths, dict.fromkeys(range(1, 6), 0.2))


def test_the_orders_of_three_tokens(rng):
    p = [0.4, 0.25, 0.15, 0.12, 0.08]
    found = Counter("".join(short_disorder("abc", p, rng=rng)) for _ in range(TRIALS))
    # Where a stays, b and c swap by whatever is not p[0]; after b a, c is alone.
    assert fits(found, {"abc": 0.4 * 0.4, "acb": 0.4 * 0.6, "bac": 0.25, "cba": 0.15, "cab": 0.12, "bca": 0.08})


def test_the_default_short_disorder_swaps_one_in_ten(rng):
    found = Counter("".join(short_disorder("abc", rng=rng)) for _ in range(TRIALS))
    assert fits(found, {"abc": 0.81, "acb": 0.09, "bac": 0.1})


def test_where_halves_of_spans_change_places(rng):
    found = Counter("".join(long_disorder("abcde", 0.3, 4, rng=rng)) for _ in range(TRIALS))
    assert fits(found, {"cdabe": 0.3, "adebc": 0.7 * 0.3, "abcde": 0.7 * 0.7})


def test_the_default_long_disorder_is_one_in_ten_of_twenty(rng):
    trials = TRIALS // 4
    swapped = list(range(10, 20)) + list(range(10))
    found = [long_disorder(range(20), rng=rng) for _ in range(trials)]
    assert all(tokens in (swapped, list(range(20))) for tokens in found)
    assert near(found.count(swapped), 0.1, trials)


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan, "0.5", None])
@pytest.mark.parametrize("function", [masking, deleting, long_disorder], ids=lambda function: function.__name__)
def test_no_probability(function, p):
    with pytest.raises(ConfigError) as caught:
        function(["a"], p)
    assert str(caught.value) == f"{function.__name__}: 1 problem\n  `p`: expected a number from 0 to 1, got {p!r}"


@pytest.mark.parametrize("p", [[1.0], [0.2] * 4, [0.3] * 5, [1.5, -0.5, 0, 0, 0], [math.nan, 1, 0, 0, 0], 0.1, None])
def test_no_five_probabilities(p):
    message = f"expected 5 numbers from 0 to 1 that add up to 1, got {p!r}"
    assert message in str(problems_of(short_disorder, ["a"], p)["p"])


@pytest.mark.parametrize(
    ("p_ng", "l_ng", "paths"),
    [
        ([0.5, 0.6], [1, 2], ["p_ng"]),
        ([0.5, 0.5], [1, 2, 3], ["p_ng"]),
        (1, [1], ["p_ng"]),
        ([1.0], [0], ["l_ng"]),
        ([0.5, 0.5], [1, 1.5], ["l_ng"]),
        ([], [], ["l_ng", "p_ng"]),
        ([1.0], 1, ["l_ng", "p_ng"]),
    ],
)
def test_lengths_and_their_probabilities(p_ng, l_ng, paths):
    assert list(problems_of(n_gram_sampling, ["a"], p_ng, l_ng)) == paths


@pytest.mark.parametrize("length", [0, -3, math.inf, math.nan, "2"])
def test_no_length(length):
    assert list(problems_of(long_disorder, ["a"], 0.1, length)) == ["length"]


def test_numpy_numbers_are_numbers():
    p = np.full(5, 0.2, dtype=np.float32)
    assert len(short_disorder("abc", p, rng=np.random.default_rng(0))) == 3
    assert len(n_gram_sampling("abcdef", p, np.arange(1, 6), rng=np.random.default_rng(0))) in range(1, 6)
    assert masking("ab", np.float32(1), "_", rng=np.random.default_rng(0)) == ["_", "_"]


ALL = {
    "masking": 0.2,
    "deleting": 0.2,
    "short_disorder": 0.2,
    "long_disorder": {"p": 0.2, "length": 4},
    "n_gram_sampling": {"p": 0.3, "p_ng": [0.5, 0.5], "l_ng": [1, 6]},
}
MOVES = {name: options for name, options in ALL.items() if name != "masking"}
WORDS = st.text("abcé中,.'-", min_size=1, max_size=4)
PINNED = ["[MASK] w5 w0 w3 w6", "w0 w2 w5 w1 w3 w6 w7", "w1 w0 w2 w6 [MASK] w3 w5"]
PLAIN = {"masking": 0.5, "short_disorder": 0.5}


def text_of(count):
    return " ".join(f"w{i}" for i in range(count))


def test_a_variant_changes_the_texts_and_nothing_else():
    row = {"idx": 3, "sentence1": text_of(8), "other": text_of(5), "sentence2": text_of(6).split(), "label": 1}
    before = copy.deepcopy(row)
    for variant in Augmenter(("sentence1", "sentence2"), n=5, operations=PLAIN)(row):
        assert list(variant) == list(row)
        assert [variant[key] for key in ("idx", "other", "label")] == [3, row["other"], 1]
        assert isinstance(variant["sentence1"], str) and isinstance(variant["sentence2"], list)
        assert variant["sentence1"] != row["sentence1"] and variant["sentence2"] != row["sentence2"]
        assert len(variant["sentence1"].split()) == 8 and len(variant["sentence2"]) == 6
    assert row == before


def test_columns_can_be_dropped():
    row = {"text": "one two three", "label": 1, "score": 0.5}
    assert set(Augmenter("text", drop=("label", "score"))(row)[0]) == {"text"}
    columns = {"text": ["one two", "three"], "label": [0, 1]}
    assert set(Augmenter("text", drop="label").batched(columns)) == {"text"}


def test_characters():
    swap = Augmenter("text", operations={"short_disorder": 1}, tokenize=list, join="".join)
    assert swap({"text": "知识蒸馏"})[0]["text"] == "识知馏蒸"


@pytest.mark.parametrize("name", [name for name in ALL if name != "masking"])
def test_operations_are_the_functions(name):
    """One that always acts gives what the function gives."""
    sure = {
        "deleting": 0,
        "n_gram_sampling": {"p": 1, "p_ng": [1], "l_ng": [7]},
        "short_disorder": {"p": [0, 0, 0, 0, 1]},
        "long_disorder": {"p": 1, "length": 4},
    }
    expected = {
        "deleting": "0 1 2 3 4 5 6",
        "n_gram_sampling": "0 1 2 3 4 5 6",
        "short_disorder": "1 2 0 4 5 3 6",
        "long_disorder": "2 3 0 1 4 5 6",
    }
    assert Augmenter("text", operations={name: sure[name]})({"text": "0 1 2 3 4 5 6"}) == [{"text": expected[name]}]


def test_operations_follow_the_order_given():
    short, long = {"short_disorder": [0, 0, 0, 0, 1]}, {"long_disorder": {"p": 1, "length": 4}}
    assert Augmenter("text", operations=short | long)({"text": "0 1 2 3 4"}) == [{"text": "0 4 1 2 3"}]
    assert Augmenter("text", operations=long | short)({"text": "0 1 2 3 4"}) == [{"text": "3 0 2 4 1"}]


@few
@given(
    st.lists(WORDS, max_size=12),
    st.dictionaries(st.sampled_from(sorted(ALL)), st.sampled_from([0, 0.5, 1]), min_size=1),
    st.integers(0, 99),
)
def test_a_text_never_loses_its_last_word(words, operations, seed):
    row = {"text": " ".join(words), "tokens": words}
    for variant in Augmenter(("text", "tokens"), n=3, operations=operations, seed=seed)(row):
        assert bool(variant["text"].split()) == bool(variant["tokens"]) == bool(words)
        assert not Counter(variant["tokens"]) - Counter({**dict.fromkeys(["[MASK]"], 99), **Counter(words)})


@pytest.mark.parametrize("text", ["", "  \n"])
def test_a_text_without_words_stays(text):
    assert Augmenter("text", operations=ALL)({"text": text}) == [{"text": text}]
    characters = Augmenter("text", n=20, operations={"deleting": 0.9}, tokenize=list, join="".join)
    assert all(variant["text"].strip() for variant in characters({"text": f"{text}a{text}"}))


def test_the_published_mixture():
    words, trials = text_of(40), 2000
    found = [v["text"].split() for v in Augmenter("text", n=trials)({"text": words})]
    whole = [tokens for tokens in found if len(tokens) == 40]
    assert near(trials - len(whole), 0.25, trials)
    lengths = Counter(len(tokens) for tokens in found if len(tokens) < 40)
    assert fits(lengths, dict.fromkeys(range(1, 6), 0.05), trials)
    for part in (whole, [tokens for tokens in found if len(tokens) < 40]):
        assert near(sum(tokens.count("[MASK]") for tokens in part), 0.1, sum(map(len, part)))


@pytest.mark.parametrize("options", [{"deleting": 0.3}, {"short_disorder": 0.3}, {"long_disorder": 0.3}], ids=str)
def test_a_number_is_the_probability(options):
    trials = 2000
    found = [v["text"] for v in Augmenter("text", n=trials, operations=options)({"text": text_of(20)})]
    moved = sum(not text.startswith("w0 ") for text in found)
    assert near(moved, 0.3, trials)


def test_variants_differ_by_number_seed_and_row():
    rows = [{"text": text_of(count)} for count in range(30, 34)]
    found = [
        tuple(variant["text"].split()[:30])
        for seed in (0, 1, -1)
        for row in rows
        for variant in Augmenter("text", n=4, operations={"masking": 0.5}, seed=seed)(row)
    ]
    assert len(set(found)) == 3 * 4 * 4


def test_a_variant_depends_on_nothing_but_what_is_read():
    augmenter = Augmenter("text", n=3, operations=ALL, seed=5)
    row = {"text": text_of(20), "label": 1}
    expected = [variant["text"] for variant in augmenter(row)]
    np.random.seed(0)
    state = np.random.get_state()[1].tolist()
    for other in (augmenter, Augmenter("text", n=5, operations=ALL, seed=5), pickle.loads(pickle.dumps(augmenter))):
        assert [variant["text"] for variant in other({"id": 9, **row})][:3] == expected
    assert np.random.get_state()[1].tolist() == state


def test_variants_are_pinned():
    """A change here changes everyone's augmented data for the same seed."""
    found = [variant["text"] for variant in Augmenter("text", n=3, operations=ALL)({"text": text_of(8)})]
    assert found == PINNED


@few
@given(st.permutations(range(6)), st.integers(0, 9))
def test_the_order_of_rows_does_not_matter(order, seed):
    rows = [{"text": text_of(5 + i), "label": i} for i in range(6)]
    augmenter = Augmenter("text", n=2, operations=ALL, seed=seed)
    expected = [variant for i in order for variant in augmenter(rows[i])]
    shuffled = [rows[i] for i in order]
    assert list(augmenter.over(shuffled)) == expected
    columns = {key: [row[key] for row in shuffled] for key in ("text", "label")}
    assert augmenter.batched(columns) == {key: [row[key] for row in expected] for key in columns}


@pytest.mark.parametrize("workers", [None, 2])
def test_a_dataset(workers):
    datasets = pytest.importorskip("datasets")
    rows = [{"text": text_of(3 + i), "label": i % 2} for i in range(20)]
    augmenter = Augmenter("text", n=3, operations=ALL)
    dataset = datasets.Dataset.from_list(rows)
    found = dataset.map(augmenter.batched, batched=True, batch_size=7, num_proc=workers)
    assert found.to_list() == list(augmenter.over(rows))
    unlabelled = Augmenter("text", n=3, operations=ALL, drop="label").batched
    texts = dataset.map(unlabelled, batched=True, remove_columns="label")
    assert texts.to_list() == [{"text": row["text"]} for row in found.to_list()]


def test_no_rows():
    assert Augmenter("text").batched({"text": [], "label": []}) == {"text": [], "label": []}
    assert list(Augmenter("text").over([])) == []


TYPES = ["PER", "LOC"]
ROWS_OF_CHUNKS = st.lists(st.tuples(st.sampled_from(["O", *TYPES]), st.integers(1, 3)), min_size=1, max_size=10)


def labels_in(scheme, chunks):
    """Labels of chunks ``(type, length)`` in a scheme; the length of what is outside is 1."""
    labels, before = [], "O"
    for kind, length in chunks:
        if kind == "O":
            labels.append("O")
        elif scheme == "IOB1":
            labels += [f"{'B' if before == kind else 'I'}-{kind}", *[f"I-{kind}"] * (length - 1)]
        elif scheme == "IOB2":
            labels += [f"B-{kind}", *[f"I-{kind}"] * (length - 1)]
        else:
            first, middle, last, single = {"IOBES": "BIES", "BILOU": "BILU", "BMES": "BMES"}[scheme]
            prefixes = single if length == 1 else first + middle * (length - 2) + last
            labels += [f"{prefix}-{kind}" for prefix in prefixes]
        before = kind
    return labels


def chunks_of(tokens, labels):
    """Every chunk as ``(type, tokens)``, by the rule that most scorers share."""
    found, before = [], ("O", "")
    for token, label in zip(tokens, labels, strict=True):
        prefix, _, kind = label.partition("-")
        if prefix != "O":
            begins = prefix in "BSU" or before[0] in "OESLU" or before[1] != kind
            if begins:
                found.append((kind, ()))
            found[-1] = (kind, (*found[-1][1], token))
        before = (prefix, kind)
    return found


@pytest.mark.parametrize("scheme", ["IOB2", "IOB1", "IOBES", "BILOU", "BMES"])
@few
@given(chunks=ROWS_OF_CHUNKS, seed=st.integers(0, 99), strong=st.booleans())
def test_chunks_stay_whole(scheme, chunks, seed, strong):
    labels = labels_in(scheme, chunks)
    tokens = [f"w{i}" for i in range(len(labels))]
    own = dict(zip(tokens, labels, strict=True))
    operations = {"short_disorder": [0.2] * 5, **MOVES} if strong else MOVES
    for variant in Augmenter("tokens", n=4, operations=operations, token_labels="tags", seed=seed)(
        {"tokens": tokens, "tags": labels}
    ):
        assert variant["tags"] == [own[token] for token in variant["tokens"]]
        assert len(set(variant["tokens"])) == len(variant["tokens"]) > 0
        assert set(chunks_of(variant["tokens"], variant["tags"])) <= set(chunks_of(tokens, labels))
        if scheme == "IOB2":
            pairs = itertools.pairwise(["O", *variant["tags"]])
            assert all(label[0] != "I" or before[1:] == label[1:] for before, label in pairs)


@few
@given(chunks=ROWS_OF_CHUNKS, seed=st.integers(0, 99))
def test_masked_tokens_keep_their_labels(chunks, seed):
    labels = labels_in("IOB2", chunks)
    row = {"tokens": [f"w{i}" for i in range(len(labels))], "tags": labels}
    for variant in Augmenter("tokens", n=3, operations={"masking": 0.5}, token_labels="tags", seed=seed)(row):
        assert variant["tags"] == labels
        assert all(new in (old, "[MASK]") for new, old in zip(variant["tokens"], row["tokens"], strict=True))


def test_chunks_are_deleted_as_one():
    trials = 2000
    row = {"tokens": list("abcdef"), "tags": ["B-LOC", "I-LOC", "I-LOC", "O", "B-PER", "B-PER"]}
    found = Augmenter("tokens", n=trials, operations={"deleting": 0.3}, token_labels="tags")(row)
    kept = Counter(token for variant in found for token in variant["tokens"])
    assert kept["a"] == kept["b"] == kept["c"]
    # What would leave nothing is not done: all four units are deleted with probability 0.3⁴.
    assert all(near(kept[token], 0.7 + 0.3**4, trials) for token in "adef")


def test_two_chunks_that_begin_with_i_do_not_become_one():
    row = {"tokens": ["Ann", "and", "Bob"], "tags": ["I-PER", "O", "I-PER"]}
    found = Augmenter("tokens", n=500, operations={"deleting": 0.5}, token_labels="tags")(row)
    kept = Counter(" ".join(variant["tokens"]) for variant in found)
    assert "Ann Bob" not in kept
    # Neither that nor the empty text, each with probability 1/8, is made.
    assert fits(kept, {"Ann and Bob": 3 / 8, **dict.fromkeys(["Ann", "and", "Bob", "Ann and", "and Bob"], 1 / 8)}, 500)


@pytest.mark.parametrize(
    "labels",
    [
        ["B-X", "B-X"],
        ["I-X", "B-Y"],
        ["I-X", "I-Y"],
        ["B-X", "I-Y"],
        ["S-X", "S-X"],
        ["U-X", "U-X"],
        ["E-X", "E-X"],
        ["L-X", "U-X"],
        ["B", "B"],
        ["NOUN", "NOUN"],
        ["O", "I-X"],
    ],
    ids="-then-".join,
)
def test_neighbours_that_are_not_one_chunk_are_free_to_move(labels):
    swap = Augmenter("text", operations={"short_disorder": 1}, token_labels="tags")
    assert swap({"text": "a b", "tags": labels}) == [{"text": "b a", "tags": labels[::-1]}]


def test_labels_by_number_and_columns_beside_them():
    names = ["O", "B-LOC", "I-LOC"]
    row = {"tokens": ["to", "New", "York", "now"], "ner": [0, 1, 2, 0], "pos": ["TO", "NNP", "NNP", "RB"], "id": 7}
    expected = {"tokens": ["New", "York", "to", "now"], "ner": [1, 2, 0, 0], "pos": ["NNP", "NNP", "TO", "RB"], "id": 7}
    augmenter = Augmenter("tokens", operations={"short_disorder": 1}, token_labels={"ner": names, "pos": None})
    assert augmenter(row) == [expected]
    arrays = row | {"tokens": np.array(row["tokens"]), "ner": np.array(row["ner"])}
    assert augmenter(arrays) == [expected]


def test_chunks_of_two_columns_that_overlap_are_one_unit():
    row = {"tokens": list("abcd"), "ner": ["O", "B-X", "I-X", "O"], "np": ["B-N", "I-N", "O", "O"]}
    augmenter = Augmenter("tokens", operations={"short_disorder": 1}, token_labels={"ner": None, "np": None})
    assert augmenter(row)[0]["tokens"] == list("dabc")


def test_labels_of_a_string():
    row = {"text": "in New York", "tags": ["O", "B-LOC", "I-LOC"]}
    swapped = Augmenter("text", operations={"short_disorder": 1}, token_labels="tags")(row)
    assert swapped == [{"text": "New York in", "tags": ["B-LOC", "I-LOC", "O"]}]


@st.composite
def questions(draw):
    """A context, and answers that may begin and end inside words, overlap or be empty."""
    blanks = st.sampled_from([" ", "  ", "\n", " \t"])
    words = draw(st.lists(WORDS, min_size=1, max_size=12))
    context = "".join(word + draw(blanks) for word in words)
    starts = draw(st.lists(st.integers(0, len(context) - 1), max_size=3))
    texts = [context[start : start + draw(st.integers(0, 9))] for start in starts]
    return {"context": context, "question": "who?", "answers": {"text": texts, "answer_start": starts}}


@pytest.mark.parametrize("key", ["answer_start", "start"])
@few
@given(row=questions(), seed=st.integers(0, 99))
def test_answers_in_a_list_move_as_those_in_columns_do(key, row, seed):
    texts, starts = row["answers"]["text"], row["answers"]["answer_start"]
    listed = [{"text": text, key: start, "worker": 3} for text, start in zip(texts, starts, strict=True)]
    lost = {"text": "elsewhere", key: -1}
    given = row | {"answers": [*listed, lost]}
    before = copy.deepcopy(given)
    columns = row | {"answers": {"text": [*texts, ""], "answer_start": [*starts, -1]}}
    augmenter = Augmenter("context", n=4, operations=ALL, answers="answers", seed=seed)
    for variant, same in zip(augmenter(given), augmenter(columns), strict=True):
        moved = [
            {"text": text, key: start, "worker": 3}
            for text, start in zip(texts, same["answers"]["answer_start"][:-1], strict=True)
        ]
        assert variant == same | {"answers": [*moved, lost]}
    assert given == before


@pytest.mark.parametrize("cut", [{}, {"tokenize": list, "join": "".join}], ids=["words", "characters"])
@few
@given(row=questions(), seed=st.integers(0, 99))
def test_answers_are_where_they_are_said_to_be(cut, row, seed):
    before = copy.deepcopy(row)
    augmenter = Augmenter("context", n=4, operations=ALL, answers="answers", seed=seed, **cut)
    for variant in augmenter(row):
        answers = variant["answers"]
        assert answers["text"] == row["answers"]["text"]
        for text, start in zip(answers["text"], answers["answer_start"], strict=True):
            assert variant["context"][start : start + len(text)] == text
        assert variant["context"].strip()
        assert variant["question"] == "who?"
    assert row == before


def question(context, *answers):
    starts = [context.index(answer) for answer in answers]
    return {"context": context, "answers": {"text": list(answers), "answer_start": starts}}


def augmented(row, **operations):
    variant = Augmenter("context", operations=operations, answers="answers")(row)[0]
    return variant["context"], variant["answers"]["answer_start"]


def test_answers_are_never_masked():
    row = question("He left  in (1066, or  so) for  good.", "1066, or  so", "1066", "or")
    assert augmented(row, masking=1) == ("[MASK] [MASK] [MASK] (1066, or  so) [MASK] [MASK]", [22, 22, 28])


def test_answers_are_never_left_out():
    row = question("a b c d e f", "b", "e")
    assert augmented(row, deleting=1) == ("b e", [0, 2])
    trials, one = 2000, {"p": 1, "p_ng": [1], "l_ng": [1]}
    augmenter = Augmenter("context", n=trials, operations={"n_gram_sampling": one}, answers="answers")
    windows = Counter(variant["context"] for variant in augmenter(question("a b c d", "b", "c")))
    assert fits(windows, {"a b c": 0.25, "b c": 0.5, "b c d": 0.25}, trials)


def test_answers_move_whole():
    assert augmented(question("in New  York now", "New  York"), short_disorder=1) == ("New  York in now", [0])


def test_the_default_for_answers_is_masking_alone():
    trials = 300
    row = question(text_of(40), "w3")
    found = [variant["context"].split() for variant in Augmenter("context", n=trials, answers="answers")(row)]
    assert {len(tokens) for tokens in found} == {40}
    assert near(sum(tokens.count("[MASK]") for tokens in found), 0.1, 39 * trials)


def test_a_question_without_answer_and_empty_answers():
    row = {"context": "a b", "answers": {"text": [], "answer_start": []}}
    assert augmented(row, short_disorder=1) == ("b a", [])
    row = {"context": "a b", "answers": {"text": ["", "b"], "answer_start": [-1, 2]}}
    assert augmented(row, short_disorder=1) == ("b a", [-1, 0])


def test_the_question_can_be_augmented_beside_the_context():
    row = {"question": "who came", **question("Ann came", "Ann")}
    variant = Augmenter(("context", "question"), operations={"short_disorder": 1}, answers="answers")(row)[0]
    swapped = {"text": ["Ann"], "answer_start": [5]}
    assert variant == {"question": "came who", "context": "came Ann", "answers": swapped}


def error_of(row, *args, **kwargs):
    with pytest.raises(DataError) as caught:
        Augmenter(*args, **kwargs)(row)
    return str(caught.value)


def test_rows_that_do_not_fit():
    assert error_of({"txt": "a"}, "text") == "Augmenter: the row has no 'text', only 'txt'; did you mean 'txt'?"
    assert error_of({"b": "a"}, "text") == "Augmenter: the row has no 'text', only 'b'"
    for value in (None, 3, [1, 2], {"a": 1}):
        found = error_of({"text": value}, "text")
        assert found == f"Augmenter: 'text' of a row must be a string or a list of strings, not {value!r}"
    row = {"tokens": ["a", "b"], "tags": [0], "ids": [0, 5]}
    assert "2 tokens in 'tokens', but 1 label in 'tags'; one label per" in error_of(row, "tokens", token_labels="tags")
    assert "token_labels={'ids': ['O', " in error_of(row, "tokens", token_labels="ids")
    for label in (5, -100, "O", None):
        found = error_of({"tokens": ["a"], "ids": [label]}, "tokens", token_labels={"ids": ["O", "B-PER"]})
        assert found == f"Augmenter: label {label!r} in 'ids' has none of the 2 names"


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"text": ["b"], "answer_start": [0]}, "answer 'b' is not at 0 of 'context': 'a b'"),
        ({"text": ["a"], "answer_start": [-3]}, "answer 'a' is not at -3"),
        ({"text": ["b"], "answer_start": []}, "as many texts as starts of answers"),
        (
            {"text": ["b"]},
            "answers must be {'text': [...], 'answer_start': [...]}, or a list of {'text': ..., 'answer_start': ...}, "
            "not {'text': ['b']}",
        ),
        ([{"text": "b", "start": 0}], "answer 'b' is not at 0 of 'context': 'a b'"),
        ([{"text": "b"}], "answers must be"),
        (["b"], "answers must be"),
        ("b", "answers must be"),
    ],
)
def test_answers_that_do_not_fit(answers, message):
    assert message in error_of({"context": "a b", "answers": answers}, "context", answers="answers")


def test_cutting_and_joining_must_leave_answers_alone():
    row = question("Ann came", "Ann")
    found = error_of(row, "context", answers="answers", tokenize=lambda text: text.lower().split())
    assert "token 'ann' is not in 'context' after position 0" in found
    found = error_of(row, "context", answers="answers", join=lambda tokens: " ".join(tokens).lower())
    assert "answer 'Ann' is lost in 'ann came'; `join` must" in found
    assert "spans of a string" in error_of(row | {"context": ["Ann", "came"]}, "context", answers="answers")


def test_every_problem_of_an_augmenter_at_once():
    found = problems_of(
        Augmenter,
        ("a", "a"),
        n=0,
        seed="1",
        token_labels="tags",
        answers="answers",
        operations={
            "maskin": 0.1,
            "masking": 2,
            "deleting": {"q": 0.1},
            "short_disorder": -1,
            "long_disorder": {"p": 0.1, "length": 0},
            "n_gram_sampling": {"p": 7, "p_ng": [2], "lng": [1]},
        },
    )
    assert list(found) == [
        *("fields", "n", "seed", "answers", "operations", "operations['masking'].p", "operations['deleting'].q"),
        *("operations['deleting'].p", "operations['short_disorder'].p", "operations['long_disorder'].length"),
        *("operations['n_gram_sampling'].lng", "operations['n_gram_sampling'].p", "operations['n_gram_sampling'].p_ng"),
    ]
    assert found["operations"].hint == "did you mean 'masking'?"
    assert found["operations['n_gram_sampling'].lng"].hint == "did you mean 'l_ng'?"


@pytest.mark.parametrize(
    ("args", "kwargs", "path"),
    [((()), {"fields": ()}, "fields"), (("a", True), {}, "n"), (("a", 1, {}), {}, "operations"), (("a", 1.0), {}, "n")],
)
def test_one_problem(args, kwargs, path):
    assert list(problems_of(Augmenter, *args, **kwargs)) == [path]
