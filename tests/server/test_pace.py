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


def started(origin: Origin, start: Callable[..., Proxy], seconds: str, host: str = "wsgiref") -> Proxy:
    """The product with so much time for sending, and a large file that it has already."""
    origin.put("/large-1.tar", BODY)
    environment = {"PACKAGE_CACHE_SEND_TIMEOUT": seconds}
    proxy = start(origin.url, host=host, arguments=["--workers", "1", "-v"], environment=environment)
    assert proxy.get("/large-1.tar").body == BODY
    return proxy


def slow_reader(proxy: Proxy) -> Client:
    """A client with little room for what it does not read."""
    client = Client(proxy.address)
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    client.ask("/large-1.tar", "Connection: close")
    return client


def test_a_client_that_reads_slowly_gets_the_whole_file(origin: Origin, start: Callable[..., Proxy]) -> None:
    """The kernel takes much at once from the server and then nothing for seconds, while the client reads all the time."""
    proxy, received = started(origin, start, "4"), b""
    with slow_reader(proxy) as client:
        begun = time.monotonic()
        while time.monotonic() - begun < 10:
            received += client.socket.recv(4096)
            time.sleep(0.05)
        while block := client.socket.recv(1 << 20):
            received += block
    assert received.partition(b"\r\n\r\n")[2] == BODY


@pytest.mark.parametrize("host", ["wsgiref", "gunicorn"])
def test_a_client_that_takes_a_few_bytes_now_and_then_is_cut(
    origin: Origin, start: Callable[..., Proxy], host: str
) -> None:
    proxy, over = started(origin, start, "1", host), threading.Event()

    def trickle(client: Client) -> None:
        while not over.wait(0.05) and client.socket.recv(2):
            pass

    with slow_reader(proxy) as client:
        thread = threading.Thread(target=trickle, args=(client,), daemon=True)
        thread.start()
        until(lambda: any("/large-1.tar" in line and "-cut " in line for line in proxy.log))
        over.set()
        thread.join(30)
