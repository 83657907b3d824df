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
        self._owner = 0
        self._closed = threading.Event()

    def note(self, entry: Entry) -> None:
        """The entry is served now."""
        self.note_all({entry.id: self._clock()})

    def note_all(self, used: Mapping[int, float]) -> None:
        """Entries were served, by id, at these seconds of the epoch."""
        with self._guard:
            self._noted.update(used)
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
        if not noted:
            return
        try:
            self._registry.touch(noted)
        except OnlyRead:
            return
        except StoreError as error:
            logger.warning("last-use times are lost: %s", error)

    def _run(self) -> None:
        while not self._closed.wait(FLUSH_SECONDS):
            self.flush()

    def close(self, *, write: bool = True) -> None:
        """Stop; `write` what is left."""
        self._closed.set()
        if write:
            self.flush()
