"""Vocabularies without the tokens that nobody needs."""

from __future__ import annotations

import json
import random

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")

from tokenizers import Tokenizer, models, pre_tokenizers, trainers  # noqa: E402

from tests.students.families import SIZES, teacher_of  # noqa: E402
from tests.tasks.small import SlowTokenizer, tokenizer_of  # noqa: E402
from textbrewer import BiGRUConfig, BiGRUStudent, HeadConfig  # noqa: E402
from textbrewer.errors import StudentError, UnsupportedError  # noqa: E402
from textbrewer.students import prune_vocabulary  # noqa: E402

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "then",
    "there",
    "was",
    "cheese",
    "catching",
    "theatre",
    "mats",
    "satire",
    "cheerful",
]
CORPUS = [" ".join(random.Random(i).choices(WORDS, k=8)) for i in range(40)]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def wordpiece():
    return tokenizer_of([*WORDS, "cats", "##ing", "##s", "##ful", "the##", "che", "##ese"])


def bpe():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    described = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(pair) for pair in described["merges"]]
    return transformers.RobertaTokenizer(vocab=described["vocab"], merges=merges)


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=90, special_tokens=SPECIAL, unk_token="<unk>")
    )
    vocabulary = json.loads(tokenizer.to_str())["model"]["vocab"]
    return transformers.XLMRobertaTokenizer(vocab=[(token, score) for token, score in vocabulary])


KINDS = {"WordPiece": (wordpiece, "Bert"), "BPE": (bpe, "Roberta"), "Unigram": (unigram, "Roberta")}


def model_for(tokenizer, family, head="ForSequenceClassification", **changes):
    torch.manual_seed(0)
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    return teacher_of(family, head, **{**SIZES, "vocab_size": len(tokenizer), **ids, **changes})


def logits(model, tokenizer, text):
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt")).logits


@pytest.fixture(params=KINDS)
def kind(request):
    make, family = KINDS[request.param]
    tokenizer = make()
    return request.param, model_for(tokenizer, family), tokenizer


def test_texts_of_kept_tokens_are_divided_and_answered_as_before(kind, tmp_path):
    _, model, tokenizer = kind
    used = ["the cat sat", "cheerful mats"]
    pruned = prune_vocabulary(model, tokenizer, used)
    assert len(pruned.tokenizer) == len(pruned.kept) == pruned.model.config.vocab_size < len(tokenizer)
    assert pruned.model.config.pad_token_id == pruned.tokenizer.pad_token_id
    pruned.save_pretrained(tmp_path)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    drawn = random.Random(0)
    texts = [*used, *(" ".join(drawn.choices([*WORDS, "xyzzy", "ca", "ts", "é"], k=3)) for _ in range(200))]
    same = 0
    for text in texts:
        before = tokenizer(text)["input_ids"]
        after = loaded(text)["input_ids"]
        assert after == pruned.tokenizer(text)["input_ids"]
        if set(before) <= set(pruned.kept):
            same += 1
            assert [pruned.kept[i] for i in after] == before
            assert loaded.convert_ids_to_tokens(after) == tokenizer.convert_ids_to_tokens(before)
            if same < 10:
                for student in (pruned.model, again):
                    torch.testing.assert_close(logits(student, loaded, text), logits(model, tokenizer, text))
        elif tokenizer.unk_token_id not in before:
            assert loaded.unk_token_id not in after
            told = [t.decode(ids, skip_special_tokens=True) for t, ids in ((tokenizer, before), (loaded, after))]
            assert told[0] == told[1]
    assert 2 < same < len(texts)
    assert f"{len(pruned.kept):,} of {len(tokenizer):,} tokens kept" in str(pruned)


def test_pairs_padding_and_masks_use_the_new_ids(kind):
    _, model, tokenizer = kind
    tokenizer.backend_tokenizer.enable_padding(pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token)
    pruned = prune_vocabulary(model, tokenizer, ["the cat the", "cat the cat"])
    for one in (("the cat", "cat the"), ("cat", "the the cat")):
        before, after = (t(*one)["input_ids"] for t in (tokenizer, pruned.tokenizer))
        assert [pruned.kept[i] for i in after] == before
    batches = [t(["the cat the", "cat"], padding=True)["input_ids"] for t in (tokenizer, pruned.tokenizer)]
    assert [[pruned.kept[i] for i in row] for row in batches[1]] == batches[0]
    for special in ("pad", "cls", "sep", "unk", "mask"):
        old, new = (getattr(t, f"{special}_token_id") for t in (tokenizer, pruned.tokenizer))
        assert pruned.kept[new] == old


def test_the_rest_is_what_anything_can_fall_back_on():
    tokenizer = wordpiece()
    pruned = prune_vocabulary(model_for(tokenizer, "Bert"), tokenizer, ["the cat"])
    vocabulary = set(tokenizer.get_vocab())
    short = {token for token in vocabulary if len(token.removeprefix("##")) == 1}
    assert set(pruned.tokenizer.get_vocab()) == short | {"the", "cat"} | set(tokenizer.all_special_tokens)


def test_tokens_are_counted_in_texts_and_in_ids():
    tokenizer = wordpiece()
    model = model_for(tokenizer, "Bert")
    mat, cat = (tokenizer.convert_tokens_to_ids(word) for word in ("mat", "cat"))
    texts = ["cat mat", [mat, cat], torch.tensor([mat])]
    kept = prune_vocabulary(model, tokenizer, texts, min_count=3).kept
    assert mat in kept and cat not in kept
    assert cat in prune_vocabulary(model, tokenizer, iter(texts), min_count=2).kept


def test_tied_embeddings_their_biases_and_what_is_trained():
    tokenizer = wordpiece()
    model = model_for(tokenizer, "Bert", "ForMaskedLM", vocab_size=len(tokenizer) + 8)  # padded, as models are
    model.get_input_embeddings().requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pruned = prune_vocabulary(model.to(torch.bfloat16).train(), tokenizer, ["the cat"])
    kept = list(pruned.kept)
    student = pruned.model
    assert student.cls.predictions.decoder.weight is student.get_input_embeddings().weight
    assert not student.get_input_embeddings().weight.requires_grad and student.training
    assert torch.equal(student.cls.predictions.bias, before["cls.predictions.bias"][kept].to(torch.bfloat16))
    assert pruned.tokens_before == len(tokenizer) + 8
    assert {name: value.shape for name, value in model.state_dict().items()} == {n: v.shape for n, v in before.items()}


def test_a_recurrent_student_is_pruned_too():
    tokenizer = wordpiece()
    student = BiGRUStudent(BiGRUConfig(len(tokenizer), hidden_size=8, embedding_size=4, head=HeadConfig())).eval()
    pruned = prune_vocabulary(student, tokenizer, ["the cat"])
    assert torch.equal(logits(pruned.model, pruned.tokenizer, "the cat"), logits(student, tokenizer, "the cat"))
    assert student.config.vocab_size == len(tokenizer)


def word_level():
    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


@pytest.mark.parametrize(
    ("make", "texts", "options", "error", "message"),
    [
        (wordpiece, [], {}, StudentError, "the texts have no tokens"),
        (wordpiece, [""], {}, StudentError, "the texts have no tokens"),
        (wordpiece, "the cat", {}, StudentError, "got the one text 'the cat'; put it in a list"),
        (wordpiece, ["a"], {"min_count": 0}, StudentError, "min_count of at least 1, got 0"),
        (wordpiece, [[4, 9999]], {}, StudentError, r"token id 9999, but the tokenizer has 0\.\."),
        (SlowTokenizer, ["a"], {}, UnsupportedError, "got SlowTokenizer with none that Transformers calls fast"),
        (word_level, ["a"], {}, UnsupportedError, "with WordLevel; leave its vocabulary as it is"),
    ],
)
def test_what_cannot_be_pruned(make, texts, options, error, message):
    tokenizer = make()
    with pytest.raises(error, match=message):
        prune_vocabulary(model_for(wordpiece(), "Bert"), tokenizer, texts, **options)


@pytest.mark.parametrize("model", [torch.nn.Linear(2, 2), teacher_of(vocab_size=7)], ids=["no config", "too few"])
def test_a_model_without_the_tokens_of_the_tokenizer(model):
    with pytest.raises(StudentError, match=r"config.vocab_size of at least the tokenizer's \d+ tokens, got (Lin|Bert)"):
        prune_vocabulary(model, wordpiece(), ["a"])


def test_tensors_that_change_in_another_way_are_named():
    class Mine(transformers.BertForSequenceClassification):
        def __init__(self, config):
            super().__init__(config)
            self.twice = torch.nn.Parameter(torch.zeros(2 * config.vocab_size))

    tokenizer = wordpiece()
    with pytest.raises(StudentError, match="twice of Mine changes from"):
        prune_vocabulary(Mine(model_for(tokenizer, "Bert").config), tokenizer, ["a"])


def test_a_model_without_a_pooler():
    tokenizer = wordpiece()
    sizes = {**SIZES, "vocab_size": len(tokenizer)}
    model = transformers.BertModel(transformers.BertConfig(**sizes), add_pooling_layer=False).eval()
    pruned = prune_vocabulary(model, tokenizer, ["the cat sat"])
    assert pruned.model.pooler is None
    given, told = (t("the cat", return_tensors="pt") for t in (tokenizer, pruned.tokenizer))
    assert torch.equal(model(**given).last_hidden_state, pruned.model(**told).last_hidden_state)


def test_pairs_and_words_are_no_texts():
    tokenizer = wordpiece()
    model = teacher_of(vocab_size=len(tokenizer))
    for texts in ([("the cat", "a mat")], [["the", "cat"]]):
        with pytest.raises(StudentError, match="give every text by itself"):
            prune_vocabulary(model, tokenizer, texts)
