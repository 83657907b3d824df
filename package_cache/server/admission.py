"""Who may ask at all: clients by their network.

Decided before anything else is done for a client. Who comes over a unix socket was let in by its directory's permissions.
Clients on this machine may always ask how the service fares: what supervises it does, and would restart it for ever.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

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
