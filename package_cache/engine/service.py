"""The one object that the servers and the library talk to: a request in, an `Answer` out.

Brings together what the registry knows, what the rules decide and what the fills fetch. Knows nothing of WSGI or sockets.
"""

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from io import FileIO

from package_cache.engine.fills import Fill, FillReader, Fills, Progress
from package_cache.engine.pump import pump
from package_cache.engine.sinks import PartSink
from package_cache.engine.upkeep import LastUse
from package_cache.errors import DamagedBlob, FillError, LoopDetected, PackageCacheError, UpstreamError, UpstreamTimeout
from package_cache.model import Entry, Key, Representation, Request, Target
from package_cache.rules.answer import Reply, Serving, decide, problem, refreshed
from package_cache.rules.freshness import Freshness, accept_of, freshness_of
from package_cache.rules.targets import key_of
from package_cache.rules.transfer import Ask, Broke, Finish, GiveUp, NotModified, Receive, Transfer
from package_cache.storage.blobs import BlobStore
from package_cache.storage.parts import Failed, Lease
from package_cache.storage.registry import Registry
from package_cache.upstream.fetcher import Fetcher

logger = logging.getLogger(__name__)

_ATTEMPTS = 5
"""How often a request starts over because what it found was gone when it looked."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A body that is still arriving. Iterating raises `FillError` where it must not go on; `close` is always called."""

    blocks: Iterator[bytes]
    close: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply and where its body comes from: a blob to be sent from `reply.span`, a stream, or bytes in hand.

    `kind` and `source` are for the log.
    """

    reply: Reply
    kind: str
    body: FileIO | Stream | bytes | None = None
    source: str = "-"


@dataclass(frozen=True, slots=True)
class _Wanted:
    key: Key
    target: Target
    accept: str | None


class Service:
    """Answers requests from the store and, where it must, from the sources. Safe for any number of threads."""

    def __init__(
        self,
        registry: Registry,
        blobs: BlobStore,
        fills: Fills,
        fetcher: Fetcher,
        last_use: LastUse,
        via: str,
    ) -> None:
        self._registry = registry
        self._blobs = blobs
        self._fills = fills
        self._fetcher = fetcher
        self._last_use = last_use
        self._via = via

    def close(self) -> None:
        """Write what is pending and close what is idle. Running downloads go on until the process ends."""
        self._last_use.close()
        self._fetcher.close()
        self._registry.close()

    def answer(self, request: Request) -> Answer:
        """Answer a request. Raises `PackageCacheError` with the status a client is to be told."""
        if self._via in request.fields.get("via", ""):
            raise LoopDetected("this request has passed through this cache before: a source leads back to it")
        accept = accept_of(request.target, request.fields.get("accept"))
        wanted = _Wanted(key_of(request.target, accept), request.target, accept)
        for _ in range(_ATTEMPTS):
            answer = self._attempt(request, wanted)
            if answer is not None:
                return answer
        raise FillError("what is stored changes faster than it can be served", 503)

    def refuse(self, error: PackageCacheError) -> Answer:
        """The answer that tells a client what went wrong."""
        detail = f"fwd=uri-miss; fwd-status={error.http_status}" if isinstance(error, FillError) else "fwd=bypass"
        reply, body = problem(error.http_status, str(error), self._serving(detail))
        return Answer(reply, "error", body)

    def _attempt(self, request: Request, wanted: _Wanted) -> Answer | None:
        """An answer, or None if what it was made from vanished meanwhile."""
        entry = self._registry.best(wanted.key)
        if entry is not None and self._is_fresh(entry, wanted.target):
            return self._from_store(request, entry, "hit", "hit")
        if entry is None and request.method == "HEAD":
            return self._relay_head(request, wanted)
        try:
            return self._from_fill(request, wanted, entry)
        except FillError as error:
            if entry is None or error.http_status == 404:
                raise
            logger.warning("%s is served as it was on %s: %s", wanted.key, entry.representation.get("date"), error)
            return self._from_store(request, entry, "fwd=stale", "stale")

    @staticmethod
    def _is_fresh(entry: Entry, target: Target) -> bool:
        return freshness_of(target, entry.representation.get("content-type")) is Freshness.IMMUTABLE

    def _serving(self, cache_status: str, digest: str | None = None) -> Serving:
        return Serving(cache_status, self._via, time.time(), digest)

    def _from_store(self, request: Request, entry: Entry, cache_status: str, kind: str) -> Answer | None:
        reply = decide(request, entry.representation, self._serving(cache_status, entry.digest))
        source = entry.representation.source
        self._last_use.note(entry)
        if reply.span is None:
            return Answer(reply, kind, source=source)
        try:
            file = self._blobs.open(entry.digest, entry.size)
        except DamagedBlob as error:
            versions = self._registry.condemn(entry.digest)
            self._blobs.remove(entry.digest)
            logger.error("%s: it is fetched again when it is asked for (versions taken out: %d)", error, versions)
            return None
        file.seek(reply.span.start)
        return Answer(reply, kind, file, source)

    def _from_fill(self, request: Request, wanted: _Wanted, entry: Entry | None) -> Answer | None:
        fill, joined = self._fills.join(wanted.key, partial(self._lead, wanted, entry))
        leave = partial(self._fills.leave, fill)
        try:
            answer = self._from_progress(request, fill, leave, _Circumstances(entry is not None, joined))
        except BaseException:
            leave()
            raise
        if answer is None or not isinstance(answer.body, Stream):
            leave()
        return answer if answer is not None else self._after_fill(request, wanted, entry, fill)

    def _from_progress(
        self, request: Request, fill: Fill, leave: Callable[[], None], circumstances: "_Circumstances"
    ) -> Answer | None:
        """An answer from the running fill as soon as it can be given; None once the registry has the outcome."""
        progress = fill.progress()
        while not (representation := _known(progress, request)):
            journal = progress.journal
            if journal.failed is not None:
                raise FillError(journal.failed.reason, journal.failed.status)
            if journal.done:
                return None
            progress = fill.wait(progress)
        digest = progress.journal.digest
        cache_status, kind = circumstances.describe(complete=digest is not None)
        reply = decide(request, representation, self._serving(cache_status, digest))
        answer = Answer(reply, kind, source=representation.source)
        if reply.span is None and not reply.open_ended:
            return answer
        reader = fill.reader(progress.journal.number)
        if reader is None:
            return None
        return replace(answer, body=_stream(reader, reply, leave))

    def _after_fill(self, request: Request, wanted: _Wanted, entry: Entry | None, fill: Fill) -> Answer | None:
        """What a fill that is over left in the registry: a confirmed entry, or a new one."""
        failed = fill.progress().journal.failed
        if failed is not None:
            raise FillError(failed.reason, failed.status)
        current = self._registry.best(wanted.key)
        if current is None:
            return None
        if entry is None:
            return self._from_store(request, current, "hit", "hit")
        if entry.id == current.id:
            return self._from_store(request, current, "fwd=stale; fwd-status=304", "revalidated")
        return self._from_store(request, current, "fwd=stale; collapsed", "joined")

    def _relay_head(self, request: Request, wanted: _Wanted) -> Answer:
        """Ask the sources themselves: a look at a file that is not here must not download it."""
        transfer = Transfer(self._fetcher.urls(wanted.target))
        action = transfer.start()
        while isinstance(action, Ask):
            try:
                answer = self._fetcher.open(action, wanted.accept, "HEAD")
                answer.close()
            except UpstreamError as error:
                action = transfer.next(Broke(str(error), error.again, isinstance(error, UpstreamTimeout)))
                continue
            action = transfer.next(replace(answer.head, chunked=True))
        if not isinstance(action, Receive) or action.begin is None:
            assert isinstance(action, GiveUp)
            raise FillError(action.reason, action.status)
        reply = decide(request, action.begin, self._serving("fwd=uri-miss; fwd-status=200"))
        return Answer(reply, "relayed", source=action.begin.source)

    def _lead(self, wanted: _Wanted, entry: Entry | None, fill: Fill, lease: Lease) -> None:
        """Download one key; runs in a thread of its own."""
        if self._is_done_already(wanted, entry):
            lease.done()
            fill.publish(lease)
            return
        sink = PartSink(lease, partial(fill.publish, lease))
        urls = self._fetcher.urls(wanted.target)
        held = entry.representation if entry else None
        transfer = Transfer(urls, lease.have, lease.journal.head if lease.part else None, held)
        fill.publish(lease)
        match pump(transfer, self._fetcher, sink, wanted.accept):
            case Finish():
                self._store(wanted, fill, lease, sink)
            case NotModified(head):
                assert entry is not None  # only an entry makes a request conditional
                self._registry.confirm(entry, refreshed(entry.representation, head))
                lease.done()
            case GiveUp(status, reason):
                logger.log(logging.INFO if status == 404 else logging.WARNING, "%s: %s", wanted.key, reason)
                lease.failed(Failed(status, reason), keep=not transfer.contradicted)
        fill.publish(lease)

    def _is_done_already(self, wanted: _Wanted, seen: Entry | None) -> bool:
        """Whether another process did the work between the look into the registry and the lease."""
        current = self._registry.best(wanted.key)
        if current is None:
            return False
        return seen is None or current.id != seen.id or current.representation.received > seen.representation.received

    def _store(self, wanted: _Wanted, fill: Fill, lease: Lease, sink: PartSink) -> None:
        head, part = lease.journal.head, lease.part
        assert head is not None  # a transfer finishes only after its head
        assert part is not None
        digest = sink.digest()
        lease.whole(digest)
        fill.publish(lease)
        self._blobs.adopt(part, digest)
        entry = self._registry.commit(wanted.key, digest, replace(head, size=part.size))
        logger.info("stored %s, version %d, %d bytes, from %s", wanted.key, entry.version, part.size, head.source)
        lease.done()


@dataclass(frozen=True, slots=True)
class _Circumstances:
    stale: bool
    joined: bool

    def describe(self, *, complete: bool) -> tuple[str, str]:
        """Cache-Status and a word for the log. What joins a fill whose bytes are all here is a hit."""
        if self.joined and complete and not self.stale:
            return "hit", "hit"
        reason = "fwd=stale" if self.stale else "fwd=uri-miss"
        if self.joined:
            return f"{reason}; collapsed", "joined"
        return f"{reason}; fwd-status=200; stored", "refetched" if self.stale else "miss"


def _known(progress: Progress, request: Request) -> Representation | None:
    """The head to answer with, once enough is known of it.

    Without a length, only a client that can tell a cut body from a whole one is answered before the end, and no range is.
    """
    journal = progress.journal
    if journal.head is None or not (journal.confirmed or journal.digest):
        return None
    if journal.digest is not None:
        return replace(journal.head, size=journal.size)
    if journal.head.size is None and (not request.modern or "range" in request.fields):
        return None
    return journal.head


def _stream(reader: FillReader, reply: Reply, leave: Callable[[], None]) -> Stream:
    """The body of a reply, its first block in hand: a failure before it can still be told in a status."""

    def close() -> None:
        blocks.close()
        reader.close()
        leave()

    blocks = reader.read(reply.span)
    try:
        first = next(blocks, b"")
    except BaseException:
        reader.close()
        raise
    return Stream(itertools.chain((first,), blocks), close)
