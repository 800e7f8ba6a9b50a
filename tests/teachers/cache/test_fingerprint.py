"""Fingerprints: what changes an answer changes them, and nothing else does."""

from __future__ import annotations

import functools
import math
import os
import subprocess
import sys
import types
from collections import namedtuple
from decimal import Decimal
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.tiny import EncoderAdaptor, encoder
from textbrewer.adaptors import TransformersAdaptor
from textbrewer.errors import CacheError
from textbrewer.teachers.cache.fingerprint import digest_of_adaptor, digest_of_architecture, digest_of_weights


def digests(model):
    return digest_of_weights(model), digest_of_architecture(model)


def test_the_same_model_again_is_the_same():
    assert digests(encoder(1)) == digests(encoder(1))


def test_one_bit_of_one_weight_counts():
    model, other = encoder(1), encoder(1)
    with torch.no_grad():
        other.head.weight[0, 0] = torch.nextafter(other.head.weight[0, 0], torch.tensor(9.0))
    assert digest_of_weights(model) != digest_of_weights(other)
    assert digest_of_architecture(model) == digest_of_architecture(other)


def test_the_type_and_the_names_of_weights_count():
    assert digest_of_weights(encoder(1)) != digest_of_weights(encoder(1).double())
    assert digest_of_weights(encoder(1)) != digest_of_weights(nn.Sequential(encoder(1)))


def test_weights_that_share_memory_or_lie_apart_are_told_by_content():
    plain = nn.Linear(3, 2, bias=False)
    turned = nn.Linear(3, 2, bias=False)
    turned.weight = nn.Parameter(plain.weight.detach().t().contiguous().t())
    assert not turned.weight.is_contiguous()
    assert digest_of_weights(plain) == digest_of_weights(turned)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int8, torch.bool, torch.complex64])
def test_weights_of_every_type_are_read(dtype):
    def model(value):
        module = nn.Module()
        module.register_buffer("weight", torch.tensor([value, 1]).to(dtype))
        return module

    assert digest_of_weights(model(0)) != digest_of_weights(model(1))


@pytest.mark.filterwarnings("ignore")
def test_weights_in_eight_bits_are_read():
    def quantised(seed):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 4))
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear})

    assert digest_of_weights(quantised(0)) == digest_of_weights(quantised(0))
    assert digest_of_weights(quantised(0)) != digest_of_weights(quantised(1))


def test_sparse_weights_are_read():
    def sparse(value):
        module = nn.Module()
        module.register_buffer("weight", torch.tensor([[0.0, value]]).to_sparse())
        return module

    assert digest_of_weights(sparse(1.0)) != digest_of_weights(sparse(2.0))


def test_weights_that_are_not_in_memory_are_refused():
    with pytest.raises(CacheError, match="on the device 'meta'"):
        digest_of_weights(nn.Linear(2, 2, device="meta"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: encoder(1, heads=2), lambda: encoder(1, heads=4)),
        (lambda: nn.LayerNorm(4, eps=1e-5), lambda: nn.LayerNorm(4, eps=1e-6)),
        (lambda: nn.Conv1d(2, 2, 3, stride=1), lambda: nn.Conv1d(2, 2, 3, stride=2)),
        (lambda: nn.Sequential(nn.ReLU()), lambda: nn.Sequential(nn.Tanh())),
        (lambda: nn.TransformerEncoderLayer(4, 2), lambda: nn.TransformerEncoderLayer(4, 2, norm_first=True)),
        (lambda: holding(act=torch.relu), lambda: holding(act=torch.tanh)),
        (lambda: holding(act=math.sin), lambda: holding(act=math.cos)),
        (lambda: holding(config=types.SimpleNamespace(a=1)), lambda: holding(config=types.SimpleNamespace(a=2))),
        (lambda: holding(config=Plain(1)), lambda: holding(config=Plain(2))),
        (lambda: unsaved(1.0), lambda: unsaved(2.0)),
    ],
    ids=["heads", "eps", "stride", "class", "order", "function", "builtin", "config", "own config", "buffer"],
)
def test_what_a_model_holds_beside_its_weights_counts(one, other):
    assert digest_of_architecture(one()) == digest_of_architecture(one())
    assert digest_of_architecture(one()) != digest_of_architecture(other())


class Plain:
    def __init__(self, a):
        self.a = a


def holding(**held):
    module = nn.Module()
    for name, value in held.items():
        setattr(module, name, value)
    return module


def unsaved(value):
    module = nn.Module()
    module.register_buffer("mask", torch.tensor([value]), persistent=False)
    return module


def test_what_a_forward_pass_leaves_behind_does_not_count():
    model = encoder(1)
    before = digest_of_architecture(model)
    model.last_state = torch.ones(3)
    model.train()
    assert digest_of_architecture(model) == before


def test_a_model_that_leads_back_to_itself_is_told():
    def model(size):
        inner = nn.Linear(size, 2)
        outer = nn.Sequential(inner)
        inner.owner = [outer]
        return outer

    assert digest_of_architecture(model(2)) == digest_of_architecture(model(2))


def model_with(body):
    """A model whose class is written as a text."""
    names = {"nn": nn, "torch": torch, "__name__": "users"}
    exec("class Model(nn.Module):\n" + body, names)
    return names["Model"]()


def test_the_code_of_a_users_model_counts_in_all_of_its_methods():
    one = "    def forward(self, x):\n        return self.pool(x)\n    def pool(self, x):\n        return x.mean(1)\n"
    assert digest_of_architecture(model_with(one)) == digest_of_architecture(model_with(one))
    for other in (one.replace("mean", "amax"), one.replace("pool(x)\n    def", "pool(-x)\n    def")):
        assert digest_of_architecture(model_with(one)) != digest_of_architecture(model_with(other))


def adaptor_of(code, **names):
    """The function ``adaptor`` of a text."""
    users = sys.modules["users"] = types.ModuleType("users")
    vars(users).update(torch=torch, np=np, **names)
    exec(code, vars(users))
    return users.adaptor


ADAPTOR = "def adaptor(batch, outputs):\n    return {'logits': outputs[0]}\n"
STATIC = "class A:\n    @staticmethod\n    def pick(o):\n        return o[0]\n    def __call__(self, b, o):\n        return {'logits': self.pick(o)}\nadaptor = A()\n"  # noqa: E501
CHANGES = {
    "index": (ADAPTOR, "outputs[0]", "outputs[1]"),
    "key": (ADAPTOR, "'logits'", "'hidden'"),
    "attribute": ("adaptor = lambda b, o: {'logits': o.logits}", "o.logits", "o.scores"),
    "lambda": ("adaptor = lambda b, o: {'logits': o['a']}", "'a'", "'b'"),
    "default": ("def adaptor(b, o, at=0):\n    return {'logits': o[at]}", "at=0", "at=1"),
    "keyword": ("def adaptor(b, o, *, at=0):\n    return {'logits': o[at]}", "at=0", "at=1"),
    "closure": ("def make(at):\n    return lambda b, o: {'logits': o[at]}\nadaptor = make(0)", "make(0)", "make(1)"),
    "global": ("AT = 0\ndef adaptor(b, o):\n    return {'logits': o[AT]}", "AT = 0", "AT = 1"),
    "global in a lambda": (
        "AT = 0\ndef adaptor(b, o):\n    return {'logits': (lambda: o[AT])()}",
        "AT = 0",
        "AT = 1",
    ),
    "global in a comprehension": (
        "AT = 0\ndef adaptor(b, o):\n    return {'hidden': tuple(h[AT] for h in o)}",
        "AT = 0",
        "AT = 1",
    ),
    "text first in a generator": (
        "def adaptor(b, o):\n    return {'hidden': tuple('a' + h for h in o)}",
        "'a' +",
        "'b' +",
    ),
    "helper": ("def h(o):\n    return o[0]\ndef adaptor(b, o):\n    return {'logits': h(o)}", "o[0]", "o[1]"),
    "helper of a helper of a helper of one": (
        "def k(o):\n    return o[0]\ndef i(o):\n    return k(o)\ndef h(o):\n    return i(o)\n"
        "def g(o):\n    return h(o)\ndef adaptor(b, o):\n    return {'logits': g(o)}",
        "o[0]",
        "o[1]",
    ),
    "object": (
        "class A:\n    at = 0\n    def __call__(self, b, o):\n        return o[self.at]\nadaptor = A()",
        "= 0",
        "= 1",
    ),
    "attribute of an object": (
        "class A:\n    def __init__(self, at):\n        self.at = at\n    def __call__(self, b, o):\n"
        "        return {'logits': o[self.at]}\nadaptor = A(0)",
        "A(0)",
        "A(1)",
    ),
    "base class": (
        "class B:\n    def pick(self, o):\n        return o[0]\nclass A(B):\n    def __call__(self, b, o):\n"
        "        return {'logits': self.pick(o)}\nadaptor = A()",
        "o[0]",
        "o[1]",
    ),
    "static method": (STATIC, "o[0]", "o[1]"),
    "class method": (
        STATIC.replace("staticmethod", "classmethod").replace("pick(o)", "pick(cls, o)", 1),
        "o[0]",
        "o[1]",
    ),
    "property": (
        STATIC.replace("staticmethod", "property")
        .replace("pick(o)", "pick(self)", 1)
        .replace("self.pick(o)", "self.pick"),
        "o[0]",
        "o[1]",
    ),
    "slots": (
        "class A:\n    __slots__ = ('at',)\n    def __call__(self, b, o):\n        return o[self.at]\nadaptor = A()\n"
        "adaptor.at = 0",
        "at = 0",
        "at = 1",
    ),
    "method": ("class A:\n    def go(self, b, o):\n        return o[0]\nadaptor = A().go", "o[0]", "o[1]"),
    "partial": (
        "import functools\ndef f(b, o, at):\n    return o[at]\nadaptor = functools.partial(f, at=0)",
        "at=0",
        "at=1",
    ),
    "builtin": ("act = torch.relu\ndef adaptor(b, o):\n    return {'logits': act(o[0])}", "torch.relu", "torch.tanh"),
    "decorated": (
        "@torch.no_grad()\ndef adaptor(b, o):\n    return {'logits': o[0]}",
        "o[0]",
        "o[1]",
    ),
    "remembered": (
        "import functools\n@functools.lru_cache\ndef h(o):\n    return o[0]\ndef adaptor(b, o):\n    return h(o)",
        "o[0]",
        "o[1]",
    ),
    "settings": (
        "import types\nARGS = types.SimpleNamespace(at=0)\ndef adaptor(b, o):\n    return {'logits': o[ARGS.at]}",
        "at=0",
        "at=1",
    ),
    "dataclass": (
        "import dataclasses\n@dataclasses.dataclass\nclass Options:\n    at: int\nARGS = Options(0)\n"
        "def adaptor(b, o):\n    return {'logits': o[ARGS.at]}",
        "Options(0)",
        "Options(1)",
    ),
    "tensor": ("SHIFT = torch.zeros(3)\ndef adaptor(b, o):\n    return o[0] + SHIFT", "torch.zeros", "torch.ones"),
    "type of a tensor": ("S = torch.zeros(3).int()\ndef adaptor(b, o):\n    return o[0] + S", "int()", "float()"),
    "array": ("SHIFT = np.zeros(3)\ndef adaptor(b, o):\n    return o[0] + SHIFT", "np.zeros", "np.ones"),
    "array of objects": ("S = np.array(['a', None])\ndef adaptor(b, o):\n    return S", "'a'", "'b'"),
    "module": (
        "torch.manual_seed(0)\nMAP = torch.nn.Linear(2, 2)\ndef adaptor(b, o):\n    return {'logits': MAP(o[0])}",
        "manual_seed(0)",
        "manual_seed(1)",
    ),
    "dict": ("T = {'at': [0, {1}]}\ndef adaptor(b, o):\n    return o[T['at'][0]]", "{1}", "{2}"),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_what_an_adaptor_does_counts(name):
    code, old, new = CHANGES[name]
    assert code.count(old) >= 1
    assert digest_of_adaptor(adaptor_of(code)) == digest_of_adaptor(adaptor_of(code))
    assert digest_of_adaptor(adaptor_of(code)) != digest_of_adaptor(adaptor_of(code.replace(old, new)))


def test_a_function_of_a_module_of_the_users_own_counts(monkeypatch):
    def adaptor(at):
        helpers = types.ModuleType("my_helpers")
        exec(f"def pick(o):\n    return o[{at}]\n", vars(helpers))
        return adaptor_of("def adaptor(b, o):\n    return {'logits': my.pick(o)}", my=helpers, my_helpers=helpers)

    assert digest_of_adaptor(adaptor(0)) == digest_of_adaptor(adaptor(0))
    assert digest_of_adaptor(adaptor(0)) != digest_of_adaptor(adaptor(1))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *[(np.float32(1), np.float32(2)), (Decimal(1), Decimal(2)), (Path("a"), Path("b")), (range(2), range(3))],
        *[(torch.float16, torch.float32), (True, 1), (1, 1.0), ("1", 1), (None, False), ((1,), (1, 1)), (b"a", "a")],
    ],
)
def test_values_that_a_closure_holds_count(one, other):
    def adaptor(held):
        return lambda b, o: held

    assert digest_of_adaptor(adaptor(one)) != digest_of_adaptor(adaptor(other))


def test_a_member_of_an_enum_and_a_named_tuple_count():
    class Kind(Enum):
        A = 1
        B = 2

    pair = namedtuple("pair", "a b")
    told = {digest_of_adaptor(functools.partial(print, value)) for value in (Kind.A, Kind.B, pair(1, 2), pair(2, 1))}
    assert len(told) == 4


def test_a_comment_a_docstring_and_another_global_do_not_count():
    plain = digest_of_adaptor(adaptor_of(ADAPTOR))
    documented = ADAPTOR.replace("    return", "    '''What it does.'''\n    # why\n    return")
    assert digest_of_adaptor(adaptor_of(documented, OTHER=3)) == plain


def test_a_function_that_calls_itself_or_another_that_calls_it_back_is_told():
    code = "def one(o):\n    return two(o)\ndef two(o):\n    return one(o[0])\ndef adaptor(b, o):\n    return one(o)"
    assert digest_of_adaptor(adaptor_of(code)) == digest_of_adaptor(adaptor_of(code))
    assert digest_of_adaptor(adaptor_of(code)) != digest_of_adaptor(adaptor_of(code.replace("o[0]", "o[1]")))


def test_a_library_is_named_and_not_read():
    """A logger has handlers and levels that come and go."""
    code = "import logging\nlogger = logging.getLogger('x')\ndef adaptor(b, o):\n    logger.info('x')\n    return o"
    before = digest_of_adaptor(adaptor_of(code))
    import logging

    logging.getLogger("x").setLevel(logging.DEBUG)
    assert digest_of_adaptor(adaptor_of(code)) == before


def test_a_key_of_the_users_own_stands_for_the_code():
    one, other = adaptor_of(ADAPTOR), adaptor_of(ADAPTOR.replace("[0]", "[1]"))
    one.cache_key = other.cache_key = "logits v1"
    assert digest_of_adaptor(one) == digest_of_adaptor(other) == "named logits v1"
    other.cache_key = "logits v2"
    assert digest_of_adaptor(one) != digest_of_adaptor(other)


def test_adaptors_that_hold_the_model_are_told():
    model = encoder(1)
    model.adaptor = lambda b, o: model(o)
    assert digest_of_adaptor(TransformersAdaptor(model)) and digest_of_architecture(model)


SCRIPT = """
from tests.teachers.cache.test_fingerprint import CHANGES, adaptor_of, encoder
from tests.teachers.cache.test_fingerprint import digest_of_adaptor, digest_of_architecture, digest_of_weights
print(digest_of_weights(encoder(1)), digest_of_architecture(encoder(1)))
print(*[digest_of_adaptor(adaptor_of(code)) for code, _, _ in CHANGES.values()])
"""


def test_another_process_tells_the_same():
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    own = [*digests(encoder(1)), *(digest_of_adaptor(adaptor_of(code)) for code, _, _ in CHANGES.values())]
    assert done.stdout.split() == own


def test_an_adaptors_class_is_told_by_its_code():
    class Other(EncoderAdaptor):
        pass

    assert digest_of_adaptor(EncoderAdaptor()) == digest_of_adaptor(EncoderAdaptor())
    assert digest_of_adaptor(EncoderAdaptor()) != digest_of_adaptor(Other())


class TestTransformers:
    @pytest.fixture
    def bert(self):
        transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")

        def make(**settings):
            small = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8}
            torch.manual_seed(0)
            return transformers.BertForSequenceClassification(
                transformers.BertConfig(vocab_size=20, **{**small, **settings})
            )

        return make

    def test_where_it_came_from_and_how_it_computes_do_not_count(self, bert, tmp_path):
        model = bert()
        expected = digests(model)
        model.save_pretrained(tmp_path / "a")
        (tmp_path / "a").rename(tmp_path / "renamed")
        loaded = type(model).from_pretrained(tmp_path / "renamed", attn_implementation="eager")
        assert loaded.config._name_or_path != model.config._name_or_path
        assert digests(loaded) == expected
        loaded.config.output_hidden_states = True
        assert digests(loaded.eval()) == expected
        with torch.no_grad():
            loaded(torch.ones(1, 4).long())
        assert digests(loaded) == expected

    @pytest.mark.parametrize("setting", [{"hidden_act": "relu"}, {"layer_norm_eps": 1e-6}, {"pad_token_id": 3}])
    def test_its_config_counts(self, bert, setting):
        assert digest_of_architecture(bert()) != digest_of_architecture(bert(**setting))

    def test_a_subclass_of_the_users_own_may_be_renamed_too(self, bert, tmp_path):
        class Mine(type(bert())):
            pass

        model = Mine(bert().config)
        model.save_pretrained(tmp_path / "a")
        one = Mine.from_pretrained(tmp_path / "a")
        (tmp_path / "a").rename(tmp_path / "b")
        other = Mine.from_pretrained(tmp_path / "b")
        other.warnings_issued = {"of": "one run"}
        assert one.name_or_path != other.name_or_path
        assert digests(one) == digests(other)

    def test_a_subclass_of_the_users_own_counts(self, bert):
        def subclass(body):
            names = {"Base": type(bert()), "__name__": "users"}
            exec("class Mine(Base):\n    scale = 1\n" + body, names)
            return names["Mine"](bert().config)

        one = "    def forward(self, *a, **k):\n        return super().forward(*a, **k)\n"
        told = [digest_of_architecture(subclass(b)) for b in (one, one, one.replace("return", "return -1 *"))]
        assert told[0] == told[1] != told[2]
