"""The text of a setting -> its value: what may be written, and the error for anything else.

Every `parse_` function raises ValueError with what is wrong and what would be right. `nearest` finds the known name that a
person may have meant by an unknown one: none, rather than one that is merely the least far.
"""

import os
import re
from base64 import b64encode
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_interface
from pathlib import Path
from typing import TypeVar
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

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
_SHORTEST = 3
"""Letters of the shortest beginning that is taken for a name."""


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host and a port. To listen on, `host` None stands for all addresses of the machine, `port` 0 for any free one."""

    host: str | None
    port: int

    def __str__(self) -> str:
        """As it is written in a URL, and in a setting."""
        host = self.host or ""
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A unix socket to listen on, by its absolute path."""

    path: Path

    def __str__(self) -> str:
        """As it is written in a setting."""
        return f"unix:{self.path}"


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
    """The Authorization field for a user and a password separated by a colon (RFC 7617)."""
    return (("Authorization", "Basic " + b64encode(pair).decode("ascii")),)


def _check_source(text: str, parts: SplitResult) -> None:
    shown = _without_credentials(text)
    if not re.fullmatch(r"[\x21-\x7e]*", text):
        raise ValueError(f"source {shown!r} holds spaces or characters that must be percent-encoded; {_EXAMPLE}")
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


def each(parse: Callable[[str], _T], none: str = "") -> Callable[[str], tuple[_T, ...]]:
    """A parser of values separated by spaces, for a setting that may be given several times.

    It reports all that is wrong with them. `none` says what is wrong with having no value, if that is wrong.
    """

    def parse_each(text: str) -> tuple[_T, ...]:
        values: list[_T] = []
        problems = [none] if none and not text.strip() else []
        for word in text.split():
            try:
                values.append(parse(word))
            except ValueError as error:
                problems.append(str(error))
        if problems:
            raise ValueError("; ".join(problems))
        return tuple(values)

    return parse_each


def whole(least: int, most: int, what: str) -> Callable[[str], int]:
    """A parser of whole numbers from `least` to `most`; any other text is said not to be `what`."""

    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
            raise ValueError(f"{text!r} is not {what}")
        return int(text)

    return parse


def one_of(known: Iterable[str], what: str) -> Callable[[str], str]:
    """A parser of one of the `known` words; any other text is said not to be `what`."""

    def parse(text: str) -> str:
        if text not in known:
            raise ValueError(f"{text!r} is not {what}; known are {' and '.join(known)}")
        return text

    return parse


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


def parse_switch(text: str) -> bool:
    """A switch: yes or no."""
    values = {"1": True, "yes": True, "true": True, "on": True, "0": False, "no": False, "false": False, "off": False}
    if text.lower() not in values:
        raise ValueError(f"{text!r} is neither yes nor no")
    return values[text.lower()]


def parse_text(text: str) -> str:
    """A name or a path as the system takes it."""
    if "\0" in text:
        raise ValueError("it holds a NUL character, which no name and no path can have")
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


parse_sources = each(parse_source)
parse_listen = each(parse_address, f"no address is named; {_ADDRESSES}")
parse_allow = each(parse_network, f"no network is named, so nobody could ask; {_NETWORKS}")
parse_connect = each(parse_end)
parse_port = whole(0, 65535, "a port; it is a number from 0 to 65535 (0 takes any free one)")
parse_count = whole(1, 4096, "a count from 1 to 4096")
parse_many = whole(1, 1_000_000, "a count from 1 to 1000000")
parse_level = whole(0, 1_000_000, "a level; it is 0, 1 or 2")
parse_server = one_of(SERVERS, "a server")
parse_format = one_of(ACCESS_FORMATS, "a format of the access log")


def nearest(given: str, known: Iterable[str]) -> str | None:
    """The known name that is near `given`, if there is one; of several the nearest, of equally near ones the first.

    A name is near if it is the same but for case, hyphens and underscores; if one begins with the other (`verb`,
    `timeouts`); if one has all words of the other (`max-size`, `max-file-size`); or if at most a third of its letters are
    wrong (`prot`, `sauce`), and the first is right or only one is wrong: `centos` is not meant for `gentoo`.
    """
    name = _plain(given)
    ranked = ((_distance(name, _plain(one)), at, one) for at, one in enumerate(known))
    return min(((far, at, one) for far, at, one in ranked if far is not None), default=(0, 0, None))[2]


def _plain(name: str) -> str:
    return name.lower().lstrip("-").replace("_", "-")


def _distance(given: str, known: str) -> int | None:
    """The number of edits between two names; None if there are too many."""
    wrong = _edits(given, known)
    words, others = set(given.split("-")), set(known.split("-"))
    begins = min(len(given), len(known)) >= _SHORTEST and (given.startswith(known) or known.startswith(given))
    slip = wrong <= max(len(given), len(known)) // 3 and (wrong == 1 or given[:1] == known[:1])
    return wrong if begins or words <= others or others <= words or slip else None


def _edits(given: str, known: str) -> int:
    """Letters to be added, dropped, replaced, or exchanged with the next one, until one name is the other."""
    before: list[int] = []
    last = list(range(len(known) + 1))
    for at, letter in enumerate(given, 1):
        row = [at]
        for to, other in enumerate(known, 1):
            cost = min(last[to] + 1, row[to - 1] + 1, last[to - 1] + (letter != other))
            if at > 1 and to > 1 and letter == known[to - 2] and given[at - 2] == other:
                cost = min(cost, before[to - 2] + 1)
            row.append(cost)
        before, last = last, row
    return last[-1]


def hint(given: str, known: Iterable[str], otherwise: str, elsewhere: str | None = None) -> str:
    """What an error adds about an unknown name: which name is near, `elsewhere` if it is known there, else `otherwise`."""
    near = nearest(given, known)
    found = (None if near is None else f"the nearest is {near}", elsewhere)
    return "; ".join(filter(None, found)) or otherwise
