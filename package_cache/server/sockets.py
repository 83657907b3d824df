"""Waiting for sockets: epoll where the system has it, poll elsewhere, behind one face."""

import fcntl
import resource
import select
import socket
import struct
import termios
from contextlib import suppress
from typing import Protocol

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
