"""The head and the body of an HTTP/1 response of a source, read strictly (RFC 9112).

Decides what is a response at all, and where its body ends. There is one reading only: a response whose end could be read
in two ways is refused, and so is a head without end. A line may end with LF alone (section 2.2), and a value written over
several lines becomes one line (section 5.2), since servers do that; a bare CR, a NUL, or a name that is no token is not
excused. `Framing` takes the bytes after the head, in pieces of any size; what is done with the body, and when a silent
connection is given up, is decided by its caller.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from package_cache.errors import UpstreamError, UpstreamLie
from package_cache.model import Fields
from package_cache.rules.http.fields import first_said

MAX_HEAD = 65536
"""Bytes of status line and fields together."""
MAX_FIELDS = 200
MAX_INTERIM = 8
"""Informational responses (1xx) before the final one."""
MAX_CHUNK_LINE = 1024
"""Bytes of the line before a chunk."""
MAX_TRAILER = 8192
"""Bytes of the fields after the last chunk."""

_KNOWN, _LONGEST_KNOWN = 256, 1024
"""Heads of 304 that are memoised, and the bytes of the longest."""

HEAD_END = re.compile(rb"\n\r?\n")
TRAILER_END = re.compile(rb"\A\r?\n|\n\r?\n")

_STATUS_LINE = re.compile(r"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: ([^\n]*))?")
# The spaces around a value are taken once and for all: trying every way to divide them costs the square of their number.
_FIELD = re.compile(r"^([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*+((?:[^\n]*[^ \t\n])?)[ \t]*\n", re.MULTILINE)
_FOLD = re.compile(r"\n[ \t]++")
_LENGTH = re.compile(r"[0-9]{1,19}")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_WITHOUT_BODY = frozenset({204, 304})
FILES = frozenset({200, 203, 206})
"""Statuses of responses whose bodies are, or are part of, the file."""

_LINE, _DATA, _CRLF, _TRAILER, _END = range(5)


class ResponseHead(NamedTuple):
    """Status and fields of a response, and how its body ends.

    The body is `chunked`, or has `length` bytes, or ends with the connection if `length` is None. A `persistent` connection
    can be used again afterwards (section 9.3).
    """

    minor: int
    status: int
    reason: str
    fields: Fields
    names: Sequence[str]
    """The names of the fields in lower case, one for each."""
    said: dict[str, str]
    """The first value of each field, by its name in lower case."""
    chunked: bool
    length: int | None
    persistent: bool

    def with_fields(self, fields: Fields) -> "ResponseHead":
        """The same with other fields, which say nothing else of the framing."""
        return self._replace(fields=fields, names=[name.lower() for name, _ in fields], said=first_said(fields))


def parse_response(data: bytes, *, of_head: bool) -> ResponseHead:
    """Read a whole head; `of_head` says that it answers a HEAD request.

    Raises UpstreamLie for what has no single reading.
    """
    # A source confirms what is asked again and again in the same bytes, until another second begins.
    return (_read_again if data[9:12] == b"304" and len(data) <= _LONGEST_KNOWN else _read)(data, of_head)


def _read(data: bytes, of_head: bool) -> ResponseHead:
    text = data.decode("latin-1").replace("\r\n", "\n")
    if "\r" in text or "\0" in text:
        raise UpstreamLie("sent a head with a bare CR or a NUL in it")
    line, _, block = text[:-1].partition("\n")
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise UpstreamLie("does not answer in HTTP/1")
    if "\n " in block or "\n\t" in block:
        block = _FOLD.sub(" ", block)
    fields: Fields = tuple(_FIELD.findall(block))
    count = len(fields)
    if count != block.count("\n"):
        raise UpstreamLie("sent a head with a line that is no field")
    if count > MAX_FIELDS:
        raise UpstreamLie(f"sent a head of more than {MAX_FIELDS} fields")
    names, said = [], dict[str, str]()
    for name, value in fields:
        lower = name.lower()
        names.append(lower)
        if lower not in said:
            said[lower] = value
    minor, status = 0 if match[1] == "0" else 1, int(match[2])
    chunked, lengths = _framing(fields, said, minor)
    length = int(lengths[0]) if lengths else None
    if lengths[1:]:
        others = tuple(pair for pair in fields if pair[0].lower() != "content-length")
        fields = (*others, ("Content-Length", lengths[0]))
        names = [name.lower() for name, _ in fields]
        said["content-length"] = lengths[0]
    if of_head or status < 200 or status in _WITHOUT_BODY:
        chunked, length = False, 0
    persistent = (chunked or length is not None) and _is_persistent(fields, said, minor)
    return ResponseHead(minor, status, match[3] or "", fields, names, said, chunked, length, persistent)


_read_again = lru_cache(_KNOWN)(_read)


def check_framing(fields: Fields) -> None:
    """Raise UpstreamLie if these fields of a response of HTTP/1.1 say in two ways where its body ends."""
    _framing(fields, first_said(fields), 1)


def _framing(fields: Fields, said: dict[str, str], minor: int) -> tuple[bool, list[str]]:
    """Whether the body is chunked, and each length that is stated. Raises UpstreamLie.

    Chunked is the only coding read here, once, in HTTP/1.1, and never beside a length (RFC 9112, section 6.1). The same
    length may be stated more than once (RFC 9110, section 8.6).
    """
    lengths = _parts(fields, said, "content-length") if "content-length" in said else []
    if "transfer-encoding" in said:
        if lengths:
            raise UpstreamLie("says both Content-Length and Transfer-Encoding")
        if [coding.lower() for coding in _parts(fields, said, "transfer-encoding")] != ["chunked"] or minor == 0:
            raise UpstreamLie("uses a Transfer-Encoding other than chunked in HTTP/1.1")
        return True, lengths
    if lengths and (lengths.count(lengths[0]) < len(lengths) or not _LENGTH.fullmatch(lengths[0])):
        raise UpstreamLie("contradicts itself about the length")
    return False, lengths


def _parts(fields: Fields, said: dict[str, str], name: str) -> list[str]:
    """The members of a comma-separated list, in all fields of that name; there is at least one field."""
    if len(said) == len(fields) and "," not in said[name]:
        return [said[name]]
    values = [value for key, value in fields if key.lower() == name]
    return [part.strip(" \t") for value in values for part in value.split(",")]


def _is_persistent(fields: Fields, said: dict[str, str], minor: int) -> bool:
    if "connection" not in said:
        return minor == 1
    options = list(map(str.lower, _parts(fields, said, "connection")))
    return "close" not in options and (minor == 1 or "keep-alive" in options)


def parse_chunk_line(line: bytes) -> int:
    """The size of the chunk behind a line (section 7.1), in bytes. Raises UpstreamLie."""
    match = _CHUNK_LINE.fullmatch(line)
    if match is None:
        raise UpstreamLie("sent a chunk without a valid size")
    return int(match[1], 16)


class Framing:
    """The body of one response. `ended` says that its last byte was taken, `surplus` holds what came after it."""

    def __init__(self, head: ResponseHead) -> None:
        self.ended = not head.chunked and head.length == 0
        self.surplus = b""
        self._to_the_end = not head.chunked and head.length is None
        self._left = head.length or 0
        self._stage = _LINE if head.chunked else _DATA
        self._chunked = head.chunked
        self._held = b""
        """The beginning of a line, a trailer or the end of a chunk that has not arrived whole."""

    def take(self, data: bytes) -> bytes:
        """The bytes of the body that are among the next bytes of the connection. Raises UpstreamLie."""
        if self.ended:
            self.surplus += data
            return b""
        if self._to_the_end:
            return data
        if not self._chunked:
            return self._take_length(data)
        return self._take_chunks(data)

    def refuse_surplus(self, status: int) -> None:
        """Raise UpstreamLie if more came than the source declared of a file: it does not know where the file ends."""
        if self.surplus and status in FILES:
            raise UpstreamLie("sent more than it declared")

    def close(self) -> None:
        """The connection ended. Raises UpstreamError if the body did not end before, or with it."""
        if self.ended:
            return
        # Some servers close the connection instead of sending the empty line after the last chunk.
        if self._to_the_end or (self._stage == _TRAILER and not self._held):
            self.ended = True
            return
        where = {_LINE: "within a line in front of a chunk", _TRAILER: "within a trailer"}
        raise UpstreamError(f"ended {where.get(self._stage, 'before the end of its body')}", again=True)

    def _take_length(self, data: bytes) -> bytes:
        body = data[: self._left]
        self._left -= len(body)
        if not self._left:
            self.ended, self.surplus = True, data[len(body) :]
        return body

    def _take_chunks(self, data: bytes) -> bytes:
        blocks: list[bytes] = []
        data, self._held = self._held + data, b""
        at = 0
        while at < len(data) and self._stage != _END:
            at, block = self._step(data, at)
            if block:
                blocks.append(block)
            if self._held:
                return b"".join(blocks)
        if self._stage == _END:
            self.ended, self.surplus = True, data[at:]
        return b"".join(blocks)

    def _step(self, data: bytes, at: int) -> tuple[int, bytes]:
        """The next position in `data`, and bytes of the body. What is incomplete is held."""
        if self._stage == _DATA:
            block = data[at : at + self._left]
            self._left -= len(block)
            if not self._left:
                self._stage = _CRLF
            return at + len(block), block
        if self._stage == _LINE:
            return self._line(data, at), b""
        if self._stage == _CRLF:
            return self._end_of_chunk(data, at), b""
        return self._trailer(data, at), b""

    def _line(self, data: bytes, at: int) -> int:
        end = data.find(b"\n", at) + 1
        if (end or len(data)) - at > MAX_CHUNK_LINE:
            raise UpstreamLie(f"sent a line in front of a chunk of more than {MAX_CHUNK_LINE} bytes")
        if not end:
            self._held = data[at:]
            return len(data)
        self._left = parse_chunk_line(data[at:end])
        self._stage = _DATA if self._left else _TRAILER
        return end

    def _end_of_chunk(self, data: bytes, at: int) -> int:
        end = data[at : at + 2]
        if not b"\r\n".startswith(end):
            raise UpstreamLie("sent a chunk that is longer than its size")
        if len(end) < 2:
            self._held = end
            return len(data)
        self._stage = _LINE
        return at + 2

    def _trailer(self, data: bytes, at: int) -> int:
        match = TRAILER_END.search(data[at : at + MAX_TRAILER])
        if match is not None:
            self._stage = _END
            return at + match.end()
        if len(data) - at >= MAX_TRAILER:
            raise UpstreamLie(f"sent a trailer of more than {MAX_TRAILER} bytes")
        self._held = data[at:]
        return len(data)
