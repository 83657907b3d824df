"""The sockets of a server's thread: waiting for them, by epoll where the system has it, and taking connections in.

Says also what happens when there is no descriptor for one more connection.
"""

import errno
import fcntl
import logging
import resource
import select
import socket
import struct
import termios
from contextlib import suppress
from typing import Protocol

from package_cache.log_limit import LogLimit

logger = logging.getLogger(__name__)

READ = select.POLLIN
WRITE = select.POLLOUT
BROKEN = select.POLLERR | select.POLLHUP
_NOT_SENT_LIMIT = 512 << 10
_SILENT_SECONDS = 1
"""How long the kernel keeps a new connection to itself whose client has said nothing."""
_MANY = 1 << 20


class Poller(Protocol):
    """What the event loop needs of epoll. Events are those of poll(2), level-triggered."""

    def register(self, descriptor: int, events: int) -> None:
        """Report `events` of the descriptor from now on; what is BROKEN is always reported."""
        ...

    def modify(self, descriptor: int, events: int) -> None:
        """Report other events of it."""
        ...

    def unregister(self, descriptor: int) -> None:
        """Report nothing of it any more."""
        ...

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        """Descriptors and their events, after at most `timeout` seconds."""
        ...


class _Poll:
    def __init__(self) -> None:
        self._poll = select.poll()
        self.register = self._poll.register
        self.modify = self._poll.modify
        self.unregister = self._poll.unregister

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        return self._poll.poll(timeout * 1000)


def make_poller() -> Poller:
    """The best this system has. The values of EPOLLIN and its like are those of POLLIN."""
    return select.epoll() if hasattr(select, "epoll") else _Poll()


def forgets_closed(poller: Poller) -> bool:
    """Whether it forgets a descriptor by itself when that is closed; poll(2) would go on to report it."""
    return not isinstance(poller, _Poll)


def exclusive() -> int:
    """The flag that wakes one of several processes for a new connection, where the system knows it."""
    return getattr(select, "EPOLLEXCLUSIVE", 0)


def raise_descriptor_limit() -> int:
    """Let this process open as many files as it may at all; how many that is. Each connection and each hot file is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MANY if hard == resource.RLIM_INFINITY else hard
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return soft


def untaken(descriptor: int) -> int:
    """Bytes given to a socket that its peer did not acknowledge yet."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, b"\0" * 4))[0])
    except OSError:
        return 0


def prepare_listener(listener: socket.socket) -> None:
    """Options that accepted connections inherit, and one of the listener.

    Unsent bytes in the kernel are limited a connection: hundreds of slow readers would otherwise hold gigabytes. A new
    connection shows once its request is there to be read, or its client has been silent for a second; where who made the
    listener has said how long to wait, that holds.
    """
    listener.settimeout(0)
    if listener.family in (socket.AF_INET, socket.AF_INET6):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _NOT_SENT_LIMIT)
        if hasattr(socket, "TCP_DEFER_ACCEPT") and not listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, _SILENT_SECONDS)


_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Why a connection cannot be accepted, and remains to be: as long as it does, its listener is ready."""


class Entrance:
    """Accepts connections on `listeners`, of which `poller` tells. Call it from one thread."""

    def __init__(self, listeners: list[socket.socket], poller: Poller) -> None:
        self._poller = poller
        self._listeners = {listener.fileno(): listener for listener in listeners}
        self._listening = False
        self._told: set[int] = set()
        """Listeners of whose connections this process is told."""
        self._log_limit = LogLimit()
        for listener in listeners:
            prepare_listener(listener)
        self.listen(on=True)

    @property
    def descriptors(self) -> list[int]:
        """Those of the listeners."""
        return list(self._listeners)

    def listen(self, *, on: bool) -> None:
        """Be told of new connections, or not."""
        self._listening = on
        for descriptor in self._listeners:
            self._be_told(descriptor, on=on)

    def give_way(self, descriptor: int) -> None:
        """Leave the next connections of a listener to others until `stand_in_line` is called.

        The kernel wakes one process for each, the first that waits; one that never left its place would get them all.
        """
        self._be_told(descriptor, on=not exclusive())

    def stand_in_line(self) -> None:
        """Be told of new connections again, after every other process that listens to them."""
        if self._listening and len(self._told) < len(self._listeners):
            self.listen(on=True)

    def _be_told(self, descriptor: int, *, on: bool) -> None:
        if on and descriptor not in self._told:
            self._poller.register(descriptor, READ | exclusive())
            self._told.add(descriptor)
        elif not on and descriptor in self._told:
            self._poller.unregister(descriptor)
            self._told.remove(descriptor)

    def accept(self, descriptor: int) -> tuple[socket.socket, object] | None:
        """The next connection of a listener and where it comes from; None if there is none.

        Without a descriptor for it, the listeners are not listened to until `listen` is called again: they would be ready
        in each turn.
        """
        listener = self._listeners.get(descriptor)
        if listener is None:
            return None
        try:
            accepted, address = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
        except OSError as error:
            self._complain(error)
            if error.errno in _NO_ROOM:
                self.listen(on=False)
            return None
        accepted.settimeout(0)  # before anything is done with it: a client that says nothing must hold nobody up
        return accepted, address

    def _complain(self, error: OSError) -> None:
        logger.log(self._log_limit.level(error.errno), "cannot accept a connection: %s", error.strerror)

    def close(self) -> None:
        """Accept nothing more. The listeners themselves stay open: they are the host's."""
        self.listen(on=False)
        self._listeners.clear()
