"""What a model costs, measured on models whose costs are known."""

from __future__ import annotations

import statistics
import subprocess
import time

import pytest
import torch
from safetensors.torch import save_file

from textbrewer.errors import DataError, TextBrewerError
from textbrewer.report import profile


class Sleeper(torch.nn.Module):
    def __init__(self, seconds):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seconds = seconds

    def forward(self, x):
        assert not self.training and torch.is_inference_mode_enabled()
        time.sleep(self.seconds * len(x))
        return x


def test_speeds_are_the_models_own():
    models = {"slow": Sleeper(0.02).train(), "fast": Sleeper(0.005)}
    one, many = {"x": torch.zeros(1, 2)}, {"x": torch.zeros(4, 2)}
    speed = profile.speeds(models, [one] * 10, [many] * 2, warm_up=1)
    assert 19 < speed["slow"].median_ms < 40 and 4.5 < speed["fast"].median_ms < 15
    assert speed["slow"].p95_ms >= speed["slow"].median_ms
    assert 20 < speed["slow"].rows_per_second < 51 and speed["fast"].rows_per_second < 201
    assert models["slow"].training


def test_shared_parameters_count_once():
    layer = torch.nn.Linear(3, 2)
    assert profile.parameters_of(torch.nn.Sequential(layer, layer)) == 8


def test_every_batch_is_timed_by_every_model():
    models = {"slow": Sleeper(0.01), "fast": Sleeper(0.002)}
    batches = [{"x": torch.zeros(rows, 2)} for rows in (1, 3)]
    taken = profile.seconds(models, batches, warm_up=0)
    assert [*taken] == ["slow", "fast"] and taken["slow"][1] > taken["slow"][0] > taken["fast"][0] >= 0.002
    assert taken["slow"][1] >= 0.03 and len(taken["fast"]) == 2


def test_what_the_model_before_leaves_behind_is_not_timed():
    class Hindered(Sleeper):
        """Slower for 10 ms after the other model's run."""

        def forward(self, x):
            if time.perf_counter() - other.ended < 0.01:
                time.sleep(0.01)
            return super().forward(x)

    class Spinning(Sleeper):
        ended = 0.0

        def forward(self, x):
            found = super().forward(x)
            self.ended = time.perf_counter()
            return found

    other = Spinning(0.001)
    batches = [{"x": torch.zeros(1, 2)}] * 12
    taken = profile.seconds({"other": other, "hindered": Hindered(0.002)}, batches, warm_up=1)
    assert len(taken["hindered"]) == 12 and statistics.median(taken["hindered"]) < 0.008


def test_a_model_without_parameters_is_measured_on_the_cpu():
    (taken,) = profile.seconds({"": torch.nn.Identity()}, [{"input": torch.zeros(2)}], warm_up=0)[""]
    assert taken > 0


def test_speed_is_in_milliseconds():
    assert profile.speed_of([0.001, 0.003, 0.002], 5.0) == profile.Speed(2.0, pytest.approx(2.9), 5.0)
    # No later than the slowest of few runs.
    assert profile.speed_of([0.010] * 9 + [0.030], 5.0).p95_ms == pytest.approx(21.0)


def test_shared_memory_counts_once():
    layer = torch.nn.Linear(3, 2)
    model = torch.nn.Sequential(layer, torch.nn.Linear(3, 2))
    model[1].weight = layer.weight
    assert profile.bytes_of(model) == 4 * (6 + 2 + 2)
    assert profile.bytes_of(model.to(torch.bfloat16)) == 2 * (6 + 2 + 2)


def test_the_machine_is_described():
    assert f"{torch.get_num_threads()} thread" in profile.machine()


def test_weights_on_disk(tmp_path):
    with pytest.raises(DataError, match=r"no model\*.safetensors"):
        profile.weights_on_disk(tmp_path)
    save_file({"a": torch.zeros(1000)}, tmp_path / "model.safetensors")
    assert 4000 < profile.weights_on_disk(tmp_path) < 4200


def test_peak_memory_grows_with_the_model(tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    inputs = {"input_ids": torch.ones(2, 8, dtype=torch.long)}
    peaks = []
    for words in (1_000, 1_000_000):
        config = transformers.BertConfig(vocab_size=words, **sizes)
        transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / str(words))
        peaks.append(profile.peak_memory(tmp_path / str(words), inputs))
    assert 100e6 < peaks[1] - peaks[0] < 400e6  # 128 MB of embeddings, read once or copied once


def test_several_batches_and_a_student_of_this_library(tmp_path):
    from textbrewer import BiGRUConfig, BiGRUStudent, HeadConfig

    student = BiGRUStudent(BiGRUConfig(50, hidden_size=64, embedding_size=8, head=HeadConfig()))
    student.save_pretrained(tmp_path)
    shapes = ((1, 8), (500, 64))
    batches = [{"input_ids": torch.ones(shape, dtype=torch.long)} for shape in shapes]
    small, large = profile.peak_memories(tmp_path, batches)
    assert large - small > 500 * 64 * 64 * 4  # at least the states of one direction


def test_where_peaks_cannot_be_forgotten_each_batch_has_its_process(tmp_path, monkeypatch):
    asked = []

    def first_only(command, **_):
        asked.append(len(command) - 4)
        return subprocess.CompletedProcess(command, 0, stdout=f'a line\n{{"bytes": [{asked[-1]}]}}\n', stderr="")

    monkeypatch.setattr(profile.subprocess, "run", first_only)
    assert profile.peak_memories(tmp_path, [{"x": torch.zeros(1)}] * 3) == [3, 2, 1] == asked


def test_a_model_that_cannot_be_loaded_is_said(tmp_path):
    pytest.importorskip("transformers", reason="needs the extra `hf`")
    with pytest.raises(TextBrewerError, match="measuring the memory"):
        profile.peak_memory(tmp_path / "nothing", {"input_ids": torch.ones(1, 1)})
