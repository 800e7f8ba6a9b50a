"""How many tokens are masked, by what, and that chance has no part in it but the seed's."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("transformers", reason="needs the extra `hf`")

from tests.tasks.small import SlowTokenizer, tokenizer_of
from textbrewer.errors import DataError
from textbrewer.tasks.masking import Masking, masked_at_most
from textbrewer.tasks.packing import Tokens

TOKENIZER = tokenizer_of()
LETTERS = [TOKENIZER.vocab[letter] for letter in "abcdefghijklmnopqrstuvwxyz"]


def block_of(ids, starts=None):
    starts = [1] * len(ids) if starts is None else starts
    return Tokens(np.asarray(ids, dtype=np.int32), np.asarray(starts, dtype=np.int8))


def random_blocks(number, length, seed=0):
    generator = np.random.default_rng(seed)
    return [block_of(generator.choice(LETTERS, length)) for _ in range(number)]


def test_shares_of_what_becomes_of_a_chosen_token():
    masking = Masking(TOKENIZER, 0.15, False, 0)
    fates = {"mask": 0, "same": 0, "other": 0}
    places = np.zeros(42)
    for block in random_blocks(1500, 40):
        feature = masking(block, 7)
        labels = feature["labels"]
        chosen = labels != -100
        assert (chosen == (feature["logits_mask"] == 1)).all() and chosen.sum() == 6  # of 40, exactly
        original = np.concatenate([[TOKENIZER.cls_token_id], block.ids, [TOKENIZER.sep_token_id]])
        assert (labels[chosen] == original[chosen]).all() and not chosen[[0, -1]].any()
        assert (feature["input_ids"][~chosen] == original[~chosen]).all()
        for given, true in zip(feature["input_ids"][chosen], labels[chosen], strict=True):
            fates["mask" if given == TOKENIZER.mask_token_id else "same" if given == true else "other"] += 1
        places += chosen
    number = sum(fates.values())
    # A tenth is drawn from all ordinary tokens, and so may be the same by chance.
    by_chance = 0.1 / len(masking.ordinary)
    expected = {"mask": 0.8, "same": 0.1 + by_chance, "other": 0.1 - by_chance}
    for fate, share in expected.items():
        assert abs(fates[fate] / number - share) < 4 * math.sqrt(share * (1 - share) / number), fate
    # Every position alike: four deviations of a binomial.
    share = places[1:-1] / 1500
    assert (abs(share - 0.15) < 4 * math.sqrt(0.15 * 0.85 / 1500)).all()


def test_other_tokens_are_never_special():
    masking = Masking(TOKENIZER, 0.9, False, 0)
    assert set(masking.ordinary.tolist()).isdisjoint(TOKENIZER.all_special_ids)
    assert len(masking.ordinary) + len(TOKENIZER.all_special_ids) == len(TOKENIZER)


def test_the_same_block_pass_and_seed_give_the_same():
    (block,) = random_blocks(1, 30)

    def ids(seed, number, tokens=block):
        return Masking(TOKENIZER, 0.3, False, seed)(tokens, number)["input_ids"].tolist()

    assert ids(0, 5) == ids(0, 5)
    assert len({tuple(ids(seed, number)) for seed in (0, 1, 2) for number in (0, 1, 2**61)}) == 9
    other = block_of(np.where(np.arange(30) == 0, LETTERS[0] + LETTERS[1] - block.ids, block.ids))
    assert [i == TOKENIZER.mask_token_id for i in ids(0, 5, other)] != [i == TOKENIZER.mask_token_id for i in ids(0, 5)]


def test_separators_are_never_chosen():
    block = block_of([LETTERS[0], TOKENIZER.sep_token_id, LETTERS[1]], [1, -1, 1])
    for number in range(50):
        assert Masking(TOKENIZER, 0.9, False, 0)(block, number)["labels"][2] == -100


def test_whole_words():
    starts = [1, 0, 0, 1, 1, 0, 1, 0, 0, 0, 1, 1, 1, 0, 1, 1, 0, 1, 1, 1]
    block = block_of(LETTERS[: len(starts)], starts)
    words = np.cumsum(starts)
    seen = set()
    for number in range(200):
        chosen = Masking(TOKENIZER, 0.3, True, 0)(block, number)["labels"][1:-1] != -100
        for word in set(words):
            assert len(set(chosen[words == word])) == 1
        assert 0 < chosen.sum() <= masked_at_most(0.3, len(starts)) == 6
        seen |= set(words[chosen])
    assert seen == set(words)


def test_a_block_that_begins_within_a_word():
    block = block_of(LETTERS[:6], [0, 0, 1, 0, 1, 1])
    both = {tuple(Masking(TOKENIZER, 0.34, True, 0)(block, n)["labels"][1:3] != -100) for n in range(40)}
    assert both == {(False, False), (True, True)}


@pytest.mark.parametrize("length", [1, 3, 10, 13, 100])
@pytest.mark.parametrize("probability", [0.05, 0.15, 0.5])
def test_never_more_than_the_most(length, probability):
    for block in random_blocks(5, length):
        feature = Masking(TOKENIZER, probability, False, 3)(block, 1)
        assert feature["logits_mask"].sum() == max(1, round(probability * length)) <= masked_at_most(probability, 128)


def test_nothing_to_choose_from():
    feature = Masking(TOKENIZER, 0.15, False, 0)(block_of([], []), 0)
    assert feature["input_ids"].tolist() == [TOKENIZER.cls_token_id, TOKENIZER.sep_token_id]
    assert feature["logits_mask"].sum() == 0


def test_a_tokenizer_without_a_mask_token():
    with pytest.raises(DataError, match="SlowTokenizer has no mask token"):
        Masking(SlowTokenizer(), 0.15, False, 0)
