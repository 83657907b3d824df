"""How an origin is reached: straight, or through a proxy, and which one; and which addresses a connection may lead to.

Connections are kept by their way: requests that share a way share everything that a connection goes through. Proxies are
named by the variables `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`. There is no standard for them, so what the
usual programs agree on is read here: a name in lower case goes before the one in capitals; a value without a scheme is that
of an HTTP proxy; `no_proxy` has names with all that is below them, addresses, networks, ports, or `*`. A value that is not
used for a URL may be anything.

A redirect leads to the internet only, a tunnel (CONNECT, RFC 9110, section 9.3.6) to the hosts and ports that are listed.
An address may carry another one inside, which is where a packet to it ends up; then that one counts. A listed name must not
lead to this machine or into its network, whatever it resolves to: an address there is reached only if it is listed itself.
"""

import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import unquote, urlsplit

from package_cache.config.parsing import TcpAddress, parse_end
from package_cache.errors import BadRequest, ForeignHost

HTTP = frozenset({"http", "https"})
"""Schemes of proxies that speak HTTP."""
_PORTS = {"http": 80, "https": 443}
_BRACKETED = re.compile(r"\[([^\]]*)\](?::([0-9]*))?")
_SECRET = re.compile(r"^([^/]*//)?.*@")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port: those who share it trust each other (RFC 6454)."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> "Origin":
        """The origin of a URL. Raises ValueError if its port is not a number."""
        parts = urlsplit(url)
        return cls(parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy, spoken to over TLS if its scheme is https; `login` is what it is told as Proxy-Authorization."""

    origin: Origin
    login: str | None = None

    @classmethod
    def of(cls, url: str) -> "Proxy":
        """The proxy that a URL names."""
        parts = urlsplit(url)
        pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}".encode()  # RFC 7617
        return cls(Origin.of(url), None if parts.username is None else f"Basic {b64encode(pair).decode()}")


@dataclass(frozen=True)
class Way:
    """How an origin is reached: straight, or through a proxy. The address of a `guarded` one must be public."""

    origin: Origin
    proxy: Proxy | None = None
    guarded: bool = False

    def __hash__(self) -> int:
        return self._hash  # each request is looked up by its way

    @cached_property
    def _hash(self) -> int:
        return hash((self.origin, self.proxy, self.guarded))

    @cached_property
    def first(self) -> Origin:
        """The origin to connect to."""
        return self.origin if self.proxy is None else self.proxy.origin

    @cached_property
    def tunnelled(self) -> bool:
        """Whether the proxy makes a tunnel, and so does not see the requests."""
        return self.proxy is not None and self.origin.scheme == "https"

    def tunnel(self) -> bytes:
        """The CONNECT request for a tunnel (RFC 9110, section 9.3.6)."""
        assert self.proxy is not None
        host = f"[{self.origin.host}]" if ":" in self.origin.host else self.origin.host
        end = f"{host}:{self.origin.port}"
        login = f"Proxy-Authorization: {self.proxy.login}\r\n" if self.proxy.login else ""
        return f"CONNECT {end} HTTP/1.1\r\nHost: {end}\r\n{login}\r\n".encode("latin-1")


@dataclass(frozen=True, slots=True)
class Exempt:
    """A destination without a proxy: a network, or a name and all names below it; `port` None stands for all ports."""

    name: str
    network: IPv4Network | IPv6Network | None = None
    port: int | None = None

    def has(self, host: str, port: int | None) -> bool:
        """Whether it covers a host, in lower case, at that port."""
        if self.port not in (None, port):
            return False
        if self.network is None:
            return self.name in ("*", host) or host.endswith(f".{self.name}")
        try:
            return ip_address(host.partition("%")[0]) in self.network
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class Proxies:
    """`named` has, for each scheme, the name of the setting and its value; `all` is for schemes that are not listed."""

    named: Mapping[str, tuple[str, str]]
    exempt: tuple[Exempt, ...] = ()

    def proxy_for(self, url: str, speaks: frozenset[str] = HTTP) -> str | None:
        """The URL of the proxy of a URL; None if it has none.

        Raises ValueError, which names the setting, if it is no proxy with a scheme in `speaks`.
        """
        parts = urlsplit(url)
        name, value = self.named.get(parts.scheme) or self.named.get("all") or ("", "")
        host = (parts.hostname or "").removesuffix(".")
        port = parts.port or _PORTS.get(parts.scheme)
        if not value or any(one.has(host, port) for one in self.exempt):
            return None
        try:
            return _proxy_url(value, speaks)
        except ValueError as error:
            shown = _SECRET.sub(r"\1", value)
            raise ValueError(f"{name}={shown!r} cannot be used: {error}; write http://HOST:PORT") from None


def of_environment(environment: Mapping[str, str]) -> Proxies:
    """The proxies of the environment. In a CGI program, HTTP_PROXY is a field of the request, so it is not read."""
    named = {}
    for scheme in ("http", "https", "all"):
        names = [f"{scheme}_proxy", f"{scheme}_proxy".upper()]
        if scheme == "http" and "REQUEST_METHOD" in environment:
            names.pop()
        # An empty variable says that there is no proxy.
        found = next(((name, environment[name].strip()) for name in names if name in environment), None)
        if found is not None:
            named[scheme] = found
    return Proxies(named, exempt_in(environment.get("no_proxy", environment.get("NO_PROXY", ""))))


def of_pairs(pairs: Mapping[str, str]) -> Proxies:
    """The proxies of a caller: URLs by scheme, `all` for schemes that are not listed, and `no` as in `no_proxy`."""
    named = {scheme: (f"proxies[{scheme!r}]", value.strip()) for scheme, value in pairs.items() if value.strip()}
    return Proxies(named, exempt_in(pairs.get("no", "")))


def exempt_in(text: str) -> tuple[Exempt, ...]:
    """The members of a `no_proxy`. Members that cannot be read name no host, and are left out."""
    found = (_exempt(word.rpartition("://")[2]) for word in re.split(r"[,\s]+", text.lower()) if word)
    return tuple(one for one in found if one is not None)


def _exempt(word: str) -> Exempt | None:
    host, port = word, ""
    if bracketed := _BRACKETED.fullmatch(word):
        host, port = bracketed[1], bracketed[2] or ""
    elif word.count(":") == 1:
        host, _, port = word.partition(":")
    if port and not port.isdigit():
        return None
    number = int(port) if port else None
    try:
        return Exempt(host, ip_network(host, strict=False), number)
    except ValueError:
        name = host.removeprefix("*").strip(".") if host != "*" else host
        return Exempt(name, None, number) if name and "/" not in name else None


def _proxy_url(value: str, speaks: frozenset[str]) -> str:
    """The URL of a proxy, its scheme in lower case. Raises ValueError, saying why there is none."""
    match = _SCHEME.fullmatch(value)
    scheme, rest = (match[1].lower(), match[2]) if match else ("http", value.removeprefix("//"))
    if scheme not in speaks:
        raise ValueError(f"{scheme} is not spoken to proxies here")
    url = f"{scheme}://{rest}"
    try:
        parts = urlsplit(url)
        number = parts.port
    except ValueError:
        raise ValueError("its port is not a number") from None
    if not parts.hostname or number == 0 or re.search(r"[\s\x00-\x20\\]", rest) or parts.path.strip("/"):
        raise ValueError("it does not name a host")
    return url.rstrip("/")


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
