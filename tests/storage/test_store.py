"""The store by itself: blobs, parts with their leases and journals, and the registry, also between processes.

Run as a program, this file is the other process: `python test_store.py DEED DIRECTORY ...`.
"""

import hashlib
import json
import math
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from origin import Origin, Say, until
from product import Proxy, as_file, as_program, blobs, open_files, parts, stored

from package_cache.errors import DamagedBlob, StoreError
from package_cache.model import Key, Representation
from package_cache.storage.blobs import STAMP_NS, BlobStore
from package_cache.storage.database.schema import dump_representation, load_representation
from package_cache.storage.parts.leases import Failed, Journal, Lease, PartStore, Watch
from package_cache.storage.parts.part import Part
from package_cache.storage.registry import Registry, Totals

KEY = Key("/a-1.tar")
BODY = random.Random(1).randbytes(100_000)
DIGEST = hashlib.sha256(BODY).hexdigest()


def head(size: int | None = len(BODY), **fields: str) -> Representation:
    return Representation(tuple(fields.items()), size, "http://mirror.example/a-1.tar", 1.0)


@contextmanager
def other_process(*words: object) -> Iterator["subprocess.Popen[str]"]:
    """A process that runs this file."""
    command = as_program(__file__, *words)
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def say(text: str) -> None:
    print(text, flush=True)


def heard(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# Blobs


def take_over(watch: Watch) -> Lease | None:
    return watch.succeed() if watch.seize() else None


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs-v1")


def adopt(store: BlobStore, tmp_path: Path, body: bytes = BODY) -> Path:
    """The path of a blob made of `body`."""
    digest = hashlib.sha256(body).hexdigest()
    part = Part(tmp_path / "a.part", create=True)
    assert part.put(0, body)
    store.finalize(part)
    store.settle([store.publish(part, digest)])
    part.close()
    return store.path(digest)


@pytest.mark.parametrize("stored", ["nothing", "the same", "other bytes", "half of it"])
def test_a_file_becomes_a_blob_that_keeps_its_name_and_heals_one_that_rotted(
    store: BlobStore, tmp_path: Path, stored: str
) -> None:
    if stored != "nothing":
        path = adopt(store, tmp_path)
        path.chmod(0o644)
        path.write_bytes({"the same": BODY, "other bytes": bytes(len(BODY)), "half of it": BODY[: len(BODY) // 2]}[stored])
    own = tmp_path / "own"
    own.write_bytes(BODY)
    with own.open("rb+", buffering=0) as file:
        store.finalize(file)
    store.settle([store.adopt(str(own), DIGEST, len(BODY))])
    assert own.read_bytes() == store.path(DIGEST).read_bytes() == BODY
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == sorted([DIGEST, "own"])


def test_a_part_becomes_a_sealed_blob_and_its_name_is_gone(store: BlobStore, tmp_path: Path) -> None:
    path = adopt(store, tmp_path)
    assert path.relative_to(tmp_path) == Path("blobs-v1") / DIGEST[:2] / DIGEST
    assert path.read_bytes() == BODY
    assert path.stat().st_mode & 0o777 == 0o444
    assert path.stat().st_mtime_ns == store.stamp_ns
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]
    with store.open(DIGEST, len(BODY)) as file:
        assert file.read() == BODY


def test_readers_of_a_part_read_on_when_it_becomes_a_blob(store: BlobStore, tmp_path: Path) -> None:
    part = Part(tmp_path / "a.part", create=True)
    part.put(0, BODY)
    reader = os.open(part.path, os.O_RDONLY)
    store.finalize(part)
    store.publish(part, DIGEST)
    part.close()
    assert os.pread(reader, len(BODY), 0) == BODY
    os.close(reader)


def test_another_file_that_has_the_name_of_a_part_by_now_does_not_become_its_blob(store: BlobStore, tmp_path: Path) -> None:
    part = Part(tmp_path / "a.part", create=True)
    part.put(0, BODY)
    store.finalize(part)
    part.path.unlink()
    part.path.write_bytes(b"of somebody else")
    with pytest.raises(StoreError, match="another file"):
        store.publish(part, DIGEST)
    part.close()
    assert not store.has(DIGEST)
    assert (tmp_path / "a.part").read_bytes() == b"of somebody else"


def test_each_of_many_connections_keeps_few_pages_in_memory(tmp_path: Path) -> None:
    with closing(Registry(tmp_path / "registry-v1.db")) as registry, registry.database.lent() as connection:
        (kibibytes,) = connection.execute("PRAGMA cache_size").fetchone()
        assert -512 <= kibibytes < 0


def test_a_touched_blob_is_read_through_once_and_sealed_again(store: BlobStore, tmp_path: Path) -> None:
    path = adopt(store, tmp_path)
    os.utime(path)
    store.open(DIGEST, len(BODY)).close()
    assert path.stat().st_mtime_ns == store.stamp_ns


def change_a_byte(path: Path) -> None:
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(50_000)
        file.write(bytes([BODY[50_000] ^ 1]))


def shorten(path: Path, size: int = 99_999) -> None:
    path.chmod(0o600)
    os.truncate(path, size)


def shorten_in_secret(path: Path) -> None:
    shorten(path)
    os.utime(path, ns=(STAMP_NS, STAMP_NS))


def lengthen(path: Path) -> None:
    path.chmod(0o600)
    with path.open("ab") as file:
        file.write(b"x")


def empty(path: Path) -> None:
    shorten(path, 0)


DAMAGES = [change_a_byte, shorten, shorten_in_secret, lengthen, empty, Path.unlink]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda one: one.__name__)
def test_a_damaged_blob_is_not_opened(store: BlobStore, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    damage(adopt(store, tmp_path))
    for _ in range(2):
        with pytest.raises(DamagedBlob):
            store.open(DIGEST, len(BODY))


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda one: one.__name__)
def test_adopting_the_same_bytes_mends_a_damaged_blob(
    store: BlobStore, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    damage(adopt(store, tmp_path))
    adopt(store, tmp_path)
    with store.open(DIGEST, len(BODY)) as file:
        assert file.read() == BODY


def test_a_removed_blob_can_be_removed_again(store: BlobStore, tmp_path: Path) -> None:
    path = adopt(store, tmp_path)
    reader = store.open(DIGEST, len(BODY))
    for _ in range(2):
        store.remove(DIGEST)
    assert not path.exists()
    assert reader.read() == BODY
    reader.close()


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda one: one.__name__)
def test_a_damaged_file_is_fetched_again_and_served_right(
    origin: Origin, start: Callable[..., Proxy], damage: Callable[[Path], None]
) -> None:
    for path in ("/a-1.tar", "/copy/a-1.tar"):
        origin.put(path, BODY)
    proxy = start(origin.url)
    for path in ("/a-1.tar", "/copy/a-1.tar"):
        assert proxy.get(path).body == BODY
    until(lambda: not parts(proxy.cache))
    [blob] = blobs(proxy.cache)
    damage(blob)
    answer = proxy.get("/a-1.tar", {"Range": "bytes=10-19"})
    assert (answer.status, answer.body) == (206, BODY[10:20])
    assert "fwd=uri-miss" in answer.cache_status
    for path in ("/copy/a-1.tar", "/a-1.tar"):
        answer = proxy.get(path)
        assert (answer.status, answer.whole, answer.body) == (200, True, BODY)
    until(lambda: not parts(proxy.cache))
    assert [blob.read_bytes() for blob in blobs(proxy.cache)] == [BODY]
    assert any("is fetched again" in line for line in proxy.log)
    assert len(origin.requests("/a-1.tar")) == 2


def test_a_damaged_file_is_never_served_though_no_source_has_it(origin: Origin, start: Callable[..., Proxy]) -> None:
    origin.put("/a-1.tar", BODY)
    proxy = start(origin.url)
    proxy.get("/a-1.tar")
    until(lambda: not parts(proxy.cache))
    [blob] = blobs(proxy.cache)
    change_a_byte(blob)
    origin.script("/a-1.tar", Say(503))
    assert proxy.get("/a-1.tar").status == 503
    origin.put("/a-1.tar", b"a new one")
    assert proxy.get("/a-1.tar").body == b"a new one"
    until(lambda: [blob.read_bytes() for blob in blobs(proxy.cache)] == [b"a new one"])


_BAD_SECTOR = """\
import errno, os
pread = os.pread
def read(descriptor, size, at):
    if "/blobs-v1/" in os.readlink(f"/proc/self/fd/{descriptor}"):
        os.pread = pread
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    return pread(descriptor, size, at)
os.pread = read
"""


def test_a_file_that_the_disk_cannot_read_is_fetched_again(
    origin: Origin, start: Callable[..., Proxy], tmp_path: Path
) -> None:
    body = origin.put("/a-1.tar", BODY[:5000])
    proxy = start(origin.url)
    proxy.get("/a-1.tar")
    until(lambda: stored(proxy.cache) == ["/a-1.tar"])
    proxy.stop()
    as_file(proxy.cache, body)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(_BAD_SECTOR)
    proxy = start(origin.url, environment={"PYTHONPATH": str(tmp_path / "site")})
    assert [proxy.get("/a-1.tar").body for _ in range(2)] == [body, body]
    until(lambda: any("is fetched again" in line for line in proxy.log))
    assert len(origin.requests("/a-1.tar")) == 2


_BAD_SECTOR_LATE = """\
import errno, os
sendfile = os.sendfile
def send(out, source, at, size):
    if at >= 1 << 20 and os.fstat(source).st_ino == INODE:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    return sendfile(out, source, at, min(size, 1 << 18))
os.sendfile = send
"""


@pytest.mark.parametrize("host", ["wsgiref", "gunicorn"])
def test_a_file_that_the_disk_cannot_read_to_its_end_cuts_nobody_twice(
    origin: Origin, start: Callable[..., Proxy], tmp_path: Path, host: str
) -> None:
    body = origin.put("/a-1.tar", BODY * (1 + (4 << 20) // len(BODY)))
    proxy = start(origin.url)
    proxy.get("/a-1.tar")
    until(lambda: not parts(proxy.cache))
    proxy.stop()
    [blob] = blobs(proxy.cache)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(_BAD_SECTOR_LATE.replace("INODE", str(blob.stat().st_ino)))
    proxy = start(origin.url, host=host, environment={"PYTHONPATH": str(tmp_path / "site")})
    cut = proxy.get("/a-1.tar")
    assert not cut.whole
    assert body.startswith(cut.body)
    until(lambda: any("is fetched again" in line for line in proxy.log))
    again = proxy.get("/a-1.tar")
    assert again.whole
    assert again.body == body
    assert len(origin.requests("/a-1.tar")) == 2


def test_a_damaged_index_is_fetched_again_though_its_source_says_it_did_not_change(
    origin: Origin, start: Callable[..., Proxy]
) -> None:
    origin.put("/layout.conf", BODY)
    proxy = start(origin.url)
    proxy.get("/layout.conf")
    until(lambda: not parts(proxy.cache))
    [blob] = blobs(proxy.cache)
    change_a_byte(blob)
    assert proxy.get("/layout.conf").body == BODY
    assert proxy.get("/layout.conf").body == BODY


# Parts


@pytest.fixture
def shelf(tmp_path: Path) -> PartStore:
    return PartStore(tmp_path / "parts-v1")


def files(shelf_path: Path) -> list[str]:
    return sorted(path.suffix for path in shelf_path.iterdir())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    body=st.binary(max_size=300),
    puts=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 200), st.booleans()), max_size=12),
)
def test_a_part_compares_what_it_has_and_appends_the_rest(
    tmp_path: Path, body: bytes, puts: list[tuple[float, int, bool]]
) -> None:
    part = Part(tmp_path / "a.part", create=True)
    size = 0
    for place, length, wrong in puts:
        at = int(place * size)
        data = body[at : at + length]
        common = min(len(data), size - at)
        if wrong and common:
            assert not part.put(at, bytes([data[0] ^ 1]) + data[1:])
        else:
            assert part.put(at, data)
            size = max(size, at + len(data))
        assert part.size == size
        assert part.path.read_bytes() == body[:size]
    part.close()


def test_a_lease_is_for_one(shelf: PartStore, tmp_path: Path) -> None:
    lease = shelf.claim(KEY)
    assert lease is not None
    assert shelf.claim(KEY) is None
    with other_process("claim", tmp_path) as other:
        assert heard(other) == "None"
    elsewhere = shelf.claim(Key("/b.tar"))
    assert elsewhere is not None
    elsewhere.done()
    lease.done()
    assert not files(tmp_path / "parts-v1")
    with other_process("claim", tmp_path) as other:
        assert heard(other) == "0"
        assert shelf.claim(KEY) is None


def test_a_lease_ends_with_its_process_and_what_it_wrote_stays(shelf: PartStore, tmp_path: Path) -> None:
    with other_process("claim", tmp_path, "fill") as other:
        assert heard(other) == "0"
        watch = shelf.watch(KEY)
        assert watch.refresh().head == head()
        assert take_over(watch) is None
        other.send_signal(signal.SIGKILL)
        other.wait()
        lease = take_over(watch)
    assert lease is not None
    assert lease.have == 50_000
    assert lease.journal.head == head()
    assert not lease.journal.confirmed
    assert shelf.claim(KEY) is None
    lease.done()
    watch.close()


def test_of_many_who_wait_for_a_dead_leader_one_takes_over(shelf: PartStore, tmp_path: Path) -> None:
    with other_process("claim", tmp_path, "fill") as other:
        heard(other)
        watches = [shelf.watch(KEY) for _ in range(8)]
        for watch in watches:
            assert watch.refresh().head == head()
        other.send_signal(signal.SIGKILL)
        other.wait()
    with ThreadPoolExecutor(8) as pool:
        leases = [lease for lease in pool.map(take_over, watches) if lease]
    assert len(leases) == 1
    leases[0].done()
    for watch in watches:
        assert take_over(watch) is None
        watch.close()


def test_a_lease_that_was_taken_over_ends_though_its_watch_lives(shelf: PartStore, tmp_path: Path) -> None:
    with other_process("claim", tmp_path, "fill") as other:
        heard(other)
        watch = shelf.watch(KEY)
        watch.refresh()
        other.send_signal(signal.SIGKILL)
        other.wait()
    lease = take_over(watch)
    assert lease is not None
    lease.begin(head())
    lease.failed(Failed(502, "broke off"), keep=True)
    following = shelf.claim(KEY)
    assert following is not None
    assert following.have == 50_000
    following.done()
    watch.close()


def test_a_fill_whose_files_were_removed_is_not_taken_over(shelf: PartStore, tmp_path: Path) -> None:
    with other_process("claim", tmp_path, "fill") as other:
        heard(other)
        watch = shelf.watch(KEY)
        watch.refresh()
        other.send_signal(signal.SIGKILL)
        other.wait()
    for path in (tmp_path / "parts-v1").iterdir():
        path.unlink()
    with pytest.raises(StoreError):
        take_over(watch)
    lease = shelf.claim(KEY)
    assert lease is not None
    assert lease.have == 0
    lease.done()
    watch.close()


def test_one_at_a_time_holds_a_lease_however_many_processes_come_and_go(tmp_path: Path) -> None:
    """Each holder removes the journal at its end, while others have opened it and wait for the lock."""
    (tmp_path / "parts-v1").mkdir()
    children = [subprocess.Popen(as_program(__file__, "contend", tmp_path, 150)) for _ in range(4)]
    assert [child.wait(100) for child in children] == [0] * 4


def test_what_a_failed_fill_has_is_kept_or_removed_as_told(shelf: PartStore, tmp_path: Path) -> None:
    lease = shelf.claim(KEY)
    assert lease is not None
    lease.begin(head())
    assert lease.part is not None
    lease.part.put(0, BODY[:50_000])
    for keep in (True, True, False):
        lease.failed(Failed(502, "broke off"), keep=keep)
        assert files(tmp_path / "parts-v1") == ([".fill", ".part"] if keep else [])
        lease = shelf.claim(KEY)
        assert lease is not None
        assert (lease.have, lease.journal.head) == ((50_000, head()) if keep else (0, None))
    lease.failed(Failed(404, "nowhere"), keep=True)
    assert not files(tmp_path / "parts-v1")


def test_a_watch_follows_a_fill_to_its_end(shelf: PartStore) -> None:
    lease = shelf.claim(KEY)
    assert lease is not None
    watch = shelf.watch(KEY)
    assert watch.refresh() == Journal(), "nothing is told before there is something to tell"
    lease.expose()
    assert watch.refresh() == lease.journal
    for step in (
        lambda: lease.begin(head()),
        lambda: lease.reset(),
        lambda: lease.begin(head(5, ETag='"x"')),
        lambda: lease.whole("0" * 64, 0),
        lambda: lease.done(),
    ):
        step()
        assert watch.refresh() == lease.journal
    assert watch.journal.done
    assert watch.journal.number == 2
    assert watch.open_part() is None
    watch.close()


def test_a_watch_follows_a_journal_that_is_begun_anew(shelf: PartStore, tmp_path: Path) -> None:
    """The leader died between two parts, so that the next one cannot use what is there."""
    with other_process("claim", tmp_path, "fill", "reset") as other:
        heard(other)
        watch = shelf.watch(KEY)
        assert watch.refresh().number == 1
        other.send_signal(signal.SIGKILL)
        other.wait()
    lease = shelf.claim(KEY)
    assert lease is not None
    assert lease.have == 0
    assert watch.refresh().head is None
    lease.begin(head(7, ETag='"a longer head than before"'))
    assert watch.refresh() == lease.journal
    assert watch.journal.number == 2, "a number is never used for other bytes"
    lease.done()
    assert watch.refresh().done
    watch.close()


def test_a_journal_of_another_boot_is_not_trusted(tmp_path: Path) -> None:
    before = PartStore(tmp_path / "parts-v1")
    for boot, have in (("one", 0), ("one", 50_000), ("two", 0), ("", 0), ("", 0)):
        before.blank = Journal(boot=boot)
        lease = before.claim(KEY)
        assert lease is not None
        assert lease.have == have
        if have == 0:
            lease.begin(head())
            assert lease.part is not None
            lease.part.put(0, BODY[:50_000])
        lease.failed(Failed(502, "broke off"), keep=True)
        assert files(tmp_path / "parts-v1") == [".fill", ".part"]


def left_behind(shelf: PartStore, tmp_path: Path) -> Path:
    """The journal of a fill that failed and left its bytes."""
    lease = shelf.claim(KEY)
    assert lease is not None
    lease.begin(head())
    lease.failed(Failed(502, "broke off"), keep=True)
    [journal] = (tmp_path / "parts-v1").glob("*.fill")
    return journal


@pytest.mark.parametrize("room", [0, 20, 60])
def test_a_disk_that_is_full_at_the_claim_does_not_keep_the_lease(shelf: PartStore, tmp_path: Path, room: int) -> None:
    with full_disk(left_behind(shelf, tmp_path).stat().st_size + room), pytest.raises(StoreError):
        shelf.claim(KEY)
    lease = shelf.claim(KEY)
    assert lease is not None
    lease.done()


@pytest.mark.parametrize("room", [0, 60])
def test_a_journal_the_disk_refuses_is_not_left_in_part(shelf: PartStore, tmp_path: Path, room: int) -> None:
    lease = shelf.claim(KEY)
    assert lease is not None
    lease.begin(head())
    with full_disk(room), pytest.raises(StoreError):
        lease.expose()
    assert files(tmp_path / "parts-v1") == [".part"]
    lease.expose()
    assert shelf.watch(KEY).refresh() == lease.journal
    lease.done()


@pytest.mark.parametrize("keep", [True, False])
def test_a_disk_that_is_full_at_the_end_does_not_keep_the_lease(shelf: PartStore, tmp_path: Path, keep: bool) -> None:
    lease = shelf.claim(KEY)
    assert lease is not None
    lease.begin(head())
    lease.expose()
    [journal] = (tmp_path / "parts-v1").glob("*.fill")
    with full_disk(journal.stat().st_size + 5), pytest.raises(StoreError):
        lease.failed(Failed(500, "disk full"), keep=keep)
    following = shelf.claim(KEY)
    assert following is not None
    following.done()
    assert not files(tmp_path / "parts-v1")


def test_a_line_the_disk_takes_half_of_is_not_left_torn(shelf: PartStore, tmp_path: Path) -> None:
    lease = shelf.claim(KEY)
    assert lease is not None
    lease.begin(head())
    lease.expose()
    watch = shelf.watch(KEY)
    [journal] = (tmp_path / "parts-v1").glob("*.fill")
    with full_disk(journal.stat().st_size + 5), pytest.raises(StoreError):
        lease.whole(DIGEST, len(BODY))
    assert lease.journal.digest is None
    lease.whole(DIGEST, len(BODY))
    assert watch.refresh() == lease.journal
    lease.done()
    watch.close()


def test_nothing_is_done_to_the_files_of_the_next_holder(shelf: PartStore, tmp_path: Path) -> None:
    lease = shelf.claim(KEY)
    assert lease is not None
    lease.done()
    following = shelf.claim(KEY)
    assert following is not None
    following.begin(head())
    following.expose()
    lease.failed(Failed(500, "too late"), keep=False)
    assert files(tmp_path / "parts-v1") == [".fill", ".part"]
    following.done()


def test_a_lease_that_cannot_be_had_holds_no_descriptor(shelf: PartStore, tmp_path: Path) -> None:
    journal = left_behind(shelf, tmp_path)
    before = open_files()
    with full_disk(journal.stat().st_size):
        for _ in range(10):
            with pytest.raises(StoreError):
                shelf.claim(KEY)
    assert open_files() <= before
    lease = shelf.claim(KEY)
    assert lease is not None
    held = open_files()
    for _ in range(10):
        assert shelf.claim(KEY) is None
    assert open_files() <= held
    lease.done()


@pytest.mark.parametrize(
    "line",
    [b"", b"{}", b"[]", b"null", b'{"claim": 1, "part": 0}', b'{"part": 1, "head": "{}"}', b"\xff", b'{"part": 1}', b"{"],
)
def test_a_line_that_is_none_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json's is one, and the text is its own
        Journal().after(line)


# The registry


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    one = Registry(tmp_path / "registry-v1.db")
    yield one
    one.close()


def digest_of(letter: str) -> str:
    return letter * 64


@pytest.mark.parametrize("size", [None, 0, 4096])
@pytest.mark.parametrize("until", [None, 1.5, math.inf])
def test_a_head_is_written_down_as_json_and_read_as_it_was(size: int | None, until: float | None) -> None:
    fields = (("ETag", '"a\\b"'), ("X-Name", "\u00e9\t\U0001f600\udcff"), ("X-Empty", ""))
    for known in (Representation(fields, size, 'http://x/"', 1.0e-7, until), Representation((), size, "", 3.0, until)):
        text = dump_representation(known)
        assert load_representation(text) == known
        assert json.dumps(json.loads(text)) == text
        assert text.isascii()


def test_a_look_at_once_sees_the_file_that_is_there_now(registry: Registry, tmp_path: Path) -> None:
    entry = registry.commit(KEY, digest_of("a"), head())
    assert registry.best_at_once(KEY) == entry
    (tmp_path / "registry-v1.db").unlink()
    with pytest.raises(StoreError):  # it is looked at now and then
        until(lambda: registry.best_at_once(KEY) is None)
    assert registry.best(Key("/b")) is None, "who may wait has it made again"
    assert registry.best_at_once(Key("/b")) is None


def test_versions_count_up_and_are_never_used_again(registry: Registry) -> None:
    a, b, c = map(digest_of, "abc")
    assert [registry.commit(KEY, digest, head()).version for digest in (a, b, a)] == [1, 2, 3]
    assert registry.condemn(a) == 2
    best = registry.best(KEY)
    assert best is not None
    assert (best.version, best.digest) == (2, b)
    assert registry.commit(KEY, a, head()).version == 4
    assert registry.commit(KEY, c, head()).version == 5
    assert registry.commit(Key("/b.tar"), c, head()).version == 1
    assert registry.best(Key("/c.tar")) is None


def test_equal_bytes_confirm_the_newest_version(registry: Registry) -> None:
    first = registry.commit(KEY, digest_of("a"), head())
    again = registry.commit(KEY, digest_of("a"), head(ETag='"new"'))
    assert (again.id, again.version, again.created) == (first.id, first.version, first.created)
    best = registry.best(KEY)
    assert best is not None
    assert best.representation == head(ETag='"new"')
    assert registry.totals() == Totals(1, 1, len(BODY))


def test_a_version_that_is_gone_cannot_be_confirmed(registry: Registry, tmp_path: Path) -> None:
    entry = registry.commit(KEY, digest_of("a"), head())
    with closing(sqlite3.connect(tmp_path / "registry-v1.db")) as connection, connection:
        connection.execute("DELETE FROM entry")
    assert registry.confirm(entry, head()) is None
    assert registry.best(KEY) is None


def test_a_confirmation_does_not_reach_the_entry_that_took_the_place_of_its_own(registry: Registry, tmp_path: Path) -> None:
    entry = registry.commit(KEY, digest_of("a"), head())
    with closing(sqlite3.connect(tmp_path / "registry-v1.db")) as connection, connection:
        connection.execute("DELETE FROM entry")
    newer = registry.commit(KEY, digest_of("b"), head())
    assert newer.id == entry.id, "the place of the one is that of the other"
    assert registry.confirm(entry, head(ETag='"old"')) is None
    assert registry.best(KEY) == newer


def test_the_time_of_last_use_never_goes_back(registry: Registry) -> None:
    entry = registry.commit(KEY, digest_of("a"), head())
    registry.touch({entry.id: entry.used + 100, 12345: 1.0})
    registry.touch({entry.id: entry.used + 50})
    best = registry.best(KEY)
    assert best is not None
    assert best.used == entry.used + 100


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(
    deeds=st.lists(
        st.one_of(
            st.tuples(st.just("commit"), st.sampled_from(["/a", "/b"]), st.sampled_from("abc")),
            st.tuples(st.just("condemn"), st.just(""), st.sampled_from("abc")),
        ),
        max_size=20,
    )
)
def test_best_and_totals_agree_with_a_plain_model(
    tmp_path_factory: pytest.TempPathFactory, deeds: list[tuple[str, str, str]]
) -> None:
    registry = Registry(tmp_path_factory.mktemp("model") / "registry-v1.db")
    versions: dict[str, list[tuple[str, bool]]] = {"/a": [], "/b": []}
    sizes = {"a": 1, "b": 20, "c": 300}
    try:
        for deed, key, letter in deeds:
            if deed == "commit":
                registry.commit(Key(key), digest_of(letter), head(sizes[letter]))
                if versions[key][-1:] != [(letter, True)]:
                    versions[key].append((letter, True))
            else:
                count = sum(one == (letter, True) for all_of in versions.values() for one in all_of)
                assert registry.condemn(digest_of(letter)) == count
                for name, all_of in versions.items():
                    versions[name] = [(one, ready and one != letter) for one, ready in all_of]
            for name, all_of in versions.items():
                ready = [(number, one) for number, (one, is_ready) in enumerate(all_of, 1) if is_ready]
                best = registry.best(Key(name))
                assert (best and (best.version, best.digest[0])) == (ready[-1] if ready else None)
            entries = sum(ready for all_of in versions.values() for _, ready in all_of)
            stored = {one for all_of in versions.values() for one, ready in all_of if ready}
            assert registry.totals() == Totals(entries, len(stored), sum(sizes[letter] for letter in stored))
    finally:
        registry.close()


def test_many_threads_of_many_processes_commit_and_look_up_without_an_error(tmp_path: Path) -> None:
    children = [subprocess.Popen(as_program(__file__, "hammer", tmp_path, number)) for number in range(4)]
    assert [child.wait(100) for child in children] == [0] * 4
    registry = Registry(tmp_path / "registry-v1.db")
    with closing(sqlite3.connect(tmp_path / "registry-v1.db")) as connection:
        rows = connection.execute("SELECT key, version, digest FROM entry ORDER BY key, version").fetchall()
        [(count, blob_count)] = connection.execute("SELECT (SELECT count(*) FROM entry), (SELECT count(*) FROM blob)")
    for key in {row[0] for row in rows}:
        of_key = [row for row in rows if row[0] == key]
        assert [row[1] for row in of_key] == list(range(1, len(of_key) + 1))
        assert all(one[2] != other[2] for one, other in pairwise(of_key))
    assert registry.totals() == Totals(count, blob_count, blob_count)
    registry.close()


def test_a_registry_is_used_on_both_sides_of_a_fork(tmp_path: Path) -> None:
    """Threads of the parent use it all the while; the parent leaves before the child commits."""
    with other_process("fork", tmp_path) as other:
        assert other.wait(60) == 0
    registry = Registry(tmp_path / "registry-v1.db")
    for key in ("/parent", "/child/1", "/child/2"):
        assert registry.best(Key(key)) is not None, key
    registry.close()


def test_a_last_use_goes_back_only_from_a_time_that_is_to_come(registry: Registry) -> None:
    """A clock that was set back an hour does not stop the notes of last use."""
    now, entry = time.time(), registry.commit(KEY, digest_of("a"), head())

    def used() -> float:
        best = registry.best(KEY)
        assert best is not None
        return best.used

    registry.touch({entry.id: now + 30})
    registry.touch({entry.id: now - 5})
    assert used() == now + 30
    registry.touch({entry.id: now + 3600})
    registry.touch({entry.id: now - 5})
    assert used() == now - 5
    registry.touch({entry.id: now + 3600})
    registry.confirm(entry, head())
    assert now <= used() < now + 600


def test_a_fork_waits_for_who_has_the_registry_to_himself(tmp_path: Path) -> None:
    """The child could never write: it would have the locks of a thread that it has not."""
    with other_process("fork-halted", tmp_path) as other:
        assert other.wait(60) == 0


def test_connections_that_nobody_needs_any_more_are_closed(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connections() -> int:
        links = [link for link in Path("/proc/self/fd").iterdir() if link.exists()]
        # SQLite closes the database itself only with the last of them, since that would free the locks of all.
        return sum(link.readlink() == tmp_path / "registry-v1.db-wal" for link in links)

    def lend(together: threading.Barrier) -> None:
        with registry.database.lent():
            together.wait(30)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lend, [threading.Barrier(16)] * 16))
    assert connections() == 4  # of a rush
    registry.totals()
    assert connections() == 4
    monkeypatch.setattr("package_cache.storage.database.connections._IDLE_SECONDS", 0.0)
    registry.totals()
    assert connections() == 1
    registry.rest()
    assert connections() == 0


@pytest.mark.parametrize("size", [100, 5000])
def test_a_file_that_is_no_registry_is_set_aside(tmp_path: Path, size: int) -> None:
    path, noise = tmp_path / "registry-v1.db", random.Random(2).randbytes(size)
    path.write_bytes(noise)
    registry = Registry(path)
    assert registry.totals() == Totals(0, 0, 0)
    registry.commit(KEY, digest_of("a"), head())
    registry.close()
    [aside] = tmp_path.glob("registry-v1.db.damaged-*")
    assert aside.read_bytes() == noise


@pytest.mark.parametrize(
    "change", ["representation = '{'", "key = '/b.tar'", "version = 'x'", "digest = upper(digest)", "seal = seal + 1"]
)
def test_a_row_that_is_not_what_was_written_is_not_believed(registry: Registry, tmp_path: Path, change: str) -> None:
    entry = registry.commit(KEY, digest_of("a"), head())
    blob = tmp_path / "blobs-v1" / "aa" / entry.digest
    blob.parent.mkdir(parents=True)
    blob.write_bytes(BODY)
    with closing(sqlite3.connect(tmp_path / "registry-v1.db")) as connection, connection:
        connection.execute(f"UPDATE entry SET {change}")
    assert registry.best(Key("/b.tar")) is None
    assert registry.best(KEY) == entry
    assert len(list(tmp_path.glob("registry-v1.db.damaged-*[0-9]"))) == 1


# What the other process does


def claim(root: Path, *how: str) -> None:
    """Say what is in the lease that this process could get, and hold it."""
    lease = PartStore(root / "parts-v1").claim(KEY)
    if lease is not None and "fill" in how:
        lease.begin(head())
        lease.expose()
        assert lease.part is not None
        lease.part.put(0, BODY[:50_000])
    if lease is not None and "reset" in how:
        lease.reset()
    say("None" if lease is None else str(lease.have if not how else 0))
    sys.stdin.read()


def contend(root: Path, turns: str) -> None:
    """Take and leave the lease many times; exit with an error if somebody else holds it meanwhile."""
    shelf, flag = PartStore(root / "parts-v1"), root / "held"
    for _ in range(int(turns)):
        lease: Lease | None = None
        while lease is None:
            lease = shelf.claim(KEY)
        flag.touch(exist_ok=False)
        lease.begin(head())
        flag.unlink()
        lease.done()


def hammer(root: Path, seed: str) -> None:
    """Eight threads commit and look up; exit with an error if one fails."""
    registry = Registry(root / "registry-v1.db")

    def work(number: int) -> None:
        choice = random.Random(f"{seed} {number}")
        for _ in range(25):
            key = Key(f"/{choice.randrange(5)}")
            digest = digest_of(choice.choice("0123456789"))
            entry = registry.commit(key, digest, head(1))
            assert (entry.key, entry.digest) == (key, digest)
            best = registry.best(key)
            assert best is not None
            assert best.version >= entry.version

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    registry.close()


def fork(root: Path) -> None:
    """Fork while threads use the registry; the child commits before and after the parent closed it."""
    registry = Registry(root / "registry-v1.db")
    over = threading.Event()

    def use() -> None:
        while not over.is_set():
            registry.commit(Key("/parent"), digest_of("a"), head())

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    child_is_ready, parent_is_done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        registry.commit(Key("/child/1"), digest_of("b"), head())
        os.write(child_is_ready[1], b"x")
        os.read(parent_is_done[0], 1)
        registry.commit(Key("/child/2"), digest_of("c"), head())
        os._exit(0)
    os.read(child_is_ready[0], 1)
    over.set()
    for thread in threads:
        thread.join()
    registry.close()
    os.write(parent_is_done[1], b"x")
    _, status = os.waitpid(child, 0)
    assert status == 0


def fork_halted(root: Path) -> None:
    """Fork while a thread has the registry to itself; the child commits."""
    registry = Registry(root / "registry-v1.db")
    halted, forked = threading.Event(), threading.Event()

    def halt() -> None:
        with registry.database.halted():
            halted.set()
            forked.wait(0.3)  # in vain: the fork waits for the end of this

    thread = threading.Thread(target=halt)
    thread.start()
    halted.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        registry.commit(Key("/child"), digest_of("b"), head())
        os._exit(0)
    forked.set()
    thread.join()
    _, status = os.waitpid(child, 0)
    assert status == 0
    registry.commit(Key("/parent"), digest_of("a"), head())
    registry.close()


if __name__ == "__main__":
    deed, directory, *arguments = sys.argv[1:]
    {"claim": claim, "contend": contend, "hammer": hammer, "fork": fork, "fork-halted": fork_halted}[deed](
        Path(directory), *arguments
    )
