"""How much there is and how much there may be: the bounds, what is stored and free, what running downloads will take.

To look costs a small file more than to store it. So each look also says how much small files may take without another one,
for a moment: nothing where a bound is near, so that no bound is ever passed.
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from package_cache.rules.eviction import Bounds, Usage, room_before_eviction
from package_cache.storage.registry import Registry
from package_cache.storage.system import file_system_of
from package_cache.units import Share


@dataclass(slots=True, eq=False)
class Claim:
    """Space that a running download may take: bytes in all, and how many of them are written."""

    size: int
    written: int = 0


_NEAR = 256 << 20
"""Bytes below a bound where every file is looked at: other processes may store as much between two looks."""
_AT_A_TIME = 64 << 20
_SECONDS = 1.0
"""How many bytes small files may take without another look, and for how long."""


class Space:
    """The space of one cache, as this process sees it. Safe for any number of threads. Methods raise StoreError."""

    def __init__(
        self,
        root: Path,
        registry: Registry,
        max_size: int | None = None,
        min_free: Share | None = None,
        max_age: float | None = None,
    ) -> None:
        self._root = root
        self._registry = registry
        self._max_size = max_size
        self._min_free = min_free or Share()
        self._max_age = max_age
        self._guard = threading.Lock()
        self._claims: set[Claim] = set()
        self._small = 0
        """Bytes of the small files that are to be stored."""
        self._spare = 0
        self._until = 0.0
        """How much small files may take without another look, and until when, by the monotonic clock."""

    def limits(self) -> Bounds:
        """The bounds."""
        return self._limits(file_system_of(self._root))

    def _limits(self, status: os.statvfs_result) -> Bounds:
        return Bounds(self._max_size, self._min_free.of(status.f_blocks * status.f_frsize), self._max_age)

    def usage(self) -> Usage:
        """What is stored and what is free, with the downloads of this process as if they were at their ends."""
        with self._guard:
            return self._usage(file_system_of(self._root))

    def _usage(self, status: os.statvfs_result) -> Usage:
        stored = self._registry.totals().bytes if self._max_size is not None else 0
        unwritten = self._small + sum(max(0, claim.size - claim.written) for claim in self._claims)
        return Usage(
            stored + self._small + sum(claim.size for claim in self._claims),
            status.f_bavail * status.f_frsize - unwritten,
        )

    def add(self, claim: Claim, size: int, fits: Callable[[Usage], bool]) -> tuple[bool, Usage]:
        """Let a claim grow by `size` bytes if it `fits`; whether it did, and the usage afterwards.

        No other download gets in between.
        """
        with self._guard:
            usage = self._usage(file_system_of(self._root))
            if not fits(usage):
                return False, usage
            self._spare -= size
            claim.size += size
            self._claims.add(claim)
            return True, Usage(usage.stored + size, usage.free - size)

    def take_small(self, size: int) -> bool:
        """Count a small file in with others, where no bound is near; if not, `add` has to look closely."""
        with self._guard:
            if time.monotonic() > self._until or size > self._spare:
                self._look()
            if size > self._spare:
                return False
            self._spare -= size
            self._small += size
        return True

    def make_small(self, claim: Claim) -> None:
        """Count a claim that fitted in with those of small files."""
        with self._guard:
            self._claims.discard(claim)
            self._small += claim.size

    def give_small(self, size: int) -> None:
        """Small files of so many bytes are stored, and count by themselves, or come to nothing."""
        with self._guard:
            self._small -= size

    def _look(self) -> None:
        status = file_system_of(self._root)
        left = room_before_eviction(self._usage(status), self._limits(status))
        self._spare = max(0, min(left - _NEAR, _AT_A_TIME))
        self._until = time.monotonic() + _SECONDS

    def release(self, claim: Claim) -> None:
        """A download is over: what it stored counts by itself. May be called again."""
        with self._guard:
            self._claims.discard(claim)
