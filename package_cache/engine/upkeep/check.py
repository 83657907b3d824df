"""Checks a whole cache directory, both ways, and mends it if told to: what `fsck` does.

The registry, its totals and its ledger first, then what killed processes left, then every blob, read through in
the order of their digests. It can be interrupted after each of them and go on from there. Works while the service runs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from package_cache.engine.upkeep import shelves
from package_cache.engine.upkeep.damage import Damages
from package_cache.engine.upkeep.refetch import Refetch
from package_cache.errors import DamagedRegistry
from package_cache.storage import leftovers
from package_cache.storage.audit import Audit
from package_cache.storage.blobs import BlobStore
from package_cache.storage.database.bookkeeping import compare, keep_ledger
from package_cache.storage.database.file import Database
from package_cache.storage.inspection import inspect_blob
from package_cache.storage.items.files import ItemFiles
from package_cache.storage.items.strays import remove_stray, strays
from package_cache.storage.items.table import Items


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be. `keys` are the names it concerns. `mended` says what was done, if it was."""

    kind: str
    name: str
    detail: str
    keys: tuple[str, ...] = ()
    mended: str | None = None


@dataclass(slots=True)
class Progress:
    """How far a check is: the last digest read, how many files and bytes so far, and what was found."""

    place: str = ""
    files: int = 0
    bytes: int = 0
    problems: list[Problem] = field(default_factory=list)


class Checker:
    """Checks a cache directory. With `refetch`, also mends what it finds."""

    def __init__(
        self,
        root: Path,
        database: Database,
        blobs: BlobStore,
        damages: Damages,
        refetch: Refetch | None,
        clock: Callable[[], float],
    ) -> None:
        self._root = root
        self._database = database
        self._audit = Audit(database)
        self._blobs = blobs
        self._damages = damages
        self._refetch = refetch
        self._clock = clock

    def run(self, progress: Progress, step: Callable[[], None]) -> None:
        """Go on with a check; `step` is called whenever `progress` changed. Raises StoreError."""
        if not progress.place:
            for problem in (*self._registry(), *self._leftovers()):
                progress.problems.append(problem)
                step()
        for prefix in shelves.PREFIXES[int(progress.place[:2] or "0", 16) :]:
            self._shelf(prefix, progress, step)

    def _registry(self) -> Iterator[Problem]:
        file, found = self._database.file(), self._audit.integrity()
        if found:
            if self._refetch is not None:
                self._database.mend(DamagedRegistry("; ".join(found), file))
            yield self._problem("registry", "registry-v1.db", "; ".join(found), "made again")
        wrong = self._audit.wrong_totals()
        if wrong:
            if self._refetch is not None:
                self._audit.correct_totals()
            yield self._problem("totals", "registry-v1.db", wrong, "counted anew")
        ledger = (compare if self._refetch is None else keep_ledger)(self._database, lambda: None)
        wrongs = len(ledger.wrong) + len(ledger.gone) + len(ledger.sides)
        if ledger.damaged or wrongs:
            detail = f"{ledger.damaged} damaged lines, {wrongs} rows of the registry told wrong"
            yield self._problem("ledger", "ledger-v1", detail, "completed")

    def _leftovers(self) -> Iterator[Problem]:
        now, locks = self._clock(), self._blobs.locks
        for fill in leftovers.dead_fills(self._root / "parts-v1", locks, now):
            if self._refetch is None or leftovers.remove_fill(fill, locks, now):
                yield self._problem(
                    "part", fill.name, f"{fill.size} bytes of a download that nobody goes on with", "removed"
                )
        for file in leftovers.half_made(self._root, now):
            if self._refetch is not None:
                leftovers.remove(file)
            yield self._problem("leftover", file.name, f"{file.size} bytes, of no use any more", "removed")
        items, files = Items(self._database, self._blobs), ItemFiles(self._root / "items-v1")
        for path in strays(items, files, now - leftovers.DEAD_SECONDS):
            if self._refetch is not None:
                remove_stray(path)
            yield self._problem("leftover", path.name, "a file of an item that is gone", "removed")

    def _shelf(self, prefix: str, progress: Progress, step: Callable[[], None]) -> None:
        shelf = shelves.look(self._audit, self._blobs, prefix)
        lost = set(self._audit.lost(prefix))
        for digest in sorted({*shelf.kept, *shelf.missing, *shelf.strays, *lost}):
            if digest <= progress.place:
                continue
            problem = self._stray(digest) if digest in shelf.strays else None
            if digest in lost:
                problem = self._mended(
                    "lost", digest, "the file was found damaged and taken out of service", self._keys(digest)
                )
            size = shelf.kept.get(digest)
            if size is not None:
                problem = self._read(digest, size, progress, step)
                progress.files += 1
            elif digest in shelf.missing and not self._blobs.has(digest) and self._audit.is_needed(digest):
                problem = self._damaged("missing", digest, shelf.missing[digest], "the file is gone")
            progress.place = digest
            if problem is not None:
                progress.problems.append(problem)
            step()
        for name in shelf.foreign:
            progress.problems.append(Problem("foreign", f"{prefix}/{name}", "not a file of this program"))

    def _stray(self, digest: str) -> Problem | None:
        now = self._clock()
        if not shelves.is_stray(self._audit, self._blobs, digest, now):
            return None
        if self._refetch is not None and not shelves.remove_stray(self._audit, self._blobs, digest, now):
            return None
        return self._problem("stray", digest, "no entry needs this file", "removed")

    def _read(self, digest: str, size: int, progress: Progress, step: Callable[[], None]) -> Problem | None:
        def pace(count: int) -> None:
            progress.bytes += count
            step()

        verdict = inspect_blob(self._blobs, digest, size, pace)
        if verdict.damage is None or not self._audit.is_needed(digest):
            return None
        return self._damaged("damaged", digest, size, f"the file {verdict.damage}", verdict.file)

    def _damaged(
        self, kind: str, digest: str, size: int, detail: str, file: tuple[int, int] | None = None
    ) -> Problem | None:
        keys = self._keys(digest)
        if self._refetch is not None:
            if not self._damages.take_out(digest, size, file):
                return None
            if not self._audit.entries(digest):
                return Problem(kind, digest, f"{detail}; it was in the trash", keys, "removed for good")
            detail = f"{detail}; taken out of service"
        return self._mended(kind, digest, detail, keys)

    def _mended(self, kind: str, digest: str, detail: str, keys: tuple[str, ...]) -> Problem:
        if self._refetch is None:
            return Problem(kind, digest, detail, keys)
        reason = self._refetch.mend(digest)
        if reason is None:
            return Problem(kind, digest, detail, keys, "fetched again")
        return Problem(kind, digest, f"{detail}, and not fetched again: {reason}", keys)

    def _keys(self, digest: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(entry.key for entry in self._audit.entries(digest)))

    def _problem(self, kind: str, name: str, detail: str, deed: str) -> Problem:
        return Problem(kind, name, detail, mended=None if self._refetch is None else deed)
