"""Clients that read slowly get their file; those that take next to nothing are cut, however often they take it."""

import random
import socket
import threading
import time
from collections.abc import Callable

import pytest
from origin import Origin, until
from product import Proxy
from raw import Client

BODY = random.Random(1).randbytes(8 << 20)
LIMITS = {"PACKAGE_CACHE_SEND_TIMEOUT": "1"}


@pytest.fixture(params=["wsgiref", "gunicorn"])
def proxy(request: pytest.FixtureRequest, origin: Origin, start: Callable[..., Proxy]) -> Proxy:
    """The product with a short time for sending, and a large file that it has already."""
    origin.put("/large-1.tar", BODY)
    proxy = start(origin.url, host=request.param, arguments=["--workers", "1", "-v"], environment=LIMITS)
    assert proxy.get("/large-1.tar").body == BODY
    return proxy


def slow_reader(proxy: Proxy) -> Client:
    """A client with little room for what it does not read."""
    client = Client(proxy.address)
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    client.ask("/large-1.tar", "Connection: close")
    return client


def test_a_client_that_reads_slowly_gets_the_whole_file(proxy: Proxy) -> None:
    """The kernel takes much at once from the server and then nothing for seconds, while the client reads all the time."""
    received = b""
    with slow_reader(proxy) as client:
        begun = time.monotonic()
        while time.monotonic() - begun < 4:
            received += client.socket.recv(4096)
            time.sleep(0.05)
        while block := client.socket.recv(1 << 20):
            received += block
    assert received.partition(b"\r\n\r\n")[2] == BODY


def test_a_client_that_takes_a_few_bytes_now_and_then_is_cut(proxy: Proxy) -> None:
    over = threading.Event()

    def trickle(client: Client) -> None:
        while not over.wait(0.05) and client.socket.recv(2):
            pass

    with slow_reader(proxy) as client:
        thread = threading.Thread(target=trickle, args=(client,), daemon=True)
        thread.start()
        until(lambda: any("/large-1.tar" in line and "-cut " in line for line in proxy.log))
        over.set()
        thread.join(30)
