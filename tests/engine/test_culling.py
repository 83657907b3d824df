"""What goes when the cache is to stay within its bounds: the removal, and the room for downloads.

Run as a program, this file is another process: `python test_culling.py DEED DIRECTORY ...`.
"""

import errno
import hashlib
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from forks import run_program
from origin import Origin, Serve, until
from product import Proxy, as_program, blobs, size_of

from package_cache.engine.fills.committer import Committer, FileJob
from package_cache.engine.upkeep.culling import Culler, Report
from package_cache.engine.upkeep.room import Refusal, Reservation, Room
from package_cache.engine.upkeep.space import Space
from package_cache.errors import StoreError
from package_cache.model import Entry, Key, Representation, Status
from package_cache.rules.eviction import (
    TRASH_SECONDS,
    Reason,
)
from package_cache.storage.blobs import BlobStore
from package_cache.storage.inventory import Inventory
from package_cache.storage.parts.part import Part
from package_cache.storage.registry import NewVersion, Registry
from package_cache.storage.removal import Kind, Position, Removal
from package_cache.units import Share

NOW = 1e9
DAY = 86400.0


# The removal


@dataclass
class Shelf:
    """A store with a clock that stands still."""

    root: Path
    now: float = NOW

    def __post_init__(self) -> None:
        self.blobs = BlobStore(self.root / "blobs-v1")
        self.registry = Registry(self.root / "registry-v1.db")
        self.inventory = Inventory(self.registry.database)
        self.removal = Removal(self.registry.database, self.blobs)
        self.space = Space(self.root, self.registry)
        self.cullers: list[Culler] = []
        self._others = set(threading.enumerate())

    def bounded(self, max_size: int | None = None, min_free: Share | None = None, max_age: float | None = None) -> Culler:
        self.space = Space(self.root, self.registry, max_size, min_free, max_age)
        self.cullers.append(Culler(self.removal, self.blobs.locks, self.space, lambda: self.now))
        return self.cullers[-1]

    def close(self) -> None:
        for culler in self.cullers:
            culler.close()
        # One that is at work finds the registry closed else.
        until(lambda: not any(thread.name == "culling" for thread in set(threading.enumerate()) - self._others))
        self.registry.close()

    def put(self, key: str, body: bytes, used: float = NOW - DAY) -> Entry:
        """Store a file that was last used then."""
        digest = hashlib.sha256(body).hexdigest()
        part = Part(self.root / f"{os.getpid()}-{threading.get_ident()}.part", create=True)
        part.put(0, body)
        self.blobs.finalize(part)
        with self.blobs.holding([digest]):
            self.blobs.settle([self.blobs.publish(part, digest)])
            entry = self.registry.commit(Key(key), digest, head(key, len(body)))
        part.close()
        self.date(entry.id, used)
        return entry

    def date(self, number: int, used: float, created: float | None = None) -> None:
        with closing(sqlite3.connect(self.root / "registry-v1.db", timeout=30)) as connection, connection:
            connection.execute(
                "UPDATE entry SET used = ?, created = coalesce(?, created) WHERE id = ?", (used, created, number)
            )

    def ready(self) -> set[str]:
        """The names that can be served."""
        return {entry.key for entry in self.inventory.entries("*")}

    def check(self) -> None:
        """Rows and files agree."""
        with closing(sqlite3.connect(self.root / "registry-v1.db", timeout=30)) as connection:
            needed = {row[0] for row in connection.execute("SELECT DISTINCT digest FROM entry")}
            known = dict(connection.execute("SELECT digest, size FROM blob"))
            ready = connection.execute("SELECT count(*) FROM entry WHERE status = 3").fetchone()[0]
            assert not connection.execute("SELECT * FROM doomed").fetchall()
        there = {path.name: size_of(path) for path in blobs(self.root)}
        assert needed == set(known)
        assert there == known
        totals = self.registry.totals()
        assert (totals.entries, totals.blobs, totals.bytes) == (ready, len(there), sum(there.values()))


def head(key: str, size: int) -> Representation:
    return Representation((), size, f"http://mirror.example{key}", 1.0)


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    one = Shelf(tmp_path)
    yield one
    one.close()


@pytest.fixture
def other(shelf: Shelf) -> Iterator[Shelf]:
    """The same store as another process has it: with locks of its own."""
    one = Shelf(shelf.root)
    yield one
    one.close()


def culled(culler: Culler, *, dry: bool = False) -> Report:
    report = culler.cull(dry=dry, pause=0.0)
    assert report is not None
    return report


def test_files_used_longest_ago_go_until_the_bound_is_kept(shelf: Shelf) -> None:
    for number in range(200):
        shelf.put(f"/{number}.tar", number.to_bytes(2, "big") * 50, NOW - DAY - 200 + number)
    culler = shelf.bounded(max_size=10_000)
    expected = culled(culler, dry=True)
    assert len(shelf.ready()) == 200
    report = culled(culler)
    assert report == expected
    assert report.total.entries == report.total.files == 105
    assert (report.total.bytes, report.lacking) == (10_500, 0)
    assert report.total.reach == NOW - DAY - 200 + 104
    assert shelf.ready() == {f"/{number}.tar" for number in range(105, 200)}
    shelf.check()
    assert culled(culler).tallies == {}


def test_a_file_counts_as_used_when_any_of_its_names_was(shelf: Shelf) -> None:
    shelf.put("/a-1.tar", b"same", NOW - 9 * DAY)
    shelf.put("/b-1.tar", b"same", NOW - 2 * DAY)
    shelf.put("/c-1.tar", b"else", NOW - 5 * DAY)
    culled(shelf.bounded(max_size=7))
    assert shelf.ready() == {"/a-1.tar", "/b-1.tar"}
    culled(shelf.bounded(max_age=3 * DAY))
    assert shelf.ready() == {"/a-1.tar", "/b-1.tar"}
    report = culled(shelf.bounded(max_size=3))
    assert (report.total.entries, report.total.files, report.total.bytes) == (2, 1, 4)
    assert shelf.ready() == set()
    shelf.check()


def test_what_was_not_used_for_too_long_goes(shelf: Shelf) -> None:
    shelf.put("/a-1.tar", b"a", NOW - 366 * DAY)
    shelf.put("/b-1.tar", b"b", NOW - 364 * DAY)
    report = culled(shelf.bounded(max_age=365 * DAY))
    assert list(report.tallies) == [Reason.MAX_AGE]
    assert shelf.ready() == {"/b-1.tar"}
    shelf.check()


def test_a_pinned_name_stays_and_the_report_says_what_is_lacking(shelf: Shelf) -> None:
    shelf.put("/a-1.tar", b"a" * 100, NOW - 9 * DAY)
    shelf.put("/b-1.tar", b"b" * 100, NOW - 8 * DAY)
    shelf.inventory.pin(Key("/a-1.tar"), "somebody")
    report = culled(shelf.bounded(max_size=50, max_age=DAY))
    assert shelf.ready() == {"/a-1.tar"}
    assert report.lacking == 50
    shelf.check()


def test_a_pin_that_comes_after_the_look_holds(shelf: Shelf) -> None:
    shelf.put("/a-1.tar", b"a")
    page = shelf.removal.by_use(Kind.READY, Position())
    shelf.inventory.pin(Key("/a-1.tar"), "somebody")
    assert shelf.removal.remove(page)[0].entries == 0
    assert shelf.ready() == {"/a-1.tar"}


def test_a_use_that_comes_after_the_look_holds(shelf: Shelf) -> None:
    entry = shelf.put("/a-1.tar", b"a")
    page = shelf.removal.by_use(Kind.READY, Position())
    shelf.registry.touch({entry.id: NOW})
    assert shelf.removal.remove(page)[0].entries == 0
    assert shelf.ready() == {"/a-1.tar"}


def test_a_version_number_is_never_used_twice(shelf: Shelf) -> None:
    for expected in (1, 2, 3):
        assert shelf.put("/a-1.tar", b"a").version == expected
        culled(shelf.bounded(max_age=1.0))
        assert shelf.ready() == set()
    shelf.put("/a-1.tar", b"a")
    shelf.put("/a-1.tar", b"b")
    assert [entry.version for entry in shelf.inventory.versions(Key("/a-1.tar"))] == [5, 4]


def test_old_versions_go_by_number_and_by_age(shelf: Shelf) -> None:
    for number in range(6):
        entry = shelf.put("/index", bytes([number]))
        shelf.date(entry.id, NOW - DAY, NOW - DAY * (6 - number))
    for number in range(2):
        entry = shelf.put("/old", bytes([number, 1]))
        shelf.date(entry.id, NOW - DAY, NOW - DAY * (60 - number))
    expected = culled(shelf.bounded(), dry=True)
    report = culled(shelf.bounded())
    assert report == expected
    assert report.tallies.keys() == {Reason.OLD_VERSION}
    assert [entry.version for entry in shelf.inventory.versions(Key("/index"))] == [6, 5, 4]
    assert [entry.version for entry in shelf.inventory.versions(Key("/old"))] == [2]
    shelf.check()


def test_what_is_in_the_trash_is_hidden_can_be_restored_and_goes_after_a_week(shelf: Shelf) -> None:
    shelf.put("/a-1.tar", b"a")
    shelf.put("/b-1.tar", b"b")
    mark = shelf.registry.mark(Key("/a-1.tar"))
    assert [entry.version for entry in shelf.inventory.discard(Key("/a-1.tar"))] == [1]
    assert shelf.registry.mark(Key("/a-1.tar")) != mark
    assert shelf.registry.best(Key("/a-1.tar")) is None
    assert len(blobs(shelf.root)) == 2
    shelf.now = time.time()
    assert culled(shelf.bounded()).tallies == {}
    assert [entry.status for entry in shelf.inventory.restore(Key("/a-1.tar"))] == [Status.READY]
    assert shelf.registry.best(Key("/a-1.tar")) is not None
    shelf.inventory.discard(Key("/a-1.tar"))
    shelf.now += 7 * DAY + 1
    assert culled(shelf.bounded()).tallies.keys() == {Reason.TRASH}
    assert shelf.inventory.versions(Key("/a-1.tar")) == []
    assert shelf.ready() == {"/b-1.tar"}
    shelf.check()


def test_the_trash_goes_before_what_is_served(shelf: Shelf) -> None:
    shelf.put("/a-1.tar", b"a" * 10, NOW - 300 * DAY)
    shelf.put("/b-1.tar", b"b" * 10)
    shelf.inventory.discard(Key("/b-1.tar"))
    report = culled(shelf.bounded(max_size=11))
    assert report.tallies.keys() == {Reason.TRASH}
    assert shelf.ready() == {"/a-1.tar"}
    shelf.check()


def test_a_damaged_version_is_forgotten_after_a_week_and_counts_no_more(shelf: Shelf) -> None:
    entry = shelf.put("/a-1.tar", b"a" * 10)
    shelf.registry.condemn(entry.digest)
    shelf.blobs.remove(entry.digest)
    shelf.now = time.time() + TRASH_SECONDS + 1
    culled(shelf.bounded())
    shelf.check()


def test_a_blob_that_is_about_to_be_committed_is_not_removed(shelf: Shelf, other: Shelf) -> None:
    entry = shelf.put("/a-1.tar", b"a")
    page = shelf.removal.by_use(Kind.READY, Position())
    with other.blobs.holding([entry.digest]), other.blobs.holding([entry.digest]):
        assert shelf.removal.remove(page)[0].entries == 0
    assert shelf.ready() == {"/a-1.tar"}
    assert shelf.removal.remove(page)[0].files == 1
    shelf.check()


def test_who_commits_waits_for_who_removes(shelf: Shelf, other: Shelf) -> None:
    digest = hashlib.sha256(b"a").hexdigest()
    with ThreadPoolExecutor(1) as pool:
        with other.blobs.claiming([digest]) as claimed:
            assert claimed == [digest]
            put = pool.submit(shelf.put, "/a-1.tar", b"a")
            with pytest.raises(TimeoutError):
                put.result(0.1)
        put.result(30)
    shelf.check()


def test_one_process_culls_at_a_time(shelf: Shelf, other: Shelf) -> None:
    shelf.put("/a-1.tar", b"a")
    assert other.blobs.locks.take("cull")
    assert shelf.bounded(max_age=1.0).cull() is None
    assert culled(shelf.bounded(max_age=1.0), dry=True).total.entries == 1
    other.blobs.locks.free("cull")
    assert culled(shelf.bounded(max_age=1.0)).total.entries == 1


KILLED = """\
import os, sys
sys.path[:0] = sys.argv[3:]
from test_culling import Shelf, culled, Path
shelf = Shelf(Path(sys.argv[1]))
left = int(sys.argv[2])
def hook(event, arguments):
    global left
    if event == "os.remove" and "blobs-v1" in str(arguments[0]):
        left -= 1
        if left < 0:
            os._exit(9)
sys.addaudithook(hook)
culled(shelf.bounded(max_age=1.0))
"""


@pytest.mark.usefixtures("shell")
@pytest.mark.parametrize("survived", [0, 1, 2])
def test_files_that_a_killed_process_was_about_to_remove_are_removed_later(shelf: Shelf, survived: int) -> None:
    for number in range(3):
        shelf.put(f"/{number}.tar", bytes([number]))
    assert run_program(KILLED, shelf.root, survived, Path(__file__).parent, *sys.path).returncode == 9
    assert shelf.ready() == set()
    assert len(blobs(shelf.root)) == 3 - survived
    shelf.put("/again-1.tar", bytes([2]))  # one of them is stored anew meanwhile
    culled(shelf.bounded())
    assert shelf.ready() == {"/again-1.tar"}
    shelf.check()


def test_a_file_that_cannot_be_removed_is_removed_later(shelf: Shelf) -> None:
    entry = shelf.put("/a-1.tar", b"a")
    path = shelf.blobs.path(entry.digest)
    path.unlink()
    path.mkdir()
    culled(shelf.bounded(max_age=1.0))
    assert shelf.ready() == set()
    path.rmdir()
    path.write_bytes(b"a")
    culled(shelf.bounded())
    shelf.check()


BODIES = [bytes([number]) * 100 for number in range(4)]


def hammer(root: Path, deed: str, seed: int) -> None:
    """Commit or remove the same few files for a while."""
    shelf = Shelf(root, time.time() + 2 * DAY)
    dice = random.Random(seed)
    end = time.monotonic() + 2
    while time.monotonic() < end:
        match deed:
            case "commit":
                commit_some(shelf, dice)
            case "cull":
                shelf.bounded(max_age=1.0).cull(pause=0.0)
            case "trash":
                shelf.inventory.discard(Key(f"/{dice.randrange(3)}.tar"))
                shelf.removal.remove(shelf.removal.trashed(Position(), shelf.now))
            case "look":
                look(shelf)
    print("done")


def commit_some(shelf: Shelf, dice: random.Random) -> None:
    """A group of files, some of them twice."""
    jobs, errors = [], []
    for number in range(3):
        body = dice.choice(BODIES)
        part = Part(shelf.root / f"{os.getpid()}-{number}.part", create=True)
        part.put(0, body)
        shelf.blobs.finalize(part)
        digest, key = hashlib.sha256(body).hexdigest(), f"/{dice.randrange(3)}.tar"
        jobs.append(FileJob(NewVersion(Key(key), digest, head(key, 100)), part, errors.append))
    committer = Committer(shelf.registry, shelf.blobs)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(committer.commit, jobs))
    for job in jobs:
        job.part.close()
    assert errors == [None] * 3, errors


def look(shelf: Shelf) -> None:
    """Whoever is READY has its file, at any moment."""
    for entry in list(shelf.inventory.entries("*")):
        try:
            shelf.blobs.open(entry.digest, entry.size).close()
        except StoreError:
            mine = [one for one in shelf.inventory.versions(entry.key) if one.version == entry.version]
            assert not mine or mine[0].status is not Status.READY, f"{entry.key} {entry.version} has no file"


def test_what_took_the_place_of_a_purged_version_stays(shelf: Shelf) -> None:
    shelf.put("/a-1.tar", b"a" * 10)
    shelf.inventory.discard(Key("/a-1.tar"))
    (found,) = shelf.removal.trashed(Position(), time.time())
    shelf.removal.remove([found])
    shelf.put("/b-1.tar", b"b" * 10)
    shelf.inventory.discard(Key("/b-1.tar"))
    (other,) = shelf.removal.trashed(Position(), time.time())
    assert other.id == found.id, "the place of the one is that of the other"
    (fate,) = shelf.removal.remove([found])
    assert fate.entries == 0
    assert shelf.removal.trashed(Position(), time.time()) == [other]
    shelf.check()


def test_no_entry_is_ever_without_its_file_whoever_commits_and_removes_at_once(shelf: Shelf) -> None:
    deeds = ["commit", "commit", "commit", "cull", "trash", "look"]
    processes = [
        subprocess.Popen(as_program(__file__, "hammer", shelf.root, deed, seed), stdout=subprocess.PIPE, text=True)
        for seed, deed in enumerate(deeds)
    ]
    for deed, process in zip(deeds, processes, strict=True):
        assert process.communicate(timeout=90)[0] == "done\n", deed
    shelf.removal.finish()
    look(shelf)
    shelf.check()


# Room for downloads


def room(shelf: Shelf, max_size: int | None = None, min_free: Share | None = None) -> Room:
    culler = shelf.bounded(max_size, min_free)
    return Room(shelf.space, culler)


def granted(answer: Reservation | Refusal) -> Reservation:
    assert isinstance(answer, Reservation), answer
    return answer


def refused(answer: Reservation | Refusal | None) -> Refusal:
    assert isinstance(answer, Refusal)
    return answer


def test_a_file_larger_than_the_cache_never_fits(shelf: Shelf) -> None:
    shelf.put("/a-1.tar", b"a" * 10)
    refusal = refused(room(shelf, 1000).reserve(1001))
    assert "1001" in refusal.reason
    assert "--max-size" in refusal.reason
    assert shelf.ready() == {"/a-1.tar"}, "nothing goes for what cannot fit"
    granted(room(shelf, 1001).reserve(1001))


def test_room_is_made_by_removing_what_was_used_longest_ago(shelf: Shelf) -> None:
    for number in range(10):
        shelf.put(f"/{number}.tar", bytes([number]) * 100, NOW - DAY + number)
    one = room(shelf, 1000)
    granted(one.reserve(150)).release()
    assert shelf.ready() == {f"/{number}.tar" for number in range(2, 10)}
    shelf.check()


def test_where_nothing_may_go_there_is_no_room_now(shelf: Shelf) -> None:
    shelf.put("/a-1.tar", b"a" * 500)
    shelf.put("/b-1.tar", b"b" * 500, NOW)
    shelf.inventory.pin(Key("/a-1.tar"), "somebody")
    refusal = refused(room(shelf, 1000).reserve(1))
    assert "--max-size" in refusal.reason
    assert len(shelf.ready()) == 2


def test_what_running_downloads_reserved_is_not_given_twice(shelf: Shelf) -> None:
    one = room(shelf, 1000)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: one.reserve(100), range(40)))
    held = [answer for answer in answers if isinstance(answer, Reservation)]
    assert len(held) == 10
    held[0].release()
    held[0].release()
    assert shelf.space.usage().stored == 900


def small_files(one: Room, size: int, most: int) -> int:
    """For how many small files there is room, which is taken, at most so many."""
    count = 0
    while count < most and one.reserve_at_once(size):
        count += 1
    return count


def test_small_files_fill_a_cache_to_its_bound_and_not_beyond(shelf: Shelf) -> None:
    one = room(shelf, 1000)
    large = granted(one.reserve(300))
    assert (small_files(one, 100, 40), shelf.space.usage().stored) == (7, 1000)
    one.give_back(100)
    assert small_files(one, 100, 40) == 1
    large.release()
    assert small_files(one, 100, 40) == 3
    one.give_back(600)
    assert shelf.space.usage().stored == 400


def test_small_files_are_counted_where_no_bound_is_near(shelf: Shelf) -> None:
    one = room(shelf, 1 << 40)
    free = shelf.space.usage().free
    count = small_files(one, 1 << 20, 200)
    usage = shelf.space.usage()
    assert (count, usage.stored) == (200, 200 << 20)
    assert usage.free < free - (100 << 20)
    assert not one.reserve_at_once(free + (1 << 40))
    one.give_back(200 << 20)
    assert shelf.space.usage().stored == 0


def test_a_bound_that_comes_near_meanwhile_is_kept(shelf: Shelf) -> None:
    one = room(shelf, 1 << 30)
    count = small_files(one, 1 << 20, 100)
    granted(one.reserve(900 << 20))
    count += small_files(one, 1 << 20, 100)
    assert (count, shelf.space.usage().stored) == (124, 1 << 30)


def test_small_files_wake_the_culler_where_it_would_begin(shelf: Shelf) -> None:
    for number in range(10):
        shelf.put(f"/{number}.tar", bytes([number]) * 1000, NOW - DAY + number)
    one = room(shelf, 10_600)
    small_files(one, 100, 5)
    until(lambda: len(shelf.ready()) < 10)


def test_a_disk_that_is_to_stay_free_has_no_room(shelf: Shelf) -> None:
    free = shelf.space.usage().free
    refusal = refused(room(shelf, min_free=Share(free + (1 << 40))).reserve(1))
    assert "--min-free" in refusal.reason
    refusal = refused(room(shelf).reserve(free + (1 << 40)))
    assert "of the disk are free" in refusal.reason
    granted(room(shelf, min_free=Share(1)).reserve(1))


def test_bytes_that_are_there_already_need_no_free_disk(shelf: Shelf) -> None:
    one = room(shelf)
    free = shelf.space.usage().free
    reservation = granted(one.reserve(free + (1 << 40), have=1 << 41))
    assert shelf.space.usage().free > free - (1 << 30), "all of it is written"
    reservation.release()


def test_a_file_of_unknown_length_gets_room_as_it_grows(shelf: Shelf) -> None:
    one = room(shelf, 1 << 20)
    reservation = granted(one.reserve(None))
    assert 0 < shelf.space.usage().stored <= 1 << 18
    assert reservation.wrote(1 << 19) is None
    assert 1 << 19 <= shelf.space.usage().stored <= 1 << 20
    assert reservation.wrote(1 << 20) is None, "the last step is as small as it must be"
    assert "--max-size" in refused(reservation.wrote((1 << 20) + 1)).reason
    reservation.release()
    assert shelf.space.usage().stored == 0


def test_room_is_made_at_once_for_who_found_the_disk_full(shelf: Shelf) -> None:
    for number in range(4):
        shelf.put(f"/{number}.tar", bytes([number]) * 100, NOW - DAY + number)
    assert shelf.bounded().make_room(150)
    assert shelf.ready() == {"/2.tar", "/3.tar"}
    assert not shelf.bounded().make_room(201)
    assert shelf.ready() == set()
    shelf.check()


def test_a_file_with_a_name_outside_of_the_cache_does_not_go_for_want_of_disk(shelf: Shelf) -> None:
    entry = shelf.put("/linked-1.tar", b"x" * 100, NOW - 2 * DAY)
    shelf.put("/file-1.tar", b"y" * 100)
    (shelf.root / "elsewhere").hardlink_to(shelf.blobs.path(entry.digest))
    assert not shelf.bounded().make_room(150)
    assert shelf.ready() == {"/linked-1.tar"}
    culled(shelf.bounded(max_size=10))
    assert shelf.ready() == set()
    assert (shelf.root / "elsewhere").read_bytes() == b"x" * 100
    shelf.check()


def test_what_a_full_disk_ended_has_files_removed_in_the_background(shelf: Shelf) -> None:
    for number in range(4):
        shelf.put(f"/{number}.tar", bytes([number]) * 100)
    one = room(shelf)
    for code in (errno.EIO, errno.ENOSPC):
        assert len(shelf.ready()) == 4
        try:
            raise StoreError("cannot write") from OSError(code, "no")
        except StoreError as error:
            one.relieve(error)
    until(lambda: not shelf.ready())
    until(lambda: not blobs(shelf.root))


def test_bounds_are_kept_though_nobody_asks_for_anything(shelf: Shelf, origin: Origin, start: Callable[..., Proxy]) -> None:
    for number in range(10):
        shelf.put(f"/{number}.tar", bytes([number]) * 50_000)
    start(origin.url, cache=shelf.root, environment={"PACKAGE_CACHE_MAX_SIZE": "200K"})
    until(lambda: len(blobs(shelf.root)) == 3)


def test_servers_with_other_bounds_for_one_cache_say_whose_hold(
    shelf: Shelf, origin: Origin, start: Callable[..., Proxy]
) -> None:
    def told(proxy: Proxy) -> list[str]:
        return [line for line in proxy.log if "within other bounds: " in line]

    bounds = [{"MAX_SIZE": "200K", "MAX_AGE": "9d"}, {"MAX_SIZE": "100K", "MAX_AGE": "9d"}, {}]
    narrow, narrower, none = (
        start(origin.url, cache=shelf.root, environment={f"PACKAGE_CACHE_{name}": text for name, text in one.items()})
        for one in bounds
    )
    until(lambda: told(narrower) and len(told(none)) == 2)
    assert "max-size is 200K there and 100K here: the smaller one holds\n" in told(narrower)[0]
    assert "max-age is 9 d there and not set here: the shorter one holds" in told(none)[0]
    narrow.stop()
    again = start(origin.url, cache=shelf.root, environment={f"PACKAGE_CACHE_{n}": text for n, text in bounds[1].items()})
    until(lambda: len(list((shelf.root / "bounds-v1").iterdir())) == 1)
    assert told(again) == []


@pytest.mark.parametrize("chunked", [False, True], ids=["of known length", "of unknown length"])
def test_a_file_that_can_never_fit_is_passed_on_and_the_log_says_why_once(
    origin: Origin, start: Callable[..., Proxy], host: str, chunked: bool
) -> None:
    body = random.Random(1).randbytes(1_000_000)
    origin.put("/large-1.tar", body, Serve(chunked=chunked, length=not chunked))
    origin.put("/small-1.tar", b"small")
    proxy = start(origin.url, host=host, environment={"PACKAGE_CACHE_MAX_SIZE": "200K"})
    for _ in range(3):
        answer = proxy.get("/large-1.tar")
        assert (answer.status, answer.whole) == (200, True)
        assert answer.body == body
    assert proxy.get("/small-1.tar").body == b"small"
    until(lambda: [size_of(path) for path in blobs(proxy.cache)] == [5])
    workers = max(1, len(proxy.workers()))
    proxy.stop()
    said = [line for line in proxy.log if "/large-1.tar is passed on without being stored: " in line]
    assert 1 <= len(said) <= workers
    assert all("200K (--max-size)" in line for line in said)


if __name__ == "__main__":
    hammer(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
