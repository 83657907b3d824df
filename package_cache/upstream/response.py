"""An answer as it comes over a connection: read strictly, within limits of time and of size.

Takes the place of the standard library's response inside urllib3's connections. That one reads a head without a limit of
time, forgives what must not be forgiven, and takes ten times as long over it. What the bytes mean is decided in
`rules/http/response.py`; this module gets them off the connection.
"""

import http.client
import re
import socket
import time
from contextlib import suppress

from package_cache.config import Timeouts
from package_cache.errors import UpstreamError, UpstreamLie, UpstreamTimeout
from package_cache.model import Fields
from package_cache.rules.http.response import (
    HEAD_END,
    LINE_END,
    MAX_CHUNK_LINE,
    MAX_HEAD,
    MAX_INTERIM,
    MAX_TRAILER,
    TRAILER_END,
    ResponseHead,
    parse_chunk_line,
    parse_response,
)

_PROTOCOL = b"HTTP/1."
_LONGEST_END = 3


class _Message(http.client.HTTPMessage):
    """Fields that were read already, in the shape that urllib3 expects them in."""

    def __init__(self, fields: Fields) -> None:
        super().__init__()
        self._headers = list(fields)

    def items(self) -> list[tuple[str, str]]:
        """Name and value of each field, as often as it was sent."""
        return list(self._headers)


class Response(http.client.HTTPResponse):
    """A response that limits how long a head takes and how long a body is silent, and looks behind the body's end."""

    timeouts: Timeouts

    def __init__(self, sock: socket.socket, debuglevel: int = 0, method: str | None = None) -> None:
        super().__init__(sock, debuglevel, method)
        self._socket = sock
        self._has_no_body = method == "HEAD"

    def begin(self) -> None:
        """Read the head. Raises UpstreamError, and TimeoutError if all of it does not arrive in time."""
        if self.headers is not None:
            return
        head = self._read_head(time.monotonic() + self.timeouts.head)
        self.status = self.code = head.status
        self.reason, self.version = head.reason, 10 + head.minor
        self.headers = self.msg = _Message(_with_one_length(head))
        self.chunked, self.chunk_left = head.chunked, None
        self.length = head.length
        self.will_close = not head.persistent
        self._socket.settimeout(self.timeouts.stall)

    def _read_head(self, deadline: float) -> ResponseHead:
        for _ in range(MAX_INTERIM + 1):
            start = self.fp.peek(1)[: len(_PROTOCOL)]
            if not start:
                raise UpstreamError("closed the connection without an answer", again=True)
            if not _PROTOCOL.startswith(start):
                raise UpstreamLie("does not answer in HTTP/1")
            head = parse_response(self._gather(HEAD_END, MAX_HEAD, deadline, "head"), of_head=self._has_no_body)
            if head.status == http.client.SWITCHING_PROTOCOLS:
                raise UpstreamLie("switched to a protocol that was not asked for")
            if head.status >= http.client.OK:
                return head
            self._wait_until(deadline)
        raise UpstreamLie(f"sent more than {MAX_INTERIM} interim answers")

    def _wait_until(self, deadline: float) -> None:
        """Let the next read last no longer than that."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise UpstreamTimeout("took too long over an answer's head, or over a line between two chunks")
        self._socket.settimeout(left)

    def _gather(self, end: re.Pattern[bytes], limit: int, deadline: float, name: str) -> bytes:
        """Everything up to what matches `end`, `limit` bytes at most. Nearly always it is there at once."""
        block = self.fp.peek(1)
        match = end.search(block)
        if match is not None and match.end() <= limit:
            return self.fp.read(match.end())
        held = bytearray()
        while block:
            before = len(held)
            held += block
            match = end.search(held, max(0, before - _LONGEST_END))
            if (before if match is None else match.end()) > limit:
                raise UpstreamLie(f"sent a {name} of more than {limit} bytes")
            if match is not None:
                self.fp.read(match.end() - before)
                self._socket.settimeout(self.timeouts.stall)
                return bytes(held[: match.end()])
            self.fp.read(len(block))
            self._wait_until(deadline)
            block = self.fp.peek(1)
        raise UpstreamError(f"ended within a {name}", again=True)

    def _get_chunk_left(self) -> int | None:
        """Bytes left of the current chunk, after the line of the next one was read where that is due; None at the end.

        The standard library's way to each of its reads of a chunked body leads through here.
        """
        left: int | None = self.chunk_left
        if left:
            return left
        deadline = time.monotonic() + self.timeouts.stall
        if left is not None and self._safe_read(2) != b"\r\n":  # type: ignore[attr-defined]
            raise UpstreamLie("sent a chunk that is longer than its size")
        self.chunk_left = parse_chunk_line(self._gather(LINE_END, MAX_CHUNK_LINE, deadline, "line in front of a chunk"))
        if self.chunk_left == 0:
            # Some servers close the connection in the place of the empty line.
            if self.fp.peek(1):
                self._gather(TRAILER_END, MAX_TRAILER, deadline, "trailer")
            self._close_conn()
            self.chunk_left = None
        return self.chunk_left

    def _close_conn(self) -> None:
        surplus = self.status in (200, 203, 206) and self.length == 0 and not self._has_no_body and self._has_more()
        super()._close_conn()  # type: ignore[misc]
        if surplus:
            raise UpstreamLie("sent more than it declared")

    def _has_more(self) -> bool:
        try:
            self._socket.settimeout(0)
            return bool(self.fp.peek(1))
        except (OSError, ValueError):
            return False
        finally:
            with suppress(OSError):
                self._socket.settimeout(self.timeouts.stall)


def _with_one_length(head: ResponseHead) -> Fields:
    """The fields; a length that was stated more than once stands there once."""
    lengths = [at for at, (name, _) in enumerate(head.fields) if name.lower() == "content-length"]
    if not lengths or (len(lengths) == 1 and "," not in head.fields[lengths[0]][1]):
        return head.fields
    first = head.fields[lengths[0]][1].partition(",")[0].strip(" \t")
    others = tuple(pair for at, pair in enumerate(head.fields) if at not in lengths)
    return (*others, ("Content-Length", first))
