"""The download manager: files from servers into the cache, to a path, or into memory."""

import io
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, Unpack, overload

from package_cache.errors import ArgumentError, DownloadError
from package_cache.library.cache import Cache
from package_cache.library.core import directory
from package_cache.library.downloads.cached import CachedDownloads
from package_cache.library.downloads.descriptors import Descriptor
from package_cache.library.downloads.documents import JsonDocument, JsonDocuments, complaint
from package_cache.library.downloads.options import (
    DownloadOptions,
    Options,
    Refresh,
    download_options,
    manager_options,
)
from package_cache.library.downloads.placed import PlacedDownloads
from package_cache.library.downloads.results import OnProgress, Result
from package_cache.library.downloads.transfers import Download, InThread, into_memory
from package_cache.library.items import CacheItem
from package_cache.rules.library.attributes import load
from package_cache.rules.repositories.documents import INTERVAL
from package_cache.upstream.calls import Backend, backend_of
from package_cache.upstream.reach import Reach, software

Destination = str | os.PathLike[str] | bool | None
"""A path; None or True for the cache, and memory if there is none; False for memory."""


def retrieve(
    url: str,
    hash: str | None = None,  # noqa: A002 - what everybody calls it
    *,
    path: str | os.PathLike[str] | None = None,
    pkg: str | None = None,
    refresh: Refresh | None = None,
    fallback_urls: Iterable[str] = (),
    headers: object = None,
    filename: str | None = None,
    progress: OnProgress = None,
) -> str:
    """The path of a file in a cache: downloaded the first time, found there from then on.

    `hash` is the digest that it must have: `sha256:HEX`, md5, sha1, sha512 or blake2b in its place, the digits alone, or
    `sha256-BASE64`. For `refresh`, `fallback_urls`, `headers`, `filename` and `progress` see `DownloadManager.download`.
    The cache is in the directory `path`, else that of the program `pkg` among the user's caches, else package-cache's own.

    Raises HashMismatch where the bytes are others, DownloadError if no server delivers, ArgumentError for what cannot be
    asked for, and StoreError where the disk refuses.
    """
    with DownloadManager(directory(path, pkg)) as manager:
        found = manager.fetch(
            url,
            hash=hash,
            refresh=refresh,
            fallback_urls=fallback_urls,
            headers=headers,
            filename=filename,
            progress=progress,
        )
    assert found.path is not None  # as it is in a cache
    return found.path


class DownloadManager:
    """Downloads. Safe for any number of threads and processes, and after a fork; a context manager.

    The cache is in the directory `path`, else that of the program `pkg` among the user's caches; with neither there is
    none. `backend` is 'builtin', 'requests' or 'curl'. `config` is a mapping with any of the options, or the path of a
    JSON, TOML or YAML file with one; what is given beside it comes first.

    `timeout`: seconds that a server may be silent. `connecttimeout`: seconds for a connection. `cainfo`, `proxies` and
    `headers`: see `Descriptor`. `retries`, `refresh`, `max_size` and `progress`: see `download`.
    Raises ConfigError for options that cannot be used.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        pkg: str | None = None,
        backend: str | None = None,
        config: Mapping[str, object] | str | os.PathLike[str] | None = None,
        *,
        timeout: float | None = None,
        connecttimeout: float | None = None,
        cainfo: str | os.PathLike[str] | None = None,
        proxies: object = None,
        headers: object = None,
        user_agent: str | None = None,
        retries: int | None = None,
        refresh: Refresh | None = None,
        max_size: int | None = None,
        progress: OnProgress = None,
    ) -> None:
        given = {
            "path": path,
            "pkg": pkg,
            "backend": backend,
            "timeout": timeout,
            "connecttimeout": connecttimeout,
            "cainfo": cainfo,
            "proxies": proxies,
            "headers": headers,
            "user_agent": user_agent,
            "retries": retries,
            "refresh": refresh,
            "max_size": max_size,
            "progress": progress,
        }
        self.options: Options = manager_options(config, given)
        has_cache = self.options.path is not None or self.options.pkg is not None
        self.cache: Cache | None = Cache(self.options.path, self.options.pkg) if has_cache else None
        self._reach = self.options.reach
        self._agent = self.options.user_agent or software()
        self._begin()

    def _begin(self) -> None:
        """Have no connections and no running downloads."""
        self._guard = threading.Lock()
        self._owner = os.getpid()
        self._backends: dict[Reach, Backend] = {}
        self._cached: CachedDownloads | None = None
        self._in_thread = InThread()

    def __getstate__(self) -> dict[str, object]:
        """What passes to another process: the options and the cache, not the connections."""
        own = ("_guard", "_owner", "_backends", "_cached", "_in_thread")
        return {name: value for name, value in vars(self).items() if name not in own}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close idle connections and the cache."""
        with self._guard:
            backends, self._backends = self._backends, {}
        for backend in backends.values():
            backend.close()
        if self.cache is not None:
            self.cache.close()

    @overload
    def download(
        self,
        url: str | Descriptor,
        dest: Literal[False],
        *,
        check: Literal[True] = True,
        **options: Unpack[DownloadOptions],
    ) -> io.BytesIO: ...

    @overload
    def download(
        self,
        url: str | Descriptor,
        dest: str | os.PathLike[str],
        *,
        check: Literal[True] = True,
        **options: Unpack[DownloadOptions],
    ) -> str: ...

    @overload
    def download(
        self,
        url: str | Descriptor,
        dest: Destination = None,
        *,
        check: Literal[True] = True,
        **options: Unpack[DownloadOptions],
    ) -> str | io.BytesIO: ...

    @overload
    def download(
        self, url: str | Descriptor, dest: Destination = None, *, check: bool, **options: Unpack[DownloadOptions]
    ) -> str | io.BytesIO | None: ...

    def download(
        self, url: str | Descriptor, dest: Destination = None, *, check: bool = True, **options: Unpack[DownloadOptions]
    ) -> str | io.BytesIO | None:
        """Download a URL; its path, or a buffer with its bytes. See `fetch`, which tells more.

        None only if `check` is False and it came to nothing.
        """
        result = self.fetch(url, dest, check=check, **options)
        return result.path if result.buffer is None else result.buffer

    def fetch(
        self, url: str | Descriptor, dest: Destination = None, *, check: bool = True, **options: Unpack[DownloadOptions]
    ) -> Result:
        """Download a URL, or find it where it was downloaded before.

        `dest` is a path, whose file is replaced in one step; None or True for the cache, and memory if there is none; False
        for memory. `url` may be a `Descriptor`; else `query`, `post`, `json`, `multipart`, `headers`, `timeout`,
        `connecttimeout`, `cainfo` and `proxies` say what is requested, as there. For the other options see
        `DownloadOptions`.

        Raises DownloadError if no server delivers, unless `check` is False: then the result says so. Raises ArgumentError
        for what cannot be asked for, and StoreError where the disk refuses.
        """
        download = self._prepared(url, options)
        try:
            with download.progress:
                return self._fetch(download, dest)
        except DownloadError as error:
            if check:
                raise
            attempts = tuple(download.attempts)
            return Result(download.url, "failed", str(error), status=error.status, attempts=attempts, error=error)

    def get_json(
        self, url: str | Descriptor, *, min_interval: float = INTERVAL, **options: Unpack[DownloadOptions]
    ) -> JsonDocument:
        """A JSON document that says in `metadata.timestamp` and `metadata.ttl` for how long it is good.

        While it is, no server is asked; afterwards whether there is another one, at most once in `min_interval` seconds.
        While no server has one that is whole and valid, the old one stays, and is `stale`. Plain, gzip or bzip2.
        Raises DocumentError for one that cannot be used, DownloadError if there is none; both only without an old one.
        """
        if self.cache is None:
            raise ArgumentError("documents are kept in a cache, and this manager has none: give it path= or pkg=")
        download, cached = self._prepared(url, options, complaint), self._downloads()
        assert cached is not None
        with download.progress:
            return JsonDocuments(self.cache._core, cached).get(download, min_interval)

    def _prepared(
        self, url: str | Descriptor, given: Mapping[str, Any], check: Callable[[bytes], str | None] | None = None
    ) -> Download:
        options, asked = download_options(given, self.options)
        descriptor = options.described(url, asked)
        reach = descriptor.reach(self._reach)
        backend = partial(self._backend, reach)
        return Download(descriptor, replace(options, check=check), backend, self._agent, reach.timeouts.crawl)

    def _fetch(self, download: Download, dest: Destination) -> Result:
        cached = self._downloads()
        if dest is False or (dest in (None, True) and cached is None):
            return into_memory(download)
        core = self.cache._core if self.cache is not None else None
        if dest is None or dest is True:
            assert core is not None
            assert cached is not None
            found = cached.fetch(download)
            item = CacheItem(core, found.row)
            item.accessed()
            result = download.result(found.verdict, found.reason, load(found.row.details.attrs), item.path)
            return replace(result, item=item, filename=item.filename)
        if not isinstance(dest, str | os.PathLike):
            raise ArgumentError(f"dest={dest!r} is neither a path, nor True, False or None")
        target = Path(os.path.abspath(os.path.expanduser(dest)))  # noqa: PTH100, PTH111 - links in it stay as they are
        return PlacedDownloads(core, cached, self._in_thread).fetch(download, target)

    def _backend(self, reach: Reach) -> Backend:
        with self._own():
            if reach not in self._backends:
                self._backends[reach] = backend_of(self.options.backend)(reach)
            return self._backends[reach]

    def _downloads(self) -> CachedDownloads | None:
        if self.cache is None:
            return None
        with self._own():
            if self._cached is None:
                self._cached = CachedDownloads(self.cache._core, self._in_thread)
            return self._cached

    def _own(self) -> threading.Lock:
        """The guard. A forked child begins anew: connections and running downloads are its parent's."""
        if self._owner != os.getpid():
            self._begin()
        return self._guard
