"""The head and the content of an HTTP/1 request, read strictly (RFC 9112).

Decides what is a request at all, and where it ends. There is one reading only: whatever two programs could read in two ways
(request smuggling) is refused. `parse_head` reads bytes; `check_head` takes any head, so the application applies it to
what a WSGI server let through as well.

Content is hardly ever wanted here. It is read to its end all the same: so a client is told that its framing is broken, and
can read the answer, since closing a connection with unread bytes resets it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv6Address
from types import MappingProxyType
from typing import Literal

from package_cache.errors import BadRequest, ContentTooLarge, LengthRequired, RequestError, TargetTooLong

MAX_HEAD = 32768
"""Bytes of request line and fields together."""
MAX_LINE = 8190
"""Bytes of the request line; at least 8000 should be read (RFC 9112, section 3)."""
MAX_FIELDS = 100
_LONGEST_REMEMBERED = 1024
"""Bytes of the longest block of fields that is memoised."""

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
"""A method or the name of a field (RFC 9110, section 5.6.2), as a regular expression."""
_REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
_METHOD = re.compile(TOKEN + rb" ")
_VALUE = rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?"
# The spaces in front are taken once and for all: trying every way to divide them costs the square of their number.
_FIELD = re.compile(rb"(" + TOKEN + rb"):[ \t]*+(" + _VALUE + rb")[ \t]*")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|(?:[A-Za-z0-9._~!$&'()*+;=\-]++|%[0-9A-Fa-f]{2})+)(?::([0-9]{0,5}))?")
_BARE = "a line of the request does not end with CR LF"
# A leading zero is legal, but some programs then read an octal number.
_LENGTH = re.compile(r"0|[1-9][0-9]{0,18}")
MAX_CONTENT = 65536
"""Bytes of content, with its framing, that are read. A request with more is answered without reading it."""
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
"""Fields that say how to read a request, which must not be in a trailer: too late (RFC 9110, section 6.5.1)."""


class HeadTooLarge(BadRequest):
    """More head than the limit (RFC 6585, section 5)."""

    http_status = 431


class VersionNotSupported(BadRequest):
    """Not HTTP/1 (RFC 9110, section 15.6.6)."""

    http_status = 505


class ExpectationFailed(RequestError):
    """An Expect other than 100-continue (RFC 9110, section 15.5.18)."""

    http_status = 417
    close = True


_Pairs = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class RequestHead:
    """Request line and fields. Field names are lower case; a repeated field is there as often as it was sent.

    `combined` has one value for a name, repeated ones joined (RFC 9110, section 5.3). Nothing of it is ever changed.
    """

    method: str
    target: str
    minor: int
    fields: _Pairs
    combined: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not self.combined:
            self.combined = _combined(self.fields)

    def all(self, name: str) -> list[str]:
        """The values of every field of that name."""
        return [value for key, value in self.fields if key == name]

    @property
    def has_body(self) -> bool:
        """Whether bytes of content follow the head."""
        said = self.combined
        if "transfer-encoding" in said:
            return True
        return "content-length" in said and any(int(length) for length in self.all("content-length"))

    @property
    def keep_alive(self) -> bool:
        """Whether the client wants the connection to persist (RFC 9112, section 9.3).

        Bytes after a refused CONNECT may be meant for the tunnel, so they are not read as a request (RFC 9931).
        """
        options = _options(self.combined["connection"]) if "connection" in self.combined else ()
        return "close" not in options and self.method != "CONNECT" and (self.minor == 1 or "keep-alive" in options)


@lru_cache(maxsize=64)
def _options(connection: str) -> frozenset[str]:
    return frozenset([option.strip(" \t").lower() for option in connection.split(",")])


def _combined(fields: _Pairs) -> Mapping[str, str]:
    joined: dict[str, str] = {}
    for name, value in fields:
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return MappingProxyType(joined)


def parse_head(data: bytes) -> tuple[RequestHead, int] | None:
    """The head at the start of `data` and the bytes it takes; None while it is not complete.

    Raises `BadRequest` as soon as the bytes can no longer become a valid head.
    """
    start = 2 if data.startswith(b"\r\n") else 0
    end = data.find(b"\r\n\r\n", start)
    whole = end >= 0
    seen = data[start : end if whole else len(data)]
    line, mark, rest = seen.partition(b"\r\n")
    request_line = _read_first_line(line, ended=whole or bool(mark))
    if rest.count(b"\n") != rest.count(b"\r\n"):
        raise BadRequest(_BARE)
    # The bytes so far may end with the beginning of the empty line that ends the head.
    if len(seen) > MAX_HEAD + (0 if whole else len(b"\r\n\r")):
        raise HeadTooLarge(f"the head of the request is longer than {MAX_HEAD} bytes")
    if request_line is None or not whole:
        return None
    method, target, minor = request_line
    read = _read_fields if len(rest) > _LONGEST_REMEMBERED else _known_fields
    fields, joined = read(rest if mark else None, minor)
    return RequestHead(method, target, minor, fields, joined), end + 4


def _read_fields(block: bytes | None, minor: int) -> tuple[_Pairs, Mapping[str, str]]:
    """The fields of a request of HTTP/1.`minor`, checked, and combined; `block` is None if there are none.

    Raises BadRequest.
    """
    lines = [] if block is None else block.split(b"\r\n")
    if len(lines) > MAX_FIELDS:
        raise HeadTooLarge(f"the request has more than {MAX_FIELDS} fields")
    fields = tuple([parse_field(line) for line in lines])
    head = RequestHead("", "", minor, fields)
    check_head(head)
    return fields, head.combined


_known_fields = lru_cache(maxsize=1024)(_read_fields)
"""A client sends the same fields with each request."""


def _read_first_line(line: bytes, *, ended: bool) -> tuple[str, str, int] | None:
    if line.find(b"\n", 0, MAX_LINE + 1) >= 0:
        raise BadRequest(_BARE)
    # The bytes so far may end with the CR of the line's end.
    if len(line) > MAX_LINE + (0 if ended else 1):
        if _METHOD.match(line, 0, MAX_LINE):
            raise TargetTooLong(f"the first line of the request is longer than {MAX_LINE} bytes")
        raise BadRequest("the request line is not valid")
    return parse_request_line(line) if ended else None


def parse_request_line(line: bytes) -> tuple[str, str, int]:
    """Method, target, and minor version of HTTP/1 in a request line without its end. Raises BadRequest."""
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise BadRequest("the request line is not valid")
    method, target, major, minor = match.groups()
    if major != b"1":
        raise VersionNotSupported(f"HTTP/{int(major)}.{int(minor)} is not served here; HTTP/1.1 is")
    return str(method, "ascii"), str(target, "ascii"), 0 if minor == b"0" else 1


def parse_field(line: bytes) -> tuple[str, str]:
    """Name, in lower case, and value of a field line without its end (RFC 9112, section 5). Raises BadRequest."""
    match = _FIELD.fullmatch(line)
    if match is None:
        raise BadRequest("a field of the request is not valid")
    return match.group(1).decode("ascii").lower(), match.group(2).decode("latin-1")


def check_head(head: RequestHead) -> None:
    """Refuse a head without a single reading: Host (RFC 9112, 3.2), framing (section 6), type (RFC 9110, 8.3).

    Values that a WSGI server joined with a comma are recognised, since none of these fields allows one. Raises BadRequest.
    """
    hosts = head.all("host")
    if len(hosts) > 1 or (not hosts and head.minor):
        raise BadRequest("the request has several Host fields" if hosts else "the request has no Host field")
    if hosts and not _is_host(hosts[0]):
        raise BadRequest("the Host field is not one host name with or without a port")
    lengths, codings = head.all("content-length"), head.all("transfer-encoding")
    if lengths and codings:
        raise BadRequest("the request has both Content-Length and Transfer-Encoding")
    if len(lengths) > 1 or not all(_LENGTH.fullmatch(length) for length in lengths):
        raise BadRequest("the Content-Length is not one number")
    if codings and (len(codings) > 1 or codings[0].lower() != "chunked" or head.minor == 0):
        raise BadRequest("the only Transfer-Encoding read here is chunked, in HTTP/1.1")
    if len(head.all("content-type")) > 1:
        raise BadRequest("the request has several Content-Type fields")
    expect = head.combined.get("expect")
    if expect is not None and expect.lower() != "100-continue":
        raise ExpectationFailed("the only expectation met here is 100-continue")


def _is_host(text: str) -> bool:
    match = _HOST.fullmatch(text)
    if match is None or int(match[2] or 0) > 65535:
        return False
    try:
        return match[1] is None or bool(IPv6Address(match[1]))
    except ValueError:
        return False


def is_small(head: RequestHead) -> bool:
    """Whether there is content, and it is short enough to be read."""
    lengths = head.all("content-length")
    return head.has_body and head.method != "CONNECT" and all(int(length) <= MAX_CONTENT for length in lengths)


def is_awaited(head: RequestHead) -> bool:
    """Whether the content of the request is read before it is answered.

    A client that expects 100 (Continue) gets the answer instead (RFC 9110, section 10.1.1).
    """
    return is_small(head) and not head.all("expect")


def length_to_pass(head: RequestHead) -> int:
    """How many bytes of content are passed on with a POST. Raises LengthRequired or ContentTooLarge."""
    if head.all("transfer-encoding"):
        raise LengthRequired("what is sent here must say how long it is, in Content-Length")
    size = sum(int(length) for length in head.all("content-length"))
    if size > MAX_POST:
        raise ContentTooLarge(f"no more than {MAX_POST} bytes may be sent here")
    return size


class Content:
    """Follows the content of one request; `start` is its offset in the request.

    Content to be passed on has a length, is bounded by `length_to_pass`, and is `kept`; all other content is dropped.
    """

    def __init__(self, head: RequestHead, start: int, *, kept: bool = False) -> None:
        self.head = head
        self.start = start
        self.kept: list[bytes] | None = [] if kept else None
        self._chunked = bool(head.all("transfer-encoding"))
        self._left = sum(int(length) for length in head.all("content-length"))
        self._taken = 0
        self._line = b""
        self._awaits: Literal["size", "end of a chunk", "trailer"] = "size"

    def take(self, data: bytes) -> bool:
        """Whether `data` ends the content, or no more of it is to be read. Raises BadRequest for invalid framing."""
        if self.kept is not None:
            self.kept.append(data[: self._left - self._taken])
        self._taken += len(data)
        if not self._chunked:
            return self._taken >= self._left
        return self._take_chunks(data) or max(self._taken, self._left) > MAX_CONTENT

    @property
    def size(self) -> int:
        """Bytes of content that are to be kept."""
        return 0 if self._chunked else self._left

    @property
    def awaits_first(self) -> bool:
        """Whether there is content, but no byte of it has arrived."""
        return self._left > 0 and not self._taken

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
        """Whether the line is the last one of the content."""
        match self._awaits:
            case "size":
                size = _CHUNK.fullmatch(line)
                if size is None:
                    raise BadRequest("the size of a chunk is not valid")
                self._left = int(size[1], 16)
                self._awaits = "end of a chunk" if self._left else "trailer"
            case "end of a chunk":
                if line:
                    raise BadRequest("a chunk is longer than it says")
                self._awaits = "size"
            case "trailer":
                if line and parse_field(line)[0] in _NEVER_BEHIND:
                    raise BadRequest("a field of the trailer belongs in front of the content")
                return not line
        return False
