"""Where connections come in: the listeners of one thread, and what happens when there is no descriptor for one more."""

import errno
import logging
import socket

from package_cache.log_limit import LogLimit
from package_cache.server.sockets import READ, Poller, exclusive, prepare_listener

logger = logging.getLogger(__name__)

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
