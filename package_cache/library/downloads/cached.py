"""Downloads into the cache: by the fills of the proxy, so that all who want the same file share one download."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from package_cache.engine.fills.failures import UNSTORABLE, Storing
from package_cache.engine.fills.leader import Leader
from package_cache.engine.fills.reader import Progress
from package_cache.engine.fills.running import Fills
from package_cache.engine.fills.sinks import Reserving
from package_cache.engine.upkeep.room import Refusal, Reservation
from package_cache.engine.upkeep.space import Claim
from package_cache.errors import ArgumentError, StoreError
from package_cache.library.core import Core, now
from package_cache.library.downloads.options import Refresh
from package_cache.library.downloads.results import Verdict
from package_cache.library.downloads.transfers import Download, InThread
from package_cache.model import Entry, Key, Representation, Status
from package_cache.rules.library.attributes import dump, load, moment
from package_cache.rules.library.naming import extension, filename_of
from package_cache.rules.library.searching import criteria
from package_cache.storage.items.rows import Describe, Details, ItemRow
from package_cache.storage.parts.leases import Failed
from package_cache.storage.system import file_system_of
from package_cache.units import size_text

logger = logging.getLogger(__name__)

_ATTEMPTS = 5
"""How often a download starts over because what it found had been removed when it looked."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """An item, and how it came about."""

    verdict: Verdict
    reason: str
    row: ItemRow


class CachedDownloads:
    """The downloads of one cache, in their callers' threads. Safe for any number of them; a forked child needs its own."""

    def __init__(self, core: Core, in_thread: InThread) -> None:
        stores = core.stores
        room: Reserving = _FreeSpace(core.root)
        self._core = core
        self._in_thread = in_thread
        self._registry = stores.registry
        self._fills = Fills(stores.parts)
        self._leader = Leader(stores.registry, stores.blobs, Storing(time.monotonic), room, stores.parts)

    def find(self, download: Download) -> ItemRow | None:
        """The newest version in the cache that is complete and meets the options. Raises ArgumentError."""
        options = download.options
        wanted = criteria(
            key=download.item.key,
            status=Status.READY,
            newer_than=options.newer_than,
            older_than=options.older_than,
        )
        best = self._core.best(wanted)
        if best is None or self._is_wanted(best, download):
            return best
        several = reversed(self._core.items.find(wanted))
        return next((row for row in several if self._core.is_sound(row) and self._is_wanted(row, download)), None)

    def _is_wanted(self, row: ItemRow, download: Download) -> bool:
        """Whether a version has the digest that is wanted."""
        digest, size = row.digest, row.size
        if digest is None or size is None:
            return False
        return download.options.wants(digest, partial(self._core.stores.blobs.open, digest, size))

    def fetch(self, download: Download, refresh: Refresh | None = None, since: float | None = None) -> Fetched:
        """The item of a download: found in the cache, or made now, or shared. Raises DownloadError and StoreError.

        `refresh` is that of the options unless it is given. What a server was asked for at `since`, in seconds of the
        epoch, or later need not be asked for again; without it, at the time of this call.
        """
        refresh = refresh or download.options.refresh
        since, number, key = time.time() if since is None else since, 1, download.item.key
        while True:
            mark = self._registry.mark(key)
            known = self.find(download)
            if known is not None and refresh == "never":
                return Fetched("hit", "it is in the cache, and no server is to be asked", known)
            seen = self._registry.best(key)
            if known is not None and seen is not None and refresh == "check" and seen.representation.received >= since:
                return Fetched("confirmed", "somebody else has just asked the server", known)
            failed = self._follow(_ItemFill(download, refresh, since, mark, self._intact(seen)))
            if failed is None:
                row = self.find(download) or self._newest(download)
                if row is not None:
                    return Fetched(*_verdict(download, seen, row), row)
                if number >= _ATTEMPTS:
                    raise StoreError(f"{download.url} is removed from the cache as fast as it is downloaded")
            else:
                if failed.status == UNSTORABLE:
                    raise StoreError(f"cannot store {download.url}: {failed.reason}")
                error = download.error(failed.reason, failed.answered, hopeless=failed.hopeless)
                if number < download.options.retries and error.retryable:
                    download.pause(number)
                elif known is not None and refresh == "check" and error.retryable:
                    logger.warning("%s; it is used as it was on %s", error, moment(known.details.date))
                    return Fetched("stale", str(error), known)
                else:
                    raise error
            number += 1

    def _intact(self, seen: Entry | None) -> Entry | None:
        """The version, unless its bytes are missing; who looks at it next takes it out of service."""
        return seen if seen is not None and self._core.stores.blobs.has(seen.digest) else None

    def _newest(self, download: Download) -> ItemRow | None:
        """The newest version, whatever its date: a server has just said that it is the file."""
        row = self._core.best(criteria(key=download.item.key, status=Status.READY))
        return row if row is not None and self._is_wanted(row, download) else None

    def _follow(self, wanted: "_ItemFill") -> Failed | None:
        """Download, or wait for who does, here or in another process; how it failed, if it did."""
        wanted.offer.prepare()
        with self._in_thread.downloads(wanted.offer):
            return self._fills.fetch(wanted.key, partial(self._leader.lead, wanted), wanted.tell)


def _verdict(download: Download, seen: Entry | None, row: ItemRow) -> tuple[Verdict, str]:
    """How an item came about, and why."""
    if not download.attempts:
        return "downloaded", "somebody else was downloading it"
    if download.attempts[-1].status == 304:
        return "confirmed", "the server says that it has not changed"
    if seen is None:
        return "downloaded", "it was not in the cache"
    if seen.id == row.id:
        return "downloaded", "the server sent the same bytes again"
    return "downloaded", "the server has another version"


@dataclass(frozen=True, slots=True)
class _ItemFill:
    """What the leader of a fill is to get, and what it writes of it; see `engine.fills.leader.Errand`.

    `since` is when it was wanted, in seconds of the epoch. `seen` is the version that was in the cache at `mark`.
    """

    offer: Download
    refresh: Refresh
    since: float
    mark: int
    seen: Entry | None

    @property
    def key(self) -> Key:
        """Its name in the cache."""
        return self.offer.item.key

    @property
    def text(self) -> str:
        """What to call it in the log."""
        return self.offer.url

    @property
    def held(self) -> Representation | None:
        """The head that a server may confirm, if it is to be asked whether it has another file."""
        wanted = self.offer.options.digest
        if self.seen is None or self.refresh == "always":
            return None
        if wanted is not None and (wanted.algorithm, wanted.hex) != ("sha256", self.seen.digest):
            return None  # what a server confirms is not read again
        return self.seen.representation

    def looked(self, mark: int, seen: Entry | None) -> "_ItemFill":
        """The same, after another look at what is in the cache."""
        return replace(self, mark=mark, seen=seen)

    def is_met_by(self, representation: Representation) -> bool:
        """Whether a version with that head, which was stored meanwhile, is good enough."""
        options = self.offer.options
        if self.refresh == "never" and options.newer_than is None and options.older_than is None:
            return True
        return representation.received >= self.since

    def tell(self, progress: Progress) -> None:
        """Show how far the download is, whoever makes it."""
        head = progress.journal.head
        self.offer.progress.at(progress.size, head.size if head is not None else None)

    def refusal(self, head: Representation) -> None:
        """Nothing is refused: whatever was asked for is stored."""

    def largest(self) -> None:
        """No size limit."""

    def examined(self, head: Representation, _read: Callable[[], bytes], /) -> Representation:
        """The bytes are not looked at."""
        return head

    def describe(self, representation: Representation, digest: str) -> Describe:
        """The item of a version with that head and those bytes."""
        options, item = self.offer.options, self.offer.item.details
        attrs = self.offer.attributes(representation, digest, self.since)
        name = options.filename or filename_of(representation.get("content-disposition"), str(attrs["resolved_url"]))
        ext = extension(options.ext, name)

        def describe(known: Details | None) -> Details:
            if known is None:
                return replace(item, attrs=dump(attrs, "attrs"), filename=name, ext=ext, date=now())
            try:
                text = dump({**load(known.attrs), **attrs}, "attrs")
            except ArgumentError:  # with what a program added to them they would be too long
                text = known.attrs
            return replace(known, attrs=text, date=now())

        return describe


class _FreeSpace:
    """The file system of a cache that no bounds were given for: what is free may be filled, and nothing is evicted."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def reserve(self, size: int | None, have: int = 0) -> Reservation | Refusal:
        """Room for a file of `size` bytes, of which `have` are there. Raises StoreError."""
        lacks = 0 if size is None else size - have
        status = file_system_of(self._root)
        free = status.f_bavail * status.f_frsize
        if lacks > free:
            return Refusal(f"{size_text(lacks)} do not fit: {size_text(free)} of the disk are free")
        return Reservation(Claim(0, have), lambda _claim, _size: None, lambda _claim: None)  # the disk says when it is full

    def reserve_at_once(self, size: int) -> bool:
        """Whether there is room. Raises StoreError."""
        return isinstance(self.reserve(size), Reservation)

    def give_back(self, size: int) -> None:
        """Nothing is counted."""

    def relieve(self, error: StoreError) -> None:
        """A download ended with this error; nothing is evicted for it."""

    def close(self) -> None:
        """Nothing is open."""
