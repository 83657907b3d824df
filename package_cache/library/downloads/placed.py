"""Downloads to a path of the caller's. With a cache, it is remembered which download a file is."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from package_cache.errors import DownloadError, StoreError
from package_cache.library.core import Core
from package_cache.library.downloads.cached import CachedDownloads
from package_cache.library.downloads.errands import attributes_of
from package_cache.library.downloads.headers import Headers
from package_cache.library.downloads.offers import Offer
from package_cache.library.downloads.options import Order
from package_cache.library.downloads.progress import Progress
from package_cache.library.downloads.results import Verdict
from package_cache.library.downloads.transfers import into_file
from package_cache.library.forms import new_item
from package_cache.library.opening import now
from package_cache.model import Representation, Status
from package_cache.rules.library.attributes import load, moment
from package_cache.rules.library.searching import criteria
from package_cache.storage.items.rows import ItemRow
from package_cache.storage.items.table import New
from package_cache.storage.parts.drafts import Draft

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Placed:
    """A file at a path, and how it came there; `attrs` is what is recorded of the download."""

    verdict: Verdict
    reason: str
    path: str
    attrs: dict[str, object]


class PlacedDownloads:
    """Downloads to paths; `core` and `cached` are of the cache, if there is one. Safe for any number of threads."""

    def __init__(self, core: Core | None, cached: CachedDownloads | None) -> None:
        self._core = core
        self._cached = cached

    def fetch(self, new: New, order: Order, offer: Offer, target: Path, progress: Progress) -> Placed:
        """A file at `target`, put there in one step where it is not there yet. Raises DownloadError and StoreError."""
        if not order.overwrite and os.path.lexists(target):
            return Placed("kept", "something is there, and overwrite=False", str(target), {})
        placed = self._item_of(order, target)
        found = self._found(new, placed, order, target)
        if isinstance(found, Placed):
            return found
        draft = Draft(target, new.key[:16])
        try:
            if draft.waited:
                found = self._found(new, placed, order, target)
                if isinstance(found, Placed):
                    return found
            return self._download(placed, order, offer, target, draft, found, progress)
        finally:
            draft.close()

    def _found(self, new: New, placed: New, order: Order, target: Path) -> Placed | ItemRow | None:
        """The file, if no server is to be asked for it; else what is recorded of the one that is there."""
        record = self._record(placed)
        attrs = load(record.details.attrs) if record is not None else {}
        there = record is not None and _is_at(target, attrs)
        if order.refresh == "never":
            if record is not None and there and self._is_wanted(record, order):
                return Placed("hit", "the file is this download", str(target), attrs)
            copied = self._copy(new, order, target)
            if copied is not None:
                return self._noted(placed, copied)
        return record if there else None

    def _download(
        self,
        placed: New,
        order: Order,
        offer: Offer,
        target: Path,
        draft: Draft,
        record: ItemRow | None,
        progress: Progress,
    ) -> Placed:
        attrs = load(record.details.attrs) if record is not None else {}
        held = _head_of(attrs) if order.refresh == "check" and _is_it(attrs, order) else None
        started, path = now() / 1e6, str(target)
        try:
            got = into_file(offer, draft, held, order.retries, progress)
        except DownloadError as error:
            if record is None or order.refresh != "check" or not error.retryable or not _is_it(attrs, order):
                raise
            return Placed("stale", str(error), path, attrs)
        if got is None:
            return self._noted(placed, Placed("confirmed", "the server says that it has not changed", path, attrs))
        attrs = attributes_of(order.descriptor, offer, *got, started)
        reason = "the server has another version" if held else "the file was not there"
        return self._noted(placed, Placed("downloaded", reason, path, attrs))

    @staticmethod
    def _item_of(order: Order, target: Path) -> New:
        descriptor = order.descriptor
        params = {"dl_params": descriptor.identity(), "dest": os.fsencode(target).decode("utf-8", "backslashreplace")}
        return new_item(descriptor.baseurl, params, None, Status.READY, order.ext, order.label, order.filename)

    def _record(self, placed: New) -> ItemRow | None:
        if self._core is None:
            return None
        return self._core.items.best(criteria(key=placed.key, status=Status.READY))

    def _is_wanted(self, record: ItemRow, order: Order) -> bool:
        if not _is_it(load(record.details.attrs), order):
            return False
        assert self._core is not None
        dated = criteria(ids=record.id, newer_than=order.newer_than, older_than=order.older_than)
        return bool(self._core.items.find(dated))

    def _noted(self, placed: New, made: Placed) -> Placed:
        """Remember which download the file is."""
        if self._core is None:
            return made
        try:
            changed = Path(made.path).stat().st_mtime_ns
        except OSError as error:
            raise StoreError(f"cannot look at {made.path}: {error.strerror}") from error
        attrs = {**made.attrs, "mtime_ns": changed}
        record = self._record(placed) or self._core.create(placed)
        self._core.update([record], {"attrs": attrs, "date": moment(now())})
        return made

    def _copy(self, new: New, order: Order, target: Path) -> Placed | None:
        """The file from the cache, if that has it."""
        row = self._cached.find(new, order) if self._cached is not None else None
        if row is None or row.digest is None or row.size is None:
            return None
        assert self._core is not None
        with self._core.library.stores.blobs.open(row.digest, row.size) as source:
            draft = Draft(target, f"{new.key[:16]}-copy")  # beside one that may be locked by this call
            try:
                draft.reset()
                draft.begin(Representation((), row.size, order.url, now() / 1e6))
                assert draft.part is not None
                while block := source.read(_BLOCK):
                    draft.part.put(draft.part.size, block)
                draft.finish()
            finally:
                draft.drop()
        return Placed("hit", "it is in the cache, and was copied from there", str(target), load(row.details.attrs))


def _is_it(attrs: dict[str, object], order: Order) -> bool:
    """Whether what is recorded is of the bytes that were ordered."""
    return order.sha256 in (None, attrs.get("sha256"))


def _is_at(target: Path, attrs: dict[str, object]) -> bool:
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


def _head_of(attrs: dict[str, object]) -> Representation | None:
    """The head that a server may confirm, as far as it was recorded."""
    named = (("ETag", attrs.get("etag")), ("Last-Modified", attrs.get("last_modified")))
    fields = tuple((name, str(value)) for name, value in named if value is not None)
    size = attrs.get("size")
    return Representation(fields, size if isinstance(size, int) else None, str(attrs.get("url")), 0.0) if fields else None


def headers_in(attrs: dict[str, object]) -> Headers:
    """The fields of an answer, as they were recorded."""
    recorded = attrs.get("resp_headers")
    return Headers(tuple((str(name), str(value)) for name, value in recorded.items()) if isinstance(recorded, dict) else ())
