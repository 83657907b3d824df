"""What is answered to a request: from what is here, or with why it cannot be; and what is to be asked of the sources.

Brings together what the registry knows and what the rules decide. Looks at the disk, so that a loop has threads call most
of it; asks no source, and knows nothing of who waits.
"""

import hashlib
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from io import FileIO

from package_cache.engine.answers import Answer, SeveralReader, answer_linked, from_blob
from package_cache.engine.checks import CheckedReader, Checks
from package_cache.engine.fills.failures import UNSTORABLE, Storing
from package_cache.engine.fills.leader import Leader
from package_cache.engine.fills.reader import FillReader
from package_cache.engine.fills.running import Fills
from package_cache.engine.health import Health
from package_cache.engine.hotset import HotFile
from package_cache.engine.passthrough import PassThrough
from package_cache.engine.upkeep.last_use import LastUse
from package_cache.engine.wanted import Pass, Wanted
from package_cache.errors import (
    DamagedBlob,
    FillError,
    LoopDetected,
    NotStored,
    PackageCacheError,
    StoreError,
)
from package_cache.log_limit import LogLimit
from package_cache.model import Entry, Key, Representation, Request
from package_cache.rules.http.answer import Serving, decide, problem, refused
from package_cache.rules.http.caching import normal_accept
from package_cache.rules.http.fields import quality
from package_cache.rules.http.targets import key_of
from package_cache.rules.repositories.freshness import RequestPolicy
from package_cache.rules.repositories.links import Linking, linking_of
from package_cache.rules.repositories.routes import Routes, is_own
from package_cache.storage.damage import Damages
from package_cache.storage.parts.leases import Journal
from package_cache.storage.registry import NegativeCache, Registry
from package_cache.upstream.fetcher import Fetcher

logger = logging.getLogger(__name__)

_LONGEST_VIA = 2048
"""Characters of a Via that are passed on to sources: some dozens of proxies."""
_ATTEMPTS = 5
"""How often a request starts over because what it found was gone when it looked."""


Found = HotFile | Answer | Wanted | Pass
"""What a request comes to: what is here, or what is to be asked of the sources for it."""
Probe = Callable[[Request, Wanted], None]
"""Has a source asked for something for nobody, to find out how it is."""


def no_probe(_request: Request, _wanted: Wanted) -> None:
    """Nothing is asked for nobody."""


class Desk:
    """Safe for any number of threads. `probe` has a source asked for something though its client has an answer."""

    def __init__(
        self,
        registry: Registry,
        fills: Fills,
        leader: Leader,
        storing: Storing,
        fetcher: Fetcher,
        last_use: LastUse,
        damages: Damages,
        checks: Checks,
        health: Health,
        via: str,
        routes: Routes,
    ) -> None:
        self.routes = routes
        self.via = via
        self.checks = checks
        self.last_use = last_use
        self.leader = leader
        self.fetcher = fetcher
        self.fills = fills
        self.registry = registry
        self._damages = damages
        self._absences = NegativeCache(registry.database)
        self._health = health
        self._storing = storing
        self._log_limit = LogLimit()

    def find(self, request: Request, probe: Probe, *, hot: bool = False) -> Found:
        """What is here, or is to be asked for. With `hot`, what is good for all comes opened, to be kept at hand.

        Raises `PackageCacheError` with the status that its client is to be told.
        """
        if is_own(request.target):
            return self.own(request)
        self.refuse_loops(request)
        wanted = self.wanted(request)
        try:
            wanted = self.looked(wanted, self.registry.best)
            return (self._opened(request, wanted) if hot else None) or self.attempt(request, wanted, probe)
        except StoreError as error:
            return self.after_failure(request, wanted, error)

    def _opened(self, request: Request, wanted: Wanted) -> HotFile | None:
        """What is here and good for all, to be kept at hand."""
        seen = wanted.seen
        if seen is None or not wanted.is_hot(seen.representation):
            return None
        if self.linking(request, seen.representation) is None:
            with suppress(DamagedBlob):
                return self._open_hot(wanted, seen)
        return None

    def at_hand(self, request: Request, entry: Entry, blob: FileIO | bytes, cache_status: str, kind: str) -> Answer:
        """An answer from a blob that is open, which is the answer's then, or in hand."""
        reply = decide(request, entry.representation, self.serving(cache_status, entry.digest))
        return from_blob(reply, kind, blob, entry.representation.source)

    def may_ask(self, request: Request, wanted: Wanted) -> bool:
        """Whether a request may be answered with what a source says now, and nothing else has to be thought of.

        Raises `FillError` where one failed a moment ago.
        """
        looks = request.method == "HEAD" and wanted.seen is None  # which must not download it
        able = not looks and not wanted.stored_only and wanted.is_stored and self._storing.is_tried(wanted.key)
        if not able or (self.fetcher.are_aside(wanted.policy.repository) and not wanted.has_nothing_to_tell):
            return False
        self.leader.failures.check(wanted.key)
        return True

    def passes(self, request: Request, wanted: Wanted) -> bool:
        """Whether a request is answered by a source, and nothing is kept or has to be thought of. Raises `FillError`."""
        kept = wanted.is_stored and self._storing.is_tried(wanted.key)
        if kept or wanted.stored_only or request.method != "GET" or self.fetcher.are_aside(wanted.policy.repository):
            return False
        self.leader.failures.check(wanted.key)
        return True

    def linking(self, request: Request, head: Representation) -> Linking | None:
        """How links in an answer with that head are replaced for the client; None if they are not."""
        repository = self.routes.repository(request.target)
        return linking_of(repository, request.target, head, lambda: self.routes.base(request))

    def _open_hot(self, wanted: Wanted, seen: Entry) -> HotFile | None:
        """A version, opened; None if it is to be checked first. Raises DamagedBlob; what cannot be read is taken out."""
        row = self.checks.row(seen.digest, seen.size)
        blob = row if row is not None else self.checks.open(seen.digest, seen.size)
        return None if blob is None else self.hot(wanted, seen, blob)

    def hot(self, wanted: Wanted, seen: Entry, blob: FileIO | bytes) -> HotFile:
        """An open version, to be kept at hand. Raises DamagedBlob; what the disk cannot read is taken out at once."""
        file, body = (None, blob) if isinstance(blob, bytes) else (blob, None)
        hot = HotFile(seen, file, self.registry.generation.word(wanted.key), wanted.mark, body=body)
        hot.limit(wanted, self.via)
        return self._loaded(hot)

    def _loaded(self, hot: HotFile) -> HotFile:
        try:
            hot.load()
        except OSError as error:
            assert hot.file is not None  # a row is here already
            status, digest = os.fstat(hot.file.fileno()), hot.digest.hex()
            hot.close()
            self.take_out(digest, status)
            raise DamagedBlob(f"blob {digest} cannot be read: {error.strerror}") from error
        return hot

    def take_out(self, digest: str, status: os.stat_result) -> None:
        """Take out a blob, the file of that status, which the disk cannot read. Waits for who is about to mend it."""
        try:
            self._damages.take_out(digest, status.st_size, (status.st_dev, status.st_ino))
        except StoreError as error:
            level = self._log_limit.level(digest)
            logger.log(level, "blob %s cannot be read, and not be taken out: %s", digest, error)

    def own(self, request: Request) -> Answer:
        """What this cache says of itself. Waits for a bounded time."""
        as_json = "application/json" in request.fields.get("accept", "")
        return self._health.answer(request.target, self.serving("fwd=bypass"), as_json=as_json)

    def refuse_loops(self, request: Request) -> None:
        """Raise LoopDetected for a request that has come through here, or through too many others."""
        via = request.fields.get("via")
        if via is not None and self.via in via:
            raise LoopDetected("this request has passed through this cache before: a source leads back to it")
        if via is not None and len(via) > _LONGEST_VIA:
            raise LoopDetected("this request has passed through too many proxies")

    def wanted(self, request: Request, asking: RequestPolicy | None = None) -> Wanted:
        """What a request asks of the sources; `asking` is what its repository makes of it, if that is known."""
        target, fields = request.target, request.fields
        policy, accept, demand = asking or self.routes.policy(target).at(target).asked(fields)
        return Wanted(
            key_of(target, accept),
            target,
            policy,
            self.fetcher.offer(policy.repository, target, accept, fields.get("via")),
            time.time(),
            demand,
            normal_accept(fields.get("accept")) if accept is None else None,
        )

    def looked(self, wanted: Wanted, best: Callable[[Key], Entry | None]) -> Wanted:
        """The same, with the version that is here, which `best` finds: in this client's form, if there are several."""
        mark, seen = self.registry.mark(wanted.key), best(wanted.key)
        seen = None if seen is None else self.last_use.newest(seen)
        if seen is not None and wanted.differs(seen.representation):
            offer = self.fetcher.offer(wanted.policy.repository, wanted.target, wanted.unsaid, wanted.offer.via)
            return self.looked(replace(wanted, key=key_of(wanted.target, wanted.unsaid), offer=offer, unsaid=None), best)
        return wanted.looked(mark, seen)

    def post(self, request: Request, content: bytes) -> Pass:
        """How a POST is answered, with its content: by a source. Raises LoopDetected."""
        self.refuse_loops(request)
        return Pass(request, self.wanted(request), content)

    def tell_of_cut(self, request: str, error: FillError) -> None:
        """The connection of a client was cut, since the body of its answer could not go on."""
        logger.log(self._log_limit.level("cut"), "cut the connection of a client of %s: %s", request, error)

    def tell_of_trouble(self, error: PackageCacheError) -> None:
        """A request failed here, and neither by its client's nor by a source's fault."""
        logger.log(self._log_limit.level(type(error).__name__, logging.ERROR), "%s", error)

    def refuse(self, error: PackageCacheError) -> Answer:
        """The answer that tells a client what went wrong."""
        detail = f"fwd=uri-miss; fwd-status={error.http_status}" if isinstance(error, FillError) else "fwd=bypass"
        response = error.response if isinstance(error, FillError) else None
        if response is not None:
            reply, body = refused(response, self.serving(detail), error.retry_after), response.body
        else:
            reply, body = problem(error.http_status, str(error), self.serving(detail), error.retry_after)
        error.__traceback__ = None  # its frames hold whoever raised it again with it, and the client's socket
        return Answer(reply, "error", body, error=error)

    def serving(self, cache_status: str, digest: str | None = None) -> Serving:
        """What this cache has to say about an answer given now."""
        return Serving(cache_status, self.via, time.time(), digest)

    def attempt(self, request: Request, wanted: Wanted, probe: Probe) -> Found:
        """As `find`, for what was looked for."""
        for _ in range(_ATTEMPTS):
            entry = wanted.seen
            if entry is None or not wanted.is_fresh(entry.representation):
                return self._missed(request, wanted, probe)
            answer = self._from_store(request, entry, "hit", "hit")
            if answer is not None:
                return answer
            wanted = self.looked(wanted, self.registry.best)
        raise FillError("what is stored changes faster than it can be served", 503)

    def _missed(self, request: Request, wanted: Wanted, probe: Probe) -> Found:
        """As `attempt`, of what is not here, or to be asked for again."""
        if wanted.stored_only:
            raise NotStored("what is stored does not do for this request, and it wants no source to be asked")
        if self.fetcher.are_aside(wanted.policy.repository) and self._may_be_told_as_it_was(wanted):
            self._find_out(request, wanted, probe)
            return self.serve_stale(request, wanted, FillError("all its sources are set aside", 504))
        looks = wanted.seen is None and request.method == "HEAD"
        head = self._head_of_fill(request, wanted) if looks else None
        if head is not None:
            return head
        try:
            self.leader.failures.check(wanted.key)
        except FillError as error:
            return self.serve_stale(request, wanted, error)
        if looks or not wanted.is_stored or not self._storing.is_tried(wanted.key):
            return Pass(request, wanted)
        return wanted

    def _find_out(self, request: Request, wanted: Wanted, probe: Probe) -> None:
        """Have a source asked for what is wanted, if that is due: all of them are set aside. Waits for nothing."""
        if request.method == "HEAD" and wanted.seen is None:
            return  # a look at a file that is not here must not download it
        if not wanted.is_stored or not self._storing.is_tried(wanted.key) or wanted.key in self.fills.running:
            return
        with suppress(FillError):  # of this key another time; the next one asked for may do
            self.leader.failures.check(wanted.key)
            if self.fetcher.may_look(wanted.policy.repository):
                probe(request, wanted)

    def _from_store(self, request: Request, entry: Entry, cache_status: str, kind: str) -> Answer | None:
        """An answer from the entry's blob; None if that is damaged and was taken out."""
        linking = self.linking(request, entry.representation)
        if linking is not None:
            return self._linked_from_store(request, entry, linking, cache_status, kind)
        reply = decide(request, entry.representation, self.serving(cache_status, entry.digest))
        source = entry.representation.source
        self.last_use.note(entry)
        if reply.span is None:
            return Answer(reply, kind, source=source)
        body: FileIO | CheckedReader | SeveralReader
        try:
            if reply.pieces:
                body = SeveralReader(reply.pieces, self.checks.whole(entry.digest, entry.size))
            else:
                body = self.checks.begin(entry.digest, entry.size, reply.span)
        except DamagedBlob:
            self._damages.take_out(entry.digest, entry.size)
            return None
        return Answer(reply, kind, body, source)

    def _linked_from_store(
        self, request: Request, entry: Entry, linking: Linking, cache_status: str, kind: str
    ) -> Answer | None:
        """As `_from_store`, for a document whose links are replaced."""
        self.last_use.note(entry)
        serving = partial(self.serving, cache_status)
        try:
            return answer_linked(request, linking, entry.representation, lambda: self._read(entry), serving, kind)
        except DamagedBlob:
            self._damages.take_out(entry.digest, entry.size)
            return None

    def _read(self, entry: Entry) -> bytes:
        """All bytes of a version, hashed: the digest of what is made of them would not show that they rotted.

        Raises DamagedBlob.
        """
        body = self.checks.small(entry.digest, entry.size)
        if body is not None:
            return body
        with self.checks.whole(entry.digest, entry.size) as file:
            status = os.fstat(file.fileno())
            try:
                data = file.read()
            except OSError as error:
                self.take_out(entry.digest, status)
                raise DamagedBlob(f"blob {entry.digest} cannot be read: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != entry.digest:
            self.take_out(entry.digest, status)
            raise DamagedBlob(f"blob {entry.digest} has other bytes than its name says")
        return data

    def after_fill(self, request: Request, wanted: Wanted) -> Found:
        """What a fill that is over left in the registry: the entry confirmed, or a new one."""
        seen, current = wanted.seen, self.registry.best(wanted.key)
        if current is None or wanted.differs(current.representation):
            return self.again(request, wanted)
        # Who looked before it was committed has not seen what a source has confirmed after that.
        received = current.representation.received
        is_older = seen is None and received > current.created and received >= wanted.since
        if is_older or (seen is not None and seen.id == current.id):
            status, kind = "fwd=stale; fwd-status=304", "revalidated"
        elif seen is None or wanted.is_fresh(current.representation):
            status, kind = "hit", "hit"
        else:
            status, kind = "fwd=stale; collapsed", "joined"
        return self.from_version(request, wanted, current, status, kind)

    def again(self, request: Request, wanted: Wanted) -> Found:
        """What a request comes to from the beginning, since what it waited for is not an answer to it."""
        return self.attempt(request, self.looked(wanted, self.registry.best), no_probe)

    def from_version(self, request: Request, wanted: Wanted, entry: Entry, cache_status: str, kind: str) -> Found:
        """The answer from a version that is here; what is damaged is looked for again."""
        return self._from_store(request, entry, cache_status, kind) or self.again(request, wanted)

    def after_failure(self, request: Request, wanted: Wanted, error: PackageCacheError) -> Answer | Pass:
        """What may be had all the same: from a source, if the disk alone failed; else from the store, as it was.

        Raises `error` where there is nothing.
        """
        if isinstance(error, StoreError):
            self._storing.failed(wanted.key, error)
        if isinstance(error, StoreError) or error.http_status == UNSTORABLE:
            return Pass(request, wanted)
        return self.serve_stale(request, wanted, error)

    def serve_stale(self, request: Request, wanted: Wanted, error: PackageCacheError) -> Answer:
        """What is here, as it was, where no source delivers. Raises `error` where there is nothing."""
        seen = wanted.seen or self.registry.best(wanted.key)  # the fill before may have been about to commit
        if seen is None or wanted.differs(seen.representation):
            seen = self._other_form(request, wanted, error)
        absence = self._absence(wanted, seen, error)
        if absence is not None:
            raise absence
        if seen is None or not wanted.may_be_stale(seen.representation):
            raise error
        answer = None
        with suppress(StoreError):  # it cannot be had from the disk either
            answer = self._from_store(request, seen, "fwd=stale", "stale")
        if answer is None:
            raise error
        logger.info("%s is served as it was on %s: %s", wanted.target.text, seen.representation.get("date"), error)
        return answer

    def _other_form(self, request: Request, wanted: Wanted, error: PackageCacheError) -> Entry | None:
        """What was stored for a client with another Accept, if this one takes it too, while no source can be asked."""
        if not is_unreached(error):
            return None
        accept = request.fields.get("accept")
        forms = self.registry.forms(key_of(wanted.target))
        rated = [(quality(accept, one.representation.get("content-type")), one) for one in forms]
        welcome = [form for form in rated if form[0] > 0]
        return max(welcome, key=lambda form: (form[0], form[1].representation.received))[1] if welcome else None

    def _may_be_told_as_it_was(self, wanted: Wanted) -> bool:
        """Whether something is here that may be served, or it is known that there was nothing."""
        seen = wanted.seen
        if seen is not None and wanted.may_be_stale(seen.representation) and not wanted.differs(seen.representation):
            return True
        return not wanted.is_for_ever and seen is None and self._absences.is_known(wanted.key, 0.0)

    def _absence(self, wanted: Wanted, seen: Entry | None, error: PackageCacheError) -> PackageCacheError | None:
        """What to tell of a thing that is nowhere. Of an index that was nowhere before, clients are told so again."""
        if error.http_status in (404, 410):
            if seen is not None and wanted.is_lasting(seen.representation):
                return None
            if not wanted.is_for_ever:
                self._absences.note(wanted.key)
            return error
        after = seen.representation.received if seen else 0.0
        if wanted.is_for_ever or not is_unreached(error) or not self._absences.is_known(wanted.key, after):
            return None
        return FillError(f"no source had it when they could be asked; now: {error}", 404)

    def rescue(self, wanted: Wanted, known: Representation, reader: FillReader, at: int) -> PassThrough:
        """The rest of a file from a source, for a reader whose fill the disk has ended. Raises `FillError`."""
        rest = PassThrough(wanted.offer, partial(self.leader.failures.settle, wanted.key), known, at, reader.kept())
        rest.start(self.fills.threads.run)
        return rest

    def _head_of_fill(self, request: Request, wanted: Wanted) -> Answer | None:
        """The head that a running download has got already; whoever looks at it begins none and waits for none."""
        journal = None
        with suppress(StoreError, OSError, ValueError):
            journal = self.fills.look(wanted.key)
        head = known(journal, request) if journal is not None and journal.failed is None else None
        if journal is None or head is None or wanted.differs(head) or is_outdated(journal, wanted):
            return None
        reply = decide(request, head, self.serving("fwd=uri-miss; collapsed", journal.digest))
        return Answer(reply, "joined", source=head.source)


def is_outdated(journal: Journal, wanted: Wanted) -> bool:
    """Whether a fill answers an earlier question than that of a request which joins it now.

    An index that is here with every byte may have another content at its source by now. A package file has not.
    """
    head, digest = journal.head, journal.digest
    return head is not None and digest is not None and not wanted.is_met_by(head)


def known(journal: Journal, request: Request) -> Representation | None:
    """The head to answer with, once enough is known of it.

    Without a length, only a client that can tell a cut body from a whole one is answered before the end, and no range is.
    """
    if journal.head is None or not (journal.confirmed or journal.digest):
        return None
    if journal.digest is not None:
        return replace(journal.head, size=journal.size)
    if journal.head.size is None and (not request.modern or "range" in request.fields):
        return None
    return journal.head


def is_unreached(error: PackageCacheError) -> bool:
    """Whether an error says that no source could be asked, or that all of them want to be asked later."""
    if isinstance(error, FillError) and error.response is not None:
        return error.http_status >= 500 or error.http_status == 429
    return error.http_status in (502, 504) or (error.http_status == 503 and error.retry_after is not None)
