"""How good predictions are: classes, sets of classes, numbers, entities, rankings. All scores are from -1 to 1."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import DataError
from ._needed import needed

_DEPTH = 10
"""How far down a ranking its reader looks."""


def told(scores: Mapping[str, float]) -> str:
    """Scores on one line.

    >>> told({"accuracy": 0.75, "f1": 0.5})
    'accuracy 0.7500, f1 0.5000'
    """
    return ", ".join(f"{name} {value:.4f}" for name, value in scores.items())


def class_scores(true: Sequence[int], predicted: Sequence[int], classes: int) -> dict[str, float]:
    """Scores of one class a row.

    ``accuracy``; ``macro_f1``, the mean F1 of the classes that occur on either side; ``micro_f1``, the same as accuracy
    where each row has one class; ``mcc``, Matthews' correlation; with two classes also ``f1``, that of the second.

    Args:
        true: of each row.
        predicted: of each row.
        classes: how many there are.

    >>> class_scores([0, 1, 1, 0], [0, 1, 0, 0], 2)["accuracy"]
    0.75
    """
    metrics = _metrics(true, predicted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a single class on both sides, whose correlation is 0
        correlation = metrics.matthews_corrcoef(true, predicted)
    found = {
        "accuracy": metrics.accuracy_score(true, predicted),
        "macro_f1": metrics.f1_score(true, predicted, average="macro", zero_division=0),
        "micro_f1": metrics.f1_score(true, predicted, average="micro", zero_division=0),
        "mcc": correlation,
    }
    if classes == 2:
        found["f1"] = metrics.f1_score(true, predicted, pos_label=1, labels=[1], average="micro", zero_division=0)
    return _plain(found)


def set_scores(true: Any, predicted: Any) -> dict[str, float]:
    """Scores of any number of classes a row, each of ``(rows, classes)`` with 0 and 1; of a single class too.

    ``micro_f1`` over all decisions; ``macro_f1``, the mean over classes, 0 for one that never occurs; ``accuracy``, the
    share of rows whose set is exactly right.

    >>> set_scores([[1, 0], [1, 1]], [[1, 0], [0, 1]])["accuracy"]
    0.5
    """
    metrics = _metrics(true, predicted)
    true, predicted = np.asarray(true), np.asarray(predicted)
    # With a column that does not count: scikit-learn takes a single one for the answers to a question of two classes.
    sides = [np.pad(side, ((0, 0), (0, 1))) for side in (true, predicted)]
    own = range(true.shape[1])
    return _plain(
        {
            "micro_f1": metrics.f1_score(*sides, labels=own, average="micro", zero_division=0),
            "macro_f1": metrics.f1_score(*sides, labels=own, average="macro", zero_division=0),
            "accuracy": (true == predicted).all(axis=1).mean(),
        }
    )


def number_scores(true: Sequence[float], predicted: Sequence[float]) -> dict[str, float]:
    """``pearson`` and ``spearman`` correlation (STS-B), 0 where a side is constant or a single number, and ``mse``.

    >>> round(number_scores([1, 2, 3], [2, 4, 7])["pearson"], 4)
    0.9934
    """
    _metrics(true, predicted)
    stats = needed("scipy.stats", "scikit-learn", "the correlation of numbers")
    difference = np.asarray(true, dtype=float) - np.asarray(predicted, dtype=float)
    if len(difference) == 1:
        return {"pearson": 0.0, "spearman": 0.0, "mse": float(difference[0] ** 2)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a constant side, where the correlation is not defined
        found = {
            "pearson": stats.pearsonr(true, predicted).statistic,
            "spearman": stats.spearmanr(true, predicted).statistic,
        }
    return _plain({**found, "mse": (difference**2).mean()})


def entity_scores(true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, float]:
    """``f1``, ``precision`` and ``recall`` of whole entities by seqeval, and ``accuracy`` of tags.

    An entity counts if its type and both ends are right, over all types at once, as in CoNLL's scorer.

    Args:
        true: tags of each sentence, in IOB2 or IOBES.
        predicted: as many, well-formed or not.

    >>> entity_scores([["B-LOC", "I-LOC", "O"]], [["B-LOC", "I-LOC", "O"]])["f1"]
    1.0
    """
    seqeval = needed("seqeval.metrics", "seqeval", "scoring entities")
    listed = [list(tags) for tags in true], [list(tags) for tags in predicted]
    if not listed[0]:
        raise DataError("there is nothing to score: no rows")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tags that are no chunks, and of types that never occur
        return _plain(
            {
                "f1": seqeval.f1_score(*listed, zero_division=0),
                "precision": seqeval.precision_score(*listed, zero_division=0),
                "recall": seqeval.recall_score(*listed, zero_division=0),
                "accuracy": seqeval.accuracy_score(*listed),
            }
        )


def ranking_scores(relevance: Sequence[Sequence[float]], scores: Sequence[Sequence[float]]) -> dict[str, float]:
    """Scores of candidates in the order that a model gives them, means over the queries.

    ``mrr@10``: 1 over the rank of the first relevant candidate, 0 where it is not among ten; ``ndcg@10``:
    ``Σ r / log2(rank + 1)`` over the first ten, divided by the best there can be, as trec_eval has it;
    ``pair_accuracy``: of all pairs of candidates of unlike relevance, the share in which the more relevant one has the
    higher score. Of equal scores the less relevant candidate is taken to stand first, so that a model that tells
    nothing apart wins nothing. Queries without a relevant candidate are left out.

    Args:
        relevance: of each query's candidates; above 0 is relevant.
        scores: as many.

    Raises:
        DataError: there is nothing to score.

    >>> ranking_scores([[1, 0, 0]], [[0.5, 0.9, 0.1]])["mrr@10"]
    0.5
    """
    if len(relevance) != len(scores):
        raise DataError(f"expected scores for each of {len(relevance)} queries, got {len(scores)}")
    ranks, gains = [], []
    right = pairs = 0
    for true, given in zip(relevance, scores, strict=True):
        r, s = np.asarray(true, dtype=float), np.asarray(given, dtype=float)
        if not (r > 0).any():
            continue
        ordered = r[np.lexsort((r, -s))]
        first = int(np.flatnonzero(ordered > 0)[0]) + 1
        ranks.append(1 / first if first <= _DEPTH else 0.0)
        gains.append(_gain(ordered) / _gain(np.sort(r)[::-1]))
        better = r[:, None] > r[None, :]
        right += int((better & (s[:, None] > s[None, :])).sum())
        pairs += int(better.sum())
    if not ranks:
        raise DataError("there is nothing to score: no query has a relevant candidate")
    accuracy = right / pairs if pairs else 0.0
    return {"mrr@10": float(np.mean(ranks)), "ndcg@10": float(np.mean(gains)), "pair_accuracy": accuracy}


def _gain(ordered: Any) -> float:
    """Of relevance in the order of the ranks."""
    shown = np.asarray(ordered)[:_DEPTH]
    return float((shown / np.log2(np.arange(2, len(shown) + 2))).sum())


def _metrics(true: Any, predicted: Any) -> Any:
    """scikit-learn's metrics, once there is something to score."""
    if len(true) != len(predicted):
        raise DataError(f"expected a prediction for each of {len(true)} rows, got {len(predicted)}")
    if len(true) == 0:
        raise DataError("there is nothing to score: no rows")
    return needed("sklearn.metrics", "scikit-learn", "scoring")


def _plain(found: dict[str, Any]) -> dict[str, float]:
    return {name: 0.0 if np.isnan(value) else float(value) for name, value in found.items()}
