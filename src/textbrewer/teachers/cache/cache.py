"""The cache as users see it: a folder with a namespace for every teacher, and what can be asked of it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, get_args

import torch
import torch.distributed as dist
from torch import nn

from ...adaptors import AdaptedModel, TransformersAdaptor
from ...configs.training import TeacherPrecision
from ...errors import CacheError, ConfigError, Problem, count_of, one_of
from ...feeding import rows_of, sides
from ...files import replaced
from ...modes import modes_kept
from ...precision import computing_in, quantised
from ...ranks import Ranks
from ...stream import Stream
from ...types import Adaptor
from ..ensemble import EnsembleTeacher
from ..live import LiveTeacher
from .cached import CachedTeacher, FillJob
from .fingerprint import digest_of_adaptor, digest_of_architecture, digest_of_weights, fingerprint
from .parts import Reads
from .records import DTYPES
from .store import LmdbStore, MemoryStore, StoreFullError, free_bytes

logger = logging.getLogger("textbrewer")

FORMAT = 1
_ABOUT, _NAMESPACE = "teacher-cache.json", "teacher.json"
# What is left of a disk for everything else.
_SPARE_BYTES = 2**26


@dataclass(frozen=True)
class CacheEntry:
    """What one teacher has in a cache.

    Attributes:
        name: of its folder: the teacher's fingerprint.
        teacher: its class.
        dtype: of the values.
        records: how many there are: rows times parts.
        size_bytes: on the disk.
        last_used: seconds since 1970 at the last write.
        parts: what the fingerprint was made of, by digest.
    """

    name: str
    teacher: str
    dtype: str
    records: int
    size_bytes: int
    last_used: float
    parts: Mapping[str, str]

    def __str__(self) -> str:
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.last_used))
        return (
            f"{self.name[:12]}  {self.teacher}  {self.dtype}  {self.records:,} records  "
            f"{in_bytes(self.size_bytes)}  {day}"
        )


@dataclass(frozen=True)
class CacheFilling:
    """What :meth:`TeacherCache.build` did.

    Attributes:
        rows: seen.
        computed: of them, by the teacher.
        size_bytes: of the cache afterwards.
        seconds: it took.
    """

    rows: int
    computed: int
    size_bytes: int
    seconds: float


@dataclass
class Namespace:
    """The records of one teacher.

    Attributes:
        cache: that they are in.
        name: the teacher's fingerprint.
        store: where they lie.
    """

    cache: TeacherCache
    name: str
    store: Any

    def keep(self, records: Mapping[bytes, bytes]) -> None:
        """Keep records, as long as there is room; a cache that is full says so once."""
        if not self.cache.filling:
            return
        try:
            self.cache.require_room(self.store, sum(map(len, records.values())))
            self.store.put(records)
        except StoreFullError as error:
            self.cache.stop_filling(str(error))


class TeacherCache:
    """Keeps what a teacher gives, by the content of what it is fed, so that later epochs and runs need not run it.

    A row is known by a digest of its inputs without trailing padding. It is found again in any order, batch, padding
    or run; rows that are not found are computed in one smaller batch. Only what the terms of a run read is kept:
    logits, the matched layers, or attention maps summed over heads where that is what is compared. What was just
    computed is used as it is kept (rounded to ``dtype``), so that a first sight and a later one are the same to the
    bit. Another teacher, or the same one with other weights, config or adaptor, has a namespace of its own.

    Several processes may read and write one cache on a local disk; each rank writes a file of its own.

    Args:
        path: the folder; made when it is first written to.
        dtype: of floating-point values: ``"float16"``, ``"bfloat16"``, ``"float32"`` or ``"float64"``. A value that
            does not fit is kept in float32.
        max_bytes: when the folder is as large, filling stops, with one warning, and training goes on with the teacher.
        read_only: nothing is computed or written: a row that is missing is an error.
        top_k: of logits over a vocabulary, keep the largest so many and the probability of the rest, which is spread
            evenly when they are read; 0 keeps all.

    Raises:
        CacheError: the path is a file, a folder of something else, or a cache of another format.
        ConfigError: ``dtype``, ``max_bytes`` or ``top_k`` cannot be used.

    >>> cache = TeacherCache.in_memory()
    >>> cache.list()
    []
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        dtype: str = "float16",
        max_bytes: int | None = None,
        read_only: bool = False,
        *,
        top_k: int = 0,
    ) -> None:
        self.path: Path | None = Path(path)
        self._configure(dtype, max_bytes, read_only, top_k)
        self._check_folder(self.path)

    @classmethod
    def in_memory(cls, dtype: str = "float32", max_bytes: int | None = None, *, top_k: int = 0) -> Self:
        """A cache without a disk, gone with the process; exact by default. ``is_caching_logits=True`` makes one."""
        cache = cls.__new__(cls)
        cache.path = None
        cache._configure(dtype, max_bytes, False, top_k)
        return cache

    def _configure(self, dtype: str, max_bytes: int | None, read_only: bool, top_k: int) -> None:
        problems = []
        if dtype not in DTYPES:
            problems.append(Problem("dtype", one_of(DTYPES), repr(dtype)))
        for name, value, least in (("max_bytes", max_bytes, 1), ("top_k", top_k, 0)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                problems.append(Problem(name, f"a whole number of at least {least}", repr(value)))
        if problems:
            raise ConfigError("TeacherCache", problems)
        self.dtype, self.torch_dtype = dtype, DTYPES[dtype]
        self.max_bytes, self.read_only, self.top_k = max_bytes, read_only, top_k
        self.filling = not read_only
        self._namespaces: dict[str, Namespace] = {}

    def _check_folder(self, path: Path) -> None:
        for place in (path, *path.parents):
            if place.exists() and not place.is_dir():
                raise CacheError(
                    f"{place} is a file; a teacher cache is a folder: give the path of one, new or existing"
                )
        about = path / _ABOUT
        if about.exists():
            try:
                found = json.loads(about.read_text(encoding="utf-8"))["format"]
            except (ValueError, KeyError, TypeError):
                found = "unreadable"
            if found != FORMAT:
                raise CacheError(
                    f"{path}: a teacher cache of format {found}, and this version reads {FORMAT}; give another folder "
                    "(nothing in this one was changed)"
                )
        elif path.exists() and any(file.suffix != ".partial" for file in path.iterdir()):
            raise CacheError(f"{path} holds other things than a teacher cache; give an empty or a new folder")
        elif self.read_only:
            raise CacheError(f"{path}: there is no teacher cache to read; fill one first, without read_only=True")

    def __repr__(self) -> str:
        return f"TeacherCache({'in memory' if self.path is None else os.fspath(self.path)!r}, dtype={self.dtype!r})"

    def namespace(self, model: nn.Module, adapted: AdaptedModel, precision: str = "fp32") -> Namespace:
        """Where the records of a teacher are.

        Args:
            model: the teacher.
            adapted: what computes in its place, with its adaptor.
            precision: what it computes in.
        """
        # Not isinstance: a subclass may do something else.
        adaptor = None if type(adapted.adaptor) is TransformersAdaptor else adapted.adaptor
        parts = {
            "weights": digest_of_weights(model),
            "architecture": digest_of_architecture(model),
            "adaptor": "ready" if adaptor is None else digest_of_adaptor(adaptor),
            "precision": precision,
            "dtype": self.dtype,
            "top_k": str(self.top_k),
        }
        name = fingerprint(parts)
        if name not in self._namespaces:
            self._namespaces[name] = Namespace(self, name, self._store(name, type(model).__name__, parts))
        return self._namespaces[name]

    def _store(self, name: str, teacher: str, parts: Mapping[str, str]) -> Any:
        if self.path is None:
            return MemoryStore()
        folder = self.path / name
        if self.read_only and not folder.exists():
            known = "\n".join(f"  {entry}" for entry in self.list()) or "  none"
            raise CacheError(
                f"{self.path}: this teacher has nothing in the read-only cache (fingerprint {name[:12]}); its weights, "
                f"config, adaptor, precision and dtype must be those it was filled with. There are:\n{known}"
            )
        if not self.read_only:
            # The first file says that the folder is a cache's, whenever this process is stopped.
            for file, value in (
                (self.path / _ABOUT, {"format": FORMAT}),
                (folder / _NAMESPACE, {"teacher": teacher, "dtype": self.dtype, "parts": dict(parts)}),
            ):
                if not file.exists():
                    with replaced(file) as beside:
                        beside.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        return LmdbStore(folder, dist.get_rank() if _several() else 0, self.read_only)

    def require_room(self, store: Any, more: int) -> None:
        """Refuse what would take the cache beyond ``max_bytes``, or the disk to its end.

        Raises:
            StoreFullError: there is no room for ``more`` bytes.
        """
        if self.max_bytes is not None and self.size() + getattr(store, "pending_bytes", 0) + more > self.max_bytes:
            raise StoreFullError(f"max_bytes={self.max_bytes:,} is reached")
        if self.path is not None and free_bytes(self.path) < _SPARE_BYTES + 2 * more:
            raise StoreFullError(f"the disk of {self.path} is full")

    def stop_filling(self, reason: str) -> None:
        """Take nothing more, and say so once."""
        if self.filling:
            self.filling = False
            warnings.warn(
                f"{self} takes nothing more: {reason}. What is in it stays in use; the teacher computes the other rows "
                "each time",
                stacklevel=2,
            )

    def say_estimate(self, bytes_a_row: float, rows: int | None, reads: Reads) -> None:
        """Say how large the cache will become, beside the room there is; warn where that is not enough."""
        if rows is None:
            return
        needed = int(bytes_a_row * rows)
        room = [self.max_bytes] if self.max_bytes is not None else []
        if self.path is not None:
            room.append(free_bytes(self.path))
        text = f"{self}: about {in_bytes(needed)} for {rows:,} rows ({in_bytes(int(bytes_a_row))} each)"
        if room and needed > min(room):
            offers = "match fewer layers, match a pooled module by its path (as 'bert.pooler'), or keep logits only"
            warnings.warn(
                f"{text}, but there is room for {in_bytes(min(room))}: "
                f"{offers if reads.features else 'set top_k, or give a larger disk'}. What fits is kept, and the "
                "teacher computes the rest each time",
                stacklevel=2,
            )
            return
        text += f", {in_bytes(min(room))} free" if room else ""
        logger.info("%s", text)
        if self.path is not None and not (_several() and dist.get_rank()):
            from tqdm.auto import tqdm

            # Whatever the logging is set to: a disk that fills is the user's.
            tqdm.write(text, file=sys.stderr)

    def size(self) -> int:
        """Bytes of all namespaces."""
        if self.path is None:
            return sum(namespace.store.size() for namespace in self._namespaces.values())
        return sum(file.stat().st_blocks * 512 for file in self.path.glob("*/shard-*/data.mdb"))

    def list(self) -> Sequence[CacheEntry]:
        """What each teacher has in the cache, the last used first."""
        if self.path is None:
            return [
                CacheEntry(n.name, "", self.dtype, n.store.entries(), n.store.size(), time.time(), {})
                for n in self._namespaces.values()
            ]
        self.flush()
        entries = []
        for file in self.path.glob(f"*/{_NAMESPACE}"):
            about = json.loads(file.read_text(encoding="utf-8"))
            store = self._open(file.parent)
            entries.append(
                CacheEntry(
                    file.parent.name,
                    about["teacher"],
                    about["dtype"],
                    store.entries(),
                    store.size(),
                    _last_used(file),
                    about["parts"],
                )
            )
            store.close()
        return sorted(entries, key=lambda entry: entry.last_used, reverse=True)

    def _open(self, folder: Path) -> LmdbStore:
        return LmdbStore(folder, read_only=True)

    def verify(self) -> dict[str, tuple[int, int]]:
        """Read every record and its checksum; damaged ones are deleted, to be computed again.

        Returns:
            By namespace: whole and damaged records.

        Raises:
            CacheError: a file is damaged beyond its records.
        """
        if self.path is None:
            return {name: (namespace.store.entries(), 0) for name, namespace in self._namespaces.items()}
        found = {}
        self.flush()
        for file in sorted(self.path.glob(f"*/{_NAMESPACE}")):
            held = self._namespaces.get(file.parent.name)
            store = held.store if held else LmdbStore(file.parent, read_only=self.read_only)
            found[file.parent.name] = store.examine()
            if held is None:
                store.close()
        for name, (whole, damaged) in found.items():
            if damaged:
                done = "in a cache that is read-only" if self.read_only else "deleted, to be computed again"
                logger.warning("%s: %s: %s damaged, %s", self, name[:12], count_of(damaged, "record"), done)
            logger.info("%s: %s: %s whole", self, name[:12], count_of(whole, "record"))
        return found

    def prune(self, names: str | Iterable[str] = (), *, unused_days: float | None = None) -> Sequence[str]:
        """Delete the records of some teachers.

        Args:
            names: fingerprints, or the beginnings of them, as :meth:`list` gives them; one or several.
            unused_days: delete also what was not written to for so many days.

        Returns:
            The names deleted.

        Raises:
            CacheError: a name fits none or several teachers, or the cache is read-only.
        """
        if self.read_only:
            raise CacheError(f"{self}: the cache is read-only")
        # Not by list(), which opens what is in them: a damaged one must go too.
        known = {file.parent.name: _last_used(file) for file in self.path.glob(f"*/{_NAMESPACE}")} if self.path else {}
        known |= {name: time.time() for name in self._namespaces if name not in known}
        doomed = [_only(list(known), name, self) for name in ([names] if isinstance(names, str) else names)]
        if unused_days is not None:
            doomed += [name for name, used in known.items() if time.time() - used > 86400 * unused_days]
        for name in dict.fromkeys(doomed):
            held = self._namespaces.pop(name, None)
            if held is not None:
                held.store.close()
            if self.path is not None:
                shutil.rmtree(self.path / name)
        if doomed:
            self.filling = True  # there is room again
        return tuple(dict.fromkeys(doomed))

    def build(
        self,
        filled_for: Any,
        loader: Any,
        *,
        adaptor: Adaptor | None = None,
        logits: bool = True,
        hidden: Iterable[int] = (),
        attention: Iterable[int] = (),
        precision: TeacherPrecision | None = None,
        progress_bar: bool = True,
        **args: Any,
    ) -> CacheFilling:
        """Fill the cache ahead of training; what is there already is not computed again, so a stopped build goes on.

        Under several processes (``torchrun``) each takes its part of the batches.

        Args:
            filled_for: a distiller, whose terms say what is kept; or a teacher, with the arguments that follow.
            loader: the batches; for a :class:`~textbrewer.MultiTaskDistiller` a dict of them by task.
            adaptor: the teacher's; None for Transformers outputs.
            logits: keep them.
            hidden: the hidden states to keep, by index.
            attention: the attention maps to keep.
            precision: what the teacher computes in: a name of ``TrainingConfig.teacher_precision``, or None for that of
                its weights. A run finds the records only if its teacher computes in the same.
            progress_bar: show rows, rate and size.
            **args: extra keywords of the teacher's forward pass.

        Raises:
            CacheError: the cache is read-only, or the teacher cannot be cached.
            ConfigError: what is filled for is no distiller and no teacher, or ``precision`` cannot be used.
        """
        if self.read_only:
            raise CacheError(f"{self}: the cache is read-only")
        fills = getattr(filled_for, "filling", None)
        problems = []
        if fills is None and not isinstance(filled_for, nn.Module):
            problems.append(Problem("build", "a distiller or a teacher (nn.Module)", type(filled_for).__name__))
        if precision is not None and precision not in get_args(TeacherPrecision):
            problems.append(Problem("precision", one_of(get_args(TeacherPrecision)), repr(precision)))
        elif precision is not None and fills is not None:
            hint = "a distiller's is in its TrainingConfig, as teacher_precision"
            problems.append(Problem("precision", "none beside a distiller", repr(precision), hint))
        if problems:
            raise ConfigError("TeacherCache.build", problems)
        started, rows, computed = time.perf_counter(), 0, 0
        with ExitStack() as running:
            if fills is not None:
                jobs = running.enter_context(fills(self, loader, args))
            else:
                layers = {"hidden": tuple(hidden), "attention": tuple(attention)}
                reads = Reads(logits=logits, layers=layers)
                source = self._of_teacher(filled_for, adaptor, reads, precision or "fp32", rows_of(loader), running)
                jobs = [FillJob(source, loader, args, sides)]
            bar = running.enter_context(_bar(progress_bar))
            for job in jobs:
                teachers: list[Any] = job.source.teachers if isinstance(job.source, EnsembleTeacher) else [job.source]
                for batch in Stream(job.loader, Ranks.here()):
                    parts = [job.parts_of(batch).for_teacher(i, len(teachers)) for i in range(len(teachers))]
                    each = [t.fill(own, job.args, job.mask_of) for t, own in zip(teachers, parts, strict=True)]
                    seen, new = max(rows for rows, _ in each), max(new for _, new in each)
                    rows, computed = rows + seen, computed + new
                    bar.update(seen)
                    if not self.filling:
                        break
                    bar.set_postfix_str(f"{computed:,} computed, {in_bytes(self.size())}", refresh=False)
        self.flush()
        return CacheFilling(rows, computed, self.size(), time.perf_counter() - started)

    def _of_teacher(
        self,
        teacher: nn.Module,
        adaptor: Adaptor | None,
        reads: Reads,
        precision: TeacherPrecision,
        rows: int | None,
        running: ExitStack,
    ) -> CachedTeacher:
        running.enter_context(modes_kept(teacher))
        teacher.eval()
        device = next((parameter.device for parameter in teacher.parameters()), torch.device("cpu"))
        model = quantised(teacher, device, "TeacherCache.build.precision") if precision == "int8" else teacher
        read = frozenset(feature for feature, layers in reads.layers.items() if layers)
        adapted = AdaptedModel(model, adaptor, name="adaptor", features=read, teacher=True)
        running.enter_context(adapted.ready())
        live = LiveTeacher(adapted, lambda: computing_in(precision, device))
        return CachedTeacher(live, self.namespace(teacher, adapted, precision), reads, rows)

    def flush(self) -> None:
        """Wait until everything is on the disk."""
        for namespace in self._namespaces.values():
            try:
                namespace.store.flush()
            except StoreFullError as error:
                self.stop_filling(str(error))

    def close(self) -> None:
        """Flush, and let go of the files; the cache can be used again all the same."""
        for namespace in self._namespaces.values():
            namespace.store.close()
        if self.path is not None:
            self._namespaces.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _last_used(file: Path) -> float:
    """When something was last written to the namespace that a file says something of."""
    return max(shard.stat().st_mtime for shard in (file, *file.parent.glob("shard-*/data.mdb")))


def _only(names: Sequence[str], wanted: str, cache: TeacherCache) -> str:
    found = [name for name in names if name.startswith(wanted)]
    if len(found) != 1:
        raise CacheError(f"{cache}: {wanted!r} fits {count_of(len(found), 'namespace')} of {names}; give one")
    return found[0]


def _bar(shown: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(unit="row", disable=not shown or Ranks.here().index > 0, mininterval=0.5, dynamic_ncols=True)


def in_bytes(number: float) -> str:
    """``1.5 GB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
