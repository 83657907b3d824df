"""The bare command's server: a thread a connection, wsgiref's handler for each request.

Owns the sockets. Reads request heads itself, strictly and under a time limit, since wsgiref's own server does neither;
keeps connections alive; frames bodies of unknown length as chunked (RFC 9112, section 7.1), so that a client can tell a
cut body from a whole one; sends blobs with sendfile. Knows the application as a WSGI callable only.
"""

import io
import logging
import select
import socket
import socketserver
import sys
import threading
import time
from contextlib import suppress
from http import HTTPStatus
from typing import IO, TYPE_CHECKING, Any, cast
from urllib.parse import unquote_to_bytes
from wsgiref.handlers import SimpleHandler

from package_cache.config import Timeouts
from package_cache.errors import BadRequest, RequestError
from package_cache.rules import wire

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 1024
_RECEIVE = 65536
_LINGER_SECONDS = 1.0
_LINGER_BYTES = 1 << 18


class StandaloneServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Serves `application` at `address`. At most `threads` requests run at once; others wait their turn."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 1024

    def __init__(
        self, address: tuple[str, int], application: "WSGIApplication", timeouts: Timeouts, threads: int, software: str
    ) -> None:
        self.application = application
        self.timeouts = timeouts
        self.software = software
        self.turns = threading.BoundedSemaphore(threads)
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        info = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, found = min(info, key=lambda one: one[0] != socket.AF_INET)
        self.address_family = family
        super().__init__(found, _Connection)  # type: ignore[arg-type]

    @property
    def url(self) -> str:
        """Where clients find the server."""
        host, port = self.server_address[:2]
        name = str(host)
        return f"http://{f'[{name}]' if ':' in name else name}:{port}/"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection a thread, or refuse it where there are too many."""
        if not self._places.acquire(blocking=False):
            with suppress(OSError):
                request.settimeout(0)
                request.sendall(_plain(503, "too many connections; try again in a while"))
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - socketserver's signature
        """Log what no handler caught; a client that left is nothing to log."""
        if not isinstance(sys.exc_info()[1], OSError):
            logger.exception("a connection ended in a bug")


class _Connection(socketserver.BaseRequestHandler):
    server: StandaloneServer
    request: socket.socket

    def handle(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        received = b""
        idle = self.server.timeouts.request
        while True:
            try:
                found = self._read_head(received, idle)
            except RequestError as error:
                self.request.sendall(_plain(error.http_status, str(error)))
                self._linger()
                return
            if found is None:
                return
            head, received = found
            if not self._serve(head):
                self._linger()
                return
            idle = self.server.timeouts.idle

    def _read_head(self, received: bytes, idle: float) -> tuple[wire.Head, bytes] | None:
        """The next head and the bytes behind it; None if the client left or waited too long."""
        deadline = time.monotonic() + (self.server.timeouts.request if received else idle)
        while True:
            parsed = wire.parse_head(received)
            if parsed is not None:
                head, size = parsed
                return head, received[size:]
            left = deadline - time.monotonic()
            if left <= 0 or not _readable(self.request, left):
                if received:
                    raise _RequestTimeout("the head of the request did not arrive in time")
                return None
            block = self.request.recv(_RECEIVE)
            if not block:
                if received.strip():
                    raise BadRequest("the request ends within its head")
                return None
            if not received:
                deadline = time.monotonic() + self.server.timeouts.request
            received += block

    def _serve(self, head: wire.Head) -> bool:
        """Run the application; whether the connection can be used again."""
        self.request.settimeout(self.server.timeouts.send)
        responder = _Responder(self.request, head, self._environ(head), self.server.software)
        with self.server.turns:
            responder.run(self.server.application)
        return responder.reusable

    def _environ(self, head: wire.Head) -> "WSGIEnvironment":
        path, _, query = head.target.partition("?")
        environ: dict[str, Any] = {
            "REQUEST_METHOD": head.method,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
            "QUERY_STRING": query,
            "RAW_URI": head.target,
            "SERVER_PROTOCOL": f"HTTP/1.{head.minor}",
            "SERVER_NAME": str(self.server.server_address[0]),
            "SERVER_PORT": str(self.server.server_address[1]),
            "REMOTE_ADDR": str(self.client_address[0]),
        }
        for name, value in head.combined.items():
            # A name with an underscore would pass for another one with a hyphen.
            if "_" not in name:
                variable = name.upper().replace("-", "_")
                environ[variable if variable in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{variable}"] = value
        return environ

    def _linger(self) -> None:
        """Let the client read the answer before unread bytes of its own would reset the connection."""
        with suppress(OSError):
            self.request.shutdown(socket.SHUT_WR)
            deadline, size = time.monotonic() + _LINGER_SECONDS, 0
            while size < _LINGER_BYTES and _readable(self.request, deadline - time.monotonic()):
                block = self.request.recv(_RECEIVE)
                if not block:
                    return
                size += len(block)


class _RequestTimeout(RequestError):
    """RFC 9110, section 15.5.9."""

    http_status = 408


class _Responder(SimpleHandler):
    """wsgiref's handler with HTTP/1.1 framing."""

    http_version = "1.1"
    os_environ: dict[str, str] = {}  # noqa: RUF012 - wsgiref's own class attribute; never written
    headers: Any
    headers_sent: bool
    result: Any
    status: Any

    def __init__(self, connection: socket.socket, head: wire.Head, environ: "WSGIEnvironment", software: str) -> None:
        output = cast("IO[bytes]", _Gathered(connection))
        super().__init__(io.BytesIO(), output, sys.stderr, environ, multithread=True, multiprocess=False)
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
            pending, self._pending = self._pending, bytearray()
            self._connection.sendall(pending)


def _readable(connection: socket.socket, seconds: float) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(max(0.0, seconds) * 1000))


def _plain(status: int, text: str) -> bytes:
    """A whole answer that closes the connection, for what never reaches the application."""
    body = f"{text}\n".encode()
    return (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode("ascii") + body
