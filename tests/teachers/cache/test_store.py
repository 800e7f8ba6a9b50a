"""Stores: what is put is found, whatever happens to the file, the disk or the process."""

from __future__ import annotations

import builtins
import logging
import os
import shutil
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textbrewer.errors import CacheError, MissingDependencyError
from textbrewer.teachers.cache import store as stores
from textbrewer.teachers.cache.store import LmdbStore, MemoryStore, StoreFullError, checksum, free_bytes

lmdb = pytest.importorskip("lmdb", reason="needs the extra `cache`")
RECORDS = {f"key {i:03d}".encode(): bytes([i]) * (100 + i) for i in range(60)}


@pytest.fixture
def opened():
    """A maker of stores that are closed at the end."""
    made = []

    def make(folder, **options):
        folder.mkdir(parents=True, exist_ok=True)
        made.append(LmdbStore(folder, **options))
        return made[-1]

    yield make
    for store in made:
        store.close()
    assert not stores._OPEN


def found(store, keys=tuple(RECORDS)):
    with store.reading() as get:
        return {key: bytes(record) for key in keys if (record := get(key)) is not None}


def filled(folder, records=RECORDS, **options):
    """A folder with a store's records, closed again."""
    folder.mkdir(parents=True, exist_ok=True)
    store = LmdbStore(folder, **options)
    store.put(records)
    store.close()
    return folder


def flip(folder, keys, shard="shard-000"):
    """Change a byte of records behind the store's back."""
    with lmdb.open(str(folder / shard), map_size=2**30) as environment, environment.begin(write=True) as transaction:
        for key in keys:
            record = bytearray(transaction.get(key))
            record[len(record) // 2] ^= 1
            assert transaction.put(key, bytes(record))


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_what_is_put_is_found_at_once_and_what_is_not_is_not(kind, tmp_path, opened):
    store = MemoryStore() if kind == "memory" else opened(tmp_path)
    assert found(store) == {} and store.entries() == 0
    store.put(RECORDS)
    assert found(store) == RECORDS
    store.flush()
    assert found(store) == RECORDS and store.entries() == len(RECORDS)
    with store.reading() as get:
        assert get(b"other") is None
    assert store.size() >= sum(map(len, RECORDS.values()))


def test_a_second_record_of_a_key_takes_the_place_of_the_first(tmp_path, opened):
    for store in (MemoryStore(), opened(tmp_path)):
        store.put({b"k": b"first"})
        store.flush()
        store.put({b"k": b"second"})
        assert found(store, [b"k"]) == {b"k": b"second"}
        store.flush()
        assert found(store, [b"k"]) == {b"k": b"second"} and store.entries() == 1


def test_a_closed_store_has_everything_on_the_disk(tmp_path, opened):
    filled(tmp_path / "a")
    assert found(opened(tmp_path / "a")) == RECORDS


@settings(max_examples=15, deadline=None)
@given(st.lists(st.dictionaries(st.binary(min_size=1, max_size=20), st.binary(min_size=1, max_size=9000)), max_size=5))
def test_any_records_in_any_transactions(tmp_path_factory, puts):
    folder = tmp_path_factory.mktemp("store")
    store, expected = LmdbStore(folder), {}
    for records in puts:
        store.put(records)
        expected |= records
        assert found(store, expected) == expected
    store.close()
    store = LmdbStore(folder, read_only=True)
    assert found(store, expected) == expected
    store.close()


def test_what_is_committed_between_two_looks_is_found_in_one_of_them(tmp_path, opened, monkeypatch):
    """What waits is looked at before the disk is: a commit may fall before, between and after."""
    store = opened(tmp_path)
    stack = stores.ExitStack

    class CommitsFirst(stack):
        def __enter__(self):
            store.flush()
            return super().__enter__()

    for i, kind in enumerate([stack, CommitsFirst] * 5):
        monkeypatch.setattr(stores, "ExitStack", kind)
        key = f"key {i}".encode()
        store.put({key: b"record"})
        with store.reading() as get:
            store.flush()
            assert get(key) == b"record"


def test_readers_and_a_writer_in_one_process(tmp_path, opened):
    store, wrong = opened(tmp_path), []

    def read():
        for _ in range(200):
            wrong.extend(key for key, record in found(store).items() if record != RECORDS[key])

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for key, record in RECORDS.items():
        store.put({key: record})
        assert found(store, [key]) == {key: record}
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_end_of_the_process_writes_what_waits(tmp_path):
    import subprocess
    import sys

    script = (
        "import time\nfrom pathlib import Path\nfrom textbrewer.teachers.cache import store as stores\n"
        "real = stores.checksum\nstores.checksum = lambda record: (time.sleep(0.002), real(record))[1]\n"
        f"store = stores.LmdbStore(Path({str(tmp_path)!r}))\n"
        "for i in range(300):\n    store.put({str(i).encode(): bytes(2000)})\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    store = LmdbStore(tmp_path, read_only=True)
    assert store.entries() == 300
    store.close()


def test_each_shard_is_written_by_one_and_read_by_all(tmp_path, opened):
    one, other = opened(tmp_path, shard=0), opened(tmp_path, shard=1)
    one.put({b"a": b"of one"})
    other.put({b"b": b"of the other"})
    one.flush()
    other.flush()
    for store in (one, other, opened(tmp_path, read_only=True)):
        assert found(store, [b"a", b"b"]) == {b"a": b"of one", b"b": b"of the other"}
        assert store.entries() == 2


def test_of_two_records_the_own_is_taken(tmp_path, opened):
    one, other = opened(tmp_path, shard=0), opened(tmp_path, shard=1)
    one.put({b"k": b"one"})
    other.put({b"k": b"other"})
    one.flush()
    other.flush()
    assert found(one, [b"k"]) == {b"k": b"one"} and found(other, [b"k"]) == {b"k": b"other"}


def test_shards_that_begin_later_are_found_too(tmp_path, opened):
    store = opened(tmp_path)
    own = tmp_path / "shard-001"
    own.mkdir()
    assert found(store, [b"k"]) == {}
    (own / "data.mdb").touch()  # as LMDB leaves it for a moment
    assert found(store, [b"k"]) == {}
    filled(tmp_path, {b"k": b"later"}, shard=1)
    assert found(store, [b"k"]) == {b"k": b"later"}


def test_a_process_can_open_the_shards_of_many_ranks_and_teachers(tmp_path, opened):
    for rank in range(48):
        filled(tmp_path, {f"{rank}".encode(): b"record"}, shard=rank)
    assert opened(tmp_path).entries() == 48


def test_two_caches_of_one_folder_share_what_is_open(tmp_path, opened):
    one, other = opened(tmp_path), opened(tmp_path)
    one.put({b"a": b"1"})
    other.put({b"b": b"2"})
    one.close()
    other.flush()
    assert found(other, [b"a", b"b"]) == {b"a": b"1", b"b": b"2"}


def test_a_shard_that_is_only_read_here_can_not_be_written_here(tmp_path, opened):
    filled(tmp_path)
    reader = opened(tmp_path, read_only=True)
    with pytest.raises(CacheError, match=r"open for reading only in this process.*close the cache that reads it"):
        LmdbStore(tmp_path)
    reader.close()
    opened(tmp_path).put({b"k": b"now"})


def test_a_closed_store_says_so(tmp_path):
    store = LmdbStore(tmp_path)
    store.put({b"k": b"1"})
    store.close()
    store.close()
    with pytest.raises(CacheError, match="was closed while a run uses it"):
        store.put({b"k": b"2"})
    with pytest.raises(CacheError, match="was closed while a run uses it"), store.reading():
        pass


def test_a_read_only_store_is_not_written_and_makes_no_files(tmp_path, opened):
    filled(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("data.mdb")}
    store = opened(tmp_path, read_only=True)
    assert found(store) == RECORDS
    with pytest.raises(CacheError, match="read-only"):
        store.put({b"k": b"1"})
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("data.mdb")} == before


def test_a_store_on_a_disk_that_can_not_be_written(tmp_path, opened, monkeypatch):
    filled(tmp_path)
    (tmp_path / "shard-000" / "lock.mdb").unlink()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert found(opened(tmp_path, read_only=True)) == RECORDS
    assert not (tmp_path / "shard-000" / "lock.mdb").exists()


class TestNoRoom:
    def test_memory(self):
        store = MemoryStore(max_bytes=10)
        store.put({b"a": b"1234"})
        with pytest.raises(StoreFullError, match="max_bytes=10"):
            store.put({b"b": b"123456"})
        assert found(store, [b"a", b"b"]) == {b"a": b"1234"}

    def test_a_map_that_is_full_keeps_what_is_committed(self, tmp_path, opened):
        store = opened(tmp_path, max_bytes=2**17)
        store.put({b"small": b"fits"})
        store.flush()
        store.put({b"large": bytes(2**18)})
        with pytest.raises(StoreFullError, match="MDB_MAP_FULL"):
            store.flush()
        with pytest.raises(StoreFullError, match="MDB_MAP_FULL"):
            store.put({b"next": b"1"})
        assert found(store, [b"small", b"large", b"next"]) == {b"small": b"fits"}
        store.close()
        assert found(opened(tmp_path), [b"small", b"large"]) == {b"small": b"fits"}

    def test_a_disk_that_is_full(self, tmp_path, opened, monkeypatch):
        store = opened(tmp_path)
        store.put({b"a": b"1"})
        store.flush()
        real = store.own

        class Full:
            def begin(self, write=False, **options):
                if write:
                    raise lmdb.DiskError("No space left on device")
                return real.begin(**options)

        store.own = store._shards["shard-000"] = Full()
        store.put({b"b": b"2"})
        with pytest.raises(StoreFullError, match="No space left on device"):
            store.flush()
        assert found(store, [b"a", b"b"]) == {b"a": b"1"} and store.pending_bytes == 0
        store.own = store._shards["shard-000"] = real

    def test_what_was_put_while_a_write_failed_is_let_go_too(self, tmp_path, opened):
        store, at_work, go_on = opened(tmp_path), threading.Event(), threading.Event()
        real = store.own

        class Fails:
            def begin(self, write=False, **options):
                if not write:
                    return real.begin(**options)
                at_work.set()
                go_on.wait()
                raise lmdb.DiskError("No space left on device")

        store.own = store._shards["shard-000"] = Fails()
        store.put({b"a": b"1"})
        at_work.wait()
        store.put({b"b": b"2"})
        assert found(store, [b"a", b"b"]) == {b"a": b"1", b"b": b"2"}
        go_on.set()
        with pytest.raises(StoreFullError, match="No space left"):
            store.flush()
        assert found(store, [b"a", b"b"]) == {} and store.pending_bytes == 0
        store.own = store._shards["shard-000"] = real

    def test_a_put_that_waits_for_the_writer_is_woken_by_its_failure(self, tmp_path, opened, monkeypatch):
        monkeypatch.setattr(stores, "_PENDING_BYTES", 10)
        store = opened(tmp_path, max_bytes=2**16)
        with pytest.raises(StoreFullError):
            for i in range(100):
                store.put({str(i).encode(): bytes(4000)})


class TestDamage:
    def test_a_damaged_record_is_not_given_and_this_is_said_once(self, tmp_path, opened, caplog):
        damaged = list(RECORDS)[3:6]
        flip(filled(tmp_path), damaged)
        store = opened(tmp_path)
        with caplog.at_level(logging.WARNING, "textbrewer"):
            assert found(store) == {key: record for key, record in RECORDS.items() if key not in damaged}
            found(store)
        assert store.damaged == 6
        (said,) = [record.message for record in caplog.records]
        assert said.startswith(f"{tmp_path / 'shard-000'}: a record is damaged; the teacher computes it again")
        store.put({key: RECORDS[key] for key in damaged})
        store.flush()
        assert found(store) == RECORDS

    @pytest.mark.parametrize("record", [b"", b"short", checksum(b"")])
    def test_a_record_too_short_to_be_one_is_damaged(self, tmp_path, opened, record):
        filled(tmp_path, {b"other": b"1"})
        with lmdb.open(str(tmp_path / "shard-000")) as environment, environment.begin(write=True) as transaction:
            transaction.put(b"k", record)
        assert found(opened(tmp_path), [b"k", b"other"]) == {b"other": b"1"}

    def test_another_shard_may_have_it_whole(self, tmp_path, opened):
        for shard in (0, 1):
            filled(tmp_path, shard=shard)
        flip(tmp_path, RECORDS)
        assert found(opened(tmp_path)) == RECORDS

    @pytest.mark.parametrize("bit", range(0, 64, 7))
    def test_every_bit_of_a_checksum_counts(self, bit):
        record = bytearray(b"a record" + checksum(b"a record"))
        assert stores._is_whole(memoryview(bytes(record)))
        record[8 + bit // 8] ^= 1 << bit % 8
        assert not stores._is_whole(memoryview(bytes(record)))

    def test_examining_deletes_the_damaged_ones_in_every_shard(self, tmp_path, opened):
        for shard in (0, 1):
            filled(tmp_path, {key + bytes([shard]): record for key, record in RECORDS.items()}, shard=shard)
        flip(tmp_path, [b"key 001\x00"])
        flip(tmp_path, [b"key 002\x01", b"key 003\x01"], "shard-001")
        store = opened(tmp_path)
        assert store.examine() == (len(RECORDS) * 2 - 3, 3)
        assert store.entries() == len(RECORDS) * 2 - 3
        assert store.examine() == (len(RECORDS) * 2 - 3, 0)
        assert len(found(store, [key + b"\x01" for key in RECORDS])) == len(RECORDS) - 2

    def test_examining_a_read_only_store_counts_and_deletes_nothing(self, tmp_path, opened):
        flip(filled(tmp_path), [b"key 001"])
        store = opened(tmp_path, read_only=True)
        for _ in range(2):
            assert store.examine() == (len(RECORDS) - 1, 1)
        assert store.entries() == len(RECORDS)

    @pytest.mark.parametrize("read_only", [True, False])
    @pytest.mark.parametrize("part", [0.9, 0.5, 0.1, 0.005])
    def test_a_file_that_was_cut_is_refused_and_does_not_kill_the_process(self, tmp_path, part, read_only):
        file = filled(tmp_path) / "shard-000" / "data.mdb"
        os.truncate(file, int(file.stat().st_size * part))
        with pytest.raises(CacheError, match=r"shard-000: no teacher cache can be read here.*delete this folder"):
            LmdbStore(tmp_path, read_only=read_only)
        assert not stores._OPEN

    @pytest.mark.parametrize("read_only", [True, False])
    def test_a_file_of_something_else_is_refused(self, tmp_path, read_only):
        (filled(tmp_path) / "shard-000" / "data.mdb").write_bytes(os.urandom(50_000))
        with pytest.raises(CacheError, match=r"shard-000: no teacher cache can be read here.*delete this folder"):
            LmdbStore(tmp_path, read_only=read_only)

    def test_a_shard_that_a_kill_left_empty_is_begun_again(self, tmp_path, opened):
        (tmp_path / "shard-000").mkdir()
        (tmp_path / "shard-000" / "data.mdb").touch()
        assert opened(tmp_path, read_only=True).entries() == 0
        store = opened(tmp_path)
        store.put({b"k": b"1"})
        assert found(store, [b"k"]) == {b"k": b"1"}

    def test_an_error_while_reading_says_where_and_what_to_do(self, tmp_path, opened):
        store = opened(filled(tmp_path))
        real = store.own

        class Corrupt:
            def begin(self, **options):
                return self

            def __enter__(self):
                return self

            def __exit__(self, *exception):
                pass

            def get(self, key=None):
                raise lmdb.CorruptedError("MDB_CORRUPTED")

            cursor = get

        store.own = store._shards["shard-000"] = Corrupt()
        with pytest.raises(CacheError, match=r"shard-000.*MDB_CORRUPTED.*delete this folder"):
            found(store)
        with pytest.raises(CacheError, match=r"shard-000.*MDB_CORRUPTED.*delete this folder"):
            store.examine()
        store.own = store._shards["shard-000"] = real


@pytest.mark.parametrize("package", ["lmdb", "xxhash"])
def test_a_package_that_is_missing_is_named_with_its_extra(tmp_path, monkeypatch, package):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        MissingDependencyError, match=rf"a teacher cache on disk needs the package `{package}`.*\[cache\]"
    ):
        LmdbStore(tmp_path)


def test_free_bytes_of_a_folder_that_is_not_there_yet(tmp_path):
    assert free_bytes(tmp_path / "a" / "b") == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
