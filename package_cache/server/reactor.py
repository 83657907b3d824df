"""One thread's sockets: listeners, connections, time limits, and calls from other threads.

Owns the connections and when they end. Knows of HTTP only how a connection is refused. What to do with received bytes, and
what to send, is the business of `server.loop`.
"""

import gc
import logging
import queue
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from package_cache.config import Timeouts
from package_cache.errors import BadRequest, Forbidden, RequestError
from package_cache.rules.http.fields import format_date
from package_cache.server.access import AccessLog, Said
from package_cache.server.addresses import BACKLOG
from package_cache.server.admission import NOT_ADMITTED, Admission, is_local
from package_cache.server.connections import Connection, Counters, client_name
from package_cache.server.refusals import NOTHING, RequestTimeout, TooManyConnections, refuse
from package_cache.server.sockets import (
    BROKEN,
    READ,
    WRITE,
    Entrance,
    forgets_closed,
    make_poller,
    untaken,
)
from package_cache.upstream.events import Timer, Timers

logger = logging.getLogger(__name__)

_RECEIVE = 65536
_LINGER = 1.5
"""Seconds that a connection stays open for what may be on its way, when it or the loop comes to its end."""
_LINGER_BYTES = 1 << 18
_UNSERVED = 256
"""Connections that were turned away and may stay for so long at once; the others are closed on the spot."""
_RUSH = 500
"""Connections between two sweeps from which on they need not be shared out: there are some for every process."""
_TOGETHER = 32
"""Connections that are accepted in a rush before anything else is done."""
_SWEEP_SECONDS = 1.0
_CHORE_SECONDS = 0.2
"""Between two looks at what need not be done in each turn; so long are lines of the access log gathered."""
_GARBAGE = 10_000, 20, 50
"""Objects that are more than before, and how many looks at young ones come between two at older ones."""
SLOWEST = 512
"""Bytes a second that a client must take, on average over the time limit for sending."""
STALL_SECONDS = 0.25
"""A turn that took longer than this, waiting apart, is counted as a stall."""


def settle_memory() -> None:
    """Have the garbage collector come seldom, and look at what is made from here on only. To be called before serving.

    A look at all that an idle server is made of takes tens of milliseconds in which no client is served, and makes the
    process have copies of what it shares with the one that forked it. What ends here is let go of by reference counts.
    """
    gc.freeze()
    gc.set_threshold(*_GARBAGE)


@dataclass(slots=True)
class Limits:
    """Bounds of one loop: connections at once, and times in seconds."""

    connections: int
    timeouts: Timeouts = field(default_factory=Timeouts)
    threads: int = 128
    """Requests with content that are passed on at once."""


class Reactor(ABC):
    """Waits for sockets and keeps their time. Call `turn` again and again, from one thread."""

    def __init__(self, listeners: list[socket.socket], access: AccessLog, admission: Admission, limits: Limits) -> None:
        self.counters = Counters()
        self.lent = 0
        """Connections that a thread has; the loop's thread alone counts them."""
        self._access = access
        self._admission = admission
        self._limits = limits
        self._poller = make_poller()
        self._connections: dict[int, Connection] = {}
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._woken = False
        self._draining = False
        self._now = time.time()
        self._second = 0
        self._date = ""
        self._swept = 0.0
        self._done = 0.0
        self._clock = time.monotonic()
        """When this turn began, in seconds of the monotonic clock."""
        self._alarm, self._bell = socket.socketpair()
        self._alarm.settimeout(0)
        self._bell.settimeout(0)
        self._poller.register(self._alarm.fileno(), READ)
        self._entrance = Entrance(listeners, self._poller)
        self._unserved = 0
        """Connections that were turned away, and stay for a moment: they take no place of those that are served."""
        self._accepted = 0
        """Connections that were accepted up to the last sweep."""
        self._rush = False
        """Whether there were enough of them for every process between the last two sweeps."""
        self._until = 0.0
        self._external: dict[int, Callable[[int], None]] = {}
        self._timers = Timers()

    # -- what is done with a connection

    @abstractmethod
    def _parse(self, connection: Connection) -> None:
        """Begin with what was received, if it is enough."""

    @abstractmethod
    def _answer_known(self, connection: Connection, data: bytes) -> bool:
        """Answer what was received, with nothing before it, if that is no more than a look."""

    @abstractmethod
    def _serve_newcomer(self, accepted: socket.socket, address: object, client: str, data: bytes) -> bool:
        """As `_answer_known`, for somebody who has no connection yet."""

    @abstractmethod
    def _send(self, connection: Connection) -> None:
        """Go on sending."""

    @abstractmethod
    def _on_end(self, connection: Connection, *, cut: bool) -> None:
        """Let go of what the connection holds; `cut` in the middle of an answer."""

    @abstractmethod
    def _may_wait(self) -> float:
        """Seconds until there is something to do though no socket says so."""

    @abstractmethod
    def _go_on_with_others(self) -> None:
        """Go on with connections whose turn does not come from their socket."""

    # -- what other threads may call

    def call(self, function: Callable[[], None]) -> None:
        """Run `function` in the loop's thread, soon."""
        self._calls.put(function)
        self.wake()

    def wake(self) -> None:
        """End the current wait."""
        if not self._woken:
            self._woken = True
            with suppress(OSError):  # it rings already, or the loop is over
                self._bell.send(b"!")

    # -- what a connection to a source calls (`upstream.dialling.Events`)

    def register(self, descriptor: int, events: int, callback: Callable[[int], None]) -> None:
        """Call `callback` with the events of a descriptor whenever there are any."""
        self._external[descriptor] = callback
        self._poller.register(descriptor, events)

    def modify(self, descriptor: int, events: int) -> None:
        """Heed other events of a registered descriptor."""
        self._poller.modify(descriptor, events)

    def unregister(self, descriptor: int) -> None:
        """Heed a registered descriptor no more."""
        del self._external[descriptor]
        self._poller.unregister(descriptor)

    def after(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` after so many seconds."""
        return self._timers.add(time.monotonic() + seconds, callback)

    # -- what the host calls

    @property
    def busy(self) -> bool:
        """Whether there are connections left, here or with a thread."""
        return bool(self._connections) or self.lent > 0

    def turn(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for something to do, and do it."""
        patience = min(timeout, self._may_wait(), self._timers.wait(time.monotonic()))
        if self._access.lines:
            patience = min(patience, _CHORE_SECONDS)
        self._entrance.stand_in_line()
        events = self._poller.poll(patience)
        self._clock = begun = time.monotonic()
        self._tell_time()
        if self._woken:  # before anything else: who wakes the loop has a connection for it, or the end of an answer
            self._answer_calls()
        for descriptor, what in events:
            connection = self._connections.get(descriptor)
            try:
                if connection is not None:
                    self._on_event(connection, what)
                else:
                    self._on_other(descriptor, what)
            except Exception:
                logger.exception("an event of a connection ended in a bug")
                if connection is not None:
                    self._close(connection, cut=True)
        self._timers.fire(begun)
        self._go_on_with_others()
        if begun - self._done > _CHORE_SECONDS:
            self._do_chores(begun)
        if (took := time.monotonic() - begun) > STALL_SECONDS:
            self.counters.stalls += 1
            logger.warning("the event loop was held up for %.2f s", took)

    def turns(self, seconds: float) -> None:
        """Take turns for so many seconds, or until `pause` is called in one."""
        self._until = time.monotonic() + seconds
        while (left := self._until - self._clock) > 0:
            self.turn(left)

    def pause(self) -> None:
        """Let the host see to something after this turn."""
        self._until = 0.0

    def _do_chores(self, now: float) -> None:
        """What need not be done in each turn."""
        self._done = now
        self._access.flush()
        if now - self._swept > _SWEEP_SECONDS:
            self._swept = now
            self._sweep(now)
            self._rush = self.counters.accepted - self._accepted >= _RUSH
            self._accepted = self.counters.accepted
            self._entrance.listen(on=True)
            # The kernel wakes one process for a connection; if that one hangs or dies, no other hears of it.
            for listener in self._entrance.descriptors:
                self._accept(listener)

    def drain(self) -> None:
        """Accept no more, and let what runs come to its end: until `busy` is false. The host closes the listeners then.

        A client may be sending its next request on a connection that was promised to persist, so those are closed a moment
        later; what they ask in it is answered.
        """
        self._draining = True
        for listener in self._entrance.descriptors:
            for _ in range(BACKLOG):
                if not self._accept(listener):
                    break
        self._entrance.close()
        now = time.monotonic()
        for connection in self._connections.values():
            if not connection.busy:
                connection.moved = now

    def close(self) -> None:
        """Cut whatever is left."""
        for connection in list(self._connections.values()):
            self._close(connection, cut=connection.busy)
        self._access.drain()
        self._alarm.close()
        self._bell.close()

    # -- events

    def _see_off(self, accepted: socket.socket, address: object) -> None:
        self.lent -= 1
        self._leave(self._take_back(accepted, address))

    def _begin_anew(self, connection: socket.socket, address: object, received: bytes) -> None:
        self.lent -= 1
        taken = self._take_back(connection, address)
        if received:
            taken.received = received
            self._parse(taken)

    def _tell_time(self) -> None:
        self._now = time.time()
        second = int(self._now)
        if second != self._second:
            self._second, self._date = second, format_date(second)

    def _on_other(self, descriptor: int, what: int) -> None:
        if descriptor in self._external:
            self._external[descriptor](what)
        elif descriptor == self._alarm.fileno():
            self._alarm_is_off()
        else:
            self._accept_some(descriptor)

    def _alarm_is_off(self) -> None:
        with suppress(BlockingIOError):
            self._alarm.recv(4096)
        self._woken = False
        self._answer_calls()

    def _answer_calls(self) -> None:
        for _ in range(self._calls.qsize()):
            self._calls.get_nowait()()

    def _accept_some(self, listener: int) -> None:
        """Take one new connection, and leave the next to another process; in a rush, those that are there."""
        rush = self._rush or self.counters.accepted - self._accepted >= _RUSH
        for _ in range(_TOGETHER if rush else 1):
            if not self._accept(listener):
                break
        if not rush:
            self._entrance.give_way(listener)

    def _accept(self, listener: int) -> bool:
        """Take one new connection; whether there was one."""
        arrival = self._entrance.accept(listener)
        if arrival is None:
            return False
        accepted, address = arrival
        self.counters.accepted += 1
        client = client_name(address)
        admitted = self._admission.admits(client)
        if not admitted and not is_local(client):
            self._turn_away(accepted, address, Forbidden(NOT_ADMITTED))
        elif len(self._connections) - self._unserved + self.lent >= self._limits.connections:
            self._turn_away(accepted, address, TooManyConnections("too many connections; try again in a while"))
        else:
            self._welcome(accepted, address, client, admitted=admitted)
        return True

    def _welcome(self, accepted: socket.socket, address: object, client: str, *, admitted: bool) -> None:
        """Read what a new client asks, and answer it before there is a connection, where that is no more than a look."""
        try:
            data = accepted.recv(_RECEIVE)
        except BlockingIOError:
            self._take(accepted, address)
            return
        except OSError:
            data = b""
        if not data:
            accepted.close()
        elif not admitted or not self._serve_newcomer(accepted, address, client, data):
            connection = self._take(accepted, address)
            connection.received = data
            self._parse(connection)

    def _turn_away(self, accepted: socket.socket, address: object, error: RequestError) -> None:
        """Tell a new client why it is not served; let it read that, if there is room for so long."""
        self.counters.refused += 1
        with suppress(OSError):
            accepted.send(refuse(error, client_name(address), self._access))
        if self._unserved < min(_UNSERVED, self._limits.connections // 2):
            connection = self._take(accepted, address)
            connection.unserved = True
            self._unserved += 1
            self._leave(connection)
        else:
            accepted.close()

    def _take_back(self, connection: socket.socket, address: object) -> Connection:
        """Have a connection that a thread had, which may wait for its client."""
        connection.settimeout(0)
        return self._take(connection, address)

    def _take(self, accepted: socket.socket, address: object) -> Connection:
        client = client_name(address)
        connection = Connection(accepted, accepted.fileno(), address, self._clock, client)
        connection.admitted = self._admission.admits(client)
        self._connections[connection.descriptor] = connection
        self._poller.register(connection.descriptor, READ)
        return connection

    def _on_event(self, connection: Connection, what: int) -> None:
        if connection.leaving:
            self._wave(connection)
        elif what & BROKEN and not what & READ:
            # What came in this turn may have the descriptor of one that was closed in it, whom this is of.
            if connection.moved != self._clock:
                self._close(connection, cut=True)
        elif connection.busy and what & WRITE:
            self._send(connection)
        elif connection.busy:
            self._expect(connection, 0)  # it asks for more, or is gone, while an exchange runs: both can wait
        elif not connection.queued:
            self._read(connection)

    def _expect(self, connection: Connection, events: int) -> None:
        if connection.events != events:
            connection.events = events
            self._poller.modify(connection.descriptor, events)

    def _read(self, connection: Connection) -> None:
        try:
            block = connection.socket.recv(_RECEIVE)
        except BlockingIOError:
            return
        except OSError:
            block = b""
        if not block and connection.received.strip():
            self._refuse(connection, BadRequest("the request ends too early"))
            return
        if not block:
            self._close(connection)
            return
        if connection.received:
            connection.received += block
        elif connection.admitted and self._answer_known(connection, block):
            return
        else:
            connection.received = block
            connection.moved = self._clock
        self._parse(connection)

    # -- ends

    def _leave(self, connection: Connection) -> None:
        """Let the client read the last answer: unread bytes of its own would reset the connection before it has."""
        connection.leaving = True
        connection.moved = time.monotonic()
        try:
            connection.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(connection)

    def _wave(self, connection: Connection) -> None:
        try:
            size = len(connection.socket.recv(_RECEIVE))
        except BlockingIOError:
            return
        except OSError:
            size = 0
        connection.at += size
        if not size or connection.at > _LINGER_BYTES:
            self._close(connection)

    def _refuse(self, connection: Connection, error: RequestError, said: Said = NOTHING) -> None:
        """Answer what is no request, and end the connection."""
        with suppress(OSError):
            connection.socket.send(refuse(error, client_name(connection.address), self._access, said))
        self._leave(connection)

    def _time_out(self, connection: Connection) -> None:
        """A request did not come, or not to its end."""
        if connection.received.strip():
            self._refuse(connection, RequestTimeout("the request did not arrive in time"))
        else:
            self._close(connection)

    def _sweep(self, now: float) -> None:
        """End the connections that took too long over a head, over the next request, or over reading."""
        timeouts = self._limits.timeouts
        for connection in list(self._connections.values()):
            quiet = now - connection.moved
            if connection.leaving and quiet > _LINGER:
                self._close(connection)
            elif not connection.busy and quiet > self._patience(connection):
                self._time_out(connection)
            elif connection.paced and now - connection.paced > timeouts.send:
                self._check_pace(connection, now)

    def _check_pace(self, connection: Connection, now: float) -> None:
        """Cut a client that takes next to nothing. What reached it counts: the kernel takes much at once, and seldom."""
        taken = connection.at - untaken(connection.descriptor)
        if taken - connection.paced_from < SLOWEST * (now - connection.paced):
            self._close(connection, cut=True)
        else:
            connection.paced, connection.paced_from = now, taken

    def _patience(self, connection: Connection) -> float:
        if connection.received:
            return self._limits.timeouts.request
        idle = self._limits.timeouts.idle if connection.served else self._limits.timeouts.request
        return min(idle, _LINGER) if self._draining else idle

    def _forget(self, connection: Connection) -> None:
        """Stop watching a connection, without closing it."""
        connection.closed = True
        del self._connections[connection.descriptor]
        self._poller.unregister(connection.descriptor)

    def _close(self, connection: Connection, *, cut: bool = False) -> None:
        if connection.closed:
            return
        self._on_end(connection, cut=cut)
        connection.closed = True
        self._unserved -= connection.unserved
        del self._connections[connection.descriptor]
        if not forgets_closed(self._poller):
            self._poller.unregister(connection.descriptor)
        connection.socket.close()
