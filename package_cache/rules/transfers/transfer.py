"""One download as a state machine: mirrors, failover, resumption, comparison. No I/O, no clock.

The loop that drives it performs an action, reports what happened as an event, and asks for the next action. The machine
keeps one promise: the bytes kept are those of one file. It appends to bytes it has only where the source proves to hold
the same thing (same strong validator, RFC 9110 section 8.8.1) and the last bytes before the joint compare equal. Without
that proof the source is read from its first byte and compared with what is there; once all of that is equal, the file goes
by the head of that source, since its validators are the ones that cover every byte kept. Completeness is a declared
length or a chunked end, never an end of the stream alone. A length that readers were told stands until a restart.
"""

import math
from dataclasses import dataclass, field, replace

from package_cache.model import Representation, Span, Validators
from package_cache.rules.http.digests import Digest
from package_cache.rules.http.fields import is_strong, parse_date
from package_cache.rules.transfers.proofs import is_part, is_same, proof_for
from package_cache.rules.transfers.steps import (
    Action,
    Ask,
    Broke,
    Chunk,
    Eof,
    Event,
    Finish,
    GiveUp,
    Head,
    Lied,
    Mismatch,
    NotModified,
    Receive,
    Restart,
    Slow,
    Useless,
)

OVERLAP = 4096
"""Bytes before the joint that are asked for again and compared."""
TRIES = 4
"""Rounds over all mirrors without a new byte before giving up; pauses grow between them."""
FREE_ASK = 1 << 20
"""An ask that brought this many new bytes does not count against the limit of asks."""
MAX_UNMARKED = 1 << 36
"""Bytes of a file whose length nobody told: what goes on longer has no end."""

_ENDLESS = "gave neither a length nor a chunked body, so its end could not be told"
_MISSING = frozenset({404, 410})
_REFUSALS = frozenset({403, 404, 410, 451})
_LOOP = 508
_WITHOUT = frozenset({*_REFUSALS, _LOOP})
"""What one says that does not have the file: a cache that would ask this one for it has it not either."""
_FAULTS = frozenset({429, *range(500, 1000)})
"""What a source says that cannot serve anybody now."""
_LATER = frozenset({408, 425})
"""What it says where the same request may do better in a while."""


@dataclass(slots=True)
class _Mirror:
    url: str
    asks: int = 0
    out: bool = False
    """Will not be asked again: it does not have the file, or has another one."""
    differs: bool = False
    lied: bool = False
    """Is not believed any more, whatever it says."""
    doubted: bool = False
    """What it said did not fit behind the bytes of another."""
    tried: bool = False
    """The download was begun anew with what this one has."""
    refused: int | None = None
    retry_after: float | None = None
    """For how many seconds it wants to be left alone, by the last answer."""
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
    """What the bytes of the file must hash to, by the word of those whose bytes are kept."""
    _offered: Head | None = field(init=False, default=None)
    """The head of the body that is read from its first byte, until it has caught up with the bytes kept."""
    _partial: bool | None = field(init=False, default=None)
    """Whether the body that is read is a part of the file, or the whole; None while there is no body."""
    _marked: bool = field(init=False, default=False)
    """Whether the body's end is marked, and does not follow from a length."""
    _confirmed: bool = field(init=False, default=False)
    """Whether a source vouched for `known`, so that readers were told."""
    _begun: bool = field(init=False, default=False)
    """Whether readers were told anything at all."""
    _suspect: bool = field(init=False, default=False)
    """Whether a liar's bytes are among those kept, so that none counts before another mirror has the same."""
    _anew: bool = field(init=False, default=False)
    """Whether bytes were dropped."""
    fault: tuple[str, str] | None = field(init=False, default=None)
    """The URL that the last event turned the transfer away from, and why, if that speaks against its source."""
    blamed: bool = field(init=False, default=False)
    """Whether any event spoke against a source."""

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
        """Whether the sources did not agree on what the file is, so that nothing kept may be used later."""
        return self._anew or self._suspect

    @property
    def hopeless(self) -> bool:
        """Whether every source refused for good, or sent what cannot be right: asking them again would be in vain."""
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
            case Head():
                action = self._on_head(event)
            case Chunk(size):
                action = self._on_chunk(size)
            case Mismatch():
                action = self._leave("has other bytes", out=True, differs=True)
            case Lied(reason):
                action = self._on_lie(reason)
            case Useless(reason):
                action = self._on_useless(reason)
            case Eof():
                action = self._on_eof()
            case Slow(url):
                action = self._on_slow(url)
            case Broke(reason, again, timeout, crawls, retry_after):
                self._mirror.timed_out, self._mirror.retry_after = timeout, retry_after
                if retry_after is not None:
                    self.blamed, action = True, self._leave(reason)
                else:
                    action = self._leave(reason, fault=True) if crawls else self._on_broken(reason, again)
        self.blamed = self.blamed or self.fault is not None
        return action

    @property
    def _mirror(self) -> _Mirror:
        return self._mirrors[self._current]

    def _ask(self, *, whole: bool = False, pause: float = 0.0) -> Ask:
        mirror = self._mirror
        mirror.asks += 1
        mirror.timed_out, mirror.refused, mirror.retry_after = False, None, None
        self._gained, self._partial = 0, None
        if_range = None if whole else self._if_range(mirror.url)
        if if_range is not None:
            self._asked = Ask(mirror.url, self.have - OVERLAP, if_range, pause=pause)
        else:
            # Readers who were told of a new version cannot be told that there is none.
            conditional = self.held is not None and not (whole or self.have or self._begun)
            condition = self.held.validators if self.held is not None and conditional else None
            self._asked = Ask(mirror.url, condition=condition, pause=pause)
        return self._asked

    def _if_range(self, url: str) -> str | None:
        """What proves that `url` holds the file whose first bytes are kept; None if nothing can."""
        if self.known is None or self.have <= OVERLAP or self._suspect:
            return None
        proof = proof_for(self.known)
        return proof if is_strong(proof) or url == self.known.source else None

    def _on_head(self, head: Head) -> Action:
        asked = self._asked
        assert asked is not None
        if head.status == 304 and asked.condition:
            return self._on_confirmation(head.representation, asked.condition)
        if head.status == 206 and asked.offset:
            return self._on_partial(head, asked)
        if head.status in (206, 304):
            return self._on_lie(f"answered {head.status}, which nobody asked for")
        if head.status == 416 and asked.offset:
            return self._ask_whole()
        if head.status == 200:
            return self._on_whole(head)
        self._mirror.refused, self._mirror.retry_after = head.status, head.retry_after
        out = head.status in _WITHOUT
        return self._leave(f"answered {head.status}", out=out, fault=head.status in _FAULTS and not out)

    def _on_confirmation(self, told: Representation, condition: Validators) -> Action:
        """Take a 304 for what it says, unless that is of another version than the one held (RFC 9111, section 4.3.4)."""
        etag, held = told.get("etag"), condition.etag
        if etag is None or held is None or not is_strong(etag) or etag == held.removeprefix("W/"):
            return NotModified(told)
        return self._ask_whole()

    def _ask_whole(self) -> Action:
        if self._mirror.asks >= self._limit:
            return self._leave("does not send the part that was asked for")
        return self._ask(whole=True)

    def _on_partial(self, head: Head, asked: Ask) -> Action:
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

    def _on_whole(self, head: Head) -> Action:
        offered, place = head.representation, head.content_range
        if place is not None and place.span != Span(0, place.total):
            return self._on_lie("answered 200 with a part of the file")
        if offered.size is None and not head.chunked:
            return self._leave(_ENDLESS, out=True, fault=True)
        if self._is_older(offered):
            return self._leave("has an older version", out=True)
        told = self.known.size if self.known is not None and self._confirmed else None
        if offered.size is None:
            offered = replace(offered, size=told)
        elif told not in (None, offered.size):
            return self._leave("has a file of another size", out=True, differs=True)
        elif offered.size < self.have:
            return self._leave("has a shorter file", out=True, differs=True)
        self._offered = replace(head, representation=offered)
        self._at, self._marked, self._partial = 0, head.representation.size is None, False
        return self._receive()

    def _is_older(self, offered: Representation) -> bool:
        """Whether a mirror that lags behind offers a version that was already replaced here."""
        if self.held is None or offered.source == self.held.source:
            return False
        ours, theirs = parse_date(self.held.get("last-modified")), parse_date(offered.get("last-modified"))
        return ours is not None and theirs is not None and theirs < ours

    def _receive(self) -> Receive:
        """Read on. What is read from its first byte takes the file over as soon as all that is kept was compared."""
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
        """Whether so many more bytes are within the declared length, or within what a file may have without one."""
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
        if (self._gained or (again and mirror.asks == 1)) and mirror.asks < self._limit:
            mirror.reason = reason
            return self._ask()
        return self._leave(reason, fault=True)

    def _on_slow(self, url: str) -> Action:
        """Go on at another mirror, if that was not asked yet and the bytes kept prove which file they are of."""
        at = next((at for at, mirror in enumerate(self._mirrors) if mirror.url == url), self._current)
        proven = self.known is not None and self._at >= self.have > OVERLAP and is_strong(proof_for(self.known))
        if not proven or self._mirrors[at].asks or self._mirrors[at].out:
            return Receive(self._at)
        self._mirror.reason = "is slower than another source"
        self._current = at
        return self._ask()

    def _on_lie(self, reason: str) -> Action:
        """Believe the mirror no more. Once its body was begun, what is kept must be compared with what another one has."""
        mirror = self._mirror
        self._suspect = self._suspect or self._partial is not None
        if self._partial and not mirror.doubted:
            # Bytes of another mirror are in what did not fit: the whole from this one will tell.
            mirror.doubted, mirror.reason, self.fault = True, reason, (mirror.url, reason)
            return self._ask()
        mirror.lied = True
        return self._leave(reason, out=True, fault=True)

    def _on_useless(self, reason: str) -> Action:
        """Begin anew at the next mirror: what is kept proves nothing of what that has, not even that it is older."""
        mirror = self._mirror
        mirror.lied, mirror.out, mirror.reason, self.fault = True, True, reason, (mirror.url, reason)
        self._anew = True
        around = (*range(self._current + 1, len(self._mirrors)), *range(self._current))
        base = next((at for at in around if not self._mirrors[at].out), None)
        return self._give_up() if base is None else self._begin_anew(base)

    @property
    def _limit(self) -> int:
        return 2 * TRIES

    def _leave(self, reason: str, *, out: bool = False, differs: bool = False, fault: bool = False) -> Action:
        """Turn to the next mirror that may still help."""
        mirror = self._mirror
        self.fault = (mirror.url, reason) if fault else None
        if differs and self._suspect:
            return self._begin_anew(self._current)
        mirror.reason, mirror.differs = reason, mirror.differs or differs
        mirror.out = mirror.out or out or mirror.asks >= self._limit
        for _ in self._mirrors:
            self._current = (self._current + 1) % len(self._mirrors)
            if self._current == self._round_start:
                self._round += 1
                if self.have == 0 or self._round >= TRIES:
                    break
            if not self._mirror.out:
                return self._ask(pause=0.25 * (1 << self._round) if self._round else 0.0)
        return self._end_of_rounds()

    def _end_of_rounds(self) -> Action:
        """Begin anew with what another mirror has, each mirror in its turn; else give up."""
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
        reasons = "; ".join(f"{mirror.url} {mirror.reason}" for mirror in self._mirrors)
        refused = [mirror.refused for mirror in self._mirrors]
        answered = next(filter(None, refused), None)
        if all(status == _LOOP for status in refused):
            return GiveUp(_LOOP, f"every source leads back to this cache: {reasons}", answered)
        if all(status in _WITHOUT for status in refused):
            first = next((status for status in refused if status in _REFUSALS), None)
            missing = any(status in _MISSING for status in refused)
            return GiveUp(404 if missing else first or 404, reasons, answered)
        rests = [mirror.retry_after for mirror in self._mirrors if mirror.retry_after is not None]
        rest = math.ceil(min(rests)) if rests else None
        if all(mirror.retry_after is not None or mirror.refused in _WITHOUT for mirror in self._mirrors):
            return GiveUp(503, reasons, answered, rest)
        timeout = all(mirror.timed_out or mirror.refused in _WITHOUT for mirror in self._mirrors)
        return GiveUp(504 if timeout else 502, reasons, answered, rest)

    def resume(self) -> Action:
        """The action after a `Restart` was carried out."""
        return self._ask()
