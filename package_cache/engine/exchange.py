"""Exchanges: what the loop itself asks a source for, one a key, whoever waits for it.

An exchange holds the lease of its key, and asks one source after the other, through redirects, as a `Transfer`
says. A body that ends within `storage.blobs.SMALL` bytes is verified in memory, answered and then stored; a confirmation
(304) changes memory only, and is written with the times of last use. A larger body, and what the disk has a say in, becomes
a fill under the same lease, which goes on with the same transfer and with what the source said here, so that nothing is
asked twice. Belongs to the loop's thread. Threads store; nobody here waits for them.
"""

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from http import HTTPStatus

from package_cache.engine.answers import Answer
from package_cache.engine.desk import Desk, Found
from package_cache.engine.fills.fill import Fill
from package_cache.engine.fills.pump import Underway
from package_cache.engine.fills.running import Leads
from package_cache.engine.fills.sinks import MemorySink
from package_cache.engine.hotset import HotFile
from package_cache.engine.inquiry import Inquiry, first_of, wire_of
from package_cache.engine.learning import Learner
from package_cache.engine.looks import Looks
from package_cache.engine.passing import Passing, Posting
from package_cache.engine.settling import Settling
from package_cache.engine.side_requests import SideRequest, side_request
from package_cache.engine.threads import Run
from package_cache.engine.waiting import FillWait, Waiter
from package_cache.engine.wanted import Pass, Wanted
from package_cache.errors import FillError, PackageCacheError, StoreError
from package_cache.model import Entry, Key, Representation
from package_cache.rules.http.answer import decide
from package_cache.rules.http.caching import refreshed
from package_cache.rules.http.response import FILES
from package_cache.rules.transfers.signatures import FIRST, wrong_type
from package_cache.rules.transfers.steps import Action, Answered, Ask, Finish, GiveUp, NotModified
from package_cache.rules.transfers.transfer import Transfer, accepts, first_ask
from package_cache.storage.database.schema import SMALL
from package_cache.storage.parts.leases import Failed, Lease
from package_cache.upstream.events import Events
from package_cache.upstream.fetcher import First, SourceOffer
from package_cache.upstream.pool import Begun, Cut, Outcome, Pool, Whole

logger = logging.getLogger(__name__)

_ABSENT = frozenset({403, 404, 410, 451, 508})
"""What clients are told where every source says that it does not have the file."""
_MOMENT_SECONDS = 1.0
"""How long a request for a head waits for a download that has none yet."""
_BEAT_SECONDS = 10.0
"""Between two signs of life to other processes, which give up after `fill.STUCK`."""
_TICK_SECONDS = 1.0
_ATTEMPTS = 5
"""How often a request starts over because what it found was gone when it looked."""
_QUIET_SECONDS = 0.25
"""After which there is one before another source is asked."""


Shown = tuple[Representation, bytes]
"""The head of a large file, and its first bytes."""


class Exchange(Inquiry):
    """One of them. The first of `waiting` began it."""

    def __init__(
        self,
        all_: "Exchanges",
        lease: Lease,
        waiting: list[Waiter],
        urls: tuple[str, ...],
        ask: Ask,
        begun: float | None = None,
    ) -> None:
        wanted, client = waiting[0].wanted, waiting[0].request.client
        super().__init__(all_.pool, wanted.offer, client, begun)
        self._urls = urls
        self._question = ask
        self._all = all_
        self._lease = lease
        self.waiting = waiting
        self._beaten = time.monotonic()
        """When other processes were shown a sign of life."""

    def _make_sink(self) -> MemorySink:
        return MemorySink(self.waiting[0].wanted.examined)

    def _make_transfer(self) -> Transfer:
        """Nearly always the first source has it, and nobody else has to be thought of."""
        transfer = Transfer(self._urls, 0, None, self.waiting[0].wanted.held)
        transfer.start()
        return transfer

    def _heed(self, outcome: Outcome) -> Action | None:
        """As `Inquiry` wants it. Where the disk refuses, a fill finds out what to do about it."""
        try:
            if isinstance(outcome, Whole) and (self._made is None or not self._sink.size) and self._take(outcome):
                return None
            return self._weigh(outcome)
        except StoreError as error:
            logger.warning("%s: %s", self.waiting[0].wanted.text, error)
            self._hand_over(first_of(outcome), underway=False)
            return None

    def _weigh(self, outcome: Outcome) -> Action | None:
        """As `_heed`, by the transfer. Raises StoreError."""
        leader = self._all.desk.leader
        room = SMALL if self._is_small(outcome) and leader.takes_room(SMALL) else 0
        if not room and not self._is_held(outcome):
            self._hand_over(first_of(outcome), shown=self._shown(outcome))
            return None
        try:
            action = self._perform(outcome)
            if isinstance(action, Finish):
                assert self._sink.head is not None  # there is no end without a body
                room -= self._sink.size
                self._keep(self._sink.head, self._sink.data)
                return None
        finally:
            leader.give_room(room)
        if isinstance(action, NotModified):
            if not self._confirm(action.head):
                self._hand_over(first_of(outcome))
            return None
        return action

    def _is_small(self, outcome: Outcome) -> bool:
        """Whether it is of a small file that is to be stored as it is."""
        if not isinstance(outcome, Whole | Cut) or outcome.head.status not in FILES:
            return False
        head, size = self._offer.head(self._question, outcome.head).representation, len(outcome.body)
        return self._sink.size + size <= SMALL and not self.waiting[0].wanted.is_other(head, size)

    def _shown(self, outcome: Outcome) -> Shown | None:
        """Answer who wants but the head of a large file. What others may have at once, as nothing speaks against it."""
        if not isinstance(outcome, Begun):
            return None
        head, first = self._offer.head(self._question, outcome.head), outcome.taken.first
        said = head.representation
        if head.status != HTTPStatus.OK or not self._transfer.accepts(head) or self._sink.size or said.size is None:
            return None
        self._tell_heads(said)
        if len(first) < FIRST or self.waiting[0].wanted.is_other(said, said.size) or self._is_disguised(said, first):
            return None
        if not self._all.desk.leader.takes_room(said.size):
            return None
        self._all.desk.leader.give_room(said.size)  # there is some; who writes takes it
        return said, first

    def _tell_heads(self, said: Representation) -> None:
        able = [it for it in self.waiting[1:] if it.request.method == "HEAD" and not it.wanted.differs(said)]
        self.waiting = [it for it in self.waiting if all(it is not one for one in able)]
        for waiter in able:
            linking = self._all.desk.linking(waiter.request, said) if self._offer.has_own else None
            known = said if linking is None else linking.head(said, None)
            reply = decide(waiter.request, known, self._all.desk.serving("fwd=uri-miss; collapsed"))
            waiter.ready(Answer(reply, "joined", source=said.source))

    def _take(self, answer: Whole) -> bool:
        """Whether an answer is what nearly every one is, which is dealt with here; if not, the transfer has not seen it."""
        head = self._offer.head(self._question, answer.head)
        if head.status == 304:
            return self._transfer.confirms(head) and self._confirm(head.representation, served=True)
        if head.status != 200:
            return False
        made, held = self._made, self.waiting[0].wanted.held
        accepted = accepts(head, held) if made is None else made.accepts(head)
        return accepted and self._take_body(head, answer.body)

    def _take_body(self, head: Answered, body: bytes) -> bool:
        """Whether a body is what was asked for; then it is answered, and stored."""
        wanted, said, size = self.waiting[0].wanted, head.representation, len(body)
        if said.size not in (None, size) or wanted.is_other(said, size) or not self._is_sound(head, body):
            return False
        try:
            known = wanted.examined(said.of_size(size), lambda: body)
        except ValueError:
            return False
        if not self._all.desk.leader.takes_room(size):
            return False
        self._keep(known, body)
        self._offer.served(self._question, head.status, time.monotonic() - self._begun)
        return True

    def _confirm(self, said: Representation, *, served: bool = False) -> bool:
        """A source says that what is here is still so; it has `served`, which is to be noted."""
        wanted = self.waiting[0].wanted
        seen = wanted.seen
        assert seen is not None  # only a version makes a request conditional
        known = refreshed(seen.representation, said)
        try:
            if known.good_until is None:
                wanted.examined(known, _unread)
        except ValueError:
            return False
        if wanted.is_fresh(known):
            return False  # good for a while: the other processes are to know
        self._all.desk.leader.failures.forget(wanted.key)
        if served:
            self._offer.served(self._question, HTTPStatus.NOT_MODIFIED, time.monotonic() - self._begun)
        entry = seen.told(known)
        self._all.desk.last_use.confirm(seen, entry)
        self._all.end(self)
        self._give_back(None)
        for waiter in self.waiting:
            self._answer_confirmed(waiter, entry)
        return True

    def _answer_confirmed(self, waiter: Waiter, entry: Entry) -> None:
        if waiter.wanted.differs(entry.representation):
            waiter.ready(None)
            return
        desk, request, told = self._all.desk, waiter.request, ("fwd=stale; fwd-status=304", "revalidated")
        blob = None
        if not self._offer.has_own or desk.linking(request, entry.representation) is None:
            with suppress(StoreError):  # a thread has to compare it first
                blob = desk.checks.at_once(entry.digest, entry.size)
        if blob is None:
            self._all.defer(waiter, partial(desk.from_version, request, waiter.wanted, entry, *told))
        else:
            waiter.ready(desk.at_hand(request, entry, blob, *told))

    def _keep(self, head: Representation, data: bytes) -> None:
        """A body came whole, is what was asked for, and has room: answer with it, and store it."""
        self._all.end(self)
        self._all.desk.leader.failures.forget(self.waiting[0].wanted.key)
        self._all.settling.begin(self._lease, self.waiting, head, data)

    # -- what no source delivered

    def _give_up(self, end: GiveUp) -> None:
        """Answer who waits with what may be had all the same."""
        failed = self._all.desk.leader.gave_up(self.waiting[0].wanted, self._transfer, end)
        error = FillError(failed.reason, failed.status, failed.retry_after, failed.response)
        self._all.end(self)
        quick, desk = not self._lease.exposed, self._all.desk
        self._give_back(failed)
        for waiter in self.waiting:
            request, wanted = waiter.request, waiter.wanted
            if quick and not self._all.desk.leader.has_changed(wanted) and _is_plainly_absent(wanted, failed.status):
                waiter.ready(desk.refuse(error))
            else:
                self._all.defer(waiter, partial(desk.after_failure, request, wanted, error))

    def _give_back(self, failed: Failed | None) -> None:
        """Give a lease back. Where others were shown something, the disk has a say in that, and a thread does it."""
        if self._lease.exposed:
            with suppress(RuntimeError):
                self._pool.events.run(partial(_ended, self._lease, failed))
                return
        _ended(self._lease, failed)

    # -- signs of life

    def is_quiet(self, now: float) -> bool:
        """Whether other processes are to be shown a sign of life."""
        return now - self._beaten > _BEAT_SECONDS

    def beat(self, now: float) -> None:
        """Have a thread show other processes that the download goes on, unless one does."""
        if self._held_up:
            return
        self._beaten = now
        with suppress(RuntimeError):  # at the next look there may be one
            self._pool.events.run(self._work_at_beat)
            self._held_up = True  # the thread has the lease

    def _work_at_beat(self) -> None:
        """Runs in the thread."""
        try:
            with suppress(StoreError):
                self._lease.beat()
        finally:
            self._pool.events.call(self._end_beat)

    def _end_beat(self) -> None:
        self._held_up = False
        late, self._late = self._late, None
        if late is not None:
            late()

    def _ask(self, ask: Ask) -> None:
        now = time.monotonic()
        if now - self._beaten > _QUIET_SECONDS:
            self.beat(now)
        super()._ask(ask)

    # -- what becomes a fill

    def _hand_over(self, first: First | None = None, *, underway: bool = True, shown: Shown | None = None) -> None:
        """Make a fill of it. Who waits is answered with what is `shown` before that has a part."""
        self._all.end(self)
        offer = None if first is None else self._offer.after(self._question, first, self._begun)
        begun = Underway(self._transfer, self._question, self._sink.data) if underway else None
        self._all.lead(self._lease, self.waiting, offer, begun, shown)

    def _is_sound(self, head: Answered, body: bytes) -> bool:
        """Whether a body is what was asked for, as far as it tells. If not, the transfer says why."""
        if head.digests and not all(one.is_of(body) for one in head.digests):
            return False
        return not self._is_disguised(head.representation, body)

    def _is_disguised(self, said: Representation, body: bytes) -> bool:
        """Whether a body begins like something else than its name says."""
        if not self._offer.named:
            return False
        path = self._question.url.partition("?")[0]
        return wrong_type(path, said.get("content-type"), said.get("content-encoding"), body[:FIRST]) is not None


class Exchanges:
    """Those of one loop, and what else is asked of sources there."""

    def __init__(self, desk: Desk, pool: Pool) -> None:
        self.desk = desk
        self.pool = pool
        self.events = pool.events
        self._fills = desk.fills
        self._running: dict[Key, Exchange] = {}
        self.learner = Learner(pool)
        self.settling = Settling(desk, pool.events)
        self.looks = Looks(desk, pool.events)
        self._asking = 0
        """Questions beside the exchanges: for what is passed on, and for ranges far ahead."""
        self._awaiting = 0
        """Requests that wait for a fill: they may have to ask in the end."""
        """Requests that are passed on."""
        self._ticking = False

    @property
    def is_idle(self) -> bool:
        """Whether nothing is asked and nothing is to be stored."""
        busy = self._running or self._asking or self._awaiting or self.has_unstored or self.learner.waiting
        return not busy and self.looks.is_idle

    @property
    def has_unstored(self) -> bool:
        """Whether something that was answered is to be stored yet."""
        return bool(self.settling.running)

    def _tick(self) -> None:
        """Look after limits of time, as long as there is something."""
        now = time.monotonic()
        for exchange in [one for one in self._running.values() if one.is_quiet(now)]:
            exchange.beat(now)
        self.settling.sweep(now)
        self._ticking = not self.pool.closed and bool(self._running or self.settling.running)
        if self._ticking:
            self.events.after(_TICK_SECONDS, self._tick)

    def close(self) -> None:
        """Ask nothing more."""
        self.pool.close()

    # -- who asks

    def joins(self, waiter: Waiter) -> bool:
        """Whether a request is answered with what is asked for, or stored, at present."""
        key = waiter.wanted.key
        running = self._running.get(key)
        if running is not None:
            running.waiting.append(waiter)
            if waiter.request.method == "HEAD" and running.waiting[0].wanted.seen is None:
                self.pool.events.after(_MOMENT_SECONDS, partial(self._wait_no_longer, running, waiter))
            return True
        return self.settling.joins(waiter)

    def _wait_no_longer(self, exchange: Exchange, waiter: Waiter) -> None:
        """Have who wants but a head ask for it, if it waits still."""
        if self._running.get(waiter.wanted.key) is exchange and any(one is waiter for one in exchange.waiting):
            exchange.waiting = [one for one in exchange.waiting if one is not waiter]
            self.defer(waiter, partial(self.desk.again, waiter.request, waiter.wanted))

    def begin(self, waiter: Waiter) -> None:
        """Have a source asked for what a request wants."""
        try:
            self._begin(waiter)
        except PackageCacheError as error:
            self.defer(waiter, partial(self.desk.after_failure, waiter.request, waiter.wanted, error))

    def _begin(self, waiter: Waiter) -> None:
        """Raises PackageCacheError."""
        wanted = waiter.wanted
        offer, fill = wanted.offer, self._fills.running.get(wanted.key)
        if fill is not None and fill.enter():
            self._await(waiter, fill, joined=True).begin()
            return
        if wanted.key in self.settling.running:
            self.settling.wait(waiter)
            return
        urls = offer.urls_at_once
        if not urls and self.learner.learn(offer, waiter.request.client, partial(waiter.ready, None)):
            return
        ask = first_ask(urls[0], wanted.held) if urls else None
        wire = None if ask is None else wire_of(offer, ask)
        lease = self._fills.parts.claim(wanted.key)
        if lease is None:
            self._follow(waiter)
        elif not urls or ask is None or wire is None or self._is_for_a_thread(lease, wanted):
            self.lead(lease, [waiter])
        else:
            exchange = self._running[wanted.key] = Exchange(self, lease, [waiter], urls, ask)
            if not self._ticking:
                self._ticking = True
                self.events.after(_TICK_SECONDS, self._tick)
            exchange.send(wire)

    def _is_for_a_thread(self, lease: Lease, wanted: Wanted) -> bool:
        """Whether there is something to go on with, or to look at; or the disk is to set the pace."""
        return lease.has_remains or self.settling.is_full or self.desk.leader.has_changed(wanted)

    def go_on(self, waiter: Waiter, found: Found) -> None:
        """Answer with what was found for a request, or ask for it."""
        if isinstance(found, HotFile | Answer):
            waiter.ready(found)
        elif isinstance(found, Pass):
            self.pass_on(found, waiter)
        elif waiter.number >= _ATTEMPTS:
            waiter.ready(self.desk.refuse(FillError("what is stored changes faster than it can be served", 503)))
        else:
            following = replace(waiter, wanted=found, number=waiter.number + 1)
            if not self.joins(following):
                self.begin(following)

    def defer(self, waiter: Waiter, find: Callable[[], Found]) -> None:
        """Have a thread find how a request is answered, since the disk has a say; `find` raises PackageCacheError."""
        self.looks.begin(find, partial(self.go_on, waiter))

    def pass_on(self, passed: Pass, waiter: Waiter) -> None:
        """Have a source asked for what is not kept."""
        self._asking += 1

        def tell(answer: Answer) -> None:
            self._asking -= 1
            waiter.ready(answer)

        def defer(find: Callable[[], Found]) -> None:
            self._asking -= 1
            self.defer(waiter, find)

        if passed.request.method == "POST":
            Posting(self.pool, self.desk, passed, tell).begin()
        else:
            Passing(self.learner, self.desk, passed, tell, defer).begin()

    def ask_beside(
        self,
        waiter: Waiter,
        fill: Fill,
        number: int,
        known: Representation,
        promise: Answer,
        told: Callable[[Answer | None], None],
    ) -> bool:
        """Whether the range that was promised is asked for beside a fill; `told` is told what comes of that."""
        span = promise.reply.span
        ask = None if span is None else side_request(known, span)
        if ask is None:
            return False
        self._asking += 1

        def tell(answer: Answer | None) -> None:
            self._asking -= 1
            told(answer)

        offer, client = waiter.wanted.offer, waiter.request.client
        SideRequest(self.pool, offer, ask, client, fill, number, known, promise, tell).begin()
        return True

    def _await(self, waiter: Waiter, fill: Fill, *, joined: bool) -> FillWait:
        self._awaiting += 1
        return FillWait(self, waiter, fill, joined=joined)

    def leave(self, fill: Fill) -> None:
        """A request waits for a fill no longer."""
        self._awaiting -= 1
        fill.leave()

    def is_at(self, key: Key) -> bool:
        """Whether something is asked for, fetched, or stored at present."""
        return key in self._running or key in self.settling.running or key in self._fills.running

    def claim(self, key: Key) -> Lease | None:
        """The lease of a key; None if somebody fetches or stores it at present. Raises StoreError."""
        return None if self.is_at(key) else self._fills.parts.claim(key)

    def adopt(self, lease: Lease, waiting: list[Waiter], ask: Ask, begun: float, outcome: Outcome) -> None:
        """Go on with what a source said to `ask`, which it was told at `begun`, under the lease of what that is about."""
        wanted = waiting[0].wanted
        offer, changed = wanted.offer, self.desk.leader.has_changed(wanted)
        self.desk.leader.unsettle(wanted)  # who has it at hand would ask for himself, and not wait for what comes here
        if lease.has_remains or changed:
            self.lead(lease, waiting, offer.after(ask, first_of(outcome), begun))
            return
        others = [url for url in offer.urls_at_once or () if url != ask.url]
        exchange = self._running[wanted.key] = Exchange(self, lease, waiting, (ask.url, *others), ask, begun)
        exchange.came(outcome)

    def end(self, exchange: Exchange) -> None:
        """It asks nothing more."""
        del self._running[exchange.waiting[0].wanted.key]

    def lead(
        self,
        lease: Lease,
        waiting: list[Waiter],
        offer: SourceOffer | None = None,
        underway: Underway | None = None,
        shown: Shown | None = None,
    ) -> None:
        """Have a fill go on under a lease, for who waits. `offer` knows what a source said already."""
        wanted, client = waiting[0].wanted, waiting[0].request.client
        fill = self._fills.make(wanted.key)
        leads = self._leads(wanted if offer is None else replace(wanted, offer=offer), client, underway)
        able = [waiter for waiter in waiting if waiter.request.method == "GET" and fill.enter()]
        waits = [self._await(waiter, fill, joined=waiter is not waiting[0]) for waiter in able]
        run: Run = self._fills.threads.run
        with ExitStack() as stack:
            if shown is not None:  # who waits has what is in hand before the thread takes its turns
                with suppress(RuntimeError):
                    run = stack.enter_context(self._fills.threads.reserved())
                    if self._fills.places.has_place(client):
                        fill.show(*shown)
            for wait in waits:
                wait.begin()
            self._fills.lead(fill, lease, leads, run)
        for waiter in waiting:
            if waiter.request.method == "HEAD":
                waiter.ready(None)
        fill.leave()

    def _leads(self, wanted: Wanted, client: str, underway: Underway | None = None) -> Leads:
        leader = self.desk.leader
        lead, is_here = partial(leader.lead, wanted, underway=underway), partial(leader.is_here, wanted)
        return Leads(lead, is_here, client, wanted.offer.drop)

    def _follow(self, waiter: Waiter) -> None:
        """Have a request wait for what another process downloads; a thread finds out about that. Raises FillError."""
        fill, leads = self._fills.make(waiter.wanted.key), self._leads(waiter.wanted, waiter.request.client)
        fill.hold()
        try:
            self.events.run(partial(self._fills.follow, fill, leads))
        except RuntimeError as error:
            fill.leave()
            fill.leave()
            raise FillError("the cache has too much to do; try again in a while", 503) from error
        _Follower(fill, self.events).look()
        self._await(waiter, fill, joined=True).begin()


class _Follower:
    """Looks at a fill of another process, and tells who waits for it in this one."""

    def __init__(self, fill: Fill, events: Events) -> None:
        self._fill = fill
        self._events = events
        self._seen = fill.progress()

    def look(self) -> None:
        """Look, and again in a moment, as long as somebody waits."""
        if not self._fill.is_used:
            return
        progress = self._fill.progress()
        if progress != self._seen:
            self._seen = progress
            self._fill.ring()
        if not progress.journal.done:
            self._events.after(self._fill.patience, self.look)


def _is_plainly_absent(wanted: Wanted, status: int) -> bool:
    """Whether there is nothing that may be told but that no source has it: none was silent, and nothing was here."""
    return wanted.seen is None and wanted.is_for_ever and status in _ABSENT


def _ended(lease: Lease, failed: Failed | None) -> None:
    """Runs in a thread, where the disk has a say."""
    try:
        if failed is None:
            lease.done()
        else:
            lease.failed(failed, keep=False)
    except StoreError as error:
        logger.warning("cannot clean up after a download: %s", error)


def _unread() -> bytes:
    raise ValueError("it is not read here")
