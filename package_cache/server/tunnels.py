"""Tunnels (CONNECT): bytes passed both ways between a client and the few hosts that are listed. Nobody looks into them.

Each has a thread, and of those there are so many and no more: a tunnel is an exception here, not how files are served. What
one side has sent is passed on before its end is; when nothing moves for a while, or both sides have ended, the tunnel ends.
"""

import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from package_cache.config import TcpAddress, Timeouts
from package_cache.errors import BadRequest, ForeignHost, OutOfDescriptors, RequestError, UpstreamError, UpstreamTimeout
from package_cache.rules.http.request import RequestHead
from package_cache.rules.transfers.ways import Listed, end_of, may_reach
from package_cache.server.refusals import TooManyConnections
from package_cache.server.sockets import BROKEN, READ, WRITE
from package_cache.upstream.client import Client
from package_cache.upstream.dialling import Address

AT_ONCE = 128
"""Tunnels of one process."""
_BLOCK = 65536
_LOOK_SECONDS = 1.0
_LAST_SECONDS = 5.0
"""For how long nothing may move in a tunnel once the server is to end."""
_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class Unreachable(RequestError):
    """The far end is not there, or refuses (RFC 9110, section 15.6.3)."""

    http_status = 502
    close = True


class _Forbidden(UpstreamError):
    """None of the addresses of the far end may be reached."""

    def __init__(self) -> None:
        super().__init__("has no address that may be reached")


class TooSlow(Unreachable):
    """The far end does not answer (RFC 9110, section 15.6.5)."""

    http_status = 504


@dataclass(slots=True)
class Tunnel:
    """What became of a tunnel: `sent` bytes reached the client. `refusal` is why it was never made."""

    end: str = "-"
    sent: int = 0
    refusal: RequestError | None = None


class Tunnels:
    """Makes tunnels to what is listed. Safe for any number of threads."""

    def __init__(self, listed: Listed, timeouts: Timeouts) -> None:
        self._listed = listed
        self._timeouts = timeouts
        self._client = Client(timeouts)
        self._places = threading.BoundedSemaphore(AT_ONCE)

    def __bool__(self) -> bool:
        return bool(self._listed)

    def carry(self, client: socket.socket, head: RequestHead, received: bytes, is_ending: Callable[[], bool]) -> Tunnel:
        """Make the tunnel that `head` asks for, and pass bytes on until it ends. `received` stood behind the head.

        Blocks. The client's socket stays open. `is_ending` tells whether the server is to come to its end.
        """
        tunnel = Tunnel()
        if not self._places.acquire(blocking=False):
            tunnel.refusal = TooManyConnections("too many tunnels; try again in a while")
            return tunnel
        try:
            if head.all("content-length") or head.all("transfer-encoding"):
                raise BadRequest("a request for a tunnel has no content")
            end = end_of(head.target, self._listed)
            tunnel.end = str(end)
            with closing(self._connect(end)) as server:
                self._relay(client, server, received, tunnel, is_ending)
        except RequestError as error:
            tunnel.refusal = error
        finally:
            self._places.release()
        return tunnel

    def _connect(self, end: TcpAddress) -> socket.socket:
        def allowed(found: tuple[Address, ...]) -> tuple[Address, ...]:
            reached = tuple(one for one in found if may_reach(str(one[1][0]), end.port, self._listed))
            if not reached:
                raise _Forbidden
            return reached

        try:
            return self._client.connect(end.host or "", end.port, allowed)
        except _Forbidden:
            refused = f"{end.host} is not a public address; such a one must be listed itself by --connect"
            raise ForeignHost(refused) from None
        except OutOfDescriptors as error:
            raise TooManyConnections("there is no descriptor for a tunnel; try again in a while") from error
        except UpstreamTimeout as error:
            raise TooSlow(f"{end} does not answer") from error
        except UpstreamError as error:
            raise Unreachable(f"{end} {error}") from error

    def _relay(
        self, client: socket.socket, server: socket.socket, received: bytes, tunnel: Tunnel, is_ending: Callable[[], bool]
    ) -> None:
        for one in (client, server):
            one.settimeout(0)
        out, back = _Way(client, server, received), _Way(server, client, _ESTABLISHED)
        moved = time.monotonic()
        try:
            while not (out.is_over and back.is_over):
                if _wait(out, back):
                    moved = time.monotonic()
                limit = min(self._timeouts.tunnel, _LAST_SECONDS) if is_ending() else self._timeouts.tunnel
                if time.monotonic() - moved > limit:
                    return
        except OSError:
            pass  # one side is gone, and so is the tunnel
        finally:
            tunnel.sent = max(0, back.passed - len(_ESTABLISHED))


class _Way:
    """One direction: what came and was not passed on yet, and whether more will come."""

    def __init__(self, source: socket.socket, sink: socket.socket, data: bytes) -> None:
        self.source = source
        self.sink = sink
        self.passed = 0
        self.is_over = False
        self._data = data
        self._ended = False

    @property
    def wants(self) -> tuple[socket.socket, int]:
        """What has to happen before it can go on: one of its sockets is ready to be read or written."""
        return (self.sink, WRITE) if self._data else (self.source, READ)

    def may_go_on(self, ready: dict[int, int]) -> bool:
        """Whether something happened that it waits for, by descriptor."""
        one, events = self.wants
        return bool(ready.get(one.fileno(), 0) & (events | BROKEN))

    def go_on(self) -> None:
        """Pass on what can be. Raises OSError if a side is gone."""
        try:
            if not self._data and not self._ended:
                self._data = self.source.recv(_BLOCK)
                self._ended = not self._data
            if self._data:
                sent = self.sink.send(self._data)
                self.passed += sent
                self._data = self._data[sent:]
        except BlockingIOError:
            pass
        if self._ended and not self._data:
            self.is_over = True
            self.sink.shutdown(socket.SHUT_WR)


def _wait(*ways: _Way) -> bool:
    """Have those that can go on do so, after a second at most; whether there were any."""
    # Only sockets that somebody waits for: one that is broken is ready all the time.
    wanted: dict[int, int] = {}
    running = [way for way in ways if not way.is_over]
    for way in running:
        one, events = way.wants
        wanted[one.fileno()] = wanted.get(one.fileno(), 0) | events
    poll = select.poll()
    for descriptor, events in wanted.items():
        poll.register(descriptor, events)
    ready = dict(poll.poll(_LOOK_SECONDS * 1000))
    able = [way for way in running if way.may_go_on(ready)]
    for way in able:
        way.go_on()
    return bool(able)


NOWHERE = Tunnels(frozenset(), Timeouts())
