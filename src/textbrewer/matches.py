"""Lists of intermediate matches by rule: which layer of the teacher each layer of the student learns from.

Layers count from 1, ``T`` of them in the teacher and ``S`` in the student. A list of hidden states has the embeddings'
output at 0, so that layer i is index i; a list of attention maps has one a layer, so that layer i is index i − 1.

The sets of TextBrewer's experiments are attributes of this module, as in ``matches.L4t_hidden_mse``: see :func:`named`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, TypedDict, TypeGuard, Unpack

from .errors import ConfigError, Problem, UnknownNameError, did_you_mean, one_of, unknown_name
from .losses import ManyToManyLoss, RelationLoss
from .presets import ANY_WIDTH_MATCH_LOSSES, MATCH_LOSS_MAP, PAIRED_MATCH_LOSSES, asked

Loss: TypeAlias = str | list[Any] | dict[str, Any] | Callable[..., Any] | None
Features: TypeAlias = str | Iterable[str] | Mapping[str, Loss]
Matches: TypeAlias = list[dict[str, Any]]


class More(TypedDict, total=False):
    """What every rule takes by keyword too; see :func:`uniform`."""

    weight: float
    teacher_width: int | None
    student_width: int | None
    embeddings: bool


def uniform(
    teacher_layers: int, student_layers: int, features: Features = ("hidden",), loss: Loss = None, **more: Unpack[More]
) -> Matches:
    """Evenly spread, last to last: layer ``i`` to ``round(i T / S)``, halves to the even layer.

    Args:
        teacher_layers: ``T``, without the embeddings.
        student_layers: ``S``, at most ``T``.
        features: ``"hidden"``, ``"attention"`` or both; or a mapping from each to its loss.
        loss: a name of :data:`textbrewer.MATCH_LOSS_MAP`, with its options if it has any, or a function; by default
            ``hidden_mse`` and ``attention_mse``. Losses that take two layers a side get the same one twice.
        weight: of each match; by default 1.
        teacher_width: where it differs from ``student_width``, matches of hidden states get a linear projection, but
            for losses that take any widths, such as ``mmd``. By default the widths are taken to be equal.
        student_width: goes with ``teacher_width``.
        embeddings: whether hidden states are matched at the embeddings too; by default they are.

    Raises:
        ConfigError: with every problem at once.

    >>> [(match["layer_S"], match["layer_T"]) for match in uniform(12, 5)]
    [(0, 0), (1, 2), (2, 5), (3, 7), (4, 10), (5, 12)]
    >>> uniform(12, 1, "attention")
    [{'layer_T': 11, 'layer_S': 0, 'feature': 'attention', 'loss': 'attention_mse', 'weight': 1.0}]
    >>> uniform(12, 4, loss="gram", teacher_width=768, student_width=312)[-1]["proj"]
    ['linear', 312, 768]
    """
    return _by_rule(_evenly, teacher_layers, student_layers, features, loss, **more)


def first(
    teacher_layers: int, student_layers: int, features: Features = ("hidden",), loss: Loss = None, **more: Unpack[More]
) -> Matches:
    """The teacher's first layers: layer ``i`` to ``i``. For the arguments see :func:`uniform`.

    >>> [(match["layer_S"], match["layer_T"]) for match in first(12, 3)]
    [(0, 0), (1, 1), (2, 2), (3, 3)]
    """
    return _by_rule(lambda i, T, S: i, teacher_layers, student_layers, features, loss, **more)


def last(
    teacher_layers: int, student_layers: int, features: Features = ("hidden",), loss: Loss = None, **more: Unpack[More]
) -> Matches:
    """The teacher's last layers: layer ``i`` to ``T − S + i``. For the arguments see :func:`uniform`.

    >>> [(match["layer_S"], match["layer_T"]) for match in last(12, 3)]
    [(0, 0), (1, 10), (2, 11), (3, 12)]
    """
    return _by_rule(lambda i, T, S: T - S + i, teacher_layers, student_layers, features, loss, **more)


def skip(
    teacher_layers: int, student_layers: int, features: Features = ("hidden",), loss: Loss = None, **more: Unpack[More]
) -> Matches:
    """Every k-th layer: layer ``i`` to ``k i``, ``k = ⌊T / S⌋``. For the arguments see :func:`uniform`.

    >>> [(match["layer_S"], match["layer_T"]) for match in skip(12, 5)]
    [(0, 0), (1, 2), (2, 4), (3, 6), (4, 8), (5, 10)]
    """
    return _by_rule(lambda i, T, S: T // S * i, teacher_layers, student_layers, features, loss, **more)


def many_to_many(
    teacher_layers: int,
    student_layers: int,
    features: Features = ("hidden",),
    loss: Loss = None,
    temperature: float = 1.0,
    learn_weights: bool = True,
    **more: Unpack[More],
) -> Matches:
    """Every student layer learns from every teacher layer, as far as the cheapest transport between them says.

    One match for each feature, whose loss is a :class:`~textbrewer.losses.ManyToManyLoss`; a projection, if the widths
    differ, is shared by all student layers. Embeddings, where matched, are matched with each other, one to one. For the
    other arguments see :func:`uniform`; losses that take two layers a side cannot be used.

    Args:
        teacher_layers: ``T``, without the embeddings.
        student_layers: ``S``, at most ``T``.
        features: ``"hidden"``, ``"attention"`` or both; or a mapping from each to its loss.
        loss: between two layers.
        temperature: of the layers' weights.
        learn_weights: whether the layers' weights follow their costs; else they stay equal.

    Raises:
        ConfigError: with every problem at once.

    Source: BERT-EMD, 2010.06133.

    >>> [(match["layer_S"], match["layer_T"]) for match in many_to_many(4, 2)]
    [(0, 0), ([1, 2], [1, 2, 3, 4])]
    """
    if not isinstance(temperature, (int, float)) or not 0 < temperature < math.inf:
        raise ConfigError("matches", [Problem("temperature", "a number above 0", repr(temperature))])
    one_to_one = uniform(teacher_layers, student_layers, features, loss, **more)
    matches: Matches = []
    for feature in dict.fromkeys(match["feature"] for match in one_to_one):
        own = [match for match in one_to_one if match["feature"] == feature]
        given = own[-1]["loss"]
        # Of one layer a side, and without parameters: one loss serves all pairs of layers here.
        singles = [n for n, f in MATCH_LOSS_MAP.items() if n not in PAIRED_MATCH_LOSSES and not isinstance(f, type)]
        if not callable(given) and asked(given)[0] not in singles:
            raise ConfigError("matches", [Problem(f"loss of {feature}", one_of(singles), repr(given))])
        name = getattr(given, "__name__", "custom") if callable(given) else asked(given)[0]
        function = given if callable(given) else MATCH_LOSS_MAP[given]
        lowest = 1 if feature == "hidden" else 0
        every = {
            "layer_T": list(range(lowest, lowest + teacher_layers)),
            "layer_S": list(range(lowest, lowest + student_layers)),
            "loss": ManyToManyLoss(function, name, temperature, learn_weights),
        }
        matches += [match for match in own if feature == "hidden" and match["layer_S"] == 0]
        matches.append({**own[-1], **every})
    return matches


def tinybert(teacher_layers: int, student_layers: int, heads: int = 12, **more: Unpack[More]) -> Matches:
    """Embeddings, hidden states and attention scores, evenly spread over the layers, as TinyBERT.

    The scores are those before the softmax, computed from queries and keys (``query_key_mse``), so that no attention
    map is asked for. For the other arguments see :func:`uniform`.

    Args:
        teacher_layers: ``T``, without the embeddings.
        student_layers: ``S``, at most ``T``.
        heads: attention heads, as many in the student as in the teacher.

    Raises:
        ConfigError: with every problem at once.

    Source: TinyBERT, 1909.10351.

    >>> written = tinybert(12, 4, teacher_width=768, student_width=312)
    >>> written[1]["layer_T"], written[1]["proj"], written[-1]["layer_T"], written[-1]["loss"].__name__
    (3, ['linear', 312, 768], ['query:11', 'key:11'], 'query_key_mse_12')
    """
    _require_sound(heads)
    hidden = uniform(teacher_layers, student_layers, "hidden", "hidden_mse_valid", **more)
    scores = uniform(teacher_layers, student_layers, "attention", weight=more.get("weight", 1.0))
    loss = RelationLoss(heads, "query_key_mse")
    return hidden + [_attention_match(["query", "key"], m["layer_T"], m["layer_S"], loss, m["weight"]) for m in scores]


def minilm(heads: int = 12, teacher_layer: int = -1, student_layer: int = -1, weight: float = 1.0) -> Matches:
    """The attention and the relations among values of one layer, as MiniLM.

    Args:
        heads: attention heads of both models, or any number that divides both widths.
        teacher_layer: from 0, or from the end if below 0.
        student_layer: the same for the student.
        weight: of each match.

    Raises:
        ConfigError: with every problem at once.

    Source: MiniLM, 2002.10957.

    >>> [(match["layer_S"], match["loss"].__name__) for match in minilm()]
    [(['query:-1', 'key:-1'], 'query_key_kl_12'), ('value:-1', 'relation_kl_12')]
    """
    _require_sound(heads, weight, teacher_layer=teacher_layer, student_layer=student_layer)
    attention, values = RelationLoss(heads, "query_key_kl"), RelationLoss(heads)
    return [
        _attention_match(["query", "key"], teacher_layer, student_layer, attention, weight),
        _attention_match(["value"], teacher_layer, student_layer, values, weight),
    ]


def minilmv2(heads: int = 48, teacher_layer: int = -1, student_layer: int = -1, weight: float = 1.0) -> Matches:
    """The relations among queries, among keys and among values of one layer, as MiniLMv2.

    Args:
        heads: relation heads, any number that divides both widths; its authors take 48 for teachers of width 768 and
            64 for 1024.
        teacher_layer: from 0, or from the end if below 0. For a teacher of 24 layers its authors take one somewhat
            below the last.
        student_layer: the same for the student.
        weight: of each match.

    Raises:
        ConfigError: with every problem at once.

    Source: MiniLMv2, 2012.15828.

    >>> [(match["layer_T"], match["layer_S"]) for match in minilmv2(64, teacher_layer=20)]
    [('query:20', 'query:-1'), ('key:20', 'key:-1'), ('value:20', 'value:-1')]
    """
    _require_sound(heads, weight, teacher_layer=teacher_layer, student_layer=student_layer)
    loss = RelationLoss(heads)
    parts = ("query", "key", "value")
    return [_attention_match([part], teacher_layer, student_layer, loss, weight) for part in parts]


def named(name: str) -> Matches:
    """A set of TextBrewer's experiments, ``{student}_{feature}_{loss}``, for a teacher of 12 layers of width 768.

    - Student: ``L{S}`` is S layers of width 768, spread as by :func:`uniform`; ``L{S}t`` of 312, ``L{S}n`` of 384,
      ``L{S}l`` of 1024; ``small`` 12 layers of 256 matched at every second one, ``es`` the same without embeddings.
    - Feature and loss: ``hidden_mse``; ``hidden_smmd`` and ``hidden_sgram``, which are ``mmd`` and ``gram`` with the
      same layer twice; ``attention_mse``, ``attention_mse_sum``, ``attention_ce`` and ``attention_ce_mean``.

    Hidden states have TextBrewer's numbers. Attention maps are of its layers, under indices one lower: the models of
    its experiments gave a list with None before the 12 maps, and Transformers gives the 12 alone.

    Raises:
        UnknownNameError: there is no such set; the message names the nearest.

    >>> named("L2_hidden_smmd")[-1]
    {'layer_T': [12, 12], 'layer_S': [2, 2], 'feature': 'hidden', 'loss': 'mmd', 'weight': 1.0}
    """
    if name not in _NAMES:
        raise UnknownNameError(f"there is no set of matches {name!r}; {did_you_mean(name, _NAMES)}".removesuffix("; "))
    student, feature, kind = name.split("_", 2)
    pairs, width = _STUDENTS[student]
    losses = {feature: _LOSSES[feature][kind]}
    return _matches(pairs, losses, teacher_width=768, student_width=width, embeddings=student != "es")


def _evenly(i: int, T: int, S: int) -> int:
    return round(i * T / S)


_LOSSES = {
    "hidden": {"mse": "hidden_mse", "smmd": "mmd", "sgram": "gram"},
    "attention": {kind: f"attention_{kind}" for kind in ("mse", "mse_sum", "ce", "ce_mean")},
}
_STUDENTS = {
    f"L{S}{letter}": ([(_evenly(i, 12, S), i) for i in range(1, S + 1)], width)
    for S in range(1, 13)
    for letter, width in {"": 768, "t": 312, "n": 384, "l": 1024}.items()
} | dict.fromkeys(("small", "es"), ([(i, i) for i in range(2, 13, 2)], 256))
_NAMES = [f"{student}_{feature}_{kind}" for student in _STUDENTS for feature in _LOSSES for kind in _LOSSES[feature]]


def _by_rule(
    rule: Callable[[int, int, int], int], T: int, S: int, features: Features, loss: Loss, **more: Unpack[More]
) -> Matches:
    names = [features] if isinstance(features, str) else features
    losses = {name: names[name] if isinstance(names, Mapping) else loss for name in names}
    problems = _problems(T, S, losses, more)
    if isinstance(features, Mapping) and loss is not None:
        problems.append(Problem("loss", "None, as `features` gives the losses", repr(loss)))
    if problems:
        raise ConfigError("matches", problems)
    return _matches([(rule(i, T, S), i) for i in range(1, S + 1)], losses, **more)


def _problems(T: int, S: int, losses: Mapping[str, Loss], more: More) -> list[Problem]:
    keys = list(More.__annotations__)
    problems = [Problem(key, one_of(keys), "another key", did_you_mean(key, keys)) for key in more if key not in keys]
    widths = {key: more.get(key) for key in ("teacher_width", "student_width") if more.get(key) is not None}
    for key, number in {"teacher_layers": T, "student_layers": S, **widths}.items():
        if not _is_whole(number) or number < 1:
            problems.append(Problem(key, "a whole number above 0", repr(number)))
        elif key == "student_layers" and isinstance(T, int) and number > T > 0:
            problems.append(Problem(key, f"at most the teacher's {T}", str(number)))
    if losses.keys() == {"attention"}:
        problems += [Problem(key, "None, as attention maps have no width", repr(widths[key])) for key in widths]
    elif len(widths) == 1:
        problems.append(Problem("teacher_width, student_width", "both or neither", repr(widths)))
    problems += _weight_problems(more.get("weight", 1.0))
    if not losses:
        problems.append(Problem("features", one_of(_LOSSES), "none"))
    for feature, loss in losses.items():
        # A loss named after the other feature would fail only in training, if at all.
        known = [name for name in MATCH_LOSS_MAP if not name.startswith(tuple(f"{f}_" for f in {*_LOSSES} - {feature}))]
        if feature not in _LOSSES:
            problems.append(unknown_name("features", feature, _LOSSES))
        elif loss is not None and not callable(loss) and asked(loss)[0] not in known:
            problems.append(
                Problem(f"loss of {feature}", one_of(known), repr(loss), did_you_mean(asked(loss)[0], known))
            )
    return problems


def _matches(pairs: list[tuple[int, int]], losses: Mapping[str, Loss], **more: Unpack[More]) -> Matches:
    """A match for each feature and each pair of layers, the teacher's first."""
    width_T, width_S, weight = more.get("teacher_width"), more.get("student_width"), more.get("weight", 1.0)
    matches: Matches = []
    for feature, given in losses.items():
        loss, hidden = given or _LOSSES[feature]["mse"], feature == "hidden"
        named = asked(loss)[0]
        for pair in [(0, 0), *pairs] if hidden and more.get("embeddings", True) else pairs:
            indices = [layer if hidden else layer - 1 for layer in pair]
            layer_T, layer_S = ([i, i] if named in PAIRED_MATCH_LOSSES else i for i in indices)
            matches.append({"layer_T": layer_T, "layer_S": layer_S, "feature": feature, "loss": loss, "weight": weight})
            if hidden and width_T != width_S and named not in ANY_WIDTH_MATCH_LOSSES:
                matches[-1]["proj"] = ["linear", width_S, width_T]
    return matches


def _attention_match(parts: list[str], layer_T: int, layer_S: int, loss: RelationLoss, weight: float) -> dict[str, Any]:
    """A match of parts of an attention layer, as :mod:`textbrewer.matching.attention_parts` finds them."""
    layers = ([f"{part}:{layer}" for part in parts] for layer in (layer_T, layer_S))
    of_T, of_S = (paths if len(paths) > 1 else paths[0] for paths in layers)
    return {"layer_T": of_T, "layer_S": of_S, "feature": "attention", "loss": loss, "weight": weight}


def _require_sound(heads: Any, weight: Any = 1.0, **layers: Any) -> None:
    problems = [] if _is_whole(heads) and heads > 0 else [Problem("heads", "a whole number above 0", repr(heads))]
    problems += [Problem(key, "a whole number", repr(layer)) for key, layer in layers.items() if not _is_whole(layer)]
    problems += _weight_problems(weight)
    if problems:
        raise ConfigError("matches", problems)


def _is_whole(number: object) -> TypeGuard[int]:
    return isinstance(number, int) and not isinstance(number, bool)


def _weight_problems(weight: Any) -> list[Problem]:
    finite = isinstance(weight, (int, float)) and math.isfinite(weight)
    return [] if finite else [Problem("weight", "a finite number", repr(weight))]


def __getattr__(name: str) -> Matches:
    try:
        return named(name)
    except UnknownNameError as error:
        raise AttributeError(f"module {__name__!r}: {error}") from None


def __dir__() -> list[str]:
    return sorted([*globals(), *_NAMES])
