"""The script that users of TextBrewer know, unchanged, on today's Transformers."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra `hf`")


def test_the_known_script(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    from torch.utils.data import DataLoader, Dataset
    from transformers import BertConfig, BertForSequenceClassification, get_linear_schedule_with_warmup

    import textbrewer
    from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig

    small = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 100}
    teacher_config = BertConfig(num_hidden_layers=12, output_hidden_states=True, **small)
    student_config = BertConfig(num_hidden_layers=3, output_hidden_states=True, **small)
    teacher_model = BertForSequenceClassification(teacher_config)
    student_model = BertForSequenceClassification(student_config)

    class DictDataset(Dataset):
        def __init__(self):
            self.ids = torch.randint(0, 100, (8, 10))
            self.mask = torch.ones(8, 10).long()
            self.labels = torch.randint(0, 2, (8,))

        def __len__(self):
            return 8

        def __getitem__(self, i):
            return {"input_ids": self.ids[i], "attention_mask": self.mask[i], "labels": self.labels[i]}

    dataloader = DataLoader(DictDataset(), batch_size=2, shuffle=True)
    optimizer = torch.optim.AdamW(student_model.parameters(), lr=1e-4)

    print(textbrewer.utils.display_parameters(teacher_model, max_level=3)[0])

    def simple_adaptor(batch, model_outputs):
        return {"logits": model_outputs[1], "hidden": model_outputs[2]}

    distill_config = DistillationConfig(
        intermediate_matches=[
            {"layer_T": 0, "layer_S": 0, "feature": "hidden", "loss": "hidden_mse", "weight": 1},
            {"layer_T": 8, "layer_S": 2, "feature": "hidden", "loss": "hidden_mse", "weight": 1},
        ]
    )
    train_config = TrainingConfig()
    distiller = GeneralDistiller(
        train_config=train_config,
        distill_config=distill_config,
        model_T=teacher_model,
        model_S=student_model,
        adaptor_T=simple_adaptor,
        adaptor_S=simple_adaptor,
    )
    before = student_model.bert.encoder.layer[1].output.dense.weight.detach().clone()
    with distiller:
        distiller.train(
            optimizer,
            dataloader,
            num_epochs=1,
            scheduler_class=get_linear_schedule_with_warmup,
            scheduler_args={"num_warmup_steps": 1, "num_training_steps": 4},
            callback=None,
        )
    assert not torch.equal(before, student_model.bert.encoder.layer[1].output.dense.weight)
    saved = torch.load("saved_models/gs4.pkl", weights_only=True)
    assert saved.keys() == student_model.state_dict().keys()
    printed = capsys.readouterr().out
    assert "LAYER NAME" in printed and "encoder" in printed
