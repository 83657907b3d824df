"""What is kept up beside the requests: when entries were last served, written in batches."""

import logging
import os
import threading
from collections.abc import Callable, Mapping

from package_cache.errors import OnlyRead, StoreError
from package_cache.model import Entry
from package_cache.storage.registry import Registry

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 30.0


class LastUse:
    """Collects last-use times and writes them every 30 seconds, so that a hit needs no write.

    A crash loses the times of half a minute, nothing else. The thread starts with the first note, so that a process
    forked after this object was made has one of its own.
    """

    def __init__(self, registry: Registry, clock: Callable[[], float]) -> None:
        self._registry = registry
        self._clock = clock
        self._guard = threading.Lock()
        self._noted: dict[int, float] = {}
        self._confirmed: dict[int, tuple[float, Entry]] = {}
        """What was confirmed, and when the registry believes that it came."""
        self._owner = 0
        self._closed = threading.Event()

    def note(self, entry: Entry) -> None:
        """The entry is served now."""
        self.note_all({entry.id: self._clock()})

    def note_all(self, used: Mapping[int, float]) -> None:
        """Entries were served, by id, at these seconds of the epoch."""
        with self._guard:
            self._noted.update(used)
        self._start()

    def confirm(self, seen: Entry, entry: Entry) -> None:
        """A source vouched for `seen`, which is `entry` now. A crash costs one more question to a source."""
        with self._guard:
            since, known = self._confirmed.get(entry.id, (0.0, None))
            if known is not seen:
                since = seen.representation.received
            self._confirmed[entry.id] = since, entry
        self._start()

    def newest(self, entry: Entry) -> Entry:
        """A row of the registry, as a source confirmed it last, unless the row was changed since then."""
        since, known = self._confirmed.get(entry.id, (0.0, None))
        if known is None or (known.key, known.version, known.digest) != (entry.key, entry.version, entry.digest):
            return entry
        return known if entry.representation.received == since else entry

    def _start(self) -> None:
        with self._guard:
            if self._owner == os.getpid() or self._closed.is_set():
                return
            try:
                threading.Thread(target=self._run, name="last use", daemon=True).start()
            except RuntimeError:  # no thread to be had now; the next note asks again
                return
            self._owner = os.getpid()

    def flush(self) -> None:
        """Write what was noted."""
        with self._guard:
            noted, self._noted = self._noted, {}
            confirmed = dict(self._confirmed)
        if not noted and not confirmed:
            return
        try:
            if noted:
                self._registry.touch(noted)
            if confirmed:
                self._registry.confirm_all(entry for _, entry in confirmed.values())
        except OnlyRead:
            return
        except StoreError as error:
            logger.warning("last-use times are lost: %s", error)
        with self._guard:
            for number, one in confirmed.items():
                if self._confirmed.get(number) is one:
                    del self._confirmed[number]

    def _run(self) -> None:
        while not self._closed.wait(FLUSH_SECONDS):
            self.flush()

    def close(self, *, write: bool = True) -> None:
        """Stop; `write` what is left."""
        self._closed.set()
        if write:
            self.flush()
