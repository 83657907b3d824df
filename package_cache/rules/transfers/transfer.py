"""One download as a state machine: mirrors, failover, resumption, comparison. No I/O, no clock.

The loop that drives it performs an action, reports what happened as an event, and asks for the next action. The machine
keeps one promise: the bytes kept are those of one file. It appends to bytes it has only if the source proves to have
the same file (same strong validator, RFC 9110 section 8.8.1) and the last bytes before the joint compare equal. Without
that proof the source is read from its first byte and compared with what is there. Once all of that is equal, the file gets
the head of that source, since its validators are the ones that cover every byte kept. Completeness is a declared
length or a chunked end, never an end of the stream alone. A length that readers were told stands until a restart.
"""

import math
from dataclasses import dataclass, field, replace

from package_cache.model import ErrorResponse, Representation, Span, Validators
from package_cache.rules.http.digests import Digest
from package_cache.rules.http.fields import is_strong, is_strong_date, parse_date
from package_cache.rules.transfers.steps import (
    Action,
    Answered,
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

OVERLAP = 4096
"""Bytes before the joint that are asked for again and compared."""
TRIES = 4
"""Rounds over all mirrors without a new byte before giving up; pauses grow between them."""
_MOST_ASKS = 2 * TRIES
"""Requests to one source, apart from those that brought much."""
FREE_ASK = 1 << 20
"""A request that brought this many new bytes does not count against the limit of requests."""
MAX_UNMARKED = 1 << 36
"""Bytes of a file of undeclared length: a longer body is taken for endless."""

_ENDLESS = "gave neither a length nor a chunked body, so its end could not be told"
_MISSING = frozenset({404, 410})
_LOOP = 508
_WITHOUT = frozenset({403, 404, 410, 451, _LOOP})
"""Statuses of a source that does not have the file. A cache that would ask this one (508) does not have it either."""
_FAULTS = frozenset({429, *range(500, 1000)})
"""Statuses of a source that cannot serve anybody now."""
_LATER = frozenset({408, 425})
"""Statuses after which the same request may succeed in a while."""
_OF_THIS_REQUEST = frozenset({407, 408, 412, 413, 416, 417, 421, 425, 426, 428, 431})
"""Client errors that are about how this cache asked, and not about what its client asked for."""
_TOLD = frozenset({*range(400, 600)} - _OF_THIS_REQUEST - {_LOOP})
"""Statuses of sources that clients are told."""


@dataclass(slots=True)
class _Mirror:
    url: str
    asks: int = 0
    out: bool = False
    """It is not asked again: it does not have the file, or has a different one."""
    differs: bool = False
    lied: bool = False
    """It is not believed any more."""
    doubted: bool = False
    """What it sent did not fit the bytes of another source."""
    tried: bool = False
    """The download was restarted with the file of this one."""
    reached: bool = False
    """Whether it was there at all, whatever came of that."""
    refused: int | None = None
    error: ErrorResponse | None = None
    retry_after: float | None = None
    """The seconds of the Retry-After in its last answer."""
    timed_out: bool = False
    reason: str = "not asked"


@dataclass(slots=True)
class Transfer:
    """One download from one of `urls`, continuing after `have` bytes of `known` if there are any.

    `known` is the head those bytes came with. With `held`, the version the cache has, requests for the whole are
    conditional.
    """

    urls: tuple[str, ...]
    have: int = 0
    known: Representation | None = None
    held: Representation | None = None
    _mirrors: list[_Mirror] = field(init=False)
    _current: int = field(init=False, default=0)
    _at: int = field(init=False, default=0)
    _gained: int = field(init=False, default=0)
    _asked: Ask | None = field(init=False, default=None)
    _round: int = field(init=False, default=0)
    _round_start: int = field(init=False, default=0)
    digests: tuple[Digest, ...] = field(init=False, default=())
    """What the bytes of the file must hash to, as declared by the sources whose bytes are kept."""
    _offered: Answered | None = field(init=False, default=None)
    """The head of a body read from its first byte, until it has caught up with the bytes kept."""
    _partial: bool | None = field(init=False, default=None)
    """Whether the current body is a part of the file, or the whole; None without a body."""
    _marked: bool = field(init=False, default=False)
    """Whether the body's end is marked (chunked), instead of following from a length."""
    _confirmed: bool = field(init=False, default=False)
    """Whether a source has confirmed `known`, so that readers were given it."""
    _begun: bool = field(init=False, default=False)
    """Whether readers were given any head at all."""
    _suspect: bool = field(init=False, default=False)
    """Whether bytes of a source that lied are among those kept; then none counts until another source has the same."""
    _anew: bool = field(init=False, default=False)
    """Whether bytes were dropped."""
    fault: tuple[str, str] | None = field(init=False, default=None)
    """The URL that the last event made the transfer leave, and why, if its source is to blame."""
    blamed: bool = field(init=False, default=False)
    """Whether a source was to blame for any event."""

    def __post_init__(self) -> None:
        self._mirrors = [_Mirror(url) for url in self.urls]
        if self.known is None:
            self.have = 0
        else:
            self._current = self._round_start = next(
                (at for at, url in enumerate(self.urls) if url == self.known.source), 0
            )

    @property
    def at(self) -> int:
        """Where the next byte of the body belongs."""
        return self._at

    @property
    def left(self) -> int | None:
        """Bytes from there to the end of the file, if that is known."""
        size = self.known.size if self.known is not None else None
        return None if size is None else size - self._at

    @property
    def contradicted(self) -> bool:
        """Whether the sources disagreed about the file, so that nothing kept may be used later."""
        return self._anew or self._suspect

    @property
    def hopeless(self) -> bool:
        """Whether every source refused for good, or lied, so that asking again is useless."""
        return all(
            mirror.lied or not (mirror.refused is None or mirror.refused in _FAULTS or mirror.refused in _LATER)
            for mirror in self._mirrors
        )

    def start(self) -> Action:
        """The first action."""
        if not self._mirrors:
            return GiveUp(404, "there is no source to ask")
        return self._ask()

    def next(self, event: Event) -> Action:
        """What to do after `event`."""
        self.fault = None
        action: Action
        match event:
            case Answered():
                action = self._on_head(event)
            case Chunk(size):
                action = self._on_chunk(size)
            case Mismatch():
                action = self._leave("has other bytes", out=True, differs=True)
            case Lied(reason):
                action = self._on_lie(reason)
            case WrongType(reason):
                action = self._on_useless(reason)
            case Eof():
                action = self._on_eof()
            case Slow(url):
                action = self._on_slow(url)
            case Broke(reason, again, timeout, crawls, retry_after, unreached):
                self._mirror.timed_out, self._mirror.retry_after = timeout, retry_after
                self._mirror.reached = self._mirror.reached or not (unreached or retry_after is not None)
                if retry_after is not None:
                    self.blamed, action = True, self._leave(reason)
                else:
                    action = self._leave(reason, fault=True) if crawls else self._on_broken(reason, again)
        self.blamed = self.blamed or self.fault is not None
        return action

    def confirms(self, head: Answered) -> bool:
        """Whether `next` makes `NotModified` of that 304."""
        asked = self._asked
        return asked is not None and asked.condition is not None and confirms(head.representation, asked.condition)

    def accepts(self, head: Answered) -> bool:
        """Whether the whole body of that 200 is the file, if no byte is kept yet."""
        return not self.have and self.known is None and accepts(head, self.held)

    @property
    def _mirror(self) -> _Mirror:
        return self._mirrors[self._current]

    def _ask(self, *, whole: bool = False, pause: float = 0.0) -> Ask:
        mirror = self._mirror
        mirror.asks += 1
        mirror.timed_out, mirror.refused, mirror.error, mirror.retry_after = False, None, None, None
        self._gained, self._partial = 0, None
        if_range = None if whole else self._if_range(mirror.url)
        if if_range is not None:
            self._asked = Ask(mirror.url, self.have - OVERLAP, if_range, pause=pause)
        else:
            # Readers that were given a new version cannot be told that there is none.
            held = None if whole or self.have or self._begun else self.held
            self._asked = first_ask(mirror.url, held, pause)
        return self._asked

    def _if_range(self, url: str) -> str | None:
        """The validator that proves that `url` has the file whose first bytes are kept; None if none can."""
        if self.known is None or self.have <= OVERLAP or self._suspect:
            return None
        proof = proof_for(self.known)
        return proof if is_strong(proof) or url == self.known.source else None

    def _on_head(self, head: Answered) -> Action:
        asked = self._asked
        assert asked is not None
        self._mirror.reached = True
        if head.status == 304 and asked.condition:
            # A 304 may confirm another version than the one held.
            told = head.representation
            return NotModified(told) if confirms(told, asked.condition) else self._ask_whole()
        if head.status == 206 and asked.offset:
            return self._on_partial(head, asked)
        if head.status in (206, 304):
            return self._on_lie(f"answered {head.status}, which nobody asked for")
        if head.status == 416 and asked.offset:
            return self._ask_whole()
        if head.status == 200:
            return self._on_whole(head)
        self._mirror.refused, self._mirror.error, self._mirror.retry_after = head.status, head.error, head.retry_after
        out = head.status in _WITHOUT
        return self._leave(f"answered {head.status}", out=out, fault=head.status in _FAULTS and not out)

    def _ask_whole(self) -> Action:
        if self._mirror.asks >= _MOST_ASKS:
            return self._leave("does not send the part that was asked for")
        return self._ask(whole=True)

    def _on_partial(self, head: Answered, asked: Ask) -> Action:
        known, place = self.known, head.content_range
        assert known is not None
        assert asked.if_range is not None
        whole = known.size if known.size is not None or place is None else place.total
        if whole is None or whole < self.have or not is_part(head, known, asked.if_range, Span(asked.offset, whole)):
            return self._ask_whole()
        self.known = replace(known, size=whole)
        self.digests = (*self.digests, *head.digests)
        self._at, self._marked, self._offered, self._partial = asked.offset, False, None, True
        return Receive(self._at, None if self._confirmed else self._vouch(self.known))

    def _on_whole(self, head: Answered) -> Action:
        offered, place = head.representation, head.content_range
        if place is not None and place.span != Span(0, place.total):
            return self._on_lie("answered 200 with a part of the file")
        if offered.size is None and not head.chunked:
            return self._leave(_ENDLESS, out=True, fault=True)
        if _is_older(offered, self.held):
            return self._leave("has an older version", out=True)
        told = self.known.size if self.known is not None and self._confirmed else None
        if offered.size is None:
            head = replace(head, representation=offered.of_size(told))
        elif told not in (None, offered.size):
            return self._leave("has a file of another size", out=True, differs=True)
        elif offered.size < self.have:
            return self._leave("has a shorter file", out=True, differs=True)
        self._offered = head
        self._at, self._marked, self._partial = 0, offered.size is None, False
        return self._receive()

    def _receive(self) -> Receive:
        """Read on. A body read from its first byte becomes the file as soon as all bytes kept were compared with it."""
        offered, known = self._offered, self.known
        if offered is None or self._at < self.have:
            return Receive(self._at)
        self._offered, self._suspect, self.digests = None, False, offered.digests
        if self._confirmed and known is not None and is_same(offered.representation, known):
            return Receive(self._at)
        return Receive(self._at, self._vouch(offered.representation))

    def _vouch(self, head: Representation) -> Representation:
        self.known, self._confirmed, self._begun = head, True, True
        return head

    def fits(self, size: int) -> bool:
        """Whether `size` more bytes are within the declared length, or within the limit if there is none."""
        head = self._offered.representation if self._offered else self.known
        return head is None or self._at + size <= (MAX_UNMARKED if head.size is None else head.size)

    def _on_chunk(self, size: int) -> Action:
        self._at += size
        if self._at > self.have:
            self._gained += self._at - self.have
            self.have = self._at
            self._round, self._round_start = 0, self._current
        return self._receive()

    def _on_eof(self) -> Action:
        assert self.known is not None
        if self._at < max(self.have, self.known.size or 0):
            if self._marked:
                return self._leave("has a shorter file", out=True, differs=True)
            return self._on_broken("ended before the declared length", again=True)
        return Finish(self.have)

    def _on_broken(self, reason: str, again: bool) -> Action:
        mirror = self._mirror
        if self._gained >= FREE_ASK:
            mirror.asks -= 1
        if (self._gained or (again and mirror.asks == 1)) and mirror.asks < _MOST_ASKS:
            mirror.reason = reason
            return self._ask()
        return self._leave(reason, fault=True)

    def _on_slow(self, url: str) -> Action:
        """Continue at another mirror, if that was not asked yet and a validator proves which file the bytes kept are of."""
        at = next((at for at, mirror in enumerate(self._mirrors) if mirror.url == url), self._current)
        proven = self.known is not None and self._at >= self.have > OVERLAP and is_strong(proof_for(self.known))
        if not proven or self._mirrors[at].asks or self._mirrors[at].out:
            return Receive(self._at)
        self._mirror.reason = "is slower than another source"
        self._current = at
        return self._ask()

    def _on_lie(self, reason: str) -> Action:
        """Stop believing the mirror. If its body had begun, the bytes kept must be compared with those of another one."""
        mirror = self._mirror
        mirror.reached = True
        self._suspect = self._suspect or self._partial is not None
        if self._partial and not mirror.doubted:
            # The bytes that did not fit may be those of another mirror: the whole file from this one will tell.
            mirror.doubted, mirror.reason, self.fault = True, reason, (mirror.url, reason)
            return self._ask()
        mirror.lied = True
        return self._leave(reason, out=True, fault=True)

    def _on_useless(self, reason: str) -> Action:
        """Restart at the next mirror: the bytes kept prove nothing about its file, not even that it is older."""
        mirror = self._mirror
        mirror.lied, mirror.out, mirror.reason, self.fault = True, True, reason, (mirror.url, reason)
        self._anew = True
        around = (*range(self._current + 1, len(self._mirrors)), *range(self._current))
        base = next((at for at in around if not self._mirrors[at].out), None)
        return self._give_up() if base is None else self._begin_anew(base)

    def _leave(self, reason: str, *, out: bool = False, differs: bool = False, fault: bool = False) -> Action:
        """Turn to the next mirror that may still help."""
        mirror = self._mirror
        self.fault = (mirror.url, reason) if fault else None
        if differs and self._suspect:
            return self._begin_anew(self._current)
        mirror.reason, mirror.differs = reason, mirror.differs or differs
        mirror.out = mirror.out or out or mirror.asks >= _MOST_ASKS
        for _ in self._mirrors:
            self._current = (self._current + 1) % len(self._mirrors)
            if self._current == self._round_start:
                self._round += 1
                if self.have == 0 or self._round >= TRIES:
                    break
            if not self._mirror.out:
                return self._ask(pause=0.25 * (1 << self._round) if self._round else 0.0)
        # Restart with the file of another mirror, of each in turn.
        base = next((at for at, mirror in enumerate(self._mirrors) if mirror.differs and not mirror.tried), None)
        return self._give_up() if base is None else self._begin_anew(base)

    def _begin_anew(self, base: int) -> Restart:
        self._mirrors[base].tried = self._anew = True
        self._suspect = False
        self.have, self.known, self._offered, self._confirmed, self.digests = 0, None, None, False, ()
        self._current = self._round_start = base
        self._round = 0
        for mirror in self._mirrors:
            mirror.out, mirror.differs, mirror.asks = mirror.lied, False, 0
        return Restart()

    def _give_up(self) -> GiveUp:
        """What clients are told: what the sources answered, as far as all that could be asked did no more than refuse."""
        mirrors = self._mirrors
        reasons = "; ".join(f"{mirror.url} {mirror.reason}" for mirror in mirrors)
        refusing = [mirror for mirror in mirrors if mirror.refused is not None]
        answered = refusing[0].refused if refusing else None
        if all(mirror.refused == _LOOP for mirror in mirrors):
            return GiveUp(_LOOP, f"every source leads back to this cache: {reasons}", answered)
        rests = [mirror.retry_after for mirror in mirrors if mirror.retry_after is not None]
        rest = math.ceil(min(rests)) if rests else None
        chosen = self._telling()
        if chosen is not None and chosen.refused is not None:
            return GiveUp(chosen.refused, reasons, answered, rest, chosen.error)
        if all(mirror.refused in _WITHOUT for mirror in mirrors):
            return GiveUp(404, reasons, answered)
        if all(mirror.retry_after is not None or mirror.refused in _WITHOUT for mirror in mirrors):
            return GiveUp(503, reasons, answered, rest)
        timeout = all(mirror.timed_out or mirror.refused in _WITHOUT for mirror in mirrors)
        return GiveUp(504 if timeout else 502, reasons, answered, rest)

    def _telling(self) -> _Mirror | None:
        """The source whose answer clients are told; None if what they are told is this cache's own affair.

        That is so where a source had the file and did not deliver it, where one wants to be left alone, and where a version
        is here that a source which could not be asked may have replaced. A source that fails comes first, since it may have
        the file; then one that says that there is none, then any that refuses.
        """
        silent = [mirror for mirror in self._mirrors if not mirror.reached]
        told = [mirror for mirror in self._mirrors if mirror.refused in _TOLD]
        faults = [mirror for mirror in told if mirror.refused in _FAULTS]
        refusing = sum(mirror.refused is not None for mirror in self._mirrors)
        is_silent_busy = any(mirror.retry_after is not None for mirror in silent)
        may_differ = self.held is not None and silent and not faults
        if len(silent) + refusing < len(self._mirrors) or is_silent_busy or may_differ:
            return None
        if any(mirror.refused not in _TOLD and mirror.refused != _LOOP for mirror in self._mirrors if mirror.reached):
            return None
        missing = [mirror for mirror in told if mirror.refused in _MISSING]
        return next(iter((*faults, *missing, *told)), None)

    def resume(self) -> Action:
        """The action after a `Restart` was carried out."""
        return self._ask()


def first_ask(url: str, held: Representation | None, pause: float = 0.0) -> Ask:
    """A request for the whole file, conditional where a version is held."""
    return Ask(url, condition=None if held is None else held.validators, pause=pause)


def accepts(head: Answered, held: Representation | None) -> bool:
    """Whether the whole body of a 200 is the file, where no byte of it is here yet."""
    offered = head.representation
    is_marked = offered.size is not None or head.chunked
    return is_marked and head.content_range is None and not _is_older(offered, held)


def _is_older(offered: Representation, held: Representation | None) -> bool:
    """Whether an out-of-date mirror offers a version that was already replaced here."""
    if held is None or offered.source == held.source:
        return False
    ours, theirs = parse_date(held.get("last-modified")), parse_date(offered.get("last-modified"))
    return ours is not None and theirs is not None and theirs < ours


def confirms(told: Representation, condition: Validators) -> bool:
    """Whether a 304 is of the version that was asked about (RFC 9111, section 4.3.4)."""
    etag, held = told.get("etag"), condition.etag
    return etag is None or held is None or not is_strong(etag) or etag == held.removeprefix("W/")


def proof_for(known: Representation) -> str | None:
    """The strong validator of a file: its tag, valid at any mirror, or its date, valid at its own source; else None."""
    etag, modified = known.validators.etag, known.validators.last_modified
    if is_strong(etag):
        return etag
    return modified if is_strong_date(modified, parse_date(known.get("date"))) else None


def is_part(head: Answered, known: Representation, proof: str, span: Span) -> bool:
    """Whether an answer to a request with `proof` as If-Range has exactly that part of the known file.

    It must repeat ETag, not Last-Modified (RFC 9110, section 15.3.7), and have no other content coding than the whole.
    """
    place, offered = head.content_range, head.representation
    if head.status != 206 or place is None or place.span != span or known.size not in (None, place.total):
        return False
    if offered.get("content-encoding") not in (None, known.get("content-encoding")):
        return False
    etag = known.validators.etag
    if proof == etag:
        return offered.validators.etag == etag
    return offered.validators.etag in (None, etag) and offered.validators.last_modified in (None, proof)


def is_same(one: Representation, other: Representation) -> bool:
    """Whether two heads say the same of a file, and may be trusted in the same places."""
    if one.validators != other.validators or one.size != other.size:
        return False
    return one.source == other.source or is_strong(one.get("etag"))
