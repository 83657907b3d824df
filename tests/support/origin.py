"""A source that misbehaves on demand: a raw-socket HTTP server, scripted per path, that records what it was asked.

Each path has a body and a list of behaviours; a request takes the next one, and the last one stays. `Serve` is the honest
one.
"""

import email.utils
import hashlib
import re
import socket
import socketserver
import ssl
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

MODIFIED = "Tue, 02 Jan 2024 03:04:05 GMT"


@dataclass(frozen=True)
class Asked:
    """One request as the origin saw it. Field names are lower case."""

    method: str
    target: str
    fields: dict[str, str]
    content: bytes = b""


@dataclass
class Gate:
    """Holds an answer back at one place. `reached` is set when the answer gets there; `open` lets it go on."""

    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)

    def open(self) -> None:
        self.opened.set()


@dataclass(frozen=True)
class Serve:
    """An honest answer, changed where a field says so.

    `cut` closes the connection after so many bytes of the body, `reset` does it with a TCP reset, `stall` falls silent
    there. `gate` waits at `gate_at`. `pace` is bytes a second. `extra` is sent behind the declared length. `before` waits
    with the request read and nothing answered; `leave` closes the connection after a whole answer that did not announce it.
    """

    cut: int | None = None
    reset: int | None = None
    stall: int | None = None
    gate: Gate | None = None
    gate_at: int = 0
    pace: float | None = None
    ranges: bool = True
    validators: bool = True
    length: bool = True
    chunked: bool = False
    declared: int | None = None
    extra: bytes = b""
    body: bytes | None = None
    range_shift: int = 0
    fields: tuple[tuple[str, str], ...] = ()
    before: Gate | None = None
    leave: bool = False


@dataclass(frozen=True)
class Say:
    """A fixed status with a short body."""

    status: int
    body: bytes = b"no\n"
    fields: tuple[tuple[str, str], ...] = ()
    gate: Gate | None = None


@dataclass(frozen=True)
class Raw:
    """These bytes, then the end of the connection."""

    data: bytes


@dataclass(frozen=True)
class Flood:
    """These bytes, then `block` over and over, each after `pause` seconds, until the client has enough.

    `most` bounds the blocks: a client that never has enough is no reason to fill the memory.
    """

    data: bytes
    block: bytes
    pause: float = 0.0
    most: int = 100_000


@dataclass(frozen=True)
class Hang:
    """No answer at all until the origin is closed."""


Behaviour = Serve | Say | Raw | Flood | Hang


@dataclass
class Thing:
    """What is at one path."""

    body: bytes
    etag: str | None
    modified: str | None
    content_type: str | None
    script: list[Behaviour]

    def next(self) -> Behaviour:
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]


def until(condition: Callable[[], object], seconds: float = 90.0) -> None:
    """Wait for something to come true; AssertionError if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


class Origin(socketserver.ThreadingTCPServer):
    """An HTTP/1.1 source on a free port of 127.0.0.1; with `context`, over TLS. `accepted` counts its connections."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 512
    block_on_close = False

    def __init__(self, address: tuple[str, int] = ("127.0.0.1", 0), context: ssl.SSLContext | None = None) -> None:
        super().__init__(address, _Handler)
        self.context = context
        self.accepted = 0
        self.things: dict[str, Thing] = {}
        self.asked: list[Asked] = []
        self.closing = threading.Event()
        self.connections: set[socket.socket] = set()
        self.guard = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return self.server_address[1]

    @property
    def url(self) -> str:
        """The base URL to give as a source."""
        return f"{'https' if self.context else 'http'}://127.0.0.1:{self.port}/"

    def put(
        self,
        path: str,
        body: bytes,
        *script: Behaviour,
        etag: str | None = "auto",
        modified: str | None = MODIFIED,
        content_type: str | None = "application/octet-stream",
    ) -> bytes:
        """Place a body at a path (query included); returns the body."""
        tag = f'"{hashlib.md5(body).hexdigest()}"' if etag == "auto" else etag
        self.things[path] = Thing(body, tag, modified, content_type, list(script) or [Serve()])
        return body

    def script(self, path: str, *script: Behaviour) -> None:
        """Replace the behaviours of a path."""
        self.things[path].script = list(script)

    def requests(self, path: str | None = None) -> list[Asked]:
        """What was asked so far, of one path or of all."""
        with self.guard:
            return [one for one in self.asked if path is None or one.target == path]

    def stop(self) -> None:
        """Stop listening and drop every connection, as a killed server would."""
        self.closing.set()
        self.shutdown()
        self.server_close()
        with self.guard:
            connections = list(self.connections)
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves is no news."""


class _Handler(socketserver.BaseRequestHandler):
    server: Origin
    request: socket.socket

    def setup(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.server.context is not None:
            self.request = self.server.context.wrap_socket(self.request, server_side=True)
        with self.server.guard:
            self.server.accepted += 1
            self.server.connections.add(self.request)

    def finish(self) -> None:
        with self.server.guard:
            self.server.connections.discard(self.request)
        if self.server.context is not None:
            self.request.close()

    def handle(self) -> None:
        reader = self.request.makefile("rb")
        while not self.server.closing.is_set():
            line = reader.readline().decode("latin-1").strip()
            if not line:
                return
            method, target, _ = line.split(" ", 2)
            fields: dict[str, str] = {}
            while (text := reader.readline().decode("latin-1").strip()) != "":
                name, _, value = text.partition(":")
                fields[name.strip().lower()] = value.strip()
            content = reader.read(int(fields.get("content-length", 0)))
            asked = Asked(method, target, fields, content)
            with self.server.guard:
                self.server.asked.append(asked)
            if not self._answer(asked):
                return

    def _answer(self, asked: Asked) -> bool:
        """Whether the connection can be used again."""
        thing = self.server.things.get(asked.target)
        if thing is None:
            return self._say(asked, Say(404))
        with self.server.guard:
            behaviour = thing.next()
        match behaviour:
            case Say() as say:
                return self._say(asked, say)
            case Raw(data):
                self.request.sendall(data)
                return False
            case Flood() as flood:
                self._flood(flood)
                return False
            case Hang():
                self.server.closing.wait()
                return False
            case Serve() as serve:
                return self._serve(asked, thing, serve)

    def _flood(self, flood: Flood) -> None:
        self.request.sendall(flood.data)
        for _ in range(flood.most):
            if flood.pause and self.server.closing.wait(flood.pause):
                return
            self.request.sendall(flood.block)

    def _say(self, asked: Asked, say: Say) -> bool:
        if say.gate:
            say.gate.reached.set()
            say.gate.opened.wait()
        fields = "".join(f"{name}: {value}\r\n" for name, value in say.fields)
        body = b"" if asked.method == "HEAD" or say.status == 304 else say.body
        length = "" if say.status == 304 else f"Content-Length: {len(say.body)}\r\n"
        self.request.sendall(f"HTTP/1.1 {say.status} Whatever\r\n{fields}{length}\r\n".encode("latin-1") + body)
        return True

    def _serve(self, asked: Asked, thing: Thing, how: Serve) -> bool:
        if how.before:
            how.before.reached.set()
            how.before.opened.wait()
        body = thing.body if how.body is None else how.body
        fields = [("Date", email.utils.formatdate(usegmt=True)), *how.fields]
        if thing.content_type:
            fields.append(("Content-Type", thing.content_type))
        if how.validators and thing.etag:
            fields.append(("ETag", thing.etag))
        if how.validators and thing.modified:
            fields.append(("Last-Modified", thing.modified))
        if how.validators and self._unchanged(asked, thing):
            self._head(304, fields)
            return not how.leave
        start, stop, status = 0, len(body), 200
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", asked.fields.get("range", ""))
        condition = asked.fields.get("if-range")
        if how.ranges and wanted and condition in (None, thing.etag, thing.modified) and int(wanted[1]) < len(body):
            start, status = int(wanted[1]), 206
            stop = min(int(wanted[2]) + 1, len(body)) if wanted[2] else len(body)
            fields.append(("Content-Range", f"bytes {start + how.range_shift}-{stop - 1}/{len(body)}"))
        sent = body[start:stop]
        if how.chunked:
            fields.append(("Transfer-Encoding", "chunked"))
        elif how.length:
            fields.append(("Content-Length", str(len(sent) if how.declared is None else how.declared)))
        else:
            fields.append(("Connection", "close"))
        self._head(status, fields)
        if asked.method == "HEAD":
            return True
        return self._body(sent, start, how)

    @staticmethod
    def _unchanged(asked: Asked, thing: Thing) -> bool:
        if "if-none-match" in asked.fields:
            return asked.fields["if-none-match"] == thing.etag
        return thing.modified is not None and asked.fields.get("if-modified-since") == thing.modified

    def _head(self, status: int, fields: list[tuple[str, str]]) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
        self.request.sendall(f"HTTP/1.1 {status} Whatever\r\n{lines}\r\n".encode("latin-1"))

    def _body(self, body: bytes, start: int, how: Serve) -> bool:
        """Send the body, whose first byte is byte `start` of the whole; places in `how` count from the whole's start."""
        at, begun = start, time.monotonic()
        stops = sorted(
            {place for place in (how.cut, how.reset, how.stall, how.gate_at if how.gate else None) if place is not None}
        )
        while True:
            ahead = [place for place in stops if place > at]
            end = min([start + len(body), *ahead])
            if how.pace:
                end = min(end, at + max(1, int(how.pace * 0.01)))
            if how.gate and at == how.gate_at and not how.gate.reached.is_set():
                how.gate.reached.set()
                how.gate.opened.wait()
            if self._breaks(at, how):
                return False
            if at >= start + len(body):
                break
            self._send(body[at - start : end - start], how)
            at = end
            if how.pace:
                time.sleep(max(0.0, begun + (at - start) / how.pace - time.monotonic()))
        if how.chunked:
            self.request.sendall(b"0\r\n\r\n")
        if how.extra:
            self.request.sendall(how.extra)
        return (how.length or how.chunked) and not how.leave

    def _breaks(self, at: int, how: Serve) -> bool:
        """Whether the answer ends here, in the way it is told to."""
        if how.stall is not None and at >= how.stall:
            self.server.closing.wait()
            return True
        if how.reset is not None and at >= how.reset:
            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            socket.close(self.request.detach())
            return True
        return how.cut is not None and at >= how.cut

    def _send(self, data: bytes, how: Serve) -> None:
        if how.chunked and data:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self.request.sendall(data)


Start = Callable[..., Origin]
