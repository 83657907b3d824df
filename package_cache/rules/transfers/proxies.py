"""Which proxy a URL is reached through, as the environment says it: `http_proxy`, `https_proxy`, `all_proxy`, `no_proxy`.

There is no standard for these, so what the usual programs agree on is read here: a name in lower case goes before the one
in capitals; a value without a scheme is that of an HTTP proxy; `no_proxy` has names with all that is below them,
addresses, networks, ports, or `*`. What is set but not used for a URL may be anything.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

HTTP = frozenset({"http", "https"})
"""Schemes of proxies that speak HTTP."""
_PORTS = {"http": 80, "https": 443}
_BRACKETED = re.compile(r"\[([^\]]*)\](?::([0-9]*))?")
_SECRET = re.compile(r"^([^/]*//)?.*@")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Exempt:
    """What is reached without a proxy: a network, or a name and all names below it; `port` None stands for every one."""

    name: str
    network: IPv4Network | IPv6Network | None = None
    port: int | None = None

    def has(self, host: str, port: int | None) -> bool:
        """Whether a host, in lower case, is among it at that port."""
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
    """`named` has for each scheme what names its proxy, and the value as it is written; `all` is for those not listed."""

    named: Mapping[str, tuple[str, str]]
    exempt: tuple[Exempt, ...] = ()

    def proxy_for(self, url: str, speaks: frozenset[str] = HTTP) -> str | None:
        """The URL of the proxy of a URL; None if it has none.

        Raises ValueError, which names the setting, where it is not a proxy of a scheme in `speaks`.
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
    """What the environment says. In that of a CGI program, HTTP_PROXY is a field of the client's request, and not read."""
    named = {}
    for scheme in ("http", "https", "all"):
        names = [f"{scheme}_proxy", f"{scheme}_proxy".upper()]
        if scheme == "http" and "REQUEST_METHOD" in environment:
            names.pop()
        # One that is set to nothing says that there is none.
        found = next(((name, environment[name].strip()) for name in names if name in environment), None)
        if found is not None:
            named[scheme] = found
    return Proxies(named, exempt_in(environment.get("no_proxy", environment.get("NO_PROXY", ""))))


def of_pairs(pairs: Mapping[str, str]) -> Proxies:
    """What a caller says: URLs of proxies by scheme, `all` for those not listed, and `no` as in `no_proxy`."""
    named = {scheme: (f"proxies[{scheme!r}]", value.strip()) for scheme, value in pairs.items() if value.strip()}
    return Proxies(named, exempt_in(pairs.get("no", "")))


def exempt_in(text: str) -> tuple[Exempt, ...]:
    """What a value of `no_proxy` lists. What cannot be read there is nobody's name, and left out."""
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
