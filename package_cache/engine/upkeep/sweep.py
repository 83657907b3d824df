"""The sweep: finds what nobody refers to and removes it, in small steps beside the requests.

What killed processes left: blobs without an entry, parts that nobody goes on with, files half made, files of items that
are gone; and entries whose blob is gone, totals that are not the true sums, and lines that the ledger lacks.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from package_cache.engine.upkeep import shelves
from package_cache.engine.upkeep.damage import Damages
from package_cache.errors import DamagedRegistry
from package_cache.storage import leftovers
from package_cache.storage.audit import Audit
from package_cache.storage.blobs import BlobStore
from package_cache.storage.database.bookkeeping import keep_ledger
from package_cache.storage.database.file import Database
from package_cache.storage.items.files import ItemFiles
from package_cache.storage.items.strays import remove_stray, strays
from package_cache.storage.items.table import Items
from package_cache.storage.leftovers import DEAD_SECONDS
from package_cache.storage.quarantine import Quarantine

logger = logging.getLogger(__name__)

DAY = 86400.0
"""Seconds from a sweep to the next."""
REST = 600.0
"""Seconds after a sweep, by whatever process, in which a process that has just started begins none."""
NAMELESS_SECONDS = 7 * 86400.0
"""How long blobs without an entry stay after the registry was made again: an old one may be put back by hand."""
_FORMER = "generation-v1"
"""What a former release told its processes by. Those that run still have it open."""


class Sweep:
    """One cache directory's sweep. One process at a time runs it."""

    def __init__(
        self,
        root: Path,
        database: Database,
        blobs: BlobStore,
        damages: Damages,
        quarantine: Quarantine,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._root = root
        self._stamp = root / "sweep-v1"
        self._database = database
        self._audit = Audit(database)
        self._blobs = blobs
        self._damages = damages
        self._quarantine = quarantine
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
        self._sweep_leftovers()
        pause()
        keep_ledger(self._database, pause)
        problems = self._audit.integrity_but_bodies()
        if problems:
            self._database.mend(DamagedRegistry("; ".join(problems), self._database.file()))
        pause()
        strays = missing = 0
        keeps_nameless = self._audit.recovered() > self._clock() - NAMELESS_SECONDS
        for prefix in shelves.PREFIXES:
            shelf = shelves.look(self._audit, self._blobs, prefix)
            for digest in () if keeps_nameless else shelf.strays:
                strays += shelves.remove_stray(self._audit, self._blobs, digest, self._clock())
            for digest, size in shelf.missing.items():
                missing += self._audit.is_needed(digest) and self._damages.take_out(digest, size)
            pause()
        wrong = self._audit.wrong_totals()
        if wrong:
            logger.warning("the totals were wrong, and are counted anew: %s", wrong)
            self._audit.correct_totals()
        self._quarantine.tidy(self._clock())
        logger.log(
            logging.WARNING if strays or missing else logging.INFO,
            "swept the store: %d files that nobody needs are removed, %d were missing",
            *(strays, missing),
        )

    def _sweep_leftovers(self) -> None:
        now, locks = self._clock(), self._blobs.locks
        for fill in leftovers.dead_fills(self._root / "parts-v1", locks, now):
            if leftovers.remove_fill(fill, locks, now):
                logger.info("removed a download that nobody goes on with, %d bytes", fill.size)
        for file in leftovers.half_made(self._root, now):
            leftovers.remove(file)
        (self._root / _FORMER).unlink(missing_ok=True)
        for path in strays(Items(self._database, self._blobs), ItemFiles(self._root / "items-v1"), now - DEAD_SECONDS):
            remove_stray(path)
