"""Clients that measure: as cheap as they can be, because they share the machine with what they measure.

Bodies are compared where that costs little, else after the clock has stopped. Times are in seconds.
"""

import contextlib
import hashlib
import re
import selectors
import socket
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from processes import search_path
from servers import Server
from walker import PATIENCE, Address, head_of

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+) *\r\n", re.IGNORECASE)

_ROTATION = """\
local requests, at = {{}}, 0
init = function(arguments)
    {fields}
    for number = 0, {last} do requests[number] = wrk.format("GET", string.format("/{pattern}", number)) end
end
request = function()
    at = at + 1
    if at > {last} then at = 0 end
    return requests[at]
end
"""


def rotation(pattern: str, count: int, etag: str = "") -> str:
    """A script for wrk that asks for `count` paths in turn; `pattern` has a `%d` for the number of a path.

    With an ETag it asks whether they still have that.
    """
    fields = f"wrk.headers[\"If-None-Match\"] = '{etag}'" if etag else ""
    return _ROTATION.format(pattern=pattern, last=count - 1, fields=fields)


# Small files: hits


@dataclass(frozen=True)
class Load:
    """What wrk saw: requests, how many a second, milliseconds of the middle one and of the slowest hundredth, seconds of
    the server's CPU a request, failed requests."""

    requests: int
    rate: float
    p50: float
    p99: float
    cost: float
    errors: int

    @property
    def faults(self) -> list[str]:
        """What to say of the failed ones."""
        return [f"{self.errors} requests failed"] if self.errors else []


def wrk(server: Server, target: str | Path, seconds: int, *, keep: bool) -> Load:
    """64 connections of wrk on one path, or on those of a script in Lua."""
    close = [] if keep else ["-H", "Connection: close"]
    what = ["-s", str(target), server.url] if isinstance(target, Path) else [server.url + target]
    before = server.cpu()
    said = subprocess.run(
        ["wrk", "-t1", "-c64", f"-d{seconds}s", "--latency", "--timeout", "5s", *close, *what],
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + 60,
        env={"PATH": search_path()},
    ).stdout
    spent = server.cpu() - before
    requests = int(_number(r"(\d+) requests in", said))
    errors = int(_number(r"Non-2xx or 3xx responses: (\d+)", said))
    if broken := re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said):
        # With a connection each, wrk counts as a read error the end of one that it has read to the end.
        errors += sum(int(broken[at]) for at in ((1, 2, 3, 4) if keep else (1, 3, 4)))
    rate, p50, p99 = _number(r"Requests/sec:\s*([\d.]+)", said), _latency(50, said), _latency(99, said)
    return Load(requests, rate, p50, p99, spent / max(1, requests), errors)


def _latency(percent: int, said: str) -> float:
    """Milliseconds within which so many of a hundred answers came."""
    found = re.search(rf"\s{percent}%\s+([\d.]+)(us|ms|s)\b", said)
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]] if found else float("nan")


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    return float(found[1]) if found else 0.0


# One file


@dataclass(frozen=True)
class Fetched:
    """One answer: its status line, its body, and when the body's first and last byte arrived, from the connection on."""

    status: bytes
    body: bytes
    first: float
    last: float


def fetch(address: Address, path: str, size: int, extra: str = "") -> Fetched:
    """One request on a connection of its own, for a body of at most `size` bytes."""
    buffer = bytearray(size + 16 * KIB)
    view, have, start, first = memoryview(buffer), 0, -1, 0.0
    begun = time.perf_counter()
    with socket.create_connection(address, PATIENCE) as connection:
        connection.sendall(head_of(path, close=True, extra=extra))
        with contextlib.suppress(TimeoutError, ConnectionError):
            while have < len(buffer) and (count := connection.recv_into(view[have:])):
                have += count
                if start < 0 and (end := buffer.find(b"\r\n\r\n", 0, have)) >= 0:
                    start = end + 4
                if not first and 0 <= start < have:
                    first = time.perf_counter() - begun
    last = time.perf_counter() - begun
    return Fetched(bytes(buffer[: buffer.find(b"\r\n")]), bytes(buffer[start:have]) if start >= 0 else b"", first, last)


def requests_of(source: Address) -> int:
    """How many requests an nginx that is a source had so far, with this one."""
    found = re.search(rb"requests\s+\d+ \d+ (\d+)", fetch(source, "-/requests", KIB).body)
    return int(found[1]) if found else 0


def receive_one(connection: socket.socket) -> bool | None:
    """Read one answer. None: it is no whole 200. False: it is, and the connection is at its end."""
    got, need = b"", 0
    while not need or len(got) < need:
        if not (data := connection.recv(64 * KIB)):
            return None
        got += data
        if not need and (end := got.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(got, 0, end + 2)
            if not length or not got.startswith(b"HTTP/1.1 200 "):
                return None
            need = end + 4 + int(length[1])
    return b"onnection: close" not in got[:1024]


def drain(address: Address, path: str) -> int:
    """Ask for a large file and throw its body away; the bytes it had, 0 if the answer was none."""
    buffer = bytearray(MIB)
    with contextlib.suppress(TimeoutError, ConnectionError), socket.create_connection(address, PATIENCE) as connection:
        connection.sendall(head_of(path, close=True))
        head = b""
        while b"\r\n\r\n" not in head:
            if not (data := connection.recv(65536)):
                return 0
            head += data
        if not head.startswith(b"HTTP/1.1 200 "):
            return 0
        received = len(head.partition(b"\r\n\r\n")[2])
        while count := connection.recv_into(buffer):
            received += count
        return received
    return 0


def drain_all(address: Address, path: str, count: int) -> tuple[float, list[int]]:
    """So many clients of `drain` at once; seconds until the last is done, and the bytes of each."""
    sizes = [0] * count

    def run(number: int) -> None:
        sizes[number] = drain(address, path)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begun, sizes


def digest(address: Address, path: str) -> str:
    """The SHA-256 of a body, in hex."""
    found, buffer = hashlib.sha256(), bytearray(MIB)
    with contextlib.suppress(TimeoutError, ConnectionError), socket.create_connection(address, PATIENCE) as connection:
        connection.sendall(head_of(path, close=True))
        head = b""
        while b"\r\n\r\n" not in head and (data := connection.recv(65536)):
            head += data
        found.update(head.partition(b"\r\n\r\n")[2])
        while count := connection.recv_into(buffer):
            found.update(memoryview(buffer)[:count])
    return found.hexdigest()


def digest_of_file(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Many on one cold file


@dataclass
class Reader:
    """One of many on the same file. `first`, `half` and `last` are when those bytes arrived, from its request on."""

    connection: socket.socket
    begun: float
    head: bytes = b""
    received: int = 0
    first: float = 0.0
    half: float = 0.0
    last: float = 0.0
    right: bool = True

    def receive(self, body: bytes) -> bool:
        """Take what is there and compare it with `body`; False at the end."""
        try:
            data = self.connection.recv(256 * KIB)
        except OSError:
            data = b""
        if data and not self.first:
            self.head += data
            head, found, data = self.head.partition(b"\r\n\r\n")
            if not found or not data:
                return True
            self.right = head.startswith(b"HTTP/1.1 200 ")
            self.first = time.perf_counter() - self.begun
        if not data:
            return False
        self.right = self.right and body.startswith(data, self.received)
        self.received += len(data)
        self.last = time.perf_counter() - self.begun
        if not self.half and self.received >= len(body) // 2:
            self.half = self.last
        return self.received < len(body)


class Herd:
    """Readers of one file, all in this thread."""

    def __init__(self, address: Address, path: str, body: bytes) -> None:
        self._address, self._path, self._body = address, path, body
        self._poller = selectors.DefaultSelector()
        self.readers: list[Reader] = []

    def join(self, count: int) -> None:
        """So many more readers."""
        for _ in range(count):
            begun = time.perf_counter()
            reader = Reader(socket.create_connection(self._address, PATIENCE), begun)
            reader.connection.sendall(head_of(self._path, close=True))
            reader.connection.settimeout(0)
            self._poller.register(reader.connection, selectors.EVENT_READ, reader)
            self.readers.append(reader)

    def run(self, until: int | None = None) -> None:
        """Read until all are done, or until the first one has so many bytes."""
        deadline = time.perf_counter() + PATIENCE
        while self._poller.get_map() and time.perf_counter() < deadline:
            for key, _ in self._poller.select(1.0):
                if not key.data.receive(self._body):
                    self._poller.unregister(key.data.connection)
                    key.data.connection.close()
            if until is not None and self.readers[0].received >= until:
                return

    def close(self) -> list[str]:
        """End what is left; what went wrong, in a few words a reader."""
        for reader in self.readers:
            reader.connection.close()
        self._poller.close()
        wrong = sum(not reader.right or reader.received != len(self._body) for reader in self.readers)
        return [f"{wrong} of {len(self.readers)} bodies wrong"] if wrong else []
