"""What is wrong with a run is found before it is started."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra `hf`")
pytest.importorskip("sklearn", reason="needs the extra `hf`")
pytest.importorskip("seqeval", reason="needs the extra `hf`")

from tests.export.small import WORDS, rows
from tests.tasks.small import bert, tokenizer_of
from textbrewer import DistillationConfig, GeneralDistiller, build_student
from textbrewer.configs import StudentConfig
from textbrewer.doctor import Check, Examination, examine, teacher_calibration
from textbrewer.tasks import TextClassification, TextRegression

TASK = TextClassification(["good", "bad"], max_length=24)
TOKENIZER = tokenizer_of(WORDS)
HIDDEN = {"layer_T": 2, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse"}


def examined(train=None, validation=None, task=TASK, trained=True, config=None, teacher=None, **changes):
    """The checks of a run by name."""
    teacher = teacher or bert(task, TOKENIZER)
    student = build_student(teacher, StudentConfig(num_layers=1), seed=0)
    parts = {
        "train": task.encode(rows(40) if train is None else train, TOKENIZER),
        "validation": task.encode(rows(20, seed=1) if validation is None else validation, TOKENIZER),
    }
    chosen = config or DistillationConfig(intermediate_matches=[HIDDEN])
    found = examine(
        task,
        parts,
        changes.get("tokenizer", TOKENIZER),
        teacher,
        student,
        lambda config: GeneralDistiller(config, chosen, teacher, student, *task.adaptors(teacher, student, chosen)),
        next(iter(parts["train"].loader(8))),
        trained=trained,
        steps=100,
    )
    return {check.name: check for check in found.checks}


def test_a_sound_run():
    found = examined(trained=False)
    apart = found.pop("validation apart from train")
    assert apart.verdict in ("good", "odd", "bad")  # short texts meet by chance
    assert {name: check.verdict for name, check in found.items()} == dict.fromkeys(found, "good"), found
    assert set(found) >= {
        "train rows",
        "train labels",
        "tokenizer",
        "label order",
        "matches",
        "gradients",
        "time and memory",
    }
    assert found["matches"].found == "hidden 2 to 1" and "100 steps" in found["time and memory"].found


def test_models_are_left_as_they_were():
    teacher = bert(TASK, TOKENIZER)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    examined(teacher=teacher)
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert not teacher.training and not any(p._post_accumulate_grad_hooks for p in teacher.parameters())


def test_rows_that_are_trained_and_scored_on():
    same = rows(20)
    found = examined(train=[*same, *rows(20, seed=5)], validation=same)["validation apart from train"]
    assert found.verdict == "bad" and found.found.startswith("20 rows of 20") and "too good" in found.way_out


def test_labels_that_are_missing_few_or_uneven():
    good = [row for row in rows(200) if row["label"] == "good"]
    bad = [row for row in rows(200) if row["label"] == "bad"]
    found = examined(train=good)["train labels"]
    assert (found.verdict, found.found) == ("bad", "good 100, bad 0") and "nothing of bad" in found.way_out
    assert "bad can hardly be learned" in examined(train=[*good, *bad[:4]])["train labels"].way_out
    more = [row for row in rows(400, seed=3) if row["label"] == "good"]
    assert "macro_f1" in examined(train=[*more, *bad[:6]])["train labels"].way_out


def test_empty_rows_are_counted_with_their_places():
    found = examined(train=[*rows(20), {"text": "", "label": "good"}])["train rows"]
    assert found.verdict == "odd" and "1 row without text, left out: row 21" in found.found


def test_texts_that_are_cut():
    found = examined(task=TextClassification(["good", "bad"], max_length=8))["train lengths"]
    assert found.verdict == "odd" and "longer, cut" in found.found and "raise task.max_length" in found.way_out


def test_a_tokenizer_of_another_model():
    found = examined(tokenizer=tokenizer_of([*WORDS, *map(str, range(100, 200))]))["tokenizer"]
    assert found.verdict == "bad" and "teacher.tokenizer" in found.way_out


def test_a_text_that_the_tokenizer_does_not_know():
    strange = [{"text": f"Ω Ψ Σ {row['text']}", "label": row["label"]} for row in rows(20)]
    assert examined(train=strange)["tokenizer"].verdict == "odd"


def test_a_teacher_that_guesses():
    teacher = bert(TASK, TOKENIZER)
    with torch.no_grad():
        teacher.classifier.bias.copy_(torch.tensor([0.0, 20.0]))
    found = examined(teacher=teacher)
    assert found["teacher"].verdict == "bad" and "50.0%" in found["teacher"].way_out
    # It is sure of everything and right in half.
    assert found["teacher calibration"].verdict == "odd"
    assert "calibration error 0.500; right in 50.0%, on average sure by 100.0%" in found["teacher calibration"].found
    assert "raise distillation.temperature" in found["teacher calibration"].way_out


class Saying(torch.nn.Module):
    """Says of each text which of the two words it holds, as surely as it is told to."""

    def __init__(self, margin):
        super().__init__()
        self.margin = margin

    def forward(self, input_ids, **_):
        words = torch.tensor(TOKENIZER.convert_tokens_to_ids(TASK.class_names))
        return {"logits": self.margin * (input_ids.unsqueeze(-1) == words).any(dim=1).float()}


def calibrated(margin, number, mistaken):
    """The check of a teacher that is wrong on one of ``mistaken`` rows."""
    told = rows(number)
    for row in told[mistaken - 1 :: mistaken]:
        row["label"] = "bad" if row["label"] == "good" else "good"
    return teacher_calibration(TASK, Saying(margin), TASK.encode(told, TOKENIZER))


@pytest.mark.parametrize(
    ("margin", "mistaken", "verdict", "way_out"),
    [
        (9.0, 1000, "good", ""),  # right in 100 %, sure by 100 %
        (1.8, 1000, "odd", "lower distillation.temperature"),  # sure by 86 %
        (0.7, 1000, "odd", "lower distillation.temperature"),  # by 67 %
        (0.5, 1000, "bad", "teacher.training.num_epochs"),  # by 62 %
        (0.3, 10, "bad", "distillation.hard_label_weight"),  # right in 90 %, sure by 57 %
        (0.1, 2, "good", ""),  # right in 50 %, sure by 52 %
    ],
)
def test_a_teacher_that_is_less_sure_than_it_is_right(margin, mistaken, verdict, way_out):
    found = calibrated(margin, 100, mistaken)
    assert found.verdict == verdict and way_out in found.way_out and bool(found.way_out) == bool(way_out), found


def test_few_rows_do_not_tell_that_a_teacher_is_unsure():
    assert calibrated(0.2, 100, 5).verdict == "bad"
    # Right in 4 of 5, which may be luck.
    assert calibrated(0.2, 5, 5).verdict == "odd"


def test_calibration_is_of_classes():
    assert teacher_calibration(TextRegression(), None, None) is None


def test_labels_in_another_order_or_without_names():
    teacher = bert(TASK, TOKENIZER)
    teacher.config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    found = examined(teacher=teacher, trained=False)["label order"]
    assert found.verdict == "odd" and "make sure that they are good, bad" in found.way_out


def test_parameters_that_no_term_reaches():
    config = DistillationConfig(kd_loss_weight=0, intermediate_matches=[HIDDEN])
    found = examined(config=config)["gradients"]
    assert found.verdict == "odd" and "classifier" in found.found


def test_an_examination_prints_and_becomes_json():
    found = Examination([Check("a", "good", "fine"), Check("b", "bad", "broken", "mend it")])
    assert str(found) == "good  a: fine\nbad   b: broken\n\nWhat to change:\n- b: mend it"
    assert found.to_dict()["is_sound"] is False and not found.is_sound
    assert Examination([Check("a", "odd", "fine")]).is_sound
