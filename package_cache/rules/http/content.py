"""The content of a request, which nobody here wants: where it ends, and whether it is framed as it should be (RFC 9112).

Who reads it to its end can tell a client that its framing is broken, and that client gets to read the answer: bytes that
nobody has read reset a connection when it is closed. Bytes are looked at once and not kept.
"""

import re
from typing import Literal

from package_cache.errors import BadRequest, ContentTooLarge, LengthRequired
from package_cache.rules.http.wire import MAX_LINE, TOKEN, Head, parse_field

MAX_CONTENT = 65536
"""Bytes of content, with its framing, that are waited for. What is longer is answered without having been read."""
MAX_POST = 10 << 20
"""Bytes of content that are passed on with a POST."""

_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"'
_EXTENSION = rb"[ \t]*+;[ \t]*+" + TOKEN + rb"(?:[ \t]*+=[ \t]*+(?:" + TOKEN + rb"|" + _QUOTED + rb"))?"
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16}+)(?:" + _EXTENSION + rb")*")
_NEVER_BEHIND = frozenset(
    {
        *("content-length", "transfer-encoding", "host", "content-type", "content-encoding", "content-range", "trailer"),
        *("authorization", "cookie", "expect", "range", "max-forwards", "te", "connection", "upgrade"),
    }
)
"""Fields that say how to read a request; too late in a trailer, where they may not stand (RFC 9110, section 6.5.1)."""


def is_small(head: Head) -> bool:
    """Whether there is content, and not so much that it is left unread."""
    lengths = head.all("content-length")
    return head.has_body and head.method != "CONNECT" and all(int(length) <= MAX_CONTENT for length in lengths)


def is_awaited(head: Head) -> bool:
    """Whether the content of the request is read before it is answered.

    Who expects 100 (Continue) is told the answer instead (RFC 9110, section 10.1.1).
    """
    return is_small(head) and not head.all("expect")


def length_to_pass(head: Head) -> int:
    """How many bytes of content are passed on with a POST. Raises LengthRequired or ContentTooLarge."""
    if head.all("transfer-encoding"):
        raise LengthRequired("what is sent here must say how long it is, in Content-Length")
    size = sum(int(length) for length in head.all("content-length"))
    if size > MAX_POST:
        raise ContentTooLarge(f"no more than {MAX_POST} bytes may be sent here")
    return size


class Content:
    """Follows the content of one request; `start` is where in the request it begins."""

    def __init__(self, head: Head, start: int) -> None:
        self.head = head
        self.start = start
        self._chunked = bool(head.all("transfer-encoding"))
        self._left = sum(int(length) for length in head.all("content-length"))
        self._taken = 0
        self._line = b""
        self._awaits: Literal["size", "end of a chunk", "trailer"] = "size"

    def take(self, data: bytes) -> bool:
        """Whether that was the rest of it, or enough. Raises BadRequest where it is not framed validly."""
        self._taken += len(data)
        if not self._chunked:
            return self._taken >= self._left
        return self._take_chunks(data) or max(self._taken, self._left) > MAX_CONTENT

    def _take_chunks(self, data: bytes) -> bool:
        data, at = self._line + data, 0
        while True:
            skipped = min(self._left, len(data) - at)
            self._left -= skipped
            at += skipped
            end = data.find(b"\r\n", at)
            if self._left or not 0 <= end - at <= MAX_LINE:
                break
            if self._read_line(data[at:end]):
                return True
            at = end + 2
        self._line = data[at:]
        if b"\n" in self._line or len(self._line) > MAX_LINE:
            raise BadRequest("a line of the chunked content does not end where it should")
        return False

    def _read_line(self, line: bytes) -> bool:
        """Whether it is the last one."""
        match self._awaits:
            case "size":
                self._left = _size(line)
                self._awaits = "end of a chunk" if self._left else "trailer"
            case "end of a chunk":
                if line:
                    raise BadRequest("a chunk is longer than it says")
                self._awaits = "size"
            case "trailer":
                _check_trailer(line)
                return not line
        return False


def _size(line: bytes) -> int:
    match = _CHUNK.fullmatch(line)
    if match is None:
        raise BadRequest("the size of a chunk is not valid")
    return int(match[1], 16)


def _check_trailer(line: bytes) -> None:
    if line and parse_field(line)[0] in _NEVER_BEHIND:
        raise BadRequest("a field of the trailer belongs in front of the content")
