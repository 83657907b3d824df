"""Room for downloads: reserved before the first byte is written, so that the bounds hold and the disk does not fill.

Says yes or no with a reason; what becomes of a file that has no room is decided elsewhere.
"""

import errno
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from package_cache.engine.upkeep.culling import Culler
from package_cache.engine.upkeep.space import Claim, Space
from package_cache.errors import StoreError
from package_cache.rules.eviction import Bounds, Usage, needs_of_bounds, needs_of_room
from package_cache.units import size_text

AHEAD = 64 << 20
"""Bytes that are reserved at a time for a file whose length nobody knows."""
_LEAST = 1 << 20
"""The same, where other files have to go for it."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_HOPELESS_SECONDS = 5.0
"""How long nothing is tried again after a cull found nothing more that may go."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """There is no room."""

    reason: str


class Reservation:
    """The room of one download, until `release`."""

    def __init__(
        self, claim: Claim, grow: Callable[[Claim, int], Refusal | None], release: Callable[[Claim], None]
    ) -> None:
        self._claim = claim
        self._grow = grow
        self._release = release

    def wrote(self, size: int) -> Refusal | None:
        """The download has so many bytes by now; more room is reserved where that is beyond what was asked for."""
        self._claim.written = size
        return self._grow(self._claim, size) if size > self._claim.size else None

    def release(self) -> None:
        """The download is over. May be called again."""
        self._release(self._claim)


class Room:
    """Reserves room, and makes it by culling where that helps. Safe for any number of threads."""

    def __init__(self, space: Space, culler: Culler) -> None:
        self._space = space
        self._culler = culler
        self._guard = threading.Lock()
        self._hopeless = -_HOPELESS_SECONDS

    def close(self) -> None:
        """Cull no more."""
        self._culler.close()

    def relieve(self, error: StoreError) -> None:
        """A download ended with this error: if the disk was full, have files removed, so that the next one fits."""
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in _FULL:
            self._culler.demand(AHEAD)

    def reserve(self, size: int | None, have: int = 0) -> Reservation | Refusal:
        """Room for a file of `size` bytes, None if nobody knows; `have` bytes of it are on the disk already.

        Waits up to a second for others to be removed. Raises StoreError.
        """
        claim = Claim(0, have)
        refusal = self._take(claim, size, self._space.limits()) if size is not None else self._grow(claim, have)
        return refusal or Reservation(claim, self._grow, self._space.release)

    def reserve_at_once(self, size: int) -> bool:
        """Whether there is room for a small file now, for who must not wait; it is taken until `give_back`.

        Not where files would have to go first, and where nothing fits. Raises StoreError.
        """
        if not self._space.take_small(size):
            claim = Claim(0, 0)
            if self._take(claim, size, self._space.limits(), cull=False) is not None:
                return False
            self._space.make_small(claim)
        return True

    def give_back(self, size: int) -> None:
        """So many bytes that `reserve_at_once` took are stored, which count by themselves, or come to nothing."""
        self._space.give_small(size)

    def _grow(self, claim: Claim, size: int) -> Refusal | None:
        """Reserve ahead of a file that has `size` bytes and no known end."""
        limits = self._space.limits()
        ahead = AHEAD if limits.max_size is None else min(AHEAD, limits.max_size // 16)
        lacks = size - claim.size
        if self._take(claim, lacks + ahead, limits, cull=False) is None:
            return None
        refusal = self._take(claim, lacks + min(ahead, _LEAST), limits)
        return self._take(claim, lacks, limits, cull=False) if refusal and lacks else refusal

    def _take(self, claim: Claim, size: int, limits: Bounds, *, cull: bool = True) -> Refusal | None:
        if limits.max_size is not None and claim.size + size > limits.max_size:
            text = f"it has {size_text(claim.size + size)} or more, and the cache may hold {size_text(limits.max_size)}"
            return Refusal(f"{text} (--max-size)")
        # What is on the disk already of a download that goes on is no longer free.
        beside = min(size, max(0, claim.written - claim.size))

        def fits(usage: Usage) -> bool:
            return not needs_of_room(_without(usage, beside), limits, size)

        added, usage = self._space.add(claim, size, fits)
        if not added and cull and self._make(limits, size, beside):
            added, usage = self._space.add(claim, size, fits)
        if not added:
            return _refusal(usage, limits, size)
        if needs_of_bounds(usage, limits):
            self._culler.wake()
        return None

    def _make(self, limits: Bounds, size: int, beside: int) -> bool:
        """Whether culling may have made room."""
        with self._guard:
            if time.monotonic() - self._hopeless < _HOPELESS_SECONDS:
                return False
        report = self._culler.free(lambda: needs_of_room(_without(self._space.usage(), beside), limits, size))
        if report.lacking and report.whole:
            with self._guard:
                self._hopeless = time.monotonic()
        return not report.lacking


def _without(usage: Usage, size: int) -> Usage:
    return Usage(usage.stored, usage.free + size)


def _refusal(usage: Usage, limits: Bounds, size: int) -> Refusal:
    if limits.max_size is not None and usage.stored + size > limits.max_size:
        bound = f"the cache holds {size_text(usage.stored)} of {size_text(limits.max_size)} (--max-size)"
        return Refusal(f"{size_text(size)} do not fit: {bound}, and the rest is pinned or was used a moment ago")
    bound = f"{size_text(max(0, usage.free))} of the disk are free"
    kept = f", {size_text(limits.min_free)} are to stay free (--min-free)" if limits.min_free else ""
    return Refusal(f"{size_text(size)} do not fit: {bound}{kept}, and nothing more can be removed")
