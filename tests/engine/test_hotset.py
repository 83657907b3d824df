"""The hot set: it holds no more than it may, and nothing that changed, whoever changed it."""

import contextlib
import dataclasses
import hashlib
import io
import os
import random
import re
import signal
import socket
import sqlite3
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from origin import Origin, Serve, until
from product import Proxy, parts, stored
from raw import Answer, Client

from package_cache.engine.hotset import MAX_BODIES, MAX_BYTES, MAX_ENTRIES, Bodies, HotFile, HotSet
from package_cache.model import Entry, Key, Representation, Status
from package_cache.storage.blobs import BlobStore
from package_cache.storage.database.generation import Generation
from package_cache.storage.parts.part import Part
from package_cache.storage.registry import Registry
from package_cache.storage.removal import Kind, Position, Removal

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


def test_what_had_to_leave_the_hot_set_was_used_all_the_same(tmp_path: Path) -> None:
    hotset, files = HotSet(Generation(tmp_path / "words"), 8), [hot_file(tmp_path, number) for number in range(1, 40)]
    for hot in files:
        hotset.add(f"/{hot.id}.tar", hot)
    assert len(hotset) <= 8
    assert hotset.recently_used(100.0) == {hot.id: hot.used + 100.0 for hot in files}
    assert hotset.recently_used(100.0) == {}
    hotset.clear()


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
        (fate,) = removal.remove(removal.by_use(Kind.READY, Position()))
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


def row(number: int) -> HotFile:
    """A small file that was just looked up, with a head as long as they are."""
    fields = (("Content-Type", "application/x-tar"), ("Last-Modified", "Tue, 02 Jan 2024 03:04:05 GMT"))
    known = Representation(fields, 4096, "http://mirror.example/", 0.0)
    entry = Entry(number, Key(f"/{number}.tar"), 1, Status.READY, f"{number:064x}", known, 0.0, 0.0)
    hot = HotFile(entry, None, 0, 0, body=b"%d" % number * 4096)
    hot.body = hot.body[:4096]
    hot.form("package-cache-0")
    return hot


def test_a_small_file_takes_a_kibibyte_of_the_hot_set_and_no_more_are_there_than_it_may_have(tmp_path: Path) -> None:
    hotset = HotSet(Generation(tmp_path / "words"), 16)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(5000):
            hotset.add(f"/{number}.tar", row(number))
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(hotset) == 5000
    assert taken / 5000 < 1200
    for number in range(5000, 15_000):
        hotset.add(f"/{number}.tar", row(number))
    assert taken / 5000 * len(hotset) < 1.3 * MAX_BYTES
    hotset.clear()


def test_bodies_that_are_kept_are_right_until_others_have_their_place() -> None:
    bodies, noise = Bodies(100_000), random.Random(9)
    places: list[tuple[int, bytes]] = []
    for _ in range(1000):
        body = noise.randbytes(noise.choice([0, 1, 100, 4096, 12_500]))
        places.append((bodies.put(body), body))
        kept = [bodies.get(place, len(one)) for place, one in places[-30:]]
        assert kept[-1] == body
        assert all(there in (None, one) for there, (_, one) in zip(kept, places[-30:], strict=True))
    assert bodies.put(bytes(12_501)) == -1
    assert bodies.get(-1, 10) is None
    bodies.close()
    assert [bodies.get(place, len(one)) for place, one in places[-3:]] == [None] * 3
    assert bodies.get(bodies.put(b"again"), 5) == b"again"
    bodies.close()


def test_more_small_files_than_have_their_bodies_at_hand_are_served_whole_and_in_parts(
    origin: Origin, start: Start
) -> None:
    noise = random.Random(3)
    files = {f"/s-{number}.tar": origin.put(f"/s-{number}.tar", noise.randbytes(60_000 + number)) for number in range(180)}
    assert sum(map(len, files.values())) > MAX_BODIES
    proxy = start(origin.url)
    with Client(proxy.address) as client:
        for _ in range(3):
            for path, body in files.items():
                assert client.get(path).body == body
        path, body = next(iter(files.items()))
        tag = client.get(path, method="HEAD").get("etag")
        assert client.get(path, "Range: bytes=10-19").body == body[10:20]
        assert client.get(path, f"If-None-Match: {tag}").status == 304
        several = client.get(path, "Range: bytes=0-9,100-109")
        assert (several.status, body[100:110] in several.body) == (206, True)
        assert client.get(path).body == body
    assert len(origin.requests()) == len(files)


def described(answer: Answer) -> Answer:
    """An answer, but for when it was given."""
    kept = tuple(pair for pair in answer.fields if pair[0] not in ("date", "age"))
    return dataclasses.replace(answer, fields=kept)


def test_what_only_its_first_line_is_new_of_is_answered_as_what_was_never_seen(
    origin: Origin, start: Start, tmp_path: Path
) -> None:
    """Each after a restart: nothing is at hand, and in one of the two what its client says besides is known."""
    for number in range(8):
        origin.put(f"/s-1.{number}.tar", BODY[: (0, 1, 5000, 65_536, 65_537, 200_000, 70, 7000)[number]])
    origin.put("/s-1.6.tar", BODY[:70], Serve(fields=(("Vary", "Accept"),)))
    origin.put("/dists/a/Release", b"index")
    origin.put("/odd%22-1.tar", b"odd")
    paths = [f"/s-1.{number}.tar" for number in range(8)]
    paths += ["/s-1.2.tar?a=b", "/./s-1.3.tar", "http://mirror.example/s-1.2.tar", "/dists/a/Release", "/odd%22-1.tar"]
    paths += ['/odd"-1.tar', "/%6Fdd%22-1.tar", "/../x-1.tar", "/-/nothing", "/gone-1.tar"]
    proxy = start(origin.url)
    for path in paths:
        with Client(proxy.address) as client:
            client.get(path)
    until(lambda: len(stored(proxy.cache)) == 10 and not parts(proxy.cache))
    answers: dict[str, list[Answer]] = {path: [] for path in paths}
    for is_known in (False, True):
        proxy.stop()
        proxy = start(origin.url, cache=proxy.cache)
        with Client(proxy.address) as client:
            client.get("/s-1.7.tar", "X-Known: 1")
        for number, path in enumerate(paths):
            with Client(proxy.address) as client:
                answers[path].append(described(client.get(path, "X-Known: 1" if is_known else f"X-New: {number}")))
    assert [path for path, (new, known) in answers.items() if new != known] == []
    assert [answer.status for answer, _ in answers.values()].count(200) == 13


@pytest.mark.parametrize("how", ["another body", "no body", "no row", "another name"])
def test_a_stored_file_whose_row_is_damaged_is_not_served_to_who_says_what_others_said(
    origin: Origin, start: Start, how: str
) -> None:
    statement = {
        "another body": "UPDATE small SET body = x'00' || substr(body, 2)",
        "no body": "DELETE FROM small",
        "no row": "DELETE FROM entry",
        "another name": "UPDATE entry SET seal = seal + 1",
    }[how]
    bodies = {f"/s-1.{number}.tar": origin.put(f"/s-1.{number}.tar", BODY[: 3000 + number]) for number in range(3)}
    proxy = start(origin.url)
    for path in bodies:
        proxy.get(path)
    until(lambda: len(stored(proxy.cache)) == 3)
    proxy.stop()
    with contextlib.closing(sqlite3.connect(proxy.cache / "registry-v1.db")) as connection, connection:
        connection.execute(statement)
    proxy = start(origin.url, cache=proxy.cache)
    with Client(proxy.address) as client:
        for path, body in bodies.items():
            assert client.get(path).body == body


@pytest.mark.parametrize("server", ["wsgiref", "gunicorn"])
def test_who_asks_for_a_hot_file_at_once_is_answered_and_noted_as_everybody(
    origin: Origin, start: Start, tmp_path: Path, server: str
) -> None:
    """With a connection each, which is to end or to persist; one of them reads slowly, and another sends two requests."""
    body, log = origin.put("/s-1.tar", BODY[:60_000]), tmp_path / "access"
    proxy = start(origin.url, host=server, arguments=["--workers", "1", "--access-log", str(log)])
    with Client(proxy.address) as client:
        first = client.get("/s-1.tar", "User-Agent: one", "Connection: close")
    said = [("Connection: close", "close"), ("X-Nothing: 1", "keep-alive")]
    for field, connection in [*said, *said]:
        with Client(proxy.address) as client:
            for _ in range(1 if connection == "close" else 3):
                answer = client.get("/s-1.tar", "User-Agent: one", field)
                assert (answer.body, answer.get("connection")) == (body, connection)
                differ = {"date", "age", "connection", "cache-status"}
                assert {one for one in answer.fields if one[0] not in differ} == {
                    one for one in first.fields if one[0] not in differ
                }
            assert connection == "keep-alive" or client.ended()
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(proxy.address)
        asks = b"GET /s-1.tar HTTP/1.1\r\nHost: mirror.example\r\nUser-Agent: one\r\nX-Nothing: 1\r\n\r\n"
        slow.sendall(asks * 2)
        got = b""
        while got.count(b"HTTP/1.1 200") < 2 or not got.endswith(body):
            block = slow.recv(4096)
            assert block
            got += block
    until(lambda: len(log.read_text().splitlines()) == 11)
    shown = {re.sub(r"\[.*?\]|\d+\.\d{6}", "", line) for line in log.read_text().splitlines()[1:]}
    assert len(shown) == 1
    assert '"GET /s-1.tar HTTP/1.1" 200 60000 "-" "one" hit 60000 0' in shown.pop()


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
    store.finalize(part)
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
