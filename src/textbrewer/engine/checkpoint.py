"""Writing what a run leaves on disk, and going on from it.

A checkpoint is a folder ``checkpoints/step-N`` with weights in safetensors, the optimiser's and the random states in
files that ``torch.load(weights_only=True)`` reads, what it is in JSON, and a manifest with the digest of each. It is
written beside, synced and renamed, so that a kill at any instant leaves the earlier ones whole.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import platform
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from ..errors import CheckpointError
from ..files import replaced, replaced_folder
from ..randomness import random_state, set_random_state
from ..ranks import Ranks
from .sharding import is_sharded, spread_as, whole

logger = logging.getLogger("textbrewer")

FORMAT = 1
_STATE, _MANIFEST = "state.json", "manifest.json"
_BEGUN = ".begun.json"


def weights_of(module: nn.Module, keep: bool = True) -> dict[str, Tensor]:
    """The state dict as it is now, copied to the CPU; tensors that are one in the module are one there.

    Args:
        module: if it is sharded, every process takes part.
        keep: False for a process that only takes part.
    """
    copies: dict[Any, Tensor] = {}
    weights = {}
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor) or isinstance(value, UninitializedParameter):
            continue
        own = value.detach()
        found = whole(own)
        if keep:
            key = (found.data_ptr(), found.shape, found.stride(), found.dtype) if found is own else name
            if key not in copies:
                copies[key] = found.to("cpu", copy=True)
            weights[name] = copies[key]
    return weights


def _buffers_of(module: nn.Module) -> dict[str, Tensor]:
    """The buffers of its state dict: what a loss keeps in them may differ from process to process."""
    kept = module.state_dict().keys()
    return {name: buffer.to("cpu", copy=True) for name, buffer in module.named_buffers() if name in kept}


def save_student(weights: Mapping[str, Tensor], output_dir: str, step: int) -> Path:
    """Write ``output_dir/gs{step}.pkl``, the student's state dict; the file is whole or absent at any instant.

    Load it with ``torch.load(path, weights_only=True)``.
    """
    path = student_file(output_dir, step)
    with replaced(path) as beside:
        torch.save(dict(weights), beside)
    return path


def student_file(output_dir: str, step: int) -> Path:
    """Where :func:`save_student` writes."""
    return Path(output_dir) / f"gs{step}.pkl"


def save_best(student: Any, output_dir: str, keep: bool = True) -> None:
    """Write ``output_dir/best``, the student as its ``save_pretrained`` writes it, else its weights as safetensors.

    Args:
        student: if it is sharded, every process takes part.
        output_dir: of the run.
        keep: False for a process that only takes part.
    """
    told = callable(getattr(student, "save_pretrained", None))
    weights = {} if told and not is_sharded(student) else weights_of(student, keep)
    if not keep:
        return
    with replaced_folder(Path(output_dir) / "best") as beside:
        if not told:
            save_file(apart(weights), beside / "student.safetensors")
        elif weights:
            student.save_pretrained(beside, state_dict=weights)
        else:
            student.save_pretrained(beside)


@dataclass
class RunState:
    """All that a run needs to go on: the one place.

    Attributes:
        student: the model that is trained.
        beside: what is trained with it, or keeps a state: projections and losses.
        optimizer: with the groups of ``beside``.
        scheduler: of the learning rate, or None.
        scaler: of the gradients in float16.
        stream: of batches.
        step: optimiser steps taken.
        batches: that this process has seen.
        within: whether the pass over the data that was begun goes on.
        evaluations: of the student so far, as :class:`~textbrewer.engine.evaluation.Evaluations` keeps them.
    """

    student: nn.Module
    beside: Sequence[nn.Module]
    optimizer: Optimizer
    scheduler: Any
    scaler: Any
    stream: Any
    step: int = 0
    batches: int = 0
    within: bool = False
    evaluations: list[dict[str, Any]] = field(default_factory=list)


class Checkpoints:
    """The checkpoints of one run.

    Args:
        output_dir: they are in its folder ``checkpoints``.
        job: what must be alike for a checkpoint to be gone on from, as texts.
        ranks: the processes; the first one writes.
        keep_last: how many of this job's checkpoints are kept.
    """

    def __init__(self, output_dir: str, job: Mapping[str, str], ranks: Ranks, keep_last: int) -> None:
        self.folder = Path(output_dir) / "checkpoints"
        self.job, self.ranks, self.keep_last = dict(job), ranks, keep_last
        self.run = uuid.uuid4().hex

    def save(
        self,
        state: RunState,
        weights: Mapping[str, Tensor] | None = None,
        run: Callable[[Callable[[], None]], None] = lambda write: write(),
        copied: bool = False,
        best: int | None = None,
    ) -> Path:
        """Write a checkpoint and delete those that are no longer kept.

        Args:
            state: of the run.
            weights: the student's, where :func:`weights_of` has already told them.
            run: calls what writes, now or in a thread.
            copied: copy everything first, so that training may go on meanwhile.
            best: the step whose checkpoint is kept beside the last ones.

        Raises:
            CheckpointError: it cannot be written; the earlier ones are as they were.
        """
        path = self.folder / f"step-{state.step}"
        main = self.ranks.index == 0
        own = {"random": random_state(), "stream": state.stream.state_dict(), "batches": state.batches}
        if self.ranks.number > 1:
            own["buffers"] = numbered([_buffers_of(part) for part in state.beside])
        every = self.ranks.gather(own)
        weights = weights_of(state.student, main) if weights is None else weights
        beside = [weights_of(part, main) for part in state.beside]
        training = {
            "optimizer": _told(state.optimizer.state_dict(), main, copied),
            "scheduler": _told(_state_of(state.scheduler), main, copied),
            "scaler": state.scaler.state_dict(),
        }
        about: dict[str, Any] = {
            "format": FORMAT,
            "step": state.step,
            "within": state.within,
            "evaluations": list(state.evaluations),
            "best": best,
            "run": self.run,
            "saved": time.time(),
            "job": self.job,
            "versions": {"torch": torch.__version__, "python": platform.python_version()},
        }

        def write() -> None:
            try:
                with replaced_folder(path) as folder:
                    _write(folder, weights, beside, training, every, about)
                self._prune(best)
            except (OSError, RuntimeError) as error:
                raise CheckpointError(
                    f"step {about['step']} could not be saved to {path}: {error}. Earlier checkpoints are whole: "
                    f"{[found.name for found, _ in self._found()] or 'there is none'}; make room, and go on from there "
                    "with train(..., resume='auto')"
                ) from error

        if main:
            run(write)
        return path

    def _found(self) -> list[tuple[Path, dict[str, Any]]]:
        """Every checkpoint there is, the last saved first."""
        found = []
        for path in self.folder.glob("step-*"):
            try:
                found.append((path, json.loads((path / _STATE).read_text(encoding="utf-8"))))
            except (OSError, ValueError):
                found.append((path, {}))
        saved = {path: float(about.get("saved", path.stat().st_mtime)) for path, about in found}
        return sorted(found, key=lambda each: saved[each[0]], reverse=True)

    def _prune(self, best: int | None) -> None:
        own = [path for path, about in self._found() if about.get("job") == self.job]
        for path in own[self.keep_last :]:
            if path.name != f"step-{best}":
                shutil.rmtree(path, ignore_errors=True)

    def clear_partial(self) -> None:
        """Delete what a killed process left half-written."""
        for path in (*self.folder.glob(".step-*.partial"), *self.folder.parent.glob(".best.*.partial")):
            shutil.rmtree(path, ignore_errors=True)

    def resume(self, state: RunState, which: str | os.PathLike[str]) -> bool:
        """Set everything to a checkpoint.

        Args:
            state: of the run, assembled and not begun.
            which: ``"auto"`` for the last whole one of this job, if there is any; or the path of one.

        Returns:
            Whether there was one.

        Raises:
            CheckpointError: the checkpoint is of another job, damaged, or not there.
        """
        path = self._chosen(which)
        if path is None:
            return False
        self._load(path, state)
        logger.info("going on from %s, after optimiser step %d", path, state.step)
        return True

    def begin(self) -> None:
        """Note that a run begins anew, so that "auto" does not go on from one before it."""
        if self.ranks.index == 0 and any(about.get("job") == self.job for _, about in self._found()):
            with replaced(self.folder / _BEGUN) as beside:
                beside.write_text(json.dumps({"run": self.run, "job": self.job}) + "\n", encoding="utf-8")

    def _is_older(self, about: Mapping[str, Any]) -> bool:
        """Whether a checkpoint is of this job, and of a run before the one that was begun last."""
        try:
            begun = json.loads((self.folder / _BEGUN).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return bool(begun["job"] == self.job == about.get("job") and begun["run"] != about.get("run"))

    def _chosen(self, which: str | os.PathLike[str]) -> Path | None:
        if which != "auto":
            path = Path(which)
            if not (path / _STATE).exists():
                raise CheckpointError(f"{path}: there is no checkpoint; give a folder step-N, or resume='auto'")
            damage = _damage(path)
            if damage:
                raise CheckpointError(f"{path} is damaged: {damage}; go on from another one, or with resume='auto'")
            self._require_same_job(path, json.loads((path / _STATE).read_text(encoding="utf-8")))
            return path
        for path, about in self._found():
            if self._is_older(about):
                continue
            damage = _damage(path)
            if damage:
                logger.warning("%s is damaged (%s); the one before it is used", path, damage)
                continue
            self._require_same_job(path, about)
            return path
        return None

    def _require_same_job(self, path: Path, about: Mapping[str, Any]) -> None:
        if about.get("format") != FORMAT:
            raise CheckpointError(f"{path}: format {about.get('format')}, and this version reads {FORMAT}")
        theirs = about["job"]
        require_same(f"{path} is a checkpoint of another job, and this one cannot go on from it", theirs, self.job)

    def _load(self, path: Path, state: RunState) -> None:
        about = json.loads((path / _STATE).read_text(encoding="utf-8"))
        set_tensors(state.student, load_file(path / "student.safetensors"))
        own = torch.load(path / "processes.pt", weights_only=True)[self.ranks.index]
        set_numbered(state.beside, load_file(path / "beside.safetensors") | own.get("buffers", {}))
        try:
            training = torch.load(path / "training.pt", weights_only=True, map_location="cpu")
        except pickle.UnpicklingError as error:
            found = re.search(r"GLOBAL (\S+)", str(error))
            raise CheckpointError(
                f"{path}: the state of the optimiser or the scheduler has more than tensors, numbers and texts"
                f"{f', {found[1]}' if found else ''}, and reading that could run code; keep such things out of them"
            ) from error
        _spread(training["optimizer"], state.optimizer)
        state.optimizer.load_state_dict(training["optimizer"])
        if state.scheduler is not None:
            load = getattr(state.scheduler, "load_state_dict", None)
            if training["scheduler"] is None or not callable(load):
                name = type(getattr(state.scheduler, "scheduler", state.scheduler)).__name__
                raise CheckpointError(
                    f"{path}: {name} has no state_dict and load_state_dict, so that a run "
                    "with it cannot go on; use a scheduler of torch.optim.lr_scheduler"
                )
            load(training["scheduler"])
        state.scaler.load_state_dict(training["scaler"])
        self.run = about.get("run", self.run)
        state.step, state.within, state.batches = about["step"], about["within"], own["batches"]
        state.evaluations[:] = about.get("evaluations", [])
        state.stream.load_state_dict(own["stream"], within=state.within)
        set_random_state(own["random"])


@contextmanager
def locked(output_dir: str) -> Iterator[None]:
    """Hold a folder for one run, as long as the file system lets it be held.

    Raises:
        CheckpointError: another run has it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    # The folder itself is locked, so that no file tells of it.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(
                f"{folder} is in use by another run, and two runs in one folder would overwrite each other's "
                "checkpoints; give this one another output_dir"
            ) from None
        except OSError:
            logger.info("%s cannot be locked on this file system", folder)
        yield
    finally:
        os.close(descriptor)


def require_same(what: str, theirs: Mapping[str, str], ours: Mapping[str, str]) -> None:
    """Refuse what another job left.

    Args:
        what: was found, and why it cannot be used.
        theirs: what the other job is, as texts.
        ours: the same of this one.

    Raises:
        CheckpointError: they differ; the message says where.
    """
    different = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    if different:
        pairs = [(key, theirs.get(key), ours.get(key)) for key in different]
        listed = "".join(f"\n  {key}: {then}\n  {' ' * len(key)}  now {now}" for key, then, now in pairs)
        raise CheckpointError(
            f"{what}. Different:{listed}\n"
            "Give each job an output_dir of its own, or leave resume out to start from the beginning"
        )


def described(value: Any) -> str:
    """A config, or what is in one, as a text that is the same in every process."""
    if is_dataclass(value) and not isinstance(value, type):
        inner = ", ".join(f"{field.name}={described(getattr(value, field.name))}" for field in fields(value))
        return f"{type(value).__name__}({inner})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {described(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(described(item) for item in value) + "]"
    if callable(value):
        return str(getattr(value, "__qualname__", type(value).__qualname__))
    return repr(value)


def shapes_of(model: nn.Module) -> str:
    """Class, number of parameters, and a digest of all names and shapes."""
    shapes = [(name, tuple(value.shape)) for name, value in model.state_dict().items() if isinstance(value, Tensor)]
    number = sum(parameter.numel() for parameter in model.parameters())
    digest = hashlib.blake2b(repr(shapes).encode(), digest_size=6).hexdigest()
    return f"{type(model).__name__} of {number:,} parameters ({digest})"


def _write(
    folder: Path,
    weights: Mapping[str, Tensor],
    beside: Sequence[Mapping[str, Tensor]],
    training: Mapping[str, Any],
    every: list[Any],
    about: Mapping[str, Any],
) -> None:
    save_file(apart(weights), folder / "student.safetensors")
    save_file(apart(numbered(beside)), folder / "beside.safetensors")
    torch.save(dict(training), folder / "training.pt")
    torch.save(every, folder / "processes.pt")
    (folder / _STATE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    digests = {file.name: _digest(file) for file in sorted(folder.iterdir())}
    (folder / _MANIFEST).write_text(json.dumps(digests, indent=2) + "\n", encoding="utf-8")


def numbered(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The weights of several modules in one mapping."""
    return {f"{i}.{name}": value for i, part in enumerate(parts) for name, value in part.items()}


def set_numbered(modules: Sequence[nn.Module], tensors: Mapping[str, Tensor]) -> None:
    """Load what :func:`numbered` put together."""
    for i, module in enumerate(modules):
        own = {key.partition(".")[2]: value for key, value in tensors.items() if key.partition(".")[0] == str(i)}
        set_tensors(module, own)


def apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor with memory of its own, as safetensors wants it."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone().contiguous() if place in seen else tensor.contiguous()
        seen.add(place)
    return apart


def _told(value: Any, keep: bool, copied: bool) -> Any:
    """A state with whole tensors; copies on the CPU if asked. A process that does not keep it only takes part."""
    if isinstance(value, Tensor):
        found = whole(value)
        if not keep:
            return None
        return found.to("cpu", copy=True) if copied or found is not value else found
    if isinstance(value, Mapping):
        return {key: _told(item, keep, copied) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_told(item, keep, copied) for item in value)
    # NumPy's are not among what is read safely.
    if isinstance(value, np.ndarray):
        return torch.tensor(value)
    return value.item() if isinstance(value, np.generic) else value


def _spread(state: Any, optimizer: Optimizer) -> None:
    """Spread an optimiser's state, in place, as its parameters are."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, own in state["state"].items():
        for name, value in own.items():
            if isinstance(value, Tensor):
                own[name] = spread_as(value, parameters[index])


def set_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load a state dict; what takes its shape from the first batch takes it from there."""
    for name, parameter in module.named_parameters():
        if isinstance(parameter, UninitializedParameter) and name in tensors:
            parameter.materialize(tensors[name].shape)
    for name, buffer in list(module.named_buffers()):
        if name in tensors and tensors[name].shape != buffer.shape:
            owner, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(owner), leaf, tensors[name].to(buffer))
    lazy = [name for name, p in module.named_parameters() if isinstance(p, UninitializedParameter)]
    own = module.state_dict()
    spread = {name: spread_as(value, own.get(name)) for name, value in tensors.items()}
    missing, unexpected = module.load_state_dict(spread, strict=False)
    if unexpected or set(missing) - set(lazy):
        raise CheckpointError(
            f"the checkpoint does not fit {type(module).__name__}: missing {missing}, unknown {list(unexpected)}"
        )


def _state_of(scheduler: Any) -> Any:
    told = getattr(scheduler, "state_dict", None)
    return told() if callable(told) else None


def _damage(path: Path) -> str:
    """What is wrong with the files of a checkpoint; empty where nothing is."""
    try:
        digests = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        json.loads((path / _STATE).read_text(encoding="utf-8"))
        for name, digest in digests.items():
            if _digest(path / name) != digest:
                return f"{name} is not what was written"
    except (OSError, ValueError, AttributeError) as error:
        return str(error)
    return ""


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
