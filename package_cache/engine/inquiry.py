"""How the event loop carries out a transfer: one question to one source after the other, through redirects.

What is made of an answer is the business of who inquires: see `engine.exchange`, `engine.passing`. Belongs to the loop's
thread.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from package_cache.engine.fills.pump import heed
from package_cache.engine.fills.sinks import MemorySink
from package_cache.errors import OutOfDescriptors, UpstreamError, UpstreamLie
from package_cache.model import Fields, Representation
from package_cache.rules.http.response import FILES
from package_cache.rules.transfers.requests import (
    MAX_REDIRECTS,
    REDIRECTS,
    RawRequest,
    led_to,
    locations_of,
    told_on_the_way,
)
from package_cache.rules.transfers.steps import Action, Ask, GiveUp, Restart
from package_cache.rules.transfers.transfer import Transfer
from package_cache.upstream.fetcher import First, SourceOffer
from package_cache.upstream.pool import Begun, Cut, Outcome, Pool, Whole
from package_cache.upstream.taken import Held


class Inquiry(ABC):
    """One transfer, and the bytes that it has of the file."""

    method = "GET"
    _redirects = REDIRECTS
    """Statuses after which it asks elsewhere."""
    _question: Ask
    """What is asked now."""
    _held_up = False
    """Whether a thread has what it goes on with."""
    _late: Callable[[], None] | None = None
    """What comes after that."""

    def __init__(
        self,
        pool: Pool,
        offer: SourceOffer,
        client: str,
        begun: float | None = None,
    ) -> None:
        self._pool = pool
        self._offer = offer
        self._made: Transfer | None = None
        self._kept: MemorySink | None = None
        self._client = client
        self._begun = begun or time.monotonic()
        """When the source was asked."""
        self._url: str | None = None
        """Where a redirect of it led to, how many there were, and what they told of the file at their end."""
        self._hops = 0
        self._on_the_way: Fields = ()

    # -- what is made of it

    @abstractmethod
    def _make_transfer(self) -> Transfer:
        """What decides whom to ask next; one that has asked already, if something was asked."""

    def _make_sink(self) -> MemorySink:
        """What takes the bytes. It must not lead back here: what is in a cycle stays open until garbage is collected."""
        return MemorySink(_as_it_is)

    @property
    def _transfer(self) -> Transfer:
        if self._made is None:
            self._made = self._make_transfer()
        return self._made

    @property
    def _sink(self) -> MemorySink:
        """The bytes that it has."""
        if self._kept is None:
            self._kept = self._make_sink()
        return self._kept

    @abstractmethod
    def _heed(self, outcome: Outcome) -> Action | None:
        """What to do after what came of a question; None if that is over, or somebody else's."""

    @abstractmethod
    def _give_up(self, end: GiveUp) -> None:
        """No source delivered."""

    def _hand_over(self, first: First | None = None, *, underway: bool = True) -> None:
        """Have a thread go on with what came of the question, or with asking it; anew unless the transfer is `underway`."""
        raise NotImplementedError(first, underway)

    # -- what is asked

    def begin(self) -> None:
        """Ask the first source."""
        action = self._transfer.start()
        if isinstance(action, Ask):
            self._ask(action)
        else:
            assert isinstance(action, GiveUp)  # there is nobody to ask
            self._give_up(action)

    def _ask(self, ask: Ask) -> None:
        """Ask a source, after the pause that the transfer wants."""
        self._question, self._url, self._hops, self._on_the_way = replace(ask, pause=0.0), None, 0, ()
        if ask.pause:
            self._pool.events.after(ask.pause, self._ask_now)
        else:
            self._ask_now()

    def _ask_now(self) -> None:
        if self._held_up:
            self._late = self._ask_now
            return
        if self._pool.closed:
            return
        self._begun = time.monotonic()
        wire = self._wire()
        if wire is None:  # a file of a directory
            self._hand_over()
        else:
            self.send(wire)

    def _wire(self) -> RawRequest | UpstreamError | None:
        """What is sent; or why it is not. None for a file of a directory."""
        return wire_of(self._offer, self._question, self._url, self.method)

    def send(self, wire: RawRequest | UpstreamError) -> None:
        """Send a question; it may be known what comes of it."""
        if isinstance(wire, UpstreamError):
            self.came(wire)
        else:
            self._pool.ask(wire, self.came, client=self._client)

    def came(self, outcome: Outcome) -> None:
        """A source answered, or did not."""
        if self._held_up:
            self._late = partial(self.came, outcome)
            return
        if isinstance(outcome, Whole | Begun | Cut) and outcome.head.status in self._redirects:
            places = locations_of(outcome.head.status, outcome.head.fields)
            if places:
                self._redirect(outcome, places)
                return
        if isinstance(outcome, UpstreamError) and self._hops:
            outcome.unreached = False  # the source itself was there
        if self._on_the_way:
            outcome = _led(outcome, self._on_the_way)
        action = self._heed(outcome)
        if isinstance(action, Restart):
            self._sink.reset()
            action = self._transfer.resume()
        if isinstance(action, Ask):
            self._ask(action)
        elif action is not None:
            assert isinstance(action, GiveUp)  # a body is in hand to its end
            self._give_up(action)

    def _redirect(self, answer: Whole | Begun | Cut, places: tuple[str, ...]) -> None:
        """Ask where an answer leads to."""
        if isinstance(answer, Begun):
            answer.taken.close()
        self._on_the_way = told_on_the_way(self._on_the_way, answer.head.fields)
        try:
            self._url = self._offer.following(self._url or self._question.url, places)
            self._hops += 1
            if self._hops > MAX_REDIRECTS:
                raise UpstreamLie(f"redirects more than {MAX_REDIRECTS} times")
        except UpstreamError as error:
            self.came(error)
        else:
            self._ask_now()

    # -- what came of it

    def _is_held(self, outcome: Outcome) -> bool:
        """Whether all that came of a question is in hand, and is no file."""
        return isinstance(outcome, UpstreamError) or (isinstance(outcome, Whole | Cut) and outcome.head.status not in FILES)

    def _told(self, outcome: Outcome) -> SourceOffer:
        """The offer, as it is known that this came of the question."""
        return self._offer.after(self._question, first_of(outcome), self._begun, self.method)

    def _perform(self, outcome: Outcome) -> Action:
        """What the transfer wants after what is in hand."""
        return heed(self._question, self._transfer, self._told(outcome), self._sink)


def _led(outcome: Outcome, told: Fields) -> Outcome:
    """What came of a question, with what the redirects told that led there."""
    if not isinstance(outcome, Whole | Begun | Cut):
        return outcome
    head = outcome.head.with_fields(led_to(outcome.head.fields, told))
    match outcome:
        case Whole(_, body):
            return Whole(head, body)
        case Begun(_, taken):
            taken.fields = head.fields
            return Begun(head, taken)
        case Cut(_, body, error):
            return Cut(head, body, error)


def first_of(outcome: Outcome) -> First:
    """What came of a question, for who goes on with it."""
    match outcome:
        case Whole(head, body):
            return Held(head, body)
        case Begun(_, taken):
            return taken
        case Cut(head, body, error):
            return Held(head, body, error)
        case UpstreamError() | OutOfDescriptors():
            return outcome


def wire_of(offer: SourceOffer, ask: Ask, url: str | None = None, method: str = "GET") -> RawRequest | UpstreamError | None:
    """What is sent; or why it is not."""
    try:
        return offer.wire(ask, url, method)
    except UpstreamError as error:
        return error


def _as_it_is(head: Representation, _read: Callable[[], bytes]) -> Representation:
    return head
