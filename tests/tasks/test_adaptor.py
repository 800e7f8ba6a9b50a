"""What models are fed and what their outputs mean, for models of any make."""

from __future__ import annotations

import pytest
import torch
from torch import nn

pytest.importorskip("transformers", reason="needs the extra `hf`")

import transformers

from tests.tasks.small import bert, tokenizer_of
from textbrewer.adaptors import AdaptedModel
from textbrewer.errors import AdaptorError, DataError
from textbrewer.tasks import TaskAdaptor, TextClassification, TokenClassification
from textbrewer.tasks.adaptor import positions_of

TOKENIZER = tokenizer_of()
TEXTS = TextClassification(["x", "y"], max_length=16)
WORDS = TokenClassification(["O", "B-A", "I-A"], max_length=16, overlap=4)


class Plain(nn.Module):
    """Knows ids and their mask, and nothing else."""

    def __init__(self, give):
        super().__init__()
        self.embedding = nn.Embedding(200, 2)
        self.give = give

    def forward(self, input_ids, attention_mask):
        states = self.embedding(input_ids) * attention_mask.unsqueeze(-1)
        return self.give(states.mean(dim=1))


@pytest.mark.parametrize("give", [lambda z: z, lambda z: (z,), lambda z: {"logits": z}])
def test_any_module_that_gives_logits(give):
    data = TEXTS.encode([{"text": "ab", "label": "x"}, {"text": "c", "label": "y"}], TOKENIZER)
    adapted = AdaptedModel(Plain(give), TEXTS.adaptor(Plain(give)), name="adaptor_S")
    outputs = adapted(next(iter(data.loader(2))), {})
    assert outputs.logits[0].shape == (2, 2)
    assert outputs.losses[0].item() == pytest.approx(
        nn.functional.cross_entropy(outputs.logits[0], torch.tensor([0, 1])).item()
    )
    assert outputs.inputs_mask.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


def test_a_model_is_fed_neither_labels_nor_masks_of_logits():
    model = bert(WORDS, TOKENIZER)
    batch = next(iter(WORDS.encode([{"tokens": ["a"], "tags": ["O"]}], TOKENIZER).loader(1)))
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids", "labels", "logits_mask"}
    assert set(WORDS.adaptor(model).feed(batch)) == {"input_ids", "attention_mask", "token_type_ids"}
    assert set(WORDS.adaptor(Plain(None)).feed(batch)) == {"input_ids", "attention_mask"}
    assert WORDS.adaptor(model).feed((1, 2)) == (1, 2)


def test_a_teacher_gives_no_loss():
    model = bert(TEXTS, TOKENIZER)
    batch = next(iter(TEXTS.encode([{"text": "a", "label": "x"}], TOKENIZER).loader(1)))
    assert AdaptedModel(model, TEXTS.adaptor(model, teacher=True), name="T")(batch, {}).losses == []


def test_features_are_asked_for_only_if_a_match_reads_them():
    model = bert(TEXTS, TOKENIZER)
    batch = next(iter(TEXTS.encode([{"text": "a"}], TOKENIZER).loader(1)))
    lean = AdaptedModel(model, TEXTS.adaptor(model), name="S")(batch, {})
    assert not lean.hidden and not lean.losses
    full = AdaptedModel(model, TEXTS.adaptor(model, frozenset({"hidden"})), name="S")(batch, {})
    assert len(full.hidden) == 3


def test_rows_longer_than_a_models_positions_are_refused():
    model = bert(TEXTS, TOKENIZER, max_position_embeddings=6)
    data = TEXTS.encode([{"text": "abcdefgh"}], TOKENIZER)
    with pytest.raises(DataError, match=r"10 tokens a row, and BertForSequenceClassification takes 6; .*max_length=6"):
        AdaptedModel(model, TEXTS.adaptor(model), name="S")(next(iter(data.loader(1))), {})


def test_positions_of_models():
    assert positions_of(bert(TEXTS, TOKENIZER)) == 64
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = transformers.RobertaConfig(vocab_size=20, max_position_embeddings=66, pad_token_id=1, **sizes)
    assert positions_of(transformers.RobertaModel(config)) == 64
    assert positions_of(Plain(None)) is None


def test_a_model_without_logits():
    model = transformers.BertModel(bert(TEXTS, TOKENIZER).config)
    data = TEXTS.encode([{"text": "a", "label": "x"}], TOKENIZER)
    adapted = AdaptedModel(model, TEXTS.adaptor(model, frozenset({"hidden"})), name="S")
    outputs = adapted(next(iter(data.loader(1))), {})
    assert len(outputs.hidden) == 3 and not outputs.losses
    with pytest.raises(AdaptorError, match="BertModel gives no logits; this task's head is AutoModelForSequenceClass"):
        TEXTS.evaluate(model, data)


def test_masks_are_told_without_the_model():
    model = bert(WORDS, TOKENIZER)
    batch = next(iter(WORDS.encode([{"tokens": ["ab", "c"]}, {"tokens": ["d"]}], TOKENIZER).loader(2)))
    told = WORDS.adaptor(model).masks(batch)
    assert told["rows"] == 2 and told["mask"].sum() == 5 + 3 and told["logits_mask"].sum() == 3
    assert isinstance(WORDS.adaptor(model), TaskAdaptor) and WORDS.adaptor(model).masks((1,)) == {}
