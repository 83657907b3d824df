"""Asks for many small files, each once, as cheaply as Python can: one thread, bare descriptors, heads made beforehand.

It takes about 10 us of CPU a file, so it can ask for more than any server here answers; the case `client` shows how many.
"""

import contextlib
import multiprocessing
import os
import re
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

Address = tuple[str, int]

PATIENCE = 60.0

_BLOCK = 64 * 1024
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+) *\r\n", re.IGNORECASE)
_NEVER = 1 << 40
_GONE = contextlib.suppress(ConnectionError)


def head_of(path: str, *, close: bool = False, extra: str = "") -> bytes:
    """A GET request."""
    fields = f"Host: 127.0.0.1\r\n{'Connection: close' if close else 'Connection: keep-alive'}\r\n{extra}"
    return f"GET /{path} HTTP/1.1\r\n{fields}\r\n".encode()


def body_of(answer: bytes) -> bytes | None:
    """The body of a 200 with its head; None if it is anything else."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return body if head.startswith(b"HTTP/1.1 200 ") else None


@dataclass
class Walk:
    """What came of it: each answer with its head, how many paths were asked for, the seconds that it took, and the
    milliseconds of each answer that came whole."""

    answers: list[bytes]
    asked: int = 0
    seconds: float = 0.0
    times: list[float] = field(default_factory=list)

    def wrong(self, bodies: Sequence[bytes]) -> list[str]:
        """What to say if any answer does not have its body."""
        count = sum(body_of(self.answers[at]) != bodies[at] for at in range(self.asked))
        return [f"{count} of {self.asked} bodies wrong"] if count else []

    def quantile(self, share: float) -> float:
        """Milliseconds within which this share of the answers came."""
        return quantile(sorted(self.times), share)


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed; NaN of none."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


class _Lines:
    """The connections of a walk, and what each has asked for and got."""

    def __init__(self, address: Address, heads: Sequence[bytes], answers: list[bytes]) -> None:
        self._address, self._heads, self._answers = address, heads, answers
        self.asked = 0
        self._sockets: dict[int, socket.socket] = {}
        self._begun: dict[int, float] = {}
        self._partial: dict[int, bytes] = {}
        self._poller = select.epoll()
        self.at: dict[int, int] = {}
        """By descriptor, the number of the path that is asked for."""
        self.times: list[float] = []

    def open(self) -> int:
        """The descriptor of a new connection that is watched."""
        connection = socket.create_connection(self._address, PATIENCE)
        connection.settimeout(0)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        number = connection.fileno()
        self._sockets[number] = connection
        self._poller.register(number, select.EPOLLIN)
        return number

    def begin(self, number: int) -> None:
        """Ask for the next path on a connection, if there is one and the connection still stands."""
        self.at.pop(number, None)
        if self.asked < len(self._heads):
            self.at[number] = self.asked
            self.asked += 1
            self._begun[number] = time.perf_counter()
            with _GONE:  # the answer, which is none, will tell
                os.write(number, self._heads[self.at[number]])

    def turn(self, *, more: bool) -> bool:
        """Take what has come, and ask for as much again if there is to be more; False if nothing comes any longer."""
        ready = self._poller.poll(PATIENCE)
        at, partial, answers = self.at, self._partial, self._answers
        for number, _ in ready:
            try:
                data = os.read(number, _BLOCK)
            except ConnectionError:
                data = b""
            if number not in at:
                self._close(number)
                continue
            got = partial.pop(number) + data if number in partial else data
            if data and len(got) < _need(got):
                partial[number] = got
                continue
            answers[at[number]] = got
            if data:
                self.times.append(1000 * (time.perf_counter() - self._begun[number]))
            ended = not data or b"onnection: close" in got[:1024]
            if ended:
                self._close(number)
            if more:
                self.begin(self.open() if ended else number)
            else:
                at.pop(number, None)
        return bool(ready)

    def _close(self, number: int) -> None:
        self.at.pop(number, None)
        self._poller.unregister(number)
        self._sockets.pop(number).close()

    def close(self) -> None:
        """End all connections."""
        self._poller.close()
        for connection in self._sockets.values():
            connection.close()


def _need(got: bytes) -> int:
    """How long an answer is that begins so, as far as that is known."""
    end = got.find(b"\r\n\r\n")
    if end < 0:
        return _NEVER
    length = _LENGTH.search(got, 0, end + 2)
    return end + 4 + int(length[1]) if length else _NEVER


def walk(address: Address, paths: Sequence[str], connections: int, going: Callable[[], bool] = lambda: True) -> Walk:
    """Ask for each path once, in this order, over so many connections at once, while `going` says so."""
    found = Walk([b""] * len(paths))
    lines = _Lines(address, [head_of(path) for path in paths], found.answers)
    try:
        numbers = [lines.open() for _ in range(min(connections, len(paths)))]
        begun = time.perf_counter()
        for number in numbers:
            lines.begin(number)
        while lines.at and lines.turn(more=going()):
            pass
        found.seconds = time.perf_counter() - begun
    finally:
        lines.close()
    found.asked, found.times = lines.asked, lines.times
    return found


# A storm: the same in a process of its own


@dataclass(frozen=True)
class Stormed:
    """What a storm did: files, the seconds they took, what was wrong; whether it lasted until it was told to end."""

    files: int
    seconds: float
    faults: list[str]
    lasted: bool


class Storm:
    """A walk that goes on beside this process."""

    def __init__(self, pipe: Connection, going: Any) -> None:
        self._pipe, self._going = pipe, going

    def end(self) -> Stormed:
        """Have it stop, and tell what came of it."""
        self._going.value = 0
        told: Stormed = self._pipe.recv()
        return told


@contextlib.contextmanager
def storming(address: Address, paths: Sequence[str], bodies: Sequence[bytes], connections: int) -> Iterator[Storm]:
    """A storm on these paths."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    going = context.RawValue("b", 1)
    process = context.Process(target=_storm, args=(there, going, address, paths, bodies, connections), daemon=True)
    process.start()
    there.close()
    try:
        yield Storm(here, going)
    finally:
        process.kill()
        process.join()
        here.close()


def _storm(
    pipe: Connection, going: Any, address: Address, paths: Sequence[str], bodies: Sequence[bytes], connections: int
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the benchmark, which ends this
    found = walk(address, paths, connections, lambda: bool(going.value))
    lasted = not going.value
    pipe.send(Stormed(found.asked, found.seconds, found.wrong(bodies), lasted))
