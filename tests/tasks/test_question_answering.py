"""Answers that are stretches of a context: rows, windows, losses, predictions and scores."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra `hf`")

from tests.tasks.small import SlowTokenizer, bert, tokenizer_of
from textbrewer.errors import AdaptorError, ConfigError, DataError
from textbrewer.tasks import QuestionAnswering, Table

SIZES = {"max_length": 16, "doc_stride": 4, "max_question_length": 4}
TASK = QuestionAnswering(**SIZES, n_best=3)
NULL = QuestionAnswering(**SIZES, null_answers=True)
WORDS = ["mars", "is", "cold", "who", "where"]
TOKENIZER = tokenizer_of(WORDS)
CONTEXT = "a b c d e f g h i j mars k l m n o p q"


def row_of(text="mars", start=20, context=CONTEXT, **more):
    return {
        "id": "1",
        "question": "where",
        "context": context,
        "answers": [{"text": text, "answer_start": start}],
        **more,
    }


# Rows.


def test_a_row_in_any_form():
    expected = {"id": "1", "question": "where", "context": CONTEXT, "answers": [{"text": "mars", "start": 20}]}
    assert dict(TASK.rows([row_of()])[0]) == expected
    assert dict(TASK.rows([row_of() | {"answers": {"text": ["mars"], "answer_start": [20]}}])[0]) == expected
    (again,) = TASK.rows(list(TASK.rows([row_of()])))
    assert dict(again) == expected
    renamed = [{"q": "where", "c": CONTEXT, "a": "mars"}]
    found = TASK.rows(renamed, {"question": "q", "context": "c", "answers": "a"})
    assert dict(found[0]) == expected | {"id": "row 1"}


def test_missing_columns_and_labels():
    with pytest.raises(DataError, match=r"no column is taken for 'context' among 'question'"):
        TASK.rows([{"question": "q"}])
    with pytest.raises(DataError, match=r"'answers' among 'question', 'context'.*labelled=False"):
        TASK.rows([{"question": "q", "context": "c"}])
    assert TASK.rows([{"question": "q", "context": "c"}], labelled=False)[0]["answers"] is None


def test_empty_rows_and_hidden_answers_are_counted():
    rows = TASK.rows(
        [row_of(), row_of(context=" "), row_of() | {"question": "", "context": ""}, row_of() | {"answers": []}]
    )
    assert [row["answers"] is None for row in rows] == [False, True]
    assert rows.report.count("row without question or context") == 2
    assert rows.report.count("question without answers") == 1


def test_answers_elsewhere_are_corrected_and_lost_ones_are_refused_above_a_share():
    rows = [row_of(start=i % 2 + 20) | {"id": str(i)} for i in range(18)]
    lost = [row_of("venus") | {"id": name} for name in ("x", "y")]
    found = TASK.rows(rows)
    assert {row["answers"][0]["start"] for row in found} == {20}
    assert found.report.count("answer at another place") == 9
    with pytest.raises(DataError) as error:
        TASK.rows(Table([*rows, *lost], "a.json", [f"question {row['id']!r}" for row in [*rows, *lost]]))
    assert str(error.value) == (
        "a.json: 2 of 20 questions have no answer in their context, where max_not_found=0.05 allows 5%\n"
        "  2 answers not found in its context, scored, not learned: question 'x', question 'y'"
    )
    patient = QuestionAnswering(**SIZES, max_not_found=0.1)
    kept = patient.rows([*rows, *lost])
    assert kept[-1]["answers"] == [{"text": "venus", "start": -1}]
    assert patient.encode(kept, TOKENIZER).features[-1]["start_positions"] == -100


def test_questions_without_an_answer():
    impossible = row_of() | {"answers": [], "is_impossible": True}
    assert NULL.rows([impossible, row_of() | {"answers": []}])[1]["answers"] == []
    found = NULL.rows([impossible, row_of(), row_of() | {"answers": None}])
    assert [row["answers"] == [] for row in found] == [True, False, False]
    assert found.report.labels == {"with an answer": 1, "without": 1}
    texts = NULL.rows([row_of() | {"is_impossible": "False"}, row_of() | {"is_impossible": "True"}])
    assert [bool(row["answers"]) for row in texts] == [True, False]
    with pytest.raises(DataError, match=r"question without an answer, which null_answers=True allows: row 1"):
        TASK.rows([impossible])
    assert TASK.rows([impossible], bad_labels="unlabelled")[0]["answers"] is None


def test_questions_of_a_context_stay_together():
    rows = TASK.rows([row_of(context=f"{CONTEXT} {i // 5}") for i in range(30)])
    train, held = TASK.split(rows, 0.2)
    assert {row["context"] for row in train}.isdisjoint(row["context"] for row in held) and len(held) == 10


# Windows.


def test_windows_show_all_of_a_context_and_share_tokens():
    data = TASK.encode([row_of()], TOKENIZER)
    shown = [[CONTEXT[start:end] for start, end in part.spans.offsets.tolist() if start >= 0] for part in data.parts]
    assert all(len(feature["input_ids"]) <= 16 for feature in data.features)
    words = CONTEXT.split()
    assert shown == [words[:12], words[8:]]
    lengths = data.report.lengths
    assert (lengths.longest, lengths.longer) == (4 + len(words), 1) and "share 4 tokens" in lengths.action


def test_answers_are_tokens_of_the_windows_that_show_them():
    data = TASK.encode([row_of(), row_of("a b", 0)], TOKENIZER)
    positions = [(f["start_positions"], f["end_positions"]) for f in data.features]
    # [CLS] where [SEP] takes three tokens; the first special token stands for no answer.
    assert positions == [(13, 13), (5, 5), (3, 4), (0, 0)]
    assert [part.row for part in data.parts] == [0, 0, 1, 1]


def test_everything_but_context_and_the_first_token_is_masked():
    (feature, _) = TASK.encode([row_of()], TOKENIZER).features
    assert feature["logits_mask"].tolist() == [1, 0, 0, *[1] * 12, 0]
    (feature, _) = QuestionAnswering(**SIZES, mask_question=False).encode([row_of()], TOKENIZER).features
    assert feature["logits_mask"].tolist() == [1] * 16


def test_long_questions_are_cut_and_counted():
    data = TASK.encode([row_of() | {"question": "who abcdefg where"}], TOKENIZER)
    tokens = TOKENIZER.convert_ids_to_tokens(data.features[0]["input_ids"])
    assert tokens[:6] == ["[CLS]", "who", "a", "##b", "##c", "[SEP]"]
    assert [str(finding) for finding in data.report.findings] == [
        "1 question of more tokens than max_question_length, cut: question '1'"
    ]


def test_rows_without_answers_have_none_in_their_batches():
    data = TASK.encode([{"question": "where", "context": CONTEXT}], TOKENIZER)
    assert set(next(iter(data.loader(2)))) == {"input_ids", "attention_mask", "token_type_ids", "logits_mask"}


def test_many_rows_are_encoded_in_order():
    rows = [row_of(context=f"mars {'a ' * (i % 20)}", start=0) | {"id": str(i)} for i in range(230)]
    data = TASK.encode(rows, TOKENIZER)
    assert sorted({part.row for part in data.parts}) == list(range(230))
    assert [part.row for part in data.parts] == sorted(part.row for part in data.parts)


@pytest.mark.parametrize(
    ("task", "tokenizer", "message"),
    [
        (TASK, SlowTokenizer(), "question answering needs the place of every token"),
        (TASK, tokenizer_of(model_max_length=8), "takes 8 tokens; lower max_length"),
        (QuestionAnswering(max_length=16, doc_stride=9, max_question_length=4), TOKENIZER, "room for 9 tokens"),
    ],
)
def test_tokenizers_that_do_not_fit(task, tokenizer, message):
    with pytest.raises(DataError, match=message):
        task.encode([row_of()], tokenizer)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 16, "doc_stride": 10, "max_question_length": 6}, "leave room in `max_length`"),
        ({"rules": "drcd"}, "`rules`"),
        ({"max_not_found": 2}, "`max_not_found`"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ConfigError, match=message):
        QuestionAnswering(**settings)


# What is learned.


def test_the_loss_is_the_mean_of_both_cross_entropies_over_the_context():
    start, end = torch.zeros(2, 5, requires_grad=True), torch.zeros(2, 5, requires_grad=True)
    batch = {
        "logits_mask": torch.tensor([[1, 0, 1, 1, 0], [1, 0, 1, 0, 0]]),
        "start_positions": torch.tensor([2, -100]),
        "end_positions": torch.tensor([3, -100]),
    }
    found = TASK.learned([start, end], batch)
    assert found["losses"].item() == pytest.approx(math.log(3))
    assert found["logits"][0].softmax(-1)[0].tolist() == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3, 0])
    assert [labels.tolist() for labels in found["labels"]] == [[2, -100], [3, -100]]
    found["losses"].backward()
    assert start.grad[1].abs().sum() == 0 and start.grad[0, 1] == 0


def test_the_side_of_the_padding_changes_neither_loss_nor_gradient():
    rows = [row_of(), row_of(context="mars is cold", start=0), row_of("venus")]
    task = QuestionAnswering(**SIZES, max_not_found=1)
    encodings = [task.encode(rows, tokenizer_of(WORDS, padding_side=side)) for side in ("right", "left")]
    weights = torch.randn(2, len(TOKENIZER), generator=torch.Generator().manual_seed(0))
    found = []
    for data in encodings:
        # A score of each token by itself, wherever it stands.
        own = weights.clone().requires_grad_()
        batch = next(iter(data.loader(len(data))))
        loss = task.learned([own[0][batch["input_ids"]], own[1][batch["input_ids"]]], batch)["losses"]
        loss.backward()
        found.append((loss, own.grad))
    assert (next(iter(encodings[0].loader(len(data))))["attention_mask"] == 0).any()
    torch.testing.assert_close(found[0], found[1])


def test_one_of_the_logits_is_not_enough():
    with pytest.raises(AdaptorError, match="logits of starts and of ends"):
        TASK.learned(torch.zeros(2, 5), {})


# Predictions.


def predicted(task, context, logits, question="where"):
    """A prediction from logits by token of the context: ``{token: (start, end)}`` for each window."""
    data = task.encode(task.rows([{"question": question, "context": context}], labelled=False), TOKENIZER)
    assert len(logits) == len(data)
    values = []
    for part, wanted in zip(data.parts, logits, strict=True):
        start, end = torch.full((2, len(part.spans.offsets)), -5.0)
        for token, (s, e) in wanted.items():
            place = part.spans.null if token == "null" else 3 + token
            start[place], end[place] = s, e
        values.append([start.numpy(), end.numpy()])
    return task.decoded(values, data)[0]


def test_the_best_of_all_windows():
    found = predicted(TASK, CONTEXT, [{2: (3, 0), 3: (0, 3)}, {2: (5, 4), 4: (0, 2)}])
    # The second window begins with the ninth word.
    assert (found["answer"], found["start"], found["end"]) == ("mars", 20, 24)
    assert [each["text"] for each in found["n_best"]] == ["mars", "mars k l", "c d"]
    assert found["score"] == found["n_best"][0]["score"]
    assert sum(each["score"] for each in found["n_best"]) == pytest.approx(1)
    assert "null_margin" not in found and type(found["start"]) is int


def test_an_answer_ends_after_it_starts_and_is_not_too_long():
    short = QuestionAnswering(**SIZES, max_answer_length=2)
    found = predicted(short, "a b c d", [{0: (9, -5), 3: (-5, 9), 2: (1, 1)}])
    assert found["answer"] in ("a", "d", "c d", "a b") and CONTEXT.find(found["answer"]) >= 0
    backwards = predicted(TASK, "a b", [{1: (9, -5), 0: (-5, 9)}])
    assert backwards["answer"] in ("a", "b", "a b")


def test_the_same_text_is_listed_once():
    found = predicted(TASK, "mars or mars", [{0: (4, 4), 3: (5, 5)}])
    assert [each["text"] for each in found["n_best"]].count("mars") == 1
    assert found["start"] == 8


def test_no_answer():
    logits = [{"null": (2, 2), 0: (3, 0)}]
    found = predicted(NULL, "a b", logits)
    assert found["answer"] == "" and found["start"] is None
    assert found["null_margin"] == pytest.approx(1.0)
    odds = math.exp(4) / (math.exp(4) + sum(math.exp(s) for s in (3, -2, -10)))
    assert found["score"] == pytest.approx(odds)
    lenient = QuestionAnswering(**SIZES, null_answers=True, null_threshold=1.5)
    assert predicted(lenient, "a b", logits)["answer"] == "a"
    # The likeliest window decides against it: the least score of no answer counts.
    context = CONTEXT
    assert predicted(NULL, context, [{"null": (9, 9)}, {"null": (-9, -9), 2: (1, 1)}])["answer"] == "mars"


def test_empty_inputs_have_an_answer_too():
    found = TASK.predict(bert(TASK, TOKENIZER), [{"question": "who", "context": ""}, ("who", "mars")], TOKENIZER)
    assert found[0] == {"id": "row 1", "answer": "", "start": None, "end": None, "score": 0.0, "n_best": []}
    assert found[1]["answer"] == "mars"
    (nothing,) = NULL.predict(bert(NULL, TOKENIZER), [("who", "")], TOKENIZER)
    assert nothing["answer"] == "" and nothing["score"] == 1.0 and math.isfinite(nothing["null_margin"])
    with pytest.raises(DataError, match="a dict or a question with a context, got str"):
        TASK.predict(bert(TASK, TOKENIZER), ["who"], TOKENIZER)


def test_a_model_is_read_at_its_real_positions():
    model = bert(TASK, TOKENIZER, seed=4, initializer_range=0.5)
    inputs = [{"question": "who", "context": "mars is cold"}, {"question": "where is", "context": "a b"}]
    together = TASK.predict(model, inputs, TOKENIZER)
    for each, alone in zip(together, (TASK.predict(model, [given], TOKENIZER)[0] for given in inputs), strict=True):
        assert each["answer"] == alone["answer"] and each["score"] == pytest.approx(alone["score"], abs=1e-5)
    batch = TOKENIZER("who", "mars is cold", return_tensors="pt")
    with torch.no_grad():
        outputs = model(**batch)
    start, end = outputs.start_logits[0, 3:6], outputs.end_logits[0, 3:6]
    sums = {(i, j): (start[i] + end[j]).item() for i in range(3) for j in range(i, 3)}
    best = max(sums, key=sums.__getitem__)
    assert together[0]["answer"] == " ".join(["mars", "is", "cold"][best[0] : best[1] + 1])


# Scores.


def test_scores_by_the_rules_of_the_task():
    rows = TASK.rows([row_of(), row_of("b c", 2)])
    found = TASK.score([{"answer": "the mars"}, {"answer": "c"}], rows)
    assert found == {"f1": pytest.approx((1 + 2 / 3) / 2), "exact_match": 0.5}
    chinese = QuestionAnswering(**SIZES, rules="cmrc")
    rows = chinese.rows([row_of("北京", 2, "我在北京")])
    assert chinese.score([{"answer": "在北京"}], rows)["f1"] == pytest.approx(0.8)


def test_null_answers_have_a_best_threshold():
    rows = NULL.rows([row_of(), row_of() | {"answers": []}])
    said = [
        {"answer": "", "null_margin": 1.0, "n_best": [{"text": "mars"}]},
        {"answer": "", "null_margin": 2.0, "n_best": [{"text": "a"}]},
    ]
    found = NULL.score(said, rows)
    assert found["f1"] == 0.5 and found["has_answer_f1"] == 0.0 and found["no_answer_f1"] == 1.0
    assert found["best_f1"] == 1.0 and found["best_null_threshold"] == 1.0


def test_chinese_has_offsets_by_character():
    task = QuestionAnswering(max_length=24, doc_stride=4, max_question_length=8, rules="cmrc")
    row = {"question": "首都是哪里", "context": "中国的首都是北京。", "answers": [{"text": "北京", "answer_start": 6}]}
    data = task.encode([row], TOKENIZER)
    (feature,) = data.features
    chosen = feature["input_ids"][feature["start_positions"] : feature["end_positions"] + 1]
    assert TOKENIZER.convert_ids_to_tokens(chosen) == ["北", "京"]
