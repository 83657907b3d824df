"""Fills: what clients get while a file arrives, and what is stored of it."""

import dataclasses
import hashlib
import http.client
import os
import random
import re
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from forks import Forks
from origin import Gate, Origin, Raw, Serve, until
from product import Proxy, Response, blobs, parts
from raw import Client

from package_cache.engine.fills.fill import Fill
from package_cache.engine.fills.leading import Lead, Leading
from package_cache.engine.fills.reader import FillReader, ReplacedError, UnstorableError
from package_cache.engine.fills.running import Fills, Leads
from package_cache.errors import FillError, StoreError
from package_cache.model import Key, Representation, Span
from package_cache.storage.parts.leases import Failed, Lease, PartStore
from package_cache.storage.parts.locks import NameLocks

HELD_BACK = 65536
"""Bytes at the end that no client gets before the whole is verified."""

both = pytest.mark.parametrize("host", ["wsgiref", "gunicorn"])


@pytest.fixture
def start(start: Callable[..., Proxy]) -> Callable[..., Proxy]:
    return start


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


@contextmanager
def streaming(proxy: Proxy, target: str, fields: dict[str, str] | None = None) -> Iterator[http.client.HTTPResponse]:
    """A response whose body the test reads bit by bit."""
    connection = http.client.HTTPConnection(*proxy.address, timeout=60)
    try:
        connection.request("GET", target, headers=fields or {})
        yield connection.getresponse()
    finally:
        connection.close()


def all_at_once(count: int, act: Callable[[int], Response]) -> list[Response]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(act, range(count)))


@both
def test_first_bytes_arrive_before_the_source_has_sent_the_rest(
    origin: Origin, start: Callable[..., Proxy], host: str
) -> None:
    gate = Gate()
    body = origin.put("/big-1.tar", noise(1_000_000), Serve(gate=gate, gate_at=200_000))
    proxy = start(origin.url, host=host)
    with streaming(proxy, "/big-1.tar") as response:
        assert response.status == 200
        assert response.headers["Content-Length"] == "1000000"
        assert "fwd=uri-miss" in response.headers["Cache-Status"]
        assert response.read(200_000) == body[:200_000]
        assert not gate.opened.is_set()
        gate.open()
        assert response.read() == body[200_000:]


@both
def test_all_clients_of_a_cold_file_share_one_request(origin: Origin, start: Callable[..., Proxy], host: str) -> None:
    gate, ready = Gate(), threading.Barrier(25)
    body = origin.put("/big-1.tar", noise(1_000_000), Serve(gate=gate, gate_at=500_000))
    proxy = start(origin.url, host=host)

    def client(_: int) -> Response:
        with streaming(proxy, "/big-1.tar") as response:
            first = response.read(400_000)
            ready.wait(60)
            return Response(response.status, response.headers, first + response.read(), True)

    with ThreadPoolExecutor(24) as pool:
        running = [pool.submit(client, number) for number in range(24)]
        ready.wait(60)
        gate.open()
        answers = [one.result() for one in running]
    assert {hashlib.sha256(answer.body).hexdigest() for answer in answers} == {hashlib.sha256(body).hexdigest()}
    assert len(origin.requests()) == 1
    assert sum("collapsed" in answer.cache_status for answer in answers) == 23


@both
def test_who_joins_half_way_has_the_first_half_at_once(origin: Origin, start: Callable[..., Proxy], host: str) -> None:
    gate = Gate()
    body = origin.put("/big-1.tar", noise(2_000_000), Serve(gate=gate, gate_at=1_000_000))
    proxy = start(origin.url, host=host)
    with streaming(proxy, "/big-1.tar") as first:
        assert first.read(1_000_000) == body[:1_000_000]
        for _ in range(4):  # enough to meet either worker
            with streaming(proxy, "/big-1.tar") as second:
                assert second.read(1_000_000) == body[:1_000_000]
        assert not gate.opened.is_set()
        gate.open()
        assert first.read() == body[1_000_000:]
    assert len(origin.requests()) == 1


@both
def test_a_fill_goes_on_when_its_only_client_leaves(origin: Origin, start: Callable[..., Proxy], host: str) -> None:
    gate = Gate()
    body = origin.put("/big-1.tar", noise(1_000_000), Serve(gate=gate, gate_at=300_000))
    proxy = start(origin.url, host=host)
    with streaming(proxy, "/big-1.tar") as response:
        response.read(100_000)
    gate.open()
    until(lambda: blobs(proxy.cache) and not parts(proxy.cache))
    answer = proxy.get("/big-1.tar")
    assert answer.body == body
    assert answer.cache_status == "package-cache; hit"
    assert len(origin.requests()) == 1


def test_a_client_that_leaves_takes_nothing_from_the_others(origin: Origin, start: Callable[..., Proxy]) -> None:
    gate = Gate()
    body = origin.put("/big-1.tar", noise(1_000_000), Serve(gate=gate, gate_at=300_000))
    proxy = start(origin.url)
    with streaming(proxy, "/big-1.tar") as stays:
        with streaming(proxy, "/big-1.tar") as leaves:
            leaves.read(100_000)
        stays.read(300_000)
        gate.open()
        assert stays.read() == body[300_000:]
    assert len(origin.requests()) == 1


def test_a_client_that_does_not_read_holds_nobody_up(origin: Origin, start: Callable[..., Proxy]) -> None:
    gate = Gate()
    body = origin.put("/big-1.tar", noise(20_000_000), Serve(gate=gate, gate_at=100_000))
    proxy = start(origin.url)
    with streaming(proxy, "/big-1.tar") as slow:
        slow.read(1)
        gate.open()
        assert proxy.get("/big-1.tar").body == body
        assert slow.read() == body[1:]
    assert len(origin.requests()) == 1


def test_other_processes_have_the_first_bytes_of_a_large_file_as_soon_as_they_are_here(
    origin: Origin, start: Callable[..., Proxy]
) -> None:
    gate = Gate()
    body = origin.put("/big-1.tar", noise(1_000_000), Serve(gate=gate, gate_at=20_000))
    leading, other = start(origin.url), start(origin.url)
    with streaming(leading, "/big-1.tar") as first, streaming(other, "/big-1.tar") as second:
        assert first.read(20_000) == second.read(20_000) == body[:20_000]
        assert not gate.opened.is_set()
        gate.open()
        assert first.read() == second.read() == body[20_000:]
    assert len(origin.requests()) == 1


@both
def test_a_range_waits_for_its_own_bytes_only(origin: Origin, start: Callable[..., Proxy], host: str) -> None:
    gate = Gate()
    body = origin.put("/big-1.tar", noise(1_000_000), Serve(gate=gate, gate_at=500_000))
    proxy = start(origin.url, host=host)
    with streaming(proxy, "/big-1.tar") as whole, ThreadPoolExecutor(3) as pool:
        whole.read(500_000)
        here = proxy.get("/big-1.tar", {"Range": "bytes=1000-499999"})
        assert (here.status, here.body) == (206, body[1000:500_000])
        assert here.fields["Content-Range"] == "bytes 1000-499999/1000000"
        assert not gate.opened.is_set()
        wanted = {"bytes=499990-500009": body[499_990:500_010], "bytes=700000-": body[700_000:], "bytes=-9": body[-9:]}
        ahead = [pool.submit(proxy.get, "/big-1.tar", {"Range": text}) for text in wanted]
        gate.open()
        for running, part in zip(ahead, wanted.values(), strict=True):
            assert (running.result().status, running.result().body) == (206, part)
        assert whole.read() == body[500_000:]
    assert len(origin.requests()) == 1


@pytest.mark.parametrize("path", ["/big-1.tar", "/dists/stable/Packages"])
def test_a_look_at_a_file_that_is_being_downloaded_is_answered_from_the_download(
    origin: Origin, start: Callable[..., Proxy], path: str
) -> None:
    gate = Gate()
    body = origin.put(path, noise(1_000_000), Serve(gate=gate, gate_at=500_000))
    leading, other = start(origin.url), start(origin.url)
    with streaming(leading, path) as whole:
        whole.read(100_000)
        for proxy in (leading, other):
            answer = proxy.get(path, method="HEAD")
            assert (answer.status, answer.fields["Content-Length"]) == (200, "1000000")
            assert answer.fields["ETag"] == whole.headers["ETag"]
            assert answer.cache_status == "package-cache; fwd=uri-miss; collapsed"
        gate.open()
        assert whole.read() == body[100_000:]
    assert [asked.method for asked in origin.requests()] == ["GET"]


def test_a_look_at_a_file_of_which_nothing_has_come_yet_waits_for_no_download(
    origin: Origin, start: Callable[..., Proxy]
) -> None:
    gate = Gate()
    body = origin.put("/a-1.tar", noise(1000), Serve(before=gate), Serve())
    proxy = start(origin.url)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(proxy.get, "/a-1.tar")
        assert gate.reached.wait(30)
        assert proxy.get("/a-1.tar", method="HEAD").fields["Content-Length"] == "1000"
        gate.open()
        assert waiting.result().body == body


def test_a_range_outside_the_file_is_refused_during_its_fill(origin: Origin, start: Callable[..., Proxy]) -> None:
    gate = Gate()
    origin.put("/big-1.tar", noise(200_000), Serve(gate=gate, gate_at=100_000))
    proxy = start(origin.url)
    with streaming(proxy, "/big-1.tar") as whole:
        whole.read(1000)
        answer = proxy.get("/big-1.tar", {"Range": "bytes=200000-"})
        assert answer.status == 416
        assert answer.fields["Content-Range"] == "bytes */200000"
        gate.open()
        whole.read()


@both
def test_a_chunked_file_is_passed_on_while_it_arrives_and_stored(
    origin: Origin, start: Callable[..., Proxy], host: str
) -> None:
    gate = Gate()
    body = origin.put("/big-1.tar", noise(1_000_000), Serve(chunked=True, gate=gate, gate_at=500_000))
    proxy = start(origin.url, host=host)
    with streaming(proxy, "/big-1.tar") as response:
        assert "Content-Length" not in response.headers
        assert response.read(500_000 - HELD_BACK) == body[: 500_000 - HELD_BACK]
        gate.open()
        assert response.read() == body[500_000 - HELD_BACK :]
    answer = proxy.get("/big-1.tar")
    assert answer.fields["Content-Length"] == "1000000"
    assert (answer.body, answer.cache_status) == (body, "package-cache; hit")
    assert len(origin.requests()) == 1


def test_a_chunked_file_is_whole_for_a_client_that_sent_content(
    origin: Origin, start: Callable[..., Proxy], host: str
) -> None:
    body = origin.put("/a-1.tar", noise(300_000), Serve(chunked=True))
    with Client(start(origin.url, host=host).address) as client:
        client.ask("/a-1.tar", "Content-Length: 3")
        client.send(b"abc")
        answer = client.answer()
    assert (answer.status, answer.whole, answer.body == body) == (200, True, True)


def test_a_range_of_a_chunked_file_waits_for_the_length(origin: Origin, start: Callable[..., Proxy]) -> None:
    body = origin.put("/a-1.tar", noise(300_000), Serve(chunked=True))
    answer = start(origin.url).get("/a-1.tar", {"Range": "bytes=-1000"})
    assert (answer.status, answer.body) == (206, body[-1000:])
    assert answer.fields["Content-Range"] == "bytes 299000-299999/300000"


def test_a_client_that_could_not_see_a_cut_gets_a_chunked_file_with_its_length(
    origin: Origin, start: Callable[..., Proxy]
) -> None:
    body = origin.put("/a-1.tar", noise(300_000), Serve(chunked=True))
    proxy = start(origin.url)
    with proxy.connect() as connection:
        connection.sendall(b"GET /a-1.tar HTTP/1.0\r\n\r\n")
        head, _, got = connection.makefile("rb").read().partition(b"\r\n\r\n")
    assert b"Content-Length: 300000" in head
    assert got == body


LONG, SHORT = noise(300_000, 1), noise(3000, 2)

SPOILED: dict[str, tuple[bytes, Serve | Raw]] = {
    "cut": (LONG, Serve(cut=200_000)),
    "cut in the last ten bytes": (LONG, Serve(cut=len(LONG) - 10)),
    "cut before the last byte of a short file": (SHORT, Serve(cut=len(SHORT) - 1)),
    "cut before the first byte": (LONG, Serve(cut=0)),
    "reset": (LONG, Serve(reset=200_000)),
    "silent": (LONG, Serve(stall=200_000)),
    "longer than declared": (LONG, Serve(declared=len(LONG) - 10)),
    "short and longer than declared": (SHORT, Serve(declared=len(SHORT) - 10)),
    "shorter than declared, then silent": (SHORT, Serve(declared=len(SHORT) + 10)),
    "shorter than declared, then closed": (LONG, Serve(declared=len(LONG) + 10, cut=len(LONG))),
    "chunked and cut": (LONG, Serve(chunked=True, cut=200_000)),
    "chunked without its end": (LONG, Serve(chunked=True, cut=len(LONG))),
    "chunked, short, without its end": (SHORT, Serve(chunked=True, cut=len(SHORT))),
    "chunked with a size that is no number": (
        SHORT,
        Raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nbb8\r\n" + SHORT + b"\r\nx\r\n\r\n"),
    ),
    "neither length nor chunks": (SHORT, Serve(length=False)),
}


def place(name: str) -> str:
    return "/" + re.sub(r"\W+", "-", name) + "-1.tar"


@pytest.fixture(scope="module")
def spoiled(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Proxy, Origin, dict[str, Response]]]:
    """What clients got of every broken file, each asked for once, all at the same time: giving up takes seconds."""
    origin = Origin()
    for name, (body, behaviour) in SPOILED.items():
        origin.put(place(name), body, behaviour)
    limits = {"PACKAGE_CACHE_STALL_TIMEOUT": "3", "PACKAGE_CACHE_HEAD_TIMEOUT": "8"}
    proxy = Proxy(tmp_path_factory.mktemp("spoiled"), [origin.url], environment=limits, spawn=forks.spawn)
    try:
        names = list(SPOILED)
        got = all_at_once(len(names), lambda at: proxy.get(place(names[at])))
        assert not blobs(proxy.cache), "something broken was stored"
        yield proxy, origin, dict(zip(names, got, strict=True))
    finally:
        proxy.kill()
        origin.stop()


@pytest.mark.parametrize("name", SPOILED)
def test_a_broken_body_never_passes_for_a_whole_one(spoiled: tuple[Proxy, Origin, dict[str, Response]], name: str) -> None:
    answer = spoiled[2][name]
    body = SPOILED[name][0]
    if answer.status == 200:
        assert not answer.whole
        assert len(answer.body) <= len(body) - HELD_BACK + 10
        assert body.startswith(answer.body)
    else:
        assert answer.status in (502, 504)
        assert answer.fields["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize("name", SPOILED)
def test_what_was_broken_once_is_fetched_when_it_is_whole(
    spoiled: tuple[Proxy, Origin, dict[str, Response]], name: str
) -> None:
    proxy, origin, _ = spoiled
    body = SPOILED[name][0]
    origin.script(place(name), Serve())
    asked = len(origin.requests(place(name)))
    answer = proxy.get(place(name))
    assert (answer.status, answer.whole) == (200, True)
    assert answer.body == body
    assert answer.cache_status.endswith("stored")
    assert len(origin.requests(place(name))) > asked
    assert proxy.get(place(name)).cache_status == "package-cache; hit"


def test_the_end_is_held_back_until_the_file_is_verified(origin: Origin, start: Callable[..., Proxy]) -> None:
    gate = Gate()
    body = origin.put("/a-1.tar", noise(300_000), Serve(gate=gate, gate_at=299_999))
    proxy = start(origin.url)
    with streaming(proxy, "/a-1.tar") as response:
        assert response.read(300_000 - HELD_BACK) == body[:-HELD_BACK]
        assert gate.reached.wait(30)
        response.fp.raw._sock.settimeout(0.3)  # type: ignore[union-attr]
        with pytest.raises(TimeoutError):
            response.read(1)
        gate.open()


@both
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_every_size_is_served_and_stored(origin: Origin, start: Callable[..., Proxy], host: str, chunked: bool) -> None:
    proxy = start(origin.url, host=host)
    stored = set()
    for size in (0, 1, 65535, 65536, 65537, 131073):
        path = f"/{size}.tar"
        body = origin.put(path, noise(size), Serve(chunked=chunked))
        first, second, part = proxy.get(path), proxy.get(path), proxy.get(path, {"Range": "bytes=0-"})
        assert (first.status, first.body, first.whole) == (200, body, True)
        assert (second.body, second.cache_status) == (body, "package-cache; hit")
        assert second.fields["Content-Length"] == str(size)
        assert (part.status, part.body) == ((206, body) if size else (416, b""))
        assert len(origin.requests(path)) == 1
        stored.add(body)
    until(lambda: {path.read_bytes() for path in blobs(proxy.cache)} == stored)


def test_equal_bytes_of_two_keys_are_stored_once(origin: Origin, start: Callable[..., Proxy]) -> None:
    body = noise(100_000)
    for path in ("/a-1.tar", "/mirrored/a-1.tar", "/a-1.tar?x=1"):
        origin.put(path, body)
    proxy = start(origin.url)
    for path in ("/a-1.tar", "/mirrored/a-1.tar", "/a-1.tar?x=1"):
        assert proxy.get(path).body == body
    until(lambda: [path.name for path in blobs(proxy.cache)] == [hashlib.sha256(body).hexdigest()])
    assert len(origin.requests()) == 3


@both
def test_a_hundred_clients_of_ten_cold_files_get_them_with_ten_requests(
    origin: Origin, start: Callable[..., Proxy], host: str
) -> None:
    bodies = [origin.put(f"/{number}.tar", noise(50_000 * (number + 1), number)) for number in range(10)]
    proxy = start(origin.url, host=host)
    answers = all_at_once(100, lambda at: proxy.get(f"/{at % 10}.tar"))
    assert {answer.status for answer in answers} == {200}
    assert all(answer.whole and answer.body == bodies[at % 10] for at, answer in enumerate(answers))
    assert [len(origin.requests(f"/{number}.tar")) for number in range(10)] == [1] * 10
    until(lambda: len(blobs(proxy.cache)) == 10)
    until(lambda: not parts(proxy.cache))


_HOLD = """\
import os, sys, time
def hold(event, arguments):
    if event == "open" and os.path.dirname(os.fsdecode(arguments[0] if isinstance(arguments[0], (str, bytes)) else "")) \\
            .endswith("blobs-v1"):
        open({reached!r}, "w").close()
        while not os.path.exists({opened!r}):
            time.sleep(0.005)
sys.addaudithook(hold)
"""


def test_who_comes_between_the_last_byte_and_the_commit_waits_for_it(
    origin: Origin, start: Callable[..., Proxy], tmp_path: Path
) -> None:
    """One server is held where the file has its final name and the registry does not know it yet; another one is asked."""
    body = origin.put("/a-1.tar", noise(200_000))
    reached, opened = tmp_path / "reached", tmp_path / "opened"
    (tmp_path / "hold").mkdir()
    (tmp_path / "hold" / "sitecustomize.py").write_text(_HOLD.format(reached=str(reached), opened=str(opened)))
    held = start(origin.url, environment={"PYTHONPATH": str(tmp_path / "hold")})
    other = start(origin.url)
    with ThreadPoolExecutor(6) as pool:
        leading = pool.submit(held.get, "/a-1.tar")
        until(reached.exists)
        coming = [pool.submit(other.get, "/a-1.tar") for _ in range(4)]
        wait(coming, timeout=0.4)  # one that does not wait as it should is answered at once
        opened.touch()
        answers = [leading.result(), *(one.result() for one in coming)]
    assert [(answer.status, answer.body == body) for answer in answers] == [(200, True)] * 5
    assert len(origin.requests()) == 1


_SMALL_DISK = """\
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
"""


def test_a_file_the_disk_refuses_reaches_its_client_and_does_not_block_its_key(
    origin: Origin, start: Callable[..., Proxy], tmp_path: Path
) -> None:
    large = origin.put("/big-1.tar", noise(2_000_000))
    body = origin.put("/small-1.tar", noise(200_000))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(_SMALL_DISK)
    proxy = start(origin.url, environment={"PYTHONPATH": str(tmp_path / "site")})
    for _ in range(2):
        assert proxy.get("/big-1.tar").body == large
        until(lambda: not parts(proxy.cache))
    until(lambda: proxy.get("/small-1.tar").body == body and len(blobs(proxy.cache)) == 1)


def test_a_registry_that_is_busy_holds_no_client_up(origin: Origin, start: Callable[..., Proxy]) -> None:
    body = origin.put("/a-1.tar", noise(300_000))
    proxy = start(origin.url)
    with closing(sqlite3.connect(proxy.cache / "registry-v1.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for _ in range(2):
            answer = proxy.get("/a-1.tar")
            assert (answer.status, answer.whole, answer.body) == (200, True, body)
        assert parts(proxy.cache)
        connection.execute("ROLLBACK")
    until(lambda: not parts(proxy.cache))
    assert proxy.get("/a-1.tar").cache_status == "package-cache; hit"
    assert len(origin.requests()) == 1


# Fills by themselves


KEY = Key("/a-1.tar")
BODY = noise(600_000)
HEAD = Representation((), len(BODY), "http://mirror.example/a-1.tar", 1.0)


@pytest.fixture
def shelf(tmp_path: Path) -> PartStore:
    return PartStore(tmp_path / "parts-v1")


def receive(fill: Fill, lease: Lease, size: int) -> None:
    """Do what a download does for its first bytes."""
    lease.begin(HEAD)
    assert lease.part is not None
    assert lease.part.put(lease.have, BODY[lease.have : size])
    fill.publish(lease)


def begin(fills: Fills, lead: Lead, key: Key = KEY, is_here: Callable[[], bool] = lambda: False) -> Fill:
    """A fill, led here or followed, as the loop of a server begins it."""
    fill, leads = fills.make(key), Leads(lead, is_here, "", lambda: None)
    lease = fills.parts.claim(key)
    if lease is not None:
        fills.lead(fill, lease, leads, fills.threads.run)
    else:
        assert fill.enter()
        fills.follow(fill, leads)
    return fill


def follow(fills: Fills, lead: Lead) -> tuple[Fill, FillReader]:
    """Begin a fill, and a reader of it as soon as there can be one."""
    fill = begin(fills, lead)
    readers: list[FillReader] = []

    def has_reader() -> bool:
        reader = fill.reader(1)
        readers.extend([reader] if reader else [])
        return bool(readers)

    until(has_reader)
    return fill, readers[0]


def test_a_verified_file_is_read_to_its_end_though_it_cannot_be_stored(shelf: PartStore) -> None:
    go_on = threading.Event()

    def lead(leading: Leading) -> None:
        receive(leading.fill, leading.lease, len(BODY))
        go_on.wait(30)
        leading.lease.whole(hashlib.sha256(BODY).hexdigest(), len(BODY))
        leading.publish()
        raise StoreError("the registry cannot be used")

    fills = Fills(shelf)
    fill, reader = follow(fills, lead)
    blocks = reader.read(Span(0, len(BODY)))
    got = next(blocks)
    go_on.set()
    until(lambda: fill.progress().journal.done)
    assert got + b"".join(blocks) == BODY
    reader.close()
    fill.leave()


@pytest.mark.parametrize("error", [StoreError("no space"), ZeroDivisionError()], ids=["expected", "bug"])
def test_a_download_that_ends_in_an_error_tells_its_readers_and_frees_its_key(shelf: PartStore, error: Exception) -> None:
    go_on = threading.Event()

    def lead(leading: Leading) -> None:
        receive(leading.fill, leading.lease, 300_000)
        go_on.wait(30)
        raise error

    fills = Fills(shelf)
    fill, reader = follow(fills, lead)
    blocks = reader.read(Span(0, len(BODY)))
    next(blocks)
    go_on.set()
    with pytest.raises(FillError):
        list(blocks)
    reader.close()
    fill.leave()
    lease = shelf.claim(KEY)
    assert lease is not None
    assert lease.have == 0
    lease.done()


def test_a_reader_is_not_left_waiting_where_the_work_turns_out_to_be_done(shelf: PartStore) -> None:
    """So it is where a leader died after its commit: who takes over finds the file stored, and has no byte to add."""
    go_on = threading.Event()

    def lead(leading: Leading) -> None:
        receive(leading.fill, leading.lease, 300_000)
        go_on.wait(30)
        leading.lease.done()
        leading.publish()

    fills = Fills(shelf)
    fill, reader = follow(fills, lead)
    blocks = reader.read(Span(0, len(BODY)))
    next(blocks)
    go_on.set()
    with pytest.raises(ReplacedError):
        list(blocks)
    reader.close()
    fill.leave()


def test_the_failure_of_an_earlier_download_is_not_taken_for_that_of_the_next(shelf: PartStore, tmp_path: Path) -> None:
    """Between the lock of a lease and its first line, the journal still ends with what the holder before wrote."""
    earlier = shelf.claim(KEY)
    assert earlier is not None
    earlier.begin(HEAD)
    earlier.failed(Failed(502, "broke off"), keep=True)
    fills, next_holder = Fills(shelf), NameLocks(tmp_path / "leases-v2")
    assert next_holder.take(KEY)

    def lead(leading: Leading) -> None:
        leading.lease.done()
        leading.publish()

    with ThreadPoolExecutor(1) as pool:
        joining = pool.submit(fills.fetch, KEY, lead, lambda _progress: None)
        wait([joining], timeout=0.2)
        next_holder.free(KEY)
        assert joining.result(60) is None


def shown(fills: Fills, shelf: PartStore, size: int) -> tuple[Fill, Lease, FillReader]:
    """A fill of which the first bytes are shown, and nothing is written; its lease, and a reader of it."""
    lease = shelf.claim(KEY)
    assert lease is not None
    fill = fills.make(KEY)
    fill.show(HEAD, BODY[:size])
    reader = fill.reader(fill.progress().journal.number)
    assert reader is not None
    assert reader.visible() == size
    assert os.pread(reader.fileno(), size, 0) == BODY[:size]
    return fill, lease, reader


def test_what_was_shown_before_there_is_a_part_goes_on_in_the_part(shelf: PartStore) -> None:
    fills = Fills(shelf)
    fill, lease, reader = shown(fills, shelf, 1000)
    fill.publish(lease)  # nothing has come yet
    receive(fill, lease, 10)
    assert reader.visible() == 1000
    receive(fill, lease, 200_000)
    assert reader.visible() == 200_000
    assert os.pread(reader.fileno(), 1000, 199_000) == BODY[199_000:200_000]
    late = fill.reader(1)
    assert late is not None
    for one in (late, reader):
        one.close()
    lease.done()
    fill.leave()


def test_no_other_file_is_put_behind_what_was_shown(shelf: PartStore) -> None:
    for head, first in ((HEAD, b"?"), (dataclasses.replace(HEAD, source="http://other.example/a-1.tar"), BODY[:1])):
        fills = Fills(shelf)
        fill, lease, reader = shown(fills, shelf, 1000)
        lease.begin(head)
        assert lease.part is not None
        assert lease.part.put(0, first + BODY[1:200_000])
        fill.publish(lease)
        with pytest.raises(ReplacedError):
            reader.visible()
        reader.close()
        lease.failed(Failed(502, "enough"), keep=False)
        fill.leave()


def test_what_was_shown_can_still_be_read_where_the_disk_takes_nothing(shelf: PartStore) -> None:
    fills = Fills(shelf)
    fill, lease, reader = shown(fills, shelf, 1000)
    lease.failed(Failed(507, "no room"), keep=False)
    fill.publish(lease)
    with pytest.raises(UnstorableError):
        reader.visible()
    assert os.pread(reader.fileno(), 1000, 0) == BODY[:1000]
    reader.close()
    fill.leave()


OTHER = Key("/b-1.tar")


def test_what_is_here_by_now_needs_no_place_in_the_line(shelf: PartStore) -> None:
    fills, over, begun = Fills(shelf, 1), threading.Event(), threading.Event()

    def last(leading: Leading) -> None:
        assert over.wait(30)
        leading.lease.done()

    def note(leading: Leading) -> None:
        begun.set()
        leading.lease.done()

    first = begin(fills, last)
    second = begin(fills, note, OTHER, lambda: True)
    assert begun.wait(10)
    over.set()
    first.leave()
    second.leave()


def test_taking_a_download_over_holds_nobody_up_who_looks(
    shelf: PartStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop looks every few milliseconds, and a disk may take as long as it likes."""
    hangs, goes_on, led = threading.Event(), threading.Event(), threading.Event()
    dead = PartStore(tmp_path / "parts-v1").claim(KEY)
    assert dead is not None
    dead.begin(HEAD)
    dead.expose()
    truncate = os.ftruncate

    def hang(descriptor: int, size: int) -> None:
        hangs.set()
        assert goes_on.wait(60)
        truncate(descriptor, size)

    def lead(leading: Leading) -> None:
        leading.lease.done()
        led.set()

    fills = Fills(shelf)
    fill = begin(fills, lead)
    assert not led.is_set()
    monkeypatch.setattr(os, "ftruncate", hang)
    del dead  # and with it the lock
    with ThreadPoolExecutor(1) as pool:
        try:
            until(lambda: not pool.submit(fill.progress).result(10).journal.done and hangs.is_set())
            assert not pool.submit(fill.progress).result(10).journal.done
            assert pool.submit(fill.enter).result(10)
            other = pool.submit(begin, fills, lambda leading: leading.lease.done(), OTHER).result(10)
        finally:
            goes_on.set()
    assert led.wait(30)
    for one in (fill, fill, other):
        one.leave()


def test_a_forked_child_has_none_of_the_downloads_of_its_parent(shelf: PartStore) -> None:
    """It follows that of the parent as one of another process, and has a place for one of its own."""
    fills, over = Fills(shelf, 1), threading.Event()

    def last(leading: Leading) -> None:
        leading.lease.expose()
        assert over.wait(60)
        leading.lease.done()

    fill = begin(fills, last)
    child = os.fork()
    if child == 0:  # pragma: no cover
        signal.alarm(30)
        begun, led = threading.Event(), threading.Event()
        begin(fills, lambda _leading: begun.set(), OTHER)
        other = begin(fills, lambda _leading: led.set())
        os._exit(0 if begun.wait(20) and not led.is_set() and not other.progress().journal.done else 1)
    _, status = os.waitpid(child, 0)
    over.set()
    assert status == 0
    fill.leave()


def test_what_interrupts_who_downloads_gives_the_rest_to_who_waits(shelf: PartStore) -> None:
    fills, waits = Fills(shelf), threading.Event()
    had: list[int] = []

    def interrupted(leading: Leading) -> None:
        receive(leading.fill, leading.lease, 300_000)
        assert waits.wait(30)
        raise KeyboardInterrupt

    def finishes(leading: Leading) -> None:
        had.append(leading.lease.have)
        receive(leading.fill, leading.lease, len(BODY))
        leading.lease.done()
        leading.publish()

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(fills.fetch, KEY, interrupted, lambda _progress: None)
        until(lambda: KEY in fills.running and fills.running[KEY].progress().size == 300_000)
        others = [pool.submit(fills.fetch, KEY, finishes, lambda _progress: waits.set()) for _ in range(2)]
        with pytest.raises(KeyboardInterrupt):
            first.result(30)
        assert [one.result(30) for one in others] == [None, None]
    assert had[0] == 300_000
    assert not fills.running


def test_what_raises_while_it_is_told_how_far_a_download_is_reaches_its_caller(shelf: PartStore) -> None:
    """The lease is free then, and the bytes are there for the next one."""
    fills = Fills(shelf)

    def tell(_progress: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fills.fetch(KEY, lambda leading: receive(leading.fill, leading.lease, 300_000), tell)
    lease = shelf.claim(KEY)
    assert lease is not None
    assert lease.have == 300_000
    lease.failed(Failed(502, "enough"), keep=False)
