"""Fetches a file again by its digest: what a source has by that name counts only if it is the very same bytes."""

from package_cache.engine.fills.pump import pump
from package_cache.engine.fills.sinks import PartSink
from package_cache.engine.fills.small import read_body
from package_cache.engine.upkeep.room import Room
from package_cache.errors import PackageCacheError
from package_cache.model import Entry
from package_cache.rules.repositories.routes import Routes
from package_cache.rules.transfers.steps import Finish, GiveUp
from package_cache.rules.transfers.transfer import Transfer
from package_cache.storage.audit import Audit
from package_cache.storage.blobs import SMALL, BlobStore
from package_cache.storage.parts.journals import Failed
from package_cache.storage.parts.leases import Lease, PartStore
from package_cache.upstream.fetcher import Fetcher

_OTHER = "the sources have other bytes by that name now"


class Refetch:
    """Mends blobs that were taken out of service."""

    def __init__(
        self, audit: Audit, blobs: BlobStore, parts: PartStore, fetcher: Fetcher, routes: Routes, room: Room
    ) -> None:
        self._audit = audit
        self._blobs = blobs
        self._parts = parts
        self._fetcher = fetcher
        self._routes = routes
        self._room = room

    def mend(self, digest: str) -> str | None:
        """Fetch a blob by any of the names it had and take these into service again; why not, if that cannot be done."""
        reason = "no name of it is known"
        tried: set[str] = set()
        for entry in reversed(self._audit.entries(digest)):
            if entry.key in tried:
                continue
            tried.add(entry.key)
            try:
                reason = self._fetch(entry) or ""
            except PackageCacheError as error:
                reason = str(error)
            if not reason:
                return None
        return reason

    def _fetch(self, entry: Entry) -> str | None:
        lease = self._parts.claim(entry.key)
        if lease is None:
            return "it is being downloaded right now"
        try:
            return self._download(entry, lease)
        except BaseException as error:
            lease.failed(Failed(502, str(error)), keep=False)
            raise

    def _download(self, entry: Entry, lease: Lease) -> str | None:
        target, accept = self._routes.of_key(entry.key)
        offer = self._fetcher.offer(self._routes.repository(target), target, accept)
        lease.reset()
        sink = PartSink(lease, self._room, lambda: None)
        try:
            match pump(Transfer(offer.urls), offer, sink):
                case Finish():
                    reason = None if sink.digest() == entry.digest else _OTHER
                case GiveUp(_, text):
                    reason = text
                case _:
                    reason = "the sources answered a question that was not asked"
        finally:
            sink.release()
        if reason is None:
            self._store(entry, lease)
            lease.done()
        else:
            lease.failed(Failed(502, reason), keep=False)
        return reason

    def _store(self, entry: Entry, lease: Lease) -> None:
        part = lease.part
        assert part is not None  # a transfer finishes only with one
        lease.whole(entry.digest, part.size)
        if part.size <= SMALL:
            self._audit.reinstate(entry.digest, part.size, read_body(part, entry.digest))
            return
        self._blobs.seal(part)
        with self._blobs.holding([entry.digest]):
            self._blobs.settle([self._blobs.publish(part, entry.digest)])
            self._audit.reinstate(entry.digest, part.size)
        lease.adopted()
