"""Settings: defaults < environment < command line -> one frozen `Config`.

Decides what a setting may be, and how a bad one is reported: all of them at once, each with its name, where it came from
and what would be right. Reads nothing itself: the caller hands over the environment and the options.
"""

import difflib
import os
import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_interface
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

from package_cache.errors import ConfigError
from package_cache.model import Source
from package_cache.units import Share, parse_duration, parse_share, parse_size

PREFIX = "PACKAGE_CACHE_"
SERVERS = ("wsgiref", "gunicorn")
ACCESS_FORMATS = ("combined", "json")
_EXAMPLE = "a source looks like http://mirror.example/gentoo/"
_ADDRESSES = (
    "an address looks like 127.0.0.1:4000, [::1]:4000, :4000 (all of this machine's) or unix:/run/package-cache.sock"
)
_NETWORKS = "a network looks like 192.168.0.0/16, 192.168.1.7, fd00::/8 or ::1"
_LONGEST_PATH = 107
"""Bytes of a unix socket's path (sun_path of unix(7), less its end)."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits on silence, in seconds.

    Towards a source: `connect` to accept a connection, `head` for the whole head of an answer, `stall` between two
    blocks of a body, `crawl` for as many KiB of it.
    Towards a client: `request` for a whole request head, `idle` for the next request, `send` to take what was sent,
    `graceful` for running answers when the server is told to stop.
    """

    connect: float = 5.0
    head: float = 10.0
    stall: float = 4.0
    request: float = 10.0
    idle: float = 60.0
    send: float = 60.0
    graceful: float = 300.0
    crawl: float = 30.0


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """Where to listen. `host` is None for all addresses of the machine, `port` 0 for any free one."""

    host: str | None
    port: int


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A unix socket to listen on, by its absolute path."""

    path: Path


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set. `cache` is None where the user's cache directory of the system is meant.

    `max_size` is in bytes, `max_age` in seconds; a bound that is None is not kept. `scrub` is in how many seconds every
    stored file is read through once; None if that is not done.
    """

    source: tuple[Source, ...] = ()
    balance: bool = False
    cache: Path | None = None
    listen: tuple[TcpAddress | UnixAddress, ...] = ()
    host: str = "localhost"
    port: int = 4000
    allow: tuple[IPv4Network | IPv6Network, ...] = ()
    server: str = "wsgiref"
    workers: int = 2
    threads: int = 128
    connections: int = 8192
    downloads: int = 64
    verbose: int = 0
    syslog: bool = False
    access_log: str = ""
    access_format: str = "combined"
    max_size: int | None = None
    min_free: Share | None = None
    max_age: float | None = None
    scrub: float | None = 30 * 86400.0
    timeouts: Timeouts = field(default_factory=Timeouts)

    @property
    def addresses(self) -> tuple[TcpAddress | UnixAddress, ...]:
        """Where to listen: `listen` takes the place of `host` and `port`."""
        return self.listen or (TcpAddress(self.host, self.port),)


def parse_source(text: str) -> Source:
    """A `--source` value as a base URL; user and password become a Basic `Authorization` (RFC 7617).

    Raises ValueError with what is wrong and what would be right.
    """
    text = text.strip()
    try:
        parts = urlsplit(text)
    except ValueError:
        raise ValueError(f"source {_without_credentials(text)!r} is not a URL; {_EXAMPLE}") from None
    _check_source(text, parts)
    host = parts.netloc.rpartition("@")[2]
    base = f"{parts.scheme}://{host}{parts.path.rstrip('/')}"
    if parts.username is None:
        return Source(base)
    user = unquote_to_bytes(parts.username)
    if b":" in user:
        raise ValueError(f"source {base!r} has a user name with a colon, which HTTP cannot tell from the password")
    pair = user + b":" + unquote_to_bytes(parts.password or "")
    return Source(base, "Basic " + b64encode(pair).decode("ascii"))


def _check_source(text: str, parts: SplitResult) -> None:
    shown = _without_credentials(text)
    if not re.fullmatch(r"[\x21-\x7e]*", text):
        raise ValueError(f"source {shown!r} holds blanks or characters that must be percent-encoded; {_EXAMPLE}")
    if re.search("%(?![0-9A-Fa-f]{2})", text):
        raise ValueError(f"source {shown!r} has a '%' without two hexadecimal digits; a '%' itself is written %25")
    if parts.scheme not in ("http", "https", "file"):
        raise ValueError(f"source {shown!r} is not an http, https or file URL; {_EXAMPLE}")
    if parts.scheme == "file" and (parts.netloc not in ("", "localhost") or not parts.path.startswith("/")):
        raise ValueError(f"source {shown!r} is not a local directory, which looks like file:///var/cache/distfiles")
    if parts.scheme != "file" and not parts.hostname:
        raise ValueError(f"source {shown!r} names no host; {_EXAMPLE}")
    if parts.query or parts.fragment:
        raise ValueError(f"source {shown!r} has a query or a fragment; {_EXAMPLE}")
    try:
        _ = parts.port
    except ValueError:
        raise ValueError(f"source {shown!r} has a port that is not a number from 0 to 65535; {_EXAMPLE}") from None


def _without_credentials(text: str) -> str:
    """A source as it may appear in a message; a password may hold any character but '@'."""
    return re.sub(r"//[^@]*@", "//***@", text)


def parse_address(text: str) -> TcpAddress | UnixAddress:
    """A `--listen` value. Raises ValueError with what is wrong and what would be right."""
    if text.startswith("unix:"):
        return _unix_address(text)
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError(f"{text!r} names no port; {_ADDRESSES}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            IPv6Address(host)
        except ValueError:
            raise ValueError(f"{text!r} has no IPv6 address in its brackets; {_ADDRESSES}") from None
    elif not re.fullmatch(r"[^\s:/\[\]]*", host):
        raise ValueError(f"{text!r} is not a host and a port; {_ADDRESSES}")
    try:
        return TcpAddress(None if host in ("", "*") else host, _port(port))
    except ValueError:
        raise ValueError(f"{text!r} has a port that is not a number from 0 to 65535; {_ADDRESSES}") from None


def _unix_address(text: str) -> UnixAddress:
    path = text.removeprefix("unix:")
    if not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise ValueError(f"{text!r} is not the absolute path of a unix socket; {_ADDRESSES}")
    try:
        size = len(os.fsencode(path))
    except UnicodeEncodeError:
        raise ValueError(f"{text!r} cannot be a path here") from None
    if size > _LONGEST_PATH:
        raise ValueError(f"{text!r} is longer than the {_LONGEST_PATH} bytes that the path of a unix socket may have")
    return UnixAddress(Path(path))


def parse_network(text: str) -> IPv4Network | IPv6Network:
    """An `--allow` value. Raises ValueError with what is wrong and what would be right.

    IPv4 in the form of IPv6 (RFC 4291, section 2.5.5.2) becomes IPv4, as clients' addresses do.
    """
    try:
        interface = ip_interface(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a network; {_NETWORKS}") from None
    network = interface.network
    if interface.ip != network.network_address:
        raise ValueError(f"{text!r} is an address within the network {network}; write that, or {interface.ip} alone")
    if isinstance(network, IPv6Network) and network.prefixlen >= 96 and network.network_address.ipv4_mapped:
        return IPv4Network((network.network_address.ipv4_mapped, network.prefixlen - 96))
    return network


def _each(parse: Callable[[str], _T], text: str) -> tuple[_T, ...]:
    """Every word of a setting that may be given several times. Raises ValueError with all that is wrong."""
    values: list[_T] = []
    problems: list[str] = []
    for word in text.split():
        try:
            values.append(parse(word))
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("; ".join(problems))
    return tuple(values)


def _sources(text: str) -> tuple[Source, ...]:
    return _each(parse_source, text)


def _listen(text: str) -> tuple[TcpAddress | UnixAddress, ...]:
    if not text.strip():
        raise ValueError(f"no address is named; {_ADDRESSES}")
    return _each(parse_address, text)


def _allow(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    if not text.strip():
        raise ValueError(f"no network is named, so nobody could ask; {_NETWORKS}")
    return _each(parse_network, text)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise ValueError(f"{text!r} is not a port; it is a number from 0 to 65535 (0 takes any free one)")
    return int(text)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 4096:
        raise ValueError(f"{text!r} is not a count from 1 to 4096")
    return int(text)


def _many(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1_000_000:
        raise ValueError(f"{text!r} is not a count from 1 to 1000000")
    return int(text)


def _level(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"{text!r} is not a level; it is 0, 1 or 2")
    return int(text)


def _switch(text: str) -> bool:
    values = {"1": True, "yes": True, "true": True, "on": True, "0": False, "no": False, "false": False, "off": False}
    if text.lower() not in values:
        raise ValueError(f"{text!r} is neither yes nor no")
    return values[text.lower()]


def _server(text: str) -> str:
    if text not in SERVERS:
        raise ValueError(f"{text!r} is not a server; known are {' and '.join(SERVERS)}")
    return text


def _format(text: str) -> str:
    if text not in ACCESS_FORMATS:
        raise ValueError(f"{text!r} is not a format of the access log; known are {' and '.join(ACCESS_FORMATS)}")
    return text


def _path(text: str) -> Path:
    if not text:
        raise ValueError("the cache directory is empty")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{text!r} names the home directory of a user that is not known here") from None


def _period(text: str) -> float | None:
    return None if text == "never" else parse_duration(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise ValueError(f"{text!r} is not a number of seconds above 0")
    return value


_PARSERS: dict[str, Callable[[str], Any]] = {
    "source": _sources,
    "balance": _switch,
    "cache": _path,
    "listen": _listen,
    "host": str,
    "port": _port,
    "allow": _allow,
    "server": _server,
    "workers": _count,
    "threads": _count,
    "connections": _many,
    "downloads": _count,
    "verbose": _level,
    "syslog": _switch,
    "access_log": str,
    "access_format": _format,
    "max_size": parse_size,
    "min_free": parse_share,
    "max_age": parse_duration,
    "scrub": _period,
}
_TIMEOUTS = {f"{one.name}_timeout": one.name for one in fields(Timeouts)}

NAMES = (*_PARSERS, *_TIMEOUTS)
"""Every setting, by the name of its option with underscores."""


def build(environment: Mapping[str, str], options: Mapping[str, str]) -> Config:
    """The settings from both layers. Values are text, as a person wrote it.

    Raises `ConfigError` with every problem in either layer.
    """
    problems: list[str] = []
    values: dict[str, Any] = {}
    for layer, settings in (("", _of_environment(environment, problems)), ("--", options)):
        one = [_place(layer, name) for name in ("host", "port") if name in settings]
        if one:
            values.pop("listen", None)
        if one and "listen" in settings:
            problems.append(f"{_place(layer, 'listen')}: takes the place of {' and '.join(one)}; give one or the other")
        for name, text in settings.items():
            try:
                values[name] = _PARSERS.get(name, _seconds)(text)
            except ValueError as error:
                problems.append(f"{_place(layer, name)}: {error}")
    if problems:
        raise ConfigError(problems)
    timeouts = Timeouts(**{short: values.pop(name) for name, short in _TIMEOUTS.items() if name in values})
    return Config(**values, timeouts=timeouts)


def _place(layer: str, name: str) -> str:
    """A setting as it is written in its layer."""
    return f"{layer}{name.replace('_', '-')}" if layer else f"{PREFIX}{name.upper()}"


def _of_environment(environment: Mapping[str, str], problems: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for variable, text in environment.items():
        if not variable.startswith(PREFIX):
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name in NAMES:
            found[name] = text
        else:
            near = [one for one in NAMES if one.startswith(name)] or difflib.get_close_matches(name, NAMES, n=1, cutoff=0.0)
            problems.append(f"{variable}: there is no such setting; the nearest is {PREFIX}{near[0].upper()}")
    return found
