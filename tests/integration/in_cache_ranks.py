"""Run by ``test_cache_ranks.py``, plain and under torchrun: trains students with a teacher cache in several ways.

Usage: in_cache_ranks.py FOLDER ACCUMULATION. The processes times the accumulation are the same in every run.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from tests.tiny import EncoderAdaptor, batch_of, encoder
from textbrewer import DistillationConfig, GeneralDistiller, TeacherCache, TrainingConfig
from textbrewer.ranks import Ranks

folder, accumulation = Path(sys.argv[1]), int(sys.argv[2])
ADAPTOR = EncoderAdaptor()


def loader() -> DataLoader:
    whole = batch_of(24, 6, 7)
    return DataLoader([{k: v[i] for k, v in whole.items()} for i in range(24)], batch_size=3, shuffle=True)


def distiller(name: str, cache: TeacherCache | None) -> GeneralDistiller:
    match = {"layer_T": 2, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse_valid", "proj": ["linear", 8, 12]}
    torch.manual_seed(5)
    return GeneralDistiller(
        TrainingConfig(
            gradient_accumulation_steps=accumulation,
            output_dir=folder / name,
            device="cpu",
            progress_bar=False,
            ckpt_frequency=0,
        ),
        DistillationConfig(kd_loss_type="kl", intermediate_matches=[match]),
        encoder(0, width=12),
        encoder(2, layers=1),
        ADAPTOR,
        ADAPTOR,
        teacher_cache=cache,
    )


def train(name: str, cache: TeacherCache | None, rank: int) -> None:
    made = distiller(name, cache)
    torch.manual_seed(3)
    made.train(torch.optim.AdamW(made.model_S.parameters(), lr=0.01), loader(), num_epochs=2)
    torch.save(made.model_S.state_dict(), folder / f"{name}-{rank}.pt")


def main() -> None:
    ranks = Ranks.here(cpu=True)
    train("live", None, ranks.index)
    with TeacherCache(folder / "cache", dtype="float32") as cache:
        train("filling", cache, ranks.index)
    ranks.wait()
    with TeacherCache(folder / "cache", dtype="float32", read_only=True) as cache:
        train("filled", cache, ranks.index)
    with TeacherCache(folder / "built", dtype="float32") as cache:
        filling = cache.build(distiller("built", None), loader(), progress_bar=False)
    assert filling.computed == filling.rows == 24 // ranks.number, filling
    ranks.wait()
    with TeacherCache(folder / "built", dtype="float32", read_only=True) as cache:
        train("built", cache, ranks.index)
    ranks.wait()
    if dist.is_initialized():
        dist.destroy_process_group()


main()
