"""Where tunnels may lead (CONNECT, RFC 9110, section 9.3.6): to the hosts and ports that are listed, and nowhere else.

A name that is listed must not lead inside, to this machine or into its network, whatever it resolves to: an address there
is reached only if it is listed itself.
"""

from ipaddress import ip_address

from package_cache.config import TcpAddress
from package_cache.config.parsing import parse_end
from package_cache.errors import BadRequest, ForeignHost
from package_cache.rules.transfers.networks import is_public

Listed = frozenset[TcpAddress]


def end_of(target: str, listed: Listed) -> TcpAddress:
    """Where a request for a tunnel wants to go, by its target in authority form.

    Raises BadRequest for what is no authority, ForeignHost for one that is not listed.
    """
    try:
        end = parse_end(target)
    except ValueError as error:
        raise BadRequest(f"a tunnel needs a host and a port: {error}") from None
    if end not in listed:
        raise ForeignHost(f"this cache makes no tunnel to {text_of(end)}; its administrator decides by --connect where to")
    return end


def may_reach(address: str, port: int, listed: Listed) -> bool:
    """Whether a tunnel may lead to an IP address that its name resolved to."""
    found = ip_address(address.partition("%")[0])
    return is_public(found) or TcpAddress(str(found), port) in listed


def text_of(end: TcpAddress) -> str:
    """As a client writes it."""
    return f"[{end.host}]:{end.port}" if ":" in (end.host or "") else f"{end.host}:{end.port}"
