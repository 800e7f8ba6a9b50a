"""Run by ``test_ranks.py``, plain and under torchrun: trains students in several ways and saves what they became.

Usage: in_ranks.py FOLDER ACCUMULATION PROCESSES. The processes times the accumulation are the same in every run; a run
in one process that stands for several is told how many, since a draw of a task is for a batch of each of them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from tests.tiny import EncoderAdaptor, batch_of, encoder
from textbrewer import (
    BasicTrainer,
    DistillationConfig,
    GeneralDistiller,
    MultiTaskDistiller,
    MultiTeacherDistiller,
    TrainingConfig,
    matches,
    shard,
)
from textbrewer.engine.sharding import whole
from textbrewer.errors import UnsupportedError

folder, accumulation, processes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
HIDDEN = {"feature": "hidden", "weight": 0.5}


def rows(number: int, seed: int = 7) -> list[dict[str, torch.Tensor]]:
    whole = batch_of(number, 6, seed)
    return [{key: value[i] for key, value in whole.items()} for i in range(number)]


def objective(**more) -> DistillationConfig:
    matches = [
        {"layer_T": 2, "layer_S": 1, "loss": "hidden_mse_valid", "proj": ["linear", 8, 12], **HIDDEN},
        {"layer_T": [0, 2], "layer_S": [0, 1], "loss": "mmd_valid", **HIDDEN},
    ]
    return DistillationConfig(kd_loss_type="kl", hard_label_weight=0.5, intermediate_matches=matches, **more)


def training(name: str, **more) -> TrainingConfig:
    return TrainingConfig(
        gradient_accumulation_steps=accumulation,
        output_dir=folder / name,
        log_dir=folder / name / "log",
        # Where there is no accelerator, "auto" must find the other processes all the same.
        device="cpu" if torch.accelerator.is_available() else "auto",
        progress_bar=False,
        **more,
    )


def trained(name: str, distiller, student, loader, **how) -> None:
    torch.manual_seed(3)
    np.random.seed(3)
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.01)
    with distiller:
        distiller.train(optimizer, loader, max_grad_norm=1.0, callback=lambda model, step: None, **how)
    state = {f"student.{key}": whole(value) for key, value in student.state_dict().items()}
    state |= {f"projection.{key}": value for key, value in distiller.projections.state_dict().items()}
    if distiller.t_config.local_rank in (-1, 0):
        torch.save(state, folder / f"{name}-{torch.distributed.is_initialized() and torch.distributed.get_rank()}.pt")


def bert(seed: int, **sizes: int) -> torch.nn.Module:
    """A small encoder of Transformers, sharded layer by layer where there are several processes."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(seed)
    small = {"vocab_size": 50, "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 16}
    dropless = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_labels": 3}
    return shard(BertForSequenceClassification(BertConfig(**small, **dropless, **sizes)))


def tokens(number: int) -> list[dict[str, torch.Tensor]]:
    ids = torch.randint(1, 50, (number, 7), generator=torch.Generator().manual_seed(4))
    lengths = torch.arange(number) % 4 + 4
    mask = (torch.arange(7) < lengths[:, None]).long()
    return [{"input_ids": i, "attention_mask": m, "labels": i[0] % 3} for i, m in zip(ids, mask, strict=True)]


def sharded(name: str, resume: str | None = None, epochs: int = 2, balance: str | None = None, **more) -> None:
    """Student and teacher of Transformers, spread over the processes, with projections, evaluated on the way."""
    teacher = bert(0, hidden_size=16, num_hidden_layers=4)
    student = bert(1, hidden_size=8, num_hidden_layers=2)
    widths = {"teacher_width": 16, "student_width": 8}
    pairs = matches.uniform(4, 2, "hidden", **widths)
    config = DistillationConfig(kd_loss_type="kl", hard_label_weight=0.5, intermediate_matches=pairs, balance=balance)
    torch.manual_seed(5)
    distiller = GeneralDistiller(training(name, ckpt_frequency=2, **more), config, teacher, student)
    loader = DataLoader(tokens(24), batch_size=3, shuffle=True)

    def evaluate(model):
        batch = {key: torch.stack([row[key] for row in tokens(6)]) for key in tokens(1)[0]}
        return {"loss": model(**batch).loss}

    trained(name, distiller, student, loader, num_epochs=epochs, evaluate=evaluate, resume=resume)
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        torch.save(distiller.evaluations, folder / f"{name}-evaluations.pt")


def each_draw_for_all(draw):
    drawn: list[str] = []

    def choice(*args, **how):
        if not drawn:
            drawn.extend([draw(*args, **how)] * processes)
        return drawn.pop()

    return choice


def main() -> None:
    adaptor = EncoderAdaptor()
    teacher, other = encoder(0, width=12, layers=2), encoder(1, width=10, layers=3)

    for name, number, how, more in (
        ("epochs", 24, {"num_epochs": 2}, {}),
        ("uneven", 23, {"num_epochs": 2}, {"keep_last_accumulation": True}),
        ("steps", 23, {"num_steps": 5}, {"ckpt_steps": 2}),
    ):
        student = encoder(2, layers=1)
        torch.manual_seed(5)
        distiller = GeneralDistiller(training(name, **more), objective(), teacher, student, adaptor, adaptor)
        trained(name, distiller, student, DataLoader(rows(number), batch_size=3, shuffle=True), **how)

    sharded("sharded")
    sharded("resumed", epochs=1)
    sharded("resumed", resume="auto")
    sharded("best", load_best_model_at_end=True, greater_is_better=True, early_stopping_patience=2)

    try:
        sharded("balanced", balance="gradient_norm", epochs=1)
        refused = ""
    except UnsupportedError as error:
        refused = str(error)
    (folder / "refused.txt").write_text(refused)

    student = encoder(2, layers=1)
    listed = [batch_of(3, 6, seed) for seed in range(5)]
    trained("listed", BasicTrainer(training("listed"), student, adaptor), student, listed, num_epochs=2)

    student = encoder(2, layers=1)
    torch.manual_seed(5)
    several = MultiTeacherDistiller(training("teachers"), objective(), [teacher, other], student, adaptor, adaptor)
    trained("teachers", several, student, DataLoader(rows(12), batch_size=3, shuffle=True), num_epochs=1)

    student = encoder(2, layers=1)
    tasks = {"a": teacher, "b": other}
    both = MultiTaskDistiller(
        training("tasks"),
        DistillationConfig(),
        tasks,
        student,
        dict.fromkeys(tasks, adaptor),
        dict.fromkeys(tasks, adaptor),
    )
    loaders = {task: DataLoader(rows(9, seed), batch_size=3) for task, seed in (("a", 1), ("b", 2))}
    if not torch.distributed.is_initialized():
        np.random.choice = each_draw_for_all(np.random.choice)
    trained("tasks", both, student, loaders, num_steps=4)
    assert not any(isinstance(module, torch.nn.parallel.DistributedDataParallel) for module in teacher.modules())


main()
