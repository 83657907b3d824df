"""Many writers of one cache: threads, processes, and some that are killed at each step of what they do."""

import gc
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest
from origin import until

from package_cache import Cache, CacheItem
from package_cache.engine.upkeep.verification import Sweep
from package_cache.errors import ItemBusy, ItemError, StoreError
from package_cache.library.cleaning import delete, without_file
from package_cache.library.core import Core
from package_cache.model import Key, Status
from package_cache.rules.library.searching import Criteria
from package_cache.storage.removal import Kind, Position, Removal

URI = "https://mirror.example/a.txt"


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    with Cache(tmp_path / "cache") as one:
        yield one


def run(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Another process with the library."""
    program = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(program, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)


def fill(item: CacheItem, data: bytes = b"bytes") -> None:
    Path(item.path).write_bytes(data)
    item.ready()


def sweep(cache: Cache, now: float = 0.0) -> None:
    """What the service does once a day, some days later."""
    stores = Core(Path(cache.dir)).stores
    moment = now or time.time() + 10 * 86400
    Sweep(stores, lambda: moment).run(lambda: None)
    stores.registry.close()


# Who waits for whom


def test_a_second_caller_waits_for_the_writer_and_gets_what_it_wrote(cache: Cache) -> None:
    item = cache.best_or_new(URI)
    with ThreadPoolExecutor(2) as pool:
        others = [pool.submit(Cache(cache.dir).best_or_new, URI) for _ in range(2)]
        with pytest.raises(ItemBusy, match="seconds"):
            Cache(cache.dir).best_or_new(URI, timeout=0.01)
        assert not any(one.done() for one in others)
        fill(item)
        assert [one.result(30) for one in others] == [item, item]
    assert len(cache) == 1


def test_the_thread_that_writes_gets_its_own_item_again(cache: Cache) -> None:
    item = cache.best_or_new(URI)
    assert cache.best_or_new(URI) is item
    with ThreadPoolExecutor(1) as pool, pytest.raises(ItemBusy):
        pool.submit(cache.best_or_new, URI, timeout=0.05).result(30)


def test_without_waiting_there_is_a_second_version(cache: Cache) -> None:
    one = cache.best_or_new(URI)
    other = cache.best_or_new(URI, wait=False)
    assert (one.version, other.version) == (1, 2)
    fill(other)
    assert cache.best_or_new(URI, wait=False) == other
    fill(one)
    assert cache.best(URI) == other


def test_what_failed_or_was_dropped_is_begun_anew_without_a_new_version(cache: Cache) -> None:
    for number in range(3):
        item = cache.best_or_new(URI, attrs={"try": number}, ext="csv" if number else "txt")
        assert (item.version, item.attrs, os.path.lexists(item.path)) == (1, {"try": number}, False)
        Path(item.path).write_bytes(b"half")
        if number == 1:
            item.failed()
        del item
        gc.collect()
    fill(cache.best_or_new(URI))
    sweep(cache)
    assert len(list((Path(cache.dir) / "items-v1").glob("*/*"))) == 1


def test_what_a_caller_made_without_saying_that_he_writes_it_is_left_to_him(cache: Cache) -> None:
    item = cache.create(URI)
    assert cache.best_or_new(URI).version == 2
    fill(item)


def test_a_dropped_item_frees_its_lease_for_other_processes(cache: Cache) -> None:
    item = cache.best_or_new(URI)
    code = "import sys; from package_cache import Cache; print(Cache(sys.argv[1]).best_or_new(sys.argv[2], timeout=30))"
    other = run(code, cache.dir, URI)
    del item
    assert other.communicate(timeout=60)[0].strip() == f"CacheItem[{URI} V:1 WRITE]"


def is_busy(cache: Cache, uri: str = URI) -> bool:
    """Whether another user of the cache finds it being written."""
    with Cache(cache.dir) as other:
        try:
            other.best_or_new(uri, timeout=0)
        except ItemBusy:
            return True
    return False


def test_the_end_of_an_item_that_failed_leaves_the_next_attempt_to_its_writer(cache: Cache) -> None:
    item = cache.best_or_new(URI)
    item.failed()
    item = cache.best_or_new(URI)  # the object of the first attempt ends here
    gc.collect()
    assert is_busy(cache)
    fill(item)


def test_the_end_of_a_writer_that_failed_leaves_the_next_attempt_to_its_own(cache: Cache) -> None:
    for number in range(2):
        with suppress(ValueError), cache.writing(URI) as file:
            gc.collect()
            file.write(b"bytes")
            if number == 0:
                raise ValueError
            assert is_busy(cache)
    best = cache.best(URI)
    assert best is not None
    assert Path(best.path).read_bytes() == b"bytes"


def test_who_finds_an_item_that_somebody_writes_does_not_hold_it(cache: Cache) -> None:
    item = cache.create(URI, status=Status.WRITE)
    assert cache.best_or_new(URI, status=("ready", "write")) == item
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(cache.best_or_new, URI, status=("ready", "write")).result(30) == item
    gc.collect()
    assert is_busy(cache)
    fill(item)


def test_a_forked_child_can_write_what_its_parent_began(cache: Cache) -> None:
    item = cache.best_or_new(URI)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            fill(item)
            code = 0 if cache.best(URI) == item else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert cache.best(URI) == item
    assert item.status == Status.READY


# Many at once


def test_eight_threads_and_two_processes_make_each_thing_once(cache: Cache) -> None:
    code = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from package_cache import Cache

shared = Cache(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()

def work(number):
    made = []
    for step in range(12):
        name = (step + number) % 12
        item = shared.best_or_new(f"uri {name}", {"n": name}, attrs={"who": number, "name": name}, timeout=60)
        if item.rstatus == 1:
            with open(item.path, "w") as file:
                file.write(f"{name} by {number}")
            item.ready()
            made.append(name)
        with open(item.path) as file:
            assert file.read().startswith(f"{name} by")
        found = shared.search(attrs={"name": name, "who>=": 0})
        assert [one.uri for one in found] == [f"uri {name}"], found
        shared.create("versions", status="failed")
        item.accessed()
    return made

with ThreadPoolExecutor(8) as pool:
    made = sorted(name for names in pool.map(work, range(8)) for name in names)
shared.close()
print(*made)
"""
    processes = [run(code, cache.dir) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    made = sorted(int(name) for process in processes for name in process.communicate(timeout=100)[0].split())
    assert [process.returncode for process in processes] == [0, 0]
    assert made == list(range(12))
    assert [item.version for item in cache.search("versions")] == list(range(1, 193))
    items = cache.search(status="ready")
    assert len(items) == 12
    assert all(item.read_count >= 16 for item in items)
    with closing(sqlite3.connect(cache.path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_items_are_collected_while_others_take_leases(cache: Cache) -> None:
    """The end of an item's object may come in any thread, in the midst of anything."""
    stop = threading.Event()

    def churn(number: int) -> int:
        done = 0
        while not stop.is_set():
            knot: list[object] = [cache.best_or_new(f"churn {number}")]
            knot.append(knot)
            done += 1
        return done

    threshold = gc.get_threshold()
    gc.set_threshold(20)
    try:
        with ThreadPoolExecutor(4) as pool:
            results = [pool.submit(churn, number) for number in range(4)]
            until(lambda: len(cache) == 4)
            for _ in range(30):
                cache.create("x", status=Status.WRITE)
            stop.set()
            assert all(result.result(30) for result in results)
    finally:
        gc.set_threshold(*threshold)


def test_what_failed_and_is_written_again_is_not_cleaned_away(cache: Cache) -> None:
    cache.best_or_new(URI).failed()
    with Cache(cache.dir) as other:
        core = other._core
        found = without_file(core, core.items.find(Criteria()))
        assert [row.status for row in found] == [Status.FAILED]
        item = cache.best_or_new(URI)
        assert delete(core, found) == 0
        fill(item)
        assert delete(core, found) == 0
        assert cache.best(URI) == item
        cache.update_status(URI, status=Status.FAILED)
        cache.remove(disk=True, everything=True)
        assert delete(core, core.items.find(Criteria(include_removed=True))) == 1


def test_two_that_write_the_same_bytes_at_once_both_do(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory of a blob is not there, and when it is, so is the blob: somebody else's."""
    link = os.link

    def linked(source: str, target: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        with pytest.raises(FileNotFoundError):
            link(source, target)
        with Cache(cache.dir) as other:
            fill(other.create("other"))
        raise FileNotFoundError

    monkeypatch.setattr(os, "link", linked)
    fill(cache.create(URI))
    assert [Path(item.path).read_bytes() for item in cache.search()] == [b"bytes"] * 2


# Kills

KILLED = """
import os, signal, sys
from package_cache import Cache

EVENTS = {"fcntl.fcntl", "fcntl.flock", *("os." + n for n in "rename link symlink remove chmod utime mkdir".split())}
fsync = os.fsync

def watch(directory, at):
    state = {"count": 0, "armed": False}

    def step():
        if state["armed"]:
            state["count"] += 1
            if state["count"] == at:
                os.kill(os.getpid(), signal.SIGKILL)

    def hook(event, arguments):
        if event in EVENTS or (event == "open" and directory in str(arguments[0])):
            step()

    def noted(descriptor):
        step()
        fsync(descriptor)
        step()

    sys.addaudithook(hook)
    os.fsync = noted
    return state, step

def write(directory, deed, at):
    state, step = watch(directory, at)
    cache = Cache(directory)
    if deed == "writing":
        state["armed"] = True
        with cache.writing("uri", {"n": 1}, {"rows": 5}) as file:
            file.write(b"some ")
            file.flush()
            step()
            file.write(b"bytes")
    else:
        item = cache.create("uri", {"n": 1}, {"rows": 5}, status=1)
        with open(item.path, "wb") as file:
            file.write(b"some bytes")
        state["armed"] = True
        item.ready()
    return state["count"]

root, deed = sys.argv[1:]
at = 0
while True:
    at += 1
    pid = os.fork()
    if not pid:
        write(f"{root}/{at}", deed, at)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == 0:  # there is no such step
        break
    assert status == -signal.SIGKILL, status
print(at)
"""


@pytest.mark.parametrize("deed", ["writing", "ready"])
def test_a_writer_that_is_killed_at_any_step_leaves_the_item_as_it_was_or_ready(deed: str, tmp_path: Path) -> None:
    program = run(KILLED, tmp_path, deed)
    last = int(program.communicate(timeout=100)[0])
    assert last > 15
    outcomes = [judged(tmp_path / str(at), deed) for at in range(1, last + 1)]
    assert outcomes[-1] == Status.READY
    assert {Status.WRITE, Status.READY} <= set(outcomes[:-1])


def judged(place: Path, deed: str) -> int:
    """What a killed writer left, which is right; and what comes next goes well."""
    with Cache(place) as cache:
        found = cache.search(params={"n": 1}, include_removed=True)
        status = found[0].status if found else Status.UNINITIALIZED
        assert status in (Status.UNINITIALIZED, Status.WRITE, Status.READY)
        best = cache.best("uri", {"n": 1})
        assert (best is not None) == (status == Status.READY)
        if best is not None:
            assert Path(best.path).read_bytes() == b"some bytes"
        elif deed == "ready":
            assert Path(found[0].path).read_bytes() == b"some bytes"  # nothing is lost
        item = cache.best_or_new("uri", {"n": 1}, attrs={"rows": 5}, timeout=0)
        assert item.version == 1
        if item.rstatus == Status.WRITE:
            fill(item, b"some bytes")
        assert cache.search(attrs={"rows": 5}) == [item]
        sweep(cache)
        assert Path(item.path).read_bytes() == b"some bytes"
        assert [path.name for path in (place / "items-v1").glob("*/*")] == [Path(item.path).name]
        assert not list((place / "items-v1").glob("new-*"))
        assert [path.name for path in (place / "blobs-v1").glob("*/*")] == [item.sha256]
        assert not cache.fsck()
    return status


# What the registry, the ledger, culling and the sweep make of items


def populate(cache: Cache) -> list[CacheItem]:
    fill(cache.create(URI, {"n": 1}, {"rows": 5, "at": [1, {"x": b"y"}]}, Status.WRITE, label="l"))
    cache.create("draft", attrs={"rows": 6})
    cache.create("hand", status=3)
    fill(cache.create("trash", status=Status.WRITE), b"trash")
    cache.remove("trash")
    fill(cache.create("gone", status=Status.WRITE), b"gone")
    cache.remove("gone", disk=True)
    fill(cache.create("never", status=Status.WRITE), b"never")
    cache.remove("never", keep_record=False)
    cache.update(URI, {"n": 1}, update={"attrs": {"rows": 7}})
    cache.best(URI, {"n": 1})
    return cache.search(include_removed=True)


def told(items: list[CacheItem]) -> list[tuple[object, ...]]:
    return [
        (
            one.id,
            one.uri,
            one.version,
            one.rstatus,
            one.params,
            one.attrs,
            one.label,
            one.date,
            one.sha256,
            one.path,
            one.size,
        )
        for one in items
    ]


@pytest.mark.parametrize("lost", ["registry", "ledger", "tail"])
def test_items_come_back_when_the_registry_is_made_again(tmp_path: Path, lost: str) -> None:
    root = tmp_path / "cache"
    with Cache(root) as cache:
        before = told(populate(cache))
    ledger = root / "ledger-v1"
    if lost == "registry":
        (root / "registry-v1.db").unlink()
    else:
        data = ledger.read_bytes()
        ledger.write_bytes(b"" if lost == "ledger" else data[: len(data) // 2])
        with closing(sqlite3.connect(root / "registry-v1.db")) as connection:
            connection.execute("DROP TABLE total")
            connection.commit()
    with Cache(root) as cache:
        after = told(cache.search(include_removed=True))
        assert [row[:3] for row in after] == [row[:3] for row in before]
        if lost == "tail":  # what the ledger still tells counts more than the old file
            return
        assert after == before
        assert [item.uri for item in cache.search(attrs={"rows>=": 5, "x": b"y"})] == [URI]
        assert cache.create("never").version == 2
        assert cache.restore("trash") == 1
        assert not cache.fsck().strays
        sweep(cache)
        assert len(list((root / "blobs-v1").glob("*/*"))) == 2


@pytest.mark.parametrize("column", ["attrs", "params", "label", "uri"])
def test_a_record_that_was_changed_by_damage_is_not_believed(cache: Cache, column: str) -> None:
    before = told(populate(cache))
    with closing(sqlite3.connect(cache.path)) as connection:
        connection.execute(f"UPDATE item SET {column} = '[]' WHERE entry = 1")
        connection.commit()
    assert told(cache.search(include_removed=True)) == before


def test_bytes_that_are_gone_with_the_registry_are_told(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    with Cache(root) as cache:
        items = populate(cache)
    for path in (root / "blobs-v1").glob("*/*"):
        path.unlink()
    (root / "registry-v1.db").unlink()
    with Cache(root) as cache:
        assert cache.best(URI, {"n": 1}) is None
        assert cache.restore("trash") == 1
        assert {item.uri: item.status for item in items} == {URI: 2, "draft": 0, "hand": 3, "trash": 2, "gone": -2}


def test_culling_an_item_takes_its_record_and_the_sweep_its_link(cache: Cache) -> None:
    items = populate(cache)
    library = Core(Path(cache.dir))
    removal = Removal(library.stores.registry.database, library.stores.blobs)
    chosen = [*removal.by_use(Kind.READY, Position()), *removal.by_use(Kind.DEAD, Position())]
    assert len(chosen) == 2
    assert sum(one.files for one in removal.remove(chosen)) == 2
    assert removal.trashed(Position(), time.time() * 2) == []
    assert [item.uri for item in cache.search(include_removed=True)] == ["draft", "hand", "gone"]
    with closing(sqlite3.connect(cache.path)) as connection:
        assert connection.execute("SELECT count(*) FROM item").fetchone() == (3,)
        assert connection.execute("SELECT DISTINCT entry FROM attribute").fetchall() == [(items[1].id,)]
    assert os.path.lexists(items[0].path)
    sweep(cache)
    assert not os.path.lexists(items[0].path)
    library.stores.registry.close()


def test_versions_and_the_trash_of_the_library_do_not_age(cache: Cache) -> None:
    for number in range(6):
        fill(cache.create(URI, status=Status.WRITE), b"%d" % number)
    cache.remove(URI, version=1)
    library = Core(Path(cache.dir))
    removal = Removal(library.stores.registry.database, library.stores.blobs)
    assert removal.old_versions(Key("")) == {}
    assert removal.trashed(Position(), time.time() * 2) == []
    library.stores.registry.close()


def test_a_sweep_leaves_what_is_being_written(cache: Cache) -> None:
    items = [cache.best_or_new(URI), cache.create("draft"), cache.create("failed", status=2)]
    for item in items:
        Path(item.path).write_bytes(b"half")
    sweep(cache)
    assert all(Path(item.path).read_bytes() == b"half" for item in items)


def test_a_disk_that_refuses_is_an_error_and_the_item_stays(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    item = cache.create(URI, status=Status.WRITE)
    Path(item.path).write_bytes(b"x")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        with pytest.raises(StoreError, match="No space"):
            item.ready()
    assert item.status == Status.WRITE
    item.ready()
    assert item.status == Status.READY


def test_what_is_not_there_is_made_once_by_whoever_comes_first(tmp_path: Path) -> None:
    made: list[str] = []
    begun = threading.Barrier(8)

    def make(path: str) -> None:
        made.append(path)
        Path(path).write_text("made")

    def ask(_: int) -> str:
        begun.wait(30)
        with Cache(tmp_path) as cache:
            return Path(cache.get_or_create("table", make, {"year": 2026}, ext="txt").path).read_text()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(8))) == {"made"}
    assert len(made) == 1
    assert made[0].endswith(".txt")


def test_what_could_not_be_made_is_made_by_the_next_one(tmp_path: Path) -> None:
    def half(path: str) -> None:
        Path(path).write_text("half")
        raise ZeroDivisionError

    with Cache(tmp_path) as cache:
        with pytest.raises(ZeroDivisionError):
            cache.get_or_create("table", half)
        assert cache.best("table") is None
        with pytest.raises(ItemError, match="no file"):
            cache.get_or_create("table", lambda _path: None)
        item = cache.get_or_create("table", lambda path: Path(path).write_text("whole"))
        assert Path(item.path).read_text() == "whole"
        assert cache.get_or_create("table", half).id == item.id


def test_what_is_too_old_is_made_again(tmp_path: Path) -> None:
    with Cache(tmp_path) as cache:
        first = cache.get_or_create("table", lambda path: Path(path).write_text("1"))
        again = cache.get_or_create("table", lambda path: Path(path).write_text("2"), newer_than="2999-01-01")
        assert (Path(again.path).read_text(), again.version) == ("2", first.version + 1)
