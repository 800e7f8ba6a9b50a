"""What makes two teachers the same: weights, class, config, the adaptor's code, and how they compute."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .code import bytes_of, code_of, digest

# What a Transformers config says of where it came from and how it computes, not of what it computes.
_INCIDENTAL = {"_name_or_path", "name_or_path", "transformers_version", "_attn_implementation", "architectures"}
_INCIDENTAL |= {"output_hidden_states", "output_attentions", "return_dict", "torch_dtype", "dtype", "use_cache"}
_INCIDENTAL |= {"config", "generation_config", "warnings_issued", "auto_map"}

_BY_CONFIG = ("transformers.",)
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def fingerprint(parts: Mapping[str, str]) -> str:
    """32 hexadecimal digits for parts that are texts."""
    return digest(json.dumps(dict(parts), sort_keys=True).encode())


def digest_of_weights(model: nn.Module) -> str:
    """Of the names, shapes, types and bytes of everything in the state dict.

    Raises:
        CacheError: a weight can't be read.
    """
    state = _hasher()
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor):
            state.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            state.update(bytes_of(value))
        else:
            # Weights in eight bits may be packed in tuples.
            state.update(f"{name} {_code(value)}".encode())
    return str(state.hexdigest())


def digest_of_architecture(model: nn.Module, within: frozenset[int] = frozenset()) -> str:
    """Of the config, and of every module: its class's code, and what it holds beside its weights.

    A module of Transformers is told by its ``forward`` and the config.

    Args:
        model: the model.
        within: ids of modules that are being told already, to which this one may lead back.
    """
    within |= {id(module) for module in model.modules()}
    saved = set(model.state_dict())
    unsaved = {name: buffer for name, buffer in model.named_buffers() if name not in saved}
    told = [_code(_settings_of(model), within)]
    for path, module in model.named_modules():
        kind = type(module)
        forward = getattr(inspect.unwrap(kind.forward), "__code__", None)
        told.append(f"{path} {kind.__module__}.{kind.__qualname__} {_code(forward)}")
        if not kind.__module__.startswith(_BY_CONFIG):
            # Tensors that are no buffers are left out: a forward pass may leave them there.
            held = {
                name: value
                for name, value in vars(module).items()
                if name not in _OF_EVERY_MODULE | _INCIDENTAL and value is not None and not isinstance(value, Tensor)
            }
            held |= {name: value for name, value in unsaved.items() if name.rpartition(".")[0] == path}
            told.append(_code([kind, sorted(held.items())], within))
    return digest(json.dumps(told).encode())


def digest_of_config(model: nn.Module) -> str:
    """Of the class's name and of what a config says of the computation, wherever both came from."""
    return digest(_code([type(model).__name__, _settings_of(model)]).encode())


def digest_of_adaptor(adaptor: Any) -> str:
    """Of an adaptor: the name it gives itself as ``cache_key``, or its code and what that code refers to."""
    key = getattr(adaptor, "cache_key", None)
    return f"named {key}" if key is not None else digest(_code(adaptor).encode())


def _code(thing: Any, within: frozenset[int] = frozenset()) -> str:
    def of_module(module: nn.Module) -> str:
        if id(module) in within:
            return "a part of the model"
        return f"{digest_of_weights(module)} {digest_of_architecture(module, within)}"

    return code_of(thing, of_module)


def _settings_of(model: nn.Module) -> Any:
    config: Any = getattr(model, "config", None)
    to_dict = getattr(config, "to_dict", None)
    return _without_incidentals(to_dict() if callable(to_dict) else config)


def _without_incidentals(settings: Any) -> Any:
    if isinstance(settings, Mapping):
        return {key: _without_incidentals(value) for key, value in settings.items() if key not in _INCIDENTAL}
    return settings


def _hasher() -> Any:
    """Weights are gigabytes: XXH3 reads them ten times as fast as a cryptographic digest, where it is installed."""
    try:
        import xxhash
    except ImportError:
        return hashlib.blake2b(digest_size=16)
    return xxhash.xxh3_128()
