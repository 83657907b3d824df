"""The client of sources for threads: their requests are sent in an event loop, whose connections they share.

That is the loop of the server, where one runs; else one of this client's own, in a thread that begins with the first
request and ends with `close`.
"""

import os
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

from package_cache.config import Timeouts
from package_cache.errors import OutOfDescriptors, UpstreamError
from package_cache.model import Fields
from package_cache.rules.transfers.requests import RawRequest, raw_request
from package_cache.rules.transfers.ways import Origin, Proxy, Way
from package_cache.upstream.answers import Exchange
from package_cache.upstream.calls import Body
from package_cache.upstream.dialling import Allow, Dial, Trouble
from package_cache.upstream.events import EventLoop, Events
from package_cache.upstream.opening import Trust
from package_cache.upstream.pool import Begun, Cut, Outcome, Pool, Whole
from package_cache.upstream.reach import Reach
from package_cache.upstream.taken import Held

_SMALL = 65536
"""Bytes of a body that is no file, an error's or a redirect's, which are read so that the connection can be used again."""


T = TypeVar("T")


class _Waiter(Generic[T]):
    """A thread that waits for the outcome of its request; `said` is None if the loop ended before."""

    def __init__(self) -> None:
        self.said: T | None = None
        self._told = threading.Event()
        self._guard = threading.Lock()
        self._away = False

    def tell(self, said: T | None) -> None:
        """Hand over the outcome. If nobody waits for it any more, it is closed."""
        with self._guard:
            if not self._away and not self._told.is_set():
                self.said = said
                self._told.set()
                return
        if isinstance(said, Begun):
            said.taken.close()
        elif isinstance(said, socket.socket):
            said.close()

    def wait(self) -> None:
        """Wait for the outcome."""
        try:
            self._told.wait()
        except BaseException:
            with self._guard:
                self._away = True
                said = self.said
            if isinstance(said, Begun):
                said.taken.close()
            raise


class Client:
    """Safe for any number of threads, but those that run a loop; and after a fork."""

    def __init__(self, timeouts: Timeouts, trust: Trust | None = None) -> None:
        self._timeouts = timeouts
        self._trust = trust or Trust()
        self._forget()

    def _forget(self) -> None:
        """In a forked child: connections, and the threads that wait for them, are the parent's."""
        self._guard = threading.Lock()
        self._owner = os.getpid()
        self._loop: EventLoop | None = None
        self._pools: list[Pool] = []
        """Pools to use, the best one last."""
        self._waiting: dict[_Waiter[Any], Pool] = {}

    def pool(self, events: Events, timeouts: Timeouts, small: int) -> Pool:
        """The connections of a serving loop, which threads use too from now on, until it is closed."""
        with self._own():
            pool = self._made(events, timeouts, small)
            self._pools.append(pool)
            return pool

    def _made(self, events: Events, timeouts: Timeouts, small: int) -> Pool:
        pool = Pool(events, timeouts, small, self._trust, lambda: self._ended(pool))
        return pool

    def ask(self, wire: RawRequest) -> Exchange:
        """The answer to a request. Raises UpstreamError, OutOfDescriptors."""

        def begin(pool: Pool, tell: Callable[[Outcome], None]) -> None:
            pool.ask(wire, tell, at_once=True)

        while True:
            said = self.in_loop(begin)
            match said:
                case Whole(head, body):
                    return Held(head, body)
                case Begun(_, taken):
                    return taken
                case Cut(error=error):
                    raise error.with_traceback(None)
                case UpstreamError() | OutOfDescriptors():
                    raise said.with_traceback(None)  # several may raise it
                case _ if wire.content is not None:
                    raise UpstreamError("was not asked to the end: the loop that asked it is over", again=True)
                case _:
                    pass  # the loop is over: ask in another one

    def connect(self, host: str, port: int, allow: Allow | None = None) -> socket.socket:
        """A TCP connection, for whatever protocol. Raises UpstreamError, OutOfDescriptors."""
        seconds = self._timeouts.connect

        def dial(pool: Pool, tell: Callable[[socket.socket | Trouble], None]) -> None:
            if not pool.closed:
                Dial(pool.events, pool.names, host, port, seconds, tell, allow)

        said = self.in_loop(dial)
        if isinstance(said, socket.socket):
            said.settimeout(seconds)
            return said
        if isinstance(said, UpstreamError | OutOfDescriptors):
            raise said.with_traceback(None)
        raise UpstreamError("was not asked to the end: the loop that asked it is over")

    def in_loop(self, begin: Callable[[Pool, Callable[[T], None]], None]) -> T | None:
        """Begin something in a loop, and wait for its outcome; None if the loop ends first."""
        waiter: _Waiter[T] = _Waiter()
        with self._own():
            pool = self._pools[-1] if self._pools else self._own_pool()
            self._waiting[waiter] = pool
        try:
            pool.events.call(partial(begin, pool, waiter.tell))
            waiter.wait()
        finally:
            with self._guard:
                self._waiting.pop(waiter, None)
        return waiter.said

    def _own_pool(self) -> Pool:
        """The connections of a loop of this client's own. Raises UpstreamError, OutOfDescriptors."""
        try:
            loop = EventLoop()
        except OSError as error:
            raise OutOfDescriptors("a connection to a source") from error
        pool = self._made(loop, self._timeouts, _SMALL)
        try:
            loop.start(pool.close)
        except RuntimeError as error:
            loop.release()
            raise UpstreamError("was not asked: the system gives no thread for it") from error
        self._loop = loop
        self._pools.append(pool)
        return pool

    def _ended(self, pool: Pool) -> None:
        """A loop is over: threads that wait for it ask in another one."""
        with self._guard:
            self._pools.remove(pool)
            waiting = [waiter for waiter, where in self._waiting.items() if where is pool]
        for waiter in waiting:
            waiter.tell(None)

    def close(self) -> None:
        """Close idle connections. Later requests are sent over new ones."""
        with self._own():
            loop, self._loop = self._loop, None
        if loop is not None:
            loop.close()

    def _own(self) -> threading.Lock:
        """The lock, a new one in a forked child."""
        if self._owner != os.getpid():
            self._forget()
        return self._guard


class BuiltinBackend:
    """Makes the calls of the library over the connections that sources are asked over. Safe for any number of threads."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._client = Client(reach.timeouts, Trust(reach.cafile))

    def send(self, method: str, url: str, fields: Fields, body: Body | None) -> Exchange:
        """The answer to one request. Raises UpstreamError."""
        proxy = self._reach.proxy_for(url)
        way = Way(Origin.of(url), None if proxy is None else Proxy.of(proxy))
        content = body.open() if body is not None else None
        try:
            if content is not None:
                fields = (*fields, ("Content-Length", str(content.size)))
            return self._client.ask(raw_request(method, url, fields, way, content))
        except ValueError as error:
            raise UpstreamError(f"was not asked: {error}") from None
        finally:
            if content is not None:
                content.close()

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()
