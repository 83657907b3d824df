"""A request with content that is passed on to a source, and what that answers; nothing is kept of either.

What is sent is a question: asking it again does no harm. Belongs to the loop's thread.
"""

from collections.abc import Callable
from functools import partial

from package_cache.engine.answers import Answer
from package_cache.engine.desk import Desk
from package_cache.engine.fills.pump import event_of
from package_cache.engine.inquiry import Inquiry
from package_cache.engine.passing import Tell
from package_cache.engine.wanted import Pass
from package_cache.errors import FillError, OutOfDescriptors, UpstreamError
from package_cache.rules.http.answer import passed
from package_cache.rules.http.response import ResponseHead
from package_cache.rules.transfers.requests import KEEPING, RawRequest
from package_cache.rules.transfers.steps import Action, GiveUp
from package_cache.rules.transfers.transfer import Transfer
from package_cache.upstream.pool import Begun, Cut, Outcome, Pool, Whole
from package_cache.upstream.taken import Taken

_TOLD = (2, 4)
"""Classes of statuses that the client is told."""
_OF_POST = frozenset({"accept", "content-type", "content-encoding", "content-language"})
"""Fields of a POST that a source is told."""
_LONGEST = 64 << 20
"""Bytes of an answer."""


class Posting(Inquiry):
    """One of them."""

    method = "POST"
    _redirects = KEEPING

    def __init__(self, pool: Pool, desk: Desk, posted: Pass, tell: Tell) -> None:
        request, offer = posted.request, posted.wanted.offer
        super().__init__(pool, offer, request.client)
        self._desk = desk
        self._content = posted.content
        self._said = tuple((name, value) for name, value in request.fields.items() if name in _OF_POST)
        self._tell = tell

    def _wire(self) -> RawRequest | UpstreamError | None:
        try:
            return self._offer.posting(self._url or self._question.url, self._said, self._content)
        except UpstreamError as error:
            return error

    def _make_transfer(self) -> Transfer:
        return Transfer(self._offer.posted_at)

    def _heed(self, outcome: Outcome) -> Action | None:
        if isinstance(outcome, OutOfDescriptors):
            self._tell(self._desk.refuse(outcome))
            return None
        if isinstance(outcome, Whole | Begun):
            trouble = _objection(outcome.head)
            if trouble is None:
                self._take(outcome)
                return None
            if isinstance(outcome, Begun):
                outcome.taken.close()
        else:
            trouble = outcome.error if isinstance(outcome, Cut) else outcome
        action = self._transfer.next(event_of(trouble))
        if self._transfer.fault is not None:
            self._offer.failed(*self._transfer.fault)
        return action

    def _take(self, outcome: Whole | Begun) -> None:
        if isinstance(outcome, Whole):
            self._tell(self._answer(outcome.head, outcome.body))
            return
        try:
            self._pool.events.run(partial(self._read, outcome.head, outcome.taken))
        except RuntimeError:
            outcome.taken.close()
            self._tell(self._desk.refuse(FillError("the cache has too much to do; try again in a while", 503)))

    def _read(self, head: ResponseHead, taken: Taken) -> None:
        """Receive a large body. Runs in a thread."""
        blocks: list[bytes] = []
        have = 0
        then: Callable[[], None]
        try:
            while block := taken.read():
                have += len(block)
                if have > _LONGEST:
                    raise UpstreamError(f"sent more than {_LONGEST} bytes")
                blocks.append(block)
            then = partial(self._tell, self._answer(head, b"".join(blocks)))
        except UpstreamError as error:
            then = partial(self.came, error)
        finally:
            taken.close()
        self._pool.events.call(then)

    def _answer(self, head: ResponseHead, body: bytes) -> Answer:
        known = self._offer.head(self._question, head).representation
        serving = self._desk.serving(f"fwd=method; fwd-status={head.status}")
        return Answer(passed(head.status, known.fields, len(body), serving), "passed", body, known.source)

    def _give_up(self, end: GiveUp) -> None:
        self._tell(self._desk.refuse(FillError(end.reason, end.status, end.retry_after)))


def _objection(head: ResponseHead) -> UpstreamError | None:
    """Why an answer is not passed on."""
    if head.status // 100 not in _TOLD:
        return UpstreamError(f"answered {head.status}")
    if head.length is None and not head.chunked:
        return UpstreamError("sent an answer whose end is not marked")
    return None
