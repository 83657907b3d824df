"""Which addresses a connection may lead to: for a redirect, the internet only; for a tunnel, the listed ends only.

An address may carry another one inside, which is where a packet to it ends up; then that one counts. A tunnel (CONNECT,
RFC 9110, section 9.3.6) leads to the hosts and ports that are listed. A listed name must not lead to this machine or into
its network, whatever it resolves to: an address there is reached only if it is listed itself.
"""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from package_cache.config.parsing import TcpAddress, parse_end
from package_cache.errors import BadRequest, ForeignHost

Address = IPv4Address | IPv6Address

_NAT64 = IPv6Network("64:ff9b::/96")
"""RFC 6052, section 2.1: a network without IPv4 reaches all of that through here, so it cannot be refused as a whole."""
Listed = frozenset[TcpAddress]


def is_public(address: Address) -> bool:
    """Whether an address is of one host on the internet: not loopback, private, link-local, multicast or reserved."""
    if isinstance(address, IPv6Address):
        inner = _inner(address)
        if inner is not None:
            return is_public(inner)
        if address.is_site_local:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _inner(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address in a mapped one (RFC 4291, section 2.5.5.2), in 6to4 (RFC 3056), and behind a NAT64."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def is_inside_by_name(host: str) -> bool:
    """Whether the name alone says that a host is this machine or in its network; the addresses it has are checked later."""
    name = host.removesuffix(".").lower()
    try:
        return not is_public(ip_address(name.partition("%")[0]))
    except ValueError:
        number = _old_address(name)
        if number is not None:
            return not is_public(number)
    return name == "localhost" or name.endswith((".localhost", ".local", ".internal"))


def _old_address(name: str) -> IPv4Address | None:
    """The address that `inet_aton` reads: one to four numbers in C's notation, the last one for all bytes that are left."""
    parts = name.split(".")
    if len(parts) > 4:
        return None
    try:
        *first, last = [_number(part) for part in parts]
    except ValueError:
        return None
    if any(part > 255 for part in first) or last >= 1 << (8 * (4 - len(first))):
        return None
    number = last
    for place, part in enumerate(first):
        number |= part << (24 - 8 * place)
    return IPv4Address(number)


def _number(text: str) -> int:
    """A number in C's notation. Raises ValueError."""
    if not text.isascii() or not text[:1].isdigit() or "_" in text:
        raise ValueError(text)
    if text[:2] in ("0x", "0X"):
        return int(text, 16)
    return int(text, 8) if text.startswith("0") else int(text, 10)


def end_of(target: str, listed: Listed) -> TcpAddress:
    """Where a tunnel is to lead, by the target of the request in authority form.

    Raises BadRequest if that is no authority, ForeignHost if it is not listed.
    """
    try:
        end = parse_end(target)
    except ValueError as error:
        raise BadRequest(f"a tunnel needs a host and a port: {error}") from None
    if end not in listed:
        raise ForeignHost(f"this cache makes no tunnel to {end}; its administrator decides by --connect where to")
    return end


def may_reach(address: str, port: int, listed: Listed) -> bool:
    """Whether a tunnel may lead to an IP address that its name resolved to."""
    found = ip_address(address.partition("%")[0])
    return is_public(found) or TcpAddress(str(found), port) in listed
