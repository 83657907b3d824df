"""What the leading thread of a fill does: downloads one key from the sources and puts it into the store."""

import logging
import threading
import time
from dataclasses import dataclass, replace
from functools import partial

from package_cache.engine.committer import Committer, Job
from package_cache.engine.failures import Failures
from package_cache.engine.fills import Fill
from package_cache.engine.pump import pump
from package_cache.engine.room import Room
from package_cache.engine.sinks import PartSink
from package_cache.engine.storing import Storing
from package_cache.errors import DamagedBlob, StoreError
from package_cache.model import Entry, Key, Representation, Target
from package_cache.rules.answer import refreshed
from package_cache.rules.freshness import Freshness, freshness_of
from package_cache.rules.steps import Finish, GiveUp, NotModified
from package_cache.rules.transfer import Transfer
from package_cache.storage.blobs import BlobStore, hash_file
from package_cache.storage.journals import Failed, Journal
from package_cache.storage.leases import Lease
from package_cache.storage.registry import Registry
from package_cache.upstream.fetcher import Fetcher

logger = logging.getLogger(__name__)

UNSTORED = 64
"""Files of one process that may be verified and not yet durable. Beyond that the disk sets the pace for the clients."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of the sources: `key` names it here, `accept` is sent along where the answer may depend on it.

    `seen` is the version that was here when the registry's mark of the key was `mark`.
    """

    key: Key
    target: Target
    accept: str | None
    since: float
    """When the request came, in seconds of the epoch: an index that was asked for earlier is not good enough for it."""
    mark: int = 0
    seen: Entry | None = None

    def is_kept(self, representation: Representation) -> bool:
        """Whether an answer with that head is good for ever."""
        return freshness_of(self.target, representation.get("content-type")) is Freshness.IMMUTABLE

    def is_met_by(self, representation: Representation) -> bool:
        """Whether an answer with that head is good for this request."""
        return self.is_kept(representation) or representation.received >= self.since


class Leader:
    """Leads fills. Safe for any number of threads."""

    def __init__(self, registry: Registry, blobs: BlobStore, fetcher: Fetcher, storing: Storing, room: Room) -> None:
        self.failures = Failures(time.monotonic)
        self._registry = registry
        self._blobs = blobs
        self._room = room
        self._fetcher = fetcher
        self._storing = storing
        self._committer = Committer(registry, blobs)
        self._unstored = threading.BoundedSemaphore(UNSTORED)

    def close(self) -> None:
        """Remove nothing more to make room. Running downloads go on."""
        self._room.close()

    def lead(self, wanted: Wanted, fill: Fill, lease: Lease) -> bool:
        """Download what is wanted, unless it is here by now. Raises StoreError.

        Returns whether the fill is over. If not, the file is about to be stored, and `Fill.conclude` will be called.
        """
        try:
            return self._lead(wanted, fill, lease)
        except StoreError as error:
            self._storing.failed(wanted.key, error)
            self._room.relieve(error)
            raise

    def _lead(self, wanted: Wanted, fill: Fill, lease: Lease) -> bool:
        if lease.unstored is not None:
            self._store_late(wanted, fill, lease, lease.unstored)
        seen = wanted.seen
        if self._registry.mark(wanted.key) != wanted.mark:
            seen = self._registry.best(wanted.key)
            if seen is not None and wanted.is_met_by(seen.representation):
                lease.done()
                fill.publish(lease)
                return True
        sink = PartSink(lease, self._room, partial(fill.publish, lease))
        try:
            over = self._download(replace(wanted, seen=seen), fill, lease, sink)
        except BaseException:
            sink.release()
            raise
        if over:
            sink.release()
        return over

    def _download(self, wanted: Wanted, fill: Fill, lease: Lease, sink: PartSink) -> bool:
        seen = wanted.seen
        urls = self._fetcher.urls(wanted.target)
        held = seen.representation if seen else None
        transfer = Transfer(urls, lease.have, lease.journal.head if lease.part else None, held)
        fill.publish(lease)
        match pump(transfer, self._fetcher, sink, wanted.accept):
            case Finish():
                self.failures.forget(wanted.key)
                self._store(wanted, fill, lease, sink)
                return False
            case NotModified(head):
                assert seen is not None  # only an entry makes a request conditional
                self.failures.forget(wanted.key)
                if self._registry.confirm(seen, refreshed(seen.representation, head)) is None:
                    return self._lead(self._look_again(wanted), fill, lease)  # it was removed while a source was asked
                lease.done()
            case GiveUp(status, reason):
                self.failures.note(wanted.key, status, reason)
                # Where a version is here, serving it is what gets the warning.
                level = logging.INFO if status == 404 or seen is not None else logging.WARNING
                logger.log(level, "%s: %s", wanted.target.text, reason)
                lease.failed(Failed(status, reason), keep=not transfer.contradicted)
        fill.publish(lease)
        return True

    def _look_again(self, wanted: Wanted) -> Wanted:
        mark = self._registry.mark(wanted.key)
        return replace(wanted, mark=mark, seen=self._registry.best(wanted.key))

    def _store_late(self, wanted: Wanted, fill: Fill, lease: Lease, journal: Journal) -> None:
        """Put into the store what a killed process had verified, if it is there still."""
        digest, head, size = journal.digest, journal.head, journal.size
        if digest is None or head is None or size is None:
            return
        # A source may have another index by now: who asked later waits for its answer. Who was told gets the rest.
        tells = wanted.is_met_by(head) or fill.progress().journal.digest is not None
        if lease.part is not None:
            if lease.part.size != size or hash_file(lease.part.fileno(), size).hexdigest() != digest:
                return
            if tells:
                self._tell_whole(fill, lease, digest, size)
            self._blobs.seal(lease.part)
            with self._blobs.holding([digest]):
                self._blobs.settle([self._blobs.publish(lease.part, digest)])
                lease.adopted()
                self._registry.commit(wanted.key, digest, replace(head, size=size))
            return
        with self._blobs.holding([digest]):
            try:
                self._blobs.open(digest, size).close()
            except DamagedBlob:
                return
            if tells:
                self._tell_whole(fill, lease, digest, size)
            self._registry.commit(wanted.key, digest, replace(head, size=size))

    @staticmethod
    def _tell_whole(fill: Fill, lease: Lease, digest: str, size: int) -> None:
        """Let readers have the rest; those of a leader that died were told already, and must not be told otherwise."""
        lease.whole(digest, size)
        fill.publish(lease)

    def _store(self, wanted: Wanted, fill: Fill, lease: Lease, sink: PartSink) -> None:
        head, part = lease.journal.head, lease.part
        assert head is not None  # a transfer finishes only after its head
        assert part is not None
        digest = sink.digest()
        self._unstored.acquire()
        try:
            self._tell_whole(fill, lease, digest, part.size)
            self._blobs.seal(part)
        except BaseException:
            self._unstored.release()
            raise
        ended = partial(self._end, wanted, fill, lease, sink)
        self._committer.commit(Job(wanted.key, digest, replace(head, size=part.size), part, ended))

    def _end(self, wanted: Wanted, fill: Fill, lease: Lease, sink: PartSink, error: StoreError | None) -> None:
        sink.release()
        if error is not None:
            self._storing.failed(wanted.key, error)
        elif lease.journal.head is not None:
            logger.info("stored %s, %d bytes, from %s", wanted.target.text, lease.have, lease.journal.head.source)
            self._storing.went_well(wanted.key)
            lease.adopted()
        try:
            fill.conclude(lease, error)
        finally:
            self._unstored.release()
