"""A tag a token: schemes, word pieces, windows, predictions and scores."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra `hf`")

from tests.tasks.small import SlowTokenizer, bert, tokenizer_of
from textbrewer.errors import ConfigError, DataError
from textbrewer.tasks import Table, TokenClassification, read

TAGS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
TASK = TokenClassification(TAGS, max_length=12, overlap=4)
TOKENIZER = tokenizer_of(["the", "cat"])
ROW = {"tokens": ["the", "abc", "of", "cat"], "tags": ["O", "B-LOC", "I-LOC", "B-PER"]}


def rows_of(*tags, task=TASK, **options):
    return task.rows([{"tokens": list("abcdefgh")[: len(each)], "tags": each} for each in tags], **options)


# Labels and schemes.


def test_the_scheme_is_that_of_the_labels():
    assert TASK.scheme == "iob2" and TASK.main_metric == "f1"
    assert TokenClassification(["O", "B-X", "I-X", "E-X", "S-X"]).scheme == "iobes"
    assert TokenClassification(["O", "B-X", "M-X", "E-X", "S-X"]).scheme == "iobes"
    plain = TokenClassification(["NOUN", "VERB"])
    assert plain.scheme is None and plain.main_metric == "accuracy"
    assert TokenClassification(["O", "B-LOC", "I-LOC"], metric="recall").main_metric == "recall"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": ["O", "B-X"]}, r"every tag of IOB2, .*add \['I-X'\]"),
        ({"labels": ["O", "B-X", "I-X", "S-X"]}, r"add \['E-X'\]"),
        ({"labels": TAGS, "max_length": 10, "overlap": 5}, "`overlap` below half of `max_length`"),
        ({"labels": TAGS, "data_scheme": "iob3"}, "`data_scheme`"),
        ({"labels": TAGS, "pieces": "last"}, "`pieces`"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ConfigError, match=message):
        TokenClassification(**settings)


def test_a_teacher_that_lacks_a_tag_gets_a_new_head(tmp_path):
    labels = ["O", "B-LOC", "I-LOC", "I-PER"]
    teacher = bert(TASK, TOKENIZER, id2label=dict(enumerate(labels)), label2id=None)
    teacher.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="make the task with the model's labels"):
        TASK.adaptor(teacher, teacher=True)
    with pytest.raises(ConfigError, match=r"add \['B-PER'\]; a model .* cannot be used as it is: .* gives a new head"):
        TokenClassification(labels)
    assert TASK.adaptor(TASK.load(tmp_path, ignore_mismatched_sizes=True), teacher=True)


@pytest.mark.parametrize(
    ("tags", "scheme", "labels"),
    [
        (["I-PER", "O", "I-LOC"], "iob2", TAGS),
        (["S-LOC"], "iobes", ["O", "B-LOC", "I-LOC", "E-LOC", "S-LOC"]),
        (["NN", "O", "VB"], "iob2", ["NN", "O", "VB"]),
        ("I-PER O I-LOC", "iob2", TAGS),
        (["I-PER", "O", "I-LOC"], None, TAGS),
        # Half of the tags are chunk tags: they are plain.
        (["B-X", "O", "NN"], None, ["B-X", "NN", "O"]),
    ],
)
def test_labels_of_data(tags, scheme, labels):
    tokens = list("abc")[: 3 if isinstance(tags, str) else len(tags)]
    assert TokenClassification.from_data([{"tokens": tokens, "tags": tags}], scheme=scheme).labels == labels


@pytest.mark.parametrize("wrong", ["I_PER", "PER", "b-PER"])
def test_a_malformed_tag_among_chunk_tags_is_refused_with_its_place(tmp_path, wrong):
    pytest.importorskip("datasets")
    path = tmp_path / "train.conll"
    path.write_text(f"a\tB-LOC\nb\tI-LOC\n\nc\tB-PER\nd\t{wrong}\ne\tO\n")
    task = TokenClassification.from_data(read(path))
    assert task.labels == TAGS and task.main_metric == "f1"
    with pytest.raises(DataError, match=rf"1 tag '{wrong}' is neither 'O' nor a prefix .*: line 5\n"):
        task.rows(read(path))


def test_types_are_renamed_and_dropped():
    types = {"place": "LOC", "misc": "O"}
    rows = [{"tokens": ["a", "b", "c"], "tags": ["B-place", "I-place", "B-misc"]}]
    task = TokenClassification.from_data(rows, types=types)
    assert task.labels == ["O", "B-LOC", "I-LOC"]
    assert task.rows(rows)[0]["tags"] == ["B-LOC", "I-LOC", "O"]
    plain = TokenClassification.from_data(
        [{"tokens": ["a"], "tags": ["NN"]}, {"tokens": ["b"], "tags": ["V"]}], types={"NN": "N"}
    )
    assert plain.labels == ["N", "V"]


def test_named_classes_keep_their_own_order():
    datasets = pytest.importorskip("datasets")
    names = ["O", "B-PER", "I-PER"]
    features = datasets.Features(
        tokens=datasets.List(datasets.Value("string")), ner_tags=datasets.List(datasets.ClassLabel(names=names))
    )
    data = datasets.Dataset.from_dict({"tokens": [["a", "b"], ["c"]], "ner_tags": [[0, 1], [-1]]}, features=features)
    task = TokenClassification.from_data(data)
    assert task.labels == names
    assert [row["tags"] for row in task.rows(data)] == [["O", "B-PER"], None]


@pytest.mark.parametrize(
    ("names", "scheme", "labels"),
    [
        (["O", "B-PER", "I-PER", "B-LOC", "I-LOC"], "iobes", "O B-PER I-PER E-PER S-PER B-LOC I-LOC E-LOC S-LOC"),
        (["I-LOC", "O", "S-LOC", "B-LOC", "E-LOC"], "iob2", "O B-LOC I-LOC"),
        (["I-LOC", "O", "B-LOC"], None, "I-LOC O B-LOC"),
        (["NOUN", "VERB"], "iobes", "NOUN VERB"),
    ],
)
def test_named_classes_may_be_written_in_another_scheme(names, scheme, labels):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        tokens=datasets.List(datasets.Value("string")), tags=datasets.List(datasets.ClassLabel(names=names))
    )
    data = datasets.Dataset.from_dict({"tokens": [["a"]], "tags": [[0]]}, features=features)
    assert TokenClassification.from_data(data, scheme=scheme).labels == labels.split()


# Rows.


def test_data_in_another_scheme_is_converted_and_said():
    rows = rows_of(["I-LOC", "B-LOC", "O", "I-PER"], ["O", "I-LOC"])
    assert [row["tags"] for row in rows] == [["B-LOC", "B-LOC", "O", "B-PER"], ["O", "B-LOC"]]
    assert rows.report.notes == ("tags in IOB1 (found in them), written as IOB2 for the model",)
    assert rows.report.labels == {"LOC": 3, "PER": 1}
    told = rows_of(["B-LOC", "I-LOC"], task=TokenClassification(TAGS, data_scheme="iob2"))
    assert told.report.notes == ()


def test_the_models_own_letters_are_kept():
    task = TokenClassification(["O", "B-X", "M-X", "E-X", "S-X"])
    assert rows_of(["B-X", "I-X", "I-X", "O", "B-X"], task=task)[0]["tags"] == ["B-X", "M-X", "E-X", "O", "S-X"]


def test_wrong_tags_are_refused_with_file_and_line(tmp_path):
    pytest.importorskip("datasets")
    path = tmp_path / "train.conll"
    path.write_text("a\tB-LOC\nb\tI-PER\n\nc\tB-PER\nd\tO\n\ne\tO\nf\tI-LOC\n\ng\tB-ORG\n")
    with pytest.raises(DataError) as error:
        TASK.rows(read(path))
    lines = str(error.value).split("\n  ")
    assert lines[0] == f"{path}: 3 labels that cannot be used"
    assert lines[1:4] == [
        "1 tag 'I-PER' after 'B-LOC' continues no 'PER'; IOB2 begins with 'B-PER': line 2",
        "1 tag 'I-LOC' after 'O' continues no 'LOC'; IOB2 begins with 'B-LOC': line 8",
        "1 entity of type 'ORG': line 10",
    ]
    kept = TASK.rows(read(path), bad_labels="unlabelled")
    assert [row["tags"] for row in kept] == [None, ["B-PER", "O"], None, None]
    (tmp_path / "more.conll").write_text("x\tB-LOC\ny\tI-PER\n")
    with pytest.raises(DataError, match=r"begins with 'B-PER': .*train\.conll, line 2, .*more\.conll, line 2"):
        TASK.rows(read([path, tmp_path / "more.conll"]))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "row of 2 tokens and 1 tags: row 1"),
        ({"tokens": ["a"], "tags": ["B-LOG"]}, r"entity of type 'LOG' \(did you mean 'LOC'\?\): row 1, token 1"),
        ({"tokens": ["a"], "tags": ["LOC"]}, "tag 'LOC' is neither 'O' nor a prefix"),
    ],
)
def test_other_faults_have_their_token(row, message):
    with pytest.raises(DataError, match=message):
        TASK.rows([row])


def test_plain_tags_are_checked_too():
    task = TokenClassification(["NOUN", "VERB"])
    rows = rows_of(["NOUN", "VERB"], task=task)
    assert rows.report.labels == {"NOUN": 1, "VERB": 1}
    with pytest.raises(DataError, match=r"tag 'NUON' \(did you mean 'NOUN'\?\): row 1, token 2"):
        rows_of(["NOUN", "NUON"], task=task)


def test_rows_without_tokens_and_without_tags():
    rows = TASK.rows(
        [ROW, {"tokens": [], "tags": []}, {"tokens": ["a"], "tags": None}, {"tokens": "a b", "tags": "O O"}]
    )
    assert [row["tags"] for row in rows] == [ROW["tags"], None, ["O", "O"]]
    assert rows.report.count("row without tokens") == 1 and rows.report.count("row without tags") == 1
    with pytest.raises(DataError, match=r"no column is taken for 'tags' among 'tokens'.*labelled=False"):
        TASK.rows([{"tokens": ["a"]}])
    assert TASK.rows([{"tokens": ["a"]}], labelled=False)[0]["tags"] is None


# Pieces and windows.


def test_the_first_piece_of_a_word_has_its_tag():
    data = TASK.encode([ROW], TOKENIZER)
    (feature,) = data.features
    assert TOKENIZER.convert_ids_to_tokens(feature["input_ids"]) == [
        "[CLS]", "the", "a", "##b", "##c", "o", "##f", "cat", "[SEP]",
    ]  # fmt: skip
    assert feature["labels"].tolist() == [-100, 0, 1, -100, -100, 2, -100, 3, -100]
    assert feature["logits_mask"].tolist() == [0, 1, 1, 0, 0, 1, 0, 1, 0]


def test_all_pieces_may_have_it():
    (feature,) = TokenClassification(TAGS, max_length=12, overlap=4, pieces="all").encode([ROW], TOKENIZER).features
    assert feature["labels"].tolist() == [-100, 0, 1, 1, 1, 2, 2, 3, -100]
    assert feature["logits_mask"].tolist() == [0, 1, 1, 1, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("pieces", ["first", "all"])
def test_windows_show_everything_and_judge_each_word_once(pieces):
    task = TokenClassification(TAGS, max_length=12, overlap=4, pieces=pieces)
    tokens = ["the", "ab", "c", "defg", "cat"] * 5
    tags = (["B-LOC", "I-LOC", "O", "B-PER", "I-PER"] * 5)[: len(tokens)]
    data = task.encode([{"tokens": tokens, "tags": tags}, {"tokens": ["a"], "tags": ["O"]}], TOKENIZER)
    assert all(len(feature["input_ids"]) <= 12 for feature in data.features)
    judged = [
        task.labels[f["labels"][i]] for f, part in zip(data.features, data.parts, strict=True) for i in part.spans
    ]
    assert judged == [*tags, "O"]
    ones = sum(int(feature["logits_mask"].sum()) for feature in data.features)
    assert ones == (26 if pieces == "first" else 5 * (1 + 2 + 1 + 4 + 1) + 1)
    lengths = data.report.lengths
    assert (lengths.longest, lengths.longer) == (47, 1) and "windows that share 4 tokens" in lengths.action


def test_a_word_too_long_for_any_window_is_cut_and_counted():
    data = TASK.encode([{"tokens": ["a", "b" * 30, "c"], "tags": ["O", "B-LOC", "O"]}], TOKENIZER)
    assert data.report.count("row with a word of more tokens than a window") == 1
    assert sum(len(part.spans) for part in data.parts) == 3


def test_words_that_are_no_pieces_have_a_tag_and_a_prediction():
    row = {"tokens": ["a", "\u200b", "\u3000", "b"], "tags": ["O", "O", "O", "B-LOC"]}
    (feature,) = TASK.encode([row], TOKENIZER).features
    assert feature["labels"].tolist() == [-100, 0, 0, 0, 1, -100]
    (found,) = TASK.predict(bert(TASK, TOKENIZER), [row["tokens"]], TOKENIZER)
    assert len(found["tags"]) == 4


def test_chinese_by_characters_with_any_tokenizer():
    row = {"tokens": list("我爱北京"), "tags": ["O", "O", "B-LOC", "I-LOC"]}
    for tokenizer in (TOKENIZER, SlowTokenizer()):
        (feature,) = TASK.encode([row], tokenizer).features
        assert feature["labels"].tolist() == [-100, 0, 0, 1, 2, -100]
        assert tokenizer.convert_ids_to_tokens(feature["input_ids"][1:-1].tolist()) == row["tokens"]


def test_rows_without_any_tag():
    batch = next(iter(TASK.encode([{"tokens": ["ab"]}], TOKENIZER).loader(1)))
    assert "labels" not in batch and batch["logits_mask"].tolist() == [[0, 1, 0, 0]]
    mixed = TASK.encode([ROW, {"tokens": ["ab"]}], TOKENIZER)
    assert mixed.features[1]["labels"].tolist() == [-100] * 4


# What is learned, and what comes out.


def test_the_loss_is_the_mean_over_tagged_words():
    logits = torch.zeros(2, 4, 5)
    logits[0, 1, 3] = 2.0
    logits.requires_grad_()
    labels = torch.tensor([[-100, 3, 0, -100], [-100, -100, -100, -100]])
    mask = torch.tensor([[0, 1, 1, 0], [0, 1, 0, 0]])
    found = TASK.learned(logits, {"labels": labels, "logits_mask": mask})
    first = -math.log(math.exp(2) / (math.exp(2) + 4))
    assert found["losses"].item() == pytest.approx((first + math.log(5)) / 2)
    found["losses"].backward()
    assert logits.grad[1].abs().sum() == 0 and found["logits_mask"] is mask
    assert TASK.learned(logits, {"attention_mask": mask})["logits_mask"] is mask


def test_predictions_of_long_rows_are_those_of_their_windows():
    model = bert(TASK, TOKENIZER, seed=2, initializer_range=0.5)
    tokens = ["the", "ab", "c", "de", "cat", "x"] * 6
    data = TASK.encode([{"tokens": tokens}], TOKENIZER)
    expected = []
    for feature, part in zip(data.features, data.parts, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor(feature["input_ids"], dtype=torch.long)[None]).logits[0]
        expected += [TAGS[int(logits[i].argmax())] for i in part.spans]
    found = TASK.predict(model, [["a"], tokens, []], TOKENIZER, batch_size=3)
    assert found[1]["tags"] == expected and len(set(expected)) > 1
    assert len(found[0]["tags"]) == 1 and found[2] == {"tags": [], "entities": []}
    whole = TokenClassification(TAGS, max_length=64).predict(model, [tokens], TOKENIZER)[0]["tags"]
    assert len(whole) == len(expected)


def decoded(task, tokens, tags):
    from textbrewer.tasks.encoded import Encoded, Padding, Part

    rows = task.rows([{"tokens": tokens}], labelled=False)
    logits = torch.nn.functional.one_hot(torch.tensor([task.labels.index(tag) for tag in tags]), len(task.labels))
    encoded = Encoded(rows, [{}], [Part(0, list(range(len(tags))))], Padding(TOKENIZER), rows.report)
    return task.decoded([logits.numpy()], encoded)[0]


def test_entities_of_predictions():
    found = decoded(TASK, ["New", "York", "x", "Al"], ["I-LOC", "I-LOC", "O", "B-PER"])
    assert found == {
        "tags": ["I-LOC", "I-LOC", "O", "B-PER"],
        "entities": [
            {"type": "LOC", "start": 0, "end": 2, "text": "New York"},
            {"type": "PER", "start": 3, "end": 4, "text": "Al"},
        ],
    }
    chinese = TokenClassification(TAGS, units="characters")
    assert decoded(chinese, list("去北京"), ["O", "B-LOC", "I-LOC"])["entities"][0]["text"] == "北京"
    assert decoded(TokenClassification(["N", "V"]), ["a", "b"], ["V", "N"]) == {"tags": ["V", "N"]}


def test_a_text_is_split_into_its_units():
    model = bert(TASK, TOKENIZER)
    assert len(TASK.predict(model, ["we saw  it"], TOKENIZER)[0]["tags"]) == 3
    characters = TokenClassification(TAGS, units="characters")
    assert len(characters.predict(model, ["我 爱\u3000北京"], TOKENIZER)[0]["tags"]) == 4
    with pytest.raises(DataError, match="a text, a list of tokens or a dict, got int"):
        TASK.predict(model, [3], TOKENIZER)


def test_scores_are_of_entities_or_of_tags():
    metrics = pytest.importorskip("seqeval.metrics")
    true = [["B-LOC", "I-LOC", "O", "B-PER"], ["O", "B-LOC"]]
    said = [["B-LOC", "O", "O", "I-PER"], ["O", "B-LOC"]]
    found = TASK.score([{"tags": tags} for tags in said], rows_of(*true))
    assert found["f1"] == metrics.f1_score(true, said) == pytest.approx(2 / 3)
    task = TokenClassification(["O", "B-X", "M-X", "E-X", "S-X"])
    rows = rows_of(["B-X", "M-X", "E-X", "S-X"], task=task)
    assert task.score([{"tags": ["B-X", "M-X", "E-X", "O"]}], rows)["f1"] == pytest.approx(2 / 3)
    plain = TokenClassification(["N", "V"])
    assert plain.score([{"tags": ["N", "V", "V"]}], rows_of(["N", "V", "N"], task=plain)) == {
        "accuracy": pytest.approx(2 / 3),
        "macro_f1": pytest.approx(2 / 3),
    }


def test_the_same_sentence_stays_on_one_side():
    rows = TASK.rows([{"tokens": [f"w{i // 2}"], "tags": ["O"]} for i in range(20)])
    train, held = TASK.split(rows, 0.2)
    assert {row["tokens"][0] for row in train}.isdisjoint(row["tokens"][0] for row in held)


def test_a_table_of_texts_needs_columns():
    with pytest.raises(DataError, match="no column is taken for 'tokens' among 'a'"):
        TASK.rows(Table([{"a": 1}], "t"))
