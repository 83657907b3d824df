"""Which source is asked first, and which one had better be left alone for a while.

A source that failed or lied is set aside: asked after all the others, so that it is still there where no other one helps.
After a time one request finds out how it is now; meanwhile it stays aside for the others. If that request fails too, the
next time is twice as long. One that says when it may be asked again is not asked before. Those that are well are asked in
the order given; or, balanced, the quick ones first.
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
"""After this time the speed of a source is as good as not known."""
TOLD_SECONDS = 1.0
"""How often the same thing is told of a source."""
TOLD_AT_ONCE = 8
"""How many things are told of a source at once that are news each time; then one in `TOLD_SECONDS`."""
WARNED_SECONDS = 60.0
"""How often the log is warned that a source was set aside."""
LOOK_SECONDS = 1.0
"""How often a request finds out how sources are that are all set aside, where what is here could be served instead."""
_TELLING = 1 << 16
"""Bytes of a body from which on its speed says something of the source."""
PROBE_SECONDS = 30.0
"""How long the one request that finds out how a source is may take before another one does."""


@dataclass(slots=True)
class _Health:
    """Whether a source is to be asked. `hold` is 0 while it is well, and else the seconds for which it is set aside."""

    hold: float = 0.0
    until: float = 0.0
    probed: float = 0.0
    """Until when another request finds out."""
    closed: float = 0.0
    """Until when it does not want to be asked at all."""
    looked: float = 0.0
    """Until when nobody else finds out for whom that is not needed."""

    def is_aside(self, now: float) -> bool:
        """Whether it is asked last."""
        return bool(self.hold) and now < max(self.until, self.probed)


@dataclass(slots=True)
class _Measured:
    """How quick a source was, and when."""

    speed: Speed = field(default_factory=Speed)
    when: float = 0.0


@dataclass(slots=True)
class _Told:
    """What was told of a source last, and when; how many things may be told at once still; when the log was warned."""

    said: str = ""
    when: float = 0.0
    left: float = TOLD_AT_ONCE
    warned: float = -WARNED_SECONDS
    owed: bool = False
    """Whether the log was warned of what is not over yet."""


Tell = Callable[[str, str, str, float], None]
"""Is told the base of a source, a URL, what the source said, and for how many seconds it is asked last now."""


def _tell_nobody(base: str, url: str, said: str, aside: float) -> None:
    pass


class Mirrors:
    """The health and the speed of the sources. Safe for any number of threads."""

    def __init__(
        self, sources: tuple[Source, ...], clock: Callable[[], float], *, balance: bool = False, tell: Tell = _tell_nobody
    ) -> None:
        self._tell = tell
        self._told = {source.base: _Told() for source in sources}
        self.balance = balance
        self._sources = sources
        self._clock = clock
        self._guard = threading.Lock()
        self._health = {source.base: _Health() for source in sources}
        self._measured = {source.base: _Measured() for source in sources}

    def order(self, sources: tuple[Source, ...]) -> tuple[Source, ...]:
        """These sources, the one to ask first at the beginning."""
        now = self._clock()
        with self._guard:
            aside = {source.base for source in sources if self._is_aside(self._health[source.base], now)}
            sources = self._by_speed(sources, now) if self.balance else sources
        return tuple(sorted(sources, key=lambda source: source.base in aside))

    def are_aside(self, sources: tuple[Source, ...]) -> bool:
        """Whether all of these sources are set aside, and nobody is to find out how they are now."""
        now = self._clock()
        with self._guard:
            return bool(sources) and all(self._health[source.base].is_aside(now) for source in sources)

    def may_look(self, sources: tuple[Source, ...]) -> bool:
        """Whether the caller, who has an answer without them, is to find out how these sources are. One is in a second."""
        now = self._clock()
        with self._guard:
            able = [it for it in (self._health[source.base] for source in sources) if now >= max(it.looked, it.closed)]
            for health in able:
                health.looked = now + LOOK_SECONDS
        return bool(able)

    def check(self, url: str) -> None:
        """Raise UpstreamBusy if the source of a URL does not want to be asked now."""
        base = self._base_of(url)
        left = self._health[base].closed - self._clock() if base is not None else 0.0
        if left > 0:
            raise UpstreamBusy(left)

    def rest(self, url: str, seconds: float) -> None:
        """Note that the source of a URL does not want to be asked for so long."""
        now, base = self._clock(), self._base_of(url)
        if base is None or seconds <= 0:
            return
        with self._guard:
            health = self._health[base]
            level = self._level(base, now) if now >= health.closed else logging.DEBUG
            health.closed = max(health.closed, now + seconds)
            health.hold, health.until, health.probed = (
                max(health.hold, ASIDE_SECONDS),
                max(health.until, health.closed),
                0.0,
            )
        logger.log(level, "source %s is not asked for %d seconds: it said so", base, seconds)

    def _level(self, base: str, now: float) -> int:
        """At which level to tell that a source is set aside now: of the times in one minute, the first is a warning."""
        told = self._told[base]
        if now < told.warned + WARNED_SECONDS:
            return logging.INFO
        told.warned, told.owed = now, True
        return logging.WARNING

    def _by_speed(self, sources: tuple[Source, ...], now: float) -> tuple[Source, ...]:
        speeds = [self._speed_of(source.base, now) for source in sources]
        return tuple(sources[at] for at in by_speed(speeds))

    def _speed_of(self, base: str, now: float) -> Speed:
        measured = self._measured[base]
        return measured.speed if now < measured.when + MEASURED_SECONDS else Speed()

    def answered(self, url: str, status: int, seconds: float) -> None:
        """Note what the source of a URL answered, and how long it took."""
        base = self._base_of(url)
        if base is None:
            return
        now = self._clock()
        if self.balance:
            with self._guard:
                self._measured[base] = _Measured(self._measured[base].speed.after_answer(seconds), now)
        self._report(base, url, f"answered {status}", now)

    def _report(self, base: str, url: str, said: str, now: float) -> None:
        """Tell what a source said, unless the same was told a moment ago, or much else: each time a file is written."""
        told = self._told[base]
        with self._guard:
            left = min(TOLD_AT_ONCE, told.left + (now - told.when) / TOLD_SECONDS)
            if left < 1 or (said == told.said and now < told.when + TOLD_SECONDS):
                return
            told.said, told.when, told.left = said, now, left - 1
            health = self._health[base]
            aside = max(0.0, health.until - now) if health.hold else 0.0
        self._tell(base, url, said, aside)

    def sent(self, url: str, size: int, seconds: float) -> None:
        """Note how long the source of a URL took to send so many bytes."""
        if size < _TELLING or not self.balance:
            return
        base = self._base_of(url)
        if base is not None:
            with self._guard:
                self._measured[base] = _Measured(self._measured[base].speed.after_body(size, seconds), self._clock())

    def rival(self, url: str, urls: tuple[str, ...], rate: float, left: int | None) -> str | None:
        """From which of `urls` the rest of a download would come a good deal faster, so many bytes of it being left."""
        base, now = self._base_of(url), self._clock()
        places = {found: one for one in reversed(urls) if (found := self._base_of(one)) is not None}
        with self._guard:
            rates = {one: self._speed_of(one, now).rate or 0.0 for one in places if not self._health[one].hold}
        best = max(rates, key=lambda one: rates[one], default=base)
        if base is None or best is None or best == base or not is_outrun(rate, rates[best], left):
            return None
        return places[best]

    @staticmethod
    def _is_aside(health: _Health, now: float) -> bool:
        """Whether to ask a source last. Once its time is over, whoever is told so first finds out how it is."""
        if health.is_aside(now):
            return True
        if health.hold:
            health.probed = now + PROBE_SECONDS
        return False

    def failed(self, url: str, reason: str) -> None:
        """Note that the source of a URL failed, or lied."""
        now, base = self._clock(), self._base_of(url)
        if base is None:
            return
        with self._guard:
            health = self._health[base]
            known = now < health.until
            first = not health.hold
            if not known:
                health.hold = ASIDE_SECONDS if first else min(2 * health.hold, LONGEST_ASIDE)
                health.until, health.probed = now + health.hold, 0.0
            seconds = health.hold
            level = self._level(base, now) if first else logging.INFO
        if not known:
            logger.log(level, "source %s is asked last for %d seconds: it %s", base, seconds, reason)
        self._report(base, url, reason, now)

    def well(self, url: str) -> None:
        """Note that the source of a URL did what it is for."""
        base = self._base_of(url)
        if base is None or not self._health[base].hold:
            return
        with self._guard:
            if self._clock() < self._health[base].closed:
                return
            was, self._health[base] = self._health[base].hold, _Health()
            told = self._told[base]
            level, told.owed = logging.WARNING if told.owed else logging.INFO, False
        if was:
            logger.log(level, "source %s is well again", base)
            self._report(base, url, "did what was asked of it", self._clock())

    def _base_of(self, url: str) -> str | None:
        bases = (source.base for source in self._sources if url.startswith(source.base + "/"))
        return max(bases, key=len, default=None)
