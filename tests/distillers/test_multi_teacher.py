"""Several teachers of one task."""

from __future__ import annotations

import weakref

import pytest
import torch

from tests.tiny import EncoderAdaptor, batch_of, batches, encoder
from textbrewer import DistillationConfig, MultiTeacherDistiller, TrainingConfig
from textbrewer.errors import ConfigError, DataError, MatchError
from textbrewer.losses import kd_ce_loss
from textbrewer.losses.ensemble import label_loss_weights

ADAPTOR = EncoderAdaptor()


def distiller_of(tmp_path, teachers, distill=None, student=None, adaptor_T=ADAPTOR, **options):
    config = TrainingConfig(output_dir=str(tmp_path), ckpt_frequency=0, progress_bar=False, device="cpu")
    student = student or encoder(9)
    return MultiTeacherDistiller(
        config, DistillationConfig(**(distill or {})), teachers, student, adaptor_T, ADAPTOR, **options
    )


def first_loss(distiller, batch):
    """The loss of the first batch, from the run's own log of the first step."""
    seen = []

    class Recorder(torch.optim.SGD):
        def step(self, closure=None):
            seen.append([p.grad.clone() for p in distiller.model_S.parameters()])

    distiller.train(Recorder(distiller.model_S.parameters(), lr=0.0), [batch], num_epochs=1)
    return torch.cat([gradient.flatten() for gradient in seen[0]])


def gradient_of(student, batch, loss):
    student.zero_grad()
    loss(student.train()(**batch)[0]).backward()
    return torch.cat([p.grad.flatten() for p in student.parameters()])


def logits_of(teachers, batch):
    with torch.no_grad():
        return [teacher.eval()(**batch)[0] for teacher in teachers]


def test_uniform_mean_of_logits(tmp_path):
    teachers, batch = [encoder(1), encoder(2)], batch_of()
    a, b = logits_of(teachers, batch)
    found = first_loss(distiller_of(tmp_path, teachers), batch)
    torch.testing.assert_close(found, gradient_of(encoder(9), batch, lambda s: kd_ce_loss(s, (a + b) / 2, 4)))


def test_weights_in_a_list(tmp_path):
    teachers, batch = [encoder(1), encoder(2)], batch_of()
    a, b = logits_of(teachers, batch)
    found = first_loss(distiller_of(tmp_path, teachers, teacher_weights=[3, 1]), batch)
    torch.testing.assert_close(found, gradient_of(encoder(9), batch, lambda s: kd_ce_loss(s, (3 * a + b) / 4, 4)))


def test_mean_of_probabilities(tmp_path):
    teachers, batch = [encoder(1), encoder(2)], batch_of()
    target = sum((t / 4).softmax(-1) for t in logits_of(teachers, batch)) / 2
    found = first_loss(distiller_of(tmp_path, teachers, combine="probabilities"), batch)

    def expected(student):
        return -(target * (student / 4).log_softmax(-1)).sum(-1).mean()

    torch.testing.assert_close(found, gradient_of(encoder(9), batch, expected))


def test_losses_weighted_as_in_mt_bert(tmp_path):
    teachers, batch = [encoder(1), encoder(2)], batch_of()
    logits = logits_of(teachers, batch)
    weights = label_loss_weights(logits, batch["labels"])
    found = first_loss(distiller_of(tmp_path, teachers, combine="losses", teacher_weights="loss"), batch)

    def expected(student):
        rows = [-((t / 4).softmax(-1) * (student / 4).log_softmax(-1)).sum(-1) for t in logits]
        return sum((w * row).mean() for w, row in zip(weights, rows, strict=True))

    torch.testing.assert_close(found, gradient_of(encoder(9), batch, expected))


@pytest.mark.parametrize("loss", ["ce", "mse", "kl"])
def test_added_losses_with_equal_weights_are_the_mean_loss(tmp_path, loss):
    from textbrewer import KD_LOSS_MAP

    teachers, batch = [encoder(1), encoder(2)], batch_of()
    a, b = logits_of(teachers, batch)
    found = first_loss(distiller_of(tmp_path, teachers, {"kd_loss_type": loss}, combine="losses"), batch)
    both = gradient_of(encoder(9), batch, lambda s: (KD_LOSS_MAP[loss](s, a, 4) + KD_LOSS_MAP[loss](s, b, 4)) / 2)
    torch.testing.assert_close(found, both)


def test_confidence_weights_train(tmp_path):
    distiller = distiller_of(tmp_path, [encoder(1), encoder(2)], teacher_weights="confidence")
    before = [p.detach().clone() for p in distiller.model_S.parameters()]
    with distiller:
        distiller.train(torch.optim.SGD(distiller.model_S.parameters(), lr=0.5), batches(2), num_epochs=1)
    assert any(not torch.equal(a, b) for a, b in zip(before, distiller.model_S.parameters(), strict=True))


def test_matches_read_the_teacher_they_name(tmp_path):
    matches = [
        {"layer_T": 1, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse"},
        {"layer_T": 3, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse", "teacher": 1, "proj": "auto"},
    ]
    teachers = [encoder(1), encoder(2, width=12, layers=3)]
    distiller = distiller_of(tmp_path, teachers, {"intermediate_matches": matches})
    optimizer = torch.optim.SGD(distiller.model_S.parameters(), lr=0.1)
    distiller.train(optimizer, batches(2), num_epochs=1)
    assert distiller.projections[0].weight.shape == (12, 8)
    assert len(optimizer.param_groups) == 1


def test_only_one_teachers_activations_are_kept(tmp_path):
    teachers = [encoder(1), encoder(2), encoder(3)]
    alive: list[list[weakref.ref]] = []

    def watched(batch, outputs):
        given = ADAPTOR(batch, outputs)
        # What earlier teachers gave and no term reads must be gone before the next one has run.
        assert all(ref() is None for refs in alive for ref in refs)
        alive.append([weakref.ref(layer) for layer in (*given["hidden"][1:], *given["attention"])])
        return given

    distiller = distiller_of(tmp_path, teachers, adaptor_T=watched)
    distiller.train(torch.optim.SGD(distiller.model_S.parameters(), lr=0.1), [batch_of()], num_epochs=1)
    assert len(alive) == 3


def test_each_teacher_may_have_its_own_batch_and_outputs(tmp_path):
    teachers, batch = [encoder(1), encoder(2)], batch_of()
    other = {**batch, "input_ids": batch["input_ids"].flip(0)}
    a, b = teachers[0].eval()(**batch)[0].detach(), teachers[1].eval()(**other)[0].detach()
    own = {"teacher": [batch, other], "student": batch}
    found = first_loss(distiller_of(tmp_path, teachers), own)
    torch.testing.assert_close(found, gradient_of(encoder(9), batch, lambda s: kd_ce_loss(s, (a + b) / 2, 4)))
    ready = {"teacher_cache": [(a, (), (), None), (b, (), (), None)], "teacher": batch, "student": batch}
    torch.testing.assert_close(first_loss(distiller_of(tmp_path, teachers), ready), found)
    with pytest.raises(DataError, match="each of 2 teachers"):
        first_loss(distiller_of(tmp_path, teachers), {**ready, "teacher_cache": ready["teacher_cache"][:1]})


def test_label_maps_reorder_the_teachers_classes(tmp_path):
    teachers, batch = [encoder(1), encoder(2, classes=4)], batch_of()
    a, b = logits_of(teachers, batch)
    found = first_loss(distiller_of(tmp_path, teachers, label_maps=[None, [3, 0, 1]]), batch)
    expected = gradient_of(encoder(9), batch, lambda s: kd_ce_loss(s, (a + b[:, [3, 0, 1]]) / 2, 4))
    torch.testing.assert_close(found, expected)


def test_labels_named_in_another_order_need_a_map(tmp_path):
    from types import SimpleNamespace

    teachers, student, batch = [encoder(1), encoder(2)], encoder(9), batch_of()
    names = [{0: "a", 1: "b", 2: "c"}, {0: "c", 1: "a", 2: "b"}]
    for model, labels in zip([*teachers, student], [*names, names[0]], strict=True):
        model.config = SimpleNamespace(id2label=labels)
    with pytest.raises(ConfigError, match=r"label_maps\[1\].*write 'names'"):
        first_loss(distiller_of(tmp_path, teachers, student=student), batch)
    a, b = logits_of(teachers, batch)
    found = first_loss(distiller_of(tmp_path, teachers, student=student, label_maps=[None, "names"]), batch)
    expected = gradient_of(encoder(9), batch, lambda s: kd_ce_loss(s, (a + b[:, [1, 2, 0]]) / 2, 4))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher_weights": [1, 2, 3]}, "`teacher_weights`: expected one for each of 2 teachers, got 3"),
        ({"teacher_weights": [-1, 2]}, "not negative"),
        ({"teacher_weights": "confident"}, "did you mean 'confidence'"),
        ({"combine": "logit"}, "did you mean 'logits'"),
        ({"label_maps": [None]}, "`label_maps`: expected one for each of 2 teachers, got 1"),
        ({"adaptor_T": [ADAPTOR]}, "`adaptor_T`: expected one for each of 2 teachers, got 1"),
    ],
)
def test_numbers_and_names_that_do_not_fit(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        distiller_of(tmp_path, [encoder(1), encoder(2)], **options)


def test_no_teacher(tmp_path):
    with pytest.raises(ConfigError, match="at least one teacher"):
        distiller_of(tmp_path, [])


def test_other_numbers_of_classes_need_a_map(tmp_path):
    with pytest.raises(MatchError, match=r"3 classes and adaptor_T\[1\] 4; give label_maps"):
        first_loss(distiller_of(tmp_path, [encoder(1), encoder(2, classes=4)]), batch_of())


def test_a_match_of_a_teacher_that_is_not_there(tmp_path):
    match = {"layer_T": 1, "layer_S": 1, "feature": "hidden", "loss": "cos", "teacher": 2}
    with pytest.raises(MatchError, match="teacher=2, but there are 2 teachers"):
        distiller_of(tmp_path, [encoder(1), encoder(2)], {"intermediate_matches": [match]})
