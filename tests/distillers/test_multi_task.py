"""Several tasks for one student."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.tiny import EncoderAdaptor, batches, encoder
from textbrewer import CustomMatch, DistillationConfig, MultiTaskDistiller, TrainingConfig
from textbrewer.balancing import UncertaintyWeights
from textbrewer.distillers.multi_task import TaskStream
from textbrewer.errors import ConfigError, DataError
from textbrewer.losses import VariationalLoss
from textbrewer.report.plots import scalars

ADAPTOR = EncoderAdaptor()
MATCH = {"layer_T": 1, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse", "proj": "auto"}


class TwoHeads(nn.Module):
    """A shared encoder; the head is the one of the task it is told."""

    def __init__(self):
        super().__init__()
        self.shared = encoder(5)
        self.heads = nn.ModuleDict({"topic": nn.Linear(3, 3), "tone": nn.Linear(3, 3)})
        self.told: list[str] = []

    def forward(self, input_ids, attention_mask, labels=None, task=None):
        self.told.append(task)
        logits, hidden, attention, _ = self.shared(input_ids, attention_mask)
        return self.heads[task](logits), hidden, attention, None


def distiller_of(tmp_path, distill=None, student=None, train=None, teachers=None, adaptors=None, **options):
    config = TrainingConfig(output_dir=str(tmp_path), progress_bar=False, device="cpu", **(train or {}))
    teachers = teachers or {"topic": encoder(1), "tone": encoder(2)}
    distill = distill if isinstance(distill, dict) and "topic" in distill else DistillationConfig(**(distill or {}))
    adaptors = adaptors or dict.fromkeys(teachers, ADAPTOR)
    return MultiTaskDistiller(config, distill, teachers, student or encoder(9), adaptors, adaptors, **options)


def train(distiller, steps=6, loaders=None, **arguments):
    np.random.seed(1)
    optimizer = torch.optim.SGD(distiller.model_S.parameters(), lr=0.1)
    with distiller:
        distiller.train(optimizer, loaders or {"topic": batches(2), "tone": batches(3)}, steps, **arguments)
    return optimizer


def test_tasks_are_drawn_by_size_to_the_power_of_tau():
    for tau, expected in ((0, 0.5), (1, 0.75), (2, 0.9)):
        sampler = TaskStream({"small": range(10), "large": range(30)}, tau)
        assert sampler.probabilities.tolist() == pytest.approx([1 - expected, expected])
    np.random.seed(1)
    drawn = [
        batch.task
        for batch, _ in zip(TaskStream({"a": range(10), "b": range(30)}, 1).endless(), range(4000), strict=False)
    ]
    assert 2890 < drawn.count("b") < 3110  # 3,000 ± 4 standard deviations


def test_the_student_is_told_the_task(tmp_path):
    student = TwoHeads()
    train(distiller_of(tmp_path, student=student, task_argument="task"), steps=8)
    assert set(student.told) == {"topic", "tone"} and len(student.told) == 8


def test_logs_are_kept_by_task_too(tmp_path):
    train(distiller_of(tmp_path, train={"log_dir": str(tmp_path / "log")}), steps=8)
    topic = scalars(tmp_path / "log", "scalar/topic/unweighted_kd_loss")
    tone = scalars(tmp_path / "log", "scalar/tone/total_loss")
    assert sorted(step for step, _ in topic + tone) == list(range(8))
    assert len(scalars(tmp_path / "log", "scalar/total_loss")) == 8


def test_matches_and_weights_by_task(tmp_path):
    config = {"topic": DistillationConfig(intermediate_matches=[MATCH]), "tone": DistillationConfig(kd_loss_weight=2)}
    teachers = {"topic": encoder(1, width=12), "tone": encoder(2)}
    distiller = distiller_of(tmp_path, config, teachers=teachers)
    optimizer = train(distiller)
    assert distiller.lessons["topic"].projections[0].weight.shape == (12, 8)
    assert len(distiller.lessons["tone"].projections) == 0
    assert len(optimizer.param_groups) == 1


def test_one_config_shares_its_projections(tmp_path):
    teachers = {"topic": encoder(1, width=12), "tone": encoder(2, width=12)}
    matches = [{**MATCH, "proj": ["linear", 8, 12]}]
    distiller = distiller_of(tmp_path, {"intermediate_matches": matches}, teachers=teachers)
    topic, tone = (distiller.lessons[task].projections for task in teachers)
    assert topic.for_match == tone.for_match and (len(topic), len(tone)) == (1, 0)
    before = topic[0].weight.detach().clone()
    train(distiller)
    assert not torch.equal(topic[0].weight, before)


def test_a_match_that_is_added_to_one_task_is_of_that_task_alone(tmp_path):
    teachers = {"topic": encoder(1, width=12), "tone": encoder(2, width=12)}
    distiller = distiller_of(tmp_path, {"intermediate_matches": [MATCH]}, teachers=teachers)
    of_tone, of_topic = nn.Linear(8, 12), nn.Linear(8, 12)
    for task, module in (("tone", of_tone), ("topic", of_topic)):
        distiller.add_match(CustomMatch("layers.0", "layers.0", 1.0, "hidden_mse", module), task=task)
    before = [module.weight.detach().clone() for module in (of_tone, of_topic)]
    train(distiller, steps=8)
    topic, tone = (distiller.lessons[task].projections.for_match for task in teachers)
    assert topic[0] is tone[0] and topic[1] is of_topic and tone[1] is of_tone
    assert not any(map(torch.equal, before, (of_tone.weight, of_topic.weight)))
    # The other task goes on without it.
    distiller = distiller_of(tmp_path / "one", {"intermediate_matches": [MATCH]}, teachers=teachers)
    distiller.add_match(CustomMatch("layers.0", "layers.0", 1.0, "hidden_mse", nn.Linear(8, 12)), task="tone")
    train(distiller, steps=8)


@pytest.mark.parametrize("one_config", [True, False])
def test_a_loss_with_parameters_is_one_for_all_tasks_and_a_balance_is_not(tmp_path, one_config):
    match = {**MATCH, "loss": VariationalLoss(12), "proj": ["linear", 8, 12]}
    options = {"intermediate_matches": [match], "balance": UncertaintyWeights(lr=0.1)}
    teachers = {"topic": encoder(1, width=12), "tone": encoder(2, width=12)}
    given = options if one_config else dict.fromkeys(teachers, DistillationConfig(**options))
    distiller = distiller_of(tmp_path, given, teachers=teachers)
    topic, tone = (distiller.lessons[task] for task in teachers)
    assert topic.losses.for_match == tone.losses.for_match and topic.balance is not tone.balance
    train(distiller, steps=8)
    assert topic.losses.for_match[0].alpha.unique().numel() > 1
    assert not torch.equal(topic.balance.log_variances, tone.balance.log_variances)
    assert match["loss"].alpha.unique().numel() == 1


def test_a_task_may_have_several_teachers(tmp_path):
    teachers = {"topic": [encoder(1), encoder(3)], "tone": encoder(2)}
    distiller = distiller_of(tmp_path, teachers=teachers, teacher_weights=[1, 3], combine="probabilities")
    before = [p.detach().clone() for p in distiller.model_S.parameters()]
    train(distiller)
    assert any(not torch.equal(a, b) for a, b in zip(before, distiller.model_S.parameters(), strict=True))


def test_a_step_over_both_tasks_is_a_mean_of_each(tmp_path):
    """Per-element terms of an accumulation count each task's own tokens."""
    loaders = {"topic": batches(1, labels=False), "tone": batches(2, labels=False)[1:]}
    distill = {"kd_loss_type": "kl", "intermediate_matches": [{**MATCH, "loss": "hidden_mse_valid", "proj": None}]}

    def gradient(steps, size):
        distiller = distiller_of(tmp_path, distill, train={"gradient_accumulation_steps": size})
        seen = []

        class Recorder(torch.optim.SGD):
            def step(self, closure=None):
                seen.append(torch.cat([p.grad.flatten() for p in distiller.model_S.parameters()]))

        order = iter(["topic", "tone"] * 2)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(np.random, "choice", lambda names, p: next(order))
            distiller.train(Recorder(distiller.model_S.parameters(), lr=0.0), loaders, steps)
        return seen

    (together,) = gradient(1, 2)
    topic, tone = gradient(2, 1)
    torch.testing.assert_close(together, (topic + tone) / 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loaders": {"topic": batches(1)}}, r"`dataloaders\['tone'\]`: expected a value, got nothing"),
        ({"loaders": {"topic": batches(1), "tone": batches(1), "ton": batches(1)}}, "did you mean 'tone'"),
        ({"batch_postprocessors": {"topics": lambda b: b}}, "did you mean 'topic'"),
        ({"loaders": [batches(1)]}, r"a dict with the tasks \['topic', 'tone'\], got list"),
    ],
)
def test_loaders_that_do_not_fit_the_tasks(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        train(distiller_of(tmp_path), **change)


@pytest.mark.parametrize("loader", [[], iter([1])])
def test_loaders_without_batches_or_length(tmp_path, loader):
    with pytest.raises(DataError, match=r"dataloaders\['tone'\]"):
        train(distiller_of(tmp_path), loaders={"topic": batches(1), "tone": loader})


def test_tasks_that_lack_something_are_told_all_at_once(tmp_path):
    config = TrainingConfig(output_dir=str(tmp_path), device="cpu")
    with pytest.raises(ConfigError) as caught:
        MultiTaskDistiller(config, {}, {"topic": encoder(1)}, encoder(9), {}, {"tone": ADAPTOR})
    paths = {problem.path for problem in caught.value.problems}
    assert paths == {"adaptor_T['topic']", "adaptor_S['topic']", "adaptor_S['tone']", "distill_config['topic']"}
    with pytest.raises(ConfigError, match="a dict of teachers by task"):
        MultiTaskDistiller(config, DistillationConfig(), encoder(1), encoder(9), {}, {})
