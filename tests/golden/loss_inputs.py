"""The inputs of the losses' golden numbers: sines, so that no random generator is needed to repeat them."""

from __future__ import annotations

import torch


def wave(*shape: int, phase: float) -> torch.Tensor:
    """Float64 values in [-2, 2] that repeat on any machine."""
    count = int(torch.tensor(shape).prod())
    return 2 * torch.sin(torch.arange(count, dtype=torch.float64) * (1.7 + phase) + phase).reshape(shape)


MASK = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
LOGITS = wave(3, 4, phase=0.1), wave(3, 4, phase=0.2)
SEQUENCE_LOGITS = wave(2, 5, 4, phase=0.3), wave(2, 5, 4, phase=0.4)
TEMPERATURES = {"1": 1, "4": 4.0, "by row": torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)}
ATTENTION = wave(2, 3, 5, 5, phase=0.5), wave(2, 3, 5, 5, phase=0.6)
FEWER_HEADS = wave(2, 2, 5, 5, phase=0.7)
HIDDEN = wave(2, 5, 4, phase=0.8), wave(2, 5, 4, phase=0.9)
PAIRS = (
    [wave(2, 5, 4, phase=1.0), wave(2, 5, 4, phase=1.1)],
    [wave(2, 5, 4, phase=1.2), wave(2, 5, 4, phase=1.3)],
)
WIDER_PAIR = [wave(2, 5, 6, phase=1.4), wave(2, 5, 6, phase=1.5)]
SINGLE = {"hidden_mse": HIDDEN, "cos": HIDDEN, "pkd": HIDDEN}
SINGLE |= dict.fromkeys(("attention_mse", "attention_mse_sum", "attention_ce", "attention_ce_mean"), ATTENTION)
PAIRED = dict.fromkeys(("gram", "fsp", "mmd", "nst"), PAIRS)
SCHEDULES = {"flsw": (["flsw", 1, 2], ["flsw", 0.5, 1]), "cwsm": (["cwsm", 1], ["cwsm", 0.5])}


def numbers(kd_map, match_map, temperature_table) -> dict[str, list[float]]:
    """Every golden number, by what it is."""
    found = {}
    for name in ("ce", "mse"):
        for label, tau in TEMPERATURES.items():
            found[f"{name}, temperature {label}"] = [kd_map[name](*LOGITS, tau).item()]
        found[f"{name}, 3-d"] = [kd_map[name](*SEQUENCE_LOGITS, 2.0).item()]
    for name, inputs in {**SINGLE, **PAIRED}.items():
        found[name] = [match_map[name](*inputs).item()]
        found[f"{name}, masked"] = [match_map[name](*inputs, mask=MASK).item()]
    for name in ("attention_mse_sum", "attention_ce_mean"):
        found[f"{name}, other heads"] = [match_map[name](ATTENTION[0], FEWER_HEADS, mask=MASK).item()]
    found["mmd, other widths"] = [match_map["mmd"](PAIRS[0], WIDER_PAIR, mask=MASK).item()]
    for versions in SCHEDULES.values():
        for key in versions:
            found[f"{key}"] = temperature_table[tuple(key)](*LOGITS, 8).tolist()
    return found
