"""Forward passes that stop at the deepest layer that is read."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from textbrewer import BasicTrainer, DistillationConfig, GeneralDistiller, TrainingConfig
from textbrewer.matching.layers import hidden_states_until, layer_list, layers_give_states

transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")

SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 40}


def bert(layers, seed=0):
    torch.manual_seed(seed)
    return transformers.BertForSequenceClassification(transformers.BertConfig(num_hidden_layers=layers, **SIZES)).eval()


def models():
    torch.manual_seed(0)
    yield bert(4)
    yield transformers.DistilBertModel(
        transformers.DistilBertConfig(n_layers=4, dim=16, n_heads=2, hidden_dim=32)
    ).eval()
    small = {**SIZES, "num_hidden_layers": 4}
    yield transformers.RobertaModel(transformers.RobertaConfig(**small)).eval()
    yield transformers.ElectraModel(transformers.ElectraConfig(**small, embedding_size=8)).eval()
    yield transformers.DebertaV2Model(transformers.DebertaV2Config(**small)).eval()
    yield transformers.ModernBertModel(transformers.ModernBertConfig(**small, pad_token_id=0)).eval()


@pytest.mark.parametrize("model", list(models()), ids=lambda model: type(model).__name__)
@pytest.mark.parametrize("deepest", [0, 2, 3])
def test_the_states_are_those_of_the_whole_pass(model, deepest):
    inputs = {"input_ids": torch.randint(1, 40, (2, 7)), "attention_mask": torch.ones(2, 7).long()}
    with torch.no_grad():
        expected = model(**inputs, output_hidden_states=True).hidden_states
        found = hidden_states_until(model, deepest, lambda: model(**inputs))
    assert len(found) == len(expected) == 5
    for place, state in enumerate(found):
        if place > deepest:
            assert state is None
        else:
            torch.testing.assert_close(state, expected[place])
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_hooks_are_gone_after_an_error():
    model = bert(3)
    with pytest.raises(IndexError):
        hidden_states_until(model, 1, lambda: model(input_ids=torch.tensor([[100]])))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_model_without_a_list_of_layers_has_none():
    assert layer_list(nn.Linear(1, 1)) is None
    assert layer_list(bert(2)) == "bert.encoder.layer"


def test_a_teacher_of_hidden_states_alone_runs_no_deeper(tmp_path):
    """The first stage of two-stage distillation needs neither logits nor the upper layers."""
    teacher, student = bert(4), bert(2, seed=1)
    ran = []
    for place, layer in enumerate(teacher.bert.encoder.layer):
        layer.register_forward_hook(lambda *_, place=place: ran.append(place))
    match = {"layer_T": 2, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse", "weight": 1}
    batch = {"input_ids": torch.randint(1, 40, (2, 7)), "attention_mask": torch.ones(2, 7).long()}

    def trained(weight):
        ran.clear()
        student.load_state_dict(bert(2, seed=1).state_dict())
        config = DistillationConfig(kd_loss_weight=weight, intermediate_matches=[match])
        train_config = TrainingConfig(output_dir=tmp_path, progress_bar=False, device="cpu")
        distiller = GeneralDistiller(train_config, config, teacher, student)
        torch.manual_seed(0)
        distiller.train(torch.optim.SGD(student.parameters(), lr=0.1), [batch], num_epochs=1)
        return list(ran)

    assert trained(0) == [0, 1]
    stopped = {name: value.clone() for name, value in student.state_dict().items()}
    assert trained(1e-12) == [0, 1, 2, 3]
    for name, value in student.state_dict().items():
        torch.testing.assert_close(value, stopped[name])


def test_a_batch_is_trained_on_without_its_padding(tmp_path):
    """A batch padded to a fixed length costs no more than its longest row, with the ready adaptor."""
    model, seen = bert(2), []
    model.bert.embeddings.register_forward_hook(lambda module, args, output: seen.append(output.shape[1]))
    batch = {
        "input_ids": torch.ones(2, 9).long(),
        "attention_mask": torch.ones(2, 9).long(),
        "labels": torch.ones(2).long(),
    }
    batch["attention_mask"][:, 4:] = 0
    trainer = BasicTrainer(TrainingConfig(output_dir=tmp_path, progress_bar=False, device="cpu"), model)
    trainer.train(torch.optim.SGD(model.parameters(), lr=0.1), [batch], num_epochs=1)
    assert seen == [4]


def test_models_whose_layers_see_something_else_run_to_the_end():
    shape = {"d_model": 16, "n_head": 2, "d_inner": 32, "vocab_size": 40}
    turned = transformers.XLNetModel(transformers.XLNetConfig(n_layer=3, **shape))
    assert not layers_give_states(turned) and not layers_give_states(nn.Linear(2, 2))
    assert all(layers_give_states(model) for model in models())
