"""Sentence embedding: texts as vectors, whose directions tell what they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from torch import nn

from ..configs import DistillationConfig
from ..configs._base import config_class
from ..errors import ConfigError, DataError, Problem
from ..losses import masked_mean
from .adaptor import TaskAdaptor
from .data import Lengths, Row, Rows, Table
from .data.columns import Chosen, Column
from .encoded import SEQUENCES, Encoded, Feature, Padding, Part, TwoSides, chunks
from .groups import GroupPadding, is_grouped, sequences_of
from .scores import number_scores
from .texts import NumberTask
from .tokens import cut_to, require_fit
from .vectors import cosines_of, vectors_of


@config_class
class SentenceEmbedding(NumberTask):
    """Texts as vectors of an encoder without a head.

    A row is ``{"text": …}``, and needs no more: the teacher's vector is what its student learns,
    ``kd_loss_type="logit_mse"``. With ``normalise`` vectors have length 1, and that loss, times half the width, is 1
    less their cosine.

    A row ``{"text": …, "text_pair": …, "label": 3.5}`` says how much two texts mean the same. The task is evaluated on
    such rows by the correlation of these numbers with the cosines of the vectors (as STS-B is), and a model's own loss
    is the mean squared difference of the cosine from ``label / max_score``.

    With ``bilingual``, ``text_pair`` is a translation of ``text``: the teacher reads the text for both, and the student
    reads each of them, so that it learns a language that the teacher does not know.

    Vectors of different width can't be compared. For a student of another width than its teacher, project its hidden
    states, and leave the vectors out: ``kd_loss_weight=0`` and the match ``{"layer_T": -1, "layer_S": -1, "feature":
    "hidden", "loss": "embedding_mse", "proj": "auto"}``. The projection is not part of the student, whose vectors keep
    their own width.

    Args:
        max_length: tokens of a text, special tokens included; longer ones are cut, which the report counts.
        pooling: what a vector is of the last hidden states: the ``"mean"`` over the tokens, or the ``"first"`` one.
        normalise: whether vectors have length 1.
        bilingual: whether pairs without a label are translations.
        max_score: the label of two texts that mean the same.
        metric: the score to choose a model by.

    Raises:
        ConfigError: with every problem at once.

    Sources: mean pooling, cosines and their loss, 1908.10084; translations, 2004.09813.
    """

    max_length: Annotated[int, Field(ge=4)] = 128
    pooling: Literal["mean", "first"] = "mean"
    normalise: bool = False
    bilingual: bool = False
    max_score: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    metric: Literal["spearman", "pearson"] = "spearman"

    name: ClassVar[str] = "sentence_embedding"
    head: ClassVar[str] = "AutoModel"
    soft_losses: ClassVar[tuple[str, ...]] = ("logit_mse", "mse", "huber")

    @property
    def main_metric(self) -> str:
        """The score to choose a model by."""
        return self.metric

    @property
    def cache_key(self) -> str:
        """Tells a teacher cache how vectors are made."""
        return f"{super().cache_key}, {self.pooling}{', normalised' if self.normalise else ''}"

    def adaptors(
        self, teacher: nn.Module, student: nn.Module, distill_config: DistillationConfig
    ) -> tuple[TaskAdaptor, TaskAdaptor]:
        """As of every task; without soft labels, vectors need not be of one width.

        Raises:
            ConfigError: vectors are compared and differ in width.
        """
        of_teacher, of_student = super().adaptors(teacher, student, distill_config)
        weight, schedule = distill_config.kd_loss_weight, distill_config.kd_loss_weight_scheduler
        widths = [getattr(getattr(model, "config", None), "hidden_size", None) for model in (teacher, student)]
        of_teacher.gives_logits = bool(weight or schedule)
        if of_teacher.gives_logits and None not in widths and widths[0] != widths[1]:
            match = '{"layer_T": -1, "layer_S": -1, "feature": "hidden", "loss": "embedding_mse", "proj": "auto"}'
            problem = Problem(
                "kd_loss_weight",
                f"0, since the teacher's vectors have width {widths[0]} and the student's {widths[1]}",
                repr(weight),
                f"project the student's in intermediate_matches: {match}",
            )
            raise ConfigError(f"DistillationConfig for {self.name}", [problem])
        return of_teacher, of_student

    # Rows.

    def choose(self, table: Table, columns: Mapping[str, Column] | None, labelled: bool | None) -> Chosen:
        """``text``, and where there are any ``text_pair`` and its ``label``; a single text has none."""
        found = super().choose(table, columns, None if labelled else labelled)
        return found if found.get("text_pair") else found.without("label")

    # Batches.

    def encoded(self, rows: Rows, tokenizer: Any) -> Encoded:
        """Each text by itself; the two of a pair in one row, or for each side what it reads of a translation."""
        if self.bilingual and not rows.labelled and rows and "text_pair" in rows[0]:
            return self._translations(rows, tokenizer)
        return self.asked(rows, tokenizer)

    def asked(self, rows: Rows, tokenizer: Any) -> Encoded:
        """Each text by itself; the two of a pair in one row."""
        texts, lengths = self._texts(rows, tokenizer)
        if len(texts) < 2:
            features, padding = texts[0], Padding(tokenizer)
            return Encoded(rows, features, self._parts(rows), padding, rows.report.with_lengths(lengths))
        features = [{SEQUENCES: list(pair)} for pair in zip(*texts, strict=True)]
        if rows.labelled:
            features = [{**f, "labels": self.number(row["label"])} for f, row in zip(features, rows, strict=True)]
        grouping = GroupPadding(tokenizer, 2, self.max_length)
        return Encoded(rows, features, self._parts(rows), grouping, rows.report.with_lengths(lengths))

    def _translations(self, rows: Rows, tokenizer: Any) -> Encoded:
        """Two features a row: the teacher reads the text, the student that or its translation."""
        (sources, translations), lengths = self._texts(rows, tokenizer)
        features = [
            {"teacher": source, "student": own}
            for source, translation in zip(sources, translations, strict=True)
            for own in (source, translation)
        ]
        parts = [Part(i // 2) for i in range(len(features))]
        padding = TwoSides(Padding(tokenizer), Padding(tokenizer))
        return Encoded(rows, features, parts, padding, rows.report.with_lengths(lengths))

    def _texts(self, rows: Rows, tokenizer: Any) -> tuple[list[list[Feature]], Lengths]:
        """The texts of all rows, and where they are pairs the others, as a model takes them."""
        require_fit(tokenizer, self.max_length)
        roles = ["text", "text_pair"] if any("text_pair" in row for row in rows) else ["text"]
        if any(role not in row for row in rows for role in roles):
            raise DataError(f"{rows.report.source}: some rows are pairs of texts and others single ones")
        found: list[list[Feature]] = [[] for _ in roles]
        longest = longer = 0
        for chunk in chunks(rows):
            for role, own in zip(roles, found, strict=True):
                features, lengths = cut_to(tokenizer, self.max_length, [row[role] for row in chunk])
                longest, longer = max(longest, *lengths), longer + sum(n > self.max_length for n in lengths)
                own += features
        return found, Lengths(longest, self.max_length, longer, "cut")

    def _parts(self, rows: Rows) -> list[Part]:
        return [Part(i) for i in range(len(rows))]

    # What is learned, and what comes out.

    def logits_of(self, logits: Any, outputs: Any, batch: Mapping[str, Any]) -> Any:
        """``(batch, width)`` vectors; both of a pair, one behind the other, ``(batch, 2 · width)``."""
        mask = sequences_of(batch).get("attention_mask")
        vectors = vectors_of(logits, outputs, mask, self.pooling, self.normalise)
        return vectors.reshape(-1, 2 * vectors.shape[-1]) if vectors is not None and is_grouped(batch) else vectors

    def learned(self, logits: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The vectors, and of pairs with a label the mean squared difference of their cosine from it."""
        labels = batch.get("labels")
        if labels is None:
            return {"logits": logits}
        first, second = logits.chunk(2, dim=-1)
        losses = (cosines_of(first, second) - labels.nan_to_num() / self.max_score) ** 2
        return {"logits": logits, "losses": masked_mean(losses, ~labels.isnan())}

    def decoded(self, logits: Sequence[Any], encoded: Encoded) -> list[dict[str, Any]]:
        """``vector``; of a pair ``vector`` and ``vector_pair``, and their cosine, ``similarity``."""
        if not encoded.rows or "text_pair" not in encoded.rows[0]:
            return [{"vector": row.tolist()} for row in logits]
        found = []
        for row in logits:
            first, second = np.split(np.asarray(row, dtype=np.float64), 2)
            lengths = float(np.linalg.norm(first) * np.linalg.norm(second))
            cosine = float(first @ second) / lengths if lengths else 0.0
            found.append({"vector": first.tolist(), "vector_pair": second.tolist(), "similarity": cosine})
        return found

    def score(self, predictions: Sequence[Mapping[str, Any]], rows: Sequence[Row]) -> dict[str, float]:
        """``spearman`` and ``pearson`` correlation of the cosines with the labels; see
        :func:`~textbrewer.tasks.scores.number_scores`.

        Raises:
            DataError: the rows are no pairs.
        """
        if any("similarity" not in each for each in predictions):
            raise DataError("evaluate: sentence embedding is scored on pairs of texts with a number for each")
        true = [row["label"] for row in rows]
        found = number_scores(true, [each["similarity"] for each in predictions])
        return {name: found[name] for name in ("spearman", "pearson")}
