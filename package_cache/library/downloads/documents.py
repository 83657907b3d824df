"""JSON documents with a time to live of their own, kept in the cache: see `rules.repositories.documents`.

The old copy stays until a new one is complete and valid, and is used while the publisher is down. However long ago it
expired, the publisher is asked only once in an interval, by all processes together.
"""

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from package_cache.errors import DocumentError, DownloadError, StoreError
from package_cache.library.core import Core
from package_cache.library.downloads.cached import CachedDownloads
from package_cache.library.downloads.transfers import Download
from package_cache.rules.library.attributes import load, moment
from package_cache.rules.repositories.documents import INTERVAL, TimedDocument, parse
from package_cache.storage.items.rows import ItemRow

FAILED_CHECK = "check_failed"
"""The attribute of an item that has the time of the last request to its publisher, if that failed."""
_LAST = 253_402_300_799.0
"""The last second that a datetime can tell."""


@dataclass(frozen=True, slots=True)
class JsonDocument:
    """What `DownloadManager.get_json` returns.

    `content` is the whole document. `fresh_until` is when its publisher will be asked again, `stale` says that it could not
    be asked now though that was due; `reason` says what came of it.
    """

    content: dict[str, Any]
    fresh_until: datetime
    stale: bool
    reason: str
    path: str

    @property
    def data(self) -> Any:
        """Its member `data`. Raises DocumentError if it has none."""
        if "data" not in self.content:
            raise DocumentError(f"the document {self.path} has no member data; it has {', '.join(self.content)}", url="")
        return self.content["data"]

    @property
    def metadata(self) -> dict[str, Any]:
        """Its member `metadata`."""
        metadata: dict[str, Any] = self.content["metadata"]
        return metadata


def complaint(body: bytes) -> str | None:
    """What is wrong with a document, if anything."""
    try:
        parse(body)
    except ValueError as error:
        return f"sent a document that cannot be used: {error}"
    return None


class JsonDocuments:
    """The documents of one cache. Safe for any number of threads and processes."""

    def __init__(self, core: Core, cached: CachedDownloads) -> None:
        self._core = core
        self._cached = cached

    def get(self, download: Download, interval: float = INTERVAL) -> JsonDocument:
        """A document, from the cache while it is fresh. Raises DownloadError if there is none, and StoreError."""
        since = time.time()
        row = self._cached.find(download)
        known = self._known(row)
        refresh = download.options.refresh
        if row is not None and known is not None and refresh == "never":
            if known.is_fresh(since, _checked(row), interval):
                late = since > known.timestamp + known.ttl
                return self._made(row, known, interval, "it was asked for a moment ago" if late else "it is fresh")
            refresh = "check"
        elif row is not None and known is None:
            refresh = "always"
        try:
            found = self._cached.fetch(download, refresh, since)
        except DownloadError as error:
            if row is None or known is None:
                raise _document_error(error) from error
            return self._stale(row, known, interval, str(error))
        if found.verdict == "stale" and known is not None:
            return self._stale(found.row, known, interval, found.reason)
        self._note(found.row, None)
        return self._made(self._core.again(found.row), self._parse(found.row), interval, found.reason)

    def _known(self, row: ItemRow | None) -> TimedDocument | None:
        """The document that is here, if it is one."""
        if row is None:
            return None
        try:
            return self._parse(row)
        except DocumentError:
            return None

    def _parse(self, row: ItemRow) -> TimedDocument:
        if row.digest is None or row.size is None:
            raise StoreError(f"{row.details.uri} has no bytes")
        with self._core.stores.blobs.open(row.digest, row.size) as file:
            try:
                return parse(file.readall())
            except ValueError as error:
                raise DocumentError(f"{row.details.uri}: {error}", url=row.details.uri) from None

    def _stale(self, row: ItemRow, document: TimedDocument, interval: float, reason: str) -> JsonDocument:
        """The copy in the cache; its publisher is not asked again for a while."""
        self._note(row, reason)
        return self._made(self._core.again(row), document, interval, reason)

    def _note(self, row: ItemRow, failed: str | None) -> None:
        """Record for all processes that the publisher could not be asked, and why; or with None that it could be again."""
        if failed is None and FAILED_CHECK not in load(row.details.attrs):
            return
        when = None if failed is None else moment(int(time.time() * 1e6))
        self._core.update([row], {"attrs": {FAILED_CHECK: when, "check_error": failed}})

    def _made(self, row: ItemRow, document: TimedDocument, interval: float, reason: str) -> JsonDocument:
        until = min(document.fresh_until(_checked(row), interval), _LAST)
        late = time.time() > document.timestamp + document.ttl
        stale = late and _failed(row) is not None
        return JsonDocument(document.content, moment(int(until * 1e6)), stale, reason, self._core.files.path(row))


def _failed(row: ItemRow) -> float | None:
    """When the publisher could not be asked, if that was the last time, in seconds of the epoch."""
    found = load(row.details.attrs).get(FAILED_CHECK)
    return found.timestamp() if isinstance(found, datetime) else None


def _checked(row: ItemRow) -> float:
    """When the publisher was asked last, in seconds of the epoch."""
    return max(row.details.date / 1e6, _failed(row) or 0.0)


def _document_error(error: DownloadError) -> DownloadError:
    """The error of a document: DocumentError if it was sent but cannot be used."""
    if "document that cannot be used" not in str(error):
        return error
    return DocumentError(str(error), url=error.url, status=200, retryable=error.retryable)
