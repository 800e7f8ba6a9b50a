"""SQuAD's and CMRC's rules against the official scripts' steps, written out naively."""

from __future__ import annotations

import collections
import random
import string

import pytest

from textbrewer.errors import DataError
from textbrewer.tasks.answers import (
    answer_scores,
    best_null_threshold,
    cmrc_exact,
    cmrc_f1,
    cmrc_segments,
    squad_exact,
    squad_f1,
    squad_normalised,
)

# SQuAD: lower case, no punctuation, no articles, single spaces, in this order.


def naive_normalised(text):
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    words = []
    for word in text.split():
        words += [] if word in ("a", "an", "the") else [word]
    return words


def naive_squad_f1(prediction, answer, version):
    said, right = naive_normalised(prediction), naive_normalised(answer)
    if version == 2 and (not said or not right):
        return float(said == right)
    shared = sum((collections.Counter(said) & collections.Counter(right)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(said), shared / len(right)
    return 2 * precision * recall / (precision + recall)


WORDS = ["the", "The", "a", "an", "old", "Town", "town,", "in", "1,000", "U.S.", "--", "don't", "old-town"]


def random_text(generator, words, space=" "):
    return space.join(generator.choice(words) for _ in range(generator.randint(0, 5)))


@pytest.mark.parametrize("seed", range(100))
def test_squad(seed):
    generator = random.Random(seed)
    prediction, *answers = (random_text(generator, WORDS, generator.choice([" ", "  "])) for _ in range(3))
    for version in (1, 2):
        expected = max(naive_squad_f1(prediction, answer, version) for answer in answers)
        assert squad_f1(prediction, answers, null_answers=version == 2) == pytest.approx(expected)
    same = [naive_normalised(prediction) == naive_normalised(answer) for answer in answers]
    assert squad_exact(prediction, answers) == float(any(same))


def test_squad_by_hand():
    assert squad_normalised("  An apple, a day!\n") == "apple day"
    # An article inside of a word, or joined to one, is none.
    assert squad_normalised("theory a-b") == "theory ab"
    # Outside of ASCII nothing is punctuation.
    assert squad_normalised("“the” end") == "“ ” end"
    assert squad_f1("the old town of Bern", ["Bern", "old town"]) == pytest.approx(2 / 3)
    assert squad_f1("x", []) == 0.0


# CMRC: a piece for each character of Chinese, words between; the longest run both sides share.

CMRC_DROPPED = [*"-:_*^/\\~`+=", *"，。：？！“”；’《》", "……", *"·、「」（）－～『』"]


def naive_segments(text, words_of):
    pieces, run = [], ""
    for character in text.lower().strip():
        if character in CMRC_DROPPED:
            continue
        if "\u4e00" <= character <= "\u9fa5":
            pieces += [*words_of(run), character] if run else [character]
            run = ""
        else:
            run += character
    return pieces + (words_of(run) if run else [])


def naive_cmrc_f1(prediction, answer, words_of):
    said, right = naive_segments(prediction, words_of), naive_segments(answer, words_of)
    runs = {tuple(right[i:j]) for i in range(len(right)) for j in range(i + 1, len(right) + 1)}
    longest = max(
        (j - i for i in range(len(said)) for j in range(i + 1, len(said) + 1) if tuple(said[i:j]) in runs), default=0
    )
    if longest == 0:
        return 0.0
    precision, recall = longest / len(said), longest / len(right)
    return 2 * precision * recall / (precision + recall)


CHARACTERS = [*"北京上海是的年", "1998", "new york", "Nexon", " ", "，", "……", "…", "《", "-", ".", "a"]


@pytest.mark.parametrize("seed", range(100))
def test_cmrc(seed):
    generator = random.Random(seed)
    prediction, *answers = (random_text(generator, CHARACTERS, "") for _ in range(3))

    def words_of(run):
        # These runs hold nothing else that the word tokenizer splits but a full stop at the end.
        words = run.split()
        if words and words[-1].endswith(".") and not words[-1].endswith("..") and words[-1] != ".":
            words[-1:] = [words[-1][:-1], "."]
        return words

    if any(".." in text or ". " in text for text in (prediction, *answers)):
        answers, prediction = ["北京"], "京"
    expected = max(naive_cmrc_f1(prediction, answer, words_of) for answer in answers)
    assert cmrc_f1(prediction, answers) == pytest.approx(expected)
    bare = ["".join(c for c in text.lower().strip() if c not in CMRC_DROPPED) for text in (prediction, *answers)]
    assert cmrc_exact(prediction, answers) == float(bare[0] in bare[1:])


def test_cmrc_counts_a_contiguous_run():
    # A subsequence would be all four characters of the answer; the longest run is two.
    assert cmrc_f1("北一京二上海", ["北京上海"]) == pytest.approx(2 * 2 / (6 + 4))
    assert cmrc_f1("", ["北京"]) == 0.0
    assert cmrc_exact("《跑跑》", ["跑跑"]) == 1.0
    assert cmrc_exact("跑…跑", ["跑跑"]) == 0.0


# What NLTKWordTokenizer of NLTK 3.10 makes of each; the official script splits words by it.
NLTK = {
    "3.5%": ["3.5", "%"],
    "2v2": ["2v2"],
    "abc.com": ["abc.com"],
    "$5": ["$", "5"],
    "a,b": ["a", ",", "b"],
    "1,000": ["1,000"],
    ",,x": [",", ",x"],
    "(abc)": ["(", "abc", ")"],
    '"abc"': ["``", "abc", "''"],
    "u.s.": ["u.s", "."],
    "don't": ["do", "n't"],
    "it's": ["it", "'s"],
    "cannot": ["can", "not"],
    "…gonna": ["…", "gon", "na"],
    "hello world.": ["hello", "world", "."],
    "wow!?": ["wow", "!", "?"],
    "a & b": ["a", "&", "b"],
    "...end": ["...", "end"],
    "x;y": ["x", ";", "y"],
    "rock 'n' roll": ["rock", "'n", "'", "roll"],
    "'abc'": ["'", "abc", "'"],
    "the dogs' food": ["the", "dogs", "'", "food"],
    "@me #tag": ["@", "me", "#", "tag"],
    "5'10\"": ["5'10", "''"],
    "we'll they've i'd": ["we", "'ll", "they", "'ve", "i", "'d"],
    "(a.)": ["(", "a", ".", ")"],
    'a."': ["a", ".", "''"],
    "don't's,": ["do", "n't", "'s", ","],
    "1,000'é": ["1,000'é"],
    "st. louis": ["st.", "louis"],
    "''": ["''"],
    "[1]": ["[", "1", "]"],
    "¥500": ["¥500"],
    "«a»": ["«", "a", "»"],
}


@pytest.mark.parametrize("text", NLTK)
def test_words_are_split_as_nltk_splits_them(text):
    assert cmrc_segments(f"北{text}") == ["北", *NLTK[text]]


# Means over questions.


def test_means_and_their_halves():
    predictions, answers = ["town", "", "x", ""], [["the town"], [], [], ["y"]]
    assert answer_scores(predictions, answers, null_answers=True) == {
        "f1": 0.5,
        "exact_match": 0.5,
        "has_answer_f1": 0.5,
        "has_answer_exact_match": 0.5,
        "no_answer_f1": 0.5,
        "no_answer_exact_match": 0.5,
    }
    # 2.0 drops answers of which nothing is left; 1.1 keeps them, and shares nothing with them.
    assert answer_scores(["the"], [["the", "x"]], null_answers=True)["f1"] == 0.0
    assert answer_scores(["the"], [["the"]], null_answers=True)["f1"] == 1.0
    assert answer_scores(["the"], [["the"]])["f1"] == 0.0
    assert answer_scores(["北京"], [["北京市"]], rules="cmrc")["f1"] == pytest.approx(0.8)
    assert answer_scores(["", "北"], [[], []], rules="cmrc", null_answers=True)["f1"] == 0.5


@pytest.mark.parametrize(("predictions", "answers"), [([], []), (["a"], []), (["a"], [["a"], ["b"]])])
def test_not_as_many(predictions, answers):
    with pytest.raises(DataError, match="a prediction for each question"):
        answer_scores(predictions, answers)


@pytest.mark.parametrize("seed", range(30))
def test_the_best_threshold_is_the_best_of_all(seed):
    generator = random.Random(seed)
    has = [generator.random() < 0.6 for _ in range(12)]
    scores = [generator.choice([0.0, 0.5, 1.0]) if has_one else 0.0 for has_one in has]
    margins = [generator.randint(-3, 3) for _ in range(12)]

    def mean(threshold):
        return (
            sum(
                (0.0 if has_one else 1.0) if margin > threshold else score
                for score, margin, has_one in zip(scores, margins, has, strict=True)
            )
            / 12
        )

    threshold, best = best_null_threshold(scores, margins, has)
    assert best == pytest.approx(max(mean(t) for t in range(-5, 5)))
    assert mean(threshold) == pytest.approx(best)
