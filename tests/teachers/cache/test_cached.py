"""A teacher behind a cache gives what the teacher gives, whatever the batches look like."""

from __future__ import annotations

import itertools
import logging
from collections import UserDict, namedtuple
from types import SimpleNamespace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from tests.teachers.cache.teaching import ADAPTOR, HIDDEN, Counted, behind
from tests.tiny import CLASSES, VOCABULARY, EncoderAdaptor, batch_of, encoder
from textbrewer import TeacherCache
from textbrewer.configs import IntermediateMatch
from textbrewer.errors import AdaptorError, CacheError
from textbrewer.feeding import sides
from textbrewer.teachers import Reads

TOLERANCE = {
    "float16": {"rtol": 1e-3, "atol": 1e-4},
    "bfloat16": {"rtol": 1e-2, "atol": 1e-3},
    "float32": {"rtol": 1e-5, "atol": 1e-6},
    "float64": {"rtol": 1e-5, "atol": 1e-6},
}
ALL = Reads(layers={"hidden": (0, -1), "attention": (0, 1)}, over_heads={1: "sum"})
TEXTS = [[3], [4, 5], [6, 7, 8], [3, 9], [10, 11, 12, 13], [14] * 4, [3, 4, 5, 6, 7], [5, 4]]


def padded(texts, length=None, pad=0, left=False):
    length = length or max(map(len, texts))
    fill = [[pad] * (length - len(text)) for text in texts]
    ids = [f + t if left else t + f for f, t in zip(fill, texts, strict=True)]
    mask = [
        [0] * len(f) + [1] * len(t) if left else [1] * len(t) + [0] * len(f) for f, t in zip(fill, texts, strict=True)
    ]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def ask(source, batch, mask="attention_mask", **args):
    """What a source gives for a batch, whose student would tell this mask."""
    mask = batch[mask] if isinstance(mask, str) else mask
    return source(sides(batch), args, mask)


def tensors(outputs):
    """Every tensor there is, by name."""
    found = {f"logits:{i}": value for i, value in enumerate(outputs.logits)}
    found |= {f"hidden:{i}": value for i, value in enumerate(outputs.hidden) if value is not None}
    found |= {f"attention:{i}": value for i, value in enumerate(outputs.attention) if value is not None}
    return found | {f"modules:{name}": value for name, value in outputs.modules.items()}


def real(values, length, name):
    """A row's part without padding."""
    axes = {"hidden": (0,), "attention": (-1, -2)}.get(name.split(":")[0], ())
    for axis in axes:
        values = values.narrow(axis, 0, length)
    return values


def assert_same(found, expected, **tolerance):
    """Exactly the same tensors, padding too."""
    found, expected = tensors(found), tensors(expected)
    assert found.keys() <= expected.keys() and found
    for name, value in found.items():
        torch.testing.assert_close(value.to(expected[name].dtype), expected[name], **tolerance)


batches_of_texts = st.lists(
    st.tuples(st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=5), st.integers(0, 3)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(batches=batches_of_texts, dtype=st.sampled_from(list(TOLERANCE)), on_disk=st.sampled_from([False, False, True]))
def test_a_hit_is_what_the_teacher_gives_and_a_first_sight_is_a_later_one(tmp_path_factory, batches, dtype, on_disk):
    # Of a first batch of one column nobody can tell what padding would do; its rows are computed again later.
    assume(any(row for row in batches[0][0]) or batches[0][1])
    cache = TeacherCache(tmp_path_factory.mktemp("run") / "cache", dtype) if on_disk else TeacherCache.in_memory(dtype)
    teacher, seen = encoder(1, layers=2), {}
    with cache, behind(cache, teacher, ALL) as (source, live):
        for rows, extra in [*batches, *batches]:
            batch = padded([TEXTS[row] for row in rows], max(len(TEXTS[row]) for row in rows) + extra)
            found, expected = ask(source, batch), ask(live, batch)
            assert [layer is None for layer in found.hidden] == [False, True, False]
            for name, value in tensors(found).items():
                wanted = tensors(expected)[name]
                wanted = wanted.sum(1) if name == "attention:1" else wanted
                assert value.shape == wanted.shape
                for place, row in enumerate(rows):
                    own, length = value[place], len(TEXTS[row])
                    own = real(own, length, name)
                    torch.testing.assert_close(
                        own.double(), real(wanted[place], length, name).double(), **TOLERANCE[dtype]
                    )
                    assert torch.equal(seen.setdefault((name, row), own.clone()), own)
        known, misses = set(), 0
        for rows, _ in batches:
            misses += sum(row not in known for row in rows)
            known.update(rows)
        assert source.misses == misses


def test_every_row_is_computed_once_in_as_small_a_batch_as_there_is():
    teacher = encoder(1)
    with behind(TeacherCache.in_memory(), teacher) as (source, _):
        ask(source, padded(TEXTS[:3], 9))
        counted = Counted(teacher)
        ask(source, padded([TEXTS[0], TEXTS[3], TEXTS[1], TEXTS[3], TEXTS[7]], 9))
        ask(source, padded(TEXTS[:4], 6))
    assert counted.shapes == [(2, 2)]
    assert (source.hits, source.misses) == (2 + 4, 3 + 3)


def test_the_student_gets_ordinary_tensors():
    with behind(TeacherCache.in_memory("float16"), encoder(1)) as (source, _):
        for _ in range(2):
            found = ask(source, padded(TEXTS))
            assert not any(value.requires_grad or value.is_inference() for value in tensors(found).values())


@pytest.mark.parametrize("left", [False, True])
def test_left_padding_and_full_batches(left):
    teacher = encoder(1, layers=2)
    batches = [padded(TEXTS, 6, left=left), padded(TEXTS[::-1], 5, left=left), padded([TEXTS[4], TEXTS[5]], left=left)]
    with behind(TeacherCache.in_memory("float64"), teacher, Reads()) as (source, live):
        for batch in [*batches, *batches]:
            assert_same(ask(source, batch), ask(live, batch))
        # On the left, a text is found again under the same padding alone.
        assert source.misses == (8 + 8 + 2 if left else 8)


class TestPadding:
    """Where padding may be read it is kept in the key, and the answer is exactly the teacher's."""

    def exact(self, teacher, batches, reads=HIDDEN, adaptor=ADAPTOR, mask="attention_mask", misses=None):
        with behind(TeacherCache.in_memory("float64"), teacher, reads, adaptor) as (source, live):
            for batch in [*batches, *batches]:
                assert_same(ask(source, batch, mask), ask(live, batch, mask), rtol=0, atol=1e-6)
            if misses is not None:
                assert source.misses == misses
            return source.plan

    BATCHES = (padded(TEXTS[:4], 6), padded(TEXTS[2:6], 6), padded(TEXTS[:2], 3))

    def test_a_student_that_tells_no_mask(self):
        self.exact(encoder(1), self.BATCHES, mask=None, misses=4 + 2 + 2)

    def test_a_student_that_says_padding_is_real(self):
        ones = [{**batch, "ones": torch.ones_like(batch["attention_mask"])} for batch in self.BATCHES]

        class Encoder(type(encoder())):
            def forward(self, input_ids, attention_mask, ones):
                return super().forward(input_ids, attention_mask)

        teacher = Encoder()
        assert not self.exact(teacher, ones, mask="ones").stripped

    def test_a_student_that_says_so_only_when_there_is_padding(self):
        full = padded(TEXTS[4:6])
        with behind(TeacherCache.in_memory("float64"), encoder(1), HIDDEN) as (source, live):
            for batch in (full, *self.BATCHES, full):
                ones = torch.ones_like(batch["attention_mask"])
                assert_same(ask(source, batch, ones), ask(live, batch, ones), rtol=0, atol=1e-6)
        assert not source.plan.stripped

    def test_a_loss_of_the_users_own(self):
        match = IntermediateMatch(layer_T=1, layer_S=1, feature="hidden", loss=lambda S, T, mask=None: (S - T).sum())
        assert not self.exact(encoder(1), self.BATCHES, Reads.of([match])).stripped

    def test_batches_of_two_sides(self):
        with behind(TeacherCache.in_memory("float64"), encoder(1), HIDDEN) as (source, live):
            for batch in self.BATCHES * 2:
                fed = sides({"teacher": batch, "student": padded(TEXTS[:4], 6)})
                mask = fed.student["attention_mask"]
                assert_same(source(fed, {}, mask), live(fed, {}, mask), rtol=0, atol=1e-6)

    @pytest.mark.parametrize(
        "first",
        [TEXTS[:4], TEXTS[4:6], [[5] * 200 + [7] * 200, [5] * 200 + [7] * 199], [[5] * 400, [6] * 399]],
        ids=["short", "full", "long", "dull"],
    )
    def test_a_teacher_that_averages_over_padding_too(self, first):
        class Mean(nn.Module):
            def __init__(self):
                super().__init__()
                self.embedding = nn.Embedding(VOCABULARY, CLASSES)

            def forward(self, input_ids, attention_mask):
                return self.embedding(input_ids).mean(1)

        longer = padded(first, max(map(len, first)) * 5 // 4 + 1)
        batches = [padded(first), longer, padded(TEXTS[:4], 64), padded(TEXTS[2:6], 6), padded(TEXTS[:2], 3)]
        plan = self.exact(Mean(), batches, Reads(), lambda b, o: {"logits": o})
        assert not plan.stripped

    def test_a_teacher_that_takes_one_length_only(self):
        class Flat(nn.Module):
            def __init__(self):
                super().__init__()
                self.head = nn.Linear(6, CLASSES)

            def forward(self, input_ids, attention_mask):
                assert input_ids.shape[1] == 6
                return self.head((input_ids * attention_mask).float())

        self.exact(Flat(), self.BATCHES[:2], Reads(), lambda b, o: {"logits": o}, misses=6)

    def test_a_pooled_axis_is_no_axis_of_tokens(self):
        class Pooled(nn.Module):
            def __init__(self):
                super().__init__()
                self.embedding = nn.Embedding(VOCABULARY, 4)

            def forward(self, input_ids, attention_mask):
                state = self.embedding(input_ids) * attention_mask.unsqueeze(-1)
                return nn.functional.avg_pool1d(state.transpose(1, 2), 2).transpose(1, 2)

        for length in (3, 4, 5, 6, 7):
            batches = [padded(TEXTS[:4], length), padded(TEXTS[:3], 3)]
            reads = Reads(logits=False, layers={"hidden": (0,)})
            self.exact(Pooled(), batches, reads, lambda b, o: {"hidden": [o]})

    def test_a_row_in_which_nothing_is_real(self):
        teacher = nn.Sequential()  # softmax over nothing falls on everything
        teacher.forward = lambda input_ids, attention_mask: (
            attention_mask.double().masked_fill(attention_mask == 0, -1e9).softmax(-1) * input_ids
        ).sum(1, keepdim=True)
        batches = [padded(TEXTS[:4], length) for length in (4, 6)]
        for row, batch in enumerate(batches):
            batch["attention_mask"][2] = 0
            batch["input_ids"][2] += row
        self.exact(teacher, batches, Reads(), lambda b, o: {"logits": o})

    def test_this_is_said_once(self, caplog):
        with (
            caplog.at_level(logging.INFO, "textbrewer"),
            behind(TeacherCache.in_memory(), encoder(1)) as (source, _),
        ):
            for batch in self.BATCHES:
                ask(source, batch, None)
        assert sum("found again only under the same padding" in record.message for record in caplog.records) == 1


class Tokens(nn.Module):
    """Logits of every token, a moving average so that they depend on more than their own token."""

    def __init__(self, classes=5):
        super().__init__()
        torch.manual_seed(4)
        self.embedding = nn.Embedding(VOCABULARY, classes)

    def forward(self, input_ids, attention_mask):
        state = self.embedding(input_ids) * attention_mask.unsqueeze(-1)
        return state.cumsum(1) + self.embedding.weight[0]


class TestLogits:
    BATCHES = (padded(TEXTS[:4], 6), padded(TEXTS[2:7], 5), padded(TEXTS[::-1], 8))

    def exact(self, teacher, adaptor, batches=BATCHES, dtype="float64", reads=Reads(), **options):  # noqa: B008
        with behind(TeacherCache.in_memory(dtype, **options), teacher, reads, adaptor) as (source, live):
            for batch in [*batches, *batches]:
                found, expected = ask(source, batch), ask(live, batch)
                assert_same(found, expected, rtol=0, atol=1e-6)
            return source

    def test_of_every_token_without_a_mask_are_read_in_padding_too(self):
        assert not self.exact(Tokens(), lambda b, o: {"logits": o}).plan.stripped

    def test_of_every_token_with_a_mask(self):
        def adaptor(b, o):
            return {"logits": o, "logits_mask": b["attention_mask"]}

        with behind(TeacherCache.in_memory("float64"), Tokens(), Reads(), adaptor) as (source, live):
            for batch in [*self.BATCHES, *self.BATCHES]:
                found, expected = ask(source, batch), ask(live, batch)
                chosen = expected.logits_mask[0] != 0
                assert torch.equal(found.logits_mask[0], expected.logits_mask[0])
                torch.testing.assert_close(
                    found.logits[0][chosen], expected.logits[0][chosen].double(), check_dtype=False
                )
        assert source.misses == len(TEXTS)

    def test_a_mask_that_takes_padding_in(self):
        def adaptor(b, o):
            return {"logits": o, "logits_mask": torch.ones_like(b["attention_mask"])}

        source = self.exact(Tokens(), adaptor)
        assert not source.plan.stripped

    @pytest.mark.parametrize("classes", [5, 6, 8])
    @pytest.mark.parametrize("first", [0, 1, 2])
    def test_as_many_classes_as_the_batch_is_long(self, classes, first):
        batches = self.BATCHES[first:] + self.BATCHES[:first]
        source = self.exact(encoder(1, classes=classes), ADAPTOR, batches)
        assert source.misses == len(TEXTS)

    @pytest.mark.parametrize("top_k", [0, 3])
    @pytest.mark.parametrize("masked", [False, True])
    def test_of_positions_by_a_users_adaptor(self, masked, top_k):
        def adaptor(b, o):
            start = o[..., 0]
            return {"logits": [start.masked_fill(b["attention_mask"] == 0, -1e4) if masked else start]}

        if masked or not top_k:
            source = self.exact(Tokens(), adaptor, top_k=top_k)
            assert source.plan.stripped == masked

    def test_a_class_that_is_ruled_out_and_one_beyond_half_precision(self):
        def adaptor(b, o):
            logits = o[0].clone()
            logits[:, 0], logits[:, 1] = -torch.inf, 1e6
            return {"logits": logits, "inputs_mask": b["attention_mask"]}

        self.exact(encoder(1), adaptor, dtype="float16")

    def test_a_single_score_a_row(self):
        self.exact(encoder(1), lambda b, o: {"logits": o[0][:, 0]})

    def test_the_largest_of_a_vocabulary(self):
        def adaptor(b, o):
            return {"logits": o, "logits_mask": b["attention_mask"]}

        with behind(TeacherCache.in_memory("float16", top_k=4), Tokens(30), Reads(), adaptor) as (source, live):
            for batch in [*self.BATCHES, *self.BATCHES]:
                found, expected = ask(source, batch).logits[0].double(), ask(live, batch).logits[0].double()
                for row, token in (batch["attention_mask"] != 0).nonzero().tolist():
                    true, kept = expected[row, token].softmax(-1), expected[row, token].topk(4).indices
                    own = found[row, token].softmax(-1)
                    torch.testing.assert_close(own[kept], true[kept], rtol=2e-3, atol=1e-4)
                    assert float(1 - own[kept].sum()) == pytest.approx(float(1 - true[kept].sum()), abs=2e-3)
        assert source.misses == len(TEXTS)


class TestInputs:
    """Batches of every kind that a model can be fed."""

    def check(self, model, batches, adaptor, some_hits=True):
        batches = list(batches)
        with behind(TeacherCache.in_memory("float64"), model, Reads(), adaptor) as (source, live):
            for batch in [*batches, *batches]:
                assert_same(ask(source, batch, None), ask(live, batch, None), rtol=0, atol=1e-6)
            assert bool(source.hits) == some_hits
        return source

    @staticmethod
    def linear(batch, outputs):
        return {"logits": outputs}

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_fractions_as_a_tensor_a_tuple_a_list_and_a_dict(self, dtype):
        values = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
        model = nn.Linear(3, 2).to(dtype)
        with behind(TeacherCache.in_memory("float64"), model, Reads(), self.linear) as (source, live):
            for batch in (values, (values,), [values], {"input": values}):
                assert_same(ask(source, batch, None), ask(live, batch, None))
            assert source.misses == 4

    def test_booleans_and_whole_numbers(self):
        class Either(nn.Module):
            def forward(self, x):
                return (~x).double()

        for first, second in itertools.permutations((torch.tensor([[True, False]]), torch.tensor([[1, 0]]))):
            self.check(Either(), [{"x": first}, {"x": second}], self.linear)

    def test_named_tuples_mappings_and_batch_encodings_reach_the_adaptor_as_they_are(self):
        pair = namedtuple("pair", "input_ids attention_mask")
        kinds = [lambda b: pair(*b.values()), UserDict]
        try:
            from transformers import BatchEncoding

            kinds.append(BatchEncoding)
        except ImportError:
            pass

        for kind in kinds:
            seen = set()

            def adaptor(batch, outputs, seen=seen):
                seen.add(type(batch))
                return {"logits": outputs[0]}

            made = [kind(padded(TEXTS[:3], 5)), kind(padded(TEXTS[1:5], 6))]
            self.check(encoder(1), made, adaptor)
            assert seen == {type(made[0])}

    def test_texts_in_a_list(self):
        class Lookup(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.randn(10, 2))

            def forward(self, x, words):
                return self.weight[[len(word) for word in words]] + x

        x = torch.zeros(3, 1)
        batches = [{"x": x, "words": words} for words in (["a", "bb", "ccc"], ["ccc", "dddd", "a"])]
        source = self.check(Lookup(), batches, self.linear)
        assert source.misses == 4

    @pytest.mark.parametrize("rows", [2, 3])
    def test_tensors_in_a_list_may_lie_either_way(self, rows):
        class Two(nn.Module):
            def forward(self, x, parts):
                return torch.stack([x + parts[0], x - parts[1]], dim=1)

        x = torch.zeros(rows)
        parts = [torch.arange(rows).float(), torch.ones(rows)]
        batches = [{"x": x, "parts": parts}, {"x": x, "parts": [parts[0], parts[1] * 2]}]
        self.check(Two(), batches, self.linear)

    def test_a_tensor_that_all_rows_share(self):
        class Shared(nn.Module):
            def forward(self, x, weights):
                return x * weights.sum()

        x = torch.arange(4.0).unsqueeze(1)
        batches = [
            {"x": x[rows], "weights": torch.ones(5) * factor} for rows in ([0, 1], [1, 2, 2]) for factor in (1, 2)
        ]
        self.check(Shared(), batches, self.linear)

    def test_positions_of_all_rows_at_once(self):
        class Placed(nn.Module):
            def __init__(self):
                super().__init__()
                self.encoder = encoder(1)
                self.places = nn.Embedding(20, 8)

            def forward(self, input_ids, attention_mask, position_ids):
                return self.encoder(
                    input_ids, attention_mask, scale=1 + self.places(position_ids).mean(-1, keepdim=True)
                )

        def batches():
            for texts, length in ((TEXTS[:1], 4), (TEXTS[:3], 5), (TEXTS[1:4], 5), (TEXTS[:1], 6)):
                yield {**padded(texts, length), "position_ids": torch.arange(length).unsqueeze(0)}

        self.check(Placed(), batches(), lambda b, o: {"logits": o[0]})

    def test_keywords_of_the_pass_tell_rows_apart(self):
        with behind(TeacherCache.in_memory("float64"), encoder(1), Reads()) as (source, live):
            batch = padded(TEXTS)
            for scale in (1.0, 2.0, torch.tensor(1.0), 2.0):
                assert_same(ask(source, batch, scale=scale), ask(live, batch, scale=scale), rtol=0, atol=1e-6)
            assert source.misses == 3 * len(TEXTS)

    @pytest.mark.parametrize("more", [{"other": torch.zeros(8, 3)}, {"index": torch.arange(8)}])
    def test_inputs_that_the_model_takes_by_any_name(self, more):
        class Open(type(encoder())):
            def forward(self, input_ids, attention_mask, **others):
                return super().forward(input_ids, attention_mask)

        self.check(Open(), [{**padded(TEXTS), **more}], lambda b, o: {"logits": o[0]})

    def test_labels_of_many_classes_as_wide_as_the_text(self):
        class MultiLabel(type(encoder())):
            def forward(self, input_ids, attention_mask, labels):
                logits, *others = super().forward(input_ids, attention_mask)
                nn.functional.binary_cross_entropy_with_logits(logits, labels)
                return logits, *others

        model = MultiLabel(classes=6)
        batches = [{**padded(TEXTS[:4], length), "labels": torch.eye(6)[:4]} for length in (5, 6, 7)]
        self.check(model, batches, lambda b, o: {"logits": o[0]})

    def test_labels_of_every_token(self):
        class Tagger(Tokens):
            def forward(self, input_ids, attention_mask, labels):
                assert labels.shape == input_ids.shape
                return super().forward(input_ids, attention_mask)

        def adaptor(b, o):
            return {"logits": o[:, 0], "labels": b["labels"]}

        batches = [{**padded(TEXTS[:4], n), "labels": padded(TEXTS[:4], n, -100)["input_ids"]} for n in (5, 6)]
        reads = Reads(labels=True)
        with behind(TeacherCache.in_memory("float64"), Tagger(), reads, adaptor) as (source, live):
            for batch in [*batches, *batches]:
                found, expected = ask(source, batch), ask(live, batch)
                assert_same(found, expected, rtol=0, atol=1e-6)
                assert torch.equal(found.labels[0], expected.labels[0])
            assert source.misses == 4


def test_labels_that_the_ready_adaptor_does_not_feed_are_kept_where_they_are_read():
    class Ready(type(encoder())):
        def forward(self, input_ids, attention_mask, labels=None):
            return super().forward(input_ids, attention_mask)[:1]

    batch = {**padded(TEXTS[:3]), "labels": torch.tensor([0, 1, 2])}
    with behind(TeacherCache.in_memory(), Ready(), Reads(labels=True), adaptor=None) as (source, _):
        assert [ask(source, batch).labels[0].tolist() for _ in range(2)] == [[0, 1, 2]] * 2


class TestModules:
    def test_outputs_of_submodules_by_path(self):
        paths = ("layers.0", "layers.1")
        reads = Reads(modules=paths)
        with behind(TeacherCache.in_memory("float64"), encoder(1), reads, paths=paths) as (source, live):
            for texts, length in ((TEXTS[:4], 6), (TEXTS[2:], 5), (TEXTS, 7)) * 2:
                batch = padded(texts, length)
                found, expected = ask(source, batch), ask(live, batch)
                for path, (row, text) in itertools.product(paths, enumerate(texts)):
                    own = found.modules[path][row, : len(text)]
                    torch.testing.assert_close(own, expected.modules[path][row, : len(text)].double())
            assert source.misses == len(TEXTS)

    def test_scores_of_attention_are_filled_with_what_stands_at_padding(self):
        """attention_ce runs a softmax over the padded keys too."""

        def adaptor(b, o):
            scores = o[1][-1] @ o[1][-1].transpose(1, 2)
            scores = scores.masked_fill(b["attention_mask"][:, None] == 0, -1e4)
            return {"attention": [torch.stack([scores, 2 * scores], 1)], "inputs_mask": b["attention_mask"]}

        reads = Reads(logits=False, layers={"attention": (0,)})
        with behind(TeacherCache.in_memory("float32"), encoder(1), reads, adaptor) as (source, live):
            first = ask(source, padded(TEXTS, 6)).attention[0]
            assert source.plan.stripped is False  # twice −1e4 is no one filling of all heads
            torch.testing.assert_close(first, ask(live, padded(TEXTS, 6)).attention[0])

        def summed(b, o):
            return {**adaptor(b, o), "attention": [adaptor(b, o)["attention"][0].sum(1)]}

        with behind(TeacherCache.in_memory("float16"), encoder(1), reads, summed) as (source, live):
            for length in (6, 9):
                found, expected = (ask(s, padded(TEXTS, length)).attention[0] for s in (source, live))
                for row, text in enumerate(TEXTS):
                    real = slice(len(text))
                    torch.testing.assert_close(
                        found[row, real].float().softmax(-1), expected[row, real].softmax(-1), rtol=2e-3, atol=2e-3
                    )
            assert source.plan.stripped and source.misses == len(TEXTS)


class TestTransformers:
    @pytest.fixture
    def small(self):
        pytest.importorskip("transformers", reason="needs the extra `hf`")
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 16}
        return {"vocab_size": VOCABULARY, "max_position_embeddings": 16, **sizes}

    def check(self, model, reads, batches, misses, pad_axes=(), **tolerance):
        with behind(TeacherCache.in_memory("float64"), model, reads, adaptor=None) as (source, live):
            for batch in [*batches, *batches]:
                found, expected = ask(source, batch), ask(live, batch)
                chosen = batch["attention_mask"] != 0
                for name, value in tensors(found).items():
                    wanted = tensors(expected)[name]
                    assert value.shape == wanted.shape
                    if name.startswith("hidden") or value.dim() == 3:
                        value, wanted = value[chosen], wanted[chosen]
                    if name.startswith("attention"):
                        pairs = (chosen[:, None, :, None] & chosen[:, None, None, :]).expand(value.shape)
                        value, wanted = value[pairs], wanted[pairs]
                    torch.testing.assert_close(value.float(), wanted, rtol=1e-4, atol=1e-5)
            assert source.misses == misses
            return source

    BATCHES = (padded(TEXTS[:4], 6), padded(TEXTS[2:7], 5), padded(TEXTS[::-1], 8))

    def test_answers_in_a_text(self, small):
        from transformers import BertConfig, BertForQuestionAnswering

        source = self.check(BertForQuestionAnswering(BertConfig(**small)), Reads(), self.BATCHES, len(TEXTS))
        with behind(TeacherCache.in_memory("float16", top_k=2), source.live.adapted.model, adaptor=None) as (
            other,
            live,
        ):
            batch = self.BATCHES[2]
            for _ in range(2):
                for found, expected in zip(ask(other, batch).logits, ask(live, batch).logits, strict=True):
                    torch.testing.assert_close(found.float(), expected, rtol=1e-3, atol=1e-3)

    def test_tags_of_tokens_with_hidden_states_and_maps(self, small):
        from transformers import BertConfig, BertForTokenClassification

        model = BertForTokenClassification(BertConfig(num_labels=5, **small))
        reads = Reads(layers={"hidden": (0, 1, -1), "attention": (0, -1)})
        self.check(model, reads, self.BATCHES, len(TEXTS))

    @pytest.mark.parametrize("pad", [0, 7])
    def test_a_decoder_that_looks_for_the_last_token_that_is_no_padding(self, small, pad):
        from transformers import GPT2Config, GPT2ForSequenceClassification

        config = GPT2Config(
            vocab_size=VOCABULARY, n_positions=16, n_embd=16, n_head=2, n_layer=2, num_labels=3, pad_token_id=pad
        )
        texts = [[token + 20 for token in text] for text in TEXTS]
        batches = [padded(texts[4:6], pad=pad), padded(texts, 6, pad=pad), padded(texts[::-1], 9, pad=pad)]
        model = GPT2ForSequenceClassification(config)
        self.check(model, Reads(layers={"hidden": (1,)}), batches, len(TEXTS))

    def test_left_padding_of_a_decoder(self, small):
        from transformers import GPT2Config, GPT2LMHeadModel

        config = GPT2Config(vocab_size=VOCABULARY, n_positions=16, n_embd=16, n_head=2, n_layer=2)
        batches = [padded(TEXTS[:4], 6, left=True), padded(TEXTS[:4], 7, left=True)]
        self.check(GPT2LMHeadModel(config), Reads(), batches, 8)

    def test_an_encoder_decoder_whose_labels_are_as_long_as_the_text(self, small):
        from transformers import T5Config, T5ForConditionalGeneration

        config = T5Config(
            vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
        )
        model = T5ForConditionalGeneration(config)

        def adaptor(b, o):
            return {"logits": o.logits, "logits_mask": (b["labels"] != -100).long()}

        def batch(texts, length, answers):
            return {**padded(texts, length), "labels": padded(answers, pad=-100)["input_ids"]}

        batches = [batch(TEXTS[:4], 4, TEXTS[4:8]), batch(TEXTS[:4], 5, TEXTS[4:8]), batch(TEXTS[1:3], 7, TEXTS[5:7])]
        with behind(TeacherCache.in_memory("float64"), model, Reads(), adaptor) as (source, live):
            for given_batch in [*batches, *batches]:
                found, expected = ask(source, given_batch), ask(live, given_batch)
                chosen = given_batch["labels"] != -100
                assert found.logits[0].shape == expected.logits[0].shape
                torch.testing.assert_close(
                    found.logits[0][chosen].float(), expected.logits[0][chosen], rtol=1e-4, atol=1e-5
                )


class TestRefused:
    def refuses(self, error, teacher, batch, reads=Reads(), adaptor=lambda b, o: {"logits": o}):  # noqa: B008
        with (
            behind(TeacherCache.in_memory(), teacher, reads, adaptor) as (source, _),
            pytest.raises(error[0], match=error[1]),
        ):
            ask(source, batch, None)
        assert source.plan is None

    def test_a_teacher_with_dropout_on(self):
        class Restless(type(encoder())):
            def forward(self, input_ids, attention_mask):
                return nn.functional.dropout(super().forward(input_ids, attention_mask)[0], 0.1, training=True)

        for seed in range(20):
            torch.manual_seed(seed)
            error = CacheError, r"two answers for one input \(logits:0\).*switch its dropout off"
            self.refuses(error, Restless(), padded(TEXTS * 2))

    @pytest.mark.parametrize("rows", [2, 4])
    def test_a_teacher_whose_rows_look_at_each_other(self, rows):
        class Contrast(nn.Module):
            def forward(self, x):
                return x @ x.t()

        class Normed(nn.Module):
            def forward(self, x):
                return x - x.mean(0)

        for teacher in (Contrast(), Normed()):
            error = CacheError, r"depends on the other rows of its batch \(logits:0\)"
            self.refuses(error, teacher, {"x": torch.randn(rows, 3)})

    def test_outputs_without_an_axis_of_rows(self):
        error = CacheError, r"logits:0 of shape \[3\] for 8 rows"
        self.refuses(error, encoder(1), padded(TEXTS), adaptor=lambda b, o: {"logits": o[0].sum(0)})

    def test_what_is_not_there_is_said_by_name(self):
        error = AdaptorError, "gave NoneType as modules:gone"
        self.refuses(error, encoder(1), padded(TEXTS), Reads(modules=("gone",)), ADAPTOR)

    def test_a_batch_of_an_object_of_the_users_own(self):
        batch = SimpleNamespace(ids=torch.ones(2, 3))
        self.refuses((CacheError, r"rows can be told apart.*got SimpleNamespace"), nn.Identity(), batch)

    def test_a_shape_that_depends_on_other_things_than_the_length(self):
        class Growing(nn.Module):
            def forward(self, x):
                return x.new_ones(len(x), 2 + int(x[0, 0] > 4))

        with behind(TeacherCache.in_memory(), Growing(), Reads(), lambda b, o: {"logits": o}) as (source, _):
            for value in (1.0, 9.0):
                ask(source, {"x": torch.full((1, 1), value)}, None)
            with pytest.raises(CacheError, match=r"one row a part of shape \[2\] and another one of \[3\]"):
                ask(source, {"x": torch.tensor([[1.0], [9.0]])}, None)


def test_ready_outputs_in_the_batch_go_past_the_cache():
    cache = TeacherCache.in_memory()
    with behind(cache, encoder(1), Reads(), lambda b, o: {"logits": o}) as (source, _):
        given_outputs = torch.rand(2, 3)
        fed = sides({"student": {}, "teacher_cache": given_outputs})
        assert torch.equal(source(fed, {}, None).logits[0], given_outputs)
    assert cache.list()[0].records == 0


def test_filling_computes_what_is_missing_under_the_keys_that_are_asked_for():
    cache, teacher = TeacherCache.in_memory(), encoder(1)
    with behind(cache, teacher, ALL) as (source, _):
        assert source.fill(sides(padded(TEXTS[:4], 6)), {}) == (4, 4)
        assert source.fill(sides(padded(TEXTS, 5)), {}) == (8, 4)
        assert source.fill(sides(padded(TEXTS, 9)), {}) == (8, 0)
    with behind(cache, teacher, ALL) as (source, _):
        ask(source, padded(TEXTS, 7))
        assert source.misses == 0


def test_a_part_that_was_not_kept_before_is_added():
    cache, teacher = TeacherCache.in_memory("float64"), encoder(1)
    batch = padded(TEXTS)
    for reads, misses in ((Reads(), 8), (HIDDEN, 8), (Reads(), 0), (HIDDEN, 0)):
        with behind(cache, teacher, reads) as (source, live):
            found, expected = ask(source, batch), ask(live, batch)
            torch.testing.assert_close(found.logits[0], expected.logits[0].double())
            assert source.misses == misses


def test_nothing_is_asked_of_a_teacher_of_which_nothing_is_read():
    with behind(TeacherCache.in_memory(), encoder(1), Reads(logits=False)) as (source, _):
        found = ask(source, padded(TEXTS))
    assert found.logits == [] and found.given == ("logits", "hidden", "attention", "inputs_mask")
    assert source.misses == 0


def test_a_batch_of_one_row_first():
    with behind(TeacherCache.in_memory("float64"), encoder(1), HIDDEN) as (source, live):
        for batch in (padded(TEXTS[4:5]), padded(TEXTS[:1]), padded(TEXTS), padded(TEXTS, 9)):
            found, expected = ask(source, batch), ask(live, batch)
            torch.testing.assert_close(found.logits[0], expected.logits[0].double())
        assert source.misses == len(TEXTS)


def test_the_adaptor_of_the_tiny_models_is_not_changed_by_a_batch_with_labels():
    batch = batch_of(rows=5)
    with behind(TeacherCache.in_memory("float64"), encoder(1), HIDDEN, EncoderAdaptor()) as (source, live):
        for _ in range(2):
            torch.testing.assert_close(ask(source, batch).logits[0], ask(live, batch).logits[0].double())
        assert source.misses == 5
