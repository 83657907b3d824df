"""What the leading thread of a fill does: downloads one key from the sources and puts it into the store."""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Protocol, Self

from package_cache.engine.fills.committer import Committer, FileJob, Job, SmallCommitter, read_body
from package_cache.engine.fills.failures import Failures, Storing
from package_cache.engine.fills.leading import Leading, Store
from package_cache.engine.fills.pump import Underway, pump
from package_cache.engine.fills.sinks import PartSink, Reserving
from package_cache.errors import DamagedBlob, StoreError
from package_cache.log_limit import LogLimit
from package_cache.model import Entry, Key, Representation
from package_cache.rules.http.caching import refreshed
from package_cache.rules.transfers.steps import Finish, GiveUp, NotModified
from package_cache.rules.transfers.transfer import Transfer
from package_cache.storage.blobs import BlobStore, hash_file
from package_cache.storage.database.schema import SMALL
from package_cache.storage.items.rows import Describe
from package_cache.storage.parts.leases import Failed, Journal, PartStore
from package_cache.storage.registry import NewVersion, Registry
from package_cache.storage.system import forget_in_children
from package_cache.upstream.answers import Offer

logger = logging.getLogger(__name__)

UNSTORED = 64
"""Files of one process that may be verified and not yet durable. Beyond that the disk sets the pace for the clients."""
_SLOW_SECONDS = 0.5
"""How long storing a file may take before the disk counts as slow."""
_SLOW_FOR = 60.0
"""Seconds for which it does. Other processes then see a file, however small, as soon as it is verified."""


class Errand(Protocol):
    """What a leader is sent for; see `Wanted`, which is the proxy's.

    `seen` is the version that was here when the registry's mark of the key was `mark`. `held` is the head that makes the
    requests to the sources conditional, None if they are not to be.
    """

    @property
    def key(self) -> Key:
        """Its name here."""
        ...

    @property
    def text(self) -> str:
        """What to call it in the log."""
        ...

    @property
    def offer(self) -> Offer:
        """Where it is to be had."""
        ...

    @property
    def mark(self) -> int:
        """The registry's mark of the key when it was looked up."""
        ...

    @property
    def seen(self) -> Entry | None:
        """The version that was here then."""
        ...

    @property
    def held(self) -> Representation | None:
        """The head that a source may confirm."""
        ...

    def looked(self, mark: int, seen: Entry | None) -> Self:
        """The same, after another look at what is here."""
        ...

    def is_met_by(self, representation: Representation) -> bool:
        """Whether a version with that head is good enough."""
        ...

    def describe(self, representation: Representation, digest: str) -> Describe | None:
        """What is to be written of a version with that head and those bytes besides."""
        ...

    def refusal(self, head: Representation) -> str | None:
        """Why an answer with that head is not to be stored; None if it is."""
        ...

    def largest(self) -> int | None:
        """How many bytes may be stored of it; None if any number."""
        ...

    def examined(self, head: Representation, read: Callable[[], bytes], /) -> Representation:
        """The head, with what the body says of it. Raises ValueError for a body that is not what it has to be."""
        ...


class Leader:
    """Leads fills. Safe for any number of threads."""

    def __init__(self, registry: Registry, blobs: BlobStore, storing: Storing, room: Reserving, parts: PartStore) -> None:
        self.failures = Failures(time.monotonic)
        self._registry = registry
        self._blobs = blobs
        self._room = room
        self._storing = storing
        self._committer = Committer(registry, blobs)
        self._small = SmallCommitter(registry, parts.is_awaited)
        self._log_limit = LogLimit()
        self._slow_until = -math.inf
        self.forget()
        forget_in_children(self)

    def forget(self) -> None:
        """In a forked child: what is to be stored is stored by the parent."""
        self._fewer = threading.Condition()
        self._guard = threading.Lock()
        """Of the number of bodies: nobody waits for there to be fewer."""
        self._unstored = self._bodies = 0

    @property
    def is_settled(self) -> bool:
        """Whether every file that is here with all its bytes is stored, or could not be."""
        return not self._unstored and not self._bodies

    def _count(self) -> None:
        """Count one more file that is to be stored; waits while there are too many."""
        with self._fewer:
            self._fewer.wait_for(lambda: self._unstored < UNSTORED)
            self._unstored += 1

    def _discount(self) -> None:
        with self._fewer:
            self._unstored -= 1
            self._fewer.notify()

    def close(self) -> None:
        """Remove nothing more to make room. Running downloads go on."""
        self._room.close()

    def is_here(self, wanted: Errand) -> bool:
        """Whether somebody stored what is wanted since it was looked for. Raises StoreError."""
        seen = self._seen(wanted)
        return seen is not wanted.seen and seen is not None and wanted.is_met_by(seen.representation)

    def _seen(self, wanted: Errand) -> Entry | None:
        """The version that is here now; looked for only if something changed."""
        return self._registry.best(wanted.key) if self.has_changed(wanted) else wanted.seen

    def has_changed(self, wanted: Errand) -> bool:
        """Whether the registry may know more of what is wanted than when it was looked for. Costs no system call."""
        return self._registry.mark(wanted.key) != wanted.mark

    def unsettle(self, wanted: Errand) -> None:
        """Have every process look anew at what is wanted: it may be another version in a moment."""
        self._registry.generation.bump(wanted.key)

    def lead(self, wanted: Errand, leading: Leading, underway: Underway | None = None) -> Store | None:
        """Download what is wanted, unless it is here by now. Raises StoreError. Goes on with what is `underway`.

        Returns what stores it, and calls `Leading.conclude` then; None if the fill is over.
        """
        with self._noting(wanted):
            return self._lead(wanted, leading, underway)

    @contextmanager
    def _noting(self, wanted: Errand) -> Iterator[None]:
        """Note what hinders a download."""
        try:
            yield
        except StoreError as error:
            self._storing.failed(wanted.key, error)
            self._room.relieve(error)
            raise

    def _lead(self, wanted: Errand, leading: Leading, underway: Underway | None = None) -> Store | None:
        lease = leading.lease
        if lease.unstored is not None:
            self._store_late(wanted, leading, lease.unstored)
        if self.is_here(wanted):
            lease.done()
            leading.publish()
            return None
        seen = self._seen(wanted)
        sink = PartSink(lease, self._room, leading.publish, wanted.refusal, wanted.examined, wanted.largest())
        store: Store | None = None
        try:
            begun = underway.take() if underway is not None and seen is wanted.seen and lease.part is None else None
            store = self._download(wanted.looked(wanted.mark, seen), leading, sink, begun)
        finally:
            if store is None:
                sink.release()
        return store

    def _download(self, wanted: Errand, leading: Leading, sink: PartSink, begun: Underway | None) -> Store | None:
        seen, lease = wanted.seen, leading.lease
        if begun is None:
            known = lease.journal.head if lease.part else None
            begun = Underway(Transfer(wanted.offer.urls, lease.have, known, wanted.held))
        else:
            begun.give(sink)
        transfer = begun.transfer
        leading.publish()
        match pump(transfer, wanted.offer, sink, begun.ask):
            case Finish():
                self.failures.forget(wanted.key)
                return partial(self._store, wanted, leading, sink)
            case NotModified(head):
                assert seen is not None  # only an entry makes a request conditional
                self.failures.forget(wanted.key)
                known = self._known(wanted, seen, refreshed(seen.representation, head))
                if self._registry.confirm(seen, known, wanted.describe(known, seen.digest)) is None:
                    return self._lead(self._look_again(wanted), leading)  # it was removed while a source was asked
                lease.done()
            case GiveUp() as end:
                lease.failed(self.gave_up(wanted, transfer, end), keep=not transfer.contradicted)
        leading.publish()
        return None

    def gave_up(self, wanted: Errand, transfer: Transfer, end: GiveUp) -> Failed:
        """No source delivered: note it, and what to tell of it. Never waits."""
        self.failures.note(wanted.key, end)
        # A source that failed is what got the warning, once, whatever is asked of it.
        level = logging.INFO if end.status in (404, 410) or transfer.blamed else self._log_limit.level(end.answered)
        logger.log(level, "%s: %s", wanted.text, end.reason)
        return Failed(end.status, end.reason, end.answered, transfer.hopeless, end.retry_after, end.response)

    def _known(self, wanted: Errand, seen: Entry, head: Representation) -> Representation:
        """The head of a version that a source confirmed, with what its body says, if it was not asked before."""
        if head.good_until is not None:
            return head
        with suppress(ValueError, StoreError):
            return wanted.examined(head, lambda: self._read(seen))
        return head

    def _read(self, entry: Entry) -> bytes:
        with self._blobs.open(entry.digest, entry.size) as file:
            return file.read()

    def _look_again(self, wanted: Errand) -> Errand:
        mark = self._registry.mark(wanted.key)
        return wanted.looked(mark, self._registry.best(wanted.key))

    def _store_late(self, wanted: Errand, leading: Leading, journal: Journal) -> None:
        """Put into the store what a killed process had verified, if it is there still."""
        lease, digest, head, size = leading.lease, journal.digest, journal.head, journal.size
        if digest is None or head is None or size is None:
            return
        # A source may have another index by now: who asked later waits for its answer. Who was told gets the rest.
        tells = wanted.is_met_by(head) or leading.fill.progress().journal.digest is not None
        if lease.part is not None:
            if lease.part.size != size or hash_file(lease.part.fileno(), size).hexdigest() != digest:
                lease.reset()
                return
            if tells:
                _tell_whole(leading, digest, size)
            self._blobs.finalize(lease.part)
            with self._blobs.holding([digest]):
                self._blobs.settle([self._blobs.publish(lease.part, digest)])
                lease.adopted()
                self._registry.commit_all([_news(wanted, digest, head, size)])
            return
        with self._blobs.holding([digest]):
            try:
                self._blobs.open(digest, size).close()
            except DamagedBlob:
                return
            if tells:
                _tell_whole(leading, digest, size)
            self._registry.commit_all([_news(wanted, digest, head, size)])

    def _store(self, wanted: Errand, leading: Leading, sink: PartSink) -> None:
        lease, head = leading.lease, sink.head
        part = lease.part
        assert part is not None  # a transfer finishes only with one
        assert head is not None
        with self._noting(wanted), ExitStack() as undo:
            undo.callback(sink.release)
            digest = sink.digest()
            news = _news(wanted, digest, head, part.size)
            self._count()
            undo.callback(self._discount)
            begun = time.monotonic()
            if self.is_slow:
                with suppress(StoreError):  # then they wait
                    lease.expose()
            _tell_whole(leading, digest, part.size)
            # An item of the library is a path, so its bytes are a file, however small.
            body = read_body(part, digest) if part.size <= SMALL and news.describe is None else None
            if body is None:
                self._blobs.finalize(part)
            undo.pop_all()
        ended = partial(self._end, wanted, leading, sink, begun, body is not None)
        if body is None:
            self._committer.commit(FileJob(news, part, ended))
        else:
            self._small.commit(Job(replace(news, body=body), lambda _, error: ended(error)))

    def takes_room(self, size: int) -> bool:
        """Whether a small file of so many bytes has room now, which is given back by `note_bodies`, or `give_room`."""
        return self._room.reserve_at_once(size)

    def give_room(self, size: int) -> None:
        """Give room back: what was stored of it counts by itself."""
        self._room.give_back(size)

    @property
    def is_slow(self) -> bool:
        """Whether the disk took long over a file a moment ago."""
        return time.monotonic() < self._slow_until

    def store_body(self, body: Job) -> None:
        """Have a small body that is in hand, verified, stored under its lease. Never waits.

        Whoever is told the end of it calls `note_bodies`, and gives the lease back.
        """
        with self._guard:
            self._bodies += 1
        self._small.commit(body)

    def note_bodies(self, bodies: Sequence[Job], error: StoreError | None) -> None:
        """Small bodies were stored, or could not be."""
        self._room.give_back(sum([one.size for one in bodies]))
        self._note_pace(min(one.since for one in bodies))
        tells = logger.isEnabledFor(logging.INFO)
        for one in bodies:
            key = one.news.key
            if error is not None:
                self._storing.failed(key, error)
            else:
                self._storing.went_well(key)
                if tells:
                    logger.info("stored %s, %d bytes, from %s", key, one.size, one.news.representation.source)
        if error is not None:
            self._room.relieve(error)
        with self._guard:
            self._bodies -= len(bodies)

    def _note_pace(self, begun: float) -> None:
        """A file was stored, or was not, which took from then until now."""
        now = time.monotonic()
        if now - begun > _SLOW_SECONDS:
            self._slow_until = now + _SLOW_FOR

    def _end(
        self,
        wanted: Errand,
        leading: Leading,
        sink: PartSink,
        begun: float,
        as_row: bool,
        error: StoreError | None,
    ) -> None:
        lease = leading.lease
        sink.release()
        self._note_pace(begun)
        if error is not None:
            self._storing.failed(wanted.key, error)
            self._room.relieve(error)
        elif lease.journal.head is not None:
            logger.info("stored %s, %d bytes, from %s", wanted.text, lease.have, lease.journal.head.source)
            self._storing.went_well(wanted.key)
            if not as_row:
                lease.adopted()
        try:
            leading.conclude(error)
        finally:
            self._discount()


def _news(wanted: Errand, digest: str, head: Representation, size: int) -> NewVersion:
    head = head.of_size(size)
    return NewVersion(wanted.key, digest, head, wanted.describe(head, digest))


def _tell_whole(leading: Leading, digest: str, size: int) -> None:
    """Let readers have the rest; those of a leader that died were told already, and must not be told otherwise."""
    leading.lease.whole(digest, size)
    leading.publish()
