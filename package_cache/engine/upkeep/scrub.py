"""The scrub: reads every blob through once in a period, all the year, so that rot is found before somebody asks.

Digests are evenly spread, so the place in their order is the clock: after half of a period, the lower half of them is due.
What is due is read at a gentle pace. The place is written down; a restart goes on there, and what a machine that was off
missed is made up for.
"""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from package_cache.engine.upkeep import shelves
from package_cache.engine.upkeep.damage import Damages
from package_cache.errors import StoreError
from package_cache.storage.audit import Audit
from package_cache.storage.blobs import BlobStore
from package_cache.storage.inspection import inspect_blob

logger = logging.getLogger(__name__)

FASTEST, SLOWEST = 20e6, 1e6
"""Bytes a second."""
_HURRY = 4.0
"""How many times faster than the average a file is read."""
_SAVE_SECONDS = 10.0
_STEPS = 1 << 32


@dataclass(frozen=True, slots=True)
class Place:
    """How far a pass is: which digest was read last, and when the pass began, in seconds of the epoch."""

    digest: str = ""
    since: float = 0.0


class Scrub:
    """One cache directory's scrub. One process at a time runs it. `period` is in seconds."""

    def __init__(
        self,
        root: Path,
        audit: Audit,
        blobs: BlobStore,
        damages: Damages,
        period: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = root / "scrub-v1"
        self._audit = audit
        self._blobs = blobs
        self._damages = damages
        self.period = period
        self._clock = clock
        self._saved = Place()
        self._saved_at = -math.inf

    def run(self, bytes_stored: int, pause: Callable[[float], None]) -> None:
        """Read what is due; `pause` waits for so many seconds, and may raise to end it. Raises StoreError."""
        place = self._load()
        rate = min(FASTEST, max(SLOWEST, _HURRY * bytes_stored / self.period))
        due = (self._clock() - place.since) / self.period
        for digest, size in self._due(place.digest, due):
            self._read(digest, size, lambda count: pause(count / rate))
            self._save(replace(place, digest=digest), seldom=True)
            place = replace(place, digest=digest)
        self._save(place if due < 1.0 else Place(since=self._clock()))

    def _due(self, after: str, due: float) -> Iterator[tuple[str, int]]:
        for prefix in shelves.PREFIXES:
            if prefix >= after[:2] and int(prefix, 16) / len(shelves.PREFIXES) <= due:
                for digest, size in shelves.look(self._audit, self._blobs, prefix).kept.items():
                    if digest > after and int(digest[:8], 16) / _STEPS <= due:
                        yield digest, size

    def _read(self, digest: str, size: int, pace: Callable[[int], None]) -> None:
        verdict = inspect_blob(self._blobs, digest, size, pace)
        if verdict.damage is not None and verdict.is_there:
            self._damages.take_out(digest, size, verdict.file)

    def _load(self) -> Place:
        now = self._clock()
        try:
            data = json.loads(self._path.read_bytes())
            place = Place(str(data["digest"]), float(data["since"]))
        except (OSError, ValueError, KeyError, TypeError):
            place = Place(since=now)
            self._save(place)
        return place if place.since <= now else Place(place.digest, now)

    def _save(self, place: Place, *, seldom: bool = False) -> None:
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
