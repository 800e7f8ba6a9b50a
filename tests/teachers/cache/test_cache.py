"""The cache as users see it: the same training with and without it, its folder, its limits, what it can be asked."""

from __future__ import annotations

import json
import logging
import time
import warnings

import pytest
import torch
from torch import nn

from tests.teachers.cache.teaching import ADAPTOR, Counted, distiller_of, learned
from tests.tiny import CLASSES, EncoderAdaptor, batch_of, batches, encoder
from textbrewer import (
    BasicDistiller,
    BasicTrainer,
    DistillationConfig,
    GeneralDistiller,
    MultiTaskDistiller,
    MultiTeacherDistiller,
    TeacherCache,
    TrainingConfig,
)
from textbrewer.adaptors import TransformersAdaptor
from textbrewer.distillers import CustomMatch
from textbrewer.errors import CacheError, ConfigError, UnsupportedError
from textbrewer.teachers.cache import cache as caches
from textbrewer.teachers.cache import store as stores
from textbrewer.teachers.cache.cached import CachedTeacher

lmdb = pytest.importorskip("lmdb", reason="needs the extra `cache`")

HIDDEN = {"layer_T": 2, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse", "weight": 0.5}
ATTENTION = {"layer_T": -1, "layer_S": 0, "feature": "attention", "weight": 0.5}
EXACT = {"rtol": 1e-4, "atol": 1e-6}
ROUNDED = {"rtol": 1e-2, "atol": 1e-3}


@pytest.fixture(autouse=True)
def nothing_left_open():
    yield
    assert not stores._OPEN


@pytest.fixture
def misses(monkeypatch):
    """The numbers of rows that teachers behind caches had to compute, batch by batch."""
    seen, computed = [], CachedTeacher._computed

    def counting(self, rows, missing, *rest):
        seen.append(len(missing))
        return computed(self, rows, missing, *rest)

    monkeypatch.setattr(CachedTeacher, "_computed", counting)
    return seen


def own_loss(S, T, mask_S, mask_T):
    valid = (mask_S * mask_T).unsqueeze(-1)
    return ((S - T) * valid).abs().sum() / valid.sum()


CONFIGS = {
    "logits": {},
    "logits and labels": {"kd_loss_type": "kl", "hard_label_weight": 0.5},
    "weights over time": {"kd_loss_weight_scheduler": "linear_decay", "hard_label_weight_scheduler": "linear_growth"},
    "shift": {"probability_shift": True},
    "labels": {"kd_loss_type": "tf_kd"},
    "hidden": {"intermediate_matches": [HIDDEN]},
    "hidden alone": {"intermediate_matches": [HIDDEN], "kd_loss_weight": 0},
    "projected": {
        "intermediate_matches": [
            {**HIDDEN, "loss": "hidden_mse_valid", "proj": ["linear", 8, 8]},
            {**HIDDEN, "loss": "cos", "layer_T": -2, "proj": ["relu", 8, 8]},
        ]
    },
    "pairs": {"intermediate_matches": [{**HIDDEN, "loss": "mmd_valid", "layer_T": [0, 2], "layer_S": [0, 1]}]},
    "maps": {"intermediate_matches": [{**ATTENTION, "loss": "attention_mse"}]},
    "maps over heads": {"intermediate_matches": [{**ATTENTION, "loss": "attention_mse_sum"}]},
    "scores": {"intermediate_matches": [{**ATTENTION, "loss": "attention_ce"}]},
    "scores over heads": {"intermediate_matches": [{**ATTENTION, "loss": "attention_ce_mean"}]},
    "relations": {"intermediate_matches": [{**HIDDEN, "loss": "rkd_distance"}, {**HIDDEN, "loss": "cka"}]},
    "modules": {
        "intermediate_matches": [{**HIDDEN, "layer_T": "layers.1", "layer_S": "layers.0", "loss": "hidden_mse_valid"}]
    },
    "a loss of one's own": {"intermediate_matches": [{**HIDDEN, "loss": lambda S, T, mask=None: (S - T).abs().mean()}]},
}


@pytest.mark.parametrize("name", list(CONFIGS))
def test_training_is_the_same_with_a_cache_and_the_second_run_needs_no_teacher(tmp_path, name, misses):
    config = CONFIGS[name]
    loader = [*batches(3), batch_of(4, 9, seed=2)]
    expected = learned(distiller_of(tmp_path, **config), loader)
    assert not torch.allclose(expected, learned(distiller_of(tmp_path, kd_loss_weight=0, hard_label_weight=1), loader))
    with TeacherCache(tmp_path / "cache", dtype="float32") as cache:
        first = learned(distiller_of(tmp_path, cache, **config), loader)
        torch.testing.assert_close(first, expected, **EXACT)
        assert 0 < sum(misses) <= 16
        misses.clear()
        assert torch.equal(learned(distiller_of(tmp_path, cache, **config), loader), first)
    with TeacherCache(tmp_path / "cache", dtype="float32", read_only=True) as cache:
        assert torch.equal(learned(distiller_of(tmp_path, cache, **config), loader), first)
    assert not misses


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_type_on_disk_and_in_memory(tmp_path, dtype):
    config = {"intermediate_matches": [HIDDEN, {**ATTENTION, "loss": "attention_mse"}]}
    expected = learned(distiller_of(tmp_path, **config))
    found = []
    for cache in (TeacherCache(tmp_path / "cache", dtype), TeacherCache.in_memory(dtype)):
        with cache:
            found.append(learned(distiller_of(tmp_path, cache, **config)))
    assert torch.equal(*found)
    torch.testing.assert_close(found[0], expected, **(EXACT if dtype in ("float32", "float64") else ROUNDED))
    # Beside float64 the loss is computed in it.
    assert torch.equal(found[0], expected) == (dtype == "float32")


def test_custom_matches_of_modules(tmp_path, misses):
    def distiller(cache):
        made = distiller_of(tmp_path, cache)
        made.add_match(CustomMatch("layers.1", made.model_S.layers[0], 0.5, own_loss, nn.Linear(8, 8)))
        made.add_match(CustomMatch(made.model_T.layers[0], "layers.1", 0.5, "hidden_mse"))
        return made

    torch.manual_seed(0)
    expected = learned(distiller(None))
    with TeacherCache(tmp_path / "cache", dtype="float32") as cache:
        for _ in range(2):
            torch.manual_seed(0)
            torch.testing.assert_close(learned(distiller(cache)), expected, **EXACT)
    assert sum(misses) == 12


@pytest.mark.parametrize("kind", [BasicDistiller, GeneralDistiller])
@pytest.mark.parametrize("matches", [[], [HIDDEN]])
def test_caching_logits_of_the_config_keeps_everything_in_memory(tmp_path, kind, matches, misses):
    if kind is BasicDistiller and matches:
        return
    config = {"intermediate_matches": matches}
    expected = learned(distiller_of(tmp_path, kind=kind, **config))
    distiller = distiller_of(tmp_path, kind=kind, is_caching_logits=True, **config)
    assert torch.equal(learned(distiller), expected)
    assert misses == [4, 4, 4]
    learned(distiller)  # the next run of the same distiller
    assert misses == [4, 4, 4]
    assert not list(tmp_path.glob("*/teacher-cache.json"))


def test_batches_of_two_sides(tmp_path, misses):
    sides = [{"teacher": batch_of(4, 7, seed), "student": batch_of(4, 5, seed)} for seed in range(3)]
    expected = learned(distiller_of(tmp_path), sides)
    with TeacherCache(tmp_path / "cache", dtype="float32") as cache:
        torch.testing.assert_close(learned(distiller_of(tmp_path, cache), sides), expected, **EXACT)
    assert misses == [4, 4, 4]


@pytest.mark.parametrize("loss", ["embedding_mse", "rkd_distance", {"name": "rkd_angle", "pooling": "first"}])
def test_pooled_sides_of_other_lengths(tmp_path, misses, loss):
    config = {"intermediate_matches": [{**HIDDEN, "loss": loss}], "kd_loss_weight": 0}
    sides = [{"teacher": batch_of(4, 7, seed), "student": batch_of(4, 5, seed + 9)} for seed in range(3)]
    expected = learned(distiller_of(tmp_path, **config), sides)
    with TeacherCache(tmp_path / "cache", dtype="float32") as cache:
        for _ in range(2):
            torch.testing.assert_close(learned(distiller_of(tmp_path, cache, **config), sides), expected, **EXACT)
    assert misses == [4, 4, 4]


def test_rows_that_come_back_in_other_batches_orders_and_paddings(tmp_path, misses):
    whole = batch_of(12, 6, seed=4)

    def part(rows, length):
        cut = {key: value[rows][:, :length] if value.dim() == 2 else value[rows] for key, value in whole.items()}
        return {k: nn.functional.pad(v, (0, max(0, length - 6))) if v.dim() == 2 else v for k, v in cut.items()}

    first = [part(list(range(i, i + 4)), 6) for i in (0, 4, 8)]
    second = [part([11, 0, 7, 3, 3], 8), part([1, 2], 6), part([4, 5, 6, 8, 9, 10], 7)]
    config = {"intermediate_matches": [HIDDEN, {**ATTENTION, "loss": "attention_mse"}]}
    expected = learned(distiller_of(tmp_path, **config), second)
    with TeacherCache(tmp_path / "cache", dtype="float32") as cache:
        learned(distiller_of(tmp_path, cache, **config), first)
        assert misses == [4, 4, 4]
        torch.testing.assert_close(learned(distiller_of(tmp_path, cache, **config), second), expected, **EXACT)
    assert misses == [4, 4, 4]


class TestSeveralTeachers:
    def distiller(self, folder, cache=None, teachers=None, is_caching_logits=False, **options):
        return distiller_of(
            folder,
            cache,
            kind=MultiTeacherDistiller,
            teacher=teachers or [encoder(1), encoder(2, layers=3), encoder(1)],
            options=options,
            is_caching_logits=is_caching_logits,
            intermediate_matches=[HIDDEN, {**HIDDEN, "layer_T": 3, "teacher": 1}],
        )

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"combine": "probabilities", "teacher_weights": "confidence"},
            {"teacher_weights": "loss"},
            {"combine": "losses", "teacher_weights": [1, 2, 3]},
            {"label_maps": [None, [2, 0, 1], None]},
        ],
        ids=str,
    )
    def test_each_has_a_namespace(self, tmp_path, options, misses):
        expected = learned(self.distiller(tmp_path, **options))
        with TeacherCache(tmp_path / "cache", dtype="float32") as cache:
            for _ in range(2):
                found = learned(self.distiller(tmp_path, cache, **options))
                torch.testing.assert_close(found, expected, **EXACT)
            # Of the two that are the same, what only the first is read for is missing to neither.
            assert len(cache.list()) == 2
        assert sum(misses) <= 12 * 3
        assert torch.equal(learned(self.distiller(tmp_path, is_caching_logits=True, **options)), expected)

    def test_batches_for_each(self, tmp_path):
        loader = [
            {"teacher": [batch_of(4, 5, s), batch_of(4, 7, s), batch_of(4, 6, s)], "student": batch_of(4, 5, s)}
            for s in range(3)
        ]
        teachers = [encoder(1), encoder(2), encoder(3)]

        def distiller(cache):
            return distiller_of(tmp_path, cache, kind=MultiTeacherDistiller, teacher=teachers)

        expected = learned(distiller(None), loader)
        with TeacherCache(tmp_path / "cache", dtype="float32") as cache:
            torch.testing.assert_close(learned(distiller(cache), loader), expected, **EXACT)


class TestSeveralTasks:
    LOADERS = {"a": batches(3), "b": [batch_of(3, 5, seed) for seed in (10, 11)]}  # noqa: RUF012

    def distiller(self, folder, cache=None, **config):
        tasks = {"a": encoder(1), "b": [encoder(2), encoder(3)]}
        return distiller_of(
            folder,
            cache,
            kind=MultiTaskDistiller,
            teacher=tasks,
            adaptor_T={"a": ADAPTOR, "b": ADAPTOR},
            adaptor_S={"a": ADAPTOR, "b": ADAPTOR},
            **{"intermediate_matches": [HIDDEN], **config},
        )

    def learned(self, distiller):
        import numpy as np

        np.random.seed(0)
        return learned(distiller, self.LOADERS, num_steps=9)

    def test_each_teacher_of_each_has_a_namespace(self, tmp_path, misses):
        expected = self.learned(self.distiller(tmp_path))
        with TeacherCache(tmp_path / "cache", dtype="float32") as cache:
            torch.testing.assert_close(self.learned(self.distiller(tmp_path, cache)), expected, **EXACT)
            assert len(cache.list()) == 3
            misses.clear()
            torch.testing.assert_close(self.learned(self.distiller(tmp_path, cache)), expected, **EXACT)
        assert not misses
        assert torch.equal(self.learned(self.distiller(tmp_path, is_caching_logits=True)), expected)

    def test_a_build_takes_a_loader_a_task(self, tmp_path, misses):
        with TeacherCache(tmp_path / "cache") as cache:
            filling = cache.build(self.distiller(tmp_path), self.LOADERS, progress_bar=False)
            assert (filling.rows, filling.computed) == (12 + 6, 12 + 6)
            misses.clear()
            self.learned(self.distiller(tmp_path, cache))
        assert not misses


def test_half_precision_of_the_run_is_a_namespace_of_its_own(tmp_path, misses):
    with TeacherCache(tmp_path / "cache", dtype="float32") as cache:
        expected = learned(distiller_of(tmp_path, training={"precision": "bf16"}))
        found = learned(distiller_of(tmp_path, cache, training={"precision": "bf16"}))
        torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-3)
        learned(distiller_of(tmp_path, cache))
        assert sorted(entry.parts["precision"] for entry in cache.list()) == ["bf16", "fp32"]
        misses.clear()
        learned(distiller_of(tmp_path, cache, training={"teacher_precision": "bf16"}))
    assert not misses


def test_accumulated_batches_and_a_partial_last_one(tmp_path):
    training = {"gradient_accumulation_steps": 2, "keep_last_accumulation": True}
    config = {"kd_loss_type": "kl", "intermediate_matches": [{**HIDDEN, "loss": "hidden_mse_valid"}]}
    expected = learned(distiller_of(tmp_path, training=training, **config))
    with TeacherCache(tmp_path / "cache", dtype="float32") as cache:
        found = learned(distiller_of(tmp_path, cache, training=training, **config))
    torch.testing.assert_close(found, expected, **EXACT)


class TestNamespaces:
    def names(self, cache):
        return {entry.name for entry in cache.list()}

    def test_another_teacher_adaptor_type_or_top_k_is_another_one(self, tmp_path):
        other = encoder(1)
        with torch.no_grad():
            other.head.bias[0] += 1e-3

        class Negated(EncoderAdaptor):
            def __call__(self, batch, outputs):
                given = super().__call__(batch, outputs)
                return {**given, "logits": -given["logits"]}

        def run(teacher=None, adaptor_T=ADAPTOR, **options):
            with TeacherCache(tmp_path / "cache", **options) as cache:
                made = distiller_of(tmp_path, cache, teacher=teacher or encoder(1), adaptor_T=adaptor_T)
                learned(made)
                return len(self.names(cache))

        counts = [run(), run(), run(other), run(adaptor_T=Negated()), run(dtype="float32"), run(top_k=1)]
        counts += [run(encoder(1).double()), run(other), run(adaptor_T=Negated())]
        assert counts == [1, 1, 2, 3, 4, 5, 6, 6, 6]

    def test_a_changed_adaptor_never_gets_the_answers_of_the_other(self, tmp_path):
        def adaptor(factor):
            return lambda b, o: {"logits": o[0] * factor, "inputs_mask": b["attention_mask"]}

        with TeacherCache(tmp_path / "cache", dtype="float32") as cache:
            for factor in (1, -3):
                expected = learned(distiller_of(tmp_path, adaptor_T=adaptor(factor)))
                found = learned(distiller_of(tmp_path, cache, adaptor_T=adaptor(factor)))
                torch.testing.assert_close(found, expected, **EXACT)

    def test_a_subclass_of_the_ready_adaptor_is_not_the_ready_one(self, tmp_path):
        class Teacher(type(encoder())):
            def forward(self, input_ids, attention_mask):
                return super().forward(input_ids, attention_mask)[0]

        class Negated(TransformersAdaptor):
            def __call__(self, batch, outputs):
                found = super().__call__(batch, outputs)
                return {**found, "logits": -found["logits"]}

        teacher = Teacher()
        with TeacherCache(tmp_path / "cache", dtype="float32") as cache:
            for adaptor in (None, TransformersAdaptor(teacher, teacher=True), Negated(teacher, teacher=True)):
                expected = learned(distiller_of(tmp_path, teacher=teacher, adaptor_T=adaptor))
                found = learned(distiller_of(tmp_path, cache, teacher=teacher, adaptor_T=adaptor))
                torch.testing.assert_close(found, expected, **EXACT)
            assert len(self.names(cache)) == 2

    def test_a_key_of_the_adaptors_own(self, tmp_path):
        class Keyed(EncoderAdaptor):
            cache_key = "mine"

        with TeacherCache(tmp_path / "cache") as cache:
            learned(distiller_of(tmp_path, cache, adaptor_T=Keyed()))
            learned(distiller_of(tmp_path, cache, adaptor_T=type("Moved", (Keyed,), {})()))
            (entry,) = cache.list()
        assert entry.parts["adaptor"] == "named mine"


class TestTransformers:
    @pytest.fixture
    def bert(self):
        transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")

        def make(seed, layers=3, head="SequenceClassification", **settings):
            torch.manual_seed(seed)
            sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "num_labels": CLASSES}
            sizes |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, **settings}
            config = transformers.BertConfig(vocab_size=50, num_hidden_layers=layers, **sizes)
            return getattr(transformers, f"BertFor{head}")(config)

        return make

    MATCHES = (
        {"layer_T": -2, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse_valid"},
        {"layer_T": 1, "layer_S": 0, "feature": "attention", "loss": "attention_mse_valid"},
        {"layer_T": "query:1", "layer_S": "query:0", "feature": "hidden", "loss": "hidden_mse_valid"},
    )

    @pytest.mark.parametrize("matches", [[], [0], [1], [0, 1, 2]], ids=str)
    @pytest.mark.parametrize("kd", [0, 1])
    def test_with_the_ready_adaptors(self, tmp_path, bert, matches, kd, misses):
        if not matches and not kd:
            return
        config = {"intermediate_matches": [self.MATCHES[i] for i in matches], "kd_loss_weight": kd}

        def run(cache):
            models = {"teacher": bert(1), "student": bert(2, layers=1), "adaptor_T": None, "adaptor_S": None}
            return learned(distiller_of(tmp_path, cache, **models, **config), [*batches(3), batch_of(4, 9)])

        expected = run(None)
        with TeacherCache(tmp_path / "cache", dtype="float32") as cache:
            for _ in range(2):
                torch.testing.assert_close(run(cache), expected, **EXACT)
            assert sum(misses) == 16

    def test_the_last_layers_are_the_last_layers_also_where_the_teacher_stops_early(self, tmp_path, bert):
        """What is stored with logits beside it, and so of the whole teacher, is found by a run that stops early."""
        match = {"layer_T": -2, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse_valid"}

        def run(cache, **config):
            models = {"teacher": bert(1), "student": bert(2, layers=1), "adaptor_T": None, "adaptor_S": None}
            return learned(distiller_of(tmp_path, cache, **models, intermediate_matches=[match], **config))

        positive = {**match, "layer_T": 2}
        models = {"teacher": bert(1), "student": bert(2, layers=1), "adaptor_T": None, "adaptor_S": None}
        expected = learned(distiller_of(tmp_path, None, **models, intermediate_matches=[positive], kd_loss_weight=0))
        torch.testing.assert_close(run(None, kd_loss_weight=0), expected, **EXACT)
        with TeacherCache(tmp_path / "cache", dtype="float32") as cache:
            torch.testing.assert_close(run(cache, kd_loss_weight=0), expected, **EXACT)
            run(cache)
            torch.testing.assert_close(run(cache, kd_loss_weight=0), expected, **EXACT)

    def test_answers_in_a_text(self, tmp_path, bert, misses):
        loader = [
            {k: v for k, v in batch.items() if k != "labels"}
            | {"start_positions": torch.zeros(4).long(), "end_positions": torch.zeros(4).long()}
            for batch in [*batches(2), batch_of(4, 9)]
        ]

        def run(cache, **config):
            models = {
                "teacher": bert(1, head="QuestionAnswering", num_labels=2),
                "student": bert(2, layers=1, head="QuestionAnswering", num_labels=2),
            }
            return learned(distiller_of(tmp_path, cache, **models, adaptor_T=None, adaptor_S=None, **config), loader)

        for config in ({}, {"probability_shift": True}):
            expected = run(None, **config)
            with TeacherCache(tmp_path / "cache", dtype="float32") as cache:
                torch.testing.assert_close(run(cache, **config), expected, **EXACT)

    def test_attention_is_switched_back(self, tmp_path, bert):
        teacher = bert(1)
        before = teacher.config._attn_implementation
        models = {"teacher": teacher, "student": bert(2, layers=1), "adaptor_T": None, "adaptor_S": None}
        with TeacherCache(tmp_path / "cache") as cache:
            learned(distiller_of(tmp_path, cache, **models, intermediate_matches=[self.MATCHES[1]]))
            cache.build(teacher, batches(2), attention=[0], progress_bar=False)
        assert teacher.config._attn_implementation == before != "eager"
        assert teacher.training


class TestBadInput:
    def test_a_path_that_is_a_file_or_below_one(self, tmp_path):
        file = tmp_path / "file"
        file.write_text("x")
        for path in (file, file / "cache"):
            with pytest.raises(CacheError, match=f"{file} is a file; a teacher cache is a folder"):
                TeacherCache(path)

    def test_a_folder_of_other_things(self, tmp_path):
        (tmp_path / "notes.txt").write_text("x")
        with pytest.raises(CacheError, match="holds other things than a teacher cache"):
            TeacherCache(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]

    @pytest.mark.parametrize("about", ['{"format": 99}', "garbage", "[]", "{}"])
    def test_another_format_is_refused_and_left_alone(self, tmp_path, about):
        with TeacherCache(tmp_path / "cache") as cache:
            learned(distiller_of(tmp_path, cache))
        file = tmp_path / "cache" / "teacher-cache.json"
        file.write_text(about)
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}
        with pytest.raises(
            CacheError, match=r"of format (99|unreadable), and this version reads 1; give another folder"
        ):
            TeacherCache(tmp_path / "cache")
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")} == before

    def test_what_a_kill_left_before_the_first_file_was_whole(self, tmp_path):
        folder = tmp_path / "cache"
        folder.mkdir()
        (folder / ".teacher-cache.json.123.partial").write_text("{")
        with TeacherCache(folder) as cache:
            learned(distiller_of(tmp_path, cache))
            assert cache.list()[0].records == 12

    def test_the_first_file_says_what_the_folder_is(self, tmp_path, monkeypatch):
        """A process that is stopped in between leaves a folder that can be used."""
        written = []

        def stopping(file):
            written.append(file.name)
            raise KeyboardInterrupt

        monkeypatch.setattr(caches, "replaced", stopping)
        with pytest.raises(KeyboardInterrupt):
            learned(distiller_of(tmp_path, TeacherCache(tmp_path / "cache")))
        assert written == ["teacher-cache.json"]
        assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").iterdir())

    def test_settings_that_can_not_be_used_are_said_all_at_once(self, tmp_path):
        with pytest.raises(ConfigError) as error:
            TeacherCache(tmp_path / "cache", dtype="float8", max_bytes=0, top_k=-1)
        assert [problem.path for problem in error.value.problems] == ["dtype", "max_bytes", "top_k"]
        assert "one of 'float16', 'bfloat16', 'float32', 'float64', got 'float8'" in str(error.value)
        for bad in ({"dtype": torch.float16}, {"max_bytes": "1GB"}, {"max_bytes": True}, {"top_k": 1.5}):
            with pytest.raises(ConfigError):
                TeacherCache.in_memory(**bad)
        assert not (tmp_path / "cache").exists()

    def test_reading_only_what_is_not_there(self, tmp_path):
        with pytest.raises(CacheError, match="there is no teacher cache to read; fill one first"):
            TeacherCache(tmp_path / "cache", read_only=True)
        (tmp_path / "empty").mkdir()
        with pytest.raises(CacheError, match="there is no teacher cache to read; fill one first"):
            TeacherCache(tmp_path / "empty", read_only=True)

    def test_reading_only_of_another_teacher_lists_those_that_are_there(self, tmp_path):
        with TeacherCache(tmp_path / "cache") as cache:
            learned(distiller_of(tmp_path, cache))
            (entry,) = cache.list()
        with TeacherCache(tmp_path / "cache", read_only=True) as cache:
            with pytest.raises(
                CacheError, match=rf"this teacher has nothing in the read-only cache(.|\n)*{entry.name[:12]}"
            ):
                learned(distiller_of(tmp_path, cache, teacher=encoder(7)))
            assert [found.name for found in cache.list()] == [entry.name]

    def test_reading_only_a_row_that_is_missing(self, tmp_path):
        with TeacherCache(tmp_path / "cache") as cache:
            learned(distiller_of(tmp_path, cache), batches(2))
        with TeacherCache(tmp_path / "cache", read_only=True) as cache:
            learned(distiller_of(tmp_path, cache), batches(2))
            with pytest.raises(CacheError, match=r"4 rows of this batch are not in the read-only cache; open it"):
                learned(distiller_of(tmp_path, cache), batches(3))
            for call in (lambda: cache.build(encoder(1), batches(1), adaptor=ADAPTOR), lambda: cache.prune(["a"])):
                with pytest.raises(CacheError, match="read-only"):
                    call()

    def test_a_teacher_with_dropout_on(self, tmp_path):
        class Restless(type(encoder())):
            def forward(self, input_ids, attention_mask, labels=None):
                logits, *others = super().forward(input_ids, attention_mask)
                return nn.functional.dropout(logits, 0.5), *others

        with TeacherCache(tmp_path / "cache") as cache:
            with pytest.raises(CacheError, match="two answers for one input"):
                learned(distiller_of(tmp_path, cache, teacher=Restless()))
            assert cache.list()[0].records == 0

    def test_a_batch_without_rows(self, tmp_path):
        def adaptor(batch, outputs):
            return {"logits": outputs}

        class One(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.ones(2, 3))

            def forward(self, scale):
                return self.weight * scale

        with TeacherCache(tmp_path / "cache") as cache:
            made = distiller_of(
                tmp_path, cache, teacher=One(), student=One(), adaptor_T=adaptor, adaptor_S=adaptor, kd_loss_type="mse"
            )
            with pytest.raises(CacheError, match="batches whose rows can be told apart"):
                learned(made, [{"scale": 2.0}])

    @pytest.mark.parametrize("harm", ["cut", "garbage"])
    def test_a_file_that_is_damaged_is_one_error_and_can_be_pruned(self, tmp_path, harm):
        with TeacherCache(tmp_path / "cache") as cache:
            learned(distiller_of(tmp_path, cache))
        file = next((tmp_path / "cache").glob("*/shard-000/data.mdb"))
        if harm == "cut":
            file.write_bytes(file.read_bytes()[:9000])
        else:
            file.write_bytes(b"garbage" * 5000)
        with TeacherCache(tmp_path / "cache") as cache:
            name = file.parent.parent.name
            for call in (lambda: learned(distiller_of(tmp_path, cache)), cache.list, cache.verify):
                with pytest.raises(
                    CacheError, match=rf"{name}/shard-000: no teacher cache can be read.*delete this folder"
                ):
                    call()
            assert cache.prune([name[:6]]) == (name,)
            learned(distiller_of(tmp_path, cache))
            assert cache.list()[0].records == 12

    def test_a_cache_that_is_closed_in_the_middle_of_a_run(self, tmp_path):
        cache = TeacherCache(tmp_path / "cache")
        loader = [*batches(1), "close", *batches(2)]

        class Loader(list):
            def __iter__(self):
                for batch in loader:
                    if batch == "close":
                        cache.close()
                    else:
                        yield batch

        with pytest.raises(CacheError, match="was closed while a run uses it"):
            learned(distiller_of(tmp_path, cache), Loader(batches(3)), num_epochs=1)
        learned(distiller_of(tmp_path, cache))  # and it can be used again
        cache.close()


def flip(folder, number=3):
    """Change a byte of some records behind the cache's back."""
    for shard in folder.glob("*/shard-*"):
        with lmdb.open(str(shard), map_size=2**30) as environment, environment.begin(write=True) as transaction:
            for key, record in list(transaction.cursor())[:number]:
                transaction.put(key, bytes([record[0] ^ 64]) + record[1:])


class TestDamage:
    def test_a_damaged_record_is_computed_again_and_this_is_said(self, tmp_path, misses, caplog):
        with TeacherCache(tmp_path / "cache", dtype="float32") as cache:
            expected = learned(distiller_of(tmp_path, cache))
        flip(tmp_path / "cache")
        misses.clear()
        with TeacherCache(tmp_path / "cache", dtype="float32") as cache, caplog.at_level(logging.WARNING, "textbrewer"):
            torch.testing.assert_close(learned(distiller_of(tmp_path, cache)), expected, **EXACT)
            assert sum(misses) == 3
            assert sum("a record is damaged; the teacher computes it again" in r.message for r in caplog.records) == 1
            cache.flush()
            ((_, found),) = cache.verify().items()
            assert found == (12, 0)

    def test_verify_finds_deletes_and_says(self, tmp_path, misses, caplog):
        with TeacherCache(tmp_path / "cache") as cache:
            learned(distiller_of(tmp_path, cache))
            ((name, found),) = cache.verify().items()  # while it is open
            assert found == (12, 0)
        flip(tmp_path / "cache")
        with TeacherCache(tmp_path / "cache", read_only=True) as cache, caplog.at_level(logging.WARNING, "textbrewer"):
            assert cache.verify() == {name: (9, 3)} == cache.verify()
            assert "3 records damaged, in a cache that is read-only" in caplog.text
        with TeacherCache(tmp_path / "cache") as cache, caplog.at_level(logging.WARNING, "textbrewer"):
            assert cache.verify() == {name: (9, 3)}
            assert "3 records damaged, deleted" in caplog.text
            assert cache.verify() == {name: (9, 0)}
            misses.clear()
            learned(distiller_of(tmp_path, cache))
            assert sum(misses) == 3

    def test_in_memory_there_is_nothing_to_find(self, tmp_path):
        cache = TeacherCache.in_memory()
        learned(distiller_of(tmp_path, cache))
        assert list(cache.verify().values()) == [(12, 0)]


class TestNoRoom:
    LOADER = tuple(batches(30))

    def check(self, folder, cache, reason, misses):
        """One warning; training as without a cache; what is stored is used."""
        config = {"intermediate_matches": [HIDDEN]}
        expected = learned(distiller_of(folder, **config), self.LOADER)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.testing.assert_close(learned(distiller_of(folder, cache, **config), self.LOADER), expected, **EXACT)
        said = [str(warning.message) for warning in caught if "takes nothing more" in str(warning.message)]
        assert len(said) == 1 and reason in said[0]
        assert "the teacher computes the other rows each time" in said[0]
        if cache.path is not None:
            cache.flush()
        kept = cache.list()[0].records // 2
        assert 0 < kept < 120
        misses.clear()
        learned(distiller_of(folder, cache, **config), self.LOADER)
        assert sum(misses) == 2 * (120 - kept)

    @pytest.mark.parametrize("in_memory", [True, False])
    def test_max_bytes(self, tmp_path, in_memory, misses):
        size = {"dtype": "float64", "max_bytes": 20_000 if in_memory else 48_000}
        cache = TeacherCache.in_memory(**size) if in_memory else TeacherCache(tmp_path / "cache", **size)
        with cache:
            self.check(tmp_path, cache, f"max_bytes={cache.max_bytes:,} is reached", misses)
            assert (
                cache.size() <= cache.max_bytes + 2**15
            )  # a transaction touches some pages more than its records fill

    def test_a_disk_that_fills_up(self, tmp_path, monkeypatch, misses):
        free = iter([2**30] * 10 + [2**20] * 1000)
        monkeypatch.setattr(caches, "free_bytes", lambda folder: next(free))
        with TeacherCache(tmp_path / "cache", dtype="float32") as cache:
            self.check(tmp_path, cache, f"the disk of {tmp_path / 'cache'} is full", misses)

    def test_a_disk_that_refuses(self, tmp_path, monkeypatch, misses):
        """Some other process takes the room between the look and the write."""
        monkeypatch.setattr(stores, "_PENDING_BYTES", 1)
        monkeypatch.setattr(stores, "_MAP_BYTES", 2**16)
        with TeacherCache(tmp_path / "cache", dtype="float32") as cache:
            self.check(tmp_path, cache, "MDB_MAP_FULL", misses)

    def test_a_build_stops_there(self, tmp_path):
        teacher = encoder(1)
        with TeacherCache(tmp_path / "cache", "float64", max_bytes=48_000) as cache:
            counted = Counted(teacher)
            with pytest.warns(UserWarning, match="takes nothing more"):
                filling = cache.build(teacher, self.LOADER, adaptor=ADAPTOR, hidden=[2], progress_bar=False)
        assert filling.rows < 120 and counted.rows < 120

    def test_pruning_makes_room(self, tmp_path, misses):
        with TeacherCache(tmp_path / "cache", "float64", max_bytes=48_000) as cache:
            with pytest.warns(UserWarning, match="takes nothing more"):
                learned(distiller_of(tmp_path, cache, intermediate_matches=[HIDDEN]), self.LOADER)
            cache.prune([entry.name for entry in cache.list()])
            learned(distiller_of(tmp_path, cache, teacher=encoder(2)), self.LOADER[:2])
            assert cache.list()[0].records == 8

    def test_too_little_room_is_said_before_it_is_used(self, tmp_path):
        rows = batch_of(500)
        dataset = [{key: value[i] for key, value in rows.items()} for i in range(500)]
        loader = torch.utils.data.DataLoader(dataset, batch_size=10)
        config = {"intermediate_matches": [HIDDEN]}
        with (
            TeacherCache(tmp_path / "cache", dtype="float32", max_bytes=90_000) as cache,
            pytest.warns(UserWarning) as said,
        ):
            learned(distiller_of(tmp_path, cache, **config), loader, num_epochs=1)
        first, last = (str(warning.message) for warning in said)
        assert "for 500 rows" in first and "there is room for 90.0 kB: match fewer layers, match a pooled" in first
        assert "takes nothing more: max_bytes=90,000 is reached" in last

    def test_enough_room_is_said_beside_what_is_free(self, tmp_path, caplog, capsys):
        rows = batch_of(40)
        dataset = [{key: value[i] for key, value in rows.items()} for i in range(40)]
        with TeacherCache(tmp_path / "cache") as cache, caplog.at_level(logging.INFO, "textbrewer"):
            learned(distiller_of(tmp_path, cache), torch.utils.data.DataLoader(dataset, batch_size=10), num_epochs=1)
        (said,) = [record.message for record in caplog.records if "for 40 rows" in record.message]
        assert said.endswith(" free")
        assert said in capsys.readouterr().err


class TestBuild:
    CONFIG = {"intermediate_matches": [HIDDEN, {**ATTENTION, "loss": "attention_mse"}]}  # noqa: RUF012

    def test_a_distiller_tells_what_is_kept(self, tmp_path, misses):
        distiller = distiller_of(tmp_path, **self.CONFIG)
        before = {name: value.clone() for name, value in distiller.model_S.state_dict().items()}
        with TeacherCache(tmp_path / "cache") as cache:
            filling = cache.build(distiller, batches(3), progress_bar=False)
            assert (filling.rows, filling.computed) == (12, 12)
            assert filling.size_bytes == cache.size() > 0 and filling.seconds > 0
            assert cache.list()[0].records == 12 * 3
            again = cache.build(distiller, batches(3), progress_bar=False)
            assert (again.rows, again.computed) == (12, 0)
            misses.clear()
            learned(distiller_of(tmp_path, cache, **self.CONFIG))
        assert not misses
        assert distiller.teacher_cache is None
        assert all(torch.equal(before[name], value) for name, value in distiller.model_S.state_dict().items())

    def test_a_bare_teacher_with_what_to_keep(self, tmp_path, misses):
        teacher = encoder(1).train()
        with TeacherCache(tmp_path / "cache") as cache:
            cache.build(teacher, batches(3), adaptor=ADAPTOR, hidden=[2], attention=[-1], progress_bar=False)
            assert teacher.training
            misses.clear()
            learned(distiller_of(tmp_path, cache, **self.CONFIG))
            assert not misses
            learned(distiller_of(tmp_path, cache, intermediate_matches=[{**HIDDEN, "layer_T": 1}]))
        assert sum(misses) == 12

    def test_a_bare_teacher_of_transformers(self, tmp_path, misses):
        transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")
        config = transformers.BertConfig(
            vocab_size=50, hidden_size=8, num_attention_heads=2, num_hidden_layers=2, intermediate_size=8, num_labels=3
        )
        models = [transformers.BertForSequenceClassification(config) for _ in range(2)]
        with TeacherCache(tmp_path / "cache") as cache:
            cache.build(models[0], batches(3), hidden=[1], progress_bar=False)
            misses.clear()
            made = distiller_of(
                tmp_path,
                cache,
                teacher=models[0],
                student=models[1],
                adaptor_T=None,
                adaptor_S=None,
                intermediate_matches=[{**HIDDEN, "layer_T": 1}],
            )
            learned(made)
        assert not misses

    def test_a_build_for_several_teachers(self, tmp_path, misses):
        def distiller(cache=None):
            return distiller_of(tmp_path, cache, kind=MultiTeacherDistiller, teacher=[encoder(1), encoder(2)])

        with TeacherCache(tmp_path / "cache") as cache:
            filling = cache.build(distiller(), batches(3), progress_bar=False)
            assert (filling.rows, filling.computed) == (12, 12)
            assert [entry.records for entry in cache.list()] == [12, 12]
            misses.clear()
            learned(distiller(cache))
        assert not misses

    def test_a_build_that_was_stopped_goes_on(self, tmp_path):
        class Stops(list):
            def __iter__(self):
                yield from list.__iter__(self)
                raise KeyboardInterrupt

        with TeacherCache(tmp_path / "cache") as cache, pytest.raises(KeyboardInterrupt):
            cache.build(distiller_of(tmp_path), Stops(batches(2)), progress_bar=False)
        with TeacherCache(tmp_path / "cache") as cache:
            filling = cache.build(distiller_of(tmp_path), batches(5), progress_bar=False)
        assert (filling.rows, filling.computed) == (20, 12)

    def test_keywords_of_the_pass(self, tmp_path, misses):
        with TeacherCache(tmp_path / "cache") as cache:
            cache.build(distiller_of(tmp_path), batches(3), progress_bar=False, scale=2.0)
            misses.clear()
            learned(distiller_of(tmp_path, cache), num_epochs=1, scale=2.0)
            assert not misses
            learned(distiller_of(tmp_path, cache), num_epochs=1)
            assert sum(misses) == 12

    def test_progress_is_shown(self, tmp_path, capsys):
        with TeacherCache(tmp_path / "cache") as cache:
            cache.build(encoder(1), batches(3), adaptor=ADAPTOR)
        shown = capsys.readouterr().err
        assert "12row" in shown and "row/s" in shown

    def test_a_build_in_memory(self, tmp_path, misses):
        cache = TeacherCache.in_memory()
        cache.build(distiller_of(tmp_path), batches(3), progress_bar=False)
        misses.clear()
        learned(distiller_of(tmp_path, cache))
        assert not misses

    @pytest.mark.parametrize("precision", ["bf16", "int8"])
    def test_a_bare_teacher_computes_in_the_precision_of_the_run_to_come(self, tmp_path, misses, precision):
        transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")
        config = transformers.BertConfig(
            vocab_size=50, hidden_size=8, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8, num_labels=3
        )
        torch.manual_seed(1)
        teacher = transformers.BertForSequenceClassification(config).eval()

        def student(cache=None, **training):
            return learned(distiller_of(tmp_path, cache, teacher=teacher, adaptor_T=None, training=training))

        with TeacherCache(tmp_path / "cache", dtype="float32") as cache:
            cache.build(teacher, batches(3), precision=precision, progress_bar=False)
            (entry,) = cache.list()
            assert entry.parts["precision"] == precision and type(teacher.classifier) is nn.Linear
            misses.clear()
            found = student(cache, teacher_precision=precision)
            assert not misses
            student(cache)
            assert sum(misses) == 12
        torch.testing.assert_close(found, student(teacher_precision=precision), **EXACT)
        assert not torch.equal(found, student())

    @pytest.mark.parametrize("precision", [None, "fp32"])
    def test_a_bare_teacher_computes_in_the_precision_of_its_weights(self, tmp_path, precision):
        with TeacherCache(tmp_path / "cache") as cache:
            cache.build(encoder(1), batches(1), adaptor=ADAPTOR, precision=precision, progress_bar=False)
            assert [entry.parts["precision"] for entry in cache.list()] == ["fp32"]

    def test_a_precision_that_cannot_be_used_is_refused_with_the_way_out(self, tmp_path):
        with TeacherCache(tmp_path / "cache") as cache:
            with pytest.raises(ConfigError, match=r"`precision`: expected one of 'fp32', .*, 'int8', got 'fp8'"):
                cache.build(encoder(1), batches(1), adaptor=ADAPTOR, precision="fp8")
            with pytest.raises(ConfigError, match="got 'bf16'; a distiller's is in its TrainingConfig"):
                cache.build(distiller_of(tmp_path), batches(1), precision="bf16")
            assert cache.list() == []

    def test_what_has_no_teacher_is_refused(self, tmp_path):
        config = TrainingConfig(output_dir=str(tmp_path), device="cpu", progress_bar=False)
        with TeacherCache(tmp_path / "cache") as cache:
            with pytest.raises(UnsupportedError, match="BasicTrainer has no teacher whose outputs could be cached"):
                cache.build(BasicTrainer(config, encoder(1), ADAPTOR), batches(1), progress_bar=False)
            with pytest.raises(ConfigError, match=r"a distiller or a teacher \(nn.Module\), got str"):
                cache.build("teacher", batches(1))


class TestHousekeeping:
    def test_list_tells_what_each_teacher_has(self, tmp_path):
        with TeacherCache(tmp_path / "cache") as cache:
            assert cache.list() == []
            learned(distiller_of(tmp_path, cache))
            cache.flush()
            (entry,) = cache.list()
        assert (entry.teacher, entry.dtype, entry.records) == ("Encoder", "float16", 12)
        assert entry.size_bytes > 0 and abs(time.time() - entry.last_used) < 60
        assert entry.parts.keys() == {"weights", "architecture", "adaptor", "precision", "dtype", "top_k"}
        assert str(entry).startswith(f"{entry.name[:12]}  Encoder  float16  12 records")
        with TeacherCache(tmp_path / "cache", dtype="float32") as cache:
            learned(distiller_of(tmp_path, cache, teacher=encoder(2)))
            cache.flush()
            assert [found.dtype for found in cache.list()] == ["float32", "float16"]

    def test_list_waits_for_what_is_being_written(self, tmp_path, monkeypatch):
        real = stores.checksum
        monkeypatch.setattr(stores, "checksum", lambda record: (time.sleep(0.01), real(record))[1])
        with TeacherCache(tmp_path / "cache") as cache:
            learned(distiller_of(tmp_path, cache))
            assert cache.list()[0].records == 12

    def test_list_in_memory(self, tmp_path):
        cache = TeacherCache.in_memory()
        learned(distiller_of(tmp_path, cache))
        (entry,) = cache.list()
        assert entry.records == 12 and entry.size_bytes == cache.size() > 0

    def test_prune_deletes_what_is_named_or_old(self, tmp_path):
        with TeacherCache(tmp_path / "cache") as cache:
            for seed in (1, 2, 3):
                learned(distiller_of(tmp_path, cache, teacher=encoder(seed)))
            names = [entry.name for entry in cache.list()]
            with pytest.raises(CacheError, match=r"'x' fits 0 namespaces"):
                cache.prune(["x"])
            with pytest.raises(CacheError, match=r"'' fits 3 namespaces"):
                cache.prune("")
            assert cache.prune() == () and cache.prune(unused_days=1) == ()
            assert cache.prune(names[0][:8]) == (names[0],)
            assert {entry.name for entry in cache.list()} == set(names[1:])
            assert not (tmp_path / "cache" / names[0]).exists()
            assert set(cache.prune([names[1], names[1]], unused_days=0)) == set(names[1:])
            assert cache.list() == []
            learned(distiller_of(tmp_path, cache))  # a pruned teacher begins again
            assert cache.list()[0].records == 12

    def test_prune_in_memory(self, tmp_path):
        cache = TeacherCache.in_memory()
        learned(distiller_of(tmp_path, cache))
        (entry,) = cache.list()
        assert cache.prune([entry.name]) == (entry.name,)
        assert cache.list() == [] and cache.size() == 0

    def test_what_a_namespace_is_made_of_is_written_beside_it(self, tmp_path):
        with TeacherCache(tmp_path / "cache") as cache:
            learned(distiller_of(tmp_path, cache))
            (entry,) = cache.list()
        about = json.loads((tmp_path / "cache" / entry.name / "teacher.json").read_text())
        assert about == {"teacher": "Encoder", "dtype": "float16", "parts": dict(entry.parts)}

    def test_two_caches_of_one_folder_in_one_process(self, tmp_path, misses):
        with TeacherCache(tmp_path / "cache") as one, TeacherCache(tmp_path / "cache") as other:
            learned(distiller_of(tmp_path, one))
            one.flush()
            misses.clear()
            learned(distiller_of(tmp_path, other))
        assert not misses

    def test_the_models_come_back_as_they_were(self, tmp_path):
        teacher = encoder(1).train()
        teacher.layers[0].eval()
        before = {name: dict(vars(module)) for name, module in teacher.named_modules()}
        with TeacherCache(tmp_path / "cache") as cache:
            distiller = distiller_of(
                tmp_path, cache, teacher=teacher, intermediate_matches=[{**HIDDEN, "layer_T": "layers.1"}]
            )
            learned(distiller)
        after = {name: dict(vars(module)) for name, module in teacher.named_modules()}
        assert before == after


def test_the_config_of_the_drop_in_api_is_untouched():
    assert DistillationConfig().is_caching_logits is False


def test_a_multi_task_build_names_the_tasks_without_a_loader(tmp_path):
    teachers = {"a": encoder(0), "b": encoder(1)}
    adaptors = dict.fromkeys(teachers, ADAPTOR)
    train = TrainingConfig(output_dir=tmp_path, device="cpu", progress_bar=False)
    distiller = MultiTaskDistiller(train, DistillationConfig(), teachers, encoder(2), adaptors, adaptors)
    cache = TeacherCache.in_memory()
    with pytest.raises(ConfigError, match="dataloaders"):
        cache.build(distiller, {"a": [batch_of()]}, progress_bar=False)
    with pytest.raises(ConfigError, match="a dict with the tasks"):
        cache.build(distiller, [batch_of()], progress_bar=False)


def test_what_is_built_is_cut_as_it_is_in_training(tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")
    small = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 40}
    teacher, student = (
        transformers.BertForSequenceClassification(transformers.BertConfig(num_hidden_layers=layers, **small))
        for layers in (2, 1)
    )
    mask = torch.zeros(4, 9).long()
    mask[:, :5] = 1
    batch = {"input_ids": torch.randint(1, 40, (4, 9)), "attention_mask": mask}
    own = {"layer_T": 1, "layer_S": 1, "feature": "hidden", "loss": lambda S, T, mask=None: ((S - T) ** 2).mean()}
    config = DistillationConfig(intermediate_matches=[own])
    cache = TeacherCache.in_memory()
    train = TrainingConfig(output_dir=tmp_path, device="cpu", progress_bar=False, save_state=False)
    distiller = GeneralDistiller(train, config, teacher, student, teacher_cache=cache)
    assert cache.build(distiller, [batch], progress_bar=False).computed == 4
    records = cache.list()[0].records
    distiller.train(torch.optim.SGD(student.parameters(), lr=0.1), [batch], num_epochs=1)
    assert cache.list()[0].records == records


@pytest.mark.parametrize("masked", [True, False], ids=["student tells its mask", "student tells none"])
def test_a_build_keeps_what_training_looks_for_whether_the_student_tells_a_mask_or_not(tmp_path, misses, masked):
    def adaptor(batch, outputs):
        given = ADAPTOR(batch, outputs)
        return given if masked else {key: value for key, value in given.items() if key != "inputs_mask"}

    def distiller(cache=None):
        config = TrainingConfig(output_dir=str(tmp_path), device="cpu", progress_bar=False)
        terms = DistillationConfig(intermediate_matches=[HIDDEN])
        return GeneralDistiller(config, terms, encoder(1), encoder(2), ADAPTOR, adaptor, teacher_cache=cache)

    with TeacherCache(tmp_path / "cache") as cache:
        before = torch.get_rng_state()
        assert cache.build(distiller(), batches(3), progress_bar=False).computed == 12
        assert torch.equal(before, torch.get_rng_state())
        misses.clear()
        learned(distiller(cache))
    assert not misses
