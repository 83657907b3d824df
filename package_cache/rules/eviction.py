"""What is evicted to keep the cache within its bounds: least recently used first, and no more than needed.

The caller says how much is stored and offers candidates in the order of their last use. Space is counted in files, since
removing one of two names of a file frees nothing: a file's last use is that of the name used last.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from package_cache.units import duration_text, size_text

RECENT = 60.0
"""Seconds since its last use within which a file is not evicted. Last uses reach the registry half as late at most."""
KEPT_VERSIONS = 2
"""Old versions of a name that are kept."""
KEPT_SECONDS = 30 * 86400.0
"""Seconds for which an old version is kept after a newer one came."""
TRASH_SECONDS = 7 * 86400.0
"""Seconds for which a file in the trash can be restored."""
_HIGH = 0.98
"""High watermark: background eviction begins at this part of max-size, so that a download seldom waits for room."""
_LOW = 0.95
"""Low watermark: it ends at this part, so that it does not begin again at once."""
_SPARE = 1.05
"""The low watermark of min-free: how much of it is made free."""


class Reason(StrEnum):
    """Why a file is evicted."""

    TRASH = "trash"
    OLD_VERSION = "old version"
    MAX_AGE = "max-age"
    MAX_SIZE = "max-size"
    MIN_FREE = "min-free"
    ROOM = "room"
    """A download needs the space at once."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds, in bytes and seconds."""

    max_size: int | None = None
    min_free: int = 0
    max_age: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes of all stored files, and bytes that are free on their file system for this user."""

    stored: int
    free: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """A stored file: the bytes that its removal frees, its last use in seconds of the epoch, whether it is pinned.

    With `trash` it is in the trash, and `used` is when it was put there. A `linked` file has another name outside the
    cache: removing it makes the cache smaller, but frees nothing on the disk.
    """

    digest: str
    size: int
    used: float
    pinned: bool = False
    trash: bool = False
    linked: bool = False


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """A version of a name that can be served: the id of its row, and when it was stored, in seconds of the epoch."""

    id: int
    created: float


def conflicts(ours: Bounds, theirs: Bounds) -> list[str]:
    """Where two sets of bounds for one cache differ, in words, and which one applies."""

    def differing(name: str, there: float | None, here: float | None, text: Callable[..., str], which: str) -> list[str]:
        said = [text(bound) if bound else "not set" for bound in (there, here)]
        return [f"{name} is {said[0]} there and {said[1]} here: the {which} one holds"] if there != here else []

    return [
        *differing("max-size", theirs.max_size, ours.max_size, size_text, "smaller"),
        *differing("min-free", theirs.min_free, ours.min_free, size_text, "larger"),
        *differing("max-age", theirs.max_age, ours.max_age, duration_text, "shorter"),
    ]


Needs = dict[Reason, int]
"""Bytes to evict, by the reason. A file that is evicted counts for every reason."""


def needs_of_bounds(usage: Usage, limits: Bounds) -> Needs:
    """What background eviction has to free."""
    needs: Needs = {}
    if limits.max_size is not None and usage.stored > limits.max_size * _HIGH:
        needs[Reason.MAX_SIZE] = usage.stored - int(limits.max_size * _LOW)
    if usage.free < limits.min_free:
        needs[Reason.MIN_FREE] = int(limits.min_free * _SPARE) - usage.free
    return needs


def needs_of_room(usage: Usage, limits: Bounds, wanted: int) -> Needs:
    """What has to be freed before `wanted` more bytes may be stored; empty if they may be stored now."""
    needs: Needs = {}
    if limits.max_size is not None and usage.stored + wanted > limits.max_size:
        needs[Reason.MAX_SIZE] = usage.stored + wanted - limits.max_size
    if usage.free < limits.min_free + wanted:
        needs[Reason.MIN_FREE] = limits.min_free + wanted - usage.free
    return needs


def room_before_eviction(usage: Usage, limits: Bounds) -> int:
    """How many bytes may be stored before `needs_of_bounds` has any; below 0 if it has some now."""
    left = usage.free - limits.min_free
    return left if limits.max_size is None else min(left, int(limits.max_size * _HIGH) - usage.stored)


class Eviction:
    """Decides about candidates one by one: first those in the trash, then the others, in the order of their last use.

    The caller reports with `freed` what it removed.
    """

    def __init__(self, needs: Needs, max_age: float | None, now: float) -> None:
        self._needs = dict(needs)
        self._max_age = max_age
        self._now = now

    def judge(self, candidate: Candidate) -> Reason | None:
        """Why the candidate is evicted; None if it stays. To make space, only files that free some are evicted."""
        age = self._now - candidate.used
        needs = (reason for reason, size in self._needs.items() if size > 0 and _helps(reason, linked=candidate.linked))
        needed = next(needs, None) if candidate.size else None
        if candidate.trash:
            return Reason.TRASH if age > TRASH_SECONDS or needed else None
        # A last use far in the future comes from a wrong clock; it must not protect a file for years.
        if candidate.pinned or abs(age) < RECENT:
            return None
        return Reason.MAX_AGE if self._is_aged(age) else needed

    def _is_aged(self, age: float) -> bool:
        return self._max_age is not None and age > self._max_age

    def freed(self, size: int, *, linked: bool) -> None:
        """Note that `size` bytes were removed; below 0 if they had been noted but stay after all."""
        for reason in self._needs:
            if _helps(reason, linked=linked):
                self._needs[reason] -= size

    @property
    def lacking(self) -> int:
        """Bytes still to evict."""
        return max(0, *self._needs.values()) if self._needs else 0

    def goes_on(self, used: float) -> bool:
        """Whether a file outside the trash may be evicted that was used last at `used` or later."""
        return self.lacking > 0 or self._is_aged(self._now - used)


def _helps(reason: Reason, *, linked: bool) -> bool:
    """Whether the removal of a file helps against that reason."""
    return not linked or reason is Reason.MAX_SIZE


def superseded(versions: Sequence[StoredVersion], now: float) -> list[StoredVersion]:
    """The versions of one name to evict, given all that can be served, newest first. The newest stays."""
    return [
        version
        for place, (newer, version) in enumerate(pairwise(versions), 1)
        if place > KEPT_VERSIONS or now - newer.created > KEPT_SECONDS
    ]
