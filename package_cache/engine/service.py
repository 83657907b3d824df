"""The one object that the servers and the library talk to: a request in, an `Answer` out.

Brings together what the registry knows, what the rules decide and what the fills fetch. Knows nothing of WSGI or sockets.
`begin` never waits for a source: where the answer depends on a fill it returns a `Pending`, which a server with an event
loop looks at from time to time, and which `answer` waits for.
"""

import hashlib
import logging
import math
import os
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from io import FileIO

from package_cache.engine.answers import Answer
from package_cache.engine.checks import CheckedReader, Checks
from package_cache.engine.fills.fill import Fill, FillReader, Fills
from package_cache.engine.fills.leader import Leader
from package_cache.engine.fills.line import Run
from package_cache.engine.fills.storing import UNSTORABLE, Storing
from package_cache.engine.health import Health
from package_cache.engine.hotset import HotFile
from package_cache.engine.linked import answer_linked, read_document
from package_cache.engine.pending import LATE, Pending, is_outdated, known
from package_cache.engine.relay import Kept, Relay
from package_cache.engine.seldom import Seldom
from package_cache.engine.several import SeveralReader
from package_cache.engine.upkeep.caretaker import Caretaker
from package_cache.engine.upkeep.damage import Damages
from package_cache.engine.upkeep.last_use import LastUse
from package_cache.engine.upkeep.room import Room
from package_cache.engine.wanted import Wanted
from package_cache.errors import (
    DamagedBlob,
    FillError,
    LoopDetected,
    PackageCacheError,
    StoreError,
    UpstreamError,
    UpstreamTimeout,
)
from package_cache.model import Entry, Representation, Request, Span
from package_cache.rules.http.accept import quality
from package_cache.rules.http.answer import Serving, decide, passed, problem, whole
from package_cache.rules.http.targets import key_of
from package_cache.rules.repositories.freshness import normal_accept
from package_cache.rules.repositories.links import Linking, linking_of
from package_cache.rules.repositories.routes import Routes, is_own
from package_cache.rules.transfers.steps import Ask, Broke, GiveUp, Receive
from package_cache.rules.transfers.transfer import Transfer
from package_cache.storage.absences import Absences
from package_cache.storage.blobs import BlobStore
from package_cache.storage.registry import Registry
from package_cache.upstream.fetcher import Fetcher

logger = logging.getLogger(__name__)

_OF_POST = frozenset({"accept", "content-type", "content-encoding", "content-language"})
"""Fields of a POST that a source is told."""
MOMENT = 0.3
"""Seconds that sources get which are all set aside, where something is here that can be served instead."""
_LONGEST_VIA = 2048
"""Characters of a Via that are passed on to sources: some dozens of proxies."""
_ATTEMPTS = 5
"""How often a request starts over because what it found was gone when it looked."""


class Service:
    """Answers requests from the store and, where it must, from the sources. Safe for any number of threads."""

    def __init__(
        self,
        registry: Registry,
        blobs: BlobStore,
        fills: Fills,
        fetcher: Fetcher,
        last_use: LastUse,
        room: Room,
        damages: Damages,
        checks: Checks,
        caretaker: Caretaker,
        health: Health,
        via: str,
        routes: Routes,
    ) -> None:
        self.routes = routes
        self._registry = registry
        self.generation = registry.generation
        self._fills = fills
        self._fetcher = fetcher
        self._last_use = last_use
        self._damages = damages
        self._checks = checks
        self.caretaker = caretaker
        self._absences = Absences(registry.database)
        self._health = health
        self._storing = Storing(time.monotonic)
        self._leader = Leader(registry, blobs, self._storing, room)
        self.via = via
        self._seldom = Seldom()

    @property
    def is_idle(self) -> bool:
        """Whether it downloads nothing, and nobody waits for a download."""
        return not self._fills.running

    @property
    def is_settled(self) -> bool:
        """Whether every file that clients have whole is stored, or could not be."""
        return self._leader.is_settled

    def retire(self) -> None:
        """Another service has its place: keep nothing in order any more. What runs comes to its end."""
        self._leader.close()
        self.caretaker.close()

    def close(self) -> None:
        """Write what is pending and close what is idle. Running downloads go on until the process ends."""
        self._leader.close()
        # Who still waits for the disk has the registry's lock, and may never give it back.
        settled = self._leader.is_settled
        self._last_use.close(write=settled)
        self.caretaker.close()
        self._fetcher.close()
        if settled:
            self._registry.close()

    def answer(self, request: Request) -> Answer:
        """Answer a request, waiting for a source where it must.

        Raises `PackageCacheError` with the status a client is to be told.
        """
        step = self.begin(request)
        while isinstance(step, Pending):
            if step.far_ahead:
                step = self.leap(step)
                continue
            step.wait()
            step = step.advance()
        return step

    def leap(self, pending: Pending) -> Answer | Pending:
        """An answer with a range fetched beside the fill it waits for; if that cannot be had, what waited."""
        return pending.leap() or pending

    def seek(self, request: Request, run: Run) -> HotFile | Answer | Pending:
        """As `begin`, but a package file that is here comes opened, to be kept at hand. Raises `PackageCacheError`."""
        if is_own(request.target):
            return self._own(request)
        self._refuse_loops(request)
        wanted = self._wanted(request)
        try:
            wanted = self._look(wanted)
            if wanted.seen is not None and self._is_hot(request, wanted, wanted.seen.representation):
                with suppress(DamagedBlob):
                    hot = self._open_hot(wanted, wanted.seen)
                    if hot is not None:
                        return hot
            return self.attempt(request, wanted, 1, run)
        except StoreError as error:
            return self.after_failure(request, wanted, error)

    def _is_hot(self, request: Request, wanted: Wanted, head: Representation) -> bool:
        """Whether every client gets these bytes, for ever, and this one wants no source to be asked."""
        return wanted.is_hot(head) and self.linking(request, head) is None

    def linking(self, request: Request, head: Representation) -> Linking | None:
        """How links in an answer with that head are replaced for the client; None if they are not."""
        repository = self.routes.repository(request.target)
        return linking_of(repository, request.target, head, lambda: self.routes.base(request))

    def _open_hot(self, wanted: Wanted, seen: Entry) -> HotFile | None:
        """A version, opened; None if it is to be checked first. Raises DamagedBlob; what cannot be read is taken out."""
        file = self._checks.open(seen.digest, seen.size)
        if file is None:
            return None
        hot = HotFile(seen, file, self.generation.word(wanted.key), wanted.mark)
        try:
            hot.load()
        except OSError as error:
            status = os.fstat(file.fileno())
            file.close()
            self.take_out(seen.digest, status)
            raise DamagedBlob(f"blob {seen.digest} cannot be read: {error.strerror}") from error
        return hot

    def take_out(self, digest: str, status: os.stat_result) -> None:
        """Take out a blob, the file of that status, which the disk cannot read. Waits for who is about to mend it."""
        try:
            self._damages.take_out(digest, status.st_size, (status.st_dev, status.st_ino))
        except StoreError as error:
            level = self._seldom.level(digest)
            logger.log(level, "blob %s cannot be read, and not be taken out: %s", digest, error)

    def run(self, job: Callable[[], None]) -> None:
        """Run a job in a thread of its own. Raises RuntimeError if the system gives none."""
        self._fills.threads.run(job)

    def note_use(self, used: Mapping[int, float]) -> None:
        """Entries were served from the hot set; by id, in seconds of the epoch."""
        self._last_use.note_all(used)

    def begin(self, request: Request) -> Answer | Pending:
        """Answer a request, or join the fill that will. Raises `PackageCacheError`."""
        self.caretaker.begin()
        if is_own(request.target):
            return self._own(request)
        self._refuse_loops(request)
        wanted = self._wanted(request)
        try:
            return self.attempt(request, self._look(wanted), 1)
        except StoreError as error:
            return self.after_failure(request, wanted, error)

    def _own(self, request: Request) -> Answer:
        """What this cache says of itself. Waits for a bounded time."""
        as_json = "application/json" in request.fields.get("accept", "")
        return self._health.answer(request.target, self.serving("fwd=bypass"), as_json=as_json)

    def _refuse_loops(self, request: Request) -> None:
        via = request.fields.get("via", "")
        if self.via in via:
            raise LoopDetected("this request has passed through this cache before: a source leads back to it")
        if len(via) > _LONGEST_VIA:
            raise LoopDetected("this request has passed through too many proxies")

    def _wanted(self, request: Request) -> Wanted:
        target = request.target
        policy = self.routes.policy(target)
        said = request.fields.get("accept")
        accept = policy.accept_of(target, said)
        return Wanted(
            key_of(target, accept),
            target,
            policy,
            self._fetcher.offer(policy.repository, target, accept, request.fields.get("via")),
            time.time(),
            policy.demanded(target, request.fields),
            normal_accept(said) if accept is None else None,
        )

    def _look(self, wanted: Wanted) -> Wanted:
        mark, seen = self._registry.mark(wanted.key), self._registry.best(wanted.key)
        if seen is not None and wanted.differs(seen.representation):
            offer = self._fetcher.offer(wanted.policy.repository, wanted.target, wanted.unsaid, wanted.offer.via)
            return self._look(replace(wanted, key=key_of(wanted.target, wanted.unsaid), offer=offer, unsaid=None))
        return wanted.looked(mark, seen)

    def post(self, request: Request, content: bytes) -> Answer:
        """Pass a POST on, and what a source answers to it; nothing is kept. Waits for the source. Raises `FillError`."""
        self._refuse_loops(request)
        repository = self.routes.repository(request.target)
        said = tuple((name, value) for name, value in request.fields.items() if name in _OF_POST)
        try:
            head, body = self._fetcher.post(repository, request.target, said, content)
        except UpstreamError as error:
            raise FillError(str(error), 504 if isinstance(error, UpstreamTimeout) else 502) from error
        known = head.representation
        reply = passed(head.status, known.fields, len(body), self.serving(f"fwd=method; fwd-status={head.status}"))
        return Answer(reply, "passed", body, known.source)

    def tell_of_cut(self, request: str, error: FillError) -> None:
        """The connection of a client was cut, since the body of its answer could not go on."""
        logger.log(self._seldom.level("cut"), "cut the connection of a client of %s: %s", request, error)

    def tell_of_trouble(self, error: PackageCacheError) -> None:
        """A request failed here, and neither by its client's nor by a source's fault."""
        logger.log(self._seldom.level(type(error).__name__, logging.ERROR), "%s", error)

    def refuse(self, error: PackageCacheError) -> Answer:
        """The answer that tells a client what went wrong."""
        detail = f"fwd=uri-miss; fwd-status={error.http_status}" if isinstance(error, FillError) else "fwd=bypass"
        reply, body = problem(error.http_status, str(error), self.serving(detail), error.retry_after)
        return Answer(reply, "error", body)

    def serving(self, cache_status: str, digest: str | None = None) -> Serving:
        """What this cache has to say about an answer given now."""
        return Serving(cache_status, self.via, time.time(), digest)

    def attempt(self, request: Request, wanted: Wanted, number: int, run: Run | None = None) -> Answer | Pending:
        """An answer from what is here, or a fill to wait for, whose download gets its thread from `run`."""
        while number <= _ATTEMPTS:
            entry = wanted.seen
            if entry is None or not wanted.is_kept(entry.representation):
                patience = self._patience(wanted)
                if patience == 0.0:
                    return self._serve_stale(request, wanted, FillError(LATE, 504))
                if entry is None and request.method == "HEAD":
                    return self._head_of_fill(request, wanted) or self._answer_head(request, wanted)
                try:
                    self._leader.failures.check(wanted.key)
                except FillError as error:
                    return self._serve_stale(request, wanted, error)
                if not wanted.is_stored or not self._storing.is_tried(wanted.key):
                    return self._pass_on(request, wanted)
                lead, is_here = partial(self._leader.lead, wanted), partial(self._leader.is_here, wanted)
                fill, joined = self._fills.join(wanted.key, lead, run, request.client, is_here)
                until = time.monotonic() + patience
                return Pending(self, request, wanted, fill, joined=joined, number=number, until=until).advance()
            answer = self._from_store(request, entry, "hit", "hit")
            if answer is not None:
                return answer
            number, wanted = number + 1, self._look(wanted)
        raise FillError("what is stored changes faster than it can be served", 503)

    def again(self, request: Request, wanted: Wanted, number: int) -> Answer | Pending:
        """Answer a request from the beginning, since what it waited for is not an answer to it."""
        return self.attempt(request, self._look(wanted), number + 1)

    def _from_store(self, request: Request, entry: Entry, cache_status: str, kind: str) -> Answer | None:
        """An answer from the entry's blob; None if that is damaged and was taken out."""
        linking = self.linking(request, entry.representation)
        if linking is not None:
            return self._linked_from_store(request, entry, linking, cache_status, kind)
        reply = decide(request, entry.representation, self.serving(cache_status, entry.digest))
        source = entry.representation.source
        self._last_use.note(entry)
        if reply.span is None:
            return Answer(reply, kind, source=source)
        body: FileIO | CheckedReader | SeveralReader
        try:
            if reply.pieces:
                body = SeveralReader(reply.pieces, self._checks.whole(entry.digest, entry.size))
            else:
                body = self._checks.begin(entry.digest, entry.size, reply.span)
        except DamagedBlob:
            self._damages.take_out(entry.digest, entry.size)
            return None
        return Answer(reply, kind, body, source)

    def _linked_from_store(
        self, request: Request, entry: Entry, linking: Linking, cache_status: str, kind: str
    ) -> Answer | None:
        """As `_from_store`, for a document whose links are replaced."""
        self._last_use.note(entry)
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
        with self._checks.whole(entry.digest, entry.size) as file:
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

    def after_fill(self, request: Request, wanted: Wanted, number: int) -> Answer | Pending:
        """What a fill that is over left in the registry: the entry confirmed, or a new one."""
        seen, current = wanted.seen, self._registry.best(wanted.key)
        if current is None or wanted.differs(current.representation):
            return self.again(request, wanted, number)
        # Who looked before it was committed has not seen what a source has confirmed after that.
        received = current.representation.received
        is_older = seen is None and received > current.created and received >= wanted.since
        if is_older or (seen is not None and seen.id == current.id):
            status, kind = "fwd=stale; fwd-status=304", "revalidated"
        elif seen is None or wanted.is_kept(current.representation):
            status, kind = "hit", "hit"
        else:
            status, kind = "fwd=stale; collapsed", "joined"
        return self._from_store(request, current, status, kind) or self.again(request, wanted, number)

    def after_failure(self, request: Request, wanted: Wanted, error: PackageCacheError) -> Answer:
        """What may be had all the same: from a source, if the disk alone failed; else from the store, as it was.

        Raises `error` where there is nothing.
        """
        if isinstance(error, StoreError):
            self._storing.failed(wanted.key, error)
        if isinstance(error, StoreError) or error.http_status == UNSTORABLE:
            return self._pass_on(request, wanted)
        return self._serve_stale(request, wanted, error)

    def _serve_stale(self, request: Request, wanted: Wanted, error: PackageCacheError) -> Answer:
        seen = wanted.seen or self._registry.best(wanted.key)  # the fill before may have been about to commit
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
        if not _is_unreached(error):
            return None
        accept = request.fields.get("accept")
        forms = [
            (quality(accept, one.representation.get("content-type")), one)
            for one in self._registry.forms(key_of(wanted.target))
        ]
        welcome = [form for form in forms if form[0] > 0]
        return max(welcome, key=lambda form: (form[0], form[1].representation.received))[1] if welcome else None

    def _patience(self, wanted: Wanted) -> float:
        """How many seconds to wait for the sources before what is here is served as it was.

        That is none while all of them are set aside; a moment for the one request in a while that finds out how they are,
        and for those that ask for the same.
        """
        repository = wanted.policy.repository
        if not self._fetcher.are_aside(repository) or not self._may_be_told_as_it_was(wanted):
            return math.inf
        looks = wanted.key in self._fills.running or self._fetcher.may_look(repository)
        return MOMENT if wanted.is_stored and looks else 0.0

    def _may_be_told_as_it_was(self, wanted: Wanted) -> bool:
        """Whether something is here that may be served, or it is known that there was nothing."""
        seen = wanted.seen
        if seen is not None and wanted.may_be_stale(seen.representation) and not wanted.differs(seen.representation):
            return True
        return not wanted.is_for_ever and seen is None and self._absences.is_known(wanted.key, 0.0)

    def _absence(self, wanted: Wanted, seen: Entry | None, error: PackageCacheError) -> PackageCacheError | None:
        """What to tell of a thing that is nowhere. Of an index that was nowhere before, clients are told so again."""
        if error.http_status == 404:
            if seen is not None and wanted.is_lasting(seen.representation):
                return None
            if not wanted.is_for_ever:
                self._absences.note(wanted.key)
            return error
        after = seen.representation.received if seen else 0.0
        if wanted.is_for_ever or not _is_unreached(error) or not self._absences.is_known(wanted.key, after):
            return None
        return FillError(f"no source had it when they could be asked; now: {error}", 404)

    def _pass_on(self, request: Request, wanted: Wanted) -> Answer:
        """An answer from a source, of which nothing is kept. Waits for the source."""
        relay = self._relay(wanted)
        try:
            representation = relay.open()
            linking = self.linking(request, representation)
            if linking is not None:
                return self._pass_linked(request, linking, representation, relay)
        except FillError as error:
            if wanted.seen is None:
                raise
            return self._serve_stale(request, wanted, error)
        serving = self.serving("fwd=uri-miss; fwd-status=200")
        reply = decide(request, representation, serving)
        if reply.pieces:
            reply = decide(whole(request), representation, serving)  # what passes by passes once
        answer = Answer(reply, "passed", source=representation.source)
        if reply.open_ended and not request.modern:
            relay.close()
            raise FillError("its length is not known before its end, and it cannot be kept until then", 502)
        if reply.span is None and not reply.open_ended:
            relay.close()
            return answer
        return replace(answer, body=relay)

    def _pass_linked(self, request: Request, linking: Linking, head: Representation, relay: Relay) -> Answer:
        """As `_pass_on`, for a document whose links are replaced. Raises `FillError`."""
        told = partial(self.serving, "fwd=uri-miss; fwd-status=200")
        try:
            return answer_linked(request, linking, head, partial(read_document, relay), told, "passed")
        finally:
            relay.close()

    def _relay(self, wanted: Wanted, known: Representation | None = None, at: int = 0, kept: Kept | None = None) -> Relay:
        ended = partial(self._leader.failures.settle, wanted.key)
        return Relay(wanted.offer, ended, known, at, kept)

    def rescue(
        self, wanted: Wanted, known: Representation, reader: FillReader, span: Span | None, at: int
    ) -> Generator[bytes, None, None]:
        """The rest of a file from a source, for a reader whose fill the disk has ended. Raises `FillError`."""
        relay = self._relay(wanted, known, at, reader)
        try:
            yield from relay.read(Span(at, span.stop) if span else None)
        finally:
            relay.close()

    def leave(self, fill: Fill) -> None:
        """One request less waits for the fill."""
        self._fills.leave(fill)

    def _head_of_fill(self, request: Request, wanted: Wanted) -> Answer | None:
        """The head that a running download has got already; whoever looks at it begins none and waits for none."""
        journal = None
        with suppress(StoreError, OSError, ValueError):
            journal = self._fills.look(wanted.key)
        head = known(journal, request) if journal is not None and journal.failed is None else None
        if journal is None or head is None or wanted.differs(head) or is_outdated(journal, wanted):
            return None
        reply = decide(request, head, self.serving("fwd=uri-miss; collapsed", journal.digest))
        return Answer(reply, "joined", source=head.source)

    def _answer_head(self, request: Request, wanted: Wanted) -> Answer:
        """The answer to HEAD for a file that is not here, or is here in another form."""
        try:
            return self._relay_head(request, wanted)
        except FillError as error:
            if not _is_unreached(error):
                raise
            return self._serve_stale(request, wanted, error)

    def _relay_head(self, request: Request, wanted: Wanted) -> Answer:
        """Ask the sources themselves: a look at a file that is not here must not download it."""
        self._leader.failures.check(wanted.key)
        transfer = Transfer(wanted.offer.urls)
        action = transfer.start()
        while isinstance(action, Ask):
            try:
                answer = wanted.offer.open(action, "HEAD")
                answer.close()
            except UpstreamError as error:
                slow, rest = isinstance(error, UpstreamTimeout), error.retry_after
                action = transfer.next(Broke(str(error), error.again, slow, retry_after=rest))
            else:
                action = transfer.next(replace(answer.head, chunked=True))
            if transfer.fault is not None:
                wanted.offer.failed(*transfer.fault)
        if not isinstance(action, Receive) or action.begin is None:
            assert isinstance(action, GiveUp)
            raise self._leader.failures.note(wanted.key, action.status, action.reason, action.retry_after)
        linking = self.linking(request, action.begin)
        head = action.begin if linking is None else linking.head(action.begin, None)
        reply = decide(request, head, self.serving("fwd=uri-miss; fwd-status=200"))
        return Answer(reply, "relayed", source=head.source)


def _is_unreached(error: PackageCacheError) -> bool:
    """Whether an error says that no source could be asked, or that all of them want to be asked later."""
    return error.http_status in (502, 504) or (error.http_status == 503 and error.retry_after is not None)
