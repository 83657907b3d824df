"""The options of downloads: those of a manager, and over them those of one download; checked once, in one frozen value.

What is requested is not decided here but by a `Descriptor`; nothing here sends anything.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypedDict

from package_cache.config import Timeouts
from package_cache.errors import ArgumentError, ConfigError
from package_cache.library.downloads.descriptors import Descriptor, headers_of, load_table, seconds_of
from package_cache.library.downloads.results import OnProgress
from package_cache.rules.http.digests import Digest, parse_digest
from package_cache.storage.blobs import hash_file
from package_cache.upstream.calls import check_backend
from package_cache.upstream.reach import Reach

Refresh = Literal["never", "check", "always"]
"""Whether a server is asked though the file is in the cache: never; whether it has another one; for the file itself."""
REFRESH = ("never", "check", "always")
_CRAWL = 30.0
"""Seconds within which as many KiB have to arrive."""
_HEX = frozenset("0123456789abcdef")


class RequestOptions(TypedDict, total=False):
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


class DownloadOptions(RequestOptions, total=False):
    """The options of one download.

    - `newer_than`, `older_than`: only a version with such a date counts as found in the cache.
    - `refresh`: 'never', 'check' or 'always'; see `Refresh`.
    - `retries`: how many times all URLs are tried at most. What a server refuses is not tried again.
    - `fallback_urls`: other URLs of the same file. Credentials for the first URL are not sent to other hosts.
    - `hash`: the digest that the file must have: `sha256:HEX`, md5, sha1, sha512 or blake2b in its place, the digits alone,
      or `sha256-BASE64`. `sha256`: the same, in hex. `max_size`: how many bytes it may have.
    - `overwrite`: False keeps a file that is at `dest`, whatever it is.
    - `progress`: None or True for a bar on a terminal, False for none, or a function of bytes here and bytes in all.
    - `ext`, `label`, `filename`: of the item in the cache.
    """

    newer_than: str | datetime | None
    older_than: str | datetime | None
    refresh: Refresh | None
    retries: int | None
    fallback_urls: Iterable[str]
    hash: str | None
    sha256: str | None
    max_size: int | None
    overwrite: bool
    progress: OnProgress
    ext: str | None
    label: str | None
    filename: str | None


@dataclass(frozen=True, slots=True)
class Options:
    """All options. Those up to `progress` may be given to a manager, those from `retries` on to a download."""

    path: str | Path | None = None
    pkg: str | None = None
    backend: str = "builtin"
    timeout: float = 30.0
    connecttimeout: float = 10.0
    cainfo: str | Path | None = None
    proxies: object = None
    headers: object = None
    user_agent: str | None = None
    retries: int = 3
    refresh: Refresh = "never"
    max_size: int | None = None
    progress: OnProgress = None
    newer_than: str | datetime | None = None
    older_than: str | datetime | None = None
    fallback_urls: Iterable[str] = ()
    hash: str | None = None
    sha256: str | None = None
    overwrite: bool = True
    ext: str | None = None
    label: str | None = None
    filename: str | None = None
    check: Callable[[bytes], str | None] | None = None
    """Returns what is wrong with a whole body, None if nothing is."""

    @property
    def digest(self) -> Digest | None:
        """The digest that the file must have."""
        return None if self.hash is None else parse_digest(self.hash)

    def wants(self, sha256: str | None, open_: Callable[[], BinaryIO]) -> bool:
        """Whether bytes of that SHA-256, which are opened to be read if need be, are those that are wanted."""
        digest = self.digest
        if digest is None or digest.algorithm == "sha256":
            return digest is None or digest.hex == sha256
        with open_() as file:
            return hash_file(file.fileno(), os.fstat(file.fileno()).st_size, digest.algorithm).digest() == digest.value

    @property
    def reach(self) -> Reach:
        """How servers are reached."""
        silence = seconds_of(self.timeout, "timeout")
        limits = Timeouts(seconds_of(self.connecttimeout, "connecttimeout"), silence, silence, crawl=max(_CRAWL, silence))
        # Through a description, which knows how these are written.
        given = {"cainfo": self.cainfo, "proxies": self.proxies}
        return Descriptor("http://any.example/", **given).reach(Reach(limits))  # type: ignore[arg-type]

    def described(self, url: str | Descriptor, asked: Mapping[str, Any]) -> Descriptor:
        """The request for a URL. Raises ArgumentError."""
        if isinstance(url, Descriptor):
            if asked:
                raise ArgumentError(f"{next(iter(asked))} is given beside a Descriptor: say it in that")
            return url
        return Descriptor(url, **self.with_headers(asked, str(url)))

    def with_headers(self, asked: Mapping[str, Any], url: str) -> Mapping[str, Any]:
        """The options of a request, with the header fields that hold for all; credentials in its URL come before those."""
        if self.headers is None:
            return asked
        usual = Descriptor(url, headers=self.headers).headers
        own = Descriptor(url, headers=asked.get("headers")).headers
        named = {name.lower() for name, _ in own}
        return {**asked, "headers": (*(pair for pair in usual if pair[0].lower() not in named), *own)}

    def mirrors(self, descriptor: Descriptor) -> tuple[Descriptor, ...]:
        """The same request at the other URLs; those without a query have that of the first. Raises ArgumentError."""
        if isinstance(self.fallback_urls, str):
            raise ArgumentError(f"fallback_urls is a list of URLs: write [{self.fallback_urls!r}]")
        query = descriptor.url[len(descriptor.baseurl) :]
        return tuple(Descriptor(f"{one}{query}" if "?" not in str(one) else one) for one in self.fallback_urls)


_NAMES = tuple(one.name for one in fields(Options))
OF_MANAGERS = _NAMES[: _NAMES.index("newer_than")]
OF_REQUESTS = tuple(RequestOptions.__annotations__)
OF_DOWNLOADS = tuple(name for name in DownloadOptions.__annotations__ if name not in OF_REQUESTS)


def manager_options(config: Mapping[str, object] | str | os.PathLike[str] | None, given: Mapping[str, object]) -> Options:
    """The options in a mapping or a file, and over them those given. Neither is changed. Raises ConfigError."""
    try:
        found = dict(config) if isinstance(config, Mapping) else {} if config is None else load_table(os.fspath(config))
        found |= {name: value for name, value in given.items() if value is not None}
        refuse_unknown(found, OF_MANAGERS, "option")
        options = _checked(Options(**found))  # type: ignore[arg-type]
        check_backend(options.backend)
        options.reach  # noqa: B018 - looked at
        headers_of(options.headers)
        headers_of({"User-Agent": options.user_agent or ""})
    except ArgumentError as error:
        raise ConfigError([str(error)]) from None
    return options


def download_options(given: Mapping[str, Any], usual: Options) -> tuple[Options, dict[str, Any]]:
    """The options of one download over the `usual` ones, and those of its request. Raises ArgumentError and ConfigError."""
    refuse_unknown(given, (*OF_REQUESTS, *OF_DOWNLOADS), "argument")
    asked = {name: value for name, value in given.items() if name in OF_REQUESTS and value is not None}
    # None is a value of these two: there is no bound, and no such answer.
    own = {n: v for n, v in given.items() if n in OF_DOWNLOADS and (v is not None or n in ("max_size", "overwrite"))}
    return _checked(replace(usual, **own)), asked


def refuse_unknown(names: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raise ConfigError for a name that is not among those known."""
    several = tuple(dict.fromkeys(known))
    for name in names:
        if name not in several:
            near = get_close_matches(name, several, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(several)}"
            raise ConfigError([f"{name!r} is no {what} of downloads; {hint}"])


def _checked(options: Options) -> Options:
    """The options in normal form. Raises ArgumentError."""
    if options.refresh not in REFRESH:
        raise ArgumentError(f"refresh={options.refresh!r} is none of {', '.join(REFRESH)}")
    _require_whole_number("retries", options.retries)
    if options.max_size is not None:
        _require_whole_number("max_size", options.max_size)
    if type(options.overwrite) is not bool:
        raise ArgumentError(f"overwrite={options.overwrite!r} is neither True nor False")
    return replace(options, hash=_digest_in(options))


def _digest_in(options: Options) -> str | None:
    """The digest that is wanted, in normal form. Raises ArgumentError."""
    digest = None
    if options.sha256 is not None:
        digits = str(options.sha256).lower()
        if len(digits) != 64 or not _HEX.issuperset(digits):
            raise ArgumentError(f"sha256={options.sha256!r} is not a SHA-256 in hex, of 64 digits")
        digest = f"sha256:{digits}"
    if options.hash is not None:
        try:
            given = str(parse_digest(options.hash))
        except (ValueError, AttributeError) as error:
            raise ArgumentError(f"hash={options.hash!r}: {error}") from None
        if digest not in (None, given):
            raise ArgumentError(f"hash={options.hash!r} and sha256={options.sha256!r} are not the same: give one of them")
        digest = given
    return digest


def _require_whole_number(what: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ArgumentError(f"{what}={value!r} is not a whole number above 0")
