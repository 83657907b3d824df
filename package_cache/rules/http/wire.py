"""The head of an HTTP/1 request: bytes -> `Head`, strictly (RFC 9112).

Decides what is a request at all. One reading only: whatever two programs could read in two ways (request smuggling) is
refused. `parse_head` reads bytes; `check` holds for any head, so the application applies it to what a WSGI server let
through as well.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv6Address

from package_cache.errors import BadRequest, RequestError, TargetTooLong

MAX_HEAD = 32768
"""Bytes of request line and fields together."""
MAX_LINE = 8190
"""Bytes of the request line; at least 8000 should be read (RFC 9112, section 3)."""
MAX_FIELDS = 100

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
"""A method or the name of a field (RFC 9110, section 5.6.2), as a regular expression."""
_REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
_METHOD = re.compile(TOKEN + rb" ")
_VALUE = rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?"
# The blanks in front are taken once and for all: trying every way to divide them costs the square of their number.
_FIELD = re.compile(rb"(" + TOKEN + rb"):[ \t]*+(" + _VALUE + rb")[ \t]*")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|(?:[A-Za-z0-9._~!$&'()*+;=\-]++|%[0-9A-Fa-f]{2})+)(?::([0-9]{0,5}))?")
_BARE = "a line of the request does not end with CR LF"
# A zero in front is legal, but some programs then count by eights.
_LENGTH = re.compile(r"0|[1-9][0-9]{0,18}")


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


@dataclass(frozen=True, slots=True)
class Head:
    """Request line and fields. Field names are lower case, repeated fields stand as often as they were sent."""

    method: str
    target: str
    minor: int
    fields: tuple[tuple[str, str], ...]

    def all(self, name: str) -> list[str]:
        """The values of every field of that name."""
        return [value for key, value in self.fields if key == name]

    @property
    def combined(self) -> dict[str, str]:
        """One value a name, repeated ones joined (RFC 9110, section 5.3)."""
        joined: dict[str, str] = {}
        for name, value in self.fields:
            joined[name] = f"{joined[name]}, {value}" if name in joined else value
        return joined

    @property
    def has_body(self) -> bool:
        """Whether bytes of content follow the head."""
        return bool(self.all("transfer-encoding")) or any(int(length) for length in self.all("content-length"))

    @property
    def keep_alive(self) -> bool:
        """Whether the client wants the connection to persist (RFC 9112, section 9.3).

        What follows CONNECT may be meant for a tunnel that it did not get; it is no request (RFC 9931).
        """
        options = {option.strip(" \t").lower() for value in self.all("connection") for option in value.split(",")}
        return "close" not in options and self.method != "CONNECT" and (self.minor == 1 or "keep-alive" in options)


def parse_head(data: bytes) -> tuple[Head, int] | None:
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
    # What has arrived may end with a part of the mark that ends the head.
    if len(seen) > MAX_HEAD + (0 if whole else len(b"\r\n\r")):
        raise HeadTooLarge(f"the head of the request is longer than {MAX_HEAD} bytes")
    if request_line is None or not whole:
        return None
    fields = rest.split(b"\r\n") if mark else []
    if len(fields) > MAX_FIELDS:
        raise HeadTooLarge(f"the request has more than {MAX_FIELDS} fields")
    head = Head(*request_line, tuple(parse_field(field) for field in fields))
    check(head)
    return head, end + 4


def _read_first_line(line: bytes, *, ended: bool) -> tuple[str, str, int] | None:
    if line.find(b"\n", 0, MAX_LINE + 1) >= 0:
        raise BadRequest(_BARE)
    # What has arrived may end with the first half of the mark that ends the line.
    if len(line) > MAX_LINE + (0 if ended else 1):
        if _METHOD.match(line, 0, MAX_LINE):
            raise TargetTooLong(f"the first line of the request is longer than {MAX_LINE} bytes")
        raise BadRequest("the request line is not valid")
    return _parse_request_line(line) if ended else None


def _parse_request_line(line: bytes) -> tuple[str, str, int]:
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise BadRequest("the request line is not valid")
    method, target, major, minor = (part.decode("ascii") for part in match.groups())
    if major != "1":
        raise VersionNotSupported(f"HTTP/{major}.{minor} is not served here; HTTP/1.1 is")
    return method, target, min(int(minor), 1)


def parse_field(line: bytes) -> tuple[str, str]:
    """Name, in lower case, and value of a field line without its end (RFC 9112, section 5). Raises BadRequest."""
    match = _FIELD.fullmatch(line)
    if match is None:
        raise BadRequest("a field of the request is not valid")
    return match.group(1).decode("ascii").lower(), match.group(2).decode("latin-1")


def check(head: Head) -> None:
    """Refuse what has no single reading: Host (RFC 9112, section 3.2), framing (section 6), type (RFC 9110, section 8.3).

    Values that a WSGI server joined with a comma are recognised, since none of these fields allows one.
    """
    _check_host(head)
    _check_framing(head)
    if len(head.all("content-type")) > 1:
        raise BadRequest("the request has several Content-Type fields")
    expect = head.combined.get("expect")
    if expect is not None and expect.lower() != "100-continue":
        raise ExpectationFailed("the only expectation met here is 100-continue")


def _check_host(head: Head) -> None:
    hosts = head.all("host")
    if not hosts and head.minor == 0:
        return
    if len(hosts) != 1:
        raise BadRequest("the request has no Host field" if not hosts else "the request has several Host fields")
    if not _is_host(hosts[0]):
        raise BadRequest("the Host field is not one host name with or without a port")


def _is_host(text: str) -> bool:
    match = _HOST.fullmatch(text)
    if match is None or int(match[2] or 0) > 65535:
        return False
    try:
        return match[1] is None or bool(IPv6Address(match[1]))
    except ValueError:
        return False


def _check_framing(head: Head) -> None:
    lengths, codings = head.all("content-length"), head.all("transfer-encoding")
    if lengths and codings:
        raise BadRequest("the request has both Content-Length and Transfer-Encoding")
    if len(lengths) > 1 or not all(_LENGTH.fullmatch(length) for length in lengths):
        raise BadRequest("the Content-Length is not one number")
    if codings and (len(codings) > 1 or codings[0].lower() != "chunked" or head.minor == 0):
        raise BadRequest("the only Transfer-Encoding read here is chunked, in HTTP/1.1")
