"""Masked language modelling from documents to a distilled student."""

from __future__ import annotations

import copy
import math
import random

import pytest
import torch
from torch import nn

pytest.importorskip("transformers", reason="needs the extra `hf`")

import transformers

from tests.tasks.small import SlowTokenizer, bert, run, tokenizer_of, training, weights_of
from textbrewer import (
    BasicDistiller,
    BasicTrainer,
    DistillationConfig,
    GeneralDistiller,
    MultiTaskDistiller,
    MultiTeacherDistiller,
    StudentConfig,
    TrainingConfig,
    build_student,
)
from textbrewer.adaptors import AdaptedModel
from textbrewer.errors import ConfigError, DataError
from textbrewer.tasks import MaskedLM, Table
from textbrewer.teachers import TeacherCache

WORDS = ["rain", "snow", "sun", "cold", "warm", "wet", "is", "the", "and"]
TOKENIZER = tokenizer_of(WORDS)
TASK = MaskedLM(max_length=16, probability=0.2)
STATIC = MaskedLM(max_length=16, probability=0.2, masking="static")
SEASONS = {"rain": "wet", "snow": "cold", "sun": "warm"}


def document(generator):
    kinds = generator.choices(list(SEASONS), k=generator.randint(1, 4))
    return " and ".join(f"the {kind} is {SEASONS[kind]}" for kind in kinds)


def rows_of(number=60, seed=0):
    generator = random.Random(seed)
    return [{"text": document(generator)} for _ in range(number)]


def inner(feature):
    """What stood in a block before it was masked."""
    ids, labels = feature["input_ids"], feature["labels"]
    return [int(t) for t in torch.where(torch.tensor(labels) >= 0, torch.tensor(labels), torch.tensor(ids))][1:-1]


def test_every_token_is_encoded_once():
    rows = [*rows_of(9), {"text": " "}, {"text": None}]
    data = TASK.encode(rows, TOKENIZER)
    found = [i for feature in data.features for i in inner(feature) if i != TOKENIZER.sep_token_id]
    assert found == [i for row in rows_of(9) for i in TOKENIZER(row["text"], add_special_tokens=False)["input_ids"]]
    assert all(len(feature["input_ids"]) in (15, 16) for feature in data.features[:-1])
    assert data.report.count("row without text") == 2 and data.report.used == 9
    longest = max(len(TOKENIZER(row["text"], add_special_tokens=False)["input_ids"]) for row in rows_of(9))
    assert data.report.lengths.longest == longest and "gone on with in the next block" in str(data.report)
    assert data.lengths == [len(feature["input_ids"]) for feature in data.features]


def test_tables_of_one_column_or_with_a_text():
    assert TASK.rows(Table([{"story": "a"}], "t"))[0] == {"text": "a"}
    assert TASK.rows([{"title": "b", "content": "a"}])[0] == {"text": "a"}
    with pytest.raises(DataError, match="no column is taken for 'text' among 'x', 'y'"):
        TASK.rows([{"x": "a", "y": "b"}])
    with pytest.raises(DataError, match="expected one of 'text', got 'label'"):
        TASK.rows([{"x": "a"}], {"label": "x"})


def ids_of(loader):
    return torch.cat([batch["input_ids"] for batch in loader])


def test_masks_differ_by_pass_or_stay():
    rows = rows_of(40)
    dynamic = TASK.encode(rows, TOKENIZER).loader(64, shuffle_seed=None)
    static = STATIC.encode(rows, TOKENIZER).loader(64)
    first, second = ids_of(dynamic), ids_of(dynamic)
    assert first.shape == second.shape and not torch.equal(first, second)
    assert torch.equal(ids_of(static), ids_of(static))
    # Another loader of the same data repeats the passes of the first one.
    again = TASK.encode(rows, TOKENIZER).loader(64)
    assert torch.equal(ids_of(again), first) and torch.equal(ids_of(again), second)
    assert not torch.equal(
        ids_of(MaskedLM(max_length=16, probability=0.2, seed=1).encode(rows, TOKENIZER).loader(64)), first
    )


def test_a_shuffled_pass_has_every_block_once():
    data = TASK.encode(rows_of(40), TOKENIZER)
    for loader in (data.loader(7, shuffle_seed=3), data.loader(7, shuffle_seed=3, num_workers=1)):
        orders = []
        for _ in range(2):
            seen = [tuple(inner(trimmed(row))) for batch in loader for row in rows_in(batch)]
            orders.append(seen)
            assert sorted(seen) == sorted(tuple(inner(feature)) for feature in data.features)
        assert orders[0] != orders[1]


def rows_in(batch):
    return [{key: value[i] for key, value in batch.items()} for i in range(len(batch["input_ids"]))]


def trimmed(row):
    real = row["attention_mask"] == 1
    return {key: value[real].numpy() for key, value in row.items()}


def test_by_index_a_block_is_always_the_same():
    data = TASK.encode(rows_of(5), TOKENIZER)
    assert data[0]["input_ids"].tolist() == data[0]["input_ids"].tolist() == data[-len(data)]["input_ids"].tolist()
    assert data[0, 5]["input_ids"].tolist() != data[0]["input_ids"].tolist()
    with pytest.raises(IndexError):
        data[len(data)]


def batch_of(task=TASK, number=30):
    return next(iter(task.encode(rows_of(number), TOKENIZER).loader(8)))


def oracle(model, batch):
    """Logits, and the loss, of each masked token alone, in float64 and one by one."""
    model = copy.deepcopy(model).double().eval()
    rows, losses = [], []
    for i in range(len(batch["input_ids"])):
        inputs = {key: batch[key][i : i + 1] for key in ("input_ids", "attention_mask", "token_type_ids")}
        logits = model(**inputs).logits[0]
        for place in batch["logits_mask"][i].nonzero().flatten().tolist():
            true = int(batch["labels"][i, place])
            rows.append(logits[place])
            losses.append(math.log(sum(math.exp(z) for z in logits[place].tolist())) - logits[place, true].item())
    return torch.stack(rows), sum(losses) / len(losses)


def adapted(model, task=TASK, **options):
    return AdaptedModel(model, task.adaptor(model, **options), name="adaptor_S")


@pytest.mark.parametrize("ready", [True, False])
def test_logits_are_of_the_masked_positions_in_order(ready):
    model, batch = bert(TASK, TOKENIZER), batch_of()
    one = adapted(model)
    if ready:
        with one.ready():
            outputs = one(batch, {})
    else:
        outputs = one(batch, {})
    logits, mask = outputs.logits[0], outputs.logits_mask[0]
    assert logits.shape[:2] == mask.shape == (8, TASK.most) == (8, 3)
    expected, loss = oracle(model, batch)
    torch.testing.assert_close(logits[mask != 0], expected.float(), atol=1e-5, rtol=1e-4)
    assert outputs.losses[0].item() == pytest.approx(loss, abs=1e-5)
    true = batch["labels"][batch["labels"] >= 0]
    assert outputs.labels[0][mask != 0].tolist() == true.tolist()
    told = one.masks(batch)
    assert told["logits_mask"].sum() == mask.sum() and told["mask"].sum() == batch["attention_mask"].sum()


def test_the_head_computes_no_more_than_that_and_only_while_a_run_lasts():
    model, batch = bert(TASK, TOKENIZER), batch_of()
    seen = []
    model.cls.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape[:2])))
    one = adapted(model)
    with one.ready():
        one(batch, {})
        model(**one.fed(batch))  # what another caller asks right after is answered in full only outside
    model(**{key: batch[key] for key in ("input_ids", "attention_mask")})
    assert seen[0] == (8, 3) and seen[-1] == (8, 16)
    assert not model.cls._forward_pre_hooks and not model.bert._forward_hooks


@pytest.mark.parametrize("family", ["Roberta", "DistilBert", "Electra", "Albert", "DebertaV2", "ModernBert", "MPNet"])
def test_heads_of_other_families(family):
    config = getattr(transformers, f"{family}Config")
    sizes = {"vocab_size": len(TOKENIZER), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    more = {"intermediate_size": 32, "max_position_embeddings": 64, "embedding_size": 16}
    names = {"DistilBert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32, "vocab_size": len(TOKENIZER)}}
    known = names.get(family, {**sizes, **more})
    tokens = {name: getattr(TOKENIZER, name) for name in ("pad_token_id", "cls_token_id", "sep_token_id")}
    transformers.set_seed(0)
    made = config(**known, **tokens, bos_token_id=2, eos_token_id=3, attn_implementation="eager")
    model = getattr(transformers, f"{family}ForMaskedLM")(made).eval()
    batch = batch_of()
    one = adapted(model)
    whole = one(batch, {})
    with one.ready():
        narrow = one(batch, {})
    mask = whole.logits_mask[0] != 0
    torch.testing.assert_close(narrow.logits[0][mask], whole.logits[0][mask], atol=1e-5, rtol=1e-4)
    whole.losses[0].backward()
    full = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    narrow.losses[0].backward()
    assert full
    for name, parameter in model.named_parameters():
        if name in full:
            torch.testing.assert_close(parameter.grad, full[name], atol=1e-5, rtol=1e-3)


class Plain(nn.Module):
    """Logits of every token, from ids alone."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(len(TOKENIZER), len(TOKENIZER))

    def forward(self, input_ids, attention_mask):
        return self.embedding(input_ids)


def test_any_module_that_gives_logits_of_tokens():
    batch, model = batch_of(), Plain()
    one = adapted(model)
    with one.ready():
        outputs = one(batch, {})
    mask = batch["logits_mask"] != 0
    assert torch.equal(outputs.logits[0][outputs.logits_mask[0] != 0], model.embedding(batch["input_ids"][mask]))


def test_rows_shorter_than_what_may_be_masked():
    task = MaskedLM(max_length=64, probability=0.5)
    batch = next(iter(task.encode([{"text": "rain"}, {"text": "sun"}], TOKENIZER).loader(2)))
    assert batch["input_ids"].shape[1] == 5 < task.most == 32
    one = adapted(bert(task, TOKENIZER), task)
    with one.ready():
        outputs = one(batch, {})
    assert outputs.logits[0].shape[1] == 32 and outputs.logits_mask[0].sum() == batch["logits_mask"].sum() > 0


def test_batches_of_another_collator():
    model = bert(TASK, TOKENIZER)
    ids = torch.randint(5, 30, (2, 6))
    labels = torch.full_like(ids, -100)
    labels[0, 1], labels[1, 4] = 7, 8
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    one = adapted(model)
    with one.ready():
        outputs = one(batch, {})
    assert outputs.logits[0].shape[:2] == (2, 6) and (outputs.logits_mask[0] != 0).sum() == 2
    expected = nn.functional.cross_entropy(outputs.logits[0].flatten(0, 1), labels.flatten(), ignore_index=-100)
    assert outputs.losses[0].item() == pytest.approx(expected.item(), abs=1e-6)
    assert one.masks(batch)["logits_mask"].sum() == 2
    unlabelled = one({key: batch[key] for key in ("input_ids", "attention_mask")}, {})
    assert not unlabelled.losses and (unlabelled.logits_mask[0] != 0).all()


def test_more_masked_than_there_is_room_for():
    batch = batch_of()
    batch["logits_mask"] = batch["attention_mask"]
    with pytest.raises(DataError, match="a row has 16 masked tokens, and at most 3 are read"):
        adapted(bert(TASK, TOKENIZER))(batch, {})


def test_scores_are_those_of_the_static_masking():
    model = bert(TASK, TOKENIZER, seed=4)
    data = TASK.encode(rows_of(40, seed=2), TOKENIZER)
    found = TASK.evaluate(model, data, batch_size=5)
    batch = data.padding(list(data.features))
    rows, loss = oracle(model, batch)
    true = batch["labels"][batch["labels"] >= 0]
    assert found["accuracy"] == pytest.approx((rows.argmax(-1) == true).double().mean().item())
    assert found["perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)
    assert TASK.evaluate(model, data.loader(3, shuffle_seed=1)) == pytest.approx(found)
    assert STATIC.evaluate(model, STATIC.encode(rows_of(40, seed=2), TOKENIZER)) == pytest.approx(found)
    with pytest.raises(DataError, match="these blocks go without labels"):
        TASK.evaluate(model, data.without_labels())


def test_predictions_fill_in():
    model = bert(TASK, TOKENIZER)
    texts = ["the rain is [MASK]", "no mask here", "", "[MASK] [MASK]"]
    found = TASK.predict(model, texts, TOKENIZER, batch_size=3)
    assert [len(each["fills"]) for each in found] == [1, 0, 0, 2]
    inputs = TOKENIZER(texts[0], return_tensors="pt")
    with torch.no_grad():
        odds = model(**inputs).logits[0].softmax(-1)[inputs["input_ids"][0] == TOKENIZER.mask_token_id][0]
    best = odds.topk(5)
    assert [fill["token"] for fill in found[0]["fills"][0]] == TOKENIZER.convert_ids_to_tokens(best.indices.tolist())
    assert [fill["score"] for fill in found[0]["fills"][0]] == pytest.approx(best.values.tolist(), abs=1e-6)
    with pytest.raises(DataError, match="row 1 has 4 mask tokens, and at most 3 are read"):
        TASK.predict(model, ["[MASK]" * 4], TOKENIZER)
    with pytest.raises(DataError, match="a text or a dict, got int"):
        TASK.predict(model, [3], TOKENIZER)


def test_what_is_refused():
    with pytest.raises(DataError, match=r"masked_lm learns from the teacher token by token, .*tokenizer out"):
        TASK.encode(rows_of(2), TOKENIZER, teacher_tokenizer=TOKENIZER)
    with pytest.raises(DataError, match="no mask token"):
        TASK.encode(rows_of(2), SlowTokenizer())
    with pytest.raises(DataError, match="max_length=16, but the model of this BertTokenizer takes 8"):
        TASK.encode(rows_of(2), tokenizer_of(model_max_length=8))
    with pytest.raises(ConfigError, match="`probability`"):
        MaskedLM(probability=1.5)
    with pytest.raises(DataError, match=r"16 tokens a row, and BertForMaskedLM takes 12; encode with max_length=12"):
        adapted(bert(TASK, TOKENIZER, max_position_embeddings=12))(batch_of(), {})


# Runs.


def lines_of(number, seed=0):
    generator = random.Random(seed)
    kinds = generator.choices(list(SEASONS), k=number)
    return [{"text": f"the {kind} is {SEASONS[kind]}"} for kind in kinds]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    model = bert(TASK, TOKENIZER, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    trainer = BasicTrainer(training(tmp_path_factory.mktemp("teacher")), model, TASK.adaptor(model))
    data = TASK.encode(lines_of(300), TOKENIZER)
    return run(trainer, model, data.loader(16, shuffle_seed=0), 150, rate=5e-3).eval()


def student_of(teacher, seed=1):
    return build_student(teacher, StudentConfig(num_layers=1), init="random", seed=seed)


KD = DistillationConfig(kd_loss_type="kl", temperature=2)
HIDDEN = [{"layer_T": 2, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse_valid", "weight": 0.1}]


def test_a_student_learns_from_the_teacher_without_labels(tmp_path, teacher):
    test = TASK.encode(lines_of(100, seed=9), TOKENIZER)
    # Who knows no more than how often each word is has a perplexity of 7.
    assert TASK.evaluate(teacher, test)["perplexity"] < 3
    student = student_of(teacher)
    assert TASK.evaluate(student, test)["perplexity"] > 50
    config = DistillationConfig(kd_loss_type="kl", temperature=2, intermediate_matches=HIDDEN)
    distiller = GeneralDistiller(training(tmp_path), config, teacher, student, *TASK.adaptors(teacher, student, config))
    data = TASK.encode(lines_of(300), TOKENIZER).without_labels()
    run(distiller, student, data.loader(16, shuffle_seed=0), 150, rate=5e-3)
    found = TASK.evaluate(student, test)
    assert found["perplexity"] < 3 and found["accuracy"] > 0.5


def distilled(folder, teacher, cache=None, loader=None, steps=6, **settings):
    student = student_of(teacher)
    adaptors = STATIC.adaptors(teacher, student, KD)
    distiller = BasicDistiller(training(folder, **settings), KD, teacher, student, *adaptors, teacher_cache=cache)
    torch.manual_seed(0)
    loader = loader or STATIC.encode(rows_of(24), TOKENIZER).loader(8, shuffle_seed=1)
    return weights_of(run(distiller, student, loader, steps, rate=0.1, optimizer=torch.optim.SGD))


def test_a_cache_finds_static_masks_from_the_second_pass_on_and_dynamic_ones_never(tmp_path, teacher):
    data = STATIC.encode(rows_of(24), TOKENIZER)
    calls = []
    handle = teacher.register_forward_hook(lambda module, inputs, output: calls.append(1))
    cache = TeacherCache.in_memory()
    cached = distilled(tmp_path, teacher, cache, data.loader(len(data)), steps=2)
    first = len(calls)
    distilled(tmp_path, teacher, cache, data.loader(len(data)), steps=4)
    # A new distiller tries the teacher out on a sample, and asks nothing else.
    sampled = len(calls) - first
    assert sampled < first
    calls.clear()
    distilled(tmp_path, teacher, cache, data.loader(len(data)), steps=40)
    assert len(calls) == sampled
    handle.remove()
    live = distilled(tmp_path, teacher, None, data.loader(len(data)), steps=2)
    torch.testing.assert_close(cached, live, atol=1e-5, rtol=1e-4)
    records = cache.list()[0].records
    assert records == 2 * len(data)  # logits and their mask
    dynamic = TASK.encode(rows_of(24), TOKENIZER)
    distilled(tmp_path, teacher, cache, dynamic.loader(len(data)), steps=3)
    assert cache.list()[0].records > records + 5 * len(data)  # all but short blocks masked alike by chance


def test_a_cache_of_the_largest_logits(tmp_path, teacher):
    cache = TeacherCache.in_memory(top_k=8)
    distilled(tmp_path, teacher, cache)
    blocks = len(STATIC.encode(rows_of(24), TOKENIZER))
    # For each of three masked tokens eight values and indices and a rest, whatever the vocabulary.
    assert cache.size() < blocks * (3 * (8 * 8 + 4) + 3 + 150)


def test_micro_batches_do_not_change_the_step(tmp_path, teacher):
    data = STATIC.encode(rows_of(24), TOKENIZER)
    found = []
    for size, steps in ((len(data), 1), (-(-len(data) // 3), 3)):
        student = student_of(teacher)
        for module in student.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        adaptors = STATIC.adaptors(teacher, student, KD)
        config = training(tmp_path, gradient_accumulation_steps=steps, keep_last_accumulation=True)
        distiller = GeneralDistiller(config, KD, teacher, student, *adaptors)
        with distiller:
            distiller.train(torch.optim.SGD(student.parameters(), lr=1.0), data.loader(size), num_epochs=1)
        found.append(weights_of(student))
    torch.testing.assert_close(found[0], found[1], atol=2e-5, rtol=1e-4)


def test_several_teachers_and_several_tasks(tmp_path, teacher):
    student = student_of(teacher)
    of_teacher, of_student = TASK.adaptors(teacher, student, KD)
    twin = copy.deepcopy(teacher)
    adaptors = [of_teacher, TASK.adaptor(twin, teacher=True)]
    distiller = MultiTeacherDistiller(training(tmp_path), KD, [teacher, twin], student, adaptors, of_student)
    loader = TASK.encode(rows_of(24), TOKENIZER).loader(8, shuffle_seed=0)
    before = weights_of(student)
    run(distiller, student, loader, 2)
    assert not torch.equal(weights_of(student), before)
    tasks = MultiTaskDistiller(training(tmp_path), KD, {"lm": teacher}, student, {"lm": of_teacher}, {"lm": of_student})
    before = weights_of(student)
    with tasks:
        tasks.train(torch.optim.AdamW(student.parameters(), lr=1e-3), {"lm": loader}, num_steps=2)
    assert not torch.equal(weights_of(student), before)


@pytest.mark.parametrize("stop", [2, 5, 9])
def test_a_run_that_goes_on_masks_as_if_it_had_never_stopped(tmp_path, teacher, stop):
    """Passes of four batches: within the first, the second and the third."""

    def loader():
        return TASK.encode(rows_of(24), TOKENIZER).loader(4, shuffle_seed=1)

    def train(folder, steps, **options):
        student = student_of(teacher)
        distiller = BasicDistiller(
            TrainingConfig(output_dir=str(folder), ckpt_steps=1, progress_bar=False, device="cpu"),
            KD,
            teacher,
            student,
            *TASK.adaptors(teacher, student, KD),
        )
        torch.manual_seed(0)
        optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
        with distiller:
            distiller.train(optimizer, loader(), num_steps=steps, **options)
        return weights_of(student)

    whole = train(tmp_path / "whole", 12)
    train(tmp_path / "parts", stop)
    torch.manual_seed(99)
    assert torch.equal(train(tmp_path / "parts", 12, resume="auto"), whole)


def test_a_compiled_model_computes_all_logits_and_gives_the_same():
    model = bert(TASK, TOKENIZER)
    one = adapted(model)
    compiled = torch.compile(model, backend="eager")
    for number in (30, 20):
        batch = batch_of(number=number)
        with one.ready(), torch.no_grad():
            narrow, whole = one(batch, {}), one(batch, {}, compiled)
        mask = narrow.logits_mask[0] != 0
        torch.testing.assert_close(narrow.logits[0][mask], whole.logits[0][mask], atol=1e-5, rtol=1e-4)


def test_padding_on_the_left():
    left = tokenizer_of(WORDS, padding_side="left")
    # Blocks of unlike lengths, each with its own documents.
    sides = []
    for tokenizer in (TOKENIZER, left):
        data = TASK.encode(rows_of(3), tokenizer)
        outputs = adapted(bert(TASK, TOKENIZER))(data.padding([data[len(data) - 1], data[0]]), {})
        sides.append(outputs.labels[0].tolist())
    assert sides[0] == sides[1] and any(label >= 0 for label in sides[0][0])
