"""What callers say of downloads: once for all, and with each; checked, and in one form."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypedDict

from package_cache.config import Timeouts
from package_cache.errors import ArgumentError, ConfigError
from package_cache.library.downloads.descriptors import Descriptor, seconds_of
from package_cache.library.downloads.files import load_table
from package_cache.library.downloads.headers import headers_of
from package_cache.library.downloads.progress import Wish
from package_cache.upstream.backends import check_backend
from package_cache.upstream.calls import Reach

Refresh = Literal["never", "check", "always"]
"""Whether a server is asked where the file is here: never; whether it has another one; for the file itself."""
REFRESH = ("never", "check", "always")
_CRAWL = 30.0
_CRAWL = 30.0
"""Seconds within which a KiB for each of them has to come."""
_HEX = frozenset("0123456789abcdef")


class Asked(TypedDict, total=False):
    """What a request may be besides its URL; see `Descriptor`."""

    query: object
    post: object
    json: object
    multipart: object
    headers: object
    timeout: float | None
    connecttimeout: float | None
    cainfo: str | Path | None
    proxies: object


class Terms(Asked, total=False):
    """What a download may be told besides.

    - `newer_than`, `older_than`: only a version of such a date counts as here.
    - `refresh`: 'never', 'check' or 'always'; see `Refresh`.
    - `retries`: how often it is tried at most, all URLs each time. What a server refuses is not tried again.
    - `fallback_urls`: where it is to be had too. Credentials for the first URL are not sent to other hosts.
    - `sha256`: what it must be, in hex. `max_size`: bytes it may have.
    - `overwrite`: False leaves a file that is at `dest` as it is, whatever it is.
    - `progress`: None or True for a bar on a terminal, False for none, or a function of bytes here and bytes in all.
    - `ext`, `label`, `filename`: of the item in the cache.
    """

    newer_than: str | datetime | None
    older_than: str | datetime | None
    refresh: Refresh | None
    retries: int | None
    fallback_urls: Iterable[str]
    sha256: str | None
    max_size: int | None
    overwrite: bool
    progress: Wish
    ext: str | None
    label: str | None
    filename: str | None


@dataclass(frozen=True, slots=True)
class Options:
    """What holds for all downloads of a manager, unless one says otherwise."""

    path: str | Path | None = None
    pkg: str | None = None
    backend: str = "urllib3"
    timeout: float = 30.0
    connecttimeout: float = 10.0
    cainfo: str | Path | None = None
    proxies: object = None
    headers: object = None
    user_agent: str | None = None
    retries: int = 3
    refresh: Refresh = "never"
    max_size: int | None = None
    progress: Wish = None

    @property
    def reach(self) -> Reach:
        """How servers are reached."""
        silence = seconds_of(self.timeout, "timeout")
        limits = Timeouts(seconds_of(self.connecttimeout, "connecttimeout"), silence, silence, crawl=max(_CRAWL, silence))
        # Through a description, which knows how these are written.
        given = {"cainfo": self.cainfo, "proxies": self.proxies}
        return Descriptor("http://any.example/", **given).reach(Reach(limits))  # type: ignore[arg-type]


KNOWN = tuple(one.name for one in fields(Options))
OF_TERMS = (*Asked.__annotations__, *Terms.__annotations__)


def options_of(config: Mapping[str, object] | str | os.PathLike[str] | None, given: Mapping[str, object]) -> Options:
    """The options in a mapping or a file, and over them those given. Neither is changed. Raises ConfigError."""
    found = dict(config) if isinstance(config, Mapping) else {} if config is None else _table(config)
    found |= {name: value for name, value in given.items() if value is not None}
    for name in found:
        refuse_unknown(name, KNOWN, "option")
    options = Options(**found)  # type: ignore[arg-type]
    try:
        check_backend(options.backend)
        options.reach  # noqa: B018 - looked at
        refresh_of(options.refresh)
        whole_number("retries", options.retries)
        if options.max_size is not None:
            whole_number("max_size", options.max_size)
        headers_of(options.headers)
        headers_of({"User-Agent": options.user_agent or ""})
    except ArgumentError as error:
        raise ConfigError([str(error)]) from None
    return options


def _table(path: str | os.PathLike[str]) -> dict[str, object]:
    try:
        return load_table(os.fspath(path))
    except ArgumentError as error:
        raise ConfigError([str(error)]) from None


def refuse_unknown(name: str, known: Iterable[str], what: str) -> None:
    """Raise ConfigError for a name that is not among those known."""
    several = tuple(dict.fromkeys(known))
    if name not in several:
        near = get_close_matches(name, several, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(several)}"
        raise ConfigError([f"{name!r} is no {what} of downloads; {hint}"])


def refresh_of(value: object) -> Refresh:
    """One of the three words. Raises ArgumentError."""
    if value not in REFRESH:
        raise ArgumentError(f"refresh={value!r} is none of {', '.join(REFRESH)}")
    return value  # type: ignore[return-value]


def whole_number(what: str, value: object) -> int:
    """A number from 1 on. Raises ArgumentError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ArgumentError(f"{what}={value!r} is not a whole number from 1 on")
    return value


def digest_of(value: object) -> str | None:
    """A SHA-256 in lower-case hex, or None. Raises ArgumentError."""
    if value is None:
        return None
    text = value.lower() if isinstance(value, str) else ""
    if len(text) != 64 or not _HEX.issuperset(text):
        raise ArgumentError(f"sha256={value!r} is not a SHA-256 in hex, of 64 digits")
    return text


@dataclass(frozen=True, slots=True)
class Order:
    """One download, in full."""

    descriptor: Descriptor
    mirrors: tuple[Descriptor, ...]
    refresh: Refresh
    retries: int
    sha256: str | None = None
    max_size: int | None = None
    newer_than: str | datetime | None = None
    older_than: str | datetime | None = None
    overwrite: bool = True
    progress: Wish = None
    ext: str | None = None
    label: str | None = None
    filename: str | None = None
    check: Callable[[bytes], str | None] | None = field(default=None, compare=False)

    @property
    def url(self) -> str:
        """What it is called by."""
        return self.descriptor.url

    @property
    def urls(self) -> tuple[str, ...]:
        """Where it may be had, each once."""
        return tuple(dict.fromkeys((self.url, *(mirror.url for mirror in self.mirrors))))


def order_of(url: str | Descriptor, terms: Mapping[str, Any], options: Options) -> Order:
    """A download as it is asked for. Raises ArgumentError and ConfigError."""
    for name in terms:
        refuse_unknown(name, OF_TERMS, "argument")
    asked = {name: value for name, value in terms.items() if name in Asked.__annotations__ and value is not None}
    fallback = terms.get("fallback_urls") or ()
    if isinstance(fallback, str):
        raise ArgumentError(f"fallback_urls is a list of URLs: write [{fallback!r}]")
    descriptor = _described(url, asked, options)
    query = descriptor.url[len(descriptor.baseurl) :]
    mirrors = tuple(Descriptor(one + query if isinstance(one, str) and "?" not in one else one) for one in fallback)
    most = terms.get("max_size", options.max_size)
    overwrite = terms.get("overwrite", True)
    if not isinstance(overwrite, bool):
        raise ArgumentError(f"overwrite={overwrite!r} is neither True nor False")
    return Order(
        descriptor,
        mirrors,
        refresh_of(terms.get("refresh") or options.refresh),
        whole_number("retries", options.retries if terms.get("retries") is None else terms["retries"]),
        digest_of(terms.get("sha256")),
        None if most is None else whole_number("max_size", most),
        terms.get("newer_than"),
        terms.get("older_than"),
        overwrite,
        terms.get("progress") if terms.get("progress") is not None else options.progress,
        terms.get("ext"),
        terms.get("label"),
        terms.get("filename"),
    )


def _described(url: str | Descriptor, asked: dict[str, Any], options: Options) -> Descriptor:
    if isinstance(url, Descriptor):
        if asked:
            raise ArgumentError(f"{next(iter(asked))} is given beside a Descriptor: say it in that")
        return url
    if options.headers is not None:
        usual = Descriptor(str(url), headers=options.headers).headers
        own = Descriptor(str(url), headers=asked.get("headers")).headers
        named = {name.lower() for name, _ in own}
        asked["headers"] = (*(pair for pair in usual if pair[0].lower() not in named), *own)
    return Descriptor(url, **asked)
