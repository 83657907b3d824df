"""What a source writes around its bodies: the head of an HTTP/1 answer, the lines between chunks (RFC 9112).

Decides what is an answer at all, and where its body ends. One reading only: an answer whose end could be read in two ways
is refused, and so is a head without end. A line may end with LF alone (section 2.2), and a value that was written over
several lines becomes one line (section 5.2), for servers do that; a bare CR, a NUL, or a name that is no token is not
excused.
"""

import re
from dataclasses import dataclass

from package_cache.errors import UpstreamLie
from package_cache.model import Fields

MAX_HEAD = 65536
"""Bytes of status line and fields together."""
MAX_FIELDS = 200
MAX_INTERIM = 8
"""Answers of the class 1xx before the one that counts."""
MAX_CHUNK_LINE = 1024
"""Bytes of the line in front of a chunk."""
MAX_TRAILER = 8192
"""Bytes of the fields behind the last chunk."""

HEAD_END = re.compile(rb"\n\r?\n")
LINE_END = re.compile(rb"\n")
TRAILER_END = re.compile(rb"\A\r?\n|\n\r?\n")

_STATUS_LINE = re.compile(r"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: ([^\n]*))?")
_FIELD = re.compile(r"^([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([^\n]*)\n", re.MULTILINE)
_FOLD = re.compile(r"\n[ \t]++")
_LENGTH = re.compile(r"[0-9]{1,19}")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection"})
_WITHOUT_BODY = frozenset({204, 304})


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """Status and fields of an answer, and how its body ends.

    The body is `chunked`, or has `length` bytes, or goes on to the end of the connection where that is None. `persistent`
    says that the connection can be used again afterwards (section 9.3).
    """

    minor: int
    status: int
    reason: str
    fields: Fields
    chunked: bool
    length: int | None
    persistent: bool


def parse_response(data: bytes, *, of_head: bool) -> ResponseHead:
    """Read a whole head; `of_head` says that it answers a HEAD request.

    Raises UpstreamLie for what has no single reading.
    """
    text = data.decode("latin-1").replace("\r\n", "\n")
    if "\r" in text or "\0" in text:
        raise UpstreamLie("sent a head with a bare CR or a NUL in it")
    line, _, block = text[:-1].partition("\n")
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise UpstreamLie("does not answer in HTTP/1")
    if "\n " in block or "\n\t" in block:
        block = _FOLD.sub(" ", block)
    pairs = _FIELD.findall(block)
    if len(pairs) != block.count("\n"):
        raise UpstreamLie("sent a head with a line that is no field")
    if len(pairs) > MAX_FIELDS:
        raise UpstreamLie(f"sent a head of more than {MAX_FIELDS} fields")
    fields = tuple((name, value.strip(" \t")) for name, value in pairs)
    minor, status = min(int(match[1]), 1), int(match[2])
    framing = _Framing.of(fields)
    chunked = framing.is_chunked(minor)
    length = framing.length()
    if of_head or status < 200 or status in _WITHOUT_BODY:
        chunked, length = False, 0
    persistent = framing.is_persistent(minor) and (chunked or length is not None)
    return ResponseHead(minor, status, match[3] or "", fields, chunked, length, persistent)


@dataclass(frozen=True, slots=True)
class _Framing:
    """The values of the fields that say where an answer ends."""

    lengths: list[str]
    codings: list[str]
    options: list[str]

    @classmethod
    def of(cls, fields: Fields) -> "_Framing":
        found: dict[str, list[str]] = {name: [] for name in _FRAMING}
        for name, value in fields:
            lower = name.lower()
            if lower in _FRAMING:
                found[lower] += [part.strip(" \t") for part in value.split(",")]
        return cls(found["content-length"], found["transfer-encoding"], found["connection"])

    def is_chunked(self, minor: int) -> bool:
        """RFC 9112, section 6.1: chunked is the only coding read here, once, in HTTP/1.1, and never beside a length."""
        if not self.codings:
            return False
        if self.lengths:
            raise UpstreamLie("says both Content-Length and Transfer-Encoding")
        if [coding.lower() for coding in self.codings] != ["chunked"] or minor == 0:
            raise UpstreamLie("uses a Transfer-Encoding other than chunked in HTTP/1.1")
        return True

    def length(self) -> int | None:
        """RFC 9110, section 8.6: the same number may stand there more than once."""
        if not self.lengths:
            return None
        if len(set(self.lengths)) > 1 or not _LENGTH.fullmatch(self.lengths[0]):
            raise UpstreamLie("contradicts itself about the length")
        return int(self.lengths[0])

    def is_persistent(self, minor: int) -> bool:
        options = {option.lower() for option in self.options}
        return "close" not in options and (minor == 1 or "keep-alive" in options)


def parse_chunk_line(line: bytes) -> int:
    """The size of the chunk behind a line (section 7.1), in bytes. Raises UpstreamLie."""
    match = _CHUNK_LINE.fullmatch(line)
    if match is None:
        raise UpstreamLie("sent a chunk without a valid size")
    return int(match[1], 16)
