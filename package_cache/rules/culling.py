"""What goes when the cache is to stay within its bounds: least recently used first, and never more than it takes.

Pure: the caller says how much there is and offers candidates in the order of their last use. Space is counted in files,
since removing one of two names of a file frees nothing: a file's last use is that of the name used last.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from package_cache.units import duration_text, size_text

RECENT = 60.0
"""Seconds for which what was used is safe. Last uses reach the registry with a delay of half of that."""
KEPT_VERSIONS = 2
"""Versions that are kept of a name besides the newest."""
KEPT_SECONDS = 30 * 86400.0
"""How long such a version is kept after a newer one came."""
TRASH_SECONDS = 7 * 86400.0
"""How long what was put into the trash can be restored."""
_BEGIN = 0.98
"""Background culling begins at this part of the greatest size, so that a download seldom has to wait for room ..."""
_END = 0.95
"""... and goes down to this one, so that it does not begin again at once."""
_SPARE = 1.05
"""The same for the least free space: how much of it is made."""


class Reason(StrEnum):
    """Why something goes."""

    TRASH = "trash"
    OLD_VERSION = "old version"
    MAX_AGE = "max-age"
    MAX_SIZE = "max-size"
    MIN_FREE = "min-free"
    ROOM = "room"
    """A download needs the space at once."""


@dataclass(frozen=True, slots=True)
class Limits:
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

    With `trash` it is what is in the trash of it, and `used` is when it was put there. What is `linked` has another name
    outside of the cache: the cache gets smaller by it, and the disk no emptier.
    """

    digest: str
    size: int
    used: float
    pinned: bool = False
    trash: bool = False
    linked: bool = False


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a name that can be served: its row, and when it was stored, in seconds of the epoch."""

    id: int
    created: float


def conflicts(ours: Limits, theirs: Limits) -> list[str]:
    """Where two sets of bounds for one cache differ, in words, and which of them holds."""
    told = []
    if ours.max_size != theirs.max_size:
        told.append(f"max-size is {_size(theirs.max_size)} there and {_size(ours.max_size)} here: the smaller one holds")
    if ours.min_free != theirs.min_free:
        told.append(f"min-free is {_size(theirs.min_free)} there and {_size(ours.min_free)} here: the larger one holds")
    if ours.max_age != theirs.max_age:
        told.append(f"max-age is {_age(theirs.max_age)} there and {_age(ours.max_age)} here: the shorter one holds")
    return told


def _size(size: int | None) -> str:
    return size_text(size) if size else "not set"


def _age(seconds: float | None) -> str:
    return duration_text(seconds) if seconds else "not set"


Needs = dict[Reason, int]
"""Bytes that must go, by the reason for it. What goes counts for all of them."""


def needs_of_bounds(usage: Usage, limits: Limits) -> Needs:
    """What background culling has to free."""
    needs: Needs = {}
    if limits.max_size is not None and usage.stored > limits.max_size * _BEGIN:
        needs[Reason.MAX_SIZE] = usage.stored - int(limits.max_size * _END)
    if usage.free < limits.min_free:
        needs[Reason.MIN_FREE] = int(limits.min_free * _SPARE) - usage.free
    return needs


def needs_of_room(usage: Usage, limits: Limits, wanted: int) -> Needs:
    """What has to be freed before `wanted` more bytes may be stored; empty if they may be stored now."""
    needs: Needs = {}
    if limits.max_size is not None and usage.stored + wanted > limits.max_size:
        needs[Reason.MAX_SIZE] = usage.stored + wanted - limits.max_size
    if usage.free < limits.min_free + wanted:
        needs[Reason.MIN_FREE] = limits.min_free + wanted - usage.free
    return needs


class Cull:
    """Decides on candidates one by one: first those in the trash, then the others, each in the order of their last use.

    The caller tells it by `freed` what went.
    """

    def __init__(self, needs: Needs, max_age: float | None, now: float) -> None:
        self._needs = dict(needs)
        self._max_age = max_age
        self._now = now

    def judge(self, candidate: Candidate) -> Reason | None:
        """Why the candidate goes; None if it stays. For want of space, only what frees some goes."""
        age = self._now - candidate.used
        needs = (reason for reason, size in self._needs.items() if size > 0 and _helps(reason, linked=candidate.linked))
        needed = next(needs, None) if candidate.size else None
        if candidate.trash:
            return Reason.TRASH if age > TRASH_SECONDS or needed else None
        # A time far ahead is that of a clock that was wrong; it must not protect anything for years.
        if candidate.pinned or abs(age) < RECENT:
            return None
        return Reason.MAX_AGE if self._is_aged(age) else needed

    def _is_aged(self, age: float) -> bool:
        return self._max_age is not None and age > self._max_age

    def freed(self, size: int, *, linked: bool) -> None:
        """So many bytes went; fewer than none if they were counted already and stay after all."""
        for reason in self._needs:
            if _helps(reason, linked=linked):
                self._needs[reason] -= size

    @property
    def lacking(self) -> int:
        """Bytes that still have to go."""
        return max(0, *self._needs.values()) if self._needs else 0

    def goes_on(self, used: float) -> bool:
        """Whether anything may go that is not in the trash and was used last at `used` or later."""
        return self.lacking > 0 or self._is_aged(self._now - used)


def _helps(reason: Reason, *, linked: bool) -> bool:
    """Whether the removal of a file is of use where bytes are needed for that reason."""
    return not linked or reason is Reason.MAX_SIZE


def superseded(versions: Sequence[Version], now: float) -> list[Version]:
    """Which versions of one name go, given all that can be served, newest first. The newest stays."""
    return [
        version
        for place, (newer, version) in enumerate(pairwise(versions), 1)
        if place > KEPT_VERSIONS or now - newer.created > KEPT_SECONDS
    ]
