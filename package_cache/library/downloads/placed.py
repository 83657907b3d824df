"""Downloads to a path of the caller's. With a cache, it is recorded which download a file is."""

import hashlib
import os
from contextlib import closing
from pathlib import Path
from typing import Any

from package_cache.errors import DownloadError, StoreError
from package_cache.library.core import Core, now
from package_cache.library.downloads.cached import CachedDownloads
from package_cache.library.downloads.results import Result
from package_cache.library.downloads.transfers import Download, InThread, into_file
from package_cache.model import Representation, Status
from package_cache.rules.library.attributes import load, moment
from package_cache.rules.library.searching import criteria
from package_cache.storage.items.rows import ItemRow
from package_cache.storage.items.table import New
from package_cache.storage.parts.part import Draft

_BLOCK = 1 << 20


class PlacedDownloads:
    """Downloads to paths; `core` and `cached` are of the cache, if there is one. Safe for any number of threads."""

    def __init__(self, core: Core | None, cached: CachedDownloads | None, in_thread: InThread) -> None:
        self._core = core
        self._in_thread = in_thread
        self._cached = cached

    def fetch(self, download: Download, target: Path) -> Result:
        """A file at `target`, put there in one step if it is not there yet. Raises DownloadError and StoreError."""
        placed = download.item_at(target)
        found = self._found(download, placed, target)
        if isinstance(found, Result):
            return found
        with self._in_thread.downloads(download, target), closing(Draft(target, download.item.key[:16])) as draft:
            # Another download to the same path may have ended since that look, or while it was waited for.
            found = self._found(download, placed, target)
            if isinstance(found, Result):
                return found
            return self._download(download, placed, target, draft, found)

    def _found(self, download: Download, placed: New, target: Path) -> Result | ItemRow | None:
        """The result, if no server is to be asked; else the record of the file that is there."""
        if not download.options.overwrite and os.path.lexists(target):
            return download.result("kept", "something is there, and overwrite=False", {}, str(target))
        record = self._record(placed)
        attrs = load(record.details.attrs) if record is not None else {}
        there = record is not None and _is_at(target, attrs)
        if download.options.refresh == "never":
            if record is not None and there and self._is_wanted(record, download, target):
                return download.result("hit", "the file is this download", attrs, str(target))
            copied = self._copy(download, target)
            if copied is not None:
                self._note(placed, target, copied)
                reason = "it is in the cache, and was copied from there"
                return download.result("hit", reason, copied, str(target))
        return record if there else None

    def _download(self, download: Download, placed: New, target: Path, draft: Draft, record: ItemRow | None) -> Result:
        attrs: dict[str, Any] = load(record.details.attrs) if record is not None else {}
        may_be_confirmed = download.options.refresh == "check" and bool(attrs) and _has_digest(target, attrs, download)
        held = _head_of(attrs) if may_be_confirmed else None
        started, path = now() / 1e6, str(target)
        try:
            got = into_file(download, draft, held)
        except DownloadError as error:
            if record is None or not may_be_confirmed or not error.retryable:
                raise
            return download.result("stale", str(error), attrs, path)
        if got is None:
            self._note(placed, target, attrs)
            return download.result("confirmed", "the server says that it has not changed", attrs, path)
        attrs = download.attributes(*got, started)
        self._note(placed, target, attrs)
        reason = "the server has another version" if held else "the file was not there"
        return download.result("downloaded", reason, attrs, path)

    def _record(self, placed: New) -> ItemRow | None:
        if self._core is None:
            return None
        return self._core.items.best(criteria(key=placed.key, status=Status.READY))

    def _is_wanted(self, record: ItemRow, download: Download, target: Path) -> bool:
        if not _has_digest(target, load(record.details.attrs), download):
            return False
        assert self._core is not None
        options = download.options
        dated = criteria(ids=record.id, newer_than=options.newer_than, older_than=options.older_than)
        return bool(self._core.items.find(dated))

    def _note(self, placed: New, target: Path, attrs: dict[str, Any]) -> None:
        """Record which download the file is."""
        if self._core is None:
            return
        try:
            changed = target.stat().st_mtime_ns
        except OSError as error:
            raise StoreError(f"cannot look at {target}: {error.strerror}") from error
        record = self._record(placed) or self._core.create(placed)
        self._core.update([record], {"attrs": {**attrs, "mtime_ns": changed}, "date": moment(now())})

    def _copy(self, download: Download, target: Path) -> dict[str, Any] | None:
        """Copy the file from the cache, if that has it; what is recorded of it."""
        row = self._cached.find(download) if self._cached is not None else None
        if row is None or row.digest is None or row.size is None:
            return None
        assert self._core is not None
        with self._core.stores.blobs.open(row.digest, row.size) as source:
            draft = Draft(target, f"{download.item.key[:16]}-copy")  # beside one that may be locked by this call
            try:
                draft.reset()
                draft.begin(Representation((), row.size, download.url, now() / 1e6))
                assert draft.part is not None
                while block := source.read(_BLOCK):
                    draft.part.put(draft.part.size, block)
                draft.finish()
            finally:
                draft.drop()
        return load(row.details.attrs)


def _has_digest(target: Path, attrs: dict[str, Any], download: Download) -> bool:
    """Whether the file that is recorded, and is there, has the bytes that are wanted."""
    try:
        return download.options.wants(attrs.get("sha256"), lambda: target.open("rb"))
    except OSError:
        return False


def _is_at(target: Path, attrs: dict[str, Any]) -> bool:
    """Whether the file at a path is still the one that was put there."""
    try:
        with target.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_size != attrs.get("size"):
                return False
            if status.st_mtime_ns == attrs.get("mtime_ns"):
                return True
            return hashlib.file_digest(file, "sha256").hexdigest() == attrs.get("sha256")
    except OSError:
        return False


def _head_of(attrs: dict[str, Any]) -> Representation | None:
    """The head that a server may confirm, as far as it was recorded."""
    named = (("ETag", attrs.get("etag")), ("Last-Modified", attrs.get("last_modified")))
    fields = tuple((name, str(value)) for name, value in named if value is not None)
    size = attrs.get("size")
    return Representation(fields, size if isinstance(size, int) else None, str(attrs.get("url")), 0.0) if fields else None
