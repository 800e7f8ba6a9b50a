"""What a callable does, as a text: its code, and everything of the user's that this code refers to."""

from __future__ import annotations

import argparse
import enum
import functools
import hashlib
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePath
from re import Pattern
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import CacheError

_TOLD_BY_REPR = (
    *(
        type(None),
        type(...),
        bool,
        int,
        float,
        complex,
        str,
        bytes,
        torch.dtype,
        torch.device,
        np.generic,
        range,
        slice,
    ),
    *(Decimal, Fraction, date, time, timedelta, PurePath, Pattern),
)
_SETTINGS = (types.SimpleNamespace, argparse.Namespace)
_LIBRARIES = {*sys.stdlib_module_names, "torch", "transformers", "numpy", "textbrewer"}


def code_of(thing: Any, of_module: Callable[[nn.Module], str]) -> str:
    """A text that changes when a callable, or a value it refers to, does.

    A function is told by its bytecode, constants, defaults, closure and the globals it uses, and so are the functions
    among these; of a library's, its own bytecode alone. An instance is told by its class's methods and its attributes;
    one of a library's classes by the class.

    Args:
        of_module: tells a module by its weights and architecture.
    """
    return _Telling(of_module).tell(thing)


class _Telling:
    """One walk through what refers to what; each thing is told once."""

    def __init__(self, of_module: Callable[[nn.Module], str]) -> None:
        self.of_module = of_module
        # The things are held beside their texts, or another could take over an id.
        self.told: dict[int, tuple[Any, str]] = {}

    def tell(self, thing: Any) -> str:
        if isinstance(thing, _TOLD_BY_REPR) and not isinstance(thing, enum.Enum):
            return repr(thing)
        if id(thing) not in self.told:
            self.told[id(thing)] = thing, f"<{len(self.told)}>"  # for what leads back to it
            self.told[id(thing)] = thing, digest(self._tell(thing).encode())
        return self.told[id(thing)][1]

    def _tell(self, thing: Any) -> str:
        if isinstance(thing, enum.Enum):
            return f"{_name_of(type(thing))}.{thing.name}"
        if isinstance(thing, Tensor):
            return f"tensor {tuple(thing.shape)} {thing.dtype} {digest(bytes_of(thing))}"
        if isinstance(thing, np.ndarray):
            content = self.tell(thing.tolist()) if thing.dtype.hasobject else digest(np.ascontiguousarray(thing))
            return f"array {thing.shape} {thing.dtype} {content}"
        if isinstance(thing, nn.Module):
            return self.of_module(thing)
        if isinstance(thing, types.ModuleType):
            return thing.__name__
        if isinstance(thing, Mapping):
            return self._each(item for pair in thing.items() for item in pair)
        if isinstance(thing, (list, tuple)):
            return self._each(thing)
        if isinstance(thing, (set, frozenset)):
            return str(sorted(map(self.tell, thing)))
        if isinstance(thing, type):
            return self._of_class(thing)
        return self._of_callable(thing) or self._of_instance(thing)

    def _of_callable(self, thing: Any) -> str:
        if isinstance(thing, types.CodeType):
            return f"{thing.co_code.hex()} {thing.co_names} {self._each(_constants_of(thing))}"
        if isinstance(thing, types.FunctionType):
            return self._of_function(thing)
        if isinstance(thing, functools.partial):
            return self._each([thing.func, *thing.args, *sorted(thing.keywords.items())])
        if isinstance(thing, types.MethodType):
            return self._each([thing.__func__, thing.__self__])
        if isinstance(thing, property):
            return self._each([thing.fget])
        wrapped = getattr(thing, "__wrapped__", None) or getattr(thing, "__func__", None)
        if wrapped is not None and not _is_user_instance(thing):
            return f"{_name_of(type(thing))} {self.tell(wrapped)}"
        return _name_of(thing) if isinstance(thing, (types.BuiltinFunctionType, types.MethodDescriptorType)) else ""

    def _of_function(self, function: types.FunctionType) -> str:
        cells = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
        own = self._each([function.__code__, function.__defaults__, function.__kwdefaults__, *cells])
        if _is_library(function.__module__):
            return f"{_name_of(function)} {own}"
        names = _names_in(function.__code__)
        known = {name: function.__globals__[name] for name in sorted(names) if name in function.__globals__}
        return f"{own} {[(name, self._reached(value, names, ())) for name, value in known.items()]}"

    def _reached(self, value: Any, names: set[str], through: tuple[Any, ...]) -> str:
        """A global; of a module of the user's, what is taken from it by one of the names that the code has."""
        if not isinstance(value, types.ModuleType) or _is_library(value.__name__) or value in through:
            return self.tell(value)
        taken = [(name, vars(value)[name]) for name in sorted(names) if name in vars(value)]
        return f"{value.__name__} {[(name, self._reached(item, names, (*through, value))) for name, item in taken]}"

    def _of_class(self, kind: type) -> str:
        own = [base for base in kind.__mro__ if not _is_library(base.__module__)]
        members = [
            (name, member)
            for base in own
            for name, member in sorted(vars(base).items())
            if not name.startswith("__") or isinstance(member, types.FunctionType)
        ]
        return f"{_name_of(kind)} {self._each(members)}"

    def _of_instance(self, thing: Any) -> str:
        kind = type(thing)
        if isinstance(thing, _SETTINGS):
            return self._each(sorted(vars(thing).items()))
        if _is_library(kind.__module__):
            to_dict = getattr(thing, "to_dict", None)
            settings = to_dict() if callable(to_dict) else None
            return f"{_name_of(kind)} {self.tell(settings) if isinstance(settings, Mapping) else ''}"
        slots = [name for base in kind.__mro__ for name in getattr(base, "__slots__", ()) if hasattr(thing, name)]
        held = {**{name: getattr(thing, name) for name in slots}, **getattr(thing, "__dict__", {})}
        return f"{self.tell(kind)} {self._each(sorted(held.items()))}"

    def _each(self, things: Iterable[Any]) -> str:
        return "[" + ", ".join(self.tell(thing) for thing in things) + "]"


def digest(data: Any) -> str:
    """32 hexadecimal digits for bytes."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def bytes_of(tensor: Tensor) -> Any:
    """The bytes of a tensor, without a copy where it lies on the CPU in one piece.

    Raises:
        CacheError: it has none, as on the device ``meta``.
    """
    if tensor.is_meta:
        raise CacheError(
            "the teacher has weights on the device 'meta', which can't be read: a cache can't know it again"
        )
    plain = tensor.detach()
    if plain.layout is not torch.strided:
        plain = plain.to_dense()
    if plain.is_quantized:
        plain = plain.int_repr()
    return plain.cpu().contiguous().flatten().view(torch.uint8).numpy().data if plain.numel() else b""


def _names_in(code: types.CodeType) -> set[str]:
    """The global names and attributes that code and the functions inside it use."""
    inner = [_names_in(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return set(code.co_names).union(*inner)


def _constants_of(code: types.CodeType) -> tuple[Any, ...]:
    """The constants without a docstring, which is the first of them."""
    if sys.version_info >= (3, 13):
        has_docstring = 0x4000000
        return code.co_consts[1:] if code.co_flags & has_docstring else code.co_consts
    # A function without one has None there; a comprehension has whatever it uses first.
    is_function = bool(code.co_consts) and not code.co_name.startswith("<")
    return (None, *code.co_consts[1:]) if is_function else code.co_consts


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _is_user_instance(thing: Any) -> bool:
    return not _is_library(type(thing).__module__)


@functools.cache
def _is_library(module: str | None) -> bool:
    """Whether a module is one that is installed, and not the user's own."""
    root = (module or "builtins").partition(".")[0]
    if root in _LIBRARIES:
        return True
    file = getattr(sys.modules.get(root), "__file__", None) or ""
    return "site-packages" in file or "dist-packages" in file


def _name_of(thing: Any) -> str:
    return f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"
