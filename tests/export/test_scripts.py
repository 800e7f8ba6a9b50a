"""``predict.py`` says what the task says, in a process without PyTorch and Transformers."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.export.small import WORDS, OfTokens
from tests.tasks.small import bert, tokenizer_of
from textbrewer.errors import UnsupportedError
from textbrewer.export import OnnxModel, write_onnx
from textbrewer.export.folder import _write_tokenizer
from textbrewer.export.scripts import require_script, script_of, settings_of
from textbrewer.tasks import (
    MultiLabelClassification,
    QuestionAnswering,
    TextClassification,
    TextRegression,
    TokenClassification,
)

ALONE = """
import runpy, sys
sys.modules.update(torch=None, transformers=None, textbrewer=None)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def module_file(folder, answers):
    write_onnx(OfTokens(answers), folder / "model.onnx", ("input_ids", "attention_mask", "token_type_ids"))
    return folder / "model.onnx"


@pytest.fixture(scope="module")
def of_tokens(tmp_path_factory):
    return module_file(tmp_path_factory.mktemp("tokens"), answers=False)


@pytest.fixture(scope="module")
def of_answers(tmp_path_factory):
    return module_file(tmp_path_factory.mktemp("answers"), answers=True)


def said(folder, task, tokenizer, file, *arguments):
    """What ``predict.py`` prints."""
    (folder / "model.onnx").write_bytes(file.read_bytes())
    (folder / "export.json").write_text(
        json.dumps({**settings_of(task, tokenizer), "model": "model.onnx"}), encoding="utf-8"
    )
    (folder / "predict.py").write_text(script_of(task), encoding="utf-8")
    # As a tokenizer is left that was used to train.
    tokenizer(["a", "b c"], padding="max_length", truncation=True, max_length=5)
    _write_tokenizer(tokenizer, task, folder)
    command = [sys.executable, "-c", ALONE, str(folder / "predict.py"), *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


LONG = "the film was very long " * 10 + "good"


@pytest.mark.parametrize("texts", [[" the film was bad"], ["a film", "not a film "], [LONG], [LONG, LONG]])
def test_texts(tmp_path, task, tokenizer, onnx_file, texts):
    (expected,) = task.predict(OnnxModel(onnx_file), [tuple(texts) if texts[1:] else texts[0]], tokenizer)
    found = said(tmp_path, task, tokenizer, onnx_file, *texts)
    assert found["label"] == expected["label"] and found["scores"] == pytest.approx(expected["scores"], abs=1e-9)


def test_several_classes(tmp_path, tokenizer, onnx_file):
    task = MultiLabelClassification(["good", "bad"], max_length=24, threshold={"good": 0.01, "bad": 0.999})
    (expected,) = task.predict(OnnxModel(onnx_file), ["a bad film"], tokenizer)
    found = said(tmp_path, task, tokenizer, onnx_file, "a bad film")
    assert found["labels"] == expected["labels"]
    assert found["scores"] == pytest.approx(expected["scores"], abs=1e-9)


def test_numbers(tmp_path, tokenizer):
    task, file = TextRegression(max_length=24), tmp_path / "one.onnx"
    write_onnx(bert(task, tokenizer), file)
    (expected,) = task.predict(OnnxModel(file), [("good", "bad")], tokenizer)
    assert said(tmp_path, task, tokenizer, file, "good", "bad") == pytest.approx(expected)


def test_texts_that_are_cut_at_their_beginning(tmp_path, task, onnx_file):
    tokenizer = tokenizer_of(WORDS, truncation_side="left")
    text = "bad " + LONG
    (expected,) = task.predict(OnnxModel(onnx_file), [text], tokenizer)
    (cut,) = task.predict(OnnxModel(onnx_file), [text], tokenizer_of(WORDS))
    found = said(tmp_path, task, tokenizer, onnx_file, text)
    assert found["scores"] == pytest.approx(expected["scores"], abs=1e-9) != pytest.approx(cut["scores"], abs=1e-6)


@pytest.mark.parametrize("units", ["words", "characters"])
@pytest.mark.parametrize("text", ["the filmic was 12 good", LONG, "上海 film", "the \u200b film \ufeff was good"])
def test_tokens(tmp_path, tokenizer, of_tokens, units, text):
    task = TokenClassification(["X", "Y", "Z"], max_length=16, units=units, overlap=0)
    (expected,) = task.predict(OnnxModel(of_tokens), [text], tokenizer)
    found = said(tmp_path, task, tokenizer, of_tokens, text)
    tokens = text.split() if units == "words" else list(text.replace(" ", ""))
    assert found["tokens"] == tokens and len(set(found["tags"])) > 1
    if len(tokens) < 14:
        assert found["tags"] == expected["tags"]
    else:
        # Windows are cut elsewhere, so that a token may stand at another place in its own.
        assert sum(a == b for a, b in zip(found["tags"], expected["tags"], strict=True)) > 0.7 * len(tokens)


@pytest.mark.parametrize(
    ("question", "context"),
    [
        ("what was it?", "the film was very long, good (but) bad!"),
        (" what was it?", LONG),
        ("the film was very long " * 9, "上海 是 film"),
        ("the film was very long " * 9, LONG),
        ("?", "x"),
    ],
)
def test_answers(tmp_path, tokenizer, of_answers, question, context):
    task = QuestionAnswering(max_length=24, doc_stride=4, max_question_length=8, max_answer_length=3)
    (expected,) = task.predict(OnnxModel(of_answers), [(question, context)], tokenizer)
    found = said(tmp_path, task, tokenizer, of_answers, question, context)
    assert found == {key: expected[key] for key in ("answer", "start", "end")}
    assert found["answer"] == context[found["start"] : found["end"]] != ""


class Metaspaces:
    """Offsets that begin with the space before a token, as those of SentencePiece do, and a token of a space alone."""

    def __new__(cls):
        from tokenizers import Tokenizer, models, pre_tokenizers, processors
        from transformers import PreTrainedTokenizerFast

        special = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}
        letters = ["\u2581", *"abcdefghijklmnopqrstuvwxyz?", "\u2581the", "\u2581film"]
        known = [(token, -2.0) for token in special] + [(token, -1.0) for token in letters]
        backend = Tokenizer(models.Unigram(known, unk_id=1))
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        inputs = ["input_ids", "token_type_ids", "attention_mask"]
        return PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=inputs, **names)


@pytest.mark.parametrize("context", ["the film bears it", "a  film  the", "xyz the  q film"])
def test_answers_of_tokens_with_their_space(tmp_path, of_answers, context):
    task = QuestionAnswering(max_length=40, doc_stride=4, max_question_length=8, max_answer_length=2)
    tokenizer = Metaspaces()
    (expected,) = task.predict(OnnxModel(of_answers), [("what?", context)], tokenizer)
    found = said(tmp_path, task, tokenizer, of_answers, "what?", context)
    assert found == {key: expected[key] for key in ("answer", "start", "end")}
    assert found["answer"] == context[found["start"] : found["end"]] != ""


@pytest.mark.parametrize("above", [-0.01, 0.01])
def test_no_answer(tmp_path, tokenizer, of_answers, above):
    settings = {"max_length": 24, "doc_stride": 4, "max_question_length": 8, "null_answers": True}
    rows, file = [("what?", "the film")], OnnxModel(of_answers)
    margin = QuestionAnswering(**settings).predict(file, rows, tokenizer)[0]["null_margin"]
    assert abs(margin) > 0.02
    task = QuestionAnswering(**settings, null_threshold=margin + above)
    (expected,) = task.predict(file, rows, tokenizer)
    assert said(tmp_path, task, tokenizer, of_answers, *rows[0])["answer"] == expected["answer"]
    assert (expected["answer"] == "") == (above < 0)


def test_the_tokenizer_is_saved_as_the_task_uses_it(tmp_path, task, tokenizer, onnx_file):
    said(tmp_path, task, tokenizer, onnx_file, "a")
    saved = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    assert saved["padding"] is None and saved["truncation"]["max_length"] == 24


def test_a_task_without_a_script():
    class Other(TextClassification):
        name = "other_task"

    with pytest.raises(UnsupportedError, match=r"no predict\.py for 'other_task', only for one of 'text_"):
        require_script(Other(["a", "b"]))


def test_words_of_the_fixtures_are_tokens():
    assert tokenizer_of(WORDS).tokenize(LONG)[-1] == "good"
