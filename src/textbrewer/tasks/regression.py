"""Regression: a text, or a pair of texts, and a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ..configs._base import config_class
from ..errors import AdaptorError
from ..losses import full_precision, masked_mean
from .data import Row
from .encoded import Encoded
from .scores import number_scores
from .texts import NumberTask


@config_class
class TextRegression(NumberTask):
    """Texts, or pairs of texts, with a number each, such as how much two sentences mean the same.

    A row is ``{"text": …, "label": 3.5}``; the label is None where it is not known. The model's own loss is the mean
    squared error. A teacher is learned from by ``kd_loss_type="logit_mse"``, by ``"mse"``, which divides by the
    temperature, or by ``"huber"``: the softmax of a single number is constant.

    Args:
        max_length: tokens of a row, special tokens included; longer rows are cut, which the report counts.
        metric: the score to choose a model by; see :func:`~textbrewer.tasks.scores.number_scores`.

    Raises:
        ConfigError: with every problem at once.
    """

    max_length: Annotated[int, Field(ge=4)] = 128
    metric: Literal["pearson", "spearman"] = "pearson"

    name: ClassVar[str] = "text_regression"
    soft_losses: ClassVar[tuple[str, ...]] = ("logit_mse", "mse", "huber")

    @property
    def main_metric(self) -> str:
        """The score to choose a model by."""
        return self.metric

    def model_settings(self) -> dict[str, Any]:
        """One output."""
        return {"num_labels": 1, "problem_type": "regression"}

    def logits_of(self, logits: Any, outputs: Any, batch: Mapping[str, Any]) -> Any:
        """The logits as they are.

        Raises:
            AdaptorError: the model gives more than one number a text.
        """
        if logits is not None and logits.shape[-1] != 1:
            raise AdaptorError(
                f"{self.name}: its model gives one number a text, num_labels=1, and this one gave logits "
                f"{tuple(logits.shape)}; load it with task.load"
            )
        return logits

    def learned(self, logits: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """``(batch, 1)`` logits, and the mean squared error of the labelled rows."""
        labels = batch.get("labels")
        if labels is None:
            return {"logits": logits}
        losses = (full_precision(logits).squeeze(-1) - labels.nan_to_num()) ** 2
        return {"logits": logits, "losses": masked_mean(losses, ~labels.isnan())}

    def decoded(self, logits: Sequence[Any], encoded: Encoded) -> list[dict[str, Any]]:
        """``value``."""
        return [{"value": float(row[0])} for row in logits]

    def score(self, predictions: Sequence[Mapping[str, Any]], rows: Sequence[Row]) -> dict[str, float]:
        """See :func:`~textbrewer.tasks.scores.number_scores`."""
        return number_scores([row["label"] for row in rows], [each["value"] for each in predictions])
