"""Downloads into the cache: by the fills of the proxy, so that all who want the same thing share one download."""

import logging
import time
from dataclasses import dataclass
from functools import partial

from package_cache.engine.fills.fill import Fills
from package_cache.engine.fills.leader import Leader
from package_cache.engine.fills.sinks import Reserving
from package_cache.engine.fills.storing import UNSTORABLE, Storing
from package_cache.errors import DownloadError, StoreError
from package_cache.library.core import Core
from package_cache.library.downloads.errands import Errand
from package_cache.library.downloads.offers import Offer
from package_cache.library.downloads.options import Order
from package_cache.library.downloads.progress import Progress
from package_cache.library.downloads.results import Verdict
from package_cache.library.downloads.transfers import error_of, pause
from package_cache.library.space import FreeSpace
from package_cache.model import Entry, Status
from package_cache.rules.library.attributes import moment
from package_cache.rules.library.searching import criteria
from package_cache.storage.items.rows import ItemRow
from package_cache.storage.items.table import New
from package_cache.storage.parts.journals import Failed

logger = logging.getLogger(__name__)

_DOWNLOADS = 1 << 12
"""Downloads at once: as many as callers have threads for, since each waits for its own."""
_ATTEMPTS = 5
"""How often a download starts over because what it found was gone when it looked."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """An item, and how it came about."""

    verdict: Verdict
    reason: str
    row: ItemRow


class CachedDownloads:
    """The downloads of one cache. Safe for any number of threads; not to be used on in a forked child."""

    def __init__(self, core: Core) -> None:
        stores = core.library.stores
        room: Reserving = FreeSpace(core.root)
        self._core = core
        self._registry = stores.registry
        self._fills = Fills(stores.parts, _DOWNLOADS)
        self._leader = Leader(stores.registry, stores.blobs, Storing(time.monotonic), room)

    def find(self, new: New, order: Order) -> ItemRow | None:
        """The newest version that is here with all its bytes, and is what was ordered. Raises ArgumentError."""
        wanted = criteria(key=new.key, status=Status.READY, newer_than=order.newer_than, older_than=order.older_than)
        best = self._core.best(wanted)
        if best is None or self._is_it(best, order):
            return best
        several = reversed(self._core.items.find(wanted))
        return next((row for row in several if self._is_it(row, order) and self._core.library.is_sound(row)), None)

    @staticmethod
    def _is_it(row: ItemRow, order: Order) -> bool:
        return row.digest is not None and order.sha256 in (None, row.digest)

    def fetch(self, new: New, order: Order, offer: Offer, progress: Progress, since: float | None = None) -> Fetched:
        """The item of a download: one that is here, or made now, or shared. Raises DownloadError and StoreError.

        What a server was asked for at `since`, in seconds of the epoch, or later need not be asked for again; else now.
        """
        since, number = time.time() if since is None else since, 1
        while True:
            mark = self._registry.mark(new.key)
            known = self.find(new, order)
            if known is not None and order.refresh == "never":
                return Fetched("hit", "it is in the cache, and no server is to be asked", known)
            seen = self._registry.best(new.key)
            if known is not None and seen is not None and _is_since(seen, order, since):
                return Fetched("confirmed", "somebody else has just asked the server", known)
            failed = self._follow(self._errand(new, order, offer, since, mark, seen), progress)
            if failed is not None:
                error = _error_of(failed, order)
                if number < order.retries and error.retryable:
                    pause(number, offer.retry_after)
                elif known is not None and order.refresh == "check" and error.retryable:
                    logger.warning("%s; it is used as it was on %s", error, moment(known.details.date))
                    return Fetched("stale", str(error), known)
                else:
                    raise error
            else:
                row = self.find(new, order) or self._any(new, order)
                if row is not None:
                    return Fetched(*_verdict(offer, seen, row), row)
                if number >= _ATTEMPTS:
                    raise StoreError(f"{order.url} is removed from the cache as fast as it is downloaded")
            number += 1

    def _errand(self, new: New, order: Order, offer: Offer, since: float, mark: int, seen: Entry | None) -> Errand:
        if seen is not None and not self._core.library.stores.blobs.has(seen.digest):
            seen = None  # taken out of service by who looks at it next
        return Errand(
            new.key,
            order.descriptor,
            offer,
            new.details,
            (order.ext, order.filename),
            since,
            content=order.refresh == "never" and order.newer_than is None and order.older_than is None,
            conditional=order.refresh != "always" and order.sha256 in (None, seen.digest if seen else None),
            mark=mark,
            seen=seen,
        )

    def _any(self, new: New, order: Order) -> ItemRow | None:
        """The newest version of all, whatever its date: a server has just said that it is the file."""
        row = self._core.best(criteria(key=new.key, status=Status.READY))
        return row if row is not None and self._is_it(row, order) else None

    def _follow(self, errand: Errand, progress: Progress) -> Failed | None:
        """Wait for the fill of an errand, led here or elsewhere, to its end; how it failed, if it did."""
        errand.offer.prepare()
        fill, _ = self._fills.join(errand.key, partial(self._leader.lead, errand))
        try:
            state = fill.progress()
            while not state.journal.done:
                progress.at(state.size, state.journal.head.size if state.journal.head else None)
                state = fill.wait(state)
        finally:
            self._fills.leave(fill)
        return state.journal.failed


def _is_since(seen: Entry, order: Order, since: float) -> bool:
    """Whether a server has said at that time, or later, that this is the newest version."""
    return order.refresh == "check" and seen.representation.received >= since


def _error_of(failed: Failed, order: Order) -> DownloadError:
    """The error of a fill that failed. Raises StoreError if that was not for want of the file."""
    if failed.status == UNSTORABLE:
        raise StoreError(f"cannot store {order.url}: {failed.reason}")
    return error_of(order.url, failed.reason, failed.answered, hopeless=failed.hopeless)


def _verdict(offer: Offer, seen: Entry | None, row: ItemRow) -> tuple[Verdict, str]:
    """How an item came about, and why."""
    if not offer.attempts:
        return "downloaded", "somebody else was downloading it"
    if offer.attempts[-1].status == 304:
        return "confirmed", "the server says that it has not changed"
    if seen is None:
        return "downloaded", "it was not in the cache"
    if seen.id == row.id:
        return "downloaded", "the server sent the same bytes again"
    return "downloaded", "the server has another version"
