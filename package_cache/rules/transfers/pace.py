"""When a source is too slow: it delivers next to nothing, or another one would be much faster. No clock.

Seconds are those spent waiting for the source, so a slow disk is not held against it.
"""

from dataclasses import dataclass

LEAST = 1024
"""Bytes a second below which a source crawls."""
JUDGED = 2.0
"""Seconds of waiting over which the speed of a running download is measured."""
_WEIGHT = 0.3
"""Weight of the newest measurement in a moving average."""
_TYPICAL = 1 << 20
"""Bytes of the file by which sources are compared."""
_EQUAL = 1.25
"""By this factor a source must be quicker than another to be preferred."""
_OUTRUN = 2.0
"""By this factor it must be faster for a running download to move to it."""
_WORTH = 5.0
"""Seconds that such a move must save."""


@dataclass(slots=True)
class Pace:
    """The speed of one body, measured every few seconds. It crawls if it is below LEAST over `limit` seconds."""

    limit: float
    recent: float | None = None
    """Bytes a second, by the last measurement that nobody has used yet."""
    size: int = 0
    seconds: float = 0.0
    _told: tuple[int, float] = (0, 0.0)
    _checked: tuple[int, float] = (0, 0.0)

    def add(self, size: int, seconds: float) -> bool:
        """Note `size` bytes after `seconds` of waiting. False if the source crawls."""
        self.size += size
        self.seconds += seconds
        waited = self.seconds - self._told[1]
        if waited >= JUDGED:
            self.recent = (self.size - self._told[0]) / waited
            self._told = (self.size, self.seconds)
        waited = self.seconds - self._checked[1]
        if waited < self.limit:
            return True
        enough = self.size - self._checked[0] >= LEAST * waited
        self._checked = (self.size, self.seconds)
        return enough


@dataclass(frozen=True, slots=True)
class Speed:
    """What is known of a source: seconds to the head of an answer, and bytes a second of a body."""

    latency: float | None = None
    rate: float | None = None

    def after_answer(self, seconds: float) -> "Speed":
        """With one more answer that began after `seconds`."""
        return Speed(_averaged(self.latency, seconds), self.rate)

    def after_body(self, size: int, seconds: float) -> "Speed":
        """With one more body of `size` bytes that took `seconds`."""
        return Speed(self.latency, _averaged(self.rate, size / max(seconds, 1e-6)))

    @property
    def cost(self) -> float:
        """Seconds that a file of a typical size takes; 0 if nothing is known, so that the source is tried."""
        return (self.latency or 0.0) + (_TYPICAL / self.rate if self.rate else 0.0)


def _averaged(old: float | None, new: float) -> float:
    return new if old is None else old + _WEIGHT * (new - old)


def by_speed(speeds: list[Speed]) -> list[int]:
    """The order in which to ask sources, as indexes: quick ones first, about equally quick ones in the order given."""
    left = list(range(len(speeds)))
    order: list[int] = []
    while left:
        best = min(speeds[at].cost for at in left)
        equal = [at for at in left if speeds[at].cost <= best * _EQUAL]
        order += equal
        left = [at for at in left if at not in equal]
    return order


def is_outrun(rate: float, rival: float, left: int | None) -> bool:
    """Whether a download at `rate` with `left` bytes to come should move to a source with the rate `rival`."""
    if rival < _OUTRUN * rate:
        return False
    return left is None or left / max(rate, 1.0) - left / rival >= _WORTH
