"""Keeps the cache within its bounds: in the background, in small steps, in one process at a time.

Empties the trash, removes old versions of indexes, then the files used longest ago as far as the bounds want it; what goes
is decided in `rules/eviction.py`, how it goes in `storage/removal.py`. No request ever waits for it, but for a download
that needs room at once.
"""

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from package_cache.engine.upkeep.space import Space
from package_cache.errors import StoreError
from package_cache.model import Key
from package_cache.rules.eviction import (
    Bounds,
    Candidate,
    Eviction,
    Needs,
    Reason,
    StoredVersion,
    Usage,
    conflicts,
    needs_of_bounds,
    needs_of_room,
    superseded,
)
from package_cache.storage.notes import Peers
from package_cache.storage.parts.locks import NameLocks
from package_cache.storage.removal import Kind, OldVersion, Position, Removable, Removal, Removed
from package_cache.units import size_text

logger = logging.getLogger(__name__)

ROUND_SECONDS = 60.0
"""Between two looks at the bounds, the ages and the trash."""
PATIENCE = 1.0
"""How long a download waits for room."""
_LOCK = "cull"
_AGAIN_SECONDS = 1.0
"""Until the next look where another process is culling: it may be of a server that ends, and has other bounds."""
_SETTLED_SECONDS = 5.0
"""How long other bounds in the same directory may be those of a server that this one is to replace."""
_TURN = 0.02
"""Seconds between two steps in the background, and between two looks at whether another process is done."""


@dataclass(slots=True)
class Tally:
    """What went for one reason. `reach` is the last use of what was used last of it, in seconds of the epoch."""

    entries: int = 0
    files: int = 0
    bytes: int = 0
    reach: float = 0.0

    def add(self, removed: Removed, used: float) -> None:
        """Count one more."""
        self.entries += removed.entries
        self.files += removed.files
        self.bytes += removed.bytes
        self.reach = max(self.reach, used)


@dataclass(slots=True)
class Report:
    """What a cull did, or would do. `lacking` is what it could not free, in bytes; `whole` that nothing more may go."""

    tallies: dict[Reason, Tally] = field(default_factory=dict)
    lacking: int = 0
    whole: bool = False

    @property
    def total(self) -> Tally:
        """All reasons together."""
        total = Tally()
        for one in self.tallies.values():
            total.add(Removed(one.entries, one.files, one.bytes), one.reach)
        return total


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What is to go, why, and what is expected of it."""

    one: Removable
    reason: Reason
    expected: Removed
    linked: bool


class Round:
    """One cull: from what there is to a report, step by step. With `dry` it changes nothing."""

    def __init__(self, removal: Removal, cull: Eviction, now: float, *, dry: bool = False) -> None:
        self._removal = removal
        self._cull = cull
        self._now = now
        self._dry = dry
        self._gone: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
        """Versions chosen so far that the registry still has, by their file, and by whether they are in the trash."""
        self.report = Report()

    def steps(self, *, versions: bool) -> Iterator[None]:
        """Goes on by a step each time it is asked; with `versions`, old versions go too."""
        if not self._dry:
            self._removal.finish()
        yield from self._by_use(Kind.DEAD)
        if versions:
            yield from self._old_versions()
        yield from self._by_use(Kind.READY)
        self.report.whole = True

    def _by_use(self, kind: Kind) -> Iterator[None]:
        after = Position()
        while page := self._removal.by_use(kind, after):
            self._carry_out([chosen for one in page if (chosen := self._judge(one)) is not None])
            yield
            after = Position(page[-1].used, page[-1].id)
            if kind is Kind.READY and not self._cull.goes_on(after.used):
                return

    def _judge(self, one: Removable) -> _Chosen | None:
        trash = one.kind is Kind.DEAD
        entries = one.entries - self._gone[trash][one.digest]
        if entries <= 0:
            return None
        size = one.size if one.others <= self._gone[not trash][one.digest] else 0
        linked = size > 0 and self._cull.lacking > 0 and self._removal.is_linked(one.digest)
        reason = self._cull.judge(Candidate(one.digest, size, one.used, one.pinned, trash, linked))
        return self._chosen(one, reason, entries, trash=trash, frees=size > 0) if reason else None

    def _chosen(self, one: Removable, reason: Reason, entries: int, *, trash: bool, frees: bool) -> _Chosen:
        expected = Removed(entries, 1, one.size) if frees else Removed(entries)
        self._gone[trash][one.digest] += entries
        linked = self._removal.is_linked(one.digest)
        self._cull.freed(expected.bytes, linked=linked)
        return _Chosen(one, reason, expected, linked)

    def _old_versions(self) -> Iterator[None]:
        key = Key("")
        while page := self._removal.old_versions(key):
            old = [version for versions in page.values() for version in self._superseded(versions)]
            needed = self._removal.needed_by(version.digest for version in old)
            self._carry_out([self._chosen_version(one, needed[one.digest] - 1) for one in old])
            yield
            key = max(page)

    def _superseded(self, versions: list[OldVersion]) -> list[OldVersion]:
        gone = {one.id for one in superseded([StoredVersion(one.id, one.created) for one in versions], self._now)}
        return [version for version in versions if version.id in gone]

    def _chosen_version(self, old: OldVersion, others: int) -> _Chosen:
        one = Removable(Kind.OLD, old.digest, old.size, old.used, old.key, old.id, 1, others)
        frees = others <= sum(counter[old.digest] for counter in self._gone.values())
        return self._chosen(one, Reason.OLD_VERSION, 1, trash=False, frees=frees)

    def _carry_out(self, page: list[_Chosen]) -> None:
        if not page:
            return
        fates = [chosen.expected for chosen in page]
        if not self._dry:
            fates = self._removal.remove([chosen.one for chosen in page])
            for counter in self._gone.values():
                counter.clear()
        for chosen, fate in zip(page, fates, strict=True):
            self._cull.freed(fate.bytes - chosen.expected.bytes, linked=chosen.linked)
            if fate.entries:
                self.report.tallies.setdefault(chosen.reason, Tally()).add(fate, chosen.one.used)
                logger.info("%s %s (%s)", "would remove" if self._dry else "removed", chosen.one.key, chosen.reason)


class Culler:
    """Culls the store of one cache. Safe for any number of threads and processes.

    The thread starts with the first `start` or `wake`, so that a process forked after this object was made has one of its
    own.
    """

    def __init__(
        self,
        removal: Removal,
        locks: NameLocks,
        space: Space,
        clock: Callable[[], float],
        peers: Peers | None = None,
    ) -> None:
        self._removal = removal
        self._peers = peers
        self._locks = locks
        self._space = space
        self._clock = clock
        self._guard = threading.Lock()
        self._owner = 0
        self._woken = threading.Event()
        self._demand = 0
        self._closed = False
        self._told = False
        self._others: list[Bounds] = []

    def start(self) -> None:
        """Eviction from now on, in the background."""
        with self._guard:
            if self._owner == os.getpid() or self._closed:
                return
            self._woken = threading.Event()
            with suppress(RuntimeError):  # no thread to be had now; the next download asks again
                threading.Thread(target=self._run, name="culling", daemon=True).start()
                self._owner = os.getpid()

    def wake(self) -> None:
        """Look at the bounds now."""
        self.start()
        self._woken.set()

    def demand(self, size: int) -> None:
        """Have the background free so many bytes whatever the bounds say: the disk is full."""
        self._demand = size
        self.wake()

    def close(self) -> None:
        """Begin no other step."""
        with self._guard:
            self._closed = True
        self._woken.set()
        if self._peers is not None:
            self._peers.leave()

    def _run(self) -> None:
        begun = time.monotonic()
        while not self._closed:
            self._woken.clear()
            demand, self._demand = self._demand, 0
            rest = ROUND_SECONDS
            try:
                if demand and not self.make_room(demand):
                    logger.warning("the disk is full, and nothing more of the cache may be removed")
                report = self.cull()
                self._tell(report)
                rest = ROUND_SECONDS if report is not None else _AGAIN_SECONDS
                if self._peers is not None:
                    rest = min(rest, self._meet(self._peers, begun + _SETTLED_SECONDS - time.monotonic()))
            except StoreError as error:
                logger.warning("culling stopped: %s", error)
            self._woken.wait(rest)

    def _meet(self, peers: Peers, left: float) -> float:
        """Say once, when `left` seconds are over, that others keep the cache within other bounds; when to look again."""
        ours = self._space.limits()
        with self._guard:
            if not self._closed:
                peers.tell(ours)
        if left > 0:
            return left
        told, self._others = self._others, peers.others(ours)
        for theirs in self._others:
            if theirs not in told:
                differences = "; ".join(conflicts(ours, theirs))
                logger.warning("another server keeps this cache within other bounds: %s", differences)
        return ROUND_SECONDS

    def _tell(self, report: Report | None) -> None:
        """Say what went, and once that the bounds cannot be kept."""
        if report is None:
            return
        if report.total.entries:
            logger.info("culling removed %d entries and %s", report.total.entries, size_text(report.total.bytes))
        if report.lacking and not self._told:
            logger.warning(
                "the cache cannot be kept within its bounds: %s too much are pinned, or were used a moment ago",
                size_text(report.lacking),
            )
        self._told = report.lacking > 0

    def cull(self, *, dry: bool = False, pause: float = _TURN) -> Report | None:
        """Remove what the bounds, the ages and the trash want removed; None if another process is at it.

        With `dry` nothing changes, and nobody is in the way. `pause` is in seconds, after each step. Raises StoreError.
        """
        if not dry and not self._take():
            return None
        try:
            now = self._clock()
            limits, usage = self._space.limits(), self._space.usage()
            cull = Eviction(needs_of_bounds(usage, limits), limits.max_age, now)
            one = Round(self._removal, cull, now, dry=dry)
            for _ in one.steps(versions=True):
                if self._closed:
                    break
                time.sleep(0 if dry else pause)
            freed = one.report.total.bytes
            left = needs_of_room(Usage(usage.stored - freed, usage.free + freed), limits, 0)
            one.report.lacking = max(left.values(), default=0)
            return one.report
        finally:
            if not dry:
                self._locks.free(_LOCK)

    def make_room(self, size: int) -> bool:
        """Free at least `size` bytes now, whatever the bounds say; whether that was possible within a second.

        For who found the disk full. Raises StoreError.
        """
        return self.free(lambda: {Reason.ROOM: size}).lacking == 0

    def free(self, needs: Callable[[], Needs]) -> Report:
        """Remove what was used longest ago until nothing is needed, or nothing more may go, or a second is over.

        `needs` is asked when it is this thread's turn. Raises StoreError.
        """
        deadline = time.monotonic() + PATIENCE
        while not self._take():
            left = needs()
            if not left or time.monotonic() > deadline:
                return Report(lacking=max(left.values(), default=0))
            time.sleep(_TURN)
        try:
            now = self._clock()
            cull = Eviction(needs(), None, now)
            one = Round(self._removal, cull, now)
            for _ in one.steps(versions=False):
                if not cull.lacking or time.monotonic() > deadline:
                    break
            one.report.lacking = cull.lacking
            return one.report
        finally:
            self._locks.free(_LOCK)

    def _take(self) -> bool:
        try:
            return self._locks.take(_LOCK)
        except OSError as error:
            raise StoreError(f"cannot lock the cache for culling: {error.strerror}") from error
