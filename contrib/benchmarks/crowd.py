"""Clients that take up a server's room: some read slowly, many do nothing. They live in a process of their own."""

import contextlib
import heapq
import multiprocessing
import select
import signal
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

from clients import KIB
from walker import Address, head_of

_BLOCK = 16 * KIB
_WINDOW = 64 * KIB
"""Bytes that a slow reader's own kernel takes for it: what else is sent must wait in the server."""
_PATIENCE = 10.0
_SO_MEMINFO = 55


@dataclass(frozen=True)
class Crowd:
    """So many readers of `large` at `rate` bytes a second each, and idle connections that asked for `small` once."""

    readers: int
    rate: int
    idle: int
    large: str
    small: str


@dataclass(frozen=True)
class Served:
    """How many of a crowd got what they asked for: idle connections one answer, readers nine tenths of their pace.

    `held` is what the kernel held for the crowd itself, in bytes, of all that it held for TCP.
    """

    idle: int
    readers: int
    held: int


class Visit:
    """A crowd that is there. `leave` ends it and tells how it was served."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def leave(self) -> Served:
        self._pipe.send(None)
        served: Served = self._pipe.recv()
        return served


@contextlib.contextmanager
def visiting(address: Address, crowd: Crowd) -> Iterator[Visit]:
    """The crowd, once all of it has asked."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=_live, args=(there, address, crowd), daemon=True)
    process.start()
    there.close()
    try:
        here.recv()
        yield Visit(here)
    finally:
        process.kill()
        process.join()


def _live(pipe: Connection, address: Address, crowd: Crowd) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the benchmark, which ends this
    idle = [_connect(address, crowd.small) for _ in range(crowd.idle)]
    answered = _await(idle)
    slow = [_connect(address, crowd.large, _WINDOW) for _ in range(crowd.readers)]
    pipe.send("all of them asked")
    served = _read(pipe, slow, crowd.rate)
    pipe.send(Served(answered, served, sum(_held(one) for one in (*idle, *slow) if one)))


def _connect(address: Address, path: str, window: int | None = None) -> socket.socket | None:
    """A connection on which a path was asked for; None if the server has no room for it."""
    connection = socket.socket()
    try:
        if window:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        connection.settimeout(_PATIENCE)
        connection.connect(address)
        connection.sendall(head_of(path))
        connection.settimeout(0)
    except OSError:
        connection.close()
        return None
    return connection


def _await(connections: list[socket.socket | None]) -> int:
    """How many have a 200 within the time."""
    poller = select.epoll()
    waiting = {connection.fileno(): connection for connection in connections if connection}
    for number in waiting:
        poller.register(number, select.EPOLLIN)
    answered, deadline = 0, time.perf_counter() + _PATIENCE
    while waiting and time.perf_counter() < deadline:
        for number, _ in poller.poll(0.5):
            poller.unregister(number)
            with contextlib.suppress(OSError):
                answered += waiting.pop(number).recv(64 * KIB).startswith(b"HTTP/1.1 200 ")
    poller.close()
    return answered


def _read(pipe: Connection, connections: list[socket.socket | None], rate: int) -> int:
    """Read on each at the rate, until told to stop; how many could."""
    begun = time.perf_counter()
    pause = _BLOCK / rate
    taken = dict.fromkeys((number for number, one in enumerate(connections) if one), 0)
    due = [(begun + pause * number / len(connections), number) for number in taken]
    heapq.heapify(due)
    while not pipe.poll(max(0.0, min(0.05, due[0][0] - time.perf_counter())) if due else 0.05):
        while due and due[0][0] <= time.perf_counter():
            moment, number = due[0]
            owed = int(rate * (time.perf_counter() - begun)) - taken[number]
            taken[number] += _take(connections[number], max(1, owed))
            heapq.heapreplace(due, (moment + pause, number))
    expected = 0.9 * rate * (time.perf_counter() - begun) - 2 * _BLOCK
    return sum(count >= expected for count in taken.values())


def _held(connection: socket.socket) -> int:
    """Bytes of kernel memory of a connection: what was received and what is set aside (SO_MEMINFO of socket(7))."""
    received, _, _, _, ahead, *_ = struct.unpack("9I", connection.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36))
    return int(received + ahead)


def _take(connection: socket.socket | None, most: int) -> int:
    with contextlib.suppress(OSError):
        return len(connection.recv(min(most, 8 * _BLOCK))) if connection else 0
    return 0
