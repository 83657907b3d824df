"""The bare command's server: the event loop in front, wsgiref's handler in threads for the rest.

The handler gets what wsgiref lacks: persistent connections, bodies of unknown length framed as chunked (RFC 9112, section
7.1), so that a client can tell a cut body from a whole one, and sendfile.
"""

import io
import logging
import select
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, cast
from urllib.parse import unquote_to_bytes
from wsgiref.handlers import SimpleHandler

from package_cache.config import Config
from package_cache.errors import BadRequest, RequestError
from package_cache.rules.http import wire
from package_cache.server.addresses import Listening, own_name
from package_cache.server.app import Application
from package_cache.server.connections import client_name
from package_cache.server.loop import Loop
from package_cache.server.pool import Pool
from package_cache.server.reactor import Limits
from package_cache.server.refusals import RequestTimeout, refuse

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

logger = logging.getLogger(__name__)

_RECEIVE = 65536
_SETTLE_SECONDS = 0.02
"""Between two looks, before the end, at whether the disk has what came."""
_CONTENT_SECONDS = 5.0
"""How long a client may be silent within content that is wanted."""
_LAST_SECONDS = 2.0
"""How long a service that was replaced may have requests that look for their answer."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """How another application takes the place of the one that answers.

    `make` is called in a thread: the application and its settings, or None if all stays as it is. `ended` is called in the
    loop's thread when what was made is in its place, or was not made.
    """

    make: Callable[[], tuple[Config, Application] | None]
    ended: Callable[[], None]


class StandaloneServer:
    """Serves `application` to who connects: the event loop in the calling thread, threads of a pool for what it leaves."""

    def __init__(self, config: Config, listening: Listening, application: Application, software: str) -> None:
        self._application = application
        self._timeouts = config.timeouts
        self._software = software
        self._patience: float | None = None
        self._listening = listening
        self._threads = config.threads
        self._pool = Pool(config.threads)
        self._retired: list[tuple[float, Application]] = []
        self._renewal: Renewal | None = None
        self._once_more = False
        limits = Limits(config.connections, config.timeouts)
        self._loop = Loop(listening.sockets, application, self._fall_back, limits, software)

    def serve(self) -> None:
        """Serve until `stop` is called and what runs has come to its end, or its time is up."""
        self._application.service.caretaker.begin()
        while self._patience is None:
            self._loop.turn(1.0)
            if self._retired:
                self._bury()
        self._loop.drain()
        self._listening.close()
        begun = time.monotonic()
        while (self._loop.busy or not self._is_settled) and time.monotonic() - begun < self._patience:
            self._loop.turn(1.0 if self._loop.busy else _SETTLE_SECONDS)

    @property
    def _is_settled(self) -> bool:
        """Whether what clients have whole is stored: its download would be in vain."""
        return all(one.service.is_settled for one in (*(one for _, one in self._retired), self._application))

    def stop(self, patience: float) -> None:
        """Take no new connections, and end when running answers have, or after `patience` seconds.

        May be called from a signal handler, and again with less patience.
        """
        self._patience = patience
        self._loop.wake()

    def reopen_logs(self) -> None:
        """Write to the file that has the name of the access log now. May be called from a signal handler."""
        self._loop.call(self._application.access.reopen)

    def close(self) -> None:
        """Cut what runs and stop listening."""
        self._loop.close()
        self._listening.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        for one in (*(application for _, application in self._retired), self._application):
            one.service.close()

    # -- another application in the place of this one

    def renew(self, renewal: "Renewal") -> None:
        """Begin a renewal. May be called from a signal handler."""
        self._loop.call(lambda: self._begin_renewal(renewal))

    def _begin_renewal(self, renewal: "Renewal") -> None:
        if self._renewal is not None:
            self._once_more = True
            return
        self._renewal = renewal
        try:
            self._application.service.run(self._work_at_renewal)
        except RuntimeError:
            logger.error("the system gives no thread to read the settings again")
            self._end_renewal(None)

    def _work_at_renewal(self) -> None:
        """Runs in a thread."""
        assert self._renewal is not None
        fresh = None
        try:
            self._application.access.reopen()
            fresh = self._renewal.make()
        finally:
            self._loop.call(lambda: self._end_renewal(fresh))

    def _end_renewal(self, fresh: tuple[Config, Application] | None) -> None:
        """Runs in the loop's thread."""
        renewal, self._renewal = self._renewal, None
        assert renewal is not None
        if fresh is not None:
            self._take_over(*fresh)
        renewal.ended()
        if self._once_more:
            self._once_more = False
            self._begin_renewal(renewal)

    def _take_over(self, config: Config, application: Application) -> None:
        before, self._application = self._application, application
        self._timeouts = config.timeouts
        self._loop.renew(application, Limits(config.connections, config.timeouts))
        if config.threads != self._threads:
            self._threads = config.threads
            self._pool.shutdown(wait=False)  # what it has to do is done
            self._pool = Pool(config.threads)
        before.service.retire()
        self._retired.append((time.monotonic(), before))
        application.service.caretaker.begin()

    def _bury(self) -> None:
        """Close the services that were replaced and have come to their end."""
        before = time.monotonic() - _LAST_SECONDS
        over = [one for one in self._retired if one[0] < before and one[1].service.is_idle]
        for one in over:
            self._retired.remove(one)
            with suppress(RuntimeError):  # no thread to be had now: what it holds goes with the last who knows it
                self._application.service.run(one[1].service.close)

    def _fall_back(self, connection: socket.socket, received: bytes, address: Any) -> None:
        self._pool.submit(self._serve_rest, connection, received, address)
        self._loop.lent += 1

    def _serve_rest(self, connection: socket.socket, received: bytes, address: Any) -> None:
        """Answer the request at hand in this thread; then the loop has the connection back, or it ends."""
        connection.settimeout(self._timeouts.send)
        try:
            head, received = _read_head(connection, received, self._timeouts.request)
            reusable = self._serve(connection, head, received, address)
        except RequestError as error:
            reusable = False
            with suppress(OSError):
                connection.sendall(refuse(error, client_name(address), self._application.access))
        except OSError:
            reusable = False
        except Exception:
            reusable = False
            logger.exception("a connection ended in a bug")
        if reusable:
            self._loop.adopt(connection, address, received)
        else:
            self._loop.see_off(connection, address)

    def _serve(self, connection: socket.socket, head: wire.Head, received: bytes, address: Any) -> bool:
        """Run the application; whether the connection can be used again."""
        content = _Content(connection, received, asked_for=head.combined.get("expect") is not None)
        responder = _Responder(connection, head, content, _environ(connection, head, address), self._software)
        responder.run(self._application)
        return responder.reusable


def _environ(connection: socket.socket, head: wire.Head, address: Any) -> "WSGIEnvironment":
    own, port = own_name(connection.getsockname())
    path, _, query = head.target.partition("?")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": head.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
        "RAW_URI": head.target,
        "SERVER_PROTOCOL": f"HTTP/1.{head.minor}",
        "SERVER_NAME": own,
        "SERVER_PORT": str(port),
        "REMOTE_ADDR": client_name(address),
    }
    for name, value in head.combined.items():
        # A name with an underscore would pass for another one with a hyphen.
        if "_" not in name:
            variable = name.upper().replace("-", "_")
            environ[variable if variable in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{variable}"] = value
    return environ


def _read_head(connection: socket.socket, received: bytes, seconds: float) -> tuple[wire.Head, bytes]:
    """The head at the start of what was received, and the bytes behind it. Raises RequestError."""
    deadline = time.monotonic() + seconds
    while (parsed := wire.parse_head(received)) is None:
        if not _readable(connection, deadline - time.monotonic()):
            raise RequestTimeout("the head of the request did not arrive in time")
        block = connection.recv(_RECEIVE)
        if not block:
            raise BadRequest("the request ends within its head")
        received += block
    head, size = parsed
    return head, received[size:]


class _Responder(SimpleHandler):
    """wsgiref's handler with HTTP/1.1 framing."""

    http_version = "1.1"
    os_environ: dict[str, str] = {}  # noqa: RUF012 - wsgiref's own class attribute; never written
    headers: Any
    headers_sent: bool
    result: Any
    status: Any

    def __init__(
        self, connection: socket.socket, head: wire.Head, content: "_Content", environ: "WSGIEnvironment", software: str
    ) -> None:
        output = cast("IO[bytes]", _Gathered(connection))
        super().__init__(cast("IO[bytes]", content), output, sys.stderr, environ, multithread=True, multiprocess=False)
        self.server_software = software
        self.reusable = False
        self._connection = connection
        self._head = head
        self._keep = head.keep_alive and not head.has_body
        self._declared: int | None = None
        self._chunked = False
        self._body_sent = 0

    def cleanup_headers(self) -> None:
        """Decide the framing of the body."""
        headers = self.headers
        assert headers is not None
        status = int(str(self.status)[:3])
        length = headers.get("Content-Length")
        if self._head.method == "HEAD" or status in (204, 304):
            self._declared = 0
        elif length is not None:
            self._declared = int(length)
        elif self._head.minor == 1:
            self._chunked = True
            headers["Transfer-Encoding"] = "chunked"
        else:
            self._keep = False
        headers["Connection"] = "keep-alive" if self._keep else "close"

    def write(self, data: bytes) -> None:
        """Send a block of the body."""
        if not self.headers_sent:
            self.send_headers()
        self._body_sent += len(data)
        if self._chunked and data:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._write(data)
        self._flush()

    def sendfile(self) -> bool:
        """Send a blob without copying it through this process."""
        part = self.result.filelike
        self.send_headers()
        self._flush()
        assert self._declared is not None
        if self._declared:
            self._body_sent = self._connection.sendfile(part, part.tell(), self._declared)
        return True

    def finish_content(self) -> None:
        """End the body in good order."""
        if not self.headers_sent:
            self.send_headers()
        if self._chunked:
            self._write(b"0\r\n\r\n")
        self._flush()

    def close(self) -> None:
        """Note whether the body was sent as announced, then let go of it."""
        self.reusable = self._keep and self.headers_sent and self._declared in (None, self._body_sent)
        super().close()

    def log_exception(self, exc_info: Any) -> None:
        """Log what left the application; a client that stopped reading is nothing to log."""
        self._keep = False
        if not isinstance(exc_info[1], OSError):
            logger.error("a response ended in a bug", exc_info=exc_info)

    def error_output(self, environ: "WSGIEnvironment", start_response: Any) -> list[bytes]:  # noqa: ARG002
        """The answer where the application failed before its own."""
        body = b"internal error; the log of the cache says more\n"
        start_response("500 Internal Server Error", [("Content-Length", str(len(body)))], sys.exc_info())
        return [body]


class _Content(io.RawIOBase):
    """The content of a request, for the application to read where it is wanted: what was received, and then the rest."""

    def __init__(self, connection: socket.socket, received: bytes, *, asked_for: bool) -> None:
        super().__init__()
        self._connection = connection
        self._received = received
        self._asked_for = asked_for

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """The next bytes. Raises OSError if none come in time."""
        if not self._received:
            if self._asked_for:
                self._asked_for = False
                self._connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            if not _readable(self._connection, _CONTENT_SECONDS):
                raise TimeoutError("the content of the request did not arrive in time")
            self._received = self._connection.recv(_RECEIVE)
        size = min(len(buffer), len(self._received))
        buffer[:size], self._received = self._received[:size], self._received[size:]
        return size


class _Gathered(io.RawIOBase):
    """Gathers a head with the first block of its body, so that both leave in one packet."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        self._connection = connection
        self._pending = bytearray()

    def write(self, data: Any) -> int:
        self._pending += data
        return len(data)

    def flush(self) -> None:
        if self._pending:
            pending, self._pending = memoryview(self._pending), bytearray()
            # Not sendall: its time limit is on the whole, ours is on silence.
            while pending:
                pending = pending[self._connection.send(pending) :]


def _readable(connection: socket.socket, seconds: float) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(max(0.0, seconds) * 1000))
