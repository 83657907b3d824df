"""Who may ask at all: clients by their network.

Decided before anything else is done for a client. Who comes over a unix socket was let in by its directory's permissions.
"""

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

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
        try:
            address = ip_address(client)
        except ValueError:
            return True  # no address: a unix socket
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self.networks)


EVERYBODY = Admission()
