"""Extractive question answering: the answer to a question is a stretch of a context."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from ..configs._base import config_class, reject
from ..errors import AdaptorError, DataError, count_of
from ..losses import full_precision, masked_mean
from ..types import MASKED_LOGIT
from .adaptor import MASK
from .answers import answer_scores, best_null_threshold, each_score
from .data import Lengths, Row, Rows, Table
from .data.columns import Chosen, Column, guessed, missing, named
from .data.report import Tally
from .encoded import UNLABELLED, Encoded, Feature, Padding, Part, chunks
from .labels import label_text
from .spans import Candidate, Shown, candidates, listed, placed, target_positions
from .task import Reading, Task, softmax
from .tokens import require_fit, require_offsets

_ROLES = ("question", "context", "answers", "id", "is_impossible")
_NOT_FOUND = "answer not found in its context"


@config_class
class QuestionAnswering(Task):
    """Questions whose answer is a stretch of a context, in SQuAD's form.

    A row is ``{"id": …, "question": …, "context": …, "answers": [{"text": …, "start": …}]}``. ``answers`` is empty
    where there is none, and None where it is not known. Any of several is right; the first that is found is learned.

    A context longer than the model takes is read in windows; in a window without the answer, and where there is none,
    the first special token stands for it. The adaptor gives the logits of starts and of ends with everything masked
    that can be neither: padding and, with ``mask_question``, the question. So the softmaxes are over the context.

    Args:
        rules: ``"squad"`` scores English, ``"cmrc"`` Chinese; see :mod:`textbrewer.tasks.answers`.
        max_length: tokens of a window, with question and special tokens.
        doc_stride: tokens of the context that neighbouring windows share.
        max_question_length: tokens of a question; longer ones are cut, which the report counts.
        max_answer_length: tokens of an answer, at most.
        n_best: answers that a prediction lists.
        null_answers: whether a question may have no answer, as in SQuAD 2.0.
        null_threshold: how much likelier no answer must be than the best one, in logits.
        mask_question: whether question tokens are masked.
        max_not_found: the share of answers, of 1, that may be missing in their contexts; above it data is refused.
        metric: the score to choose a model by, ``"f1"`` or ``"exact_match"``.

    Raises:
        ConfigError: with every problem at once.

    >>> QuestionAnswering(rules="cmrc", max_answer_length=50).main_metric
    'f1'
    """

    rules: Literal["squad", "cmrc"] = "squad"
    max_length: Annotated[int, Field(ge=8)] = 384
    doc_stride: Annotated[int, Field(ge=0)] = 128
    max_question_length: Annotated[int, Field(ge=1)] = 64
    max_answer_length: Annotated[int, Field(ge=1)] = 30
    n_best: Annotated[int, Field(ge=1)] = 20
    null_answers: bool = False
    null_threshold: float = 0.0
    mask_question: bool = True
    max_not_found: Annotated[float, Field(ge=0, le=1)] = 0.05
    metric: Literal["f1", "exact_match"] = "f1"

    name: ClassVar[str] = "question_answering"
    head: ClassVar[str] = "AutoModelForQuestionAnswering"
    target: ClassVar[str] = "answers"

    @model_validator(mode="after")
    def _windows_advance(self) -> Self:
        if self.max_question_length + self.doc_stride >= self.max_length:
            raise reject(
                "`max_question_length` and `doc_stride` to leave room in `max_length`",
                got=(self.max_question_length, self.doc_stride, self.max_length),
            )
        return self

    @staticmethod
    def lengths(longest: int) -> dict[str, int]:
        """Settings for windows of so many tokens, in the shares of the defaults.

        Of 384 tokens windows share 128, and 64 are the question's.
        """
        return {"max_length": longest, "doc_stride": longest // 3, "max_question_length": longest // 6}

    @property
    def main_metric(self) -> str:
        """The score to choose a model by."""
        return self.metric

    # Rows.

    def choose(self, table: Table, columns: Mapping[str, Column] | None, labelled: bool | None) -> Chosen:
        """``question``, ``context``, ``answers``, and where there are any ``id`` and ``is_impossible``."""
        found = named(table, columns, _ROLES)
        given = set(found)
        for role in _ROLES:
            if role in ("answers", "is_impossible") and labelled is False:
                found.pop(role, None)
            elif role not in found and (column := guessed(table, role)):
                found[role] = column
            elif role not in found and (role in ("question", "context") or (role == "answers" and labelled)):
                raise missing(table, role, "; labelled=False reads questions alone" if role == "answers" else "")
        return Chosen.of(found, given)

    def row(self, record: Mapping[str, Any], chosen: Chosen, reading: Reading) -> Row:
        """A row with its answers where they stand in the context."""
        cells = {role: record.get(str(chosen.get(role))) for role in _ROLES if chosen.get(role)}
        context = str(cells.get("context") or "")
        answers = None
        if "answers" in cells:
            impossible = label_text(cells.get("is_impossible")).lower() in ("true", "1")
            answers = self._answers(context, cells["answers"], impossible, reading)
        return {
            "id": str(cells.get("id") or reading.place),
            "question": str(cells.get("question") or "").strip(),
            "context": context,
            "answers": answers,
        }

    def _answers(self, context: str, cell: Any, impossible: bool, reading: Reading) -> list[dict[str, Any]] | None:
        given = [] if impossible else list(listed(cell))
        if impossible and not self.null_answers:
            reading.faults.add("question without an answer, which null_answers=True allows", reading.place)
            return None
        if not given:
            if self.null_answers and (impossible or cell is not None):
                return []
            reading.tally.add("question without answers", reading.place, "kept for its text")
            return None
        found = [placed(context, text, start, reading.tally, reading.place) for text, start in given]
        if all(answer["start"] < 0 for answer in found) and context.strip():
            reading.tally.add(_NOT_FOUND, reading.place, "scored, not learned")
        return found

    def finish(self, rows: Sequence[Row], reading: Reading) -> None:
        """Refuse data whose answers are elsewhere too often."""
        lost = [finding for finding in reading.tally.findings() if finding.what == _NOT_FOUND]
        answered = sum(bool(row["answers"]) for row in rows)
        if lost and lost[0].number > self.max_not_found * answered:
            raise DataError(
                f"{reading.source}: {lost[0].number} of {count_of(answered, 'question')} have no answer in their "
                f"context, where max_not_found={self.max_not_found} allows {self.max_not_found:.0%}\n  {lost[0]}"
            )

    def is_empty(self, row: Row) -> str:
        """A row needs question and context."""
        return "" if row["question"] and row["context"].strip() else "row without question or context"

    def counted(self, rows: Sequence[Row]) -> dict[str, int]:
        """Questions with and without an answer, where both may be."""
        if not self.null_answers:
            return {}
        known = [row["answers"] for row in rows if row["answers"] is not None]
        return {"with an answer": sum(map(bool, known)), "without": sum(not answers for answers in known)}

    def group(self, row: Row) -> Hashable:
        """Questions about the same context stay together."""
        return str(row["context"])

    def record(self, given: Any) -> Mapping[str, Any]:
        """A dict, or a question and a context."""
        if isinstance(given, Mapping):
            return given
        if isinstance(given, (tuple, list)) and len(given) == 2:
            return {"question": given[0], "context": given[1]}
        raise DataError(f"predict: expected a dict or a question with a context, got {type(given).__name__}")

    # Batches.

    def encoded(self, rows: Rows, tokenizer: Any) -> Encoded:
        """Windows of question and context, with the place of each token in the context."""
        require_offsets(tokenizer, "question answering")
        require_fit(tokenizer, self.max_length)
        room = self.max_length - self.max_question_length - tokenizer.num_special_tokens_to_add(pair=True)
        if self.doc_stride >= room:
            raise DataError(
                f"a window has room for {room} tokens of context beside question and special tokens, and "
                f"doc_stride={self.doc_stride} shares as many; lower it, or raise max_length"
            )
        padding = Padding(tokenizer, by_token=(MASK,))
        features: list[Feature] = []
        parts: list[Part] = []
        tally = Tally()
        longest = longer = 0
        for first, chunk in zip(range(0, len(rows), 100), chunks(rows, 100), strict=True):
            found = tokenizer(
                self._questions(chunk, tokenizer, tally),
                [row["context"] for row in chunk],
                truncation="only_second",
                max_length=self.max_length,
                stride=self.doc_stride,
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
                return_attention_mask=False,
            )
            lengths = [0] * len(chunk)
            for i, own in enumerate(found["overflow_to_sample_mapping"]):
                feature, shown = self._window(found, i, tokenizer)
                fresh = int((shown.offsets[:, 0] >= 0).sum()) - self.doc_stride
                lengths[own] += fresh if lengths[own] else len(feature["input_ids"])
                if rows.labelled:
                    start, end = target_positions(shown, chunk[own]["answers"])
                    feature |= {"start_positions": start, "end_positions": end}
                features.append(feature)
                parts.append(Part(first + own, shown))
            longest, longer = max(longest, *lengths), longer + sum(length > self.max_length for length in lengths)
        how = f"read in windows that share {self.doc_stride} tokens"
        report = rows.report.with_lengths(Lengths(longest, self.max_length, longer, how), tally.findings())
        return Encoded(rows, features, parts, padding, report)

    def _questions(self, rows: Sequence[Row], tokenizer: Any, tally: Tally) -> list[str]:
        """The questions, cut to their limit."""
        questions = [str(row["question"]) for row in rows]
        for i, offsets in enumerate(_offsets(questions, tokenizer)):
            if len(offsets) > self.max_question_length:
                place = f"question {rows[i]['id']!r}"
                tally.add("question of more tokens than max_question_length", place, "cut")
            # A text cut within a word may have more tokens than it had there.
            keep = self.max_question_length
            while len(offsets) > self.max_question_length:
                questions[i] = questions[i][: offsets[keep - 1][1]]
                offsets, keep = _offsets(questions[i : i + 1], tokenizer)[0], keep - 1
        return questions

    def _window(self, found: Any, index: int, tokenizer: Any) -> tuple[Feature, Shown]:
        """One of a tokenizer's windows, masked but for what an answer may begin and end with."""
        keys = [key for key in ("input_ids", "token_type_ids") if key in found]
        feature: Feature = {key: np.asarray(found[key][index], dtype=np.int32) for key in keys}
        inside = np.asarray([side == 1 for side in found.sequence_ids(index)])
        offsets = np.where(inside[:, None], np.asarray(found["offset_mapping"][index], dtype=np.int32), -1)
        first = np.flatnonzero(
            feature["input_ids"] == (-1 if tokenizer.cls_token_id is None else tokenizer.cls_token_id)
        )
        null = int(first[0]) if len(first) else 0
        mask = inside | (not self.mask_question)
        mask[null] = True
        feature[MASK] = mask.astype(np.int32)
        return feature, Shown(offsets, null)

    # What is learned, and what comes out.

    def learned(self, logits: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Logits of starts and of ends, each ``(batch, length)``, and the mean of their cross-entropies.

        Raises:
            AdaptorError: the model gives other logits.
        """
        if not isinstance(logits, list) or len(logits) != 2:
            raise AdaptorError("question answering needs the logits of starts and of ends, each (batch, length)")
        mask = batch.get(MASK)
        masked = logits if mask is None else [each.masked_fill(mask == 0, MASKED_LOGIT) for each in logits]
        labels: list[Tensor] = [batch[key] for key in ("start_positions", "end_positions") if key in batch]
        if not labels:
            return {"logits": masked}
        losses = [
            functional.cross_entropy(full_precision(scores), place, ignore_index=UNLABELLED, reduction="none")
            for scores, place in zip(masked, labels, strict=True)
        ]
        return {"logits": masked, "labels": labels, "losses": masked_mean((losses[0] + losses[1]) / 2, labels[0] >= 0)}

    def decoded(self, logits: Sequence[Any], encoded: Encoded) -> list[dict[str, Any]]:
        """For each question ``answer``, where it ``start`` s and ``end`` s, its probability ``score``, and ``n_best``.

        The probability is among the ``n_best`` and, with null answers, no answer. ``null_margin`` is then how much
        likelier that is than the best answer, in logits. An empty ``answer`` has no ``start``.
        """
        windows: list[list[tuple[Any, Shown]]] = [[] for _ in encoded.rows]
        for values, part in zip(logits, encoded.parts, strict=True):
            windows[part.row].append((values, part.spans))
        return [self._answer(row, own) for row, own in zip(encoded.rows, windows, strict=True)]

    def _answer(self, row: Row, windows: Iterable[tuple[Any, Shown]]) -> dict[str, Any]:
        best: dict[str, Candidate] = {}
        null = np.inf
        for (starts, ends), shown in windows:
            null = min(null, float(starts[shown.null] + ends[shown.null]))
            for candidate in candidates(starts, ends, shown.offsets, self.n_best, self.max_answer_length):
                text = row["context"][candidate.start : candidate.end]
                start = candidate.start + len(text) - len(text.lstrip())
                text = text.strip()
                if text and (text not in best or best[text].score < candidate.score):
                    best[text] = Candidate(candidate.score, start, start + len(text))
        ranked = sorted(best.items(), key=lambda item: -item[1].score)[: self.n_best]
        scores = [each.score for _, each in ranked] + ([null] if self.null_answers else [])
        odds = softmax(scores).tolist() if scores else []
        listed = [
            {"text": text, "start": each.start, "end": each.end, "score": probability}
            for (text, each), probability in zip(ranked, odds, strict=False)
        ]
        nothing = {"text": "", "start": None, "end": None, "score": odds[-1] if self.null_answers and odds else 0.0}
        margin = float(null - (ranked[0][1].score if ranked else 2 * MASKED_LOGIT))
        chosen = listed[0] if listed and not (self.null_answers and margin > self.null_threshold) else nothing
        found = {"id": row["id"], "answer": chosen["text"], **{key: chosen[key] for key in ("start", "end", "score")}}
        return {**found, "n_best": listed, **({"null_margin": margin} if self.null_answers else {})}

    def score(self, predictions: Sequence[Mapping[str, Any]], rows: Sequence[Row]) -> dict[str, float]:
        """See :func:`~textbrewer.tasks.answers.answer_scores`.

        With null answers also ``best_f1``, and the ``best_null_threshold`` that would give it.
        """
        answers = [[answer["text"] for answer in row["answers"]] for row in rows]
        said = [found["answer"] for found in predictions]
        found = answer_scores(said, answers, rules=self.rules, null_answers=self.null_answers)
        if self.null_answers:
            texts = [each["n_best"][0]["text"] if each["n_best"] else "" for each in predictions]
            f1, _ = each_score(texts, answers, rules=self.rules, null_answers=True)
            margins = [each["null_margin"] for each in predictions]
            threshold, best = best_null_threshold(f1, margins, list(map(bool, answers)))
            found |= {"best_f1": best, "best_null_threshold": threshold}
        return found


def _offsets(texts: list[str], tokenizer: Any) -> list[list[tuple[int, int]]]:
    found = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return list(found["offset_mapping"])
