"""Transformers' Trainer with the objective of the distillers: the same losses, the same weights, its own loop."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

pytest.importorskip("transformers", reason="needs the extra `hf`")

from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

from textbrewer import DistillationConfig, GeneralDistiller, TeacherCache, TrainingConfig, matches
from textbrewer.errors import CheckpointError, ConfigError
from textbrewer.integrations import DistillationTrainer

HIDDEN = matches.uniform(2, 1, "hidden", teacher_width=16, student_width=8)
CONFIGS = {
    "soft labels": DistillationConfig(kd_loss_type="kl", temperature=4),
    "all terms": DistillationConfig(
        kd_loss_type="kl",
        hard_label_weight=0.5,
        kd_loss_weight_scheduler="linear_decay",
        intermediate_matches=[{**each, "loss": "hidden_mse_valid"} for each in HIDDEN],
    ),
}


def bert(seed, width, layers):
    torch.manual_seed(seed)
    small = {"vocab_size": 40, "num_attention_heads": 2, "intermediate_size": 16, "num_labels": 3}
    dropless = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertForSequenceClassification(BertConfig(hidden_size=width, num_hidden_layers=layers, **small, **dropless))


def rows(number=12):
    ids = torch.randint(1, 40, (number, 6), generator=torch.Generator().manual_seed(3))
    mask = (torch.arange(6) < (torch.arange(number) % 4 + 3)[:, None]).long()
    return [{"input_ids": i, "attention_mask": m, "labels": i[0] % 3} for i, m in zip(ids, mask, strict=True)]


class InOrder(DistillationTrainer):
    """Takes the rows in their order, so that two loops can be compared."""

    def _get_train_sampler(self, *args, **keywords):
        return torch.utils.data.SequentialSampler(self.train_dataset)


def trainer_of(tmp_path, config, *, student=None, epochs=2, logging_steps=1, **keywords):
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "hf"),
        num_train_epochs=epochs,
        per_device_train_batch_size=4,
        learning_rate=0.01,
        weight_decay=0.0,
        lr_scheduler_type="constant",
        optim="adamw_torch",
        max_grad_norm=1e9,
        logging_steps=logging_steps,
        save_strategy="epoch",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    student = bert(1, 8, 1) if student is None else student
    torch.manual_seed(5)
    return InOrder(student, arguments, train_dataset=rows(), teacher=bert(0, 16, 2), distill_config=config, **keywords)


def distilled(tmp_path, config):
    """The same by GeneralDistiller."""
    student, teacher = bert(1, 8, 1), bert(0, 16, 2)
    train = TrainingConfig(output_dir=str(tmp_path / "own"), device="cpu", progress_bar=False, log_dir=tmp_path / "log")
    torch.manual_seed(5)
    distiller = GeneralDistiller(train, config, teacher, student)
    loader = torch.utils.data.DataLoader(rows(), batch_size=4)
    begun = copy.deepcopy(distiller.projections.state_dict())
    with distiller:
        distiller.train(torch.optim.AdamW(student.parameters(), lr=0.01, weight_decay=0.0), loader, num_epochs=2)
    return distiller, begun


@pytest.mark.parametrize("name", CONFIGS)
def test_losses_and_weights_are_those_of_the_distiller(tmp_path, name):
    from textbrewer.report.plots import scalars

    distiller, begun = distilled(tmp_path, CONFIGS[name])
    trainer = trainer_of(tmp_path, CONFIGS[name])
    trainer.distiller.projections.load_state_dict(begun)  # Trainer seeds on its own
    trainer.train()
    logged = [each["loss"] for each in trainer.state.log_history if "loss" in each]
    assert logged == pytest.approx([value for _, value in scalars(tmp_path / "log")], abs=2e-4)  # Trainer rounds
    found = {**trainer.model.state_dict(), **trainer.distiller.projections.state_dict()}
    expected = {**distiller.model_S.state_dict(), **distiller.projections.state_dict()}
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    terms = [key for key in trainer.state.log_history[0] if key.startswith("unweighted_")]
    assert len(terms) == (2 if name == "soft labels" else 4)


def test_the_models_come_back_as_they_were(tmp_path):
    trainer = trainer_of(tmp_path, CONFIGS["all terms"])
    teacher = trainer.distiller.model_T.train()
    config = teacher.config.to_dict()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}

    def hooks():
        return [len(m._forward_hooks) for m in (*teacher.modules(), *trainer.model.modules())]

    for model in (teacher, trainer.model):
        model(input_ids=torch.ones(1, 3, dtype=torch.long), output_hidden_states=True)  # Transformers' own stay
    hooked = hooks()
    trainer.train()
    assert teacher.training and teacher.config.to_dict() == config
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert hooks() == hooked


def test_a_cache_asks_the_teacher_once(tmp_path):
    cache = TeacherCache.in_memory()
    trainer = trainer_of(tmp_path, CONFIGS["all terms"], epochs=4, teacher_cache=cache)
    calls = []
    trainer.distiller.model_T.register_forward_hook(lambda *rest: calls.append(1))
    trainer.train()
    plain = trainer_of(tmp_path, CONFIGS["all terms"], epochs=4)
    plain.train()
    torch.testing.assert_close(trainer.model.state_dict(), plain.model.state_dict(), rtol=1e-3, atol=1e-4)
    assert len(calls) < 12


def test_projections_are_in_the_checkpoints_and_a_run_goes_on(tmp_path):
    whole = trainer_of(tmp_path, CONFIGS["all terms"])
    whole.train()
    resumed = trainer_of(tmp_path, CONFIGS["all terms"])
    resumed.train(resume_from_checkpoint=str(tmp_path / "hf" / "checkpoint-3"))
    torch.testing.assert_close(resumed.model.state_dict(), whole.model.state_dict(), rtol=1e-5, atol=1e-6)
    ours, theirs = (each.distiller.projections.state_dict() for each in (resumed, whole))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    (tmp_path / "hf" / "checkpoint-3" / "distillation.safetensors").unlink()
    with pytest.raises(CheckpointError, match="of a run without these projections"):
        trainer_of(tmp_path, CONFIGS["all terms"]).train(resume_from_checkpoint=str(tmp_path / "hf" / "checkpoint-3"))


def test_a_term_that_begins_and_ends_between_two_logs_is_a_mean_over_its_own_steps(tmp_path):
    late, early = ({**HIDDEN[layer], "active": part} for layer, part in ((0, [0.5, 1]), (1, [0, 0.4])))
    config = DistillationConfig(kd_loss_type="kl", intermediate_matches=[late, early])
    logs = []
    for folder, steps in (("each", 1), ("window", 6)):
        trainer = trainer_of(tmp_path / folder, config, logging_steps=steps)
        trainer.train()
        logs.append([entry for entry in trainer.state.log_history if "loss" in entry])
    each, (window,) = logs
    names = [name for name in window if name.startswith("unweighted_")]
    counted = [len([entry for entry in each if name in entry]) for name in names]
    assert sorted(counted) == [3, 3, 6, 6]
    for name in names:
        values = [entry[name] for entry in each if name in entry]
        assert window[name] == pytest.approx(sum(values) / len(values), rel=1e-5)


def test_evaluation_is_on_the_labels(tmp_path):
    trainer = trainer_of(tmp_path, CONFIGS["soft labels"])
    trainer.train()
    batch = {key: torch.stack([row[key] for row in rows(8)]) for key in rows(1)[0]}
    with torch.no_grad():
        expected = trainer.model.eval()(**batch).loss.item()
    assert trainer.evaluate(rows(8))["eval_loss"] == pytest.approx(expected, abs=1e-5)


def test_without_a_teacher(tmp_path):
    with pytest.raises(ConfigError, match=r"`teacher`: expected a trained model \(nn.Module\), got NoneType"):
        DistillationTrainer(nn.Linear(1, 1), TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True))
