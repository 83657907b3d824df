"""A new connection over a way: dialled, led through a proxy's tunnel if needed, and secured by TLS.

Belongs to an event loop, which it never blocks. It does not know what is asked over the connection.
"""

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

from package_cache.errors import UpstreamError, UpstreamLie, UpstreamTimeout
from package_cache.rules.http.response import HEAD_END, MAX_HEAD, parse_response
from package_cache.rules.transfers.ways import Way, is_public
from package_cache.upstream.dialling import Address, Dial, Names, Trouble
from package_cache.upstream.events import READ, WRITE, Events, Timer

_RECEIVE = 65536
_RECORD = 16384
"""Bytes that are encrypted at a time (RFC 8446, section 5.1)."""
_Result = TypeVar("_Result")
WANTING = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""What is raised where a call would block."""


class Trust:
    """The system's certificates, as SSL_CERT_FILE and SSL_CERT_DIR may name them, or those in a file.

    Safe for any number of threads.
    """

    def __init__(self, cafile: Path | None = None) -> None:
        self._cafile = cafile
        self._guard = threading.Lock()
        self.loaded: ssl.SSLContext | None = None
        """The context that connections are secured with, once it was loaded."""

    def load(self) -> ssl.SSLContext:
        """Read the certificates, which takes a tenth of a second. Raises OSError, of which SSLError is one."""
        with self._guard:
            if self.loaded is None:
                self.loaded = ssl.create_default_context(cafile=None if self._cafile is None else str(self._cafile))
            return self.loaded


class Nested:
    """TLS inside TLS: a connection to an origin through a proxy that is spoken to over TLS itself. Used as a socket."""

    def __init__(self, context: ssl.SSLContext, outer: ssl.SSLSocket, host: str) -> None:
        self.fileno = outer.fileno
        self.settimeout = outer.settimeout
        self.gettimeout = outer.gettimeout
        self.close = outer.close
        self._outer = outer
        self._came, self._goes = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._inner = context.wrap_bio(self._came, self._goes, server_hostname=host)
        self._unsent = b""
        self._taken = 0

    def do_handshake(self) -> None:
        """As that of an SSLSocket."""
        self._perform(self._inner.do_handshake)

    def pending(self) -> int:
        """How many bytes can be read without waiting for the connection, or more."""
        return self._inner.pending() + self._came.pending + self._outer.pending()

    def recv(self, size: int) -> bytes:
        """As that of an SSLSocket: an end without a closing alert is an end as well."""
        with suppress(ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return self._perform(lambda: self._inner.read(size))
        return b""

    def send(self, data: bytes) -> int:
        """As that of an SSLSocket: where it would block, it is to be called again with the same bytes."""
        if not self._taken:
            self._taken = self._inner.write(data[:_RECORD])
        self._flush()
        taken, self._taken = self._taken, 0
        return taken

    def _perform(self, function: Callable[[], _Result]) -> _Result:
        while True:
            try:
                result = function()
            except ssl.SSLWantReadError:
                self._flush()
                data = self._outer.recv(_RECEIVE)
                if data:
                    self._came.write(data)
                else:
                    self._came.write_eof()
            else:
                self._flush()
                return result

    def _flush(self) -> None:
        while self._unsent or self._goes.pending:
            self._unsent = self._unsent or self._goes.read()
            self._unsent = self._unsent[self._outer.send(self._unsent) :]


Connected = socket.socket | Nested
Opened = Callable[[Connected | Trouble], None]


class Opening:
    """A connection that is being made. `done` is called once: with a non-blocking connection, or with why there is none.

    `session` makes the handshake with the origin short. The TCP connection may take so many `seconds`, and all that follows
    as many again.
    """

    def __init__(
        self,
        events: Events,
        names: Names,
        trust: Trust,
        way: Way,
        seconds: float,
        session: ssl.SSLSession | None,
        done: Opened,
    ) -> None:
        self._events = events
        self._trust = trust
        self._way = way
        self._seconds = seconds
        self._session = session
        self._done = done
        self._context: ssl.SSLContext
        self._one: Connected | None = None
        self._heeded = False
        self._limit: Timer | None = None
        self._inside = not way.tunnelled
        """Whether the present peer is the origin, or a proxy that is not tunnelled through."""
        self.over = False
        """Whether `done` was called, or is not to be called any more."""
        first = way.first
        host = first.host.replace("%25", "%", 1)  # RFC 6874, section 2
        self._dial = Dial(
            events, names, host, first.port, seconds, self._dialled, partial(_public, way) if way.guarded else None
        )

    # -- one thing after another

    def _dialled(self, result: socket.socket | Trouble) -> None:
        if not isinstance(result, socket.socket):
            self._finish(result)
            return
        self._one = result
        if self._way.first.scheme == "http" and not self._way.tunnelled:
            self._finish(result)
            return
        if self._trust.loaded is not None:
            self._begin(self._trust.loaded)
            return
        try:
            self._events.run(self._load)
        except RuntimeError:
            self._fail(UpstreamError("was not asked: there is no thread to read certificates"))

    def _load(self) -> None:
        """Runs in a thread."""
        try:
            context = self._trust.load()
        except OSError as error:
            failed = UpstreamError(f"failed the TLS handshake: {reason_of(error)}")
            self._events.call(partial(self._fail, failed))
        else:
            self._events.call(partial(self._begin, context))

    def _begin(self, context: ssl.SSLContext) -> None:
        if self.over:
            return
        self._context = context
        self._limit = self._events.after(self._seconds, self._time_out)
        if self._way.first.scheme == "https":
            self._secure(self._way.first.host, self._reached)
        else:
            self._reached()

    def _reached(self) -> None:
        """The first peer on the way can be spoken to."""
        if self._way.tunnelled:
            self._flush(self._way.tunnel())
        else:
            self._end()

    # -- the tunnel

    def _flush(self, text: bytes) -> None:
        assert self._one is not None
        try:
            sent = self._one.send(text)
        except WANTING:
            sent = 0
        except OSError as error:
            self._fail(UpstreamError(f"cannot be reached: {reason_of(error)}"))
            return
        if sent < len(text):
            self._heed(WRITE, partial(self._flush, text[sent:]))
        else:
            self._heed(READ, partial(self._hear, b""))

    def _hear(self, received: bytes) -> None:
        """Read what the proxy says about the tunnel."""
        assert self._one is not None
        try:
            block = self._one.recv(_RECEIVE)
        except WANTING:
            return
        except OSError as error:
            self._fail(UpstreamError(f"cannot be reached: {reason_of(error)}"))
            return
        received += block
        match = HEAD_END.search(received)
        if not block or len(received) > MAX_HEAD:
            self._fail(UpstreamError("cannot be reached: the proxy does not answer"))
        elif match is None:
            self._heed(READ, partial(self._hear, received))
        else:
            self._judge(received, match.end())

    def _judge(self, received: bytes, end: int) -> None:
        try:
            head = parse_response(received[:end], of_head=True)
        except UpstreamLie as error:
            self._fail(UpstreamError(f"cannot be reached: the proxy {error}"))
            return
        if head.status // 100 == 1:
            self._heed(READ, partial(self._hear, received[end:]))
        elif head.status // 100 != 2 or len(received) > end:
            self._fail(UpstreamError(f"cannot be reached: the proxy answered {head.status} {head.reason}".rstrip()))
        else:
            self._inside = True
            self._secure(self._way.origin.host, self._end)

    # -- TLS

    def _secure(self, host: str, then: Callable[[], None]) -> None:
        """Begin TLS, and call `then` once it is established."""
        one, name = self._one, host.partition("%")[0].rstrip(".")
        assert one is not None
        secured: ssl.SSLSocket | Nested
        self._leave()
        try:
            if isinstance(one, ssl.SSLSocket):
                secured = Nested(self._context, one, name)
            else:
                assert isinstance(one, socket.socket)
                session = self._session if self._inside else None
                secured = self._context.wrap_socket(
                    one, server_hostname=name, do_handshake_on_connect=False, session=session
                )
        except (OSError, ValueError) as error:
            self._fail(UpstreamError(f"failed the TLS handshake: {reason_of(error)}"))
            return
        self._one = secured
        self._shake(secured, then)

    def _shake(self, secured: ssl.SSLSocket | Nested, then: Callable[[], None]) -> None:
        again = partial(self._shake, secured, then)
        try:
            secured.do_handshake()
        except ssl.SSLWantReadError:
            self._heed(READ, again)
        except ssl.SSLWantWriteError:
            self._heed(WRITE, again)
        except (OSError, ValueError) as error:
            self._fail(UpstreamError(f"failed the TLS handshake: {reason_of(error)}"))
        else:
            then()

    # -- events and ends

    def _heed(self, events: int, callback: Callable[[], None]) -> None:
        assert self._one is not None
        self._leave()
        self._heeded = True
        self._events.register(self._one.fileno(), events, lambda _: callback())

    def _leave(self) -> None:
        if self._heeded and self._one is not None:
            self._events.unregister(self._one.fileno())
        self._heeded = False

    def _time_out(self) -> None:
        if isinstance(self._one, ssl.SSLSocket | Nested):
            self._fail(UpstreamTimeout("did not end the TLS handshake in time"))
        else:
            self._fail(UpstreamTimeout("cannot be reached: the proxy does not answer in time"))

    def _fail(self, trouble: Trouble) -> None:
        if self.over:
            return
        self._leave()
        if self._one is not None:
            self._one.close()
        self._finish(trouble)

    def _end(self) -> None:
        assert self._one is not None
        self._leave()
        self._finish(self._one)

    def close(self) -> None:
        """Stop making it; `done` is not called."""
        if self.over:
            return
        self.over = True
        self._dial.close()
        self._leave()
        if self._limit is not None:
            self._limit.cancel()
        if self._one is not None:
            self._one.close()

    def _finish(self, result: Connected | Trouble) -> None:
        self.over = True
        if self._limit is not None:
            self._limit.cancel()
        self._done(result)


def _public(way: Way, found: tuple[Address, ...]) -> tuple[Address, ...]:
    """The addresses that a redirect may lead to: public ones, so that a source cannot aim at the network around."""
    public = []
    for one in found:
        with suppress(ValueError):
            if is_public(ip_address(str(one[1][0]).partition("%")[0])):
                public.append(one)
    if not public:
        raise UpstreamLie(f"redirects to {way.origin.host}, which is not a public address")
    return tuple(public)


def reason_of(error: BaseException) -> str:
    """What an error of the system, or of TLS, says, in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
