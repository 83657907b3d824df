"""TCP connections to hosts by name: the look-up and all addresses together within one limit of time.

Addresses are tried as in RFC 8305: the families take turns, and the next one is begun as soon as the one before has
failed, or has not answered for a moment; whichever answers first is used, and tried first the next time. A name whose
look-up gets no answer costs the whole limit once; after that only a moment, until it is answered again.
"""

import errno
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from itertools import chain, zip_longest
from typing import Any

from package_cache.errors import OutOfDescriptors, UpstreamError, UpstreamTimeout

STAGGER = 0.25
"""Seconds that an address has for itself before the next one is tried beside it (RFC 8305, section 5)."""
MOMENT = 0.5
"""Seconds that a look-up may take of a name whose last one got no answer."""
NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
_MANY = 1024
"""Names that are remembered."""

Address = tuple[int, int, int, str, Any]
"""As `socket.getaddrinfo` gives it."""
Resolve = Callable[[str, int], Sequence[Address]]
Options = Sequence[tuple[int, int, int | bytes]]
NO_DELAY: Options = ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),)


def _resolve(host: str, port: int) -> Sequence[Address]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


class _Lookup:
    """One look-up of a name, for all who wait for it."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.found: Sequence[Address] = ()
        self.failure: Exception | None = None


class Dialer:
    """Connects within `limit` seconds. Safe for any number of threads."""

    def __init__(self, limit: float, resolve: Resolve = _resolve) -> None:
        self.limit = limit
        self._resolve = resolve
        self._guard = threading.Lock()
        self._running: dict[tuple[str, int], _Lookup] = {}
        self._silent: dict[str, None] = {}
        self._answered: dict[tuple[str, int], object] = {}

    def connect(
        self,
        host: str,
        port: int,
        options: Options = NO_DELAY,
        allowed: Callable[[Sequence[Address]], Sequence[Address]] = lambda found: found,
    ) -> socket.socket:
        """A connection, to one of the addresses that `allowed` leaves.

        Raises UpstreamError, OutOfDescriptors, and whatever `allowed` raises.
        """
        deadline = time.monotonic() + self.limit
        found = allowed(self._look_up(host, port, deadline))
        if not found:
            raise UpstreamError("cannot be found: its name does not resolve")
        connected, address = _race(self._in_order(found, (host, port)), options, deadline)
        _remember(self._answered, (host, port), address)
        connected.settimeout(self.limit)
        return connected

    def _look_up(self, host: str, port: int, deadline: float) -> Sequence[Address]:
        lookup = self._ask(host, port, _Lookup()) if _is_address(host) else self._begin(host, port)
        patience = deadline - time.monotonic()
        if not lookup.over.wait(min(patience, MOMENT) if host in self._silent else patience):
            _remember(self._silent, host, None)
            raise UpstreamTimeout("cannot be found: nobody answers who its name could be asked of")
        if lookup.failure is not None and _is_out_of_descriptors():
            raise OutOfDescriptors("the look-up of a name") from lookup.failure
        if lookup.failure is not None:
            raise UpstreamError("cannot be found: its name does not resolve") from lookup.failure
        return lookup.found

    def _begin(self, host: str, port: int) -> _Lookup:
        """The look-up that is under way, or a new one. It goes on when nobody waits for it any more."""
        with self._guard:
            lookup = self._running.get((host, port))
            if lookup is None:
                lookup = _Lookup()
                try:
                    threading.Thread(target=self._ask, args=(host, port, lookup), name="lookup", daemon=True).start()
                except RuntimeError as error:
                    raise UpstreamError("is not asked: the system gives no thread to look its name up") from error
                self._running[host, port] = lookup
            return lookup

    def _ask(self, host: str, port: int, lookup: _Lookup) -> _Lookup:
        """Runs in the thread, unless nobody has to be asked."""
        try:
            lookup.found = self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            lookup.failure = error
        with self._guard:
            self._running.pop((host, port), None)
            if not _is_silence(lookup.failure):
                self._silent.pop(host, None)
        lookup.over.set()
        return lookup

    def _in_order(self, found: Sequence[Address], name: tuple[str, int]) -> list[Address]:
        """The address that answered last; then each family in its turn, that of the first address first."""
        first = found[0][0]
        one, other = [it for it in found if it[0] == first], [it for it in found if it[0] != first]
        mixed = [it for it in chain.from_iterable(zip_longest(one, other)) if it is not None]
        return sorted(mixed, key=lambda it: it[4] != self._answered.get(name))


def _remember(known: dict[Any, Any], name: object, value: object) -> None:
    if len(known) >= _MANY:
        known.clear()
    known[name] = value


def _is_address(host: str) -> bool:
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _is_silence(failure: Exception | None) -> bool:
    return isinstance(failure, socket.gaierror) and failure.errno == socket.EAI_AGAIN


def _is_out_of_descriptors() -> bool:
    """Whether this process may open nothing more: a resolver says no more than that it has failed."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as refused:
        return refused.errno in NO_DESCRIPTOR
    return False


def _race(addresses: Sequence[Address], options: Options, deadline: float) -> tuple[socket.socket, object]:
    """The first connection that is made, and its address. Raises UpstreamError."""
    waiting, running = list(addresses), dict[int, tuple[socket.socket, object]]()
    poll, due, failed = select.poll(), 0.0, errno.ETIMEDOUT
    try:
        while waiting or running:
            now = time.monotonic()
            if now >= deadline:
                raise UpstreamTimeout("did not accept the connection in time")
            if waiting and (now >= due or not running):
                begun = _begin(waiting.pop(0), options)
                if isinstance(begun, int):
                    failed, due = begun, 0.0
                    continue
                running[begun[0].fileno()], due = begun, now + STAGGER
                poll.register(begun[0], select.POLLOUT)
            for descriptor, _ in poll.poll(max(0.0, (min(deadline, due) if waiting else deadline) - now) * 1000):
                poll.unregister(descriptor)
                one, address = running.pop(descriptor)
                failed, due = one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), 0.0
                if not failed:
                    return one, address
                one.close()
        if failed == errno.ETIMEDOUT:
            raise UpstreamTimeout("did not accept the connection in time")
        if failed in NO_DESCRIPTOR:
            raise OutOfDescriptors("a connection to a source")
        raise UpstreamError(f"cannot be reached: {os.strerror(failed)}")
    finally:
        for one, _ in running.values():
            one.close()


def _begin(address: Address, options: Options) -> tuple[socket.socket, object] | int:
    """A connection that is being made, or why it cannot be."""
    family, kind, protocol, _, place = address
    try:
        one = socket.socket(family, kind, protocol)
    except OSError as error:
        return error.errno or errno.EAFNOSUPPORT
    try:
        for option in options:
            one.setsockopt(*option)
        one.settimeout(0)
        failed = one.connect_ex(place)
    except OSError as error:
        failed = error.errno or errno.EINVAL
    if failed in (0, errno.EINPROGRESS):
        return one, place
    one.close()
    return failed
