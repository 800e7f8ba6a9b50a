"""Where records lie: in memory, or in an LMDB a process writes and every process reads.

A key is bytes, a record is bytes; what they mean is said elsewhere. On disk every record ends with a checksum.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from ...errors import CacheError, MissingDependencyError

logger = logging.getLogger("textbrewer")

Get: TypeAlias = Callable[[bytes], memoryview | None]
"""``key -> record``, or None where there is none; valid while the store is being read."""

_CHECKSUM = 8
_PENDING_BYTES = 128 * 2**20
# Of address space, of which a process has 2^47 bytes for all shards of all teachers.
_MAP_BYTES = 2**40


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
        # What waits for the writer, and what it is writing. The writer replaces these dicts and takes nothing out of
        # them: who holds both sees everything that is not in a transaction begun afterwards.
        self._pending: dict[bytes, bytes] = {}
        self._written: dict[bytes, bytes] = {}
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
        for name in sorted(os.listdir(self.folder)):
            if name.startswith("shard-") and name not in self._shards and _is_begun(self.folder / name):
                self._shards[name] = _opened(self.folder / name, True, None)

    @contextmanager
    def reading(self) -> Iterator[Get]:
        import lmdb

        self._require_open()
        self._look_for_shards()
        with self._changed:
            waiting = (self._pending, self._written)
        with ExitStack() as open_ones:
            own_first = sorted(self._shards, key=lambda name: self._shards[name] is not self.own)
            transactions = [
                (self.folder / name, open_ones.enter_context(self._shards[name].begin(buffers=True)))
                for name in own_first
            ]

            def get(key: bytes) -> memoryview | None:
                for records in waiting:
                    if key in records:
                        return memoryview(records[key])
                for path, transaction in transactions:
                    try:
                        found = transaction.get(key)
                    except lmdb.Error as error:
                        raise _damaged(path, error) from error
                    if found is not None:
                        if _is_whole(found):
                            return memoryview(found)[:-_CHECKSUM]
                        self._count_damaged(path)
                return None

            yield get

    def _require_open(self) -> None:
        if self._closing:
            raise CacheError(f"{self.folder}: the cache was closed while a run uses it; close it after the run")

    def _count_damaged(self, path: Path) -> None:
        self.damaged += 1
        if self.damaged == 1:
            logger.warning(
                "%s: a record is damaged; the teacher computes it again. TeacherCache.verify finds all", path
            )

    def put(self, records: Mapping[bytes, bytes]) -> None:
        if self.read_only:
            raise CacheError(f"{self.folder}: the cache is read-only")
        self._require_open()
        with self._changed:
            self._changed.wait_for(lambda: self._failed or self.pending_bytes < _PENDING_BYTES)
            if self._failed is not None:
                raise StoreFullError(str(self._failed)) from self._failed
            self._pending.update(records)
            self.pending_bytes += sum(map(len, records.values()))
            if self._writer is None:
                self._writer = threading.Thread(target=self._write, name="teacher-cache", daemon=True)
                self._writer.start()
                # A daemon is stopped at the end of the process, with what it has not written yet.
                atexit.register(self._finish)
            self._changed.notify_all()

    def _write(self) -> None:
        """Until closed: write what has gathered."""
        import lmdb

        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closing)
                if not self._pending:
                    return
                self._written, self._pending = self._pending, {}
            try:
                with self.own.begin(write=True) as transaction:
                    for key, record in self._written.items():
                        transaction.put(key, record + checksum(record))
            except (lmdb.Error, OSError) as error:
                self._failed = error
            with self._changed:
                self._written = {}
                if self._failed is not None:
                    self._pending = {}
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
            self._changed.wait_for(lambda: self._failed or not (self._pending or self._written))
        if self._failed is not None:
            raise StoreFullError(str(self._failed)) from self._failed

    def entries(self) -> int:
        self._look_for_shards()
        return sum(environment.stat()["entries"] for environment in self._shards.values())

    def size(self) -> int:
        return sum(path.stat().st_blocks * 512 for path in self.folder.glob("shard-*/data.mdb"))

    def examine(self) -> tuple[int, int]:
        """Read every record on the disk: how many are whole, and how many are damaged and, unless read-only, deleted.

        Raises:
            CacheError: a shard's own structure is damaged.
        """
        import lmdb

        whole = damaged = 0
        for name, environment in list(self._shards.items()):
            bad = []
            try:
                with environment.begin(buffers=True) as transaction:
                    for key, record in transaction.cursor():
                        if _is_whole(record):
                            whole += 1
                        else:
                            bad.append(bytes(key))
            except lmdb.Error as error:
                raise _damaged(self.folder / name, error) from error
            damaged += len(bad)
            if bad and not self.read_only:
                self._delete(name, bad)
        return whole, damaged

    def _delete(self, name: str, keys: list[bytes]) -> None:
        """Delete records, also from a shard that another process writes: LMDB lets one of them write at a time."""
        others = self._shards[name] is not self.own
        if others:
            _let_go(self._shards.pop(name))
            self._shards[name] = _opened(self.folder / name, False, None)
        with self._shards[name].begin(write=True) as transaction:
            for key in keys:
                transaction.delete(key)
        if others:
            _let_go(self._shards.pop(name))
            self._look_for_shards()

    def _finish(self) -> None:
        """Have the writer write what waits, and end."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._writer is not None:
            self._writer.join()

    def close(self) -> None:
        self._finish()
        atexit.unregister(self._finish)
        for environment in self._shards.values():
            _let_go(environment)
        self._shards.clear()
        self.own = None


def checksum(record: Any) -> bytes:
    """XXH3 of a record, 64 bits."""
    import xxhash

    return xxhash.xxh3_64_digest(record)


def _is_whole(record: Any) -> bool:
    return len(record) > _CHECKSUM and checksum(record[:-_CHECKSUM]) == record[-_CHECKSUM:]


def _is_begun(shard: Path) -> bool:
    """Whether the process that writes a shard has come as far as its file's first pages."""
    try:
        return (shard / "data.mdb").stat().st_size > 0
    except (FileNotFoundError, NotADirectoryError):
        return False


def _damaged(path: Path, why: object) -> CacheError:
    return CacheError(
        f"{path}: no teacher cache can be read here ({why}); delete this folder if it is damaged: only the teacher's "
        "outputs in it have to be computed again"
    )


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
        place = os.path.realpath(path)
        held = _OPEN.get((place, False)) or (_OPEN.get((place, True)) if read_only else None)
        if held is not None:
            held[1] += 1
            return held[0]
        if (place, True) in _OPEN:
            raise CacheError(
                f"{path} is open for reading only in this process, and has to be written now; close the cache that "
                "reads it first (cache.close())"
            )
        _require_whole_file(path)
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
            raise _damaged(path, error) from error
        if not read_only:
            # Readers that were killed would keep old pages from being used again.
            environment.reader_check()
        _OPEN[place, read_only] = [environment, 1]
        return environment


def _require_whole_file(path: Path) -> None:
    """Refuse a file that ends before its last page: reading there would kill the process."""
    import lmdb

    file = path / "data.mdb"
    if not _is_begun(path):
        return
    try:
        # Without its lock file, and for the time it takes to read the first page.
        with lmdb.open(os.fspath(path), readonly=True, lock=False) as environment:
            needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    except lmdb.Error as error:
        raise _damaged(path, error) from error
    if file.stat().st_size < needed:
        raise _damaged(path, f"data.mdb has {file.stat().st_size:,} of {needed:,} bytes")


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
