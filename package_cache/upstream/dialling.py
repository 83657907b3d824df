"""New TCP connections to sources, for an event loop: names are looked up and addresses tried without blocking it.

A name is looked up in a thread, once for all that wait for it, and its addresses are remembered for a while. They are tried
as RFC 8305 says (Happy Eyeballs): families in turn, the next address a moment after the last, and whichever answers first
is taken. One time limit holds for the name and all addresses together.
"""

import errno
import os
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from itertools import chain, zip_longest

from package_cache.errors import OutOfDescriptors, UpstreamError, UpstreamTimeout
from package_cache.upstream.events import WRITE, Events, Timer

_STAGGER = 0.25
"""Seconds after which the next address is tried beside those that have not answered yet (RFC 8305, section 5)."""
MOMENT = 0.5
"""Seconds that the look-up of a name may take whose last look-up got no answer."""
NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
_REMEMBERED_SECONDS = 30.0
_FAILED_SECONDS = 2.0
_MANY = 1024
"""Names that are remembered."""

Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]
"""Family, and what `connect` takes."""


Trouble = UpstreamError | OutOfDescriptors
"""Why there is no connection: because of the source, or of this process."""
Found = Callable[[tuple[Address, ...] | Trouble], None]
Dialled = Callable[[socket.socket | Trouble], None]
Allow = Callable[[tuple[Address, ...]], tuple[Address, ...]]
"""Those of a host's addresses that may be connected to. Raises UpstreamError."""


class Names:
    """The addresses of hosts. Belongs to the loop's thread. `clock` gives seconds."""

    def __init__(self, events: Events, clock: Callable[[], float]) -> None:
        self._events = events
        self._clock = clock
        self._known: dict[tuple[str, int], tuple[float, tuple[Address, ...] | Trouble]] = {}
        self._asking: dict[tuple[str, int], list[Found]] = {}
        self._silent: dict[str, None] = {}

    def is_silent(self, host: str) -> bool:
        """Whether the last look-up of a host got no answer in time."""
        return host in self._silent

    def note_silence(self, host: str) -> None:
        """The look-up of a host got no answer in time."""
        if len(self._silent) >= _MANY:
            self._silent.clear()
        self._silent[host] = None

    def find(self, host: str, port: int, found: Found) -> None:
        """Call `found` with the addresses of a host, at once if they are known."""
        known = self._known.get((host, port))
        if known is not None and self._clock() < known[0]:
            found(known[1])
            return
        literal = _literal(host, port)
        if literal is not None:
            found((literal,))
            return
        waiting = self._asking.setdefault((host, port), [])
        waiting.append(found)
        if len(waiting) == 1:
            self._ask(host, port)

    def _ask(self, host: str, port: int) -> None:
        try:
            self._events.run(partial(self._look, host, port))
        except RuntimeError:
            self._tell(host, port, UpstreamError("was not asked: there is no thread to look its name up"))

    def _look(self, host: str, port: int) -> None:
        """Runs in a thread."""
        said: tuple[Address, ...] | Trouble
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            said = _in_turn(dict.fromkeys((family, address) for family, _, _, _, address in found))
            silence = False
        except (OSError, UnicodeError) as error:
            silence = isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN
            said = UpstreamError("cannot be found: its name does not resolve", unreached=True)
            if _may_open_nothing():
                said = OutOfDescriptors("the look-up of a name")
        self._events.call(partial(self._tell, host, port, said, silence=silence))

    def _tell(self, host: str, port: int, said: tuple[Address, ...] | Trouble, *, silence: bool = False) -> None:
        if not silence:
            self._silent.pop(host, None)
        if len(self._known) >= _MANY:
            self._known.clear()
        if not isinstance(said, OutOfDescriptors):
            seconds = _REMEMBERED_SECONDS if isinstance(said, tuple) else _FAILED_SECONDS
            self._known[host, port] = (self._clock() + seconds, said)
        for found in self._asking.pop((host, port), ()):
            found(said)

    def prefer(self, host: str, port: int, address: Address) -> None:
        """Try that address first as long as these are remembered: it answered."""
        until, known = self._known.get((host, port), (0.0, ()))
        if isinstance(known, tuple) and address in known[1:]:
            self._known[host, port] = (until, (address, *(one for one in known if one != address)))


def _literal(host: str, port: int) -> Address | None:
    """The address, if a host is one. One with a zone (RFC 4007, section 11), which may be a name, is looked up instead."""
    with suppress(OSError):
        socket.inet_pton(socket.AF_INET, host)
        return socket.AF_INET, (host, port)
    with suppress(OSError):
        socket.inet_pton(socket.AF_INET6, host)
        return socket.AF_INET6, (host, port, 0, 0)
    return None


def _may_open_nothing() -> bool:
    """Whether this process can open no more files: a resolver does not say why it failed."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as refused:
        return refused.errno in NO_DESCRIPTOR
    return False


def _in_turn(addresses: Iterable[Address]) -> tuple[Address, ...]:
    """Families in turn, beginning with that of the first (RFC 8305, section 4)."""
    known = tuple(addresses)
    first = [one for one in known if one[0] == known[0][0]]
    others = [one for one in known if one[0] != known[0][0]]
    return tuple(one for one in chain.from_iterable(zip_longest(first, others)) if one is not None)


class Dial:
    """One connection that is being made. `done` is called once: with a non-blocking socket, or with why there is none.

    With `allow`, only addresses that it returns are connected to.
    """

    def __init__(
        self,
        events: Events,
        names: Names,
        host: str,
        port: int,
        seconds: float,
        done: Dialled,
        allow: Allow | None = None,
    ) -> None:
        self._events = events
        self._names = names
        self._host, self._port = host, port
        self._done = done
        self._allow = allow
        self._left: list[Address] = []
        self._tried: dict[int, tuple[socket.socket, Address]] = {}
        self._error: OSError | None = None
        self._over = False
        self._named = False
        self._limit = events.after(seconds, self._time_out)
        self._next: Timer | None = None
        if names.is_silent(host):
            events.after(min(seconds, MOMENT), self._moment_is_over)
        names.find(host, port, self._found)

    def _found(self, said: tuple[Address, ...] | Trouble) -> None:
        if self._over:
            return
        if not isinstance(said, tuple):
            self._end(said)
            return
        self._named = True
        try:
            self._left = list(said if self._allow is None else self._allow(said))
        except UpstreamError as error:
            self._end(error)
            return
        self._try_next()

    def _try_next(self) -> None:
        """Try the next address, beside those that are being tried."""
        if self._next is not None:
            self._next.cancel()
        while self._left and not self._over:
            if self._begin(self._left.pop(0)):
                self._next = self._events.after(_STAGGER, self._try_next)
                return
        if not self._tried and not self._over:
            self._end(_trouble_of(self._error))

    def _begin(self, address: Address) -> bool:
        """Begin to connect to an address; whether it is being tried, or has answered, now."""
        try:
            one = socket.socket(address[0], socket.SOCK_STREAM)
        except OSError as error:
            self._error = error
            return False
        one.settimeout(0)
        with suppress(OSError):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = one.connect_ex(address[1])
        if code == 0:
            self._win(one, address)
            return True
        if code != errno.EINPROGRESS:
            self._error = OSError(code, os.strerror(code))
            one.close()
            return False
        descriptor = one.fileno()
        self._tried[descriptor] = one, address
        self._events.register(descriptor, WRITE, partial(self._on_event, descriptor))
        return True

    def _on_event(self, descriptor: int, _: int) -> None:
        one, address = self._tried[descriptor]
        code = one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code == 0:
            try:
                one.getpeername()
            except OSError:
                return  # a stale event, of a socket that had this descriptor before
        del self._tried[descriptor]
        self._events.unregister(descriptor)
        if code == 0:
            self._win(one, address)
            return
        self._error = OSError(code, os.strerror(code))
        one.close()
        self._try_next()

    def _win(self, one: socket.socket, address: Address) -> None:
        self._names.prefer(self._host, self._port, address)
        self._end(one)

    def _time_out(self) -> None:
        if self._named:
            self._end(UpstreamTimeout("did not accept the connection in time", unreached=True))
        else:
            self._names.note_silence(self._host)
            self._end(UpstreamTimeout("cannot be found: nobody answers who its name could be asked of", unreached=True))

    def _moment_is_over(self) -> None:
        if not self._named and not self._over:
            self._time_out()

    def _end(self, result: socket.socket | Trouble) -> None:
        done = self._done
        self.close()
        done(result)

    def close(self) -> None:
        """Stop trying. `done` is not called."""
        self._over = True
        self._done = _nobody  # what it calls refers to this, and to much else
        self._limit.cancel()
        if self._next is not None:
            self._next.cancel()
        for descriptor, (one, _) in self._tried.items():
            self._events.unregister(descriptor)
            one.close()
        self._tried.clear()


def _nobody(_: socket.socket | Trouble) -> None:
    """Nothing is to be called."""


def _trouble_of(error: OSError | None) -> Trouble:
    """Why no address could be reached, by the last error."""
    if error is not None and error.errno == errno.ETIMEDOUT:
        return UpstreamTimeout("did not accept the connection in time", unreached=True)
    if error is not None and error.errno in NO_DESCRIPTOR:
        return OutOfDescriptors("a connection to a source")
    return UpstreamError(f"cannot be reached: {'it has no address' if error is None else error.strerror}", unreached=True)
