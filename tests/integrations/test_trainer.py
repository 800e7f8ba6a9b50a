"""Transformers' Trainer with the objective of the distillers: the same losses, the same weights, its own loop."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

pytest.importorskip("transformers", reason="needs the extra `hf`")

from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

from textbrewer import DistillationConfig, GeneralDistiller, TeacherCache, TrainingConfig, matches
from textbrewer.errors import CheckpointError, ConfigError, UnsupportedError
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


class Pairs(torch.utils.data.Dataset):
    """Rows with types of tokens and a column for a match, as ``datasets`` would give them."""

    def __init__(self, more=()):
        self.rows = [
            {**row, "token_type_ids": (torch.arange(6) > 2).long(), "place": torch.arange(6) % 2, **dict(more)}
            for row in rows()
        ]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


class Untyped(nn.Module):
    """A student that takes no types of tokens, whatever else it is given."""

    def __init__(self):
        super().__init__()
        self.bert = bert(1, 8, 1)
        self.config = self.bert.config

    def forward(self, input_ids, attention_mask, labels=None, output_hidden_states=False):
        return self.bert(
            input_ids=input_ids,
            attention_mask=attention_mask,
            labels=labels,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )


def test_the_teacher_gets_what_the_student_does_not_take(tmp_path):
    match = {**HIDDEN[-1], "loss": "hidden_mse_valid", "mask": "place"}
    config = DistillationConfig(kd_loss_type="kl", hard_label_weight=0.5, intermediate_matches=[match])
    trainer = trainer_of(tmp_path, config, student=Untyped(), epochs=1)
    trainer.train_dataset = Pairs()
    seen = []
    teacher = trainer.distiller.model_T
    teacher.register_forward_pre_hook(lambda *given: seen.append(given[2]), with_kwargs=True)
    trainer.train()
    assert seen and all(each["token_type_ids"].sum() == 12 and "place" not in each for each in seen)
    assert trainer.evaluate(Pairs())["eval_loss"] > 0
    assert trainer.predict(Pairs()).predictions.shape == (12, 3)


def test_rows_of_two_sides(tmp_path):
    class TwoSided(Pairs):
        def __getitem__(self, index):
            row = {name: value for name, value in self.rows[index].items() if name != "place"}
            return {"teacher": row, "student": {name: row[name] for name in ("input_ids", "attention_mask", "labels")}}

    def padded(features):
        from transformers import default_data_collator

        return {side: default_data_collator([each[side] for each in features]) for side in ("teacher", "student")}

    trainer = trainer_of(tmp_path, CONFIGS["soft labels"], student=Untyped(), epochs=1, data_collator=padded)
    trainer.train_dataset = TwoSided()
    trainer.train()
    assert trainer.state.global_step == 3 and trainer.evaluate(TwoSided())["eval_loss"] > 0


def test_an_optimiser_and_a_scheduler_of_the_user(tmp_path):
    student = bert(1, 8, 1)
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    trainer = trainer_of(tmp_path, CONFIGS["all terms"], student=student, optimizers=(optimizer, scheduler))
    before = [p.detach().clone() for p in trainer.distiller.projections.parameters()]
    trainer.train()
    assert scheduler.get_last_lr() == [pytest.approx(0.01 / 7)] and trainer.lr_scheduler is scheduler
    assert len(optimizer.param_groups) == 1
    assert not any(map(torch.equal, before, trainer.distiller.projections.parameters()))
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    refused = trainer_of(tmp_path, CONFIGS["all terms"], student=student, optimizers=(optimizer, plateau))
    with pytest.raises(UnsupportedError, match="reduce_lr_on_plateau"):
        refused.train()


def test_a_run_goes_on_whose_projections_turned_out_to_be_none(tmp_path):
    match = {"layer_T": 2, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse", "proj": "auto"}
    config = DistillationConfig(kd_loss_type="kl", intermediate_matches=[match])
    whole = trainer_of(tmp_path, config, student=bert(1, 16, 1))
    whole.train()
    resumed = trainer_of(tmp_path, config, student=bert(1, 16, 1))
    resumed.train(resume_from_checkpoint=str(tmp_path / "hf" / "checkpoint-3"))
    torch.testing.assert_close(resumed.model.state_dict(), whole.model.state_dict(), rtol=1e-5, atol=1e-6)


def test_a_batch_that_is_too_large_is_tried_again(tmp_path):
    trainer = trainer_of(tmp_path, CONFIGS["all terms"])
    trainer.args.auto_find_batch_size = True
    calls = []

    def too_much(*given):
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("CUDA out of memory.")

    trainer.distiller.model_T.register_forward_pre_hook(too_much)
    trainer.train()
    assert trainer.state.global_step > 3 and len(trainer.optimizer.param_groups) == 2


@pytest.mark.parametrize("name", ["label_smoothing_factor", "compute_loss_func", "model_init"])
def test_what_would_change_the_loss_of_evaluation_alone_is_refused(tmp_path, name):
    student = bert(1, 8, 1)
    smoothing = 0.1 if name == "label_smoothing_factor" else 0.0
    arguments = TrainingArguments(str(tmp_path), report_to=[], use_cpu=True, label_smoothing_factor=smoothing)
    given = {"compute_loss_func": {"compute_loss_func": max}, "model_init": {"model_init": lambda: student}}
    with pytest.raises(UnsupportedError, match=f"{name} is not for distillation"):
        DistillationTrainer(
            None if name == "model_init" else student, arguments, teacher=bert(0, 16, 2), **given.get(name, {})
        )


def test_students_of_this_library_are_for_its_distillers(tmp_path):
    from textbrewer import StudentConfig, build_student

    student = build_student(bert(0, 16, 2), StudentConfig(1, hidden_size=8, family="bigru"))
    with pytest.raises(UnsupportedError, match="BiGRUStudent does not let it; use GeneralDistiller"):
        trainer_of(tmp_path, CONFIGS["soft labels"], student=student)


def test_a_student_that_saves_itself_does(tmp_path):
    class Saving(Untyped):
        def save_pretrained(self, folder):
            self.bert.save_pretrained(folder)

    trainer = trainer_of(tmp_path, CONFIGS["soft labels"], student=Saving(), epochs=1)
    trainer.save_model(str(tmp_path / "out"))
    assert BertForSequenceClassification.from_pretrained(tmp_path / "out").config.hidden_size == 8
