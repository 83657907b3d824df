"""Bodies of up to 64 KiB are rows of the registry: stored in groups, durable with their names, gone with them."""

import errno
import hashlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from origin import Origin, until
from product import HOSTS, Proxy, as_file, files, parts, rows, stored, surroundings
from test_exporting import exported

from package_cache import Cache
from package_cache.cli import commands
from package_cache.engine.fills.small import BYTES, FILES, SmallCommitter
from package_cache.engine.upkeep.check import Checker, Progress
from package_cache.engine.upkeep.damage import Damages
from package_cache.engine.upkeep.scrub import Scrub
from package_cache.engine.upkeep.sweep import Sweep
from package_cache.errors import DamagedBlob, DamagedRegistry, StoreError
from package_cache.model import Key, Representation
from package_cache.storage.audit import Audit
from package_cache.storage.blobs import SMALL
from package_cache.storage.registry import News, Totals
from package_cache.storage.removal import Kind, Place, Removal
from package_cache.storage.stores import Stores, open_stores

DAY = 86400.0


def body_of(number: int) -> bytes:
    """A body of any length, the same each time."""
    noise = random.Random(number)
    return noise.randbytes(noise.randrange(SMALL))


def digest_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def news_of(key: str, body: bytes) -> News:
    head = Representation((("Content-Type", "x/y"),), len(body), f"http://mirror.example{key}", 1.0)
    return News(Key(key), digest_of(body), head)


@dataclass
class Small:
    """A cache with a committer of small bodies, and what that told."""

    stores: Stores
    told: list[StoreError | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.committer = SmallCommitter(self.stores.registry)
        self.audit = Audit(self.stores.registry.database)
        self.damages = Damages(self.stores.registry, self.audit, self.stores.blobs, self.stores.quarantine)
        self.removal = Removal(self.stores.registry.database, self.stores.blobs)

    def put(self, **bodies: bytes) -> None:
        """Store bodies under their names, and wait for them."""
        before = len(self.told)
        for name, body in bodies.items():
            self.committer.commit(news_of(f"/{name}", body), body, self.told.append)
        until(lambda: len(self.told) == before + len(bodies))
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
        progress, stores = Progress(), self.stores
        it = Checker(stores.root, stores.registry.database, stores.blobs, self.damages, None, lambda: 0.0)
        it.run(progress, lambda: None)
        # What a hand has taken from the registry makes it differ from its ledger as well.
        return [f"{problem.kind} {problem.name}" for problem in progress.problems if problem.kind != "ledger"]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Small]:
    stores = open_stores(tmp_path / "cache", "")
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
    chosen = small.removal.by_use(Kind.READY, Place())
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


def test_who_wants_to_know_is_told_that_nothing_could_be_stored(small: Small) -> None:
    def refuse(news: object) -> None:
        raise StoreError("no")

    small.stores.registry.commit_all = refuse  # type: ignore[method-assign,assignment]
    for number in range(3):
        small.committer.commit(news_of(f"/{number}", b"x"), b"x", small.told.append)
    until(lambda: len(small.told) == 3)
    assert [str(error) for error in small.told] == ["no"] * 3


# What is removed


def test_a_row_goes_with_the_last_name_that_needs_it(small: Small) -> None:
    small.put(a=b"one", b=b"another")
    chosen = small.removal.by_use(Kind.READY, Place())
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
    while chosen := small.removal.by_use(Kind.READY, Place()):
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
            small.removal.remove(small.removal.by_use(Kind.READY, Place()))

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
    it = Scrub(small.stores.root, small.audit, small.stores.blobs, small.damages, DAY, lambda: now[0])
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
    stores = small.stores
    Sweep(stores.root, stores.registry.database, stores.blobs, small.damages, stores.quarantine).run(lambda: None)
    assert small.check() == []
    assert [row.read_bytes() for row in rows(stores.root)] == [b"needed"]


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
        connection.executescript("DROP TRIGGER small_gone; DROP TABLE small; PRAGMA auto_vacuum = NONE; VACUUM;")
    number = (root / "registry-v1.db").stat().st_ino
    again = Small(open_stores(root, ""))
    try:
        assert again.read("a") == b"body"
        again.put(b=b"another")
        assert again.read("b") == b"another"
        assert ([path.read_bytes() for path in files(root)], again.check()) == ([b"body"], [])
        assert (root / "registry-v1.db").stat().st_ino == number
        with closing(sqlite3.connect(root / "registry-v1.db")) as connection:
            assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)
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
    again = Small(open_stores(root, ""))
    try:
        kept = 0
        for name, body in bodies.items():
            try:
                got = again.read(name)
            except DamagedBlob:
                got = None
            assert got in (None, body)
            kept += got is not None
        again.stores.registry.database.mend(DamagedRegistry("it is to be", again.stores.registry.database.file()))
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
from package_cache.engine.fills.committer import Committer, Job
from package_cache.engine.fills.small import SmallCommitter
from package_cache.model import Key, Representation
from package_cache.storage.parts.part import Part
from package_cache.storage.registry import News
from package_cache.storage.stores import open_stores

root, seed = Path(sys.argv[1]), int(sys.argv[2])
stores = open_stores(root, "")
noise, rows, files = random.Random(seed), SmallCommitter(stores.registry), Committer(stores.registry, stores.blobs)
room = threading.Semaphore(100)

def ended(key, digest, error):
    room.release()
    os.write(1, f"{key} {digest} {error}\\n".encode())

for number in range(10**9):
    large = number % 50 == 49
    body = noise.randbytes(70_000 if large else noise.randrange(5000))
    key, digest = f"/{seed}/{number % 500}", hashlib.sha256(body).hexdigest()
    news = News(Key(key), digest, Representation((), len(body), "http://mirror.example/", 1.0))
    room.acquire()
    if large:
        part = Part(root / "parts-v1" / f"{seed}-{number}.part", create=True)
        part.put(0, body)
        stores.blobs.seal(part)
        files.commit(Job(news, part, partial(ended, key, digest)))
        part.close()
    else:
        rows.commit(news, body, partial(ended, key, digest))
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
    stores = open_stores(image[1] / "cache", "")
    small = Small(stores)
    small.put(a=b"there")
    with (image[1] / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while filler.write(bytes(1 << 20)):
            pass
    for number in range(200):
        body = random.Random(number).randbytes(SMALL)
        small.committer.commit(news_of(f"/{number}", body), body, small.told.append)
    until(lambda: len(small.told) == 201)
    refused = [error for error in small.told if error is not None]
    assert refused
    assert {getattr(error.__cause__, "errno", None) for error in refused} == {errno.ENOSPC}
    (image[1] / "filler").unlink()
    small.put(b=b"there again")
    assert (small.read("a"), small.read("b"), small.check()) == (b"there", b"there again", [])
    stores.registry.close()


def test_what_was_told_to_be_stored_survives_a_power_cut(image: tuple[Path, Path], tmp_path: Path) -> None:
    """The disk is copied as it is while the file system is in use: it has what was synced, and not what is in memory."""
    disk, place = image
    pick = random.Random(9)
    told = store_and_die(place / "cache", 1, pick) | store_and_die(place / "cache", 2, pick)
    later = tmp_path / "later"
    later.mkdir()
    shutil.copyfile(disk, tmp_path / "copy")
    subprocess.run(["mount", "-o", "loop", tmp_path / "copy", later], check=True)
    try:
        assert_all_there(later / "cache", told)
    finally:
        subprocess.run(["umount", "--lazy", later], check=True)
    assert os.path.ismount(place)
