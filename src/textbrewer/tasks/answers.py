"""Scores of answers to questions: SQuAD's rules for English, CMRC's for Chinese. All are between 0 and 1.

The official scripts print the same numbers times 100.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from ..errors import DataError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)

_CHINESE = re.compile("[\u4e00-\u9fa5]")
# CMRC's list. Its ellipsis has two characters, so that a single one is never dropped.
_DROPPED = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")


def squad_normalised(text: str) -> str:
    """Lower case, without ASCII punctuation, articles and superfluous spaces.

    >>> squad_normalised("The  U.S. Army!")
    'us army'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_ASCII_PUNCTUATION)).split())


def squad_exact(prediction: str, answers: Sequence[str]) -> float:
    """1 if the prediction is one of the answers, both normalised (Rajpurkar et al., 1606.05250)."""
    return float(any(squad_normalised(prediction) == squad_normalised(answer) for answer in answers))


def squad_f1(prediction: str, answers: Sequence[str], *, null_answers: bool = False) -> float:
    """The best F1 of shared words, each as often as both sides have it.

    Args:
        prediction: a text.
        answers: the texts that are right.
        null_answers: by SQuAD 2.0's rule (1806.03822), where two empty sides score 1; by 1.1's they share nothing.

    >>> squad_f1("in the old town", ["the town"])
    0.5
    """
    sides = [(squad_normalised(prediction).split(), squad_normalised(answer).split()) for answer in answers]
    return max((_word_f1(said, right, null_answers) for said, right in sides), default=0.0)


def _word_f1(prediction: list[str], answer: list[str], null_answers: bool) -> float:
    if not prediction or not answer:
        return float(null_answers and prediction == answer)
    shared = sum((Counter(prediction) & Counter(answer)).values())
    return 2 * shared / (len(prediction) + len(answer))


def cmrc_normalised(text: str) -> str:
    """Lower case, without the punctuation of CMRC's list, which keeps ASCII's full stop and comma."""
    return "".join(character for character in text.lower().strip() if character not in _DROPPED)


def cmrc_segments(text: str) -> list[str]:
    """A piece for each Chinese character, and words between them.

    Words are split as NLTK's word tokenizer splits them, except where it takes a full stop inside of a run of words for
    the end of a sentence.

    >>> cmrc_segments("于1998年在New York，")
    ['于', '1998', '年', '在', 'new', 'york']
    """
    pieces: list[str] = []
    for run in re.split("([\u4e00-\u9fa5])", cmrc_normalised(text)):
        pieces += [run] if _CHINESE.fullmatch(run) else _words(run)
    return pieces


def _apart(match: re.Match[str]) -> str:
    return f" {' '.join(part for part in match.groups() if part)} "


# In this order; ":", "*", "`", "-" and curly closing quotes never reach them.
_WORD_RULES = tuple(
    (re.compile(pattern), put)
    for pattern, put in (
        (r"[«‘„]", r" \g<0> "),
        (r"^\"", "`` "),
        (r"(?<=[ (\[{<])(?:\"|'')", " `` "),
        (r"(?<!\w)'(?!(?:re|ve|ll|[mtsdn])\b)(?=\w)", "' "),
        (r"(?<=[^.])\.(?=[\])}>\"'» ]*\s*$)", " . "),
        (r",(\D|$)", r" , \1"),
        (r"\.{2,}", r" \g<0> "),
        (r"[;@#$%&?!]", r" \g<0> "),
        (r"(?<=[^'])'(?= )", " '"),
        (r"[\]\[(){}<>»]", r" \g<0> "),
        (r"''|\"", " '' "),
        (r"(?<=[^' ])'[smd]?(?= |$)", r" \g<0> "),
        (r"(?<=[^' ])(?:'(?:ll|re|ve)|n't)(?= |$)", r" \g<0> "),
        (r"\b(can)(not)\b|\b(gim|lem)(me)\b|\b(gon|wan)(na)\b|\b(got)(ta)\b", _apart),
    )
)


def _words(run: str) -> list[str]:
    for pattern, put in _WORD_RULES:
        run = pattern.sub(put, run)
    return run.split()


def cmrc_exact(prediction: str, answers: Sequence[str]) -> float:
    """1 if the prediction is one of the answers, both normalised (Cui et al., 1810.07366)."""
    return float(any(cmrc_normalised(prediction) == cmrc_normalised(answer) for answer in answers))


def cmrc_f1(prediction: str, answers: Sequence[str]) -> float:
    """The best F1 of the longest run of pieces that both sides share (Cui et al., 1810.07366).

    The official script calls the run a longest common sequence; it counts a contiguous one.
    """
    return max((_run_f1(cmrc_segments(prediction), cmrc_segments(answer)) for answer in answers), default=0.0)


def _run_f1(prediction: list[str], answer: list[str]) -> float:
    longest, before = 0, [0] * (len(answer) + 1)
    for piece in prediction:
        row = [0]
        for j, other in enumerate(answer):
            row.append(before[j] + 1 if piece == other else 0)
        longest, before = max(longest, *row), row
    return 2 * longest / (len(prediction) + len(answer)) if longest else 0.0


def answer_scores(
    predictions: Sequence[str],
    answers: Sequence[Sequence[str]],
    *,
    rules: Literal["squad", "cmrc"] = "squad",
    null_answers: bool = False,
) -> dict[str, float]:
    """``f1`` and ``exact_match``, means over questions; with null answers also over those with and those without one.

    Args:
        predictions: a text a question; an empty one says that there is no answer.
        answers: the texts that are right; none where there is no answer.
        rules: SQuAD's or CMRC's.
        null_answers: some questions have no answer, as in SQuAD 2.0.

    Raises:
        DataError: there are no questions, or not as many predictions.
    """
    return _means(*each_score(predictions, answers, rules=rules, null_answers=null_answers), answers, null_answers)


def each_score(
    predictions: Sequence[str],
    answers: Sequence[Sequence[str]],
    *,
    rules: Literal["squad", "cmrc"] = "squad",
    null_answers: bool = False,
) -> tuple[list[float], list[float]]:
    """F1 and exact match of every question; see :func:`answer_scores`."""
    if len(predictions) != len(answers) or not answers:
        raise DataError(f"expected a prediction for each question, got {len(predictions)} for {len(answers)}")
    f1, exact = [], []
    for prediction, given in zip(predictions, answers, strict=True):
        right = [answer for answer in given if squad_normalised(answer)] if null_answers else list(given)
        right = right or [""]
        if rules == "cmrc" and right != [""]:
            f1.append(cmrc_f1(prediction, right))
            exact.append(cmrc_exact(prediction, right))
        else:
            f1.append(squad_f1(prediction, right, null_answers=null_answers))
            exact.append(squad_exact(prediction, right))
    return f1, exact


def _means(
    f1: list[float], exact: list[float], answers: Sequence[Sequence[str]], null_answers: bool
) -> dict[str, float]:
    found = {"f1": _mean(f1), "exact_match": _mean(exact)}
    if null_answers:
        for name, wanted in (("has_answer", True), ("no_answer", False)):
            chosen = [i for i, given in enumerate(answers) if bool(given) == wanted]
            if chosen:
                found[f"{name}_f1"] = _mean([f1[i] for i in chosen])
                found[f"{name}_exact_match"] = _mean([exact[i] for i in chosen])
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def best_null_threshold(
    scores: Sequence[float], margins: Sequence[float], has_answer: Sequence[bool]
) -> tuple[float, float]:
    """The threshold that gives the best mean score, as SQuAD 2.0's script finds it, and that score.

    A question whose margin is above the threshold is taken to have no answer, which scores 1 where that is so.

    Args:
        scores: of each question's best text.
        margins: how much likelier no answer is than that text.
        has_answer: whether there is one.

    >>> best_null_threshold([1.0, 0.0], [-2.0, 3.0], [True, False])
    (-2.0, 1.0)
    """
    order = sorted(range(len(scores)), key=lambda i: margins[i])
    # Start with no question answered, and answer them from the surest on.
    total = float(sum(not has for has in has_answer))
    best, threshold = total, min(margins) - 1
    for place, i in enumerate(order):
        total += scores[i] - (0.0 if has_answer[i] else 1.0)
        last_of_equals = place + 1 == len(order) or margins[order[place + 1]] != margins[i]
        if last_of_equals and total > best:
            best, threshold = total, margins[i]
    return threshold, best / len(scores)
