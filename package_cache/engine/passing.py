"""What sources are asked for and nothing is kept of: files that are not stored, heads, and POSTs with their content.

Belongs to the loop's thread.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from package_cache.engine.answers import Answer, answer_linked, from_blob, read_document
from package_cache.engine.desk import Desk, Found, is_unreached
from package_cache.engine.fills.pump import Underway, event_of
from package_cache.engine.inquiry import Inquiry, first_of
from package_cache.engine.learning import Learner
from package_cache.engine.passthrough import PassThrough
from package_cache.engine.wanted import Pass, is_coded
from package_cache.errors import FillError, OutOfDescriptors, UpstreamError
from package_cache.model import Representation, Request
from package_cache.rules.http.answer import decide, passed, whole
from package_cache.rules.http.response import ResponseHead
from package_cache.rules.transfers.requests import KEEPING, RawRequest
from package_cache.rules.transfers.steps import Action, Finish, GiveUp, Receive
from package_cache.rules.transfers.transfer import Transfer
from package_cache.storage.database.schema import SMALL
from package_cache.upstream.fetcher import First
from package_cache.upstream.pool import Begun, Cut, Outcome, Pool, Whole
from package_cache.upstream.taken import Taken

Tell = Callable[[Answer], None]
Defer = Callable[[Callable[[], Found]], None]
"""Has a thread find the answer; what that takes raises PackageCacheError."""
_DETAIL = "fwd=uri-miss; fwd-status=200"


class Passing(Inquiry):
    """One of them."""

    def __init__(self, learner: Learner, desk: Desk, passed: Pass, tell: Tell, defer: Defer) -> None:
        request, wanted = passed.request, passed.wanted
        super().__init__(learner.pool, wanted.offer, request.client)
        self._learner = learner
        self.method = request.method
        """How sources are asked: for a head, until one of them has it not without the body."""
        self._desk = desk
        self._failures = desk.leader.failures
        self._defer = defer
        self._request = request
        self._wanted = wanted
        self._tell = tell

    def begin(self) -> None:
        """Ask the first source; before that, where it keeps what."""
        if self._learner.learn(self._offer, self._client, self.begin):
            return
        if self._offer.urls_at_once is None:  # a directory has to tell
            self._hand_over(underway=False)
        else:
            super().begin()

    def _make_transfer(self) -> Transfer:
        return Transfer(self._offer.urls_at_once or ())

    def _heed(self, outcome: Outcome) -> Action | None:
        if isinstance(outcome, OutOfDescriptors):
            self._tell(self._desk.refuse(outcome))
            return None
        if self.method == "HEAD":
            return self._heed_head(outcome)
        if not self._is_held(outcome) and not self._is_small(outcome):
            self._hand_over(first_of(outcome))
            return None
        action = self._perform(outcome)
        if not isinstance(action, Finish):
            return action
        head = self._sink.head
        assert head is not None  # of what came whole
        self._failures.settle(self._wanted.key, action)
        self._tell(_of_small(self._desk, self._request, head, self._sink.data))
        return None

    def _is_small(self, outcome: Outcome) -> bool:
        """Whether a body is here, as far as it came, and is what the file is made of."""
        if not isinstance(outcome, Whole | Cut) or self._sink.size + len(outcome.body) > SMALL:
            return False
        return not is_coded(self._offer.head(self._question, outcome.head).representation)

    def _heed_head(self, outcome: Outcome) -> Action | None:
        if isinstance(outcome, Whole) and self._offer.needs_body(
            self._question, self._offer.head(self._question, outcome.head)
        ):
            self.method = "GET"
            self._ask_now()
            return None
        try:
            answer = self._told(outcome).open(self._question, self.method)
            answer.close()
        except UpstreamError as error:
            action = self._transfer.next(event_of(error))
        else:
            action = self._transfer.next(replace(answer.head, chunked=True))
        if self._transfer.fault is not None:
            self._offer.failed(*self._transfer.fault)
        if not isinstance(action, Receive) or action.begin is None:
            return action
        self._tell(_of_head(self._desk, self._request, action.begin))
        return None

    def _give_up(self, end: GiveUp) -> None:
        self._fail(self._failures.note(self._wanted.key, end))

    def _may_be_stale(self, error: FillError) -> bool:
        """Whether something is here that may do after all."""
        return is_unreached(error) if self._request.method == "HEAD" else self._wanted.seen is not None

    def _hand_over(self, first: First | None = None, *, underway: bool = True) -> None:
        offer = self._offer if first is None else self._offer.after(self._question, first, self._begun)
        begun = Underway(self._transfer, self._question, self._sink.data) if underway else None
        passing = PassThrough(offer, partial(self._failures.settle, self._wanted.key), begun=begun)
        self._start(passing, partial(self._pool.events.call, partial(self._heard, passing)))

    def _start(self, passing: PassThrough, heard: Callable[[], None] | None = None) -> bool:
        """Have a thread receive a body, or tell that there is none."""
        try:
            passing.start(self._pool.events.run, heard)
        except FillError as error:
            self._tell(self._desk.refuse(error))
            return False
        return True

    def _heard(self, passing: PassThrough) -> None:
        """The head of a larger body is known, or there is none."""
        head, desk, request = passing.head, self._desk, self._request
        if head is None:
            assert passing.error is not None  # or it would have a head
            self._fail(passing.error)
        elif request.method == "HEAD":
            passing.close()
            self._tell(_of_head(desk, request, head))
        elif desk.linking(request, head) is not None:
            try:
                self._pool.events.run(partial(self._read_document, passing, head))
            except RuntimeError:
                passing.close()
                self._tell(desk.refuse(FillError("the cache has too much to do; try again in a while", 503)))
        else:
            self._answer(passing, head)

    def _answer(self, passing: PassThrough, head: Representation) -> None:
        """Answer with a body that is about to come."""
        request, serving = self._request, self._desk.serving(_DETAIL)
        reply = decide(request, head, serving)
        if reply.pieces:
            reply = decide(whole(request), head, serving)  # what passes by passes once
        if reply.open_ended and not request.modern:
            passing.close()
            self._fail(FillError("its length is not known before its end, and it cannot be kept until then", 502))
        elif reply.span is None and not reply.open_ended:
            passing.close()
            self._tell(Answer(reply, "passed", source=head.source))
        elif passing.wants(reply.span):
            self._tell(Answer(reply, "passed", passing, head.source))
        elif reply.span is not None:
            there = passing.elsewhere(reply.span.start)
            if self._start(there) and there.wants(reply.span):
                self._tell(Answer(reply, "passed", there, head.source))

    def _read_document(self, passing: PassThrough, head: Representation) -> None:
        """Have the links of a document replaced once all of it is here. Runs in a thread."""
        linking = self._desk.linking(self._request, head)
        assert linking is not None  # or nobody would have to read it
        read, serving = partial(read_document, passing), partial(self._desk.serving, _DETAIL)
        try:
            answer = answer_linked(self._request, linking, head, read, serving, "passed")
        except FillError as error:
            self._pool.events.call(partial(self._fail, error))
        else:
            self._pool.events.call(partial(self._tell, answer))

    def _fail(self, error: FillError) -> None:
        """Nothing of a larger body can be had."""
        if self._may_be_stale(error):
            self._defer(partial(self._desk.serve_stale, self._request, self._wanted, error))
        else:
            self._tell(self._desk.refuse(error))


def _of_head(desk: Desk, request: Request, head: Representation) -> Answer:
    """The answer to HEAD, by the head that a source told."""
    linking = desk.linking(request, head)
    said = head if linking is None else linking.head(head, None)
    return Answer(decide(request, said, desk.serving(_DETAIL)), "relayed", source=head.source)


def _of_small(desk: Desk, request: Request, head: Representation, data: bytes) -> Answer:
    """The answer with a body that is in hand."""
    if request.method == "HEAD":
        return _of_head(desk, request, head)
    linking = desk.linking(request, head)
    if linking is not None:
        return answer_linked(request, linking, head, lambda: data, partial(desk.serving, _DETAIL), "passed")
    return from_blob(decide(request, head, desk.serving(_DETAIL)), "passed", data, head.source)


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
        self._tell(self._desk.refuse(FillError(end.reason, end.status, end.retry_after, end.response)))


def _objection(head: ResponseHead) -> UpstreamError | None:
    """Why an answer is not passed on."""
    if head.status // 100 not in _TOLD:
        return UpstreamError(f"answered {head.status}")
    if head.length is None and not head.chunked:
        return UpstreamError("sent an answer whose end is not marked")
    return None
