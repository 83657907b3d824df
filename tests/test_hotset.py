"""The hot set: it holds no more than it may, and nothing that changed, whoever changed it."""

import contextlib
import dataclasses
import hashlib
import io
import os
import random
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from origin import Origin, until
from product import Proxy, parts
from raw import Client

from package_cache.engine.hotset import MAX_BYTES, MAX_ENTRIES, HotFile, HotSet
from package_cache.model import Entry, Key, Representation, Status
from package_cache.storage.blobs import BlobStore
from package_cache.storage.database.generation import Generation
from package_cache.storage.parts.part import Part
from package_cache.storage.registry import Registry
from package_cache.storage.removal import Kind, Place, Removal

BODY = random.Random(5).randbytes(200_000)
ETAG = f'"{hashlib.md5(BODY).hexdigest()}"'

Start = Callable[..., Proxy]


def hot_file(folder: Path, number: int, fields: tuple[tuple[str, str], ...] = (), word: int = 0, value: int = 0) -> HotFile:
    path = folder / f"{number}"
    path.write_bytes(b"%d" % number)
    known = Representation(fields, path.stat().st_size, "http://mirror.example/", 0.0)
    entry = Entry(number, Key(f"/{number}.tar"), 1, Status.READY, "0" * 64, known, 0.0, 0.0)
    return HotFile(entry, io.FileIO(path), word, value, used=float(number))


def test_the_hot_set_holds_no_more_descriptors_than_it_may(tmp_path: Path) -> None:
    hotset, files = HotSet(Generation(tmp_path / "words"), 16), [hot_file(tmp_path, number) for number in range(100)]
    for number, hot in enumerate(files):
        hotset.add(f"/{number}.tar", hot)
        assert len(hotset) == sum(not one.file.closed for one in files[: number + 1]) <= 16
    assert hotset.get("/99.tar") is files[99]
    assert hotset.get("/0.tar") is None
    assert [one.file.closed for one in files[:84]] == [True] * 84, "those used longest ago make room"
    hotset.clear()
    assert all(one.file.closed for one in files)


def test_the_hot_set_holds_no_more_entries_and_bytes_than_it_may(tmp_path: Path) -> None:
    hotset = HotSet(Generation(tmp_path / "words"), 1 << 20)
    fields = (("x-large", "x" * 100_000),)
    files = [hot_file(tmp_path, number, fields) for number in range(200)]
    for number, hot in enumerate(files):
        hotset.add(f"/{number}.tar", hot)
        assert len(hotset) * 100_000 <= MAX_BYTES
    assert len(hotset) > 1
    hotset.clear()
    small = hot_file(tmp_path, 1)
    small.users = 1  # all of them share its descriptor
    for number in range(MAX_ENTRIES + 10):
        hotset.add(f"/{number}.tar", small)
        assert len(hotset) <= MAX_ENTRIES
    small.file.close()


def test_a_file_that_left_the_hot_set_is_closed_when_nothing_is_sent_from_it(tmp_path: Path) -> None:
    words = Generation(tmp_path / "words")
    hotset, hot = HotSet(words, 16), hot_file(tmp_path, 7)
    hotset.add("/7.tar", hot)
    hot.users = 2
    words.bump_all()
    assert hotset.get("/7.tar") is None
    hot.release()
    assert hot.file.read() == b"7"
    hot.release()
    assert hot.file.closed
    hotset.clear()


def test_a_file_that_was_removed_does_not_take_space_though_nobody_asks_for_it_again(origin: Origin, start: Start) -> None:
    origin.put("/a-1.tar.gz", BODY)
    proxy = start(origin.url)
    assert proxy.get("/a-1.tar.gz").body == BODY
    until(lambda: not parts(proxy.cache))
    assert proxy.get("/a-1.tar.gz").body == BODY
    until(lambda: open_blobs(proxy) == [False])
    with contextlib.closing(Registry(proxy.cache / "registry-v1.db")) as registry:
        removal = Removal(registry.database, BlobStore(proxy.cache / "blobs-v1"))
        (fate,) = removal.remove(removal.by_use(Kind.READY, Place()))
    assert fate.files == 1
    until(lambda: open_blobs(proxy) == [])


@pytest.mark.parametrize("fields", [{"Via": "1.1 another-cache"}, {"Accept": "application/json"}], ids=["via", "accept"])
def test_a_hit_counts_as_use_whatever_the_request_says_besides(
    origin: Origin, start: Start, fields: dict[str, str]
) -> None:
    origin.put("/a-1.tar.gz", BODY)
    first = start(origin.url)
    assert first.get("/a-1.tar.gz", fields).body == BODY
    until(lambda: not parts(first.cache))
    first.stop()
    registry = first.cache / "registry-v1.db"
    with contextlib.closing(sqlite3.connect(registry)) as connection, connection:
        connection.execute("UPDATE entry SET used = 1.0")
    proxy = start(origin.url)
    assert proxy.get("/a-1.tar.gz", fields).body == BODY
    until(lambda: open_blobs(proxy) == [False] * ("Via" in fields))  # what came through another cache may be hot
    proxy.stop()
    with contextlib.closing(sqlite3.connect(registry)) as connection:
        assert connection.execute("SELECT min(used) FROM entry").fetchone()[0] > 1.0
    assert len(origin.requests()) == 1


def open_blobs(proxy: Proxy) -> list[bool]:
    """The blobs that the process has open: whether each of them has no name any more."""
    names = []
    for link in Path(f"/proc/{proxy.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            names.append(str(link.readlink()))
    return [name.endswith(" (deleted)") for name in names if "/blobs-v1/" in name]


def test_a_key_has_a_word_and_every_process_that_maps_it_sees_it_change(tmp_path: Path) -> None:
    ours, theirs = Generation(tmp_path / "words"), Generation(tmp_path / "words")
    key = Key("/a-1.tar")
    word = ours.word(key)
    seen = {ours.words[word]}
    for _ in range(100):
        theirs.bump(key)
        assert ours.words[word] not in seen
        seen.add(ours.words[word])
    before = list(ours.words)
    theirs.bump_all()
    assert all(now != one for now, one in zip(ours.words, before, strict=True))


def test_changes_of_other_keys_leave_nearly_all_hot_files_where_they_are(tmp_path: Path) -> None:
    words = Generation(tmp_path / "words")
    hotset, hot = HotSet(words, MAX_ENTRIES), hot_file(tmp_path, 1)
    hot.users = 1  # all of them share its descriptor
    for number in range(MAX_ENTRIES):
        word = words.word(Key(f"/hot-{number}.tar"))
        hotset.add(f"/hot-{number}.tar", dataclasses.replace(hot, word=word, generation=words.words[word]))
    for number in range(512):
        words.bump(Key(f"/other-{number}.tar"))
    hotset.drop_changed()
    assert len(hotset) > MAX_ENTRIES * 0.98
    hot.file.close()


@contextlib.contextmanager
def client_of_each(proxy: Proxy) -> Iterator[list[Client]]:
    """A connection to each of two workers."""
    first, second = proxy.workers()
    with contextlib.ExitStack() as stack:
        clients = []
        for stopped in (first, second):  # the other one accepts
            os.kill(stopped, signal.SIGSTOP)
            stack.callback(os.kill, stopped, signal.SIGCONT)
            clients.append(stack.enter_context(Client(proxy.address)))
            assert clients[-1].get("/a-1.tar.gz").body == BODY
            os.kill(stopped, signal.SIGCONT)
        yield clients


def replace_it(cache: Path, entry: Entry) -> bytes:
    """Commit another version of the file."""
    body = BODY[:1000]
    digest = hashlib.sha256(body).hexdigest()
    store, part = BlobStore(cache / "blobs-v1"), Part(cache / "parts-v1" / "another", create=True)
    assert part.put(0, body)
    store.seal(part)
    store.settle([store.publish(part, digest)])
    part.close()
    with contextlib.closing(Registry(cache / "registry-v1.db")) as registry:
        registry.commit(entry.key, digest, dataclasses.replace(entry.representation, size=len(body)))
    return body


def condemn_it(cache: Path, entry: Entry) -> bytes:
    """Take the file out of service; it is fetched again, from a source that has another one by now."""
    with contextlib.closing(Registry(cache / "registry-v1.db")) as registry:
        assert registry.condemn(entry.digest) == 1
    return BODY[:500]


def confirm_it(cache: Path, entry: Entry) -> bytes:
    """Give the file the head that its source has now."""
    fields = tuple((name, '"new"' if name.lower() == "etag" else value) for name, value in entry.representation.fields)
    with contextlib.closing(Registry(cache / "registry-v1.db")) as registry:
        registry.confirm(entry, dataclasses.replace(entry.representation, fields=fields))
    return BODY


@pytest.mark.parametrize("change", [replace_it, condemn_it, confirm_it])
def test_no_worker_serves_from_its_hot_set_what_another_process_changed(
    origin: Origin, start: Start, change: Callable[[Path, Entry], bytes]
) -> None:
    origin.put("/a-1.tar.gz", BODY)
    proxy = start(origin.url, host="gunicorn", arguments=["--workers", "2"])
    assert proxy.get("/a-1.tar.gz").whole
    until(lambda: not parts(proxy.cache) and len(proxy.workers()) == 2)
    origin.put("/a-1.tar.gz", BODY[:500])
    with contextlib.closing(Registry(proxy.cache / "registry-v1.db")) as registry:
        entry = registry.best(Key("/a-1.tar.gz"))
    assert entry is not None
    with client_of_each(proxy) as clients:
        for client in clients * 2:
            assert client.get("/a-1.tar.gz").get("etag") == ETAG
        body = change(proxy.cache, entry)
        for client in clients * 2:
            answer = client.get("/a-1.tar.gz")
            assert answer.body == body
            assert (answer.get("etag") == '"new"') == (change is confirm_it)
    assert len(origin.requests()) == (2 if change is condemn_it else 1)
