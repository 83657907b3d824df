"""Whatever a client may ask, the event loop answers itself: no thread is held by who reads or sends slowly."""

import random
import resource
import select
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from audits import AUDIT, configured
from origin import Gate, Origin, Say, Serve, until
from product import Proxy, surroundings
from raw import Client

BODY = random.Random(1).randbytes(900)
LARGE = random.Random(2).randbytes(2_000_000)

Start = Callable[..., Proxy]


@pytest.fixture(params=["wsgiref", "gunicorn"])
def one(request: pytest.FixtureRequest, origin: Origin, start: Start) -> Proxy:
    """The product in one process, under each of its hosts."""
    return start(origin.url, host=request.param, arguments=["--workers", "1"])


def process(proxy: Proxy) -> int:
    return (proxy.workers() or [proxy.process.pid])[0]


def threads(proxy: Proxy) -> int:
    return len(list(Path(f"/proc/{process(proxy)}/task").iterdir()))


def test_requests_of_all_kinds_are_answered_in_order_on_one_connection(origin: Origin, one: Proxy) -> None:
    origin.put("/a-1.tar", BODY)
    kinds: list[tuple[int, bytes, list[str]]] = [
        (200, b"GET /a-1.tar HTTP/1.1", ["Connection: Upgrade", "Upgrade: h2c"]),
        (200, b"GET /a-1.tar HTTP/1.1", ["Expect: 100-continue"]),
        (200, b"GET /a-1.tar HTTP/1.0", ["Connection: keep-alive"]),
        (405, b"DELETE /a-1.tar HTTP/1.1", []),
        (405, b"OPTIONS * HTTP/1.1", []),
        (405, b"PURGE http://elsewhere.example/ HTTP/1.1", []),
        (206, b"GET /a-1.tar HTTP/1.1", ["Range: bytes=5-9"]),
        (206, b"GET /a-1.tar HTTP/1.1", ["Range: bytes=5-9,100-109"]),
        (416, b"GET /a-1.tar HTTP/1.1", ["Range: bytes=900-"]),
        (404, b"GET /none-1.tar HTTP/1.1", []),
        (403, b"GET http://elsewhere.example/a-1.tar HTTP/1.1", []),
        (404, b"GET /-/none HTTP/1.1", []),
        (200, b"GET http://127.0.0.1/-/health HTTP/1.1", []),
        (200, b"GET http://127.0.0.1/a-1.tar HTTP/1.1", []),
    ]
    with Client(one.address) as client:
        assert client.get("/a-1.tar").body == BODY
        until(lambda: one.get("/a-1.tar", method="HEAD").cache_status == "package-cache; hit")
        for _ in range(3):
            client.send(
                b"".join(b"\r\n".join([line, b"Host: x", *map(str.encode, more), b"", b""]) for _, line, more in kinds)
            )
            for status, line, _ in kinds:
                answer = client.answer()
                assert (line, answer.status, answer.whole) == (line, status, True)
                assert answer.get("connection") == "keep-alive"
                assert (answer.get("allow") == "GET, HEAD") == (status == 405)
                assert answer.get("content-length") == str(len(answer.body))


@pytest.mark.parametrize("first", ["HTTP/1.0", "HTTP/1.1"])
def test_whether_a_connection_persists_is_a_matter_of_each_request(origin: Origin, start: Start, first: str) -> None:
    """RFC 9112, 9.3: of the version too, where all else that a client says is the same."""
    origin.put("/a-1.tar", BODY)
    proxy = start(origin.url)
    assert proxy.get("/a-1.tar").body == BODY
    until(lambda: proxy.get("/a-1.tar", method="HEAD").cache_status == "package-cache; hit")
    for _ in range(3):
        for version in (first, "HTTP/1.0", "HTTP/1.1"):
            with Client(proxy.address) as client:
                lines = ("Host: mirror.example",) if version == "HTTP/1.0" else ()
                answer = client.get("/a-1.tar", *lines, version=version)
                assert (answer.body, answer.get("connection")) == (BODY, KEEPS[version])
                assert version == "HTTP/1.1" or client.ended()


KEEPS = {"HTTP/1.0": "close", "HTTP/1.1": "keep-alive"}


def test_slow_readers_of_a_growing_file_of_unknown_length_hold_no_thread(origin: Origin, one: Proxy) -> None:
    gate = Gate()
    origin.put("/big-1.tar", LARGE, Serve(chunked=True, gate=gate, gate_at=1_000_000))
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(one.address)) for _ in range(24)]
        clients[0].ask("/big-1.tar")
        assert gate.reached.wait(30)
        before = threads(one)
        for client in clients[1:]:
            client.ask("/big-1.tar")
        heads = [client.head() for client in clients]
        assert {(head.status, head.get("transfer-encoding"), head.get("content-length")) for head in heads} == {
            (200, "chunked", None)
        }
        assert threads(one) < before + 12
        gate.open()
        for client, head in zip(clients, heads, strict=True):
            answer = client.rest(head)
            assert (answer.whole, answer.body == LARGE) == (True, True)
            assert client.get("/-/health").status == 200, "the connection is good for more"
    assert len(origin.requests("/big-1.tar")) == 1


def test_a_broken_file_of_unknown_length_has_no_end(origin: Origin, one: Proxy) -> None:
    gate = Gate()
    broken = Serve(chunked=True, gate=gate, gate_at=1_000_000, cut=1_200_000, ranges=False)
    origin.put("/big-1.tar", LARGE, broken, Serve(cut=0))
    with ThreadPoolExecutor(4) as pool, ExitStack() as stack:
        clients = [stack.enter_context(Client(one.address)) for _ in range(4)]
        answers = [pool.submit(client.get, "/big-1.tar") for client in clients]
        assert gate.reached.wait(30)
        gate.open()
        for answer in answers:
            got = answer.result()
            assert got.status == 502 or not got.whole
            assert LARGE.startswith(got.body) or got.status == 502


@pytest.mark.parametrize("ended", [True, False], ids=["goes on", "breaks"])
def test_a_disk_that_fills_up_within_a_file_of_unknown_length_cuts_nobody(origin: Origin, one: Proxy, ended: bool) -> None:
    gate = Gate()
    first = Serve(chunked=True, gate=gate, gate_at=600_000)
    origin.put("/big-1.tar", LARGE, first, Serve(chunked=True, cut=None if ended else 1_500_000, ranges=False))
    assert one.get("/is-there-a-worker-1.tar").status == 404
    resource.prlimit(process(one), resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
    with Client(one.address) as client:
        client.ask("/big-1.tar")
        head = client.head()
        assert gate.reached.wait(30)
        gate.open()
        answer = client.rest(head)
    assert answer.whole == ended
    assert answer.body == LARGE if ended else LARGE.startswith(answer.body)


def test_content_is_held_for_so_many_clients_and_the_others_are_told_to_come_again(
    origin: Origin, start: Start, tmp_path: Path
) -> None:
    origin.put(AUDIT, BODY)
    proxy = start(config=configured(tmp_path, origin))
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(proxy.address)) for _ in range(13)]
        for client in clients[:12]:
            client.ask("/npm" + AUDIT, f"Content-Length: {10 << 20}", method="POST")
            client.send(b"begun")
        until(lambda: _answer_to_large(proxy) == 503)
        assert proxy.get("/-/health").status == 200
    until(lambda: _answer_to_large(proxy) == 408)


def _answer_to_large(proxy: Proxy) -> int:
    """What a client is told that announces much and sends nothing of it, in half a second; 408 if it is waited for."""
    with Client(proxy.address) as client:
        client.ask("/npm" + AUDIT, f"Content-Length: {10 << 20}", method="POST")
        return client.answer().status if select.select([client.socket], [], [], 0.5)[0] else 408


def test_content_that_does_not_come_is_not_waited_for_for_ever(origin: Origin, start: Start, tmp_path: Path) -> None:
    origin.put(AUDIT, BODY)
    proxy = start(config=configured(tmp_path, origin), environment={"PACKAGE_CACHE_REQUEST_TIMEOUT": "4"})
    with Client(proxy.address) as client:
        client.ask("/npm" + AUDIT, "Content-Length: 6", method="POST")
        client.send(b"abc")
        assert client.answer().status == 408
        assert client.ended()
    assert origin.requests() == []


def test_an_old_client_is_not_asked_for_its_content(origin: Origin, start: Start, tmp_path: Path) -> None:
    """RFC 9110, 10.1.1: HTTP/1.0 knows no 100 (Continue)."""
    origin.put(AUDIT, BODY)
    proxy = start(config=configured(tmp_path, origin))
    with Client(proxy.address) as client:
        client.ask("/npm" + AUDIT, "Content-Length: 6", "Expect: 100-continue", method="POST", version="HTTP/1.0")
        assert client.is_open(0.3)
        client.socket.settimeout(30)
        client.send(b"abcdef")
        answer = client.answer()
        assert (answer.status, answer.body) == (200, BODY)
    assert [asked.content for asked in origin.requests(AUDIT)] == [b"abcdef"]


def test_a_status_that_nobody_registered_is_passed_on(origin: Origin, start: Start, tmp_path: Path) -> None:
    origin.put(AUDIT, BODY, Say(477, b"odd"))
    proxy = start(config=configured(tmp_path, origin))
    with Client(proxy.address) as client:
        client.ask("/npm" + AUDIT, "Content-Length: 0", method="POST")
        answer = client.answer()
        assert (answer.status, answer.body) == (477, b"odd")


LOOP_WORKER = ["--worker-class", "package_cache.server.gunicorn.LoopWorker"]


def test_a_gunicorn_of_ones_own_may_have_the_loop_for_a_worker(origin: Origin, start: Start) -> None:
    origin.put("/a-1.tar", BODY)
    proxy = start(origin.url, host="gthread", arguments=LOOP_WORKER)
    with Client(proxy.address) as client:
        for _ in range(3):
            assert client.get("/a-1.tar").body == BODY
        assert client.get("/a-1.tar", method="PUT").get("server") == "gunicorn"
    assert proxy.stop() == 0


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (
            ["wsgiref.simple_server:demo_app"],
            "serves package_cache:create_app() and nothing",
        ),
        (["--certfile", __file__, "package_cache:create_app()"], "speaks no TLS"),
    ],
    ids=["another application", "TLS"],
)
def test_a_worker_says_what_it_cannot_serve(tmp_path: Path, words: list[str], reason: str) -> None:
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "-b",
        "127.0.0.1:0",
        "-w",
        "1",
        "--no-control-socket",
        *LOOP_WORKER,
        *words,
    ]
    environment = surroundings(PACKAGE_CACHE_CACHE=str(tmp_path), PACKAGE_CACHE_SOURCE="http://127.0.0.1:9/")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert reason in done.stderr
