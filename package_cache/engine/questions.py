"""Questions: whether a version that is at hand is still so, asked by the loop itself, one a key for all who ask meanwhile.

Only the first one about what comes to hand takes the lease of the key. What two processes ask later at the same time does
no harm, as a source that confirms (304) changes memory alone. Whatever else comes of it is the business of an exchange,
which goes on with what the source said, under the lease. If another process has that, its download is waited for: a lost
race costs a request, never a byte. Belongs to the loop's thread.
"""

import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from package_cache.engine.desk import Desk, no_probe
from package_cache.engine.exchange import Exchanges
from package_cache.engine.hotset import HotFile, Question
from package_cache.engine.waiting import Confirmed, Ready, Waiter
from package_cache.engine.wanted import Wanted
from package_cache.errors import StoreError
from package_cache.model import Key, Representation, Request
from package_cache.rules.http.caching import apparent_age, dated, refreshed
from package_cache.rules.http.response import ResponseHead
from package_cache.rules.transfers.steps import Ask
from package_cache.rules.transfers.transfer import confirms
from package_cache.storage.parts.leases import Lease
from package_cache.upstream.pool import Begun, Outcome, Pool, Whole

_NOT_MODIFIED = 304


@dataclass(slots=True)
class _Asked:
    """A question, and who waits for what comes of it: what each asks, who that is, and whom to tell."""

    hot: HotFile
    ask: Ask
    waiting: list[tuple[Request, str, Ready]]
    lease: Lease | None = None
    begun: float = field(default_factory=time.monotonic)


class Questions:
    """Those of one process."""

    def __init__(self, desk: Desk, exchanges: Exchanges, pool: Pool) -> None:
        self._desk = desk
        self._exchanges = exchanges
        self._failures = desk.leader.failures
        self._last_use = desk.last_use
        self._pool = pool
        self._via = desk.via
        self._running: dict[Key, _Asked] = {}

    @property
    def is_idle(self) -> bool:
        """Whether nothing is asked."""
        return not self._running

    def joins(self, waiter: Waiter) -> bool:
        """Whether a request is answered with what is asked for at present."""
        request, wanted = waiter.request, waiter.wanted
        asked = self._running.get(wanted.key)
        if asked is None or request.method not in ("GET", "HEAD") or wanted.unsaid is not None:
            return False
        asked.waiting.append((request, request.client, waiter.ready))
        return True

    def ask(self, hot: HotFile, request: Request, client: str, told: Ready) -> bool:
        """Whether a source is asked about what is at hand, or was already. Raises PackageCacheError."""
        question = hot.question
        if question is None or request.method != "GET" or "via" in request.fields:
            return False
        wanted = question.wanted
        asked = self._running.get(wanted.key)
        if asked is not None:
            asked.waiting.append((request, client, told))
            return True
        if self._exchanges.is_at(wanted.key) or not self._desk.may_ask(request, wanted) or not _is_ready(hot, question):
            return False
        self._begin(hot, question, (request, client, told))
        return True

    def ask_first(self, hot: HotFile, waiter: Waiter) -> bool:
        """As `ask`, about what has just come to hand."""
        question = hot.question
        if question is None or question.wanted.key in self._running or not _is_ready(hot, question):
            return False
        lease = self._exchanges.claim(question.wanted.key)
        if lease is None:
            return False
        if lease.has_remains:
            hot.close()
            self._exchanges.lead(lease, [Waiter(waiter.request, question.wanted, waiter.ready)])
        else:
            self._begin(hot, question, (waiter.request, waiter.request.client, waiter.ready), lease)
        return True

    def _begin(
        self, hot: HotFile, question: Question, first: tuple[Request, str, Ready], lease: Lease | None = None
    ) -> None:
        wanted, ask, wire = question.wanted, question.ask, question.wire
        assert ask is not None  # both are ready
        assert wire is not None
        hot.users += 1
        asked = self._running[wanted.key] = _Asked(hot, ask, [first], lease)
        self._pool.ask(wire, partial(self._came, asked, wanted), client=first[1])

    def _came(self, asked: _Asked, wanted: Wanted, outcome: Outcome) -> None:
        """A source answered, or did not."""
        del self._running[wanted.key]
        try:
            if isinstance(outcome, Whole) and self._is_confirmed(asked, wanted, outcome):
                if asked.lease is not None:
                    with suppress(StoreError):  # it is given back all the same
                        asked.lease.done()
                confirmed = Confirmed(asked.hot)
                for _, _, told in asked.waiting:
                    told(confirmed)
            elif not self._is_adopted(asked, wanted.key, outcome):
                if isinstance(outcome, Begun):
                    outcome.taken.close()
                for request, client, told in asked.waiting:
                    find = partial(self._desk.find, request.of_client(client), no_probe)
                    self._exchanges.defer(Waiter(request, wanted, told), find)
        finally:
            asked.hot.out = asked.hot.out or not asked.hot.kept
            asked.hot.release()

    def _is_confirmed(self, asked: _Asked, wanted: Wanted, answer: Whole) -> bool:
        """Whether a source says that what is at hand is still so, and nobody else is to know of it."""
        hot, head = asked.hot, answer.head
        seen, question = hot.entry, hot.question
        assert seen is not None  # as long as it has a question
        assert question is not None
        if head.status != _NOT_MODIFIED:
            return False
        said = tuple([pair for pair in head.fields if pair[0] != "Date"])
        is_dated = len(said) < len(head.fields)
        known: Representation | None
        if is_dated and said == question.said:
            known = dated(seen.representation, head.said["date"], time.time())
        else:
            known, question.said = self._refreshed(asked, wanted, seen.representation, head), None
        if known is None:
            return False
        self._failures.forget(wanted.key)
        wanted.offer.served(asked.ask, _NOT_MODIFIED, time.monotonic() - asked.begun)
        hot.entry = seen.told(known)
        self._last_use.confirm(seen, hot.entry)
        if question.said is not None:
            hot.born = known.received - int(apparent_age(head.said["date"], known.received))
        else:
            hot.form(self._via)
            repeats = is_dated and "age" not in head.said and wanted.policy.always_revalidates(known)
            question.said = said if repeats else None
        return True

    @staticmethod
    def _refreshed(asked: _Asked, wanted: Wanted, before: Representation, head: ResponseHead) -> Representation | None:
        """What a confirmation makes of what is known of a version; None where it is none, or others are to know of it."""
        said, condition = wanted.offer.head(asked.ask, head).representation, asked.ask.condition
        if condition is None or not confirms(said, condition):
            return None
        known = refreshed(before, said)
        return None if wanted.policy.good_until(known) > known.received else known

    def _is_adopted(self, asked: _Asked, key: Key, outcome: Outcome) -> bool:
        """Whether an exchange goes on with what a source said, or failed to say."""
        hot, lease = asked.hot, asked.lease
        with suppress(StoreError):
            lease = lease or self._exchanges.claim(key)
        if lease is None:
            return False
        waiting = []
        for request, client, told in asked.waiting:
            wanted = self._desk.wanted(request).looked(hot.generation, hot.entry)
            waiting.append(Waiter(request.of_client(client), wanted, told))
        self._exchanges.adopt(lease, waiting, asked.ask, asked.begun, outcome)
        return True


def _is_ready(hot: HotFile, question: Question) -> bool:
    """Whether it is known what to ask of the source that is to be asked first now. Raises UpstreamError."""
    offer, entry = question.wanted.offer, hot.entry
    order = offer.order
    if order is question.order and question.wire is not None:
        return True
    urls = offer.urls_at_once
    if not urls or entry is None:
        return False
    question.order = order
    question.ask = Ask(urls[0], condition=entry.representation.validators)
    question.wire = offer.wire(question.ask)
    return question.wire is not None
