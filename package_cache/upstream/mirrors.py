"""Health and speed of the sources: which one is asked first, and which ones are set aside for a while (a circuit breaker).

A source that failed or lied is set aside: asked after all the others, so that it still helps where no other one does. After
a while one request probes it; meanwhile it stays aside for the others. If the probe fails too, it is set aside for twice as
long (back-off). A source that says when it may be asked again is not asked before. Healthy ones are asked in the order
given; or, balanced, the quick ones first.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from package_cache.errors import UpstreamBusy
from package_cache.model import Source
from package_cache.rules.transfers.pace import Speed, by_speed, is_outrun

logger = logging.getLogger(__name__)

ASIDE_SECONDS = 30.0
"""How long a source that failed is asked last, at first."""
LONGEST_ASIDE = 600.0
MEASURED_SECONDS = 600.0
"""After this time the measured speed of a source no longer counts."""
TOLD_SECONDS = 1.0
"""How often the same report of a source is passed on."""
_WELL = frozenset({f"answered {status}" for status in (200, 206, 304)})
"""Of which one is no news after another: a range beside a download would be told with each of its answers."""
TOLD_AT_ONCE = 8
"""How many different reports of a source are passed on at once; then one in `TOLD_SECONDS`."""
WARNED_SECONDS = 60.0
"""How often the log is warned that a source was set aside."""
LOOK_SECONDS = 1.0
"""How often sources that are all set aside are probed at most, while stale entries are served."""
_TELLING = 1 << 16
"""Bytes of a body from which on its speed counts."""
PROBE_SECONDS = 30.0
"""How long a probe of a source may take before another request probes it."""


@dataclass(slots=True)
class _State:
    """What is known of one source. All moments are by the clock of `Mirrors`, in seconds."""

    base: str
    hold: float = 0.0
    """0 while it is healthy, and else the seconds for which it is set aside."""
    until: float = 0.0
    probed: float = 0.0
    """Until when another request probes it."""
    closed: float = 0.0
    """Until when it asked not to be asked at all."""
    looked: float = 0.0
    """Until when it is not probed by callers that have a stale entry."""
    speed: Speed = field(default_factory=Speed)
    measured: float = 0.0
    said: str = ""
    """The last report that was passed on, and when; how many more may be passed on at once."""
    told: float = 0.0
    left: float = TOLD_AT_ONCE
    warned: float = -WARNED_SECONDS
    """When the log was warned; and whether it was not yet told that the source is well again."""
    owed: bool = False

    def is_aside(self, now: float) -> bool:
        """Whether it is asked last."""
        return bool(self.hold) and now < max(self.until, self.probed)

    def is_asked_last(self, now: float) -> bool:
        """Whether to ask it last. Once its time is over, the first caller probes it."""
        if self.is_aside(now):
            return True
        if self.hold:
            self.probed = now + PROBE_SECONDS
        return False

    def current_speed(self, now: float) -> Speed:
        """Its speed, as far as that was measured lately."""
        return self.speed if now < self.measured + MEASURED_SECONDS else Speed()

    def level(self, now: float) -> int:
        """The level to log at that it is set aside: a warning, but once a minute."""
        if now < self.warned + WARNED_SECONDS:
            return logging.INFO
        self.warned, self.owed = now, True
        return logging.WARNING


Tell = Callable[[str, str, str, float], None]
"""Takes a report: the base of a source, a URL, what it said, and for how many seconds it is set aside."""


def _tell_nobody(base: str, url: str, said: str, aside: float) -> None:
    pass


class Mirrors:
    """The health and the speed of the sources. Safe for any number of threads."""

    def __init__(
        self, sources: tuple[Source, ...], clock: Callable[[], float], *, balance: bool = False, tell: Tell = _tell_nobody
    ) -> None:
        self._tell = tell
        self.balance = balance
        self._clock = clock
        self._guard = threading.Lock()
        self._states = {source.base: _State(source.base) for source in sources}
        self._by_url = sorted(((f"{base}/", state) for base, state in self._states.items()), key=lambda pair: -len(pair[0]))
        self._aside: set[str] = set()
        """The bases of sources that are not healthy: hardly ever any."""

    def _state_of(self, url: str) -> _State | None:
        for beginning, state in self._by_url:
            if url.startswith(beginning):
                return state
        return None

    def order(self, sources: tuple[Source, ...]) -> tuple[Source, ...]:
        """These sources, the one to ask first at the beginning."""
        if not self._aside and not self.balance:
            return sources
        now = self._clock()
        with self._guard:
            states = [self._states[source.base] for source in sources]
            aside = {state.base for state in states if state.is_asked_last(now)}
            if self.balance:
                sources = tuple(sources[at] for at in by_speed([state.current_speed(now) for state in states]))
        return tuple(sorted(sources, key=lambda source: source.base in aside))

    def are_aside(self, sources: tuple[Source, ...]) -> bool:
        """Whether all of these sources are set aside, and none is to be probed."""
        if not self._aside:
            return False
        now = self._clock()
        with self._guard:
            return bool(sources) and all(self._states[source.base].is_aside(now) for source in sources)

    def may_look(self, sources: tuple[Source, ...]) -> bool:
        """Whether the caller, which has served a stale entry, is to probe these sources. One caller a second is."""
        now = self._clock()
        with self._guard:
            able = [it for it in (self._states[source.base] for source in sources) if now >= max(it.looked, it.closed)]
            for state in able:
                state.looked = now + LOOK_SECONDS
        return bool(able)

    def check(self, url: str) -> None:
        """Raise UpstreamBusy if the source of a URL does not want to be asked now."""
        state = self._state_of(url) if self._aside else None  # which has those that are closed, too
        left = state.closed - self._clock() if state is not None and state.closed else 0.0
        if left > 0:
            raise UpstreamBusy(left)

    def rest(self, url: str, seconds: float) -> None:
        """Note that the source of a URL does not want to be asked for so long."""
        now, state = self._clock(), self._state_of(url)
        if state is None or seconds <= 0:
            return
        with self._guard:
            level = state.level(now) if now >= state.closed else logging.DEBUG
            self._aside.add(state.base)
            state.closed = max(state.closed, now + seconds)
            state.hold, state.until, state.probed = max(state.hold, ASIDE_SECONDS), max(state.until, state.closed), 0.0
        logger.log(level, "source %s is not asked for %d seconds: it said so", state.base, seconds)

    def answered(self, url: str, status: int, seconds: float) -> None:
        """Note what the source of a URL answered, and how long it took."""
        now, state = self._clock(), self._state_of(url)
        if state is None:
            return
        if self.balance:
            with self._guard:
                state.speed, state.measured = state.speed.after_answer(seconds), now
        said = f"answered {status}"
        is_news = said != state.said and not {said, state.said} <= _WELL
        if is_news or now >= state.told + TOLD_SECONDS:
            self._report(state, url, said, now)

    def sent(self, url: str, size: int, seconds: float) -> None:
        """Note how long the source of a URL took to send so many bytes."""
        state = self._state_of(url) if self.balance and size >= _TELLING else None
        if state is not None:
            with self._guard:
                state.speed, state.measured = state.speed.after_body(size, seconds), self._clock()

    def rival(self, url: str, urls: tuple[str, ...], rate: float, left: int | None) -> str | None:
        """Which of `urls` would send the rest of a download, of `left` bytes, a good deal faster."""
        own, now = self._state_of(url), self._clock()
        places = {found.base: one for one in reversed(urls) if (found := self._state_of(one)) is not None}
        with self._guard:
            states = (self._states[base] for base in places)
            rates = {state.base: state.current_speed(now).rate or 0.0 for state in states if not state.hold}
        best = max(rates, key=lambda one: rates[one], default=None)
        if own is None or best is None or best == own.base or not is_outrun(rate, rates[best], left):
            return None
        return places[best]

    def failed(self, url: str, reason: str) -> None:
        """Note that the source of a URL failed, or lied."""
        now, state = self._clock(), self._state_of(url)
        if state is None:
            return
        with self._guard:
            known, first = now < state.until, not state.hold
            self._aside.add(state.base)
            if not known:
                state.hold = ASIDE_SECONDS if first else min(2 * state.hold, LONGEST_ASIDE)
                state.until, state.probed = now + state.hold, 0.0
            seconds = state.hold
            level = state.level(now) if first else logging.INFO
        if not known:
            logger.log(level, "source %s is asked last for %d seconds: it %s", state.base, seconds, reason)
        self._report(state, url, reason, now)

    def well(self, url: str) -> None:
        """Note that the source of a URL is healthy."""
        state = self._state_of(url) if self._aside else None
        if state is None or not state.hold:
            return
        with self._guard:
            if self._clock() < state.closed:
                return
            was = state.hold
            state.hold = state.until = state.probed = state.closed = state.looked = 0.0
            self._aside.discard(state.base)
            level, state.owed = logging.WARNING if state.owed else logging.INFO, False
        if was:
            logger.log(level, "source %s is well again", state.base)
            self._report(state, url, "did what was asked of it", self._clock())

    def _report(self, state: _State, url: str, said: str, now: float) -> None:
        """Pass a report on, unless the same was passed on a moment ago, or much else: a file is written each time."""
        if said == state.said and now < state.told + TOLD_SECONDS:
            return
        with self._guard:
            left = min(TOLD_AT_ONCE, state.left + (now - state.told) / TOLD_SECONDS)
            if left < 1 or (said == state.said and now < state.told + TOLD_SECONDS):
                return
            state.said, state.told, state.left = said, now, left - 1
            aside = max(0.0, state.until - now) if state.hold else 0.0
        self._tell(state.base, url, said, aside)
