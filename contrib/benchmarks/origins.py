"""A source that sends one body for every path at a steady pace, in a process of its own, and counts what it is asked."""

import contextlib
import multiprocessing
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

RATE = 50_000_000
"""Bytes a second on each connection."""

_BLOCK = 64 * 1024
_RANGE = re.compile(rb"\r\nrange: *bytes=(\d+)-(\d*) *\r\n", re.IGNORECASE)


@dataclass(frozen=True)
class Paced:
    """Where the source is, and how many files it was asked for."""

    address: tuple[str, int]
    counter: Any

    @property
    def asked(self) -> int:
        return int(self.counter.value)


@contextlib.contextmanager
def paced(body: bytes) -> Iterator[Paced]:
    """The source of `body`, until the block ends."""
    context = multiprocessing.get_context("fork")
    counter = context.Value("i", 0)
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        process = context.Process(target=_serve, args=(listener, body, counter), daemon=True)
        process.start()
        try:
            yield Paced(listener.getsockname(), counter)
        finally:
            process.kill()
            process.join()


def _serve(listener: socket.socket, body: bytes, counter: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the benchmark, which ends this
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_converse, args=(connection, body, counter), daemon=True).start()


def _converse(connection: socket.socket, body: bytes, counter: Any) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection, contextlib.suppress(OSError):
        head = b""
        while data := connection.recv(65536):
            head += data
            if b"\r\n\r\n" in head:
                _answer(connection, head, body, counter)
                if b"onnection: close" in head:
                    return
                head = b""


def _answer(connection: socket.socket, head: bytes, body: bytes, counter: Any) -> None:
    if b" /ready" in head:
        connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        return
    with counter.get_lock():
        counter.value += 1
    start, stop, status, extra = 0, len(body), "200 OK", ""
    if found := _RANGE.search(head):
        start, stop = int(found[1]), min(len(body), int(found[2]) + 1 if found[2] else len(body))
        status, extra = "206 Partial Content", f"Content-Range: bytes {start}-{stop - 1}/{len(body)}\r\n"
    fields = f'Content-Length: {stop - start}\r\n{extra}ETag: "{len(body)}"\r\nAccept-Ranges: bytes\r\n'
    fields += "Last-Modified: Sat, 01 Jan 2022 00:00:00 GMT\r\nContent-Type: application/octet-stream\r\n"
    connection.sendall(f"HTTP/1.1 {status}\r\n{fields}\r\n".encode())
    begun = time.perf_counter()
    for at in range(start, stop, _BLOCK):
        ahead = (at - start) / RATE - (time.perf_counter() - begun)
        if ahead > 0:
            time.sleep(ahead)
        connection.sendall(memoryview(body)[at : min(at + _BLOCK, stop)])
