"""Outputs of named submodules, taken by forward hooks that are there only while a run lasts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..errors import MatchError, did_you_mean
from .attention_parts import is_part, paths_of_part

_PATH = re.compile(r"(?P<module>[^\[\]@]*(@\d+)?)(\[((?P<item>\d+)|(?P<start>\d+):(?P<stop>\d+))\])?")


def split_path(path: str) -> tuple[str, int | slice | None]:
    """``"encoder.layer.3[1]"`` as the module's path, and what is taken of its output.

    ``[1]`` is an item of a tuple, ``[0:768]`` some columns (the last axis) of a tensor. A path may end in ``@0``: the
    output of the module's first run in a forward pass, where it has several.

    Raises:
        MatchError: it is not written like that.
    """
    found = _PATH.fullmatch(path)
    if found is None:
        raise MatchError(
            f"{path!r} is no module path; write 'encoder.layer.3', 'encoder.layer.3[1]' for one item of its output, "
            "'encoder.layer.3[0:768]' for some columns, or 'encoder.layer.3@0' for its first run"
        )
    if found["start"] is not None:
        return found["module"], slice(int(found["start"]), int(found["stop"]))
    return found["module"], None if found["item"] is None else int(found["item"])


def modules_at(model: nn.Module, path: str, side: str) -> list[str]:
    """The paths of the submodules that ``path`` names, in the model's order; ``*`` stands for one part.

    ``query:11``, ``key:-1`` and ``value:*`` are found by
    :func:`~textbrewer.matching.attention_parts.paths_of_part`.

    Raises:
        MatchError: there is none; the message lists what exists at the level where it went wrong.
    """
    if is_part(path):
        return paths_of_part(model, path, side)
    pattern = split_path(path)[0].partition("@")[0]
    suffix = path.removeprefix(pattern)
    parts = pattern.split(".")
    expression = re.compile(r"\.".join("[^.]+" if part == "*" else re.escape(part) for part in parts))
    found = [name for name, _ in model.named_modules() if expression.fullmatch(name)]
    if found:
        return [name + suffix for name in found]
    above, level = [model], 0
    while below := [child for module in above for child in _children(module, parts[level])]:
        above, level = below, level + 1
    names = list(dict.fromkeys(name for module in above for name, _ in module.named_children()))
    where = ".".join(parts[:level]) or type(model).__name__
    hint = did_you_mean(parts[level], names)
    raise MatchError(
        f"{side}={path!r} names no module of {type(model).__name__}: {where!r} has {names or 'no submodules'}, "
        f"not {parts[level]!r}; {hint}".removesuffix("; ")
    )


def _children(module: nn.Module, part: str) -> list[nn.Module]:
    return [child for name, child in module.named_children() if part in ("*", name)]


def only_module_at(model: nn.Module, path: str, side: str, wanted: str) -> str:
    """The one path of :func:`modules_at`.

    Raises:
        MatchError: there is none, or there are several; ``wanted`` says why it must be one.
    """
    found = modules_at(model, path, side)
    if len(found) > 1:
        raise MatchError(f"{side}: {path!r} names {len(found)} modules; {wanted}")
    return found[0]


def path_of(model: nn.Module, wanted: nn.Module | str, side: str) -> str:
    """The path of a submodule that is given as itself or by its path.

    Raises:
        MatchError: it is not in the model, or a pattern names several.
    """
    if isinstance(wanted, str):
        return only_module_at(model, wanted, side, "here it is one")
    for name, module in model.named_modules():
        if module is wanted:
            return str(name)
    raise MatchError(f"{side}: the given {type(wanted).__name__} is no submodule of {type(model).__name__}")


class Capture:
    """Keeps what chosen submodules give in a forward pass.

    Hooks are on the model inside :meth:`attached` alone, and they keep something only inside :meth:`recording`. Of a
    submodule that runs several times in one pass the last output is kept, or that of the run named by ``@``.

    Args:
        model: the model.
        paths: of its submodules, as :func:`modules_at` gives them.
    """

    def __init__(self, model: nn.Module, paths: Iterable[str]) -> None:
        self.model = model
        self.names = {split_path(path)[0] for path in paths}
        self._outputs: dict[str, Any] | None = None
        self._runs: Counter[str] = Counter()

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Put the hooks on, and take them off whatever happens."""
        modules = {name.partition("@")[0] for name in self.names}
        handles = [self.model.get_submodule(name).register_forward_hook(self._hook(name)) for name in modules]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def recording(self) -> Iterator[dict[str, Any]]:
        """Fill the yielded dict with outputs by path during the block."""
        outputs: dict[str, Any] = {}
        self._outputs = outputs
        self._runs.clear()
        try:
            yield outputs
        finally:
            self._outputs = None

    def _hook(self, name: str) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            if self._outputs is None:
                return
            for key in self.names & {name, f"{name}@{self._runs[name]}"}:
                self._outputs[key] = output
            self._runs[name] += 1

        return keep


def item_of(output: Any, item: int | slice | None) -> Any:
    """What is taken of a module's output: an item of a tuple or mapping, or columns of a tensor.

    Without an item it is the tensor itself, or the first of a tuple or mapping. None if it is not there.
    """
    values = list(output.values()) if isinstance(output, Mapping) else output
    if isinstance(values, (list, tuple)):
        index = item if isinstance(item, int) else 0
        values = values[index] if index < len(values) else None
    elif isinstance(item, int):
        return None
    if not isinstance(item, slice):
        return values
    return values[..., item] if isinstance(values, Tensor) and item.stop <= values.shape[-1] else None
