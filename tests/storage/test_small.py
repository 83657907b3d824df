"""Bodies of up to 64 KiB are rows of the registry: stored in groups, durable with their names, gone with them."""

import errno
import hashlib
import itertools
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from origin import Origin, until
from product import HOSTS, Proxy, as_file, files, parts, rows, stored, surroundings
from trees import exported

from package_cache import Cache
from package_cache.cli import commands
from package_cache.engine.fills.committer import BYTES, FILES, Job, SmallCommitter
from package_cache.engine.upkeep.verification import Checker, CheckProgress, Scrub, Sweep
from package_cache.errors import DamagedBlob, DamagedRegistry, StoreError
from package_cache.model import Key, Representation
from package_cache.storage.cache_directory import CacheDirectory, open_cache_directory
from package_cache.storage.database.schema import SMALL, Row
from package_cache.storage.parts.leases import PartStore
from package_cache.storage.registry import NewVersion, Totals
from package_cache.storage.removal import Kind, Position, Removal

DAY = 86400.0


def body_of(number: int) -> bytes:
    """A body of any length, the same each time."""
    noise = random.Random(number)
    return noise.randbytes(noise.randrange(SMALL))


def digest_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def news_of(key: str, body: bytes) -> NewVersion:
    head = Representation((("Content-Type", "x/y"),), len(body), f"http://mirror.example{key}", 1.0)
    return NewVersion(Key(key), digest_of(body), head)


@dataclass
class Small:
    """A cache with a committer of small bodies, and what that told."""

    stores: CacheDirectory
    told: list[StoreError | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.committer = SmallCommitter(self.stores.registry)
        self.audit = self.stores.audit
        self.damages = self.stores.damages
        self.removal = Removal(self.stores.registry.database, self.stores.blobs)

    def ended(self, jobs: list[Job], error: StoreError | None) -> None:
        """They were stored, or could not be."""
        self.told += [error] * len(jobs)

    def job(self, name: str, body: bytes, *, patient: bool = False) -> Job:
        """A body that is to be stored under a name."""
        return Job(replace(news_of(f"/{name}", body), body=body), self.ended, patient=patient)

    def put(self, **bodies: bytes) -> None:
        """Store bodies under their names, and wait for them."""
        before = len(self.told)
        for name, body in bodies.items():
            self.committer.commit(self.job(name, body))
        until(lambda: len(self.told) == before + len(bodies), 100)
        assert self.told[before:] == [None] * len(bodies)

    def spoil(self, body: bytes) -> None:
        """Flip a bit of a row."""
        [row] = [one for one in rows(self.stores.root) if one.name == digest_of(body)]
        row.write_bytes(bytes([body[0] ^ 1]) + body[1:])

    def read(self, name: str) -> bytes | None:
        entry = self.stores.registry.best(Key(f"/{name}"))
        if entry is None:
            return None
        with self.stores.blobs.open(entry.digest, entry.size) as file:
            return file.read()

    def check(self) -> list[str]:
        """What fsck finds."""
        progress, stores = CheckProgress(), self.stores
        it = Checker(stores, None, lambda: 0.0)
        it.run(progress, lambda: None)
        # What a hand has taken from the registry makes it differ from its ledger as well.
        return [f"{problem.kind} {problem.name}" for problem in progress.problems if problem.kind != "ledger"]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Small]:
    stores = open_cache_directory(tmp_path / "cache", "")
    yield Small(stores)
    stores.registry.close()


# What is stored


@pytest.mark.parametrize("host", HOSTS)
def test_a_small_file_is_a_row_and_nothing_else_is_left_of_it(
    origin: Origin, start: Callable[..., Proxy], host: str
) -> None:
    bodies = {f"/a-{size}.tar": origin.put(f"/a-{size}.tar", random.Random(size).randbytes(size)) for size in (0, 1, SMALL)}
    large = origin.put("/large-1.tar", bytes(SMALL + 1))
    proxy = start(origin.url, host=host)
    for _ in range(2):
        for path, body in (*bodies.items(), ("/large-1.tar", large)):
            assert proxy.get(path).body == body
    until(lambda: len(stored(proxy.cache)) == 4 and not parts(proxy.cache))
    assert {row.read_bytes() for row in rows(proxy.cache)} == set(bodies.values())
    assert [path.read_bytes() for path in files(proxy.cache)] == [large]
    ledger = (proxy.cache / "ledger-v1").read_bytes()
    assert b"/large-1.tar" in ledger
    assert b"/a-1.tar" not in ledger
    for method, fields, status, body in (
        ("GET", {"Range": "bytes=65530-"}, 206, bodies["/a-65536.tar"][65530:]),
        ("GET", {"Range": "bytes=5-6"}, 206, bodies["/a-65536.tar"][5:7]),
        ("GET", {"Range": "bytes=65536-"}, 416, None),
        ("HEAD", {}, 200, b""),
    ):
        answer = proxy.get("/a-65536.tar", fields, method)
        assert answer.status == status
        assert body in (None, answer.body)
    assert len(origin.requests()) == 4


def test_the_same_bytes_under_two_names_are_one_row(small: Small) -> None:
    small.put(a=b"same", b=b"same", c=b"other")
    assert sorted(row.read_bytes() for row in rows(small.stores.root)) == [b"other", b"same"]
    assert small.stores.registry.totals() == Totals(3, 2, 9)
    assert small.check() == []


def test_bytes_that_come_again_mend_a_row_that_rotted(small: Small) -> None:
    small.put(a=b"same")
    small.spoil(b"same")
    small.put(b=b"same")
    assert (small.read("a"), small.read("b")) == (b"same", b"same")


def test_a_row_and_a_file_of_the_same_bytes_are_one_blob(small: Small) -> None:
    small.put(a=b"same")
    as_file(small.stores.root, b"same")
    small.put(b=b"same")
    assert small.stores.registry.totals() == Totals(2, 1, 4)
    assert small.check() == []
    chosen = small.removal.by_use(Kind.READY, Position())
    assert sum(one.bytes for one in small.removal.remove(chosen)) == 4
    assert (rows(small.stores.root), files(small.stores.root)) == ([], [])


def test_what_comes_faster_than_the_disk_is_all_stored_in_groups_of_bounded_size(small: Small) -> None:
    groups: list[int] = []
    commit = small.stores.registry.commit_all
    small.stores.registry.commit_all = lambda news: groups.append(len(news)) or commit(news)  # type: ignore[method-assign]
    small.put(**{f"s{number}": b"%d" % number for number in range(3 * FILES)})
    assert sum(groups) == 3 * FILES
    assert max(groups) <= FILES
    groups.clear()
    small.put(**{f"l{number}": random.Random(number).randbytes(SMALL) for number in range(3 * BYTES // SMALL)})
    assert max(groups) <= BYTES // SMALL
    assert small.check() == []


def test_a_group_that_nobody_waits_for_may_grow_for_longer_while_many_come(small: Small, tmp_path: Path) -> None:
    commit, entered, go = small.stores.registry.commit_all, threading.Semaphore(0), threading.Semaphore(0)
    theirs, asked, numbers = PartStore(tmp_path / "cache" / "parts-v1"), list[bool](), itertools.count()

    def hold(news: Sequence[NewVersion]) -> list[Row]:
        entered.release()
        assert go.acquire(timeout=20)
        return commit(news)

    def is_awaited() -> bool:
        asked.append(small.stores.parts.is_awaited())
        return asked[-1]

    def put(count: int, *, patient: bool) -> None:
        for number in itertools.islice(numbers, count):
            body = b"%d" % number
            committer.commit(small.job(f"{number}", body, patient=patient))

    def looks(before: int, *, patient: bool = True) -> list[bool]:
        """What was seen of others who wait, for a group behind one of so many."""
        put(1, patient=False)
        assert entered.acquire(timeout=20)
        put(before, patient=False)
        go.release()
        assert entered.acquire(timeout=20)
        asked.clear()
        put(20, patient=patient)
        go.release(2)
        until(lambda: len(small.told) == 21 + before)
        assert entered.acquire(timeout=20)
        small.told.clear()
        return list(asked)

    small.stores.registry.commit_all = hold  # type: ignore[method-assign]
    committer = SmallCommitter(small.stores.registry, is_awaited)
    assert looks(1) == []
    assert looks(20, patient=False) == []
    with closing(small.stores.parts.watch(Key("/of-ours"))):
        assert looks(20)[:3] == [False] * 3
    with closing(theirs.watch(Key("/of-theirs"))):
        assert looks(20) == [True]
    assert looks(20)[:3] == [False] * 3


def test_a_group_is_written_as_its_members_would_be_one_by_one(small: Small) -> None:
    pick, registry = random.Random(3), small.stores.registry
    versions, newest = dict[str, int](), dict[str, bytes]()
    for turn in range(20):
        group = [(f"/{pick.randrange(12)}", pick.choice(b"abc").to_bytes(1)) for _ in range(pick.randrange(1, 150))]
        for key, body in group:
            if newest.get(key) != body:
                versions[key] = versions.get(key, 0) + 1
            newest[key] = body
        registry.commit_all([replace(news_of(key, body), body=body) for key, body in group])
        for key, body in newest.items():
            entry = registry.best_at_once(Key(key))
            assert entry is not None
            assert (entry.version, entry.digest) == (versions[key], digest_of(body))
            assert entry == registry.best(Key(key))
        if turn % 5 == 4:
            small.removal.remove(small.removal.by_use(Kind.READY, Position()))
            newest.clear()
    with closing(sqlite3.connect(small.stores.root / "registry-v1.db")) as connection:
        told = connection.execute("SELECT entries, blobs FROM total").fetchone()
        assert (
            told
            == connection.execute(
                "SELECT (SELECT count(*) FROM entry WHERE status = 3), (SELECT count(*) FROM blob)"
            ).fetchone()
        )


def test_who_waits_is_told_in_groups(small: Small) -> None:
    told: list[list[Job]] = []

    def ended(jobs: list[Job], error: StoreError | None) -> None:
        assert error is None
        told.append(jobs)

    others: list[list[Job]] = []
    for number in range(FILES):
        mine = Job(small.job(f"{number}", b"x").news, lambda jobs, _: others.append(jobs)) if number % 8 == 7 else None
        small.committer.commit(mine or Job(small.job(f"{number}", b"x").news, ended))
    until(lambda: sum(map(len, told + others)) == FILES)
    assert len(told) < FILES / 2
    assert sum(map(len, others)) == FILES / 8
    assert {len(jobs) for jobs in others} == {1}, "each of them has its own"


def test_who_wants_to_know_is_told_that_nothing_could_be_stored(small: Small) -> None:
    def refuse(news: object) -> None:
        raise StoreError("no")

    small.stores.registry.commit_all = refuse  # type: ignore[method-assign,assignment]
    for number in range(3):
        small.committer.commit(small.job(f"{number}", b"x"))
    until(lambda: len(small.told) == 3)
    assert [str(error) for error in small.told] == ["no"] * 3


# What is removed


def test_a_row_goes_with_the_last_name_that_needs_it(small: Small) -> None:
    small.put(a=b"one", b=b"another")
    chosen = small.removal.by_use(Kind.READY, Position())
    assert [one.bytes for one in small.removal.remove([one for one in chosen if one.key == "/a"])] == [3]
    assert [row.read_bytes() for row in rows(small.stores.root)] == [b"another"]
    assert small.stores.registry.totals() == Totals(1, 1, 7)
    assert small.check() == []


def test_removed_rows_make_room_on_the_disk(small: Small) -> None:
    small.put(**{f"b{number}": random.Random(number).randbytes(SMALL) for number in range(640)})
    database = small.stores.root / "registry-v1.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = database.stat().st_size
    while chosen := small.removal.by_use(Kind.READY, Position()):
        small.removal.remove(chosen)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert before > 40 << 20
    assert database.stat().st_size < 20 << 20  # some pages stay for what comes next


def test_what_is_stored_while_it_is_removed_is_there_with_its_bytes(small: Small) -> None:
    """The same few bytes come and go, under different names, and no name is ever without them."""
    wrong: list[str] = []
    done = threading.Event()

    def remove() -> None:
        while not done.is_set():
            small.removal.remove(small.removal.by_use(Kind.READY, Position()))

    remover = threading.Thread(target=remove)
    remover.start()
    try:
        for turn in range(60):
            small.put(**{f"n{turn}-{number}": b"%d" % (number % 3) for number in range(9)})
            with closing(sqlite3.connect(small.stores.root / "registry-v1.db", timeout=30)) as connection:
                wrong += connection.execute(
                    "SELECT key FROM entry WHERE status = 3 AND digest NOT IN (SELECT digest FROM small)"
                )
    finally:
        done.set()
        remover.join()
    assert wrong == []
    assert small.check() == []


# What is damaged


def test_a_damaged_row_is_never_given(small: Small) -> None:
    small.put(a=b"right")
    small.spoil(b"right")
    with pytest.raises(DamagedBlob):
        small.read("a")
    with pytest.raises(DamagedBlob):
        small.stores.blobs.as_file(digest_of(b"right"), 5)
    assert files(small.stores.root) == parts(small.stores.root) == []


def test_the_scrub_takes_a_damaged_row_out_of_service_and_keeps_its_bytes(small: Small) -> None:
    small.put(a=b"right", b=b"sound")
    small.spoil(b"right")
    waited: list[float] = []
    now = [1e9]
    it = Scrub(small.stores, DAY, lambda: now[0])
    it.run(10, waited.append)
    now[0] += 2 * DAY
    it.run(10, waited.append)
    assert len(waited) == 2
    assert (small.read("a"), small.read("b")) == (None, b"sound")
    assert [path.read_bytes() for path in (small.stores.root / "quarantine-v1").iterdir()] == [b"sight"]
    assert [row.read_bytes() for row in rows(small.stores.root)] == [b"sound"]
    assert small.stores.registry.totals() == Totals(1, 1, 5)


def test_fsck_names_a_damaged_row_and_one_that_is_gone(small: Small) -> None:
    small.put(a=b"right", b=b"gone", c=b"sound")
    small.spoil(b"right")
    [lost] = [row for row in rows(small.stores.root) if row.read_bytes() == b"gone"]
    lost.unlink()
    assert sorted(small.check()) == sorted([f"damaged {digest_of(b'right')}", f"missing {digest_of(b'gone')}"])


def test_fsck_fetches_a_damaged_row_again(origin: Origin, start: Callable[..., Proxy]) -> None:
    body = origin.put("/a-1.tar", b"a small body")
    proxy = start(origin.url)
    proxy.get("/a-1.tar")
    until(lambda: stored(proxy.cache) == ["/a-1.tar"])
    proxy.stop()
    [row] = rows(proxy.cache)
    row.write_bytes(b"a small bodY")
    words = ["fsck", "--repair", "--cache", str(proxy.cache), "--source", origin.url]
    assert commands.run(words) == 0
    assert [row.read_bytes() for row in rows(proxy.cache)] == [body]
    assert (files(proxy.cache), stored(proxy.cache)) == ([], ["/a-1.tar"])
    assert start(origin.url).get("/a-1.tar").cache_status == "package-cache; hit"


def test_a_row_that_nobody_needs_is_swept_away(small: Small) -> None:
    small.put(a=b"needed")
    with closing(sqlite3.connect(small.stores.root / "registry-v1.db")) as connection, connection:
        connection.execute("INSERT INTO small VALUES (?, ?)", (digest_of(b"stray"), b"stray"))
    assert small.check() == [f"stray {digest_of(b'stray')}"]
    Sweep(small.stores).run(lambda: None)
    assert small.check() == []
    assert [row.read_bytes() for row in rows(small.stores.root)] == [b"needed"]


# Where somebody needs a path


def test_an_exported_link_of_a_small_file_is_a_file_of_the_cache_from_then_on(
    origin: Origin, start: Callable[..., Proxy], tmp_path: Path
) -> None:
    body = origin.put("/pool/a-1.0.tar", b"a small body")
    proxy = start(origin.url)
    proxy.get("/pool/a-1.0.tar")
    until(lambda: stored(proxy.cache) == ["/pool/a-1.0.tar"])
    for _ in range(2):
        exported(proxy.cache, tmp_path / "tree", "--link")
        tree = tmp_path / "tree" / "pool" / "a-1.0.tar"
        [blob] = files(proxy.cache)
        assert blob.samefile(tree)
        assert (blob.read_bytes(), blob.stat().st_mode & 0o777, rows(proxy.cache)) == (body, 0o444, [])
    assert proxy.get("/pool/a-1.0.tar").cache_status == "package-cache; hit"
    proxy.stop()
    assert commands.run(["fsck", "--cache", str(proxy.cache)]) == 0
    (proxy.cache / "registry-v1.db").unlink()  # the ledger knows it, as it does every file
    assert start(origin.url).get("/pool/a-1.0.tar").cache_status == "package-cache; hit"


def test_a_copy_is_exported_without_a_file_in_the_cache(small: Small, tmp_path: Path) -> None:
    small.put(**{"a-1.0.tar": b"body"})
    exported(small.stores.root, tmp_path / "tree", "--copy")
    assert (tmp_path / "tree" / "a-1.0.tar").read_bytes() == b"body"
    assert files(small.stores.root) == []


def test_an_item_of_the_same_bytes_has_a_path_and_both_go_their_own_ways(small: Small) -> None:
    small.put(a=b"body")
    with Cache(small.stores.root) as cache:
        item = cache.create("http://mirror.example/item")
        Path(item.path).write_bytes(b"body")
        item.ready()
        assert (Path(item.path).read_bytes(), rows(small.stores.root)) == (b"body", [])
        assert small.read("a") == b"body"
        small.put(b=b"body")
        files(small.stores.root)[0].unlink()  # the row has the bytes all the same
        assert item.open(large=False, default_mode="rb").result == b"body"
        assert (Path(item.path).read_bytes(), rows(small.stores.root)) == (b"body", [])
    assert small.check() == []


def test_a_row_that_becomes_a_file_stays_the_same_blob(small: Small) -> None:
    small.put(a=b"body", b=b"body")
    path = small.stores.blobs.as_file(digest_of(b"body"), 4)
    assert (path.read_bytes(), rows(small.stores.root), parts(small.stores.root)) == (b"body", [], [])
    assert small.stores.registry.totals() == Totals(2, 1, 4)
    assert (small.read("a"), small.check()) == (b"body", [])


# A registry of the former version, and one that is made again


def test_a_registry_of_the_former_version_is_used_as_it_is(small: Small) -> None:
    root = small.stores.root
    small.put(a=b"body")
    as_file(root, b"body")
    with closing(sqlite3.connect(root / "registry-v1.db")) as connection:
        connection.executescript(
            "DROP TRIGGER small_gone; DROP TABLE small; PRAGMA auto_vacuum = NONE; VACUUM;"
            "CREATE INDEX entry_ready ON entry (key, version) WHERE status = 3;"
        )
    number = (root / "registry-v1.db").stat().st_ino
    again = Small(open_cache_directory(root, ""))
    try:
        assert again.read("a") == b"body"
        again.put(b=b"another")
        assert again.read("b") == b"another"
        assert ([path.read_bytes() for path in files(root)], again.check()) == ([b"body"], [])
        assert (root / "registry-v1.db").stat().st_ino == number
        with closing(sqlite3.connect(root / "registry-v1.db")) as connection:
            assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)
            assert not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'entry_ready'").fetchall()
        assert not list(root.glob("*.damaged-*"))
    finally:
        again.stores.registry.close()


@pytest.mark.parametrize("spoiled", [1, 3])
def test_small_bodies_are_taken_over_from_a_damaged_registry_as_far_as_they_can_be_read(small: Small, spoiled: int) -> None:
    root, bodies = small.stores.root, {f"n{number}": body_of(number) for number in range(300)}
    small.put(**bodies)
    large = {f"n{number}" for number in range(300) if len(bodies[f"n{number}"]) > 20_000}
    small.stores.registry.close()
    database = root / "registry-v1.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(database.read_bytes())
    hit = random.Random(spoiled).sample(sorted(large), spoiled)
    for name in hit:  # in the middle of a body, and the page that says where it goes on
        at = data.index(bodies[name][10_000:10_100])
        at -= at % 4096
        data[at : at + 4096] = b"\xff" * 4096
    database.write_bytes(data)
    again = Small(open_cache_directory(root, ""))
    try:
        kept = 0
        for name, body in bodies.items():
            try:
                got = again.read(name)
            except DamagedBlob:
                got = None
            assert got in (None, body)
            kept += got is not None
        again.stores.registry.database.repair(DamagedRegistry("it is to be", again.stores.registry.database.file()))
        assert sum(again.read(name) == body for name, body in bodies.items()) >= 300 - spoiled
        assert kept <= 300
        assert not [problem for problem in again.check() if not problem.startswith("lost ")]
    finally:
        again.stores.registry.close()


# Death and power cuts

_STORE = """\
import hashlib, os, random, sys, threading
from functools import partial
from pathlib import Path
from package_cache.engine.fills.committer import Committer, FileJob, Job, SmallCommitter
from package_cache.model import Key, Representation
from package_cache.storage.parts.part import Part
from package_cache.storage.registry import NewVersion
from package_cache.storage.cache_directory import open_cache_directory

root, seed = Path(sys.argv[1]), int(sys.argv[2])
stores = open_cache_directory(root, "")
noise, rows, files = random.Random(seed), SmallCommitter(stores.registry), Committer(stores.registry, stores.blobs)
room = threading.Semaphore(100)

def ended(key, digest, error):
    room.release()
    os.write(1, f"{key} {digest} {error}\\n".encode())

for number in range(10**9):
    large = number % 50 == 49
    body = noise.randbytes(70_000 if large else noise.randrange(5000))
    key, digest = f"/{seed}/{number % 500}", hashlib.sha256(body).hexdigest()
    news = NewVersion(Key(key), digest, Representation((), len(body), "http://mirror.example/", 1.0))
    room.acquire()
    if large:
        part = Part(root / "parts-v1" / f"{seed}-{number}.part", create=True)
        part.put(0, body)
        stores.blobs.finalize(part)
        files.commit(FileJob(news, part, partial(ended, key, digest)))
        part.close()
    else:
        news = NewVersion(news.key, digest, news.representation, None, body)
        rows.commit(Job(news, lambda jobs, error, key=key, digest=digest: ended(key, digest, error)))
"""


def store_and_die(root: Path, seed: int, pick: random.Random) -> dict[str, str]:
    """Store until a kill at some moment; what was told to be stored last, by name."""
    command = [sys.executable, "-c", _STORE, str(root), str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=surroundings(), text=True) as process:
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(pick.randrange(1, 400))]
        process.send_signal(signal.SIGKILL)
        told += [line for line in process.stdout if line.endswith("\n")]
    assert all(line.endswith(" None\n") for line in told), told
    return {key: digest for key, digest, _ in map(str.split, told)}


def assert_all_there(root: Path, told: dict[str, str]) -> None:
    """Each name that was told to be stored has those bytes or later ones, and every name has its bytes."""
    with closing(sqlite3.connect(root / "registry-v1.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        bodies = dict(connection.execute("SELECT digest, body FROM small"))
        sizes = dict(connection.execute("SELECT digest, size FROM blob"))
        entries = connection.execute("SELECT key, digest FROM entry WHERE status = 3").fetchall()
        totals = connection.execute("SELECT entries, blobs, bytes FROM total").fetchone()
    bodies |= {path.name: path.read_bytes() for path in files(root) if path.name in sizes}
    assert {digest: len(body) for digest, body in bodies.items()} == sizes
    assert all(digest_of(body) == digest for digest, body in bodies.items())
    assert totals == (len(entries), len(sizes), sum(sizes.values()))
    assert {digest for _, digest in entries} <= set(bodies)
    assert set(told.items()) <= set(entries)


def test_a_kill_at_any_moment_leaves_no_name_without_its_bytes_and_loses_nothing_that_was_told(tmp_path: Path) -> None:
    pick, told = random.Random(7), dict[str, str]()
    for seed in range(6):
        told |= store_and_die(tmp_path / "cache", seed, pick)
        assert_all_there(tmp_path / "cache", told)


@pytest.fixture
def image(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A disk in a file, and where it is mounted."""
    disk, place = tmp_path / "disk", tmp_path / "mounted"
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    place.mkdir()
    for command in (["mkfs.ext4", "-q", "-F", disk], ["mount", "-o", "loop", disk, place]):
        if shutil.which(command[0]) is None or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip(f"{command[0]} does not work here: as root, with e2fsprogs, it makes a disk that loses its power")
    yield disk, place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_a_disk_that_is_full_is_told_as_such_and_is_no_trouble_when_there_is_room_again(image: tuple[Path, Path]) -> None:
    stores = open_cache_directory(image[1] / "cache", "")
    small = Small(stores)
    small.put(a=b"there")
    with (image[1] / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while filler.write(bytes(1 << 20)):
            pass
    for number in range(200):
        body = random.Random(number).randbytes(SMALL)
        small.committer.commit(small.job(f"{number}", body))
    until(lambda: len(small.told) == 201)
    refused = [error for error in small.told if error is not None]
    assert refused
    assert {getattr(error.__cause__, "errno", None) for error in refused} == {errno.ENOSPC}
    (image[1] / "filler").unlink()
    small.put(b=b"there again")
    assert (small.read("a"), small.read("b"), small.check()) == (b"there", b"there again", [])
    stores.registry.close()


@contextmanager
def after_a_power_cut(image: tuple[Path, Path], folder: Path) -> Iterator[Path]:
    """The disk as it is while the file system is in use: it has what was synced, and not what is in memory."""
    copy, later = folder / "copy", folder / "later"
    later.mkdir()
    shutil.copyfile(image[0], copy)
    subprocess.run(["mount", "-o", "loop", copy, later], check=True)
    try:
        yield later
    finally:
        subprocess.run(["umount", "--lazy", later], check=True)


def test_what_was_told_to_be_stored_survives_a_power_cut(image: tuple[Path, Path], tmp_path: Path) -> None:
    pick, place = random.Random(9), image[1]
    told = store_and_die(place / "cache", 1, pick) | store_and_die(place / "cache", 2, pick)
    with after_a_power_cut(image, tmp_path) as later:
        assert_all_there(later / "cache", told)


def test_what_anybody_finds_stored_survives_a_power_cut_while_clients_ask(
    image: tuple[Path, Path], origin: Origin, start: Callable[..., Proxy], tmp_path: Path
) -> None:
    cache = image[1] / "cache"
    bodies = {path: origin.put(path, path.encode() * 300) for path in (f"/a-1.{number}.tar" for number in range(600))}
    proxy = start(origin.url, cache=cache)

    def found() -> dict[str, str]:
        with closing(sqlite3.connect(cache / "registry-v1.db", timeout=30)) as connection:
            return dict(connection.execute("SELECT key, digest FROM entry WHERE status = 3"))

    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(proxy.get, bodies)
        until(lambda: len(found()) > 100)
        there = found()
        proxy.process.send_signal(signal.SIGSTOP)
        try:
            with after_a_power_cut(image, tmp_path) as later:
                assert_all_there(later / "cache", there)
        finally:
            proxy.process.send_signal(signal.SIGCONT)
        assert [answer.body for answer in answers] == list(bodies.values())
