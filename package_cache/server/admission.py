"""Who may ask, and of whom: clients by their network, and the names that this machine goes by.

Both are decided before anything else is done for a request. Who comes over a unix socket was let in by its directory's
permissions. Clients on this machine may always ask how the service fares: what supervises it does, and would restart it for
ever. A client that takes the cache for its proxy may ask it for a URL of the cache itself, which is answered as any other
(RFC 9112, section 3.2.2). What the cache is called is nowhere said: a name is ours if it leads to the address and port that
the client has come to.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

from package_cache.errors import ForeignHost
from package_cache.model import Target
from package_cache.rules.http.request import RequestHead
from package_cache.rules.repositories.routes import Routes

Network = IPv4Network | IPv6Network

NOT_ADMITTED = "this cache does not serve your network; its administrator decides by --allow which ones it does"
"""What a client that is not admitted is told."""


@dataclass(frozen=True, slots=True)
class Admission:
    """The networks whose clients are answered; none stands for everybody."""

    networks: tuple[Network, ...] = ()

    def admits(self, client: str) -> bool:
        """Whether a client is answered: an IP address, or what a server calls a client that has none."""
        if not self.networks:
            return True
        address = _address(client)
        if address is None:
            return True  # a unix socket
        return any(address in network for network in self.networks)


def is_local(client: str) -> bool:
    """Whether a client is on this machine, by its IP address."""
    address = _address(client)
    return address is not None and address.is_loopback


def _address(client: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(client)
    except ValueError:
        return None
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


EVERYBODY = Admission()


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
