"""The text of a setting -> its value: what may be written, and what is said of anything else.

Every function raises ValueError with what is wrong and what would be right.
"""

import os
import re
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_interface
from pathlib import Path
from typing import TypeVar
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

from package_cache.config.values import TcpAddress, UnixAddress
from package_cache.model import Fields, Source
from package_cache.units import parse_duration

SERVERS = ("wsgiref", "gunicorn")
ACCESS_FORMATS = ("combined", "json")
_EXAMPLE = "a source looks like http://mirror.example/gentoo/"
_ADDRESSES = (
    "an address looks like 127.0.0.1:4000, [::1]:4000, :4000 (all of this machine's) or unix:/run/package-cache.sock"
)
_NETWORKS = "a network looks like 192.168.0.0/16, 192.168.1.7, fd00::/8 or ::1"
_ENDS = "the end of a tunnel looks like mirror.example:443 or [2001:db8::1]:443"
_END = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._\-]+)):([0-9]{1,5})")
_LONGEST_PATH = 107
"""Bytes of a unix socket's path (sun_path of unix(7), less its end)."""
_T = TypeVar("_T")


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
    return Source(base, basic(user + b":" + unquote_to_bytes(parts.password or "")))


def basic(pair: bytes) -> Fields:
    """The field that says who asks, of a user and a password parted by a colon (RFC 7617)."""
    return (("Authorization", "Basic " + b64encode(pair).decode("ascii")),)


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
        # What is behind the colon may be the beginning of a password with a blank in it.
        raise ValueError(
            f"source of the host {parts.hostname!r} has a port that is not a number from 0 to 65535; {_EXAMPLE}"
        ) from None


def _without_credentials(text: str) -> str:
    """A source as it may appear in a message: what is left of the last '@' may be a password, or the end of one."""
    return re.sub(r"^([a-z]+://)?.*@", r"\1***@", text, flags=re.DOTALL | re.IGNORECASE)


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
        return TcpAddress(None if host in ("", "*") else host, parse_port(port))
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


def each(parse: Callable[[str], _T], text: str) -> tuple[_T, ...]:
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


def parse_sources(text: str) -> tuple[Source, ...]:
    """One or more `--source` values, parted by blanks."""
    return each(parse_source, text)


def parse_listen(text: str) -> tuple[TcpAddress | UnixAddress, ...]:
    """One or more `--listen` values, parted by blanks."""
    if not text.strip():
        raise ValueError(f"no address is named; {_ADDRESSES}")
    return each(parse_address, text)


def parse_allow(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """One or more `--allow` values, parted by blanks."""
    if not text.strip():
        raise ValueError(f"no network is named, so nobody could ask; {_NETWORKS}")
    return each(parse_network, text)


def parse_end(text: str) -> TcpAddress:
    """The end of a tunnel: a name in lower case, or an IP address in normal form, and a port."""
    match = _END.fullmatch(text)
    if match is None or not 1 <= int(match[3]) <= 65535:
        raise ValueError(f"{text!r} is not a host and a port; {_ENDS}")
    host = (match[1] or match[2]).lower().removesuffix(".")
    with suppress(ValueError):
        return TcpAddress(str(ip_address(host)), int(match[3]))
    if match[1] or not host:
        raise ValueError(f"{text!r} has no IPv6 address in its brackets; {_ENDS}")
    return TcpAddress(host, int(match[3]))


def parse_connect(text: str) -> tuple[TcpAddress, ...]:
    """One or more `--connect` values, parted by blanks."""
    return each(parse_end, text)


def parse_port(text: str) -> int:
    """A TCP port."""
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise ValueError(f"{text!r} is not a port; it is a number from 0 to 65535 (0 takes any free one)")
    return int(text)


def parse_count(text: str) -> int:
    """A number of processes, threads or downloads."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 4096:
        raise ValueError(f"{text!r} is not a count from 1 to 4096")
    return int(text)


def parse_many(text: str) -> int:
    """A number of connections."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1_000_000:
        raise ValueError(f"{text!r} is not a count from 1 to 1000000")
    return int(text)


def parse_level(text: str) -> int:
    """A level of verbosity."""
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"{text!r} is not a level; it is 0, 1 or 2")
    return int(text)


def parse_switch(text: str) -> bool:
    """A yes or a no."""
    values = {"1": True, "yes": True, "true": True, "on": True, "0": False, "no": False, "false": False, "off": False}
    if text.lower() not in values:
        raise ValueError(f"{text!r} is neither yes nor no")
    return values[text.lower()]


def parse_text(text: str) -> str:
    """A name or a path as the system takes it."""
    if "\0" in text:
        raise ValueError("it holds a NUL character, which no name and no path can have")
    return text


def parse_server(text: str) -> str:
    """The name of a host for the application."""
    if text not in SERVERS:
        raise ValueError(f"{text!r} is not a server; known are {' and '.join(SERVERS)}")
    return text


def parse_format(text: str) -> str:
    """The name of a format of the access log."""
    if text not in ACCESS_FORMATS:
        raise ValueError(f"{text!r} is not a format of the access log; known are {' and '.join(ACCESS_FORMATS)}")
    return text


def parse_path(text: str) -> Path:
    """A directory; `~` is the home directory."""
    if not text:
        raise ValueError("the cache directory is empty")
    try:
        return Path(parse_text(text)).expanduser()
    except RuntimeError:
        raise ValueError(f"{text!r} names the home directory of a user that is not known here") from None


def parse_period(text: str) -> float | None:
    """A time such as `30d`, or `never`."""
    return None if text == "never" else parse_duration(text)


def parse_seconds(text: str) -> float:
    """A number of seconds."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise ValueError(f"{text!r} is not a number of seconds above 0")
    return value
