"""Ranking: a query, and which of its candidates answer it best."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ..configs._base import config_class
from ..errors import AdaptorError, DataError
from ..losses import full_precision, masked_mean
from .data import Lengths, Row, Rows, Table
from .data.columns import Chosen, Column, guessed, missing, named
from .encoded import SEQUENCES, UNLABELLED, Encoded, Feature, Part, chunks, two_sided
from .groups import PRESENT, GroupPadding, of_rows, sequences_of
from .scores import ranking_scores
from .task import Reading, Task
from .tokens import cut_to, require_fit
from .vectors import cosines_of, vectors_of

Encoder = Literal["bi", "cross"]
"""How a model scores: ``"cross"`` reads query and candidate together, ``"bi"`` makes a vector of each by itself."""

_GUESSES = {
    "query": ("query", "question", "anchor"),
    "candidates": ("candidates", "passages", "documents"),
    "relevance": ("relevance", "scores", "labels"),
    "positive": ("positive", "positives", "pos"),
    "negative": ("negative", "negatives", "neg"),
}


@config_class
class PairwiseRanking(Task):
    """Queries with candidates that answer them better or worse.

    A row is ``{"query": …, "candidates": […], "relevance": […]}``, the most relevant first; ``relevance`` is None where
    it is not known. Data may also have ``positive`` and ``negative``, a text or a list each: candidates of relevance 1
    and 0.

    A cross-encoder, ``AutoModelForSequenceClassification`` with one output, reads query and candidate together. A
    bi-encoder, ``AutoModel``, makes a vector of each, and their product is the score: candidates can be indexed before
    there is a query. To distil the one into the other, batches have what each reads, ``{"teacher": …, "student": …}``.
    To train a cross-encoder by itself, or to distil it into a smaller one, write ``encoder="cross"``.

    Soft labels are ``"margin_mse"``, which asks for the teacher's margins between the first candidate and the others,
    or ``"listnet"`` or ``"ranknet"`` over all of them. A model's own loss is the cross-entropy of its scores with
    the relevance: of the softmax of the ones with the other divided by its sum.

    Args:
        encoder: the kind of the model that is trained, evaluated and asked: ``"bi"`` or ``"cross"``.
        teacher: the kind of its teacher.
        similarity: of a bi-encoder's vectors: their ``"dot"`` product or ``"cosine"``.
        scale: factor of it; a cosine needs one of about 20, or it tells too little apart.
        pooling: what a bi-encoder's vector is of its last hidden states: the ``"mean"``, or the ``"first"`` token's.
        max_length: tokens of a text, or for a cross-encoder of a pair, special tokens included; longer ones are cut.
        metric: the score to choose a model by; see :func:`~textbrewer.tasks.scores.ranking_scores`.

    Raises:
        ConfigError: with every problem at once.

    Sources: both kinds, 1908.10084; margins, 2010.02666; lists, ListNet, Cao et al., ICML 2007.

    >>> PairwiseRanking(encoder="cross").model_class
    'AutoModelForSequenceClassification'
    """

    encoder: Encoder = "bi"
    teacher: Encoder = "cross"
    similarity: Literal["dot", "cosine"] = "dot"
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    pooling: Literal["mean", "first"] = "mean"
    max_length: Annotated[int, Field(ge=4)] = 128
    metric: Literal["mrr@10", "ndcg@10", "pair_accuracy"] = "mrr@10"

    name: ClassVar[str] = "ranking"
    head: ClassVar[str] = "AutoModel"
    target: ClassVar[str] = "relevance"
    soft_losses: ClassVar[tuple[str, ...]] = ("margin_mse", "listnet", "ranknet")
    by_row: ClassVar[bool] = True

    @property
    def main_metric(self) -> str:
        """The score to choose a model by."""
        return self.metric

    @property
    def model_class(self) -> str:
        """The class of Transformers of a model of this kind."""
        return "AutoModelForSequenceClassification" if self.encoder == "cross" else self.head

    @property
    def cache_key(self) -> str:
        """Tells a teacher cache how scores are made."""
        return f"{super().cache_key}, {self.similarity} · {self.scale}, {self.pooling}"

    def model_settings(self) -> dict[str, Any]:
        """One output of a cross-encoder, whatever its checkpoint was for before."""
        return {"num_labels": 1, "problem_type": None} if self.encoder == "cross" else {}

    # Rows.

    def choose(self, table: Table, columns: Mapping[str, Column] | None, labelled: bool | None) -> Chosen:
        """``query``, and ``candidates`` with their ``relevance``, or ``positive`` and ``negative``."""
        found = named(table, columns, _GUESSES)
        given = set(found)
        for role in _GUESSES:
            if role not in found and (column := guessed(table, role, _GUESSES)):
                found[role] = column
        if "query" not in found:
            raise missing(table, "query")
        listed = "candidates" in found
        for role in ("positive", "negative") if not listed else ():
            if role not in found:
                raise missing(table, role, "; or name a column of lists for 'candidates'")
        if listed and labelled and "relevance" not in found:
            raise missing(table, "relevance", "; labelled=False reads candidates without it")
        if not listed and labelled is False:
            found["candidates"], listed = [*_columns(found["positive"]), *_columns(found["negative"])], True
        unread = {"positive", "negative"} if listed else {"relevance"}
        if labelled is False:
            unread.add("relevance")
        return Chosen.of({role: column for role, column in found.items() if role not in unread}, given)

    def row(self, record: Mapping[str, Any], chosen: Chosen, reading: Reading) -> Row:
        """A row with its candidates, the most relevant first."""
        query = " ".join(_texts(record, chosen.get("query")))
        if not chosen.get("candidates"):
            better, worse = (_texts(record, chosen.get(role)) for role in ("positive", "negative"))
            return {
                "query": query,
                "candidates": [*better, *worse],
                "relevance": [1.0] * len(better) + [0.0] * len(worse),
            }
        texts = _texts(record, chosen.get("candidates"))
        relevance = self._relevance(record.get(str(chosen.get("relevance"))), len(texts), reading)
        if relevance is None:
            return {"query": query, "candidates": texts, "relevance": None}
        order = sorted(range(len(texts)), key=lambda i: -relevance[i])
        return {
            "query": query,
            "candidates": [texts[i] for i in order],
            "relevance": [relevance[i] for i in order],
        }

    def _relevance(self, cell: Any, number: int, reading: Reading) -> list[float] | None:
        if cell is None:
            return None
        try:
            found = [float(value) for value in cell]
        except (TypeError, ValueError):
            reading.faults.add(f"relevance {cell!r}, which is no list of numbers", reading.place)
            return None
        if len(found) != number or not np.isfinite(found).all() or min(found, default=0.0) < 0:
            reading.faults.add(
                f"relevance that is not a number from 0 for each of its candidates ({len(found)} for {number})",
                reading.place,
            )
            return None
        return found

    def is_empty(self, row: Row) -> str:
        """A row needs a query, and candidates to choose from."""
        whole = row["query"] and len(row["candidates"]) > 1
        return "" if whole else "row without a query or with fewer than two candidates"

    def counted(self, rows: Sequence[Row]) -> dict[str, int]:
        """Candidates that are relevant, and those that are not."""
        known = [value for row in rows for value in row["relevance"] or ()]
        return {"relevant": sum(value > 0 for value in known), "other": sum(value == 0 for value in known)}

    def group(self, row: Row) -> Hashable:
        """The same query is not trained on and tested on."""
        return str(row["query"])

    def record(self, given: Any) -> Mapping[str, Any]:
        """A dict, or a query and its candidates."""
        if isinstance(given, Mapping):
            return given
        if isinstance(given, (tuple, list)) and len(given) == 2 and isinstance(given[1], (tuple, list)):
            return {"query": given[0], "candidates": list(given[1])}
        raise DataError(f"predict: expected a dict or a query with a list of candidates, got {type(given).__name__}")

    # Batches.

    def encoded(self, rows: Rows, tokenizer: Any) -> Encoded:
        """What the model reads of each row, and beside it, where that differs, what its teacher reads."""
        own = self.asked(rows, tokenizer)
        if self.teacher == self.encoder:
            return own
        return two_sided(self._encoded_for(self.teacher, rows, tokenizer), own)

    def asked(self, rows: Rows, tokenizer: Any) -> Encoded:
        """What the model reads of each row."""
        return self._encoded_for(self.encoder, rows, tokenizer)

    def _encoded_for(self, encoder: Encoder, rows: Rows, tokenizer: Any) -> Encoded:
        require_fit(tokenizer, self.max_length)
        empty = [i + 1 for i, row in enumerate(rows) if not row["candidates"]]
        if empty:
            raise DataError(f"{rows.report.source}: row {empty[0]} has no candidates")
        most = max(len(row["candidates"]) for row in rows)
        features: list[Feature] = []
        longest = longer = 0
        for chunk in chunks(rows, 100):
            if encoder == "cross":
                pairs = [(row["query"], text) for row in chunk for text in row["candidates"]]
                shown = [[query for query, _ in pairs], [text for _, text in pairs]]
            else:
                shown = [[text for row in chunk for text in (row["query"], *row["candidates"])]]
            sequences, lengths = cut_to(tokenizer, self.max_length, *shown)
            longest, longer = max(longest, *lengths), longer + sum(n > self.max_length for n in lengths)
            read = iter(sequences)
            for row in chunk:
                number = len(row["candidates"])
                own = [next(read) for _ in range(number + (encoder == "bi"))]
                feature = {SEQUENCES: own, PRESENT: np.arange(most) < number}
                features.append({**feature, "labels": _padded(row["relevance"], most)} if rows.labelled else feature)
        padding = GroupPadding(tokenizer, most + (encoder == "bi"), self.max_length)
        report = rows.report.with_lengths(Lengths(longest, self.max_length, longer, "cut"))
        return Encoded(rows, features, [Part(i) for i in range(len(rows))], padding, report)

    # What is learned, and what comes out.

    def logits_of(self, logits: Any, outputs: Any, batch: Mapping[str, Any]) -> Any:
        """Scores of ``(batch, candidates)``, −∞ where there is no candidate.

        Raises:
            AdaptorError: a cross-encoder gives more than one score a pair, or the batch is for a model of another kind.
        """
        crosses = isinstance(logits, Tensor) and logits.dim() == 2 and logits.shape[-1] == 1
        if not crosses and hasattr(outputs, "keys") and "logits" in outputs:
            raise AdaptorError(
                f"{self.name}: a cross-encoder gives one score a pair, num_labels=1, and this one gave logits "
                f"{list(outputs['logits'].shape)}"
            )
        if PRESENT not in batch:
            raise AdaptorError(f"{self.name}: expected batches of encode(…), got one with {sorted(batch)}")
        present = batch[PRESENT] != 0
        number = batch["input_ids"].shape[1]
        if number != present.shape[1] + (not crosses):
            kinds = ("cross", "bi") if crosses else ("bi", "cross")
            raise AdaptorError(
                f"{self.name}: the model is a {kinds[0]}-encoder, and the batch is for a {kinds[1]}-encoder; see the "
                f"arguments `encoder` and `teacher` of {type(self).__name__}"
            )
        if crosses:
            return of_rows(full_precision(logits).squeeze(-1), batch, -torch.inf)
        vectors = vectors_of(logits, outputs, sequences_of(batch).get("attention_mask"), self.pooling, False)
        if vectors is None:
            return None
        every = of_rows(vectors, batch, 0.0)
        query, candidates = every[:, :1], every[:, 1:]
        alike = cosines_of(query, candidates) if self.similarity == "cosine" else (query * candidates).sum(dim=-1)
        return (self.scale * alike).masked_fill(~present, -torch.inf)

    def learned(self, logits: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The scores, and the mean over queries with a relevant candidate of the cross-entropy with the relevance."""
        relevance = batch.get("labels")
        if relevance is None:
            return {"logits": logits}
        wanted = relevance.clamp(min=0)
        total = wanted.sum(dim=-1, keepdim=True)
        # A missing candidate has the logarithm of 0, which no relevance may meet.
        odds = torch.where(wanted > 0, logits.log_softmax(dim=-1), 0.0)
        losses = -(wanted / total.clamp(min=1e-9) * odds).sum(dim=-1)
        return {"logits": logits, "losses": masked_mean(losses, total.squeeze(-1) > 0)}

    def decoded(self, logits: Sequence[Any], encoded: Encoded) -> list[dict[str, Any]]:
        """``scores`` of the candidates, as the row has them, and their ``order``, the best first."""
        found = []
        for row, values in zip(encoded.rows, logits, strict=True):
            scores = np.asarray(values)[: len(row["candidates"])].tolist()
            found.append({"scores": scores, "order": np.argsort(-np.asarray(scores), kind="stable").tolist()})
        return found

    def score(self, predictions: Sequence[Mapping[str, Any]], rows: Sequence[Row]) -> dict[str, float]:
        """See :func:`~textbrewer.tasks.scores.ranking_scores`."""
        return ranking_scores([row["relevance"] for row in rows], [each["scores"] for each in predictions])


def _columns(column: str | list[str] | None) -> list[str]:
    return [] if column is None else column if isinstance(column, list) else [column]


def _texts(record: Mapping[str, Any], column: str | list[str] | None) -> list[str]:
    """The texts in the cells of a column, or of several, each a text or a list of them."""
    cells = [record.get(name) for name in _columns(column)]
    items = [item for cell in cells for item in (cell if isinstance(cell, (list, tuple)) else [cell] if cell else [])]
    return [str(item or "").strip() for item in items]


def _padded(relevance: Sequence[float] | None, number: int) -> Any:
    """Relevance as it stands in a batch: 0 for candidates that are missing, and for all where it is not known."""
    known = np.full(number, UNLABELLED if relevance is None else 0, dtype=np.float32)
    if relevance is not None:
        known[: len(relevance)] = relevance
    return known
