"""First weights of a student whose embeddings are two factors, a narrow table and a map to the hidden states."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import StudentError
from ..feeding import to_device
from ..matching.layers import first_position
from .narrowing import PARTS, Rows, principal_axes

_TABLES = ("word_embeddings", "position_embeddings", "token_type_embeddings")
_NORM, _MAP = "LayerNorm", "embeddings_project"
_LAYERS = "encoder.layer."
_EMBEDDINGS = {*(f"{table}.weight" for table in _TABLES), f"{_NORM}.weight", f"{_NORM}.bias"}
_SHARED = ("hidden_act", "layer_norm_eps")
"""What layers compute alike by."""
_UNSEEN = 0.1
"""What every sum there can be counts beside those on the rows, so that tokens that are not on them are not forgotten.

With 64 rows of SST-2, all-MiniLM-L6-v2's embeddings of other rows are as near as without it, and of any tokens nearer.
"""


def prepare(teacher: Any, config: Any, source: str) -> None:
    """Give the config of a student in another family what its teacher's tables and layers need.

    Raises:
        StudentError: its embeddings are not narrower than its hidden states, or the teacher's are not like BERT's.
    """
    width, narrow = config.hidden_size, getattr(config, "embedding_size", None)
    if narrow is None or not 1 < narrow < width:
        found = "has no embedding_size" if narrow is None else f"has embedding_size={narrow}, hidden_size={width}"
        raise StudentError(
            f"build_student: init={source!r} in another family factorises the teacher's embeddings, which takes an "
            f"embedding_size from 2 to below hidden_size; {config.model_type} {found}; give another embedding_size or "
            "family='electra', or use init='random'"
        )
    for name in _SHARED:
        if hasattr(teacher.config, name):
            setattr(config, name, getattr(teacher.config, name))
    embeddings = getattr(teacher.base_model, "embeddings", torch.nn.Module())
    strange = sorted({name for name, _ in embeddings.named_parameters()} ^ _EMBEDDINGS)
    if strange:
        raise StudentError(
            f"build_student: init={source!r} in another family factorises embeddings like BERT's, and those of "
            f"{type(teacher).__name__} differ in {', '.join(strange[:3])}; leave family out, or use init='random'"
        )


def require_factors(student: Any, source: str) -> None:
    """Refuse a student that has not BERT's layers behind factorised embeddings.

    Raises:
        StudentError: it names a part that is missing or not known.
    """
    expected = {f"embeddings.{name}" for name in _EMBEDDINGS} | {f"{_MAP}.weight", f"{_MAP}.bias"}
    expected |= {
        f"{_LAYERS}{layer}.{part}.{kind}"
        for layer in range(student.config.num_hidden_layers)
        for part in PARTS
        for kind in ("weight", "bias")
    }
    strange = sorted(expected ^ {name for name, _ in student.base_model.named_parameters()})
    if strange:
        raise StudentError(
            f"build_student: init={source!r} in another family takes one with BERT's layers behind factorised "
            f"embeddings, and {type(student).__name__} differs in {', '.join(strange[:3])}; use family='electra', or "
            "init='random'"
        )


def factorise(teacher: Any, student: Any, told: Mapping[str, str], rows: Rows | None = None) -> dict[str, str]:
    """Give a student with factorised embeddings its first weights from a teacher of the same layers and width.

    A teacher's embeddings are ``y = g ⊙ (Cx / ‖Cx‖) √H + b``: ``x`` is the sum of a token's, a position's and a type's,
    ``H`` its width, ``C`` takes the mean of a vector away, and ``g`` and ``b`` are of the LayerNorm. The student
    normalises before its map. Its tables are ``z = √(k / H) B Vᵀ Cx``: ``V`` are the leading ``k − 1`` right singular
    vectors of all ``Cx`` (Eckart and Young 1936), with ``rows`` mostly of those on them, and ``B``, ``(k, k − 1)`` with
    orthonormal columns of mean zero, leaves the student's LayerNorm no mean to take away, hence one axis less than
    ``k``. Its map is ``α diag(g) V Bᵀ``, its bias ``b``, and its LayerNorm has weights of one. With ``α² = share · H /
    k``, ``share`` the part of ``‖Cx‖²`` that ``V`` keeps, the outputs have the scale that is best on average, and are
    the teacher's where sums have rank ``k − 1``.

    Layers are copied, and a head that is one linear map of the same name; other heads bend what they read elsewhere.

    Args:
        teacher: an encoder with BERT's embeddings and layers.
        student: one with as many layers that :func:`require_factors` accepts.
        told: what each tensor of the teacher was made of.
        rows: batches as the teacher takes them.

    Returns:
        The names of the student's tensors, and what each was made of.
    """
    theirs, mine = teacher.base_model, student.base_model
    sources = {name: told[f"{_prefix(teacher)}{name}"] for name in theirs.state_dict()}
    weights = {
        name: (tensor, sources[name]) for name, tensor in theirs.state_dict().items() if name.startswith(_LAYERS)
    }
    weights |= _factors(theirs.embeddings, mine.config.embedding_size, sources, rows)
    mine.load_state_dict({name: tensor for name, (tensor, _) in weights.items()}, strict=False)
    taken = {f"{_prefix(student)}{name}": source for name, (_, source) in weights.items()}
    taken |= _linear_head(teacher, student, told)
    return taken | _tied(student, taken)


def _prefix(model: Any) -> str:
    return "" if model.base_model is model else f"{model.base_model_prefix}."


def _factors(
    embeddings: Any, width: int, sources: Mapping[str, str], rows: Rows | None
) -> dict[str, tuple[Tensor, str]]:
    """The student's tensors up to its layers, and what each is made of."""
    first = {"position_embeddings": first_position(embeddings.position_embeddings)}
    tables = {name: _exact(embeddings.get_submodule(name).weight)[first.get(name, 0) :] for name in _TABLES}
    tables = {name: table - table.mean(dim=1, keepdim=True) for name, table in tables.items()}
    moment = _moment(list(tables.values()))
    if rows is not None:
        moment = (1 - _UNSEEN) * _moment_on(embeddings, rows) + _UNSEEN * moment
    axes = principal_axes(moment, width - 1)
    share = float(((moment @ axes) * axes).sum() / moment.trace())
    placed, scale = axes @ _without_mean(width).T, math.sqrt(width / len(axes))
    norm = embeddings.get_submodule(_NORM)
    of_map = math.sqrt(share) / scale * _exact(norm.weight)[:, None] * placed
    inside = f"embeddings.{_NORM}"
    made = {
        f"embeddings.{name}.weight": (
            scale * table @ placed,  # of the teacher's variance, on which the LayerNorm's epsilon weighs alike
            f"{sources[f'embeddings.{name}.weight']}, {width - 1} of {len(axes)} axes",
        )
        for name, table in tables.items()
    }
    return made | {
        f"{inside}.weight": (torch.ones(width), f"1; {sources[f'{inside}.weight']} is in {_MAP}"),
        f"{inside}.bias": (torch.zeros(width), f"0; {sources[f'{inside}.bias']} is in {_MAP}"),
        f"{_MAP}.weight": (of_map, f"the axes of the embeddings, and {sources[f'{inside}.weight']}"),
        f"{_MAP}.bias": (_exact(norm.bias), sources[f"{inside}.bias"]),
    }


def _exact(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double()


def _moment(tables: list[Tensor]) -> Tensor:
    """The mean of ``x xᵀ`` over sums of a row of each table, every combination once."""
    mean = torch.stack([table.mean(dim=0) for table in tables]).sum(dim=0)
    spread = torch.stack([torch.cov(table.T, correction=0) for table in tables]).sum(dim=0)
    return spread + torch.outer(mean, mean)


def _moment_on(embeddings: Any, rows: Rows) -> Tensor:
    """The mean of ``Cx (Cx)ᵀ`` over the real tokens of rows, ``x`` what the LayerNorm is fed."""
    total, tokens = torch.zeros(()), 0
    sums: list[Tensor] = []
    hook = embeddings.get_submodule(_NORM).register_forward_pre_hook(lambda module, args: sums.append(args[0]))
    try:
        for batch in rows:
            fed = {name: batch[name] for name in ("input_ids", "token_type_ids") if name in batch}
            with torch.no_grad():
                embeddings(**to_device(fed, embeddings.word_embeddings.weight.device))
            found = _exact(sums.pop())
            if "attention_mask" in batch:
                found = found[batch["attention_mask"].cpu().bool()]
            found = (found - found.mean(dim=-1, keepdim=True)).flatten(0, -2)
            total, tokens = total + found.T @ found, tokens + len(found)
    finally:
        hook.remove()
    return total / tokens


def _without_mean(width: int) -> Tensor:
    """``(width, width − 1)``: orthonormal columns of mean zero, cosines of rising frequency (the DCT's basis)."""
    places, waves = torch.arange(width, dtype=torch.float64) + 0.5, torch.arange(1, width, dtype=torch.float64)
    return torch.cos(torch.outer(places, waves) * torch.pi / width) * math.sqrt(2 / width)


def _linear_head(teacher: Any, student: Any, told: Mapping[str, str]) -> dict[str, str]:
    """Copy a head that is one linear map in both; its names, and what it was made of."""
    if teacher.base_model is teacher:
        return {}
    theirs, mine = (
        {n: t for n, t in model.state_dict().items() if not n.startswith(_prefix(model))}
        for model in (teacher, student)
    )
    alike = {name: tensor.shape for name, tensor in mine.items()} == {name: t.shape for name, t in theirs.items()}
    if not alike or len({name.rpartition(".")[0] for name in mine}) != 1:
        return {}
    student.load_state_dict(theirs, strict=False)
    return {name: told[name] for name in mine}


def _tied(student: Any, taken: Mapping[str, str]) -> dict[str, str]:
    """Other names of tensors that were given their weights by one name."""
    state = student.state_dict()
    by_place = {state[name].data_ptr(): source for name, source in taken.items()}
    return {name: by_place[tensor.data_ptr()] for name, tensor in state.items() if tensor.data_ptr() in by_place}
