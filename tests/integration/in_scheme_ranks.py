"""Run by ``test_scheme_ranks.py``, plain and under torchrun: terms with options, and schemes, as in ``in_ranks.py``.

Usage: in_scheme_ranks.py FOLDER ACCUMULATION. The processes times the accumulation are the same in every run.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from tests.tiny import EncoderAdaptor, batch_of, encoder
from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig
from textbrewer.schemes import MutualDistiller, theseus

folder, accumulation = Path(sys.argv[1]), int(sys.argv[2])
HIDDEN = {"layer_T": 2, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse_valid", "proj": ["linear", 8, 12]}
LABELS: dict[str, Any] = {"kd_loss_type": "kl", "hard_label_weight": 0.5}


def training(name: str) -> TrainingConfig:
    return TrainingConfig(
        output_dir=folder / name, gradient_accumulation_steps=accumulation, device="cpu", progress_bar=False
    )


def loader(**columns: torch.Tensor) -> DataLoader[Any]:
    """The same 24 rows, in an order that is drawn, with columns that some term asks for."""
    whole = {**batch_of(24, 6, 7), **columns}
    rows = [{name: value[i] for name, value in whole.items()} for i in range(24)]
    return DataLoader(rows, batch_size=3, shuffle=True)  # type: ignore[arg-type]


def sgd(student: nn.Module, rate: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(student.parameters(), lr=rate)


def general(
    name: str, config: DistillationConfig, data: DataLoader[Any], rate: float = 0.1, epochs: int = 2, **how: Any
) -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    student, adaptor = encoder(2, layers=1), EncoderAdaptor()
    teacher = encoder(0, width=12, layers=2)
    distiller = GeneralDistiller(training(name), config, teacher, student, adaptor, adaptor)
    with distiller:
        distiller.train(sgd(student, rate), data, num_epochs=epochs, **how)
    return {**student.state_dict(), **{f"beside.{k}": v for k, v in distiller.lesson.losses.state_dict().items()}}


def main() -> None:
    answer = batch_of(24, 6, 7)["attention_mask"].clone()
    answer[:, 2:] = 0
    masked = {**HIDDEN, "mask": "answer", "active": (0, 0.5)}
    balances = {"uncertainty": ["uncertainty", 0.1], "gradient_norm": "gradient_norm"}
    became = {}
    for name, balance in balances.items():
        config = DistillationConfig(**LABELS, intermediate_matches=[masked], balance=balance)
        became[name] = general(name, config, loader(answer=answer))
    crd = {**HIDDEN, "proj": None, "loss": ["crd", 24, 8, 12]}
    config = DistillationConfig(intermediate_matches=[crd])
    became["crd"] = general("crd", config, loader(index=torch.arange(24)))
    became["crd at rest"] = general("crd at rest", config, loader(index=torch.arange(24)), rate=0)
    general("crd resumed", config, loader(index=torch.arange(24)), epochs=1)
    became["crd resumed"] = general("crd resumed", config, loader(index=torch.arange(24)), resume="auto")

    torch.manual_seed(3)
    config = DistillationConfig(temperature=1, kd_loss_type="kl", hard_label_weight=1)
    mutual = MutualDistiller(training("mutual"), config, [encoder(1), encoder(2)], EncoderAdaptor())
    with mutual:
        mutual.train(sgd(mutual.model_S), loader(), num_epochs=2)
    became["mutual"] = mutual.model_S.state_dict()

    for name, resume in (("theseus", None), ("theseus, found finished", "auto")):
        torch.manual_seed(3)
        student = encoder(3)
        where = {"layers_T": "layers", "layers_S": "layers"}
        stages = theseus(training("theseus"), encoder(1), student, EncoderAdaptor(), rate=0.3, **where)
        stages.train(sgd, loader(), num_epochs=1, resume=resume)
        became[name] = student.state_dict()
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    torch.save(became, folder / f"became-{rank}.pt")


main()
