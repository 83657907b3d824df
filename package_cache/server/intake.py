"""What clients ask: from bytes to a request that is here with all that belongs to it, to a tunnel, or to a refusal.

One reading only, by `rules.http.request`. Content that nobody wants is followed to its end all the same, so that its client
gets to read the answer; what is passed on is gathered. How a request is answered is the business of `server.loop`.
"""

import socket
import time
from abc import abstractmethod
from collections import deque
from contextlib import suppress
from functools import partial

from package_cache.engine.answers import Answer
from package_cache.engine.front import Front
from package_cache.engine.waiting import Told
from package_cache.errors import Forbidden, ForeignHost, RequestError
from package_cache.model import Request, Target
from package_cache.rules.http.answer import METHODS
from package_cache.rules.http.request import Content, RequestHead, is_awaited, length_to_pass, parse_head
from package_cache.rules.repositories.routes import is_own
from package_cache.server.access import AccessRecord, Said
from package_cache.server.addresses import own_name
from package_cache.server.admission import NOT_ADMITTED, Names, is_local
from package_cache.server.app import Application
from package_cache.server.connections import Asked, Connection, KnownRequests, asked_for, client_name, said_in
from package_cache.server.reactor import Limits
from package_cache.server.refusals import TooManyConnections, not_allowed, refuse
from package_cache.server.sender import Sender
from package_cache.server.sockets import READ
from package_cache.server.tunnels import Tunnel

_MEMO = 512
_LONG = 2048
"""Bytes of a request from which on it is not remembered."""
_POSTED = 128 << 20
"""Bytes of content that are held for sources, of all clients together."""
_POST_SECONDS = 60.0
"""How long all of what is passed on with a POST may take to arrive."""
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Intake(Sender):
    """Takes requests in, and has them answered."""

    _front: Front

    def __init__(self, listeners: list[socket.socket], application: Application, limits: Limits) -> None:
        super().__init__(listeners, application.service, application.access, application.admission, limits)
        self._posted = 0
        """Bytes of content that are held, or about to be."""
        self._posts: deque[tuple[Connection, Asked, Request, bytes]] = deque()
        """Those that are to be passed on, with their content."""
        self._posting = 0
        self._names = Names()

    def _understand(self, application: Application) -> None:
        """Take what is asked from now on for what it means to an application."""
        self._routes = application.service.routes
        self._tunnels = application.tunnels
        self._memo: dict[bytes, Asked] = {}
        self._known = KnownRequests(self._routes)

    # -- how requests are answered

    @abstractmethod
    def _begin(self, connection: Connection, asked: Asked) -> None:
        """Answer a request for something."""

    @abstractmethod
    def _found(self, connection: Connection, asked: Asked, found: Told) -> None:
        """Go on with what was found for a request."""

    @abstractmethod
    def _answer(self, connection: Connection, asked: Asked, answer: Answer) -> None:
        """Send an answer."""

    # -- requests

    def _parse(self, connection: Connection) -> None:
        """Begin with the next request that is complete, if there is one."""
        if connection.content is not None:
            self._read_content(connection, connection.content)
            return
        data = connection.received
        asked = self._memo.get(data) or self._known.asked(data)
        if asked is not None:
            connection.received = b""
            self._take_up(connection, asked)
            return
        try:
            parsed = parse_head(data)
        except RequestError as error:
            self._refuse(connection, error)
            return
        if parsed is None:
            return
        head, size = parsed
        try:
            named: Target | RequestError = self._routes.find(head.target, head.combined.get("host"))
        except ForeignHost:
            self._find_here(connection, head, size)
            return
        except RequestError as error:
            named = error
        if isinstance(named, Target) and size == len(data) < _LONG and not head.has_body and head.method in METHODS:
            asked = asked_for(head, named, self._routes, self._service.via)
            if not self._known.learn(data, asked):
                if len(self._memo) >= _MEMO:
                    self._memo.clear()
                self._memo[data] = asked
            connection.received = b""
            self._take_up(connection, asked)
            return
        self._hear(connection, head, size, named)

    def _find_here(self, connection: Connection, head: RequestHead, size: int) -> None:
        """Find what a request names at a host that may be this machine, by the address that its client has come to."""
        own, port = own_name(connection.socket.getsockname())
        try:
            named: Target | RequestError = self._routes.find(head.target, head.combined.get("host"), own)
        except ForeignHost:
            self._wait(connection)
            find = partial(self._find_by_name, head, own, port)
            self._front.own.begin(find, partial(self._found_by_name, connection, head, size))
            return
        except RequestError as error:
            named = error
        self._hear(connection, head, size, named)

    def _find_by_name(self, head: RequestHead, own: str, port: int) -> Target | RequestError:
        """Runs in a thread: who knows the addresses of a name may be slow."""
        try:
            return self._names.find(self._routes, head, own, port)
        except RequestError as error:
            return error

    def _found_by_name(
        self, connection: Connection, head: RequestHead, size: int, named: Target | RequestError | Answer
    ) -> None:
        if connection.closed:
            return
        connection.busy = False
        if isinstance(named, Answer):
            self._give(connection, head, named)
            return
        self._expect(connection, READ)
        self._hear(connection, head, size, named)

    def _wait(self, connection: Connection) -> None:
        """Have a connection wait for what a thread finds."""
        connection.busy, connection.begun = True, self._clock
        self._expect(connection, 0)

    def _hear(self, connection: Connection, head: RequestHead, size: int, named: Target | RequestError) -> None:
        """Go on with a request whose head takes `size` bytes of what was received: with its content, if there is any."""
        connection.named = named
        if head.method == "CONNECT" and self._tunnels and connection.admitted:
            self._make_tunnel(connection, head, connection.received[size:])
        elif not self._is_admitted(connection, named):
            self._refuse(connection, Forbidden(NOT_ADMITTED), said_in(head, head.combined))
        elif head.method == "POST" and isinstance(named, Target) and self._routes.passes_post(named):
            self._await_content(connection, head, size)
        elif is_awaited(head):
            connection.content = Content(head, size)
            self._read_content(connection, connection.content)
        else:
            connection.received = connection.received[size:]
            self._respond(connection, head, named)

    def _is_admitted(self, connection: Connection, named: Target | RequestError) -> bool:
        """Whether a client is answered. On this machine, whoever asks how the service fares is."""
        if connection.admitted:
            return True
        return isinstance(named, Target) and is_own(named) and is_local(client_name(connection.address))

    def _take_up(self, connection: Connection, asked: Asked) -> None:
        """Begin to answer a request that asks for something, and is here with all that belongs to it."""
        if not self._is_admitted(connection, asked.request.target):
            self._refuse(connection, Forbidden(NOT_ADMITTED), asked.said)
            return
        connection.asked = asked
        connection.busy = True
        connection.begun = self._clock
        self._begin(connection, asked)

    def _respond(self, connection: Connection, head: RequestHead, named: Target | RequestError) -> None:
        """Answer a request that is here with all that is read of it."""
        error = named if isinstance(named, RequestError) else None
        if head.method not in METHODS:
            error = not_allowed(head.method)
        if error is None and isinstance(named, Target):
            self._take_up(connection, asked_for(head, named, self._routes, self._service.via))
        elif error is not None and error.close:
            self._refuse(connection, error, said_in(head, head.combined))
        elif error is not None:
            self._give(connection, head, self._service.refuse(error))

    def _give(self, connection: Connection, head: RequestHead, refusal: Answer) -> None:
        """Tell a client why its request is refused; it may go on with others."""
        connection.asked = asked = asked_for(head, None, self._routes)
        connection.busy, connection.begun = True, self._clock
        self._answer(connection, asked, refusal)

    # -- content

    def _await_content(self, connection: Connection, head: RequestHead, size: int) -> None:
        """Read content that is to be passed on."""
        try:
            length = length_to_pass(head)
            if self._posted + length > _POSTED:
                raise TooManyConnections("too much is passed on at once; try again in a while")
        except RequestError as error:
            self._refuse(connection, error, said_in(head, head.combined))
            return
        self._posted += length
        connection.begun = self._clock
        connection.content = content = Content(head, size, kept=True)
        self._read_content(connection, content)
        if connection.content is content and content.awaits_first and head.all("expect") and head.minor == 1:
            with suppress(OSError):  # it is told by the next attempt to read
                connection.socket.send(_CONTINUE)

    def _read_content(self, connection: Connection, content: Content) -> None:
        """Go on once the content has come to its end. Of what is not passed on, only the head is kept."""
        data, connection.received = connection.received[content.start :], connection.received[: content.start]
        try:
            if not content.take(data):
                if content.kept is not None and self._clock - connection.begun < _POST_SECONDS:
                    connection.moved = self._clock
                return
        except RequestError as error:
            self._refuse(connection, error, said_in(content.head, content.head.combined))
            return
        named, connection.content, connection.received = connection.named, None, b""
        assert named is not None  # it was found before
        if content.kept is None or not isinstance(named, Target):
            self._respond(connection, content.head, named)
        else:
            self._pass_on(connection, content, named)

    def _pass_on(self, connection: Connection, content: Content, named: Target) -> None:
        """Have a POST passed on with its content, when there are fewer."""
        connection.asked = asked = asked_for(content.head, named, self._routes)
        self._wait(connection)
        request = asked.request.of_client(client_name(connection.address))
        self._posts.append((connection, asked, request, b"".join(content.kept or ())))
        self._pass_next()

    def _pass_next(self) -> None:
        while self._posts and self._posting < self._limits.threads:
            connection, asked, request, data = self._posts.popleft()
            self._posting += 1
            self._front.post(request, data, partial(self._posted_on, connection, asked, len(data)))

    def _posted_on(self, connection: Connection, asked: Asked, size: int, found: Told) -> None:
        """A POST is answered, or about to be."""
        self._posting -= 1
        self._posted -= size
        self._found(connection, asked, found)
        self._pass_next()

    def _on_end(self, connection: Connection, *, cut: bool) -> None:
        super()._on_end(connection, cut=cut)
        content, connection.content = connection.content, None
        if content is not None and content.kept is not None:
            self._posted -= content.size

    # -- tunnels

    def _make_tunnel(self, connection: Connection, head: RequestHead, received: bytes) -> None:
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
