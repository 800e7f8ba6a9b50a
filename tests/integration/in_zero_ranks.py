"""Run by ``test_zero_ranks.py``, plain and under ``accelerate launch`` with a config for DeepSpeed.

Usage: in_zero_ranks.py FOLDER ACCUMULATION. The processes times the accumulation are the same in every run.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification

from tests.tiny import EncoderAdaptor, batch_of, encoder
from textbrewer import BasicDistiller, DistillationConfig, GeneralDistiller, TrainingConfig

folder, accumulation = Path(sys.argv[1]), int(sys.argv[2])
HIDDEN = {"layer_T": 2, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse_valid", "proj": ["linear", 8, 12]}
CRD = {**HIDDEN, "proj": None, "loss": ["crd", 23, 8, 12]}
LABELS: dict[str, Any] = {"kd_loss_type": "kl", "hard_label_weight": 0.5}


def training(name: str, **more: Any) -> TrainingConfig:
    return TrainingConfig(
        output_dir=folder / name,
        gradient_accumulation_steps=accumulation,
        keep_last_accumulation=True,
        device="cpu",
        progress_bar=False,
        **more,
    )


def become(distiller: Any, epochs: int = 2, columns: Any = None, **how: Any) -> dict[str, torch.Tensor]:
    """Train on 23 rows, so that an epoch ends within a round, with columns that some term asks for."""
    student = distiller.model_S
    data = {**batch_of(23, 6, 7), **(columns or {})}
    rows = [{name: value[i] for name, value in data.items()} for i in range(23)]
    loader = DataLoader(rows, batch_size=3, shuffle=True)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.01)
    how = {"scheduler_class": torch.optim.lr_scheduler.ExponentialLR, "scheduler_args": {"gamma": 0.9}, **how}
    with distiller:
        distiller.train(optimizer, loader, num_epochs=epochs, **how)
    assert [*map(id, optimizer.param_groups[0]["params"])] == [*map(id, student.parameters())]
    parts = {"student": student, "projection": distiller.lesson.projections, "loss": distiller.lesson.losses}
    return {f"{part}.{key}": value for part, module in parts.items() for key, value in module.state_dict().items()}


def small(name: str, kind: Any = GeneralDistiller, matches: Any = (HIDDEN,)) -> Any:
    torch.manual_seed(5)
    config = DistillationConfig(**LABELS, intermediate_matches=list(matches))
    models = encoder(0, width=12, layers=2), encoder(2, layers=1)
    return kind(training(name), config, *models, EncoderAdaptor(), EncoderAdaptor())


def bert(name: str) -> Any:
    """Models of Transformers, of which the best student is kept."""
    torch.manual_seed(5)
    sizes = {"vocab_size": 50, "num_attention_heads": 2, "intermediate_size": 16, "num_labels": 3}
    dropless = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "max_position_embeddings": 16}
    models = [
        BertForSequenceClassification(BertConfig(**sizes, **dropless, hidden_size=width, num_hidden_layers=layers))
        for width, layers in ((12, 2), (8, 1))
    ]
    config = DistillationConfig(**LABELS, intermediate_matches=[HIDDEN])
    best = {"load_best_model_at_end": True, "greater_is_better": True}
    return GeneralDistiller(training(name, **best), config, *models)


def loss_of(model: nn.Module) -> dict[str, float]:
    return {"loss": float(model(**batch_of(8, 6, 3)).loss)}


def main() -> None:
    became = {
        "projected": become(small("projected")),
        "clipped": become(small("clipped", BasicDistiller, ()), max_grad_norm=0.01),
        "crd": become(small("crd", matches=[CRD]), columns={"index": torch.arange(23)}),
        "bert": become(bert("bert"), evaluate=loss_of),
    }
    become(small("resumed"), epochs=1)
    became["resumed"] = become(small("resumed"), resume="auto")
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    torch.save(became, folder / f"became-{rank}.pt")


main()
