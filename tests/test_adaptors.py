"""The ready adaptor on the outputs of today's Transformers."""

from __future__ import annotations

import logging

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")

from textbrewer import (  # noqa: E402
    BasicTrainer,
    DistillationConfig,
    GeneralDistiller,
    TrainingConfig,
    TransformersAdaptor,
)
from textbrewer.adaptors import AdaptedModel  # noqa: E402
from textbrewer.errors import AdaptorError, MatchError  # noqa: E402

SIZES = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
FAMILIES = {
    "bert": (transformers.BertConfig, SIZES),
    "roberta": (transformers.RobertaConfig, SIZES | {"pad_token_id": 1}),
    "electra": (transformers.ElectraConfig, SIZES | {"embedding_size": 8}),
    "distilbert": (
        transformers.DistilBertConfig,
        {"vocab_size": 60, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    ),
}
BOTH = frozenset({"hidden", "attention"})


def build(family="bert", head="SequenceClassification", seed=0, **changes):
    config_class, sizes = FAMILIES[family]
    config = config_class(**{**sizes, "num_labels": 3, **changes})
    transformers.set_seed(seed)
    prefix = config_class.__name__.removesuffix("Config")
    name = f"{prefix}For{head}" if head else f"{prefix}Model"
    return getattr(transformers, name)(config).eval()


def text(rows=3, length=7, labels=None):
    ids = torch.arange(rows * length).reshape(rows, length) % 50 + 3
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    return batch | ({} if labels is None else {"labels": labels})


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_is_found_and_only_what_is_needed_is_asked(family):
    model = build(family)
    adapted = AdaptedModel(model, None, name="adaptor_S", features=BOTH)
    with adapted.ready(), torch.no_grad():
        outputs = adapted(text(labels=torch.tensor([0, 1, 2])), {})
    assert outputs.logits[0].shape == (3, 3)
    assert [state.shape for state in outputs.hidden] == [(3, 7, 16)] * 3
    assert [maps.shape for maps in outputs.attention] == [(3, 2, 7, 7)] * 2
    assert outputs.losses[0].dim() == 0
    assert outputs.labels[0].tolist() == [0, 1, 2]
    assert outputs.inputs_mask.sum() == 18
    lean = AdaptedModel(model, None, name="adaptor_S")(text(), {})
    assert lean.given == ("logits", "inputs_mask")


@pytest.mark.parametrize("features", [frozenset(), frozenset({"hidden"}), BOTH])
def test_fused_attention_stays_on_unless_maps_are_matched(features, caplog):
    model = build(attn_implementation="sdpa")
    adaptor = TransformersAdaptor(model, features)
    with caplog.at_level(logging.INFO, "textbrewer"), adaptor.ready():
        assert model.config._attn_implementation == ("eager" if "attention" in features else "sdpa")
    assert model.config._attn_implementation == "sdpa"
    assert ("eager" in caplog.text) == ("attention" in features)


def test_attention_is_restored_when_training_fails(tmp_path):
    teacher, student = build(attn_implementation="sdpa"), build(seed=1, attn_implementation="sdpa")
    match = {"layer_T": 7, "layer_S": 1, "feature": "attention", "loss": "attention_mse", "weight": 1}
    config = TrainingConfig(output_dir=str(tmp_path), progress_bar=False)
    distiller = GeneralDistiller(config, DistillationConfig(intermediate_matches=[match]), teacher, student)
    with pytest.raises(MatchError, match="layer_T=7, but adaptor_T gave 2 attention layers"):
        distiller.train(torch.optim.SGD(student.parameters(), lr=0.1), [text()], num_epochs=1)
    assert teacher.config._attn_implementation == student.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("family", FAMILIES)
def test_tuples_dicts_and_dataclasses_read_alike(family):
    model = build(family, attn_implementation="eager")
    batch = text(labels=torch.tensor([0, 1, 2]))
    adaptor = TransformersAdaptor(model, BOTH)
    asked = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        named = model(**batch, **asked)
        positional = model(**batch, **asked, return_dict=False)
    expected = adaptor(batch, named)
    assert set(expected) == {"logits", "losses", "hidden", "attention", "inputs_mask", "labels"}
    for outputs in (positional, dict(named), list(positional)):
        found = adaptor(batch, outputs)
        assert set(found) == set(expected)
        for key in ("logits", "losses"):
            torch.testing.assert_close(found[key], expected[key])
        for key in ("hidden", "attention"):
            torch.testing.assert_close(list(found[key]), list(expected[key]))


def test_answers_have_two_logits_without_padding():
    model = build(head="QuestionAnswering", num_labels=2)
    batch = text() | {"start_positions": torch.tensor([1, 2, 3]), "end_positions": torch.tensor([1, 2, 3])}
    outputs = AdaptedModel(model, None, name="adaptor_S")(batch, {})
    assert [logits.shape for logits in outputs.logits] == [(3, 7)] * 2
    assert outputs.logits[0][1, 4:].exp().sum() == 0
    assert [label.tolist() for label in outputs.labels] == [[1, 2, 3]] * 2


def test_tokens_have_their_mask():
    outputs = AdaptedModel(build(head="TokenClassification"), None, name="adaptor_S")(text(), {})
    assert outputs.logits[0].shape == (3, 7, 3)
    assert torch.equal(outputs.logits_mask[0], text()["attention_mask"])


def test_a_tuple_batch_is_named_by_forward():
    model = build()
    adaptor = TransformersAdaptor(model)
    batch = (text()["input_ids"], text()["attention_mask"])
    assert adaptor(batch, model(*batch))["inputs_mask"] is batch[1]
    assert adaptor.masks(batch)["rows"] == 3


def test_a_teacher_is_not_fed_labels():
    model = build(num_labels=3)
    outputs = AdaptedModel(model, None, name="adaptor_T", teacher=True)(text(labels=torch.tensor([0, 1, 99])), {})
    assert outputs.losses == []


def test_a_model_that_gives_no_hidden_states():
    model = torch.nn.Linear(4, 2)
    outputs = AdaptedModel(model, None, name="adaptor_S")((torch.ones(3, 4),), {})
    assert outputs.logits[0].shape == (3, 2)
    with pytest.raises(AdaptorError, match="function"):
        AdaptedModel(model, 3, name="adaptor_S")  # type: ignore[arg-type]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_run_without_adaptors(tmp_path, family):
    teacher, student = build(family, initializer_range=0.5), build(family, seed=1)
    matches = [
        {"layer_T": 2, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse", "weight": 1},
        {"layer_T": 1, "layer_S": 0, "feature": "attention", "loss": "attention_kl", "weight": 1},
    ]
    config = TrainingConfig(output_dir=str(tmp_path), progress_bar=False, device="cpu")
    distill = DistillationConfig(temperature=1, kd_loss_type="mse", intermediate_matches=matches)
    before = (teacher.config.to_dict(), student.config.to_dict())
    distiller = GeneralDistiller(config, distill, teacher, student)
    batch = text(labels=torch.tensor([0, 1, 2]))
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)

    def gap():
        with torch.no_grad():
            inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
            return (teacher(**inputs).logits - student.eval()(**inputs).logits).abs().max().item()

    start = gap()
    with distiller:
        distiller.train(optimizer, [batch] * 40, num_epochs=1)
    assert gap() < 0.8 * start
    assert (teacher.config.to_dict(), student.config.to_dict()) == before


def test_columns_that_terms_ask_for_are_given_and_not_fed():
    model = build()
    batch = {**text(), "index": torch.tensor([4, 2, 9]), "answer": torch.ones(3, 7), "other": torch.ones(3)}
    asked = AdaptedModel(model, None, name="adaptor_S", extra=frozenset({"index", "answer", "attention_mask"}))
    assert asked.fed(batch).keys() == {*text(), "other"}  # what the model takes by name it is fed
    outputs = asked({key: value for key, value in batch.items() if key != "other"}, {})
    assert outputs.extra.keys() == {"index", "answer", "attention_mask"}
    assert outputs.extra["index"].tolist() == [4, 2, 9]
    assert {"index", "answer"} <= set(outputs.given)
    assert asked.masks(batch).keys() == {"rows", "mask", "logits_mask", "index", "answer", "attention_mask"}
    # Rows of a cache are found again whatever their number, and by what else the outputs may depend on.
    assert asked.read(batch).keys() == {*text(), "answer", "other"}
    plain = AdaptedModel(model, None, name="adaptor_S")
    assert plain.fed(batch).keys() == batch.keys() and plain(text(), {}).extra == {}


def test_what_an_adaptor_gives_wins_over_the_batch():
    def adaptor(batch, outputs):
        return {"index": batch["index"] + 1}

    asked = AdaptedModel(torch.nn.Identity(), adaptor, name="adaptor_S", extra=frozenset({"index"}))
    assert asked.adapt({"index": torch.tensor([4])}, None).extra["index"].tolist() == [5]
    with pytest.raises(AdaptorError, match="adaptor_S returned index as list; it must be a tensor"):
        AdaptedModel(
            torch.nn.Identity(), lambda b, o: {"index": [1]}, name="adaptor_S", extra=frozenset({"index"})
        ).adapt({}, None)


def test_an_encoder_decoder_is_masked_by_what_it_writes(tmp_path):
    sizes = {"vocab_size": 30, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    torch.manual_seed(0)
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, decoder_start_token_id=0))
    batch = text()
    batch["attention_mask"][:, 4:] = 0  # all texts are short, what is written is not
    length = batch["input_ids"].shape[1]
    labels = torch.randint(1, 30, (3, length), generator=torch.Generator().manual_seed(0))
    labels[1, 5:] = -100
    batch["labels"] = labels
    outputs = AdaptedModel(model, None, name="adaptor_S")(batch, {})
    assert torch.equal(outputs.logits_mask[0], (labels != -100).long())
    assert torch.equal(TransformersAdaptor(model).masks(batch)["logits_mask"], (labels != -100).long())
    config = TrainingConfig(output_dir=str(tmp_path), ckpt_frequency=0, progress_bar=False, device="cpu")
    seen = []
    model.register_forward_pre_hook(lambda *given: seen.append(given[2]["labels"].shape), with_kwargs=True)
    with BasicTrainer(config, model) as trainer:
        trainer.train(torch.optim.SGD(model.parameters(), lr=0.0), [batch], num_epochs=1)
    assert seen == [labels.shape]


def test_an_encoder_decoder_teacher_keeps_the_labels_that_it_reads():
    sizes = {"vocab_size": 60, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, decoder_start_token_id=0))
    adaptor = TransformersAdaptor(model, teacher=True)
    batch = {"input_ids": torch.ones(1, 3).long(), "labels": torch.ones(1, 2).long()}
    assert set(adaptor.feed(batch)) == {"input_ids", "labels"}
    model(**adaptor.feed(batch))
    assert "labels" not in adaptor.feed({**batch, "decoder_input_ids": batch["labels"]})
