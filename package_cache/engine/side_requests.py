"""Side requests: a range far ahead of a running fill, fetched beside it, so that nobody waits for all that comes before.

The fill goes on. The range is taken only from a source that proves, by a strong validator, to have the same thing; where it
cannot, or breaks off, the client gets the rest from the fill, as if nothing had been tried.
"""

import logging
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from http import HTTPStatus

from package_cache.engine.answers import Answer
from package_cache.engine.fills.fill import Fill
from package_cache.engine.fills.reader import SHOWN, ElsewhereError, FillReader, LeftError, Window
from package_cache.engine.inquiry import Inquiry
from package_cache.errors import FillError, UpstreamError, UpstreamLie
from package_cache.model import Representation, Span
from package_cache.rules.transfers.steps import Answered, Ask, GiveUp
from package_cache.rules.transfers.transfer import Transfer, is_part, proof_for
from package_cache.upstream import answers
from package_cache.upstream.fetcher import First, SourceOffer
from package_cache.upstream.pool import Begun, Outcome, Pool, Whole

logger = logging.getLogger(__name__)


def side_request(known: Representation, span: Span) -> Ask | None:
    """What to ask for exactly that range of the file whose head is `known`; None if nothing would prove what comes."""
    proof = proof_for(known)
    return None if proof is None else Ask(known.source, span.start, proof, stop=span.stop)


class SideRequest(Inquiry):
    """One question to one source, for the range that `promise` has the head of. `told` is told the answer.

    None, if the fill is to be waited for: its part of that `number` begins with what `known` is the head of.
    """

    def __init__(
        self,
        pool: Pool,
        offer: SourceOffer,
        ask: Ask,
        client: str,
        fill: Fill,
        number: int,
        known: Representation,
        promise: Answer,
        told: Callable[[Answer | None], None],
    ) -> None:
        super().__init__(pool, offer, client)
        self._question = ask
        self._fill = fill
        self._number = number
        self._known = known
        self._promise = promise
        self._told_answer = told

    def begin(self) -> None:
        """Ask."""
        self._ask_now()

    def _make_transfer(self) -> Transfer:
        return Transfer((self._question.url,))

    def _heed(self, outcome: Outcome) -> None:
        if isinstance(outcome, Whole):
            self._take(self._offer.head(self._question, outcome.head), outcome.body)
        elif isinstance(outcome, Begun) and outcome.head.status == HTTPStatus.PARTIAL_CONTENT:
            told = self._told(outcome)
            self._told_answer(self._large(told))
            told.drop()  # the answer, unless it was taken
        else:
            if isinstance(outcome, Begun):
                outcome.taken.close()
            self._told_answer(None)
            if isinstance(outcome, UpstreamError) and not outcome.again:
                self._offer.failed(self._question.url, str(outcome))

    def _is_it(self, head: Answered) -> bool:
        """Whether an answer has exactly the range that was asked for, by its head."""
        proof, span = self._question.if_range, self._promise.reply.span
        assert proof is not None  # or nothing would have been asked
        assert span is not None
        return is_part(head, self._known, proof, span)

    def _take(self, head: Answered, body: bytes) -> None:
        """Answer before anything else: the fill takes turns with this thread by now."""
        is_sound = all(one.is_of(body) for one in head.part_digests)
        span = self._promise.reply.span
        assert span is not None  # what is far ahead is a range
        is_it = self._is_it(head) and len(body) == len(span) and is_sound
        self._told_answer(replace(self._promise, kind="aside", body=body) if is_it else None)
        if not is_sound:
            self._offer.failed(self._question.url, "sent bytes that are not those of the digest it declares")
        elif is_it:
            self._offer.served(self._question, head.status, time.monotonic() - self._begun)

    def _large(self, told: SourceOffer) -> Answer | None:
        """The answer with a range that a thread receives."""
        span, reader = self._promise.reply.span, self._fill.reader(self._number)
        assert span is not None
        if reader is None:
            return None
        try:
            answer = told.open(self._question)
        except UpstreamError as error:
            logger.info("%s %s", self._question.url, error)
            reader.close()
            return None
        if self._is_it(answer.head):
            beside = SideRange(answer, reader, self._offer, span)
            try:
                self._pool.events.run(beside.receive)
            except RuntimeError:
                pass
            else:
                return replace(self._promise, kind="aside", body=beside)
        answer.close()
        reader.close()
        return None

    def _give_up(self, end: GiveUp) -> None:  # noqa: ARG002 - the fill goes on
        self._told_answer(None)

    def _hand_over(self, first: First | None = None, *, underway: bool = True) -> None:  # noqa: ARG002
        self._told_answer(None)


class SideRange(Window):
    """A range far ahead of a fill, from a source that proved to have the same file.

    Where that breaks off, or the fill is there first, its client goes on with `reader`, as if nothing had been tried.
    """

    def __init__(self, answer: answers.Answer, reader: FillReader, offer: answers.Offer, span: Span) -> None:
        super().__init__(span.start)
        self._answer = answer
        self._reader = reader
        self._number = reader.number
        self._offer = offer
        self._span = span

    def read(self, span: Span | None, start: int = 0) -> Generator[bytes, None, None]:
        """The bytes of the range, each as soon as it is here. Raises `FillError` if neither goes on, or the source lied."""
        at, stop = self._span.start, self._span.stop
        try:
            for block in super().read(span, start):
                at += len(block)
                yield block
        except ElsewhereError:
            yield from self._reader.read(Span(at, stop))

    def successor(self, at: int) -> FillReader:  # noqa: ARG002 - it has all from there on
        """The reader of the fill. It is the caller's from now on."""
        super().close()
        return self._reader

    def close(self) -> None:
        """Nothing more is wanted. May be called again."""
        super().close()
        self._reader.close()

    def receive(self) -> None:
        """Take in what the source sends. Runs in a thread."""
        error: FillError = ElsewhereError("the download is there by now, or a source broke off", 502)
        try:
            self._take_in()
        except LeftError:
            return
        except UpstreamLie as lie:
            self._offer.failed(self._answer.head.representation.source, str(lie))
            if self._at + len(self._data) > self._span.start:
                error = FillError(f"a source {lie}", 502)
        except UpstreamError as trouble:
            logger.info("a range fetched beside a download broke off: %s", trouble)
        except Exception:
            logger.exception("fetching a range beside a download ended in a bug")
        finally:
            self._answer.close()
        self._end(error)

    def _take_in(self) -> None:
        """What the source sends until the fill is there; with a digest, the last block only once that was compared."""
        at, stop, held = self._span.start, self._span.stop, b""
        while at < stop and not self._has(at - len(held)):
            block = self._answer.read()[: stop - at]
            if held:
                self._receive(held)
            if not block:
                return
            at, held = at + len(block), block
            if not self._answer.head.part_digests:
                self._receive(held)
                held = b""
        if held:
            if at == stop:
                self._answer.read()
            self._receive(held)

    def _has(self, at: int) -> bool:
        """Whether the fill is beyond a place. One that failed is not, and the source goes on all the same."""
        progress = self._reader.fill.progress()  # the reader itself belongs to the client's thread
        is_it = progress.journal.failed is None and self._number in (SHOWN, progress.journal.number)
        return is_it and progress.visible > at
