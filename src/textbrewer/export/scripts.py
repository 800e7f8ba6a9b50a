"""``predict.py``, by which an exported folder is used: one for each task, without this library and without PyTorch."""

from __future__ import annotations

from typing import Any

from ..errors import UnsupportedError, one_of
from ..tasks import MultiLabelClassification, QuestionAnswering, Task, TokenClassification

_SCRIPT = '''\
"""{purpose}: python predict.py {usage}

Needs onnxruntime and tokenizers.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

FOLDER = Path(__file__).parent
SETTINGS = json.loads((FOLDER / "export.json").read_text(encoding="utf-8"))
SESSION = onnxruntime.InferenceSession(str(FOLDER / SETTINGS["model"]))
TOKENIZER = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


def run(tokens):
    given = {{"input_ids": tokens.ids, "attention_mask": tokens.attention_mask, "token_type_ids": tokens.type_ids}}
    feed = {{each.name: np.array([given[each.name]], dtype=np.int64) for each in SESSION.get_inputs()}}
    return [output[0].astype(float) for output in SESSION.run(None, feed)]


{predict}

if __name__ == "__main__":
    print(json.dumps(predict(*sys.argv[1:]), ensure_ascii=False))
'''

_TEXT = '"a text" ["the second of a pair"]'

_PURPOSES: dict[str, tuple[str, str, str]] = {
    "text_classification": (
        "The class of a text",
        _TEXT,
        """\
def predict(*texts):
    (logits,) = run(TOKENIZER.encode(*(text.strip() for text in texts)))
    odds = np.exp(logits - logits.max())
    scores = dict(zip(SETTINGS["labels"], (odds / odds.sum()).tolist()))
    return {"label": max(scores, key=scores.get), "scores": scores}
""",
    ),
    "multi_label_classification": (
        "The classes of a text",
        _TEXT,
        """\
def predict(*texts):
    (logits,) = run(TOKENIZER.encode(*(text.strip() for text in texts)))
    scores = dict(zip(SETTINGS["labels"], (1 / (1 + np.exp(-logits))).tolist()))
    return {"labels": [name for name in scores if scores[name] >= SETTINGS["thresholds"][name]], "scores": scores}
""",
    ),
    "text_regression": (
        "The value of a text",
        _TEXT,
        """\
def predict(*texts):
    (logits,) = run(TOKENIZER.encode(*(text.strip() for text in texts)))
    return {"value": logits[0]}
""",
    ),
    "token_classification": (
        "A tag for each token of a text",
        '"a text"',
        """\
def predict(text):
    tokens = text.split() if SETTINGS["units"] == "words" else [unit for unit in text if not unit.isspace()]
    tags = {}
    alone = [TOKENIZER.encode([unit], is_pretokenized=True, add_special_tokens=False).ids for unit in tokens]
    known = [unit if ids else SETTINGS["unknown"] for unit, ids in zip(tokens, alone)]
    first = TOKENIZER.encode(known, is_pretokenized=True)
    for window in [first, *first.overflowing]:
        (logits,) = run(window)
        for place, label in zip(window.word_ids, logits.argmax(axis=-1)):
            tags.setdefault(place, SETTINGS["labels"][label])
    return {"tokens": tokens, "tags": [tags.get(place) for place in range(len(tokens))]}
""",
    ),
    "question_answering": (
        "The answer to a question as it stands in a text",
        '"a question" "a text"',
        """\
def predict(question, context):
    asked = TOKENIZER.encode("", question.strip())
    ends = [place[1] for place, side in zip(asked.offsets, asked.sequence_ids) if side == 1]
    question = question.strip()[: ends[: SETTINGS["max_question_length"]][-1]]
    best, null = (-np.inf, 0, 0), np.inf
    first = TOKENIZER.encode(question, context)
    for window in [first, *first.overflowing]:
        starts, ends = run(window)
        null = min(null, starts[0] + ends[0])
        inside = np.array(window.sequence_ids) == 1
        near = np.triu(np.tri(len(starts), k=SETTINGS["max_answer_length"] - 1)) * np.outer(inside, inside)
        letters = np.array([len(context[a:b].strip()) for a, b in window.offsets]) * inside
        near = near * (letters.cumsum() > (letters.cumsum() - letters)[:, None])
        sums = np.where(near > 0, starts[:, None] + ends, -np.inf)
        start, end = np.unravel_index(sums.argmax(), sums.shape)
        best = max(best, (sums[start, end], window.offsets[start][0], window.offsets[end][1]))
    score, start, end = best
    if SETTINGS["null_answers"] and null - score > SETTINGS["null_threshold"]:
        start = end = 0
    start = end - len(context[start:end].lstrip())
    return {"answer": context[start:end].strip(), "start": start, "end": start + len(context[start:end].strip())}
""",
    ),
}


def require_script(task: Task) -> None:
    """Refuse a task that there is no ``predict.py`` for.

    Raises:
        UnsupportedError: there is none.
    """
    if task.name not in _PURPOSES:
        raise UnsupportedError(f"export: there is no predict.py for {task.name!r}, only for {one_of(_PURPOSES)}")


def script_of(task: Task) -> str:
    """The text of ``predict.py``."""
    purpose, usage, predict = _PURPOSES[task.name]
    return _SCRIPT.format(purpose=purpose, usage=usage, predict=predict)


def usage_of(task: Task) -> str:
    """What to write behind ``python predict.py``."""
    return _PURPOSES[task.name][1]


def truncation_of(task: Any, tokenizer: Any) -> dict[str, Any]:
    """How ``tokenizer.json`` cuts long texts, or parts them in windows that overlap."""
    if isinstance(task, TokenClassification):
        overlap = task.max_length // 4 if task.overlap is None else task.overlap
        return {"max_length": task.max_length, "stride": overlap}
    if isinstance(task, QuestionAnswering):
        return {"max_length": task.max_length, "stride": task.doc_stride, "strategy": "only_second"}
    return {"max_length": task.max_length, "direction": tokenizer.truncation_side}


def settings_of(task: Any, tokenizer: Any) -> dict[str, Any]:
    """What ``predict.py`` reads of a task in ``export.json``."""
    found: dict[str, Any] = {"task": task.name, "labels": task.class_names}
    if isinstance(task, MultiLabelClassification):
        given = task.threshold
        found["thresholds"] = given if isinstance(given, dict) else dict.fromkeys(task.class_names, given)
    if isinstance(task, TokenClassification):
        found |= {"units": task.units, "unknown": tokenizer.unk_token}
    if isinstance(task, QuestionAnswering):
        names = ("max_question_length", "max_answer_length", "null_answers", "null_threshold")
        found |= {name: getattr(task, name) for name in names}
    return found
