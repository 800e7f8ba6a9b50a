"""What makes two teachers the same: weights, class, config, the adaptor's code, and how they compute."""

from __future__ import annotations

import functools
import hashlib
import json
import types
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# What a Transformers config says of where it came from and how it computes, not of what it computes.
_INCIDENTAL = {"_name_or_path", "transformers_version", "_attn_implementation", "output_hidden_states"}
_INCIDENTAL |= {"output_attentions", "return_dict", "torch_dtype", "dtype", "use_cache"}


def fingerprint(parts: Mapping[str, str]) -> str:
    """32 hexadecimal digits for parts that are texts."""
    return hashlib.blake2b(json.dumps(dict(parts), sort_keys=True).encode(), digest_size=16).hexdigest()


def digest_of_weights(model: nn.Module) -> str:
    """Of the names, shapes, types and bytes of everything in the state dict."""
    state = _hasher()
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor):
            state.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            state.update(bytes_of(tensor))
    return str(state.hexdigest())


def digest_of_architecture(model: nn.Module) -> str:
    """Of the class, the config, and the ``forward`` of every class of module that is not PyTorch's own."""
    config: Any = getattr(model, "config", None)
    to_dict = getattr(config, "to_dict", None)
    settings = {k: v for k, v in to_dict().items() if k not in _INCIDENTAL} if callable(to_dict) else repr(config)
    classes = {type(module) for module in model.modules()}
    own = sorted(f"{c.__module__}.{c.__qualname__}" for c in classes)
    code = [code_of(c.forward) for c in sorted(classes, key=str) if not c.__module__.startswith("torch.")]
    return _of_text(json.dumps([type(model).__qualname__, settings, own, code], sort_keys=True, default=repr))


def digest_of_adaptor(adaptor: Any) -> str:
    """Of an adaptor: the name it gives itself as ``cache_key``, or its code and what that code refers to."""
    key = getattr(adaptor, "cache_key", None)
    return f"named {key}" if key is not None else _of_text(code_of(adaptor))


def bytes_of(tensor: Tensor) -> Any:
    """The bytes of a tensor, without a copy where it lies on the CPU in one piece."""
    flat = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()
    return flat.cpu().contiguous().flatten().view(torch.uint8).numpy().data if flat.numel() else b""


def code_of(thing: Any, depth: int = 4) -> str:
    """A text that changes when a callable, or a value it refers to, does.

    Functions are told by their bytecode, constants, defaults, closures and the global names they use; instances by
    their class's methods and their attributes; tensors by their bytes; what can't be looked into by its class.
    """
    if depth < 0 or thing is None or isinstance(thing, (bool, int, float, complex, str, bytes, torch.dtype)):
        return repr(thing) if depth >= 0 else type(thing).__qualname__
    if isinstance(thing, (Tensor, np.ndarray)):
        return f"{tuple(thing.shape)} {_of_bytes(bytes_of(torch.as_tensor(thing)))}"
    if isinstance(thing, nn.Module):
        return f"{type(thing).__qualname__} {digest_of_weights(thing)}"
    if isinstance(thing, functools.partial):
        return _each([thing.func, *thing.args, *sorted(thing.keywords.items())], depth)
    if isinstance(thing, types.MethodType):
        return _each([thing.__func__, thing.__self__], depth)
    if isinstance(thing, types.FunctionType):
        return _of_function(thing, depth)
    if isinstance(thing, types.CodeType):
        constants = [c for c in thing.co_consts if not isinstance(c, str) or c != thing.co_consts[0]]
        return f"{thing.co_code.hex()} {thing.co_names} {_each(constants, depth)}"
    if isinstance(thing, Mapping):
        return _each([item for pair in thing.items() for item in pair], depth - 1)
    if isinstance(thing, (list, tuple)):
        return _each(thing, depth - 1)
    if isinstance(thing, (set, frozenset)):
        return str(sorted(code_of(item, depth - 1) for item in thing))
    if isinstance(thing, type):
        methods = {name: value for name, value in vars(thing).items() if isinstance(value, types.FunctionType)}
        return f"{thing.__qualname__} {_each(sorted(methods.items()), depth - 1)}"
    if callable(thing) and hasattr(thing, "__dict__"):
        return f"{code_of(type(thing), depth - 1)} {_each(sorted(vars(thing).items()), depth - 1)}"
    return type(thing).__qualname__


def _of_function(function: types.FunctionType, depth: int) -> str:
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    names = [name for name in function.__code__.co_names if name in function.__globals__]
    used = [function.__globals__[name] for name in names]
    # A module, such as torch itself, is named; what a library does inside is not the adaptor's.
    known = [value.__name__ if isinstance(value, types.ModuleType) else code_of(value, depth - 2) for value in used]
    return f"{_each([function.__code__, function.__defaults__, function.__kwdefaults__, *cells], depth)} {known}"


def _each(things: Iterable[Any], depth: int) -> str:
    return "[" + ", ".join(code_of(thing, depth) for thing in things) + "]"


def _of_text(text: str) -> str:
    return _of_bytes(text.encode())


def _of_bytes(data: Any) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _hasher() -> Any:
    """Weights are gigabytes: XXH3 reads them ten times as fast as a cryptographic digest, where it is installed."""
    try:
        import xxhash
    except ImportError:
        return hashlib.blake2b(digest_size=16)
    return xxhash.xxh3_128()
