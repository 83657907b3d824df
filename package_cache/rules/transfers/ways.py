"""How an origin is reached: straight, or through a proxy, and which one.

Connections are kept by their way: requests that share a way share everything that a connection goes through. Proxies are
named by the variables `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`. There is no standard for them, so what the
usual programs agree on is read here: a name in lower case goes before the one in capitals; a value without a scheme is that
of an HTTP proxy; `no_proxy` has names with all that is below them, addresses, networks, ports, or `*`. A value that is not
used for a URL may be anything.
"""

import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from urllib.parse import unquote, urlsplit

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
