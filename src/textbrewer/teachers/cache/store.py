"""Where records lie: in memory, or in an LMDB a process writes and every process reads.

A key is bytes, a record is bytes; what they mean is said elsewhere. On disk every record ends with a checksum.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from ...errors import CacheError, MissingDependencyError

Get: TypeAlias = Callable[[bytes], memoryview | None]
"""``key -> record``, or None where there is none; valid while the store is being read."""

_CHECKSUM = 8
_PENDING_BYTES = 128 * 2**20
_MAP_BYTES = 2**42


class StoreFullError(Exception):
    """Nothing more can be written; what is there stays."""


class Store(Protocol):
    """What the cache needs of the place its records lie in."""

    def reading(self) -> Any:
        """A context that gives a :data:`Get`."""

    def put(self, records: Mapping[bytes, bytes]) -> None:
        """Keep records, all or none after a crash; raises :class:`StoreFullError`."""

    def flush(self) -> None:
        """Wait until everything put is kept."""

    def entries(self) -> int:
        """How many records there are."""

    def size(self) -> int:
        """Bytes they take."""

    def close(self) -> None:
        """Flush and let go of the files."""


class MemoryStore:
    """Records in a dict.

    Args:
        max_bytes: when they take as much, nothing more is kept.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        self.max_bytes = max_bytes
        self.records: dict[bytes, bytes] = {}
        self._size = 0

    @contextmanager
    def reading(self) -> Iterator[Get]:
        def get(key: bytes) -> memoryview | None:
            found = self.records.get(key)
            return None if found is None else memoryview(found)

        yield get

    def put(self, records: Mapping[bytes, bytes]) -> None:
        grown = self._size + sum(len(key) + len(record) for key, record in records.items())
        if self.max_bytes is not None and grown > self.max_bytes:
            raise StoreFullError(f"max_bytes={self.max_bytes:,} is reached")
        self.records.update(records)
        self._size = grown

    def flush(self) -> None:
        """Nothing waits."""

    def entries(self) -> int:
        return len(self.records)

    def size(self) -> int:
        return self._size

    def close(self) -> None:
        """Nothing is open."""


class LmdbStore:
    """Records in the folders ``shard-*`` of one folder, of which this process writes one and reads all.

    A thread writes, one transaction for what has gathered meanwhile, each synced to the disk before the next; training
    waits for it only when much is pending. What is pending can be read. A process that is killed loses that alone.

    Args:
        folder: of the shards.
        shard: the one this process writes.
        read_only: nothing is written, and the folder may be on a read-only disk.
        max_bytes: of this process's shard.

    Raises:
        CacheError: a shard cannot be opened.
        MissingDependencyError: the packages of the extra ``cache`` are not installed.
    """

    def __init__(self, folder: Path, shard: int = 0, read_only: bool = False, max_bytes: int | None = None) -> None:
        self.folder, self.read_only = folder, read_only
        self.damaged = 0
        self.own: Any = None
        self._shards: dict[str, Any] = {}
        self._seen = -1
        self._pending: dict[bytes, bytes] = {}
        self.pending_bytes = 0
        self._changed = threading.Condition()
        self._writer: threading.Thread | None = None
        self._failed: Exception | None = None
        self._closing = False
        if not read_only:
            own = folder / f"shard-{shard:03d}"
            own.mkdir(parents=True, exist_ok=True)
            self.own = self._shards[own.name] = _opened(own, False, max_bytes)
        self._look_for_shards()

    def _look_for_shards(self) -> None:
        """Open what other processes have begun since."""
        changed = self.folder.stat().st_mtime_ns
        if changed == self._seen:
            return
        self._seen = changed
        for path in sorted(self.folder.glob("shard-*")):
            if path.name not in self._shards and (path / "data.mdb").exists():
                self._shards[path.name] = _opened(path, True, None)

    @contextmanager
    def reading(self) -> Iterator[Get]:
        self._look_for_shards()
        with ExitStack() as open_ones:
            environments = [*([self.own] if self.own else []), *(e for e in self._shards.values() if e is not self.own)]
            transactions = [open_ones.enter_context(e.begin(buffers=True)) for e in environments]

            def get(key: bytes) -> memoryview | None:
                pending = self._pending.get(key)
                if pending is not None:
                    return memoryview(pending)
                for transaction in transactions:
                    found = transaction.get(key)
                    if found is not None:
                        if _is_whole(found):
                            return memoryview(found)[:-_CHECKSUM]
                        self.damaged += 1
                return None

            yield get

    def put(self, records: Mapping[bytes, bytes]) -> None:
        if self.read_only:
            raise CacheError(f"{self.folder}: the cache is read-only")
        with self._changed:
            self._changed.wait_for(lambda: self._failed or self.pending_bytes < _PENDING_BYTES)
            if self._failed is not None:
                raise StoreFullError(str(self._failed)) from self._failed
            self._pending.update(records)
            self.pending_bytes += sum(map(len, records.values()))
            if self._writer is None:
                self._writer = threading.Thread(target=self._write, name="teacher-cache", daemon=True)
                self._writer.start()
            self._changed.notify_all()

    def _write(self) -> None:
        """Until closed: write what has gathered."""
        import lmdb

        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closing)
                if not self._pending:
                    return
                batch = dict(self._pending)
            try:
                with self.own.begin(write=True) as transaction:
                    for key, record in batch.items():
                        transaction.put(key, record + checksum(record))
            except (lmdb.Error, OSError) as error:
                self._failed = error
            with self._changed:
                for key in batch:
                    # After a failure they stay readable for as long as this process needs no room for more.
                    del self._pending[key]
                self.pending_bytes = sum(map(len, self._pending.values()))
                self._changed.notify_all()
            if self._failed is not None:
                return

    def flush(self) -> None:
        """Wait until everything put is on the disk.

        Raises:
            StoreFullError: it cannot be.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._failed or not self._pending)
        if self._failed is not None:
            raise StoreFullError(str(self._failed)) from self._failed

    def entries(self) -> int:
        self._look_for_shards()
        return sum(environment.stat()["entries"] for environment in self._shards.values())

    def size(self) -> int:
        return sum(path.stat().st_blocks * 512 for path in self.folder.glob("shard-*/data.mdb"))

    def examine(self) -> tuple[int, int]:
        """Read every record: how many are whole, and how many were damaged and, unless read-only, are now deleted.

        Raises:
            CacheError: a shard's own structure is damaged.
        """
        self.flush()
        whole = damaged = 0
        for name, environment in self._shards.items():
            bad = []
            try:
                with environment.begin(buffers=True) as transaction:
                    for key, record in transaction.cursor():
                        if _is_whole(record):
                            whole += 1
                        else:
                            bad.append(bytes(key))
            except Exception as error:
                raise CacheError(
                    f"{self.folder / name}: the file is damaged ({error}); delete this folder: only the teacher's "
                    "outputs in it have to be computed again"
                ) from error
            damaged += len(bad)
            if bad and environment is self.own:
                with environment.begin(write=True) as transaction:
                    for key in bad:
                        transaction.delete(key)
        return whole, damaged

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._writer is not None:
            self._writer.join()
        for environment in self._shards.values():
            _let_go(environment)
        self._shards.clear()


def checksum(record: Any) -> bytes:
    """XXH3 of a record, 64 bits."""
    import xxhash

    return xxhash.xxh3_64_digest(record)


def _is_whole(record: Any) -> bool:
    return len(record) > _CHECKSUM and checksum(record[:-_CHECKSUM]) == record[-_CHECKSUM:]


# LMDB must not open a file twice in one process, so two caches of one folder share what is open.
_OPEN: dict[tuple[str, bool], list[Any]] = {}
_OPENING = threading.Lock()


def _opened(path: Path, read_only: bool, max_bytes: int | None) -> Any:
    try:
        import lmdb
        import xxhash  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(error.name or "lmdb", "cache", "a teacher cache on disk") from None
    with _OPENING:
        for mode in (False, True):
            held = _OPEN.get((os.path.realpath(path), mode))
            if held is not None and (read_only or not mode):
                held[1] += 1
                return held[0]
        try:
            environment = lmdb.open(
                os.fspath(path),
                map_size=_MAP_BYTES if max_bytes is None else max(max_bytes, 2**16),
                readonly=read_only,
                lock=not read_only or os.access(path, os.W_OK),
                max_readers=512,
                # Rows come in any order, so that what lies behind a record is rarely wanted next.
                readahead=False,
            )
        except lmdb.Error as error:
            raise CacheError(
                f"{path}: no teacher cache can be opened here ({error}); delete this folder if it is damaged: only the "
                "teacher's outputs in it have to be computed again"
            ) from error
        _OPEN[os.path.realpath(path), read_only] = [environment, 1]
        return environment


def _let_go(environment: Any) -> None:
    with _OPENING:
        for place, held in list(_OPEN.items()):
            if held[0] is environment:
                held[1] -= 1
                if held[1] == 0:
                    del _OPEN[place]
                    environment.close()


def free_bytes(folder: Path) -> int:
    """Room on the disk of a folder that may not be there yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
