"""Students for a budget, by a clock of known times and by the real one."""

from __future__ import annotations

import json
import statistics

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")

from tests.students.families import teacher_of  # noqa: E402
from textbrewer import StudentConfig, build_student, planner  # noqa: E402
from textbrewer.errors import StudentError, UnsupportedError  # noqa: E402
from textbrewer.planner import Limits, default_candidates, plan  # noqa: E402
from textbrewer.report.profile import seconds  # noqa: E402

SIZES = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "num_hidden_layers": 6}
SHORT = {"length": 8, "headroom": 0}


def teacher(**changes):
    return teacher_of(**SIZES | changes)


@pytest.fixture
def clock(monkeypatch):
    """Tells layers × width / 8 milliseconds of every model, and what ``once`` has of its size the first time."""
    asked, once = [], {}

    def told(models, batches, **_):
        asked.append([model.config.num_hidden_layers for model in models.values()])
        found = {}
        for name, model in models.items():
            size = model.config.num_hidden_layers, model.config.hidden_size
            found[name] = [once.pop(size, size[0] * size[1] / 8) / 1000] * len(batches)
        return found

    told.asked, told.once = asked, once
    monkeypatch.setattr(planner, "seconds", told)
    return told


def sizes_of(candidates):
    return [(each.layers, each.width) for each in candidates]


GRID = [StudentConfig(layers, hidden_size=width) for layers in (1, 2, 4) for width in (8, 16, 32)]


@pytest.mark.parametrize(
    ("limits", "chosen"),
    [
        (Limits(max_latency_ms=8, **SHORT), (2, 32)),  # 4 x 16 takes as long and has fewer parameters
        (Limits(max_latency_ms=7.9, **SHORT), (1, 32)),
        (Limits(max_latency_ms=1, **SHORT), (1, 8)),
        (Limits(max_latency_ms=8.1, length=8, headroom=0.1), (1, 32)),
        (Limits(max_params=29_000, **SHORT), (1, 32)),
        (Limits(max_params=25_000, max_latency_ms=4.1, **SHORT), (2, 16)),
        (Limits(max_mb=0.08, **SHORT), (4, 16)),
    ],
)
def test_the_most_capable_that_fits_is_chosen(clock, limits, chosen):
    found = plan(teacher(), limits, candidates=GRID)
    fitting = [
        each
        for each in found.candidates
        if (
            limits.max_latency_ms is None
            or each.layers * each.width / 8 <= limits.max_latency_ms * (1 - limits.headroom)
        )
        and (limits.max_mb is None or each.megabytes <= limits.max_mb)
        and (limits.max_params is None or each.parameters <= limits.max_params)
    ]
    assert found.chosen == max(fitting, key=lambda each: each.capacity)
    assert sizes_of([found.chosen]) == [chosen]
    assert len(found.candidates) == len(GRID)


def test_costs_are_those_of_the_students(clock):
    given = teacher().to(torch.bfloat16)
    found = plan(given, Limits(max_latency_ms=100, **SHORT), candidates=GRID)
    for each in found.candidates:
        student = build_student(given, each.config, init="random")
        tables = sum(w.numel() for name, w in student.named_parameters() if "_embeddings" in name)
        assert each.parameters == sum(w.numel() for w in student.parameters())
        assert each.capacity == each.parameters - tables
        assert each.megabytes == pytest.approx(2 * each.parameters / 1e6)
        assert each.heads == student.config.num_attention_heads
        assert each.latency_ms == each.layers * each.width / 8
    assert found.teacher.latency_ms == 24 and found.teacher.config is None
    assert max(map(len, clock.asked)) == 9  # eight at a time and the teacher
    capacities = [each.capacity for each in found.candidates]
    assert capacities == sorted(capacities, reverse=True)


def test_what_is_too_large_is_not_measured(clock):
    found = plan(teacher(), Limits(max_params=25_000, **SHORT), candidates=GRID)
    for each in found.candidates:
        assert (each.latency_ms is None) == (each.parameters > 25_000)
    assert all(each.latency_ms is not None for each in found.front) and found.chosen in found.front


def test_the_front_is_what_nothing_beats(clock):
    clock.once[1, 32] = 50
    found = plan(teacher(), Limits(max_latency_ms=100, **SHORT), candidates=GRID)
    costs = [(-each.capacity, each.latency_ms) for each in found.candidates]
    for each, mine in zip(found.candidates, costs, strict=True):
        beaten = any(c != mine and all(a <= b for a, b in zip(c, mine, strict=True)) for c in costs)
        assert (each in found.front) is not beaten
    assert sizes_of(found.front) == [(4, 32), (2, 32), (2, 16), (1, 16), (1, 8)]


def test_one_that_was_lucky_once_is_not_chosen(clock):
    """4 x 32 takes 16 ms, and 4 the first time it is measured."""
    clock.once[4, 32] = 4
    found = plan(teacher(), Limits(max_latency_ms=8, **SHORT), candidates=GRID)
    assert sizes_of([found.chosen]) == [(2, 32)]
    assert next(each for each in found.candidates if (each.layers, each.width) == (4, 32)).latency_ms == 16


def test_default_candidates_have_the_teachers_width_of_a_head():
    given = teacher()
    found = default_candidates(given)
    assert {(each.num_layers, each.num_attention_heads) for each in found} == {
        (layers, heads) for layers in (1, 2, 3, 4, 6) for heads in (1, 2, 3, 4)
    } - {(6, 4)}
    assert all(each.hidden_size == 8 * each.num_attention_heads for each in found)


def test_narrower_candidates_start_with_the_teachers_weights_where_they_can():
    def starts(given):
        return {each.hidden_size: each.init for each in default_candidates(given)}

    assert starts(teacher()) == {32: "teacher", 24: "importance", 16: "importance", 8: "importance"}
    # ELECTRA's map from embeddings of 16 has no place in a student as narrow as they are.
    electra = teacher_of("Electra", **SIZES, embedding_size=16)
    assert starts(electra) == {32: "teacher", 24: "importance", 16: "teacher", 8: "importance"}
    assert starts(teacher_of("DebertaV2", **SIZES)) == dict.fromkeys([32, 24, 16, 8], "teacher")


def test_the_table_and_the_json(clock):
    found = plan(teacher(), Limits(max_latency_ms=8, max_params=60_000, threads=1, **SHORT), candidates=GRID)
    lines = str(found).splitlines()
    assert lines[1].startswith("teacher") and "24.00" in lines[1]
    assert next(line for line in lines if line.endswith("chosen")).startswith("2 layers x 32")
    assert (
        "At most 8 ms, 60,000 parameters; 1 x 8 tokens, 0% of the time left free. Measured on" in lines[-1]
        and "1 thread." in lines[-1]
    )
    told = json.loads(json.dumps(found.to_dict()))
    assert told["chosen"]["config"]["hidden_size"] == 32 and len(told["candidates"]) == len(GRID)
    assert told["limits"]["max_params"] == 60_000 and told["chosen"] in told["front"]


def test_the_plot_names_the_axes_and_the_teacher(clock):
    pytest.importorskip("matplotlib")
    drawn = plan(teacher(), Limits(max_latency_ms=8, **SHORT), candidates=GRID).svg()
    assert drawn.startswith("<svg")
    for text in ("median latency, ms (1 x 8 tokens)", "parameters without embeddings, millions", "teacher", "chosen"):
        assert text in drawn


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            Limits(max_latency_ms=0.5, **SHORT),
            r"none of 9 candidates has at most 0.5 ms; the closest is 1 layer x 8 with .* 1.00 ms",
        ),
        (
            Limits(max_params=100, **SHORT),
            r"at most 100 parameters; the closest is 1 layer x 8 with [\d,]+ parameters, \d",
        ),
        (
            Limits(max_mb=0.001, **SHORT),
            r"at most 0.001 MB.*or prune the vocabulary first, .*: \d\d% of these parameters",
        ),
        (Limits(), "nothing is limited; give Limits max_latency_ms, max_mb or max_params"),
        (Limits(max_mb=1, headroom=1), "headroom from 0 to below 1, got 1"),
        (Limits(max_mb=0, batch=0), "expected numbers above 0, got max_mb=0, batch=0"),
        (Limits(max_mb=1, length=999), "takes 512 tokens a row, got length=999"),
    ],
)
def test_what_cannot_be_planned(clock, limits, message):
    with pytest.raises(StudentError, match=message):
        plan(teacher(), limits, candidates=GRID)


def test_recurrent_students_are_candidates_too():
    bigru = StudentConfig(1, hidden_size=8, family="bigru")
    found = plan(teacher(), Limits(max_params=10_000_000, **SHORT), candidates=[bigru], repeats=2)
    assert (found.chosen.layers, found.chosen.width, found.chosen.heads) == (1, 8, 0)


def test_other_bad_input(clock):
    limits = Limits(max_mb=1, **SHORT)
    with pytest.raises(StudentError, match="there are no candidates"):
        plan(teacher(), limits, candidates=[])
    with pytest.raises(StudentError, match="repeats of at least 2, got 1"):
        plan(teacher(), limits, repeats=1)
    with pytest.raises(StudentError, match="hidden_size=15 is not a multiple"):
        plan(teacher(), limits, candidates=[StudentConfig(1, hidden_size=15)])
    with pytest.raises(StudentError, match="expected a Transformers encoder, got Linear"):
        plan(torch.nn.Linear(2, 2), limits, candidates=GRID)
    with pytest.raises(UnsupportedError, match="does not say what it takes"):
        plan(Blind(teacher()), limits, candidates=GRID)


class Blind(transformers.BertForSequenceClassification):
    """Has no embeddings to draw tokens from."""

    def __init__(self, like):
        super().__init__(like.config if hasattr(like, "config") else like)

    def get_input_embeddings(self):
        return None


def test_the_machine_and_the_teacher_are_left_as_they_were():
    given, threads, state = teacher().train(), torch.get_num_threads(), torch.get_rng_state()
    before = {name: value.clone() for name, value in given.state_dict().items()}
    found = plan(given, Limits(max_latency_ms=1e6, threads=1, **SHORT), candidates=GRID[:2], repeats=2)
    assert found.chosen.latency_ms > 0 and found.teacher.latency_ms > 0
    assert given.training and torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in given.state_dict().items())


@pytest.mark.slow
def test_a_student_planned_for_a_third_of_the_teachers_latency_meets_it_when_measured_again():
    given = teacher(hidden_size=256, intermediate_size=1024)
    ids = torch.randint(5, 60, (1, 64))
    batches = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}] * 60
    for _ in range(3):
        third = 1000 * statistics.median(seconds({"": given}, batches)[""]) / 3
        found = plan(given, Limits(max_latency_ms=third, length=64), repeats=30)
        # A limit in milliseconds is that of the teacher only while the machine is as fast as it was.
        if abs(found.teacher.latency_ms / 3 - third) < 0.05 * third:
            break
    again = seconds({"teacher": given, "student": build_student(given, found.chosen.config)}, batches)
    medians = {name: statistics.median(taken) for name, taken in again.items()}
    assert medians["student"] <= medians["teacher"] / 3
