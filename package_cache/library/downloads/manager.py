"""The download manager: files from servers into the cache, to a path, or into memory."""

import io
import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

from package_cache.errors import ArgumentError, DownloadError
from package_cache.library.cache import Cache
from package_cache.library.downloads.cached import CachedDownloads
from package_cache.library.downloads.descriptors import Descriptor
from package_cache.library.downloads.documents import Documents, JsonDocument, complaint
from package_cache.library.downloads.errands import attributes_of
from package_cache.library.downloads.offers import Limits, Offer
from package_cache.library.downloads.options import Options, Order, Refresh, Terms, options_of, order_of
from package_cache.library.downloads.placed import PlacedDownloads, headers_in
from package_cache.library.downloads.progress import Progress, Wish
from package_cache.library.downloads.results import Result, Verdict
from package_cache.library.downloads.transfers import into_memory
from package_cache.library.forms import new_item
from package_cache.library.items import CacheItem
from package_cache.library.opening import now
from package_cache.model import Status
from package_cache.rules.library.attributes import load
from package_cache.rules.library.naming import filename_of
from package_cache.rules.repositories.documents import INTERVAL
from package_cache.upstream.agent import software
from package_cache.upstream.backends import backend_of
from package_cache.upstream.calls import Backend, Reach

Destination = str | os.PathLike[str] | bool | None
"""A path; None or True for the cache, and memory if there is none; False for memory."""


class DownloadManager:
    """Downloads. Safe for any number of threads and processes, and after a fork; a context manager.

    The cache is in the directory `path`, else that of the program `pkg` among the user's caches; with neither there is
    none. `backend` is 'urllib3', 'requests' or 'curl'. `config` is a mapping with any of the options, or the path of a
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
        progress: Wish = None,
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
        self.options: Options = options_of(config, given)
        has_cache = self.options.path is not None or self.options.pkg is not None
        self.cache: Cache | None = Cache(self.options.path, self.options.pkg) if has_cache else None
        self._reach = self.options.reach
        self._agent = self.options.user_agent or software()
        self._guard = threading.Lock()
        self._owner = os.getpid()
        self._backends: dict[Reach, Backend] = {}
        self._cached: CachedDownloads | None = None

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

    def download(
        self, url: str | Descriptor, dest: Destination = None, *, check: bool = True, **terms: Unpack[Terms]
    ) -> str | io.BytesIO | None:
        """Download a URL; its path, or a buffer with its bytes. See `fetch`, which tells more.

        None only if `check` is False and it came to nothing.
        """
        result = self.fetch(url, dest, check=check, **terms)
        return result.path if result.buffer is None else result.buffer

    def fetch(
        self, url: str | Descriptor, dest: Destination = None, *, check: bool = True, **terms: Unpack[Terms]
    ) -> Result:
        """Download a URL, or find it where it was downloaded before.

        `dest` is a path, whose file is replaced in one step; None or True for the cache, and memory if there is none; False
        for memory. `url` may be a `Descriptor`; else `query`, `post`, `json`, `multipart`, `headers`, `timeout`,
        `connecttimeout`, `cainfo` and `proxies` say what is requested, as there. The other terms are those of `Terms`.

        Raises DownloadError if no server delivers, unless `check` is False: then the result says so. Raises ArgumentError
        for what cannot be asked for, and StoreError where the disk refuses.
        """
        order = order_of(url, terms, self.options)
        offer = self._offer(order)
        try:
            with Progress(order.progress, filename_of(None, order.url) or order.url) as progress:
                return self._fetch(order, offer, dest, progress)
        except DownloadError as error:
            if check:
                raise
            return Result(order.url, "failed", str(error), status=error.status, attempts=tuple(offer.attempts), error=error)

    def get_json(self, url: str | Descriptor, *, min_interval: float = INTERVAL, **terms: Unpack[Terms]) -> JsonDocument:
        """A JSON document that says in `metadata.timestamp` and `metadata.ttl` for how long it is good.

        While it is, no server is asked; afterwards whether there is another one, at most once in `min_interval` seconds.
        While no server has one that is whole and valid, the old one stays, and is `stale`. Plain, gzip or bzip2.
        Raises DocumentError for one that cannot be used, DownloadError if there is none; both only without an old one.
        """
        if self.cache is None:
            raise ArgumentError("documents are kept in a cache, and this manager has none: give it path= or pkg=")
        order = replace(order_of(url, terms, self.options), check=complaint)
        offer, cached = self._offer(order), self._downloads()
        assert cached is not None
        with Progress(order.progress, order.url) as progress:
            return Documents(self.cache._core, cached).get(_item_of(order), order, offer, progress, min_interval)

    def _fetch(self, order: Order, offer: Offer, dest: Destination, progress: Progress) -> Result:
        if dest is False or (dest in (None, True) and self.cache is None):
            return self._into_memory(order, offer, progress)
        if dest is None or dest is True:
            return self._into_cache(order, offer, progress)
        if not isinstance(dest, str | os.PathLike):
            raise ArgumentError(f"dest={dest!r} is neither a path, nor True, False or None")
        return self._into_file(order, offer, Path(os.path.abspath(os.path.expanduser(dest))), progress)  # noqa: PTH100, PTH111

    def _into_memory(self, order: Order, offer: Offer, progress: Progress) -> Result:
        started = now() / 1e6
        sink = into_memory(offer, order.retries, progress)
        assert sink.head is not None  # of what came whole
        head, digest = replace(sink.head, size=sink.have), sink.digest()
        attrs = attributes_of(order.descriptor, offer, head, digest, started)
        result = _result(order, offer, "downloaded", "it was to be downloaded into memory", attrs)
        return replace(result, buffer=sink.buffer)

    def _into_file(self, order: Order, offer: Offer, target: Path, progress: Progress) -> Result:
        cached = self._downloads()
        placing = PlacedDownloads(self.cache._core if self.cache is not None else None, cached)
        made = placing.fetch(_item_of(order), order, offer, target, progress)
        return replace(_result(order, offer, made.verdict, made.reason, made.attrs), path=made.path)

    def _into_cache(self, order: Order, offer: Offer, progress: Progress) -> Result:
        cached, cache = self._downloads(), self.cache
        assert cached is not None
        assert cache is not None
        found = cached.fetch(_item_of(order), order, offer, progress)
        item = CacheItem(cache._core, found.row)
        item.accessed()
        result = _result(order, offer, found.verdict, found.reason, load(found.row.details.attrs))
        return replace(result, path=item.path, item=item, filename=item.filename)

    def _offer(self, order: Order) -> Offer:
        call = order.descriptor.call(self._agent)
        call = replace(
            call,
            private=(*call.private, *(mirror.private for mirror in order.mirrors)),
            ranges=call.ranges and order.check is None,
        )
        reach = order.descriptor.reach(self._reach)
        limits = Limits(reach.timeouts.crawl, order.max_size, order.sha256, order.check)
        return Offer(partial(self._backend, reach), call, order.urls, limits)

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
                self._cached = CachedDownloads(self.cache._core)
            return self._cached

    def _own(self) -> threading.Lock:
        """The guard. A forked child begins anew: connections and running downloads are its parent's."""
        if self._owner != os.getpid():
            self._guard, self._backends, self._cached, self._owner = threading.Lock(), {}, None, os.getpid()
        return self._guard


def _item_of(order: Order) -> Any:
    descriptor = order.descriptor
    params = {"dl_params": descriptor.identity()}
    return new_item(descriptor.baseurl, params, None, Status.READY, order.ext, order.label, order.filename)


def _result(order: Order, offer: Offer, verdict: Verdict, reason: str, attrs: Mapping[str, Any]) -> Result:
    """A result without its bytes, of what is recorded of a download."""
    headers = headers_in(dict(attrs))
    resolved = attrs.get("resolved_url")
    return Result(
        order.url,
        verdict,
        reason,
        status=attrs.get("http_code"),
        size=attrs.get("size"),
        sha256=attrs.get("sha256"),
        headers=headers,
        filename=order.filename or filename_of(headers.get("content-disposition"), resolved or order.url),
        resolved_url=resolved,
        attempts=tuple(offer.attempts),
    )
