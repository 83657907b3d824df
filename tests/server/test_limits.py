"""Clients that are slow to ask, to read or to leave: they hold nobody up, and they are ended in time."""

import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
from origin import Origin, until
from product import Proxy
from raw import Client

BODY = random.Random(1).randbytes(1000)
PATIENCE = 20.0
"""Seconds a client waits for an answer; less than the limits that are not meant to be reached."""
NEVER = {"PACKAGE_CACHE_REQUEST_TIMEOUT": "100", "PACKAGE_CACHE_IDLE_TIMEOUT": "100", "PACKAGE_CACHE_SEND_TIMEOUT": "100"}
FEW_THREADS = ("--threads", "2")

Start = Callable[..., Proxy]


@pytest.fixture(params=["wsgiref", "gunicorn"])
def launch(request: pytest.FixtureRequest, origin: Origin, start: Start) -> Callable[..., Proxy]:
    """Starts the product in one process, with a file that it has already."""
    origin.put("/file-1.tar", BODY)

    def _launch(*arguments: str, **limits: str) -> Proxy:
        environment = NEVER | {f"PACKAGE_CACHE_{name.upper()}_TIMEOUT": value for name, value in limits.items()}
        options = ["--workers", "1", *arguments]
        proxy = start(origin.url, host=request.param, arguments=options, environment=environment)
        assert proxy.get("/file-1.tar").body == BODY
        return proxy

    return _launch


@contextmanager
def clients(proxy: Proxy, count: int, data: bytes = b"") -> Iterator[list[Client]]:
    """Connections that have sent this, and no more."""
    with ExitStack() as stack:
        opened = [stack.enter_context(Client(proxy.address, PATIENCE)) for _ in range(count)]
        for client in opened:
            client.send(data)
        yield opened


def assert_serves(proxy: Proxy) -> None:
    with Client(proxy.address, PATIENCE) as client:
        for _ in range(2):
            assert client.get("/file-1.tar").body == BODY


@pytest.mark.parametrize(
    "data",
    [b"", b"\r\n", b"G", b"GET /file-1.tar HTTP/1.1\r\nHost: a\r\nX: ", b"GET /file-1.tar HTTP/1.1\r\nX: " + b"a" * 20000],
    ids=["nothing", "an empty line", "one byte", "half a head", "a lot of a head"],
)
def test_more_clients_than_threads_that_do_not_ask_hold_nobody_up(launch: Callable[..., Proxy], data: bytes) -> None:
    proxy = launch(*FEW_THREADS)
    with clients(proxy, 10, data) as waiting:
        assert_serves(proxy)
        assert all(client.is_open(0.01) for client in waiting)
        for client in waiting[:3]:
            client.send(b"\r\n\r\n")
        assert_serves(proxy)


def test_more_clients_than_threads_that_trickle_a_head_hold_nobody_up(launch: Callable[..., Proxy]) -> None:
    proxy = launch(*FEW_THREADS)
    done = threading.Event()
    with clients(proxy, 10, b"GET /file-1.tar HTTP/1.1\r\nHost: a\r\nX: ") as trickling:

        def trickle() -> None:
            while not done.wait(0.01):
                for client in trickling:
                    client.send(b"y")

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            assert_serves(proxy)
        finally:
            done.set()
            thread.join()
        for client in trickling:
            client.send(b"\r\n\r\n")
            assert client.answer().body == BODY


def test_more_idle_connections_than_threads_hold_nobody_up(launch: Callable[..., Proxy]) -> None:
    proxy = launch(*FEW_THREADS)
    with clients(proxy, 10, b"GET /file-1.tar HTTP/1.1\r\nHost: a\r\n\r\n") as idle:
        for client in idle:
            assert client.answer().body == BODY
        assert_serves(proxy)
        for client in idle:
            assert client.get("/file-1.tar").body == BODY


def test_clients_that_do_not_leave_hold_nobody_up(launch: Callable[..., Proxy]) -> None:
    """Each of them may be given a second or two to read its answer, but not one after the other."""
    proxy = launch(*FEW_THREADS)
    with clients(proxy, 25, b"GET /../file-1.tar HTTP/1.1\r\nHost: a\r\n\r\n") as refused:
        for client in refused:
            assert client.answer().status == 400
        assert_serves(proxy)
    with clients(proxy, 25, b"GET /file-1.tar HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n") as served:
        for client in served:
            assert client.answer().body == BODY
        assert_serves(proxy)


def test_a_client_that_does_not_ask_is_ended(launch: Callable[..., Proxy]) -> None:
    proxy = launch(request="4")
    with clients(proxy, 2) as silent, clients(proxy, 2, b"\r\n") as nearly, clients(proxy, 2, b"GET / HT") as halfway:
        for client in (*silent, *nearly):
            assert client.ended()
        for client in halfway:
            assert client.answer().status == 408
            assert client.ended()
    assert_serves(proxy)


def test_a_trickle_does_not_extend_the_time_for_a_head(launch: Callable[..., Proxy]) -> None:
    proxy = launch(request="4")
    done = threading.Event()
    with Client(proxy.address, PATIENCE) as client:

        def trickle() -> None:
            with suppress(OSError):
                client.send(b"GET /file-1.tar HTTP/1.1\r\nX: ")
                while not done.wait(0.05):
                    client.send(b"y")

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            assert client.answer().status == 408
        finally:
            done.set()
            thread.join()
    assert_serves(proxy)


def test_the_head_of_a_second_request_has_a_limit_too(launch: Callable[..., Proxy]) -> None:
    proxy = launch(request="4")
    with Client(proxy.address, PATIENCE) as client:
        assert client.get("/file-1.tar").body == BODY
        client.send(b"GET /file-1.tar HTTP/1.1\r\n")
        assert client.answer().status == 408
        assert client.ended()


def test_an_idle_connection_is_ended_without_a_word(launch: Callable[..., Proxy]) -> None:
    proxy = launch(idle="4", request="4")
    with Client(proxy.address, PATIENCE) as client, Client(proxy.address, PATIENCE) as another:
        for _ in range(3):
            assert client.get("/file-1.tar").body == BODY
        assert another.get("/file-1.tar").body == BODY
        another.send(b"\r\n")
        assert client.ended()
        assert another.ended()
    assert_serves(proxy)


@pytest.mark.parametrize("kind", ["hit", "miss"])
def test_a_client_that_stops_reading_is_ended_and_gives_its_thread_back(
    launch: Callable[..., Proxy], origin: Origin, kind: str
) -> None:
    body = origin.put("/large-1.tar", random.Random(2).randbytes(24 << 20))
    proxy = launch("--threads", "1", "-v", send="4")
    if kind == "hit":
        assert proxy.get("/large-1.tar").body == body
        until(lambda: proxy.get("/large-1.tar", method="HEAD").cache_status == "package-cache; hit")
    with Client(proxy.address, PATIENCE) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        client.ask("/large-1.tar")
        head = client.head()
        assert head.status == 200
        assert_serves(proxy)
        until(lambda: any("/large-1.tar" in line and "-cut " in line for line in proxy.log))
        assert not client.rest(head).whole
    assert proxy.get("/large-1.tar").body == body
