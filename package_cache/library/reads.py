"""When items were read, and how often: collected, and written in batches, so that reading needs no write."""

import logging
import os
import threading
import time

from package_cache.errors import OnlyRead, StoreError
from package_cache.storage.items.table import Items

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 30.0


class Reads:
    """The reads of one `Cache` that are not in the registry yet. Safe for any number of threads.

    They are written with the first read after half a minute, and at the end. A killed process loses no more.
    """

    def __init__(self, items: Items) -> None:
        self._items = items
        self._guard = threading.Lock()
        self._owner = os.getpid()
        self._noted: dict[int, tuple[int, int]] = {}
        self._since = time.monotonic()

    def note(self, number: int) -> None:
        """An item is read now."""
        with self._guarding():
            self._noted[number] = (int(time.time() * 1e6), self._noted.get(number, (0, 0))[1] + 1)
            is_due = time.monotonic() - self._since > FLUSH_SECONDS
        if is_due:
            self.flush()

    def of(self, number: int) -> tuple[int | None, int]:
        """When an item was read last, in microseconds of the epoch, and how often, as far as that is only known here."""
        with self._guarding():
            return self._noted.get(number, (None, 0))

    def flush(self) -> None:
        """Write what was noted."""
        with self._guarding():
            noted, self._noted = self._noted, {}
            self._since = time.monotonic()
        if noted:
            try:
                self._items.read(noted)
            except OnlyRead:
                return
            except StoreError as error:
                logger.warning("when items were read is lost: %s", error)

    def _guarding(self) -> threading.Lock:
        """The guard; a forked child begins anew."""
        if self._owner != os.getpid():
            self._guard, self._noted, self._owner = threading.Lock(), {}, os.getpid()
        return self._guard
