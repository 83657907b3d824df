"""How much there is and how much there may be: the bounds, what is stored and free, what running downloads will take."""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from package_cache.errors import StoreError
from package_cache.rules.culling import Limits, Usage
from package_cache.storage.registry import Registry
from package_cache.units import Share


@dataclass(slots=True, eq=False)
class Claim:
    """Space that a running download may take: bytes in all, and how many of them are written."""

    size: int
    written: int = 0


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

    def limits(self) -> Limits:
        """The bounds."""
        status = self._status()
        return Limits(self._max_size, self._min_free.of(status.f_blocks * status.f_frsize), self._max_age)

    def usage(self) -> Usage:
        """What is stored and what is free, with the downloads of this process as if they were at their ends."""
        with self._guard:
            return self._usage()

    def _usage(self) -> Usage:
        status = self._status()
        stored = self._registry.totals().bytes if self._max_size is not None else 0
        unwritten = sum(max(0, claim.size - claim.written) for claim in self._claims)
        return Usage(
            stored + sum(claim.size for claim in self._claims),
            status.f_bavail * status.f_frsize - unwritten,
        )

    def _status(self) -> os.statvfs_result:
        try:
            return os.statvfs(self._root)
        except OSError as error:
            raise StoreError(f"cannot look how much of {self._root} is free: {error.strerror}") from error

    def add(self, claim: Claim, size: int, fits: Callable[[Usage], bool]) -> tuple[bool, Usage]:
        """Let a claim grow by `size` bytes if it `fits`; whether it did, and the usage afterwards.

        No other download gets in between.
        """
        with self._guard:
            usage = self._usage()
            if not fits(usage):
                return False, usage
            claim.size += size
            self._claims.add(claim)
            return True, Usage(usage.stored + size, usage.free - size)

    def release(self, claim: Claim) -> None:
        """A download is over: what it stored counts by itself. May be called again."""
        with self._guard:
            self._claims.discard(claim)
