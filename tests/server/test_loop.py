"""The event loop in front of both hosts: the same answers as the plain application, only quicker and for more clients."""

import contextlib
import hashlib
import http.client
import io
import os
import random
import re
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from examples import examples
from forks import Forks
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from origin import MODIFIED, Gate, Origin, Serve, until
from product import Proxy, blobs, parts
from raw import Client

from package_cache.compose import Server
from package_cache.errors import RequestError
from package_cache.rules.http.request import parse_head
from package_cache.server.loop import Loop
from package_cache.server.reactor import STALL_SECONDS, Limits

LOOPS = ("wsgiref", "gunicorn")
BODY = random.Random(5).randbytes(200_000)
ETAG = f'"{hashlib.md5(BODY).hexdigest()}"'

Start = Callable[..., Proxy]


class _Canned(io.BytesIO):
    """A socket for http.client that holds bytes already read."""

    def makefile(self, *_: object) -> io.BytesIO:
        return io.BytesIO(self.getvalue())


def exchange(proxy: Proxy, request: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    """Send bytes, close the sending side, and read every response until the server closes."""
    with proxy.connect() as connection:
        with contextlib.suppress(OSError):
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while block := connection.recv(1 << 20):
                received += block
    received = received.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    method = request.lstrip(b"\r\n").split(b" ")[0].decode("latin-1")
    answers = []
    while received.startswith(b"HTTP/"):
        response = http.client.HTTPResponse(_Canned(received), method=method)  # type: ignore[arg-type]
        response.begin()
        body = response.read()
        fields = {name.lower(): value for name, value in response.getheaders()}
        answers.append((response.status, fields, body))
        size = received.index(b"\r\n\r\n") + 4 + len(body)
        if "transfer-encoding" in fields:
            break
        received = received[size:]
    return answers


@pytest.fixture(scope="module")
def pair(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Proxy, Proxy]]:
    """The loop and the plain application, on one cache."""
    origin = Origin()
    origin.put("/a-1.tar.gz", BODY)
    origin.put("/empty-1.tar", b"")
    origin.put("/no-validators-1.tar.gz", BODY[:1000], etag=None, modified=None, content_type=None)
    origin.put("/dir/%2Bx%20y-1.tar.gz", BODY[:5000])
    cache = tmp_path_factory.mktemp("pair")
    loop = Proxy(cache, [origin.url], host="gunicorn", arguments=["--workers", "1"], spawn=forks.spawn)
    plain = Proxy(cache, [origin.url], host="gthread", spawn=forks.spawn)
    for path in list(origin.things):
        assert loop.get(path).whole
        assert loop.get(path, {"Accept": "application/json"}).whole  # a variant of its own
    deadline = time.monotonic() + 20
    while len(blobs(cache)) < 4:
        assert time.monotonic() < deadline
    yield loop, plain
    loop.kill()
    plain.kill()
    origin.stop()


STORED = ("/a-1.tar.gz", "/empty-1.tar", "/no-validators-1.tar.gz", "/dir/+x%20y-1.tar.gz", "/dir/%2bx%20y-1.tar.gz")
ODD = ("/missing-1.tar.gz", "/./a-1.tar.gz", "//a-1.tar.gz", "/a-1.tar.gz?x", "/../a", "/%zz", "/a-1.tar.gz#x", "*", "a")
ABSOLUTE = ("http://127.0.0.1/a-1.tar.gz", "http://elsewhere.example/a-1.tar.gz")
ESCAPES = st.sampled_from([*[None] * 8, "%{:02x}", "%{:02X}"])
SPELLED = st.builds(  # the same file in other letters
    lambda path, forms: (
        "/" + "".join(form.format(ord(one)) if form else one for one, form in zip(path, forms, strict=False))
    ),
    st.sampled_from(["a-1.tar.gz", "dir/../a-1.tar.gz", "empty-1.tar", "./no-validators-1.tar.gz"]),
    st.lists(ESCAPES, min_size=24, max_size=24),
)
PATHS = st.lists(
    st.sampled_from(
        ["a-1.tar.gz", "dir", "", ".", "..", "%2e%2e", "%2F", "%5c", "%", "%C3%AF", "%ff", "%00", "a:b", "@;=&", "[]"]
    ),
    max_size=4,
).map(lambda parts: "/" + "/".join(parts))
TARGETS = st.one_of(st.sampled_from(STORED), st.sampled_from([*STORED, *ODD, *ABSOLUTE]), SPELLED, PATHS)
NUMBERS = st.one_of(
    st.sampled_from(
        ["", "0", "1", "9", "199999", "200000", "200001", "99999999999999999999", "x", "-1", " 5", "007", "1_0"]
    ),
    st.integers(0, 210_000).map(str),
)
RANGES = st.one_of(
    st.builds("bytes={}-{}".format, NUMBERS, NUMBERS),
    st.builds("bytes={}-{}, {}-{}".format, NUMBERS, NUMBERS, NUMBERS, NUMBERS),
    st.sampled_from(["bytes=0-1,3-4", "lines=1-2", "bytes", "", "bytes=-", "BYTES=0-5", "bytes = 1 - 2", "bytes=,1-2,"]),
)
DATES = st.one_of(
    st.sampled_from([MODIFIED, "Mon, 01 Jan 2024 00:00:00 GMT", "Wed, 03 Jan 2024 00:00:00 GMT", "junk", "0", ""]),
    st.sampled_from(["Tuesday, 02-Jan-24 03:04:05 GMT", "Tue Jan  2 03:04:05 2024", "Tue, 02 Jan 2024 03:04:04 GMT"]),
)
TAGS = st.sampled_from(
    [ETAG, f"W/{ETAG}", '"other"', "*", f'"a", {ETAG}', '"a" , W/"b"', "junk", "", f"{ETAG},", f"*, {ETAG}"]
)
FIELDS = st.lists(  # most of them may be there twice
    st.one_of(
        st.tuples(st.just("Range"), RANGES),
        st.tuples(st.just("Range"), RANGES),
        st.tuples(st.just("If-None-Match"), TAGS),
        st.tuples(st.just("If-Modified-Since"), DATES),
        st.tuples(st.just("If-Range"), st.one_of(TAGS, DATES)),
        st.tuples(st.sampled_from(["If-Match", "If-Unmodified-Since"]), st.one_of(TAGS, DATES)),
        st.tuples(st.just("Accept"), st.sampled_from(["*/*", "text/html", "application/json"])),
        st.tuples(st.just("Connection"), st.sampled_from(["close", "keep-alive", "Keep-Alive, x"])),
        st.tuples(st.sampled_from(["X-Empty", "X_Range", "Range_"]), st.sampled_from(["", "bytes=0-1"])),
        st.tuples(st.just("Content-Length"), st.sampled_from(["0", "0", "3", "+1", "1,1"])),
        st.tuples(st.just("Expect"), st.sampled_from(["100-continue", "more"])),
        st.tuples(st.just("Host"), st.just("twice.example")),
        st.tuples(st.just("Transfer-Encoding"), st.sampled_from(["chunked", "gzip"])),
    ),
    max_size=4,
    # Two of Accept would name a file that is not here yet, and of two of Connection a Gunicorn heeds the first.
    unique_by=lambda pair: pair[0] if pair[0] in ("Accept", "Connection") else object(),
)


@settings(max_examples=examples(120), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["GET", "GET", "GET", "HEAD", "POST", "DELETE", "get"]),
    TARGETS,
    st.sampled_from(["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0"]),
    FIELDS,
)
@example(
    method="GET",
    target="/a-1.tar.gz",
    version="HTTP/1.1",
    fields=[("If-Modified-Since", "Tue Jan  2 03:04:05 2024"), ("If-Modified-Since", MODIFIED)],
)
@example(method="GET", target="/empty-1.tar", version="HTTP/1.1", fields=[("Transfer-Encoding", "chunked")])
@example(method="GET", target="/a-1.tar.gz", version="HTTP/1.0", fields=[("Connection", "Keep-Alive, x")])
@example(method="GET", target="/empty-1.tar.gz", version="HTTP/1.1", fields=[("Content-Length", "3")])
def test_the_loop_answers_as_the_plain_application(
    pair: tuple[Proxy, Proxy], method: str, target: str, version: str, fields: list[tuple[str, str]]
) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    request = f"{method} {target} {version}\r\nHost: cache.example\r\n{lines}\r\n".encode("latin-1")
    content = b"0\r\n\r\n" if ("Transfer-Encoding", "chunked") in fields else b"abc" * (("Content-Length", "3") in fields)
    first, second = (exchange(proxy, request + content) for proxy in pair)
    try:
        parse_head(request)
    except RequestError:  # what is no request is refused by each server in its own words, and the connection closed
        assert [one[0] >= 400 for one in (*first, *second)] == [True, True]
        return
    if second[0][1].get("content-type") == "text/html":  # refused by Gunicorn's parser, before the application is asked
        assert [one[0] in (400, 405) for one in first] == [True]
        return
    if second[0][0] in (400, 414):  # refused there, and here in the words of the loop
        assert [one[0] for one in first] == [one[0] for one in second]
        return
    # Gunicorn calls a connection persistent that the application will close behind a request with content, and not one of
    # HTTP/1.0 that asks for that and for something else.
    listed = version == "HTTP/1.0" and any(name == "Connection" and "," in value for name, value in fields)
    others = {"date", "age", "server"} | ({"connection"} if content or listed else set())
    assert [_comparable(one, others) for one in first] == [_comparable(one, others) for one in second]


def _comparable(answer: tuple[int, dict[str, str], bytes], others: set[str]) -> tuple[int, dict[str, str], bytes]:
    status, fields, body = answer
    kept = {name: value for name, value in fields.items() if name not in others}
    return status, kept, body


@pytest.fixture(params=LOOPS)
def loop_host(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_pipelined_requests_are_answered_in_order(origin: Origin, start: Start, loop_host: str) -> None:
    origin.put("/a-1.tar.gz", BODY)
    origin.put("/b-1.tar.gz", BODY[:10])
    proxy = start(origin.url, host=loop_host)
    one = b"GET /%b-1.tar.gz HTTP/1.1\r\nHost: x\r\n\r\n"
    sent = (
        b"".join(one % name for name in (b"a", b"b") * 300)
        + one.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") % b"b"
    )
    with proxy.connect() as connection:
        threading.Thread(target=connection.sendall, args=(sent,), daemon=True).start()
        with connection.makefile("rb") as stream:
            for number in range(601):
                length = _length_of_next(stream)
                assert stream.read(length) == (BODY if number % 2 == 0 and number < 600 else BODY[:10])
            assert stream.read() == b""
    assert len(origin.requests()) == 2


def test_whoever_has_sent_all_its_requests_may_close_its_side(origin: Origin, start: Start, loop_host: str) -> None:
    """RFC 9112, 9.3.2 and 9.6: what was asked before is answered, and in full."""
    origin.put("/a-1.tar.gz", BODY[:10])
    proxy = start(origin.url, host=loop_host)
    one, count = b"GET /a-1.tar.gz HTTP/1.1\r\nHost: x\r\n\r\n", 1500
    with Client(proxy.address) as client:
        client.send(one * 2)
        assert [client.answer().body for _ in range(2)] == [BODY[:10]] * 2  # the loop knows it now
        client.send(one * count)
        first = client.answer()
        client.socket.shutdown(socket.SHUT_WR)
        assert [first.body, *(client.answer().body for _ in range(count - 1))] == [BODY[:10]] * count
        assert client.ended()


def _length_of_next(stream: io.BufferedIOBase) -> int:
    assert stream.readline() == b"HTTP/1.1 200 OK\r\n"
    length = -1
    while (line := stream.readline()) != b"\r\n":
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return length


def test_a_change_made_by_one_server_is_seen_by_all_on_the_next_request(
    origin: Origin, start: Start, tmp_path: Path
) -> None:
    origin.put("/a-1.tar.gz", BODY)
    one = start(origin.url, host="gunicorn", arguments=["--workers", "1"])
    other = start(origin.url, host="wsgiref")
    assert one.get("/a-1.tar.gz").body == other.get("/a-1.tar.gz").body == BODY
    assert one.get("/a-1.tar.gz").cache_status == "package-cache; hit"
    deadline = time.monotonic() + 20
    while not blobs(tmp_path / "cache"):  # the last byte may be served a moment before the file is stored
        assert time.monotonic() < deadline
    blobs(tmp_path / "cache")[0].unlink()
    origin.put("/a-1.tar.gz", BODY[:777])
    # A third server finds the damage and fetches again; the two that have the old file open must notice.
    third = start(origin.url, host="wsgiref")
    assert third.get("/a-1.tar.gz").body == BODY[:777]
    assert one.get("/a-1.tar.gz").body == BODY[:777]
    assert other.get("/a-1.tar.gz").body == BODY[:777]


def test_slow_readers_of_a_growing_file_hold_no_thread(origin: Origin, start: Start, loop_host: str) -> None:
    gate = Gate()
    body = origin.put("/big-1.tar.gz", os.urandom(2_000_000), Serve(gate=gate, gate_at=1_000_000))
    origin.put("/small-1.tar.gz", BODY[:100])
    proxy = start(origin.url, host=loop_host, arguments=["--threads", "4"])
    readers = [proxy.connect() for _ in range(24)]
    for reader in readers:
        reader.sendall(b"GET /big-1.tar.gz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert gate.reached.wait(30)
    assert proxy.get("/small-1.tar.gz").body == BODY[:100]
    gate.open()
    for reader in readers:
        with reader, reader.makefile("rb") as stream:
            received = stream.read()
            assert received.partition(b"\r\n\r\n")[2] == body
    assert len(origin.requests("/big-1.tar.gz")) == 1


def test_a_broken_fill_cuts_every_reader(origin: Origin, start: Start, loop_host: str) -> None:
    gate = Gate()
    origin.put("/big-1.tar.gz", os.urandom(1_000_000), Serve(gate=gate, gate_at=500_000, cut=600_000, ranges=False))
    proxy = start(origin.url, host=loop_host)
    results: list[bool] = []
    threads = [
        threading.Thread(target=lambda: results.append(proxy.get("/big-1.tar.gz").whole), daemon=True) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    assert gate.reached.wait(30)
    gate.open()
    for thread in threads:
        thread.join(60)
    assert results == [False] * 8


def test_more_connections_than_there_are_places_are_told_so(origin: Origin, start: Start) -> None:
    origin.put("/a-1.tar.gz", BODY)
    proxy = start(origin.url, environment={"PACKAGE_CACHE_CONNECTIONS": "4"})
    assert proxy.get("/a-1.tar.gz").whole
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(proxy.connect()).sendall(b"G")  # who says nothing takes a place after a second
        deadline = time.monotonic() + 20
        while proxy.get("/a-1.tar.gz").status != 503:
            assert time.monotonic() < deadline
    deadline = time.monotonic() + 20
    while proxy.get("/a-1.tar.gz").status != 200:
        assert time.monotonic() < deadline


def test_sigterm_lets_a_running_download_come_to_its_end(origin: Origin, start: Start, loop_host: str) -> None:
    gate = Gate()
    body = origin.put("/a-1.tar.gz", BODY, Serve(gate=gate, gate_at=100_000))
    proxy = start(origin.url, host=loop_host, environment={"PACKAGE_CACHE_STALL_TIMEOUT": "100"})
    results: list[bytes] = []
    client = threading.Thread(target=lambda: results.append(proxy.get("/a-1.tar.gz").body), daemon=True)
    client.start()
    assert gate.reached.wait(30)
    codes: list[int] = []
    stopper = threading.Thread(target=lambda: codes.append(proxy.stop()), daemon=True)
    stopper.start()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:  # until nobody listens any more
        try:
            proxy.connect().close()
        except OSError:
            break
    gate.open()
    client.join(30)
    stopper.join(30)
    assert results == [body]
    assert codes == [0]


def test_a_range_far_ahead_of_a_fill_is_fetched_beside_it(origin: Origin, start: Start, loop_host: str) -> None:
    gate = Gate()
    body = origin.put("/big-1.tar.gz", os.urandom(4_000_000), Serve(gate=gate, gate_at=100_000), Serve())
    proxy = start(origin.url, host=loop_host)
    whole: list[bytes] = []
    client = threading.Thread(target=lambda: whole.append(proxy.get("/big-1.tar.gz").body), daemon=True)
    client.start()
    assert gate.reached.wait(30)
    answer = proxy.get("/big-1.tar.gz", {"Range": "bytes=3000000-3065535"})
    assert (answer.status, answer.body) == (206, body[3_000_000:3_065_536])
    assert not whole
    gate.open()
    client.join(30)
    assert whole == [body]
    assert [one.fields.get("range") for one in origin.requests()] == [None, "bytes=3000000-3065535"]


def test_a_range_that_breaks_off_beside_a_fill_is_ended_from_the_fill(origin: Origin, start: Start, loop_host: str) -> None:
    gate = Gate()
    body = origin.put("/big-1.tar.gz", os.urandom(4_000_000), Serve(gate=gate, gate_at=100_000), Serve(cut=3_500_000))
    proxy = start(origin.url, host=loop_host)
    threading.Thread(target=proxy.get, args=("/big-1.tar.gz",), daemon=True).start()
    assert gate.reached.wait(30)
    with proxy.connect() as connection, connection.makefile("rb") as stream:
        lines = b"Host: x\r\nRange: bytes=3000000-3999999\r\nConnection: close\r\n\r\n"
        connection.sendall(b"GET /big-1.tar.gz HTTP/1.1\r\n" + lines)
        assert stream.readline() == b"HTTP/1.1 206 Partial Content\r\n"
        while stream.readline() != b"\r\n":
            pass
        assert stream.read(400_000) == body[3_000_000:3_400_000]
        gate.open()
        assert stream.read() == body[3_400_000:]


def test_a_range_far_ahead_waits_for_the_fill_where_the_source_proves_nothing(
    origin: Origin, start: Start, loop_host: str
) -> None:
    gate = Gate()
    body = origin.put("/big-1.tar.gz", os.urandom(4_000_000), Serve(gate=gate, gate_at=100_000), etag=None, modified=None)
    proxy = start(origin.url, host=loop_host)
    threading.Thread(target=proxy.get, args=("/big-1.tar.gz",), daemon=True).start()
    assert gate.reached.wait(30)
    part: list[bytes] = []
    asker = threading.Thread(
        target=lambda: part.append(proxy.get("/big-1.tar.gz", {"Range": "bytes=3000000-3000009"}).body), daemon=True
    )
    asker.start()
    gate.open()
    asker.join(30)
    assert part == [body[3_000_000:3_000_010]]
    assert len(origin.requests()) == 1


def on_start(folder: Path, code: str) -> dict[str, str]:
    """The environment in which an interpreter does this first."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def test_more_hot_files_than_descriptors_are_served(origin: Origin, start: Start, tmp_path: Path) -> None:
    bodies = [origin.put(f"/file-{number}.tar", b"%d" % number) for number in range(120)]
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (96, 96))"
    proxy = start(origin.url, environment=on_start(tmp_path / "wrapped", limit))
    for _ in range(2):
        for number, body in enumerate(bodies):
            assert proxy.get(f"/file-{number}.tar").body == body


WITHOUT_EPOLL = """
import select
for name in [name for name in vars(select) if name.lower().startswith("epoll")]:
    delattr(select, name)
"""


@pytest.fixture
def polling(origin: Origin, start: Start, loop_host: str, tmp_path: Path) -> Proxy:
    """The product on a system without epoll, with a small file that it has and a large one."""
    origin.put("/a-1.tar.gz", BODY)
    origin.put("/large-1.tar.gz", random.Random(6).randbytes(16 << 20))
    limits = {"PACKAGE_CACHE_REQUEST_TIMEOUT": "4", "PACKAGE_CACHE_STALL_TIMEOUT": "100"}
    environment = on_start(tmp_path / "wrapped", WITHOUT_EPOLL) | limits
    proxy = start(origin.url, host=loop_host, arguments=["--threads", "4"], environment=environment)
    for path in ("/a-1.tar.gz", "/large-1.tar.gz"):
        assert proxy.get(path).whole
    until(lambda: not parts(proxy.cache))
    descriptors = [path for pid in proxy.workers() or [proxy.process.pid] for path in Path(f"/proc/{pid}/fd").iterdir()]
    assert descriptors
    assert not [path for path in descriptors if "eventpoll" in os.readlink(path)]
    return proxy


def test_without_epoll_one_connection_is_good_for_everything(polling: Proxy) -> None:
    with Client(polling.address) as client:
        for _ in range(3):
            assert client.get("/a-1.tar.gz").body == BODY
            assert client.get("/a-1.tar.gz", method="HEAD").get("content-length") == str(len(BODY))
            assert client.get("/a-1.tar.gz", "Range: bytes=5-9").body == BODY[5:10]
            assert client.get("/a-1.tar.gz", f"If-None-Match: {ETAG}").status == 304
            assert client.get("/missing-1.tar.gz").status == 404
            assert client.get("http://127.0.0.1/a-1.tar.gz").body == BODY, "by way of the host"
            assert client.get("/a-1.tar.gz", method="PUT").status == 405
        for _ in range(20):
            client.ask("/a-1.tar.gz")
        assert all(client.answer().body == BODY for _ in range(20))
    assert polling.stop() == 0


def test_without_epoll_slow_clients_hold_nobody_up(origin: Origin, polling: Proxy) -> None:
    gate = Gate()
    body = origin.put("/cold-1.tar.gz", random.Random(7).randbytes(1_000_000), Serve(gate=gate, gate_at=500_000))
    with contextlib.ExitStack() as stack:
        waiting, slow = ([stack.enter_context(Client(polling.address)) for _ in range(8)] for _ in range(2))
        for client in waiting:
            client.ask("/cold-1.tar.gz")
        for client in slow:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            client.ask("/large-1.tar.gz")
        assert gate.reached.wait(30)
        silent, halfway = stack.enter_context(Client(polling.address)), stack.enter_context(Client(polling.address))
        halfway.send(b"GET /a-1")
        assert polling.get("/a-1.tar.gz").body == BODY
        assert silent.ended()
        assert halfway.answer().status == 408
        gate.open()
        assert all(client.answer().body == body for client in waiting)
        slow.pop().socket.close()
        assert all(client.answer().body == origin.things["/large-1.tar.gz"].body for client in slow)
    assert len(origin.requests("/cold-1.tar.gz")) == 1
    assert polling.stop() == 0
    assert "Traceback" not in "".join(polling.log)


# -- what holds the loop up, and what does not


def test_a_turn_that_is_held_up_is_counted_and_logged(
    origin: Origin, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    application = Server(sources=[origin.url], cache=tmp_path / "cache")
    reader, writer = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        loop = Loop([listener], application, Limits(10), "test")
        loop.register(reader, select.POLLIN, lambda _: threading.Event().wait(1.2 * STALL_SECONDS) or os.read(reader, 1))
        loop.turn(1.2 * STALL_SECONDS)  # to wait for clients is no stall
        assert (loop.counters.stalls, caplog.text) == (0, "")
        os.write(writer, b"!")
        loop.turn(1.0)
        assert loop.counters.stalls == 1
        assert re.search(
            r"WARNING +package_cache\.server\.reactor:.* the event loop was held up for 0\.\d\d s", caplog.text
        )
        loop.close()
    os.close(reader)
    os.close(writer)
    application.service.close()


def test_a_clock_that_is_set_back_stops_no_notes_of_last_use(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.put("/a-1.tar.gz", BODY)
    monkeypatch.setattr("package_cache.server.loop._NOTE_SECONDS", 0.05)
    real, back = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() - back[0])
    application = Server(sources=[origin.url], cache=tmp_path / "cache")
    noted: list[float] = []
    monkeypatch.setattr(application.service, "note_use", lambda used: noted.extend(used.values()))
    with socket.create_server(("127.0.0.1", 0)) as listener, Client(listener.getsockname()) as client:
        loop = Loop([listener], application, Limits(10), "test")

        def ask() -> None:
            client.ask("/a-1.tar.gz")
            answered = threading.Thread(target=client.answer)
            answered.start()
            until(lambda: loop.turn(0.01) or not answered.is_alive())

        for back[0] in (0.0, 3600.0, 7200.0):
            noted.clear()
            until(lambda: ask() or noted)  # from the hot set, sooner or later
            assert abs(noted[-1] - time.time()) < 600
        loop.close()
    application.service.close()


def test_a_client_that_breaks_off_does_not_end_the_connection_of_who_has_its_descriptor_next(
    origin: Origin, tmp_path: Path
) -> None:
    """In one turn: the answer to a client that is gone, a new client, and then that the first one is gone."""
    application = Server(sources=[origin.url], cache=tmp_path / "cache")
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as stack:
        loop = Loop([listener], application, Limits(10), "test")
        gone = Client(listener.getsockname())
        gone.ask("/-/health")  # which a thread answers
        until(lambda: any(one.busy for one in loop._connections.values()) or loop.turn(0.01))
        until(lambda: not loop._calls.empty())
        new = stack.enter_context(Client(listener.getsockname()))
        gone.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.socket.close()
        for _ in range(9):  # no lower descriptor is free than that which the loop closes
            stack.enter_context(open(os.devnull))
        loop.turn(1.0)
        new.ask("/-/health")
        until(lambda: loop.turn(0.01) or select.select([new.socket], [], [], 0)[0])
        assert new.answer().status == 200
        loop.close()
    application.service.close()


def test_a_disk_that_does_not_answer_stalls_nobody(origin: Origin, start: Start, loop_host: str) -> None:
    """The place of a file is taken by a pipe that nobody writes to: whoever opens it hangs."""
    slow, quick = origin.put("/slow-1.tar.gz", BODY[:99_999]), origin.put("/a-1.tar.gz", BODY)
    options = ["--workers", "1", "--threads", "4"]
    first = start(origin.url, host=loop_host, arguments=options)
    for path in ("/slow-1.tar.gz", "/a-1.tar.gz"):
        assert first.get(path).whole
    until(lambda: not parts(first.cache))
    first.stop()
    digest = hashlib.sha256(slow).hexdigest()
    place = first.cache / "blobs-v1" / digest[:2] / digest
    proxy = start(origin.url, host=loop_host, arguments=options)
    assert proxy.get("/a-1.tar.gz").body == quick
    place.unlink()
    os.mkfifo(place)
    with contextlib.ExitStack() as stack:
        hanging = [stack.enter_context(Client(proxy.address)) for _ in range(8)]
        for client in hanging:
            client.ask("/slow-1.tar.gz")
        for _ in range(20):
            with Client(proxy.address, timeout=20) as client:
                for _ in range(5):
                    assert client.get("/a-1.tar.gz").body == quick
        assert all(client.is_open(0.001) for client in hanging)
        pipe = os.open(place, os.O_RDWR)
        stack.callback(os.close, pipe)
        for client in hanging:
            client.socket.settimeout(30)
            assert client.answer().body == slow
    assert len(origin.requests("/slow-1.tar.gz")) == 2
