"""Names that this machine goes by: a client that takes the cache for its proxy may ask it for a URL of the cache itself.

Such a request is answered as any other (RFC 9112, section 3.2.2). What the cache is called is nowhere said: a name
is ours if it leads to the address and port that the client has come to.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from package_cache.errors import ForeignHost
from package_cache.model import Target
from package_cache.rules.http.request import RequestHead
from package_cache.rules.repositories.routes import Routes

_PORTS = {"http": 80, "https": 443}
_REMEMBERED = 256
_SECONDS = 300.0
"""For how long what was found out of a name holds."""


def look_up(host: str) -> Iterable[str]:
    """The addresses of a host. Waits for who knows them. Raises OSError, or UnicodeError for what can be no host."""
    return {str(address[0]) for *_, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}


class Names:
    """Tells our names from others. Safe for any number of threads.

    Names are looked up one at a time: who asks for another one meanwhile is told that it is not ours.
    """

    def __init__(self, look_up: Callable[[str], Iterable[str]] = look_up) -> None:
        self._look_up = look_up
        self._machine = socket.gethostname().lower()
        self._busy = threading.Lock()
        self._known: dict[tuple[str, str], tuple[float, bool]] = {}

    def find(self, routes: Routes, head: RequestHead, address: str, port: int) -> Target:
        """What a request names whose client has come to `address` and `port`. Waits as `own` does. Raises RequestError."""
        host = head.combined.get("host")
        try:
            return routes.find(head.target, host, address)
        except ForeignHost:
            name = self.own(head.target, address, port)
            if name is None:
                raise
            return routes.find(head.target, host, name)

    def own(self, target: str, address: str, port: int) -> str | None:
        """The host in a target that is a whole URL, if it is ours. The client has come to `address` and `port`."""
        try:
            parts = urlsplit(target)
            host, asked = parts.hostname, parts.port or _PORTS.get(parts.scheme.lower())
        except ValueError:
            return None
        if not host or asked != port:
            return None
        return host if host.rstrip(".") == self._machine or self._leads_here(host, address) else None

    def _leads_here(self, host: str, address: str) -> bool:
        until, leads = self._known.get((host, address), (0.0, False))
        if time.monotonic() < until or not self._busy.acquire(blocking=False):
            return leads
        try:
            leads = address in self._look_up(host)
        except (OSError, UnicodeError):
            leads = False
        finally:
            self._busy.release()
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[host, address] = time.monotonic() + _SECONDS, leads
        return leads
