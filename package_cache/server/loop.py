"""The event loop: answers simple requests itself, for any number of connections in one thread.

A hit is answered from the hot set with sendfile. What is not in it is looked up in a thread, and comes back as an `Answer`
or as a `Pending`, which waits here without a thread: the one that looked it up goes on to download it. A file that is still
arriving is sent as it grows. Everything that is not strictly simple (`rules.http.wire`) leaves with the bytes read so far
to the host's ordinary WSGI path. Status and fields of a hit come from `rules.http.answer.decide`, as everywhere. The loop
knows nothing of Gunicorn or wsgiref; a host gives it listeners and a way out.
"""

import logging
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from io import FileIO

from package_cache.engine.answers import Answer
from package_cache.engine.aside import AsideReader
from package_cache.engine.checks import CheckedReader
from package_cache.engine.fills.fill import POLL, FillReader
from package_cache.engine.hotset import Head, HotFile, HotSet
from package_cache.engine.pending import Pending
from package_cache.engine.relay import Relay
from package_cache.engine.several import SeveralReader
from package_cache.errors import Forbidden, RequestError
from package_cache.model import Request
from package_cache.rules.http import wire
from package_cache.rules.http.answer import Reply, age, decide
from package_cache.rules.http.content import Content, is_awaited
from package_cache.rules.repositories.routes import is_own
from package_cache.server.access import AccessRecord, Said
from package_cache.server.admission import NOT_ADMITTED, is_local
from package_cache.server.app import Application
from package_cache.server.connections import (
    Asked,
    Connection,
    client_name,
    cut_up,
    head_again,
    release,
    render,
    said_in,
    simple,
)
from package_cache.server.lookups import Lookups, Step
from package_cache.server.reactor import Limits
from package_cache.server.refusals import TooManyConnections, refuse
from package_cache.server.sender import Sender
from package_cache.server.sockets import raise_descriptor_limit
from package_cache.server.tunnels import Tunnel

logger = logging.getLogger(__name__)

_MEMO = 4096
_NOTE_SECONDS = 1.0

Fallback = Callable[[socket.socket, bytes, object], None]
"""Takes a connection over with the bytes read from it; gives it back with `Loop.adopt`. May raise RuntimeError."""


class Loop(Sender):
    """Serves `listeners` with the application's service. Call `turn` again and again, from one thread."""

    def __init__(
        self,
        listeners: list[socket.socket],
        application: Application,
        fallback: Fallback,
        limits: Limits,
        software: str,
    ) -> None:
        super().__init__(listeners, application.service, application.access, application.admission, limits)
        self._fallback = fallback
        self._software = software
        self._noted = 0.0
        self._serve(application, limits)

    def _serve(self, application: Application, limits: Limits) -> None:
        """Have an application answer what is asked from now on."""
        descriptors = raise_descriptor_limit()
        self._limits = Limits(min(limits.connections, descriptors // 2), limits.timeouts)
        self._service, self._access, self._admission = application.service, application.access, application.admission
        self._routes = application.service.routes
        self._tunnels = application.tunnels
        self._hotset = HotSet(application.service.generation, descriptors // 4)
        self._lookups = Lookups(application.service, self.call, self._go_on)
        self._asides = Lookups(application.service, self.call, self._go_on)
        """Apart, as these wait for sources, and the others must not wait for them."""
        self._memo: dict[bytes, Asked] = {}

    def renew(self, application: Application, limits: Limits) -> None:
        """Answer with another application what is asked from now on. Called in the loop's thread.

        What is being answered comes to its end as it began.
        """
        self._note_use()
        self._hotset.clear()
        before, self._access = self._access, application.access
        before.give_way(application.access)
        self._serve(application, limits)
        for connection in self._connections.values():
            connection.admitted = self._admission.admits(client_name(connection.address))

    # -- turns

    def _may_wait(self) -> float:
        if self._ready:
            return 0.0
        return POLL if self._tails else 60.0

    def _go_on_with_others(self) -> None:
        """Those that could have gone on, had not others waited; and those that wait for a fill."""
        for _ in range(len(self._ready)):
            connection = self._ready.popleft()
            connection.queued = False
            if connection.busy:
                self._send(connection)
            elif not connection.closed:
                self._parse(connection)
        if self._tails:
            for connection in list(self._tails.values()):
                self._follow(connection)
        if self._clock - self._noted > _NOTE_SECONDS:
            self._note_use()

    def _note_use(self) -> None:
        self._noted = self._clock
        used = self._hotset.recently_used(self._now - self._clock)
        if used:
            self._service.note_use(used)
        self._hotset.drop_changed()

    def close(self) -> None:
        """Cut whatever is left, and let go of the hot set."""
        super().close()
        self._note_use()
        self._hotset.clear()

    # -- requests

    def _parse(self, connection: Connection) -> None:
        """Begin with the next request that is complete, if there is one."""
        if connection.content is not None:
            self._read_content(connection, connection.content)
            return
        data = connection.received
        asked = self._memo.get(data)
        if asked is not None:
            connection.received = b""
        else:
            try:
                parsed = wire.parse_head(data)
            except RequestError as error:
                self._refuse(connection, error)
                return
            if parsed is None:
                return
            head, size = parsed
            try:
                asked = simple(head, self._routes, self._service.via)
            except RequestError as error:
                self._refuse(connection, error, said_in(head, head.combined))
                return
            if asked is None:
                self._pass_over(connection, head, size)
                return
            connection.received = data[size:]
            if size == len(data) and size < 2048:
                if len(self._memo) >= _MEMO:
                    self._memo.clear()
                self._memo[data] = asked
        if not connection.admitted and not (is_own(asked.request.target) and is_local(client_name(connection.address))):
            self._refuse(connection, Forbidden(NOT_ADMITTED))
            return
        connection.asked = asked
        connection.busy = True
        connection.begun = self._clock
        self._begin(connection, asked)

    def _pass_over(self, connection: Connection, head: wire.Head, size: int) -> None:
        """Leave to others what is not simple."""
        if head.method == "CONNECT" and self._tunnels and connection.admitted:
            self._make_tunnel(connection, head, connection.received[size:])
        elif self._routes.posted(head.method, head.target, head.combined.get("host")) is not None:
            self._hand_over(connection, said_in(head, head.combined))  # with its content, which is wanted
        elif is_awaited(head):
            connection.content = Content(head, size)
            self._read_content(connection, connection.content)
        else:
            self._hand_over(connection, said_in(head, head.combined))

    def _make_tunnel(self, connection: Connection, head: wire.Head, received: bytes) -> None:
        """Have a thread make a tunnel of the connection."""
        self._forget(connection)
        self.lent += 1
        said = said_in(head, head.combined)
        tunnels, begun = self._tunnels, self._clock

        def carry() -> None:
            tunnel = tunnels.carry(connection.socket, head, received, lambda: self._draining)
            self.call(partial(self._end_tunnel, connection, said, tunnel, begun))

        try:
            self._service.run(carry)
        except RuntimeError:
            refused = Tunnel(refusal=TooManyConnections("there is no thread for a tunnel; try again in a while"))
            self._end_tunnel(connection, said, refused, begun)

    def _end_tunnel(self, connection: Connection, said: Said, tunnel: Tunnel, begun: float) -> None:
        """A tunnel came to its end, or was not made."""
        client = client_name(connection.address)
        if tunnel.refusal is not None:
            with suppress(OSError):
                connection.socket.send(refuse(tunnel.refusal, client, self._access, said))
            self._see_off(connection.socket, connection.address)
            return
        self.lent -= 1
        connection.socket.close()
        if self._access.enabled:
            seconds = time.monotonic() - begun
            record = AccessRecord(client, self._now, said, 200, tunnel.sent, "tunnel", tunnel.end, seconds, cut=False)
            self._access.add(record)

    def _read_content(self, connection: Connection, content: Content) -> None:
        """Go on once the content has come to its end. Only the head is kept: nobody reads more of the request."""
        data, connection.received = connection.received[content.start :], connection.received[: content.start]
        try:
            if content.take(data):
                self._hand_over(connection, said_in(content.head, content.head.combined))
        except RequestError as error:
            self._refuse(connection, error)

    def _hand_over(self, connection: Connection, said: Said) -> None:
        """Give a connection whose request is not simple to the host."""
        self._tails.pop(connection.descriptor, None)
        self._forget(connection)
        try:
            self._fallback(connection.socket, connection.received, connection.address)
        except RuntimeError:
            taken = self._take_back(connection.socket, connection.address)
            self._refuse(taken, TooManyConnections("there is no thread for this request; try again in a while"), said)

    def _begin(self, connection: Connection, asked: Asked) -> None:
        hot = self._hotset.get(asked.name) if asked.hot else None
        if hot is not None:
            self._answer_hot(connection, asked, hot)
            return
        self._expect(connection, 0)
        request = replace(asked.request, client=client_name(connection.address))
        self._lookups.begin(connection, asked, partial(self._service.seek, request))

    def _answer_hot(self, connection: Connection, asked: Asked, hot: HotFile) -> None:
        """The hit: no system call but send and sendfile."""
        hot.used = self._clock
        self.counters.hits += 1
        keep = self._keep(connection, asked)
        reply: Reply
        if asked.plain:
            reply, connection.head = self._plain_head(asked, hot, keep=keep)
        else:
            reply = self._decide(asked.request, hot)
            connection.head = self._render(reply, keep=keep)
        connection.status, connection.answer_kind = reply.status, "hit"
        connection.answer_source = hot.source
        span = reply.span
        if span is None:
            connection.first = connection.at = connection.stop = 0
        elif reply.pieces:
            self._answer_several(connection, reply, hot)
            return
        elif hot.body is not None:
            connection.head += hot.body if len(span) == len(hot.body) else hot.body[span.start : span.stop]
            connection.first, connection.at, connection.stop = -len(span), 0, 0
        else:
            hot.users += 1
            connection.source = hot
            connection.first = connection.at = span.start
            connection.stop = span.stop
        self._send(connection)

    def _answer_several(self, connection: Connection, reply: Reply, hot: HotFile) -> None:
        """Have a thread send several ranges: there is no system call for all of them."""
        hot.users += 1
        connection.first = connection.at = 0
        reader = SeveralReader(reply.pieces, hot.file)
        self._stream(connection, reader.read(reply.span), partial(self.call, hot.release))

    def _plain_head(self, asked: Asked, hot: HotFile, *, keep: bool) -> tuple[Reply, bytes]:
        """The answer to a request that only names the file: formed once, with the date and age of each second."""
        kind = asked.request.method, keep
        head = hot.heads.get(kind)
        if head is None:
            reply = self._decide(asked.request, hot)
            known = hot.entry.representation
            born = known.received - age(known, known.received)
            head = hot.heads[kind] = Head(reply, cut_up(reply, self._software, keep=keep), born)
        if head.second != self._second:
            first, second, third = head.pieces
            seconds = max(0, int(self._now - head.born))
            head.second, head.text = self._second, b"%b%b%b%d%b" % (first, self._date.encode(), second, seconds, third)
        return head.reply, head.text

    def _keep(self, connection: Connection, asked: Asked) -> bool:
        """Decide whether the connection persists; what the client is told of it is kept, though a stop comes meanwhile."""
        connection.keep = asked.keep and not self._draining
        return connection.keep

    def _render(self, reply: Reply, *, keep: bool) -> bytes:
        return render(reply, self._software, self._date, keep=keep)

    def _decide(self, request: Request, hot: HotFile) -> Reply:
        return decide(request, hot.entry.representation, self._service.serving("hit", hot.entry.digest))

    # -- what is not in the hot set

    def _go_on(self, connection: Connection, asked: Asked, step: Step) -> None:
        if connection.closed:
            release(step)
            return
        match step:
            case HotFile():
                step.used = self._clock  # or it would be the first to make room
                if asked.hot:
                    self._hotset.add(asked.name, step)
                else:
                    step.out = True  # something besides the target names the answer: it is served, but not kept
                    self._service.note_use({step.entry.id: self._now})
                self._answer_hot(connection, asked, step)
                if step.out and step.users == 0:
                    step.file.close()
            case Pending() if step.far_ahead:
                self._asides.begin(connection, asked, lambda _: self._service.leap(step))
            case Pending():
                connection.pending = step
                step.fill.listen(self.wake)
                self._tails[connection.descriptor] = connection
            case Answer() if step.reply.open_ended:
                release(step)
                connection.received = head_again(asked) + connection.received
                self._hand_over(connection, asked.said)
            case Answer():
                self._answer(connection, asked, step)

    def _answer(self, connection: Connection, asked: Asked, answer: Answer) -> None:
        reply = answer.reply
        connection.head = self._render(reply, keep=self._keep(connection, asked))
        connection.status, connection.answer_kind, connection.answer_source = reply.status, answer.kind, answer.source
        connection.first = connection.at = connection.stop = 0
        match answer.body:
            case bytes() as body if asked.request.method == "GET":
                connection.head += body
                connection.first = -len(body)
            case FileIO() | CheckedReader() | FillReader() if reply.span is not None:
                connection.source = answer.body
                connection.first = connection.at = reply.span.start
                connection.stop = reply.span.stop
            case Relay() | AsideReader() | SeveralReader() as passing if reply.span is not None:
                connection.first = connection.at = reply.span.start
                self._stream(connection, passing.read(reply.span), passing.close)
                return
            case _:
                release(answer)
        self._send(connection)

    def _follow(self, connection: Connection) -> None:
        """Look whether what a connection waits for has come."""
        pending, asked = connection.pending, connection.asked
        if pending is not None and asked is not None:
            if pending.has_news():
                step = pending.glance()
                if step is not pending or pending.far_ahead:
                    del self._tails[connection.descriptor]
                    connection.pending = None
                    if step is None:
                        self._lookups.begin(connection, asked, lambda _: pending.advance())
                    else:
                        self._go_on(connection, asked, step)
            return
        self._follow_source(connection)
