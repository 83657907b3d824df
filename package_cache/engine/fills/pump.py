"""The only loop that downloads: performs what a `Transfer` says, whatever the destination."""

import logging
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol, TypeVar, cast

from package_cache.errors import UpstreamCrawl, UpstreamError, UpstreamLie, UpstreamTimeout
from package_cache.model import Representation
from package_cache.rules.http.digests import Digest
from package_cache.rules.transfers.steps import (
    Action,
    Ask,
    Broke,
    Chunk,
    Eof,
    Event,
    Finish,
    GiveUp,
    Lied,
    Mismatch,
    NotModified,
    Receive,
    Restart,
    Slow,
    WrongType,
)
from package_cache.rules.transfers.transfer import Transfer
from package_cache.upstream.answers import Answer, Offer

logger = logging.getLogger(__name__)


class Sink(Protocol):
    """Where the bytes of a download go. Methods raise StoreError."""

    def begin(self, head: Representation) -> None:
        """A source vouches for `head` as the head of the bytes kept and to come."""
        ...

    def put(self, at: int, data: bytes) -> bool:
        """Compare what is kept at `at`, append what is beyond; False if a byte differs."""
        ...

    def reset(self) -> None:
        """Forget every byte kept."""
        ...

    def beat(self) -> None:
        """The download goes on, though no byte may arrive for a while."""
        ...

    def expect(self, digests: tuple[Digest, ...]) -> None:
        """A source declares these of the whole file."""
        ...

    def differing(self, digests: tuple[Digest, ...]) -> tuple[Digest, str] | None:
        """The first of these digests that is not that of the bytes kept, and theirs in hex; None if all are."""
        ...

    def objection(self) -> str | None:
        """Why the bytes kept, which are a whole file, are not to be used all the same; None if they are."""
        ...

    def digest(self) -> str:
        """SHA-256 of the bytes kept, in hex."""
        ...


@dataclass(slots=True)
class Underway:
    """A transfer that wants to `ask`, or is to start. The bytes `kept` are those that it has of the file."""

    transfer: Transfer
    ask: Ask | None = None
    kept: bytes = b""
    _taken: bool = False

    def give(self, sink: Sink) -> None:
        """Put the bytes kept into a sink."""
        if self.kept:
            assert self.transfer.known is not None  # or no byte of it would be kept
            sink.expect(self.transfer.digests)
            sink.begin(self.transfer.known)
            sink.put(0, self.kept)

    def take(self) -> "Underway | None":
        """The same, for who goes on with it; None, if somebody has."""
        taken, self._taken = self._taken, True
        return None if taken else self


End = Finish | NotModified | GiveUp
_End = TypeVar("_End", bound=Action)


def pump(transfer: Transfer, offer: Offer, sink: Sink, ask: Ask | None = None) -> End:
    """Drive the transfer to its end; one that is under way, from where it wants to `ask`."""
    return _to_the_end(steps(transfer, offer, sink, ask))


def heed(ask: Ask, transfer: Transfer, offer: Offer, sink: Sink) -> Action:
    """What to do after the answer to `ask`. Does not wait where that is in hand."""
    return _to_the_end(_perform(ask, transfer, offer, sink))


def _to_the_end(each: Generator[None, None, _End]) -> _End:
    while True:
        try:
            next(each)
        except StopIteration as end:
            return cast("_End", end.value)


def steps(transfer: Transfer, offer: Offer, sink: Sink, ask: Ask | None = None) -> Generator[None, None, End]:
    """As `pump`, at the pace of the caller: goes on after each block that the sink was given."""
    action = ask or transfer.start()
    while True:
        match action:
            case Ask():
                action = yield from _perform(action, transfer, offer, sink)
            case Restart():
                sink.reset()
                action = transfer.resume()
            case Finish() | NotModified() | GiveUp():
                return action
            case Receive():
                raise AssertionError("a body is read only while its source is open")


def _perform(ask: Ask, transfer: Transfer, offer: Offer, sink: Sink) -> Generator[None, None, Action]:
    if ask.pause:
        time.sleep(ask.pause)
    sink.beat()
    logger.debug("asking %s from byte %d", ask.url, ask.offset)
    action = yield from _follow(ask, transfer, offer, sink)
    if transfer.fault is not None:
        offer.failed(*transfer.fault)
    elif isinstance(action, Finish | NotModified):
        offer.delivered(ask.url)
    return action


def _follow(ask: Ask, transfer: Transfer, offer: Offer, sink: Sink) -> Generator[None, None, Action]:
    """What to do after the answer to `ask`, whatever becomes of it."""
    try:
        answer = offer.open(ask)
        try:
            action = transfer.next(answer.head)
            if isinstance(action, Receive):
                action = yield from _receive(answer, transfer, offer, sink, action)
            return action
        finally:
            answer.close()
    except UpstreamError as error:
        logger.info("%s %s", ask.url, error)
        return transfer.next(event_of(error))


def event_of(error: UpstreamError) -> Event:
    """What it means to a transfer."""
    if isinstance(error, UpstreamLie):
        return Lied(str(error))
    timeout, crawls = isinstance(error, UpstreamTimeout), isinstance(error, UpstreamCrawl)
    return Broke(str(error), error.again, timeout, crawls, error.retry_after, error.unreached)


def _receive(answer: Answer, transfer: Transfer, offer: Offer, sink: Sink, action: Action) -> Generator[None, None, Action]:
    sink.expect(answer.head.digests)
    _begin(action, sink)
    while True:
        rival = offer.rival(answer, transfer.left)
        if rival is not None and isinstance(moved := transfer.next(Slow(rival)), Ask):
            logger.info("%s goes on at %s, which is faster", answer.head.representation.source, rival)
            return moved
        data = answer.read()
        if not data:
            return _ended(transfer, offer, sink)
        if not transfer.fits(len(data)) or not sink.put(transfer.at, data):
            return transfer.next(Mismatch())
        action = transfer.next(Chunk(len(data)))
        _begin(action, sink)
        yield


def _begin(action: Action, sink: Sink) -> None:
    if isinstance(action, Receive) and action.begin is not None:
        sink.begin(action.begin)


def _ended(transfer: Transfer, offer: Offer, sink: Sink) -> Action:
    action = transfer.next(Eof())
    if not isinstance(action, Finish):
        return action
    wrong = sink.differing(transfer.digests)
    if wrong is not None:
        offer.differed(*wrong)
        wanted, found = wrong
        return transfer.next(Lied(f"sent bytes with another digest: their {wanted.name} is {found}, not {wanted.hex}"))
    objection = sink.objection()
    return action if objection is None else transfer.next(WrongType(objection))
