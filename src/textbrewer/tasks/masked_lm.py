"""Masked language modelling: text alone, of which a model tells what is masked. The way to a task-agnostic student."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ..configs._base import config_class
from ..errors import DataError
from ..losses import full_precision, masked_mean
from .adaptor import MASK
from .data import Lengths, Row, Rows, Table
from .data.columns import Chosen, Column, guessed, missing, named
from .data.corpus import Corpus
from .data.files import Source
from .encoded import UNLABELLED, Encoded, Feature, Index, Made, Padding, Part
from .masking import Masking, masked_at_most
from .packing import Packer, Tokens
from .selected import SelectingAdaptor, places_of, taken_at
from .streaming import CorpusLoader
from .task import Reading, Task
from .tokens import cut_to, require_fit

_SHOWN = 5


@config_class
class MaskedLM(Task):
    """Documents, packed into blocks, of whose tokens some are masked.

    A row is ``{"text": …}``, a document. Documents follow each other in blocks of ``max_length`` tokens, with a
    separator between two of them, and a long one goes on in the next block: every token is learned from.

    With ``masking="dynamic"`` a block is masked anew in each pass over a loader of
    :meth:`~textbrewer.tasks.Encoded.loader` or of :meth:`stream`. The teacher is then asked something new each time,
    and a teacher cache never finds a row: leave it out. With ``masking="static"`` a block is masked the same way each
    time, and from the second pass on a cache finds every row. What is masked depends on ``seed``, the block and, if
    dynamic, the number that a pass draws. Evaluation always has the static masking.

    Adaptors give logits at the masked positions alone, ``(batch, masked, vocabulary)``. While a run lasts, the heads of
    Transformers models compute no others: of their memory and time little more than the share ``probability`` is left.

    Args:
        max_length: tokens of a block, special tokens included.
        probability: the share of tokens that is masked. Of these 80 % become the mask token, 10 % another token, and
            10 % stay as they are.
        whole_words: mask all pieces of a word or none, as the tokenizer divides words; a Chinese character is one,
            and so is a piece of several.
        masking: ``"dynamic"`` or ``"static"``.
        seed: of the masking.

    Raises:
        ConfigError: with every problem at once.

    Sources: BERT, 1810.04805; dynamic masking and full blocks, RoBERTa, 1907.11692; distillation by it, 1910.01108.

    >>> MaskedLM(max_length=512).most
    77
    """

    max_length: Annotated[int, Field(ge=8)] = 128
    probability: Annotated[float, Field(gt=0, lt=1)] = 0.15
    whole_words: bool = False
    masking: Literal["dynamic", "static"] = "dynamic"
    seed: Annotated[int, Field(ge=0)] = 0

    name: ClassVar[str] = "masked_lm"
    head: ClassVar[str] = "AutoModelForMaskedLM"
    target: ClassVar[str] = "text"

    @property
    def main_metric(self) -> str:
        """The score to choose a model by."""
        return "accuracy"

    @property
    def most(self) -> int:
        """How many tokens of a block are masked at most."""
        return masked_at_most(self.probability, self.max_length)

    @property
    def cache_key(self) -> str:
        """Tells a teacher cache that logits are of so many masked positions."""
        return f"{super().cache_key}, {self.most} masked"

    def adaptor(
        self, model: nn.Module, features: frozenset[str] = frozenset(), *, teacher: bool = False
    ) -> SelectingAdaptor:
        """What a model's outputs mean; see :meth:`~textbrewer.tasks.Task.adaptor`."""
        return SelectingAdaptor(self, model, features, teacher=teacher)

    # Rows.

    def choose(self, table: Table, columns: Mapping[str, Column] | None, labelled: bool | None) -> Chosen:
        """``text``; of a table with one column, that."""
        found = named(table, columns, ("text",))
        given = set(found)
        if "text" not in found:
            column = guessed(table, "text") or (table.columns[0] if len(table.columns) == 1 else None)
            if column is None:
                raise missing(table, "text")
            found["text"] = column
        return Chosen.of(found, given)

    def row(self, record: Mapping[str, Any], chosen: Chosen, reading: Reading) -> Row:
        """A document."""
        value = record.get(str(chosen.get("text")))
        return {"text": "" if value is None else str(value).strip()}

    def is_empty(self, row: Row) -> str:
        """A row needs text."""
        return "" if row["text"] else "row without text"

    def counted(self, rows: Sequence[Row]) -> dict[str, int]:
        """A text is its own label, and no two are alike."""
        return {}

    def unlabelled(self, rows: Rows) -> Rows:
        """The rows as they are: a text is its own label."""
        return rows

    def group(self, row: Row) -> Hashable:
        """The same document is not trained on and tested on."""
        return str(row["text"])

    def record(self, given: Any) -> Mapping[str, Any]:
        """A text or a dict."""
        if isinstance(given, str):
            return {"text": given}
        if isinstance(given, Mapping):
            return given
        raise DataError(f"predict: expected a text or a dict, got {type(given).__name__}")

    def tokens_of(self, encoded: Encoded) -> Iterator[Any]:
        """The texts, since tokens are masked in what is made of them."""
        return (row["text"] for row in encoded.rows)

    # Batches.

    def encoded(self, rows: Rows, tokenizer: Any) -> Encoded:
        """Blocks, masked when they are asked for."""
        packer, masking = self._packer(tokenizer), self._masking(tokenizer)
        lengths: list[int] = []

        def counted(documents: Iterator[tuple[Any, Tokens]]) -> Iterator[tuple[Any, Tokens]]:
            for place, tokens in documents:
                lengths.append(len(tokens.ids))
                yield place, tokens

        blocks: list[Tokens] = []
        parts: list[Part] = []
        begun = 0
        for block, (row, _) in packer.packed(counted(packer.tokenised(enumerate(row["text"] for row in rows)))):
            blocks.append(block)
            parts.append(Part(begun))
            begun = row
        longer = sum(length > packer.capacity for length in lengths)
        measured = Lengths(max(lengths, default=0), packer.capacity, longer, "gone on with in the next block")
        return Encoded(
            rows,
            Made(len(blocks), _OfBlocks(blocks, masking)),
            parts,
            self._padding(tokenizer),
            rows.report.with_lengths(measured),
            varies=self.masking == "dynamic",
        )

    def stream(
        self,
        corpus: Corpus | Source,
        tokenizer: Any,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        pool: int = 100,
    ) -> CorpusLoader:
        """A loader for a corpus that does not fit into memory.

        Args:
            corpus: the files, or a :class:`~textbrewer.tasks.Corpus`, which says what a document is in them.
            tokenizer: of Transformers.
            batch_size: blocks of a batch.
            shuffle_seed: see :class:`~textbrewer.tasks.CorpusLoader`.
            pool: batches that are held and shuffled together.

        Raises:
            DataError: there is no such file, or the tokenizer does not fit.
        """
        masking = self._masking(tokenizer)
        return CorpusLoader(
            corpus if isinstance(corpus, Corpus) else Corpus(corpus),
            self._packer(tokenizer),
            masking if self.masking == "dynamic" else lambda block, _: masking(block, 0),
            self._padding(tokenizer),
            batch_size,
            shuffle_seed=shuffle_seed,
            pool=pool,
        )

    def asked(self, rows: Rows, tokenizer: Any) -> Encoded:
        """Texts with mask tokens of their own.

        Raises:
            DataError: a text has more of them than can be read.
        """
        require_fit(tokenizer, self.max_length)
        mask = self._masking(tokenizer).mask
        features, lengths = cut_to(tokenizer, self.max_length, [row["text"] for row in rows])
        for i, feature in enumerate(features):
            feature[MASK] = (feature["input_ids"] == mask).astype("int32")
            if feature[MASK].sum() > self.most:
                raise DataError(
                    f"predict: row {i + 1} has {int(feature[MASK].sum())} mask tokens, and at most {self.most} are "
                    "read, the share `probability` of `max_length`; ask for fewer"
                )
        longer = sum(length > self.max_length for length in lengths)
        report = rows.report.with_lengths(Lengths(max(lengths), self.max_length, longer, "cut"))
        parts = [Part(i, tokenizer.convert_ids_to_tokens) for i in range(len(features))]
        return Encoded(rows, features, parts, self._padding(tokenizer), report)

    def _packer(self, tokenizer: Any) -> Packer:
        return Packer(tokenizer, self.max_length, self.whole_words)

    def _masking(self, tokenizer: Any) -> Masking:
        return Masking(tokenizer, self.probability, self.whole_words, self.seed)

    def _padding(self, tokenizer: Any) -> Padding:
        return Padding(tokenizer, by_token=("labels", MASK))

    # What is learned, and what comes out.

    def learned(self, logits: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """``(batch, masked, vocabulary)`` logits, and the mean cross-entropy of what was masked.

        Of a batch without ``logits_mask``, such as another collator makes, all logits, masked by its ``labels`` if it
        has any, else by its ``attention_mask``.
        """
        labels: Tensor | None = batch.get("labels")
        chosen: Tensor | None = batch.get("attention_mask")
        if MASK in batch:
            logits, chosen, labels = self._masked(logits, batch)
        elif labels is not None:
            chosen = labels != UNLABELLED
        found = {"logits": logits, "logits_mask": chosen}
        if labels is None:
            return found
        rows, true = full_precision(logits).flatten(0, 1), labels.flatten()
        losses = functional.cross_entropy(rows, true, ignore_index=UNLABELLED, reduction="none")
        return {**found, "labels": labels, "losses": masked_mean(losses, true != UNLABELLED)}

    def _masked(self, logits: Tensor, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits, which of them are any, and labels, ``(batch, masked, …)``."""
        places, chosen = places_of(batch[MASK], self.most)
        labels = batch.get("labels")
        if labels is not None:
            labels = taken_at(labels, places).masked_fill(~chosen, UNLABELLED)
        whole = logits.shape[1] == batch[MASK].shape[1]
        return (taken_at(logits, places) if whole else logits), chosen, labels

    def masks(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """What is masked in the batch."""
        if MASK not in batch and batch.get("labels") is not None:
            return {"logits_mask": batch["labels"] != UNLABELLED}
        return {"logits_mask": batch[MASK]} if MASK in batch else {}

    def by_feature(self, logits: Any, batch: Mapping[str, Any]) -> list[Any]:
        """Of each masked token the likeliest ones and, where it is known, the loss; not the logits, which are many."""
        logits, chosen, labels = self._masked(logits, batch)
        odds = full_precision(logits).log_softmax(dim=-1)
        best = odds.topk(min(_SHOWN, odds.shape[-1]), dim=-1)
        kept = {"ids": best.indices, "odds": best.values.exp()}
        if labels is not None:
            kept["labels"] = labels
            kept["losses"] = -odds.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        on_host = {key: value.cpu() for key, value in kept.items()}
        own = chosen.cpu()
        return [{key: value[i][own[i]] for key, value in on_host.items()} for i in range(len(own))]

    def decoded(self, logits: Sequence[Any], encoded: Encoded) -> list[dict[str, Any]]:
        """For each mask token of a text, in ``fills``, the likeliest tokens with their ``score``, the probability.

        Of a block how many tokens are ``masked`` and how many told ``right``, and the sum of their ``loss``.
        """
        found: list[dict[str, Any]] = []
        for kept, part in zip(logits, encoded.parts, strict=True):
            if "labels" in kept:
                right = (kept["ids"][:, 0] == kept["labels"]).sum() if len(kept["ids"]) else 0
                masked, loss = len(kept["labels"]), float(kept["losses"].double().sum())
                found.append({"masked": masked, "right": int(right), "loss": loss})
                continue
            if part.spans is None:
                raise DataError("evaluate: these blocks go without labels; encode them anew")
            names = [part.spans(ids.tolist()) for ids in kept["ids"]]
            fills = zip(names, kept["odds"].tolist(), strict=True)
            found.append({"fills": [[{"token": t, "score": s} for t, s in zip(*fill, strict=True)] for fill in fills]})
        return found

    def score(self, predictions: Sequence[Mapping[str, Any]], rows: Sequence[Row]) -> dict[str, float]:
        """``accuracy``, the share of the masked tokens that the likeliest token is right for, and ``perplexity``,
        the exponential of their mean loss.
        """
        masked = sum(each["masked"] for each in predictions)
        if not masked:
            raise DataError("there is nothing to score: no token is masked")
        right, loss = (sum(each[key] for each in predictions) for key in ("right", "loss"))
        return {"accuracy": right / masked, "perplexity": math.exp(min(loss / masked, 700.0))}


class _OfBlocks:
    """Makes a feature of one of the blocks; by its number alone, the static one."""

    def __init__(self, blocks: Sequence[Tokens], masking: Masking) -> None:
        self.blocks, self.masking = blocks, masking

    def __call__(self, index: Index) -> Feature:
        place, number = index if isinstance(index, tuple) else (index, 0)
        return self.masking(self.blocks[place], number)
