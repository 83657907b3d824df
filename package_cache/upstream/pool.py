"""Connections to sources that belong to an event loop: kept, bounded, and never waited for.

One request at a time goes over a connection. An answer whose body ends within so many bytes is collected and told whole;
any other leaves with its connection and the bytes read so far for whoever takes a body as it comes (`upstream.taken`). What
an answer means, and whom to ask next, is decided elsewhere.
"""

import ssl
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from package_cache.config import Timeouts
from package_cache.errors import UpstreamError, UpstreamLie, UpstreamTimeout
from package_cache.model import frozen
from package_cache.rules.http.response import FILES, HEAD_END, MAX_HEAD, MAX_INTERIM, Framing, ResponseHead, parse_response
from package_cache.rules.transfers.requests import RawRequest, SupportsRead
from package_cache.rules.transfers.ways import Way
from package_cache.upstream.dialling import Names, Trouble
from package_cache.upstream.events import READ, WRITE, Events
from package_cache.upstream.opening import WANTING, Connected, Nested, Opening, Trust, reason_of
from package_cache.upstream.taken import Taken

_RECEIVE = 65536
_SLOW_SECONDS = 0.5
"""Seconds after which a body that has not ended is handed over to be read as it comes, however small it is."""
_PROTOCOL = b"HTTP/1."
_SWITCHING_PROTOCOLS, _FINAL = 101, 200
_NO_ANSWER = "closed the connection without an answer"
_MOST = 256
"""Connections over one way at once."""
_CROWDED = _MOST // 4
"""In use, from which on clients have them in turn."""
_SHARE = _MOST // 2
"""Of the connections over one way, for one client."""
_MOST_IDLE = 64
_IDLE_SECONDS = 30.0
_WAYS = 64
"""How many ways are remembered, those without open connections included."""
_TICK_SECONDS = 0.1
"""Between two looks at limits of time."""


class Whole(NamedTuple):
    """An answer with its whole body."""

    head: ResponseHead
    body: bytes


@frozen
class Begun:
    """An answer whose body is still coming, over a connection that belongs to the receiver now."""

    head: ResponseHead
    taken: Taken


@dataclass(frozen=True, slots=True)
class Cut:
    """An answer with a file whose body broke off after these bytes."""

    head: ResponseHead
    body: bytes
    error: UpstreamError


Outcome = Whole | Begun | Cut | Trouble
Done = Callable[[Outcome], None]


@dataclass(slots=True, eq=False)
class Request:
    """A request to a source. `done` is called once with its outcome; if `at_once`, as soon as the head of a file came.

    It waits for a connection up to `until`, by the monotonic clock.
    """

    wire: RawRequest
    done: Done
    at_once: bool
    client: str = ""
    """The client that it is sent for, or the first of them."""
    until: float = 0.0


class Connection:
    """One connection, and the answer that comes over it."""

    __slots__ = (
        "_body", "_content", "_descriptor", "_events", "_framing", "_head", "_interim", "_kept", "_left", "_out", "_pool",
        "_received", "_request", "_secured", "_since", "_size", "_socket", "deadline", "place", "way",
    )  # fmt: skip

    def __init__(self, pool: "Pool", way: Way, place: "_Place", one: Connected, *, kept: bool = False) -> None:
        self._pool = pool
        self.way = way
        self.place = place
        self._socket = one
        self._secured = one if isinstance(one, ssl.SSLSocket | Nested) else None
        self._descriptor = one.fileno()
        self._events = READ
        self._kept = kept
        """Whether it was used before: the other end may have closed it meanwhile."""
        self._left = False
        self.deadline = 0.0
        self._request: Request | None = None
        self._reset(None)

    def _reset(self, request: Request | None) -> None:
        self._request = request
        self._out = request.wire.text if request is not None else b""
        self._content = request.wire.content if request is not None else None
        self._received = b""
        self._interim = 0
        self._head: ResponseHead | None = None
        self._framing: Framing | None = None
        self._body: list[bytes] = []
        self._size = 0
        self._since = 0.0

    def watch(self) -> None:
        """Be called when something arrives."""
        self._pool.events.register(self._descriptor, self._events, self._on_event)

    def ask(self, request: Request) -> None:
        """Send a request."""
        self._reset(request)
        self.deadline = time.monotonic() + self._pool.timeouts.head
        self._pool.busy.add(self)
        self._flush()

    def _expect(self, events: int) -> None:
        if events != self._events:
            self._events = events
            self._pool.events.modify(self._descriptor, events)

    def _flush(self) -> None:
        try:
            sent = self._socket.send(self._out)
        except WANTING:
            sent = 0
        except OSError:
            # The other end may have answered before it closed: then the answer can be read.
            self._out, self._content = b"", None
            self._expect(READ)
            self._receive()
            return
        self._out = self._out[sent:]
        if not self._out and self._content is not None and not self._refill(self._content):
            return
        events = READ | WRITE if self._out else READ
        if events != self._events:
            self._expect(events)

    def _refill(self, content: SupportsRead) -> bool:
        """Read more of the content to be sent, or reach its end; whether it could be read."""
        try:
            self._out = content.read(_RECEIVE)
        except OSError as error:
            self._fail(UpstreamError(f"broke off: {reason_of(error)}"))
            return False
        self.deadline = time.monotonic() + self._pool.timeouts.head
        return True

    def _on_event(self, what: int) -> None:
        if self._out and what & WRITE:
            self._flush()
        if what & ~WRITE and not self._left:
            self._receive()

    def _receive(self) -> None:
        block = b""
        try:
            block = self._socket.recv(_RECEIVE)
            if block and self._secured is not None:
                while self._secured.pending():
                    block += self._secured.recv(_RECEIVE)
        except WANTING:
            if not block:
                return
        except OSError as error:
            self._break(UpstreamError(f"broke off: {reason_of(error)}", again=True))
            return
        if self._request is None:
            self.drop()  # closed, or it speaks unasked: it is of no use any more
            return
        try:
            self._take(block)
        except UpstreamError as error:
            if isinstance(error, UpstreamLie) or block or self._head is not None or self._received:
                self._fail(error)
            else:
                self._break(error)

    def _take(self, block: bytes) -> None:
        """Take the next bytes; none at the end of the connection. Raises UpstreamError."""
        head, framing = self._head, self._framing
        if head is None or framing is None:
            if not block:
                raise UpstreamError("ended within a head" if self._received else _NO_ANSWER, again=True)
            head, block = self._find_head(block)
            if head is None:
                return
            if head.length == len(block) <= self._pool.small:  # so comes nearly every small file
                self._end(head, block)
                return
            self._head = head
            framing = self._framing = Framing(head)
        elif not block:
            framing.close()
        data = framing.take(block) if block else b""
        if data:
            self._body.append(data)
            self._size += len(data)
        if framing.ended and self._size <= self._pool.small:
            if self._request is not None and not self._request.wire.of_head:
                framing.refuse_surplus(head.status)
            self._end(head, b"".join(self._body), in_step=not framing.surplus)
            return
        if self._is_for_a_thread(head):
            framing.refuse_surplus(head.status)
            self._give_away(head, framing)
            return
        self._since = self._since or time.monotonic()
        self.deadline = self._since + min(_SLOW_SECONDS, self._pool.timeouts.stall)

    def _is_for_a_thread(self, head: ResponseHead) -> bool:
        """Whether a body that has not ended is handed to a thread; a large one once some of it came, which tells more."""
        small, request = self._pool.small, self._request
        is_large = self._size > small or (not head.chunked and (head.length is None or head.length > small))
        if request is not None and request.at_once:
            return is_large or head.status in FILES
        return is_large and self._size > 0

    def _find_head(self, block: bytes) -> tuple[ResponseHead | None, bytes]:
        """The head, once all of it came, and what follows it. Raises UpstreamError."""
        received = self._received + block if self._received else block
        of_head = self._request is not None and self._request.wire.of_head
        while True:
            start = received[: len(_PROTOCOL)]
            if not _PROTOCOL.startswith(start):
                raise UpstreamLie("does not answer in HTTP/1")
            match = HEAD_END.search(received)
            end = len(received) if match is None else match.end()
            if end > MAX_HEAD:
                raise UpstreamLie(f"sent a head of more than {MAX_HEAD} bytes")
            if match is None:
                self._received = received
                return None, b""
            head, received = parse_response(received[:end], of_head=of_head), received[end:]
            if head.status == _SWITCHING_PROTOCOLS:
                raise UpstreamLie("switched to a protocol that was not asked for")
            if head.status >= _FINAL:
                self._received = b""
                return head, received
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise UpstreamLie(f"sent more than {MAX_INTERIM} interim answers")

    def _end(self, head: ResponseHead, body: bytes, *, in_step: bool = True) -> None:
        """The whole answer came, and nothing beyond it if it is `in_step`."""
        request, self._request = self._request, None
        assert request is not None
        keeps = head.persistent and in_step and not self._out
        if not self._kept:
            self._note_session()
        if keeps:
            self._kept = True
            self._pool.rest(self)
        else:
            self.drop()
        request.done(Whole(head, body))

    def _note_session(self) -> None:
        """Once for each connection, after its first answer, which follows the tickets: it takes as long as a whole file."""
        if not self._kept and isinstance(self._secured, ssl.SSLSocket):
            self._pool.note_session(self.way, self._secured.session)

    def _give_away(self, head: ResponseHead, framing: Framing) -> None:
        """Leave the pool: a thread reads the body as it comes."""
        request, self._request = self._request, None
        assert request is not None
        self._note_session()
        self._leave()
        persistent = head.persistent and not self._out
        back = partial(self._pool.give_back, self.way) if persistent else None
        taken = Taken(head, self._socket, framing, b"".join(self._body), self._pool.timeouts.stall, back)
        request.done(Begun(head, taken))

    def time_out(self) -> None:
        """Nothing arrived within the time limit."""
        head, framing = self._head, self._framing
        if head is not None and framing is not None:
            self._give_away(head, framing)
        elif self._received or self._interim:
            self._fail(UpstreamTimeout("took too long over an answer's head, or over a line between two chunks"))
        else:
            self._fail(UpstreamTimeout("fell silent", unreached=True))

    def _break(self, error: UpstreamError) -> None:
        """The connection broke off. One that was kept, and said nothing, may have been closed before the request came."""
        request = self._request
        silent = self._head is None and not self._received
        if request is not None and self._kept and silent and request.wire.content is None:
            self._request = None
            self.drop()
            self._pool.ask_anew(request)
        else:
            self._fail(error)

    def _fail(self, error: UpstreamError) -> None:
        request, self._request = self._request, None
        head, body = self._head, b"".join(self._body)
        self.drop()
        if request is None:
            return
        # Bytes of a source that lied prove nothing; those before a break belong to the file.
        if (
            body
            and head is not None
            and head.status in FILES
            and not isinstance(error, UpstreamLie)
            and not request.at_once
        ):
            request.done(Cut(head, body, error))
        else:
            request.done(error)

    def drop(self) -> None:
        """Close it."""
        self._leave()
        self._socket.close()

    def _leave(self) -> None:
        self._left = True
        self._pool.events.unregister(self._descriptor)
        self._pool.left(self)


class _Queue:
    """Requests that wait for connections over one way, each client in its turn. A client has `share` of them at most."""

    def __init__(self, share: int) -> None:
        self._share = share
        self.by_client: dict[str, deque[Request]] = {}
        """Those that wait."""
        self._running: Counter[str] = Counter()

    def add(self, request: Request) -> None:
        """Queue a request behind the others of the same client."""
        self.by_client.setdefault(request.client, deque()).append(request)

    def next(self) -> Request | None:
        """The request whose client has its turn, which counts as running from now on; None if all have their share."""
        client = next((one for one in self.by_client if self._running[one] < self._share), None)
        if client is None:
            return None
        own = self.by_client.pop(client)
        request = own.popleft()
        if own:
            self.by_client[client] = own  # behind the other clients
        self._running[client] += 1
        return request

    def left(self, client: str) -> None:
        """A request that `next` gave for a client is answered."""
        self._running[client] -= 1
        if not self._running[client]:
            del self._running[client]

    def overdue(self, now: float) -> list[Request]:
        """Take out those that have waited for too long. `now` is by the monotonic clock."""
        over: list[Request] = []
        for client, own in list(self.by_client.items()):
            while own and now > own[0].until:
                over.append(own.popleft())
            if not own:
                del self.by_client[client]
        return over

    def clear(self) -> None:
        """Forget all that waits."""
        self.by_client.clear()


@dataclass(slots=True)
class _Place:
    """The connections over one way."""

    open: int = 0
    idle: list[Connection] = field(default_factory=list)
    waiting: _Queue = field(default_factory=lambda: _Queue(_SHARE))
    going_on: bool = False
    """Whether queued requests are being sent."""
    session: ssl.SSLSession | None = None
    """The session of the last connection over TLS, which makes the next handshake short (RFC 8446, section 2.2)."""


class Pool:
    """Sends requests to sources over http and https. Belongs to the loop's thread; so do all calls of `done`.

    A body is collected in memory up to `small` bytes. `ended` is called when the pool is closed.
    """

    def __init__(
        self,
        events: Events,
        timeouts: Timeouts,
        small: int,
        trust: Trust | None = None,
        ended: Callable[[], None] | None = None,
    ) -> None:
        self.events = events
        self.small = small
        self.timeouts = timeouts
        self._trust = trust or Trust()
        self._ended = ended
        self.names = Names(events, time.monotonic)
        self._places: dict[Way, _Place] = {}
        self.busy: set[Connection] = set()
        """The connections over which something is asked."""
        self._making: dict[Request, Opening] = {}
        self._ticking = False
        self.closed = False

    def ask(self, wire: RawRequest, done: Done, *, at_once: bool = False, client: str = "") -> None:
        """Send a request for a client, over an idle connection or a new one; `done` is called with its outcome.

        With `at_once`, it is called for a file as soon as its head came, even if the file is small.
        """
        if self.closed:
            return
        if not self._ticking:
            self._ticking = True
            self.events.after(_TICK_SECONDS, self._tick)
        request, way = Request(wire, done, at_once, client), wire.way
        place = self._places.get(way) or self._place(way)
        if place.waiting.by_client or place.open - len(place.idle) >= _CROWDED:
            request.until = time.monotonic() + self.timeouts.head
            place.waiting.add(request)
            self._go_on(way, place)
        elif place.idle:
            place.idle.pop().ask(request)
        else:
            self._open(way, place, request)

    def _go_on(self, way: Way, place: _Place) -> None:
        """Send queued requests, as far as there are connections."""
        if place.going_on:
            return  # a request that could not be sent is answered at once, which leads here again
        place.going_on = True
        while not self.closed and (place.idle or place.open < _MOST):
            request = self._next(place)
            if request is None:
                break
            if place.idle:
                place.idle.pop().ask(request)
            else:
                self._open(way, place, request)
        place.going_on = False

    def _next(self, place: _Place) -> Request | None:
        """The queued request whose turn it is."""
        request = place.waiting.next() if place.waiting.by_client else None
        if request is not None:
            request.done = partial(self._answered, place, request, request.done)
        return request

    def _answered(self, place: _Place, request: Request, done: Done, outcome: Outcome) -> None:
        place.waiting.left(request.client)
        done(outcome)
        self._go_on(request.wire.way, place)

    def _place(self, way: Way) -> _Place:
        if len(self._places) >= _WAYS:
            self._places = {one: place for one, place in self._places.items() if place.open}
        place = self._places[way] = _Place()
        return place

    def ask_anew(self, request: Request) -> None:
        """As `ask`, over a new connection: a kept one had been closed at the other end."""
        self._open(request.wire.way, self._places[request.wire.way], request)

    def _open(self, way: Way, place: _Place, request: Request) -> None:
        place.open += 1
        made = partial(self._made, request)
        opening = Opening(self.events, self.names, self._trust, way, self.timeouts.connect, place.session, made)
        if not opening.over:
            self._making[request] = opening

    def _made(self, request: Request, result: Connected | Trouble) -> None:
        self._making.pop(request, None)
        if isinstance(result, Exception):
            self._forget(request.wire.way)
            request.done(result)
        else:
            way = request.wire.way
            connection = Connection(self, way, self._places[way], result)
            connection.watch()
            connection.ask(request)

    def note_session(self, way: Way, session: ssl.SSLSession | None) -> None:
        """Resume this session in the next handshake."""
        self._places[way].session = session

    def _forget(self, way: Way) -> None:
        """A connection ended, or left the pool."""
        place = self._places[way]
        place.open -= 1
        self._go_on(way, place)

    def left(self, connection: Connection) -> None:
        """A connection closed, or was given away."""
        self.busy.discard(connection)
        place = connection.place
        if connection in place.idle:
            place.idle.remove(connection)
        self._forget(connection.way)

    def rest(self, connection: Connection) -> None:
        """A connection can be used again."""
        place = connection.place
        request = self._next(place) if place.waiting.by_client else None
        if request is not None:
            connection.ask(request)
        elif self.closed or len(place.idle) >= _MOST_IDLE:
            connection.drop()
        else:
            self.busy.discard(connection)
            connection.deadline = time.monotonic() + _IDLE_SECONDS
            place.idle.append(connection)

    def give_back(self, way: Way, one: Connected) -> None:
        """Take back a connection that was given away, at the end of an answer. Safe for any thread."""
        if self.closed:
            one.close()
        else:
            self.events.call(partial(self._take_back, way, one))

    def _take_back(self, way: Way, one: Connected) -> None:
        place = self._places.get(way) or self._place(way)
        if self.closed or place.open >= _MOST:
            one.close()
            return
        place.open += 1
        one.settimeout(0)
        connection = Connection(self, way, place, one, kept=True)
        connection.watch()
        self.rest(connection)

    def _tick(self) -> None:
        self.sweep(time.monotonic())
        self._ticking = not self.closed and any(place.open for place in self._places.values())
        if self._ticking:
            self.events.after(_TICK_SECONDS if self.busy else 10 * _TICK_SECONDS, self._tick)

    def sweep(self, now: float) -> None:
        """Give up what was silent for too long, and close what was idle for too long. `now` is by the monotonic clock."""
        for connection in [one for one in self.busy if now > one.deadline]:
            connection.time_out()
        for place in list(self._places.values()):
            for connection in [one for one in place.idle if now > one.deadline]:
                connection.drop()
            for request in place.waiting.overdue(now):
                request.done(UpstreamTimeout("has too many connections already that it does not answer", unreached=True))

    def close(self) -> None:
        """Close everything. No `done` is called any more."""
        if self.closed:
            return
        self.closed = True
        for opening in self._making.values():
            opening.close()
        self._making.clear()
        for place in self._places.values():
            place.waiting.clear()
            for connection in list(place.idle):
                connection.drop()
        for connection in list(self.busy):
            connection.drop()
        if self._ended is not None:
            self._ended()
