"""First weights of a narrower student: the teacher's, with heads, neurons and dimensions left out or projected."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import StudentError
from ..feeding import to_device
from ..modes import modes_kept

NARROWING = ("importance", "svd")
"""The ways: dimensions of the hidden states are chosen, or projected on their principal axes."""

Rows = Iterable[Mapping[str, Tensor]]

_QUERY, _KEY, _VALUE = (f"attention.self.{part}" for part in ("query", "key", "value"))
_ATTENDED, _UP, _DOWN = "attention.output.dense", "intermediate.dense", "output.dense"
_NORMS = ("attention.output.LayerNorm", "output.LayerNorm")
_SPACES = {"width": "hidden_size", "embedding": "embedding_size"}
PARTS = (_QUERY, _KEY, _VALUE, _ATTENDED, _UP, _DOWN, *_NORMS)
"""Of a layer like BERT's; each has a weight and a bias."""


@dataclass(frozen=True)
class _Importance:
    """What the parts of a teacher are worth; only the order of the numbers of one tensor means something.

    Attributes:
        heads: ``(heads,)`` of each chosen layer.
        neurons: ``(intermediate_size,)`` of each chosen layer.
        width: ``(hidden_size,)``, or None where weights decide.
        moment: ``(hidden_size, hidden_size)``, the mean of ``h hᵀ`` over hidden states, or None where embeddings stand
            for them.
    """

    heads: list[Tensor]
    neurons: list[Tensor]
    width: Tensor | None = None
    moment: Tensor | None = None


@dataclass(frozen=True)
class _Space:
    """How a space that a teacher's tensors read and write becomes the student's.

    Attributes:
        axes: ``(before, after)`` with orthonormal columns; of chosen dimensions each has a single 1.
        gain: what the weights of a LayerNorm are multiplied by. It makes ``after`` numbers of mean square 1, where the
            part of the teacher's that is kept has ``share · before / after``.
    """

    axes: Tensor
    gain: float = 1.0

    def narrowed(self, tensor: Tensor, axis: int) -> Tensor:
        """``tensor`` with ``axis`` in the student's space."""
        there = tensor.movedim(axis, -1) @ self.axes.to(tensor.dtype)
        return there.movedim(-1, axis)

    def scale(self, weight: Tensor) -> Tensor:
        """The weights of a LayerNorm: the diagonal of ``Qᵀ diag(weight) Q``, times the gain."""
        return self.gain * (self.axes.square().T.to(weight.dtype) @ weight)


def narrow(
    teacher: Any, student: Any, prefix: str, chosen: list[int], how: str, rows: Rows | None = None
) -> dict[str, str]:
    """Give a student with narrower layers its first weights from the teacher's.

    - Heads and neurons of the feed-forward layers are chosen, in each layer. With ``rows`` by ``Σ |a · ∂L/∂a|`` over
      examples, ``a`` what a head or neuron gives and ``L`` the model's loss, or half the squares of its outputs where
      the rows have no labels. Without, by the norm of what they can give: ``‖W_out W_value‖`` of a head,
      ``‖W_in‖ ‖W_out‖`` of a neuron.
    - Heads narrower than the teacher's get the best approximation, of their rank, to the matrices between queries and
      keys and between values and outputs (Eckart and Young 1936).
    - The hidden states go through one map ``Q`` for the whole model: everything that reads them becomes ``W Q``, all
      that writes them ``Qᵀ W``. ``"importance"`` chooses dimensions: with ``rows`` by ``Σ |h · ∂L/∂h|``, else by their
      share of the squared norm of every tensor that reads or writes them. ``"svd"`` has the leading eigenvectors of
      the second moment of the hidden states, or of the token embeddings without ``rows``.
    - A LayerNorm over fewer dimensions has another mean and variance. This is made up for on average only, and an
      ``"svd"`` keeps of its weights what is on the diagonal: outputs are near the teacher's, not the same. The head of
      a masked language model bends what ``"svd"`` has projected; it is far from the teacher's.

    What keeps its size is the teacher's, bit for bit. Source: Michel et al. 2019 (1905.10650), Molchanov et al. 2017
    (1611.06440).

    Args:
        teacher: an encoder with layers like BERT's: BERT, RoBERTa, XLM-RoBERTa, ELECTRA, MiniLM.
        student: one of the same class, no wider in anything.
        prefix: the dotted name of the list of layers.
        chosen: the teacher layer of each student layer.
        how: one of :data:`NARROWING`.
        rows: batches as the teacher takes them, with labels or without.

    Returns:
        The names of the student's tensors, and what each was made of.

    Raises:
        StudentError: the layers are of another kind, the student is wider in something, or there are no rows that the
            teacher can take.
    """
    _require_known_layers(teacher, prefix)
    given, wanted = teacher.config, student.config
    _require_no_wider(given, wanted)
    importance = _by_weights(teacher, prefix, chosen) if rows is None else _by_rows(teacher, prefix, chosen, rows)
    answering = _answering(teacher, student, prefix)
    touching = _touching(teacher, student, prefix, chosen, answering)
    spaces = {
        name: _space(teacher, student, size, how, touching[name], importance if name == "width" else None)
        for name, size in _SPACES.items()
        if hasattr(given, size)
    }
    weights: dict[str, tuple[Tensor, str]] = {}
    for place, (layer, heads, neurons) in enumerate(zip(chosen, importance.heads, importance.neurons, strict=True)):
        theirs = teacher.get_submodule(f"{prefix}.{layer}")
        for name, tensor in _layer(theirs, given, wanted, spaces["width"], heads, neurons):
            weights[f"{prefix}.{place}.{name}"] = tensor, f"{prefix}.{layer}.{name}"
    available = teacher.state_dict()
    for name, mine in student.state_dict().items():
        if name in available and not name.startswith(f"{prefix}."):
            axes = _axes(name, available[name].shape, mine.shape, given, wanted)
            along = {axis: spaces[space] for axis, space in axes.items()} | answering.get(name, {})
            weights[name] = _outside(teacher, name, along), name
        elif ".embeddings_project." in f".{name}":
            # Embeddings as wide as the teacher's hidden states are mapped to the student's behind their LayerNorm.
            between = spaces["width"].axes.T @ spaces["embedding"].axes
            tensor = between if name.endswith("weight") else torch.zeros(len(between))
            weights[name] = tensor, "the map of the teacher's width to the student's"
    student.load_state_dict({name: tensor for name, (tensor, _) in weights.items()}, strict=False)
    return {name: _described(available, source, tensor) for name, (tensor, source) in weights.items()}


def _described(available: Mapping[str, Tensor], source: str, tensor: Tensor) -> str:
    """The name of the teacher's tensor, and of which shape it was where that changed."""
    if source not in available or available[source].shape == tensor.shape:
        return source
    return f"{source}, {list(tensor.shape)} of {list(available[source].shape)}"


def _require_known_layers(teacher: Any, prefix: str) -> None:
    found = {name.rpartition(".")[0] for name, _ in teacher.get_submodule(f"{prefix}.0").named_parameters()}
    if found != set(PARTS):
        strange = sorted(found ^ set(PARTS))
        raise StudentError(
            f"build_student: the layers of {type(teacher).__name__} are not like BERT's ({', '.join(strange[:3])}); "
            "init='importance' and init='svd' narrow only such; use init='random', or keep the teacher's width"
        )


def _require_no_wider(given: Any, wanted: Any) -> None:
    sizes = {name: (getattr(given, name), getattr(wanted, name)) for name in ("hidden_size", "intermediate_size")}
    sizes["num_attention_heads"] = given.num_attention_heads, wanted.num_attention_heads
    sizes["the width of a head"] = _head_width(given), _head_width(wanted)
    if hasattr(given, "embedding_size"):
        sizes["embedding_size"] = given.embedding_size, wanted.embedding_size
    wider = [f"{name} is {mine}, the teacher's {theirs}" for name, (theirs, mine) in sizes.items() if mine > theirs]
    if wider:
        raise StudentError(
            f"build_student: nothing of a narrowed student may be wider than its teacher, but {'; '.join(wider)}; "
            "change num_attention_heads or the widths, or use init='random'"
        )
    if (
        getattr(given, "embedding_size", given.hidden_size) != given.hidden_size
        and wanted.embedding_size == wanted.hidden_size
    ):
        raise StudentError(
            f"build_student: with embedding_size={wanted.embedding_size} as wide as its hidden states the student has "
            "no place for the teacher's map between them; give another embedding_size, or init='random'"
        )


def _head_width(config: Any) -> int:
    return int(config.hidden_size // config.num_attention_heads)


def _exact(tensor: Tensor) -> Tensor:
    """On the CPU, in single precision or its own if that is higher."""
    return tensor.detach().cpu().to(torch.promote_types(tensor.dtype, torch.float32))


def _weight(module: nn.Module, part: str) -> Tensor:
    return _exact(module.get_submodule(part).get_parameter("weight"))


def _with_bias(module: nn.Module, part: str) -> Tensor:
    """``[W | b]``, so that a map and its bias are chosen and factorised as one."""
    bias = _exact(module.get_submodule(part).get_parameter("bias"))
    return torch.cat([_weight(module, part), bias[:, None]], dim=1)


def _by_head(tensor: Tensor, heads: int) -> Tensor:
    """``(heads · n, …)`` as ``(heads, n, …)``."""
    return tensor.reshape(heads, len(tensor) // heads, *tensor.shape[1:])


def _by_weights(teacher: Any, prefix: str, chosen: list[int]) -> _Importance:
    heads, neurons = [], []
    number = teacher.config.num_attention_heads
    for place in chosen:
        layer = teacher.get_submodule(f"{prefix}.{place}")
        out = _by_head(_weight(layer, _ATTENDED).T, number).mT
        heads.append(torch.linalg.matrix_norm(out @ _by_head(_with_bias(layer, _VALUE), number)))
        neurons.append(_with_bias(layer, _UP).norm(dim=1) * _weight(layer, _DOWN).norm(dim=0))
    return _Importance(heads, neurons)


def _by_rows(teacher: Any, prefix: str, chosen: list[int], rows: Rows) -> _Importance:
    layers = teacher.get_submodule(prefix)
    number = teacher.config.num_attention_heads
    device = next(teacher.parameters()).device
    totals: list[Tensor] = []
    moment, tokens = torch.zeros(()), 0
    for batch in rows:
        if not isinstance(batch, Mapping):
            raise StudentError(
                f"build_student: rows= must be batches as the teacher takes them, dicts of tensors by name; got a "
                f"{type(batch).__name__}"
            )
        given, hidden, loss = _watched(teacher, layers, [layers[i] for i in chosen], to_device(batch, device))
        gradients = torch.autograd.grad(loss, [*given, *hidden], allow_unused=True)
        # (batch, length, numbers): what a unit does in an example is the sum over its tokens, before the magnitude.
        effects = [
            torch.zeros(value.shape[0], value.shape[-1])
            if gradient is None
            else (value * gradient).detach().sum(1).cpu().float()
            for value, gradient in zip([*given, *hidden], gradients, strict=True)
        ]
        for i in range(0, len(given), 2):
            effects[i] = effects[i].reshape(len(effects[i]), number, -1).sum(-1)
        found = [effect.abs().sum(0) for effect in effects]
        totals = [a + b for a, b in zip(totals, found, strict=True)] if totals else found
        real = batch["attention_mask"].bool() if "attention_mask" in batch else torch.ones(hidden[0].shape[:2]).bool()
        for state in hidden:
            # Of several texts a row, as choices are, each is a sequence of its own.
            states = state.detach().cpu().double()[real.cpu().reshape(state.shape[:2])]
            moment, tokens = moment + states.T @ states, tokens + len(states)
    if not tokens:
        raise StudentError("build_student: rows= has no batch with a real token; give at least one, or leave it out")
    ends = 2 * len(chosen)
    width = torch.stack(totals[ends:]).sum(0)
    return _Importance(totals[0:ends:2], totals[1:ends:2], width, moment / tokens)


def _watched(
    teacher: Any, layers: Any, chosen: list[nn.Module], batch: Mapping[str, Tensor]
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """What heads and neurons of the chosen layers give, in turn; all hidden states; the loss they are important for."""
    given: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
        given[module] = args[0]

    def track(module: nn.Module, args: tuple[Any, ...]) -> None:
        # A teacher whose weights are frozen would have no graph to follow.
        if not args[0].requires_grad:
            args[0].requires_grad_()

    watched = [layer.get_submodule(part) for layer in chosen for part in (_ATTENDED, _DOWN)]
    with ExitStack() as stack:
        stack.enter_context(modes_kept(teacher))
        stack.enter_context(torch.enable_grad())
        teacher.eval()
        for module in watched:
            stack.callback(module.register_forward_pre_hook(keep).remove)
        stack.callback(layers[0].register_forward_pre_hook(track).remove)
        output = teacher(**batch, output_hidden_states=True, return_dict=True)
    return [given[module] for module in watched], list(output.hidden_states), _loss(output, batch)


def _loss(output: Any, batch: Mapping[str, Tensor]) -> Tensor:
    if output.get("loss") is not None:
        # A mean over the batch: times its rows, so that an example counts alike in batches of any size.
        loss: Tensor = output["loss"] * len(batch["input_ids"])
        return loss
    mask = batch.get("attention_mask")
    total = torch.zeros(())
    for name, value in output.items():
        if name == "last_hidden_state" or name.endswith("logits"):
            if mask is not None and value.shape[:2] == mask.shape:
                value = value * mask.reshape(*mask.shape, *[1] * (value.ndim - 2))
            total = total.to(value.device) + value.float().square().sum() / 2
    return total


def _best(importance: Tensor, number: int) -> Tensor:
    """The places of the ``number`` largest, in their order."""
    places: Tensor = importance.topk(number).indices.sort().values
    return places


def _chosen_axes(importance: Tensor, number: int) -> Tensor:
    return torch.eye(len(importance), dtype=torch.float64)[:, _best(importance, number)]


def principal_axes(moment: Tensor, number: int) -> Tensor:
    """The ``number`` leading eigenvectors of a symmetric matrix as columns, the first one first."""
    # Eigenvalues come in ascending order.
    axes: Tensor = torch.linalg.eigh(moment)[1]
    return axes[:, -number:].flip(-1)


def _space(
    teacher: Any, student: Any, size: str, how: str, touching: list[Tensor], importance: _Importance | None
) -> _Space:
    """The map of the hidden states or of the embeddings; ``touching`` is what reads or writes them."""
    before, after = (getattr(model.config, size) for model in (teacher, student))
    if before == after:
        return _Space(torch.eye(before, dtype=torch.float64))
    moment = importance.moment if importance else None
    if moment is None:
        embeddings = teacher.get_input_embeddings().weight.detach().cpu().double()
        # Narrower embeddings say nothing of the hidden states: every dimension counts alike.
        moment = embeddings.T @ embeddings if embeddings.shape[1] == before else torch.eye(before, dtype=torch.float64)
    if how == "svd":
        axes = principal_axes(moment, after)
    else:
        measured = importance.width if importance else None
        axes = _chosen_axes(_shares(touching) if measured is None else measured, after)
    share = float(((moment @ axes) * axes).sum() / moment.trace())
    return _Space(axes, math.sqrt(share * before / after))


def _axes(name: str, theirs: torch.Size, mine: torch.Size, given: Any, wanted: Any) -> dict[int, str]:
    """Which axes of a tensor are in which space, by their sizes in teacher and student."""
    spaces = {(getattr(given, size, 0), getattr(wanted, size, 0)): space for space, size in reversed(_SPACES.items())}
    changed = {axis: pair for axis, pair in enumerate(zip(theirs, mine, strict=True)) if pair[0] != pair[1]}
    if not spaces.keys() >= set(changed.values()):
        raise StudentError(
            f"build_student: {name} is {list(theirs)} in the teacher and {list(mine)} in the student, and what narrows "
            "it is not known; use init='random'"
        )
    return {axis: spaces[pair] for axis, pair in changed.items()}


def _touching(
    teacher: Any, student: Any, prefix: str, chosen: list[int], answering: Mapping[str, Mapping[int, _Space]]
) -> dict[str, list[Tensor]]:
    """The tensors that read or write a space, with its axis as the first."""
    found: dict[str, list[Tensor]] = {space: [] for space in _SPACES}
    for place in chosen:
        layer = teacher.get_submodule(f"{prefix}.{place}")
        found["width"] += [_weight(layer, part).T for part in (_QUERY, _KEY, _VALUE, _UP)]
        found["width"] += [_with_bias(layer, part) for part in (_ATTENDED, _DOWN)]
        found["width"] += [_weight(layer, part) for part in _NORMS]
    mine = dict(student.named_parameters())
    for name, theirs in teacher.named_parameters():
        if name in mine and not name.startswith(f"{prefix}."):
            axes = _axes(name, theirs.shape, mine[name].shape, teacher.config, student.config)
            for axis in axes.keys() - answering.get(name, {}).keys():
                found[axes[axis]].append(_exact(theirs).movedim(axis, 0))
    return found


def _shares(tensors: list[Tensor]) -> Tensor:
    """The share of each place of the first axis in the squared norm of every tensor, summed."""
    squares = [
        tensor.double().flatten(1).square().sum(1) if tensor.ndim > 1 else tensor.double().square()
        for tensor in tensors
    ]
    total: Tensor = sum((each / each.sum() for each in squares if each.any()), torch.zeros_like(squares[0]))
    return total


def _layer(
    layer: nn.Module, given: Any, wanted: Any, width: _Space, heads: Tensor, neurons: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a student's layer by name."""
    before, after = _head_width(given), _head_width(wanted)
    kept = _best(heads, wanted.num_attention_heads)
    query, key, value = (_by_head(_reading(layer, part, width), len(heads))[kept] for part in (_QUERY, _KEY, _VALUE))
    attended = _by_head(width.narrowed(_weight(layer, _ATTENDED), 0).T, len(heads))[kept]
    if after < before:
        query, key = _factors(query, key, after)
        attended, value = _factors(attended, value, after)
        # Scores are divided by the root of the student's width of a head, and should be by that of the teacher's.
        query = query * math.sqrt(after / before)
    for part, tensor in ((_QUERY, query), (_KEY, key), (_VALUE, value)):
        yield f"{part}.weight", tensor.flatten(0, 1)[:, :-1]
        yield f"{part}.bias", tensor.flatten(0, 1)[:, -1]
    between = _best(neurons, wanted.intermediate_size)
    up = _reading(layer, _UP, width)[between]
    yield f"{_UP}.weight", up[:, :-1]
    yield f"{_UP}.bias", up[:, -1]
    yield f"{_ATTENDED}.weight", attended.flatten(0, 1).T
    yield f"{_DOWN}.weight", width.narrowed(_weight(layer, _DOWN)[:, between], 0)
    for part in (_ATTENDED, _DOWN, *_NORMS):
        yield f"{part}.bias", width.narrowed(_exact(layer.get_parameter(f"{part}.bias")), 0)
    for part in _NORMS:
        yield f"{part}.weight", width.scale(_weight(layer, part))


def _reading(layer: nn.Module, part: str, width: _Space) -> Tensor:
    """``[W Q | b]``."""
    stacked = _with_bias(layer, part)
    return torch.cat([width.narrowed(stacked[:, :-1], 1), stacked[:, -1:]], dim=1)


def _factors(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """``(…, rank, p)`` and ``(…, rank, q)`` whose ``aᵀ b`` is nearest to that of ``(…, n, p)`` and ``(…, n, q)``."""
    (left, inner_a), (right, inner_b) = (torch.linalg.qr(x.double().mT) for x in (a, b))
    u, s, v = torch.linalg.svd(inner_a @ inner_b.mT, full_matrices=False)
    root = s[..., None, :rank].sqrt()
    return ((left @ u[..., :rank]) * root).mT.to(a.dtype), ((right @ v.mT[..., :rank]) * root).mT.to(b.dtype)


def _answering(teacher: Any, student: Any, prefix: str) -> dict[str, dict[int, _Space]]:
    """The dense layer between the hidden states and the answer: its outputs are neurons, and are chosen like these.

    A projection does not pass through what bends them. Heads of masked language models are the exception: what follows
    there reads the space of the embeddings.

    Returns:
        The space of the axes of the tensors that write and read them; empty where there is no such layer.
    """
    before, after = teacher.config.hidden_size, student.config.hidden_size
    outside = {
        name: _exact(tensor)
        for name, tensor in teacher.named_parameters()
        if not name.startswith(f"{prefix}.")
        and not any(part in name for part in ("embeddings", "predictions", "lm_head"))
    }
    dense = next((name for name, tensor in outside.items() if tensor.shape == (before, before)), None)
    if before == after or dense is None:
        return {}
    writers = {dense: 0, dense.removesuffix("weight") + "bias": 0}
    readers = {n: 1 for n, t in outside.items() if n not in writers and t.ndim == 2 and t.shape[1] == before}
    worth = torch.cat(
        [outside[name][:, None] if name.endswith("bias") else outside[name] for name in writers], dim=1
    ).norm(dim=1)
    if readers:
        worth = worth * torch.cat([outside[name] for name in readers]).norm(dim=0)
    space = _Space(_chosen_axes(worth, after))
    return {name: {axis: space} for name, axis in (writers | readers).items()}


def _outside(teacher: Any, name: str, along: Mapping[int, _Space]) -> Tensor:
    """A tensor of embeddings or heads, with each axis in the space it is now in."""
    tensor: Tensor = teacher.state_dict()[name]
    if not along:
        return tensor
    module, _, kind = name.rpartition(".")
    if kind == "weight" and isinstance(teacher.get_submodule(module), nn.LayerNorm):
        return along[0].scale(_exact(tensor))
    tensor = _exact(tensor)
    for axis, space in along.items():
        tensor = space.narrowed(tensor, axis)
    return tensor
