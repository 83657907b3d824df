"""Verification: the store compared with what its registry says, in three ways, all beside the running service.

The sweep, once a day, removes what nothing refers to, takes out of service what is absent, and repairs the registry's
totals and ledger; it reads no blob. The scrub reads each blob once in a period, at a gentle pace. The check, which `fsck`
runs, does both at once, reports each problem, and repairs it only if told to. All three work in small steps, shard by
shard.
"""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace

from package_cache.engine.fills.committer import read_body
from package_cache.engine.fills.pump import pump
from package_cache.engine.fills.sinks import PartSink
from package_cache.engine.upkeep.room import Room
from package_cache.errors import DamagedRegistry, PackageCacheError, StoreError
from package_cache.model import Entry
from package_cache.rules.repositories.routes import Routes
from package_cache.rules.transfers.steps import Finish, GiveUp
from package_cache.rules.transfers.transfer import Transfer
from package_cache.storage.audit import SHARDS, Pace, Shard
from package_cache.storage.cache_directory import CacheDirectory
from package_cache.storage.database.bookkeeping import compare, keep_ledger
from package_cache.storage.database.schema import SMALL
from package_cache.storage.items.table import Items
from package_cache.storage.orphans import orphans, remove
from package_cache.storage.parts.leases import Failed, Lease
from package_cache.upstream.fetcher import Fetcher

logger = logging.getLogger(__name__)

DAY = 86400.0
"""Seconds from a sweep to the next."""
REST = 600.0
"""Seconds after a sweep, by whatever process, in which a process that has just started begins none."""
NAMELESS_SECONDS = 7 * 86400.0
"""How long blobs without an entry stay after the registry was rebuilt: an old one may be put back by hand."""
_FORMER = "generation-v1"
"""What a former release told its processes by. Those that run still have it open."""
FASTEST, SLOWEST = 20e6, 1e6
"""Bytes a second that the scrub reads."""
_HURRY = 4.0
"""How many times faster than the average a file is read."""
_SAVE_SECONDS = 10.0
_DIGESTS = 1 << 32
"""How many beginnings of eight hexadecimal digits a digest may have."""
_OTHER = "the sources have other bytes by that name now"


class Sweep:
    """The sweep of a cache directory. One process at a time runs it."""

    def __init__(self, cache: CacheDirectory, clock: Callable[[], float] = time.time) -> None:
        self._cache = cache
        self._stamp = cache.root / "sweep-v1"
        self._clock = clock

    def is_due(self, *, first: bool) -> bool:
        """Whether it is time to sweep; `first` for a process that has not done so yet."""
        try:
            ago = abs(self._clock() - self._stamp.stat().st_mtime)
        except OSError:
            return True
        return ago > (REST if first else DAY)

    def run(self, pause: Callable[[], None]) -> None:
        """Sweep once; `pause` is called between two steps, and may raise to end it. Raises StoreError, OSError."""
        self._stamp.touch()
        self._remove_orphaned_files()
        pause()
        self._repair_registry(pause)
        orphaned, absent = self._compare_blobs(pause)
        wrong = self._cache.audit.wrong_totals()
        if wrong:
            logger.warning("the totals were wrong, and are counted anew: %s", wrong)
            self._cache.audit.correct_totals()
        self._cache.quarantine.tidy(self._clock())
        logger.log(
            logging.WARNING if orphaned or absent else logging.INFO,
            "swept the store: %d files that nobody needs are removed, %d were missing",
            *(orphaned, absent),
        )

    def _remove_orphaned_files(self) -> None:
        cache, now = self._cache, self._clock()
        locks = cache.blobs.locks
        for orphan in orphans(cache.root, Items(cache.registry.database, cache.blobs), locks, now):
            if remove(orphan, locks, now) and orphan.is_download:
                logger.info("removed %s", orphan.detail)
        (cache.root / _FORMER).unlink(missing_ok=True)

    def _repair_registry(self, pause: Callable[[], None]) -> None:
        """The ledger first: the registry is rebuilt from it."""
        database = self._cache.registry.database
        keep_ledger(database, pause)
        problems = self._cache.audit.integrity_but_bodies()
        if problems:
            database.repair(DamagedRegistry("; ".join(problems), database.file()))
        pause()

    def _compare_blobs(self, pause: Callable[[], None]) -> tuple[int, int]:
        """Remove blobs without an entry, take entries without a blob out of service; how many these were."""
        audit, orphaned, absent = self._cache.audit, 0, 0
        keeps_nameless = audit.recovered() > self._clock() - NAMELESS_SECONDS
        for prefix in SHARDS:
            shard = audit.shard(prefix)
            for digest in () if keeps_nameless else shard.orphans:
                orphaned += audit.remove_orphan(digest, self._clock())
            for digest, size in shard.absent.items():
                absent += audit.is_needed(digest) and self._cache.damages.take_out(digest, size)
            pause()
        return orphaned, absent


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a pass is: which digest was read last, and when the pass began, in seconds of the epoch."""

    digest: str = ""
    since: float = 0.0


class Scrub:
    """The scrub of a cache directory, which finds rot before somebody asks. One process at a time runs it.

    Digests are evenly spread, so the place in their order is the clock: after half of a `period`, in seconds, the lower
    half of them is due. The place is written down; a restart resumes there, and what a machine that was off missed is made
    up for.
    """

    def __init__(self, cache: CacheDirectory, period: float, clock: Callable[[], float] = time.time) -> None:
        self._cache = cache
        self._path = cache.root / "scrub-v1"
        self.period = period
        self._clock = clock
        self._saved = Cursor()
        self._saved_at = -math.inf

    def run(self, bytes_stored: int, pause: Callable[[float], None]) -> None:
        """Read what is due; `pause` waits for so many seconds, and may raise to end it. Raises StoreError."""
        place = self._load()
        rate = min(FASTEST, max(SLOWEST, _HURRY * bytes_stored / self.period))
        due = (self._clock() - place.since) / self.period
        for digest, size in self._due(place.digest, due):
            verdict = self._cache.audit.inspect(digest, size, lambda count: pause(count / rate))
            if verdict.damage is not None and verdict.is_there:
                self._cache.damages.take_out(digest, size, verdict.file)
            place = replace(place, digest=digest)
            self._save(place, seldom=True)
        self._save(place if due < 1.0 else Cursor(since=self._clock()))

    def _due(self, after: str, due: float) -> Iterator[tuple[str, int]]:
        for prefix in SHARDS:
            if prefix >= after[:2] and int(prefix, 16) / len(SHARDS) <= due:
                for digest, size in self._cache.audit.shard(prefix).kept.items():
                    if digest > after and int(digest[:8], 16) / _DIGESTS <= due:
                        yield digest, size

    def _load(self) -> Cursor:
        now = self._clock()
        try:
            data = json.loads(self._path.read_bytes())
            place = Cursor(str(data["digest"]), float(data["since"]))
        except (OSError, ValueError, KeyError, TypeError):
            place = Cursor(since=now)
            self._save(place)
        return place if place.since <= now else Cursor(place.digest, now)

    def _save(self, place: Cursor, *, seldom: bool = False) -> None:
        now = time.monotonic()
        if place == self._saved or (seldom and now < self._saved_at + _SAVE_SECONDS):
            return
        self._saved, self._saved_at = place, now
        new = self._path.with_suffix(".new")
        try:
            new.write_text(json.dumps(asdict(place)), encoding="ascii")
            os.replace(new, self._path)  # noqa: PTH105
        except OSError as error:
            raise StoreError(f"cannot write {self._path}: {error.strerror}") from error


class Refetch:
    """Repairs blobs that were taken out of service."""

    def __init__(self, cache: CacheDirectory, fetcher: Fetcher, routes: Routes, room: Room) -> None:
        self._audit = cache.audit
        self._blobs = cache.blobs
        self._parts = cache.parts
        self._fetcher = fetcher
        self._routes = routes
        self._room = room

    def refetch(self, digest: str) -> str | None:
        """Fetch a blob by any of the keys it had, and take these into service again; the reason if that cannot be done."""
        reason = "no name of it is known"
        tried: set[str] = set()
        for entry in reversed(self._audit.entries(digest)):
            if entry.key in tried:
                continue
            tried.add(entry.key)
            try:
                reason = self._fetch(entry) or ""
            except PackageCacheError as error:
                reason = str(error)
            if not reason:
                return None
        return reason

    def _fetch(self, entry: Entry) -> str | None:
        lease = self._parts.claim(entry.key)
        if lease is None:
            return "it is being downloaded right now"
        try:
            return self._download(entry, lease)
        except BaseException as error:
            lease.failed(Failed(502, str(error)), keep=False)
            raise

    def _download(self, entry: Entry, lease: Lease) -> str | None:
        target, accept = self._routes.of_key(entry.key)
        offer = self._fetcher.offer(self._routes.repository(target), target, accept)
        lease.reset()
        sink = PartSink(lease, self._room, lambda: None)
        try:
            match pump(Transfer(offer.urls), offer, sink):
                case Finish():
                    reason = None if sink.digest() == entry.digest else _OTHER
                case GiveUp(_, text):
                    reason = text
                case _:
                    reason = "the sources answered a question that was not asked"
        finally:
            sink.release()
        if reason is None:
            self._store(entry, lease)
            lease.done()
        else:
            lease.failed(Failed(502, reason), keep=False)
        return reason

    def _store(self, entry: Entry, lease: Lease) -> None:
        part = lease.part
        assert part is not None  # a transfer finishes only with one
        lease.whole(entry.digest, part.size)
        if part.size <= SMALL:
            self._audit.reinstate(entry.digest, part.size, read_body(part, entry.digest))
            return
        self._blobs.finalize(part)
        with self._blobs.holding([entry.digest]):
            self._blobs.settle([self._blobs.publish(part, entry.digest)])
            self._audit.reinstate(entry.digest, part.size)
        lease.adopted()


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be. `keys` are those it concerns. `mended` says what was done, if it was."""

    kind: str
    name: str
    detail: str
    keys: tuple[str, ...] = ()
    mended: str | None = None


@dataclass(slots=True)
class CheckProgress:
    """How far a check is: the last digest read, how many files and bytes so far, and what was found."""

    place: str = ""
    files: int = 0
    bytes: int = 0
    problems: list[Problem] = field(default_factory=list)


class Checker:
    """Checks a cache directory. With `refetch`, also repairs what it finds. It can be interrupted, and resumed."""

    def __init__(self, cache: CacheDirectory, refetch: Refetch | None, clock: Callable[[], float]) -> None:
        self._cache = cache
        self._audit = cache.audit
        self._refetch = refetch
        self._clock = clock

    def run(self, progress: CheckProgress, step: Callable[[], None]) -> None:
        """Resume a check; `step` is called whenever `progress` changed. Raises StoreError."""
        if not progress.place:
            for problem in (*self._registry(), *self._orphaned_files()):
                progress.problems.append(problem)
                step()
        for prefix in SHARDS[int(progress.place[:2] or "0", 16) :]:
            self._shard(prefix, progress, step)

    def _registry(self) -> Iterator[Problem]:
        database = self._cache.registry.database
        file, found = database.file(), self._audit.integrity()
        if found:
            if self._refetch is not None:
                database.repair(DamagedRegistry("; ".join(found), file))
            yield self._problem("registry", "registry-v1.db", "; ".join(found), "made again")
        wrong = self._audit.wrong_totals()
        if wrong:
            if self._refetch is not None:
                self._audit.correct_totals()
            yield self._problem("totals", "registry-v1.db", wrong, "counted anew")
        ledger = (compare if self._refetch is None else keep_ledger)(database, lambda: None)
        wrongs = len(ledger.wrong) + len(ledger.gone) + len(ledger.sides)
        if ledger.damaged or wrongs:
            detail = f"{ledger.damaged} damaged lines, {wrongs} rows of the registry told wrong"
            yield self._problem("ledger", "ledger-v1", detail, "completed")

    def _orphaned_files(self) -> Iterator[Problem]:
        cache, now = self._cache, self._clock()
        locks = cache.blobs.locks
        for orphan in orphans(cache.root, Items(cache.registry.database, cache.blobs), locks, now):
            if self._refetch is None or remove(orphan, locks, now):
                kind = "part" if orphan.is_download else "leftover"
                yield self._problem(kind, orphan.name, orphan.detail, "removed")

    def _shard(self, prefix: str, progress: CheckProgress, step: Callable[[], None]) -> None:
        shard, condemned = self._audit.shard(prefix), set(self._audit.condemned(prefix))
        for digest in sorted({*shard.kept, *shard.absent, *shard.orphans, *condemned}):
            if digest <= progress.place:
                continue
            problem = self._look(digest, shard, digest in condemned, progress, step)
            progress.place = digest
            if problem is not None:
                progress.problems.append(problem)
            step()
        for name in shard.foreign:
            progress.problems.append(Problem("foreign", f"{prefix}/{name}", "not a file of this program"))

    def _look(
        self, digest: str, shard: Shard, is_condemned: bool, progress: CheckProgress, step: Callable[[], None]
    ) -> Problem | None:
        """What is wrong with one blob."""
        if digest in shard.kept:
            progress.files += 1

            def pace(count: int) -> None:
                progress.bytes += count
                step()

            return self._read(digest, shard.kept[digest], pace)
        if digest in shard.absent:
            if self._cache.blobs.has(digest) or not self._audit.is_needed(digest):
                return None
            return self._damaged("missing", digest, shard.absent[digest], "the file is gone")
        problem = self._orphan(digest) if digest in shard.orphans else None
        if is_condemned:
            detail = "the file was found damaged and taken out of service"
            return self._refetched("lost", digest, detail, self._keys(digest))
        return problem

    def _orphan(self, digest: str) -> Problem | None:
        look = self._audit.is_orphan if self._refetch is None else self._audit.remove_orphan
        if not look(digest, self._clock()):
            return None
        return self._problem("stray", digest, "no entry needs this file", "removed")

    def _read(self, digest: str, size: int, pace: Pace) -> Problem | None:
        verdict = self._audit.inspect(digest, size, pace)
        if verdict.damage is None or not self._audit.is_needed(digest):
            return None
        return self._damaged("damaged", digest, size, f"the file {verdict.damage}", verdict.file)

    def _damaged(
        self, kind: str, digest: str, size: int, detail: str, file: tuple[int, int] | None = None
    ) -> Problem | None:
        keys = self._keys(digest)
        if self._refetch is not None:
            if not self._cache.damages.take_out(digest, size, file):
                return None
            if not self._audit.entries(digest):
                return Problem(kind, digest, f"{detail}; it was in the trash", keys, "removed for good")
            detail = f"{detail}; taken out of service"
        return self._refetched(kind, digest, detail, keys)

    def _refetched(self, kind: str, digest: str, detail: str, keys: tuple[str, ...]) -> Problem:
        if self._refetch is None:
            return Problem(kind, digest, detail, keys)
        reason = self._refetch.refetch(digest)
        if reason is None:
            return Problem(kind, digest, detail, keys, "fetched again")
        return Problem(kind, digest, f"{detail}, and not fetched again: {reason}", keys)

    def _keys(self, digest: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(entry.key for entry in self._audit.entries(digest)))

    def _problem(self, kind: str, name: str, detail: str, deed: str) -> Problem:
        return Problem(kind, name, detail, mended=None if self._refetch is None else deed)
