"""What the event loop keeps of each client: the request it is at, what is sent, and how far.

Values and small functions on them; the loop moves them on.
"""

import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from io import FileIO
from typing import NamedTuple

from package_cache.engine.checks import CheckedReader
from package_cache.engine.fills.reader import FillReader, Window
from package_cache.engine.hotset import HotFile
from package_cache.errors import RequestError
from package_cache.model import Key, Request, Span, Target
from package_cache.rules.http.answer import Reply
from package_cache.rules.http.ranges import Piece
from package_cache.rules.http.request import Content, RequestHead, parse_request_line
from package_cache.rules.http.targets import key_of
from package_cache.rules.repositories.freshness import RequestPolicy, TargetPolicy
from package_cache.rules.repositories.routes import Routes, is_own
from package_cache.server.access import Said
from package_cache.server.sockets import READ

_CONDITIONS = frozenset({"range", "if-none-match", "if-modified-since", "if-range"})
_GAP = "\0"
"""Stands for what changes each second; no field value has it."""
_NOTHING = Target("")
"""What is named by a request that is refused."""


_LONGEST_KNOWN = 1024
_MOST_KNOWN = 2 << 20
"""Bytes of memory, about, from which on all is learned anew."""
_OF_LINE = 160
_OF_FIELDS = 700
"""Bytes that are taken besides the text."""


Body = HotFile | FileIO | CheckedReader | FillReader | Window
"""What a body is sent from."""


class Asked(NamedTuple):
    """A request, parsed.

    `name` is the key of what it asks for. `plain` says that neither a range nor a condition bears on the answer, `hot`
    that the hot set may have it: nothing but the key names the answer; `more` that something may follow which nobody reads.
    `asking` is what its repository makes of it, None for what is none of its business.
    """

    request: Request
    name: str
    said: Said
    keep: bool
    plain: bool
    hot: bool
    more: bool = False
    asking: RequestPolicy | None = None


@dataclass(slots=True)
class Connection:
    """One client. What it waits for decides which of the optional members are set."""

    socket: socket.socket
    descriptor: int
    address: object
    moved: float
    client: str
    events: int = READ
    admitted: bool = True
    """Whether it may ask for files; on this machine, who may not asks how the service fares all the same."""
    received: bytes = b""
    content: Content | None = None
    """What follows a head that was received, and is to be read before it is answered."""
    named: Target | RequestError | None = None
    """What that head names, or why it names nothing."""
    busy: bool = False
    queued: bool = False
    """Whether its next request is here, and waits for its turn."""
    asked: Asked | None = None
    head: bytes = b""
    source: Body | None = None
    pieces: deque[Piece] = field(default_factory=deque)
    body: bytes = b""
    at: int = 0
    stop: int = 0
    chunked: bool = False
    """Whether the end of the body is not known yet; `stop` is that of the chunk which is sent."""
    begun: float = 0.0
    answer_kind: str = "-"
    answer_source: str = "-"
    status: int = 0
    first: int = 0
    """Where the body that is sent would begin, had all of it come from the place `at` backwards."""
    held: int = 0
    """Bytes of the body that stand at the end of `head`, before any of it was sent."""
    paced: float = 0.0
    """Since when the client alone sets the pace, or was found fast enough; 0.0 while it does not."""
    paced_from: int = 0
    left: Callable[[], None] | None = None
    """Called when it ends before what it asked for was found."""
    closed: bool = False
    leaving: bool = False
    unserved: bool = False
    """Whether it was turned away before it asked."""
    served: bool = False
    keep: bool = False
    """Whether the answer that is sent says that the connection persists."""

    def set_span(self, span: Span, pieces: Sequence[Piece] = ()) -> None:
        """Have a span of the source be sent; or these pieces, which begin with lines."""
        self.first = self.at = self.stop = 0
        self.held = 0
        if pieces:
            self.pieces.extend(pieces)
        else:
            self.first = self.at = span.start
            self.stop = span.stop

    @property
    def sent(self) -> int:
        """Bytes of the body that were given to the client's socket."""
        return self.at - self.first - min(len(self.head), self.held)


@dataclass(slots=True)
class Known:
    """What requests with the same fields have in common, and the keys of what their lines name.

    `said` is what the log says of the first of them, `keep` whether the client wants the connection to persist.
    """

    fields: Mapping[str, str]
    said: Said
    keep: bool
    names: dict[bytes, str] = field(default_factory=dict)


class KnownRequests:
    """Requests that were seen before, by their bytes: what the hot set calls what they ask for. Belongs to one thread.

    Only those whose answer nothing but the target decides. Clients of one kind say the same in every request but for its
    first line, so that is apart from the rest: what is known of a request takes little more than its line, and of a new
    one only that is read.
    """

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self.by_fields: dict[bytes, Known] = {}
        """What is known of requests, by all of them that is behind their first line."""
        self._taken = 0
        self._met: tuple[bytes, bytes, Known, Target, RequestPolicy] | None = None
        """The request whose line was read last, that line, and what it names."""

    def meet(self, data: bytes, line: bytes, known: Known) -> tuple[Key, TargetPolicy] | None:
        """What the line of a request names, and what holds for that; None where more than that decides the answer."""
        if not _is_knowable(line):
            return None
        try:
            method, text, minor = parse_request_line(line)
            target = self._routes.find(text, known.fields.get("host"))
        except RequestError:
            return None
        if method != "GET" or minor != 1 or is_own(target):
            return None
        asking = self._routes.policy(target).at(target).asked(known.fields)
        if not asking.is_for_all or asking.always_revalidates:
            return None
        self._met = data, line, known, target, asking
        return key_of(target, asking.accept), asking.policy

    def asked(self, data: bytes) -> Asked | None:
        """What a request asks for that was just met; it is known from now on."""
        met, self._met = self._met, None
        if met is None or met[0] != data:
            return None
        _, line, known, target, asking = met
        text = line[4:-9].decode("ascii")
        name = key_of(target, asking.accept)
        request = Request("GET", target, known.fields, modern=True, text=text)
        self.add(line, known, name)
        return Asked(request, name, Said("GET", text, known.said.agent), known.keep, plain=True, hot=True, asking=asking)

    def learn(self, data: bytes, asked: Asked) -> bool:
        """Know a request from now on, all of which is in `data`, if its like may be known by its bytes."""
        request, asking = asked.request, asked.asking
        # A connection persists by the fields alone in HTTP/1.1, which nearly all clients speak.
        if not (asked.hot and asked.plain and request.method == "GET" and request.modern):
            return False
        if asking is None or asking.always_revalidates:  # all of a request is needed where a source is asked
            return False
        line, _, rest = data.partition(b"\r\n")
        if not _is_knowable(line) or len(rest) > _LONGEST_KNOWN:
            return False
        known = self.by_fields.get(rest)
        if known is None:
            known = self.by_fields[rest] = Known(request.fields, asked.said, asked.keep)
            self._taken += len(rest) + _OF_FIELDS
        self.add(line, known, asked.name)
        return True

    def add(self, line: bytes, known: Known, name: str) -> None:
        """Know what a line names."""
        if self._taken > _MOST_KNOWN:
            for one in self.by_fields.values():
                one.names.clear()
            self.by_fields.clear()
            self._taken = 0
        if line not in known.names:
            known.names[line] = name
            self._taken += len(line) + _OF_LINE


def _is_knowable(line: bytes) -> bool:
    """Whether a request may be known by its first line: the log has another way to write what is in some."""
    return 0 < len(line) <= _LONGEST_KNOWN and b'"' not in line and b"\\" not in line


@dataclass(slots=True)
class Counters:
    """What the loop did since it started."""

    accepted: int = 0
    hits: int = 0
    refused: int = 0
    stalls: int = 0


def asked_for(head: RequestHead, target: Target | None, routes: Routes, via: str = _GAP) -> Asked:
    """What a head asks for; None for what is refused. `via` is the name by which requests that come back are known."""
    fields = head.combined
    request = Request(head.method, target or _NOTHING, fields, head.minor == 1, text=head.target)
    name, asking = request.target.text, None
    if target is not None and not is_own(target):
        asking = routes.policy(target).at(target).asked(fields)
        name = key_of(target, asking.accept)
    has_body = head.has_body
    return Asked(
        request,
        name,
        said_in(head, fields),
        head.keep_alive and not has_body,
        _CONDITIONS.isdisjoint(fields),
        asking is not None and asking.is_for_all and ("via" not in fields or via not in fields["via"]),
        has_body or head.method == "CONNECT",
        asking,
    )


def said_in(head: RequestHead, fields: Mapping[str, str]) -> Said:
    """What the log is to say of a request; `fields` are those of its head, combined."""
    return Said(head.method, head.target, fields.get("user-agent", "-"))


def render(reply: Reply, software: str, date: str, *, keep: bool) -> bytes:
    """The head of a response on the wire."""
    connection = "keep-alive" if keep else "close"
    first = f"HTTP/1.1 {reply.status} {phrase(reply.status)}\r\nServer: {software}\r\nDate: {date}"
    chunked = "\r\nTransfer-Encoding: chunked" if reply.open_ended else ""
    fields = "".join([f"\r\n{name}: {value}" for name, value in reply.fields])
    return f"{first}\r\nConnection: {connection}{chunked}{fields}\r\n\r\n".encode("latin-1")


_PHRASES = {status.value: status.phrase for status in HTTPStatus}


def phrase(status: int) -> str:
    """The words of a status; a source may send one that nobody registered."""
    return _PHRASES.get(status, "Unassigned")


def describe(connection: Connection) -> str:
    """What the connection asked for, for the log."""
    return repr(connection.asked.said.target) if connection.asked else "-"


def client_name(address: object) -> str:
    """The client, as the log names it: by its IP address, or `unix:` for any on a unix socket."""
    # A socket for both families shows an IPv4 address in this form (RFC 4291, section 2.5.5.2).
    return str(address[0]).removeprefix("::ffff:") if isinstance(address, tuple) else "unix:"
