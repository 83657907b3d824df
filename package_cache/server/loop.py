"""The event loop: answers whatever clients ask, for any number of connections in one thread.

A hit is answered from the hot set with sendfile: by the bytes of the request where it is known by these, else once that is
parsed. What is not in it comes from `engine.front`, at once or later. A file that is still arriving is sent as it grows.
Status and fields of a hit come from `rules.http.answer.decide`, as everywhere. The loop knows nothing of its hosts, which
give it listeners and turns.
"""

import logging
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from io import FileIO

from package_cache.engine.answers import Answer, SeveralReader, gathered
from package_cache.engine.checks import CheckedReader
from package_cache.engine.fills.reader import FillReader, Window
from package_cache.engine.front import Front
from package_cache.engine.hotset import HotFile, HotSet
from package_cache.engine.waiting import Confirmed, Told
from package_cache.model import Key, Span
from package_cache.rules.http.answer import Reply, decide
from package_cache.rules.http.fields import format_date
from package_cache.rules.http.ranges import Piece
from package_cache.rules.http.request import parse_head
from package_cache.server.access import Said
from package_cache.server.app import Application
from package_cache.server.connections import Asked, Connection, Known, KnownRequests, asked_for, client_name, render
from package_cache.server.intake import Intake
from package_cache.server.reactor import Limits
from package_cache.server.sockets import raise_descriptor_limit

logger = logging.getLogger(__name__)


class Shown:
    """What is told of an answer from what is at hand: in Cache-Status (RFC 9211), which is `line`, and in the log."""

    def __init__(self, detail: str, kind: str) -> None:
        self.detail = detail
        self.kind = kind
        self.line = b"\r\nCache-Status: package-cache; " + detail.encode("ascii")


HIT = Shown("hit", "hit")
CONFIRMED = Shown("fwd=stale; fwd-status=304", "revalidated")

AtHand = tuple[bytes, bytes, bool, HotFile, Said]
"""All that is sent to answer a request; its first line; whether the connection persists; of what it is; who asks."""


class Hits:
    """What the event loop has at hand of one application."""

    def __init__(self, known: KnownRequests, hotset: HotSet, front: Front, software: str) -> None:
        self._known = known
        self._by_fields = known.by_fields
        self._hotset = hotset
        self._bodies = hotset.bodies
        self._front = front
        self._software = software
        self._second = -1
        self._fronts = b"", b""
        """How heads begin in that second, for a connection that ends and for one that persists."""

    def find(self, data: bytes, now: float, clock: float, *, may_keep: bool) -> AtHand | None:
        """All of the answer to a request that is known by its bytes. Not an object: it is done for each hit.

        `now` is of the machine's clock, `clock` of the monotonic one.
        """
        line, _, rest = data.partition(b"\r\n")
        known = self._by_fields.get(rest)
        if known is None:
            return None
        name = known.names.get(line)
        hot = None if name is None else self._hotset.get(name)
        body = None
        if hot is None:
            hot, body = self._find_stored(data, line, known, clock)
        elif hot.since <= now <= hot.until:
            body = self.body(hot, clock)
        if hot is None or body is None:
            return None
        keep = known.keep and may_keep
        return self.head(hot, now, keep=keep) + body, line, keep, hot, known.said

    def _find_stored(
        self, data: bytes, line: bytes, known: Known, clock: float
    ) -> tuple[HotFile, bytes | None] | tuple[None, None]:
        """What is not at hand, and comes to hand now, with its body."""
        met = self._known.meet(data, line, known)
        hot = None if met is None else self._front.stored(*met, clock)
        if met is None or hot is None:
            return None, None
        body = hot.body
        self._hotset.add(met[0], hot)
        self._known.add(line, known, met[0])
        return hot, body

    def head(self, hot: HotFile, now: float, *, keep: bool, said: bytes = HIT.line) -> bytes:
        """The head of the answer to a request that only names a file: most of it was formed when that became hot.

        `said` is its Cache-Status.
        """
        second = int(now)
        if second != self._second:
            self._second = second
            front = f"HTTP/1.1 200 OK\r\nServer: {self._software}\r\nDate: {format_date(second)}\r\nConnection: "
            self._fronts = f"{front}close".encode("latin-1"), f"{front}keep-alive".encode("latin-1")
        age = int(now - hot.born)
        return b"%b%b%d%b%b" % (self._fronts[keep], hot.front, age if age > 0 else 0, said, hot.back)

    def body(self, hot: HotFile, clock: float) -> bytes | None:
        """The body of a small file in the hot set; None of a large one, or where the disk is to be waited for."""
        body = hot.body if hot.body is not None else self._bodies.get(hot.place, hot.size)
        if body is None and hot.file is None:
            body = self._front.body(hot, clock)
            if body is not None:
                hot.place = self._bodies.put(body)  # it was asked for again: of many, nobody does
        return body


_NOTE_SECONDS = 1.0


class Loop(Intake):
    """Serves `listeners` with the application's service. Call `turn` again and again, from one thread."""

    def __init__(
        self,
        listeners: list[socket.socket],
        application: Application,
        limits: Limits,
        software: str,
    ) -> None:
        super().__init__(listeners, application, limits)
        self._software = software
        self._noted = 0.0
        self._renewed = 0.0
        self._retired: list[Front] = []
        self._serve(application, limits)

    def _serve(self, application: Application, limits: Limits) -> None:
        """Have an application answer what is asked from now on."""
        descriptors = raise_descriptor_limit()
        self._limits = replace(limits, connections=min(limits.connections, descriptors // 2))
        self._service, self._access, self._admission = application.service, application.access, application.admission
        self._hotset = HotSet(application.service.generation, descriptors // 4)
        self._understand(application)
        self._front = application.service.front(self, limits.timeouts)
        self._hits = Hits(self._known, self._hotset, self._front, self._software)

    def run(self, job: Callable[[], None]) -> None:
        """Run a job in a thread. Raises RuntimeError if there is none."""
        self._service.run(job)

    def renew(self, application: Application, limits: Limits) -> None:
        """Answer with another application what is asked from now on. Called in the loop's thread.

        What is being answered comes to its end as it began.
        """
        self._note_use()
        self._renewed = self._clock
        self._hotset.clear()
        self._retired.append(self._front)
        before, self._access = self._access, application.access
        before.give_way(application.access)
        self._serve(application, limits)
        for connection in self._connections.values():
            connection.admitted = self._admission.admits(client_name(connection.address))

    # -- turns

    def _may_wait(self) -> float:
        return 0.0 if self._ready else 60.0

    def _go_on_with_others(self) -> None:
        """Those that could have gone on, had not others waited; and those of whose body more has come."""
        for _ in range(len(self._ready)):
            connection = self._ready.popleft()
            connection.queued = False
            if connection.busy:
                self._send(connection)
            elif not connection.closed:
                self._parse(connection)
        super()._go_on_with_others()
        if self._clock - self._noted > _NOTE_SECONDS:
            self._note_use()

    def _note_use(self) -> None:
        self._noted = self._clock
        used = self._hotset.recently_used(self._now - self._clock)
        if used:
            self._service.note_use(used)
        self._hotset.drop_changed()

    @property
    def busy(self) -> bool:
        """Whether there are connections left, or what was answered is to be stored yet."""
        return super().busy or any(one.exchanges.has_unstored for one in (self._front, *self._retired))

    def _sweep(self, now: float) -> None:
        super()._sweep(now)
        for one in list(self._retired):
            if one.is_idle:
                one.close()
                self._retired.remove(one)

    def close(self) -> None:
        """Cut whatever is left, and let go of the hot set."""
        super().close()
        for one in (self._front, *self._retired):
            one.close()
        self._note_use()
        self._hotset.clear()

    # -- hits that are known by the bytes that ask for them

    def _answer_known(self, connection: Connection, data: bytes) -> bool:
        ready = self._hits.find(data, self._now, self._clock, may_keep=not self._draining)
        if ready is None:
            return False
        text, _, keep, _, _ = ready
        try:
            sent = connection.socket.send(text)
        except OSError:  # nothing of one that is broken, as the next attempt will tell
            sent = 0
        if sent < len(text):
            self._send_rest(connection, data, ready, sent)
            return True
        connection.moved, connection.served = self._clock, True
        self._count_hit(connection.client, ready)
        if not keep:
            self._close(connection)
        return True

    def _serve_newcomer(self, accepted: socket.socket, address: object, client: str, data: bytes) -> bool:
        ready = self._hits.find(data, self._now, self._clock, may_keep=not self._draining)
        if ready is None:
            return False
        text, _, keep, _, _ = ready
        try:
            sent = accepted.send(text)
        except OSError:
            sent = 0
        if sent < len(text):
            self._send_rest(self._take(accepted, address), data, ready, sent)
            return True
        self._count_hit(client, ready)
        if keep:
            self._take(accepted, address).served = True
        else:
            accepted.close()
        return True

    def _count_hit(self, client: str, ready: AtHand) -> None:
        _, line, _, hot, said = ready
        hot.used = self._clock
        self.counters.hits += 1
        if self._access.enabled:
            seconds = time.monotonic() - self._clock
            self._access.add_hit(client, self._now, line, said, hot.size, seconds, hot.source)

    def _send_rest(self, connection: Connection, data: bytes, ready: AtHand, sent: int) -> None:
        """Send what the client's socket has no room for when it has."""
        text, _, keep, hot, _ = ready
        parsed = parse_head(data)
        assert parsed is not None  # as it was when it became known
        head, _ = parsed
        named = self._routes.find(head.target, head.combined.get("host"))
        connection.asked = asked_for(head, named, self._routes, self._service.via)
        connection.busy, connection.begun, connection.keep = True, self._clock, keep
        connection.status, connection.answer_kind, connection.answer_source = 200, "hit", hot.source
        connection.first, connection.at, connection.stop = -hot.size, 0, 0
        connection.head, connection.held = text[sent:], hot.size
        hot.used = self._clock
        self.counters.hits += 1
        self._send(connection)

    # -- what is here

    def _begin(self, connection: Connection, asked: Asked) -> None:
        if asked.hot and self._is_at_hand(connection, asked):
            return
        request, ready = asked.request.of_client(connection.client), partial(self._found, connection, asked)
        found = self._front.seek(request, ready, connection, self._clock, asked.asking)
        if found is not None:
            self._go_on(connection, asked, found)

    def _is_at_hand(self, connection: Connection, asked: Asked) -> bool:
        """Whether a request is answered with what is at hand, comes to hand with one look, or is being asked about."""
        hot = self._hotset.get(asked.name)
        if hot is not None and (asked.plain or hot.entry is not None):
            if hot.since <= self._now <= hot.until:
                return self._answer_at_hand(connection, asked, hot)
            return self._front.ask(hot, asked.request, connection.client, partial(self._found, connection, asked))
        if asked.asking is None:
            return False
        stored = self._front.stored(Key(asked.name), asked.asking.policy, self._clock)
        if stored is not None:
            self._go_on(connection, asked, stored)
        return stored is not None

    def _found(self, connection: Connection, asked: Asked, found: Told) -> None:
        """What is at hand is still so; or the answer was found; or another look is due."""
        connection.left = None
        if connection.closed:
            _release(found)
        elif isinstance(found, Confirmed):
            self._answer_confirmed(connection, asked, found.hot)
        elif found is not None:
            self._go_on(connection, asked, found)
        else:
            self._begin(connection, asked._replace(asking=None))  # its repository may be another one by now

    def _answer_at_hand(self, connection: Connection, asked: Asked, hot: HotFile, shown: Shown = HIT) -> bool:
        """Whether a request is answered with what is at hand; not if its body would have to be waited for."""
        body = self._hits.body(hot, self._clock)
        if body is None and hot.file is None:
            return False
        self._answer_hot(connection, asked, hot, body, shown)
        return True

    def _answer_confirmed(self, connection: Connection, asked: Asked, hot: HotFile) -> None:
        if not self._answer_at_hand(connection, asked, hot, CONFIRMED):
            request, ready = asked.request.of_client(connection.client), partial(self._found, connection, asked)
            self._front.look_up(request, ready, connection)
        elif not hot.kept and self._may_keep(connection, asked):
            self._hotset.add(asked.name, hot)

    def _may_keep(self, connection: Connection, asked: Asked) -> bool:
        """Whether what was found for a request may be kept at hand: the settings are those with which it was sought."""
        return asked.hot and connection.begun > self._renewed

    def _answer_hot(
        self,
        connection: Connection,
        asked: Asked,
        hot: HotFile,
        body: bytes | None,
        shown: Shown = HIT,
    ) -> None:
        """The hit: no system call but send and sendfile."""
        hot.used = self._clock
        self.counters.hits += 1
        keep = self._keep(connection, asked)
        pieces: tuple[Piece, ...] = ()
        if asked.plain:
            connection.head, connection.status = self._hits.head(hot, self._now, keep=keep, said=shown.line), 200
            span = Span(0, hot.size) if asked.request.method == "GET" else None
        else:
            assert hot.entry is not None  # or it would have been looked up
            serving = self._service.desk.serving(shown.detail, hot.entry.digest)
            reply = decide(asked.request, hot.entry.representation, serving)
            connection.head, connection.status = self._render(reply, keep=keep), reply.status
            span, pieces = reply.span, reply.pieces
        connection.answer_kind, connection.answer_source = shown.kind, hot.source
        if span is None:
            connection.first = connection.at = connection.stop = connection.held = 0
        elif body is not None:
            body = gathered(pieces, body) if pieces else body[span.start : span.stop]
            connection.head += body
            connection.first, connection.at, connection.stop, connection.held = -len(body), 0, 0, len(body)
        else:
            hot.users += 1
            connection.source = hot
            connection.set_span(span, pieces)
        self._send(connection)

    def _keep(self, connection: Connection, asked: Asked) -> bool:
        """Decide whether the connection persists; what the client is told of it is kept, though a stop comes meanwhile."""
        connection.keep = asked.keep and not self._draining
        return connection.keep

    def _render(self, reply: Reply, *, keep: bool) -> bytes:
        return render(reply, self._software, self._date, keep=keep)

    # -- what is not in the hot set

    def _go_on(self, connection: Connection, asked: Asked, found: HotFile | Answer) -> None:
        """Answer with what was found, which may be kept at hand."""
        if isinstance(found, Answer):
            self._answer(connection, asked, found)
            return
        self._answer_hot(connection, asked, found, found.body)  # before it is kept, with no more than a hit needs
        if self._may_keep(connection, asked):
            self._hotset.add(asked.name, found)
        else:  # something besides the target names the answer: it is served, but not kept
            found.out = True
            self._service.note_use({found.id: self._now})
            found.close()

    def _answer(self, connection: Connection, asked: Asked, answer: Answer) -> None:
        reply = answer.reply
        connection.head = self._render(reply, keep=self._keep(connection, asked))
        connection.status, connection.answer_kind, connection.answer_source = reply.status, answer.kind, answer.source
        connection.first = connection.at = connection.stop = connection.held = 0
        connection.chunked = reply.open_ended
        match answer.body:
            case bytes() as body if asked.request.method != "HEAD":
                connection.head += body
                connection.first, connection.held = -len(body), len(body)
            case SeveralReader() as several if reply.span is not None:
                connection.source = several.source
                connection.set_span(reply.span, several.pieces)
            case FileIO() | CheckedReader() | FillReader() | Window() if reply.span is not None:
                connection.source = answer.body
                connection.set_span(reply.span)
            case FillReader() | Window() as reader if reply.open_ended:
                connection.source = reader
            case _:
                answer.close()
        if isinstance(connection.source, CheckedReader | FillReader | Window):
            self._attend(connection, connection.source)
        self._send(connection)


def _release(found: Told) -> None:
    """Give back what nobody will send."""
    if isinstance(found, Answer | HotFile):
        found.close()
