"""Answers of sources: what one looks like, how redirects lead to it, and what is done to its body while it is read.

A body is inspected before anybody gets its first bytes, and its pace is measured (`Watched`); its content coding is taken
off (`decoded`); it is held to a rate (`Throttle`). Nothing here opens a connection.
"""

import re
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from package_cache.errors import UpstreamCrawl, UpstreamError, UpstreamLie
from package_cache.model import ErrorResponse, Fields
from package_cache.rules.http.caching import fields_of_refusal
from package_cache.rules.http.digests import Digest, hasher, tells_of_bytes
from package_cache.rules.http.fields import first_said, media_type
from package_cache.rules.transfers.pace import LEAST, Pace
from package_cache.rules.transfers.requests import MAX_REDIRECTS, answered, led_to, locations_of, told_on_the_way
from package_cache.rules.transfers.signatures import FIRST, has_signature, wrong_type
from package_cache.rules.transfers.steps import Answered, Ask

_LONGEST_ERROR = 1 << 14
_ERROR_SECONDS = 2.0
"""How long, and for how long, what a source says of an error is read."""
LEAST_RATE = 4096
"""Bytes a second that each download must have left of a throttle: a source that is read more slowly gives up."""
_TURNS = 4
"""How often in a second each download goes on."""
_LARGEST = 1 << 18
_GZIP, _ZLIB, _BARE = 31, 15, -15
"""What zlib calls these formats."""
_WINDOWS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB}
_BLOCK = 1 << 20
LONGEST = 1 << 30
"""Bytes of a document that may come out of a coding that nobody asked for."""
_COMPRESSED_NAME = re.compile(r"\.(gz|tgz|taz|crate|svgz|apk|ipk|z)$", re.IGNORECASE)
_COMPRESSED_TYPE = re.compile(r"application/(x-)?(gzip|gtar-compressed|compressed-tar|tgz)|.*\+gzip")
_DOCUMENT_TYPE = re.compile(r"text/.*|application/(json|xml|javascript)|.*\+(json|xml)")
"""Types that servers code on the fly. Any other file that is said to be coded may have been compressed before."""
_DIGEST_NAME = re.compile(r"[0-9a-f]{32,128}")
_DROPPED = frozenset({"content-encoding", "content-length", "date"})
"""What does not hold for the decoded body, but digests; and Date, without which Last-Modified is no strong validator."""


class Exchange(Protocol):
    """An answer on the wire: status and fields at once, the body block by block.

    `marked` says that the body's end is told by its framing, and not by a length.
    """

    status: int
    fields: Fields
    marked: bool

    def read(self) -> bytes:
        """The next bytes as soon as there are any; empty at an end in good order. Raises UpstreamError."""
        ...

    def close(self) -> None:
        """Give the connection back if it can be used again, else drop it."""
        ...


class Answer(Protocol):
    """A source's answer: its head at once, its body block by block."""

    head: Answered

    def read(self) -> bytes:
        """The next bytes as soon as there are any; empty at an end in good order. Raises UpstreamError."""
        ...

    def close(self) -> None:
        """Give the connection or the file back."""
        ...


class Offer(Protocol):
    """One thing to download: where it may be had, and how it is opened there; all else of the request is bound in it."""

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs that may have it, best first."""
        ...

    def open(self, ask: Ask, method: str = "GET") -> Answer:
        """The answer to `ask`; close it afterwards. Raises UpstreamError."""
        ...

    def rival(self, answer: Answer, left: int | None) -> str | None:
        """Where the rest of an answer, of so many bytes, would come from a good deal faster, if that is known by now."""
        ...

    def failed(self, url: str, reason: str) -> None:
        """What was opened there came to nothing, and that is the source's fault."""
        ...

    def differed(self, wanted: Digest, found: str) -> None:
        """What came whole has another digest than is wanted: this one, in hex."""
        ...

    def delivered(self, url: str) -> None:
        """What was opened there is what was asked for, whole."""
        ...


class HttpAnswer:
    """An answer at the end of the redirects, which led to `url`. `said` are the fields that are kept of it."""

    def __init__(self, head: Answered, exchange: Exchange, url: str, said: Fields) -> None:
        self.head = head
        self.url = url
        self.said = said
        self.fields = exchange.fields
        self.read = exchange.read
        self.close = exchange.close

    def error(self) -> ErrorResponse | None:
        """All of an answer that says why this is not served; None if it is too long, or comes too slowly."""
        body, until = b"", time.monotonic() + _ERROR_SECONDS
        try:
            while block := self.read():
                body += block
                if len(body) > _LONGEST_ERROR or time.monotonic() > until:
                    return None
        except UpstreamError:
            return None
        return ErrorResponse(self.head.status, fields_of_refusal(self.fields), body)


def open_through_redirects(
    method: str,
    ask: Ask,
    send: Callable[[str, str], Exchange],
    lead: Callable[[str, str, int, tuple[str, ...]], tuple[str, str]],
    kept: Callable[[Fields], Fields],
    first: Exchange | None = None,
) -> HttpAnswer:
    """Ask at `ask.url`, and wherever redirects lead to. Raises UpstreamError.

    `send` asks with a method at a URL; with `first`, that was done already. `lead` says for a method, a URL, a status and
    the places that the answer names with which method to ask where next. `kept` leaves of fields those that are kept.
    """
    exchange, url = first, ask.url
    told: Fields = ()
    for _ in range(MAX_REDIRECTS + 1):
        try:
            exchange = exchange or send(method, url)
        except UpstreamError as error:
            error.unreached = error.unreached and url == ask.url  # a source that leads elsewhere was there
            raise
        places = locations_of(exchange.status, exchange.fields)
        if not places:
            fields = led_to(exchange.fields, told)
            said = kept(fields)
            head = answered(exchange.status, fields, first_said(fields), said, ask.url, time.time(), marked=exchange.marked)
            return HttpAnswer(head, exchange, url, said)
        told = told_on_the_way(told, exchange.fields)
        try:
            method, url = lead(method, url, exchange.status, places)
        finally:
            exchange.close()
        exchange = None
    raise UpstreamLie(f"redirects more than {MAX_REDIRECTS} times")


class _Digests:
    """What a source declares of a body that is being read."""

    def __init__(self, declared: tuple[Digest, ...]) -> None:
        self._hashes = [(hasher(it.algorithm), it.value) for it in declared]

    def take(self, data: bytes) -> None:
        """The next bytes, none at the end. Raises UpstreamLie if they are not what was declared."""
        for running, value in self._hashes:
            running.update(data)
            if not data and running.digest() != value:
                raise UpstreamLie("sent bytes that are not those of the digest it declares")


class Watched:
    """The body of a 200 or 206: its first bytes are looked at, its pace is measured; `sent` is told of it at the end."""

    def __init__(self, answer: Answer, crawl: float, sent: Callable[[str, int, float], None]) -> None:
        self.head = answer.head
        self.pace = Pace(crawl)
        self._answer = answer
        self._sent = sent
        self._first = b""
        self._ended = False
        self._digests = _Digests(answer.head.part_digests)

    def look(self, url: str) -> None:
        """Check that a whole body may be the file that `url` names. Raises UpstreamError."""
        path = url.partition("?")[0]
        if not has_signature(path):
            return
        while len(self._first) < FIRST and not self._ended:
            data = self._next()
            self._first += data
            self._ended = not data
        said = self.head.representation
        reason = wrong_type(path, said.get("content-type"), said.get("content-encoding"), self._first[:FIRST])
        if reason is not None:
            raise UpstreamLie(reason)

    def read(self) -> bytes:
        """The next bytes as soon as there are any; empty at an end in good order. Raises UpstreamError."""
        if self._first:
            data, self._first = self._first, b""
            return data
        return b"" if self._ended else self._next()

    def _next(self) -> bytes:
        begun = time.monotonic()
        data = self._answer.read()
        if not self.pace.add(len(data), time.monotonic() - begun) and data:
            raise UpstreamCrawl(f"sent less than {LEAST} bytes a second for {self.pace.limit:g} seconds")
        self._digests.take(data)
        return data

    def close(self) -> None:
        """Give the connection or the file back."""
        self._sent(self.head.representation.source, self.pace.size, self.pace.seconds)
        self._answer.close()


class Throttle:
    """Shares `rate` bytes a second out among so many downloads of a process at once. Safe for any number of threads.

    Nothing is saved up: after a pause it goes on at the same rate.
    """

    def __init__(self, rate: int, downloads: int) -> None:
        self._rate = rate
        self.block = max(1024, min(_LARGEST, rate // (_TURNS * downloads)))
        """Bytes that one may have at a time."""
        self._guard = threading.Lock()
        self._free = 0.0

    def wait(self, size: int) -> None:
        """Block until so many bytes may come."""
        with self._guard:
            begin = max(self._free, time.monotonic())
            self._free = begin + size / self._rate
            until = self._free
        time.sleep(max(0.0, until - time.monotonic()))

    def applied(self, read: Callable[[], bytes]) -> Callable[[], bytes]:
        """What reads the same body no faster than the throttle allows, in portions.

        What has arrived waits here, what has not waits in the socket, and so the source is held back.
        """
        left = memoryview(b"")

        def read_portion() -> bytes:
            nonlocal left
            if not left:
                left = memoryview(read())
            portion, left = bytes(left[: self.block]), left[self.block :]
            self.wait(len(portion))
            return portion

        return read_portion


def decoded(answer: Answer, url: str, longest: int | None = None) -> Answer:
    """The answer without its content coding, if it is one that can be removed; of `longest` bytes then at most.

    Nobody asked for a coding, and some servers send one all the same. Inside is the file, unless the file is itself
    compressed, and the coding only says so. A part of such a body cannot be asked for: places in it are not those in
    the file.
    """
    said = answer.head.representation
    window = _WINDOWS.get((said.get("content-encoding") or "").strip(" \t").lower())
    if window is None or answer.head.status != 200:
        return answer
    if _COMPRESSED_NAME.search(url.partition("?")[0]) or _COMPRESSED_TYPE.fullmatch(media_type(said.get("content-type"))):
        return answer
    return _Decoded(answer, window, longest)


def uncoded(answer: Answer, url: str) -> Answer:
    """A document without its content coding; any other file as it is: it may have been published compressed."""
    path = url.partition("?")[0]
    kind = media_type(answer.head.representation.get("content-type"))
    unnamed = not kind and not _DIGEST_NAME.fullmatch(path.rpartition("/")[2])
    if has_signature(path) or not (unnamed or _DOCUMENT_TYPE.fullmatch(kind)):
        return answer
    return decoded(answer, url, LONGEST)


class _Decoded:
    """A body without its coding. The coded body is checked against what its head says: its length and its digests."""

    def __init__(self, answer: Answer, window: int, longest: int | None) -> None:
        self._answer = answer
        self._window = window
        self._longest = longest
        self._came = self._left = 0
        self._digests = _Digests(answer.head.digests)
        self._inflating = zlib.decompressobj(window)
        self._rest = b""
        self._begun = False
        self.head = _head_inside(answer.head)

    def read(self) -> bytes:
        """The next bytes as soon as there are any; empty at an end in good order. Raises UpstreamError."""
        while True:
            if not self._rest:
                self._rest = self._outside()
                if not self._rest:
                    return b""
            data = self._inflate()
            self._left += len(data)
            if self._longest is not None and self._left > self._longest:
                raise UpstreamLie(f"sent a document of more than {self._longest} bytes in a content coding")
            if data:
                return data

    def _outside(self) -> bytes:
        """The next bytes as they were sent; none at an end that is one for the coding, too. Raises UpstreamError."""
        data = self._answer.read()
        self._came += len(data)
        self._digests.take(data)
        if not data and self._came != (self._answer.head.representation.size or self._came):
            raise UpstreamError("ended before the declared length", again=True)
        if not data and self._begun and not self._inflating.eof:
            raise UpstreamError("ended within its content coding", again=True)
        return data

    def _inflate(self) -> bytes:
        if self._inflating.eof:
            if self._window != _GZIP:
                raise UpstreamLie("sent more behind the end of its content coding")
            self._inflating = zlib.decompressobj(self._window)  # the next member
        try:
            data = self._inflating.decompress(self._rest, _BLOCK)
        except zlib.error as error:
            if self._begun or self._window != _ZLIB:
                raise UpstreamLie(f"sent a body that is not in the coding it declares: {error}") from error
            # Some servers omit the frame that RFC 9110 (section 8.4.1.2) wants around it.
            self._window = _BARE
            self._inflating = zlib.decompressobj(_BARE)
            return self._inflate()
        self._begun = True
        self._rest = self._inflating.unused_data if self._inflating.eof else self._inflating.unconsumed_tail
        return data

    def close(self) -> None:
        """Give the connection back."""
        self._answer.close()


def _head_inside(head: Answered) -> Answered:
    said = head.representation
    kept: Fields = tuple(
        (name, f"W/{value}" if name.lower() == "etag" and not value.startswith("W/") else value)
        for name, value in said.fields
        if (lower := name.lower()) not in _DROPPED and not tells_of_bytes(lower)
    )
    told = head.chunked or said.size is not None
    return replace(head, representation=replace(said, fields=kept, size=None), chunked=told, digests=(), part_digests=())
